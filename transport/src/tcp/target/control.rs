//! One TCP transport of the process: what management holds, and what its acceptor and drivers share.
//!
//! Invariants: a listener is in the acceptor's epoll set exactly while it is in the table; a connection counts towards
//! `connections` and its reactor's load from the moment it is placed until its driver let go of it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabrics::tcp::target::TargetParams;
use reactors::reply::{Replier, Reply};
use rustix::io::Errno;

use super::stats::{ConnectionStats, ReactorStats, ReactorTraffic};
use crate::drivers::{Drivers, PlaceError};
use crate::ready::{Interest, ReadySet};
use crate::tcp::socket;
use crate::{ListenerId, Peer, TransportId};

/// A listening socket with its address.
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) address: SocketAddr,
}

/// What a driver is told from outside.
pub(super) enum Message {
    /// A connection was accepted and placed here.
    Accepted(OwnedFd, Peer),
    /// End the connections that came in through this listener.
    CloseListener(ListenerId),
    /// List the open connections.
    List(Replier<Vec<ConnectionStats>>),
    /// Finish what is in flight, close everything, take nothing new; then reply.
    Drain(Replier<()>),
}

/// Counters of the acceptor.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AcceptStats {
    /// Connections accepted and placed.
    pub accepted: u64,
    /// Connections closed at once because the limit was reached or no reactor could take them.
    pub refused: u64,
    /// Times accepting paused because the process was out of descriptors or memory.
    pub starved: u64,
}

#[derive(Default)]
pub(super) struct AcceptCells {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) starved: AtomicU64,
}

/// A TCP transport: listeners, limit, drivers. Shared by management, the acceptor and every driver.
pub struct TcpTarget {
    id: TransportId,
    connections_max: u32,
    params: TargetParams,
    next_listener: AtomicU32,
    listeners: Mutex<BTreeMap<ListenerId, Arc<Listener>>>,
    drivers: Drivers<Message, ReactorStats>,
    draining: AtomicBool,
    pub(super) ready: ReadySet,
    pub(super) accept: AcceptCells,
}

/// Why an address is not listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system refused: the address is not ours, is taken, or needs a privilege.
    #[error("cannot listen on {address}: {source}")]
    System {
        /// What was asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The transport is shutting down.
    #[error("the transport is shutting down")]
    Draining,
}

impl TcpTarget {
    /// A transport without listeners or drivers that holds at most `connections_max` connections; each speaks NVMe/TCP
    /// as `params` says.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(id: TransportId, connections_max: u32, params: TargetParams) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            id,
            connections_max,
            params,
            next_listener: AtomicU32::new(0),
            listeners: Mutex::default(),
            drivers: Drivers::new(),
            draining: AtomicBool::new(false),
            ready: ReadySet::new()?,
            accept: AcceptCells::default(),
        }))
    }

    /// The identifier it was made with.
    pub fn id(&self) -> TransportId {
        self.id
    }

    /// What every connection offers its host.
    pub fn params(&self) -> &TargetParams {
        &self.params
    }

    /// Listens on `address`; port 0 takes a free one. Returns the address in use. Any thread.
    ///
    /// # Errors
    /// [`ListenError`] with the system's reason.
    pub fn listen(&self, address: SocketAddr) -> Result<(ListenerId, SocketAddr), ListenError> {
        if self.is_draining() {
            return Err(ListenError::Draining);
        }
        let failed = |errno: Errno| ListenError::System { address, source: errno.into() };
        let (fd, bound) = socket::listen(address).map_err(failed)?;
        let id = ListenerId(self.next_listener.fetch_add(1, Ordering::Relaxed));
        let listener = Arc::new(Listener { fd, address: bound });
        let mut listeners = self.lock_listeners();
        self.ready.add(&listener.fd, u64::from(id.0), Interest::READ).map_err(failed)?;
        listeners.insert(id, listener);
        Ok((id, bound))
    }

    /// Stops listening; the port is free when this returns. Connections stay unless `close_connections`.
    /// `false`: there was no such listener. Any thread.
    pub fn unlisten(&self, id: ListenerId, close_connections: bool) -> bool {
        let Some(listener) = self.lock_listeners().remove(&id) else { return false };
        // Errors say only that it is not in the set, which is what we want.
        let _ = self.ready.remove(&listener.fd);
        // The acceptor may hold a clone for the length of one batch; shutting it down ends the listening now.
        let _ = rustix::net::shutdown(&listener.fd, rustix::net::Shutdown::Both);
        drop(listener);
        if close_connections {
            self.drivers.tell(|| Message::CloseListener(id));
        }
        true
    }

    /// Listeners and their addresses. Any thread.
    pub fn listeners(&self) -> Vec<(ListenerId, SocketAddr)> {
        self.lock_listeners().iter().map(|(id, listener)| (*id, listener.address)).collect()
    }

    /// Connections open or being placed.
    pub fn connections(&self) -> u32 {
        self.drivers.connections()
    }

    /// Highest number of connections.
    pub fn connections_max(&self) -> u32 {
        self.connections_max
    }

    /// Counters of each driver, in the order they were added.
    pub fn reactor_stats(&self) -> Vec<ReactorTraffic> {
        self.drivers.stats(ReactorStats::snapshot)
    }

    /// Counters of the acceptor.
    pub fn accept_stats(&self) -> AcceptStats {
        AcceptStats {
            accepted: self.accept.accepted.load(Ordering::Relaxed),
            refused: self.accept.refused.load(Ordering::Relaxed),
            starved: self.accept.starved.load(Ordering::Relaxed),
        }
    }

    /// Every open connection of every reactor. Blocks until they answered: never call it on a reactor.
    pub fn connection_stats(&self) -> Vec<ConnectionStats> {
        let replies = self.drivers.ask(Message::List);
        replies.into_iter().filter_map(|reply| reply.wait().ok()).flatten().collect()
    }

    /// Stops listening and accepting, finishes what is in flight, closes every connection. The replies come when a
    /// driver has none left. Any thread; calling it again asks again.
    pub fn drain(&self) -> Vec<Reply<()>> {
        self.close_listeners();
        self.drivers.ask(Message::Drain)
    }

    /// From now on nothing is listened on.
    pub(super) fn close_listeners(&self) {
        self.draining.store(true, Ordering::Relaxed);
        for (id, _) in self.listeners() {
            self.unlisten(id, false);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn listener(&self, id: ListenerId) -> Option<Arc<Listener>> {
        self.lock_listeners().get(&id).cloned()
    }

    pub(super) fn drivers(&self) -> &Drivers<Message, ReactorStats> {
        &self.drivers
    }

    /// Gives a connection to a driver; see [`Drivers::place`].
    pub(super) fn place(&self, fd: OwnedFd, peer: Peer) -> Result<(), PlaceError> {
        let placed = self.drivers.place(self.connections_max, Message::Accepted(fd, peer));
        placed.map_err(|(error, _)| error)
    }

    fn lock_listeners(&self) -> MutexGuard<'_, BTreeMap<ListenerId, Arc<Listener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
