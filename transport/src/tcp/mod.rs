//! NVMe/TCP over the kernel's sockets, driven by readiness.

pub mod host;
mod ready;
mod socket;
pub mod target;
