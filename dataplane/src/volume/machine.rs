//! The head of a volume: its state, the way in and out, and time. Commands are in `commands`, the set in `membership`,
//! copying in `resync`.

use std::collections::VecDeque;

use fabrics::Now;

use super::commands::Command;
use super::freeze::Freezer;
use super::growth::Growth;
use super::guard::{Guard, Owner};
use super::intent::Intent;
use super::pace::Pace;
use super::pending::{Pending, PendingTable, Purpose};
use super::resync::Copying;
use super::roster::Roster;
use super::{
    Bitmap, Epoch, Event, HeadId, Joined, Lane, Lineage, LossReason, Members, Outcome, REPLICAS_MAX,
    ReplicaIndex, Request, RequestId, RequestOp, Session,
};

/// What a head is made with. Times are nanoseconds of its own clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The replicas of the volume, in or out of sync: 1 to [`REPLICAS_MAX`].
    pub members: Members,
    /// Logical blocks that hosts see.
    pub blocks: u64,
    /// Blocks of a region: a power of two.
    pub region_blocks: u32,
    /// Replicas that must be in sync for a write.
    pub min_in_sync: u8,
    /// This activation.
    pub head: HeadId,
    /// The replica on this node: reads go there first.
    pub local: Option<ReplicaIndex>,
    /// How long a replica lets nobody else in after it heard from the head.
    pub lease_ns: u64,
    /// How far clocks may run apart, in millionths.
    pub drift_ppm: u32,
    /// A replica that has not answered for this long is given up. Well below the lease.
    pub slow_ns: u64,
    /// Commands at a time.
    pub commands_max: u32,
    /// Regions that may ever be copied at a time: 1 to 16.
    pub copies_max: u8,
    /// How regions are copied at first.
    pub pace: Pace,
    /// Idle regions are looked for, to clear their bits, this often.
    pub clean_ns: u64,
    /// A replica that is not attached is tried this often.
    pub attach_ns: u64,
}

impl Config {
    fn check(&self) {
        assert!(!self.members.is_empty());
        assert!(self.region_blocks.is_power_of_two());
        assert!((1..=16).contains(&self.copies_max));
        assert!((1..=self.members.len()).contains(&self.min_in_sync));
        assert!(self.slow_ns < self.lease_ns);
    }

    /// The part of a lease that the head may count on: its clock may be slow, the replica's fast.
    pub(super) fn counted_lease_ns(&self) -> u64 {
        self.lease_ns - self.lease_ns / 1_000_000 * (2 * u64::from(self.drift_ppm) + 1)
    }
}

/// How a head is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It asks the replicas to accept it; these have not answered.
    Fencing {
        /// Which.
        waiting: Members,
    },
    /// It serves.
    Active,
    /// It serves, and asks the replicas of a new record to accept its epoch; these have not answered.
    Changing {
        /// The new epoch.
        epoch: Epoch,
        /// The new set.
        in_sync: Members,
        /// Which.
        waiting: Members,
    },
    /// It takes no more commands, finishes those it has, then lets go.
    Draining,
    /// It has let go.
    Released,
    /// It will never serve again.
    Deposed,
}

/// Whether a head may go from one phase to the other.
#[rustfmt::skip]
const fn is_legal(from: Phase, to: Phase) -> bool {
    use Phase::{Active, Changing, Deposed, Draining, Fencing, Released};
    matches!((from, to),
        (Fencing { .. },  Fencing { .. } | Active)
      | (Active,          Changing { .. } | Draining)
      | (Changing { .. }, Changing { .. } | Active)
      | (Draining,        Released)
      | (Fencing { .. } | Active | Changing { .. } | Draining, Deposed)
    )
}

/// What a head has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VolumeCounters {
    /// Regions copied to a replica.
    pub regions_copied: u64,
    /// Regions that were to be copied when replicas were attached.
    pub regions_to_copy: u64,
    /// Blocks read elsewhere and written over what could not be read.
    pub blocks_repaired: u64,
    /// Bits set, that is, waits for the bitmap.
    pub regions_marked: u64,
    /// Bits cleared.
    pub regions_cleaned: u64,
}

/// What the head knows of one replica.
pub(super) struct Peer {
    pub(super) session: u32,
    /// Until when it lets nobody else in; `None` before it has accepted us.
    pub(super) lease_until: Option<Now>,
    /// What it said of itself, until all have answered.
    pub(super) joined: Option<Joined>,
    /// It has said that it can be trusted, or has everything: unless it restarts it will say so again.
    pub(super) trusted: bool,
    /// Logical blocks that it has said to hold.
    pub(super) blocks: u64,
    /// It is being told to hold more.
    pub(super) growing: bool,
    /// What it holds says whose bits it shared.
    pub(super) lineage: Lineage,
    /// It is being told its lineage.
    pub(super) adopting: bool,
    /// Nothing that it holds counts: it was added by hand.
    pub(super) added: bool,
    /// Regions whose content may be old here.
    pub(super) stale: Bitmap,
    /// Regions that were copied here and not flushed.
    pub(super) unflushed: Bitmap,
    /// Regions that were copied here, and the flush that is under way covers.
    pub(super) flushing: Bitmap,
    /// A flush of copied regions is under way.
    pub(super) copy_flush: bool,
    /// Reads under way: the load.
    pub(super) reads: u32,
    /// Requests under way, dead ones included.
    pub(super) outstanding: u32,
    pub(super) renewing: bool,
    pub(super) renew_at: Now,
    /// When to ask (again) for acceptance.
    pub(super) fence_at: Option<Now>,
}

/// The head of a volume.
pub struct Volume {
    pub(super) config: Config,
    pub(super) phase: Phase,
    pub(super) epoch: Epoch,
    /// In sync, as recorded.
    pub(super) recorded: Members,
    /// Proposed to be recorded at this epoch: they count as if they were.
    pub(super) pledged: Members,
    /// Attached, and being copied to.
    pub(super) syncing: Members,
    /// Given up, and still recorded or pledged.
    pub(super) failed: Members,
    /// Asked to be attached.
    pub(super) attaching: Members,
    /// Not to be attached, until somebody says otherwise.
    pub(super) held: Members,
    /// Pledged, and to be left out if the next record has them not.
    pub(super) leaving: Members,
    /// What replicas are told to hold, and what they may hold for their bits to be believed.
    pub(super) roster: Roster,
    /// When proposals that nobody followed are made again.
    pub(super) propose_at: Now,
    pub(super) peers: Vec<Peer>,
    /// Logical blocks that bits and copies are laid out for: more than hosts see while it grows.
    pub(super) laid: u64,
    pub(super) growth: Growth,
    pub(super) commands: Vec<Option<Command>>,
    pub(super) free: Vec<u32>,
    pub(super) guard: Guard,
    pub(super) intent: Intent,
    /// Commands that wait for bits.
    pub(super) intent_waiters: Vec<u32>,
    /// Reads that wait for regions to be copied.
    pub(super) sync_waiters: Vec<u32>,
    pub(super) freezer: Freezer,
    pub(super) copying: Copying,
    /// Who got blocks, and was not called yet.
    pub(super) granted: Vec<Owner>,
    pub(super) requests: PendingTable,
    outbox: Vec<VecDeque<Request>>,
    events: VecDeque<Event>,
    pub(super) counters: VolumeCounters,
}

/// A command was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// As many commands are under way as there may be.
    Busy,
    /// It ends at once, like this.
    Failed(super::Failure),
}

impl Volume {
    /// A head for what management has recorded: this epoch, these replicas in sync. It asks them to accept it.
    ///
    /// # Panics
    /// When the configuration contradicts itself, or the set is empty or names replicas that are not there.
    pub fn new(config: Config, epoch: Epoch, in_sync: Members, now: Now) -> Self {
        config.check();
        assert!(!in_sync.is_empty());
        assert!(config.members.covers(in_sync));
        let regions = config.blocks.div_ceil(u64::from(config.region_blocks));
        let peer = || Peer {
            session: 0,
            lease_until: None,
            joined: None,
            trusted: false,
            blocks: 0,
            growing: false,
            lineage: Lineage::NONE,
            adopting: false,
            added: false,
            stale: Bitmap::new(regions),
            unflushed: Bitmap::new(regions),
            flushing: Bitmap::new(regions),
            copy_flush: false,
            reads: 0,
            outstanding: 0,
            renewing: false,
            renew_at: now,
            fence_at: None,
        };
        let mut volume = Self {
            phase: Phase::Fencing { waiting: in_sync },
            epoch,
            recorded: in_sync,
            pledged: Members::NONE,
            syncing: Members::NONE,
            failed: Members::NONE,
            attaching: Members::NONE,
            held: Members::NONE,
            leaving: Members::NONE,
            propose_at: now,
            peers: (0..REPLICAS_MAX).map(|_| peer()).collect(),
            roster: Roster::new(config.head),
            commands: (0..config.commands_max).map(|_| None).collect(),
            free: (0..config.commands_max).rev().collect(),
            guard: Guard::default(),
            intent: Intent::new(REPLICAS_MAX, regions),
            intent_waiters: Vec::new(),
            sync_waiters: Vec::new(),
            freezer: Freezer::default(),
            laid: config.blocks,
            growth: Growth::default(),
            copying: Copying::new(config.copies_max, config.pace, regions, now),
            granted: Vec::new(),
            requests: PendingTable::default(),
            outbox: Vec::new(),
            events: VecDeque::new(),
            counters: VolumeCounters::default(),
            config,
        };
        for replica in in_sync.iter() {
            volume.new_session(replica);
            volume.fence(replica, epoch, now);
        }
        volume
    }

    // What it is

    /// How it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it is at its end.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Deposed | Phase::Released)
    }

    /// The epoch it serves at.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The recorded set.
    pub fn recorded(&self) -> Members {
        self.recorded
    }

    /// Replicas that get every write: in sync, or being copied to.
    pub fn attached(&self) -> Members {
        match self.phase {
            Phase::Fencing { .. } | Phase::Released | Phase::Deposed => Members::NONE,
            _ => (self.recorded | self.pledged | self.syncing) - self.failed,
        }
    }

    /// Replicas that were given up, and are still recorded.
    pub fn failed(&self) -> Members {
        self.failed
    }

    /// Whether requests to this replica mean anything to the head any more.
    pub fn wants(&self, replica: ReplicaIndex) -> bool {
        match self.phase {
            Phase::Released | Phase::Deposed => false,
            Phase::Fencing { waiting } => {
                waiting.has(replica) || self.peers[replica.index()].joined.is_some()
            }
            _ => self.attached().has(replica) || self.attaching.has(replica),
        }
    }

    /// The attachment to a replica: what is sent in it is carried out while the replica obeys this head.
    #[inline]
    pub fn session(&self, replica: ReplicaIndex) -> Session {
        Session { head: self.config.head, number: self.peers[replica.index()].session }
    }

    /// Regions that may be old on a replica.
    pub fn regions_stale(&self, replica: ReplicaIndex) -> u64 {
        self.peers[replica.index()].stale.ones()
    }

    /// Regions whose intent bit is set.
    pub fn regions_dirty(&self) -> u64 {
        self.intent.dirty.ones()
    }

    /// What it has done.
    pub fn counters(&self) -> VolumeCounters {
        self.counters
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Commands under way.
    pub fn commands_under_way(&self) -> usize {
        self.commands.len() - self.free.len()
    }

    // In and out

    /// The next request of a lane to hand to a replica.
    #[inline]
    pub fn next_request(&mut self, lane: Lane) -> Option<Request> {
        self.outbox.get_mut(usize::from(lane.0))?.pop_front()
    }

    /// Lanes that have requests.
    pub fn lanes_with_requests(&self) -> impl Iterator<Item = Lane> + '_ {
        let lanes = (0..).map(Lane).zip(&self.outbox);
        lanes.filter(|(_, requests)| !requests.is_empty()).map(|(lane, _)| lane)
    }

    /// The next thing that happened.
    #[inline]
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn advance(&mut self, to: Phase) {
        assert!(is_legal(self.phase, to), "illegal transition {:?} to {to:?}", self.phase);
        self.phase = to;
    }

    #[inline]
    pub(super) fn send(
        &mut self,
        replica: ReplicaIndex,
        lane: Lane,
        purpose: Purpose,
        op: RequestOp,
        now: Now,
    ) {
        self.peers[replica.index()].outstanding += 1;
        let session = self.session(replica);
        let id = self.requests.add(Pending { replica, purpose, sent: now, dead: false });
        let index = usize::from(lane.0);
        if self.outbox.len() <= index {
            self.outbox.resize_with(index + 1, VecDeque::new);
        }
        self.outbox[index].push_back(Request { id, replica, session, lane, op });
    }

    /// A request ended.
    #[inline]
    pub fn finish(&mut self, id: RequestId, outcome: Outcome, now: Now) {
        let Pending { replica, purpose, sent, dead } = self.requests.take(id);
        self.peers[replica.index()].outstanding -= 1;
        if dead || matches!(self.phase, Phase::Deposed | Phase::Released) {
            return;
        }
        match outcome {
            Outcome::Superseded => return self.depose(true),
            Outcome::Done | Outcome::Joined { .. } | Outcome::Failed(_) => {
                let until = sent.after_ns(self.config.counted_lease_ns());
                let lease = &mut self.peers[replica.index()].lease_until;
                *lease = Some(lease.map_or(until, |now| now.max(until)));
            }
            Outcome::Later { .. } | Outcome::Lost => {}
        }
        self.dispatch(replica, purpose, outcome, now);
        self.run(now);
    }

    #[inline]
    fn dispatch(&mut self, replica: ReplicaIndex, purpose: Purpose, outcome: Outcome, now: Now) {
        match purpose {
            Purpose::Command(slot) => self.on_command_answer(slot, replica, &outcome, now),
            Purpose::Repair(slot) => self.on_repaired(slot, replica, &outcome, now),
            Purpose::Fence(epoch) => self.on_fence_answer(replica, epoch, outcome, now),
            Purpose::Release => self.on_released(),
            Purpose::Adopt(lineage) => self.on_adopted(replica, lineage, &outcome, now),
            Purpose::Room => self.on_room(replica, &outcome, now),
            Purpose::Grow(blocks) => self.on_grown(replica, blocks, &outcome, now),
            Purpose::Renew => {
                self.peers[replica.index()].renewing = false;
                self.fail_unless_done(replica, &outcome, now);
            }
            Purpose::Intent(page, version) => {
                if self.fail_unless_done(replica, &outcome, now) {
                    self.intent.finish_write(replica, page, version);
                    self.wake_intent_waiters(now);
                    self.on_copied_everything(replica, now);
                }
            }
            Purpose::Copy(copy) => self.on_copy_answer(copy, replica, &outcome, now),
            Purpose::CopyFlush => self.on_copy_flushed(replica, &outcome, now),
            Purpose::CleanFlush(cycle) => self.on_clean_flushed(replica, cycle, &outcome, now),
        }
    }

    /// Whether a request that must not fail is done; else its replica is given up.
    pub(super) fn fail_unless_done(&mut self, replica: ReplicaIndex, outcome: &Outcome, now: Now) -> bool {
        match outcome {
            Outcome::Done => return true,
            Outcome::Failed(_) => self.fail(replica, LossReason::Media, now),
            _ => self.fail(replica, LossReason::Path, now),
        }
        false
    }

    /// Everything that follows from what was done: blocks that were granted, pages to write, copies to start.
    pub(super) fn run(&mut self, now: Now) {
        while let Some(owner) = self.granted.pop() {
            match owner {
                Owner::Command(slot) => self.on_blocks(slot, now),
                Owner::Copy(copy) => self.on_copy_blocks(copy, now),
            }
        }
        if !self.attached().is_empty() {
            self.start_copies(now);
            self.write_intent(now);
        }
        if self.phase == Phase::Draining {
            self.let_go(now);
        }
    }

    /// Writes the pages that replicas lack.
    fn write_intent(&mut self, now: Now) {
        for replica in self.attached().iter() {
            while let Some((page, version)) = self.intent.start_write(replica) {
                let peer = &self.peers[replica.index()];
                let words = self.intent.page_words(page, [&peer.stale, &peer.unflushed, &peer.flushing]);
                let op = RequestOp::Intent { page, words };
                self.send(replica, Lane::default(), Purpose::Intent(page, version), op, now);
            }
        }
    }

    // Time

    /// Time passes.
    pub fn on_tick(&mut self, now: Now) {
        if matches!(self.phase, Phase::Deposed | Phase::Released) {
            return;
        }
        if !matches!(self.phase, Phase::Fencing { .. }) && !self.holds_leases(now) {
            return self.depose(false);
        }
        self.give_up_slow(now);
        if matches!(self.phase, Phase::Deposed) {
            return;
        }
        self.end_overdue_freeze(now);
        self.renew_leases(now);
        self.fence_due(now);
        self.attach_absent(now);
        self.tell_lineage(now);
        self.tell_size(now);
        self.propose_again(now);
        self.copying.adapt();
        self.clean(now);
        self.run(now);
    }

    /// When [`Volume::on_tick`] has something to do at the latest.
    pub fn next_deadline(&self, now: Now) -> Now {
        match self.phase {
            Phase::Deposed | Phase::Released => Now::NEVER,
            _ => now.after_ns(self.config.slow_ns / 8),
        }
    }

    /// Whether every replica that counts lets nobody else in.
    #[inline]
    pub(super) fn holds_leases(&self, now: Now) -> bool {
        (self.recorded | self.pledged)
            .iter()
            .all(|replica| self.peers[replica.index()].lease_until.is_some_and(|until| now < until))
    }

    fn give_up_slow(&mut self, now: Now) {
        let slow_ns = self.config.slow_ns;
        let late = |pending: &&Pending| !pending.dead && now.since(pending.sent) > slow_ns;
        let mut slow: Members = self.requests.iter().filter(late).map(|pending| pending.replica).collect();
        let counted = (self.recorded | self.pledged) - self.failed;
        if slow.covers(counted) && !matches!(self.phase, Phase::Fencing { .. }) {
            // Nobody would be left to serve with: the leases say whether they are there.
            slow -= counted;
        }
        for replica in slow.iter() {
            self.fail(replica, LossReason::Slow, now);
        }
    }

    pub(super) fn renew_leases(&mut self, now: Now) {
        let due: Members =
            self.attached().iter().filter(|replica| self.is_renewal_due(*replica, now)).collect();
        for replica in due.iter() {
            let (sound, mapped) = (self.is_sound(replica), self.is_mapped(replica));
            let peer = &mut self.peers[replica.index()];
            peer.renewing = true;
            peer.renew_at = now.after_ns(self.config.lease_ns / 8);
            self.send(replica, Lane::default(), Purpose::Renew, RequestOp::Renew { sound, mapped }, now);
        }
    }

    fn is_renewal_due(&self, replica: ReplicaIndex, now: Now) -> bool {
        let peer = &self.peers[replica.index()];
        !peer.renewing && now >= peer.renew_at
    }

    /// Whether a replica holds everything that was acknowledged.
    pub(super) fn is_sound(&self, replica: ReplicaIndex) -> bool {
        let peer = &self.peers[replica.index()];
        let counts = ((self.recorded | self.pledged) - self.failed).has(replica);
        counts && !matches!(self.phase, Phase::Fencing { .. }) && peer.stale.is_empty()
    }

    /// Whether the bitmap that a replica holds names everything that it lacks.
    fn is_mapped(&self, replica: ReplicaIndex) -> bool {
        self.syncing.has(replica) && self.intent.is_complete(replica)
    }

    // The end

    /// Takes no more commands, finishes those it has, and lets go of the replicas.
    pub fn deactivate(&mut self, now: Now) {
        match self.phase {
            Phase::Active => {
                self.advance(Phase::Draining);
                self.end_freeze(now);
            }
            Phase::Draining | Phase::Released | Phase::Deposed => {}
            Phase::Fencing { .. } | Phase::Changing { .. } => self.depose(false),
        }
    }

    fn let_go(&mut self, now: Now) {
        if self.commands_under_way() > 0 || !self.copying.is_idle() || !self.requests.is_empty() {
            return;
        }
        let attached = self.attached();
        if attached.is_empty() {
            return self.on_released();
        }
        for replica in attached.iter() {
            self.send(replica, Lane::default(), Purpose::Release, RequestOp::Release, now);
        }
    }

    fn on_released(&mut self) {
        let releasing = self.requests.iter().any(|pending| pending.purpose == Purpose::Release);
        if self.phase == Phase::Draining && !releasing {
            self.advance(Phase::Released);
            self.event(Event::Released);
        }
    }

    /// Stops for good: every command fails.
    #[cold]
    pub(super) fn depose(&mut self, superseded: bool) {
        self.advance(Phase::Deposed);
        let unsent: Vec<Request> = self.outbox.iter_mut().flat_map(|lane| lane.drain(..)).collect();
        for request in unsent {
            let pending = self.requests.take(request.id);
            self.peers[pending.replica.index()].outstanding -= 1;
        }
        self.fail_commands();
        self.event(Event::Deposed { superseded });
    }

    pub(super) fn new_session(&mut self, replica: ReplicaIndex) {
        self.peers[replica.index()].session += 1;
    }
}
