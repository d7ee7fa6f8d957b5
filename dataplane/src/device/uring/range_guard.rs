//! Orders overlapping writes of all queues of a device whose blocks are smaller than what its backing can write.
//!
//! A write of part of a backing block reads the whole block, changes it, and writes it back. Another write into that
//! block in between would be lost. So each write enters its range here, first come, first served, and starts when no
//! earlier entry that overlaps it is left of which one of the two rewrites whole blocks. Reads do not enter.
//!
//! Only such devices (512-byte blocks over 4 KiB sectors) pay for this lock.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a write does to the backing blocks at its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Writes whole backing blocks only.
    Whole,
    /// Reads, changes and writes back.
    Rewrite,
}

/// A place in line. Not Copy: given back by value, once.
#[derive(Debug)]
pub struct Ticket(u64);

struct Entry {
    ticket: u64,
    range: Range<u64>,
    access: Access,
}

impl Entry {
    fn conflicts(&self, other: &Self) -> bool {
        let overlap = self.range.start < other.range.end && other.range.start < self.range.end;
        overlap && (self.access == Access::Rewrite || other.access == Access::Rewrite)
    }
}

#[derive(Default)]
struct Line {
    entries: VecDeque<Entry>,
    next: u64,
}

/// The line of writes. Bounded by the slots of all queues.
#[derive(Default)]
pub struct RangeGuard(Mutex<Line>);

impl RangeGuard {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets in line for a range of bytes, widened to whole backing blocks by the caller.
    pub fn enter(&self, range: Range<u64>, access: Access) -> Ticket {
        let mut line = self.line();
        let ticket = line.next;
        line.next += 1;
        line.entries.push_back(Entry { ticket, range, access });
        Ticket(ticket)
    }

    /// Whether no conflicting entry is ahead.
    pub fn may_start(&self, ticket: &Ticket) -> bool {
        let line = self.line();
        let Ok(own) = line.entries.binary_search_by_key(&ticket.0, |entry| entry.ticket) else {
            return false;
        };
        line.entries.range(..own).all(|earlier| !earlier.conflicts(&line.entries[own]))
    }

    /// Gets out of line.
    pub fn leave(&self, ticket: Ticket) {
        let mut line = self.line();
        let own = line.entries.binary_search_by_key(&ticket.0, |entry| entry.ticket);
        debug_assert!(own.is_ok(), "a ticket is in line until it leaves");
        if let Ok(own) = own {
            line.entries.remove(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewrite_waits_for_overlapping_writes_before_it_and_holds_up_those_after() {
        let guard = RangeGuard::default();
        let first = guard.enter(0..8192, Access::Whole);
        let rewrite = guard.enter(4096..8192, Access::Rewrite);
        let last = guard.enter(4096..12288, Access::Whole);
        let elsewhere = guard.enter(8192..12288, Access::Rewrite);
        assert!(guard.may_start(&first));
        assert!(!guard.may_start(&rewrite));
        assert!(!guard.may_start(&last));
        assert!(!guard.may_start(&elsewhere));
        guard.leave(first);
        assert!(guard.may_start(&rewrite));
        assert!(!guard.may_start(&last));
        guard.leave(rewrite);
        assert!(guard.may_start(&last));
        guard.leave(last);
        assert!(guard.may_start(&elsewhere));
        guard.leave(elsewhere);
    }

    #[test]
    fn whole_writes_do_not_wait_for_each_other() {
        let guard = RangeGuard::default();
        let first = guard.enter(0..4096, Access::Whole);
        let second = guard.enter(0..4096, Access::Whole);
        assert!(guard.may_start(&second));
        guard.leave(first);
        guard.leave(second);
    }
}
