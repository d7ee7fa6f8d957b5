//! Reservation commands and their data (base 2.1 §7.5–§7.8, model in §8.1.22).

use crate::macros::{codes, layout};
use crate::{ControllerId, HostId, Nsid, Sqe, opcode};
use zerocopy::little_endian::{U16, U32, U64};

codes! {
    /// Reservation type (base 2.1 §7.5, figure "Reservation Type Encoding").
    pub struct ReservationType(u8) {
        NONE = 0 => "No Reservation";
        WRITE_EXCLUSIVE = 1 => "Write Exclusive";
        EXCLUSIVE_ACCESS = 2 => "Exclusive Access";
        WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3 => "Write Exclusive - Registrants Only";
        EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 4 => "Exclusive Access - Registrants Only";
        WRITE_EXCLUSIVE_ALL_REGISTRANTS = 5 => "Write Exclusive - All Registrants";
        EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 6 => "Exclusive Access - All Registrants";
    }

    /// What a Reservation Register does, RREGA (base 2.1 §7.6).
    pub struct RegisterAction(u8) {
        REGISTER = 0 => "Register Reservation Key";
        UNREGISTER = 1 => "Unregister Reservation Key";
        REPLACE = 2 => "Replace Reservation Key";
    }

    /// What a Reservation Acquire does, RACQA (base 2.1 §7.5).
    pub struct AcquireAction(u8) {
        ACQUIRE = 0 => "Acquire";
        PREEMPT = 1 => "Preempt";
        PREEMPT_AND_ABORT = 2 => "Preempt and Abort";
    }

    /// What a Reservation Release does, RRELA (base 2.1 §7.7).
    pub struct ReleaseAction(u8) {
        RELEASE = 0 => "Release";
        CLEAR = 1 => "Clear";
    }

    /// What a Reservation Register does to persistence through power loss, CPTPL (base 2.1 §7.6).
    pub struct ChangePersistence(u8) {
        NO_CHANGE = 0 => "No change to PTPL state";
        RESERVED = 1 => "Reserved";
        CLEAR = 2 => "Set PTPL state to 0";
        SET = 3 => "Set PTPL state to 1";
    }
}

/// Reservation Register (base 2.1 §7.6); data [`RegisterData`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservationRegister {
    /// Namespace.
    pub nsid: Nsid,
    /// What to do, three bits.
    pub action: RegisterAction,
    /// Ignore the existing key: CRKEY is not compared.
    pub ignore_key: bool,
    /// The host supports reservations on dispersed namespaces (DISNSRS).
    pub dispersed: bool,
    /// Persistence through power loss, two bits.
    pub persistence: ChangePersistence,
}

/// Reservation Acquire (base 2.1 §7.5); data [`AcquireData`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservationAcquire {
    /// Namespace.
    pub nsid: Nsid,
    /// What to do, three bits.
    pub action: AcquireAction,
    /// Ignore the existing key; not allowed by base 1.3 and later.
    pub ignore_key: bool,
    /// The host supports reservations on dispersed namespaces (DISNSRS).
    pub dispersed: bool,
    /// Type of reservation.
    pub kind: ReservationType,
}

/// Reservation Release (base 2.1 §7.7); data [`ReleaseData`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservationRelease {
    /// Namespace.
    pub nsid: Nsid,
    /// What to do, three bits.
    pub action: ReleaseAction,
    /// Ignore the existing key; not allowed by base 1.3 and later.
    pub ignore_key: bool,
    /// The host supports reservations on dispersed namespaces (DISNSRS).
    pub dispersed: bool,
    /// Type of the reservation released.
    pub kind: ReservationType,
}

/// Reservation Report (base 2.1 §7.8); data [`ReservationStatus`] or [`ReservationStatusExtended`] and entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservationReport {
    /// Namespace.
    pub nsid: Nsid,
    /// Dwords to transfer, 0's based as on the wire.
    pub numd: u32,
    /// The extended data structure, with 128-bit host identifiers, is asked for.
    pub extended: bool,
    /// The host supports reservations on dispersed namespaces (DISNSRS).
    pub dispersed: bool,
}

const IEKEY: u32 = 1 << 3;
const DISNSRS: u32 = 1 << 4;

fn flag(on: bool, bit: u32) -> u32 {
    if on { bit } else { 0 }
}

impl ReservationRegister {
    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        let cdw10 = u32::from(self.action.0 & 0b111)
            | flag(self.ignore_key, IEKEY)
            | flag(self.dispersed, DISNSRS)
            | u32::from(self.persistence.0 & 0b11) << 30;
        Sqe {
            nsid: U32::new(self.nsid.0),
            cdw10: U32::new(cdw10),
            ..Sqe::new(opcode::io::RESERVATION_REGISTER, cid)
        }
    }
}

impl From<&Sqe> for ReservationRegister {
    fn from(sqe: &Sqe) -> Self {
        let cdw10 = sqe.cdw10.get();
        let [low, _, _, high] = sqe.cdw10.to_bytes();
        Self {
            nsid: sqe.nsid(),
            action: RegisterAction(low & 0b111),
            ignore_key: cdw10 & IEKEY != 0,
            dispersed: cdw10 & DISNSRS != 0,
            persistence: ChangePersistence(high >> 6),
        }
    }
}

macro_rules! keyed_command {
    ($name:ident, $action:ident, $opcode:ident) => {
        impl $name {
            /// Writes the command; the data pointer is for the caller to set.
            pub fn to_sqe(&self, cid: u16) -> Sqe {
                let cdw10 = u32::from(self.action.0 & 0b111)
                    | flag(self.ignore_key, IEKEY)
                    | flag(self.dispersed, DISNSRS)
                    | u32::from(self.kind.0) << 8;
                Sqe {
                    nsid: U32::new(self.nsid.0),
                    cdw10: U32::new(cdw10),
                    ..Sqe::new(opcode::io::$opcode, cid)
                }
            }
        }

        impl From<&Sqe> for $name {
            fn from(sqe: &Sqe) -> Self {
                let cdw10 = sqe.cdw10.get();
                let [low, kind, _, _] = sqe.cdw10.to_bytes();
                Self {
                    nsid: sqe.nsid(),
                    action: $action(low & 0b111),
                    ignore_key: cdw10 & IEKEY != 0,
                    dispersed: cdw10 & DISNSRS != 0,
                    kind: ReservationType(kind),
                }
            }
        }
    };
}

keyed_command!(ReservationAcquire, AcquireAction, RESERVATION_ACQUIRE);
keyed_command!(ReservationRelease, ReleaseAction, RESERVATION_RELEASE);

impl ReservationReport {
    /// Bytes asked for: a multiple of 4, at least 4.
    pub fn data_bytes(&self) -> u64 {
        (u64::from(self.numd) + 1) * 4
    }

    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe {
            nsid: U32::new(self.nsid.0),
            cdw10: U32::new(self.numd),
            cdw11: U32::new(u32::from(self.extended) | u32::from(self.dispersed) << 1),
            ..Sqe::new(opcode::io::RESERVATION_REPORT, cid)
        }
    }
}

impl From<&Sqe> for ReservationReport {
    fn from(sqe: &Sqe) -> Self {
        let flags = sqe.cdw11.get();
        Self {
            nsid: sqe.nsid(),
            numd: sqe.cdw10.get(),
            extended: flags & 0b01 != 0,
            dispersed: flags & 0b10 != 0,
        }
    }
}

layout! {
    /// Data of a Reservation Register (base 2.1 §7.6).
    pub struct RegisterData: 16 {
        /// Current reservation key.
        0 => crkey: U64,
        /// New reservation key.
        8 => nrkey: U64,
    }

    /// Data of a Reservation Acquire (base 2.1 §7.5).
    pub struct AcquireData: 16 {
        /// Current reservation key.
        0 => crkey: U64,
        /// Reservation key to preempt.
        8 => prkey: U64,
    }

    /// Data of a Reservation Release (base 2.1 §7.7).
    pub struct ReleaseData: 8 {
        /// Current reservation key.
        0 => crkey: U64,
    }

    /// Reservation status, before its [`RegisteredController`] entries (base 2.1 §7.8).
    pub struct ReservationStatus: 24 {
        /// Generation: grows with every register, unregister, preempt and clear.
        0 => generation: U32,
        /// [`ReservationType`].
        4 => rtype: u8,
        /// Number of registered controllers, or of registrants: entries that follow.
        5 => regctl: U16,
        #[doc(hidden)]
        7 => rsvd7: [u8; 2],
        /// Persist through power loss state.
        9 => ptpls: u8,
        #[doc(hidden)]
        10 => rsvd10: [u8; 14],
    }

    /// A registered controller, for 64-bit host identifiers (base 2.1 §7.8).
    pub struct RegisteredController: 24 {
        /// Controller identifier; `FFFFh` for no controller of this subsystem, `FFFDh` for a dispersed participant.
        0 => cntlid: U16,
        /// Bit 0: this host holds the reservation.
        2 => rcsts: u8,
        #[doc(hidden)]
        3 => rsvd3: [u8; 5],
        /// Host identifier.
        8 => hostid: [u8; 8],
        /// Reservation key.
        16 => rkey: U64,
    }

    /// Extended reservation status, before its [`RegisteredControllerExtended`] entries (base 2.1 §7.8).
    pub struct ReservationStatusExtended: 64 {
        /// The fields of the plain structure.
        0 => status: ReservationStatus,
        #[doc(hidden)]
        24 => rsvd24: [u8; 40],
    }

    /// A registered controller, for 128-bit host identifiers, as fabrics hosts have (base 2.1 §7.8).
    pub struct RegisteredControllerExtended: 64 {
        /// Controller identifier; `FFFFh` for no controller of this subsystem, `FFFDh` for a dispersed participant.
        0 => cntlid: U16,
        /// Bit 0: this host holds the reservation.
        2 => rcsts: u8,
        #[doc(hidden)]
        3 => rsvd3: [u8; 5],
        /// Reservation key.
        8 => rkey: U64,
        /// Host identifier.
        16 => hostid: HostId,
        #[doc(hidden)]
        32 => rsvd32: [u8; 32],
    }
}

impl RegisteredControllerExtended {
    /// An entry for this registrant.
    pub fn new(cntlid: ControllerId, hostid: HostId, rkey: u64, holder: bool) -> Self {
        Self {
            cntlid: U16::new(cntlid.0),
            rcsts: u8::from(holder),
            rkey: U64::new(rkey),
            hostid,
            ..Self::default()
        }
    }
}
