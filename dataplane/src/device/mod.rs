//! Block devices behind namespaces and volumes.
//!
//! A [`Device`] is what is shared by all reactors: its [`DeviceInfo`] and its counters. A [`Queue`] is one reactor's
//! way into it: opened on that reactor, used only there, never moved. Queues of one device work independently.
//!
//! Every I/O that is accepted completes exactly once, with an NVMe status, and gives its buffer back. A device that
//! is full hands the I/O back untouched ([`Submission::Busy`]).

mod api;
mod counters;
mod error;
pub mod fault;
mod limits;
pub mod memory;
pub mod null;
mod nvme_options;
pub mod nvmf;
mod registry;
mod shape;
#[cfg(feature = "spdk")]
pub mod spdk;
pub mod uring;

#[cfg(test)]
mod tests;

pub(crate) use api::Geometry;
pub use api::{
    Atomicity, BlockSize, DONE_MAX, Device, DeviceInfo, Done, Io, IoDone, Lba, Op, OpKind, Operations, Queue,
    QueueContext, Submission,
};
pub(crate) use counters::{CounterBook, Meter};
pub use counters::{DeviceCounters, OpCounters};
pub use error::DeviceError;
pub use limits::{Limits, Rates};
pub use nvme_options::{ControllerCounts, NvmeOptions, TimeoutAction};
pub use registry::{Claim, ClaimKind, DeviceRegistry, DeviceSpec, Listed};
