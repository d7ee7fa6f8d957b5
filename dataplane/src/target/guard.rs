//! Ranges of a namespace that one command has to itself: what makes Compare and Write atomic against every other
//! writer of the namespace, on any reactor.
//!
//! The protocol: the owner claims its range, then waits until every I/O that was in flight on any reactor is finished
//! (a barrier), works, and releases. Writers look at one atomic counter before they submit; only while something is
//! claimed do they take the lock and look closer. A writer that read zero has submitted before its reactor can answer
//! the barrier, so the owner waits for it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use nvme::Lba;

use super::shared::locked;

/// Claimed ranges of one namespace.
#[derive(Default)]
pub(super) struct RangeGuard {
    claims: AtomicU32,
    ranges: Mutex<Ranges>,
}

#[derive(Default)]
struct Ranges {
    list: Vec<Range>,
    next: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    id: u64,
}

/// A claimed range; give it back with [`RangeGuard::release`].
#[derive(Debug)]
#[must_use = "a claim that is not released blocks its range for ever"]
pub(super) struct Claim(u64);

impl RangeGuard {
    /// Whether a write may go ahead; cheap while nothing is claimed.
    #[inline]
    pub(super) fn admits(&self, lba: Lba, blocks: u64) -> bool {
        self.claims.load(Ordering::SeqCst) == 0 || !self.overlaps(lba, blocks)
    }

    #[cold]
    fn overlaps(&self, lba: Lba, blocks: u64) -> bool {
        locked(&self.ranges).overlap(lba.get(), lba.get().saturating_add(blocks))
    }

    /// Claims a range, unless somebody has a part of it.
    pub(super) fn claim(&self, lba: Lba, blocks: u64) -> Option<Claim> {
        let mut ranges = locked(&self.ranges);
        let (start, end) = (lba.get(), lba.get().saturating_add(blocks));
        if ranges.overlap(start, end) {
            return None;
        }
        let id = ranges.next;
        ranges.next += 1;
        ranges.list.push(Range { start, end, id });
        self.claims.fetch_add(1, Ordering::SeqCst);
        Some(Claim(id))
    }

    /// Gives a range back.
    pub(super) fn release(&self, claim: Claim) {
        let mut ranges = locked(&self.ranges);
        let before = ranges.list.len();
        ranges.list.retain(|range| range.id != claim.0);
        assert!(ranges.list.len() + 1 == before);
        self.claims.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ranges {
    fn overlap(&self, start: u64, end: u64) -> bool {
        self.list.iter().any(|range| range.start < end && start < range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_range_refuses_what_overlaps_it_until_released() {
        let guard = RangeGuard::default();
        assert!(guard.admits(Lba(0), u64::MAX));
        let claim = guard.claim(Lba(10), 5).unwrap();
        for (lba, blocks, admitted) in [(0, 10, true), (0, 11, false), (14, 1, false), (15, 9, true)] {
            assert_eq!(guard.admits(Lba(lba), blocks), admitted, "{lba}+{blocks}");
        }
        assert!(guard.claim(Lba(14), 2).is_none());
        let other = guard.claim(Lba(15), 2).unwrap();
        guard.release(claim);
        assert!(guard.admits(Lba(10), 5));
        assert!(!guard.admits(Lba(16), 1));
        guard.release(other);
        assert!(guard.admits(Lba(0), u64::MAX));
    }
}
