//! One reactor's association with the controller of a namespace.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use fabrics::Now;
use fabrics::host::SubmitRefusal;
use nvme::features::AsyncEventConfig;
use nvme::{Cqe, Status};
use reactors::{Clock, DmaPool};
use transport::Data;
use transport::host::{AdminDone, ControllerSink, HostController, HostEvent};

use super::alarm::Alarm;
use super::transfer::{Limits, Piece, Transfer};
use super::{ABORT_BOUND, FIRST_CONNECTION, PATH_LOST, Shared};
use crate::device::counters::Meter;
use crate::device::{DeviceError, Done, Io, IoDone, Queue, QueueContext, Submission};

/// Fewest blocks of a Read or Write that controllers take: one page of memory, at blocks of 512 bytes.
const TRANSFER_BLOCKS_MIN: u32 = 1;
/// The only I/O queue of the association.
const IO_QUEUE: usize = 0;

/// What the controller reported in one call.
#[derive(Default)]
struct Reports {
    ended: VecDeque<(u64, Option<Cqe>, Option<Data>)>,
    up: bool,
    down: bool,
}

impl ControllerSink<Data> for Reports {
    #[inline]
    fn completed(&mut self, _: usize, tag: u64, cqe: Cqe, data: Option<Data>) {
        self.ended.push_back((tag, Some(cqe), data));
    }

    fn failed(&mut self, _: usize, tag: u64, data: Option<Data>) {
        self.ended.push_back((tag, None, data));
    }

    /// None is ever sent here.
    fn admin(&mut self, _: AdminDone) {}

    fn event(&mut self, event: HostEvent) {
        match event {
            HostEvent::Up => self.up = true,
            HostEvent::Down(_) | HostEvent::Lost(_) => self.down = true,
            HostEvent::Async(_) => {}
        }
    }
}

/// How the path is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    Up,
    /// Without a connection; commands fail from this time on.
    Down {
        fail_at: Now,
    },
}

/// A slot is a number that travels as the tag of a command.
type Slot = u32;

/// A queue of one namespace.
pub(super) struct NvmfQueue {
    shared: Arc<Shared>,
    controller: HostController<Data>,
    pool: DmaPool,
    clock: Clock,
    alarm: Alarm,
    path: Path,
    limits: Limits,
    slots: Vec<Option<Transfer>>,
    free: Vec<Slot>,
    /// Transfers whose next command could not be sent yet, oldest first.
    waiting: VecDeque<Slot>,
    finished: VecDeque<IoDone>,
    reports: Reports,
    meter: Meter,
}

impl NvmfQueue {
    pub(super) fn open(shared: Arc<Shared>, context: &QueueContext<'_>) -> Result<Self, DeviceError> {
        let failed =
            |source| DeviceError::Io { action: "open a queue of", path: shared.name.as_ref().into(), source };
        let mut host = shared.config.host.clone();
        host.bringup.io_queues = 1;
        // The watching thread listens for events.
        host.bringup.events = AsyncEventConfig(0);
        host.io_entries = u16::try_from(context.depth.saturating_add(1)).unwrap_or(u16::MAX);
        let pool = context.pool.clone();
        let buffer = {
            let pool = pool.clone();
            move |bytes: &[u8]| {
                let mut buffer = pool.alloc_io(bytes.len())?;
                buffer.copy_in(0, bytes);
                Some(Data(buffer))
            }
        };
        let reconnect = Some(shared.config.reconnect);
        let controller = HostController::new(host, reconnect, ABORT_BOUND, buffer).map_err(failed)?;
        let alarm = Alarm::new().map_err(failed)?;
        controller.wake_with(alarm.as_fd()).map_err(failed)?;
        let clock = Clock::new();
        let now = Now(clock.now().as_nanos());
        let patience = shared.config.fail_after.max(FIRST_CONNECTION);
        let limits = Limits {
            nsid: shared.nsid,
            block_size: shared.shape.block_size,
            transfer_blocks: TRANSFER_BLOCKS_MIN,
        };
        let depth = context.depth.max(1);
        Ok(Self {
            meter: shared.counters.open(),
            path: Path::Down { fail_at: now.after_ns(nanos(patience)) },
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            shared,
            controller,
            pool,
            clock,
            alarm,
            limits,
            waiting: VecDeque::new(),
            finished: VecDeque::new(),
            reports: Reports::default(),
        })
    }

    #[inline]
    fn now(&self) -> Now {
        Now(self.clock.now().as_nanos())
    }

    /// Sends the next command of a transfer, or puts it in the line.
    #[inline]
    fn start(&mut self, slot: Slot, now: Now) -> bool {
        let Some(transfer) = self.slots[slot as usize].as_mut() else { return true };
        let Some(Piece { sqe, data }) = transfer.next(&self.limits, &self.pool) else { return false };
        match self.controller.submit(IO_QUEUE, sqe, data, u64::from(slot), now) {
            Ok(()) => true,
            Err(refused) => {
                transfer.take_back(refused.data);
                if matches!(refused.reason, SubmitRefusal::TooLong) {
                    self.finish(slot, Status::INVALID_FIELD.dnr());
                    return true;
                }
                false
            }
        }
    }

    /// Sends what waits, as far as it goes.
    fn restart(&mut self, now: Now) {
        if self.path != Path::Up {
            return self.fail_late(now);
        }
        while let Some(slot) = self.waiting.pop_front() {
            if !self.start(slot, now) {
                self.waiting.push_front(slot);
                return;
            }
        }
    }

    /// Fails what waited long enough for a connection.
    fn fail_late(&mut self, now: Now) {
        let Path::Down { fail_at } = self.path else { return };
        if now >= fail_at || self.controller.lost().is_some() {
            while let Some(slot) = self.waiting.pop_front() {
                self.finish(slot, PATH_LOST);
            }
        }
    }

    fn finish(&mut self, slot: Slot, status: Status) {
        let Some(transfer) = self.slots[slot as usize].take() else { return };
        self.free.push(slot);
        let (kind, started_ns) = (transfer.kind(), transfer.started_ns);
        let (done, bytes) = transfer.finish(status, self.limits.block_size);
        if status.is_success() {
            self.meter.done(kind, bytes);
        } else {
            self.meter.failed(kind);
        }
        self.meter.took(kind, self.now().0.saturating_sub(started_ns));
        self.finished.push_back(done);
    }

    /// Acts on what the controller reported.
    fn heed(&mut self, now: Now) {
        while let Some((tag, cqe, data)) = self.reports.ended.pop_front() {
            let Ok(slot) = Slot::try_from(tag) else { continue };
            self.on_ended(slot, cqe, data, now);
        }
        if std::mem::take(&mut self.reports.down) && self.path == Path::Up {
            let patience = nanos(self.shared.config.fail_after);
            self.path = Path::Down { fail_at: now.after_ns(patience) };
        }
        if std::mem::take(&mut self.reports.up) {
            self.path = Path::Up;
            self.limits.transfer_blocks = self.transfer_blocks();
        }
    }

    fn on_ended(&mut self, slot: Slot, cqe: Option<Cqe>, data: Option<Data>, now: Now) {
        let block_size = self.limits.block_size;
        let Some(transfer) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let status = cqe.map_or(PATH_LOST, |cqe| cqe.status());
        if transfer.on_completed(status, data, block_size) {
            self.finish(slot, status);
        } else if !self.start(slot, now) {
            self.waiting.push_back(slot);
        }
    }

    /// Most blocks of one Read or Write of the controller that is up.
    fn transfer_blocks(&self) -> u32 {
        let config = &self.shared.config.host;
        let bytes = self.controller.controller().map(|controller| config.data_bytes_max(controller));
        let blocks = bytes.unwrap_or(u64::MAX) >> self.limits.block_size.shift();
        u32::try_from(blocks).unwrap_or(u32::MAX).clamp(TRANSFER_BLOCKS_MIN, nvme::nvm::NLB_MAX)
    }

    fn refuse(&self, io: Io, status: Status) -> Submission {
        self.meter.failed(io.op.kind());
        Submission::Done(IoDone { tag: io.tag, status, buffer: io.op.into_buffer() })
    }
}

impl Queue for NvmfQueue {
    #[inline]
    fn submit(&mut self, io: Io) -> Submission {
        let geometry = self.shared.geometry();
        if let Some(blocks) = io.op.blocks(geometry.block_size)
            && blocks.end > geometry.blocks
        {
            return self.refuse(io, Status::LBA_OUT_OF_RANGE.dnr());
        }
        let now = self.now();
        if let Path::Down { fail_at } = self.path
            && now >= fail_at
        {
            return self.refuse(io, PATH_LOST);
        }
        let Some(slot) = self.free.pop() else { return Submission::Busy(io) };
        self.slots[slot as usize] = Some(Transfer::new(io, now.0));
        // Those that wait are older.
        if !self.waiting.is_empty() || !self.start(slot, now) {
            self.waiting.push_back(slot);
        }
        Submission::Queued
    }

    #[inline]
    fn kick(&mut self) {
        let now = self.now();
        self.controller.flush(now, &mut self.reports);
    }

    fn poll(&mut self, done: &mut Done) {
        let now = self.now();
        self.controller.receive(now, &mut self.reports);
        self.heed(now);
        if !self.waiting.is_empty() {
            self.restart(now);
        }
        self.controller.flush(now, &mut self.reports);
        self.heed(now);
        while !done.is_full()
            && let Some(finished) = self.finished.pop_front()
        {
            done.push(finished);
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.controller.wait_fd())
    }

    fn before_sleep(&mut self) -> bool {
        let now = self.now();
        self.controller.flush(now, &mut self.reports);
        self.controller.before_sleep();
        let deadline = match self.path {
            Path::Down { fail_at } if !self.waiting.is_empty() => fail_at,
            _ => Now::NEVER,
        };
        let deadline = deadline.min(self.controller.next_deadline());
        self.alarm.arm(deadline, now);
        let waits_for_room = self.path == Path::Up && !self.waiting.is_empty();
        self.finished.is_empty() && self.reports.ended.is_empty() && !waits_for_room && deadline > now
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.finished.len()
    }

    fn has_background(&self) -> bool {
        true
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
