//! Which blocks are free, and how often the others are referred to.
//!
//! A block that is not free to take although its count is zero is *held*: allocated for a write that is not in the map
//! yet, or freed by a record that is not durable yet, or part of what the last checkpoint refers to. Held is a matter of
//! memory only: on the device such a block is free, so a crash loses none.

use std::collections::{HashMap, VecDeque};

use super::cache::Stop;
use super::format::{COUNTS_PER_PAGE, CountsPage, Layout, SummaryEntry};
use super::{Block, Lsn};

const HELD: u16 = 1 << 15;

#[derive(Clone, Copy)]
struct Summary {
    /// Free and not held.
    available: u16,
    held: u16,
    flags: u16,
}

struct Loaded {
    counts: Box<CountsPage>,
    dirty: bool,
}

pub(crate) struct Space {
    layout: Layout,
    summary: Vec<Summary>,
    loaded: HashMap<u32, Loaded>,
    damaged: Vec<u32>,
    capacity: usize,
    available: u64,
    /// Where the search for a free block goes on.
    cursor: (u32, usize),
    /// Freed by this record, oldest first: free once that is durable and no read from before is under way.
    released: VecDeque<(Lsn, Block)>,
    /// The last checkpoint refers to them: free after the next.
    replaced: Vec<Block>,
}

impl Space {
    /// The space of a store in which nothing is allocated.
    pub(crate) fn empty(layout: Layout, capacity: usize) -> Self {
        let entries = (0..layout.counts_pages()).map(|page| SummaryEntry {
            free: u16::try_from(blocks_in(&layout, page)).unwrap_or(u16::MAX).into(),
            flags: 0.into(),
        });
        Self::from_summary(layout, entries, capacity).expect("an empty store's summary is valid")
    }

    /// The space that a checkpoint describes.
    pub(crate) fn from_summary(
        layout: Layout,
        entries: impl Iterator<Item = SummaryEntry>,
        capacity: usize,
    ) -> Option<Self> {
        let summary: Option<Vec<_>> = (0..layout.counts_pages())
            .zip(entries)
            .map(|(page, entry)| {
                let available = entry.free.get();
                let fits = usize::from(available) <= blocks_in(&layout, page);
                fits.then_some(Summary { available, held: 0, flags: entry.flags.get() })
            })
            .collect();
        let summary = summary?;
        let available = summary.iter().map(|page| u64::from(page.available)).sum();
        Some(Self {
            layout,
            summary,
            loaded: HashMap::new(),
            damaged: Vec::new(),
            capacity,
            available,
            cursor: (0, 0),
            released: VecDeque::new(),
            replaced: Vec::new(),
        })
    }

    /// Blocks that can be taken now.
    pub(crate) fn available(&self) -> u64 {
        self.available
    }

    /// Blocks that will be free once the log is committed.
    pub(crate) fn released(&self) -> usize {
        self.released.len()
    }

    /// Blocks that will be free after the next checkpoint.
    pub(crate) fn replaced(&self) -> usize {
        self.replaced.len()
    }

    /// Where the current version of a page of counts lies.
    pub(crate) fn page_block(&self, page: u32) -> Block {
        self.layout.counts(page, self.summary[page as usize].flags & SummaryEntry::SIDE != 0)
    }

    pub(crate) fn insert(&mut self, page: u32, counts: Box<CountsPage>) {
        let free = counts.0[..blocks_in(&self.layout, page)].iter().filter(|count| **count == 0).count();
        if free == usize::from(self.summary[page as usize].available) {
            self.loaded.insert(page, Loaded { counts, dirty: false });
        } else {
            self.insert_damaged(page);
        }
    }

    /// A page that cannot be read: until the store is opened again nothing is taken from it, and nothing in it freed.
    pub(crate) fn insert_damaged(&mut self, page: u32) {
        if !self.damaged.contains(&page) {
            self.available -= u64::from(self.summary[page as usize].available);
            self.damaged.push(page);
        }
    }

    fn locate(&self, block: Block) -> (u32, usize) {
        let index = block.0 - self.layout.data_start().0;
        let per_page = COUNTS_PER_PAGE as u64;
        let page = u32::try_from(index / per_page).expect("targets lie in the store");
        (page, usize::try_from(index % per_page).expect("smaller than a page"))
    }

    /// Makes the count of a block known, or says what is to be read.
    pub(crate) fn need(&mut self, block: Block) -> Result<(), Stop> {
        if !self.layout.is_data(block) {
            return Err(Stop::Damaged);
        }
        self.need_page(self.locate(block).0)
    }

    fn need_page(&mut self, page: u32) -> Result<(), Stop> {
        if self.loaded.contains_key(&page) {
            return Ok(());
        }
        if self.damaged.contains(&page) {
            return Err(Stop::Damaged);
        }
        if self.summary[page as usize].flags & SummaryEntry::WRITTEN != 0 {
            return Err(Stop::Counts { page });
        }
        self.insert(page, Box::new(CountsPage([0; COUNTS_PER_PAGE])));
        if self.loaded.contains_key(&page) { Ok(()) } else { Err(Stop::Damaged) }
    }

    fn raw(&mut self, block: Block) -> (&mut u16, &mut Summary, &mut bool) {
        let (page, index) = self.locate(block);
        let loaded = self.loaded.get_mut(&page).expect("need() was asked");
        (&mut loaded.counts.0[index], &mut self.summary[page as usize], &mut loaded.dirty)
    }

    /// How often a block is referred to; [`Self::need`] was asked.
    pub(crate) fn count(&self, block: Block) -> u16 {
        let (page, index) = self.locate(block);
        self.loaded[&page].counts.0[index] & !HELD
    }

    /// One reference more to a block that has some.
    pub(crate) fn inc(&mut self, block: Block) {
        let (count, _, dirty) = self.raw(block);
        assert!(*count > 0 && *count < HELD - 1, "{block:?}: count {count}");
        *count += 1;
        *dirty = true;
    }

    /// One reference less, by the record `lsn`.
    pub(crate) fn dec(&mut self, block: Block, lsn: Lsn) {
        let (count, summary, dirty) = self.raw(block);
        assert!(*count > 0 && *count < HELD, "{block:?}: count {count}");
        *count -= 1;
        *dirty = true;
        if *count == 0 {
            *count = HELD;
            summary.held += 1;
            self.released.push_back((lsn, block));
        }
    }

    /// The only reference goes; what the last checkpoint says needs the block until the next.
    pub(crate) fn replace(&mut self, block: Block) {
        let (count, summary, dirty) = self.raw(block);
        assert!(*count == 1, "{block:?}: count {count}");
        *count = HELD;
        *dirty = true;
        summary.held += 1;
        self.replaced.push(block);
    }

    /// Takes a free block, held until [`Self::refer`] or [`Self::unhold`].
    pub(crate) fn hold(&mut self) -> Result<Block, Stop> {
        let pages = self.layout.counts_pages();
        let mut left = if self.available == 0 { 0 } else { pages + 1 };
        while left > 0 {
            let (page, from) = self.cursor;
            if self.has_available(page)? {
                let counts = &self.loaded[&page].counts.0[..blocks_in(&self.layout, page)];
                if let Some(found) = counts[from..].iter().position(|count| *count == 0) {
                    let index = from + found;
                    self.cursor.1 = index + 1;
                    let block = Block(
                        self.layout.data_start().0 + u64::from(page) * COUNTS_PER_PAGE as u64 + index as u64,
                    );
                    self.hold_at(block);
                    return Ok(block);
                }
            }
            self.cursor = ((page + 1) % pages, 0);
            left -= 1;
        }
        Err(match (self.released.is_empty(), self.replaced.is_empty()) {
            (false, _) => Stop::Commit,
            (true, false) => Stop::Checkpoint,
            (true, true) => Stop::Full,
        })
    }

    /// Whether a page, known now, has blocks to take.
    fn has_available(&mut self, page: u32) -> Result<bool, Stop> {
        if self.summary[page as usize].available == 0 {
            return Ok(false);
        }
        match self.need_page(page) {
            Ok(()) => Ok(true),
            Err(Stop::Damaged) => Ok(false),
            Err(stop) => Err(stop),
        }
    }

    fn hold_at(&mut self, block: Block) {
        let (count, summary, _) = self.raw(block);
        assert!(*count == 0, "{block:?}: count {count}");
        *count = HELD;
        summary.held += 1;
        summary.available -= 1;
        self.available -= 1;
    }

    /// A held block that nothing refers to is free.
    pub(crate) fn unhold(&mut self, block: Block) {
        let (count, summary, _) = self.raw(block);
        assert!(*count == HELD, "{block:?}: count {count}");
        *count = 0;
        summary.held -= 1;
        summary.available += 1;
        self.available += 1;
    }

    /// Whether [`Self::refer`] may be told of it: free or held, and known.
    pub(crate) fn is_unreferred(&self, block: Block) -> bool {
        self.count(block) == 0
    }

    /// A free or held block is referred to, this many times.
    pub(crate) fn refer(&mut self, block: Block, times: u16) {
        if *self.raw(block).0 == 0 {
            self.hold_at(block);
        }
        let (count, summary, dirty) = self.raw(block);
        assert!(*count == HELD, "{block:?}: count {count}");
        *count = times;
        *dirty = true;
        summary.held -= 1;
    }

    /// Frees what records up to `lsn` released; says whether there was any.
    pub(crate) fn free_released(&mut self, lsn: Lsn) -> bool {
        let before = self.released.len();
        while let Some((_, block)) = self.released.front().copied().filter(|(at, _)| *at <= lsn) {
            self.released.pop_front();
            self.unhold(block);
        }
        before != self.released.len()
    }

    /// Frees what the last checkpoint referred to.
    pub(crate) fn free_replaced(&mut self) {
        for block in std::mem::take(&mut self.replaced) {
            self.unhold(block);
        }
    }

    /// Changed pages as they are to be written, each to the other one of its two blocks, which becomes the current one.
    pub(crate) fn write_dirty(
        &mut self,
        checkpoint: u64,
        mut write: impl FnMut(Block, Box<super::format::Bytes>),
    ) {
        let mut dirty: Vec<u32> =
            self.loaded.iter().filter(|(_, page)| page.dirty).map(|(number, _)| *number).collect();
        dirty.sort_unstable();
        for number in dirty {
            let page = self.loaded.get_mut(&number).expect("just found");
            page.dirty = false;
            let flags = &mut self.summary[number as usize].flags;
            *flags = (*flags | SummaryEntry::WRITTEN) ^ SummaryEntry::SIDE;
            let image = CountsPage(page.counts.0.map(|count| count & !HELD));
            write(self.page_block(number), image.encode(number, checkpoint));
        }
    }

    /// What a checkpoint says of each page.
    pub(crate) fn summary(&self) -> impl Iterator<Item = SummaryEntry> + '_ {
        self.summary
            .iter()
            .map(|page| SummaryEntry { free: (page.available + page.held).into(), flags: page.flags.into() })
    }

    /// Lets pages go that are as on the device and hold nothing, beyond the capacity.
    pub(crate) fn trim(&mut self) {
        if self.loaded.len() <= self.capacity {
            return;
        }
        let (summary, cursor) = (&self.summary, self.cursor.0);
        let mut over = self.loaded.len() - self.capacity;
        self.loaded.retain(|number, page| {
            let written = summary[*number as usize].flags & SummaryEntry::WRITTEN != 0;
            let keep = over == 0
                || page.dirty
                || summary[*number as usize].held > 0
                || *number == cursor
                || !written;
            over -= usize::from(!keep);
            keep
        });
    }
}

/// Blocks that a page of counts speaks of: the last has fewer, or none.
fn blocks_in(layout: &Layout, page: u32) -> usize {
    let blocks = layout.data_end().0 - layout.data_start().0;
    let before = u64::from(page) * COUNTS_PER_PAGE as u64;
    usize::try_from(blocks.saturating_sub(before)).unwrap_or(usize::MAX).min(COUNTS_PER_PAGE)
}
