//! One RDMA transport of the process: what management holds, and what its acceptor and drivers share.
//!
//! Invariants: a listener takes requests exactly while it is in the table; a connection counts towards its reactor's load
//! from the moment it is placed until its driver let go of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabrics::rdma::target::TargetParams;
use fabrics::rdma::{HostQueueSizes, RequestLimits};
use reactors::reply::{Replier, Reply};

use super::stats::{RdmaReactorTraffic, ReactorStats};
use crate::drivers::{Drivers, PlaceError};
use crate::rdma::verbs::{CmId, CmKey, EventChannel, VerbsError};
use crate::{ListenerId, Peer, TransportId};

/// Requests the kernel keeps for us before they are looked at.
const LISTEN_BACKLOG: i32 = 128;

/// How a transport serves.
#[derive(Clone, Copy, Debug)]
pub struct RdmaConfig {
    /// Most connections.
    pub connections_max: u32,
    /// What each connection offers its host.
    pub params: TargetParams,
    /// What a host may ask for.
    pub limits: RequestLimits,
}

/// A listener with its address.
struct Listener {
    cm: CmId,
    address: SocketAddr,
}

/// A host that asked for a connection and was found to be in order.
pub(super) struct Incoming {
    pub(super) cm: CmId,
    pub(super) peer: Peer,
    pub(super) sizes: HostQueueSizes,
    /// Reads of ours that the host can serve at a time.
    pub(super) initiator_depth: u8,
}

/// What a driver is told from outside.
pub(super) enum Message {
    /// A connection was placed here.
    Incoming(Box<Incoming>),
    /// End the connections that came in through this listener.
    CloseListener(ListenerId),
    /// Finish what is in flight, close everything, take nothing new; then reply.
    Drain(Replier<()>),
}

/// An RDMA transport: listeners, limits, drivers. Shared by management, the acceptor and every driver.
pub struct RdmaTarget {
    id: TransportId,
    config: RdmaConfig,
    next_listener: AtomicU32,
    // Before the channel: identifiers go first.
    listeners: Mutex<BTreeMap<ListenerId, Listener>>,
    drivers: Drivers<Message, ReactorStats>,
    draining: AtomicBool,
    channel: Arc<EventChannel>,
}

/// Why an address is not listened on.
#[derive(Debug, thiserror::Error)]
pub enum RdmaListenError {
    /// The system refused: no RDMA device has the address, or it is taken.
    #[error("cannot listen on {address}: {source}")]
    System {
        /// What was asked for.
        address: SocketAddr,
        /// The system's reason.
        source: VerbsError,
    },
    /// The transport is shutting down.
    #[error("the transport is shutting down")]
    Draining,
}

impl RdmaTarget {
    /// A transport without listeners or drivers.
    ///
    /// # Errors
    /// When the kernel has no RDMA connection manager, or rdma-core is not installed.
    pub fn new(id: TransportId, config: RdmaConfig) -> Result<Arc<Self>, VerbsError> {
        Ok(Arc::new(Self {
            id,
            config,
            next_listener: AtomicU32::new(0),
            listeners: Mutex::default(),
            drivers: Drivers::new(),
            draining: AtomicBool::new(false),
            channel: EventChannel::new()?,
        }))
    }

    /// The identifier it was made with.
    pub fn id(&self) -> TransportId {
        self.id
    }

    /// How it serves.
    pub fn config(&self) -> &RdmaConfig {
        &self.config
    }

    /// Listens on `address`; port 0 takes a free one. Returns the address in use. Any thread.
    ///
    /// # Errors
    /// [`RdmaListenError`] with the system's reason.
    pub fn listen(&self, address: SocketAddr) -> Result<(ListenerId, SocketAddr), RdmaListenError> {
        if self.is_draining() {
            return Err(RdmaListenError::Draining);
        }
        let failed = |source| RdmaListenError::System { address, source };
        let mut listeners = self.lock_listeners();
        let cm = CmId::new(&self.channel).map_err(failed)?;
        cm.listen(address, LISTEN_BACKLOG).map_err(failed)?;
        let bound = cm.local().unwrap_or(address);
        let id = ListenerId(self.next_listener.fetch_add(1, Ordering::Relaxed));
        listeners.insert(id, Listener { cm, address: bound });
        Ok((id, bound))
    }

    /// Stops listening. Connections stay unless `close_connections`. `false`: there was no such listener. Any thread.
    pub fn unlisten(&self, id: ListenerId, close_connections: bool) -> bool {
        let found = self.lock_listeners().remove(&id).is_some();
        if found && close_connections {
            self.drivers.tell(|| Message::CloseListener(id));
        }
        found
    }

    /// Listeners and their addresses. Any thread.
    pub fn listeners(&self) -> Vec<(ListenerId, SocketAddr)> {
        self.lock_listeners().iter().map(|(id, listener)| (*id, listener.address)).collect()
    }

    /// Connections open or being placed.
    pub fn connections(&self) -> u32 {
        self.drivers.connections()
    }

    /// Counters of each driver, in the order they were added.
    pub fn reactor_stats(&self) -> Vec<RdmaReactorTraffic> {
        self.drivers.stats(ReactorStats::snapshot)
    }

    /// Stops listening, finishes what is in flight, closes every connection. The replies come when a driver has none left.
    /// Any thread; calling it again asks again.
    pub fn drain(&self) -> Vec<Reply<()>> {
        self.close_listeners();
        self.drivers.ask(Message::Drain)
    }

    /// From now on nothing is listened on.
    pub(super) fn close_listeners(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.lock_listeners().clear();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn channel(&self) -> &Arc<EventChannel> {
        &self.channel
    }

    pub(super) fn drivers(&self) -> &Drivers<Message, ReactorStats> {
        &self.drivers
    }

    /// The listener that events call so.
    pub(super) fn listener(&self, key: CmKey) -> Option<ListenerId> {
        self.lock_listeners().iter().find(|(_, listener)| listener.cm.key() == key).map(|(id, _)| *id)
    }

    pub(super) fn place(&self, incoming: Incoming) -> Result<(), (PlaceError, CmId)> {
        let message = Message::Incoming(Box::new(incoming));
        match self.drivers.place(self.config.connections_max, message) {
            Err((error, Message::Incoming(incoming))) => Err((error, incoming.cm)),
            _ => Ok(()),
        }
    }

    fn lock_listeners(&self) -> MutexGuard<'_, BTreeMap<ListenerId, Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for RdmaTarget {
    /// Becomes readable when a host asks for a connection.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
