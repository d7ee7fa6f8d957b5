//! The superblock, and the layout that follows from the size of the device.

use std::mem::{offset_of, size_of};

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Bytes, COUNTS_PER_PAGE, FormatError, SUMMARIES_PER_BLOCK, VOLUMES_PER_BLOCK, check_seal, seal};
use crate::store::{BLOCK_BYTES, Block};

const MAGIC: [u8; 8] = *b"PLXSTORE";
const WHAT: &str = "superblock";
/// The only format version so far.
pub const VERSION: u32 = 1;
/// Volumes, snapshots and clones of one store at most: reference counts have 15 bits.
const VOLUMES_MAX: u64 = (1 << 15) - 2;

/// What identifies a store: at block 0 and at the last block.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub struct SuperblockV1 {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    /// Features that a reader must know to touch the store at all. None so far.
    incompatible: U64,
    uuid: [u8; 16],
    blocks: U64,
    volumes: U64,
    log_blocks: U64,
    /// UTF-8, zeroes after it; all zeroes for none. Within the first sector, so that no device tears a change of it.
    name: [u8; STORE_NAME_BYTES],
    reserved: [u8; BLOCK_BYTES - 128],
}
const _: () = assert!(size_of::<SuperblockV1>() == BLOCK_BYTES);

/// Bytes of a store's name at most.
pub const STORE_NAME_BYTES: usize = 64;

/// Where everything lies. A function of three numbers that the superblock holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Blocks of the device that the store uses, both superblocks included.
    pub blocks: u64,
    /// Entries of the volume table.
    pub volumes: u32,
    /// Blocks of the log.
    pub log_blocks: u64,
}

impl Layout {
    /// Log blocks of a device of `blocks` blocks: a 256th of it, between 256 KiB and 256 MiB.
    pub fn log_blocks_for(blocks: u64) -> u64 {
        (blocks / 256).clamp(64, 65_536)
    }

    /// Checks that the three numbers leave room for data.
    pub fn validated(self) -> Result<Self, FormatError> {
        let bad = |field, value| Err(FormatError::Value { what: WHAT, field, value });
        if self.blocks > 1 << 40 {
            return bad("blocks", self.blocks);
        }
        if self.volumes == 0 || u64::from(self.volumes) > VOLUMES_MAX {
            return bad("volumes", u64::from(self.volumes));
        }
        if !(16..=1 << 20).contains(&self.log_blocks) {
            return bad("log blocks", self.log_blocks);
        }
        if self.data_start().0 + 64 > self.blocks {
            return bad("blocks", self.blocks);
        }
        Ok(self)
    }

    /// Pages of reference counts: enough for all blocks, which is a few too many.
    pub fn counts_pages(&self) -> u32 {
        u32::try_from(self.blocks.div_ceil(COUNTS_PER_PAGE as u64)).unwrap_or(u32::MAX)
    }

    /// Blocks of the volume table in a checkpoint.
    pub fn table_blocks(&self) -> u64 {
        u64::from(self.volumes).div_ceil(VOLUMES_PER_BLOCK as u64)
    }

    /// Blocks of the space summary in a checkpoint.
    pub fn summary_blocks(&self) -> u64 {
        u64::from(self.counts_pages()).div_ceil(SUMMARIES_PER_BLOCK as u64)
    }

    /// Blocks of the table and the summary.
    pub fn payload_blocks(&self) -> u64 {
        self.table_blocks() + self.summary_blocks()
    }

    /// Blocks of one checkpoint: everything is there twice.
    pub fn checkpoint_blocks(&self) -> u64 {
        2 * (1 + self.payload_blocks())
    }

    /// First block of the checkpoint with this sequence number: they alternate.
    pub fn checkpoint(&self, seq: u64) -> Block {
        Block(1 + (seq & 1) * self.checkpoint_blocks())
    }

    /// Both places of its header: the first and the last of its blocks.
    pub fn headers(&self, seq: u64) -> [Block; 2] {
        let first = self.checkpoint(seq);
        [first, Block(first.0 + self.checkpoint_blocks() - 1)]
    }

    /// Both places of a block of the table or the summary.
    pub fn payload(&self, seq: u64, index: u64) -> [Block; 2] {
        let first = self.checkpoint(seq).0 + 1 + index;
        [Block(first), Block(first + self.payload_blocks())]
    }

    /// Where the log block with this position lies.
    pub fn log(&self, position: u64) -> Block {
        Block(1 + 2 * self.checkpoint_blocks() + position % self.log_blocks)
    }

    /// Where side `side` of a page of reference counts lies.
    pub fn counts(&self, page: u32, side: bool) -> Block {
        let start = 1 + 2 * self.checkpoint_blocks() + self.log_blocks;
        Block(start + 2 * u64::from(page) + u64::from(side))
    }

    /// First block for data and map pages.
    pub fn data_start(&self) -> Block {
        Block(1 + 2 * self.checkpoint_blocks() + self.log_blocks + 2 * u64::from(self.counts_pages()))
    }

    /// Past the last block for data and map pages.
    pub fn data_end(&self) -> Block {
        Block(self.blocks - 1)
    }

    /// Whether a block is one for data or map pages.
    pub fn is_data(&self, block: Block) -> bool {
        (self.data_start()..self.data_end()).contains(&block)
    }
}

impl SuperblockV1 {
    /// The superblock of a store.
    pub fn encode(uuid: Uuid, layout: &Layout) -> Box<Bytes> {
        let superblock = Self {
            magic: MAGIC,
            crc: U32::ZERO,
            version: VERSION.into(),
            incompatible: U64::ZERO,
            uuid: *uuid.as_bytes(),
            blocks: layout.blocks.into(),
            volumes: u64::from(layout.volumes).into(),
            log_blocks: layout.log_blocks.into(),
            name: [0; STORE_NAME_BYTES],
            reserved: [0; BLOCK_BYTES - 128],
        };
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        bytes.copy_from_slice(superblock.as_bytes());
        seal(&mut bytes, offset_of!(Self, crc));
        bytes
    }

    /// The identity and layout of a store.
    pub fn decode(bytes: &Bytes) -> Result<(Uuid, Layout), FormatError> {
        let this = Self::ref_from_bytes(bytes).map_err(|_| FormatError::Magic { what: WHAT })?;
        if this.magic != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        check_seal(bytes, offset_of!(Self, crc), WHAT)?;
        let (version, incompatible) = (this.version.get(), this.incompatible.get());
        if version > VERSION || incompatible != 0 {
            return Err(FormatError::Newer { version, incompatible });
        }
        let volumes = this.volumes.get();
        let volumes = u32::try_from(volumes).map_err(|_| FormatError::Value {
            what: WHAT,
            field: "volumes",
            value: volumes,
        })?;
        let layout = Layout { blocks: this.blocks.get(), volumes, log_blocks: this.log_blocks.get() };
        Ok((Uuid::from_bytes(this.uuid), layout.validated()?))
    }

    /// The name of a store; empty when it has none.
    pub fn name(bytes: &Bytes) -> &str {
        let at = offset_of!(Self, name);
        let name = &bytes[at..at + STORE_NAME_BYTES];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        std::str::from_utf8(&name[..end]).unwrap_or_default()
    }

    /// Gives a superblock another name; `None` when it does not fit.
    pub fn rename(bytes: &mut Bytes, name: &str) -> Option<()> {
        let at = offset_of!(Self, name);
        let place = &mut bytes[at..at + STORE_NAME_BYTES];
        place.fill(0);
        place.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        seal(bytes, offset_of!(Self, crc));
        Some(())
    }
}
