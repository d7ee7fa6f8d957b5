//! The completion queue entry (base 2.1 §4.2).

use crate::Status;
use crate::macros::layout;
use zerocopy::little_endian::{U16, U64};

layout! {
    /// Completion queue entry: 16 bytes (base 2.1 §4.2.1; fabrics response capsule, base 2.1 §3.3.2).
    pub struct Cqe: 16 {
        /// Command-specific result: dword 0 in the low half, dword 1 in the high half.
        0 => result: U64,
        /// Submission queue head pointer, for flow control.
        8 => sqhd: U16,
        /// Submission queue identifier; reserved over fabrics.
        10 => sqid: U16,
        /// Identifier of the command that completed.
        12 => cid: U16,
        /// Status field in bits 15:1, phase tag in bit 0 (zero over fabrics).
        14 => status: U16,
    }
}

impl Cqe {
    /// A completion without a result, with the phase tag clear.
    pub fn new(cid: u16, status: Status) -> Self {
        Self { cid: U16::new(cid), status: U16::new(status.to_cqe_field(false)), ..Self::default() }
    }

    /// The same completion with this result.
    #[must_use]
    pub fn with_result(mut self, result: u64) -> Self {
        self.result = U64::new(result);
        self
    }

    /// The same completion with this submission queue head.
    #[must_use]
    pub fn with_sqhd(mut self, sqhd: u16) -> Self {
        self.sqhd = U16::new(sqhd);
        self
    }

    /// Dword 0 of the result.
    #[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    pub fn dw0(&self) -> u32 {
        self.result.get() as u32
    }

    /// Dword 1 of the result.
    #[allow(clippy::cast_possible_truncation, reason = "32 bits are left after the shift")]
    pub fn dw1(&self) -> u32 {
        (self.result.get() >> 32) as u32
    }

    /// Status without the phase tag.
    pub fn status(&self) -> Status {
        Status::from_cqe_field(self.status.get())
    }

    /// Phase tag.
    pub fn phase(&self) -> bool {
        self.status.get() & 1 == 1
    }
}
