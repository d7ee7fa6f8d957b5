//! Errors, health, firmware, self-tests, sanitize, reservation notifications.

use crate::macros::{codes, layout, masks};
use crate::{Ascii, Status};
use zerocopy::little_endian::{U16, U32, U64, U128};

layout! {
    /// Entry of the Error Information log (base 2.1 §5.1.12.1.2), the newest first.
    pub struct ErrorEntry: 64 {
        /// Number of the error, from 1 on; zero is no entry.
        0 => error_count: U64,
        /// Submission queue.
        8 => sqid: U16,
        /// Command identifier; `FFFFh` when the error has none.
        10 => cid: U16,
        /// Status field of the completion, phase tag in bit 0.
        12 => status: U16,
        /// Where the bad parameter lies: byte in bits 7:0, bit in 10:8; `FFFFh` when it does not apply.
        14 => pel: U16,
        /// First logical block with the error.
        16 => lba: U64,
        /// Namespace.
        24 => nsid: U32,
        /// Vendor specific log page with more, or zero.
        28 => vs: u8,
        /// Transport: [`crate::discovery::TransportType`].
        29 => trtype: u8,
        /// Command set.
        30 => csi: u8,
        /// Opcode.
        31 => opcode: u8,
        /// Command specific information.
        32 => cs: U64,
        /// Transport specific information.
        40 => trtype_info: U16,
        #[doc(hidden)]
        42 => rsvd42: [u8; 21],
        /// Log page version, 1 when `csi` and `opcode` are valid.
        63 => version: u8,
    }

    /// SMART / Health Information (base 2.1 §5.1.12.1.3).
    pub struct SmartLog: 512 {
        /// [`critical_warning`].
        0 => critical_warning: u8,
        /// Composite temperature in kelvins.
        1 => temperature: U16,
        /// Available spare in percent.
        3 => available_spare: u8,
        /// Threshold of available spare in percent.
        4 => spare_threshold: u8,
        /// Percentage of life used, may exceed 100.
        5 => percentage_used: u8,
        /// Endurance groups with a critical warning, as bits.
        6 => endurance_group_warning: u8,
        #[doc(hidden)]
        7 => rsvd7: [u8; 25],
        /// Data read, in 512,000 bytes, rounded up.
        32 => data_units_read: U128,
        /// Data written, in 512,000 bytes, rounded up.
        48 => data_units_written: U128,
        /// Read and similar commands completed.
        64 => host_reads: U128,
        /// Write commands completed.
        80 => host_writes: U128,
        /// Minutes with I/O commands outstanding.
        96 => controller_busy_minutes: U128,
        /// Power cycles.
        112 => power_cycles: U128,
        /// Hours of power.
        128 => power_on_hours: U128,
        /// Unexpected power losses.
        144 => unsafe_shutdowns: U128,
        /// Unrecovered data integrity errors.
        160 => media_errors: U128,
        /// Error log entries over the life of the controller.
        176 => error_entries: U128,
        /// Minutes above the warning temperature.
        192 => warning_temperature_minutes: U32,
        /// Minutes above the critical temperature.
        196 => critical_temperature_minutes: U32,
        /// Temperature sensors in kelvins; zero is none.
        200 => temperature_sensors: [U16; 8],
        /// Transitions to light throttling.
        216 => tmt1_transitions: U32,
        /// Transitions to heavy throttling.
        220 => tmt2_transitions: U32,
        /// Seconds in light throttling.
        224 => tmt1_seconds: U32,
        /// Seconds in heavy throttling.
        228 => tmt2_seconds: U32,
        #[doc(hidden)]
        232 => rsvd232: [u8; 280],
    }

    /// Firmware Slot Information (base 2.1 §5.1.12.1.4).
    pub struct FirmwareSlots: 512 {
        /// Active slot in bits 2:0, slot after the next reset in bits 6:4.
        0 => afi: u8,
        #[doc(hidden)]
        1 => rsvd1: [u8; 7],
        /// Revision in each slot; zeroes for an empty one.
        8 => revisions: [Ascii<8>; 7],
        #[doc(hidden)]
        64 => rsvd64: [u8; 448],
    }

    /// Result of a self-test (base 2.1 §5.1.12.1.7).
    pub struct SelfTestResult: 28 {
        /// Result in bits 3:0 (Fh is unused), what ran in bits 7:4.
        0 => status: u8,
        /// Segment that failed first.
        1 => segment: u8,
        /// Valid fields: bit 0 `nsid`, 1 `lba`, 2 `sct`, 3 `sc`.
        2 => valid: u8,
        #[doc(hidden)]
        3 => rsvd3: u8,
        /// Hours of power when it ended.
        4 => power_on_hours: U64,
        /// Namespace.
        12 => nsid: U32,
        /// Logical block that failed.
        16 => lba: U64,
        /// Status code type, bits 2:0.
        24 => sct: u8,
        /// Status code.
        25 => sc: u8,
        /// Vendor specific.
        26 => vs: [u8; 2],
    }

    /// Device Self-test log (base 2.1 §5.1.12.1.7).
    pub struct SelfTestLog: 564 {
        /// What runs now, bits 3:0; zero is nothing.
        0 => operation: u8,
        /// How far it is in percent, bits 6:0.
        1 => completion: u8,
        #[doc(hidden)]
        2 => rsvd2: [u8; 2],
        /// The last results, the newest first.
        4 => results: [SelfTestResult; 20],
    }

    /// Reservation Notification (base 2.1 §5.1.12.1.32).
    pub struct ReservationNotification: 64 {
        /// Number of the notification; zero is an empty page.
        0 => count: U64,
        /// [`ReservationNotice`].
        8 => kind: u8,
        /// Further pages available, 255 for more.
        9 => available: u8,
        #[doc(hidden)]
        10 => rsvd10: [u8; 2],
        /// Namespace.
        12 => nsid: U32,
        #[doc(hidden)]
        16 => rsvd16: [u8; 48],
    }

    /// Sanitize Status (base 2.1 §5.1.12.1.33).
    pub struct SanitizeStatus: 512 {
        /// Progress in 1/65,536; `FFFFh` when nothing runs.
        0 => sprog: U16,
        /// State in bits 2:0, overwrite passes in 7:3, bit 8 set when no user data was written since.
        2 => sstat: U16,
        /// Dword 10 of the Sanitize command.
        4 => scdw10: U32,
        /// Seconds an overwrite takes; `FFFFFFFFh` when not reported.
        8 => eto: U32,
        /// Seconds a block erase takes.
        12 => etbe: U32,
        /// Seconds a crypto erase takes.
        16 => etce: U32,
        /// Seconds an overwrite without deallocation takes.
        20 => etond: U32,
        /// Seconds a block erase without deallocation takes.
        24 => etbend: U32,
        /// Seconds a crypto erase without deallocation takes.
        28 => etcend: U32,
        /// Seconds the deallocation after media verification takes.
        32 => etpvds: U32,
        /// Sanitize state information.
        36 => ssi: u8,
        #[doc(hidden)]
        37 => rsvd37: [u8; 475],
    }
}

masks! {
    /// Critical warnings of [`SmartLog`].
    pub mod critical_warning: u8 {
        SPARE_BELOW_THRESHOLD = 0 => "available spare is below its threshold";
        TEMPERATURE = 1 => "a temperature is beyond a threshold";
        RELIABILITY_DEGRADED = 2 => "reliability is degraded";
        READ_ONLY = 3 => "all media is read-only";
        VOLATILE_MEMORY_BACKUP_FAILED = 4 => "the volatile memory backup failed";
        PERSISTENT_MEMORY_UNRELIABLE = 5 => "the persistent memory region is read-only or unreliable";
    }
}

codes! {
    /// What a reservation notification reports.
    pub struct ReservationNotice(u8) {
        EMPTY = 0 => "Empty Log Page";
        REGISTRATION_PREEMPTED = 1 => "Registration Preempted";
        RESERVATION_RELEASED = 2 => "Reservation Released";
        RESERVATION_PREEMPTED = 3 => "Reservation Preempted";
    }
}

impl ErrorEntry {
    /// Status of the completion.
    pub fn status(&self) -> Status {
        Status::from_cqe_field(self.status.get())
    }
}
