//! NVMe/TCP over the kernel's sockets, driven by readiness.

mod queue;
mod socket;
pub mod target;

pub use crate::host;
pub(crate) use queue::TcpQueue;
