//! Copying of regions to replicas that may lack them, and clearing of intent bits.

use std::collections::VecDeque;
use std::ops::Range;

use fabrics::Now;

use super::guard::Owner;
use super::machine::{Phase, Volume};
use super::pace::{Pace, Pacer};
use super::pending::Purpose;
use super::{Bitmap, Lane, LossReason, Members, Outcome, ReplicaIndex, RequestOp};

/// Regions copied to a replica between two flushes of it, at most, and of how many parts of a volume one is enough: what a
/// restart copies again.
const REGIONS_PER_FLUSH_MAX: u64 = 64;
const FLUSHES_PER_VOLUME: u64 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Waits for the region's blocks.
    Blocks,
    /// Reads from this replica.
    Reading(ReplicaIndex),
    /// Writes to those that have not answered.
    Writing { pending: Members, done: Members },
}

/// One region on its way.
#[derive(Clone, Copy, Debug)]
struct Copy {
    region: u64,
    /// Where it ended when the copy began: the last one becomes longer when the volume grows.
    end: u64,
    step: Step,
    /// Replicas that could not read it.
    tried: Members,
}

/// The copies of a volume.
pub(super) struct Copying {
    copies: Vec<Option<Copy>>,
    /// Regions that reads wait for.
    hurried: VecDeque<u64>,
    /// Where the search for the next region goes on.
    cursor: u64,
    pacer: Pacer,
    /// Flushes of a cycle of clearing that have not been answered; `None` outside of a cycle.
    clean_pending: Option<Members>,
    cycle: u32,
    clean_at: Now,
    /// Regions that are clean once the cycle's flushes are through.
    cooling: Bitmap,
}

impl Copying {
    pub(super) fn new(copies_max: u8, pace: Pace, regions: u64, now: Now) -> Self {
        Self {
            copies: vec![None; usize::from(copies_max)],
            hurried: VecDeque::new(),
            cursor: 0,
            pacer: Pacer::new(pace, now),
            clean_pending: None,
            cycle: 0,
            clean_at: now,
            cooling: Bitmap::new(regions),
        }
    }

    pub(super) fn resize(&mut self, regions: u64) {
        self.cooling.resize(regions, false);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.copies.iter().all(Option::is_none)
    }

    /// Reads wait for these regions.
    pub(super) fn hurry(&mut self, regions: Range<u64>) {
        for region in regions {
            if !self.hurried.contains(&region) {
                self.hurried.push_back(region);
            }
        }
    }

    /// How many are under way.
    fn busy(&self) -> usize {
        self.copies.iter().flatten().count()
    }

    /// A command of a host took so long.
    #[inline]
    pub(super) fn on_command(&mut self, took_ns: u64) {
        self.pacer.on_command(took_ns);
    }

    /// Time has passed.
    pub(super) fn adapt(&mut self) {
        self.pacer.adapt();
    }

    /// Regions that are being read from a replica.
    fn reading_from(&self, replica: ReplicaIndex) -> usize {
        self.copies.iter().flatten().filter(|copy| copy.step == Step::Reading(replica)).count()
    }

    fn is_busy_with(&self, region: u64) -> bool {
        self.copies.iter().flatten().any(|copy| copy.region == region)
    }
}

impl Volume {
    /// How regions are copied.
    pub fn pace(&self) -> Pace {
        self.copying.pacer.pace
    }

    /// Changes how regions are copied from now on.
    pub fn set_pace(&mut self, pace: Pace, now: Now) {
        self.copying.pacer = Pacer::new(pace, now);
        self.run(now);
    }

    /// How long reads and writes of hosts take on average, in nanoseconds; `None` before the first.
    pub fn latency_ns(&self) -> Option<u64> {
        self.copying.pacer.latency_ns()
    }

    /// Attached replicas for which a region may be old.
    fn lacking(&self, region: u64) -> Members {
        self.attached().iter().filter(|replica| self.peers[replica.index()].stale.has(region)).collect()
    }

    fn region_blocks(&self, region: u64) -> Range<u64> {
        let size = u64::from(self.config.region_blocks);
        region * size..((region + 1) * size).min(self.laid)
    }

    /// Starts copies while there is room, and the limit allows.
    pub(super) fn start_copies(&mut self, now: Now) {
        let serves = matches!(self.phase, Phase::Active | Phase::Changing { .. });
        if !serves || (self.recorded - self.failed).is_empty() || self.copies_nothing() {
            return;
        }
        while let Some(place) = self.copying.copies.iter().position(Option::is_none) {
            let Some(region) = self.next_region(now) else { return };
            let blocks = self.region_blocks(region);
            let copy = Copy { region, end: blocks.end, step: Step::Blocks, tried: Members::NONE };
            self.copying.copies[place] = Some(copy);
            self.copying.pacer.on_start(blocks.end - blocks.start, now);
            let place = u8::try_from(place).unwrap_or(u8::MAX);
            if self.guard.acquire(Owner::Copy(place), self.region_blocks(region), true) {
                self.on_copy_blocks(place, now);
            }
        }
    }

    /// Whether there is nothing to copy anywhere.
    #[inline]
    fn copies_nothing(&self) -> bool {
        self.copying.hurried.is_empty() && self.peers.iter().all(|peer| peer.stale.is_empty())
    }

    /// The next region to copy: what reads wait for, else in order.
    fn next_region(&mut self, now: Now) -> Option<u64> {
        while let Some(region) = self.copying.hurried.pop_front() {
            if !self.lacking(region).is_empty() && !self.copying.is_busy_with(region) {
                return Some(region);
            }
        }
        if !self.copying.pacer.lets_start(self.copying.busy(), now) {
            return None;
        }
        let from = self.copying.cursor;
        let found = self.search(from).or_else(|| self.search(0))?;
        self.copying.cursor = found + 1;
        Some(found)
    }

    fn search(&self, from: u64) -> Option<u64> {
        let first = |replica: ReplicaIndex| {
            let stale = &self.peers[replica.index()].stale;
            let mut at = from;
            loop {
                let region = stale.next(at)?;
                if !self.copying.is_busy_with(region) {
                    return Some(region);
                }
                at = region + 1;
            }
        };
        self.attached().iter().filter_map(first).min()
    }

    /// A copy has its blocks: nothing is written there meanwhile.
    pub(super) fn on_copy_blocks(&mut self, place: u8, now: Now) {
        let Some(copy) = self.copying.copies[usize::from(place)] else { unreachable!("a copy under way") };
        let lacking = self.lacking(copy.region);
        if lacking.is_empty() {
            return self.end_copy(place, now);
        }
        let sources = self.recorded - self.failed - lacking - copy.tried;
        let load = |replica: &ReplicaIndex| {
            self.peers[replica.index()].reads as usize + self.copying.reading_from(*replica)
        };
        let Some(source) = sources.iter().min_by_key(load) else {
            return self.give_up_copy(place, copy, lacking, now);
        };
        self.set_copy(place, Copy { step: Step::Reading(source), ..copy });
        let (at, blocks) = self.extent(&copy);
        let op = RequestOp::CopyRead { copy: place, at, blocks };
        self.send(source, Lane::default(), Purpose::Copy(place), op, now);
    }

    /// Nobody can read the region: those that lack it cannot be brought up to date.
    fn give_up_copy(&mut self, place: u8, copy: Copy, lacking: Members, now: Now) {
        self.end_copy(place, now);
        if !copy.tried.is_empty() {
            for replica in lacking.iter() {
                self.fail(replica, LossReason::Media, now);
            }
        }
    }

    fn extent(&self, copy: &Copy) -> (u64, u32) {
        let start = self.region_blocks(copy.region).start;
        (start, u32::try_from(copy.end - start).unwrap_or(u32::MAX))
    }

    fn set_copy(&mut self, place: u8, copy: Copy) {
        self.copying.copies[usize::from(place)] = Some(copy);
    }

    pub(super) fn on_copy_answer(&mut self, place: u8, replica: ReplicaIndex, outcome: &Outcome, now: Now) {
        let Some(mut copy) = self.copying.copies[usize::from(place)] else { return };
        match copy.step {
            Step::Blocks => {}
            Step::Reading(_) => match outcome {
                Outcome::Done => self.write_copy(place, copy, now),
                Outcome::Failed(_) => {
                    copy.tried.insert(replica);
                    self.set_copy(place, copy);
                    self.on_copy_blocks(place, now);
                }
                _ => self.fail(replica, LossReason::Path, now),
            },
            Step::Writing { mut pending, mut done } => {
                if self.fail_unless_done(replica, outcome, now) {
                    pending.remove(replica);
                    done.insert(replica);
                    self.set_copy(place, Copy { step: Step::Writing { pending, done }, ..copy });
                    self.settle_copy(place, now);
                }
            }
        }
    }

    fn write_copy(&mut self, place: u8, copy: Copy, now: Now) {
        let lacking = self.lacking(copy.region);
        let step = Step::Writing { pending: lacking, done: Members::NONE };
        self.set_copy(place, Copy { step, ..copy });
        let (at, blocks) = self.extent(&copy);
        for replica in lacking.iter() {
            let op = RequestOp::CopyWrite { copy: place, at, blocks };
            self.send(replica, Lane::default(), Purpose::Copy(place), op, now);
        }
        self.settle_copy(place, now);
    }

    fn settle_copy(&mut self, place: u8, now: Now) {
        let Some(copy) = self.copying.copies[usize::from(place)] else { return };
        let Step::Writing { pending, done } = copy.step else { return };
        if !pending.is_empty() {
            return;
        }
        let whole = copy.end == self.region_blocks(copy.region).end;
        for replica in done.iter().filter(|_| whole) {
            let peer = &mut self.peers[replica.index()];
            peer.stale.clear(copy.region);
            peer.unflushed.set(copy.region);
            self.counters.regions_copied += 1;
        }
        self.end_copy(place, now);
        for replica in done.iter() {
            self.flush_copies(replica, now);
        }
    }

    fn end_copy(&mut self, place: u8, now: Now) {
        self.copying.copies[usize::from(place)] = None;
        self.copying.pacer.on_end(now);
        self.guard.release(Owner::Copy(place), &mut self.granted);
        self.wake_sync_waiters(now);
    }

    /// Copies from or to replicas that are gone are started anew or go on without them.
    pub(super) fn abandon_copies(&mut self, replicas: Members, now: Now) {
        for place in 0..self.config.copies_max {
            let Some(mut copy) = self.copying.copies[usize::from(place)] else { continue };
            match &mut copy.step {
                Step::Reading(source) if replicas.has(*source) => {
                    self.set_copy(place, copy);
                    self.on_copy_blocks(place, now);
                }
                Step::Writing { pending, done } => {
                    *pending -= replicas;
                    *done -= replicas;
                    self.set_copy(place, copy);
                    self.settle_copy(place, now);
                }
                _ => {}
            }
        }
    }

    // What is copied counts when it is flushed

    /// Flushes a replica after some regions, and after the last.
    pub(super) fn flush_copies(&mut self, replica: ReplicaIndex, now: Now) {
        let enough = (self.regions() / FLUSHES_PER_VOLUME).clamp(1, REGIONS_PER_FLUSH_MAX);
        let peer = &mut self.peers[replica.index()];
        let due = peer.stale.is_empty() || peer.unflushed.ones() >= enough;
        if due && !peer.copy_flush && !peer.unflushed.is_empty() {
            peer.copy_flush = true;
            std::mem::swap(&mut peer.flushing, &mut peer.unflushed);
            self.send(replica, Lane::default(), Purpose::CopyFlush, RequestOp::Flush, now);
        }
    }

    pub(super) fn on_copy_flushed(&mut self, replica: ReplicaIndex, outcome: &Outcome, now: Now) {
        if !self.fail_unless_done(replica, outcome, now) {
            return;
        }
        let peer = &mut self.peers[replica.index()];
        peer.copy_flush = false;
        for region in peer.flushing.iter() {
            self.intent.touch(replica, region);
        }
        peer.flushing.clear_all();
        self.flush_copies(replica, now);
        self.on_copied_everything(replica, now);
    }

    /// Proposes a replica that lacks nothing, has it on its media, and holds every bit.
    pub(super) fn on_copied_everything(&mut self, replica: ReplicaIndex, now: Now) {
        let peer = &self.peers[replica.index()];
        let through = peer.stale.is_empty() && peer.unflushed.is_empty() && !peer.copy_flush;
        // One that counts must not say later that it shared the bits of somebody long gone.
        let ready = through
            && self.intent.is_complete(replica)
            && self.shares_bits(replica)
            && self.is_large(replica);
        if ready && self.syncing.has(replica) && self.phase == Phase::Active {
            self.pledge(replica, now);
        }
    }

    // Clearing

    /// Regions that were not written for a while are clean once everything was flushed: if all copies are there and equal.
    pub(super) fn clean(&mut self, now: Now) {
        if now < self.copying.clean_at || self.copying.clean_pending.is_some() {
            return;
        }
        self.copying.clean_at = now.after_ns(self.config.clean_ns);
        if !self.is_whole() {
            return;
        }
        self.roster.trust_only_own();
        self.copying.cooling.clear_all();
        for region in self.intent.dirty.iter().filter(|region| !self.intent.recent.has(*region)) {
            self.copying.cooling.set(region);
        }
        self.intent.recent.clear_all();
        // Commands under way may write to their regions until they end.
        for blocks in self.blocks_being_written() {
            for region in self.regions_of(&blocks) {
                self.intent.recent.set(region);
            }
        }
        if self.copying.cooling.is_empty() {
            return;
        }
        self.copying.clean_pending = Some(self.recorded);
        self.copying.cycle = self.copying.cycle.wrapping_add(1);
        let purpose = Purpose::CleanFlush(self.copying.cycle);
        for replica in self.recorded.iter() {
            self.send(replica, Lane::default(), purpose, RequestOp::Flush, now);
        }
    }

    /// Whether every replica there is is in sync, and equal to the others; whoever else there may be is not believed later.
    fn is_whole(&self) -> bool {
        let equal = |replica: ReplicaIndex| {
            let peer = &self.peers[replica.index()];
            let even = peer.stale.is_empty() && peer.unflushed.is_empty() && !peer.copy_flush;
            even && self.shares_bits(replica)
        };
        self.phase == Phase::Active
            && self.recorded == self.config.members
            && self.failed.is_empty()
            && self.recorded.iter().all(equal)
    }

    /// A replica is gone: the cycle is over.
    pub(super) fn forget_cycle(&mut self) {
        self.copying.clean_pending = None;
    }

    pub(super) fn on_clean_flushed(
        &mut self,
        replica: ReplicaIndex,
        cycle: u32,
        outcome: &Outcome,
        now: Now,
    ) {
        if !self.fail_unless_done(replica, outcome, now) || cycle != self.copying.cycle {
            return;
        }
        let Some(mut pending) = self.copying.clean_pending else { return };
        pending.remove(replica);
        self.copying.clean_pending = Some(pending);
        if !pending.is_empty() {
            return;
        }
        self.copying.clean_pending = None;
        if !self.is_whole() {
            return;
        }
        let none = Bitmap::new(self.regions());
        let cooled = std::mem::replace(&mut self.copying.cooling, none);
        for region in cooled.iter() {
            if !self.intent.recent.has(region) {
                self.intent.clear(region);
                self.counters.regions_cleaned += 1;
            }
        }
    }
}
