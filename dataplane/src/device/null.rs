//! A device without content: writes vanish, reads return zeroes.
//!
//! Zeroes, and not whatever the buffer held before: that may have been another host's data.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nvme::Status;
use uuid::Uuid;

use super::api::Geometry;
use super::counters::{CounterBook, Meter};
use super::{
    BlockSize, Device, DeviceCounters, DeviceError, DeviceInfo, Done, Io, IoDone, Op, Operations, Queue,
    QueueContext, Submission,
};

/// A device without content.
pub struct NullDevice {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    uuid: Uuid,
    block_size: BlockSize,
    blocks: AtomicU64,
    counters: CounterBook,
}

impl NullDevice {
    /// A device of `blocks` blocks.
    pub fn new(name: &str, block_size: BlockSize, blocks: u64, uuid: Uuid) -> Result<Self, DeviceError> {
        check_size(name, block_size, blocks)?;
        let counters = CounterBook::default();
        let blocks = AtomicU64::new(blocks);
        Ok(Self { shared: Arc::new(Shared { name: name.into(), uuid, block_size, blocks, counters }) })
    }
}

/// Refuses no blocks, and more than 64-bit byte offsets of signed system interfaces can name.
pub(super) fn check_size(name: &str, block_size: BlockSize, blocks: u64) -> Result<(), DeviceError> {
    let max = u64::MAX >> 1 >> block_size.shift();
    match blocks {
        0 => Err(DeviceError::Empty { name: name.into() }),
        blocks if blocks > max => Err(DeviceError::TooLarge { name: name.into(), blocks, max }),
        _ => Ok(()),
    }
}

impl Device for NullDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: Arc::clone(&self.shared.name),
            product: "Null disk",
            uuid: self.shared.uuid,
            block_size: self.shared.block_size,
            blocks: self.shared.blocks.load(Ordering::Relaxed),
            write_cache: false,
            operations: Operations::all() - Operations::FLUSH,
            atomic: super::memory::ATOMIC,
            preferred_blocks: 1,
        }
    }

    fn open_queue(&self, _: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        Ok(Box::new(NullQueue { shared: Arc::clone(&self.shared), meter: self.shared.counters.open() }))
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.counters.sum()
    }

    fn resize(&self, blocks: u64) -> Result<(), DeviceError> {
        check_size(&self.shared.name, self.shared.block_size, blocks)?;
        self.shared.blocks.store(blocks, Ordering::Relaxed);
        Ok(())
    }
}

struct NullQueue {
    shared: Arc<Shared>,
    meter: Meter,
}

impl NullQueue {
    /// Does the operation; how many bytes it was about.
    fn execute(&self, op: &mut Op) -> Result<u64, Status> {
        let geometry = Geometry {
            block_size: self.shared.block_size,
            blocks: self.shared.blocks.load(Ordering::Relaxed),
        };
        let range = match op {
            Op::Read { lba, buffer } => {
                let range = geometry.data(*lba, buffer.len())?;
                buffer.fill_zero(0, buffer.len());
                range
            }
            Op::Write { lba, buffer, .. } => geometry.data(*lba, buffer.len())?,
            Op::WriteZeroes { lba, blocks, .. } | Op::Deallocate { lba, blocks } => {
                geometry.range(*lba, u64::from(*blocks))?
            }
            Op::Flush => 0..0,
        };
        Ok(range.end - range.start)
    }
}

impl Queue for NullQueue {
    fn submit(&mut self, mut io: Io) -> Submission {
        let result = self.execute(&mut io.op);
        Submission::Done(finish_inline(&self.meter, io, result))
    }

    fn kick(&mut self) {}

    fn poll(&mut self, _: &mut Done) {}

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn before_sleep(&mut self) -> bool {
        true
    }

    fn in_flight(&self) -> usize {
        0
    }
}

/// Counts an I/O that finished inside its submission.
pub(super) fn finish_inline(meter: &Meter, io: Io, result: Result<u64, Status>) -> IoDone {
    let kind = io.op.kind();
    let status = match result {
        Ok(bytes) => {
            meter.done(kind, bytes);
            Status::SUCCESS
        }
        Err(status) => {
            meter.failed(kind);
            status
        }
    };
    IoDone { tag: io.tag, status, buffer: io.op.into_buffer() }
}
