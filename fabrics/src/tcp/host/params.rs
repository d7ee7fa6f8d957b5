//! What the owner of a host connection chooses.

use nvme::tcp::{ADMIN_IN_CAPSULE_BYTES, PDA_MAX};

use crate::NS_PER_S;
use crate::tcp::{R2TS_MAX, SLOTS_MAX};

/// Parameters of a host connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostParams {
    /// Commands outstanding at a time: SQSIZE of Connect, which is one less than the entries of the queue.
    pub depth: u16,
    /// Data a command capsule may carry, in bytes: 8,192 on an admin queue; what IOCCSZ gives on an I/O queue,
    /// `(IOCCSZ - 4) * 16`. Fabrics commands may carry 8,192 bytes anyway (NVMe/TCP 1.0 §3.3.2).
    pub in_capsule_data_size: u32,
    /// HPDA: alignment of data that we ask the controller for, in dwords, 0's based: 0 to 31.
    pub hpda: u8,
    /// R2Ts that we take at a time for one command: 1 to 16 (not 0's based).
    pub max_r2t: u8,
    /// Use header digests; a controller that does not is refused.
    pub header_digest: bool,
    /// Use data digests; a controller that does not is refused.
    pub data_digest: bool,
    /// Receive the data of reads straight into their buffers where that can be foreseen.
    pub place_data: bool,
    /// Time for the controller to answer the ICReq, in nanoseconds.
    pub handshake_timeout_ns: u64,
    /// Time for a PDU to arrive once it has begun, in nanoseconds.
    pub pdu_timeout_ns: u64,
    /// Time for a command to complete, in nanoseconds, before its owner is told.
    pub command_timeout_ns: u64,
}

impl Default for HostParams {
    fn default() -> Self {
        Self {
            depth: 127,
            in_capsule_data_size: ADMIN_IN_CAPSULE_BYTES,
            hpda: 0,
            max_r2t: 1,
            header_digest: false,
            data_digest: false,
            place_data: true,
            handshake_timeout_ns: 10 * NS_PER_S,
            pdu_timeout_ns: 30 * NS_PER_S,
            command_timeout_ns: 30 * NS_PER_S,
        }
    }
}

impl HostParams {
    /// The same parameters with every value moved into its range.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.depth = self.depth.clamp(1, SLOTS_MAX);
        self.hpda = self.hpda.min(PDA_MAX);
        self.max_r2t = self.max_r2t.clamp(1, R2TS_MAX);
        self
    }
}
