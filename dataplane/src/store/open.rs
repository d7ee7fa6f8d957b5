//! Making and opening a store. Both block: for the thread that sets things up, not for a reactor.

use super::checkpoint::Payload;
use super::commit::Log;
use super::format::{Bytes, CheckpointHeader, DiskSuperblock, FormatError, Layout, VERSION};
use super::machine::{Limits, Store};
use super::recover::{load, superblock};
use super::request::{Finished, Request, RequestOp};
use super::state::State;
use super::{BLOCK_BYTES, Block, Lsn};
use uuid::Uuid;

/// A device that is read and written, and waited for.
pub trait Media {
    /// Blocks of the device.
    fn blocks(&self) -> u64;
    /// Reads one block.
    fn read(&mut self, block: Block, bytes: &mut Bytes) -> Result<(), MediaError>;
    /// Writes one block.
    fn write(&mut self, block: Block, bytes: &Bytes) -> Result<(), MediaError>;
    /// Everything written before is on the media.
    fn flush(&mut self) -> Result<(), MediaError>;

    /// Reads blocks that follow each other.
    fn read_range(&mut self, first: Block, into: &mut [Bytes]) -> Result<(), MediaError> {
        (first.0..).zip(into).try_for_each(|(block, bytes)| self.read(Block(block), bytes))
    }

    /// Writes blocks that follow each other.
    fn write_range(&mut self, first: Block, from: &[Bytes]) -> Result<(), MediaError> {
        (first.0..).zip(from).try_for_each(|(block, bytes)| self.write(Block(block), bytes))
    }
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
    /// There is no checkpoint.
    #[error("there is no checkpoint")]
    NoCheckpoint,
    /// The newest checkpoint is damaged, in both of its copies. The one before it is not the store any more.
    #[error("checkpoint {seq} is damaged")]
    CheckpointDamaged {
        /// Which.
        seq: u64,
    },
    /// A block of the log is damaged, and later ones show that it was on the media.
    #[error("block {position} of the log is damaged")]
    LogDamaged {
        /// Which.
        position: u64,
    },
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
    /// Version of the format: [`VERSION`], or an older one for tests.
    pub version: u32,
}

/// Blocks at either end of a device that must be empty: what partition tables, filesystems and other stores begin with.
const SIGNATURE_BLOCKS: u64 = 32;

/// Makes a store on a device. What the device held is lost.
pub fn create(media: &mut impl Media, options: &CreateOptions) -> Result<Layout, OpenError> {
    let blocks = media.blocks();
    let log_blocks = options.log_blocks.unwrap_or_else(|| Layout::log_blocks_for(blocks));
    let layout = Layout::of_version(options.version, blocks, options.volumes, log_blocks)
        .map_err(OpenError::Superblock)?;
    if !options.force {
        refuse_content(media)?;
    }
    // Until the first superblock is there, nothing is.
    for block in [Block(0), layout.data_end()] {
        media.write(block, &[0; BLOCK_BYTES])?;
    }
    media.flush()?;
    let state = State::empty(options.uuid, layout.clone(), 0, 0);
    for block in layout.headers(1) {
        media.write(block, &[0; BLOCK_BYTES])?;
    }
    let mut payload = Payload::of(&state);
    while let Some((block, bytes)) = payload.next(&layout, 0) {
        media.write(block, &bytes)?;
    }
    let header = CheckpointHeader {
        store: options.uuid,
        seq: 0,
        lsn: Lsn(0),
        log_position: 0,
        incarnation: first_incarnation(options.uuid),
        payload_crc: payload.crc(),
    };
    for block in layout.headers(0) {
        media.write(block, &header.encode())?;
    }
    media.flush()?;
    let superblock = DiskSuperblock::encode(options.uuid, &layout);
    media.write(layout.data_end(), &superblock)?;
    media.write(Block(0), &superblock)?;
    media.flush()?;
    Ok(layout)
}

/// What was a log here before is of another incarnation: the number is one of 2^61, by chance, and goes up by one with each
/// opening.
fn first_incarnation(store: Uuid) -> u64 {
    let (high, low) = store.as_u64_pair();
    (high ^ low.rotate_left(7)) >> 3
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

/// Opens a store: reads a checkpoint and the log after it, and writes a checkpoint. A store with damage that leaves no
/// room for one is opened for reading: [`Store::is_stopped`].
pub fn open(media: &mut impl Media, limits: Limits) -> Result<Store, OpenError> {
    let (state, header, position) = load(media, limits)?;
    repair_superblocks(media, &state.layout)?;
    let log = Log::new(&header, position, state.lsn, &state.layout);
    let mut store = Store::new(state, log, limits, &header);
    store.request_checkpoint();
    while store.is_checkpointing() {
        // Nothing else goes on: what is found is what was there.
        store.start_checkpoint();
        carry_out_all(media, &mut store)?;
        // With so much damaged that no block can be taken, it can still be read.
        if store.is_stopped() && !store.state.is_damaged() {
            return Err(OpenError::Checkpoint);
        }
    }
    Ok(store)
}

/// Makes an older store one of the current version. Its log is empty after opening, so that all that changes is the
/// superblock: whatever a crash leaves is one version or the other, whole. Gives the version it had.
///
/// # Errors
/// When it does not open, or its log is too small.
pub fn upgrade(media: &mut impl Media, limits: Limits) -> Result<u32, OpenError> {
    let store = open(media, limits)?;
    if store.is_stopped() {
        return Err(OpenError::Checkpoint);
    }
    let layout = store.layout();
    let before = layout.version();
    if before == VERSION {
        return Ok(before);
    }
    let upgraded = layout.upgraded().map_err(OpenError::Superblock)?;
    let mut superblock = DiskSuperblock::encode(store.uuid(), &upgraded);
    DiskSuperblock::take_name(&mut superblock, &self::superblock(media)?.bytes);
    for block in [Block(0), upgraded.data_end(), Block(media.blocks() - 1)] {
        media.write(block, &superblock)?;
        media.flush()?;
    }
    Ok(before)
}

/// The superblock that counts lies at both ends of the store, and at the end of a device that is larger: where it is looked
/// for when the first one is damaged. What a growth that was cut short left there goes.
fn repair_superblocks(media: &mut impl Media, layout: &Layout) -> Result<(), OpenError> {
    let trusted = superblock(media)?.bytes;
    let mut bytes = [0; BLOCK_BYTES];
    for block in [layout.data_end(), Block(media.blocks() - 1), Block(0)] {
        if media.read(block, &mut bytes).is_err() || bytes != trusted {
            media.write(block, &trusted)?;
            media.flush()?;
        }
    }
    Ok(())
}

/// Writes that are written together at most.
const TOGETHER_MAX: usize = 256;

/// Carries requests out, writes to blocks that follow each other together.
fn carry_out_all(media: &mut impl Media, store: &mut Store) -> Result<(), OpenError> {
    let (mut first, mut ids, mut blocks) = (0, Vec::new(), Vec::new());
    loop {
        let request = store.next_request();
        let follows = |block: Block| block.0 == first + ids.len() as u64 && ids.len() < TOGETHER_MAX;
        match request {
            Some(Request { id, op: RequestOp::WriteMeta { block, bytes, fua: false } })
                if ids.is_empty() || follows(block) =>
            {
                if ids.is_empty() {
                    first = block.0;
                }
                ids.push(id);
                blocks.push(*bytes);
            }
            other => {
                media.write_range(Block(first), &blocks)?;
                blocks.clear();
                ids.drain(..).for_each(|id| store.finish(id, Finished::Done));
                match other {
                    Some(request) => carry_out(media, store, request)?,
                    None => return Ok(()),
                }
            }
        }
    }
}

fn carry_out(media: &mut impl Media, store: &mut Store, request: Request) -> Result<(), OpenError> {
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
