//! What a volume's space consists of, counted by a walk of bounded steps: only its own pages, and where its snapshots differ.

use super::Block;
use super::VolumeId;
use super::cache::{Stop, Target};
use super::changes::{ChangedRange, Changes, Progress, Walked};
use super::command::Failure;
use super::format::{FANOUT, MapPage, VolumeEntry};
use super::machine::Store;
use super::tree::{Leaf, Meta, Root, span};

/// Ways down that one step goes at most.
const STEP_LEAVES: u32 = 32;

/// A walk that counts; [`Store::usage`] begins one. The counts are whole when the walk is done.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Blocks that only this volume refers to: deleting it frees them.
    pub own: u64,
    /// Blocks that snapshots made from this volume hold, and it does not any more. Each counts for the last snapshot in
    /// order that holds it; after a rollback a block that left and came back may count twice.
    pub snapshot_only: u64,
    volume: Walked,
    next: Leaf,
    /// Differences that are still to be counted.
    history: Vec<Changes>,
    found: Vec<ChangedRange>,
}

impl Store {
    /// Begins to count what a volume's space consists of. [`VolumeInfo`](super::VolumeInfo) has the size and what is mapped;
    /// what is mapped and not [`Usage::own`] is shared.
    pub fn usage(&self, volume: VolumeId) -> Result<Usage, Failure> {
        let mut snapshots: Vec<_> = self
            .state
            .list()
            .filter(|(_, other)| other.has(VolumeEntry::SNAPSHOT) && other.entry.origin == volume.0 + 1)
            .map(|(id, other)| (other.entry.born.get(), id))
            .collect();
        snapshots.sort_unstable();
        let later = snapshots.iter().skip(1).map(|(_, id)| *id).chain([volume]);
        let history = snapshots.iter().zip(later).map(|((_, from), to)| self.changes(Some(*from), to));
        Ok(Usage {
            own: 0,
            snapshot_only: 0,
            volume: self.walked(volume)?,
            next: Leaf(0),
            history: history.collect::<Result<_, _>>()?,
            found: Vec::new(),
        })
    }

    /// One bounded step of counting.
    pub fn next_usage(&mut self, usage: &mut Usage) -> Result<Progress, Failure> {
        for _ in 0..STEP_LEAVES {
            let (root, blocks) = self.walked_root(usage.volume)?;
            if usage.next.0 >= blocks.div_ceil(FANOUT as u64) {
                return self.count_history(usage);
            }
            match self.state.meta.own_blocks(root, usage.next) {
                Ok((next, own)) => (usage.next, usage.own) = (next, usage.own + own),
                Err(stop) => return self.arrange(stop).map(|()| Progress::Waiting),
            }
        }
        Ok(Progress::More)
    }

    fn count_history(&mut self, usage: &mut Usage) -> Result<Progress, Failure> {
        let Some(walk) = usage.history.last_mut() else { return Ok(Progress::Done) };
        usage.found.clear();
        let progress = self.next_changes(walk, &mut usage.found)?;
        usage.snapshot_only +=
            usage.found.iter().filter(|range| range.before).map(|range| range.blocks).sum::<u64>();
        if progress == Progress::Done {
            usage.history.pop();
            return Ok(Progress::More);
        }
        Ok(progress)
    }
}

impl Meta {
    /// Counts the blocks of one leaf that nothing else refers to, or skips what is shared or not there. Gives the leaf to
    /// go on with.
    fn own_blocks(&mut self, root: Root, leaf: Leaf) -> Result<(Leaf, u64), Stop> {
        let mut target = root.target;
        for level in (0..=root.height).rev() {
            if matches!(target, Target::None | Target::Lost) || self.references(target)? > 1 {
                return Ok((Leaf((leaf.0 / span(level) + 1) * span(level)), 0));
            }
            let Some(page) = self.pages.get(target, level)? else { break };
            if level > 0 {
                target = Target::from_raw(page.targets[leaf.entry(level)]);
                continue;
            }
            let mut own = 0;
            for raw in page.targets.iter().filter(|raw| **raw > MapPage::LOST) {
                self.space.need(Block(*raw))?;
                own += u64::from(self.space.count(Block(*raw)) == 1);
            }
            return Ok((Leaf(leaf.0 + 1), own));
        }
        Ok((Leaf(leaf.0 + 1), 0))
    }
}
