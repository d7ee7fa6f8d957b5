//! The write-intent bitmap: what is dirty, and how far every replica has it on its media.
//!
//! Invariants: versions of a page only grow, and a replica is written one version of a page at a time, so an older one
//! never overwrites a newer one; a write to a region starts when every attached replica holds the version that set its bit.

use std::ops::Range;

use super::format::PAGE_WORDS;
use super::{Bitmap, Members, ReplicaIndex};

/// Regions of a page.
const PAGE_REGIONS: u64 = PAGE_WORDS as u64 * 64;

/// One page on one replica.
#[derive(Clone, Copy, Default, Debug)]
struct Copy {
    /// Of the content that it should have.
    version: u64,
    /// That writes wait for: the last one that set a bit.
    needed: u64,
    /// On the media.
    durable: u64,
    /// Being written.
    writing: bool,
}

/// The bitmap of a volume.
pub(super) struct Intent {
    /// Regions that were written since all copies were last known to be equal on the media.
    pub(super) dirty: Bitmap,
    /// Regions written since the last cycle of clearing began.
    pub(super) recent: Bitmap,
    /// By replica, then page.
    copies: Vec<Vec<Copy>>,
    /// Replicas that are known to have no page to be written now.
    settled: Members,
}

fn page_of(region: u64) -> usize {
    usize::try_from(region / PAGE_REGIONS).unwrap_or(usize::MAX)
}

impl Intent {
    pub(super) fn new(replicas: u8, regions: u64) -> Self {
        let pages = usize::try_from(regions.div_ceil(PAGE_REGIONS)).unwrap_or(usize::MAX);
        Self {
            dirty: Bitmap::new(regions),
            recent: Bitmap::new(regions),
            copies: vec![vec![Copy::default(); pages]; usize::from(replicas)],
            settled: Members::NONE,
        }
    }

    /// A write to these regions is about to start.
    pub(super) fn mark(&mut self, regions: Range<u64>) {
        for region in regions {
            self.recent.set(region);
            if self.dirty.set(region) {
                self.change(page_of(region), true);
            }
        }
    }

    /// All copies of a region are equal on the media.
    pub(super) fn clear(&mut self, region: u64) {
        if self.dirty.clear(region) {
            self.change(page_of(region), false);
        }
    }

    fn change(&mut self, page: usize, needed: bool) {
        self.settled = Members::NONE;
        for copies in &mut self.copies {
            let copy = &mut copies[page];
            copy.version += 1;
            if needed {
                copy.needed = copy.version;
            }
        }
    }

    /// What one replica should hold has changed in a region, beside what is dirty.
    pub(super) fn touch(&mut self, replica: ReplicaIndex, region: u64) {
        self.settled.remove(replica);
        self.copies[replica.index()][page_of(region)].version += 1;
    }

    /// Nothing is known of what a replica holds: every page is to be written before anything else.
    pub(super) fn forget(&mut self, replica: ReplicaIndex) {
        self.settled.remove(replica);
        for copy in &mut self.copies[replica.index()] {
            copy.version += 1;
            copy.needed = copy.version;
            copy.writing = false;
        }
    }

    /// The volume has other regions from now on: none of those that come is dirty.
    pub(super) fn resize(&mut self, regions: u64) {
        self.dirty.resize(regions, false);
        self.recent.resize(regions, false);
        let pages = usize::try_from(regions.div_ceil(PAGE_REGIONS)).unwrap_or(usize::MAX);
        for copies in &mut self.copies {
            copies.resize(pages, Copy { version: 1, needed: 1, ..Copy::default() });
        }
    }

    /// Whether all of these replicas hold the bits of these regions.
    pub(super) fn covers(&self, regions: Range<u64>, replicas: Members) -> bool {
        let pages = page_of(regions.start)..=page_of(regions.end.saturating_sub(1).max(regions.start));
        replicas.iter().all(|replica| {
            let copies = &self.copies[replica.index()];
            pages.clone().all(|page| copies[page].durable >= copies[page].needed)
        })
    }

    /// Whether a replica holds every bit that it should.
    pub(super) fn is_complete(&self, replica: ReplicaIndex) -> bool {
        self.copies[replica.index()].iter().all(|copy| copy.durable >= copy.needed)
    }

    /// A page that is to be written to a replica now: its number and version.
    #[inline]
    pub(super) fn start_write(&mut self, replica: ReplicaIndex) -> Option<(u32, u64)> {
        if self.settled.has(replica) {
            return None;
        }
        let behind = |copy: &&mut Copy| copy.durable < copy.version && !copy.writing;
        let copies = &mut self.copies[replica.index()];
        let Some((page, copy)) = copies.iter_mut().enumerate().find(|(_, copy)| behind(copy)) else {
            self.settled.insert(replica);
            return None;
        };
        copy.writing = true;
        Some((u32::try_from(page).unwrap_or(u32::MAX), copy.version))
    }

    /// A page is on the media of a replica.
    pub(super) fn finish_write(&mut self, replica: ReplicaIndex, page: u32, version: u64) {
        self.settled.remove(replica);
        let copy = &mut self.copies[replica.index()][page as usize];
        assert!(copy.writing);
        assert!(version <= copy.version);
        copy.writing = false;
        copy.durable = version;
    }

    /// The words of a page: what is dirty, and what else the replica lacks or may lose.
    pub(super) fn page_words(&self, page: u32, more: [&Bitmap; 3]) -> Vec<u64> {
        let start = page as usize * PAGE_WORDS;
        let [a, b, c] = more;
        let all = [&self.dirty, a, b, c].map(Bitmap::words);
        let end = all[0].len().min(start + PAGE_WORDS);
        (start..end).map(|word| all.iter().fold(0, |bits, words| bits | words[word])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaIndex = ReplicaIndex(0);
    const B: ReplicaIndex = ReplicaIndex(1);

    #[test]
    fn a_write_waits_until_every_replica_holds_its_bit() {
        let mut intent = Intent::new(2, 10);
        let both = Members::first(2);
        assert!(intent.covers(3..4, both));
        intent.mark(3..4);
        assert!(!intent.covers(3..4, both));
        let (page, version) = intent.start_write(A).unwrap();
        assert!(intent.start_write(A).is_none());
        // Another bit while the page is on its way: one more version.
        intent.mark(5..6);
        intent.finish_write(A, page, version);
        assert!(!intent.covers(3..4, Members::one(A)));
        let (page, version) = intent.start_write(A).unwrap();
        intent.finish_write(A, page, version);
        assert!(intent.covers(3..6, Members::one(A)));
        assert!(!intent.covers(3..4, both) && !intent.is_complete(B));
    }

    #[test]
    fn clearing_a_bit_holds_nobody_up() {
        let mut intent = Intent::new(1, 10);
        intent.mark(1..2);
        let (page, version) = intent.start_write(A).unwrap();
        intent.finish_write(A, page, version);
        intent.clear(1);
        assert!(intent.covers(0..10, Members::one(A)) && intent.is_complete(A));
        let (page, version) = intent.start_write(A).unwrap();
        let none = Bitmap::new(10);
        assert_eq!(intent.page_words(page, [&none, &none, &none]), [0]);
        intent.finish_write(A, page, version);
        assert!(intent.start_write(A).is_none());
    }
}
