//! The host's end of NVMe/TCP.
//!
//! [`HostQueue`] is one queue pair, turned by whoever owns it. [`AdminQueue`] brings a controller up and keeps it so,
//! [`QueueConnect`] adds I/O queues to it. [`Blocking`] does the same for tools, one call at a time.

mod admin;
mod blocking;
mod config;
mod connect;
mod queue;

pub use admin::{AdminDone, AdminQueue};
pub use blocking::{Blocking, connect_queue};
pub use config::{HostConfig, HostError};
pub use connect::{Connecting, QueueConnect};
pub use queue::{HostQueue, LinkError, QueueTraffic};
