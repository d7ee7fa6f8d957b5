//! Snapshots of all replicas at one moment, as one call takes them: the head freezes, asks every replica for its own, thaws, and
//! lets them keep theirs when the moment lasted. Asks and answers are delayed, lost, and carried out late; nodes crash in the
//! middle. Whatever any replica keeps, ever, is of one moment.

use std::collections::BTreeMap;

use dataplane::volume::{HeadId, Moment, MomentAsk, MomentOutcome, Replica, ReplicaIndex, Session};

use super::disk::Stamp;
use super::world::{MS, What, World};

/// How long writes wait at most: sometimes so short that they go on while replicas are still asked.
const FREEZES_NS: [u64; 3] = [60 * MS, 250 * MS, 3_000 * MS];
/// How long an answer is waited for.
const PATIENCE_NS: u64 = 2_500 * MS;

/// One call on its way.
pub(super) struct Snapshot {
    node: usize,
    head: HeadId,
    number: u64,
    moment: Moment,
    /// What replicas were asked for last.
    asked: BTreeMap<ReplicaIndex, MomentAsk>,
    /// When that is given up.
    deadline: u64,
}

/// A snapshot of one replica.
pub(super) struct Held {
    confirmed: bool,
    content: Vec<Stamp>,
}

/// What is known of all snapshots of one call.
pub(super) struct Taken {
    began: u64,
    /// When its head last did anything about it: the moment was before.
    thawed: u64,
    /// What the first that was kept holds.
    kept: Option<Vec<Stamp>>,
    /// Blocks that hosts saw then.
    blocks: usize,
}

/// An ask, or its answer, on its way.
#[derive(Clone, Copy)]
pub(super) struct Errand {
    node: usize,
    head: HeadId,
    session: Session,
    replica: ReplicaIndex,
    number: u64,
    ask: MomentAsk,
}

impl World {
    pub(super) fn snapshot_turn(&mut self) {
        let pause = self.rng.u64(MS..2 * self.snapshots_ns);
        self.after(pause, What::Snapshot);
        if self.snapshot.is_some() {
            return;
        }
        let node = self.rng.usize(..self.nodes.len());
        let now = self.nodes[node].clock.at(self.now);
        let freeze_ns = *self.rng.choice(&FREEZES_NS).expect("some");
        let Some(own) = &mut self.nodes[node].head else { return };
        let head = own.volume.config().head;
        let Ok(moment) = Moment::begin(&mut own.volume, freeze_ns, now) else { return };
        let blocks = usize::try_from(own.volume.config().blocks).expect("small");
        let number = self.taken.len() as u64;
        self.taken.push(Taken { began: self.now, thawed: self.now, kept: None, blocks });
        self.tell(|| format!("snapshot {number} at node {node}"));
        let (asked, deadline) = (BTreeMap::new(), self.now);
        self.snapshot = Some(Snapshot { node, head, number, moment, asked, deadline });
        self.after(MS, What::Copying);
    }

    /// Lets the call go on.
    pub(super) fn snapshot_step(&mut self) {
        let Some(mut snapshot) = self.snapshot.take() else { return };
        let node = snapshot.node;
        let now = self.nodes[node].clock.at(self.now);
        let own = self.nodes[node].head.as_mut().filter(|own| own.volume.config().head == snapshot.head);
        // With the head dies the call.
        let Some(own) = own else { return };
        if self.now >= snapshot.deadline {
            for replica in snapshot.moment.waits_for().iter() {
                snapshot.moment.answered(replica, false);
            }
        }
        let asks = snapshot.moment.turn(&mut own.volume, now);
        let sessions: Vec<Session> = asks.iter().map(|(replica, _)| own.volume.session(*replica)).collect();
        if asks.iter().any(|(_, ask)| *ask != MomentAsk::Take) {
            self.taken[usize::try_from(snapshot.number).expect("small")].thawed = self.now;
        }
        for ((replica, ask), session) in asks.into_iter().zip(sessions) {
            let (head, number) = (snapshot.head, snapshot.number);
            snapshot.deadline = self.now + PATIENCE_NS;
            snapshot.asked.insert(replica, ask);
            self.send_errand(Errand { node, head, session, replica, number, ask });
        }
        self.drive(node);
        match snapshot.moment.outcome() {
            Some(outcome) => self.check_outcome(&snapshot, outcome),
            None => {
                self.snapshot = Some(snapshot);
                let pause = self.rng.u64(MS..20 * MS);
                self.after(pause, What::Copying);
            }
        }
    }

    fn send_errand(&mut self, errand: Errand) {
        let to = errand.replica.index();
        if !self.cut[errand.node][to] {
            let delay = self.delay(errand.node, to) + self.rng.u64(0..100 * MS);
            self.after(delay, What::Errand(errand));
        }
    }

    /// An ask reaches a replica.
    pub(super) fn carry_out(&mut self, errand: Errand) {
        let Errand { node, session, replica, number, ask, .. } = errand;
        let to = replica.index();
        let own = &mut self.nodes[to];
        if own.replica.as_ref().and_then(Replica::session) != Some(session) {
            return;
        }
        let done = match ask {
            // It was called off meanwhile.
            MomentAsk::Take if own.dropped.contains(&number) => false,
            MomentAsk::Take => {
                let mark = own.disk.mark();
                own.disk.flush(mark);
                let content = own.disk.content().to_vec();
                own.snapshots.insert(number, Held { confirmed: false, content });
                true
            }
            MomentAsk::Keep => match own.snapshots.get_mut(&number) {
                Some(held) => {
                    held.confirmed = true;
                    let content = held.content.clone();
                    self.check_kept(number, &content);
                    true
                }
                None => false,
            },
            MomentAsk::Drop => {
                own.dropped.insert(number);
                if own.snapshots.get(&number).is_some_and(|held| !held.confirmed) {
                    own.snapshots.remove(&number);
                }
                true
            }
        };
        self.tell(|| format!("replica {to}: snapshot {number} {ask:?} {done}"));
        if !self.cut[to][node] {
            let delay = self.delay(to, node);
            self.after(delay, What::ErrandDone(errand, done));
        }
    }

    /// An answer reaches the head.
    pub(super) fn errand_done(&mut self, errand: Errand, done: bool) {
        let Some(snapshot) = &mut self.snapshot else { return };
        if snapshot.number == errand.number
            && snapshot.head == errand.head
            && snapshot.moment.waits_for().has(errand.replica)
            && snapshot.asked.get(&errand.replica) == Some(&errand.ask)
        {
            snapshot.moment.answered(errand.replica, done);
        }
    }

    /// What is kept is equal everywhere, and what a read in between could have returned.
    fn check_kept(&mut self, number: u64, content: &[Stamp]) {
        let at = usize::try_from(number).expect("small");
        let Taken { began, thawed, blocks, .. } = self.taken[at];
        match &self.taken[at].kept {
            Some(first) => {
                if let Some(block) = (0..blocks).find(|block| first[*block] != content[*block]) {
                    self.break_promise(format!("block {block} differs between copies of snapshot {number}"));
                }
            }
            None => {
                self.tally.snapshots += 1;
                for (block, stamp) in content.iter().take(blocks).enumerate() {
                    self.history.read(block, *stamp, began, thawed);
                }
                self.taken[at].kept = Some(content.to_vec());
            }
        }
    }

    /// What the caller is told is so: those that keep one do, and no other may hold one that is not confirmed.
    fn check_outcome(&mut self, snapshot: &Snapshot, outcome: MomentOutcome) {
        let number = snapshot.number;
        let held: BTreeMap<usize, bool> = (0..)
            .zip(&self.nodes)
            .filter_map(|(node, own)| Some((node, own.snapshots.get(&number)?.confirmed)))
            .collect();
        for replica in outcome.kept.iter() {
            if held.get(&replica.index()) != Some(&true) {
                self.break_promise(format!("replica {replica} does not keep snapshot {number}"));
            }
        }
        for (node, _) in held {
            let replica = ReplicaIndex(u8::try_from(node).expect("small"));
            if !(outcome.kept | outcome.left).has(replica) {
                self.break_promise(format!("replica {replica} holds snapshot {number}, and nobody is told"));
            }
        }
    }
}
