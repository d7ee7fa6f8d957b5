//! Namespaces of other targets, over our own host: NVMe/TCP or NVMe/RDMA.
//!
//! An [`NvmfController`] is attached once: a thread of its own identifies its namespaces, listens for changes and keeps
//! count of its state. Every namespace is an [`NvmfDevice`], and every queue of one is an association of its own (an admin
//! queue and one I/O queue) on the reactor that opened it, so that reactors share nothing but the size.
//!
//! A connection that is lost is made again, with growing waits. What was in flight then ends with a path error, for it is
//! unknown whether it took effect; what comes while there is no connection waits for [`NvmfConfig::fail_after`], then ends
//! the same way. Nothing waits for ever.

mod alarm;
mod controller;
mod identify;
mod queue;
mod transfer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fabrics::host::ReconnectPolicy;
use nvme::{Nsid, Status};
use transport::host::{HostConfig, HostError};
use uuid::Uuid;

pub use self::controller::{ControllerState, ControllerTable, NvmfController, OnResize};
use self::queue::NvmfQueue;
use super::api::Geometry;
use super::counters::CounterBook;
use super::shape::Shape;
use super::{BlockSize, Device, DeviceCounters, DeviceError, DeviceInfo, Queue, QueueContext};

/// How long commands wait for the first connection of a queue, at least: it is made only when the queue is opened.
const FIRST_CONNECTION: Duration = Duration::from_secs(5);
/// Time that an aborted command has before the controller is reset.
const ABORT_BOUND: Duration = Duration::from_secs(2);

/// How a command ends whose path was lost: a host with another path tries it there.
pub(super) const PATH_LOST: Status = Status::HOST_PATHING_ERROR;

/// A controller to attach.
#[derive(Clone, Debug)]
pub struct NvmfConfig {
    /// Its name; namespaces are called `NAMEn1`, `NAMEn2`, ….
    pub name: String,
    /// Where, and as whom.
    pub host: HostConfig,
    /// How lost connections are made again.
    pub reconnect: ReconnectPolicy,
    /// How long commands wait for a lost connection before they fail; zero fails them at once.
    pub fail_after: Duration,
    /// Its one namespace is a replica with such blocks: its device is there even while the controller cannot be reached.
    pub replica_block_size: Option<BlockSize>,
}

/// Why a controller was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The name is taken.
    #[error("a controller named {name} is attached already")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is no such controller.
    #[error("no controller named {name}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// It cannot be reached, or refuses us.
    #[error("controller {name} at {remote}: {source}")]
    Connect {
        /// The name.
        name: String,
        /// Where.
        remote: std::net::SocketAddr,
        /// Why.
        source: HostError,
    },
    /// A namespace cannot be a device.
    #[error("namespace {nsid}: {why}")]
    Namespace {
        /// Which.
        nsid: Nsid,
        /// Why.
        why: String,
    },
    /// A device cannot be added or removed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// One namespace of an attached controller.
pub struct NvmfDevice {
    shared: Arc<Shared>,
}

/// What the queues of a namespace share.
struct Shared {
    name: Arc<str>,
    nsid: Nsid,
    uuid: Uuid,
    shape: Shape,
    blocks: AtomicU64,
    config: NvmfConfig,
    counters: CounterBook,
}

impl Shared {
    fn geometry(&self) -> Geometry {
        Geometry { block_size: self.shape.block_size, blocks: self.blocks.load(Relaxed) }
    }
}

impl NvmfDevice {
    fn new(config: &NvmfConfig, nsid: Nsid, uuid: Uuid, shape: Shape, blocks: u64) -> Self {
        let shared = Shared {
            name: format!("{}n{nsid}", config.name).into(),
            nsid,
            uuid,
            shape,
            blocks: AtomicU64::new(blocks),
            config: config.clone(),
            counters: CounterBook::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Notes a new capacity; whether it changed.
    fn set_blocks(&self, blocks: u64) -> bool {
        self.shared.blocks.swap(blocks, Relaxed) != blocks
    }

    /// Which namespace it is.
    pub fn nsid(&self) -> Nsid {
        self.shared.nsid
    }
}

impl Device for NvmfDevice {
    fn info(&self) -> DeviceInfo {
        let Shared { name, uuid, shape, blocks, .. } = &*self.shared;
        shape.info(name, *uuid, blocks.load(Relaxed))
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        Ok(Box::new(NvmfQueue::open(Arc::clone(&self.shared), context)?))
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.counters.sum()
    }
}
