//! I/O commands of the NVM command set 1.1 (§3.2) and the reservation and flush commands of base 2.1 (§7).

mod reservation;

pub use reservation::*;

use crate::dwords::{halves, split, wide};
use crate::macros::{bits, layout};
use crate::{Lba, Nsid, Sqe, opcode};
use zerocopy::little_endian::{U32, U64};

/// Commands on a range of logical blocks: Read, Write, Compare, Verify, Write Zeroes, Write Uncorrectable
/// (NVM command set 1.1 §3.2.1–§3.2.8). Fields that a command does not have are reserved in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadWrite {
    /// One of [`opcode::io`].
    pub opcode: u8,
    /// Namespace.
    pub nsid: Nsid,
    /// First logical block.
    pub slba: Lba,
    /// Number of logical blocks, 1 to 65,536.
    pub nlb: u32,
    /// Limited retry.
    pub lr: bool,
    /// Force unit access: the data is on the media, or read from it, before completion.
    pub fua: bool,
    /// Protection information: action in bit 3, checks in bits 2:0.
    pub prinfo: u8,
    /// Write Zeroes: deallocate when possible.
    pub deac: bool,
    /// Storage tag check.
    pub stc: bool,
    /// Write: directive type; bit 3 is "namespace zeroes" in Write Zeroes.
    pub dtype: u8,
    /// Command extension type.
    pub cetype: u8,
    /// Dataset management hints, or the command extension value when `cetype` is not zero.
    pub dsm: u16,
    /// Write: directive specific.
    pub dspec: u16,
    /// Low bits of the (expected) initial logical block reference tag.
    pub ilbrt: u32,
    /// (Expected) logical block application tag.
    pub lbat: u16,
    /// (Expected) logical block application tag mask.
    pub lbatm: u16,
    /// Upper tag bits of the 32-bit and 64-bit guard formats: command dwords 2 and 3.
    pub tag_upper: u64,
}

/// A Read, see [`ReadWrite`].
pub type Read = ReadWrite;
/// A Write, see [`ReadWrite`].
pub type Write = ReadWrite;
/// A Compare, see [`ReadWrite`].
pub type Compare = ReadWrite;
/// A Verify, see [`ReadWrite`].
pub type Verify = ReadWrite;
/// A Write Zeroes, see [`ReadWrite`].
pub type WriteZeroes = ReadWrite;

/// Most logical blocks one command can name: NLB has 16 bits and is 0's based.
pub const NLB_MAX: u32 = 1 << 16;

impl ReadWrite {
    /// A command on `nlb` blocks (1 to [`NLB_MAX`]) from `slba`, all options off.
    pub fn new(opcode: u8, nsid: Nsid, slba: Lba, nlb: u32) -> Self {
        Self {
            opcode,
            nsid,
            slba,
            nlb,
            lr: false,
            fua: false,
            prinfo: 0,
            deac: false,
            stc: false,
            dtype: 0,
            cetype: 0,
            dsm: 0,
            dspec: 0,
            ilbrt: 0,
            lbat: 0,
            lbatm: 0,
            tag_upper: 0,
        }
    }

    /// A Read.
    pub fn read(nsid: Nsid, slba: Lba, nlb: u32) -> Self {
        Self::new(opcode::io::READ, nsid, slba, nlb)
    }

    /// A Write.
    pub fn write(nsid: Nsid, slba: Lba, nlb: u32) -> Self {
        Self::new(opcode::io::WRITE, nsid, slba, nlb)
    }

    /// A Compare.
    pub fn compare(nsid: Nsid, slba: Lba, nlb: u32) -> Self {
        Self::new(opcode::io::COMPARE, nsid, slba, nlb)
    }

    /// A Verify.
    pub fn verify(nsid: Nsid, slba: Lba, nlb: u32) -> Self {
        Self::new(opcode::io::VERIFY, nsid, slba, nlb)
    }

    /// A Write Zeroes.
    pub fn write_zeroes(nsid: Nsid, slba: Lba, nlb: u32) -> Self {
        Self::new(opcode::io::WRITE_ZEROES, nsid, slba, nlb)
    }

    /// The same command with force unit access.
    #[must_use]
    pub fn with_fua(mut self) -> Self {
        self.fua = true;
        self
    }

    /// First block after the range; `None` when it does not fit 64 bits.
    pub fn end(&self) -> Option<Lba> {
        self.slba.0.checked_add(u64::from(self.nlb)).map(Lba)
    }

    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        debug_assert!(self.nlb >= 1 && self.nlb <= NLB_MAX);
        let cdw12 = Cdw12(self.nlb.wrapping_sub(1) & 0xFFFF)
            .with_cetype(self.cetype)
            .with_dtype(self.dtype)
            .with_stc(self.stc)
            .with_deac(self.deac)
            .with_prinfo(self.prinfo)
            .with_fua(self.fua)
            .with_lr(self.lr);
        let (cdw2, cdw3) = split(self.tag_upper);
        let (cdw10, cdw11) = split(self.slba.0);
        Sqe {
            nsid: U32::new(self.nsid.0),
            cdw2,
            cdw3,
            cdw10,
            cdw11,
            cdw12: U32::new(cdw12.0),
            cdw13: U32::new(u32::from(self.dspec) << 16 | u32::from(self.dsm)),
            cdw14: U32::new(self.ilbrt),
            cdw15: U32::new(u32::from(self.lbatm) << 16 | u32::from(self.lbat)),
            ..Sqe::new(self.opcode, cid)
        }
    }
}

bits! {
    /// Command dword 12 of [`ReadWrite`].
    pub struct Cdw12(u32) {
        /// Number of logical blocks, 0's based.
        nlb, with_nlb: u16 = 0, 16;
        /// Command extension type.
        cetype, with_cetype: u8 = 16, 4;
        /// Directive type.
        dtype, with_dtype: u8 = 20, 4;
        /// Storage tag check.
        stc, with_stc: bool = 24;
        /// Deallocate.
        deac, with_deac: bool = 25;
        /// Protection information.
        prinfo, with_prinfo: u8 = 26, 4;
        /// Force unit access.
        fua, with_fua: bool = 30;
        /// Limited retry.
        lr, with_lr: bool = 31;
    }
}

impl From<&Sqe> for ReadWrite {
    fn from(sqe: &Sqe) -> Self {
        let cdw12 = Cdw12(sqe.cdw12.get());
        let (dsm, dspec) = halves(sqe.cdw13);
        let (lbat, lbatm) = halves(sqe.cdw15);
        Self {
            opcode: sqe.opcode,
            nsid: sqe.nsid(),
            slba: Lba(wide(sqe.cdw10, sqe.cdw11)),
            nlb: u32::from(cdw12.nlb()) + 1,
            lr: cdw12.lr(),
            fua: cdw12.fua(),
            prinfo: cdw12.prinfo(),
            deac: cdw12.deac(),
            stc: cdw12.stc(),
            dtype: cdw12.dtype(),
            cetype: cdw12.cetype(),
            dsm,
            dspec,
            ilbrt: sqe.cdw14.get(),
            lbat,
            lbatm,
            tag_upper: wide(sqe.cdw2, sqe.cdw3),
        }
    }
}

/// Flush (base 2.1 §7.2): what was written before is on the media after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flush {
    /// Namespace, or [`Nsid::ALL`].
    pub nsid: Nsid,
}

impl Flush {
    /// Writes the command.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe { nsid: U32::new(self.nsid.0), ..Sqe::new(opcode::io::FLUSH, cid) }
    }
}

impl From<&Sqe> for Flush {
    fn from(sqe: &Sqe) -> Self {
        Self { nsid: sqe.nsid() }
    }
}

/// Dataset Management (NVM command set 1.1 §3.2.3); its data is `ranges` entries of [`Range`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatasetManagement {
    /// Namespace.
    pub nsid: Nsid,
    /// Number of ranges, 1 to 256.
    pub ranges: u16,
    /// The ranges may be deallocated.
    pub deallocate: bool,
    /// The ranges will be read as a whole.
    pub integral_read: bool,
    /// The ranges will be written as a whole.
    pub integral_write: bool,
}

layout! {
    /// A range of a Dataset Management command (NVM command set 1.1 §3.2.3).
    pub struct Range: 16 {
        /// Context attributes: hints.
        0 => attributes: U32,
        /// Length in logical blocks; zero is no block at all.
        4 => nlb: U32,
        /// First logical block.
        8 => slba: U64,
    }
}

impl DatasetManagement {
    const IDR: u32 = 1 << 0;
    const IDW: u32 = 1 << 1;
    const AD: u32 = 1 << 2;

    /// A deallocation of `ranges` ranges (1 to 256).
    pub fn deallocate(nsid: Nsid, ranges: u16) -> Self {
        Self { nsid, ranges, deallocate: true, integral_read: false, integral_write: false }
    }

    /// Bytes of data the command carries.
    pub fn data_bytes(&self) -> usize {
        usize::from(self.ranges) * Range::SIZE
    }

    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        debug_assert!((1..=256).contains(&self.ranges));
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        Sqe {
            nsid: U32::new(self.nsid.0),
            cdw10: U32::new(u32::from(self.ranges.wrapping_sub(1)) & 0xFF),
            cdw11: U32::new(
                flag(self.deallocate, Self::AD)
                    | flag(self.integral_read, Self::IDR)
                    | flag(self.integral_write, Self::IDW),
            ),
            ..Sqe::new(opcode::io::DATASET_MANAGEMENT, cid)
        }
    }
}

impl From<&Sqe> for DatasetManagement {
    fn from(sqe: &Sqe) -> Self {
        let attributes = sqe.cdw11.get();
        Self {
            nsid: sqe.nsid(),
            ranges: u16::from(sqe.cdw10.to_bytes()[0]) + 1,
            deallocate: attributes & Self::AD != 0,
            integral_read: attributes & Self::IDR != 0,
            integral_write: attributes & Self::IDW != 0,
        }
    }
}
