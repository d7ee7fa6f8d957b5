//! Reads and writes of what is in memory, map and data: no command, no request, no event, no waiting. Where anything comes
//! first, they are refused, and a command does it.

use super::format::{MapEntry, MapPage, Record, VolumeEntry};
use super::machine::Store;
use super::tree::Leaf;
use super::{Block, VolumeBlock, VolumeId};

/// Blocks that follow each other on the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found<'a> {
    /// The first.
    pub block: Block,
    /// The CRC32C of each; `None` when the volume has no checksums.
    pub sums: Option<&'a [u32]>,
}

/// A write of one block, for which there is a place. It is finished or given up before the store is asked anything else.
#[derive(Debug)]
#[must_use = "its place stays taken"]
pub struct Prepared {
    volume: VolumeId,
    at: VolumeBlock,
    block: Block,
    summed: bool,
}

impl Prepared {
    /// Whether its CRC32C is kept.
    pub fn is_summed(&self) -> bool {
        self.summed
    }

    /// Where the data belongs.
    pub fn block(&self) -> Block {
        self.block
    }
}

impl Store {
    /// Where blocks of a volume lie, if they follow each other there and that is known at once; otherwise, and for what is
    /// not mapped, damaged or out of range, `None`: a read says what is the matter. The next change may free them.
    pub fn find(&self, volume: VolumeId, at: VolumeBlock, blocks: u32) -> Option<Found<'_>> {
        let volume = self.state.live(volume)?;
        at.0.checked_add(blocks.into()).filter(|end| *end <= volume.blocks())?;
        let (leaf, first) = Leaf::of(at);
        let page = self.state.meta.leaf(volume.root, leaf).ok()??;
        let range = first..first + blocks as usize;
        let targets = page.targets.get(range.clone())?;
        let block = *targets.first().filter(|target| **target > MapPage::LOST)?;
        let follow = (block..).zip(targets).all(|(want, target)| want == *target);
        let sums = (!volume.has(VolumeEntry::UNSUMMED)).then(|| &page.sums[range]);
        follow.then_some(Found { block: Block(block), sums })
    }

    /// Finds a place for a block that is written, if its part of the map was changed since the last checkpoint and nothing
    /// is to be read or written first.
    pub fn prepare(&mut self, volume: VolumeId, at: VolumeBlock) -> Option<Prepared> {
        let found = self.state.live(volume)?;
        let summed = !found.has(VolumeEntry::UNSUMMED);
        if self.stopped || found.is_read_only() || at.0 >= found.blocks() {
            return None;
        }
        let (leaf, index) = Leaf::of(at);
        let meta = &self.state.meta;
        let page = &meta.pages.frame(meta.own_leaf(found.root, leaf)?).page;
        let old = page.targets[index];
        if old > MapPage::LOST && !meta.space.is_known(Block(old)) {
            return None;
        }
        self.may_change().ok()?;
        self.has_space(0, 1, self.left_by_write(volume) + self.frames_promised).ok()?;
        let block = self.state.meta.space.hold().ok()?;
        Some(Prepared { volume, at, block, summed })
    }

    /// The data is where it belongs, and this is its CRC32C; anything, if it is not kept.
    pub fn finish_prepared(&mut self, Prepared { volume, at, block, summed }: Prepared, sum: u32) {
        let sum = if summed { sum } else { 0 };
        let entries = &[MapEntry { target: block.0.into(), sum: sum.into() }];
        self.apply(&Record::Map { volume, at, entries });
    }

    /// Nothing was written.
    pub fn give_up(&mut self, prepared: Prepared) {
        self.state.meta.space.unhold(prepared.block);
    }

    /// Where the next block that is written will probably lie.
    pub fn next_block(&mut self) -> Option<Block> {
        self.state.meta.space.next_free()
    }
}
