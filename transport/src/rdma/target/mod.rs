//! The target's end of NVMe/RDMA.
//!
//! An [`RdmaTarget`] is one transport of the process: management listens and asks through it. An [`RdmaAcceptor`] on one
//! reactor takes what hosts ask for; an [`RdmaTargetPoller`] on each reactor drives the connections placed there.

mod acceptor;
mod connection;
mod control;
mod device;
mod driver;
mod listeners;
mod stats;

pub use acceptor::RdmaAcceptor;
pub use control::{ListenersChanged, RdmaConfig, RdmaDeviceEvents, RdmaListenError, RdmaTarget};
pub use driver::RdmaTargetPoller;
pub use stats::{RdmaReactorTraffic, RdmaTraffic};
