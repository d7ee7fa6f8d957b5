//! Bounded mailboxes into a reactor, and the notifier that wakes it.
//!
//! Any thread may send; the reactor that owns the [`Mailbox`] receives. Sending never blocks and never allocates: a full
//! mailbox hands the item back. The eventfd is written only when the reactor sleeps.
//!
//! Invariants
//! - An item that was accepted is received, or dropped when the mailbox is: it never stays behind in the queue.
//! - A reactor does not sleep while one of its mailboxes holds an item (see [`gate`]).

pub mod gate;

mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use sync::{AtomicBool, Ordering, fence};

use gate::SleepGate;

/// Wakes one sleeping reactor. Shared by everything that can give that reactor work from outside.
#[derive(Debug)]
pub struct Notifier {
    gate: SleepGate,
    event: OwnedFd,
}

impl Notifier {
    /// A notifier with an eventfd of its own.
    ///
    /// # Errors
    /// When the process is out of file descriptors or memory.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { gate: SleepGate::new(), event }))
    }

    /// Wakes the reactor if it sleeps. Call it after the work was published. Async-signal-safe.
    #[inline]
    pub fn notify(&self) {
        if self.gate.must_raise() {
            // The counter overflows only after 2^64 - 1 wake-ups; the write has no other way to fail.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    pub(crate) fn gate(&self) -> &SleepGate {
        &self.gate
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Whether something waits to be looked at; asked just before the reactor sleeps.
pub(crate) trait Pending: Send + Sync {
    fn has_pending(&self) -> bool;
}

struct Shared<T> {
    queue: ArrayQueue<T>,
    closed: AtomicBool,
    notifier: Arc<Notifier>,
}

impl<T: Send> Pending for Shared<T> {
    fn has_pending(&self) -> bool {
        !self.queue.is_empty()
    }
}

impl<T> Shared<T> {
    fn discard_all(&self) {
        while self.queue.pop().is_some() {}
    }
}

/// Why an item was not accepted. The item comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError<T> {
    /// As many items wait as fit.
    #[error("the mailbox is full")]
    Full(T),
    /// The receiver is gone.
    #[error("the mailbox is closed")]
    Closed(T),
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

/// The sending end; clone it for every thread that sends.
pub struct MailboxSender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for MailboxSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailboxSender").field("len", &self.shared.queue.len()).finish_non_exhaustive()
    }
}

impl<T> MailboxSender<T> {
    /// Puts `item` into the mailbox and wakes the reactor if it sleeps. Items of one sender arrive in order.
    ///
    /// An item sent while the receiver goes away may be accepted and then dropped.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::Closed`], with the item.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        let shared = &*self.shared;
        if shared.closed.load(Ordering::Relaxed) {
            return Err(SendError::Closed(item));
        }
        shared.queue.push(item).map_err(SendError::Full)?;
        shared.notifier.notify();
        fence(Ordering::SeqCst);
        if shared.closed.load(Ordering::Relaxed) {
            shared.discard_all();
        }
        Ok(())
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }
}

/// The receiving end: owned by one reactor, usually inside a poller.
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("len", &self.shared.queue.len()).finish_non_exhaustive()
    }
}

impl<T> Mailbox<T> {
    /// A mailbox for `capacity` items whose senders wake the reactor behind `notifier`.
    ///
    /// Use [`LocalHandle::mailbox`](crate::LocalHandle::mailbox), which also makes the reactor look at it before sleep.
    ///
    /// # Panics
    /// When `capacity` is zero.
    pub(crate) fn new(capacity: usize, notifier: Arc<Notifier>) -> (MailboxSender<T>, Self) {
        let shared =
            Arc::new(Shared { queue: ArrayQueue::new(capacity), closed: AtomicBool::new(false), notifier });
        (MailboxSender { shared: Arc::clone(&shared) }, Self { shared })
    }

    /// The oldest item.
    #[inline]
    pub fn recv(&mut self) -> Option<T> {
        // `is_empty` is two plain loads; `pop` on an empty queue is a full fence.
        if self.is_empty() { None } else { self.shared.queue.pop() }
    }

    /// Whether nothing waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }

    pub(crate) fn pending(&self) -> Arc<dyn Pending>
    where
        T: Send + 'static,
    {
        Arc::clone(&self.shared) as Arc<dyn Pending>
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        // Either this sees a late item, or its sender sees `closed`: the same argument as in `gate`.
        self.shared.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.shared.discard_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox<T>(capacity: usize) -> (MailboxSender<T>, Mailbox<T>) {
        Mailbox::new(capacity, Notifier::new().unwrap())
    }

    #[test]
    fn items_arrive_in_order_and_a_full_mailbox_hands_them_back() {
        let (sender, mut mailbox) = mailbox(2);
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        assert_eq!(sender.send(3), Err(SendError::Full(3)));
        assert_eq!(mailbox.recv(), Some(1));
        sender.send(4).unwrap();
        assert_eq!((mailbox.recv(), mailbox.recv(), mailbox.recv()), (Some(2), Some(4), None));
    }

    #[test]
    fn a_closed_mailbox_drops_what_it_held_and_refuses_more() {
        let (sender, mailbox) = mailbox(4);
        let item = Arc::new(());
        sender.send(Arc::clone(&item)).unwrap();
        drop(mailbox);
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(sender.is_closed());
        assert!(matches!(sender.send(Arc::clone(&item)), Err(SendError::Closed(_))));
    }

    #[test]
    fn nothing_stays_behind_when_senders_race_with_the_close() {
        for _ in 0..200 {
            let (sender, mailbox) = mailbox(64);
            let item = Arc::new(());
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    let (sender, item) = (sender.clone(), Arc::clone(&item));
                    scope.spawn(move || {
                        for _ in 0..32 {
                            let _ = sender.send(Arc::clone(&item));
                        }
                    });
                }
                scope.spawn(move || drop(mailbox));
            });
            assert_eq!(Arc::strong_count(&item), 1);
        }
    }

    #[test]
    fn the_eventfd_is_written_only_for_a_sleeper_and_once() {
        let notifier = Notifier::new().unwrap();
        let mut counter = [0_u8; 8];
        notifier.notify();
        assert_eq!(rustix::io::read(&*notifier, &mut counter), Err(rustix::io::Errno::AGAIN));
        notifier.gate().prepare();
        notifier.notify();
        notifier.notify();
        assert_eq!(rustix::io::read(&*notifier, &mut counter), Ok(8));
        assert_eq!(u64::from_ne_bytes(counter), 1);
    }
}
