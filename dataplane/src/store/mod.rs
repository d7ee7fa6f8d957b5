//! Thin volumes, snapshots and clones on one device, that survive a power cut at any instant.
//!
//! - [`format`](mod@format) is what lies on the device: superblock, log, checkpoints, map pages, reference counts.
//! - [`Store`] is the machine: commands in, device requests out, completions in. It has no clock and touches no data; the
//!   same code runs on a reactor and in the simulator.
//! - [`open`](fn@open) and [`create`] take a device to a [`Store`] and back, [`check`](fn@check) reads one without writing.
//!
//! Every write goes to free blocks; the map learns of it when it is complete, the log before a flush completes. So no
//! block is ever torn, and what recovery finds is the state after some record of the log: a prefix of what was done.

mod cache;
mod changes;
mod check;
mod checkpoint;
mod command;
mod commands;
mod commit;
mod control;
mod copies;
mod direct;
pub mod format;
mod grow;
mod machine;
mod open;
mod own;
mod recover;
mod replay;
mod request;
mod space;
mod state;
mod tree;
mod usage;

#[cfg(test)]
mod tests;

pub use changes::{ChangedRange, Changes, Progress};
pub use check::{Contents, FAULTS_MAX, Fault, Reach, Report, check, contents};
pub use command::{Command, Control, Event, Failure, Operation};
pub use direct::{Found, Prepared};
pub use format::GrowError;
pub use machine::{Limits, Store};
pub use open::{CreateOptions, Media, MediaError, OpenError, create, open, upgrade};
pub use recover::READS_MAX;
pub use request::{Finished, Request, RequestId, RequestOp};
pub use state::{Counters, Settings, VolumeInfo, VolumeKind};
pub use usage::Usage;

/// Bytes of a block: the unit of mapping, allocation and atomicity.
pub const BLOCK_BYTES: usize = 4096;

/// Blocks that one command touches at most: 1 MiB, so that it meets at most two leaves of the map.
pub const COMMAND_BLOCKS_MAX: u32 = 256;

/// Largest volume: 256 TiB.
pub const VOLUME_BLOCKS_MAX: u64 = 1 << 36;

/// A block of the device, counted from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Block(pub u64);

/// A block of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeBlock(pub u64);

/// A volume's place in the store's table. Reused after the volume is gone and its space is free.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeId(pub u32);

/// How many records the log has had since the store was made: the order of everything that changes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
