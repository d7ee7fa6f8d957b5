//! A volume's queue on a thread that is no reactor: carried to the reactor that owns the store, and back. For control threads,
//! and those that keep a replicated volume.
//!
//! Buffers belong to their threads, so data is copied on the way. Every slot has at most one parcel on its way, for which the
//! mailbox has room.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nvme::{Lba, Status};
use reactors::mailbox::{Mailbox, MailboxSender};
use reactors::{DmaPool, IoBuf, Poller, PollerId, ReactorContext, ReactorHandle, RunError, Turn, Work};
use rustix::event::{EventfdFlags, eventfd};

use crate::device::{Device, DeviceError, Done, Io, IoDone, Op, Queue, QueueContext, Submission};

/// Pause before a reactor whose inbox is full is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// What is to be done, without the data.
#[derive(Clone, Copy)]
enum Order {
    Read { lba: Lba, bytes: usize },
    Write { lba: Lba, fua: bool },
    Flush,
    WriteZeroes { lba: Lba, blocks: u32, deallocate: bool, fua: bool },
    Deallocate { lba: Lba, blocks: u32 },
}

/// On its way to the reactor.
struct Parcel {
    slot: u32,
    order: Order,
    data: Vec<u8>,
}

/// On its way back.
struct Answer {
    slot: u32,
    status: Status,
    /// What was read.
    data: Vec<u8>,
}

/// The way back.
struct Back {
    answers: Mutex<Vec<Answer>>,
    event: OwnedFd,
}

impl Back {
    fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, answer: Answer) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        // It fails only when it is readable already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// The end on the thread. See the module.
pub(super) struct Courier {
    owner: ReactorHandle,
    poller: PollerId,
    sender: MailboxSender<Parcel>,
    back: Arc<Back>,
    /// By slot: the tag, and the buffer.
    waiting: Vec<Option<(u64, Option<IoBuf>)>>,
    free: Vec<u32>,
    finished: VecDeque<IoDone>,
}

impl Courier {
    /// Opens a queue of `device` on its owner.
    pub(super) fn open(
        owner: &ReactorHandle,
        device: Arc<dyn Device>,
        depth: u32,
    ) -> Result<Self, DeviceError> {
        let depth = depth.max(1);
        let name = device.info().name.to_string();
        let missing = || DeviceError::NotHere { name: name.clone() };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|_| missing())?;
        let back = Arc::new(Back { answers: Mutex::default(), event });
        let theirs = Arc::clone(&back);
        let opened = owner.call(move |context| Desk::open(context, &*device, depth, theirs));
        let opened = opened.map_err(|_| missing())?.wait().map_err(|_| missing())?;
        let (poller, sender) = opened?;
        Ok(Self {
            owner: owner.clone(),
            poller,
            sender,
            back,
            waiting: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            finished: VecDeque::new(),
        })
    }

    fn end(&mut self, slot: u32, status: Status, data: &[u8]) {
        let Some((tag, mut buffer)) = self.waiting[slot as usize].take() else { return };
        self.free.push(slot);
        if let Some(buffer) = buffer.as_mut().filter(|buffer| buffer.len() == data.len()) {
            buffer.copy_in(0, data);
        }
        self.finished.push_back(IoDone { tag, status, buffer });
    }
}

/// What an operation is without its buffer, what it writes, and the buffer.
fn pack(op: Op) -> (Order, Vec<u8>, Option<IoBuf>) {
    match op {
        Op::Read { lba, buffer } => (Order::Read { lba, bytes: buffer.len() }, Vec::new(), Some(buffer)),
        Op::Write { lba, buffer, fua } => {
            let mut data = vec![0; buffer.len()];
            buffer.copy_out(0, &mut data);
            (Order::Write { lba, fua }, data, Some(buffer))
        }
        Op::Flush => (Order::Flush, Vec::new(), None),
        Op::WriteZeroes { lba, blocks, deallocate, fua } => {
            (Order::WriteZeroes { lba, blocks, deallocate, fua }, Vec::new(), None)
        }
        Op::Deallocate { lba, blocks } => (Order::Deallocate { lba, blocks }, Vec::new(), None),
    }
}

impl Queue for Courier {
    fn submit(&mut self, io: Io) -> Submission {
        let Some(slot) = self.free.pop() else { return Submission::Busy(io) };
        let (order, data, buffer) = pack(io.op);
        match self.sender.send(Parcel { slot, order, data }) {
            Ok(()) => {
                self.waiting[slot as usize] = Some((io.tag, buffer));
                Submission::Queued
            }
            Err(_) => {
                self.free.push(slot);
                Submission::Done(IoDone { tag: io.tag, status: Status::INTERNAL_ERROR, buffer })
            }
        }
    }

    fn kick(&mut self) {}

    fn poll(&mut self, done: &mut Done) {
        for Answer { slot, status, data } in self.back.take() {
            self.end(slot, status, &data);
        }
        if self.sender.is_closed() {
            // The reactor has stopped: nothing comes any more.
            for slot in 0..u32::try_from(self.waiting.len()).unwrap_or(u32::MAX) {
                self.end(slot, Status::INTERNAL_ERROR, &[]);
            }
        }
        while !done.is_full()
            && let Some(finished) = self.finished.pop_front()
        {
            done.push(finished);
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.back.event.as_fd())
    }

    fn before_sleep(&mut self) -> bool {
        // It fails only when nobody wrote since.
        let _ = rustix::io::read(&self.back.event, &mut [0_u8; 8]);
        let answered = !self.back.answers.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        self.finished.is_empty() && !answered && !self.sender.is_closed()
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() - self.free.len() + self.finished.len()
    }
}

impl Drop for Courier {
    /// The queue on the reactor is closed when this returns, so that the store can be, too.
    fn drop(&mut self) {
        let poller = self.poller;
        loop {
            match self.owner.call(move |context| drop(context.remove_poller(poller))) {
                Ok(removed) => {
                    // A reactor that stops has dropped it.
                    let _ = removed.wait();
                    return;
                }
                Err(RunError::Full) => std::thread::sleep(ASK_AGAIN),
                Err(RunError::Stopped) => return,
            }
        }
    }
}

/// The end on the reactor.
struct Desk {
    name: String,
    mailbox: Mailbox<Parcel>,
    queue: Box<dyn Queue>,
    pool: DmaPool,
    back: Arc<Back>,
    /// Parcels for which there was no buffer or no room.
    starved: VecDeque<Parcel>,
    batch: Done,
}

/// An I/O's tag: its slot, and whether it reads.
fn tag_of(slot: u32, reads: bool) -> u64 {
    u64::from(slot) << 1 | u64::from(reads)
}

impl Desk {
    fn open(
        context: &mut ReactorContext<'_>,
        device: &dyn Device,
        depth: u32,
        back: Arc<Back>,
    ) -> Result<(PollerId, MailboxSender<Parcel>), DeviceError> {
        let pool = context.local().pool().clone();
        let queue = device.open_queue(&QueueContext { pool: &pool, depth })?;
        let (sender, mailbox) = context.local().mailbox(depth as usize);
        let device = device.info().name.to_string();
        let name = format!("volume {device}");
        let (starved, batch) = (VecDeque::new(), Done::new());
        let desk = Self { name, mailbox, queue, pool, back, starved, batch };
        let poller = context.add_poller(Box::new(desk)).map_err(|_| DeviceError::NotHere { name: device })?;
        Ok((poller, sender))
    }

    /// Starts what a parcel asks for; the parcel when there is no buffer or no room for it.
    fn start(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        let Parcel { slot, order, data } = parcel;
        let buffer = |bytes: usize| self.pool.alloc_io(bytes);
        let op = match order {
            Order::Read { lba, bytes } => buffer(bytes).map(|buffer| Op::Read { lba, buffer }),
            Order::Write { lba, fua } => buffer(data.len()).map(|mut buffer| {
                buffer.copy_in(0, &data);
                Op::Write { lba, buffer, fua }
            }),
            Order::Flush => Some(Op::Flush),
            Order::WriteZeroes { lba, blocks, deallocate, fua } => {
                Some(Op::WriteZeroes { lba, blocks, deallocate, fua })
            }
            Order::Deallocate { lba, blocks } => Some(Op::Deallocate { lba, blocks }),
        };
        let Some(op) = op else { return Err(Parcel { slot, order, data }) };
        match self.queue.submit(Io { tag: tag_of(slot, matches!(order, Order::Read { .. })), op }) {
            Submission::Done(finished) => self.answer(finished),
            Submission::Queued => {}
            Submission::Busy(_) => return Err(Parcel { slot, order, data }),
        }
        Ok(())
    }

    fn answer(&self, finished: IoDone) {
        let IoDone { tag, status, buffer } = finished;
        let data = match buffer {
            Some(buffer) if tag & 1 == 1 && status.is_success() => {
                let mut data = vec![0; buffer.len()];
                buffer.copy_out(0, &mut data);
                data
            }
            _ => Vec::new(),
        };
        self.back.put(Answer { slot: u32::try_from(tag >> 1).unwrap_or(u32::MAX), status, data });
    }

    fn work(&mut self) -> bool {
        let mut any = false;
        while let Some(parcel) = self.starved.pop_front().or_else(|| self.mailbox.recv()) {
            if let Err(parcel) = self.start(parcel) {
                self.starved.push_front(parcel);
                break;
            }
            any = true;
        }
        self.queue.kick();
        let mut batch = std::mem::take(&mut self.batch);
        self.queue.poll(&mut batch);
        for finished in batch.drain() {
            any = true;
            self.answer(finished);
        }
        self.batch = batch;
        any
    }
}

impl Poller for Desk {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, _: &mut Turn<'_>) -> Work {
        Work::from(self.work())
    }

    fn before_sleep(&mut self, _: &mut Turn<'_>) -> bool {
        // Nothing is polled here: that would stir the store, which has said already that it may sleep.
        self.starved.is_empty() && self.mailbox.is_empty() && self.queue.before_sleep()
    }

    fn drain(&mut self, _: &mut Turn<'_>) -> bool {
        self.work();
        self.queue.in_flight() == 0
    }
}
