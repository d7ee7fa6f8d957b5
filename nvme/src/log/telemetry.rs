//! Telemetry logs (base 2.1 §5.1.12.1.8, §5.1.12.1.9): a header, then data areas of 512-byte blocks.

use crate::macros::layout;
use zerocopy::little_endian::{U16, U32};

/// Bytes of a telemetry data block.
pub const TELEMETRY_BLOCK_BYTES: usize = 512;

/// Log specific parameter of the host-initiated log: capture new data now.
pub const LSP_TELEMETRY_CREATE: u8 = 0b1;

layout! {
    /// Header of both telemetry logs.
    pub struct TelemetryHeader: 512 {
        /// Log page identifier, 07h or 08h.
        0 => lid: u8,
        #[doc(hidden)]
        1 => rsvd1: [u8; 4],
        /// IEEE OUI.
        5 => ieee: [u8; 3],
        /// Last block of data area 1.
        8 => dalb1: U16,
        /// Last block of data area 2.
        10 => dalb2: U16,
        /// Last block of data area 3.
        12 => dalb3: U16,
        #[doc(hidden)]
        14 => rsvd14: [u8; 2],
        /// Last block of data area 4.
        16 => dalb4: U32,
        #[doc(hidden)]
        20 => rsvd20: [u8; 360],
        /// Scope of the host-initiated log: 0 unknown, 1 controller, 2 subsystem.
        380 => scope: u8,
        /// Host-initiated: its generation number. Controller-initiated: its scope.
        381 => host_generation: u8,
        /// Controller-initiated data available.
        382 => controller_available: u8,
        /// Generation number of the controller-initiated data.
        383 => controller_generation: u8,
        /// Why the data was captured, vendor specific.
        384 => reason: [u8; 128],
    }
}
