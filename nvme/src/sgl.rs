//! Scatter gather list descriptors (base 2.1 §4.3.2) with the subtypes NVMe over Fabrics adds.

use crate::macros::layout;
use zerocopy::little_endian::{U32, U64};

layout! {
    /// An SGL descriptor as it lies in a command: 16 bytes, the identifier in the last one.
    pub struct Sgl: 16 {
        /// Descriptor-specific bytes 0–14, then the identifier: type in bits 7:4, subtype in bits 3:0.
        0 => bytes: [u8; 16],
    }
}

/// Largest length a keyed descriptor can carry: its length field has 24 bits.
pub const KEYED_LENGTH_MAX: u32 = 0x00FF_FFFF;

/// An SGL descriptor by meaning. Lengths are bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SglDescriptor {
    /// Type 0h, subtype 0h: memory at `address`.
    DataBlock {
        /// Memory address of the data.
        address: u64,
        /// Length in bytes.
        length: u32,
    },
    /// Type 0h, subtype 1h: data inside the command capsule, `offset` bytes after the point that ICDOFF gives.
    InCapsule {
        /// Offset into the in-capsule data area, in bytes.
        offset: u64,
        /// Length in bytes.
        length: u32,
    },
    /// Type 1h: bytes to discard.
    BitBucket {
        /// Length in bytes.
        length: u32,
    },
    /// Type 2h: the next segment of a list.
    Segment {
        /// Memory address, or capsule offset when `in_capsule`.
        address: u64,
        /// Length of the segment in bytes.
        length: u32,
        /// Subtype 1h: the segment lies in the capsule.
        in_capsule: bool,
    },
    /// Type 3h: the last segment of a list.
    LastSegment {
        /// Memory address, or capsule offset when `in_capsule`.
        address: u64,
        /// Length of the segment in bytes.
        length: u32,
        /// Subtype 1h: the segment lies in the capsule.
        in_capsule: bool,
    },
    /// Type 4h: remote memory named by a key.
    KeyedDataBlock {
        /// Remote memory address.
        address: u64,
        /// Length in bytes, at most [`KEYED_LENGTH_MAX`].
        length: u32,
        /// Remote key.
        key: u32,
        /// Subtype Fh: the responder invalidates the key with its response.
        invalidate: bool,
    },
    /// Type 5h, subtype Ah: the transport moves the data by its own means (NVMe/TCP data PDUs).
    Transport {
        /// Length in bytes.
        length: u32,
    },
}

/// A descriptor whose type or subtype has no meaning here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("SGL descriptor identifier {identifier:#04x} is not supported")]
pub struct SglTypeError {
    /// The identifier byte: type in bits 7:4, subtype in bits 3:0.
    pub identifier: u8,
}

impl Sgl {
    /// A descriptor with every byte zero: a data block of no length.
    pub const NONE: Self = Self { bytes: [0; 16] };

    /// Descriptor type, bits 7:4 of the identifier.
    pub const fn kind(&self) -> u8 {
        self.bytes[15] >> 4
    }

    /// Descriptor subtype, bits 3:0 of the identifier.
    pub const fn subtype(&self) -> u8 {
        self.bytes[15] & 0xF
    }

    /// Reads the descriptor by its identifier.
    pub fn decode(&self) -> Result<SglDescriptor, SglTypeError> {
        let length = self.unkeyed_length();
        Ok(match (self.kind(), self.subtype()) {
            (0x0, 0x0) => SglDescriptor::DataBlock { address: self.address(), length },
            (0x0, 0x1) => SglDescriptor::InCapsule { offset: self.address(), length },
            (0x1, 0x0) => SglDescriptor::BitBucket { length },
            (0x2, sub @ 0..=1) => {
                SglDescriptor::Segment { address: self.address(), length, in_capsule: sub == 1 }
            }
            (0x3, sub @ 0..=1) => {
                SglDescriptor::LastSegment { address: self.address(), length, in_capsule: sub == 1 }
            }
            (0x4, sub @ (0x0 | 0xF)) => SglDescriptor::KeyedDataBlock {
                address: self.address(),
                length: length & KEYED_LENGTH_MAX,
                key: u32::from_le_bytes([self.bytes[11], self.bytes[12], self.bytes[13], self.bytes[14]]),
                invalidate: sub == 0xF,
            },
            (0x5, 0xA) => SglDescriptor::Transport { length },
            _ => return Err(SglTypeError { identifier: self.bytes[15] }),
        })
    }

    fn address(&self) -> u64 {
        let mut raw = [0; 8];
        raw.copy_from_slice(&self.bytes[..8]);
        U64::from_bytes(raw).get()
    }

    fn unkeyed_length(&self) -> u32 {
        U32::from_bytes([self.bytes[8], self.bytes[9], self.bytes[10], self.bytes[11]]).get()
    }

    fn compose(address: u64, length: u32, identifier: u8) -> Self {
        let mut sgl = Self::NONE;
        sgl.bytes[..8].copy_from_slice(&address.to_le_bytes());
        sgl.bytes[8..12].copy_from_slice(&length.to_le_bytes());
        sgl.bytes[15] = identifier;
        sgl
    }
}

impl From<SglDescriptor> for Sgl {
    fn from(descriptor: SglDescriptor) -> Self {
        match descriptor {
            SglDescriptor::DataBlock { address, length } => Self::compose(address, length, 0x00),
            SglDescriptor::InCapsule { offset, length } => Self::compose(offset, length, 0x01),
            SglDescriptor::BitBucket { length } => Self::compose(0, length, 0x10),
            SglDescriptor::Segment { address, length, in_capsule } => {
                Self::compose(address, length, 0x20 | u8::from(in_capsule))
            }
            SglDescriptor::LastSegment { address, length, in_capsule } => {
                Self::compose(address, length, 0x30 | u8::from(in_capsule))
            }
            SglDescriptor::KeyedDataBlock { address, length, key, invalidate } => {
                debug_assert!(length <= KEYED_LENGTH_MAX);
                let identifier = if invalidate { 0x4F } else { 0x40 };
                let mut sgl = Self::compose(address, length & KEYED_LENGTH_MAX, identifier);
                sgl.bytes[11..15].copy_from_slice(&key.to_le_bytes());
                sgl
            }
            SglDescriptor::Transport { length } => Self::compose(0, length, 0x5A),
        }
    }
}
