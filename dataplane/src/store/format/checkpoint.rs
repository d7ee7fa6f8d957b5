//! Checkpoints: the volume table and the space summary at one record of the log.

use std::mem::{offset_of, size_of};

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Bytes, FormatError, check_seal, seal};
use crate::store::{BLOCK_BYTES, Lsn};

const MAGIC: [u8; 8] = *b"PLXCHECK";
const WHAT: &str = "checkpoint";
/// Bytes of a volume's name at most.
pub const NAME_BYTES: usize = 64;
/// Volumes in a block of the table.
pub const VOLUMES_PER_BLOCK: usize = BLOCK_BYTES / size_of::<VolumeEntry>();
/// Pages of counts in a block of the summary.
pub const SUMMARIES_PER_BLOCK: usize = BLOCK_BYTES / size_of::<SummaryEntry>();

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct Disk {
    magic: [u8; 8],
    crc: U32,
    payload_crc: U32,
    store: [u8; 16],
    seq: U64,
    lsn: U64,
    log_position: U64,
    incarnation: U64,
    reserved: [u8; BLOCK_BYTES - 64],
}
const _: () = assert!(size_of::<Disk>() == BLOCK_BYTES);

/// First and last block of a checkpoint's area. In between lie the volume table and the space summary, twice, which
/// count only as a whole. A header is written when they are on the media.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointHeader {
    /// The store it belongs to.
    pub store: Uuid,
    /// Checkpoints before it, since the store was made.
    pub seq: u64,
    /// The last record it includes.
    pub lsn: Lsn,
    /// Where the log goes on after it.
    pub log_position: u64,
    /// What the log blocks after it carry. Never used twice, so blocks of an earlier life are not taken for later ones.
    pub incarnation: u64,
    /// CRC32C of table and summary.
    pub payload_crc: u32,
}

impl CheckpointHeader {
    /// As it is written.
    pub fn encode(&self) -> Box<Bytes> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        if let Ok(disk) = Disk::mut_from_bytes(&mut bytes[..]) {
            disk.magic = MAGIC;
            disk.payload_crc = self.payload_crc.into();
            disk.store = *self.store.as_bytes();
            disk.seq = self.seq.into();
            disk.lsn = self.lsn.0.into();
            disk.log_position = self.log_position.into();
            disk.incarnation = self.incarnation.into();
        }
        seal(&mut bytes, offset_of!(Disk, crc));
        bytes
    }

    /// The header in `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let disk = Disk::ref_from_bytes(bytes).map_err(|_| FormatError::Magic { what: WHAT })?;
        if disk.magic != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        check_seal(bytes, offset_of!(Disk, crc), WHAT)?;
        for (field, value) in [
            ("sequence number", disk.seq),
            ("record", disk.lsn),
            ("position", disk.log_position),
            ("incarnation", disk.incarnation),
        ] {
            // Counters begin at 0 and never get there: so they can be added to.
            if value.get() >= 1 << 62 {
                return Err(FormatError::Value { what: WHAT, field, value: value.get() });
            }
        }
        Ok(Self {
            store: Uuid::from_bytes(disk.store),
            seq: disk.seq.get(),
            lsn: Lsn(disk.lsn.get()),
            log_position: disk.log_position.get(),
            incarnation: disk.incarnation.get(),
            payload_crc: disk.payload_crc.get(),
        })
    }
}

/// A volume in the table, and in the records that make one. All zero: no volume.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct VolumeEntry {
    /// Identity that hosts see.
    pub uuid: [u8; 16],
    /// Size.
    pub blocks: U64,
    /// Root page of the map, 0 for none.
    pub root: U64,
    /// Levels above the leaves.
    pub height: u8,
    /// [`Self::LIVE`] and the others.
    pub flags: u8,
    reserved0: [u8; 2],
    /// One more than the [`VolumeId`](crate::store::VolumeId) of the snapshot or volume it was made from; 0 for none.
    pub origin: U32,
    /// Record that made it.
    pub born: U64,
    /// UTF-8, padded with zeroes.
    pub name: [u8; NAME_BYTES],
    /// Blocks that its leaves map.
    pub mapped: U64,
    /// Blocks that nothing else refers to, at least.
    pub own: U64,
    reserved1: [u8; 128],
}
const _: () = assert!(size_of::<VolumeEntry>() == 256);

impl VolumeEntry {
    /// There is a volume here.
    pub const LIVE: u8 = 1;
    /// It never changes.
    pub const SNAPSHOT: u8 = 2;
    /// What lies beyond its size is being freed.
    pub const REAPING: u8 = 4;
    /// It is deleted; its place is free when its blocks are.
    pub const DELETED: u8 = 8;
    /// Hosts may not change it.
    pub const READ_ONLY: u8 = 16;
    /// Its blocks have no checksums. Whatever shares blocks with it has none either.
    pub const UNSUMMED: u8 = 32;
    /// Space for all of it is promised.
    pub const RESERVED: u8 = 64;

    /// An entry without a map.
    pub fn new(uuid: Uuid, blocks: u64, name: &str) -> Option<Self> {
        let mut entry = Self::new_zeroed();
        entry.uuid = *uuid.as_bytes();
        entry.blocks = blocks.into();
        entry.flags = Self::LIVE;
        entry.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(entry)
    }

    /// The name; what is not UTF-8 ends it.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        match std::str::from_utf8(&self.name[..end]) {
            Ok(name) => name,
            Err(error) => std::str::from_utf8(&self.name[..error.valid_up_to()]).unwrap_or(""),
        }
    }
}

/// A page of counts in the summary.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SummaryEntry {
    /// Blocks with a count of zero.
    pub free: U16,
    /// [`Self::WRITTEN`], [`Self::SIDE`].
    pub flags: U16,
}
const _: () = assert!(size_of::<SummaryEntry>() == 4);

impl SummaryEntry {
    /// The page was ever written; if not, all its counts are zero.
    pub const WRITTEN: u16 = 1;
    /// Which of its two blocks is the current one.
    pub const SIDE: u16 = 2;
    /// It is given up: nothing is known of its blocks, and none of them is taken.
    pub const DAMAGED: u16 = 4;
}
