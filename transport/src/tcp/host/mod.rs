//! The host's end of NVMe/TCP.

mod queue;

pub use queue::{HostQueue, LinkError, QueueTraffic};
