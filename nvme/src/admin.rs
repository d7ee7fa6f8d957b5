//! Admin commands (base 2.1 §5.1).

use crate::dwords::{halves, split, wide};
use crate::{ControllerId, Nsid, QueueId, Sqe, opcode};
use zerocopy::little_endian::U32;

/// Identify (base 2.1 §5.1.13).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Identify {
    /// Namespace, or where a list starts.
    pub nsid: Nsid,
    /// Controller or namespace structure: [`crate::identify::cns`].
    pub cns: u8,
    /// Controller, or where a controller list starts.
    pub cntid: ControllerId,
    /// CNS specific identifier: NVM set, domain, endurance group.
    pub cnssid: u16,
    /// Command set identifier.
    pub csi: u8,
    /// UUID index, seven bits.
    pub uuid: u8,
}

impl Identify {
    /// The structure `cns` of no namespace in particular.
    pub fn new(cns: u8) -> Self {
        Self { cns, ..Self::default() }
    }

    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe {
            nsid: U32::new(self.nsid.0),
            cdw10: U32::new(u32::from(self.cntid.0) << 16 | u32::from(self.cns)),
            cdw11: U32::new(u32::from(self.csi) << 24 | u32::from(self.cnssid)),
            cdw14: U32::new(u32::from(self.uuid & 0x7F)),
            ..Sqe::new(opcode::admin::IDENTIFY, cid)
        }
    }
}

impl From<&Sqe> for Identify {
    fn from(sqe: &Sqe) -> Self {
        Self {
            nsid: sqe.nsid(),
            cns: sqe.cdw10.to_bytes()[0],
            cntid: ControllerId(halves(sqe.cdw10).1),
            cnssid: halves(sqe.cdw11).0,
            csi: sqe.cdw11.to_bytes()[3],
            uuid: sqe.cdw14.to_bytes()[0] & 0x7F,
        }
    }
}

/// Get Log Page (base 2.1 §5.1.12).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GetLogPage {
    /// Namespace, or [`Nsid::ALL`] for the controller.
    pub nsid: Nsid,
    /// Log page identifier: [`crate::log::lid`].
    pub lid: u8,
    /// Log specific parameter, seven bits.
    pub lsp: u8,
    /// Retain asynchronous event: reading does not re-arm the event of this page.
    pub rae: bool,
    /// Dwords to transfer, 0's based as on the wire; see [`GetLogPage::data_bytes`].
    pub numd: u32,
    /// Log specific identifier.
    pub lsi: u16,
    /// Offset into the page: bytes, or an index when `ot` is set.
    pub lpo: u64,
    /// UUID index, seven bits.
    pub uuid: u8,
    /// Offset type: `lpo` is an index of data structures.
    pub ot: bool,
    /// Command set identifier.
    pub csi: u8,
}

impl GetLogPage {
    /// `bytes` bytes (a multiple of 4, at least 4) of page `lid` from `offset` bytes (a multiple of 4).
    pub fn new(lid: u8, bytes: u32, offset: u64) -> Self {
        debug_assert!(bytes >= 4 && bytes.is_multiple_of(4));
        debug_assert!(offset.is_multiple_of(4));
        Self { nsid: Nsid::ALL, lid, numd: (bytes / 4).saturating_sub(1), lpo: offset, ..Self::default() }
    }

    /// Bytes asked for: a multiple of 4, at least 4, at most 16 GiB.
    pub fn data_bytes(&self) -> u64 {
        (u64::from(self.numd) + 1) * 4
    }

    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        let numd = self.numd.to_le_bytes();
        let lsi = self.lsi.to_le_bytes();
        let (cdw12, cdw13) = split(self.lpo);
        Sqe {
            nsid: U32::new(self.nsid.0),
            cdw10: U32::from_bytes([self.lid, self.lsp & 0x7F | u8::from(self.rae) << 7, numd[0], numd[1]]),
            cdw11: U32::from_bytes([numd[2], numd[3], lsi[0], lsi[1]]),
            cdw12,
            cdw13,
            cdw14: U32::from_bytes([self.uuid & 0x7F, 0, u8::from(self.ot) << 7, self.csi]),
            ..Sqe::new(opcode::admin::GET_LOG_PAGE, cid)
        }
    }
}

impl From<&Sqe> for GetLogPage {
    fn from(sqe: &Sqe) -> Self {
        let [lid, parameter, _, _] = sqe.cdw10.to_bytes();
        let [uuid, _, offset_type, csi] = sqe.cdw14.to_bytes();
        let (numd_high, lsi) = halves(sqe.cdw11);
        Self {
            nsid: sqe.nsid(),
            lid,
            lsp: parameter & 0x7F,
            rae: parameter & 0x80 != 0,
            numd: u32::from(numd_high) << 16 | u32::from(halves(sqe.cdw10).1),
            lsi,
            lpo: wide(sqe.cdw12, sqe.cdw13),
            uuid: uuid & 0x7F,
            ot: offset_type & 0x80 != 0,
            csi,
        }
    }
}

/// Which value of a feature Get Features asks for (base 2.1 §5.1.11).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FeatureSelect {
    /// 000b: the current value.
    #[default]
    Current,
    /// 001b: the default value.
    Default,
    /// 010b: the saved value.
    Saved,
    /// 011b: what can be done with the feature.
    Capabilities,
    /// 100b–111b: reserved, the bits.
    Reserved(u8),
}

impl FeatureSelect {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Current,
            1 => Self::Default,
            2 => Self::Saved,
            3 => Self::Capabilities,
            other => Self::Reserved(other),
        }
    }

    const fn to_bits(self) -> u8 {
        match self {
            Self::Current => 0,
            Self::Default => 1,
            Self::Saved => 2,
            Self::Capabilities => 3,
            Self::Reserved(bits) => bits & 0b111,
        }
    }
}

/// Get Features (base 2.1 §5.1.11).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GetFeatures {
    /// Namespace of a namespace-specific feature.
    pub nsid: Nsid,
    /// Feature identifier: [`crate::features::fid`].
    pub fid: u8,
    /// Which value.
    pub sel: FeatureSelect,
    /// Feature-specific dword 11.
    pub cdw11: u32,
    /// UUID index, seven bits.
    pub uuid: u8,
}

impl GetFeatures {
    /// The current value of feature `fid`.
    pub fn new(fid: u8) -> Self {
        Self { fid, ..Self::default() }
    }

    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe {
            nsid: U32::new(self.nsid.0),
            cdw10: U32::from_bytes([self.fid, self.sel.to_bits(), 0, 0]),
            cdw11: U32::new(self.cdw11),
            cdw14: U32::new(u32::from(self.uuid & 0x7F)),
            ..Sqe::new(opcode::admin::GET_FEATURES, cid)
        }
    }
}

impl From<&Sqe> for GetFeatures {
    fn from(sqe: &Sqe) -> Self {
        let [fid, select, _, _] = sqe.cdw10.to_bytes();
        Self {
            nsid: sqe.nsid(),
            fid,
            sel: FeatureSelect::from_bits(select & 0b111),
            cdw11: sqe.cdw11.get(),
            uuid: sqe.cdw14.to_bytes()[0] & 0x7F,
        }
    }
}

/// Set Features (base 2.1 §5.1.25).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SetFeatures {
    /// Namespace of a namespace-specific feature.
    pub nsid: Nsid,
    /// Feature identifier: [`crate::features::fid`].
    pub fid: u8,
    /// Save: the value survives resets and power cycles.
    pub sv: bool,
    /// Feature-specific dword 11.
    pub cdw11: u32,
    /// Feature-specific dword 12.
    pub cdw12: u32,
    /// Feature-specific dword 13.
    pub cdw13: u32,
    /// UUID index, seven bits.
    pub uuid: u8,
    /// Feature-specific dword 15.
    pub cdw15: u32,
}

impl SetFeatures {
    /// Feature `fid` becomes `cdw11`.
    pub fn new(fid: u8, cdw11: u32) -> Self {
        Self { fid, cdw11, ..Self::default() }
    }

    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe {
            nsid: U32::new(self.nsid.0),
            cdw10: U32::from_bytes([self.fid, 0, 0, u8::from(self.sv) << 7]),
            cdw11: U32::new(self.cdw11),
            cdw12: U32::new(self.cdw12),
            cdw13: U32::new(self.cdw13),
            cdw14: U32::new(u32::from(self.uuid & 0x7F)),
            cdw15: U32::new(self.cdw15),
            ..Sqe::new(opcode::admin::SET_FEATURES, cid)
        }
    }
}

impl From<&Sqe> for SetFeatures {
    fn from(sqe: &Sqe) -> Self {
        let [fid, _, _, save] = sqe.cdw10.to_bytes();
        Self {
            nsid: sqe.nsid(),
            fid,
            sv: save & 0x80 != 0,
            cdw11: sqe.cdw11.get(),
            cdw12: sqe.cdw12.get(),
            cdw13: sqe.cdw13.get(),
            uuid: sqe.cdw14.to_bytes()[0] & 0x7F,
            cdw15: sqe.cdw15.get(),
        }
    }
}

/// Abort (base 2.1 §5.1.1). Its result has bit 0 clear when the command was aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// Queue of the command.
    pub sqid: QueueId,
    /// Identifier of the command to abort.
    pub cid: u16,
}

impl Abort {
    /// Writes the command, itself identified by `cid`.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe {
            cdw10: U32::new(u32::from(self.cid) << 16 | u32::from(self.sqid.0)),
            ..Sqe::new(opcode::admin::ABORT, cid)
        }
    }
}

impl From<&Sqe> for Abort {
    fn from(sqe: &Sqe) -> Self {
        let (sqid, cid) = halves(sqe.cdw10);
        Self { sqid: QueueId(sqid), cid }
    }
}

/// Asynchronous Event Request (base 2.1 §5.1.2); completes with [`crate::event::AsyncEvent`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncEventRequest;

impl AsyncEventRequest {
    /// Writes the command.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe::new(opcode::admin::ASYNC_EVENT_REQUEST, cid)
    }
}

/// Keep Alive (base 2.1 §5.1.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepAlive;

impl KeepAlive {
    /// Writes the command.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe::new(opcode::admin::KEEP_ALIVE, cid)
    }
}
