//! Data of features that have more than a dword.

use crate::HostId;
use crate::macros::{layout, masks};
use zerocopy::little_endian::{U16, U64};

layout! {
    /// Timestamp, 0Eh (base 2.1 §5.1.25.1.7).
    pub struct Timestamp: 8 {
        /// Milliseconds since 1970 (or since reset), 48 bits little-endian.
        0 => milliseconds: [u8; 6],
        /// Get Features: bit 0 set when time may have stopped; bits 3:1 origin, 0 reset, 1 Set Features.
        6 => attributes: u8,
        #[doc(hidden)]
        7 => rsvd7: u8,
    }

    /// Host Behavior Support, 16h (base 2.1 §5.1.25.1.14). Fields are 0 or 1.
    pub struct HostBehavior: 512 {
        /// Command interrupted and retry delays are understood.
        0 => acre: u8,
        /// Telemetry data area 4 is understood.
        1 => etdas: u8,
        /// Extended LBA formats are understood.
        2 => lbafee: u8,
        /// Dispersed namespaces are understood.
        3 => hdisns: u8,
        /// Copy descriptor formats enabled, one bit each.
        4 => cdfe: U16,
        #[doc(hidden)]
        6 => rsvd6: [u8; 506],
    }

    /// Host Identifier, 81h, with EXHID clear: 64 bits.
    pub struct HostIdentifierShort: 8 {
        /// Host identifier.
        0 => hostid: [u8; 8],
    }

    /// Host Identifier, 81h, with EXHID set: 128 bits.
    pub struct HostIdentifierExtended: 16 {
        /// Host identifier.
        0 => hostid: HostId,
    }

    /// Autonomous Power State Transition, 0Ch: one entry a power state.
    pub struct AutonomousPowerStateTable: 256 {
        /// Target state in bits 7:3, idle milliseconds before it in bits 31:8.
        0 => entries: [U64; 32],
    }

    /// LBA Range Type entry, 03h (NVM command set 1.1 §4.1.3.1).
    pub struct LbaRangeType: 64 {
        /// 0 general, 1 file system, 2 RAID, 3 cache, 4 page or swap.
        0 => kind: u8,
        /// Bit 0 may be overwritten, bit 1 hidden from the host.
        1 => attributes: u8,
        #[doc(hidden)]
        2 => rsvd2: [u8; 14],
        /// First logical block.
        16 => slba: U64,
        /// Number of logical blocks, 0's based.
        24 => nlb: U64,
        /// Unique identifier.
        32 => guid: [u8; 16],
        #[doc(hidden)]
        48 => rsvd48: [u8; 16],
    }

    /// Header of host metadata, 7Dh to 7Fh: 4,096 bytes of descriptors follow its two.
    pub struct HostMetadataHeader: 2 {
        /// Number of descriptors.
        0 => number: u8,
        #[doc(hidden)]
        1 => rsvd1: u8,
    }

    /// Header of a metadata element descriptor; the value follows.
    pub struct MetadataElementHeader: 4 {
        /// Element type, bits 5:0.
        0 => kind: u8,
        /// Element revision, bits 3:0.
        1 => revision: u8,
        /// Length of the value in bytes.
        2 => length: U16,
    }
}

masks! {
    /// Bits of [`Timestamp`] attributes.
    pub mod timestamp_attributes: u8 {
        MAY_HAVE_STOPPED = 0 => "the controller may have stopped counting";
        ORIGIN_HOST = 1 => "counted from what Set Features said, not from the last reset";
    }
}

impl Timestamp {
    /// Largest value: 48 bits of milliseconds.
    pub const MILLISECONDS_MAX: u64 = (1 << 48) - 1;

    /// This many milliseconds; what does not fit 48 bits is cut off.
    pub fn new(milliseconds: u64, attributes: u8) -> Self {
        let [a, b, c, d, e, f, _, _] = milliseconds.to_le_bytes();
        Self { milliseconds: [a, b, c, d, e, f], attributes, rsvd7: 0 }
    }

    /// Milliseconds.
    pub fn milliseconds(&self) -> u64 {
        let [a, b, c, d, e, f] = self.milliseconds;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}
