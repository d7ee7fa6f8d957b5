//! Namespaces of local NVMe controllers, through SPDK: the kernel is not in the way.
//!
//! A [`SpdkController`] is attached once: a thread of its own completes its admin commands, heeds its events, resets it
//! when it fails and notices when it is pulled. Every namespace is a [`SpdkDevice`], and every queue of one is a queue pair
//! of its own on the reactor that opened it. Data moves between the device and the reactor's buffers, without a copy.
//!
//! While a controller is reset its queues leave their queue pairs alone; what was in flight waits and runs again after. When
//! it is gone for good everything ends with an error. A command that takes too long is aborted, or makes the controller be
//! reset, if that is configured.

mod bell;
mod controller;
mod queue;
mod request;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nvme::Status;
use nvme::log::SmartLog;
use spdk_rs::PciAddress;
use uuid::Uuid;

pub use self::controller::{ControllerState, OnResize, SpdkController, SpdkTable};
use self::queue::SpdkQueue;
use super::api::Geometry;
use super::counters::CounterBook;
use super::shape::Shape;
use super::{Device, DeviceCounters, DeviceError, DeviceInfo, Queue, QueueContext};

/// How an I/O ends whose device is gone: a host with another path tries it there.
const DEVICE_GONE: Status = Status::INTERNAL_PATH_ERROR;

/// A controller to attach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpdkConfig {
    /// Its name; namespaces are called `NAMEn1`, `NAMEn2`, ….
    pub name: String,
    /// Where it is.
    pub address: PciAddress,
}

/// Why a controller was not attached, or does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum SpdkError {
    /// The name is taken.
    #[error("a controller named {0} is attached already")]
    Exists(String),
    /// There is no such controller.
    #[error("no PCIe controller named {0}")]
    NotFound(String),
    /// SPDK cannot be set up.
    #[error(transparent)]
    Environment(#[from] spdk_rs::EnvError),
    /// It does not come up.
    #[error(transparent)]
    Attach(#[from] spdk_rs::AttachError),
    /// It is gone, or does not answer.
    #[error("controller {name}: {why}")]
    Controller {
        /// Which.
        name: String,
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
pub struct SpdkDevice {
    shared: Arc<Shared>,
}

/// What the queues of a namespace share.
struct Shared {
    name: Arc<str>,
    nsid: u32,
    uuid: Uuid,
    shape: Shape,
    blocks: AtomicU64,
    controller: Arc<controller::Watched>,
    counters: CounterBook,
}

impl Shared {
    fn geometry(&self) -> Geometry {
        Geometry { block_size: self.shape.block_size, blocks: self.blocks.load(Relaxed) }
    }
}

impl SpdkDevice {
    /// Notes a new capacity; whether it changed.
    fn set_blocks(&self, blocks: u64) -> bool {
        self.shared.blocks.swap(blocks, Relaxed) != blocks
    }
}

impl Device for SpdkDevice {
    fn info(&self) -> DeviceInfo {
        let Shared { name, uuid, shape, blocks, .. } = &*self.shared;
        shape.info(name, *uuid, blocks.load(Relaxed))
    }

    fn health(&self) -> Option<SmartLog> {
        self.shared.controller.last_health()
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        Ok(Box::new(SpdkQueue::open(Arc::clone(&self.shared), context)?))
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.counters.sum()
    }
}
