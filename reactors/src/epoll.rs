//! The descriptors a sleeping reactor waits for.
//!
//! Invariant: the notifier's eventfd is edge-triggered, so each write wakes once and the counter is never read; pollers'
//! descriptors are level-triggered, so work that is left over wakes again.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

use crate::mailbox::Notifier;

/// Events taken a wake-up. Every poller is polled after any wake-up, so more would tell nothing new.
const EVENTS_PER_WAKE: usize = 16;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

pub(crate) struct WakeSet {
    epoll: OwnedFd,
}

impl WakeSet {
    pub(crate) fn new(notifier: &Notifier) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, notifier, epoll::EventData::new_u64(0), flags)?;
        Ok(Self { epoll })
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Sleeps until a descriptor is ready, `limit_ns` is over (never earlier), or a signal came.
    pub(crate) fn wait(&self, limit_ns: Option<u64>) {
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [nothing; EVENTS_PER_WAKE];
        let limit = limit_ns.map(timespec);
        match epoll::wait(&self.epoll, &mut events, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => debug_assert!(false, "epoll_wait on our own descriptor failed: {error}"),
        }
    }
}

fn timespec(nanos: u64) -> Timespec {
    let split = (i64::try_from(nanos / NANOS_PER_SECOND), i64::try_from(nanos % NANOS_PER_SECOND));
    match split {
        (Ok(tv_sec), Ok(tv_nsec)) => Timespec { tv_sec, tv_nsec },
        _ => Timespec { tv_sec: i64::MAX, tv_nsec: 0 },
    }
}
