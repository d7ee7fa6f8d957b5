//! Controllers and their queues: one registry per subsystem, looked at when queues connect, when the configuration
//! changes, and by the control API. Nothing of it is on the path of an I/O but [`Controller::is_ready`].

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nvme::{ControllerId, QueueId};
use transport::ConnId;

use super::limits::{CONTROLLERS_MAX, ERROR_LOG_ENTRIES};
use super::options::{ControllerInfo, ListenAddress, QueueInfo, SubsystemKind};
use super::shared::{locked, unique};
use super::view::{HostIdentity, Listener};

/// Controllers of one subsystem.
#[derive(Default)]
pub(super) struct Registry {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    controllers: BTreeMap<u16, Arc<Controller>>,
    last_id: u16,
}

impl Table {
    /// The free identifier after the one given out last: those just freed are used late.
    fn next_id(&mut self, ids: &RangeInclusive<u16>) -> Option<u16> {
        let after = self.last_id.saturating_add(1).max(*ids.start());
        let mut candidates = (after..=*ids.end()).chain(*ids.start()..=*ids.end());
        let id = candidates.find(|id| !self.controllers.contains_key(id))?;
        self.last_id = id;
        Some(id)
    }
}

/// Why a controller could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoController {
    /// As many as there may be.
    Full,
    /// The identifier that was asked for is in use.
    Busy,
}

/// A controller about to be made.
pub(super) struct NewController {
    pub(super) kind: SubsystemKind,
    pub(super) slot: usize,
    /// Unique number of the subsystem.
    pub(super) subsystem: u64,
    pub(super) host: HostIdentity,
    pub(super) listener: Option<Arc<Listener>>,
    pub(super) address: ListenAddress,
    pub(super) home: Home,
    pub(super) depth: u16,
}

impl Registry {
    /// Makes a controller with the identifier that is wanted, or the next free one within `ids`.
    pub(super) fn create(
        &self,
        new: NewController,
        ids: RangeInclusive<u16>,
        wanted: Option<u16>,
    ) -> Result<Arc<Controller>, NoController> {
        let mut table = locked(&self.table);
        if table.controllers.len() >= CONTROLLERS_MAX {
            return Err(NoController::Full);
        }
        let id = match wanted {
            Some(id) if table.controllers.contains_key(&id) => return Err(NoController::Busy),
            Some(id) => id,
            None => table.next_id(&ids).ok_or(NoController::Full)?,
        };
        let controller = Arc::new(Controller::new(ControllerId(id), new));
        table.controllers.insert(id, Arc::clone(&controller));
        Ok(controller)
    }

    pub(super) fn get(&self, id: ControllerId) -> Option<Arc<Controller>> {
        locked(&self.table).controllers.get(&id.get()).cloned()
    }

    /// Forgets a controller, unless its identifier belongs to another one by now.
    pub(super) fn remove(&self, controller: &Controller) {
        let mut table = locked(&self.table);
        let is_it =
            table.controllers.get(&controller.id.get()).is_some_and(|found| found.uid == controller.uid);
        if is_it {
            table.controllers.remove(&controller.id.get());
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Controller>> {
        locked(&self.table).controllers.values().cloned().collect()
    }
}

/// Where a connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Home {
    pub(super) reactor: usize,
    pub(super) conn: ConnId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// A connected I/O queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IoQueueRecord {
    pub(super) id: QueueId,
    pub(super) depth: u16,
    pub(super) home: Home,
}

/// One association, as all reactors share it. Its admin state lives on the reactor of its admin queue.
pub(super) struct Controller {
    pub(super) id: ControllerId,
    /// Never used twice in the process.
    pub(super) uid: u64,
    pub(super) kind: SubsystemKind,
    pub(super) slot: usize,
    /// Unique number of the subsystem: a slot may belong to another one later.
    pub(super) subsystem: u64,
    pub(super) host: HostIdentity,
    /// `None` on discovery ports that no listener of the discovery subsystem named.
    pub(super) listener: Option<Arc<Listener>>,
    pub(super) address: ListenAddress,
    pub(super) home: Home,
    pub(super) depth: u16,
    ready: AtomicBool,
    pub(super) keep_alive_ms: AtomicU32,
    /// I/O queues granted by Set Features, Number of Queues; all that the transport has until then.
    pub(super) io_queues_granted: AtomicU16,
    queues: Mutex<Vec<IoQueueRecord>>,
    errors: Mutex<ErrorLog>,
}

/// Why an I/O queue was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QueueRefused {
    /// The controller is not ready: disabled, shut down, or going away.
    NotReady,
    /// There is a queue of this identifier.
    Duplicate,
}

impl Controller {
    fn new(id: ControllerId, new: NewController) -> Self {
        let NewController { kind, slot, subsystem, host, listener, address, home, depth } = new;
        Self {
            id,
            uid: unique(),
            kind,
            slot,
            subsystem,
            host,
            listener,
            address,
            home,
            depth,
            ready: AtomicBool::new(false),
            keep_alive_ms: AtomicU32::new(0),
            io_queues_granted: AtomicU16::new(u16::MAX),
            queues: Mutex::default(),
            errors: Mutex::default(),
        }
    }

    /// Whether I/O commands are served: CSTS.RDY is set, nothing shuts down, the association lives.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Turns I/O on. Queues can connect from now on.
    pub(super) fn set_ready(&self) {
        let _queues = locked(&self.queues);
        self.ready.store(true, Ordering::Release);
    }

    /// Turns I/O off and hands over the queues that must be closed.
    pub(super) fn take_down(&self) -> Vec<IoQueueRecord> {
        let mut queues = locked(&self.queues);
        self.ready.store(false, Ordering::Release);
        std::mem::take(&mut *queues)
    }

    /// Adds a queue if the controller is ready and has none of this identifier.
    pub(super) fn add_queue(&self, queue: IoQueueRecord) -> Result<(), QueueRefused> {
        let mut queues = locked(&self.queues);
        if !self.is_ready() {
            return Err(QueueRefused::NotReady);
        }
        if queues.iter().any(|other| other.id == queue.id) {
            return Err(QueueRefused::Duplicate);
        }
        queues.push(queue);
        Ok(())
    }

    pub(super) fn remove_queue(&self, reactor: usize, conn: ConnId) {
        locked(&self.queues).retain(|queue| (queue.home.reactor, queue.home.conn) != (reactor, conn));
    }

    pub(super) fn queue(&self, id: QueueId) -> Option<IoQueueRecord> {
        locked(&self.queues).iter().find(|queue| queue.id == id).copied()
    }

    pub(super) fn queues(&self) -> Vec<IoQueueRecord> {
        locked(&self.queues).clone()
    }

    pub(super) fn errors(&self) -> std::sync::MutexGuard<'_, ErrorLog> {
        locked(&self.errors)
    }

    /// State of an ANA group as this controller sees it, as in the ANA log page.
    #[inline]
    pub(super) fn ana_bits(&self, group: u32) -> u8 {
        self.listener.as_ref().map_or(1, |listener| listener.ana_bits(group))
    }

    pub(super) fn local_ip(&self) -> IpAddr {
        self.home.local.ip()
    }

    pub(super) fn describe(&self) -> ControllerInfo {
        ControllerInfo {
            id: self.id,
            host: self.host.nqn,
            host_id: self.host.id,
            io_queues: u16::try_from(locked(&self.queues).len()).unwrap_or(u16::MAX),
            listener: self.address,
            keep_alive_ms: self.keep_alive_ms.load(Ordering::Relaxed),
        }
    }

    /// The admin queue and the I/O queues.
    pub(super) fn describe_queues(&self) -> Vec<QueueInfo> {
        let admin = IoQueueRecord { id: QueueId::ADMIN, depth: self.depth, home: self.home };
        let one = |queue: IoQueueRecord| QueueInfo {
            controller: self.id,
            id: queue.id,
            host: self.host.nqn,
            reactor: queue.home.reactor,
            depth: queue.depth,
            transport: self.address.transport,
            local: queue.home.local,
            remote: queue.home.remote,
        };
        std::iter::once(admin).chain(self.queues()).map(one).collect()
    }
}

/// One entry of the Error Information log page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ErrorEntry {
    pub(super) count: u64,
    pub(super) queue: QueueId,
    pub(super) cid: u16,
    pub(super) status: nvme::Status,
    pub(super) lba: u64,
    pub(super) nsid: u32,
    pub(super) opcode: u8,
}

/// The newest errors of a controller.
#[derive(Default)]
pub(super) struct ErrorLog {
    entries: VecDeque<ErrorEntry>,
    count: u64,
}

impl ErrorLog {
    pub(super) fn push(&mut self, mut entry: ErrorEntry) {
        self.count += 1;
        entry.count = self.count;
        self.entries.truncate(ERROR_LOG_ENTRIES - 1);
        self.entries.push_front(entry);
    }

    /// Newest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &ErrorEntry> {
        self.entries.iter()
    }

    /// Errors ever.
    pub(super) fn total(&self) -> u64 {
        self.count
    }
}
