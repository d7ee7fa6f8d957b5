//! The target's end of NVMe/TCP.
//!
//! A [`TcpTarget`] is one transport of the process: management listens and asks through it. An [`Acceptor`] on one reactor
//! accepts; a [`TcpTargetPoller`] on each reactor drives the connections placed there for that reactor's
//! [`TargetService`](crate::TargetService).

mod acceptor;
mod connection;
mod control;
mod driver;
mod receive;
mod stats;

pub use acceptor::Acceptor;
pub use control::{AcceptStats, ListenError, TcpTarget};
pub use driver::TcpTargetPoller;
pub use stats::{ConnectionStats, ReactorTraffic, TrafficStats};
