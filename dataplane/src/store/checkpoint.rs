//! Checkpoints: changed map pages get blocks, and the state as of one record replaces the log up to it.
//!
//! place (a block for every frame, lowest level first) → write map pages, counts, volume table and summary, the last two
//! twice → flush → header, twice, on the media when it is finished. What is written was copied at one instant, so changes
//! go on meanwhile; table and summary, which grow with the store, become blocks only when it is their turn. Until the header is on the media the checkpoint before it counts, and nothing that it refers to has
//! been touched: map pages went to free blocks, counts to their other side, the table to the other area.

use super::cache::{FrameId, Stop, Target};
use super::format::{
    Bytes, CheckpointHeader, Layout, SUMMARIES_PER_BLOCK, SummaryEntry, VOLUMES_PER_BLOCK, VolumeEntry,
    crc32c,
};
use super::state::{State, Volume};
use super::{BLOCK_BYTES, Block};
use zerocopy::{FromZeros, IntoBytes};

#[derive(Debug)]
pub(crate) enum Phase {
    Idle,
    /// Frames that have no block yet, the next one last.
    Placing {
        frames: Vec<FrameId>,
    },
    /// Requests under way; each that ends makes room for a block of the payload.
    Writing {
        left: usize,
        payload: Payload,
        header: CheckpointHeader,
    },
    Flushing {
        header: CheckpointHeader,
    },
    Header {
        left: usize,
        header: CheckpointHeader,
    },
    /// The store grows: the last superblock, then the first.
    Superblocks {
        left: usize,
        header: CheckpointHeader,
    },
}

/// Gives the last of `frames` a block, and goes on until none is left.
pub(crate) fn place(
    state: &mut State,
    frames: &mut Vec<FrameId>,
    placed: &mut Vec<(FrameId, Block)>,
) -> Result<(), Stop> {
    while let Some(id) = frames.last().copied() {
        let block = state.meta.space.hold()?;
        state.meta.space.refer(block, state.meta.pages.frame(id).refs);
        placed.push((id, block));
        frames.pop();
    }
    Ok(())
}

/// Turns placed frames into clean pages; says what to write where.
pub(crate) fn settle(
    state: &mut State,
    placed: &[(FrameId, Block)],
    seq: u64,
    mut write: impl FnMut(Block, Box<Bytes>),
) {
    let blocks: std::collections::HashMap<u64, Block> =
        placed.iter().map(|(id, block)| (Target::Frame(*id).raw(), *block)).collect();
    let settled = |raw: u64| blocks.get(&raw).map_or(raw, |block| block.0);
    for (id, block) in placed {
        let mut page = state.meta.pages.remove(*id).page;
        if page.level > 0 {
            page.targets = page.targets.map(settled);
        }
        write(*block, page.encode(*block, seq));
        state.meta.pages.insert(*block, page);
    }
    for volume in state.volumes.iter_mut().flatten() {
        volume.root.target = Target::from_raw(settled(volume.root.target.raw()));
    }
}

/// Table and summary as they were at one instant, on their way to the media: one copy, then the other.
#[derive(Debug)]
pub(crate) struct Payload {
    table: Vec<VolumeEntry>,
    summary: Vec<SummaryEntry>,
    /// Blocks that were taken, of both copies.
    taken: u64,
    /// CRC32C of each block of the first copy.
    sums: Vec<u8>,
}

impl Payload {
    pub(crate) fn of(state: &State) -> Self {
        let entry =
            |place: &Option<Volume>| place.as_ref().map_or_else(VolumeEntry::new_zeroed, Volume::to_entry);
        let table = state.volumes.iter().map(entry).collect();
        Self { table, summary: state.meta.space.summary().to_vec(), taken: 0, sums: Vec::new() }
    }

    /// The next block, and where it lies.
    pub(crate) fn next(&mut self, layout: &Layout, seq: u64) -> Option<(Block, Box<Bytes>)> {
        let blocks = layout.payload_blocks();
        let (copy, index) = (self.taken / blocks, self.taken % blocks);
        let place = *layout.payload(seq, index).get(usize::try_from(copy).ok()?)?;
        let bytes = self.block(usize::try_from(index).ok()?)?;
        if copy == 0 {
            self.sums.extend(crc32c(&bytes[..]).to_le_bytes());
        }
        self.taken += 1;
        Some((place, bytes))
    }

    fn block(&self, index: usize) -> Option<Box<Bytes>> {
        let tables = self.table.len().div_ceil(VOLUMES_PER_BLOCK);
        let entries = match index.checked_sub(tables) {
            None => self.table.chunks(VOLUMES_PER_BLOCK).nth(index)?.as_bytes(),
            Some(index) => self.summary.chunks(SUMMARIES_PER_BLOCK).nth(index)?.as_bytes(),
        };
        let mut block = Box::new([0; BLOCK_BYTES]);
        block[..entries.len()].copy_from_slice(entries);
        Some(block)
    }

    /// CRC32C of all of it, once the first copy was taken.
    pub(crate) fn crc(&self) -> u32 {
        crc32c(&self.sums)
    }
}

/// CRC32C of each block of a payload that was read. The CRC32C of these is what a header holds.
pub(crate) fn payload_sums(blocks: &[Bytes]) -> Vec<u8> {
    blocks.iter().flat_map(|block| crc32c(block).to_le_bytes()).collect()
}

/// Puts another block's CRC32C in the place of one.
pub(crate) fn set_payload_sum(sums: &mut [u8], index: usize, block: &Bytes) {
    sums[4 * index..][..4].copy_from_slice(&crc32c(block).to_le_bytes());
}

/// Blocks of a checkpoint's table and of its summary, from the payload read back.
pub(crate) fn split<'a>(layout: &Layout, payload: &'a [Bytes]) -> (&'a [Bytes], &'a [Bytes]) {
    let table = usize::try_from(layout.table_blocks()).unwrap_or(usize::MAX);
    payload.split_at(table.min(payload.len()))
}
