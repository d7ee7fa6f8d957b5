//! Damage at rest: one bit of one block flips, or of two of those that lie on the device twice, and the store is opened again.
//!
//! Nothing may be told that was not written. What is lost is lost to the object that the block belongs to; the rest works.

use std::rc::Rc;

use dataplane::store::format::{Bytes, CheckpointHeader, DiskSuperblock, Layout, Region, crc32c};
use dataplane::store::{
    BLOCK_BYTES, Block, COMMAND_BLOCKS_MAX, Command, Control, Event, Failure, Finished, Lsn, Media,
    OpenError, Operation, Progress, Request, RequestOp, Store, VolumeBlock, VolumeId, VolumeInfo, VolumeKind,
    check, open,
};
use fastrand::Rng;
use uuid::Uuid;

use crate::device::Device;
use crate::model::{Model, State, Volume, holds};
use crate::run::{Check, LIMITS, STEPS_MAX};
use crate::workload::SMALL_BLOCKS;

/// Blocks of 16 leaves, and so of 16 volumes at most that share a damaged page.
const LOST_MAX: u64 = 16 * SMALL_BLOCKS;

/// Volumes of a device of unknown content that are used.
const EXERCISED_MAX: usize = 8;
/// Steps of a walk through a map of unknown content.
const WALKED_MAX: u32 = 64;

/// Free blocks that one step of freeing needs at most: two ways down a tree.
const FREEING_BLOCKS: u64 = 16;
/// Steps of freeing what is mapped in a store of unknown content.
const FREED_MAX: u32 = 2_000;

/// Where the bit lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// A superblock, a checkpoint or a block of the log, of which there are two each, or what was one before the store grew.
    Twice,
    /// The log of an older store.
    Log,
    Counts,
    /// Data, or a page of a map.
    Blocks,
}

/// Flips a bit somewhere on a device that holds a state the model knows, and looks at what becomes of it.
pub(crate) fn rot(device: &Device, model: &Model, rng: &mut Rng) -> Check {
    let mut device = device.clone();
    let Some((blocks, place)) = pick(&mut device, rng) else { return Ok(()) };
    blocks.iter().for_each(|block| device.flip_bit(*block, rng));
    survive(device, model, place, rng)
        .map_err(|what| format!("a bit of each of {blocks:?} ({place:?}) flipped: {what}"))
}

/// One block; two where each has another copy.
fn pick(device: &mut Device, rng: &mut Rng) -> Option<(Vec<Block>, Place)> {
    let mut bytes = [0; BLOCK_BYTES];
    device.read(Block(0), &mut bytes).ok()?;
    let (_, layout) = DiskSuperblock::decode(&bytes).ok()?;
    // While the device is larger than the store, there is one superblock where it is looked for.
    let twice = if layout.blocks() == device.blocks() { 0 } else { 1 };
    let wanted = match rng.u8(0..5) {
        0 => Place::Twice,
        1 => Place::Log,
        2 => Place::Counts,
        _ => Place::Blocks,
    };
    let place = |block| match layout.region(Block(block))? {
        Region::Superblock | Region::Checkpoint | Region::Unused => Some(Place::Twice),
        Region::Log => Some(Place::Log),
        Region::Counts => Some(Place::Counts),
        Region::Data => Some(Place::Blocks),
    };
    let there = device.written(twice..layout.blocks()).filter(|block| place(*block) == Some(wanted));
    let written: Vec<u64> = there.collect();
    let mut any = || written.get(rng.usize(..written.len().max(1))).map(|block| Block(*block));
    let mut blocks = vec![any()?];
    let place = if wanted == Place::Log && layout.log_copies() > 1 { Place::Twice } else { wanted };
    if place == Place::Twice {
        blocks
            .extend(any().filter(|other| *other != blocks[0] && !copies(&layout, blocks[0]).contains(other)));
    }
    Some((blocks, place))
}

/// All places of what lies at a block twice.
fn copies(layout: &Layout, block: Block) -> Vec<Block> {
    let superblocks = [Block(0), layout.data_end()];
    let headers = (0..2).map(|seq| layout.headers(seq));
    let payloads = (0..layout.payload_blocks()).flat_map(|index| (0..2).map(move |seq| (seq, index)));
    let payloads = payloads.map(|(seq, index)| layout.payload(seq, index));
    let log =
        (0..layout.ring_blocks()).map(|at| [0, layout.log_copies() - 1].map(|copy| layout.log(at, copy)));
    let all = std::iter::once(superblocks).chain(headers).chain(payloads).chain(log);
    all.filter(|places| places.contains(&block)).flatten().collect()
}

fn survive(mut device: Device, model: &Model, place: Place, rng: &mut Rng) -> Check {
    let before = newest_seq(&mut device);
    let mut store = match open(&mut device, LIMITS) {
        Ok(store) => store,
        Err(OpenError::LogDamaged { .. }) if place == Place::Log => return Ok(()),
        Err(error) => return Err(format!("open: {error}")),
    };
    let lsn = store.lsn();
    // Of the last commit nothing tells that it was complete: rot looks like a write that power cut short.
    if lsn < model.promised && place != Place::Log {
        return Err(format!("found {lsn:?}, promised {:?}, checkpoint {before:?}", model.promised));
    }
    let state = Rc::clone(model.at(lsn).ok_or("found a state from before the store was opened")?);
    let mut lost = 0;
    for id in state.keys() {
        lost += wrong_blocks(&mut store, &mut device, VolumeId(*id), &state)?;
    }
    let most = if place == Place::Blocks { LOST_MAX } else { 0 };
    if lost > most {
        return Err(format!("{lost} blocks are lost"));
    }
    if store.is_stopped() {
        return if place == Place::Counts { Ok(()) } else { Err("stopped".to_owned()) };
    }
    go_on(&mut store, &mut device, &state, rng)?;
    if store.is_stopped() && place != Place::Counts {
        return Err("stopped".to_owned());
    }
    open(&mut device, LIMITS).map(|_| ()).map_err(|error| format!("open once more: {error}"))
}

/// Opens whatever is on a device, and uses what it finds. Nothing is expected but that everything ends.
///
/// # Panics
/// When a command waits for ever, or the store panics.
pub fn exercise(mut device: Device) {
    drop(check(&mut device.clone(), true));
    let Ok(mut store) = open(&mut device, LIMITS) else { return };
    let state: State = store.volumes().take(EXERCISED_MAX).map(|info| (info.id.0, found(info))).collect();
    let ended = use_all(&mut store, &mut device, &Rc::new(state));
    ended.unwrap_or_else(|what| panic!("{what}"));
    drop(open(&mut device, LIMITS));
}

/// What is known of a volume without a model.
fn found(info: VolumeInfo) -> Volume {
    let VolumeInfo { name, blocks, kind, settings, origin, .. } = info;
    Volume { name, blocks: blocks.max(1), kind, settings, origin, born: Lsn(0), content: Rc::default() }
}

fn use_all(store: &mut Store, device: &mut Device, state: &Rc<State>) -> Check {
    let data = Rc::new([0; BLOCK_BYTES]);
    for (id, volume) in state.iter() {
        let volume_id = VolumeId(*id);
        for at in [0, volume.blocks / 2, volume.blocks - 1] {
            let read = Operation::Read { volume: volume_id, at: VolumeBlock(at), blocks: 1 };
            carry_out(store, device, read, &data)?.ok();
        }
        let Ok(mut walk) = store.changes(None, volume_id) else { continue };
        for _ in 0..WALKED_MAX {
            match store.next_changes(&mut walk, &mut Vec::new()) {
                Ok(Progress::Done) | Err(_) => break,
                Ok(_) => finish_requests(store, device, &data, &mut Vec::new()),
            }
        }
    }
    if store.is_stopped() {
        return Ok(());
    }
    write_and_delete(store, device, state, &mut Rng::with_seed(1), false)
}

fn newest_seq(device: &mut Device) -> Option<u64> {
    let mut bytes = [0; BLOCK_BYTES];
    device.read(Block(0), &mut bytes).ok()?;
    let (_, layout) = DiskSuperblock::decode(&bytes).ok()?;
    let headers = [0, 1].map(|parity| CheckpointHeader::decode(&device.block(layout.checkpoint(parity))));
    headers.into_iter().flatten().map(|header| header.seq).max()
}

/// Reads a volume block by block where it is small; counts what fails. Data that was not written is an error.
fn wrong_blocks(store: &mut Store, device: &mut Device, id: VolumeId, state: &Rc<State>) -> Check<u64> {
    let volume = &state[&id.0];
    let mut lost = 0;
    for at in volume.content.keys().copied().chain([0, volume.blocks - 1]) {
        let operation = Operation::Read { volume: id, at: VolumeBlock(at), blocks: 1 };
        match carry_out(store, device, operation, &Rc::new([0; BLOCK_BYTES]))? {
            Ok(bytes) if holds(std::iter::once(state), id, at, &bytes) => {}
            Ok(_) if volume.settings.checksums => return Err(format!("{id:?} block {at} is told wrong")),
            Ok(_) => lost += 1,
            Err(Failure::Corrupt) => lost += 1,
            Err(failure) => return Err(format!("read of {id:?} block {at}: {failure}")),
        }
    }
    Ok(lost)
}

/// Writes to every volume, makes blocks their own, deletes them all; whatever comes of it is said, and ends.
fn go_on(store: &mut Store, device: &mut Device, state: &Rc<State>, rng: &mut Rng) -> Check {
    write_and_delete(store, device, state, rng, true)
}

/// `strictly`: what was written is there, and deleting is never refused, but by a store that found only now that the counts
/// of its last free blocks are damaged.
fn write_and_delete(
    store: &mut Store,
    device: &mut Device,
    state: &Rc<State>,
    rng: &mut Rng,
    strictly: bool,
) -> Check {
    let data = Rc::new([0x5A; BLOCK_BYTES]);
    for (id, volume) in state.iter() {
        let volume_id = VolumeId(*id);
        let at = VolumeBlock(rng.u64(..volume.blocks));
        let sums = [crc32c(&data[..])];
        let write = Operation::Write { volume: volume_id, at, sums: &sums, fua: rng.bool() };
        if carry_out(store, device, write, &data)?.is_ok() {
            let read = Operation::Read { volume: volume_id, at, blocks: 1 };
            if carry_out(store, device, read, &data)?.as_ref() != Ok(&data) && strictly {
                return Err(format!("what was written to {volume_id:?} at {at:?} is not there"));
            }
        }
        let blocks = u32::try_from(volume.blocks.min(COMMAND_BLOCKS_MAX.into())).expect("at most 256");
        let own = Operation::Own { volume: volume_id, at: VolumeBlock(0), blocks };
        carry_out(store, device, own, &data)?.ok();
    }
    for id in state.keys() {
        let delete = Operation::Control(Control::Delete { volume: VolumeId(*id) });
        let deleted = carry_out(store, device, delete, &data)?;
        if let Some(failure) = deleted.err().filter(|failure| strictly && *failure != Failure::Stopped) {
            return Err(format!("delete: {failure}"));
        }
    }
    for _ in 0..if strictly { STEPS_MAX } else { FREED_MAX } {
        if !store.is_reaping() && store.is_idle() || store.is_stopped() {
            return Ok(());
        }
        store.turn();
        finish_requests(store, device, &data, &mut Vec::new());
    }
    // In a store of unknown content it may take space that is not there; and where the counts of the free blocks are damaged.
    let counters = store.counters();
    let crowded = counters.damaged_counts > 0 && counters.free < counters.unplaced + FREEING_BLOCKS;
    if strictly && !crowded { Err(format!("freeing has no end: {counters:?}")) } else { Ok(()) }
}

/// Carries one command out. Gives the first block of its data.
fn carry_out(
    store: &mut Store,
    device: &mut Device,
    operation: Operation<'_>,
    data: &Rc<Bytes>,
) -> Check<Result<Rc<Bytes>, Failure>> {
    let mut buffer = vec![Rc::clone(data); COMMAND_BLOCKS_MAX as usize];
    if let Err(failure) = store.submit(&Command { tag: 0, operation }) {
        return Ok(Err(failure));
    }
    for _ in 0..STEPS_MAX {
        finish_requests(store, device, data, &mut buffer);
        match store.next_event() {
            Some(Event::Done { result, .. }) => return Ok(result.map(|_| Rc::clone(&buffer[0]))),
            Some(Event::Applied { .. }) => {}
            None => store.turn(),
        }
    }
    Err("a command waits for ever".to_owned())
}

fn finish_requests(store: &mut Store, device: &mut Device, data: &Rc<Bytes>, buffer: &mut Vec<Rc<Bytes>>) {
    let zero = Rc::new([0; BLOCK_BYTES]);
    while let Some(Request { id, op }) = store.next_request() {
        match op {
            RequestOp::ReadMeta { block } => store.finish(id, Finished::Meta(&device.block(block))),
            RequestOp::WriteMeta { block, bytes, .. } => {
                device.put_through(block, Rc::new(*bytes));
                store.finish(id, Finished::Done);
            }
            RequestOp::Flush => {
                device.flush_to(device.mark());
                store.finish(id, Finished::Done);
            }
            RequestOp::ZeroData { offset, blocks, .. } => {
                buffer[offset as usize..][..blocks as usize].fill(Rc::clone(&zero));
                store.finish(id, Finished::Done);
            }
            RequestOp::ReadData { offset, block, blocks, .. } => {
                let read: Vec<_> =
                    (block.0..).map(|at| device.block(Block(at))).take(blocks as usize).collect();
                let sums: Vec<u32> = read.iter().map(|bytes| crc32c(&bytes[..])).collect();
                buffer[offset as usize..][..read.len()].clone_from_slice(&read);
                store.finish(id, Finished::Sums(&sums));
            }
            RequestOp::WriteData { offset, block, blocks, .. } => {
                for index in 0..blocks {
                    let bytes = buffer.get((offset + index) as usize).unwrap_or(data);
                    device.put(Block(block.0 + u64::from(index)), Rc::clone(bytes));
                }
                store.finish(id, Finished::Done);
            }
        }
    }
}

/// Makes some volumes on a device with an empty store, and leaves a log behind: what there is to damage.
///
/// # Panics
/// When there is no store, or no room for them.
pub fn live(device: &mut Device) {
    let mut store = open(device, LIMITS).unwrap_or_else(|error| panic!("{error}"));
    let data = Rc::new([0x11; BLOCK_BYTES]);
    let mut run = |device: &mut Device, operation: Operation<'_>| {
        let done = carry_out(&mut store, device, operation, &data);
        done.and_then(|done| done.map_err(|failure| failure.to_string()))
            .unwrap_or_else(|what| panic!("{what}"));
    };
    let uuid = Uuid::from_u128(2);
    for (name, blocks) in [("a", 300), ("b", 1 << 20)] {
        run(device, Operation::Control(Control::Create { name: name.into(), uuid, blocks }));
    }
    let sums = [crc32c(&data[..]); 2];
    let mut write = |device: &mut Device, volume, at| {
        let at = VolumeBlock(at);
        run(device, Operation::Write { volume: VolumeId(volume), at, sums: &sums, fua: false });
    };
    for at in [0, 10, 255, 298] {
        write(device, 0, at);
        write(device, 1, at << 10);
    }
    let kind = VolumeKind::Snapshot;
    run(device, Operation::Control(Control::Copy { origin: VolumeId(0), name: "s".into(), uuid, kind }));
    drop(store);
    let mut store = open(device, LIMITS).unwrap_or_else(|error| panic!("{error}"));
    for at in [0, 256] {
        let at = VolumeBlock(at);
        for operation in [
            Operation::Write { volume: VolumeId(0), at, sums: &sums, fua: true },
            Operation::Unmap { volume: VolumeId(1), at, blocks: 2, fua: true },
        ] {
            let done = carry_out(&mut store, device, operation, &data);
            done.and_then(|done| done.map_err(|failure| failure.to_string()))
                .unwrap_or_else(|what| panic!("{what}"));
        }
    }
}
