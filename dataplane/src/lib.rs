//! The data plane: devices, target, JSON-RPC.

pub mod assembly;
pub mod config;
pub mod device;
pub mod logs;
pub mod lvol;
pub mod metrics;
pub mod pci;
pub mod preflight;
pub mod replication;
pub mod rpc;
pub mod store;
pub mod target;
pub mod volume;
