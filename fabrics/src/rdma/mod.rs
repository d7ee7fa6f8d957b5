//! NVMe/RDMA (NVMe/RDMA transport 1.0): one machine for each side of a connection, fed with capsules, ends of work and time.
//!
//! Commands and responses are messages; data moves by the target's RDMA reads and writes of the host's memory, or inside a
//! command capsule. So the machines have no framing; what they keep is which command is how far, and how many messages
//! either side has room for.

mod connect;
pub mod host;
pub mod target;
#[cfg(test)]
mod tests;

pub use connect::{HostQueueSizes, RequestLimits, check_request, request};

use nvme::SglDescriptor;

/// A command capsule without data, in bytes.
pub const COMMAND_BYTES: usize = 64;
/// A response capsule, in bytes.
pub const RESPONSE_BYTES: usize = 16;
/// Most entries of a queue: twice as many slots must fit a slab.
pub const DEPTH_MAX: u16 = 4096;

/// Memory of the host, as a keyed data block descriptor names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Address in the host's terms.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    /// Remote key.
    pub key: u32,
}

impl Remote {
    /// The descriptor that names it.
    pub fn descriptor(self, invalidate: bool) -> SglDescriptor {
        let Self { address, length, key } = self;
        SglDescriptor::KeyedDataBlock { address, length, key, invalidate }
    }
}

/// Why a connection ended, as its machine sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer sent a message that is no capsule.
    BadCapsule,
    /// The host did not send Connect in time.
    ConnectTimeout,
    /// The controller answered a command that is not outstanding.
    UnknownCommand,
    /// The owner closed it: link lost, shutdown.
    Local,
}
