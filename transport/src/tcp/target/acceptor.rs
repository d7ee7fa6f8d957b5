//! Accepts connections for one transport and places them over its reactors.
//!
//! Invariants: a turn accepts at most [`ACCEPTS_PER_TURN`]; when descriptors or memory run out, accepting pauses and
//! the peers wait in the kernel's backlog; nobody spins, and the reactor may sleep through the pause.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reactors::{Poller, Timestamp, Turn, Work};
use rustix::io::Errno;

use super::control::{Listener, TcpTarget};
use crate::drivers::PlaceError;
use crate::ready::Interest;
use crate::tcp::socket;
use crate::{ListenerId, Peer, TransportKind};

/// Connections accepted per turn: a storm of them costs the reactor's other work at most some 100 µs a turn.
const ACCEPTS_PER_TURN: usize = 16;
/// How often listeners are looked at while the reactor is awake: no one notices a connect that takes 1 ms longer.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Pause after the process ran out of descriptors or memory.
const STARVED_PAUSE: Duration = Duration::from_millis(100);

/// The accepting side of a [`TcpTarget`]: a poller of one reactor.
pub struct Acceptor {
    target: Arc<TcpTarget>,
    next_look: Timestamp,
    paused: Vec<ListenerId>,
    resume: Timestamp,
}

/// How accepting from one listener ended.
enum Batch {
    /// None waits any more.
    Empty,
    /// The turn's budget is used up.
    Budget,
    /// Out of descriptors or memory.
    Starved,
}

impl Acceptor {
    /// The acceptor of `target`. One is enough; add it to one reactor.
    pub fn new(target: &Arc<TcpTarget>) -> Self {
        Self {
            target: Arc::clone(target),
            next_look: Timestamp::ZERO,
            paused: Vec::new(),
            resume: Timestamp::MAX,
        }
    }

    fn look(&mut self, now: Timestamp) -> Work {
        let mut budget = ACCEPTS_PER_TURN;
        for event in self.target.ready.poll() {
            let Ok(number) = u32::try_from(event.key) else { continue };
            let id = ListenerId(number);
            let Some(listener) = self.target.listener(id) else { continue };
            if matches!(self.accept(id, &listener, &mut budget), Batch::Starved) {
                self.pause(id, &listener, now);
            }
        }
        Work::from(budget < ACCEPTS_PER_TURN)
    }

    fn accept(&self, id: ListenerId, listener: &Listener, budget: &mut usize) -> Batch {
        while *budget > 0 {
            match socket::accept(&listener.fd) {
                Ok((fd, remote)) => {
                    *budget -= 1;
                    self.place(id, fd, remote);
                }
                Err(Errno::AGAIN) => return Batch::Empty,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => return Batch::Starved,
                // That one connection failed before we took it (accept(2), "Error handling").
                Err(_) => *budget -= 1,
            }
        }
        Batch::Budget
    }

    fn place(&self, listener: ListenerId, fd: OwnedFd, remote: SocketAddr) {
        let ready = socket::tune(&fd).and_then(|()| socket::local_address(&fd));
        // It was reset already: there is nobody to tell.
        let Ok(local) = ready else { return };
        let peer = Peer { transport: TransportKind::Tcp, listener, local, remote };
        match self.target.place(fd, peer) {
            Ok(()) => count(&self.target.accept.accepted),
            Err(error) => {
                count(&self.target.accept.refused);
                self.refused(remote, error);
            }
        }
    }

    fn refused(&self, remote: SocketAddr, error: PlaceError) {
        let limit = self.target.connections_max();
        match error {
            PlaceError::Limit => tracing::warn!(%remote, limit, "connection refused: the limit is reached"),
            PlaceError::NoDriver => tracing::warn!(%remote, "connection refused: no reactor can take it"),
        }
    }

    fn pause(&mut self, id: ListenerId, listener: &Listener, now: Timestamp) {
        count(&self.target.accept.starved);
        tracing::warn!(address = %listener.address, "out of descriptors or memory: accepting pauses");
        self.watch(id, listener, Interest { read: false, write: false });
        self.paused.push(id);
        self.resume = now + STARVED_PAUSE;
    }

    fn resume(&mut self) {
        self.resume = Timestamp::MAX;
        for id in std::mem::take(&mut self.paused) {
            if let Some(listener) = self.target.listener(id) {
                self.watch(id, &listener, Interest::READ);
            }
        }
    }

    fn watch(&self, id: ListenerId, listener: &Listener, interest: Interest) {
        // It fails only when the listener was removed meanwhile.
        let _ = self.target.ready.modify(&listener.fd, u64::from(id.0), interest);
    }
}

impl Poller for Acceptor {
    fn name(&self) -> &str {
        "tcp acceptor"
    }

    fn poll(&mut self, turn: &mut Turn<'_>) -> Work {
        let now = turn.now();
        if now < self.next_look {
            return Work::Idle;
        }
        self.next_look = now + LOOK_INTERVAL;
        if now >= self.resume {
            self.resume();
        }
        self.look(now)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.target.ready.as_fd())
    }

    fn before_sleep(&mut self, _turn: &mut Turn<'_>) -> bool {
        // What woke the reactor is looked for at once.
        self.next_look = Timestamp::ZERO;
        true
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        (self.resume != Timestamp::MAX).then_some(self.resume)
    }

    fn drain(&mut self, _turn: &mut Turn<'_>) -> bool {
        self.target.close_listeners();
        true
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
