//! The NVM subsystems this process serves: namespaces, controllers, discovery, asymmetric access, reservations.
//!
//! [`Target`] is the control side: shared by every thread, it validates changes, publishes them to the reactors and
//! waits for them. [`ReactorTarget`] is the serving side: one per reactor, a [`TargetService`](transport::TargetService)
//! for the transports of that reactor. What both see of the configuration is an immutable view; what reactors share of
//! controllers and namespaces is atomics, and locks that no Read or Write takes.
//!
//! The admin queue of a controller lives on one reactor, its home, and so does everything that only admin commands
//! touch. Its I/O queues may be anywhere. What concerns another reactor goes there as a message.

mod admin;
mod ana;
mod apply;
mod connect;
mod control;
mod discovery;
mod error;
mod flight;
mod fused;
mod guard;
mod io;
mod jobs;
pub mod limits;
mod local;
mod message;
mod options;
mod pairing;
mod poller;
mod progress;
mod publish;
mod queue;
mod registry;
mod reservations;
mod reserve;
mod service;
mod shared;
mod stats;
mod teardown;
#[cfg(test)]
mod tests;
mod view;

pub use control::Target;
pub use error::ControlError;
pub use options::{
    AnaState, BoundListener, ControllerInfo, ListenAddress, ListenerInfo, Listeners, NamespaceInfo,
    NamespaceOptions, NamespaceStats, QueueInfo, ReactorStats, Referral, SubsystemInfo, SubsystemKind,
    SubsystemOptions, TargetStats, TransportInfo, TransportOptions,
};
pub use poller::TargetPoller;
pub use queue::QueueState;
pub use service::ReactorTarget;
pub use stats::{IoCounters, LatencyHistogram};
