//! Making shared blocks a volume's own: read, written elsewhere, mapped there unless a host wrote them meanwhile.
//!
//! While the command is under way nothing that is freed is taken again ([`Slot::reading_since`]), so an entry that still
//! names the block that was read still means the same data. For the same reason it never waits for space.

use super::Block;
use super::cache::Stop;
use super::command::Failure;
use super::commands::{Halt, Part, Slot, Step};
use super::format::{MapEntry, Record};
use super::machine::Store;
use super::request::RequestOp;
use super::tree::Leaf;
use zerocopy::FromZeros;

impl Store {
    /// Reads what is shared.
    pub(crate) fn start_own(&mut self, index: usize, slot: &mut Slot) -> Step {
        slot.range.check(&self.state)?;
        slot.entries.clear();
        for part in slot.range.parts() {
            self.find_shared(part, slot)?;
        }
        if slot.entries.iter().all(|entry| entry.target == 0) {
            return Err(Halt::End(Ok(None)));
        }
        slot.since = self.state.lsn;
        self.request_data(index, slot, |tag, offset, block, blocks| {
            block.map(|block| RequestOp::ReadData { tag, offset, block, blocks })
        });
        Ok(())
    }

    /// Adds an entry for each block of the part; one without a target if the block is not shared.
    fn find_shared(&mut self, part: Part, slot: &mut Slot) -> Step {
        let root = self.state.live(slot.range.volume).ok_or(Failure::NoVolume)?.root;
        let (leaf, first) = Leaf::of(part.at);
        let meta = &mut self.state.meta;
        let way = meta.ready(root, leaf, 0)?;
        let page = meta.pages.get(way.target, 0)?;
        for at in first..first + part.blocks {
            let (raw, sum) = page.map_or((0, 0), |page| (page.targets[at], page.sums[at]));
            let shared = raw != 0 && {
                meta.space.need(Block(raw))?;
                way.shared || meta.space.count(Block(raw)) > 1
            };
            let entry = MapEntry { target: raw.into(), sum: sum.into() };
            slot.entries.push(if shared { entry } else { MapEntry::new_zeroed() });
        }
        Ok(())
    }

    /// Writes what was read to free blocks.
    pub(crate) fn copy_blocks(&mut self, index: usize, slot: &mut Slot) -> Step {
        let blocks = slot.entries.iter().filter(|entry| entry.target != 0).count() as u64;
        if let Err(halt) = self.promise_frames(slot, blocks) {
            return Err(match halt {
                Halt::Wait(stop) => full(stop),
                end => end,
            });
        }
        slot.sources.clone_from(&slot.entries);
        if let Err(stop) = self.hold_mapped(slot) {
            self.unhold(slot);
            std::mem::swap(&mut slot.entries, &mut slot.sources);
            slot.sources.clear();
            return Err(full(stop));
        }
        self.request_data(index, slot, |tag, offset, block, blocks| {
            block.map(|block| RequestOp::WriteData { tag, offset, block, blocks })
        });
        self.writing += 1;
        Ok(())
    }

    fn hold_mapped(&mut self, slot: &mut Slot) -> Result<(), Stop> {
        slot.entries.iter_mut().for_each(|entry| entry.target = 0.into());
        for (entry, source) in slot.entries.iter_mut().zip(&slot.sources) {
            if source.target != 0 {
                entry.target = self.state.meta.space.hold()?.0.into();
            }
        }
        Ok(())
    }

    /// Maps the copies of what is still what was read.
    pub(crate) fn change_owner(&mut self, slot: &mut Slot) -> Step {
        slot.range.check(&self.state)?;
        let mut frames = 0;
        for part in slot.range.parts() {
            self.drop_outdated(part, slot)?;
            let mut most = 0;
            for record in records(part, slot) {
                most = most.max(self.state.ready(&record)?);
            }
            frames += most;
        }
        self.has_space(frames, 0, 0).map_err(full)?;
        for part in slot.range.parts() {
            records(part, slot).for_each(|record| self.apply(&record));
        }
        slot.entries.clear();
        slot.sources.clear();
        self.changed(slot, false, None)
    }

    /// Gives back the copies of blocks that were written or unmapped meanwhile.
    fn drop_outdated(&mut self, part: Part, slot: &mut Slot) -> Step {
        let root = self.state.live(slot.range.volume).ok_or(Failure::NoVolume)?.root;
        let (leaf, first) = Leaf::of(part.at);
        let range = part.offset..part.offset + part.blocks;
        let mut outdated = Vec::new();
        let page = self.state.meta.leaf(root, leaf)?;
        for (at, index) in (first..).zip(range) {
            let now = page.map_or(0, |page| page.targets[at]);
            if slot.entries[index].target != 0 && slot.sources[index].target != now {
                outdated.push(index);
            }
        }
        for index in outdated {
            let block = std::mem::replace(&mut slot.entries[index].target, 0.into());
            self.state.meta.space.unhold(Block(block.get()));
        }
        Ok(())
    }
}

/// Waiting for what the command itself keeps from being freed would be for ever.
fn full(stop: Stop) -> Halt {
    if stop == Stop::Commit { Failure::Full.into() } else { stop.into() }
}

/// One record for each stretch of copies.
fn records<'a>(part: Part, slot: &'a Slot) -> impl Iterator<Item = Record<'a>> {
    let entries = &slot.entries[part.offset..part.offset + part.blocks];
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = from + entries[from..].iter().position(|entry| entry.target != 0)?;
        let len = entries[first..].iter().take_while(|entry| entry.target != 0).count();
        from = first + len;
        let at = super::VolumeBlock(part.at.0 + first as u64);
        Some(Record::Map { volume: slot.range.volume, at, entries: &entries[first..from] })
    })
}
