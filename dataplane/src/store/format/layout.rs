//! Where everything lies: a function of what the superblock holds.
//!
//! A store is made of segments. The first has superblock, checkpoints, log, counts and blocks; each one that came when the
//! store grew has checkpoints, counts and blocks. The checkpoints of the last segment are in use, and are as large as the
//! whole store asks for; those of the others, and the superblocks at their ends, are not used any more.

use super::{
    COUNTS_PER_PAGE, FormatError, SUMMARIES_PER_BLOCK, VERSION, VERSION_OF_ONE_LOG, VOLUMES_PER_BLOCK,
};
use crate::store::Block;

const WHAT: &str = "superblock";
/// Volumes, snapshots and clones of one store at most: reference counts have 15 bits.
const VOLUMES_MAX: u64 = (1 << 15) - 2;
/// Blocks of a store at most: 4 PiB.
const BLOCKS_MAX: u64 = 1 << 40;
/// Blocks for data and map pages that a segment has at least.
const DATA_MIN: u64 = 64;
/// Blocks of a ring of the log at least: room for the records of a few commands.
const RING_MIN: u64 = 16;
/// Blocks of the log at most: 8 GiB of it.
const LOG_MAX: u64 = 1 << 21;
/// Times that a store grows at most: the sizes it had lie in the first sector of the superblock, with the rest of it.
pub const GROWTHS_MAX: usize = 32;

/// Why a store does not grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GrowError {
    /// It has all blocks of its device already.
    #[error("the store has all {blocks} blocks of its device already")]
    Nothing {
        /// Blocks of the store.
        blocks: u64,
    },
    /// What came has no room for what describes it.
    #[error("{more} blocks more are too few, {least} are needed")]
    TooLittle {
        /// How many came.
        more: u64,
        /// How many have to come.
        least: u64,
    },
    /// It grew too often.
    #[error("a store grows {GROWTHS_MAX} times at most")]
    TooOften,
    /// It would be too large.
    #[error("{blocks} blocks are more than a store has")]
    TooLarge {
        /// Blocks that it would have.
        blocks: u64,
    },
    /// The name does not fit a superblock.
    #[error("not a name")]
    Name,
    /// It is growing.
    #[error("the store is growing already")]
    Busy,
    /// Metadata could not be written: the store only reads until it is opened again.
    #[error("the store stopped writing after an error of its device")]
    Stopped,
}

/// What a block is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Region {
    /// The first or the last block.
    Superblock,
    /// One of the two checkpoints.
    Checkpoint,
    /// The log.
    Log,
    /// Reference counts.
    Counts,
    /// Data and map pages.
    Data,
    /// What was a checkpoint or a superblock before the store grew.
    Unused,
}

/// Blocks that came together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    /// Its first page of counts.
    first_page: u32,
    /// Where its pages of counts lie.
    counts: u64,
    /// First block for data and map pages; its pages of counts end before it.
    data: u64,
    /// Past the last block for data: the superblock.
    end: u64,
}

impl Segment {
    fn pages(&self) -> u64 {
        (self.data - self.counts) / 2
    }

    fn contains(&self, block: Block) -> bool {
        (self.data..self.end).contains(&block.0)
    }
}

/// Where everything lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    version: u32,
    volumes: u32,
    log_blocks: u64,
    log: u64,
    /// First block of the checkpoints in use.
    checkpoints: u64,
    /// Pages of reference counts.
    pages: u32,
    /// At least one.
    segments: Vec<Segment>,
}

impl Layout {
    /// Log blocks of a device of `blocks` blocks, both copies: a 128th of it, between 512 KiB and 256 MiB.
    pub fn log_blocks_for(blocks: u64) -> u64 {
        (blocks / 128).clamp(128, 65_536)
    }

    /// A store of the current version. See [`Self::of_version`].
    ///
    /// # Errors
    /// When a number is out of range, or the others leave no room for data.
    pub fn new(blocks: u64, volumes: u32, log_blocks: u64) -> Result<Self, FormatError> {
        Self::of_version(VERSION, blocks, volumes, log_blocks)
    }

    /// A store of `blocks` blocks, both superblocks included, with a table of `volumes` entries.
    ///
    /// # Errors
    /// When a number is out of range, or the others leave no room for data.
    pub fn of_version(version: u32, blocks: u64, volumes: u32, log_blocks: u64) -> Result<Self, FormatError> {
        let bad = |field, value| Err(FormatError::Value { what: WHAT, field, value });
        if blocks > BLOCKS_MAX {
            return bad("blocks", blocks);
        }
        if volumes == 0 || u64::from(volumes) > VOLUMES_MAX {
            return bad("volumes", u64::from(volumes));
        }
        if !(RING_MIN * copies_in(version)..=LOG_MAX).contains(&log_blocks) {
            return bad("log blocks", log_blocks);
        }
        let pages = pages_for(blocks);
        let log = 1 + 2 * checkpoint_blocks(volumes, pages);
        let counts = log + log_blocks;
        let data = counts + 2 * u64::from(pages);
        if data + DATA_MIN > blocks {
            return bad("blocks", blocks);
        }
        let first = Segment { first_page: 0, counts, data, end: blocks - 1 };
        Ok(Self { version, volumes, log_blocks, log, checkpoints: 1, pages, segments: vec![first] })
    }

    /// The same store with `blocks` blocks. What it holds stays where it is.
    ///
    /// # Errors
    /// When that is not more, or not enough more.
    pub fn grown_to(&self, blocks: u64) -> Result<Self, GrowError> {
        let before = self.blocks();
        if blocks <= before {
            return Err(GrowError::Nothing { blocks: before });
        }
        if blocks > BLOCKS_MAX {
            return Err(GrowError::TooLarge { blocks });
        }
        if self.segments.len() > GROWTHS_MAX {
            return Err(GrowError::TooOften);
        }
        let added = pages_for(blocks - before);
        let pages = self.pages + added;
        let counts = before + 2 * checkpoint_blocks(self.volumes, pages);
        let data = counts + 2 * u64::from(added);
        if data + DATA_MIN > blocks {
            return Err(GrowError::TooLittle { more: blocks - before, least: data + DATA_MIN - before });
        }
        let mut grown = Self { checkpoints: before, pages, ..self.clone() };
        grown.segments.push(Segment { first_page: self.pages, counts, data, end: blocks - 1 });
        Ok(grown)
    }

    /// Blocks of the device that the store uses, both superblocks included.
    pub fn blocks(&self) -> u64 {
        self.data_end().0 + 1
    }

    /// Entries of the volume table.
    pub fn volumes(&self) -> u32 {
        self.volumes
    }

    /// Version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The same store in the current version. Everything stays where it is, but for the log.
    ///
    /// # Errors
    /// When the log is too small to be there twice.
    pub fn upgraded(&self) -> Result<Self, FormatError> {
        let upgraded = Self { version: VERSION, ..self.clone() };
        if upgraded.ring_blocks() < RING_MIN {
            return Err(FormatError::Value { what: WHAT, field: "log blocks", value: self.log_blocks });
        }
        Ok(upgraded)
    }

    /// Blocks of the log, all copies.
    pub fn log_blocks(&self) -> u64 {
        self.log_blocks
    }

    /// How often a block of the log lies on the device.
    pub fn log_copies(&self) -> u64 {
        copies_in(self.version)
    }

    /// Blocks of the ring: the log goes round in it.
    pub fn ring_blocks(&self) -> u64 {
        self.log_blocks / self.log_copies()
    }

    /// Blocks that the store had when it was made, and after each growth but the last.
    pub fn earlier_blocks(&self) -> impl Iterator<Item = u64> {
        self.segments.iter().rev().skip(1).rev().map(|segment| segment.end + 1)
    }

    /// Blocks for data and map pages.
    pub fn data_blocks(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end - segment.data).sum()
    }

    /// Pages of reference counts: enough for all blocks, which is a few too many.
    pub fn counts_pages(&self) -> u32 {
        self.pages
    }

    /// Blocks of the volume table in a checkpoint.
    pub fn table_blocks(&self) -> u64 {
        table_blocks(self.volumes)
    }

    /// Blocks of the table and the summary.
    pub fn payload_blocks(&self) -> u64 {
        payload_blocks(self.volumes, self.pages)
    }

    /// Blocks of one checkpoint: everything is there twice.
    pub fn checkpoint_blocks(&self) -> u64 {
        checkpoint_blocks(self.volumes, self.pages)
    }

    /// First block of the checkpoint with this sequence number: they alternate.
    pub fn checkpoint(&self, seq: u64) -> Block {
        Block(self.checkpoints + (seq & 1) * self.checkpoint_blocks())
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

    /// Where a copy of the log block with this position lies. Copies are far from each other: what damages one block often
    /// damages its neighbours.
    pub fn log(&self, position: u64, copy: u64) -> Block {
        let ring = self.ring_blocks();
        Block(self.log + copy * ring + position % ring)
    }

    /// Where side `side` of a page of reference counts lies.
    pub fn counts(&self, page: u32, side: bool) -> Block {
        let segment = self.segment_of(page);
        Block(segment.counts + 2 * u64::from(page - segment.first_page) + u64::from(side))
    }

    fn segment_of(&self, page: u32) -> &Segment {
        let later = &self.segments[1..];
        later.iter().rev().find(|segment| segment.first_page <= page).unwrap_or(&self.segments[0])
    }

    /// Blocks that a page of counts speaks of: the last of a segment has fewer, or none.
    pub fn blocks_in(&self, page: u32) -> usize {
        let segment = self.segment_of(page);
        let left = (segment.end).saturating_sub(self.first_in(page).0);
        usize::try_from(left).unwrap_or(usize::MAX).min(COUNTS_PER_PAGE)
    }

    /// The first block that a page of counts speaks of.
    pub fn first_in(&self, page: u32) -> Block {
        let segment = self.segment_of(page);
        Block(segment.data + u64::from(page - segment.first_page) * COUNTS_PER_PAGE as u64)
    }

    /// The page of counts that speaks of a block for data or map pages, and where in it.
    pub fn locate(&self, block: Block) -> Option<(u32, usize)> {
        let segment = self.segments.iter().find(|segment| segment.contains(block))?;
        let (index, per_page) = (block.0 - segment.data, COUNTS_PER_PAGE as u64);
        let page = segment.first_page + u32::try_from(index / per_page).ok()?;
        Some((page, usize::try_from(index % per_page).ok()?))
    }

    /// First block for data and map pages.
    pub fn data_start(&self) -> Block {
        Block(self.segments[0].data)
    }

    /// Past the last block for data and map pages: the last superblock.
    pub fn data_end(&self) -> Block {
        Block(self.segments[self.segments.len() - 1].end)
    }

    /// Whether a block is one for data or map pages.
    pub fn is_data(&self, block: Block) -> bool {
        self.segments.iter().any(|segment| segment.contains(block))
    }

    /// What a block is for. `None`: it is beyond the store's end.
    pub fn region(&self, block: Block) -> Option<Region> {
        let within = |start: u64, blocks: u64| (start..start + blocks).contains(&block.0);
        if block >= Block(self.blocks()) {
            return None;
        }
        Some(if block == Block(0) || block == self.data_end() {
            Region::Superblock
        } else if within(self.checkpoints, 2 * self.checkpoint_blocks()) {
            Region::Checkpoint
        } else if within(self.log, self.log_blocks) {
            Region::Log
        } else if self.segments.iter().any(|segment| within(segment.counts, 2 * segment.pages())) {
            Region::Counts
        } else if self.is_data(block) {
            Region::Data
        } else {
            Region::Unused
        })
    }
}

/// How often a version has a block of the log on the device.
fn copies_in(version: u32) -> u64 {
    if version == VERSION_OF_ONE_LOG { 1 } else { 2 }
}

/// Pages of counts for so many blocks, metadata among them.
fn pages_for(blocks: u64) -> u32 {
    u32::try_from(blocks.div_ceil(COUNTS_PER_PAGE as u64)).unwrap_or(u32::MAX)
}

fn table_blocks(volumes: u32) -> u64 {
    u64::from(volumes).div_ceil(VOLUMES_PER_BLOCK as u64)
}

fn payload_blocks(volumes: u32, pages: u32) -> u64 {
    table_blocks(volumes) + u64::from(pages).div_ceil(SUMMARIES_PER_BLOCK as u64)
}

fn checkpoint_blocks(volumes: u32, pages: u32) -> u64 {
    2 * (1 + payload_blocks(volumes, pages))
}
