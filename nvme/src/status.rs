//! Completion status (base 2.1 §4.2.3): status code type, status code, retry delay, more, do not retry.

mod table;

use core::fmt;

/// Status of a completed command: the status field of a completion queue entry without its phase tag.
///
/// Two values are equal when all their bits are, "do not retry" included; compare [`Status::code`]
/// (or use [`Status::is`]) to ask what happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Status(u16);

/// What a status code is about (base 2.1 §4.2.3, SCT).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum StatusCodeType {
    /// 0h: any command.
    Generic = 0,
    /// 1h: specific to the command.
    CommandSpecific = 1,
    /// 2h: media and data integrity errors.
    Media = 2,
    /// 3h: path related.
    Path = 3,
    /// 4h: reserved.
    Reserved4 = 4,
    /// 5h: reserved.
    Reserved5 = 5,
    /// 6h: reserved.
    Reserved6 = 6,
    /// 7h: vendor specific.
    Vendor = 7,
}

impl StatusCodeType {
    const fn from_bits(bits: u16) -> Self {
        match bits & 0b111 {
            0 => Self::Generic,
            1 => Self::CommandSpecific,
            2 => Self::Media,
            3 => Self::Path,
            4 => Self::Reserved4,
            5 => Self::Reserved5,
            6 => Self::Reserved6,
            _ => Self::Vendor,
        }
    }
}

const CODE_MASK: u16 = 0x07FF;
const CRD_SHIFT: u16 = 11;
const MORE: u16 = 1 << 13;
const DNR: u16 = 1 << 14;

impl Status {
    /// A status of this type and code, that may be retried.
    pub const fn new(sct: StatusCodeType, sc: u8) -> Self {
        Self((sct as u16) << 8 | sc as u16)
    }

    /// From the status field of a completion: bit 0, the phase tag, is ignored.
    pub const fn from_cqe_field(field: u16) -> Self {
        Self(field >> 1)
    }

    /// The status field of a completion with this phase tag.
    pub const fn to_cqe_field(self, phase: bool) -> u16 {
        self.0 << 1 | phase as u16
    }

    /// Status code type.
    pub const fn sct(self) -> StatusCodeType {
        StatusCodeType::from_bits(self.0 >> 8)
    }

    /// Status code within its type.
    pub const fn sc(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Type and code: type in bits 10:8, code in bits 7:0.
    pub const fn code(self) -> u16 {
        self.0 & CODE_MASK
    }

    /// Whether type and code equal those of `other`, whatever the retry bits say.
    pub const fn is(self, other: Self) -> bool {
        self.code() == other.code()
    }

    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.code() == 0
    }

    /// The same status with "do not retry" set.
    #[must_use]
    pub const fn dnr(self) -> Self {
        Self(self.0 | DNR)
    }

    /// Whether a retry is expected to fail.
    pub const fn is_dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// The same status with "more" set: the error log holds more about it.
    #[must_use]
    pub const fn more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// Whether the error log holds more about it.
    pub const fn is_more(self) -> bool {
        self.0 & MORE != 0
    }

    /// The same status with command retry delay index `crd` (0 none, 1–3 choose CRDT1–CRDT3 of Identify).
    #[must_use]
    pub const fn with_crd(self, crd: u8) -> Self {
        debug_assert!(crd <= 3);
        Self(self.0 & !(0b11 << CRD_SHIFT) | ((crd & 0b11) as u16) << CRD_SHIFT)
    }

    /// Command retry delay index.
    pub const fn crd(self) -> u8 {
        self.0.to_le_bytes()[1] >> 3 & 0b11
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "status type {:#x} code {:#04x}", self.sct() as u8, self.sc())?,
        }
        if self.is_dnr() { f.write_str(" (do not retry)") } else { Ok(()) }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#05x}: {self})", self.code())
    }
}

impl core::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_field_keeps_every_bit_but_the_phase() {
        for field in 0..=u16::MAX {
            let status = Status::from_cqe_field(field);
            assert_eq!(status.to_cqe_field(field & 1 == 1), field);
        }
    }

    #[test]
    fn fields_lie_where_the_completion_entry_has_them() {
        let status = Status::COMPARE_FAILURE.dnr().more().with_crd(2);
        assert_eq!(status.to_cqe_field(false), 0x285 << 1 | 2 << 12 | 1 << 14 | 1 << 15);
        assert_eq!((status.crd(), status.is_more(), status.is_dnr()), (2, true, true));
        assert!(status.is(Status::COMPARE_FAILURE));
        assert_ne!(status, Status::COMPARE_FAILURE);
    }

    #[test]
    fn every_named_status_has_its_name_and_its_own_code() {
        for (i, status) in Status::ALL.iter().enumerate() {
            assert!(status.name().is_some(), "{status:?}");
            for other in &Status::ALL[..i] {
                assert!(!status.is(*other), "{status:?} {other:?}");
            }
        }
    }

    #[test]
    fn display_says_the_name_and_the_retry_advice() {
        assert_eq!(Status::INVALID_FIELD.dnr().to_string(), "Invalid Field in Command (do not retry)");
        assert_eq!(Status::new(StatusCodeType::Vendor, 0x42).to_string(), "status type 0x7 code 0x42");
    }
}
