//! The life of a command in its slot.
//!
//! | command | phases |
//! |---|---|
//! | read | start → data → done |
//! | write | start → data → change → durable (FUA) → done |
//! | unmap, control | start → change → durable (FUA, control) → done |
//! | flush | start → durable → done |

use zerocopy::FromZeros;

use super::cache::Stop;
use super::command::{Command, Control, Event, Failure, Operation};
use super::format::{FANOUT, MapEntry, Record, VolumeEntry};
use super::machine::{Purpose, Store};
use super::request::{Finished, RequestOp};
use super::state::{State, Volume, VolumeKind};
use super::tree::Leaf;
use super::{Block, COMMAND_BLOCKS_MAX, Lsn, VOLUME_BLOCKS_MAX, VolumeBlock, VolumeId};

#[derive(Clone, PartialEq, Debug)]
enum Work {
    Read,
    Write { fua: bool },
    Unmap { fua: bool },
    Flush,
    Control(Control),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Start,
    Data { left: u32, failure: Option<Failure> },
    Change,
    Durable { lsn: Lsn, made: Option<VolumeId> },
}

/// Blocks of a volume as it was when the command came: a later volume in the same place is another.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Range {
    volume: VolumeId,
    born: Lsn,
    at: VolumeBlock,
    blocks: u32,
}

/// A part of a range that lies in one leaf.
#[derive(Clone, Copy, Debug)]
struct Part {
    at: VolumeBlock,
    /// Within the range.
    offset: usize,
    blocks: usize,
}

pub(crate) struct Slot {
    tag: u64,
    work: Work,
    range: Range,
    phase: Phase,
    /// A read began when this was the last record.
    since: Lsn,
    /// Where each block of the range lies, or will.
    entries: Vec<MapEntry>,
}

impl Default for Slot {
    fn default() -> Self {
        let range = Range { volume: VolumeId(0), born: Lsn(0), at: VolumeBlock(0), blocks: 0 };
        Self { tag: 0, work: Work::Flush, range, phase: Phase::Start, since: Lsn(0), entries: Vec::new() }
    }
}

impl Range {
    fn parts(self) -> impl Iterator<Item = Part> {
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
    fn check(&self, state: &State) -> Result<(), Failure> {
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
            Operation::Flush => (Work::Flush, self.range),
            Operation::Control(control) => (Work::Control(control.clone()), self.range),
        };
        (self.work, self.range) = (work, range);
        if let Work::Read | Work::Write { .. } | Work::Unmap { .. } = self.work {
            let volume = state.live(range.volume).ok_or(Failure::NoVolume)?;
            self.range.born = Lsn(volume.entry.born.get());
            self.range.check(state)?;
            if volume.has(VolumeEntry::SNAPSHOT) && self.work != Work::Read {
                return Err(Failure::ReadOnly);
            }
        }
        self.entries.extend(sums.iter().map(|sum| MapEntry { target: 0.into(), sum: (*sum).into() }));
        Ok(())
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    pub(crate) fn is_in_data(&self) -> bool {
        matches!(self.phase, Phase::Data { left: 1.., .. })
    }

    /// Whether it waits for a record after `durable` to be on the media.
    pub(crate) fn awaits_after(&self, durable: Lsn) -> bool {
        matches!(self.phase, Phase::Durable { lsn, .. } if lsn > durable)
    }

    /// Blocks freed by records after this may still be read.
    pub(crate) fn reading_since(&self) -> Option<Lsn> {
        (self.work == Work::Read && self.is_in_data()).then_some(self.since)
    }

    /// A data request that began at `offset` is finished; says whether it was the last.
    pub(crate) fn data_finished(&mut self, offset: u32, finished: Finished<'_>) -> bool {
        let Phase::Data { left, failure } = self.phase else {
            unreachable!("data requests belong to their phase")
        };
        let found = match finished {
            Finished::Failed => Some(Failure::Media),
            Finished::Sums(sums) if !self.sums_match(offset, sums) => Some(Failure::Corrupt),
            _ => None,
        };
        self.phase = Phase::Data { left: left - 1, failure: failure.or(found) };
        left == 1
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

type Step<T = ()> = Result<T, Halt>;

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
            Phase::Data { .. } if slot.work == Work::Read => Err(Halt::End(Ok(None))),
            Phase::Data { .. } => {
                slot.phase = Phase::Change;
                Ok(())
            }
            Phase::Durable { lsn, made } if lsn <= self.log.durable() => Err(Halt::End(Ok(made))),
            Phase::Change | Phase::Durable { .. } if self.stopped => Err(Failure::Stopped.into()),
            Phase::Change => self.step_change(slot),
            Phase::Durable { .. } => Ok(()),
        }
    }

    fn step_start(&mut self, index: usize, slot: &mut Slot) -> Step {
        match slot.work {
            Work::Read => return self.start_read(index, slot),
            _ if self.stopped => return Err(Failure::Stopped.into()),
            Work::Write { .. } => return self.start_write(index, slot),
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
        slot.since = self.state.lsn;
        self.request_data(index, slot, |tag, offset, block, blocks| match block {
            None => RequestOp::ZeroData { tag, offset, blocks },
            Some(block) => RequestOp::ReadData { tag, offset, block, blocks },
        });
        Ok(())
    }

    fn start_write(&mut self, index: usize, slot: &mut Slot) -> Step {
        slot.range.check(&self.state)?;
        self.may_change()?;
        self.has_space(0, slot.entries.len(), self.slack())?;
        if let Err(stop) = self.hold(slot) {
            self.unhold(slot);
            return Err(stop.into());
        }
        self.request_data(index, slot, |tag, offset, block, blocks| {
            let block = block.expect("every block of a write is held");
            RequestOp::WriteData { tag, offset, block, blocks }
        });
        Ok(())
    }

    /// One request for each stretch of entries that follow each other on the device, or have no block.
    fn request_data(
        &mut self,
        index: usize,
        slot: &mut Slot,
        op: impl Fn(u64, u32, Option<Block>, u32) -> RequestOp,
    ) {
        let (mut offset, mut left) = (0, 0);
        while let Some((block, blocks)) = run_at(&slot.entries, offset) {
            let first = u32::try_from(offset).unwrap_or(u32::MAX);
            self.request(Purpose::Data { slot: index, offset: first }, op(slot.tag, first, block, blocks));
            offset += blocks as usize;
            left += 1;
        }
        slot.phase = Phase::Data { left, failure: None };
    }

    fn hold(&mut self, slot: &mut Slot) -> Result<(), Stop> {
        for entry in &mut slot.entries {
            entry.target = self.state.meta.space.hold()?.0.into();
        }
        Ok(())
    }

    /// Gives back the blocks of a write that were not mapped.
    fn unhold(&mut self, slot: &mut Slot) {
        if !matches!(slot.work, Work::Write { .. }) {
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
            Work::Control(_) => {
                let made = self.change_volumes(slot)?;
                self.changed(slot, true, made)
            }
            Work::Read | Work::Flush => unreachable!("neither changes anything"),
        }
    }

    fn changed(&mut self, slot: &mut Slot, durable: bool, made: Option<VolumeId>) -> Step {
        let lsn = self.state.lsn;
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
        let mut frames = 0;
        for part in slot.range.parts() {
            if self.changes_anything(slot, part)? {
                frames += self.state.ready(&record(part, slot))?;
            }
        }
        self.has_space(frames, 0, 0)?;
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

    fn change_volumes(&mut self, slot: &Slot) -> Step<Option<VolumeId>> {
        let Work::Control(control) = &slot.work else { unreachable!("only control changes volumes") };
        match control {
            Control::Create { name, uuid, blocks } => {
                let (id, entry) = self.new_entry(name, *uuid, *blocks)?;
                self.apply_ready(&Record::Create { volume: id, entry: &entry })?;
                Ok(Some(id))
            }
            Control::Copy { origin, name, uuid, kind } => {
                let blocks = self.existing(*origin)?.blocks();
                let (id, mut entry) = self.new_entry(name, *uuid, blocks)?;
                entry.origin = (origin.0 + 1).into();
                if *kind == VolumeKind::Snapshot {
                    entry.flags |= VolumeEntry::SNAPSHOT;
                }
                self.apply_ready(&Record::Create { volume: id, entry: &entry })?;
                Ok(Some(id))
            }
            Control::Delete { volume } => {
                self.existing(*volume)?;
                self.apply_ready(&Record::Delete { volume: *volume }).map(|()| None)
            }
            Control::Resize { volume, blocks } => self.resize(*volume, *blocks).map(|()| None),
            Control::Rollback { volume, snapshot } => self.rollback(*volume, *snapshot).map(|()| None),
            Control::Rename { volume, name } => {
                self.existing(*volume)?;
                let entry = self.named_entry(name, uuid::Uuid::nil(), 0)?;
                self.apply_ready(&Record::Rename { volume: *volume, name: &entry.name }).map(|()| None)
            }
        }
    }

    fn apply_ready(&mut self, record: &Record<'_>) -> Step {
        let frames = self.state.ready(record)?;
        self.has_space(frames, 0, 0)?;
        self.apply(record);
        Ok(())
    }

    fn existing(&self, id: VolumeId) -> Result<&Volume, Failure> {
        self.state.live(id).ok_or(Failure::NoVolume)
    }

    fn named_entry(&self, name: &str, uuid: uuid::Uuid, blocks: u64) -> Result<VolumeEntry, Failure> {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(Failure::BadName);
        }
        if self.state.named(name).is_some() {
            return Err(Failure::NameTaken);
        }
        VolumeEntry::new(uuid, blocks, name).ok_or(Failure::BadName)
    }

    fn new_entry(
        &self,
        name: &str,
        uuid: uuid::Uuid,
        blocks: u64,
    ) -> Result<(VolumeId, VolumeEntry), Failure> {
        let entry = self.named_entry(name, uuid, blocks)?;
        if blocks == 0 || blocks > VOLUME_BLOCKS_MAX {
            return Err(Failure::OutOfRange);
        }
        Ok((self.state.free_place().ok_or(Failure::TooManyVolumes)?, entry))
    }

    fn writable(&self, id: VolumeId) -> Result<&Volume, Failure> {
        let volume = self.existing(id)?;
        if volume.has(VolumeEntry::SNAPSHOT) { Err(Failure::ReadOnly) } else { Ok(volume) }
    }

    fn resize(&mut self, id: VolumeId, blocks: u64) -> Step {
        let volume = self.writable(id)?;
        if volume.has(VolumeEntry::REAPING) {
            return Err(Failure::Shrinking.into());
        }
        if blocks == 0 || blocks > VOLUME_BLOCKS_MAX {
            return Err(Failure::OutOfRange.into());
        }
        self.apply_ready(&Record::Resize { volume: id, blocks })
    }

    fn rollback(&mut self, id: VolumeId, snapshot: VolumeId) -> Step {
        self.writable(id)?;
        self.existing(snapshot)?;
        let husk = self.state.free_place().ok_or(Failure::TooManyVolumes)?;
        self.apply_ready(&Record::Rollback { volume: id, snapshot, husk })
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
