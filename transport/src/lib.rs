//! Drives the `fabrics` machines over real links.
//!
//! The target's side of every transport meets the target above it in [`TargetService`]; [`tcp`] is the first transport.
#![forbid(unsafe_code)]

mod buffer;
mod service;
pub mod tcp;

pub use buffer::Data;
pub use service::{CloseReason, ConnId, Effect, ListenerId, Peer, TargetService, TransportId, TransportKind};
