//! Hosts: each has one command at a time, somewhere among few blocks.

use dataplane::volume::{Failure, Lane, Operation};

use super::disk::Stamp;
use super::node::Node;
use super::world::{BLOCKS, What, World};

const MS: u64 = 1_000_000;
/// Blocks of a command at most.
const COMMAND_BLOCKS_MAX: usize = 12;

/// A command that was sent.
#[derive(Clone, Debug)]
struct Sent {
    tag: u64,
    node: usize,
    operation: Operation,
    stamps: Vec<Stamp>,
    asked: u64,
}

/// All hosts.
pub(super) struct Hosts {
    sent: Vec<Option<Sent>>,
    next_tag: u64,
    next_stamp: Stamp,
    /// Where most commands go for a while: elsewhere regions become clean.
    hot: usize,
    habit: Habit,
    stopped: bool,
}

/// What hosts do for a while, of twenty commands.
#[derive(Clone, Copy, Debug)]
struct Habit {
    reads: u8,
    /// None at all leaves everything in caches, as long as nobody asks for FUA either.
    flushes: u8,
    fua: bool,
}

/// Much of everything.
const MIXED: Habit = Habit { reads: 8, flushes: 2, fua: true };
/// A long look at what is there: nothing is replaced by newer writes.
const LOOKING: Habit = Habit { reads: 20, flushes: 0, fua: false };
/// What is in caches stays there.
const CARELESS: Habit = Habit { reads: 8, flushes: 0, fua: false };

impl Hosts {
    pub(super) fn new(count: usize) -> Self {
        Self { sent: vec![None; count], next_tag: 1, next_stamp: 1, hot: 0, habit: MIXED, stopped: false }
    }

    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Hosts want to know what is there.
    pub(super) fn look(&mut self) {
        self.habit = LOOKING;
    }

    /// What waits for its answer.
    pub(super) fn describe(&self) -> String {
        format!("{:?}", self.sent.iter().flatten().collect::<Vec<_>>())
    }

    pub(super) fn are_idle(&self) -> bool {
        self.sent.iter().all(Option::is_none)
    }
}

impl World {
    pub(super) fn host_turn(&mut self, host: usize) {
        let pause =
            if self.rng.u8(0..20) == 0 { self.rng.u64(0..5_000 * MS) } else { self.rng.u64(0..40 * MS) };
        self.after(pause + MS, What::Host { host });
        if self.hosts.stopped || self.hosts.sent[host].is_some() {
            return;
        }
        let node = self.rng.usize(..self.nodes.len());
        if self.nodes[node].head.is_none() {
            return;
        }
        let sent = self.make_command(node);
        self.submit(host, sent);
    }

    fn make_command(&mut self, node: usize) -> Sent {
        let end = self.nodes[node].head.as_ref().map_or(BLOCKS as u64, |head| head.volume.config().blocks);
        let end = usize::try_from(end).expect("small");
        let blocks = self.rng.usize(1..=COMMAND_BLOCKS_MAX);
        let blocks = blocks.min(if self.rng.u8(0..4) == 0 { COMMAND_BLOCKS_MAX } else { 3 });
        if self.rng.u8(0..60) == 0 {
            self.hosts.hot = self.rng.usize(..BLOCKS);
        }
        if self.rng.u8(0..40) == 0 {
            self.hosts.habit = *self.rng.choice(&[MIXED, MIXED, LOOKING, CARELESS]).expect("some");
        }
        let Habit { reads, flushes, fua } = self.hosts.habit;
        let anywhere = self.rng.u8(0..40) == 0;
        let at = if anywhere { self.rng.usize(..end) } else { self.hosts.hot + self.rng.usize(..4) };
        let at = at.min(end - blocks);
        let fua = fua && self.rng.u8(0..6) == 0;
        let (from, count) = (at as u64, u32::try_from(blocks).expect("small"));
        let operation = match self.rng.u8(0..20) {
            dice if dice < reads => Operation::Read { at: from, blocks: count },
            dice if dice < reads + flushes => Operation::Flush,
            _ => Operation::Write { at: from, blocks: count, fua },
        };
        let mut stamps = Vec::new();
        if let Operation::Write { fua, .. } = operation {
            for block in at..at + blocks {
                stamps.push(self.hosts.next_stamp);
                self.history.write_asked(block, self.hosts.next_stamp, self.now, fua);
                self.hosts.next_stamp += 1;
            }
        }
        let tag = self.hosts.next_tag;
        self.hosts.next_tag += 1;
        Sent { tag, node, operation, stamps, asked: self.now }
    }

    fn submit(&mut self, host: usize, sent: Sent) {
        let lane = Lane(u16::from(self.rng.bool()));
        let now = self.nodes[sent.node].clock.at(self.now);
        let Some(head) = &mut self.nodes[sent.node].head else { return };
        let (tag, node, operation) = (sent.tag, sent.node, sent.operation);
        head.data.insert(tag, sent.stamps.clone());
        self.hosts.sent[host] = Some(sent);
        if self.read_at_once(node, tag, operation) {
            return self.host_told(node, tag, Ok(()));
        }
        let Some(head) = &mut self.nodes[node].head else { return };
        if head.volume.submit(tag, lane, operation, now).is_err() {
            head.data.remove(&tag);
            self.hosts.sent[host] = None;
            self.tally.failed += 1;
        }
        self.drive(node);
    }

    /// Half of the reads are done without a command where they may.
    fn read_at_once(&mut self, node: usize, tag: u64, operation: Operation) -> bool {
        let Operation::Read { at, blocks } = operation else { return false };
        let Node { head: Some(head), replica: Some(replica), clock, disk, .. } = &mut self.nodes[node] else {
            return false;
        };
        let now = clock.at(self.now);
        let Some((_, session)) = head.volume.reads_at_once(at, blocks, now) else { return false };
        if !tag.is_multiple_of(2) || !replica.admit(session, now) {
            return false;
        }
        replica.done();
        let Some(read) = disk.read(usize::try_from(at).expect("small"), blocks as usize) else {
            return false;
        };
        head.data.insert(tag, read);
        let epoch = head.volume.epoch();
        self.acknowledge(epoch);
        self.tally.at_once += 1;
        true
    }

    /// A head answered a command.
    pub(super) fn host_told(&mut self, node: usize, tag: u64, result: Result<(), Failure>) {
        let data = self.nodes[node].head.as_mut().and_then(|head| head.data.remove(&tag));
        let Some(host) =
            self.hosts.sent.iter().position(|sent| sent.as_ref().is_some_and(|sent| sent.tag == tag))
        else {
            return self.break_promise(format!("command {tag} was answered twice"));
        };
        let Some(sent) = self.hosts.sent[host].take() else { return };
        self.tell(|| format!("host {host}: {sent:?} -> {result:?}"));
        if result.is_err() {
            self.tally.failed += 1;
            return;
        }
        self.tally.acknowledged += 1;
        let (asked, now) = (sent.asked, self.now);
        match sent.operation {
            Operation::Read { at, blocks } => {
                let data = data.unwrap_or_default();
                assert!(data.len() == blocks as usize);
                for (block, stamp) in (usize::try_from(at).expect("small")..).zip(data) {
                    self.history.read(block, stamp, asked, now);
                }
                if self.is_being_written(at..at + u64::from(blocks)) {
                    self.strike_shown(node);
                }
            }
            Operation::Write { at, .. } => {
                for (block, stamp) in (usize::try_from(at).expect("small")..).zip(sent.stamps) {
                    self.history.write_answered(block, stamp, now);
                }
            }
            Operation::Flush => self.history.flushed(asked),
            Operation::Zeroes { .. } => {}
        }
    }

    fn is_being_written(&self, blocks: std::ops::Range<u64>) -> bool {
        self.hosts.sent.iter().flatten().any(|sent| match sent.operation {
            Operation::Write { at, blocks: count, .. } => {
                at < blocks.end && blocks.start < at + u64::from(count)
            }
            _ => false,
        })
    }

    /// A node is gone: whether what was sent to it happened is unknown.
    pub(super) fn hosts_lost(&mut self, node: usize) {
        for sent in &mut self.hosts.sent {
            if sent.as_ref().is_some_and(|sent| sent.node == node) {
                *sent = None;
                self.tally.failed += 1;
            }
        }
    }
}
