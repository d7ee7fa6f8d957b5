//! The submission queue entry (base 2.1 §4.1, common command format).

use crate::macros::layout;
use crate::{Direction, Nsid, Sgl};
use zerocopy::little_endian::{U16, U32, U64};

layout! {
    /// Submission queue entry: 64 bytes, viewed in place at any alignment (base 2.1 §4.1.1).
    pub struct Sqe: 64 {
        /// Opcode; its meaning depends on the queue ([`crate::opcode`]).
        0 => opcode: u8,
        /// Fused operation in bits 1:0, PRP or SGL in bits 7:6.
        1 => flags: u8,
        /// Command identifier, unique among the outstanding commands of the queue.
        2 => cid: U16,
        /// Namespace identifier. In fabrics commands byte 4 is the fabrics command type.
        4 => nsid: U32,
        /// Command dword 2.
        8 => cdw2: U32,
        /// Command dword 3.
        12 => cdw3: U32,
        /// Metadata pointer.
        16 => mptr: U64,
        /// Data pointer: SGL descriptor 1 (fabrics never uses PRPs).
        24 => sgl: Sgl,
        /// Command dword 10.
        40 => cdw10: U32,
        /// Command dword 11.
        44 => cdw11: U32,
        /// Command dword 12.
        48 => cdw12: U32,
        /// Command dword 13.
        52 => cdw13: U32,
        /// Command dword 14.
        56 => cdw14: U32,
        /// Command dword 15.
        60 => cdw15: U32,
    }
}

/// Place of a command in a fused operation (base 2.1 §4.1.1, FUSE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fuse {
    /// 00b: a normal operation.
    Normal,
    /// 01b: first command of a fused operation.
    First,
    /// 10b: second command of a fused operation.
    Second,
    /// 11b: reserved.
    Reserved,
}

/// What the data pointer holds (base 2.1 §4.1.1, PSDT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Psdt {
    /// 00b: PRPs. Not allowed in fabrics.
    Prp,
    /// 01b: SGL; the metadata pointer, if used, is the address of a contiguous buffer.
    Sgl,
    /// 10b: SGL; the metadata pointer, if used, is the address of an SGL segment.
    SglMetadataSgl,
    /// 11b: reserved.
    Reserved,
}

impl Sqe {
    /// A command whose data pointer is an SGL, as every command over fabrics has it; all else zero.
    pub fn new(opcode: u8, cid: u16) -> Self {
        Self { opcode, flags: 0x40, cid: U16::new(cid), ..Self::default() }
    }

    /// The same command with this data pointer.
    #[must_use]
    pub fn with_sgl(mut self, sgl: impl Into<Sgl>) -> Self {
        self.sgl = sgl.into();
        self
    }

    /// The same command with this place in a fused operation.
    #[must_use]
    pub fn with_fuse(mut self, fuse: Fuse) -> Self {
        let bits = match fuse {
            Fuse::Normal => 0,
            Fuse::First => 1,
            Fuse::Second => 2,
            Fuse::Reserved => 3,
        };
        self.flags = (self.flags & !0b11) | bits;
        self
    }

    /// Place in a fused operation.
    pub fn fuse(&self) -> Fuse {
        match self.flags & 0b11 {
            0 => Fuse::Normal,
            1 => Fuse::First,
            2 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// Kind of the data pointer.
    pub fn psdt(&self) -> Psdt {
        match self.flags >> 6 {
            0 => Psdt::Prp,
            1 => Psdt::Sgl,
            2 => Psdt::SglMetadataSgl,
            _ => Psdt::Reserved,
        }
    }

    /// Namespace the command names.
    pub fn nsid(&self) -> Nsid {
        Nsid(self.nsid.get())
    }

    /// Data direction that bits 1:0 of the opcode give. Fabrics commands: [`crate::fabrics::direction`].
    pub fn direction(&self) -> Direction {
        Direction::of_opcode(self.opcode)
    }
}
