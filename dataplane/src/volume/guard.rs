//! Which blocks are in use: reads share them, everything else has them alone.
//!
//! Invariants: no two holders overlap unless both share; who waits is served in the order of asking, so nobody starves.

use std::collections::VecDeque;
use std::ops::Range;

/// Who holds blocks or waits for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A command, by its slot.
    Command(u32),
    /// A copy, by its place.
    Copy(u8),
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    start: u64,
    end: u64,
    alone: bool,
    owner: Owner,
}

impl Hold {
    #[inline]
    fn conflicts(&self, other: &Self) -> bool {
        (self.alone || other.alone) && self.start < other.end && other.start < self.end
    }
}

/// The blocks in use of one volume.
#[derive(Default)]
pub(super) struct Guard {
    held: Vec<Hold>,
    waiting: VecDeque<Hold>,
}

impl Guard {
    /// Asks for blocks: `true` when they are held at once, else their turn comes out of [`Guard::release`].
    pub(super) fn acquire(&mut self, owner: Owner, blocks: Range<u64>, alone: bool) -> bool {
        let hold = Hold { start: blocks.start, end: blocks.end, alone, owner };
        let free = self.is_free(&hold);
        if free {
            self.held.push(hold);
        } else {
            self.waiting.push_back(hold);
        }
        free
    }

    #[inline]
    fn is_free(&self, wanted: &Hold) -> bool {
        !self.held.iter().chain(&self.waiting).any(|other| other.conflicts(wanted))
    }

    /// Whether a read would get these blocks at once.
    #[inline]
    pub(super) fn may_share(&self, blocks: Range<u64>) -> bool {
        // Whoever asks is nobody: nothing is kept.
        self.is_free(&Hold {
            start: blocks.start,
            end: blocks.end,
            alone: false,
            owner: Owner::Command(u32::MAX),
        })
    }

    /// Gives blocks back, or stops waiting for them; those whose turn it is now are added to `next`.
    pub(super) fn release(&mut self, owner: Owner, next: &mut Vec<Owner>) {
        match self.held.iter().position(|hold| hold.owner == owner) {
            Some(at) => drop(self.held.swap_remove(at)),
            None => self.waiting.retain(|hold| hold.owner != owner),
        }
        let mut at = 0;
        while at < self.waiting.len() {
            let hold = self.waiting[at];
            let earlier = self.waiting.iter().take(at);
            if self.held.iter().chain(earlier).any(|other| other.conflicts(&hold)) {
                at += 1;
                continue;
            }
            self.waiting.remove(at);
            self.held.push(hold);
            next.push(hold.owner);
        }
    }

    /// Whether nothing is held.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(guard: &mut Guard, slot: u32) -> Vec<Owner> {
        let mut next = Vec::new();
        guard.release(Owner::Command(slot), &mut next);
        next
    }

    #[test]
    fn readers_share_and_writers_wait_for_them() {
        let mut guard = Guard::default();
        assert!(guard.acquire(Owner::Command(1), 0..8, false));
        assert!(guard.acquire(Owner::Command(2), 4..12, false));
        assert!(!guard.acquire(Owner::Command(3), 6..7, true));
        assert!(guard.acquire(Owner::Command(4), 12..13, true));
        assert_eq!(released(&mut guard, 1), []);
        assert_eq!(released(&mut guard, 2), [Owner::Command(3)]);
    }

    #[test]
    fn blocks_may_be_shared_unless_somebody_has_them_alone_or_waits_for_that() {
        let mut guard = Guard::default();
        assert!(guard.acquire(Owner::Command(1), 0..8, false));
        assert!(guard.may_share(0..8));
        assert!(!guard.acquire(Owner::Command(2), 4..6, true));
        assert!(guard.may_share(0..4) && !guard.may_share(0..5));
        assert_eq!(released(&mut guard, 1), [Owner::Command(2)]);
        assert!(guard.may_share(6..9) && !guard.may_share(5..9));
        assert_eq!(released(&mut guard, 2), []);
        assert!(guard.is_idle());
    }

    #[test]
    fn who_waits_is_not_overtaken_by_who_overlaps() {
        let mut guard = Guard::default();
        assert!(guard.acquire(Owner::Command(1), 0..8, true));
        assert!(!guard.acquire(Owner::Command(2), 4..12, true));
        assert!(!guard.acquire(Owner::Copy(0), 10..20, true));
        assert!(guard.acquire(Owner::Command(4), 20..30, false));
        assert_eq!(released(&mut guard, 1), [Owner::Command(2)]);
        assert_eq!(released(&mut guard, 2), [Owner::Copy(0)]);
        let mut next = Vec::new();
        guard.release(Owner::Copy(0), &mut next);
        assert_eq!(released(&mut guard, 4), []);
        assert!(next.is_empty() && guard.is_idle());
    }
}
