//! NVMe/RDMA over verbs and the RDMA connection manager: InfiniBand, RoCE, iWARP.
//!
//! rdma-core is loaded when the process starts, if it is installed; without it, or without a device, only creating the
//! transport and connecting fail.

mod host;
mod look;
pub mod stranger;
pub mod target;
mod verbs;

pub(crate) use host::RdmaQueue;
pub use host::RdmaQueueParams;
pub use verbs::VerbsError;
