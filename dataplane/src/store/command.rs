//! What the store is asked to do, and what it answers.

use uuid::Uuid;

use super::{Lsn, Settings, VolumeBlock, VolumeId, VolumeKind};

/// A command on its way in. Its data stays with the driver, under the tag.
#[derive(Clone, Debug)]
pub struct Command<'a> {
    /// Comes back in events and data requests; not two commands under way have the same.
    pub tag: u64,
    /// What to do.
    pub operation: Operation<'a>,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Operation<'a> {
    /// Read blocks; what was never written reads as zeroes.
    Read {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// How many, up to [`COMMAND_BLOCKS_MAX`](super::COMMAND_BLOCKS_MAX).
        blocks: u32,
    },
    /// Write blocks, as many as there are checksums.
    Write {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// CRC32C of every block.
        sums: &'a [u32],
        /// Done only when it is on the media, with the metadata that finds it.
        fua: bool,
    },
    /// Blocks read as zeroes from now on, and take no space: Deallocate and Write Zeroes.
    Unmap {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// How many, up to [`COMMAND_BLOCKS_MAX`](super::COMMAND_BLOCKS_MAX).
        blocks: u32,
        /// Done only when it is on the media.
        fua: bool,
    },
    /// Blocks that the volume shares become its own: they are read into the command's data and written elsewhere. What a
    /// host writes meanwhile stays. What is not mapped, or not shared, is left alone. Needs free space; not for snapshots.
    Own {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// How many, up to [`COMMAND_BLOCKS_MAX`](super::COMMAND_BLOCKS_MAX).
        blocks: u32,
    },
    /// Everything that was done before is on the media when it is done. For all volumes at once.
    Flush,
    /// A change of the volumes. On the media when it is done.
    Control(Control),
}

/// A change of the volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// A new volume that reads as zeroes.
    Create {
        /// Name, unique in the store, 1 to 64 bytes.
        name: String,
        /// Identity that hosts see.
        uuid: Uuid,
        /// Size.
        blocks: u64,
    },
    /// A new volume that reads as zeroes, used otherwise than the default.
    CreateWith {
        /// Name, unique in the store, 1 to 64 bytes.
        name: String,
        /// Identity that hosts see.
        uuid: Uuid,
        /// Size.
        blocks: u64,
        /// How it is used; reserving needs the space.
        settings: Settings,
    },
    /// A snapshot or a writable clone: what the origin holds at one instant. Shares all blocks until either changes.
    Copy {
        /// Of what: volume or snapshot.
        origin: VolumeId,
        /// Name, unique in the store, 1 to 64 bytes.
        name: String,
        /// Identity that hosts see.
        uuid: Uuid,
        /// Snapshot, or writable.
        kind: VolumeKind,
    },
    /// The volume is gone; its space returns in steps. What was made from it stays.
    Delete {
        /// Which.
        volume: VolumeId,
    },
    /// Another size. Refused with [`Failure::WouldLoseData`] if blocks beyond a smaller one are mapped.
    Resize {
        /// Which.
        volume: VolumeId,
        /// New size.
        blocks: u64,
    },
    /// Another size. What lies beyond a smaller one is lost; its space returns in steps.
    Truncate {
        /// Which.
        volume: VolumeId,
        /// New size.
        blocks: u64,
    },
    /// The volume is to be used otherwise; `None`: as before. Reserving needs the space.
    Configure {
        /// Which.
        volume: VolumeId,
        /// Hosts may not change it.
        read_only: Option<bool>,
        /// Space for all of it is promised.
        reserved: Option<bool>,
    },
    /// The volume no longer names what it was made from. It never needs that: blocks belong to all that refer to them.
    Detach {
        /// Which.
        volume: VolumeId,
    },
    /// A clone takes the place of what it was made from: the snapshots up to its own become its snapshots, and what they were
    /// made from becomes a clone. Nothing is copied.
    Promote {
        /// The clone.
        volume: VolumeId,
    },
    /// The volume holds again what a snapshot holds, and has its size.
    Rollback {
        /// Which.
        volume: VolumeId,
        /// To what.
        snapshot: VolumeId,
    },
    /// Another name.
    Rename {
        /// Which.
        volume: VolumeId,
        /// New name, unique in the store, 1 to 64 bytes.
        name: String,
    },
}

/// Why a command was not done. A write that failed changed nothing, or the blocks of its first leaf only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// All command slots are taken: again later.
    #[error("too many commands under way")]
    Busy,
    /// No such volume.
    #[error("no such volume")]
    NoVolume,
    /// Beyond the volume's end, empty, or more than a command may touch.
    #[error("blocks out of range")]
    OutOfRange,
    /// A snapshot never changes, nor does a volume that is set read-only.
    #[error("read-only")]
    ReadOnly,
    /// No free space.
    #[error("the store is full")]
    Full,
    /// The volume table is full.
    #[error("the store has no room for another volume")]
    TooManyVolumes,
    /// The name is taken.
    #[error("the name is taken")]
    NameTaken,
    /// Empty, too long, or not printable.
    #[error("not a name")]
    BadName,
    /// The volume is still being shrunk.
    #[error("the volume is still being shrunk")]
    Shrinking,
    /// The volume was made from nothing, or from what is gone.
    #[error("it is no clone of anything that is there")]
    NoOrigin,
    /// Of a volume and what it is to hold, one has checksums and the other has none.
    #[error("one has checksums, the other has none")]
    ChecksumsDiffer,
    /// Blocks beyond the new size are mapped.
    #[error("blocks beyond the new size hold data")]
    WouldLoseData,
    /// The device failed.
    #[error("the device failed")]
    Media,
    /// Data or map on the device are not what was written.
    #[error("checksum mismatch")]
    Corrupt,
    /// Metadata could not be written: the store only reads until it is opened again.
    #[error("the store stopped writing after an error of its device")]
    Stopped,
}

/// What the store tells of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The command changed the store, by this record or the ones up to it. It may not be done yet.
    Applied {
        /// The command's.
        tag: u64,
        /// Its last record.
        lsn: Lsn,
        /// The volume that a control command made.
        made: Option<VolumeId>,
    },
    /// The command is done.
    Done {
        /// The command's.
        tag: u64,
        /// How it went; the volume that a control command made.
        result: Result<Option<VolumeId>, Failure>,
    },
}
