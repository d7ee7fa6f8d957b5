//! What a volume's queue asks of the store, and what reactors tell each other about it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::store::{Block, COMMAND_BLOCKS_MAX, Failure, RequestId, VolumeBlock, VolumeId};

/// One command of the store. Checksums of a write lie in the [`Sums`] of its lane, under its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Read {
        volume: VolumeId,
        at: VolumeBlock,
        blocks: u32,
    },
    Write {
        volume: VolumeId,
        at: VolumeBlock,
        blocks: u32,
        fua: bool,
    },
    Unmap {
        volume: VolumeId,
        at: VolumeBlock,
        blocks: u32,
        fua: bool,
    },
    /// Copies what is shared. Only on the owner.
    Own {
        volume: VolumeId,
        at: VolumeBlock,
        blocks: u32,
    },
    Flush,
}

/// What happens to a part of a command's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// From the device.
    Read(Block),
    /// To the device.
    Write(Block),
    /// Nothing is there: it reads as zeroes.
    Zero,
}

/// A part of a command's data that goes one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// The command, within its lane.
    pub(super) slot: u32,
    /// Block within the command's data.
    pub(super) offset: u32,
    pub(super) blocks: u32,
    pub(super) way: Way,
    /// What the store is told when it is done; nothing for zeroes.
    pub(super) request: RequestId,
}

/// A move is done. Checksums of what was read are in the [`Sums`] of the lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) what: Move,
    pub(super) ok: bool,
}

/// From another reactor to the one that owns the store.
#[derive(Debug)]
pub(super) enum ToOwner {
    Submit { client: u16, slot: u32, order: Order },
    Moved { client: u16, moved: Moved },
}

/// From the reactor that owns the store to another.
#[derive(Debug)]
pub(super) enum ToClient {
    Move(Move),
    Done { slot: u32, result: Result<(), Failure> },
}

/// A checksum for each block of each command of a lane. Written by the lane's reactor, read by the store's owner after a
/// message that says so, which orders the two.
pub(super) struct Sums(Box<[AtomicU32]>);

impl Sums {
    pub(super) fn new(slots: usize) -> Self {
        Self((0..slots * COMMAND_BLOCKS_MAX as usize).map(|_| AtomicU32::new(0)).collect())
    }

    fn at(&self, slot: u32, offset: u32) -> usize {
        slot as usize * COMMAND_BLOCKS_MAX as usize + offset as usize
    }

    pub(super) fn set(&self, slot: u32, offset: u32, sums: impl Iterator<Item = u32>) {
        let first = self.at(slot, offset);
        for (place, sum) in self.0[first..].iter().zip(sums) {
            place.store(sum, Relaxed);
        }
    }

    /// Puts `blocks` checksums into `into`, replacing what is there.
    pub(super) fn load(&self, slot: u32, offset: u32, blocks: u32, into: &mut Vec<u32>) {
        let first = self.at(slot, offset);
        into.clear();
        into.extend(self.0[first..first + blocks as usize].iter().map(|sum| sum.load(Relaxed)));
    }
}
