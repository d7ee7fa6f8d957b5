//! One reactor's part of the configuration: its device queues, its tables, its copy of every reservation.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use nvme::nvm::ReservationType;
use nvme::{HostId, Lba, Status};
use reactors::{DmaPool, IoBuf};

use super::message::{Acknowledge, Barrier};
use super::reservations::{Access, State};
use super::stats::NamespaceCounters;
use super::view::{Namespace, SubsystemView};
use crate::device::{BlockSize, DeviceError, Io, IoDone, Op, Queue, QueueContext, Submission};

/// I/Os a device queue is asked to hold: what one connection of the deepest common queue has in flight, twice.
const DEVICE_QUEUE_DEPTH: u32 = 256;
/// In [`LocalSubsystem::table`]: no namespace.
pub(super) const NO_NAMESPACE: u32 = u32::MAX;

/// A subsystem on this reactor.
pub(super) struct LocalSubsystem {
    pub(super) view: Arc<SubsystemView>,
    /// By NSID − 1: index of the namespace, or [`NO_NAMESPACE`].
    pub(super) table: Vec<u32>,
}

impl LocalSubsystem {
    /// Index of a namespace on this reactor.
    #[inline]
    pub(super) fn index(&self, nsid: u32) -> Option<u32> {
        let index = *self.table.get((nsid as usize).wrapping_sub(1))?;
        (index != NO_NAMESPACE).then_some(index)
    }
}

/// A namespace on this reactor.
pub(super) struct LocalNamespace {
    pub(super) shared: Arc<Namespace>,
    pub(super) queue: Box<dyn Queue>,
    pub(super) counters: Arc<NamespaceCounters>,
    pub(super) block_size: BlockSize,
    pub(super) block_shift: u8,
    /// Whether it is still in the view; if not, it goes when its I/O is finished.
    pub(super) live: bool,
    /// On the list of namespaces that are polled: those with I/O in flight, and those with work of their own.
    pub(super) active: bool,
    /// I/Os that the limits or the device queue had no room for.
    pub(super) backlog: VecDeque<Io>,
    /// The first of them was taken from the limits already.
    first_is_paid: bool,
    /// Commands that keep it without I/O in flight: they wait for a barrier.
    pub(super) held: u32,
    in_flight: [u32; 2],
    parity: bool,
    /// Barriers that wait for the half of `in_flight` that is not `parity`.
    draining: Vec<Arc<Barrier>>,
    /// Barriers for which the halves have yet to change places.
    waiting: Vec<Arc<Barrier>>,
    reservation_generation: u64,
    reservation: State,
    /// What is answered when it goes.
    pub(super) acknowledge: Option<Rc<Acknowledge>>,
}

impl LocalNamespace {
    pub(super) fn open(shared: &Arc<Namespace>, pool: &DmaPool) -> Result<Self, DeviceError> {
        let queue = shared.device.open_queue(&QueueContext { pool, depth: DEVICE_QUEUE_DEPTH })?;
        let (reservation_generation, reservation) = shared.reservations.snapshot();
        Ok(Self {
            counters: shared.open_counters(),
            block_size: shared.info().block_size,
            block_shift: shared.info().block_size.shift(),
            shared: Arc::clone(shared),
            queue,
            live: true,
            active: false,
            backlog: VecDeque::new(),
            first_is_paid: false,
            held: 0,
            in_flight: [0; 2],
            parity: false,
            draining: Vec::new(),
            waiting: Vec::new(),
            reservation_generation,
            reservation,
            acknowledge: None,
        })
    }

    /// Whether a host's command is refused by a reservation. No lock unless the reservation has changed.
    #[inline]
    pub(super) fn conflicts(&mut self, host: &HostId, access: Access) -> bool {
        if self.shared.reservations.generation() != self.reservation_generation {
            self.refresh_reservation();
        }
        self.reservation.kind != ReservationType::NONE && self.reservation.conflicts(host, access)
    }

    #[cold]
    fn refresh_reservation(&mut self) {
        (self.reservation_generation, self.reservation) = self.shared.reservations.snapshot();
    }

    /// Whether nobody else has claimed a part of what this operation writes.
    #[inline]
    pub(super) fn admits(&self, op: &Op) -> bool {
        let (lba, blocks) = match op {
            Op::Read { .. } | Op::Flush => return true,
            Op::Write { lba, buffer, .. } => (*lba, buffer.len() as u64 >> self.block_shift),
            Op::WriteZeroes { lba, blocks, .. } | Op::Deallocate { lba, blocks } => {
                (*lba, u64::from(*blocks))
            }
        };
        self.admits_write(lba, blocks)
    }

    #[inline]
    pub(super) fn admits_write(&self, lba: Lba, blocks: u64) -> bool {
        self.shared.guard.admits(lba, blocks)
    }

    /// Lets the device [take over](crate::device::Queue::take_over) a write, unless others wait for it already.
    #[inline]
    pub(super) fn take_over(&mut self, lba: Lba, buffer: IoBuf) -> Result<(), IoBuf> {
        if self.backlog.is_empty() { self.queue.take_over(lba, buffer) } else { Err(buffer) }
    }

    /// Hands an operation to the device; what it is finished with, if it is.
    #[inline]
    pub(super) fn submit(&mut self, tag: u32, op: Op) -> Option<IoDone> {
        let io = Io { tag: u64::from(tag), op };
        if !self.backlog.is_empty() || !self.shared.limits.take(&io.op, self.block_size) {
            self.backlog.push_back(io);
            return None;
        }
        match self.queue.submit(io) {
            Submission::Done(done) => Some(done),
            Submission::Queued => None,
            Submission::Busy(io) => {
                self.backlog.push_back(io);
                self.first_is_paid = true;
                None
            }
        }
    }

    /// Tries what the device had no room for. What finishes at once is handed to `done`.
    pub(super) fn retry_backlog(&mut self, mut done: impl FnMut(IoDone)) {
        while let Some(io) = self.backlog.pop_front() {
            let paid = std::mem::take(&mut self.first_is_paid);
            if !paid && !self.shared.limits.take(&io.op, self.block_size) {
                self.backlog.push_front(io);
                return;
            }
            match self.queue.submit(io) {
                Submission::Done(finished) => done(finished),
                Submission::Queued => {}
                Submission::Busy(io) => {
                    self.backlog.push_front(io);
                    self.first_is_paid = true;
                    return;
                }
            }
        }
    }

    /// How long until the limits let the next I/O start, in nanoseconds; `None` when they hold nothing up.
    pub(super) fn held_up_ns(&self) -> Option<u64> {
        let held_up = !self.backlog.is_empty() && !self.first_is_paid;
        held_up.then(|| self.shared.limits.wait_ns())
    }

    /// Takes an I/O out of the backlog.
    pub(super) fn withdraw(&mut self, tag: u32) -> bool {
        let before = self.backlog.len();
        if self.backlog.front().is_some_and(|io| io.tag == u64::from(tag)) {
            self.first_is_paid = false;
        }
        self.backlog.retain(|io| io.tag != u64::from(tag));
        self.backlog.len() < before
    }

    /// Counts an I/O as in flight; the half it is in, for [`Self::leave`].
    #[inline]
    pub(super) fn enter(&mut self) -> bool {
        self.in_flight[usize::from(self.parity)] += 1;
        self.parity
    }

    /// An I/O is finished. Barriers that are passed now are handed over.
    #[inline]
    pub(super) fn leave(&mut self, parity: bool) -> Vec<Arc<Barrier>> {
        self.in_flight[usize::from(parity)] -= 1;
        if self.draining.is_empty() { Vec::new() } else { self.passed() }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight[0] + self.in_flight[1]
    }

    /// Adds a barrier; those that are passed at once are handed over.
    pub(super) fn drain(&mut self, barrier: Arc<Barrier>) -> Vec<Arc<Barrier>> {
        self.waiting.push(barrier);
        self.passed()
    }

    fn passed(&mut self) -> Vec<Arc<Barrier>> {
        let mut passed = Vec::new();
        loop {
            if self.draining.is_empty() {
                if self.waiting.is_empty() {
                    return passed;
                }
                self.draining = std::mem::take(&mut self.waiting);
                self.parity = !self.parity;
            }
            if self.in_flight[usize::from(!self.parity)] > 0 {
                return passed;
            }
            passed.append(&mut self.draining);
        }
    }

    /// Whether nothing of it is under way, so that it may go.
    pub(super) fn is_drained(&self) -> bool {
        self.in_flight() == 0 && self.backlog.is_empty() && self.held == 0
    }

    /// How a command for a namespace that was removed ends.
    pub(super) const GONE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.dnr();
}
