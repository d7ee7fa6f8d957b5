//! The log after a checkpoint is applied again, each block from a copy that is whole.
//!
//! The log ends where no copy continues it. A block that was on the media and is not there any more, in any copy, is damage:
//! later blocks tell of it, and of a checkpoint that was on the media and was not found.

use super::BLOCK_BYTES;
use super::cache::Stop;
use super::format::{Bytes, CheckpointHeader, Layout, LogHeader, Record, Records};
use super::open::{Media, MediaError, OpenError};
use super::recover::{READ_AHEAD, READS_MAX, read_missing};
use super::state::State;

/// Blocks after a gap in the log that are looked at: more than one commit writes.
const GAP_SEARCHED: u64 = 256;

/// One copy of the log, of which several blocks are read at a time.
struct Copy {
    number: u64,
    /// Position of the first block in memory.
    first: u64,
    blocks: Vec<Bytes>,
}

impl Copy {
    fn known(&self, at: u64) -> Option<&Bytes> {
        self.blocks.get(usize::try_from(at.checked_sub(self.first)?).ok()?)
    }

    fn read(&mut self, media: &mut impl Media, layout: &Layout, at: u64) -> Result<&Bytes, MediaError> {
        let block = layout.log(at, self.number);
        if self.known(at).is_none() {
            // Not beyond the end of the ring.
            let left =
                usize::try_from(layout.ring_blocks() - at % layout.ring_blocks()).unwrap_or(READ_AHEAD);
            self.first = at;
            self.blocks.resize(left.min(READ_AHEAD), [0; BLOCK_BYTES]);
            if media.read_range(block, &mut self.blocks).is_err() {
                // One of those after it, perhaps.
                self.blocks.truncate(1);
                let read = (0..READS_MAX).any(|_| media.read(block, &mut self.blocks[0]).is_ok());
                if !read {
                    self.blocks.clear();
                }
            }
        }
        self.known(at).ok_or(MediaError { block: block.0 })
    }
}

/// All copies of the log.
struct Copies(Vec<Copy>);

impl Copies {
    fn of(layout: &Layout) -> Self {
        let copy = |number| Copy { number, first: 0, blocks: Vec::new() };
        Self((0..layout.log_copies()).map(copy).collect())
    }

    /// The block at a position that passes `fits`, from the first copy where there is one. An error when there is none, and
    /// no copy could be read.
    fn find(
        &mut self,
        media: &mut impl Media,
        layout: &Layout,
        at: u64,
        fits: impl Fn(&LogHeader) -> bool,
    ) -> Result<Option<&Bytes>, MediaError> {
        let mut unread = None;
        let mut found = None;
        for (index, copy) in self.0.iter_mut().enumerate() {
            match copy.read(media, layout, at) {
                Ok(bytes) if Records::decode(bytes).is_ok_and(|(header, _)| fits(&header)) => {
                    found = Some(index);
                    break;
                }
                Ok(_) => {}
                Err(error) => unread = unread.or(Some((index, error))),
            }
        }
        match (found, unread) {
            (Some(index), _) => Ok(self.0[index].known(at)),
            (None, Some((_, error))) if self.0.iter().all(|copy| copy.known(at).is_none()) => Err(error),
            (None, _) => Ok(None),
        }
    }
}

/// Applies the log after a checkpoint; says where it ends.
pub(crate) fn replay(
    media: &mut impl Media,
    state: &mut State,
    header: &CheckpointHeader,
) -> Result<u64, OpenError> {
    let layout = state.layout.clone();
    let mut position = header.log_position;
    let mut copies = Copies::of(&layout);
    while position - header.log_position < layout.ring_blocks() {
        let next = state.lsn.next();
        let continues = |found: &LogHeader| {
            found.incarnation == header.incarnation && found.position == position && found.lsn == next
        };
        let Some(bytes) = copies.find(media, &layout, position, continues)? else { break };
        let Ok((found, records)) = Records::decode(bytes) else { break };
        refuse_older_checkpoint(header, &found)?;
        apply(media, state, records)?;
        position += 1;
    }
    state.meta.space.free_released(state.lsn);
    refuse_gap(media, &layout, header, position, copies)?;
    Ok(position)
}

fn apply(media: &mut impl Media, state: &mut State, records: Records<'_>) -> Result<(), OpenError> {
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
    Ok(())
}

/// That no block of the log tells of a checkpoint after the one that was found.
fn refuse_older_checkpoint(header: &CheckpointHeader, found: &LogHeader) -> Result<(), OpenError> {
    let lives = header.incarnation..=header.incarnation + 1;
    if found.checkpoint == header.seq + 1 && lives.contains(&found.incarnation) {
        return Err(OpenError::CheckpointDamaged { seq: found.checkpoint });
    }
    Ok(())
}

/// That no later block says the one at `position` was on the media.
fn refuse_gap(
    media: &mut impl Media,
    layout: &Layout,
    header: &CheckpointHeader,
    position: u64,
    mut copies: Copies,
) -> Result<(), OpenError> {
    let end = (position + GAP_SEARCHED).min(header.log_position + layout.ring_blocks());
    for later in position..end {
        for copy in &mut copies.0 {
            let Ok(bytes) = copy.read(media, layout, later) else { continue };
            let Ok((found, _)) = Records::decode(bytes) else { continue };
            refuse_older_checkpoint(header, &found)?;
            let follows = found.incarnation == header.incarnation && found.position == later;
            if later > position && follows && found.committed > position {
                return Err(OpenError::LogDamaged { position });
            }
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
