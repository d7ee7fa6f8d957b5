//! What a device holds: the newest checkpoint, and the log after it.
//!
//! Damage is told from a write that power cut short. A header is on the media only after all that it speaks of, and a block
//! of the log only after those that were committed before it: where the first is there and the second is not, in any copy,
//! something rotted, and opening says so instead of going back to an older state.

use uuid::Uuid;
use zerocopy::FromBytes;

use super::cache::Stop;
use super::checkpoint;
use super::format::{
    Bytes, CheckpointHeader, DiskSuperblock, FormatError, Layout, SummaryEntry, VolumeEntry, crc32c,
};
use super::machine::{Limits, insert};
use super::open::{Media, OpenError};
use super::replay::replay;
use super::space::Space;
use super::state::{State, Volume};
use super::{BLOCK_BYTES, Block, VolumeId};

/// How often a block of metadata is read before it counts as unreadable.
pub const READS_MAX: u32 = 3;
/// Blocks that are read at a time: 1 MiB.
pub(crate) const READ_AHEAD: usize = 256;
/// Blocks in which the copies of a checkpoint may differ while one that is whole can be made of both: all ways to choose are tried.
const DIFFERENCES_MAX: usize = 8;

/// The state that a device holds, the checkpoint it began with, and where the log ends.
pub(crate) fn load(
    media: &mut impl Media,
    limits: Limits,
) -> Result<(State, CheckpointHeader, u64), OpenError> {
    let Superblock { uuid, layout, .. } = superblock(media)?;
    let header = newest_header(media, uuid, &layout).ok_or(OpenError::NoCheckpoint)?;
    let damaged = OpenError::CheckpointDamaged { seq: header.seq };
    let mut state = checkpoint_state(media, &header, layout, limits).ok_or(damaged)?;
    state.lsn = header.lsn;
    let position = replay(media, &mut state, &header)?;
    Ok((state, header, position))
}

/// The superblock that counts.
pub(crate) struct Superblock {
    pub(crate) uuid: Uuid,
    pub(crate) layout: Layout,
    pub(crate) bytes: Bytes,
}

/// The first superblock; if that is damaged, the one at the end of the device.
pub(crate) fn superblock(media: &mut impl Media) -> Result<Superblock, OpenError> {
    let first = superblock_at(media, Block(0));
    let found = match first {
        Ok(found) => found,
        // A newer format is refused, not looked for elsewhere.
        Err(error @ OpenError::Superblock(FormatError::Newer { .. })) => return Err(error),
        Err(error) => superblock_at(media, Block(media.blocks().saturating_sub(1))).map_err(|_| error)?,
    };
    let (store, device) = (found.layout.blocks(), media.blocks());
    if store > device { Err(OpenError::DeviceTooSmall { store, device }) } else { Ok(found) }
}

fn superblock_at(media: &mut impl Media, block: Block) -> Result<Superblock, OpenError> {
    let mut bytes = [0; BLOCK_BYTES];
    media.read(block, &mut bytes)?;
    let (uuid, layout) = DiskSuperblock::decode(&bytes).map_err(OpenError::Superblock)?;
    Ok(Superblock { uuid, layout, bytes })
}

/// The newest header that can be read, of four places.
fn newest_header(media: &mut impl Media, uuid: Uuid, layout: &Layout) -> Option<CheckpointHeader> {
    let mut newest: Option<CheckpointHeader> = None;
    for parity in [0, 1] {
        for block in layout.headers(parity) {
            let mut bytes = [0; BLOCK_BYTES];
            let header =
                media.read(block, &mut bytes).ok().and_then(|()| CheckpointHeader::decode(&bytes).ok());
            let header = header.filter(|header| header.store == uuid && header.seq & 1 == parity);
            if header.is_some_and(|header| newest.is_none_or(|newest| newest.seq < header.seq)) {
                newest = header;
            }
        }
    }
    newest
}

fn checkpoint_state(
    media: &mut impl Media,
    header: &CheckpointHeader,
    layout: Layout,
    limits: Limits,
) -> Option<State> {
    let payload = payload(media, header, &layout)?;
    let (table, summary) = checkpoint::split(&layout, &payload);
    let mut state = State::empty(header.store, layout.clone(), limits.map_pages, limits.counts_pages);
    let entries = table.iter().flat_map(|block| <[VolumeEntry]>::ref_from_bytes(&block[..]).unwrap_or(&[]));
    for (place, entry) in (0..layout.volumes()).zip(entries) {
        if entry.flags & VolumeEntry::LIVE != 0 {
            state.insert(VolumeId(place), Volume::from_entry(entry.clone(), &layout)?);
        }
    }
    let summary =
        summary.iter().flat_map(|block| <[SummaryEntry]>::ref_from_bytes(&block[..]).unwrap_or(&[]));
    state.meta.space = Space::from_summary(layout, summary.copied(), limits.counts_pages)?;
    Some(state)
}

/// Table and summary: a copy that is whole, or what is whole of both.
pub(crate) fn payload(
    media: &mut impl Media,
    header: &CheckpointHeader,
    layout: &Layout,
) -> Option<Vec<Bytes>> {
    let mut first = payload_copy(media, header, layout, 0)?;
    let mut sums = checkpoint::payload_sums(&first);
    if crc32c(&sums) == header.payload_crc {
        return Some(first);
    }
    let second = payload_copy(media, header, layout, 1)?;
    let others = checkpoint::payload_sums(&second);
    let differ: Vec<usize> = (0..first.len()).filter(|block| first[*block] != second[*block]).collect();
    if differ.len() > DIFFERENCES_MAX {
        return (crc32c(&others) == header.payload_crc).then_some(second);
    }
    let mixed = (1..1u32 << differ.len()).find(|choice| {
        for (bit, block) in differ.iter().enumerate() {
            let chosen = if choice >> bit & 1 == 1 { &second } else { &first };
            checkpoint::set_payload_sum(&mut sums, *block, &chosen[*block]);
        }
        crc32c(&sums) == header.payload_crc
    })?;
    for (_, block) in differ.iter().enumerate().filter(|(bit, _)| mixed >> bit & 1 == 1) {
        first[*block] = second[*block];
    }
    Some(first)
}

/// One copy, with zeroes for what cannot be read.
pub(crate) fn payload_copy(
    media: &mut impl Media,
    header: &CheckpointHeader,
    layout: &Layout,
    copy: usize,
) -> Option<Vec<Bytes>> {
    let start = layout.payload(header.seq, 0)[copy];
    let mut blocks = vec![[0; BLOCK_BYTES]; usize::try_from(layout.payload_blocks()).ok()?];
    for (at, part) in (start.0..).step_by(READ_AHEAD).zip(blocks.chunks_mut(READ_AHEAD)) {
        if media.read_range(Block(at), part).is_err() {
            for (block, bytes) in (at..).zip(part) {
                let read = (0..READS_MAX).any(|_| media.read(Block(block), bytes).is_ok());
                if !read {
                    bytes.fill(0);
                }
            }
        }
    }
    Some(blocks)
}

/// Reads a page that something needs. What the device cannot read counts as damaged.
pub(crate) fn read_missing(media: &mut impl Media, state: &mut State, stop: Stop) {
    let block = match stop {
        Stop::Map { block, .. } => block,
        Stop::Counts { page } => state.meta.space.page_block(page),
        Stop::Commit | Stop::Checkpoint | Stop::Full | Stop::Damaged => return,
    };
    let mut bytes = [0; BLOCK_BYTES];
    let read = (0..READS_MAX).any(|_| media.read(block, &mut bytes).is_ok());
    match stop {
        Stop::Counts { page } if !read => state.meta.space.give_up(page),
        _ => insert(state, stop, read.then_some(&bytes)),
    }
}
