//! A queue that tests drive synchronously.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nvme::Status;
use reactors::{DmaPool, IoBuf, PoolConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::device::{Device, Done, Io, IoDone, Lba, Op, Queue, QueueContext, Submission};

/// Longest wait for anything, also on a starved machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn pool() -> DmaPool {
    DmaPool::new(PoolConfig { small_slots: 256, large_slots: 64, prefault: false }).unwrap()
}

/// A queue and the buffers of its thread.
pub(crate) struct Rig {
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) pool: DmaPool,
    done: Done,
}

impl Rig {
    pub(crate) fn new(device: &dyn Device) -> Self {
        Self::with_depth(device, 32)
    }

    pub(crate) fn with_depth(device: &dyn Device, depth: u32) -> Self {
        let pool = pool();
        let queue = device.open_queue(&QueueContext { pool: &pool, depth }).unwrap();
        Self { queue, pool, done: Done::new() }
    }

    pub(crate) fn buffer(&self, bytes: &[u8]) -> IoBuf {
        let mut buffer = self.pool.alloc_io(bytes.len()).unwrap();
        buffer.copy_in(0, bytes);
        buffer
    }

    /// A buffer that holds what no test writes.
    pub(crate) fn dirty(&self, len: usize) -> IoBuf {
        self.buffer(&vec![0xEE; len])
    }

    /// Starts an I/O; its completion if there is one at once.
    pub(crate) fn submit(&mut self, tag: u64, op: Op) -> Option<IoDone> {
        match self.queue.submit(Io { tag, op }) {
            Submission::Done(done) => Some(done),
            Submission::Queued => None,
            Submission::Busy(_) => panic!("the queue is full"),
        }
    }

    /// Waits as a reactor does: kick, poll, sleep on the descriptor.
    pub(crate) fn wait(&mut self) -> Vec<IoDone> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.queue.kick();
            self.queue.poll(&mut self.done);
            if !self.done.is_empty() {
                return self.done.drain().collect();
            }
            assert!(Instant::now() < deadline, "nothing finished in {PATIENCE:?}");
            if self.queue.before_sleep() {
                let fd = self.queue.wait_fd().expect("a queue with I/O in flight can be waited for");
                wait_readable(fd);
            }
        }
    }

    /// Runs one I/O to its end.
    pub(crate) fn run(&mut self, op: Op) -> IoDone {
        if let Some(done) = self.submit(1, op) {
            return done;
        }
        let mut done = self.wait();
        assert_eq!(done.len(), 1);
        assert_eq!(self.queue.in_flight(), 0);
        done.remove(0)
    }

    pub(crate) fn write(&mut self, lba: u64, bytes: &[u8]) -> Status {
        let buffer = self.buffer(bytes);
        self.run(Op::Write { lba: Lba(lba), buffer, fua: false }).status
    }

    pub(crate) fn write_fua(&mut self, lba: u64, bytes: &[u8]) -> Status {
        let buffer = self.buffer(bytes);
        self.run(Op::Write { lba: Lba(lba), buffer, fua: true }).status
    }

    pub(crate) fn read(&mut self, lba: u64, len: usize) -> Result<Vec<u8>, Status> {
        let buffer = self.dirty(len);
        let done = self.run(Op::Read { lba: Lba(lba), buffer });
        let mut bytes = vec![0; len];
        done.buffer.expect("a read gives its buffer back").copy_out(0, &mut bytes);
        if done.status.is_success() { Ok(bytes) } else { Err(done.status) }
    }

    pub(crate) fn zero(&mut self, lba: u64, blocks: u32, deallocate: bool) -> Status {
        self.run(Op::WriteZeroes { lba: Lba(lba), blocks, deallocate, fua: false }).status
    }

    pub(crate) fn deallocate(&mut self, lba: u64, blocks: u32) -> Status {
        self.run(Op::Deallocate { lba: Lba(lba), blocks }).status
    }

    pub(crate) fn flush(&mut self) -> Status {
        self.run(Op::Flush).status
    }
}

/// Sleeps until a descriptor is readable.
pub(crate) fn wait_readable(fd: impl AsFd) {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1), "nothing woke the sleeper");
}
