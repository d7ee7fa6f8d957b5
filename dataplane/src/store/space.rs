//! Which blocks are free, and how often the others are referred to.
//!
//! A block that is not free to take although its count is zero is *held*: allocated for a write that is not in the map
//! yet, or freed by a record that is not durable yet, or part of what the last checkpoint refers to. Held is a matter of
//! memory only: on the device such a block is free, so a crash loses none.
//!
//! A page of counts that is damaged, or contradicts the map, is given up for good: its blocks count as shared, nothing is
//! taken from it, and what is freed in it stays taken. The summary says so, so it stays given up after the next opening.

use std::collections::VecDeque;

use super::cache::Stop;
use super::format::{COUNTS_PER_PAGE, CountsPage, Layout, SummaryEntry};
use super::{Block, Lsn};

const HELD: u16 = 1 << 15;
/// The count of a block of which nothing is known: it is never changed in place, and never free.
const UNKNOWN: u16 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trust {
    Sound,
    /// The device could not read it: as long as the store is open, what needs it fails.
    Unreadable,
    /// Given up.
    Damaged,
}

struct Page {
    /// Free and not held.
    available: u16,
    held: u16,
    flags: u16,
    trust: Trust,
    dirty: bool,
    counts: Option<Box<CountsPage>>,
}

impl Page {
    /// A page that was never written: all its counts are zero.
    fn unused(layout: &Layout, page: u32) -> Self {
        let available = u16::try_from(layout.blocks_in(page)).unwrap_or(u16::MAX);
        Self { available, held: 0, flags: 0, trust: Trust::Sound, dirty: false, counts: None }
    }

    /// What a checkpoint says of it. Held blocks are free on the device.
    fn entry(&self) -> SummaryEntry {
        SummaryEntry { free: (self.available + self.held).into(), flags: self.flags.into() }
    }
}

pub(crate) struct Space {
    layout: Layout,
    pages: Vec<Page>,
    /// What the last checkpoint said of each page, or the one being written says. Pages that are not dirty are as it says.
    summary: Vec<SummaryEntry>,
    /// Pages that are in memory, in the order in which they came.
    loaded: VecDeque<u32>,
    capacity: usize,
    available: u64,
    damaged: u32,
    /// Where the search for a free block goes on.
    cursor: (u32, usize),
    /// Freed by this record, oldest first: free once that is durable and no read from before is under way.
    released: VecDeque<(Lsn, Block)>,
    /// The last checkpoint refers to them: free after the next.
    replaced: Vec<Block>,
    /// The last checkpoint refers to them, the one being written does not.
    replacing: Vec<Block>,
}

impl Space {
    /// The space of a store in which nothing is allocated.
    pub(crate) fn empty(layout: Layout, capacity: usize) -> Self {
        let pages = (0..layout.counts_pages()).map(|page| Page::unused(&layout, page)).collect();
        Self::of_pages(layout, pages, capacity)
    }

    /// The space that a checkpoint describes.
    pub(crate) fn from_summary(
        layout: Layout,
        entries: impl Iterator<Item = SummaryEntry>,
        capacity: usize,
    ) -> Option<Self> {
        let pages: Option<Vec<_>> = (0..layout.counts_pages())
            .zip(entries)
            .map(|(page, entry)| {
                let (available, flags) = (entry.free.get(), entry.flags.get());
                let fits = usize::from(available) <= layout.blocks_in(page);
                let (trust, available) = if flags & SummaryEntry::DAMAGED == 0 {
                    (Trust::Sound, available)
                } else {
                    (Trust::Damaged, 0)
                };
                fits.then_some(Page { available, held: 0, flags, trust, dirty: false, counts: None })
            })
            .collect();
        Some(Self::of_pages(layout, pages?, capacity))
    }

    fn of_pages(layout: Layout, pages: Vec<Page>, capacity: usize) -> Self {
        let summary = pages.iter().map(Page::entry).collect();
        let available = pages.iter().map(|page| u64::from(page.available)).sum();
        let damaged = pages.iter().filter(|page| page.trust == Trust::Damaged).count();
        Self {
            layout,
            pages,
            summary,
            loaded: VecDeque::new(),
            capacity,
            available,
            damaged: u32::try_from(damaged).unwrap_or(u32::MAX),
            cursor: (0, 0),
            released: VecDeque::new(),
            replaced: Vec::new(),
            replacing: Vec::new(),
        }
    }

    /// The store has more blocks now; they are free.
    pub(crate) fn grow(&mut self, layout: Layout) {
        let added = self.layout.counts_pages()..layout.counts_pages();
        self.pages.extend(added.map(|page| Page::unused(&layout, page)));
        let added = &self.pages[self.summary.len()..];
        self.summary.extend(added.iter().map(Page::entry));
        self.available += layout.data_blocks() - self.layout.data_blocks();
        self.layout = layout;
    }

    /// Blocks that can be taken now.
    pub(crate) fn available(&self) -> u64 {
        self.available
    }

    /// Blocks that will be free once the log is committed.
    pub(crate) fn released(&self) -> usize {
        self.released.len()
    }

    /// Blocks that will be free after the next checkpoint, or the one after it.
    pub(crate) fn replaced(&self) -> usize {
        self.replaced.len() + self.replacing.len()
    }

    /// Pages that are given up.
    pub(crate) fn damaged(&self) -> u32 {
        self.damaged
    }

    /// Whether more pages are in memory than there is room for, several times over: time for a checkpoint.
    pub(crate) fn is_crowded(&self) -> bool {
        self.loaded.len() > 4 * self.capacity + 64
    }

    /// Where the current version of a page of counts lies.
    pub(crate) fn page_block(&self, page: u32) -> Block {
        self.layout.counts(page, self.pages[page as usize].flags & SummaryEntry::SIDE != 0)
    }

    /// A page was read.
    pub(crate) fn insert(&mut self, page: u32, counts: Box<CountsPage>) {
        let free = counts.0[..self.layout.blocks_in(page)].iter().filter(|count| **count == 0).count();
        let entry = &mut self.pages[page as usize];
        if entry.trust != Trust::Sound || entry.counts.is_some() {
            return;
        }
        if free == usize::from(entry.available) {
            entry.counts = Some(counts);
            self.loaded.push_back(page);
        } else {
            self.give_up(page);
        }
    }

    /// The device could not read a page. It may be able to when the store is opened again.
    pub(crate) fn insert_unreadable(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        if entry.trust == Trust::Sound {
            entry.trust = Trust::Unreadable;
            self.available -= u64::from(entry.available);
        }
    }

    /// A page is damaged, or makes no sense.
    pub(crate) fn give_up(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        if entry.trust == Trust::Sound {
            self.available -= u64::from(entry.available);
        }
        if entry.trust != Trust::Damaged {
            self.damaged += 1;
        }
        entry.trust = Trust::Damaged;
        entry.flags |= SummaryEntry::DAMAGED;
        (entry.available, entry.held, entry.dirty, entry.counts) = (0, 0, false, None);
        self.summary[page as usize] = entry.entry();
        self.loaded.retain(|other| *other != page);
    }

    fn locate(&self, block: Block) -> (u32, usize) {
        self.layout.locate(block).expect("targets lie in the store")
    }

    /// Makes the count of a block known, or says what is to be read.
    pub(crate) fn need(&mut self, block: Block) -> Result<(), Stop> {
        if !self.layout.is_data(block) {
            return Err(Stop::Damaged);
        }
        self.need_page(self.locate(block).0)
    }

    fn need_page(&mut self, page: u32) -> Result<(), Stop> {
        let entry = &self.pages[page as usize];
        match entry.trust {
            Trust::Damaged => Ok(()),
            Trust::Unreadable => Err(Stop::Damaged),
            Trust::Sound if entry.counts.is_some() => Ok(()),
            Trust::Sound if entry.flags & SummaryEntry::WRITTEN != 0 => Err(Stop::Counts { page }),
            Trust::Sound => {
                self.insert(page, Box::new(CountsPage([0; COUNTS_PER_PAGE])));
                Ok(())
            }
        }
    }

    /// The count of a block whose page is known and sound.
    fn raw(&mut self, block: Block) -> Option<(&mut u16, &mut u16, &mut bool)> {
        let (page, index) = self.locate(block);
        let entry = &mut self.pages[page as usize];
        let counts = entry.counts.as_mut()?;
        Some((&mut counts.0[index], &mut entry.held, &mut entry.dirty))
    }

    /// What a page says contradicts what is done to it.
    pub(crate) fn distrust(&mut self, block: Block) {
        let (page, _) = self.locate(block);
        self.give_up(page);
    }

    /// How often a block is referred to; [`Self::need`] was asked.
    pub(crate) fn count(&self, block: Block) -> u16 {
        let (page, index) = self.locate(block);
        self.pages[page as usize].counts.as_ref().map_or(UNKNOWN, |counts| counts.0[index] & !HELD)
    }

    /// Whether it is known how often a block is referred to.
    pub(crate) fn is_known(&self, block: Block) -> bool {
        self.pages[self.locate(block).0 as usize].counts.is_some()
    }

    /// One reference more to a block that has some.
    pub(crate) fn inc(&mut self, block: Block) {
        let Some((count, _, dirty)) = self.raw(block) else { return };
        if *count == 0 || *count >= HELD - 1 {
            return self.distrust(block);
        }
        *count += 1;
        *dirty = true;
    }

    /// One reference less, by the record `lsn`. Whether it was the last.
    pub(crate) fn dec(&mut self, block: Block, lsn: Lsn) -> bool {
        let Some((count, held, dirty)) = self.raw(block) else { return false };
        if *count == 0 || *count >= HELD {
            self.distrust(block);
            return false;
        }
        *count -= 1;
        *dirty = true;
        if *count > 0 {
            return false;
        }
        *count = HELD;
        *held += 1;
        self.released.push_back((lsn, block));
        true
    }

    /// The only reference goes; what the last checkpoint says needs the block until the next.
    pub(crate) fn replace(&mut self, block: Block) {
        let Some((count, held, dirty)) = self.raw(block) else { return };
        if *count != 1 {
            return self.distrust(block);
        }
        *count = HELD;
        *dirty = true;
        *held += 1;
        self.replaced.push(block);
    }

    /// Takes a free block, held until [`Self::refer`] or [`Self::unhold`].
    pub(crate) fn hold(&mut self) -> Result<Block, Stop> {
        let pages = self.layout.counts_pages();
        let mut left = if self.available == 0 { 0 } else { pages + 1 };
        while left > 0 {
            let (page, from) = self.cursor;
            if self.has_available(page)? {
                let counts = self.pages[page as usize].counts.as_ref().map_or(&[][..], |counts| &counts.0);
                let counts = &counts[..self.layout.blocks_in(page).min(counts.len())];
                let found = counts.iter().skip(from).position(|count| *count == 0);
                if let Some(found) = found {
                    let index = from + found;
                    self.cursor.1 = index + 1;
                    let block = Block(self.layout.first_in(page).0 + index as u64);
                    self.hold_at(block);
                    return Ok(block);
                }
            }
            self.cursor = ((page + 1) % pages, 0);
            left -= 1;
        }
        Err(match (self.released.is_empty(), self.replaced() == 0) {
            (false, _) => Stop::Commit,
            (true, false) => Stop::Checkpoint,
            (true, true) => Stop::Full,
        })
    }

    /// The block that [`Self::hold`] gives next, if that is to be known without reading a page.
    pub(crate) fn next_free(&mut self) -> Option<Block> {
        let (page, from) = self.cursor;
        let counts = self.pages[page as usize].counts.as_ref()?.0.get(from..self.layout.blocks_in(page))?;
        let index = from + counts.iter().position(|count| *count == 0)?;
        self.cursor.1 = index;
        Some(Block(self.layout.first_in(page).0 + index as u64))
    }

    /// Whether a page, known now, has blocks to take.
    fn has_available(&mut self, page: u32) -> Result<bool, Stop> {
        let entry = &self.pages[page as usize];
        if entry.available == 0 || entry.trust != Trust::Sound {
            return Ok(false);
        }
        self.need_page(page).map(|()| true)
    }

    /// Holds a block whose count is zero.
    fn hold_at(&mut self, block: Block) {
        let (page, index) = self.locate(block);
        let entry = &mut self.pages[page as usize];
        let Some(counts) = entry.counts.as_mut() else { return };
        if counts.0[index] != 0 || entry.available == 0 {
            return self.give_up(page);
        }
        counts.0[index] = HELD;
        entry.held += 1;
        entry.available -= 1;
        self.available -= 1;
    }

    /// A held block that nothing refers to is free.
    pub(crate) fn unhold(&mut self, block: Block) {
        let (page, index) = self.locate(block);
        let entry = &mut self.pages[page as usize];
        let Some(counts) = entry.counts.as_mut() else { return };
        if counts.0[index] != HELD {
            return self.give_up(page);
        }
        counts.0[index] = 0;
        entry.held -= 1;
        entry.available += 1;
        self.available += 1;
    }

    /// Whether [`Self::refer`] may be told of it: free or held, or in a page that is given up.
    pub(crate) fn is_unreferred(&self, block: Block) -> bool {
        self.count(block) == 0 || !self.is_known(block)
    }

    /// A free or held block is referred to, this many times. If a page of the map was lost, what it referred to still has
    /// its count: that is replaced.
    pub(crate) fn refer(&mut self, block: Block, times: u16) {
        if self.raw(block).is_some_and(|(count, ..)| *count == 0) {
            self.hold_at(block);
        }
        let Some((count, held, dirty)) = self.raw(block) else { return };
        *held -= u16::from(*count == HELD);
        *count = times;
        *dirty = true;
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

    /// A checkpoint begins: what was replaced until now it does not refer to.
    pub(crate) fn begin_checkpoint(&mut self) {
        assert!(self.replacing.is_empty(), "one checkpoint at a time");
        std::mem::swap(&mut self.replacing, &mut self.replaced);
    }

    /// The checkpoint counts: frees what only the one before referred to.
    pub(crate) fn end_checkpoint(&mut self) {
        let mut replacing = std::mem::take(&mut self.replacing);
        replacing.drain(..).for_each(|block| self.unhold(block));
        self.replacing = replacing;
    }

    /// Changed pages as they are to be written, each to the other one of its two blocks, which becomes the current one.
    pub(crate) fn write_dirty(
        &mut self,
        checkpoint: u64,
        mut write: impl FnMut(Block, Box<super::format::Bytes>),
    ) {
        let mut dirty: Vec<u32> =
            self.loaded.iter().copied().filter(|page| self.pages[*page as usize].dirty).collect();
        dirty.sort_unstable();
        for number in dirty {
            let page = &mut self.pages[number as usize];
            let Some(counts) = &page.counts else { continue };
            page.dirty = false;
            page.flags = (page.flags | SummaryEntry::WRITTEN) ^ SummaryEntry::SIDE;
            let image = CountsPage(counts.0.map(|count| count & !HELD));
            self.summary[number as usize] = page.entry();
            write(self.page_block(number), image.encode(number, checkpoint));
        }
    }

    /// What a checkpoint says of each page, once changed pages were written.
    pub(crate) fn summary(&self) -> &[SummaryEntry] {
        &self.summary
    }

    /// Lets pages go that are as on the device and hold nothing, beyond the capacity and so many more: the oldest first.
    pub(crate) fn trim(&mut self, more: usize) {
        let mut left = self.loaded.len();
        while self.loaded.len() > self.capacity + more && left > 0 {
            left -= 1;
            let Some(number) = self.loaded.pop_front() else { return };
            let page = &mut self.pages[number as usize];
            let written = page.flags & SummaryEntry::WRITTEN != 0;
            if page.dirty || page.held > 0 || number == self.cursor.0 || !written {
                self.loaded.push_back(number);
            } else {
                page.counts = None;
            }
        }
    }
}
