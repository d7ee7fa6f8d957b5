//! What every unit must hold: the book `--verify` checks reads against.
//!
//! Invariants: a unit has at most one write, or any number of reads, in flight, so that the generation a read must
//! return is known exactly; a unit whose write failed is unknown until it is written again.

/// What a unit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Not written by this run, or the last write failed.
    Unknown,
    /// The generation of the last acknowledged write.
    Known(u32),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    content: Content,
    readers: u16,
    writing: bool,
}

/// The expected generation of every unit of one queue's range.
pub(crate) struct Ledger {
    first: u64,
    entries: Vec<Entry>,
    next_generation: u32,
}

impl Ledger {
    /// Most units one queue keeps book of: 16 bytes each, 1 GiB in all.
    pub(crate) const UNITS_MAX: u64 = 1 << 26;

    /// A ledger for the units `first .. first + count`.
    pub(crate) fn new(first: u64, count: u64) -> Self {
        assert!(count <= Self::UNITS_MAX);
        let count = usize::try_from(count).expect("at most UNITS_MAX");
        let entry = Entry { content: Content::Unknown, readers: 0, writing: false };
        Self { first, entries: vec![entry; count], next_generation: 1 }
    }

    /// Whether a read of `unit` may start now.
    pub(crate) fn can_read(&self, unit: u64) -> bool {
        !self.entry(unit).writing
    }

    /// Whether a write of `unit` may start now.
    pub(crate) fn can_write(&self, unit: u64) -> bool {
        let entry = self.entry(unit);
        !entry.writing && entry.readers == 0
    }

    /// A read starts; gives the generation it must find, if that is known.
    pub(crate) fn begin_read(&mut self, unit: u64) -> Option<u32> {
        assert!(self.can_read(unit));
        let entry = self.entry_mut(unit);
        entry.readers += 1;
        match entry.content {
            Content::Known(generation) => Some(generation),
            Content::Unknown => None,
        }
    }

    /// A read ended.
    pub(crate) fn end_read(&mut self, unit: u64) {
        let entry = self.entry_mut(unit);
        assert!(entry.readers > 0);
        entry.readers -= 1;
    }

    /// A write starts; gives its generation.
    pub(crate) fn begin_write(&mut self, unit: u64) -> u32 {
        assert!(self.can_write(unit));
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        self.entry_mut(unit).writing = true;
        generation
    }

    /// A write was acknowledged.
    pub(crate) fn commit_write(&mut self, unit: u64, generation: u32) {
        self.settle(unit, Content::Known(generation));
    }

    /// A write failed: the unit may hold the old content, the new, or a mixture.
    pub(crate) fn fail_write(&mut self, unit: u64) {
        self.settle(unit, Content::Unknown);
    }

    /// Every unit whose content is known, with its generation, in address order.
    pub(crate) fn known(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.entries.iter().zip(self.first..).filter_map(|(entry, unit)| match entry.content {
            Content::Known(generation) => Some((unit, generation)),
            Content::Unknown => None,
        })
    }

    fn settle(&mut self, unit: u64, content: Content) {
        let entry = self.entry_mut(unit);
        assert!(entry.writing);
        entry.writing = false;
        entry.content = content;
    }

    fn entry(&self, unit: u64) -> &Entry {
        &self.entries[self.index(unit)]
    }

    fn entry_mut(&mut self, unit: u64) -> &mut Entry {
        let index = self.index(unit);
        &mut self.entries[index]
    }

    fn index(&self, unit: u64) -> usize {
        usize::try_from(unit - self.first).expect("units of the ledger's range")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_under_write_is_neither_read_nor_written_by_another() {
        let mut ledger = Ledger::new(5, 2);
        let generation = ledger.begin_write(5);
        assert!(!ledger.can_read(5));
        assert!(!ledger.can_write(5));
        assert!(ledger.can_write(6));
        ledger.commit_write(5, generation);
        assert_eq!(ledger.begin_read(5), Some(generation));
        assert!(ledger.can_read(5));
        assert!(!ledger.can_write(5));
        ledger.end_read(5);
        assert!(ledger.can_write(5));
    }

    #[test]
    fn a_failed_write_leaves_the_unit_unknown() {
        let mut ledger = Ledger::new(0, 1);
        let first = ledger.begin_write(0);
        ledger.commit_write(0, first);
        assert_eq!(ledger.known().collect::<Vec<_>>(), [(0, first)]);
        ledger.begin_write(0);
        ledger.fail_write(0);
        assert_eq!(ledger.begin_read(0), None);
        assert_eq!(ledger.known().count(), 0);
    }

    #[test]
    fn every_write_has_a_generation_of_its_own() {
        let mut ledger = Ledger::new(0, 2);
        let (a, b) = (ledger.begin_write(0), ledger.begin_write(1));
        assert_ne!(a, b);
    }
}
