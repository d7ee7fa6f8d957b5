//! NVMe/TCP PDUs (NVMe/TCP 1.0 §3.6.2). Every PDU starts with [`CommonHeader`].

use crate::macros::{codes, layout};
use crate::{Cqe, Sqe};
use zerocopy::little_endian::{U16, U32};

/// Port IANA gave NVMe over fabrics I/O controllers.
pub const PORT_IO: u16 = 4420;
/// Port IANA gave NVMe discovery services.
pub const PORT_DISCOVERY: u16 = 8009;
/// Bytes of a header or data digest: CRC32C, little-endian (§3.3.1.1).
pub const DIGEST_BYTES: usize = 4;
/// PDU format version 0, the only one (§3.6.2.2).
pub const PFV_1_0: u16 = 0;
/// Largest HPDA and CPDA: alignment to (31 + 1) × 4 bytes (§3.6.2.2).
pub const PDA_MAX: u8 = 31;
/// Most bytes of an offending PDU's header a TermReq carries (§3.6.2.4).
pub const TERM_DATA_BYTES_MAX: usize = 128;
/// MAXH2CDATA that a controller should announce at least, in bytes (§3.6.2.3).
pub const MAXH2CDATA_MIN: u32 = 4096;
/// In-capsule data every controller takes with admin and fabrics commands, in bytes (§3.3.1).
pub const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;

/// Data alignment in bytes that an HPDA or CPDA value stands for: a multiple of 4.
pub const fn alignment_bytes(pda: u8) -> usize {
    (pda as usize + 1) * 4
}

codes! {
    /// Type of a PDU, byte 0 of every PDU (§3.3, figure "NVMe/TCP PDU Types"); bit 0 is set from the controller.
    pub struct PduType(u8) {
        IC_REQ = 0x00 => "ICReq";
        IC_RESP = 0x01 => "ICResp";
        H2C_TERM_REQ = 0x02 => "H2CTermReq";
        C2H_TERM_REQ = 0x03 => "C2HTermReq";
        CAPSULE_CMD = 0x04 => "CapsuleCmd";
        CAPSULE_RESP = 0x05 => "CapsuleResp";
        H2C_DATA = 0x06 => "H2CData";
        C2H_DATA = 0x07 => "C2HData";
        R2T = 0x09 => "R2T";
        KD_REQ = 0x0A => "KDReq";
        KD_RESP = 0x0B => "KDResp";
    }

    /// Fatal error status of a TermReq (§3.6.2.4, §3.6.2.5).
    pub struct Fes(u16) {
        INVALID_PDU_HEADER_FIELD = 0x01 => "Invalid PDU Header Field";
        PDU_SEQUENCE_ERROR = 0x02 => "PDU Sequence Error";
        HEADER_DIGEST_ERROR = 0x03 => "Header Digest Error";
        DATA_TRANSFER_OUT_OF_RANGE = 0x04 => "Data Transfer Out of Range";
        LIMIT_EXCEEDED = 0x05 => "R2T Limit Exceeded or Data Transfer Limit Exceeded";
        UNSUPPORTED_PARAMETER = 0x06 => "Unsupported Parameter";
    }
}

impl Fes {
    /// H2CTermReq: the controller sent more R2Ts than MAXR2T allows.
    pub const R2T_LIMIT_EXCEEDED: Self = Self::LIMIT_EXCEEDED;
    /// C2HTermReq: a data PDU carries more than MAXH2CDATA, or more than was asked for.
    pub const DATA_TRANSFER_LIMIT_EXCEEDED: Self = Self::LIMIT_EXCEEDED;
}

/// Bits of the FLAGS byte (§3.6.2.1 and the PDU concerned).
pub mod flags {
    /// The PDU carries a header digest.
    pub const HDGSTF: u8 = 1 << 0;
    /// The PDU carries a data digest.
    pub const DDGSTF: u8 = 1 << 1;
    /// H2CData, C2HData: last PDU of the transfer.
    pub const LAST_PDU: u8 = 1 << 2;
    /// C2HData, with LAST_PDU: the command succeeded and no response capsule follows.
    pub const SUCCESS: u8 = 1 << 3;
}

/// Bits of the DGST byte of ICReq and ICResp (§3.6.2.2).
pub mod digest {
    /// Header digests on.
    pub const HEADER: u8 = 1 << 0;
    /// Data digests on.
    pub const DATA: u8 = 1 << 1;
}

layout! {
    /// Common header of every PDU (§3.6.2.1).
    pub struct CommonHeader: 8 {
        /// Type of the PDU: [`PduType`].
        0 => pdu_type: u8,
        /// [`flags`].
        1 => flags: u8,
        /// Header length in bytes, header digest not counted.
        2 => hlen: u8,
        /// Offset of the data from the start of the PDU, in bytes; zero without data or when it does not apply.
        3 => pdo: u8,
        /// Length of the whole PDU in bytes: header, digests, padding and data.
        4 => plen: U32,
    }

    /// Initialize Connection Request (§3.6.2.2).
    pub struct IcReq: 128 {
        /// Common header.
        0 => ch: CommonHeader,
        /// PDU format version: [`PFV_1_0`].
        8 => pfv: U16,
        /// Alignment the host wants data at, dwords, 0's based.
        10 => hpda: u8,
        /// Digests the host asks for: [`digest`].
        11 => dgst: u8,
        /// Outstanding R2Ts the host takes per command, 0's based.
        12 => maxr2t: U32,
        #[doc(hidden)]
        16 => rsvd16: [u8; 112],
    }

    /// Initialize Connection Response (§3.6.2.3).
    pub struct IcResp: 128 {
        /// Common header.
        0 => ch: CommonHeader,
        /// PDU format version: [`PFV_1_0`].
        8 => pfv: U16,
        /// Alignment the controller wants data at, dwords, 0's based.
        10 => cpda: u8,
        /// Digests in use on this connection: [`digest`].
        11 => dgst: u8,
        /// Most bytes of data in one H2CData PDU; a multiple of 4, no less than [`MAXH2CDATA_MIN`] where possible.
        12 => maxh2cdata: U32,
        #[doc(hidden)]
        16 => rsvd16: [u8; 112],
    }

    /// Terminate Connection Request, of either side (§3.6.2.4, §3.6.2.5); the offending header follows.
    pub struct TermReq: 24 {
        /// Common header.
        0 => ch: CommonHeader,
        /// Fatal error status: [`Fes`].
        8 => fes: U16,
        /// Fatal error information: offset of the bad field in the offending header, or the header digest received.
        10 => fei: U32,
        #[doc(hidden)]
        14 => rsvd14: [u8; 10],
    }

    /// Command capsule (§3.6.2.6); in-capsule data may follow.
    pub struct CapsuleCmd: 72 {
        /// Common header.
        0 => ch: CommonHeader,
        /// The command.
        8 => sqe: Sqe,
    }

    /// Response capsule (§3.6.2.7).
    pub struct CapsuleResp: 24 {
        /// Common header.
        0 => ch: CommonHeader,
        /// The completion.
        8 => cqe: Cqe,
    }

    /// Host to controller data (§3.6.2.8); the data follows.
    pub struct H2cData: 24 {
        /// Common header.
        0 => ch: CommonHeader,
        /// Identifier of the command.
        8 => cccid: U16,
        /// Transfer tag of the R2T that asked for it.
        10 => ttag: U16,
        /// Offset into the data of the command, in bytes.
        12 => datao: U32,
        /// Length of the data in this PDU, in bytes.
        16 => datal: U32,
        #[doc(hidden)]
        20 => rsvd20: [u8; 4],
    }

    /// Controller to host data (§3.6.2.9); the data follows.
    pub struct C2hData: 24 {
        /// Common header.
        0 => ch: CommonHeader,
        /// Identifier of the command.
        8 => cccid: U16,
        #[doc(hidden)]
        10 => rsvd10: [u8; 2],
        /// Offset into the data of the command, in bytes.
        12 => datao: U32,
        /// Length of the data in this PDU, in bytes.
        16 => datal: U32,
        #[doc(hidden)]
        20 => rsvd20: [u8; 4],
    }

    /// Ready to transfer (§3.6.2.10).
    pub struct R2t: 24 {
        /// Common header.
        0 => ch: CommonHeader,
        /// Identifier of the command.
        8 => cccid: U16,
        /// Transfer tag, the controller's choice.
        10 => ttag: U16,
        /// Offset into the data of the command, in bytes.
        12 => r2to: U32,
        /// Length asked for, in bytes.
        16 => r2tl: U32,
        #[doc(hidden)]
        20 => rsvd20: [u8; 4],
    }
}

impl CommonHeader {
    /// Header of a PDU that is nothing but its header.
    pub fn of(pdu_type: PduType, hlen: u8) -> Self {
        Self { pdu_type: pdu_type.0, flags: 0, hlen, pdo: 0, plen: U32::new(u32::from(hlen)) }
    }

    /// Type of the PDU.
    pub fn pdu_type(&self) -> PduType {
        PduType(self.pdu_type)
    }

    /// Whether a header digest follows the header.
    pub fn has_header_digest(&self) -> bool {
        self.flags & flags::HDGSTF != 0
    }

    /// Whether a data digest follows the data.
    pub fn has_data_digest(&self) -> bool {
        self.flags & flags::DDGSTF != 0
    }
}

/// Offset of the data in a PDU, bytes: the first multiple of the alignment of `pda` behind header and digest (§3.3).
pub const fn data_offset(hlen: u8, header_digest: bool, pda: u8) -> usize {
    let header = hlen as usize + if header_digest { DIGEST_BYTES } else { 0 };
    header.next_multiple_of(alignment_bytes(pda))
}

impl PduType {
    /// Whether a PDU of this type goes from controller to host; all others go from host to controller.
    pub const fn is_from_controller(self) -> bool {
        self.0 & 1 == 1
    }

    /// Header length a PDU of this type must announce; `None` for a type without a fixed one.
    pub const fn hlen(self) -> Option<u8> {
        match self {
            Self::IC_REQ | Self::IC_RESP => Some(128),
            Self::CAPSULE_CMD => Some(72),
            Self::H2C_TERM_REQ
            | Self::C2H_TERM_REQ
            | Self::CAPSULE_RESP
            | Self::H2C_DATA
            | Self::C2H_DATA
            | Self::R2T => Some(24),
            _ => None,
        }
    }
}

impl IcReq {
    /// A request for this alignment, these digests and this many R2Ts (0's based).
    pub fn new(hpda: u8, dgst: u8, maxr2t: u32) -> Self {
        Self {
            ch: CommonHeader::of(PduType::IC_REQ, 128),
            hpda,
            dgst,
            maxr2t: U32::new(maxr2t),
            ..Self::default()
        }
    }
}

impl IcResp {
    /// A response with this alignment, these digests and this H2CData limit in bytes.
    pub fn new(cpda: u8, dgst: u8, maxh2cdata: u32) -> Self {
        Self {
            ch: CommonHeader::of(PduType::IC_RESP, 128),
            cpda,
            dgst,
            maxh2cdata: U32::new(maxh2cdata),
            ..Self::default()
        }
    }
}

impl TermReq {
    /// A termination for `fes`, with `data_bytes` bytes of the offending header to follow (at most 128).
    pub fn new(pdu_type: PduType, fes: Fes, fei: u32, data_bytes: u8) -> Self {
        debug_assert!(usize::from(data_bytes) <= TERM_DATA_BYTES_MAX);
        let mut ch = CommonHeader::of(pdu_type, 24);
        ch.plen = U32::new(24 + u32::from(data_bytes));
        Self { ch, fes: U16::new(fes.0), fei: U32::new(fei), ..Self::default() }
    }

    /// Fatal error status.
    pub fn fes(&self) -> Fes {
        Fes(self.fes.get())
    }
}

impl R2t {
    /// Asks for `r2tl` bytes at `r2to` of the data of command `cccid`.
    pub fn new(cccid: u16, ttag: u16, r2to: u32, r2tl: u32) -> Self {
        Self {
            ch: CommonHeader::of(PduType::R2T, 24),
            cccid: U16::new(cccid),
            ttag: U16::new(ttag),
            r2to: U32::new(r2to),
            r2tl: U32::new(r2tl),
            ..Self::default()
        }
    }
}

impl CapsuleResp {
    /// A response without a header digest.
    pub fn new(cqe: Cqe) -> Self {
        Self { ch: CommonHeader::of(PduType::CAPSULE_RESP, 24), cqe }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lies_where_the_examples_of_the_specification_have_it() {
        // 24 bytes of header and 40 of padding for CPDA 0Fh; 8 of padding for HPDA 03h.
        assert_eq!(data_offset(24, false, 0x0F), 24 + 40);
        assert_eq!(data_offset(24, false, 0x03), 24 + 8);
        assert_eq!(data_offset(72, true, 0), 76);
        assert_eq!(data_offset(24, true, PDA_MAX), 128);
    }

    #[test]
    fn the_low_bit_of_a_type_is_its_direction() {
        for pdu in
            [PduType::IC_RESP, PduType::C2H_TERM_REQ, PduType::CAPSULE_RESP, PduType::C2H_DATA, PduType::R2T]
        {
            assert!(pdu.is_from_controller());
        }
        for pdu in [PduType::IC_REQ, PduType::H2C_TERM_REQ, PduType::CAPSULE_CMD, PduType::H2C_DATA] {
            assert!(!pdu.is_from_controller());
        }
    }
}
