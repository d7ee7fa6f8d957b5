//! One RDMA transport of the process: what management holds, and what its acceptor and drivers share.
//!
//! Invariants: a listener takes requests exactly while it has a socket in the table; a connection counts towards its
//! reactor's load from the moment it is placed until its driver let go of it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fabrics::rdma::target::TargetParams;
use fabrics::rdma::{HostQueueSizes, RequestLimits};
use reactors::reply::{Replier, Reply};
use rustix::io::Errno;

use super::listeners::{Listeners, Socket};
use super::stats::{RdmaReactorTraffic, ReactorStats};
use crate::drivers::{Drivers, PlaceError};
use crate::rdma::verbs::{CmId, CmKey, DeviceEvent, DeviceEvents, DeviceKey, EventChannel, VerbsError};
use crate::ready::{Interest, ReadySet};
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
    /// Receives that the connections of a device and reactor share where the device can, at most; 0: each has its own.
    pub shared_receives_max: u32,
}

impl Socket for CmId {
    type Device = DeviceKey;
    type Key = CmKey;

    fn device(&self) -> Option<DeviceKey> {
        Self::device(self)
    }

    fn key(&self) -> CmKey {
        Self::key(self)
    }
}

/// Called when listeners were lost or returned: on a reactor, so it must not wait for anything.
pub type ListenersChanged = Box<dyn Fn() + Send + Sync>;

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
    /// A device said something.
    Device(DeviceEvent),
    /// Finish what is in flight, close everything, take nothing new; then reply.
    Drain(Replier<()>),
}

/// An RDMA transport: listeners, limits, drivers. Shared by management, the acceptor and every driver.
pub struct RdmaTarget {
    id: TransportId,
    config: RdmaConfig,
    next_listener: AtomicU32,
    // Before the channel: identifiers go first.
    listeners: Mutex<Listeners<CmId>>,
    changed: OnceLock<ListenersChanged>,
    drivers: Drivers<Message, ReactorStats>,
    draining: AtomicBool,
    /// Of the devices that are listened on.
    devices: Mutex<Vec<DeviceEvents<CmId>>>,
    counts: EventCounts,
    ready: ReadySet,
    channel: Arc<EventChannel>,
}

/// What devices said since the transport was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RdmaDeviceEvents {
    /// Ports that went down.
    pub port_down: u64,
    /// Ports that came up.
    pub port_up: u64,
    /// Addresses, keys or the subnet manager changed.
    pub changed: u64,
    /// Queue pairs that failed.
    pub queue_pair_failed: u64,
    /// Devices, or what is shared on them, that failed.
    pub device_failed: u64,
    /// Listeners whose device or address went away.
    pub listener_lost: u64,
}

#[derive(Default)]
struct EventCounts {
    port_down: AtomicU64,
    port_up: AtomicU64,
    changed: AtomicU64,
    queue_pair_failed: AtomicU64,
    device_failed: AtomicU64,
    listener_lost: AtomicU64,
}

/// epoll keys; what is readable is not asked, only waited for.
const CHANNEL_KEY: u64 = 0;
const DEVICE_KEY: u64 = 1;

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
        let system = |source| VerbsError { call: "epoll", source };
        let (ready, channel) = (ReadySet::new().map_err(system)?, EventChannel::new()?);
        ready.add(&*channel, CHANNEL_KEY, Interest::READ).map_err(|errno| system(errno.into()))?;
        Ok(Arc::new(Self {
            id,
            config,
            next_listener: AtomicU32::new(0),
            listeners: Mutex::default(),
            changed: OnceLock::new(),
            drivers: Drivers::new(),
            draining: AtomicBool::new(false),
            devices: Mutex::default(),
            counts: EventCounts::default(),
            ready,
            channel,
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
        let cm = self.open(address).map_err(failed)?;
        let bound = cm.local().unwrap_or(address);
        let id = ListenerId(self.next_listener.fetch_add(1, Ordering::Relaxed));
        listeners.insert(id, bound, cm);
        Ok((id, bound))
    }

    fn open(&self, address: SocketAddr) -> Result<CmId, VerbsError> {
        let cm = CmId::new(&self.channel)?;
        cm.listen(address, LISTEN_BACKLOG)?;
        self.watch(&cm);
        Ok(cm)
    }

    /// Hears from now on what the device of an identifier says.
    pub(super) fn watch(&self, cm: &CmId) {
        let mut devices = self.lock_devices();
        if devices.iter().any(|device| device.is_of(cm)) {
            return;
        }
        let added = DeviceEvents::of(cm).and_then(|events| {
            let Some(events) = events else { return Ok(()) };
            let failed = |errno: Errno| VerbsError { call: "epoll", source: errno.into() };
            self.ready.add(events.device_fd(), DEVICE_KEY, Interest::READ).map_err(failed)?;
            self.ready.add(events.heard_fd(), DEVICE_KEY, Interest::READ).map_err(failed)?;
            devices.push(events);
            Ok(())
        });
        if let Err(error) = added {
            tracing::warn!(%error, "the events of an RDMA device are not heard");
        }
    }

    /// The next event of any device.
    pub(super) fn next_device_event(&self) -> Option<DeviceEvent> {
        self.lock_devices().iter().find_map(DeviceEvents::next)
    }

    /// The device that events of the connection manager call so goes away.
    pub(super) fn forget_device(&self, key: CmKey) {
        let mut gone = None;
        self.lock_devices().retain(|device| {
            let stays = device.key() != key;
            if !stays {
                gone = Some(device.device());
                // It leaves the set at the latest when it is closed.
                let _ = self.ready.remove(device.device_fd());
            }
            stays
        });
        if let Some(device) = gone {
            self.lock_listeners().forget_device(device);
        }
    }

    fn lock_devices(&self) -> MutexGuard<'_, Vec<DeviceEvents<CmId>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what a device said, and says it; whether drivers have to act on it.
    pub(super) fn note(&self, event: DeviceEvent) -> bool {
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        match event {
            DeviceEvent::PortDown(port) => {
                tracing::warn!(port, "a port of an RDMA device is down");
                count(&self.counts.port_down);
            }
            DeviceEvent::PortUp(port) => {
                tracing::info!(port, "a port of an RDMA device is up");
                count(&self.counts.port_up);
            }
            DeviceEvent::Changed(what) => {
                tracing::info!(what, "changed on an RDMA device");
                count(&self.counts.changed);
            }
            DeviceEvent::QueuePairFailed(_) => count(&self.counts.queue_pair_failed),
            DeviceEvent::QueueFailed(_) => {
                tracing::error!("a queue of an RDMA device failed");
                count(&self.counts.device_failed);
            }
            DeviceEvent::DeviceFailed(device) => {
                tracing::error!("an RDMA device failed");
                count(&self.counts.device_failed);
                let lost = self.lock_listeners().fail_device(device);
                lost.iter().for_each(|address| self.lost(*address));
            }
            DeviceEvent::ReceivesLow => tracing::info!("shared receives of an RDMA device run low"),
            DeviceEvent::LastReceive(_) | DeviceEvent::Ignored => {}
        }
        event.concerns_connections()
    }

    /// What is under a listener went away, or moved to another device as when a bond fails over: it listens again as soon as
    /// that can be.
    pub(super) fn lose_listener(&self, id: ListenerId) {
        let lost = self.lock_listeners().lose(id);
        lost.iter().for_each(|address| self.lost(*address));
    }

    fn lost(&self, address: SocketAddr) {
        tracing::warn!(%address, "the RDMA device or the address of a listener is gone");
        self.counts.listener_lost.fetch_add(1, Ordering::Relaxed);
        self.tell_changed();
    }

    /// Whether some listener is lost.
    pub(super) fn misses_listeners(&self) -> bool {
        self.lock_listeners().all().any(|(.., listens)| !listens)
    }

    /// Listens again wherever that was lost and can be.
    pub(super) fn retry_listeners(&self) {
        let back = self.lock_listeners().retry(|address| self.open(address));
        for address in &back {
            tracing::info!(%address, "an RDMA listener is back");
        }
        if !back.is_empty() {
            self.tell_changed();
        }
    }

    fn tell_changed(&self) {
        if let Some(changed) = self.changed.get() {
            changed();
        }
    }

    /// Lets `changed` be called from now on, whenever [`Self::is_listening`] gives another answer. Once.
    pub fn on_listeners_changed(&self, changed: ListenersChanged) {
        let first = self.changed.set(changed).is_ok();
        assert!(first, "one observer");
    }

    /// Whether hosts can reach a listener: what is under it may be gone, until it returns. Any thread.
    pub fn is_listening(&self, id: ListenerId) -> bool {
        self.lock_listeners().all().any(|(listener, _, listens)| listener == id && listens)
    }

    /// What devices said so far.
    pub fn device_events(&self) -> RdmaDeviceEvents {
        let EventCounts { port_down, port_up, changed, queue_pair_failed, device_failed, listener_lost } =
            &self.counts;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RdmaDeviceEvents {
            port_down: count(port_down),
            port_up: count(port_up),
            changed: count(changed),
            queue_pair_failed: count(queue_pair_failed),
            device_failed: count(device_failed),
            listener_lost: count(listener_lost),
        }
    }

    /// Stops listening. Connections stay unless `close_connections`. `false`: there was no such listener. Any thread.
    pub fn unlisten(&self, id: ListenerId, close_connections: bool) -> bool {
        let found = self.lock_listeners().remove(id);
        if found && close_connections {
            self.drivers.tell(|| Message::CloseListener(id));
        }
        found
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
        self.lock_devices().clear();
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
        self.lock_listeners().find(&key)
    }

    pub(super) fn place(&self, incoming: Incoming) -> Result<(), (PlaceError, CmId)> {
        let message = Message::Incoming(Box::new(incoming));
        match self.drivers.place(self.config.connections_max, message) {
            Err((error, Message::Incoming(incoming))) => Err((error, incoming.cm)),
            _ => Ok(()),
        }
    }

    fn lock_listeners(&self) -> MutexGuard<'_, Listeners<CmId>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for RdmaTarget {
    /// Becomes readable when a host asks for a connection, or a device says something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}
