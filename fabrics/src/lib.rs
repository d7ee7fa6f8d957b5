//! Sans-IO protocol machines of NVMe over Fabrics, host and target side.
//!
//! Bytes or capsules and the time go in; bytes, commands and completions come out. Nothing here reads a clock, does
//! I/O or allocates on the command path, so the same code runs over sockets, in the simulator and under a fuzzer.
//!
//! - [`tcp`]: the two sides of an NVMe/TCP connection.
//! - [`rdma`]: the two sides of an NVMe/RDMA connection.
//! - [`slab`]: the slots of the commands of a queue.
//! - [`host`]: bring-up, keep-alive, discovery, aborts and reconnecting of a host, over any transport.
#![forbid(unsafe_code)]

mod cid;
mod command;
mod fused;
pub mod host;
pub mod rdma;
pub mod slab;
mod target;
pub mod tcp;

pub use command::{CommandId, Completion, Execution, IoBuffer, NS_PER_MS, NS_PER_S, Now};
pub use target::CommandHandler;
