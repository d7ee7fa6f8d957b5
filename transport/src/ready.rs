//! Readiness: one level-triggered epoll set.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// Events taken per wait. More than that are found at the next one: the kernel rotates its list, so none starves.
const EVENTS_PER_WAIT: usize = 64;

/// A driver that receives from its busy connections without asking epoll asks at least this often, for the others.
pub(crate) const EPOLL_INTERVAL_NS: u64 = 20_000;

/// What one wait found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Readiness {
    /// What the descriptor was added with.
    pub(crate) key: u64,
    /// Bytes, an end, or an error wait to be received.
    pub(crate) readable: bool,
    /// The socket takes bytes again, or failed.
    pub(crate) writable: bool,
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interest {
    /// Data to receive, or the peer's end.
    pub(crate) read: bool,
    /// Space to send.
    pub(crate) write: bool,
}

impl Interest {
    /// Data to receive only.
    pub(crate) const READ: Self = Self { read: true, write: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// An epoll set. A descriptor leaves it when it is closed.
pub(crate) struct ReadySet {
    epoll: OwnedFd,
}

impl ReadySet {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    pub(crate) fn add(&self, fd: impl AsFd, key: u64, interest: Interest) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(key), interest.flags())
    }

    pub(crate) fn modify(&self, fd: impl AsFd, key: u64, interest: Interest) -> Result<(), Errno> {
        epoll::modify(&self.epoll, fd, EventData::new_u64(key), interest.flags())
    }

    pub(crate) fn remove(&self, fd: impl AsFd) -> Result<(), Errno> {
        epoll::delete(&self.epoll, fd)
    }

    /// What is ready now. Never blocks.
    pub(crate) fn poll(&self) -> ArrayVec<Readiness, EVENTS_PER_WAIT> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_PER_WAIT];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A wait of zero on our own descriptor fails only when a signal came: the next turn asks again.
        match epoll::wait(&self.epoll, &mut events, Some(&zero)) {
            Ok((ready, _)) => ready.iter().map(|event| readiness(*event)).collect(),
            Err(_) => ArrayVec::new(),
        }
    }
}

impl AsFd for ReadySet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn readiness(event: Event) -> Readiness {
    let flags = event.flags;
    let failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
    Readiness {
        key: { event.data }.u64(),
        readable: failed || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
        writable: failed || flags.contains(EventFlags::OUT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    #[test]
    fn readiness_carries_the_key_and_stays_until_it_is_read() {
        let set = ReadySet::new().unwrap();
        let (reader, writer) = pipe().unwrap();
        set.add(&reader, 7, Interest::READ).unwrap();
        assert!(set.poll().is_empty());
        rustix::io::write(&writer, b"x").unwrap();
        for _ in 0..2 {
            assert_eq!(set.poll()[..], [Readiness { key: 7, readable: true, writable: false }]);
        }
        rustix::io::read(&reader, &mut [0_u8; 8]).unwrap();
        assert!(set.poll().is_empty());
    }

    #[test]
    fn a_closed_descriptor_leaves_the_set() {
        let set = ReadySet::new().unwrap();
        let (reader, writer) = pipe().unwrap();
        set.add(&reader, 1, Interest::READ).unwrap();
        drop(writer);
        assert!(set.poll()[0].readable);
        drop(reader);
        assert!(set.poll().is_empty());
    }
}
