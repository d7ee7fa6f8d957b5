//! What devices said, for everyone in the process who wants to know.
//!
//! librdmacm opens a device once for the process, and what a device says comes once. Whoever finds it writes it down here,
//! where everyone reads from where they were; who sleeps is woken. What somebody left unread for too long is lost to them:
//! connections then end as they do without these events, by their completions or by keep-alive.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Events kept. Some devices tell of every queue pair at once.
const KEPT_MAX: usize = 4096;

/// What was heard last, and who reads it.
pub(super) struct Heard<E> {
    inner: Mutex<Inner<E>>,
}

struct Inner<E> {
    events: VecDeque<E>,
    /// The number of the first event in `events`.
    first: u64,
    bells: Vec<Weak<OwnedFd>>,
}

impl<E> Inner<E> {
    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }
}

/// Someone's place in what was heard.
pub(super) struct Reader {
    place: Mutex<Place>,
    bell: Arc<OwnedFd>,
}

struct Place {
    /// The next to read.
    at: u64,
    /// What came from this on has rung.
    quiet: u64,
}

impl<E: Copy> Heard<E> {
    pub(super) const fn new() -> Self {
        let inner = Inner { events: VecDeque::new(), first: 0, bells: Vec::new() };
        Self { inner: Mutex::new(inner) }
    }

    /// Reads what is heard from now on.
    pub(super) fn reader(&self) -> Result<Reader, Errno> {
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let mut inner = self.lock();
        inner.bells.retain(|bell| bell.strong_count() > 0);
        inner.bells.push(Arc::downgrade(&bell));
        let place = Place { at: inner.next(), quiet: inner.next() };
        Ok(Reader { place: Mutex::new(place), bell })
    }

    /// Writes down what a device said, and wakes everyone.
    pub(super) fn write(&self, event: E) {
        let mut inner = self.lock();
        if inner.events.len() == KEPT_MAX {
            inner.events.pop_front();
            inner.first += 1;
        }
        inner.events.push_back(event);
        for bell in inner.bells.iter().filter_map(Weak::upgrade) {
            // It is read by its owner whenever that one looks, so that it cannot overflow.
            let _ = rustix::io::write(&*bell, &1_u64.to_ne_bytes());
        }
    }

    /// The next event that a reader has not seen.
    pub(super) fn read(&self, reader: &Reader) -> Option<E> {
        let mut place = reader.place.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = self.lock();
        let from = place.at.max(inner.first);
        let found =
            usize::try_from(from - inner.first).ok().and_then(|index| inner.events.get(index)).copied();
        place.at = from + u64::from(found.is_some());
        if found.is_none() && place.quiet != inner.next() {
            // It rang, and cannot fail to be read.
            let _ = rustix::io::read(&*reader.bell, &mut [0_u8; 8]);
            place.quiet = inner.next();
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Inner<E>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Reader {
    /// Readable while there may be something to read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn rings(reader: &Reader) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&now)).unwrap() > 0
    }

    #[test]
    fn everyone_reads_everything_that_is_heard_after_they_came_once() {
        let heard = Heard::new();
        heard.write(1);
        let (one, two) = (heard.reader().unwrap(), heard.reader().unwrap());
        assert_eq!(heard.read(&one), None);
        heard.write(2);
        heard.write(3);
        assert_eq!([heard.read(&one), heard.read(&one), heard.read(&one)], [Some(2), Some(3), None]);
        let late = heard.reader().unwrap();
        heard.write(4);
        let all = [heard.read(&two), heard.read(&two), heard.read(&two), heard.read(&two)];
        assert_eq!(all, [Some(2), Some(3), Some(4), None]);
        assert_eq!([heard.read(&late), heard.read(&late)], [Some(4), None]);
    }

    #[test]
    fn whoever_did_not_look_is_woken_until_they_have_read_all() {
        let heard = Heard::new();
        let (one, two) = (heard.reader().unwrap(), heard.reader().unwrap());
        assert!(!rings(&one));
        heard.write('a');
        assert_eq!([heard.read(&one), heard.read(&one)], [Some('a'), None]);
        assert!(!rings(&one));
        assert!(rings(&two));
        assert_eq!(heard.read(&two), Some('a'));
        assert!(rings(&two), "it does not know yet that this was all");
        assert_eq!(heard.read(&two), None);
        assert!(!rings(&two));
    }

    #[test]
    fn what_nobody_reads_does_not_grow_and_the_oldest_is_lost_first() {
        let heard = Heard::new();
        let slow = heard.reader().unwrap();
        (0..KEPT_MAX + 10).for_each(|event| heard.write(event));
        let read: Vec<usize> = std::iter::from_fn(|| heard.read(&slow)).collect();
        assert_eq!(read, (10..KEPT_MAX + 10).collect::<Vec<_>>());
        drop(slow);
        drop(heard.reader().unwrap());
        assert_eq!(heard.lock().bells.len(), 1);
    }
}
