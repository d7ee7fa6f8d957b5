//! What differs between two volumes or snapshots: both maps are walked side by side, and only where they differ.
//!
//! A walk belongs to the driver and is taken on a bounded step at a time. It keeps a place, not pages: each step goes down
//! from both roots again, so it does not matter what is written, placed or evicted between two steps.

use super::cache::{Pages, Stop, Target};
use super::command::Failure;
use super::format::{FANOUT, MapPage, VolumeEntry};
use super::machine::Store;
use super::tree::{Leaf, Root, span};
use super::{Lsn, VolumeBlock, VolumeId};

/// Ways down that one step goes at most.
const STEP_LEAVES: u32 = 32;

/// Blocks that follow each other and changed in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangedRange {
    /// The first.
    pub at: VolumeBlock,
    /// How many.
    pub blocks: u64,
    /// Whether the first of the two maps them. If not, they read as zeroes there, or lie beyond its end.
    pub before: bool,
    /// Whether the second of the two maps them.
    pub after: bool,
}

/// How far a walk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// There may be more: another step.
    More,
    /// A page is being read: another step after the store's next turn.
    Waiting,
    /// That was all.
    Done,
}

/// A volume as it was when a walk began: a later one in the same place is another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Walked {
    id: VolumeId,
    born: Lsn,
}

/// A walk through two maps; [`Store::changes`] begins one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    from: Option<Walked>,
    to: Walked,
    next: Leaf,
}

impl Store {
    /// Begins to list what differs between `from`, or a volume that maps nothing, and `to`. Snapshots give exact answers; of
    /// a volume that is written meanwhile, each part is as it was when the walk came by.
    pub fn changes(&self, from: Option<VolumeId>, to: VolumeId) -> Result<Changes, Failure> {
        let from = from.map(|from| self.walked(from)).transpose()?;
        Ok(Changes { from, to: self.walked(to)?, next: Leaf(0) })
    }

    /// One bounded step of a walk; adds what it finds to `found`, in order.
    pub fn next_changes(
        &mut self,
        walk: &mut Changes,
        found: &mut Vec<ChangedRange>,
    ) -> Result<Progress, Failure> {
        for _ in 0..STEP_LEAVES {
            let (from, blocks_from) = walk.from.map_or(Ok((NOTHING, 0)), |from| self.walked_root(from))?;
            let (to, blocks_to) = self.walked_root(walk.to)?;
            if walk.next.0 >= blocks_from.max(blocks_to).div_ceil(FANOUT as u64) {
                return Ok(Progress::Done);
            }
            let pages = &self.state.meta.pages;
            match compare(pages, from, to, walk.next, found) {
                Ok(next) => walk.next = next,
                Err(stop) => return self.arrange(stop).map(|()| Progress::Waiting),
            }
        }
        Ok(Progress::More)
    }

    pub(crate) fn walked(&self, id: VolumeId) -> Result<Walked, Failure> {
        let volume = self.state.live(id).ok_or(Failure::NoVolume)?;
        Ok(Walked { id, born: Lsn(volume.entry.born.get()) })
    }

    /// The root of a volume that still is the one a walk began with, and its size.
    pub(crate) fn walked_root(&self, walked: Walked) -> Result<(Root, u64), Failure> {
        let volume = self.state.live(walked.id).ok_or(Failure::NoVolume)?;
        if volume.entry.born.get() != walked.born.0 {
            return Err(Failure::NoVolume);
        }
        // Beyond the size lies what is not freed yet.
        if volume.has(VolumeEntry::REAPING) {
            return Err(Failure::Shrinking);
        }
        Ok((volume.root, volume.blocks()))
    }
}

const NOTHING: Root = Root { target: Target::None, height: 0 };

/// A way down one of the trees.
struct Down {
    root: Root,
    target: Target,
}

impl Down {
    fn new(root: Root) -> Self {
        Self { root, target: Target::None }
    }

    /// The page of `level` that leads to `leaf`. `None`: the tree is lower, and `leaf` may be in it.
    fn step(&mut self, pages: &Pages, leaf: Leaf, level: u8) -> Result<Option<Target>, Stop> {
        if self.root.target == Target::None || leaf.0 >= span(self.root.height) {
            return Ok(Some(Target::None));
        }
        if level > self.root.height {
            return Ok(None);
        }
        self.target = if level == self.root.height {
            self.root.target
        } else {
            let page = pages.get(self.target, level + 1)?;
            page.map_or(Target::None, |page| Target::from_raw(page.targets[leaf.entry(level + 1)]))
        };
        Ok(Some(self.target))
    }
}

/// Skips what both share, or compares one leaf. Gives the leaf to go on with.
fn compare(
    pages: &Pages,
    from: Root,
    to: Root,
    leaf: Leaf,
    found: &mut Vec<ChangedRange>,
) -> Result<Leaf, Stop> {
    let (mut before, mut after) = (Down::new(from), Down::new(to));
    for level in (0..=from.height.max(to.height)).rev() {
        let targets = (before.step(pages, leaf, level)?, after.step(pages, leaf, level)?);
        if targets.0.is_some() && targets.0 == targets.1 {
            return Ok(Leaf((leaf.0 / span(level) + 1) * span(level)));
        }
    }
    let page = |down: Down| match down.target {
        Target::None => Ok(None),
        target => pages.get(target, 0),
    };
    compare_leaves(page(before)?, page(after)?, leaf, found);
    Ok(Leaf(leaf.0 + 1))
}

fn compare_leaves(
    before: Option<&MapPage>,
    after: Option<&MapPage>,
    leaf: Leaf,
    found: &mut Vec<ChangedRange>,
) {
    let target = |page: Option<&MapPage>, at: usize| page.map_or(0, |page| page.targets[at]);
    for at in 0..FANOUT {
        let (before, after) = (target(before, at), target(after, at));
        if before != after {
            let at = VolumeBlock(leaf.0 * FANOUT as u64 + at as u64);
            add(found, ChangedRange { at, blocks: 1, before: before != 0, after: after != 0 });
        }
    }
}

/// Adds a range, to the one before if it goes on.
fn add(found: &mut Vec<ChangedRange>, range: ChangedRange) {
    match found.last_mut() {
        Some(last)
            if last.at.0 + last.blocks == range.at.0
                && (last.before, last.after) == (range.before, range.after) =>
        {
            last.blocks += range.blocks;
        }
        _ => found.push(range),
    }
}
