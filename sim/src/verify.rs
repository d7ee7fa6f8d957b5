//! Compares what is on a device, or in an open store, with the model.

use std::collections::BTreeSet;
use std::rc::Rc;

use dataplane::store::format::{Bytes, crc32c};
use dataplane::store::{
    BLOCK_BYTES, Block, COMMAND_BLOCKS_MAX, ChangedRange, Command, Event, Failure, Finished, Lsn, Operation,
    Progress, Request, RequestOp, Store, VolumeBlock, VolumeId, check, open,
};

use crate::device::Device;
use crate::model::{Model, State, Volume, differs, each_block, holds};
use crate::run::{Check, LIMITS, STEPS_MAX};
use crate::workload::SMALL_BLOCKS;

/// Compares what is on a device with the model. Gives the device back, as a store left it that opened it and did nothing.
pub(crate) fn verify(mut device: Device, model: &Model, newest: Lsn) -> Check<(Device, Model)> {
    sound(&mut device, "before opening")?;
    let mut store = open(&mut device, LIMITS).map_err(|error| format!("open: {error}"))?;
    let counters = store.counters();
    if (counters.damaged_counts, counters.lost_pages) != (0, 0) {
        return Err(format!("damage where there is none: {counters:?}"));
    }
    let lsn = store.lsn();
    if lsn < model.promised || lsn > newest {
        return Err(format!("found {lsn:?}, promised {:?}, last {newest:?}", model.promised));
    }
    let state = Rc::clone(model.at(lsn).ok_or("found a state from before the store was opened")?);
    same_volumes(&store, &state)
        .map_err(|what| format!("at {lsn:?}, promised {:?}, newest {newest:?}: {what}", model.promised))?;
    for id in state.keys() {
        same_content(&mut store, &device, VolumeId(*id), &state)?;
    }
    sound(&mut device, "after opening")?;
    Ok((device, Model::new(state, lsn)))
}

fn sound(device: &mut Device, when: &str) -> Check {
    let report = check(device, true).map_err(|error| format!("check {when}: {error}"))?;
    match report.faults.first() {
        None => Ok(()),
        Some(fault) => Err(format!("check {when}: {} faults, the first: {fault}", report.faults.len())),
    }
}

fn same_volumes(store: &Store, state: &State) -> Check {
    let found: Vec<_> = store
        .volumes()
        .map(|info| {
            // While it is shrinking it still counts what is being freed.
            let allocated = if info.shrinking { None } else { Some(info.allocated) };
            (info.id.0, info.name, info.blocks, info.kind, info.settings, info.origin, allocated)
        })
        .collect();
    let wanted = state.iter().zip(&found).map(|((id, volume), found)| {
        let Volume { name, blocks, kind, settings, origin, content, .. } = volume.clone();
        (*id, name, blocks, kind, settings, origin, found.6.map(|_| content.len() as u64))
    });
    let wanted: Vec<_> = wanted.collect();
    if found == wanted { Ok(()) } else { Err(format!("volumes are {found:?}, should be {wanted:?}")) }
}

/// What an open store in which nothing is under way says of its volumes: differences, space.
pub(crate) fn live_volumes(store: &mut Store, device: &Device, model: &Model) -> Check {
    let state = model.now();
    same_volumes(store, state).map_err(|what| format!("live: {what}"))?;
    let all: Vec<Option<u32>> = std::iter::once(None).chain(state.keys().copied().map(Some)).collect();
    for (from, to) in all.iter().zip(state.keys()) {
        let Some(found) = changes(store, device, from.map(VolumeId), VolumeId(*to))? else { continue };
        let found = each_block(&found);
        let wanted = differs(from.map(|from| &state[&from]), &state[to]);
        // The same bytes may lie elsewhere by now.
        let more = |(block, mapped): (&u64, &(bool, bool))| {
            wanted.get(block).map_or(*mapped == (true, true), |wanted| wanted == mapped)
        };
        if !found.iter().all(more) || !wanted.keys().all(|block| found.contains_key(block)) {
            return Err(format!("changes from {from:?} to {to}: {found:?}, should be {wanted:?}"));
        }
    }
    state.keys().try_for_each(|id| counted_space(store, device, VolumeId(*id)))
}

/// `None`: a volume is being shrunk, which is to be told.
fn changes(
    store: &mut Store,
    device: &Device,
    from: Option<VolumeId>,
    to: VolumeId,
) -> Check<Option<Vec<ChangedRange>>> {
    let mut walk = store.changes(from, to).map_err(|failure| format!("changes: {failure}"))?;
    let mut found = Vec::new();
    for _ in 0..STEPS_MAX {
        match store.next_changes(&mut walk, &mut found) {
            Ok(Progress::Done) => return Ok(Some(found)),
            Ok(Progress::More) => {}
            Ok(Progress::Waiting) => load_pages(store, device),
            Err(Failure::Shrinking) => return Ok(None),
            Err(failure) => return Err(format!("changes: {failure}")),
        }
    }
    Err("a walk through two maps has no end".to_owned())
}

fn counted_space(store: &mut Store, device: &Device, id: VolumeId) -> Check {
    let info = store.volume(id).ok_or("the volume was listed")?;
    let mut usage = store.usage(id).map_err(|failure| format!("usage: {failure}"))?;
    for _ in 0..STEPS_MAX {
        match store.next_usage(&mut usage) {
            Ok(Progress::Done) if info.own <= usage.own && usage.own <= info.allocated => return Ok(()),
            Ok(Progress::Done) => return Err(format!("{usage:?}, but {info:?}")),
            Ok(Progress::More) => {}
            Ok(Progress::Waiting) => load_pages(store, device),
            Err(Failure::Shrinking) => return Ok(()),
            Err(failure) => return Err(format!("usage: {failure}")),
        }
    }
    Err("a walk that counts has no end".to_owned())
}

/// Finishes reads of metadata; nothing else is under way.
fn load_pages(store: &mut Store, device: &Device) {
    while let Some(Request { id, op }) = store.next_request() {
        if let RequestOp::ReadMeta { block } = op {
            store.finish(id, Finished::Meta(&device.block(block)));
        }
    }
}

/// Reads what was written and what lies around it; of a small volume everything.
fn same_content(store: &mut Store, device: &Device, id: VolumeId, state: &Rc<State>) -> Check {
    let volume = &state[&id.0];
    let step = u64::from(COMMAND_BLOCKS_MAX);
    let mut starts: BTreeSet<u64> = volume.content.keys().map(|block| block / step * step).collect();
    starts.extend((0..volume.blocks.min(SMALL_BLOCKS)).step_by(COMMAND_BLOCKS_MAX as usize));
    for at in starts {
        let blocks = u32::try_from(step.min(volume.blocks - at)).expect("at most a command's");
        for (block, bytes) in (at..).zip(read(store, device, id, VolumeBlock(at), blocks)?) {
            if !holds(std::iter::once(state), id, block, &bytes) {
                let mapped = volume.content.contains_key(&block);
                return Err(format!("{id:?} block {block} is wrong, should be mapped: {mapped}"));
            }
        }
    }
    Ok(())
}

/// Reads through the store.
fn read(
    store: &mut Store,
    device: &Device,
    volume: VolumeId,
    at: VolumeBlock,
    blocks: u32,
) -> Check<Vec<Rc<Bytes>>> {
    let zero = Rc::new([0; BLOCK_BYTES]);
    let mut data = vec![zero; blocks as usize];
    let operation = Operation::Read { volume, at, blocks };
    store.submit(&Command { tag: 0, operation }).map_err(|failure| format!("read: {failure}"))?;
    for _ in 0..STEPS_MAX {
        while let Some(Request { id, op }) = store.next_request() {
            match op {
                RequestOp::ReadMeta { block } => store.finish(id, Finished::Meta(&device.block(block))),
                RequestOp::ReadData { offset, block, blocks, .. } => {
                    let read: Vec<_> =
                        (block.0..).map(|at| device.block(Block(at))).take(blocks as usize).collect();
                    let sums: Vec<u32> = read.iter().map(|bytes| crc32c(&bytes[..])).collect();
                    data[offset as usize..][..read.len()].clone_from_slice(&read);
                    store.finish(id, Finished::Sums(&sums));
                }
                RequestOp::ZeroData { .. } => store.finish(id, Finished::Done),
                // Deleted volumes may be freed meanwhile: that needs no answer.
                RequestOp::WriteMeta { .. } | RequestOp::WriteData { .. } | RequestOp::Flush => {}
            }
        }
        match store.next_event() {
            Some(Event::Done { result: Ok(_), .. }) => return Ok(data),
            Some(event) => return Err(format!("read: {event:?}")),
            None => store.turn(),
        }
    }
    Err("a read waits for ever".to_owned())
}
