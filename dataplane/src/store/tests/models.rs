//! Map, allocator and log against models that are too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use crate::store::cache::Target;
use crate::store::checkpoint;
use crate::store::commit::{Log, Next};
use crate::store::format::{
    Bytes, COUNTS_PER_PAGE, CheckpointHeader, CountsPage, FANOUT, Layout, MapEntry, MapPage, Record, Records,
    VolumeEntry,
};
use crate::store::space::Space;
use crate::store::state::{State, Volume};
use crate::store::tree::{Leaf, Root, Step, height_for};
use crate::store::{Block, Lsn, VolumeBlock, VolumeId};

/// Pages of counts that may stay in memory.
const CAPACITY: usize = 2;

fn layout() -> Layout {
    Layout::new(7_000, 8, 32).unwrap()
}

// The allocator

#[derive(Clone, Debug)]
enum Take {
    Hold,
    /// A held block is referred to so often.
    Refer(usize, u16),
    Unhold(usize),
    Inc(usize),
    Dec(usize),
    /// The only reference goes, and the last checkpoint needs the block.
    Replace(usize),
    /// What was freed up to now is durable.
    Durable,
    Checkpoint,
}

fn takes() -> impl Strategy<Value = Take> {
    let any = any::<usize>;
    prop_oneof![
        6 => Just(Take::Hold),
        4 => (any(), 1..4u16).prop_map(|(index, times)| Take::Refer(index, times)),
        1 => any().prop_map(Take::Unhold),
        2 => any().prop_map(Take::Inc),
        4 => any().prop_map(Take::Dec),
        2 => any().prop_map(Take::Replace),
        1 => Just(Take::Durable),
        1 => Just(Take::Checkpoint),
    ]
}

/// Blocks by what is known of them; every other one is free.
#[derive(Default)]
struct Taken {
    counts: BTreeMap<u64, u16>,
    held: BTreeSet<u64>,
    released: BTreeSet<u64>,
    replaced: BTreeSet<u64>,
}

impl Taken {
    fn all(&self) -> usize {
        self.counts.len() + self.held.len() + self.released.len() + self.replaced.len()
    }

    fn has(&self, block: u64) -> bool {
        let sets = [&self.held, &self.released, &self.replaced];
        self.counts.contains_key(&block) || sets.iter().any(|set| set.contains(&block))
    }
}

fn nth<'a>(mut blocks: impl ExactSizeIterator<Item = &'a u64>, index: usize) -> Option<u64> {
    let len = blocks.len().max(1);
    blocks.nth(index % len).copied()
}

/// What a checkpoint writes of the counts, read back.
fn reopened(space: &mut Space, media: &mut BTreeMap<u64, Box<Bytes>>) -> Space {
    space.write_dirty(1, |block, bytes| drop(media.insert(block.0, bytes)));
    let mut found = Space::from_summary(layout(), space.summary().iter().copied(), CAPACITY).unwrap();
    for page in 0..layout().counts_pages() {
        if let Some(bytes) = media.get(&found.page_block(page).0) {
            found.insert(page, Box::new(CountsPage::decode(bytes, page).unwrap()));
        }
    }
    found
}

fn take_one(space: &mut Space, model: &mut Taken, take: &Take, lsn: Lsn) -> Result<(), TestCaseError> {
    match take {
        Take::Hold => {
            let block = space.hold().unwrap().0;
            prop_assert!(layout().is_data(Block(block)));
            prop_assert!(!model.has(block), "{} is taken", block);
            model.held.insert(block);
        }
        Take::Refer(index, times) => {
            let Some(block) = nth(model.held.iter(), *index) else { return Ok(()) };
            space.refer(Block(block), *times);
            model.held.remove(&block);
            model.counts.insert(block, *times);
        }
        Take::Unhold(index) => {
            let Some(block) = nth(model.held.iter(), *index) else { return Ok(()) };
            space.unhold(Block(block));
            model.held.remove(&block);
        }
        Take::Inc(index) => {
            let Some(block) = nth(model.counts.keys(), *index) else { return Ok(()) };
            space.inc(Block(block));
            *model.counts.entry(block).or_default() += 1;
        }
        Take::Dec(index) => {
            let Some(block) = nth(model.counts.keys(), *index) else { return Ok(()) };
            space.dec(Block(block), lsn);
            let count = model.counts[&block] - 1;
            model.counts.insert(block, count);
            if count == 0 {
                model.counts.remove(&block);
                model.released.insert(block);
            }
        }
        Take::Replace(index) => {
            let single: BTreeSet<u64> =
                model.counts.iter().filter(|(_, count)| **count == 1).map(|(block, _)| *block).collect();
            let Some(block) = nth(single.iter(), *index) else { return Ok(()) };
            space.replace(Block(block));
            model.counts.remove(&block);
            model.replaced.insert(block);
        }
        Take::Durable => {
            prop_assert_eq!(space.free_released(lsn), !model.released.is_empty());
            model.released.clear();
        }
        Take::Checkpoint => {
            space.begin_checkpoint();
            space.end_checkpoint();
            model.replaced.clear();
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_allocator_gives_each_block_to_one_and_loses_none(
        all in prop::collection::vec(takes(), 1..400),
    ) {
        let mut space = Space::empty(layout(), CAPACITY);
        let (mut model, mut media) = (Taken::default(), BTreeMap::new());
        let total = layout().data_blocks();
        for (lsn, take) in (1..).zip(&all) {
            take_one(&mut space, &mut model, take, Lsn(lsn))?;
            prop_assert_eq!(space.available(), total - model.all() as u64);
            prop_assert_eq!((space.released(), space.replaced()), (model.released.len(), model.replaced.len()));
        }
        // On the device only what is referred to is taken: a crash loses none.
        let found = reopened(&mut space, &mut media);
        prop_assert_eq!(found.available(), total - model.counts.len() as u64);
        prop_assert_eq!(found.damaged(), 0);
        for (block, count) in &model.counts {
            prop_assert_eq!(found.count(Block(*block)), *count);
            prop_assert_eq!(space.count(Block(*block)), *count);
        }
    }

    #[test]
    fn a_store_of_several_pages_of_counts_can_be_taken_to_the_last_block(from in 0..3 * COUNTS_PER_PAGE) {
        let mut space = Space::empty(layout(), CAPACITY);
        let total = layout().data_blocks();
        let blocks: BTreeSet<u64> = (0..total).map(|_| space.hold().unwrap().0).collect();
        prop_assert_eq!(blocks.len() as u64, total);
        prop_assert!(space.hold().is_err());
        let one = *blocks.iter().nth(from % blocks.len()).unwrap();
        space.unhold(Block(one));
        prop_assert_eq!(space.hold(), Ok(Block(one)));
    }
}

// The map

/// A tree of three levels.
const BLOCKS: u64 = (FANOUT * FANOUT * 2) as u64;

#[derive(Clone, Debug)]
enum Change {
    Map {
        tree: usize,
        at: u64,
        blocks: usize,
    },
    Unmap {
        tree: usize,
        at: u64,
        blocks: usize,
    },
    Copy {
        tree: usize,
    },
    /// Everything from a leaf on is freed, step by step.
    Cut {
        tree: usize,
        keep: u64,
    },
    /// Changed pages get blocks.
    Checkpoint,
}

fn places() -> impl Strategy<Value = u64> {
    // Near the ends, near the bounds of leaves and of the pages above.
    (prop::sample::select(vec![0, 250, 65_530, 65_536, BLOCKS - 40]), 0..30u64)
        .prop_map(|(base, more)| base + more)
}

fn changes() -> impl Strategy<Value = Change> {
    let tree = any::<usize>;
    prop_oneof![
        6 => (tree(), places(), 1..20usize).prop_map(|(tree, at, blocks)| Change::Map { tree, at, blocks }),
        3 => (tree(), places(), 1..40usize).prop_map(|(tree, at, blocks)| Change::Unmap { tree, at, blocks }),
        1 => tree().prop_map(|tree| Change::Copy { tree }),
        1 => (tree(), places()).prop_map(|(tree, keep)| Change::Cut { tree, keep: keep / FANOUT as u64 }),
        1 => Just(Change::Checkpoint),
    ]
}

type Content = BTreeMap<u64, (u64, u32)>;

struct Trees {
    state: State,
    roots: Vec<Root>,
    contents: Vec<Content>,
    lsn: Lsn,
}

impl Trees {
    fn new() -> Self {
        let state = State::empty(Uuid::from_u128(1), layout(), 1_000, 100);
        let root = Root { target: Target::None, height: height_for(BLOCKS) };
        Self { state, roots: vec![root], contents: vec![Content::new()], lsn: Lsn(0) }
    }

    /// Blocks within one leaf.
    fn within_leaf(at: u64, blocks: usize) -> std::ops::Range<usize> {
        let first = Leaf::of(VolumeBlock(at)).1;
        first..(first + blocks).min(FANOUT)
    }

    fn change(&mut self, change: &Change) -> Result<(), TestCaseError> {
        self.lsn = self.lsn.next();
        let trees = self.roots.len();
        match *change {
            Change::Map { tree, at, blocks } => self.map(tree % trees, at, blocks),
            Change::Unmap { tree, at, blocks } => self.unmap(tree % trees, at, blocks)?,
            Change::Copy { tree } if trees < 6 => {
                self.state.meta.ready_root(self.roots[tree % trees]).unwrap();
                self.state.meta.share(self.roots[tree % trees]);
                self.roots.push(self.roots[tree % trees]);
                self.contents.push(self.contents[tree % trees].clone());
            }
            Change::Copy { .. } => {}
            Change::Cut { tree, keep } => self.cut(tree % trees, Leaf(keep))?,
            Change::Checkpoint => self.settle(),
        }
        self.state.meta.space.free_released(self.lsn);
        Ok(())
    }

    fn map(&mut self, tree: usize, at: u64, blocks: usize) {
        let (leaf, range) = (Leaf::of(VolumeBlock(at)).0, Self::within_leaf(at, blocks));
        let entries: Vec<MapEntry> = range
            .clone()
            .map(|_| {
                let target = self.state.meta.space.hold().unwrap().0;
                MapEntry { target: target.into(), sum: (!u32::try_from(target).unwrap()).into() }
            })
            .collect();
        let way = self.state.meta.ready(self.roots[tree], leaf, 0).unwrap();
        self.state.meta.ready_entries(way.target, range).unwrap();
        self.state.meta.map(&mut self.roots[tree], VolumeBlock(at), &entries, self.lsn);
        for (block, entry) in (at..).zip(&entries) {
            self.contents[tree].insert(block, (entry.target.get(), entry.sum.get()));
        }
    }

    fn unmap(&mut self, tree: usize, at: u64, blocks: usize) -> Result<(), TestCaseError> {
        let (leaf, range) = (Leaf::of(VolumeBlock(at)).0, Self::within_leaf(at, blocks));
        let gone = at..at + range.len() as u64;
        let before = self.contents[tree].len();
        self.contents[tree].retain(|block, _| !gone.contains(block));
        let wanted = (before - self.contents[tree].len()) as u64;
        // Only what maps something is unmapped.
        if wanted > 0 {
            let way = self.state.meta.ready(self.roots[tree], leaf, 0).unwrap();
            self.state.meta.ready_entries(way.target, range.clone()).unwrap();
            let dropped = self.state.meta.unmap(&mut self.roots[tree], leaf, range, self.lsn);
            prop_assert_eq!(dropped.mapped, wanted);
        }
        Ok(())
    }

    fn cut(&mut self, tree: usize, keep: Leaf) -> Result<(), TestCaseError> {
        for _ in 0..10_000 {
            let step = self.state.meta.ready_reap(self.roots[tree], keep).unwrap();
            if matches!(step, Step::Done) {
                self.contents[tree].retain(|block, _| *block < keep.0 * FANOUT as u64);
                return Ok(());
            }
            self.state.meta.reap(&mut self.roots[tree], step, self.lsn);
        }
        Err(TestCaseError::fail("freeing has no end"))
    }

    /// Changed pages get blocks, and are written; what is read back is the same.
    fn settle(&mut self) {
        let entry = VolumeEntry::new(Uuid::from_u128(2), BLOCKS, "v").unwrap();
        for (place, root) in self.state.volumes.iter_mut().zip(&self.roots) {
            *place = Some(Volume { entry: entry.clone(), root: *root });
        }
        let mut frames = self.state.meta.pages.frames_by_level();
        frames.reverse();
        let mut placed = Vec::new();
        checkpoint::place(&mut self.state, &mut frames, &mut placed).unwrap();
        let mut written = 0;
        checkpoint::settle(&mut self.state, &placed, 1, |block, bytes| {
            let level = bytes[24];
            assert!(MapPage::decode(&bytes, block, level, |at| layout().is_data(at)).is_ok());
            written += 1;
        });
        assert_eq!((written, self.state.meta.pages.dirty()), (placed.len(), 0));
        for (place, root) in self.state.volumes.iter_mut().zip(&mut self.roots) {
            *root = place.take().unwrap().root;
        }
        self.state.meta.space.begin_checkpoint();
        self.state.meta.space.end_checkpoint();
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        for (root, content) in self.roots.iter().zip(&self.contents) {
            for at in content.keys().flat_map(|at| [at.saturating_sub(1), *at, at + 1]) {
                let (leaf, index) = Leaf::of(VolumeBlock(at));
                let page = self.state.meta.leaf(*root, leaf).unwrap();
                let found =
                    page.map(|page| (page.targets[index], page.sums[index])).filter(|found| found.0 != 0);
                prop_assert_eq!(found, content.get(&at).copied(), "block {}", at);
            }
            let last = content.last_key_value().map(|(at, _)| VolumeBlock(*at));
            prop_assert_eq!(self.state.meta.last_mapped(*root).unwrap(), last);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn maps_that_share_pages_hold_what_was_mapped_in_each_and_free_all_of_it(
        all in prop::collection::vec(changes(), 1..60),
    ) {
        let mut trees = Trees::new();
        for change in &all {
            trees.change(change)?;
        }
        trees.compare()?;
        for tree in 0..trees.roots.len() {
            trees.change(&Change::Cut { tree, keep: 0 })?;
        }
        trees.settle();
        trees.settle();
        prop_assert_eq!(trees.state.meta.space.available(), layout().data_blocks());
        prop_assert_eq!(trees.state.meta.pages.dirty(), 0);
    }
}

// The log

#[derive(Clone, Debug)]
enum Write {
    /// A record that maps so many blocks.
    Append(usize),
    Commit,
    /// A request of the commit under way is finished.
    Finish,
    /// A checkpoint holds everything up to now.
    Checkpoint,
}

fn writes() -> impl Strategy<Value = Write> {
    prop_oneof![
        8 => (1..=FANOUT).prop_map(Write::Append),
        2 => Just(Write::Commit),
        8 => Just(Write::Finish),
        1 => Just(Write::Checkpoint),
    ]
}

const LOG_BLOCKS: u64 = 1 << 21;

/// A copy of a block of the log under way, and its position.
type UnderWay = (u64, Box<Bytes>);

fn header(log_position: u64, lsn: Lsn) -> CheckpointHeader {
    let store = Uuid::nil();
    CheckpointHeader { store, seq: 0, lsn, log_position, incarnation: 0, payload_crc: 0 }
}

struct Rig {
    log: Log,
    lsn: Lsn,
    /// Where the log begins, and the last record before it.
    start: (u64, Lsn),
    /// Blocks of the commit under way, and blocks that were written.
    under_way: Vec<UnderWay>,
    /// What either copy holds.
    media: BTreeMap<u64, Box<Bytes>>,
    /// How many blocks each record maps, from the first on.
    records: Vec<usize>,
}

impl Rig {
    fn new() -> Self {
        let layout = Layout::new(2 * LOG_BLOCKS, 1, LOG_BLOCKS).unwrap();
        let log = Log::new(&header(0, Lsn(0)), 0, Lsn(0), &layout);
        let media = BTreeMap::new();
        Self { log, lsn: Lsn(0), start: (0, Lsn(0)), under_way: Vec::new(), media, records: Vec::new() }
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Append(_) if !self.log.has_room() => self.write(&Write::Commit),
            Write::Append(blocks) => {
                self.lsn = self.lsn.next();
                self.records.push(*blocks);
                let entries = vec![MapEntry { target: 1.into(), sum: 2.into() }; *blocks];
                let record =
                    Record::Map { volume: VolumeId(1), at: VolumeBlock(self.lsn.0), entries: &entries };
                self.log.append(&record, self.lsn);
            }
            Write::Commit if self.log.is_idle() => drop(self.log.begin(self.lsn)),
            Write::Commit => {}
            Write::Finish if self.log.is_idle() => {}
            Write::Finish => {
                // The flush, or one of the blocks, in any order: here the last.
                self.media.extend(self.under_way.pop());
                if let Next::Write(count) = self.log.advance() {
                    for _ in 0..count {
                        let (position, bytes) = self.log.next_sealed().unwrap();
                        let copy = self.log.copy(&bytes);
                        self.under_way.extend([(position, bytes), (position, copy)]);
                    }
                }
            }
            Write::Checkpoint => {
                let position = self.log.begin_checkpoint();
                self.start = (position, self.lsn);
                self.log.end_checkpoint(&header(position, self.lsn));
            }
        }
    }

    /// What recovery finds: how many blocks each record maps.
    fn recovered(&self) -> Vec<usize> {
        let (mut found, mut lsn) = (Vec::new(), self.start.1);
        for position in self.start.0.. {
            let Some(bytes) = self.media.get(&position) else { break };
            let (header, records) = Records::decode(bytes).unwrap();
            if (header.position, header.lsn) != (position, lsn.next()) {
                break;
            }
            for record in records {
                let Ok(Record::Map { at, entries, .. }) = record else { panic!("{record:?}") };
                lsn = lsn.next();
                assert_eq!(at.0, lsn.0);
                found.push(entries.len());
            }
        }
        found
    }
}

proptest! {
    #[test]
    fn the_log_is_after_any_crash_a_prefix_of_what_was_done_and_holds_what_is_durable(
        all in prop::collection::vec(writes(), 1..300),
        kept in any::<u64>(),
    ) {
        let mut rig = Rig::new();
        for write in &all {
            rig.write(write);
            prop_assert!(rig.log.durable() <= rig.lsn);
        }
        // Of the blocks that are under way, any may be on the media.
        for (index, (position, bytes)) in std::mem::take(&mut rig.under_way).into_iter().enumerate() {
            if kept >> (index % 64) & 1 == 1 {
                rig.media.insert(position, bytes);
            }
        }
        let found = rig.recovered();
        let first = usize::try_from(rig.start.1.0).unwrap();
        prop_assert!(rig.records[first..].starts_with(&found));
        prop_assert!(first + found.len() >= usize::try_from(rig.log.durable().0).unwrap());
    }
}
