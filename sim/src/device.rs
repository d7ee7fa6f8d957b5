//! A device with a volatile cache, that tears writes at 512 bytes when power fails.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use dataplane::store::format::Bytes;
use dataplane::store::{BLOCK_BYTES, Block, Media, MediaError};
use fastrand::Rng;

const SECTOR_BYTES: usize = 512;

#[derive(Clone)]
struct Write {
    sequence: u64,
    block: u64,
    bytes: Rc<Bytes>,
}

/// The device. Cloning is cheap: blocks are shared.
#[derive(Clone)]
pub struct Device {
    blocks: u64,
    /// What survives.
    stable: HashMap<u64, Rc<Bytes>>,
    /// What a read sees: everything written.
    visible: HashMap<u64, Rc<Bytes>>,
    /// Writes that are not on the media, oldest first.
    cached: VecDeque<Write>,
    sequence: u64,
}

impl Device {
    /// An empty device.
    pub fn new(blocks: u64) -> Self {
        Self { blocks, stable: HashMap::new(), visible: HashMap::new(), cached: VecDeque::new(), sequence: 0 }
    }

    /// The device has more blocks from now on.
    pub fn grow(&mut self, blocks: u64) {
        self.blocks += blocks;
    }

    /// Where the cache is now: [`Self::flush_to`] covers what was written before.
    pub fn mark(&self) -> u64 {
        self.sequence
    }

    /// Blocks of a range that were ever written.
    pub fn written(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        range.filter(|block| self.stable.contains_key(block))
    }

    /// What a block holds.
    pub fn block(&self, block: Block) -> Rc<Bytes> {
        self.visible.get(&block.0).map_or_else(|| Rc::new([0; BLOCK_BYTES]), Rc::clone)
    }

    /// Writes into the cache.
    pub fn put(&mut self, block: Block, bytes: Rc<Bytes>) {
        assert!(block.0 < self.blocks, "write beyond the end");
        self.visible.insert(block.0, Rc::clone(&bytes));
        self.cached.push_back(Write { sequence: self.sequence, block: block.0, bytes });
        self.sequence += 1;
    }

    /// Writes through to the media.
    pub fn put_through(&mut self, block: Block, bytes: Rc<Bytes>) {
        assert!(block.0 < self.blocks, "write beyond the end");
        self.cached.retain(|write| write.block != block.0);
        self.visible.insert(block.0, Rc::clone(&bytes));
        self.stable.insert(block.0, bytes);
    }

    /// A write that failed: power or not, it may be there, in part.
    pub fn put_torn(&mut self, block: Block, bytes: &Bytes, rng: &mut Rng) {
        let torn = torn(&self.block(block), bytes, rng);
        self.put(block, torn);
    }

    /// What was written before `mark` is on the media; nothing else need be.
    pub fn flush_to(&mut self, mark: u64) {
        while let Some(write) = self.cached.front().filter(|write| write.sequence < mark) {
            self.stable.insert(write.block, Rc::clone(&write.bytes));
            self.cached.pop_front();
        }
    }

    /// Power fails. `under_way` are writes that were never finished. Each lost write may be there, or not, or in part.
    pub fn lose_power(&mut self, under_way: impl Iterator<Item = (Block, Rc<Bytes>)>, rng: &mut Rng) {
        let mut lost: Vec<(u64, Rc<Bytes>)> =
            self.cached.drain(..).map(|write| (write.block, write.bytes)).collect();
        lost.extend(under_way.map(|(block, bytes)| (block.0, bytes)));
        // Per crash: everything lost, everything kept, or a coin of any weight for each.
        let kept_percent = *rng.choice(&[0, 0, 10, 50, 90, 100]).unwrap_or(&50);
        for (block, bytes) in lost {
            if rng.u8(0..100) >= kept_percent {
                continue;
            }
            let tears = kept_percent < 100 && rng.u8(0..4) == 0;
            let old = self.stable.get(&block).map_or_else(|| Rc::new([0; BLOCK_BYTES]), Rc::clone);
            let new = if tears { torn(&old, &bytes, rng) } else { bytes };
            self.stable.insert(block, new);
        }
        self.visible = self.stable.clone();
    }

    /// One bit of a block's content flips.
    pub fn flip_bit(&mut self, block: Block, rng: &mut Rng) {
        let mut bytes = *self.block(block);
        bytes[rng.usize(..BLOCK_BYTES)] ^= 1 << rng.u8(..8);
        let bytes = Rc::new(bytes);
        self.stable.insert(block.0, Rc::clone(&bytes));
        self.visible.insert(block.0, bytes);
    }
}

fn torn(old: &Bytes, new: &Bytes, rng: &mut Rng) -> Rc<Bytes> {
    let mut mix = *old;
    for (to, from) in mix.chunks_exact_mut(SECTOR_BYTES).zip(new.chunks_exact(SECTOR_BYTES)) {
        if rng.bool() {
            to.copy_from_slice(from);
        }
    }
    Rc::new(mix)
}

/// As the one that waits for every request: for opening and checking.
impl Media for Device {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, block: Block, bytes: &mut Bytes) -> Result<(), MediaError> {
        if block.0 >= self.blocks {
            return Err(MediaError { block: block.0 });
        }
        *bytes = *self.block(block);
        Ok(())
    }

    fn write(&mut self, block: Block, bytes: &Bytes) -> Result<(), MediaError> {
        self.put(block, Rc::new(*bytes));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MediaError> {
        self.flush_to(self.sequence);
        Ok(())
    }
}
