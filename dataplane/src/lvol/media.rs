//! A device as the store sees it while it is made, opened or checked: one I/O at a time, waited for. For control threads.

use std::time::{Duration, Instant};

use nvme::{Lba, Status};
use reactors::dma::PoolError;
use reactors::{DmaPool, IoBuf, PoolConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::device::{Device, DeviceError, Done, Io, IoDone, Op, Operations, Queue, QueueContext, Submission};
use crate::store::format::Bytes;
use crate::store::{BLOCK_BYTES, Block, Media, MediaError};

/// One I/O at a time, and one to spare.
const POOL: PoolConfig = PoolConfig { small_slots: 8, large_slots: 1, prefault: false };
/// After so long without an answer, a device has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Blocks read or written at a time: what one buffer of the pool holds, 128 KiB.
const BLOCKS_AT_ONCE: usize = 32;
/// Blocks deallocated at a time: 1 GiB.
const DEALLOCATE_BLOCKS: usize = 1 << 18;
/// How long one wait for a descriptor lasts at most.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Why a device cannot be read by a control thread.
#[derive(Debug, thiserror::Error)]
pub enum MediaOpenError {
    /// No memory for the one buffer.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The device does not open.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Blocks larger than ours.
    #[error("the device has {bytes} bytes in {BLOCK_BYTES}-byte blocks: too few")]
    Small {
        /// Its capacity.
        bytes: u64,
    },
}

/// See the module.
pub struct DeviceMedia {
    queue: Box<dyn Queue>,
    pool: DmaPool,
    blocks: u64,
    shift: u8,
    flushes: bool,
}

/// Base-two logarithm of a device's blocks in one block of the store.
pub(super) fn shift(device: &dyn Device) -> u8 {
    12 - device.info().block_size.shift()
}

impl DeviceMedia {
    /// Opens a queue on the calling thread.
    ///
    /// # Errors
    /// When the device does not open, or holds nothing.
    pub fn open(device: &dyn Device) -> Result<Self, MediaOpenError> {
        let pool = DmaPool::new(POOL)?;
        let queue = device.open_queue(&QueueContext { pool: &pool, depth: 8 })?;
        let (info, shift) = (device.info(), shift(device));
        let blocks = info.blocks >> shift;
        if blocks < 2 {
            return Err(MediaOpenError::Small { bytes: info.bytes() });
        }
        Ok(Self { queue, pool, blocks, shift, flushes: info.operations.contains(Operations::FLUSH) })
    }

    /// Carries out one I/O.
    fn run(&mut self, mut op: Op) -> Option<(Status, Option<IoBuf>)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.queue.submit(Io { tag: 0, op }) {
                Submission::Done(done) => return Some((done.status, done.buffer)),
                Submission::Queued => break,
                Submission::Busy(io) => op = io.op,
            }
            self.wait(deadline)?;
        }
        loop {
            if let Some(done) = self.take() {
                return Some((done.status, done.buffer));
            }
            self.wait(deadline)?;
        }
    }

    fn take(&mut self) -> Option<IoDone> {
        let mut done = Done::new();
        self.queue.kick();
        self.queue.poll(&mut done);
        done.drain().next()
    }

    /// Waits until the queue may have something; `None` when it takes too long.
    fn wait(&mut self, deadline: Instant) -> Option<()> {
        if Instant::now() > deadline {
            return None;
        }
        if self.queue.before_sleep()
            && let Some(fd) = self.queue.wait_fd()
        {
            // Interrupted or timed out: the queue is looked at either way.
            let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&WAIT));
        }
        Some(())
    }

    /// Gives the space of these blocks back, where the device can.
    pub(super) fn deallocate(&mut self, from: Block, end: Block) {
        for start in (from.0..end.0).step_by(DEALLOCATE_BLOCKS) {
            let blocks = (end.0 - start).min(DEALLOCATE_BLOCKS as u64) << self.shift;
            let lba = self.lba(Block(start));
            let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
            // It is a favour: what is not given back is free all the same.
            let _ = self.run(Op::Deallocate { lba, blocks });
        }
    }

    fn lba(&self, block: Block) -> Lba {
        Lba(block.0 << self.shift)
    }
}

impl Media for DeviceMedia {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, block: Block, bytes: &mut Bytes) -> Result<(), MediaError> {
        self.read_range(block, std::slice::from_mut(bytes))
    }

    fn write(&mut self, block: Block, bytes: &Bytes) -> Result<(), MediaError> {
        self.write_range(block, std::slice::from_ref(bytes))
    }

    fn read_range(&mut self, first: Block, into: &mut [Bytes]) -> Result<(), MediaError> {
        for (block, part) in (first.0..).step_by(BLOCKS_AT_ONCE).zip(into.chunks_mut(BLOCKS_AT_ONCE)) {
            let failed = MediaError { block };
            let part = part.as_flattened_mut();
            let buffer = self.pool.alloc_io(part.len()).ok_or(failed)?;
            let lba = self.lba(Block(block));
            match self.run(Op::Read { lba, buffer }) {
                Some((Status::SUCCESS, Some(buffer))) => buffer.copy_out(0, part),
                _ => return Err(failed),
            }
        }
        Ok(())
    }

    fn write_range(&mut self, first: Block, from: &[Bytes]) -> Result<(), MediaError> {
        for (block, part) in (first.0..).step_by(BLOCKS_AT_ONCE).zip(from.chunks(BLOCKS_AT_ONCE)) {
            let failed = MediaError { block };
            let part = part.as_flattened();
            let mut buffer = self.pool.alloc_io(part.len()).ok_or(failed)?;
            buffer.copy_in(0, part);
            let lba = self.lba(Block(block));
            match self.run(Op::Write { lba, buffer, fua: false }) {
                Some((Status::SUCCESS, _)) => {}
                _ => return Err(failed),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MediaError> {
        if !self.flushes {
            return Ok(());
        }
        match self.run(Op::Flush) {
            Some((Status::SUCCESS, _)) => Ok(()),
            _ => Err(MediaError { block: 0 }),
        }
    }
}
