//! Commands of hosts: blocks, bits, fan-out, acknowledgement; reads with second chances.

use std::ops::Range;

use fabrics::Now;
use nvme::Status;

use super::guard::Owner;
use super::machine::{Phase, Refused, Volume};
use super::pending::Purpose;
use super::{
    Event, Failure, Lane, LossReason, Members, Operation, Outcome, ReplicaIndex, RequestOp, Session,
};

/// Regions that one step of a long zeroing covers: it holds its blocks alone for as long as that takes.
const ZEROES_REGIONS: u64 = 32;

/// How far a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// It waits for its blocks.
    Blocks,
    /// A read waits for regions to be copied; it holds no blocks.
    Sync,
    /// A write waits for the end of a pause; it holds no blocks.
    Frozen,
    /// It has its blocks, and waits for bits.
    Intent,
    /// Replicas work on it.
    Issued,
}

/// A command under way.
pub(super) struct Command {
    tag: u64,
    lane: Lane,
    /// When it came.
    since: Now,
    operation: Operation,
    pub(super) step: Step,
    /// The part that is under way now; of most commands the whole.
    blocks: Range<u64>,
    end: u64,
    /// Replicas that were asked.
    targets: Members,
    /// Those that have not answered.
    pending: Members,
    /// Those that have it.
    done: Members,
    /// Those that could not read it.
    tried: Members,
    status: Status,
}

impl Command {
    fn is_read(&self) -> bool {
        matches!(self.operation, Operation::Read { .. })
    }

    pub(super) fn changes_blocks(&self) -> bool {
        matches!(self.operation, Operation::Write { .. } | Operation::Zeroes { .. })
    }

    fn holds_blocks(&self) -> bool {
        !matches!(self.step, Step::Sync | Step::Frozen) && self.operation != Operation::Flush
    }
}

fn blocks_of(operation: &Operation) -> Range<u64> {
    match *operation {
        Operation::Read { at, blocks }
        | Operation::Write { at, blocks, .. }
        | Operation::Zeroes { at, blocks, .. } => at..at.saturating_add(u64::from(blocks)),
        Operation::Flush => 0..0,
    }
}

impl Volume {
    /// A command of a host. How it ends is in [`Event::Done`] with this tag.
    ///
    /// # Errors
    /// It is not taken, or ends at once.
    pub fn submit(&mut self, tag: u64, lane: Lane, operation: Operation, now: Now) -> Result<(), Refused> {
        let blocks = blocks_of(&operation);
        if !matches!(self.phase, Phase::Active | Phase::Changing { .. }) {
            return Err(Refused::Failed(Failure::NotHead));
        }
        if blocks.end > self.config.blocks {
            return Err(Refused::Failed(Failure::OutOfRange));
        }
        let Some(slot) = self.free.pop() else { return Err(Refused::Busy) };
        let end = blocks.end;
        self.commands[slot as usize] = Some(Command {
            tag,
            lane,
            since: now,
            operation,
            step: Step::Blocks,
            blocks,
            end,
            targets: Members::NONE,
            pending: Members::NONE,
            done: Members::NONE,
            tried: Members::NONE,
            status: Status::SUCCESS,
        });
        match operation {
            Operation::Flush => self.issue_to_all(slot, now),
            _ => self.begin(slot, now),
        }
        self.run(now);
        Ok(())
    }

    /// The replica on this node and the attachment to it, when it can be read at once, without a command: nobody has the blocks
    /// alone or waits for that, they are the same on every copy, and every lease holds. What is read there before anything else
    /// is done here is what a command would read.
    #[inline]
    pub fn reads_at_once(&self, at: u64, blocks: u32, now: Now) -> Option<(ReplicaIndex, Session)> {
        let blocks = at..at.checked_add(u64::from(blocks))?;
        let counted = self.recorded - self.failed;
        let local = self.config.local.filter(|local| counted.has(*local))?;
        let serves = matches!(self.phase, Phase::Active | Phase::Changing { .. })
            && blocks.end <= self.config.blocks
            && !self.is_stale_anywhere(&blocks)
            && self.guard.may_share(blocks)
            && self.holds_leases(now);
        serves.then(|| (local, self.session(local)))
    }

    fn command(&self, slot: u32) -> &Command {
        let Some(command) = &self.commands[slot as usize] else { unreachable!("a command under way") };
        command
    }

    fn command_mut(&mut self, slot: u32) -> &mut Command {
        let Some(command) = &mut self.commands[slot as usize] else { unreachable!("a command under way") };
        command
    }

    pub(super) fn regions_of(&self, blocks: &Range<u64>) -> Range<u64> {
        // A power of two.
        let shift = self.config.region_blocks.trailing_zeros();
        let last = u64::from(self.config.region_blocks - 1);
        blocks.start >> shift..blocks.end.saturating_add(last) >> shift
    }

    /// Asks for the blocks of the next part.
    pub(super) fn begin(&mut self, slot: u32, now: Now) {
        let region = u64::from(self.config.region_blocks);
        let frozen = self.freezer.is_on();
        let command = self.command_mut(slot);
        command.step = Step::Blocks;
        if matches!(command.operation, Operation::Zeroes { .. }) {
            let last = (command.blocks.start / region + ZEROES_REGIONS) * region;
            command.blocks.end = command.end.min(last);
        }
        let (blocks, alone) = (command.blocks.clone(), !command.is_read());
        if alone && frozen {
            self.command_mut(slot).step = Step::Frozen;
            return self.freezer.waiters.push(slot);
        }
        if !alone && self.waits_for_sync(slot, &blocks) {
            return;
        }
        if self.guard.acquire(Owner::Command(slot), blocks, alone) {
            self.on_blocks(slot, now);
        }
    }

    /// Puts a read aside whose blocks may differ between replicas. What it returned could otherwise be taken back by the
    /// loss of the replica it came from.
    fn waits_for_sync(&mut self, slot: u32, blocks: &Range<u64>) -> bool {
        if !self.is_stale_anywhere(blocks) {
            return false;
        }
        self.command_mut(slot).step = Step::Sync;
        self.sync_waiters.push(slot);
        self.copying.hurry(self.regions_of(blocks));
        true
    }

    /// Whether blocks may be old on a replica that counts.
    #[inline]
    fn is_stale_anywhere(&self, blocks: &Range<u64>) -> bool {
        let counted = self.recorded - self.failed;
        counted.iter().any(|replica| {
            let stale = &self.peers[replica.index()].stale;
            !stale.is_empty() && stale.meets(self.regions_of(blocks))
        })
    }

    /// The command has its blocks.
    pub(super) fn on_blocks(&mut self, slot: u32, now: Now) {
        let command = self.command(slot);
        let blocks = command.blocks.clone();
        if command.is_read() {
            if self.waits_for_sync(slot, &blocks) {
                return self.release(slot);
            }
            return self.read_somewhere(slot, now);
        }
        if self.recorded.len() < self.config.min_in_sync {
            return self.end(slot, Err(Failure::TooFewReplicas));
        }
        let regions = self.regions_of(&blocks);
        let before = self.intent.dirty.ones();
        self.intent.mark(regions.clone());
        self.counters.regions_marked += self.intent.dirty.ones() - before;
        if self.intent.covers(regions, self.attached()) {
            self.issue_to_all(slot, now);
        } else {
            self.command_mut(slot).step = Step::Intent;
            self.intent_waiters.push(slot);
        }
    }

    pub(super) fn wake_intent_waiters(&mut self, now: Now) {
        let waiting = std::mem::take(&mut self.intent_waiters);
        for slot in waiting {
            let regions = self.regions_of(&self.command(slot).blocks);
            if self.intent.covers(regions, self.attached()) {
                self.issue_to_all(slot, now);
            } else {
                self.intent_waiters.push(slot);
            }
        }
    }

    pub(super) fn wake_sync_waiters(&mut self, now: Now) {
        for slot in std::mem::take(&mut self.sync_waiters) {
            self.begin(slot, now);
        }
    }

    /// Sends a command to every replica that gets writes.
    fn issue_to_all(&mut self, slot: u32, now: Now) {
        let attached = self.attached();
        let command = self.command_mut(slot);
        command.step = Step::Issued;
        (command.targets, command.pending, command.done) = (attached, attached, Members::NONE);
        for replica in attached.iter() {
            self.issue(slot, replica, now);
        }
        self.settle(slot, now);
    }

    fn issue(&mut self, slot: u32, replica: ReplicaIndex, now: Now) {
        let command = self.command(slot);
        let (tag, lane, at) = (command.tag, command.lane, command.blocks.start);
        let blocks = u32::try_from(command.blocks.end - at).unwrap_or(u32::MAX);
        let op = match command.operation {
            Operation::Read { .. } => RequestOp::Read { tag, at, blocks },
            Operation::Write { fua, .. } => RequestOp::Write { tag, at, blocks, fua },
            Operation::Zeroes { deallocate, fua, .. } => RequestOp::Zeroes { at, blocks, deallocate, fua },
            Operation::Flush => RequestOp::Flush,
        };
        self.send(replica, lane, Purpose::Command(slot), op, now);
    }

    /// A flush under way must be answered by a replica that counts from now on.
    pub(super) fn extend_flushes(&mut self, replica: ReplicaIndex, now: Now) {
        for slot in 0..self.config.commands_max {
            let Some(command) = &mut self.commands[slot as usize] else { continue };
            let is_flush = command.operation == Operation::Flush;
            let asked = command.targets.has(replica);
            assert!(is_flush || asked || command.is_read() || command.step != Step::Issued);
            if is_flush && !asked {
                command.targets.insert(replica);
                command.pending.insert(replica);
                self.issue(slot, replica, now);
            }
        }
    }

    /// Reads from the best replica that was not tried: the local one, else the one with the fewest reads.
    fn read_somewhere(&mut self, slot: u32, now: Now) {
        let command = self.command(slot);
        let regions = self.regions_of(&command.blocks);
        let left = self.recorded - self.failed - command.tried;
        let fresh = |replica: &ReplicaIndex| !self.peers[replica.index()].stale.meets(regions.clone());
        let load = |replica: &ReplicaIndex| {
            let local = self.config.local == Some(*replica);
            (!local, self.peers[replica.index()].reads)
        };
        let Some(replica) = left.iter().filter(fresh).min_by_key(load) else {
            return self.nothing_to_read(slot);
        };
        self.peers[replica.index()].reads += 1;
        let command = self.command_mut(slot);
        command.step = Step::Issued;
        command.targets = Members::one(replica);
        command.pending = command.targets;
        self.issue(slot, replica, now);
    }

    /// Every replica was tried, or is gone; with replicas gone, the command waits for the set to change, or the lease.
    fn nothing_to_read(&mut self, slot: u32) {
        let command = self.command_mut(slot);
        command.step = Step::Issued;
        command.pending = Members::NONE;
        let status = command.status;
        if !status.is_success() {
            self.end(slot, Err(Failure::Media(status)));
        }
    }

    pub(super) fn on_command_answer(
        &mut self,
        slot: u32,
        replica: ReplicaIndex,
        outcome: &Outcome,
        now: Now,
    ) {
        let read = self.command(slot).is_read();
        if read {
            self.peers[replica.index()].reads -= 1;
        }
        match outcome {
            Outcome::Done => {
                let command = self.command_mut(slot);
                command.pending.remove(replica);
                command.done.insert(replica);
                if read { self.repair(slot, now) } else { self.settle(slot, now) }
            }
            Outcome::Failed(status) if read => {
                let command = self.command_mut(slot);
                command.pending.remove(replica);
                command.tried.insert(replica);
                command.status = *status;
                self.read_somewhere(slot, now);
            }
            Outcome::Failed(_) => self.fail(replica, LossReason::Media, now),
            _ => self.fail(replica, LossReason::Path, now),
        }
    }

    /// Writes what was read over what others could not read, then answers.
    fn repair(&mut self, slot: u32, now: Now) {
        let command = self.command(slot);
        let broken = command.tried & self.attached();
        if broken.is_empty() {
            return self.acknowledge(slot, now);
        }
        let (tag, lane, at) = (command.tag, command.lane, command.blocks.start);
        let blocks = u32::try_from(command.blocks.end - at).unwrap_or(u32::MAX);
        self.command_mut(slot).pending = broken;
        for replica in broken.iter() {
            let op = RequestOp::Write { tag, at, blocks, fua: false };
            self.send(replica, lane, Purpose::Repair(slot), op, now);
        }
    }

    pub(super) fn on_repaired(&mut self, slot: u32, replica: ReplicaIndex, outcome: &Outcome, now: Now) {
        if self.fail_unless_done(replica, outcome, now) {
            let command = self.command_mut(slot);
            command.pending.remove(replica);
            let blocks = command.blocks.end - command.blocks.start;
            self.counters.blocks_repaired += blocks;
            self.settle(slot, now);
        }
    }

    /// Ends a command, or its part, when every replica that counts has it.
    fn settle(&mut self, slot: u32, now: Now) {
        let counted = self.recorded | self.pledged;
        let command = self.command(slot);
        if command.step != Step::Issued || !command.pending.is_empty() {
            return;
        }
        if command.is_read() {
            return match command.done.is_empty() {
                true => self.read_somewhere(slot, now),
                false => self.acknowledge(slot, now),
            };
        }
        if !command.done.covers(counted) {
            return;
        }
        if command.changes_blocks() && self.recorded.len() < self.config.min_in_sync {
            // The set has shrunk meanwhile: it is on fewer copies than were asked for.
            return self.end(slot, Err(Failure::TooFewReplicas));
        }
        if command.blocks.end < command.end {
            self.release(slot);
            let command = self.command_mut(slot);
            command.blocks.start = command.blocks.end;
            return self.begin(slot, now);
        }
        self.acknowledge(slot, now);
    }

    /// Ends a command well, if nobody else can have become the head meanwhile.
    fn acknowledge(&mut self, slot: u32, now: Now) {
        if self.holds_leases(now) {
            let command = self.command(slot);
            if command.operation != Operation::Flush {
                let took_ns = now.since(command.since);
                self.copying.on_command(took_ns);
            }
            self.end(slot, Ok(()));
        } else {
            self.depose(false);
        }
    }

    /// The set of replicas changed: what waited only for those that went ends now, reads go elsewhere.
    pub(super) fn settle_all(&mut self, now: Now) {
        for slot in 0..self.config.commands_max {
            if matches!(self.phase, Phase::Deposed) {
                return;
            }
            if self.commands[slot as usize].is_some() {
                self.settle(slot, now);
            }
        }
    }

    /// Nobody waits for this replica any more.
    pub(super) fn forget_replica(&mut self, replica: ReplicaIndex) {
        for command in self.commands.iter_mut().flatten() {
            command.pending.remove(replica);
            if command.operation == Operation::Flush {
                // Should it be back before the flush ends, it is asked anew.
                command.targets.remove(replica);
                command.done.remove(replica);
            }
        }
        self.peers[replica.index()].reads = 0;
    }

    /// Blocks that commands under way may still write.
    pub(super) fn blocks_being_written(&self) -> Vec<Range<u64>> {
        let writes = self.commands.iter().flatten().filter(|command| !command.is_read());
        writes.map(|command| command.blocks.clone()).collect()
    }

    fn release(&mut self, slot: u32) {
        self.guard.release(Owner::Command(slot), &mut self.granted);
    }

    fn end(&mut self, slot: u32, result: Result<(), Failure>) {
        let Some(command) = self.commands[slot as usize].take() else { unreachable!("a command under way") };
        self.free.push(slot);
        if command.holds_blocks() {
            self.release(slot);
        }
        let Command { tag, lane, .. } = command;
        self.event(Event::Done { tag, lane, result });
    }

    pub(super) fn fail_commands(&mut self) {
        self.intent_waiters.clear();
        self.sync_waiters.clear();
        self.freezer.stop();
        for slot in 0..self.config.commands_max {
            if self.commands[slot as usize].is_some() {
                self.end(slot, Err(Failure::NotHead));
            }
        }
        self.granted.clear();
    }
}
