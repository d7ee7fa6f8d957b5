//! What a reactor runs: pollers, and what it lends them during a turn.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::dma::DmaPool;
use crate::local::LocalHandle;
use crate::time::Timestamp;
use crate::timers::{TimerId, TimerToken, TimerWheel};

/// The number of a reactor within its group, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReactorId(pub u16);

impl fmt::Display for ReactorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a poller of one reactor. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollerId(pub(crate) u32);

/// Whether a poll found anything to do. It decides whether the reactor may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing to do.
    Idle,
    /// Something was done: poll again soon.
    Busy,
}

impl Work {
    /// Whether something was done.
    #[inline]
    #[must_use]
    pub fn is_busy(self) -> bool {
        self == Self::Busy
    }
}

impl From<bool> for Work {
    #[inline]
    fn from(busy: bool) -> Self {
        if busy { Self::Busy } else { Self::Idle }
    }
}

impl BitOr for Work {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self::from(self.is_busy() | other.is_busy())
    }
}

impl BitOrAssign for Work {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// Something a reactor calls every turn, in the order the pollers were added.
///
/// Pollers live on their reactor's thread and need not be `Send`: build them there, in a closure given to
/// [`ReactorHandle::run`](crate::ReactorHandle::run). They never block.
pub trait Poller {
    /// What stall warnings call it.
    fn name(&self) -> &str;

    /// Does what there is to do, in bounded time.
    fn poll(&mut self, turn: &mut Turn<'_>) -> Work;

    /// A descriptor that is readable while there may be work. The sleeping reactor waits for it, level-triggered.
    ///
    /// Asked once, when the poller is added: it must stay the same and stay open while the poller lives. A poller with
    /// many descriptors gives an epoll or io_uring descriptor.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The reactor is about to sleep: arm interrupts. `false` when there is work after all; then it does not sleep.
    ///
    /// Called after an idle turn, so work that came since its `poll` must be seen either here or by the descriptor.
    fn before_sleep(&mut self, _turn: &mut Turn<'_>) -> bool {
        true
    }

    /// Undoes [`Poller::before_sleep`]; called once for every call of it, whatever it answered.
    fn after_sleep(&mut self) {}

    /// When the poller wants to be polled at the latest, if it has no timer for it. Asked just before sleep.
    fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// A timer armed by this poller fired.
    fn on_timer(&mut self, _token: TimerToken, _turn: &mut Turn<'_>) {}

    /// The reactor is asked to stop: take no new work, finish what is in flight, close connections in order.
    ///
    /// Called every turn, beside `poll`, from the request to stop on; `true` when drained. The reactor stops in the first
    /// turn in which every poller says so, or when the drain time is over. Pollers are dropped last-added first.
    fn drain(&mut self, _turn: &mut Turn<'_>) -> bool {
        true
    }
}

/// What a poller may use during one turn.
pub struct Turn<'a> {
    now: Timestamp,
    owner: PollerId,
    wheel: &'a mut TimerWheel,
    local: &'a LocalHandle,
}

impl<'a> Turn<'a> {
    #[inline]
    pub(crate) fn new(
        now: Timestamp,
        owner: PollerId,
        wheel: &'a mut TimerWheel,
        local: &'a LocalHandle,
    ) -> Self {
        Self { now, owner, wheel, local }
    }

    /// The time at which the turn started.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The reactor this runs on.
    #[inline]
    #[must_use]
    pub fn reactor(&self) -> ReactorId {
        self.local.id()
    }

    /// The poller that is being called.
    #[inline]
    #[must_use]
    pub fn poller(&self) -> PollerId {
        self.owner
    }

    /// The reactor's buffers.
    #[inline]
    #[must_use]
    pub fn pool(&self) -> &'a DmaPool {
        self.local.pool()
    }

    /// The reactor's slow-path services: tasks, deferred work, mailboxes.
    #[inline]
    #[must_use]
    pub fn local(&self) -> &'a LocalHandle {
        self.local
    }

    /// Arms a timer: the poller gets [`Poller::on_timer`] with `token`, never before `deadline`.
    ///
    /// A deadline in the past fires at the next [`TIMER_TICK`](crate::TIMER_TICK). Timers end with their poller.
    pub fn arm(&mut self, deadline: Timestamp, token: TimerToken) -> TimerId {
        self.wheel.arm(deadline, token, self.owner)
    }

    /// Arms a timer `delay` from the start of this turn.
    pub fn arm_after(&mut self, delay: Duration, token: TimerToken) -> TimerId {
        self.arm(self.now + delay, token)
    }

    /// Cancels a timer. `false` when it had fired or was cancelled before.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        self.wheel.cancel(timer)
    }
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("now", &self.now).field("owner", &self.owner).finish_non_exhaustive()
    }
}
