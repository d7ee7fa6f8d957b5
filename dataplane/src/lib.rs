//! The data plane: devices, target, JSON-RPC.

pub mod config;
pub mod device;
pub mod logs;
pub mod preflight;
pub mod target;
