//! Replicated volumes: synchronous copies that cannot split.
//!
//! - [`Volume`] is the head: commands in, requests to replicas out, completions and the time in. It has no clock, no data and
//!   no connection; the same code runs on reactors and in the simulator.
//! - [`Replica`] is the other end: which head may use it, until when, and whether it can be trusted to hold everything.
//! - [`format`](mod@format) is what a replica keeps beside the data: epoch, head and write-intent bitmap.
//!
//! What holds at every moment
//! - A write is acknowledged when every replica of the recorded set has it, and the set is at least `min_in_sync` large.
//!   The set and its epoch change only by [`Volume::set_members`], with what management has recorded.
//! - A head serves while its lease from every replica of the set is current, and never again once one has run out.
//! - Overlapping commands are ordered, reads too, so that copies are equal whenever nothing is in flight, and what a read
//!   returned is not taken back by a crash.
//! - A region's intent bit is durable on every attached replica before the first write to it, and is cleared only when
//!   every replica there is holds the writes flushed. It decides every resynchronisation.

mod bitmap;
mod commands;
pub mod format;
mod freeze;
mod growth;
mod guard;
mod intent;
mod machine;
mod members;
mod membership;
mod moment;
mod pace;
mod pending;
mod replica;
mod request;
mod resync;
mod roster;

#[cfg(test)]
mod tests;

use std::fmt;

pub use bitmap::Bitmap;
pub use freeze::{FreezeId, FreezeRefused, Frozen};
pub use growth::{ResizeRefused, Resizing};
pub use machine::{Config, Phase, Refused, Volume, VolumeCounters};
pub use members::{Members, ReplicaIndex};
pub use membership::MembersRefused;
pub use moment::{Moment, MomentAsk, MomentOutcome};
pub use pace::Pace;
pub use replica::{FenceStep, Replica, ReplicaState};
pub use request::{Event, Failure, Joined, LossReason, Operation, Outcome, Request, RequestId, RequestOp};
pub use roster::{Lineage, RosterRefused, check_removal};

/// Most replicas of a volume.
pub const REPLICAS_MAX: u8 = 5;

/// Largest region of the write-intent bitmap, in bytes: what one crash with one write in flight costs to copy.
pub const REGION_BYTES_MAX: u32 = 1 << 20;

/// The number of a recorded set of replicas. Every change has a higher one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One activation of a head. Never the same for two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct HeadId(pub u128);

impl HeadId {
    /// Nobody.
    pub const NONE: Self = Self(0);
}

/// One attachment of a head to a replica: what was sent in an earlier one is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Session {
    /// Whose.
    pub head: HeadId,
    /// Which.
    pub number: u32,
}

/// The reactor that a command came from; what it causes goes out there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Lane(pub u16);
