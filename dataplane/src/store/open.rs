//! Making and opening a store. Both block: for the thread that sets things up, not for a reactor.

use uuid::Uuid;
use zerocopy::FromBytes;

use super::cache::Stop;
use super::checkpoint;
use super::commit::Log;
use super::format::{
    Bytes, CheckpointHeader, FormatError, Layout, Records, SummaryEntry, SuperblockV1, VolumeEntry,
};
use super::machine::{Limits, Store, insert};
use super::request::{Finished, RequestOp};
use super::space::Space;
use super::state::{State, Volume};
use super::{BLOCK_BYTES, Block, Lsn, VolumeId};

/// A device that is read and written one block at a time, and waited for.
pub trait Media {
    /// Blocks of the device.
    fn blocks(&self) -> u64;
    /// Reads one block.
    fn read(&mut self, block: Block, bytes: &mut Bytes) -> Result<(), MediaError>;
    /// Writes one block.
    fn write(&mut self, block: Block, bytes: &Bytes) -> Result<(), MediaError>;
    /// Everything written before is on the media.
    fn flush(&mut self) -> Result<(), MediaError>;
}

/// The device failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the device failed at block {block}")]
pub struct MediaError {
    /// Where; 0 for a flush.
    pub block: u64,
}

/// Why a store was not made or opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The device failed.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// Neither superblock is one.
    #[error("not a store: {0}")]
    Superblock(FormatError),
    /// The store uses more blocks than the device has.
    #[error("the store has {store} blocks, the device {device}")]
    DeviceTooSmall {
        /// What the superblock says.
        store: u64,
        /// What the device has.
        device: u64,
    },
    /// Neither checkpoint is whole.
    #[error("no checkpoint is whole")]
    NoCheckpoint,
    /// A record of the log does not fit the state before it.
    #[error("record {} of the log cannot be applied", lsn.0)]
    Record {
        /// Which.
        lsn: Lsn,
    },
    /// The device holds something, or could not be read to tell.
    #[error("block {block} of the device is not empty")]
    NotEmpty {
        /// The first one found.
        block: u64,
    },
    /// The checkpoint that ends opening could not be written.
    #[error("the first checkpoint could not be written")]
    Checkpoint,
}

/// How a store is made.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Identity.
    pub uuid: Uuid,
    /// Volumes, snapshots and clones at most.
    pub volumes: u32,
    /// Blocks of the log; `None`: by the size of the device.
    pub log_blocks: Option<u64>,
    /// Make it even where something is.
    pub force: bool,
}

/// Blocks at either end of a device that must be empty: what partition tables, filesystems and other stores begin with.
const SIGNATURE_BLOCKS: u64 = 32;

/// Makes a store on a device. What the device held is lost.
pub fn create(media: &mut impl Media, options: &CreateOptions) -> Result<Layout, OpenError> {
    let blocks = media.blocks();
    let log_blocks = options.log_blocks.unwrap_or_else(|| Layout::log_blocks_for(blocks));
    let layout = Layout { blocks, volumes: options.volumes, log_blocks };
    let layout = layout.validated().map_err(OpenError::Superblock)?;
    if !options.force {
        refuse_content(media)?;
    }
    // Until the first superblock is there, nothing is.
    for block in [Block(0), layout.data_end()] {
        media.write(block, &[0; BLOCK_BYTES])?;
    }
    media.flush()?;
    let state = State::empty(options.uuid, layout, 0, 0);
    let payload = checkpoint::payload(&state);
    let header = CheckpointHeader {
        store: options.uuid,
        seq: 0,
        lsn: Lsn(0),
        log_position: 0,
        incarnation: 0,
        payload_crc: checkpoint::payload_crc(payload.iter().map(|(_, bytes)| &**bytes)),
    };
    media.write(layout.checkpoint(1), &[0; BLOCK_BYTES])?;
    let start = layout.checkpoint(0);
    media.write(start, &header.encode())?;
    for (place, bytes) in &payload {
        media.write(Block(start.0 + place), bytes)?;
    }
    media.flush()?;
    let superblock = SuperblockV1::encode(options.uuid, &layout);
    media.write(layout.data_end(), &superblock)?;
    media.write(Block(0), &superblock)?;
    media.flush()?;
    Ok(layout)
}

fn refuse_content(media: &mut impl Media) -> Result<(), OpenError> {
    let blocks = media.blocks();
    let mut bytes = [0; BLOCK_BYTES];
    for block in (0..SIGNATURE_BLOCKS).chain(blocks - SIGNATURE_BLOCKS..blocks) {
        media.read(Block(block), &mut bytes)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(OpenError::NotEmpty { block });
        }
    }
    Ok(())
}

/// Opens a store: reads a checkpoint and the log after it, and writes a checkpoint.
pub fn open(media: &mut impl Media, limits: Limits) -> Result<Store, OpenError> {
    let (state, header, position) = load(media, limits)?;
    let log = Log::new(header.incarnation, position, header.log_position, state.layout.log_blocks, state.lsn);
    let mut store = Store::new(state, log, limits, &header);
    store.request_checkpoint();
    while store.is_checkpointing() {
        store.turn();
        while let Some(request) = store.next_request() {
            carry_out(media, &mut store, request)?;
        }
        if store.is_stopped() {
            return Err(OpenError::Checkpoint);
        }
    }
    Ok(store)
}

fn carry_out(media: &mut impl Media, store: &mut Store, request: super::Request) -> Result<(), OpenError> {
    let mut bytes = [0; BLOCK_BYTES];
    let finished = match request.op {
        RequestOp::ReadMeta { block } => match media.read(block, &mut bytes) {
            Ok(()) => Finished::Meta(&bytes),
            Err(_) => Finished::Failed,
        },
        RequestOp::WriteMeta { block, bytes, fua } => {
            media.write(block, &bytes)?;
            if fua {
                media.flush()?;
            }
            Finished::Done
        }
        RequestOp::Flush => {
            media.flush()?;
            Finished::Done
        }
        RequestOp::ReadData { .. } | RequestOp::WriteData { .. } | RequestOp::ZeroData { .. } => {
            unreachable!("no command is under way")
        }
    };
    store.finish(request.id, finished);
    Ok(())
}

/// The state that a device holds, the checkpoint it began with, and where the log ends.
pub(crate) fn load(
    media: &mut impl Media,
    limits: Limits,
) -> Result<(State, CheckpointHeader, u64), OpenError> {
    let (uuid, layout) = superblock(media)?;
    let (header, mut state) =
        newest_checkpoint(media, uuid, layout, limits).ok_or(OpenError::NoCheckpoint)?;
    state.lsn = header.lsn;
    let position = replay(media, &mut state, &header)?;
    Ok((state, header, position))
}

fn superblock(media: &mut impl Media) -> Result<(Uuid, Layout), OpenError> {
    let first = superblock_at(media, Block(0));
    let found = match first {
        Ok(found) => found,
        // A newer format is refused, not looked for elsewhere.
        Err(error @ OpenError::Superblock(FormatError::Newer { .. })) => return Err(error),
        Err(error) => superblock_at(media, Block(media.blocks().saturating_sub(1))).map_err(|_| error)?,
    };
    let (store, device) = (found.1.blocks, media.blocks());
    if store > device { Err(OpenError::DeviceTooSmall { store, device }) } else { Ok(found) }
}

fn superblock_at(media: &mut impl Media, block: Block) -> Result<(Uuid, Layout), OpenError> {
    let mut bytes = [0; BLOCK_BYTES];
    media.read(block, &mut bytes)?;
    SuperblockV1::decode(&bytes).map_err(OpenError::Superblock)
}

fn newest_checkpoint(
    media: &mut impl Media,
    uuid: Uuid,
    layout: Layout,
    limits: Limits,
) -> Option<(CheckpointHeader, State)> {
    let mut headers: Vec<CheckpointHeader> = [0, 1]
        .into_iter()
        .filter_map(|seq| {
            let mut bytes = [0; BLOCK_BYTES];
            media.read(layout.checkpoint(seq), &mut bytes).ok()?;
            let header = CheckpointHeader::decode(&bytes).ok()?;
            (header.store == uuid && header.seq & 1 == seq).then_some(header)
        })
        .collect();
    headers.sort_by_key(|header| std::cmp::Reverse(header.seq));
    headers.into_iter().find_map(|header| {
        let state = checkpoint_state(media, &header, layout, limits)?;
        Some((header, state))
    })
}

fn checkpoint_state(
    media: &mut impl Media,
    header: &CheckpointHeader,
    layout: Layout,
    limits: Limits,
) -> Option<State> {
    let start = layout.checkpoint(header.seq).0;
    let mut payload = Vec::new();
    for place in 1..layout.checkpoint_blocks() {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        media.read(Block(start + place), &mut bytes).ok()?;
        payload.push(bytes);
    }
    if checkpoint::payload_crc(payload.iter().map(|bytes| &**bytes)) != header.payload_crc {
        return None;
    }
    let (table, summary) = checkpoint::split(&layout, &payload);
    let mut state = State::empty(header.store, layout, limits.map_pages, limits.counts_pages);
    let entries = table.iter().flat_map(|block| <[VolumeEntry]>::ref_from_bytes(&block[..]).unwrap_or(&[]));
    for (place, entry) in (0..layout.volumes).zip(entries) {
        if entry.flags & VolumeEntry::LIVE != 0 {
            state.insert(VolumeId(place), Volume::from_entry(entry.clone(), &layout)?);
        }
    }
    let summary =
        summary.iter().flat_map(|block| <[SummaryEntry]>::ref_from_bytes(&block[..]).unwrap_or(&[]));
    state.meta.space = Space::from_summary(layout, summary.copied(), limits.counts_pages)?;
    Some(state)
}

/// Applies the log after a checkpoint; says where it ends.
fn replay(media: &mut impl Media, state: &mut State, header: &CheckpointHeader) -> Result<u64, OpenError> {
    let mut position = header.log_position;
    let mut bytes = [0; BLOCK_BYTES];
    while position - header.log_position < state.layout.log_blocks {
        media.read(state.layout.log(position), &mut bytes)?;
        let Ok((found, records)) = Records::decode(&bytes) else { break };
        let continues = found.incarnation == header.incarnation
            && found.position == position
            && found.lsn == state.lsn.next();
        if !continues {
            break;
        }
        for record in records {
            let lsn = state.lsn.next();
            let record = record.map_err(|_| OpenError::Record { lsn })?;
            // Every record here is durable: what those before it freed may be in use again.
            state.meta.space.free_released(state.lsn);
            make_ready(media, state, &record).ok_or(OpenError::Record { lsn })?;
            state.apply(&record);
        }
        position += 1;
    }
    state.meta.space.free_released(state.lsn);
    Ok(position)
}

/// Reads what a record needs; `None` if it cannot be applied.
fn make_ready(media: &mut impl Media, state: &mut State, record: &super::format::Record<'_>) -> Option<()> {
    loop {
        match state.ready(record) {
            Ok(_) => return Some(()),
            Err(Stop::Damaged | Stop::Full | Stop::Commit | Stop::Checkpoint) => return None,
            Err(stop) => read_missing(media, state, stop),
        }
    }
}

/// Reads a page that something needs.
pub(crate) fn read_missing(media: &mut impl Media, state: &mut State, stop: Stop) {
    let block = match stop {
        Stop::Map { block, .. } => block,
        Stop::Counts { page } => state.meta.space.page_block(page),
        Stop::Commit | Stop::Checkpoint | Stop::Full | Stop::Damaged => return,
    };
    let mut bytes = [0; BLOCK_BYTES];
    let read = media.read(block, &mut bytes);
    insert(state, stop, read.is_ok().then_some(&bytes));
}
