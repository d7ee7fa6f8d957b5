//! Nodes, links, time, faults.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;

use dataplane::volume::format::Content;
use dataplane::volume::{
    Bitmap, Config, Epoch, Event, FenceStep, HeadId, Joined, Lane, Lineage, Members, Outcome, Pace, Replica,
    ReplicaIndex, ReplicaState, Request, RequestOp, Volume,
};
use fastrand::Rng;
use nvme::Status;

use super::clock::{DRIFT_PPM, DriftingClock};
use super::disk::{Disk, Stamp};
use super::history::History;
use super::hosts::Hosts;
use super::manager::{Manager, Order};
use super::node::{Head, Node};
use super::snapshots::{Errand, Snapshot, Taken};

/// Blocks of the volume: few, so that commands meet.
pub(super) const BLOCKS: usize = 61;
const REGION_BLOCKS: u32 = 8;
pub(super) const MS: u64 = 1_000_000;
pub(super) const LEASE_NS: u64 = 2_000 * MS;
const SLOW_NS: u64 = 800 * MS;
const TICK_NS: u64 = 40 * MS;
/// Time with faults, and after them.
const TROUBLE_NS: u64 = 60_000 * MS;
const PATIENCE_NS: u64 = 120_000 * MS;
/// Time in which regions that nobody writes become clean.
const COOLING_NS: u64 = 20_000 * MS;

/// What a seed broke.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which seed.
    pub seed: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nreplay with: pollux-sim volume --seeds 1 --from {}", self.what, self.seed)
    }
}

/// What happened in a run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Commands that were acknowledged.
    pub acknowledged: u64,
    /// Reads among them that were no commands to replicas.
    pub at_once: u64,
    /// Commands that failed, or were never answered.
    pub failed: u64,
    /// Nodes that crashed, with or without power.
    pub crashes: u64,
    /// Links that were cut.
    pub cuts: u64,
    /// Heads that served.
    pub heads: u64,
    /// Recorded sets.
    pub records: u64,
    /// Times that unflushed writes could be gone, because every replica that counted had restarted.
    pub eras: u64,
    /// Regions copied.
    pub copied: u64,
    /// Regions that were to be copied.
    pub to_copy: u64,
    /// Snapshots of all replicas in sync that came about.
    pub snapshots: u64,
    /// Replicas that came back with an empty disk.
    pub emptied: u64,
    /// Replicas that were added.
    pub added: u64,
    /// Replicas that were removed.
    pub removed: u64,
    /// Times that hosts were to get more blocks.
    pub grown: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.at_once += other.at_once;
        self.failed += other.failed;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.heads += other.heads;
        self.records += other.records;
        self.eras += other.eras;
        self.copied += other.copied;
        self.to_copy += other.to_copy;
        self.snapshots += other.snapshots;
        self.emptied += other.emptied;
        self.added += other.added;
        self.removed += other.removed;
        self.grown += other.grown;
    }
}

/// Something that is to happen.
pub(super) enum What {
    /// A request reaches a replica.
    Arrive {
        message: u64,
    },
    /// A replica has carried a request out.
    Carried {
        message: u64,
        boot: u64,
        mark: u64,
        admitted: bool,
    },
    /// An answer reaches the head.
    Answer {
        message: u64,
        outcome: Outcome,
        data: Option<Vec<Stamp>>,
    },
    /// The connections of a head notice that a replica's process ended.
    Reset {
        head: usize,
        replica: usize,
        boot: u64,
    },
    Tick {
        node: usize,
    },
    Host {
        host: usize,
    },
    Manager,
    Order {
        node: usize,
        order: Order,
    },
    Report {
        node: usize,
        head: HeadId,
        event: Event,
    },
    /// Somebody wants all replicas copied as they are at one moment.
    Snapshot,
    /// One step of that.
    Copying,
    /// Somebody wants other replicas.
    Roster,
    /// Somebody wants more blocks.
    Growth,
    /// A head refused to let go of a replica: it counts, or is proposed.
    Refused {
        head: HeadId,
        proposed: bool,
    },
    /// An ask of it reaches a replica.
    Errand(Errand),
    /// And its answer the head.
    ErrandDone(Errand, bool),
    Fault,
    /// A node crashes if it still has this head.
    Strike {
        node: usize,
        head: HeadId,
    },
    Heal {
        node: usize,
        /// It has another disk then.
        emptied: bool,
    },
    Cut {
        from: usize,
        to: usize,
        cut: bool,
    },
}

struct Due {
    at: u64,
    sequence: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// A request on its way.
struct Message {
    from: usize,
    head: HeadId,
    request: Request,
    data: Vec<Stamp>,
    /// The replica has it.
    arrived: bool,
}

/// Everything there is.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Node>,
    /// By sender, then receiver; the manager is the last.
    pub(super) cut: Vec<Vec<bool>>,
    pub(super) manager: Manager,
    pub(super) hosts: Hosts,
    pub(super) history: History,
    pub(super) tally: Tally,
    pub(super) trouble: bool,
    pub(super) snapshot: Option<Snapshot>,
    /// By number, all that were begun.
    pub(super) taken: Vec<Taken>,
    /// Snapshots begin this often.
    pub(super) snapshots_ns: u64,
    pub(super) min_in_sync: u8,
    copy_rate: Option<u64>,
    /// Faults follow each other within this time.
    pub(super) peace_ns: u64,
    agenda: BinaryHeap<Reverse<Due>>,
    sequence: u64,
    messages: BTreeMap<u64, Message>,
    next_message: u64,
    /// The highest epoch at which anything was acknowledged.
    acknowledged_at: Epoch,
    /// The latest epoch at which hosts saw a size, and the largest they saw.
    pub(super) shown: (Epoch, u64),
    broken: Option<String>,
    trace: bool,
}

/// Runs one seed. `trace` prints what happens on standard error.
///
/// # Errors
/// What it broke.
pub fn run(seed: u64, trace: bool) -> Result<Tally, Broken> {
    let mut world = World::new(seed, trace);
    world.play().map_err(|what| Broken { seed, what })?;
    Ok(world.tally)
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = *rng.choice(&[2, 3, 3, 3, 4, 4]).expect("some");
        let spares = if count > 2 { *rng.choice(&[0, 0, 1]).expect("some") } else { 0 };
        let replicas = u8::try_from(count - spares).expect("small");
        let blocks = *rng.choice(&[BLOCKS, 48, 35]).expect("some");
        let state = ReplicaState { epoch: Epoch(0), head: HeadId::NONE };
        let nodes: Vec<Node> = (0..count)
            .map(|number| {
                let clock = DriftingClock::new(&mut rng);
                let mut disk = Disk::new(BLOCKS);
                disk.litter(blocks, number as u64);
                Node {
                    clock,
                    disk,
                    snapshots: BTreeMap::new(),
                    dropped: BTreeSet::new(),
                    state,
                    content: Content::Fresh,
                    lineage: Lineage::NONE,
                    size: blocks as u64,
                    room: blocks as u64,
                    known: Members::first(replicas),
                    known_since: 0,
                    pages: Bitmap::new((BLOCKS as u64).div_ceil(u64::from(REGION_BLOCKS))),
                    replica: Some(Replica::new(state, LEASE_NS, clock.at(0))),
                    boot: 0,
                    writing: BTreeMap::new(),
                    slowness: 1,
                    head: None,
                }
            })
            .collect();
        let min_in_sync = rng.u8(1..=replicas);
        let mut world = Self {
            now: 0,
            cut: vec![vec![false; count + 1]; count + 1],
            manager: Manager::new(Members::first(replicas), blocks as u64),
            hosts: Hosts::new(rng.usize(3..=6)),
            history: History::new(BLOCKS),
            tally: Tally::default(),
            trouble: true,
            snapshot: None,
            taken: Vec::new(),
            snapshots_ns: *rng.choice(&[1_500 * MS, 10_000 * MS]).expect("some"),
            min_in_sync,
            // Slow copying leaves regions different for long.
            copy_rate: *rng.choice(&[None, Some(8), Some(8), Some(30), Some(200)]).expect("some"),
            peace_ns: *rng.choice(&[6_000 * MS, 20_000 * MS]).expect("some"),
            agenda: BinaryHeap::new(),
            sequence: 0,
            messages: BTreeMap::new(),
            next_message: 0,
            acknowledged_at: Epoch(0),
            shown: (Epoch(0), 0),
            broken: None,
            trace,
            nodes,
            rng,
        };
        for node in 0..count {
            world.after(TICK_NS, What::Tick { node });
        }
        for host in 0..world.hosts.len() {
            world.after(MS, What::Host { host });
        }
        world.after(0, What::Manager);
        world.after(500 * MS, What::Fault);
        world.after(700 * MS, What::Snapshot);
        world.after(2_000 * MS, What::Roster);
        world.after(5_000 * MS, What::Growth);
        world
    }

    pub(super) fn after(&mut self, ns: u64, what: What) {
        self.sequence += 1;
        self.agenda.push(Reverse(Due { at: self.now + ns, sequence: self.sequence, what }));
    }

    /// Tells what happens.
    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>9.3} ms {}", ms(self.now), what());
        }
    }

    pub(super) fn break_promise(&mut self, what: String) {
        self.broken.get_or_insert(format!("at {} ms: {what}", self.now / MS));
    }

    fn play(&mut self) -> Result<(), String> {
        self.run_until(TROUBLE_NS, |_| false)?;
        self.heal_everything();
        let deadline = self.now + PATIENCE_NS;
        self.run_until(deadline, |world| world.is_whole())?;
        if !self.is_whole() {
            return Err(format!(
                "not whole {} s after everything was healed: {}",
                PATIENCE_NS / MS / 1000,
                self.describe()
            ));
        }
        self.hosts.stop();
        let deadline = self.now + PATIENCE_NS;
        self.run_until(deadline, |world| world.hosts.are_idle())?;
        if !self.hosts.are_idle() {
            return Err(format!("never answered: {}", self.hosts.describe()));
        }
        let end = self.now + COOLING_NS;
        self.run_until(end, |_| false)?;
        self.check_quiet()?;
        self.history.check()?;
        self.tally.eras = self.history.eras() as u64;
        Ok(())
    }

    fn run_until(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        while let Some(Reverse(due)) = self.agenda.pop() {
            if due.at > end || done(self) {
                self.agenda.push(Reverse(due));
                self.now = self.now.max(end.min(self.now));
                break;
            }
            self.now = due.at;
            self.happen(due.what);
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
        }
        Ok(())
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Arrive { message } => self.arrive(message),
            What::Carried { message, boot, mark, admitted } => self.carried(message, boot, mark, admitted),
            What::Answer { message, outcome, data } => self.answer(message, outcome, data),
            What::Reset { head, replica, boot } => self.reset(head, replica, boot),
            What::Tick { node } => self.tick(node),
            What::Host { host } => self.host_turn(host),
            What::Manager => self.manager_turn(),
            What::Order { node, order } => self.obey(node, order),
            What::Report { node, head, event } => self.report(node, head, &event),
            What::Snapshot => self.snapshot_turn(),
            What::Copying => self.snapshot_step(),
            What::Roster => self.roster_turn(),
            What::Growth => self.growth_turn(),
            What::Refused { head, proposed } => self.removal_refused(head, proposed),
            What::Errand(errand) => self.carry_out(errand),
            What::ErrandDone(errand, done) => self.errand_done(errand, done),
            What::Fault => self.fault(),
            What::Strike { node, head } => self.strike(node, head),
            What::Heal { node, emptied } => self.start_node(node, emptied),
            What::Cut { from, to, cut } => self.cut[from][to] = cut,
        }
    }

    // The head's side

    /// Makes a head on a node.
    pub(super) fn activate(&mut self, node: usize, head: HeadId, epoch: Epoch, in_sync: Members) {
        let known = self.nodes[node].known;
        if !self.nodes[node].is_up() || !known.covers(in_sync) {
            return;
        }
        self.retire_head(node);
        let own = ReplicaIndex(u8::try_from(node).expect("small"));
        let config = Config {
            members: known,
            // It finds out how large the volume is.
            blocks: BLOCKS as u64,
            region_blocks: REGION_BLOCKS,
            min_in_sync: self.min_in_sync,
            head,
            local: Some(own).filter(|own| known.has(*own)),
            lease_ns: LEASE_NS,
            drift_ppm: DRIFT_PPM,
            slow_ns: SLOW_NS,
            commands_max: 16,
            copies_max: 2,
            pace: Pace { blocks_per_s: self.copy_rate, ..Pace::full(2) },
            clean_ns: 150 * MS,
            attach_ns: 500 * MS,
        };
        let volume = Volume::new(config, epoch, in_sync, self.nodes[node].clock.at(self.now));
        let (data, copies, sent) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        self.nodes[node].head = Some(Head { volume, data, copies, sent });
        self.drive(node);
    }

    pub(super) fn retire_head(&mut self, node: usize) {
        if let Some(head) = self.nodes[node].head.take() {
            self.count(&head.volume);
            self.hosts_lost(node);
        }
    }

    fn count(&mut self, volume: &Volume) {
        let counters = volume.counters();
        self.tally.copied += counters.regions_copied;
        self.tally.to_copy += counters.regions_to_copy;
        if counters.regions_copied > counters.regions_to_copy {
            self.break_promise(format!("more was copied than was dirty: {counters:?}"));
        }
    }

    /// Passes on what a head wants, and what happened to it.
    pub(super) fn drive(&mut self, node: usize) {
        loop {
            let Some(head) = &mut self.nodes[node].head else { return };
            let lanes: Vec<Lane> = head.volume.lanes_with_requests().collect();
            let requests: Vec<Request> =
                lanes.into_iter().filter_map(|lane| head.volume.next_request(lane)).collect();
            let events: Vec<Event> = std::iter::from_fn(|| head.volume.next_event()).collect();
            if requests.is_empty() && events.is_empty() && !self.close_unwanted(node) {
                return;
            }
            for request in requests {
                self.send(node, request);
            }
            for event in events {
                self.on_event(node, event);
            }
        }
    }

    /// Connections to replicas that the head has given up are closed: what was sent on them ends.
    fn close_unwanted(&mut self, node: usize) -> bool {
        let now = self.nodes[node].clock.at(self.now);
        let Some(head) = &mut self.nodes[node].head else { return false };
        let lost: Vec<u64> = head
            .sent
            .iter()
            .filter(|(_, (_, request))| !head.volume.wants(request.replica))
            .map(|(message, _)| *message)
            .collect();
        for message in &lost {
            let Some((id, _)) = head.sent.remove(message) else { continue };
            head.volume.finish(id, Outcome::Lost, now);
        }
        !lost.is_empty()
    }

    fn send(&mut self, node: usize, request: Request) {
        let message = self.next_message;
        self.next_message += 1;
        let Some(head) = &mut self.nodes[node].head else { return };
        let data = match &request.op {
            RequestOp::Write { tag, .. } => head.data.get(tag).cloned().unwrap_or_default(),
            RequestOp::CopyWrite { copy, .. } => head.copies.get(copy).cloned().unwrap_or_default(),
            RequestOp::Zeroes { blocks, .. } => vec![0; *blocks as usize],
            _ => Vec::new(),
        };
        let to = request.replica.index();
        let head_id = head.volume.config().head;
        head.sent.insert(message, (request.id, request.clone()));
        self.messages.insert(message, Message { from: node, head: head_id, request, data, arrived: false });
        if self.cut[node][to] {
            return;
        }
        let delay = self.delay(node, to);
        self.after(delay, What::Arrive { message });
    }

    /// How long a message takes; sometimes long.
    pub(super) fn delay(&mut self, from: usize, to: usize) -> u64 {
        let base = if from == to { self.rng.u64(1_000..20_000) } else { self.rng.u64(20_000..2 * MS) };
        let rarely = self.trouble && self.rng.u16(..) < 60;
        if rarely { base + self.rng.u64(0..1_500 * MS) } else { base }
    }

    /// Some of what a node had sent when it crashed never left it.
    pub(super) fn lose_messages(&mut self, node: usize, percent: u8) {
        let rng = &mut self.rng;
        self.messages
            .retain(|_, message| message.from != node || message.arrived || rng.u8(..100) >= percent);
    }

    /// Where the head should be.
    pub(super) fn head_node(&self) -> usize {
        self.manager.record.node
    }

    fn answer(&mut self, message: u64, outcome: Outcome, data: Option<Vec<Stamp>>) {
        let Some(Message { from, head: head_id, request, .. }) = self.messages.remove(&message) else {
            return;
        };
        let now = self.nodes[from].clock.at(self.now);
        let Some(head) = &mut self.nodes[from].head else { return };
        if head.volume.config().head != head_id {
            return;
        }
        let Some((id, _)) = head.sent.remove(&message) else { return };
        match (&request.op, data) {
            (RequestOp::Read { tag, .. }, Some(data)) => drop(head.data.insert(*tag, data)),
            (RequestOp::CopyRead { copy, .. }, Some(data)) => drop(head.copies.insert(*copy, data)),
            _ => {}
        }
        head.volume.finish(id, outcome, now);
        self.drive(from);
    }

    fn reset(&mut self, node: usize, replica: usize, boot: u64) {
        let now = self.nodes[node].clock.at(self.now);
        if self.cut[replica][node] || self.nodes[replica].boot != boot {
            return;
        }
        let Some(head) = &mut self.nodes[node].head else { return };
        let to_it = |request: &Request| request.replica.index() == replica;
        let lost: Vec<u64> = head
            .sent
            .iter()
            .filter(|(_, (_, request))| to_it(request))
            .map(|(message, _)| *message)
            .collect();
        for message in lost {
            if let Some((id, _)) = head.sent.remove(&message) {
                head.volume.finish(id, Outcome::Lost, now);
            }
        }
        self.drive(node);
    }

    fn tick(&mut self, node: usize) {
        let now = self.nodes[node].clock.at(self.now);
        if let Some(head) = &mut self.nodes[node].head {
            head.volume.on_tick(now);
        }
        self.drive(node);
        let jitter = self.rng.u64(0..TICK_NS);
        self.after(TICK_NS / 2 + jitter, What::Tick { node });
    }

    fn on_event(&mut self, node: usize, event: Event) {
        if !matches!(event, Event::Done { .. }) {
            self.tell(|| format!("head on {node}: {event:?}"));
        }
        let Some(head) = &self.nodes[node].head else { return };
        let (id, epoch) = (head.volume.config().head, head.volume.epoch());
        let blocks = head.volume.config().blocks;
        if matches!(event, Event::Active { .. } | Event::Resized { .. }) {
            self.show(epoch, blocks);
        }
        match event {
            Event::Done { tag, result, .. } => {
                if result.is_ok() {
                    self.acknowledge(epoch);
                }
                self.host_told(node, tag, result);
            }
            Event::Unflushed => self.history.new_era(self.now),
            Event::Active { in_sync, .. } => {
                self.tally.heads += 1;
                self.strike_later(node, id, in_sync);
                self.tell_manager(node, id, event);
            }
            _ => self.tell_manager(node, id, event),
        }
    }

    pub(super) fn acknowledge(&mut self, epoch: Epoch) {
        if epoch < self.acknowledged_at {
            let later = self.acknowledged_at;
            self.break_promise(format!("a head at epoch {epoch} acknowledged after one at {later}"));
        }
        self.acknowledged_at = epoch;
    }

    fn tell_manager(&mut self, node: usize, head: HeadId, event: Event) {
        let manager = self.nodes.len();
        if !self.cut[node][manager] {
            let delay = self.delay(node, manager);
            self.after(delay, What::Report { node, head, event });
        }
    }

    // The replica's side

    fn arrive(&mut self, message: u64) {
        let Some(Message { request, arrived, .. }) = self.messages.get_mut(&message) else { return };
        *arrived = true;
        let (request, to) = (request.clone(), request.replica.index());
        let node = &mut self.nodes[to];
        let now = node.clock.at(self.now);
        let (boot, mark) = (node.boot, node.disk.mark());
        let Some(replica) = &mut node.replica else { return };
        let mut admitted = false;
        match request.op {
            RequestOp::Fence { epoch, .. } => {
                let step = replica.fence(epoch, request.session, now);
                if !matches!(step, FenceStep::Persist(_)) {
                    return self.reply(message, outcome_of(step), None);
                }
            }
            RequestOp::Renew { sound, mapped } => {
                let known = replica.renew(request.session, sound, now);
                node.content = if known { node.content.told(sound, mapped) } else { node.content };
                return self.reply(message, if known { Outcome::Done } else { Outcome::Lost }, None);
            }
            RequestOp::Release => {
                replica.release(request.session, now);
                return self.reply(message, Outcome::Done, None);
            }
            _ => {
                if !replica.admit(request.session, now) {
                    return self.reply(message, Outcome::Lost, None);
                }
                admitted = true;
            }
        }
        if let Some(at) = written_at(&request.op) {
            let data = self.messages[&message].data.clone();
            self.nodes[to].writing.insert(message, (at, data));
        }
        let slowness = self.nodes[to].slowness;
        let ns = self.rng.u64(10_000..400_000) * slowness;
        self.after(ns, What::Carried { message, boot, mark, admitted });
    }

    fn carried(&mut self, message: u64, boot: u64, mark: u64, admitted: bool) {
        let Some(Message { from, request, data, .. }) = self.messages.get(&message) else { return };
        let (from, request, data, to) = (*from, request.clone(), data.clone(), request.replica.index());
        let node = &mut self.nodes[to];
        let now = node.clock.at(self.now);
        if node.boot != boot {
            return;
        }
        node.writing.remove(&message);
        let Some(replica) = &mut node.replica else { return };
        if admitted {
            replica.done();
        }
        let (mut outcome, mut read, mut cleaner) = (Outcome::Done, None, false);
        match &request.op {
            op if reaches(op) > node.room => outcome = Outcome::Failed(Status::LBA_OUT_OF_RANGE),
            RequestOp::Fence { epoch, sound } => match replica.fence(*epoch, request.session, now) {
                FenceStep::Persist(state) => {
                    let was_sound = replica.is_sound();
                    let told = format!(
                        "replica {to} accepts {request:?}, sound {was_sound}, dirty {:?}",
                        node.pages.words()
                    );
                    let content = node.content;
                    (node.state, node.content) = (state, content.told(*sound, false));
                    replica.accepted(state, request.session, *sound, now);
                    let sound = replica.is_sound();
                    let (lineage, blocks, room) = (node.lineage, node.size, node.room);
                    let mut intent = Box::new(node.pages.clone());
                    intent.resize(blocks.div_ceil(u64::from(REGION_BLOCKS)), false);
                    outcome = Outcome::Joined(Joined { sound, content, lineage, blocks, room, intent });
                    self.tell(|| told);
                }
                step => outcome = outcome_of(step),
            },
            RequestOp::Read { at, blocks, .. } | RequestOp::CopyRead { at, blocks, .. } => {
                read = node.disk.read(usize::try_from(*at).expect("small"), *blocks as usize);
                if read.is_none() {
                    outcome = Outcome::Failed(Status::UNRECOVERED_READ_ERROR);
                }
            }
            RequestOp::Write { at, fua, .. } | RequestOp::Zeroes { at, fua, .. } => {
                node.disk.write(usize::try_from(*at).expect("small"), &data, *fua);
            }
            RequestOp::CopyWrite { at, .. } => {
                node.disk.write(usize::try_from(*at).expect("small"), &data, false);
            }
            RequestOp::Flush => node.disk.flush(mark),
            RequestOp::Adopt { lineage } => node.lineage = *lineage,
            RequestOp::Grow { blocks, .. } if *blocks > node.room => {
                outcome = Outcome::Failed(Status::CAPACITY_EXCEEDED);
            }
            RequestOp::Grow { blocks, store } => node.size = if *store { *blocks } else { node.size },
            RequestOp::Intent { page, words } => {
                assert!(*page == 0);
                let mut pages = Bitmap::new(node.pages.len());
                pages.unite_words(0, words);
                cleaner = pages.ones() < node.pages.ones();
                node.pages = pages;
            }
            RequestOp::Renew { .. } | RequestOp::Release => unreachable!("answered on arrival"),
        }
        self.tell(|| format!("replica {to}: {:?} {data:?} {read:?} mark {mark} -> {outcome:?}", request.op));
        self.reply(message, outcome, read);
        if matches!(request.op, RequestOp::Write { .. }) {
            self.strike_in_flight(from, to);
        }
        if cleaner {
            self.strike_clean(to);
        }
    }

    fn reply(&mut self, message: u64, outcome: Outcome, data: Option<Vec<Stamp>>) {
        let Some(Message { from, request, .. }) = self.messages.get(&message) else { return };
        let (from, to) = (*from, request.replica.index());
        if !self.cut[to][from] {
            let delay = self.delay(to, from);
            self.after(delay, What::Answer { message, outcome, data });
        }
    }
}

/// For people.
#[allow(clippy::cast_precision_loss, reason = "minutes, in nanoseconds")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn outcome_of(step: FenceStep) -> Outcome {
    match step {
        FenceStep::Later { ns } => Outcome::Later { ns },
        FenceStep::Superseded | FenceStep::Persist(_) => Outcome::Superseded,
    }
}

/// How far a request reaches.
fn reaches(op: &RequestOp) -> u64 {
    match *op {
        RequestOp::Read { at, blocks, .. }
        | RequestOp::Write { at, blocks, .. }
        | RequestOp::Zeroes { at, blocks, .. }
        | RequestOp::CopyRead { at, blocks, .. }
        | RequestOp::CopyWrite { at, blocks, .. } => at + u64::from(blocks),
        _ => 0,
    }
}

/// Where a request writes.
fn written_at(op: &RequestOp) -> Option<usize> {
    match op {
        RequestOp::Write { at, .. } | RequestOp::Zeroes { at, .. } | RequestOp::CopyWrite { at, .. } => {
            usize::try_from(*at).ok()
        }
        _ => None,
    }
}
