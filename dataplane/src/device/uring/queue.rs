//! One reactor's queue: slots of requests, and the driver that carries out what [`Request::next`] says.
//!
//! Invariants: a slot is free, waiting, or has exactly one entry with the kernel. While it has one, its request, buffer
//! and segments stay in place. The queue is gone only when the kernel is done with all of them.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nvme::Status;
use reactors::{Clock, IoBuf, Timestamp};
use rustix::io::Errno;

use super::Shared;
use super::bounce::{Bounce, WINDOWS, zeroes};
use super::errno;
use super::request::{ATTEMPTS_MAX, Phase, Request, Step};
use super::ring::{Direction, Reaped, Ring};
use crate::device::api::DONE_MAX;
use crate::device::counters::Meter;
use crate::device::{DeviceError, Done, Io, IoDone, Op, OpKind, Queue, QueueContext, Submission};

/// Most I/Os of a queue: beyond this, latency grows and throughput does not.
const DEPTH_MAX: u32 = 4096;
/// Segments of one system call: the parts of the largest buffer.
const SEGMENTS: usize = 8;
/// How long a closing queue waits for the kernel before it asks it to give up, and how long after that.
const CLOSE_PATIENCE: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(5)];

struct Slot {
    request: Option<Request>,
    /// What the kernel was given.
    segments: ArrayVec<libc::iovec, SEGMENTS>,
}

/// Everything the kernel may touch, kept together so that a queue that cannot close in time can leave it behind.
struct Kernel {
    ring: Ring,
    slots: Box<[Slot]>,
}

/// See the module.
pub(super) struct UringQueue {
    kernel: ManuallyDrop<Kernel>,
    /// Entries with the kernel.
    outstanding: usize,
    free: Vec<u32>,
    /// Slots that wait for their turn or for a window.
    waiting: VecDeque<u32>,
    /// Free windows. Only of devices that rewrite.
    windows: Vec<Bounce>,
    shared: Arc<Shared>,
    meter: Meter,
    clock: Clock,
    /// The time of the first submission since the last kick.
    batch_start: Option<Timestamp>,
}

/// What became of a request.
enum Outcome {
    /// The kernel has an entry of it.
    Running,
    /// It cannot start yet.
    Waiting,
    /// It is done.
    Finished(Status),
}

impl UringQueue {
    pub(super) fn open(shared: Arc<Shared>, context: &QueueContext<'_>) -> Result<Self, DeviceError> {
        let depth = context.depth.clamp(1, DEPTH_MAX).next_power_of_two();
        let ring = Ring::new(depth, shared.backing.file.as_fd(), context.pool)?;
        let slots = (0..depth).map(|_| Slot { request: None, segments: ArrayVec::new() }).collect();
        let windows = if shared.rewrites() { WINDOWS } else { 0 };
        Ok(Self {
            kernel: ManuallyDrop::new(Kernel { ring, slots }),
            outstanding: 0,
            free: (0..depth).rev().collect(),
            waiting: VecDeque::with_capacity(depth as usize),
            windows: (0..windows).filter_map(|_| Bounce::new()).collect(),
            meter: shared.counters.open(),
            clock: Clock::new(),
            batch_start: None,
            shared,
        })
    }

    /// A request for an I/O within the device's capacity.
    fn accept(&mut self, io: Io) -> Result<Request, (Io, Status)> {
        let geometry = self.shared.geometry();
        let range = match &io.op {
            Op::Read { lba, buffer } | Op::Write { lba, buffer, .. } => geometry.data(*lba, buffer.len()),
            Op::WriteZeroes { lba, blocks, .. } | Op::Deallocate { lba, blocks } => {
                geometry.range(*lba, u64::from(*blocks))
            }
            Op::Flush => Ok(0..0),
        };
        let range = match range {
            Ok(range) => range,
            Err(status) => return Err((io, status)),
        };
        let (kind, tag) = (io.op.kind(), io.tag);
        let (fua, deallocate) = match io.op {
            Op::Write { fua, .. } => (fua, false),
            Op::WriteZeroes { fua, deallocate, .. } => (fua, deallocate),
            Op::Read { .. } | Op::Flush | Op::Deallocate { .. } => (false, false),
        };
        let mut request = Request {
            tag,
            kind,
            fua,
            deallocate,
            cursor: range.start,
            range,
            sync_due: kind == OpKind::Flush || (kind == OpKind::WriteZeroes && fua),
            attempts: 0,
            phase: Phase::Waiting,
            buffer: io.op.into_buffer(),
            bounce: None,
            ticket: None,
            started: *self.batch_start.get_or_insert_with(|| self.clock.now()),
        };
        if kind == OpKind::Deallocate {
            request.shrink_to_whole_blocks(self.shared.align());
        }
        Ok(request)
    }

    /// Gets a new request in line, where the device orders writes, and starts it if nothing is ahead.
    fn start(&mut self, slot: u32) -> Outcome {
        if self.shared.rewrites() {
            let align = self.shared.align();
            let request = self.request(slot);
            if let Some(access) = request.access(align) {
                let blocks = request.blocks(align);
                self.request(slot).ticket = Some(self.shared.guard.enter(blocks, access));
            }
        }
        self.resume(slot)
    }

    /// Starts a request that waits, if it may start now.
    fn resume(&mut self, slot: u32) -> Outcome {
        let (align, rewrites) = (self.shared.align(), self.shared.rewrites());
        let Self { kernel, windows, shared, .. } = self;
        let Some(request) = kernel.slots[slot as usize].request.as_mut() else { return Outcome::Waiting };
        if request.ticket.as_ref().is_some_and(|ticket| !shared.guard.may_start(ticket)) {
            return Outcome::Waiting;
        }
        if rewrites && request.bounce.is_none() && request.is_unaligned(align) {
            request.bounce = windows.pop();
            if request.bounce.is_none() {
                return Outcome::Waiting;
            }
        }
        self.advance(slot)
    }

    /// Starts the next phase of a request, or finishes it.
    fn advance(&mut self, slot: u32) -> Outcome {
        let (align, refused) = (self.shared.align(), self.shared.refused());
        let request = self.request(slot);
        match request.next(align, refused) {
            Step::Finish => Outcome::Finished(Status::SUCCESS),
            Step::Start(phase) => {
                self.request(slot).phase = phase;
                self.patch_window(slot);
                self.push(slot);
                Outcome::Running
            }
        }
    }

    /// Copies what is to be written into the window of a request that is about to spill it.
    fn patch_window(&mut self, slot: u32) {
        let request = self.request(slot);
        if let (Phase::Spill { window, spilled: 0 }, Some(bounce)) = (&request.phase, &mut request.bounce) {
            let wanted = request.range.start.max(window.start)..request.range.end.min(window.end);
            let part = to_usize(wanted.start - window.start)..to_usize(wanted.end - window.start);
            let offset = to_usize(wanted.start - request.range.start);
            bounce.patch(part, request.buffer.as_ref().map(|buffer| (buffer, offset)));
        }
    }

    /// Gives the kernel the entry of a request's phase.
    fn push(&mut self, slot: u32) {
        let Kernel { ring, slots } = &mut *self.kernel;
        let Slot { request: Some(request), segments } = &mut slots[slot as usize] else { return };
        self.outstanding += 1;
        let write = Direction::Write { dsync: request.fua && request.kind == OpKind::Write };
        let direction = if request.kind == OpKind::Read { Direction::Read } else { write };
        segments.clear();
        let (direction, offset) = match &request.phase {
            Phase::Waiting => unreachable!("a request that waits has nothing for the kernel"),
            Phase::Sync => return ring.push_sync(slot),
            Phase::Clear { end, how } => return ring.push_fallocate(slot, how.mode(), request.cursor..*end),
            Phase::Transfer => {
                let from = to_usize(request.cursor - request.range.start);
                segments.extend(
                    request.buffer.iter().flat_map(|buffer| segments_from(buffer, from)).take(SEGMENTS),
                );
                (direction, request.cursor)
            }
            Phase::Zeroes { end } => {
                segments.extend(zero_segments(to_usize(end - request.cursor)).take(SEGMENTS));
                (write, request.cursor)
            }
            Phase::Fill { window, filled: at } | Phase::Spill { window, spilled: at } => {
                let part = to_usize(*at)..to_usize(window.end - window.start);
                segments.extend(request.bounce.as_mut().map(|bounce| bounce.segment(part)));
                let fills = matches!(request.phase, Phase::Fill { .. });
                (if fills { Direction::Read } else { write }, window.start + at)
            }
        };
        // SAFETY: buffer, window and segments belong to this slot, and stay there untouched until its entry is reaped:
        // the slot is changed only then, and `Drop` waits for it or leaves it behind.
        unsafe { ring.push_transfer(slot, direction, segments, offset) };
    }

    /// Takes note of a finished entry and goes on with its request.
    fn reaped(&mut self, Reaped { slot, result }: Reaped) -> Outcome {
        match result {
            Ok(bytes) => self.succeeded(slot, u64::from(bytes)),
            Err(errno) => self.failed(slot, errno),
        }
    }

    fn succeeded(&mut self, slot: u32, bytes: u64) -> Outcome {
        let align = self.shared.align();
        let request = self.request(slot);
        let whole = bytes & !(align - 1);
        let progressed = match &mut request.phase {
            Phase::Waiting => true,
            Phase::Transfer | Phase::Zeroes { .. } => request.transferred(bytes, align),
            Phase::Clear { end, .. } => {
                request.cursor = *end;
                true
            }
            Phase::Sync => {
                request.sync_due = false;
                true
            }
            Phase::Fill { filled: done, .. } | Phase::Spill { spilled: done, .. } => {
                *done += whole;
                whole > 0
            }
        };
        match progressed {
            true => request.attempts = 0,
            false if bytes == 0 => return Outcome::Finished(request.stuck()),
            false => request.attempts += 1,
        }
        if request.attempts >= ATTEMPTS_MAX {
            return Outcome::Finished(Status::INTERNAL_ERROR);
        }
        self.turn_window(slot)
    }

    /// After a phase made progress: goes on with its window, or with what comes next.
    fn turn_window(&mut self, slot: u32) -> Outcome {
        let request = self.request(slot);
        let (window, done, fills) = match &request.phase {
            Phase::Fill { window, filled } => (window.clone(), *filled, true),
            Phase::Spill { window, spilled } => (window.clone(), *spilled, false),
            _ => return self.advance(slot),
        };
        let wanted = request.wanted(&window);
        if window.start + done < window.end {
            self.push(slot);
            return Outcome::Running;
        }
        if fills && request.kind != OpKind::Read {
            request.phase = Phase::Spill { window, spilled: 0 };
            self.patch_window(slot);
            self.push(slot);
            return Outcome::Running;
        }
        if let (true, Some(buffer), Some(bounce)) = (fills, &mut request.buffer, &request.bounce) {
            let part = to_usize(wanted.start - window.start)..to_usize(wanted.end - window.start);
            buffer.copy_in(to_usize(wanted.start - request.range.start), bounce.bytes(part));
        }
        request.cursor = wanted.end;
        self.advance(slot)
    }

    fn failed(&mut self, slot: u32, errno: Errno) -> Outcome {
        let shared = Arc::clone(&self.shared);
        let request = self.request(slot);
        if errno::is_transient(errno) && request.attempts < ATTEMPTS_MAX {
            request.attempts += 1;
            self.push(slot);
            return Outcome::Running;
        }
        match request.phase {
            // Block devices say EINVAL for ranges that are not whole sectors, and file systems for modes they lack.
            Phase::Clear { how, .. } if matches!(errno, Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                shared.refuse(how);
                self.advance(slot)
            }
            _ => Outcome::Finished(errno::status(request.kind, errno)),
        }
    }

    /// Takes a request out of its slot and counts it.
    fn finish(&mut self, slot: u32, status: Status) -> Option<(IoDone, OpKind, Timestamp)> {
        let request = self.kernel.slots[slot as usize].request.take()?;
        self.free.push(slot);
        self.windows.extend(request.bounce);
        if let Some(ticket) = request.ticket {
            self.shared.guard.leave(ticket);
        }
        if status.is_success() {
            self.meter.done(request.kind, request.range.end - request.range.start);
        } else {
            self.meter.failed(request.kind);
        }
        Some((IoDone { tag: request.tag, status, buffer: request.buffer }, request.kind, request.started))
    }

    /// The request of an occupied slot.
    fn request(&mut self, slot: u32) -> &mut Request {
        match &mut self.kernel.slots[slot as usize].request {
            Some(request) => request,
            None => unreachable!("slot {slot} is in use"),
        }
    }

    /// Hands over a finished request, and how long it took.
    fn hand_over(&mut self, slot: u32, status: Status, now: Timestamp, done: &mut Done) {
        if let Some((io, kind, started)) = self.finish(slot, status) {
            let latency = now.saturating_since(started);
            self.meter.took(kind, u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
            done.push(io);
        }
    }

    fn poll_kernel(&mut self, done: &mut Done) {
        let mut finished = ArrayVec::<Reaped, DONE_MAX>::new();
        if self.outstanding > 0 || self.kernel.ring.is_armed() {
            self.kernel.ring.reap(done.room(), &mut finished);
        }
        if finished.is_empty() {
            return;
        }
        let now = self.clock.now();
        for entry in finished {
            self.outstanding -= 1;
            if let Outcome::Finished(status) = self.reaped(entry) {
                self.hand_over(entry.slot, status, now, done);
            }
        }
    }

    fn poll_waiting(&mut self, done: &mut Done) {
        for _ in 0..self.waiting.len() {
            let Some(slot) = (!done.is_full()).then(|| self.waiting.pop_front()).flatten() else { return };
            match self.resume(slot) {
                Outcome::Running => {}
                Outcome::Waiting => self.waiting.push_back(slot),
                Outcome::Finished(status) => {
                    let now = self.clock.now();
                    self.hand_over(slot, status, now, done);
                }
            }
        }
    }
}

impl Queue for UringQueue {
    fn submit(&mut self, io: Io) -> Submission {
        let Some(slot) = self.free.pop() else { return Submission::Busy(io) };
        match self.accept(io) {
            Ok(request) => self.kernel.slots[slot as usize].request = Some(request),
            Err((io, status)) => {
                self.free.push(slot);
                self.meter.failed(io.op.kind());
                return Submission::Done(IoDone { tag: io.tag, status, buffer: io.op.into_buffer() });
            }
        }
        match self.start(slot) {
            Outcome::Running => Submission::Queued,
            Outcome::Waiting => {
                self.waiting.push_back(slot);
                Submission::Queued
            }
            Outcome::Finished(status) => match self.finish(slot, status) {
                Some((done, ..)) => Submission::Done(done),
                None => Submission::Queued,
            },
        }
    }

    fn kick(&mut self) {
        self.batch_start = None;
        if self.outstanding > 0 {
            self.kernel.ring.kick();
        }
    }

    fn poll(&mut self, done: &mut Done) {
        self.poll_kernel(done);
        if !self.waiting.is_empty() {
            self.poll_waiting(done);
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.kernel.ring.wait_fd())
    }

    /// A write that waits for another queue's is woken by nothing: then sleeping is wrong.
    fn before_sleep(&mut self) -> bool {
        self.kick();
        self.waiting.is_empty() && self.kernel.ring.arm()
    }

    fn in_flight(&self) -> usize {
        self.kernel.slots.len() - self.free.len()
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        for patience in CLOSE_PATIENCE {
            self.drain(patience);
            if self.outstanding > 0 {
                self.kernel.ring.cancel_all();
            }
        }
        for slot in &mut self.kernel.slots {
            let request = slot.request.as_mut();
            if let Some(ticket) = request.and_then(|request| request.ticket.take()) {
                self.shared.guard.leave(ticket);
            }
        }
        if self.outstanding > 0 {
            tracing::error!(
                device = %self.shared.name,
                outstanding = self.outstanding,
                "I/O does not end: its buffers are given up so that the kernel can keep writing to them"
            );
            return;
        }
        // SAFETY: dropped once, here, and not used after; the kernel is done with all of it.
        unsafe { ManuallyDrop::drop(&mut self.kernel) };
    }
}

impl UringQueue {
    /// Waits until the kernel is done, without continuing requests.
    fn drain(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.outstanding > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.kernel.ring.wait(left);
            let mut finished = ArrayVec::<Reaped, DONE_MAX>::new();
            self.kernel.ring.reap(DONE_MAX, &mut finished);
            self.outstanding -= finished.len();
        }
    }
}

/// The parts of a buffer from byte `from` on, for the kernel.
fn segments_from(buffer: &IoBuf, from: usize) -> impl Iterator<Item = libc::iovec> + '_ {
    let mut skip = from;
    buffer.raw_parts().filter_map(move |(base, len)| {
        let skipped = skip.min(len);
        skip -= skipped;
        let iov_base = base.as_ptr().wrapping_add(skipped).cast();
        (skipped < len).then_some(libc::iovec { iov_base, iov_len: len - skipped })
    })
}

/// `len` zeroes, for the kernel to read.
fn zero_segments(len: usize) -> impl Iterator<Item = libc::iovec> {
    let zeroes = zeroes();
    let starts = (0..len).step_by(zeroes.len());
    starts.map(move |start| libc::iovec {
        iov_base: zeroes.as_ptr().cast_mut().cast(),
        iov_len: zeroes.len().min(len - start),
    })
}

/// Lengths within one I/O.
#[allow(clippy::cast_possible_truncation, reason = "io_uring devices are built for 64-bit platforms only")]
fn to_usize(value: u64) -> usize {
    value as usize
}
