//! The host's end of NVMe over Fabrics, over TCP or RDMA.
//!
//! [`HostQueue`] is one queue pair, turned by whoever owns it. [`AdminQueue`] brings a controller up and keeps it so,
//! [`QueueConnect`] adds I/O queues to it. [`HostController`] is both, and stays connected. [`Blocking`] is for tools, one
//! call at a time.

mod admin;
mod blocking;
mod config;
mod connect;
mod controller;
mod queue;

pub use crate::TransportKind;
pub use admin::{AdminDone, AdminQueue};
pub use blocking::{Blocking, connect_queue};
pub use config::{HostConfig, HostError};
pub use connect::{Connecting, QueueConnect};
pub use controller::{ControllerSink, HostController, HostEvent};
pub(crate) use queue::nanos;
pub use queue::{HostQueue, LinkError, QueueTraffic};
