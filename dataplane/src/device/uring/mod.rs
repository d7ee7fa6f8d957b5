//! Files and block devices through io_uring: the device that runs everywhere.
//!
//! - Direct I/O by default, straight between the media and the reactor's registered buffers.
//! - FUA is `RWF_DSYNC`, FLUSH is `fdatasync`: both reach the media. A flush covers what completed before it.
//! - Zeroing and deallocation are `fallocate`; where the backing refuses, zeroes are written, and deallocation does
//!   nothing, as it may.
//! - Logical blocks smaller than the backing's are served by read-modify-write, ordered against overlapping writes.
//! - One process at a time: files are locked (`flock`), block devices opened exclusively.

mod backing;
mod bounce;
mod errno;
mod holder;
mod queue;
pub mod range_guard;
mod request;
mod ring;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use uuid::Uuid;

use self::backing::{Backing, Kind};
use self::queue::UringQueue;
use self::range_guard::RangeGuard;
use self::request::{ClearHow, Refused};
use super::api::Geometry;
use super::counters::CounterBook;
use super::{
    Atomicity, BlockSize, Device, DeviceCounters, DeviceError, DeviceInfo, Operations, Queue, QueueContext,
};

/// Namespace of the UUIDs that are made from paths.
const PATH_UUIDS: Uuid = Uuid::from_u128(0x6a0d_5c6e_51b7_4c53_9d0f_0f27_31a0_5c11);

/// What a [`UringDevice`] is made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UringConfig {
    /// Name of the device.
    pub name: String,
    /// The file or block device.
    pub path: PathBuf,
    /// Logical block size; by default that of the block device, and 4096 for files.
    pub block_size: Option<BlockSize>,
    /// Goes around the page cache. Without, writes are slower, and memory is used twice; for file systems that have
    /// no direct I/O.
    pub direct: bool,
    /// Identity; by default made from the path, so that it stays the same.
    pub uuid: Option<Uuid>,
    /// Creates the file if there is none, and makes it at least this long. Sparse: takes no space until written.
    pub size_bytes: Option<u64>,
}

impl UringConfig {
    /// Direct I/O on what is at `path`, everything else by default.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let (name, path) = (name.into(), path.into());
        Self { name, path, block_size: None, direct: true, uuid: None, size_bytes: None }
    }
}

/// A file or block device.
pub struct UringDevice {
    shared: Arc<Shared>,
}

/// What the queues of a device share.
struct Shared {
    name: Arc<str>,
    uuid: Uuid,
    backing: Backing,
    block_size: BlockSize,
    blocks: AtomicU64,
    /// Ways of clearing that the backing refused: bits of [`Refused`].
    refused: AtomicU8,
    guard: RangeGuard,
    counters: CounterBook,
}

impl Shared {
    fn geometry(&self) -> Geometry {
        Geometry { block_size: self.block_size, blocks: self.blocks.load(Relaxed) }
    }

    fn align(&self) -> u64 {
        u64::from(self.backing.align)
    }

    /// Whether logical blocks can be smaller than what the backing writes.
    fn rewrites(&self) -> bool {
        self.backing.align > self.block_size.bytes()
    }

    fn refused(&self) -> Refused {
        Refused(self.refused.load(Relaxed))
    }

    fn refuse(&self, how: ClearHow) {
        self.refused.fetch_or(how as u8, Relaxed);
    }

    fn blocks_of(&self, bytes: u64) -> Result<u64, DeviceError> {
        match bytes >> self.block_size.shift() {
            0 => {
                let block = self.block_size.bytes().max(self.backing.align);
                Err(DeviceError::TooSmall { path: self.backing.path.clone(), bytes, block })
            }
            blocks => Ok(blocks),
        }
    }
}

impl UringDevice {
    /// Opens, or creates, what the configuration names.
    pub fn open(config: &UringConfig) -> Result<Self, DeviceError> {
        let backing = Backing::open(config)?;
        let block_size = match config.block_size {
            Some(block_size) => block_size,
            None => BlockSize::try_from(backing.natural_block)?,
        };
        let path = backing.path.as_os_str().as_encoded_bytes();
        let refused = if backing.deallocates { 0 } else { ClearHow::Punch as u8 };
        let shared = Shared {
            name: config.name.as_str().into(),
            uuid: config.uuid.unwrap_or_else(|| Uuid::new_v5(&PATH_UUIDS, path)),
            block_size,
            blocks: AtomicU64::new(0),
            refused: AtomicU8::new(refused),
            guard: RangeGuard::default(),
            counters: CounterBook::default(),
            backing,
        };
        let blocks = shared.blocks_of(shared.backing.bytes()?)?;
        shared.blocks.store(blocks, Relaxed);
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[cfg(test)]
impl UringDevice {
    /// Makes the backing look as if it had larger sectors.
    pub(super) fn with_alignment(mut self, align: u32) -> Self {
        let shared = Arc::get_mut(&mut self.shared).expect("no queue is open");
        shared.backing.align = align;
        self
    }

    /// Queues that are not closed yet.
    fn open_queue_count(&self) -> usize {
        Arc::strong_count(&self.shared) - 1
    }

    fn deallocates(&self) -> bool {
        self.info().operations.contains(Operations::DEALLOCATE)
    }

    /// Makes the backing look as if it could neither release nor zero space.
    pub(super) fn without_clearing(self) -> Self {
        self.shared.refuse(ClearHow::Punch);
        self.shared.refuse(ClearHow::ZeroRange);
        self
    }
}

impl Device for UringDevice {
    fn info(&self) -> DeviceInfo {
        let Shared { name, uuid, backing, block_size, blocks, .. } = &*self.shared;
        let mut operations = Operations::FUA | Operations::WRITE_ZEROES;
        operations.set(Operations::FLUSH, backing.write_cache);
        let deallocates = !self.shared.refused().has(ClearHow::Punch);
        operations.set(Operations::DEALLOCATE, deallocates);
        // Only files have told that they can; and parts of larger backing blocks keep their content.
        let zeroes = deallocates && backing.kind == Kind::File && !self.shared.rewrites();
        operations.set(Operations::DEALLOCATE_ZEROES, zeroes);
        DeviceInfo {
            name: Arc::clone(name),
            product: match backing.kind {
                Kind::File => "io_uring file",
                Kind::BlockDevice => "io_uring block device",
            },
            uuid: *uuid,
            block_size: *block_size,
            blocks: blocks.load(Relaxed),
            write_cache: backing.write_cache,
            operations,
            atomic: Atomicity::BLOCK,
            preferred_blocks: (backing.preferred >> block_size.shift()).max(1),
        }
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        Ok(Box::new(UringQueue::open(Arc::clone(&self.shared), context)?))
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.counters.sum()
    }

    fn rescan(&self) -> Result<bool, DeviceError> {
        let blocks = self.shared.blocks_of(self.shared.backing.bytes()?)?;
        Ok(self.shared.blocks.swap(blocks, Relaxed) != blocks)
    }
}
