//! A point in time as a descriptor, for a queue to wake its reactor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fabrics::Now;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

const NS_PER_S: u64 = 1_000_000_000;

/// A timer that is readable once its time has come.
pub(in crate::device) struct Alarm(OwnedFd);

impl Alarm {
    pub(in crate::device) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Wakes at `deadline`, or not at all for [`Now::NEVER`]. Replaces the deadline before; a timer that fired is quiet
    /// again.
    pub(in crate::device) fn arm(&self, deadline: Now, now: Now) {
        // A value of zero would turn the timer off.
        let ns = if deadline == Now::NEVER { 0 } else { deadline.since(now).max(1) };
        let value = Timespec {
            tv_sec: i64::try_from(ns / NS_PER_S).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % NS_PER_S).unwrap_or(0),
        };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: interval, it_value: value };
        // It fails only for times that are none.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec);
    }

    pub(in crate::device) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn is_ready(alarm: &Alarm, ms: i64) -> bool {
        let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        poll(&mut [PollFd::from_borrowed_fd(alarm.as_fd(), PollFlags::IN)], Some(&timeout)).unwrap() > 0
    }

    #[test]
    fn a_deadline_wakes_and_the_next_one_makes_quiet_again() {
        let alarm = Alarm::new().unwrap();
        assert!(!is_ready(&alarm, 0));
        alarm.arm(Now(5), Now(10));
        assert!(is_ready(&alarm, 10_000));
        alarm.arm(Now::NEVER, Now(10));
        assert!(!is_ready(&alarm, 0));
    }
}
