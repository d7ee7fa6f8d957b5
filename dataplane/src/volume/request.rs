//! What goes in and out of the head: commands of hosts, requests to replicas, events.

use nvme::Status;

use super::format::Content;
use super::{Bitmap, Epoch, Lane, Lineage, Members, ReplicaIndex, Session};

/// A command of a host. Blocks are logical blocks of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reads.
    Read {
        /// First block.
        at: u64,
        /// How many.
        blocks: u32,
    },
    /// Writes.
    Write {
        /// First block.
        at: u64,
        /// How many.
        blocks: u32,
        /// On the media of every copy when it completes.
        fua: bool,
    },
    /// Makes blocks read as zeroes. Deallocation is this too: copies must read alike.
    Zeroes {
        /// First block.
        at: u64,
        /// How many.
        blocks: u32,
        /// Releases their space where a replica can.
        deallocate: bool,
        /// On the media of every copy when it completes.
        fua: bool,
    },
    /// What completed before is on the media of every copy.
    Flush,
}

/// Why a command failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// This head does not serve, or no longer: try another path.
    NotHead,
    /// Fewer replicas are in sync than a write needs: try again later.
    TooFewReplicas,
    /// It reaches beyond the end.
    OutOfRange,
    /// No replica could read it: what the last one said.
    Media(Status),
}

/// Names a request until it is finished.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(pub(super) u32, pub(super) u32);

/// A request to a replica. Requests under way at the same time may be carried out in any order.
#[derive(Clone, Debug)]
pub struct Request {
    /// Comes back with [`Volume::finish`](super::Volume::finish).
    pub id: RequestId,
    /// To which.
    pub replica: ReplicaIndex,
    /// The attachment it belongs to.
    pub session: Session,
    /// From which reactor.
    pub lane: Lane,
    /// What to do.
    pub op: RequestOp,
}

/// What to ask of a replica.
#[derive(Clone, Debug)]
pub enum RequestOp {
    /// Accept this head at this epoch: [`Outcome::Joined`], [`Outcome::Later`] or [`Outcome::Superseded`].
    Fence {
        /// The epoch.
        epoch: Epoch,
        /// The replica is known to hold everything.
        sound: bool,
    },
    /// Answer, to renew the lease.
    Renew {
        /// The replica is known to hold everything.
        sound: bool,
        /// Its write-intent bitmap, on its media, names everything that it lacks.
        mapped: bool,
    },
    /// The head lets go: another may come at once.
    Release,
    /// Store durably whose bits the replica shares from now on: [`Outcome::Done`], or [`Outcome::Later`].
    Adopt {
        /// What to store.
        lineage: Lineage,
    },
    /// Say whether there is room for so many logical blocks; or store durably that as many are held. [`Outcome::Failed`]: there
    /// is none.
    Grow {
        /// How many.
        blocks: u64,
        /// Store it.
        store: bool,
    },
    /// Read into the data of a command.
    Read {
        /// The command's.
        tag: u64,
        /// First block.
        at: u64,
        /// How many.
        blocks: u32,
    },
    /// Write the data of a command.
    Write {
        /// The command's.
        tag: u64,
        /// First block.
        at: u64,
        /// How many.
        blocks: u32,
        /// On the media when it completes.
        fua: bool,
    },
    /// Make blocks read as zeroes.
    Zeroes {
        /// First block.
        at: u64,
        /// How many.
        blocks: u32,
        /// Release their space if possible.
        deallocate: bool,
        /// On the media when it completes.
        fua: bool,
    },
    /// What completed before is on the media.
    Flush,
    /// Read into the buffer of a copy.
    CopyRead {
        /// Which copy.
        copy: u8,
        /// First block.
        at: u64,
        /// How many.
        blocks: u32,
    },
    /// Write the buffer of a copy.
    CopyWrite {
        /// Which copy.
        copy: u8,
        /// First block.
        at: u64,
        /// How many.
        blocks: u32,
    },
    /// Store a page of the write-intent bitmap durably.
    Intent {
        /// Which page.
        page: u32,
        /// Its words.
        words: Vec<u64>,
    },
}

/// What a replica that accepts a head says of itself.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Whether it has been up, and held by heads, since it was last known to hold everything.
    pub sound: bool,
    /// How much it holds. Unless none was ever whole, what is not whole counts for nothing.
    pub content: Content,
    /// Whose bits it shares.
    pub lineage: Lineage,
    /// Logical blocks that it has said to hold.
    pub blocks: u64,
    /// Logical blocks that it could hold, as large as its device is now.
    pub room: u64,
    /// Its write-intent bitmap.
    pub intent: Box<Bitmap>,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The replica accepted a fence.
    Joined(Joined),
    /// The replica cannot accept the fence yet.
    Later {
        /// Nanoseconds after which to ask again.
        ns: u64,
    },
    /// The replica has accepted a higher epoch, or another head at this one.
    Superseded,
    /// The device failed the request.
    Failed(Status),
    /// The replica is not reachable, or no longer knows this attachment.
    Lost,
}

/// Why a replica was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LossReason {
    /// Not reachable.
    Path,
    /// It did not answer in time.
    Slow,
    /// Its device failed.
    Media,
    /// It restarted, and may lack what was not flushed.
    Restarted,
    /// Somebody wants it to be left alone.
    Cancelled,
    /// It was given the content of a moment, and others were not, or that of another one.
    Differs,
    /// Its device is smaller than the volume.
    TooSmall,
}

impl LossReason {
    /// As events and messages call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Slow => "slow",
            Self::Media => "media",
            Self::Restarted => "restarted",
            Self::Cancelled => "cancelled",
            Self::Differs => "differs",
            Self::TooSmall => "too_small",
        }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A command ended.
    Done {
        /// Its tag.
        tag: u64,
        /// Its lane.
        lane: Lane,
        /// How.
        result: Result<(), Failure>,
    },
    /// The head serves.
    Active {
        /// Its epoch.
        epoch: Epoch,
        /// The set.
        in_sync: Members,
    },
    /// Record the next epoch without these: writes wait for it.
    ProposeOut {
        /// Which.
        replicas: Members,
        /// The epoch of the record to replace.
        epoch: Epoch,
        /// Why the last of them was given up.
        reason: LossReason,
    },
    /// Record the next epoch with these as well: they hold everything.
    ProposeIn {
        /// Which.
        replicas: Members,
        /// The epoch of the record to replace.
        epoch: Epoch,
    },
    /// A replica that was being resynchronised is gone.
    Detached {
        /// Which.
        replica: ReplicaIndex,
        /// Why.
        reason: LossReason,
    },
    /// A replica is attached, and this many regions are copied to it.
    Resync {
        /// Which.
        replica: ReplicaIndex,
        /// Regions to copy.
        regions: u64,
    },
    /// Hosts see so many logical blocks from now on.
    Resized {
        /// How many.
        blocks: u64,
    },
    /// Every replica restarted: what was written and not flushed may be gone.
    Unflushed,
    /// This head no longer serves and never will again.
    Deposed {
        /// Another head was accepted somewhere; else a lease ran out.
        superseded: bool,
    },
    /// The head has let go of every replica.
    Released,
}
