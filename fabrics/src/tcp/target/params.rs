//! What the owner of a target connection chooses.

use nvme::tcp::{ADMIN_IN_CAPSULE_BYTES, MAXH2CDATA_MIN, PDA_MAX};

use crate::NS_PER_S;
use crate::tcp::{R2TS_MAX, SLOTS_MAX};

/// Largest in-capsule data size, in bytes: what a command brings along waits in one buffer of this size at most.
pub const IN_CAPSULE_BYTES_MAX: u32 = 64 << 10;

/// Parameters of a target connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TargetParams {
    /// Data a command capsule may carry on an I/O queue, in bytes: what IOCCSZ promises. At most
    /// [`IN_CAPSULE_BYTES_MAX`]. Admin and fabrics commands may always carry 8,192 bytes (NVMe/TCP 1.0 §3.3.2).
    pub in_capsule_data_size: u32,
    /// MAXH2CDATA: data in one H2CData PDU, in bytes; a multiple of 4, at least 4,096.
    pub max_h2c_data: u32,
    /// R2Ts outstanding for one command, as far as the host takes them: 1 to 16 (not 0's based).
    pub max_r2t: u8,
    /// Data one R2T asks for, in bytes, at least 4,096. The default asks for all of a command at once.
    pub r2t_length: u32,
    /// Data of one command, in bytes (MDTS); more is answered with Data SGL Length Invalid.
    pub max_io_size: u32,
    /// CPDA: alignment of data that we ask the host for, in dwords, 0's based: 0 to 31.
    pub cpda: u8,
    /// Whether read data ends with the SUCCESS flag instead of a response, where the host turned SQ flow control off.
    pub c2h_success: bool,
    /// Whether header digests are used when the host asks for them.
    pub header_digest: bool,
    /// Whether data digests are used when the host asks for them.
    pub data_digest: bool,
    /// Time for the host to send its ICReq, in nanoseconds.
    pub handshake_timeout_ns: u64,
    /// Time for a PDU to arrive once it has begun, in nanoseconds.
    pub pdu_timeout_ns: u64,
    /// Time for the data of a command to arrive once it was asked for, in nanoseconds.
    pub data_timeout_ns: u64,
    /// Commands served at a time at most: at least the deepest queue that Connect is granted (MQES + 1). Commands
    /// beyond it wait unread, and with them the data of those before.
    pub max_slots: u16,
}

impl Default for TargetParams {
    fn default() -> Self {
        Self {
            in_capsule_data_size: ADMIN_IN_CAPSULE_BYTES,
            max_h2c_data: 128 << 10,
            max_r2t: 1,
            r2t_length: u32::MAX,
            max_io_size: 1 << 20,
            cpda: 0,
            c2h_success: true,
            header_digest: true,
            data_digest: true,
            handshake_timeout_ns: 10 * NS_PER_S,
            pdu_timeout_ns: 30 * NS_PER_S,
            data_timeout_ns: 60 * NS_PER_S,
            max_slots: 1024,
        }
    }
}

impl TargetParams {
    /// The same parameters with every value moved into its range.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.in_capsule_data_size = self.in_capsule_data_size.min(IN_CAPSULE_BYTES_MAX);
        self.max_h2c_data = self.max_h2c_data.max(MAXH2CDATA_MIN) & !3;
        self.max_r2t = self.max_r2t.clamp(1, R2TS_MAX);
        self.r2t_length = self.r2t_length.max(MAXH2CDATA_MIN);
        self.cpda = self.cpda.min(PDA_MAX);
        self.max_slots = self.max_slots.clamp(2, SLOTS_MAX);
        self
    }

    /// Data that the capsule of any command may carry, in bytes.
    #[inline]
    pub(crate) fn capsule_data_max(&self) -> u32 {
        self.in_capsule_data_size.max(ADMIN_IN_CAPSULE_BYTES)
    }
}
