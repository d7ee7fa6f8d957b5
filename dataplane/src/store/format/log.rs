//! The log: blocks of records. A record lies in one block; a commit never rewrites a block that it wrote before.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Ref, Unaligned};

use super::{Bytes, FormatError, NAME_BYTES, VolumeEntry, check_seal, seal};
use crate::store::{BLOCK_BYTES, Lsn, VolumeBlock, VolumeId};

const MAGIC: [u8; 4] = *b"PLXL";
const WHAT: &str = "log block";
const HEADER_BYTES: usize = size_of::<Disk>();

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct Disk {
    magic: [u8; 4],
    crc: U32,
    incarnation: U64,
    position: U64,
    lsn: U64,
    used: U16,
    records: U16,
    reserved0: [u8; 4],
    committed: U64,
    checkpoint: U64,
    reserved1: [u8; 8],
}
const _: () = assert!(size_of::<Disk>() == 64);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RecordHeader {
    kind: u8,
    reserved: u8,
    len: U16,
    volume: U32,
    /// First block, size, or the other volume.
    value: U64,
}
const _: () = assert!(size_of::<RecordHeader>() == 16);

/// One block of a volume that was written.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct MapEntry {
    /// Where it lies on the device.
    pub target: U64,
    /// CRC32C of its data.
    pub sum: U32,
}
const _: () = assert!(size_of::<MapEntry>() == 12);

/// One change of the store. Applying the same records to the same state gives the same state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// Blocks were written. They lie in one leaf.
    Map {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// Where they are now.
        entries: &'a [MapEntry],
    },
    /// Blocks read as zeroes from now on. They lie in one leaf.
    Unmap {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// How many.
        blocks: u16,
    },
    /// A volume is made; with an origin it begins as a copy of that.
    Create {
        /// Its place.
        volume: VolumeId,
        /// What it is.
        entry: &'a VolumeEntry,
    },
    /// The volume is gone; its blocks are freed by [`Record::Reap`].
    Delete {
        /// Which.
        volume: VolumeId,
    },
    /// The volume has another size. What lies beyond is freed by [`Record::Reap`].
    Resize {
        /// Which.
        volume: VolumeId,
        /// New size.
        blocks: u64,
    },
    /// The volume becomes a copy of a snapshot again. What it was before goes to the place `husk`, deleted.
    Rollback {
        /// Which.
        volume: VolumeId,
        /// To what.
        snapshot: VolumeId,
        /// Where the old content waits to be freed.
        husk: VolumeId,
    },
    /// The volume has another name.
    Rename {
        /// Which.
        volume: VolumeId,
        /// New name, padded with zeroes.
        name: &'a [u8; NAME_BYTES],
    },
    /// The volume is to be used otherwise: [`VolumeEntry::READ_ONLY`] and [`VolumeEntry::RESERVED`] are as in `flags`.
    Configure {
        /// Which.
        volume: VolumeId,
        /// The flags; others are ignored.
        flags: u8,
    },
    /// The volume no longer names what it was made from.
    Detach {
        /// Which.
        volume: VolumeId,
    },
    /// The clone takes the place of what it was made from.
    Promote {
        /// Which.
        volume: VolumeId,
    },
    /// One bounded step of freeing what lies beyond a volume's size.
    Reap {
        /// Whose.
        volume: VolumeId,
    },
}

impl Record<'_> {
    fn parts(&self) -> (u8, VolumeId, u64, &[u8]) {
        match *self {
            Self::Map { volume, at, entries } => (1, volume, at.0, entries.as_bytes()),
            Self::Unmap { volume, at, blocks } => (2, volume, at.0 << 16 | u64::from(blocks), &[]),
            Self::Create { volume, entry } => (3, volume, 0, entry.as_bytes()),
            Self::Delete { volume } => (4, volume, 0, &[]),
            Self::Resize { volume, blocks } => (5, volume, blocks, &[]),
            Self::Rollback { volume, snapshot, husk } => {
                (6, volume, u64::from(snapshot.0) << 32 | u64::from(husk.0), &[])
            }
            Self::Rename { volume, name } => (7, volume, 0, name),
            Self::Reap { volume } => (8, volume, 0, &[]),
            Self::Configure { volume, flags } => (9, volume, u64::from(flags), &[]),
            Self::Detach { volume } => (10, volume, 0, &[]),
            Self::Promote { volume } => (11, volume, 0, &[]),
        }
    }

    /// The volume that it speaks of.
    pub fn volume(&self) -> VolumeId {
        self.parts().1
    }

    /// Bytes it takes in a log block.
    pub fn bytes(&self) -> usize {
        size_of::<RecordHeader>() + self.parts().3.len()
    }
}

/// What a log block says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogHeader {
    /// That of the checkpoint before it.
    pub incarnation: u64,
    /// Its number.
    pub position: u64,
    /// Its first record.
    pub lsn: Lsn,
    /// Blocks before this position were on the media when it was made: a gap there is damage, not the end of the log.
    pub committed: u64,
    /// The last checkpoint on the media when it was made: if only earlier ones are found, that one was damaged.
    pub checkpoint: u64,
}

/// A log block being filled.
pub struct LogBlock {
    bytes: Box<Bytes>,
    used: usize,
    records: u16,
}

impl Default for LogBlock {
    fn default() -> Self {
        Self { bytes: Box::new([0; BLOCK_BYTES]), used: HEADER_BYTES, records: 0 }
    }
}

impl LogBlock {
    /// An empty block in memory that held something else.
    pub fn in_place_of(bytes: Box<Bytes>) -> Self {
        let mut block = Self { bytes, used: HEADER_BYTES, records: 0 };
        block.bytes[..HEADER_BYTES].fill(0);
        block
    }

    /// Records in it.
    pub fn records(&self) -> u16 {
        self.records
    }

    /// Whether `record` fits.
    pub fn fits(&self, record: &Record<'_>) -> bool {
        record.bytes() <= BLOCK_BYTES - self.used
    }

    /// Adds a record that fits.
    pub fn push(&mut self, record: &Record<'_>) {
        let (kind, volume, value, body) = record.parts();
        let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let header =
            RecordHeader { kind, reserved: 0, len: len.into(), volume: volume.0.into(), value: value.into() };
        for part in [header.as_bytes(), body] {
            self.bytes[self.used..self.used + part.len()].copy_from_slice(part);
            self.used += part.len();
        }
        self.records += 1;
    }

    /// The block as it is written.
    pub fn seal(mut self, header: LogHeader) -> Box<Bytes> {
        self.bytes[self.used..].fill(0);
        if let Ok((disk, _)) = Disk::mut_from_prefix(&mut self.bytes[..]) {
            disk.magic = MAGIC;
            disk.incarnation = header.incarnation.into();
            disk.position = header.position.into();
            disk.lsn = header.lsn.0.into();
            disk.committed = header.committed.into();
            disk.checkpoint = header.checkpoint.into();
            disk.used = u16::try_from(self.used).unwrap_or(u16::MAX).into();
            disk.records = self.records.into();
        }
        seal(&mut self.bytes, offset_of!(Disk, crc));
        self.bytes
    }
}

/// The records of a log block.
pub struct Records<'a> {
    left: &'a [u8],
    count: u16,
}

impl<'a> Records<'a> {
    /// Header and records of a log block.
    pub fn decode(bytes: &'a Bytes) -> Result<(LogHeader, Self), FormatError> {
        let (disk, _) = Disk::ref_from_prefix(bytes).map_err(|_| FormatError::Magic { what: WHAT })?;
        if disk.magic != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        check_seal(bytes, offset_of!(Disk, crc), WHAT)?;
        let used = usize::from(disk.used.get());
        let left = bytes.get(HEADER_BYTES..used).ok_or(FormatError::Value {
            what: WHAT,
            field: "used",
            value: used as u64,
        })?;
        let header = LogHeader {
            incarnation: disk.incarnation.get(),
            position: disk.position.get(),
            lsn: Lsn(disk.lsn.get()),
            committed: disk.committed.get(),
            checkpoint: disk.checkpoint.get(),
        };
        Ok((header, Self { left, count: disk.records.get() }))
    }

    fn read(&mut self) -> Result<Record<'a>, FormatError> {
        let bad = |field, value| FormatError::Value { what: "log record", field, value };
        let (header, rest) =
            RecordHeader::read_from_prefix(self.left).map_err(|_| bad("length", self.left.len() as u64))?;
        let len = usize::from(header.len.get());
        let (body, rest) = rest.split_at_checked(len).ok_or(bad("length", len as u64))?;
        self.left = rest;
        let volume = VolumeId(header.volume.get());
        let value = header.value.get();
        let short = |_| bad("length", len as u64);
        Ok(match header.kind {
            1 => {
                let entries =
                    Ref::<_, [MapEntry]>::from_bytes(body).map_err(|_| bad("length", len as u64))?;
                Record::Map { volume, at: VolumeBlock(value), entries: Ref::into_ref(entries) }
            }
            2 => Record::Unmap { volume, at: VolumeBlock(value >> 16), blocks: low16(value) },
            3 => Record::Create {
                volume,
                entry: VolumeEntry::ref_from_bytes(body).map_err(|_| bad("length", len as u64))?,
            },
            4 => Record::Delete { volume },
            5 => Record::Resize { volume, blocks: value },
            6 => Record::Rollback {
                volume,
                snapshot: VolumeId(low32(value >> 32)),
                husk: VolumeId(low32(value)),
            },
            7 => Record::Rename {
                volume,
                name: body.try_into().map_err(|_: std::array::TryFromSliceError| short(()))?,
            },
            8 => Record::Reap { volume },
            9 => Record::Configure { volume, flags: value.to_le_bytes()[0] },
            10 => Record::Detach { volume },
            11 => Record::Promote { volume },
            kind => return Err(bad("kind", kind.into())),
        })
    }
}

fn low16(value: u64) -> u16 {
    let bytes = value.to_le_bytes();
    u16::from_le_bytes([bytes[0], bytes[1]])
}

fn low32(value: u64) -> u32 {
    let bytes = value.to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let record = self.read();
        if record.is_err() {
            self.count = 0;
        }
        Some(record)
    }
}
