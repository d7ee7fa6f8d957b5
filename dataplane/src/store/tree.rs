//! The map of one volume: a tree of pages, of which snapshots and clones share what has not changed since.
//!
//! A page belongs to one tree alone if no page on the way to it, nor it itself, is referred to more than once. Only such
//! pages change, in frames. A shared page is copied first; the copy refers to the same things, so each gets one more.
//!
//! Every change has two phases. `ready_*` finds everything the change will touch, and fails with a [`Stop`] before
//! anything has changed; what follows cannot fail.

use super::cache::{FrameId, Pages, Stop, Target};
use super::format::{FANOUT, FANOUT_SHIFT, MapEntry, MapPage};
use super::space::Space;
use super::{Block, Lsn, VolumeBlock};

/// A leaf of a volume's map, counted from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Leaf(pub(crate) u64);

impl Leaf {
    pub(crate) fn of(at: VolumeBlock) -> (Self, usize) {
        let index = usize::try_from(at.0 % FANOUT as u64).expect("smaller than a page");
        (Self(at.0 >> FANOUT_SHIFT), index)
    }

    /// Which entry of a page of `level` leads to it.
    pub(crate) fn entry(self, level: u8) -> usize {
        let shifted = self.0.checked_shr(FANOUT_SHIFT * u32::from(level - 1)).unwrap_or(0);
        usize::try_from(shifted % FANOUT as u64).expect("smaller than a page")
    }
}

/// Leaves below one page of `level`.
pub(crate) fn span(level: u8) -> u64 {
    1 << (FANOUT_SHIFT * u32::from(level))
}

/// Levels above the leaves that a volume of `blocks` blocks needs.
pub(crate) fn height_for(blocks: u64) -> u8 {
    let leaves = blocks.div_ceil(FANOUT as u64);
    (0..).find(|level| span(*level) >= leaves).expect("volumes are bounded")
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Root {
    pub(crate) target: Target,
    pub(crate) height: u8,
}

pub(crate) struct Meta {
    pub(crate) pages: Pages,
    pub(crate) space: Space,
}

/// What a change took out of a leaf.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Dropped {
    /// Entries that mapped something.
    pub(crate) mapped: u64,
    /// Of these, blocks that nothing else refers to.
    pub(crate) own: u64,
}

/// What is at the end of a way down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Frames that changing it takes.
    pub(crate) frames: usize,
    /// The page, if it is there.
    pub(crate) target: Target,
    pub(crate) shared: bool,
}

impl Meta {
    /// The leaf, if it exists.
    pub(crate) fn leaf(&self, root: Root, leaf: Leaf) -> Result<Option<&MapPage>, Stop> {
        let mut target = root.target;
        for level in (1..=root.height).rev() {
            match self.pages.get(target, level)? {
                None => return Ok(None),
                Some(page) => target = Target::from_raw(page.targets[leaf.entry(level)]),
            }
        }
        self.pages.get(target, 0)
    }

    /// The frame of the leaf, if it and everything on the way to it is this tree's own already.
    #[inline]
    pub(crate) fn own_leaf(&self, root: Root, leaf: Leaf) -> Option<FrameId> {
        let mut target = root.target;
        let mut level = root.height;
        loop {
            let Target::Frame(id) = target else { return None };
            let frame = self.pages.frame(id);
            if frame.refs != 1 {
                return None;
            }
            if level == 0 {
                return Some(id);
            }
            target = Target::from_raw(frame.page.targets[leaf.entry(level)]);
            level -= 1;
        }
    }

    pub(crate) fn references(&mut self, target: Target) -> Result<u16, Stop> {
        match target {
            Target::None | Target::Lost => Ok(0),
            Target::Frame(id) => Ok(self.pages.frame(id).refs),
            Target::Block(block) => {
                self.space.need(block)?;
                Ok(self.space.count(block))
            }
        }
    }

    /// All counts that copying, or freeing, the page changes are known.
    fn ready_children(&mut self, target: Target, level: u8) -> Result<(), Stop> {
        if target == Target::Lost {
            return Ok(());
        }
        let Some(page) = self.pages.get(target, level)? else { return Ok(()) };
        for raw in page.targets {
            if let Target::Block(block) = Target::from_raw(raw) {
                self.space.need(block)?;
            }
        }
        Ok(())
    }

    /// One step down: the page itself, and what changing it takes.
    fn ready_page(&mut self, way: &mut Way, level: u8) -> Result<(), Stop> {
        if way.target == Target::Lost {
            way.frames += 1;
            return Ok(());
        }
        let references = self.references(way.target)?;
        self.pages.get(way.target, level)?;
        if matches!(way.target, Target::Block(_)) && references == 0 {
            return Err(Stop::Damaged);
        }
        way.shared |= references > 1;
        way.frames += usize::from(way.shared || !matches!(way.target, Target::Frame(_)));
        if way.shared {
            self.ready_children(way.target, level)?;
        }
        Ok(())
    }

    /// Everything on the way to the page of `level` that leads to `leaf`, that page included.
    pub(crate) fn ready(&mut self, root: Root, leaf: Leaf, to_level: u8) -> Result<Way, Stop> {
        let mut way = Way { frames: 0, target: root.target, shared: false };
        for level in (to_level..=root.height).rev() {
            self.ready_page(&mut way, level)?;
            if level > to_level {
                way.target = self.below(way.target, level, leaf)?;
            }
        }
        Ok(way)
    }

    /// What the page of `level` names on the way to `leaf`.
    fn below(&self, target: Target, level: u8, leaf: Leaf) -> Result<Target, Stop> {
        if target == Target::Lost {
            return Ok(Target::Lost);
        }
        let page = self.pages.get(target, level)?;
        Ok(page.map_or(Target::None, |page| Target::from_raw(page.targets[leaf.entry(level)])))
    }

    /// The leaf's entries in `range` may be overwritten.
    pub(crate) fn ready_entries(&mut self, leaf: Target, range: std::ops::Range<usize>) -> Result<(), Stop> {
        if leaf == Target::Lost {
            return Ok(());
        }
        let Some(page) = self.pages.get(leaf, 0)? else { return Ok(()) };
        for raw in &page.targets[range] {
            if *raw > MapPage::LOST {
                self.space.need(Block(*raw))?;
            }
        }
        Ok(())
    }

    fn add_reference(&mut self, target: Target) {
        match target {
            Target::None | Target::Lost => {}
            Target::Block(block) => self.space.inc(block),
            Target::Frame(id) => self.pages.frame_mut(id).refs += 1,
        }
    }

    /// One more tree begins at this root.
    pub(crate) fn share(&mut self, root: Root) {
        self.add_reference(root.target);
    }

    /// Puts pages above the root until the tree has this height.
    pub(crate) fn grow(&mut self, root: &mut Root, height: u8) {
        while root.height < height {
            root.height += 1;
            if root.target != Target::None {
                let mut page = Box::new(MapPage::empty(root.height));
                page.targets[0] = root.target.raw();
                root.target = Target::Frame(self.pages.add(page));
            }
        }
    }

    /// A root's count is known.
    pub(crate) fn ready_root(&mut self, root: Root) -> Result<(), Stop> {
        let references = self.references(root.target)?;
        if matches!(root.target, Target::Block(_)) && references == 0 { Err(Stop::Damaged) } else { Ok(()) }
    }

    /// One reference less to something that keeps others.
    fn drop_reference(&mut self, target: Target, lsn: Lsn) {
        match target {
            Target::None | Target::Lost => {}
            Target::Block(block) => {
                self.space.dec(block, lsn);
            }
            Target::Frame(id) => self.pages.frame_mut(id).refs -= 1,
        }
    }

    fn copy(&mut self, page: Box<MapPage>) -> FrameId {
        for raw in page.targets {
            self.add_reference(Target::from_raw(raw));
        }
        self.pages.add(page)
    }

    /// The page in a frame of this tree's own.
    fn own(&mut self, target: Target, level: u8, lsn: Lsn) -> FrameId {
        match target {
            Target::None => self.pages.add(Box::new(MapPage::empty(level))),
            Target::Lost => self.pages.add(Box::new(MapPage::lost(level))),
            Target::Frame(id) if self.pages.frame(id).refs == 1 => id,
            Target::Frame(id) => {
                let page = self.pages.frame(id).page.clone();
                self.drop_reference(target, lsn);
                self.copy(page)
            }
            Target::Block(block) if self.space.count(block) == 1 => {
                self.space.replace(block);
                let page = self.pages.take(block);
                self.pages.add(page)
            }
            Target::Block(block) => {
                let page = self.pages.block(block, level).expect("readiness was checked").clone();
                self.space.dec(block, lsn);
                self.copy(Box::new(page))
            }
        }
    }

    /// The page of `to_level` on the way to `leaf`, in a frame of this tree's own, as is everything on the way.
    pub(crate) fn change(&mut self, root: &mut Root, leaf: Leaf, to_level: u8, lsn: Lsn) -> FrameId {
        let mut id = self.own(root.target, root.height, lsn);
        root.target = Target::Frame(id);
        for level in (to_level + 1..=root.height).rev() {
            let entry = leaf.entry(level);
            let child = Target::from_raw(self.pages.frame(id).page.targets[entry]);
            let child = self.own(child, level - 1, lsn);
            self.pages.frame_mut(id).page.targets[entry] = Target::Frame(child).raw();
            id = child;
        }
        id
    }

    #[inline]
    fn drop_data(&mut self, raw: u64, dropped: &mut Dropped, lsn: Lsn) {
        if raw > MapPage::LOST {
            dropped.mapped += 1;
            dropped.own += u64::from(self.space.dec(Block(raw), lsn));
        }
    }

    /// Blocks of one leaf lie elsewhere now.
    pub(crate) fn map(
        &mut self,
        root: &mut Root,
        at: VolumeBlock,
        entries: &[MapEntry],
        lsn: Lsn,
    ) -> Dropped {
        let (leaf, first) = Leaf::of(at);
        let id = self.own_leaf(*root, leaf).unwrap_or_else(|| self.change(root, leaf, 0, lsn));
        let mut dropped = Dropped::default();
        for (index, entry) in (first..).zip(entries) {
            let target = Block(entry.target.get());
            let page = &mut self.pages.frame_mut(id).page;
            let old = std::mem::replace(&mut page.targets[index], target.0);
            page.sums[index] = entry.sum.get();
            self.space.refer(target, 1);
            self.drop_data(old, &mut dropped, lsn);
        }
        dropped
    }

    /// Blocks of one leaf are no more.
    pub(crate) fn unmap(
        &mut self,
        root: &mut Root,
        leaf: Leaf,
        range: std::ops::Range<usize>,
        lsn: Lsn,
    ) -> Dropped {
        let id = self.change(root, leaf, 0, lsn);
        let mut dropped = Dropped::default();
        for index in range {
            let page = &mut self.pages.frame_mut(id).page;
            let old = std::mem::replace(&mut page.targets[index], 0);
            page.sums[index] = 0;
            self.drop_data(old, &mut dropped, lsn);
        }
        if self.pages.frame(id).page.is_empty() {
            self.cut(root, leaf, 0, lsn);
        }
        dropped
    }

    /// Takes the page of `level` on the way to `leaf` out of the tree, and pages above that have nothing else. Pages
    /// above are the tree's own; the page itself is shared, or refers to nothing.
    pub(crate) fn cut(&mut self, root: &mut Root, leaf: Leaf, level: u8, lsn: Lsn) {
        for level in level..=root.height {
            if level == root.height {
                self.let_go(root.target, lsn);
                root.target = Target::None;
                return;
            }
            let parent = self.change(root, leaf, level + 1, lsn);
            let entry = leaf.entry(level + 1);
            let child = Target::from_raw(self.pages.frame(parent).page.targets[entry]);
            self.let_go(child, lsn);
            self.pages.frame_mut(parent).page.targets[entry] = 0;
            if !self.pages.frame(parent).page.is_empty() {
                return;
            }
        }
    }

    fn let_go(&mut self, target: Target, lsn: Lsn) {
        match target {
            Target::None | Target::Lost => {}
            Target::Frame(id) if self.pages.frame(id).refs == 1 => {
                self.pages.remove(id);
            }
            Target::Block(block) if self.space.count(block) == 1 => {
                self.pages.forget(block);
                self.space.replace(block);
            }
            shared => self.drop_reference(shared, lsn),
        }
    }
}

/// The next thing to free of what lies beyond a volume's size.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Nothing is left.
    Done,
    /// A page that other trees refer to as well.
    Shared { leaf: Leaf, level: u8, frames: usize },
    /// A leaf of this tree's own.
    Leaf { leaf: Leaf, frames: usize },
}

impl Meta {
    /// Finds the last thing in the tree that lies at or beyond `keep`, ready to be freed. What stays (`keep` is not 0) is
    /// counted, so from it shared leaves are taken one by one; a tree that goes loses whole branches.
    pub(crate) fn ready_reap(&mut self, root: Root, keep: Leaf) -> Result<Step, Stop> {
        let mut way = Way { frames: 0, target: root.target, shared: false };
        let mut first = Leaf(0);
        for level in (0..=root.height).rev() {
            if way.target == Target::None {
                return Ok(Step::Done);
            }
            let beyond = first >= keep;
            let frames = way.frames;
            if way.target == Target::Lost {
                return Ok(if beyond { Step::Shared { leaf: first, level, frames } } else { Step::Done });
            }
            let shared = way.shared || self.references(way.target)? > 1;
            if beyond && shared && (keep == Leaf(0) || level == 0) {
                self.references(way.target)?;
                if keep != Leaf(0) {
                    self.pages.get(way.target, level)?;
                }
                return Ok(Step::Shared { leaf: first, level, frames });
            }
            self.ready_page(&mut way, level)?;
            if level == 0 {
                if !beyond {
                    return Ok(Step::Done);
                }
                self.ready_entries(way.target, 0..FANOUT)?;
                return Ok(Step::Leaf { leaf: first, frames: way.frames });
            }
            let page = self.pages.get(way.target, level)?.expect("there is a target");
            let Some(last) = page.targets.iter().rposition(|raw| *raw != 0) else {
                return Err(Stop::Damaged);
            };
            way.target = Target::from_raw(page.targets[last]);
            first.0 += last as u64 * span(level - 1);
            if first.0 + span(level - 1) <= keep.0 {
                return Ok(Step::Done);
            }
        }
        Ok(Step::Done)
    }

    /// Frees it.
    pub(crate) fn reap(&mut self, root: &mut Root, step: Step, lsn: Lsn) -> Dropped {
        match step {
            Step::Done => Dropped::default(),
            Step::Shared { leaf, level, .. } => {
                let page = self.leaf(*root, leaf).ok().flatten().filter(|_| level == 0);
                let mapped =
                    page.map_or(0, |page| page.targets.iter().filter(|raw| **raw > MapPage::LOST).count());
                self.cut(root, leaf, level, lsn);
                Dropped { mapped: mapped as u64, own: 0 }
            }
            Step::Leaf { leaf, .. } => self.unmap(root, leaf, 0..FANOUT, lsn),
        }
    }

    /// The last block that the tree maps.
    pub(crate) fn last_mapped(&self, root: Root) -> Result<Option<VolumeBlock>, Stop> {
        let mut target = root.target;
        let mut at = 0;
        for level in (0..=root.height).rev() {
            let Some(page) = self.pages.get(target, level)? else { return Ok(None) };
            let Some(last) = page.targets.iter().rposition(|raw| *raw != 0) else { return Ok(None) };
            at = at << FANOUT_SHIFT | last as u64;
            target = Target::from_raw(page.targets[last]);
        }
        Ok(Some(VolumeBlock(at)))
    }
}

/// Damage that recovery meets.
impl Meta {
    /// The last leaf that exists, as far as pages can be read.
    pub(crate) fn last_leaf(&self, root: Root) -> Leaf {
        let mut target = root.target;
        let mut first = 0;
        for level in (1..=root.height).rev() {
            let Ok(Some(page)) = self.pages.get(target, level) else { break };
            let Some(last) = page.targets.iter().rposition(|raw| *raw != 0) else { break };
            first += last as u64 * span(level - 1);
            target = Target::from_raw(page.targets[last]);
        }
        Leaf(first)
    }

    /// Takes a page that cannot be read, on the way to `leaf`, out of the tree: what it mapped is lost, and what it referred
    /// to stays taken. `false`: there is none.
    pub(crate) fn lose(&mut self, root: &mut Root, leaf: Leaf, lsn: Lsn) -> Result<bool, Stop> {
        let mut target = root.target;
        let mut damaged = None;
        for level in (0..=root.height).rev() {
            if let Target::Block(block) = target
                && self.pages.is_damaged(block)
            {
                damaged = Some(level);
                break;
            }
            if level > 0 {
                target = self.below(target, level, leaf)?;
            }
        }
        let Some(level) = damaged else { return Ok(false) };
        self.references(target)?;
        if level == root.height {
            self.let_go(target, lsn);
            root.target = Target::Lost;
            return Ok(true);
        }
        self.ready(*root, leaf, level + 1)?;
        let parent = self.change(root, leaf, level + 1, lsn);
        let entry = leaf.entry(level + 1);
        self.let_go(target, lsn);
        self.pages.frame_mut(parent).page.targets[entry] = MapPage::LOST;
        Ok(true)
    }
}
