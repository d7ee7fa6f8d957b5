//! A disk with a volatile cache. Blocks hold stamps.

use std::collections::BTreeSet;

use fastrand::Rng;

/// What a block holds: 0 is zeroes, everything else was written once.
pub(super) type Stamp = u64;

struct Cached {
    sequence: u64,
    block: usize,
    stamp: Stamp,
}

/// Stamps from here on were never written: they lie on devices behind the end of a volume that is to grow.
pub(super) const LITTER: Stamp = 1 << 60;

/// The data of one replica.
pub(super) struct Disk {
    stable: Vec<Stamp>,
    visible: Vec<Stamp>,
    cached: Vec<Cached>,
    sequence: u64,
    /// Blocks that cannot be read until they are written.
    pub(super) bad: BTreeSet<usize>,
}

impl Disk {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            stable: vec![0; blocks],
            visible: vec![0; blocks],
            cached: Vec::new(),
            sequence: 0,
            bad: BTreeSet::new(),
        }
    }

    /// Something that nobody wrote lies here.
    pub(super) fn litter(&mut self, from: usize, seed: u64) {
        for block in from..self.stable.len() {
            let stamp = LITTER + seed * 1000 + block as u64;
            (self.stable[block], self.visible[block]) = (stamp, stamp);
        }
    }

    pub(super) fn content(&self) -> &[Stamp] {
        &self.visible
    }

    /// The blocks, unless one of them is bad.
    pub(super) fn read(&self, at: usize, blocks: usize) -> Option<Vec<Stamp>> {
        let range = at..at + blocks;
        self.bad.range(range.clone()).next().is_none().then(|| self.visible[range].to_vec())
    }

    pub(super) fn write(&mut self, at: usize, stamps: &[Stamp], fua: bool) {
        for (block, stamp) in (at..).zip(stamps) {
            self.bad.remove(&block);
            self.visible[block] = *stamp;
            if fua {
                self.cached.retain(|cached| cached.block != block);
                self.stable[block] = *stamp;
            } else {
                self.cached.push(Cached { sequence: self.sequence, block, stamp: *stamp });
                self.sequence += 1;
            }
        }
    }

    /// A write that was never finished: some of it may be there.
    pub(super) fn tear(&mut self, at: usize, stamps: &[Stamp], rng: &mut Rng) {
        for (block, stamp) in (at..).zip(stamps) {
            if rng.bool() {
                self.write(block, &[*stamp], rng.bool());
            }
        }
    }

    pub(super) fn mark(&self) -> u64 {
        self.sequence
    }

    /// What was written before the mark is on the media.
    pub(super) fn flush(&mut self, mark: u64) {
        for cached in &self.cached {
            if cached.sequence < mark {
                self.stable[cached.block] = cached.stamp;
            }
        }
        self.cached.retain(|cached| cached.sequence >= mark);
    }

    /// Each write in the cache is kept or lost; those that are kept were made in order.
    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
        let kept_percent = *rng.choice(&[0, 0, 50, 90]).unwrap_or(&0);
        for cached in self.cached.drain(..) {
            if rng.u8(0..100) < kept_percent {
                self.stable[cached.block] = cached.stamp;
            }
        }
        self.visible.clone_from(&self.stable);
    }
}
