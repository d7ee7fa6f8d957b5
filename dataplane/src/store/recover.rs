//! What a device holds: the newest checkpoint, and the log after it.
//!
//! Damage is told from a write that power cut short. A header is on the media only after all that it speaks of, and a block
//! of the log only after those that were committed before it: where the first is there and the second is not, something
//! rotted, and opening says so instead of going back to an older state.

use uuid::Uuid;
use zerocopy::FromBytes;

use super::cache::Stop;
use super::checkpoint;
use super::format::{
    Bytes, CheckpointHeader, FormatError, Layout, Record, Records, SummaryEntry, SuperblockV1, VolumeEntry,
};
use super::machine::{Limits, insert};
use super::open::{Media, MediaError, OpenError};
use super::space::Space;
use super::state::{State, Volume};
use super::{BLOCK_BYTES, Block, VolumeId};

/// How often a block of metadata is read before it counts as unreadable.
const READS_MAX: u32 = 3;
/// Blocks of the log that are read at a time: 1 MiB.
const READ_AHEAD: u64 = 256;
/// Blocks after a gap in the log that are looked at: more than one commit writes.
const GAP_SEARCHED: u64 = 256;

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
    let (uuid, layout) = SuperblockV1::decode(&bytes).map_err(OpenError::Superblock)?;
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
    let payload = (0..2).find_map(|copy| payload(media, header, &layout, copy))?;
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

/// Table and summary from one of their two copies, if that is whole.
fn payload(
    media: &mut impl Media,
    header: &CheckpointHeader,
    layout: &Layout,
    copy: usize,
) -> Option<Vec<Bytes>> {
    let mut payload = vec![[0; BLOCK_BYTES]; usize::try_from(layout.payload_blocks()).ok()?];
    media.read_range(layout.payload(header.seq, 0)[copy], &mut payload).ok()?;
    (checkpoint::payload_crc(payload.iter()) == header.payload_crc).then_some(payload)
}

/// Blocks of the log, read several at a time.
struct LogReader {
    /// Position of the first block in memory.
    first: u64,
    blocks: Vec<Bytes>,
}

impl LogReader {
    fn read(&mut self, media: &mut impl Media, layout: &Layout, at: u64) -> Result<&Bytes, MediaError> {
        let known = at.checked_sub(self.first).filter(|index| *index < self.blocks.len() as u64);
        let index = match known {
            Some(index) => index,
            None => {
                // Not beyond the end of the ring.
                let left = layout.log_blocks() - at % layout.log_blocks();
                self.first = at;
                self.blocks.resize(usize::try_from(left.min(READ_AHEAD)).unwrap_or(1), [0; BLOCK_BYTES]);
                if media.read_range(layout.log(at), &mut self.blocks).is_err() {
                    // One of those after it, perhaps.
                    self.blocks.truncate(1);
                    media.read(layout.log(at), &mut self.blocks[0])?;
                }
                0
            }
        };
        Ok(&self.blocks[usize::try_from(index).unwrap_or(0)])
    }
}

/// Applies the log after a checkpoint; says where it ends.
fn replay(media: &mut impl Media, state: &mut State, header: &CheckpointHeader) -> Result<u64, OpenError> {
    let mut position = header.log_position;
    let mut log = LogReader { first: position, blocks: Vec::new() };
    while position - header.log_position < state.layout.log_blocks() {
        let bytes = log.read(media, &state.layout, position)?;
        let Some(records) = records_at(bytes, header, position, state) else { break };
        for record in records {
            let lsn = state.lsn.next();
            let record = record.map_err(|_| OpenError::Record { lsn })?;
            // Every record here is durable: what those before it freed may be in use again.
            state.meta.space.free_released(state.lsn);
            if make_ready(media, state, &record) {
                state.apply(&record);
            } else if state.is_damaged() {
                // What it speaks of went with a page that was lost, or was freed with more at once.
                state.skip();
            } else {
                return Err(OpenError::Record { lsn });
            }
        }
        position += 1;
    }
    state.meta.space.free_released(state.lsn);
    refuse_gap(media, state, header, position)?;
    Ok(position)
}

/// The records of a block, if it continues the log.
fn records_at<'a>(
    bytes: &'a Bytes,
    header: &CheckpointHeader,
    position: u64,
    state: &State,
) -> Option<Records<'a>> {
    let (found, records) = Records::decode(bytes).ok()?;
    let continues = found.incarnation == header.incarnation
        && found.position == position
        && found.lsn == state.lsn.next();
    continues.then_some(records)
}

/// That no later block says the one at `position` was on the media.
fn refuse_gap(
    media: &mut impl Media,
    state: &State,
    header: &CheckpointHeader,
    position: u64,
) -> Result<(), OpenError> {
    let end = (position + GAP_SEARCHED).min(header.log_position + state.layout.log_blocks());
    let mut log = LogReader { first: position, blocks: Vec::new() };
    for later in position + 1..end {
        let Ok((found, _)) = Records::decode(log.read(media, &state.layout, later)?) else { continue };
        let follows = found.incarnation == header.incarnation && found.position == later;
        if follows && found.committed > position {
            return Err(OpenError::LogDamaged { position });
        }
    }
    Ok(())
}

/// Reads what a record needs, and gives up what cannot be read. Whether the record can be applied.
fn make_ready(media: &mut impl Media, state: &mut State, record: &Record<'_>) -> bool {
    loop {
        let stop = match state.ready(record) {
            Ok(_) => return true,
            Err(Stop::Damaged) => match state.lose(record) {
                Ok(true) => continue,
                Ok(false) => return false,
                Err(stop) => stop,
            },
            Err(stop) => stop,
        };
        match stop {
            Stop::Map { .. } | Stop::Counts { .. } => read_missing(media, state, stop),
            Stop::Commit | Stop::Checkpoint | Stop::Full | Stop::Damaged => return false,
        }
    }
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
