//! One reactor's queue pair with a namespace, and what waits for one.
//!
//! Invariant: a slot is free, waiting, or in flight; in flight means that its command and buffer are with the queue pair.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nvme::Status;
use reactors::dma::IO_SIZE_MAX;
use reactors::{Clock, IoBuf, Timestamp};
use spdk_rs::{CommandStatus, Completion, PoolBuffer, QueueOptions, QueuePair, RegisteredPool, RejectReason};

use super::bell::Bell;
use super::controller::{ControllerState, Watched};
use super::request::{Next, Request, refused};
use super::{DEVICE_GONE, Shared};
use crate::device::counters::Meter;
use crate::device::{DeviceError, Done, Io, IoDone, Op, OpKind, Operations, Queue, QueueContext, Submission};

/// Most I/Os of a queue pair: what controllers commonly have room for.
const DEPTH_MAX: u32 = 1024;

/// See the module.
pub(super) struct SpdkQueue {
    shared: Arc<Shared>,
    pool: RegisteredPool,
    depth: u32,
    pair: Option<QueuePair<PoolBuffer>>,
    slots: Box<[Option<Request>]>,
    free: Vec<u32>,
    /// Slots that wait for room, or for a queue pair; oldest first.
    waiting: VecDeque<u32>,
    finished: VecDeque<IoDone>,
    /// Commands were submitted and not passed on yet.
    unkicked: bool,
    /// Commands of the queue pair that the controller was asked to abort, and that did not come back aborted.
    aborts: u32,
    bell: Arc<Bell>,
    state: ControllerState,
    meter: Meter,
    clock: Clock,
    /// The time of the first submission since the last kick.
    batch_start: Option<Timestamp>,
}

impl SpdkQueue {
    pub(super) fn open(shared: Arc<Shared>, context: &QueueContext<'_>) -> Result<Self, DeviceError> {
        let failed = |why: String| DeviceError::NoQueue { name: shared.name.to_string(), why };
        let controller = &shared.controller;
        let pool = RegisteredPool::new(&controller.environment, context.pool)
            .map_err(|error| failed(format!("its buffers cannot be registered with SPDK: {error}")))?;
        let bell = Bell::new().map_err(|error| failed(error.to_string()))?;
        let bell = controller.listen(bell);
        let depth = context.depth.clamp(1, DEPTH_MAX);
        let pair = match controller.state() {
            ControllerState::Up => Some(open_pair(&shared, depth).map_err(failed)?),
            _ => None,
        };
        Ok(Self {
            pool,
            depth,
            pair,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            waiting: VecDeque::with_capacity(depth as usize),
            finished: VecDeque::with_capacity(depth as usize),
            unkicked: false,
            aborts: 0,
            bell,
            state: ControllerState::Up,
            meter: shared.counters.open(),
            clock: Clock::new(),
            batch_start: None,
            shared,
        })
    }

    /// A request for an I/O within the device's capacity, or how it ends at once.
    fn accept(&mut self, io: Io) -> Result<Request, IoDone> {
        let geometry = self.shared.geometry();
        let (kind, tag) = (io.op.kind(), io.tag);
        let range = match &io.op {
            Op::Read { lba, buffer } | Op::Write { lba, buffer, .. } => geometry.data(*lba, buffer.len()),
            Op::WriteZeroes { lba, blocks, .. } | Op::Deallocate { lba, blocks } => {
                geometry.range(*lba, u64::from(*blocks))
            }
            Op::Flush => Ok(0..0),
        };
        let range = match range {
            Ok(range) => range,
            Err(status) => return Err(refused(tag, status, io.op.into_buffer())),
        };
        let shift = geometry.block_size.shift();
        let blocks = u32::try_from((range.end - range.start) >> shift).unwrap_or(u32::MAX);
        let started = *self.batch_start.get_or_insert_with(|| self.clock.now());
        let mut request = Request::new(tag, kind, nvme::Lba(range.start >> shift), blocks, started);
        let nothing_to_do = match &io.op {
            Op::Flush => !self.shared.shape.operations.contains(Operations::FLUSH),
            _ => blocks == 0,
        };
        if nothing_to_do {
            return Err(refused(tag, Status::SUCCESS, io.op.into_buffer()));
        }
        (request.fua, request.deallocate) = match io.op {
            Op::Write { fua, .. } => (fua, false),
            Op::WriteZeroes { fua, deallocate, .. } => (fua, deallocate),
            Op::Read { .. } | Op::Flush | Op::Deallocate { .. } => (false, false),
        };
        if let Some(buffer) = io.op.into_buffer() {
            request.buffer = Some(self.adopt(tag, buffer)?);
        }
        Ok(request)
    }

    fn adopt(&self, tag: u64, buffer: IoBuf) -> Result<PoolBuffer, IoDone> {
        let foreign = |buffer| refused(tag, Status::INTERNAL_ERROR.dnr(), Some(buffer));
        self.pool.adopt(buffer).map_err(foreign)
    }

    /// Gives the next command of a request to the queue pair; `false` when it has to wait.
    fn start(&mut self, slot: u32) -> bool {
        let Some(pair) = self.pair.as_mut().filter(|pair| !pair.is_parked()) else { return false };
        let Some(request) = &mut self.slots[slot as usize] else { return true };
        let operation = request.next();
        let buffer = request.buffer.take();
        match pair.submit(operation, u64::from(slot), buffer) {
            Ok(()) => {
                self.unkicked = true;
                true
            }
            Err(rejected) => {
                request.buffer = rejected.buffer;
                match rejected.reason {
                    RejectReason::Full => return false,
                    RejectReason::Down => {
                        self.shared.controller.report_trouble();
                        return false;
                    }
                    RejectReason::NamespaceChanged => {
                        self.finish(slot, Status::INVALID_NAMESPACE_OR_FORMAT.dnr());
                    }
                    RejectReason::BufferLength | RejectReason::BlockCount => {
                        self.finish(slot, Status::INTERNAL_ERROR.dnr());
                    }
                }
                true
            }
        }
    }

    fn start_waiting(&mut self) {
        while let Some(slot) = self.waiting.pop_front() {
            if !self.start(slot) {
                self.waiting.push_front(slot);
                return;
            }
        }
    }

    /// Whether a command that was aborted is so because we asked for it: then it has ended, else it goes to another queue pair.
    fn was_asked_to_abort(&mut self, status: CommandStatus) -> bool {
        let asked = status.is_aborted() && self.aborts > 0;
        self.aborts -= u32::from(asked);
        asked
    }

    /// A command came back; `ended_by_reset` when the device had no say in how it ended.
    fn on_completed(&mut self, completion: Completion<PoolBuffer>, ended_by_reset: bool) {
        let Completion { tag, status, buffer, .. } = completion;
        let asked = !ended_by_reset && self.was_asked_to_abort(status);
        let Ok(slot) = u32::try_from(tag) else { return };
        let Some(request) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if buffer.is_none() && matches!(request.kind, OpKind::Read | OpKind::Write) {
            // The device did not let go of it.
            return self.finish(slot, DEVICE_GONE);
        }
        request.buffer = buffer;
        let repeat = ended_by_reset || status.is_queue_gone() || (status.is_aborted() && !asked);
        match request.on_completed(converted(status), repeat) {
            Next::Finished(status) => self.finish(slot, status),
            Next::Command => self.waiting.push_back(slot),
        }
    }

    fn finish(&mut self, slot: u32, status: Status) {
        let Some(request) = self.slots[slot as usize].take() else { return };
        self.free.push(slot);
        let kind = request.kind;
        if status.is_success() {
            self.meter.done(kind, u64::from(request.blocks) << self.shared.shape.block_size.shift());
        } else {
            self.meter.failed(kind);
        }
        let latency = self.clock.now().saturating_since(request.started);
        self.meter.took(kind, u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        self.finished.push_back(request.finish(status));
    }

    /// Looks at the controller, which rang.
    fn heed_controller(&mut self) {
        self.state = self.shared.controller.state();
        match self.state {
            ControllerState::Up => self.come_up(),
            ControllerState::Resetting => self.park_pair(),
            ControllerState::Failed | ControllerState::Removed => {
                self.close_pair();
                self.fail_waiting();
            }
        }
    }

    /// The controller works again.
    fn come_up(&mut self) {
        if self.pair.as_ref().is_some_and(QueuePair::is_parked) && !self.resume_pair() {
            self.close_pair();
        }
        if self.pair.is_some() {
            return;
        }
        match open_pair(&self.shared, self.depth) {
            Ok(pair) => self.pair = Some(pair),
            Err(why) => {
                tracing::error!(device = %self.shared.name, why, "no queue pair after a reset");
                self.fail_waiting();
            }
        }
    }

    /// Leaves the queue pair alone while the controller is reset.
    fn park_pair(&mut self) {
        let Some(pair) = self.pair.as_mut().filter(|pair| !pair.is_parked()) else { return };
        pair.park();
        self.shared.controller.queue_pair_closed();
    }

    /// Goes on with the queue pair after a reset; whether that worked. What the reset ended waits, in its order.
    fn resume_pair(&mut self) -> bool {
        let Some(pair) = &mut self.pair else { return false };
        let back = match pair.resume() {
            Ok(back) => back,
            Err(error) => {
                tracing::warn!(device = %self.shared.name, %error, "a queue pair is not there after a reset");
                return false;
            }
        };
        self.aborts = 0;
        let late = std::mem::take(&mut self.waiting);
        back.into_iter().for_each(|(completion, by_reset)| self.on_completed(completion, by_reset));
        self.waiting.extend(late);
        true
    }

    /// Gives the queue pair back. What was in flight waits, in its order.
    fn close_pair(&mut self) {
        let Some(pair) = self.pair.take() else { return };
        self.aborts = 0;
        let late = std::mem::take(&mut self.waiting);
        pair.close().into_iter().for_each(|completion| self.on_completed(completion, true));
        self.waiting.extend(late);
        self.shared.controller.queue_pair_closed();
    }

    fn fail_waiting(&mut self) {
        while let Some(slot) = self.waiting.pop_front() {
            self.finish(slot, DEVICE_GONE);
        }
    }

    /// Lets the device see what was submitted, and takes back what it finished.
    fn process(&mut self) {
        let Some(pair) = self.pair.as_mut().filter(|pair| !pair.is_parked()) else { return };
        self.unkicked = false;
        if pair.process_completions(0).is_err() {
            self.shared.controller.report_trouble();
        }
        for late in pair.take_late() {
            let asked = self.shared.controller.on_late_io(&self.shared.name, || pair.abort(late));
            self.aborts += u32::from(asked);
        }
        while let Some(completion) = self.pair.as_mut().and_then(QueuePair::pop) {
            self.on_completed(completion, false);
        }
    }
}

fn open_pair(shared: &Shared, depth: u32) -> Result<QueuePair<PoolBuffer>, String> {
    let options = QueueOptions {
        depth,
        buffer_bytes_max: u32::try_from(IO_SIZE_MAX).unwrap_or(u32::MAX),
        batched: true,
        group: None,
    };
    let controller = shared.controller.handle().ok_or("the controller is gone")?;
    controller.open_queue_pair(shared.nsid, &options).map_err(|error| error.to_string())
}

/// The same fifteen bits.
fn converted(status: CommandStatus) -> Status {
    Status::from_cqe_field(status.bits() << 1)
}

impl Queue for SpdkQueue {
    fn submit(&mut self, io: Io) -> Submission {
        let kind = io.op.kind();
        if self.free.is_empty() {
            return Submission::Busy(io);
        }
        let request = match self.accept(io) {
            Ok(request) => request,
            Err(done) => {
                if done.status.is_success() {
                    self.meter.done(kind, 0);
                } else {
                    self.meter.failed(kind);
                }
                return Submission::Done(done);
            }
        };
        if matches!(self.state, ControllerState::Failed | ControllerState::Removed) {
            self.meter.failed(kind);
            return Submission::Done(request.finish(DEVICE_GONE));
        }
        let Some(slot) = self.free.pop() else { return Submission::Done(request.finish(DEVICE_GONE)) };
        self.slots[slot as usize] = Some(request);
        // Those that wait are older.
        if !self.waiting.is_empty() || !self.start(slot) {
            self.waiting.push_back(slot);
        }
        Submission::Queued
    }

    #[inline]
    fn kick(&mut self) {
        self.batch_start = None;
        if self.unkicked {
            self.process();
        }
    }

    fn poll(&mut self, done: &mut Done) {
        if self.bell.heard() {
            self.heed_controller();
        }
        if self.pair.as_ref().is_some_and(|pair| pair.in_flight() > 0) {
            self.process();
        }
        if !self.waiting.is_empty() {
            self.start_waiting();
            self.kick();
        }
        while !done.is_full()
            && let Some(finished) = self.finished.pop_front()
        {
            done.push(finished);
        }
    }

    /// Only the controller's changes wake: completions are polled for, and a queue with any in flight does not sleep.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn before_sleep(&mut self) -> bool {
        self.kick();
        let rests = |pair: &QueuePair<_>| pair.in_flight() == 0 && self.waiting.is_empty();
        let idle = self.pair.as_ref().is_none_or(|pair| pair.is_parked() || rests(pair));
        idle && self.finished.is_empty() && !self.bell.is_rung()
    }

    fn has_background(&self) -> bool {
        true
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.finished.len()
    }
}

impl Drop for SpdkQueue {
    fn drop(&mut self) {
        self.pair = None;
        self.shared.controller.queue_pair_closed();
        Watched::forget(&self.shared.controller, &self.bell);
    }
}
