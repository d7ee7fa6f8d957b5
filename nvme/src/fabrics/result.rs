//! What a Connect response says in its result (base 2.1 §6.3).

use crate::ControllerId;

/// Dword 0 of a successful Connect response (base 2.1 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ConnectResult {
    /// Controller allocated.
    pub cntlid: ControllerId,
    /// Authentication is required before any other command (ATR).
    pub authentication_required: bool,
    /// Authentication with secure channel concatenation is required (ASCR).
    pub secure_channel_required: bool,
}

impl ConnectResult {
    const ATR: u64 = 1 << 17;
    const ASCR: u64 = 1 << 18;

    /// From the result of a completion.
    pub fn from_result(result: u64) -> Self {
        Self {
            cntlid: ControllerId(u16::from_le_bytes([result.to_le_bytes()[0], result.to_le_bytes()[1]])),
            authentication_required: result & Self::ATR != 0,
            secure_channel_required: result & Self::ASCR != 0,
        }
    }

    /// The result of a completion.
    pub fn to_result(self) -> u64 {
        u64::from(self.cntlid.0)
            | if self.authentication_required { Self::ATR } else { 0 }
            | if self.secure_channel_required { Self::ASCR } else { 0 }
    }
}

/// Dword 0 of a Connect response with status Connect Invalid Parameters: which one (base 2.1 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectInvalidParameter {
    /// A field of the command, by its byte offset.
    Command {
        /// Offset in bytes.
        offset: u16,
    },
    /// A field of the data, by its byte offset.
    Data {
        /// Offset in bytes.
        offset: u16,
    },
}

impl ConnectInvalidParameter {
    /// QID in the command.
    pub const QID: Self = Self::Command { offset: 42 };
    /// SQSIZE in the command.
    pub const SQSIZE: Self = Self::Command { offset: 44 };
    /// CNTLID in the data.
    pub const CNTLID: Self = Self::Data { offset: 16 };
    /// SUBNQN in the data.
    pub const SUBNQN: Self = Self::Data { offset: 256 };
    /// HOSTNQN in the data.
    pub const HOSTNQN: Self = Self::Data { offset: 512 };
    /// HOSTID in the data.
    pub const HOSTID: Self = Self::Data { offset: 0 };

    /// From the result of a completion.
    pub fn from_result(result: u64) -> Self {
        let bytes = result.to_le_bytes();
        let offset = u16::from_le_bytes([bytes[0], bytes[1]]);
        if bytes[2] & 1 == 1 { Self::Data { offset } } else { Self::Command { offset } }
    }

    /// The result of a completion: offset in bits 15:0, bit 16 set for the data.
    pub fn to_result(self) -> u64 {
        match self {
            Self::Command { offset } => u64::from(offset),
            Self::Data { offset } => u64::from(offset) | 1 << 16,
        }
    }
}
