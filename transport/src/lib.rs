//! Drives the `fabrics` machines over real links.
//!
//! The target's side of every transport meets the target above it in [`TargetService`]; [`tcp`] is the first transport, [`rdma`] the second.
#![deny(unsafe_code)]

mod buffer;
mod connections;
mod drain;
mod drivers;
mod handler;
pub mod host;
pub mod rdma;
mod ready;
mod service;
mod stats;
pub mod tcp;

pub use buffer::{Data, HostBuffer};
pub use service::{CloseReason, ConnId, Effect, ListenerId, Peer, TargetService, TransportId, TransportKind};
