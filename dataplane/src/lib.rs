//! The data plane: devices, target, JSON-RPC.
