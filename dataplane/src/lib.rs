//! The data plane: devices, target, JSON-RPC.

pub mod device;
