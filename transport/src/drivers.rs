//! The drivers of one transport, one per reactor, as its acceptor and management see them: who takes the next connection, how
//! many there are, how to ask each.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reactors::mailbox::{MailboxSender, SendError};
use reactors::reply::{self, Replier, Reply};

/// What a driver shares: how many connections it has, and its counters.
#[derive(Default)]
pub(crate) struct Load<S> {
    pub(crate) connections: AtomicU32,
    pub(crate) stats: S,
}

impl<S> Load<S> {
    /// A connection that was placed with the driver is gone.
    pub(crate) fn let_go(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Driver<M, S> {
    mailbox: MailboxSender<M>,
    load: Arc<Load<S>>,
}

/// Every driver of a transport. `M` is what they are told, `S` their counters.
pub(crate) struct Drivers<M, S> {
    list: Mutex<Vec<Driver<M, S>>>,
}

/// Why a connection was not placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PlaceError {
    /// As many connections as allowed are open.
    Limit,
    /// No reactor drives this transport, or its mailbox is full.
    NoDriver,
}

impl<M, S> Drivers<M, S> {
    pub(crate) fn new() -> Self {
        Self { list: Mutex::default() }
    }

    pub(crate) fn add(&self, mailbox: MailboxSender<M>, load: Arc<Load<S>>) {
        self.lock().push(Driver { mailbox, load });
    }

    /// Connections open or being placed.
    pub(crate) fn connections(&self) -> u32 {
        self.lock().iter().map(|driver| driver.load.connections.load(Ordering::Relaxed)).sum()
    }

    /// What `read` makes of each driver's counters, in the order they were added.
    pub(crate) fn stats<T>(&self, read: impl Fn(&S) -> T) -> Vec<T> {
        self.lock().iter().map(|driver| read(&driver.load.stats)).collect()
    }

    /// Gives a connection to the driver with the fewest, and counts it there. Hands it back when none can take it.
    pub(crate) fn place(&self, connections_max: u32, connection: M) -> Result<(), (PlaceError, M)> {
        let drivers = self.lock();
        let total: u32 = drivers.iter().map(|driver| driver.load.connections.load(Ordering::Relaxed)).sum();
        if total >= connections_max {
            return Err((PlaceError::Limit, connection));
        }
        let running = drivers.iter().filter(|driver| !driver.mailbox.is_closed());
        let least = running.min_by_key(|driver| driver.load.connections.load(Ordering::Relaxed));
        let Some(driver) = least else { return Err((PlaceError::NoDriver, connection)) };
        driver.load.connections.fetch_add(1, Ordering::Relaxed);
        driver.mailbox.send(connection).map_err(|refused| {
            driver.load.let_go();
            let (SendError::Full(back) | SendError::Closed(back)) = refused;
            (PlaceError::NoDriver, back)
        })
    }

    /// Tells every driver. Never call it on a reactor.
    pub(crate) fn tell(&self, message: impl Fn() -> M) {
        for driver in self.lock().iter() {
            send_patiently(&driver.mailbox, message());
        }
    }

    /// Asks every driver. Never call it on a reactor.
    pub(crate) fn ask<T>(&self, message: impl Fn(Replier<T>) -> M) -> Vec<Reply<T>> {
        let mut replies = Vec::new();
        for driver in self.lock().iter() {
            let (replier, reply) = reply::channel();
            send_patiently(&driver.mailbox, message(replier));
            replies.push(reply);
        }
        replies
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Driver<M, S>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends from a management thread: waits while the reactor has too many messages, gives up when it is gone.
fn send_patiently<M>(mailbox: &MailboxSender<M>, mut message: M) {
    loop {
        match mailbox.send(message) {
            Ok(()) | Err(SendError::Closed(_)) => return,
            Err(SendError::Full(back)) => message = back,
        }
        std::thread::yield_now();
    }
}
