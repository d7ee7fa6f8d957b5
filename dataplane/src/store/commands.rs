//! The life of a command in its slot.
//!
//! | command | phases |
//! |---|---|
//! | read | start → data → done |
//! | write | start → data → change → durable (FUA) → done |
//! | own | start → data, read → copying → data, written → change → done |
//! | unmap, control | start → change → durable (FUA, control) → done |
//! | flush | start → durable → done |

use zerocopy::FromZeros;

use super::cache::Stop;
use super::command::{Command, Control, Event, Failure, Operation};
use super::format::{FANOUT, MapEntry, MapPage, Record, VolumeEntry};
use super::machine::{Purpose, Store};
use super::request::{Finished, RequestOp};
use super::state::{State, Volume};
use super::tree::Leaf;
use super::{Block, COMMAND_BLOCKS_MAX, Lsn, VolumeBlock, VolumeId};

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Work {
    Read,
    Own,
    Write { fua: bool },
    Unmap { fua: bool },
    Flush,
    Control(Control),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Phase {
    Start,
    Data {
        left: u32,
        failure: Option<Failure>,
    },
    /// What was read is to be written elsewhere.
    Copying,
    Change,
    Durable {
        lsn: Lsn,
        made: Option<VolumeId>,
    },
}

/// Blocks of a volume as it was when the command came: a later volume in the same place is another.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Range {
    pub(crate) volume: VolumeId,
    born: Lsn,
    at: VolumeBlock,
    blocks: u32,
}

/// A part of a range that lies in one leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) at: VolumeBlock,
    /// Within the range.
    pub(crate) offset: usize,
    pub(crate) blocks: usize,
}

pub(crate) struct Slot {
    tag: u64,
    work: Work,
    pub(crate) range: Range,
    pub(crate) phase: Phase,
    /// A read began when this was the last record.
    pub(crate) since: Lsn,
    /// Whether the volume has checksums.
    summed: bool,
    /// Frames that its change is to find room for.
    frames: u64,
    /// Where each block of the range lies, or will.
    pub(crate) entries: Vec<MapEntry>,
    /// Where blocks to be copied lie.
    pub(crate) sources: Vec<MapEntry>,
}

impl Default for Slot {
    fn default() -> Self {
        let range = Range { volume: VolumeId(0), born: Lsn(0), at: VolumeBlock(0), blocks: 0 };
        Self {
            tag: 0,
            work: Work::Flush,
            range,
            phase: Phase::Start,
            since: Lsn(0),
            summed: true,
            frames: 0,
            entries: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl Range {
    pub(crate) fn parts(self) -> impl Iterator<Item = Part> {
        let mut offset = 0;
        let blocks = self.blocks as usize;
        std::iter::from_fn(move || {
            let at = VolumeBlock(self.at.0 + offset as u64);
            let len = (FANOUT - Leaf::of(at).1).min(blocks - offset);
            let part = Part { at, offset, blocks: len };
            offset += len;
            (len > 0).then_some(part)
        })
    }

    fn of(volume: VolumeId, at: VolumeBlock, blocks: usize) -> Result<Self, Failure> {
        let blocks = u32::try_from(blocks).map_err(|_| Failure::OutOfRange)?;
        let fits = (1..=COMMAND_BLOCKS_MAX).contains(&blocks);
        let range = Self { volume, born: Lsn(0), at, blocks };
        if fits { Ok(range) } else { Err(Failure::OutOfRange) }
    }

    /// That the volume still is what it was, and large enough.
    pub(crate) fn check(&self, state: &State) -> Result<(), Failure> {
        let volume = state.live(self.volume).ok_or(Failure::NoVolume)?;
        if volume.entry.born.get() != self.born.0 {
            return Err(Failure::NoVolume);
        }
        let end = self.at.0.checked_add(self.blocks.into()).filter(|end| *end <= volume.blocks());
        end.map(|_| ()).ok_or(Failure::OutOfRange)
    }
}

impl Slot {
    pub(crate) fn fill(&mut self, command: &Command<'_>, state: &State) -> Result<(), Failure> {
        self.tag = command.tag;
        self.phase = Phase::Start;
        self.entries.clear();
        self.sources.clear();
        let mut sums: &[u32] = &[];
        let (work, range) = match &command.operation {
            Operation::Read { volume, at, blocks } => {
                (Work::Read, Range::of(*volume, *at, *blocks as usize)?)
            }
            Operation::Write { volume, at, sums: given, fua } => {
                sums = given;
                (Work::Write { fua: *fua }, Range::of(*volume, *at, given.len())?)
            }
            Operation::Unmap { volume, at, blocks, fua } => {
                (Work::Unmap { fua: *fua }, Range::of(*volume, *at, *blocks as usize)?)
            }
            Operation::Own { volume, at, blocks } => (Work::Own, Range::of(*volume, *at, *blocks as usize)?),
            Operation::Flush => (Work::Flush, self.range),
            Operation::Control(control) => (Work::Control(control.clone()), self.range),
        };
        (self.work, self.range) = (work, range);
        if !matches!(self.work, Work::Flush | Work::Control(_)) {
            let volume = state.live(range.volume).ok_or(Failure::NoVolume)?;
            self.range.born = Lsn(volume.entry.born.get());
            self.range.check(state)?;
            self.may_change(volume)?;
            self.summed = !volume.has(VolumeEntry::UNSUMMED);
        }
        let sum = |sum| if self.summed { sum } else { 0 };
        self.entries.extend(sums.iter().map(|given| MapEntry { target: 0.into(), sum: sum(*given).into() }));
        Ok(())
    }

    /// Whether the volume's settings allow the command.
    fn may_change(&self, volume: &Volume) -> Result<(), Failure> {
        let refused = match self.work {
            Work::Write { .. } | Work::Unmap { .. } => volume.is_read_only(),
            Work::Own => volume.has(VolumeEntry::SNAPSHOT),
            Work::Read | Work::Flush | Work::Control(_) => false,
        };
        if refused { Err(Failure::ReadOnly) } else { Ok(()) }
    }

    /// The command is done: nothing is read or held for it.
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Start;
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    pub(crate) fn is_in_data(&self) -> bool {
        matches!(self.phase, Phase::Data { left: 1.., .. })
    }

    /// Whether its data, if any is under way, is being written.
    pub(crate) fn writes(&self) -> bool {
        matches!(self.work, Work::Write { .. }) || !self.sources.is_empty()
    }

    /// Whether it waits for a record after `durable` to be on the media.
    pub(crate) fn awaits_after(&self, durable: Lsn) -> bool {
        matches!(self.phase, Phase::Durable { lsn, .. } if lsn > durable)
    }

    /// Blocks freed by records after this may still be read.
    pub(crate) fn reading_since(&self) -> Option<Lsn> {
        let reads = match self.work {
            Work::Read => self.is_in_data(),
            // Until the end: a block that was freed and taken again is not the one that was read.
            Work::Own => self.phase != Phase::Start,
            _ => false,
        };
        reads.then_some(self.since)
    }

    /// A data request that began at `offset` is finished; says whether it was the last.
    pub(crate) fn data_finished(&mut self, offset: u32, finished: Finished<'_>) -> bool {
        let Phase::Data { left, failure } = self.phase else {
            unreachable!("data requests belong to their phase")
        };
        let unchecked = matches!(finished, Finished::Done) && self.summed && self.is_reading(offset);
        assert!(!unchecked, "blocks of a volume with checksums come with theirs");
        let found = match finished {
            Finished::Failed => Some(Failure::Media),
            Finished::Sums(sums) if self.summed && !self.sums_match(offset, sums) => Some(Failure::Corrupt),
            _ => None,
        };
        self.phase = Phase::Data { left: left - 1, failure: failure.or(found) };
        left == 1
    }

    /// Whether the data request that began at `offset` reads from the device.
    fn is_reading(&self, offset: u32) -> bool {
        let copies = self.work == Work::Own && self.sources.is_empty();
        (self.work == Work::Read || copies) && self.entries[offset as usize].target != 0
    }

    fn sums_match(&self, offset: u32, sums: &[u32]) -> bool {
        let entries = &self.entries[offset as usize..];
        sums.len() <= entries.len() && entries.iter().zip(sums).all(|(entry, sum)| entry.sum == *sum)
    }
}

/// Why a step goes no further.
pub(crate) enum Halt {
    /// Something else comes first.
    Wait(Stop),
    /// The command is done.
    End(Result<Option<VolumeId>, Failure>),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Wait(stop)
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::End(Err(failure))
    }
}

pub(crate) type Step<T = ()> = Result<T, Halt>;

impl Store {
    /// Takes a command as far as it goes now. `Err`: it is done.
    pub(crate) fn advance(
        &mut self,
        index: usize,
        slot: &mut Slot,
    ) -> Result<(), Result<Option<VolumeId>, Failure>> {
        let halt = loop {
            let before = slot.phase;
            match self.step(index, slot) {
                Ok(()) if slot.phase == before => return Ok(()),
                Ok(()) => {}
                Err(halt) => break halt,
            }
        };
        let result = match halt {
            Halt::Wait(stop) => match self.arrange(stop) {
                Ok(()) => return Ok(()),
                Err(failure) => Err(failure),
            },
            Halt::End(result) => result,
        };
        self.unhold(slot);
        Err(result)
    }

    fn step(&mut self, index: usize, slot: &mut Slot) -> Step {
        match slot.phase {
            Phase::Start => self.step_start(index, slot),
            Phase::Data { left: 1.., .. } => Ok(()),
            Phase::Data { failure: Some(failure), .. } => Err(failure.into()),
            Phase::Data { .. } => match slot.work {
                Work::Read => Err(Halt::End(Ok(None))),
                Work::Own if slot.sources.is_empty() => {
                    slot.phase = Phase::Copying;
                    Ok(())
                }
                _ => {
                    slot.phase = Phase::Change;
                    Ok(())
                }
            },
            Phase::Durable { lsn, made } if lsn <= self.log.durable() => Err(Halt::End(Ok(made))),
            Phase::Copying | Phase::Change | Phase::Durable { .. } if self.stopped => {
                Err(Failure::Stopped.into())
            }
            Phase::Copying => self.copy_blocks(index, slot),
            Phase::Change => self.step_change(slot),
            Phase::Durable { .. } => Ok(()),
        }
    }

    fn step_start(&mut self, index: usize, slot: &mut Slot) -> Step {
        match slot.work {
            Work::Read => return self.start_read(index, slot),
            _ if self.stopped => return Err(Failure::Stopped.into()),
            Work::Write { .. } => return self.start_write(index, slot),
            Work::Own => return self.start_own(index, slot),
            Work::Unmap { .. } | Work::Control(_) => slot.phase = Phase::Change,
            Work::Flush => slot.phase = Phase::Durable { lsn: self.state.lsn, made: None },
        }
        Ok(())
    }

    fn start_read(&mut self, index: usize, slot: &mut Slot) -> Step {
        slot.range.check(&self.state)?;
        slot.entries.clear();
        let root = self.state.live(slot.range.volume).ok_or(Failure::NoVolume)?.root;
        for part in slot.range.parts() {
            let (leaf, first) = Leaf::of(part.at);
            match self.state.meta.leaf(root, leaf)? {
                None => slot.entries.extend((0..part.blocks).map(|_| MapEntry::new_zeroed())),
                Some(page) => {
                    let entries = (first..first + part.blocks)
                        .map(|at| MapEntry { target: page.targets[at].into(), sum: page.sums[at].into() });
                    slot.entries.extend(entries);
                }
            }
        }
        if slot.entries.iter().any(|entry| entry.target == MapPage::LOST) {
            return Err(Failure::Corrupt.into());
        }
        slot.since = self.state.lsn;
        self.request_data(index, slot, |tag, offset, block, blocks| match block {
            None => Some(RequestOp::ZeroData { tag, offset, blocks }),
            Some(block) => Some(RequestOp::ReadData { tag, offset, block, blocks }),
        });
        Ok(())
    }

    fn start_write(&mut self, index: usize, slot: &mut Slot) -> Step {
        slot.range.check(&self.state)?;
        self.may_change()?;
        self.promise_frames(slot, slot.entries.len() as u64)?;
        if let Err(stop) = self.hold(slot) {
            // The frames are promised again when it is tried again.
            self.unhold(slot);
            return Err(stop.into());
        }
        self.request_data(index, slot, |tag, offset, block, blocks| {
            let block = block.expect("every block of a write is held");
            Some(RequestOp::WriteData { tag, offset, block, blocks })
        });
        self.writing += 1;
        Ok(())
    }

    /// That there is room for blocks of data, and for the frames that mapping them takes.
    pub(crate) fn promise_frames(&mut self, slot: &mut Slot, data: u64) -> Result<(), Halt> {
        let volume = self.state.live(slot.range.volume).ok_or(Failure::NoVolume)?;
        let frames = slot.range.parts().count() as u64 * (u64::from(volume.root.height) + 1);
        let left = self.left_by_write(slot.range.volume) + self.frames_promised + frames;
        self.has_space(0, data, left)?;
        slot.frames = frames;
        self.frames_promised += frames;
        Ok(())
    }

    /// One request for each stretch of entries that follow each other on the device, or have no block.
    pub(crate) fn request_data(
        &mut self,
        index: usize,
        slot: &mut Slot,
        op: impl Fn(u64, u32, Option<Block>, u32) -> Option<RequestOp>,
    ) {
        let (mut offset, mut left) = (0, 0);
        while let Some((block, blocks)) = run_at(&slot.entries, offset) {
            let first = u32::try_from(offset).unwrap_or(u32::MAX);
            if let Some(op) = op(slot.tag, first, block, blocks) {
                self.request(Purpose::Data { slot: index, offset: first }, op);
                left += 1;
            }
            offset += blocks as usize;
        }
        slot.phase = Phase::Data { left, failure: None };
    }

    pub(crate) fn hold(&mut self, slot: &mut Slot) -> Result<(), Stop> {
        for entry in slot.entries.iter_mut() {
            entry.target = self.state.meta.space.hold()?.0.into();
        }
        Ok(())
    }

    /// Gives back the blocks of a write that were not mapped.
    pub(crate) fn unhold(&mut self, slot: &mut Slot) {
        self.frames_promised -= std::mem::take(&mut slot.frames);
        if !matches!(slot.work, Work::Write { .. }) && slot.sources.is_empty() {
            return;
        }
        for entry in &mut slot.entries {
            let block = Block(std::mem::replace(&mut entry.target, 0.into()).get());
            if block.0 != 0 {
                self.state.meta.space.unhold(block);
            }
        }
    }

    fn step_change(&mut self, slot: &mut Slot) -> Step {
        self.may_change()?;
        match slot.work {
            Work::Write { fua } => {
                self.change_range(slot, |part, slot| {
                    let entries = &slot.entries[part.offset..part.offset + part.blocks];
                    Record::Map { volume: slot.range.volume, at: part.at, entries }
                })?;
                slot.entries.clear();
                self.changed(slot, fua, None)
            }
            Work::Unmap { fua } => {
                self.change_range(slot, |part, slot| Record::Unmap {
                    volume: slot.range.volume,
                    at: part.at,
                    blocks: u16::try_from(part.blocks).unwrap_or(u16::MAX),
                })?;
                self.changed(slot, fua, None)
            }
            Work::Own => self.change_owner(slot),
            Work::Control(ref control) => {
                let made = self.change_volumes(control)?;
                self.changed(slot, true, made)
            }
            Work::Read | Work::Flush => unreachable!("neither changes anything"),
        }
    }

    pub(crate) fn changed(&mut self, slot: &mut Slot, durable: bool, made: Option<VolumeId>) -> Step {
        let lsn = self.state.lsn;
        self.frames_promised -= std::mem::take(&mut slot.frames);
        self.events.push_back(Event::Applied { tag: slot.tag, lsn, made });
        if durable {
            slot.phase = Phase::Durable { lsn, made };
            Ok(())
        } else {
            Err(Halt::End(Ok(made)))
        }
    }

    /// All parts of a range, or none.
    fn change_range(&mut self, slot: &Slot, record: impl for<'a> Fn(Part, &'a Slot) -> Record<'a>) -> Step {
        slot.range.check(&self.state)?;
        slot.may_change(self.state.live(slot.range.volume).ok_or(Failure::NoVolume)?)?;
        let mut frames = 0;
        for part in slot.range.parts() {
            if self.changes_anything(slot, part)? {
                frames += self.state.ready(&record(part, slot))?;
            }
        }
        let left = match slot.work {
            // Room for it was promised when it began.
            Work::Write { .. } => 0,
            _ => self.left_by_change(slot.range.volume),
        };
        self.has_space(frames, 0, left)?;
        for part in slot.range.parts() {
            if self.changes_anything(slot, part)? {
                self.apply(&record(part, slot));
            }
        }
        Ok(())
    }

    fn changes_anything(&self, slot: &Slot, part: Part) -> Result<bool, Stop> {
        match slot.work {
            Work::Unmap { .. } => self.state.maps_any(slot.range.volume, part.at, part.blocks),
            _ => Ok(true),
        }
    }
}

/// The stretch of entries from `offset` on that follow each other on the device, or have no block.
fn run_at(entries: &[MapEntry], offset: usize) -> Option<(Option<Block>, u32)> {
    let entries = entries.get(offset..)?;
    let first = entries.first()?.target.get();
    let follows = |index: u64| if first == 0 { 0 } else { first + index };
    let blocks =
        (0..).zip(entries).take_while(|(index, entry)| entry.target.get() == follows(*index)).count();
    Some(((first != 0).then_some(Block(first)), u32::try_from(blocks).unwrap_or(u32::MAX)))
}
