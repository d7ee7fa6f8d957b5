//! What takes many steps on a store: counting, comparing, copying. Each turn of the reactor takes one step of each.

use reactors::reply::Replier;

use super::engine::Engine;
use super::lane::Lane;
use crate::device::{CounterBook, Done};
use crate::store::{
    BLOCK_BYTES, COMMAND_BLOCKS_MAX, ChangedRange, Changes, Failure, Progress, Store, Usage, VolumeBlock,
    VolumeId,
};

/// Copies under way at a time: enough to keep a disk busy, few enough to leave buffers to hosts.
const COPIES_MAX: usize = 4;
/// Ranges that one list of differences holds at most.
pub const RANGES_MAX: usize = 10_000;

/// What a volume's space consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeUsage {
    /// Blocks that only this volume refers to: deleting it frees them.
    pub own: u64,
    /// Blocks that snapshots made from this volume hold, and it does not any more.
    pub snapshot_only: u64,
}

/// A part of what differs between two volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Differences {
    /// In order.
    pub ranges: Vec<ChangedRange>,
    /// Where to go on; `None` when that was all.
    pub next: Option<VolumeBlock>,
}

/// One of the things that take many steps.
pub(super) enum Walk {
    Usage(Box<Usage>, Replier<Result<VolumeUsage, Failure>>),
    Changes {
        walk: Changes,
        found: Vec<ChangedRange>,
        from: VolumeBlock,
        replier: Replier<Result<Differences, Failure>>,
    },
    Copy(Copying),
}

/// Blocks that a volume shares become its own.
pub(super) struct Copying {
    pub(super) volume: VolumeId,
    pub(super) next: u64,
    pub(super) end: u64,
    pub(super) in_flight: usize,
    pub(super) failure: Option<Failure>,
    pub(super) replier: Replier<Result<(), Failure>>,
}

/// How a step went.
enum Step {
    /// Something was done, and there may be more.
    Busy(Walk),
    /// Something has to come first that is under way.
    Waiting(Walk),
    /// It is done, and answered.
    End,
}

/// Walks, and the place in the lane where their copies end.
pub(super) struct Walks {
    under_way: Vec<Walk>,
    outbox: u32,
    done: Box<Done>,
}

impl Walks {
    pub(super) fn new(lane: &mut Lane) -> Self {
        let outbox = lane.open_queue(CounterBook::default().open());
        Self { under_way: Vec::new(), outbox, done: Box::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(super) fn outbox(&self) -> u32 {
        self.outbox
    }

    /// Adds a walk. One copying of a volume at a time.
    pub(super) fn push(&mut self, walk: Walk) {
        match walk {
            Walk::Copy(copying) if self.is_copying(copying.volume) => {
                copying.replier.reply(Err(Failure::Busy))
            }
            walk => self.under_way.push(walk),
        }
    }

    fn is_copying(&self, volume: VolumeId) -> bool {
        self.under_way.iter().any(|walk| matches!(walk, Walk::Copy(other) if other.volume == volume))
    }

    /// Ends all walks, copies as soon as those under way are done.
    pub(super) fn stop(&mut self) {
        self.under_way.retain_mut(|walk| match walk {
            Walk::Copy(copying) => {
                copying.failure = Some(Failure::Stopped);
                true
            }
            // Whoever waits hears that there will be no answer.
            Walk::Usage(..) | Walk::Changes { .. } => false,
        });
    }
}

impl Engine {
    /// Takes a step of each walk. Whether anything was done.
    pub(super) fn walk(&mut self) -> bool {
        let mut done = std::mem::take(&mut self.walks.done);
        self.lane.take_done(self.walks.outbox, &mut done);
        let mut busy = !done.is_empty();
        for copied in done.drain() {
            if let Some(copying) = self.copying(copied.tag) {
                copying.in_flight -= 1;
            }
        }
        self.walks.done = done;
        for walk in std::mem::take(&mut self.walks.under_way) {
            let step = match walk {
                Walk::Usage(usage, replier) => step_usage(&mut self.store, usage, replier),
                Walk::Changes { walk, found, from, replier } => {
                    step_changes(&mut self.store, walk, found, from, replier)
                }
                Walk::Copy(copying) => self.step_copy(copying),
            };
            match step {
                Step::Busy(walk) => {
                    busy = true;
                    self.walks.under_way.push(walk);
                }
                Step::Waiting(walk) => self.walks.under_way.push(walk),
                Step::End => busy = true,
            }
        }
        busy
    }

    /// The copying whose commands have this tag.
    fn copying(&mut self, tag: u64) -> Option<&mut Copying> {
        self.walks.under_way.iter_mut().find_map(|walk| match walk {
            Walk::Copy(copying) if u64::from(copying.volume.0) == tag => Some(copying),
            _ => None,
        })
    }

    /// A copy failed.
    pub(super) fn copy_failed(&mut self, tag: u64, failure: Failure) {
        if let Some(copying) = self.copying(tag) {
            copying.failure = Some(failure);
        }
    }

    fn step_copy(&mut self, mut copying: Copying) -> Step {
        let unit = u64::from(COMMAND_BLOCKS_MAX);
        let mut busy = false;
        while copying.next < copying.end && copying.failure.is_none() && copying.in_flight < COPIES_MAX {
            let blocks = (copying.end - copying.next).min(unit);
            let bytes = usize::try_from(blocks).unwrap_or(0) * BLOCK_BYTES;
            // Hosts go first when buffers are short.
            let Some(buffer) = self.pool.alloc_io(bytes) else { break };
            let tag = u64::from(copying.volume.0);
            let at = VolumeBlock(copying.next);
            let Some((slot, order)) =
                self.lane.admit_copy(self.walks.outbox, tag, copying.volume, at, buffer)
            else {
                break;
            };
            copying.next += blocks;
            copying.in_flight += 1;
            busy = true;
            // It may fail at once, and finds its copying among the walks then.
            self.start_own(slot, order, &mut copying);
        }
        let over = copying.next >= copying.end || copying.failure.is_some();
        match copying.in_flight {
            0 if over => {
                copying.replier.reply(copying.failure.map_or(Ok(()), Err));
                Step::End
            }
            _ if busy => Step::Busy(Walk::Copy(copying)),
            _ => Step::Waiting(Walk::Copy(copying)),
        }
    }
}

fn step_usage(
    store: &mut Store,
    mut usage: Box<Usage>,
    replier: Replier<Result<VolumeUsage, Failure>>,
) -> Step {
    match store.next_usage(&mut usage) {
        Ok(Progress::More) => Step::Busy(Walk::Usage(usage, replier)),
        Ok(Progress::Waiting) => Step::Waiting(Walk::Usage(usage, replier)),
        Ok(Progress::Done) => {
            replier.reply(Ok(VolumeUsage { own: usage.own, snapshot_only: usage.snapshot_only }));
            Step::End
        }
        Err(failure) => {
            replier.reply(Err(failure));
            Step::End
        }
    }
}

fn step_changes(
    store: &mut Store,
    mut walk: Changes,
    mut found: Vec<ChangedRange>,
    from: VolumeBlock,
    replier: Replier<Result<Differences, Failure>>,
) -> Step {
    let progress = store.next_changes(&mut walk, &mut found);
    // What lies before the place asked for was told before.
    found.retain_mut(|range| clip(range, from));
    match progress {
        Ok(Progress::More) if found.len() <= RANGES_MAX => {
            Step::Busy(Walk::Changes { walk, found, from, replier })
        }
        Ok(Progress::Waiting) => Step::Waiting(Walk::Changes { walk, found, from, replier }),
        Ok(Progress::More | Progress::Done) => {
            let next = found.get(RANGES_MAX).map(|range| range.at);
            found.truncate(RANGES_MAX);
            replier.reply(Ok(Differences { ranges: found, next }));
            Step::End
        }
        Err(failure) => {
            replier.reply(Err(failure));
            Step::End
        }
    }
}

/// Cuts off what lies before `from`; whether anything is left.
fn clip(range: &mut ChangedRange, from: VolumeBlock) -> bool {
    let end = range.at.0 + range.blocks;
    if end <= from.0 {
        return false;
    }
    let at = range.at.0.max(from.0);
    (range.at, range.blocks) = (VolumeBlock(at), end - at);
    true
}
