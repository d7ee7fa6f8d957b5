//! The store as a machine: commands and finished requests in, requests and events out.
//!
//! One command, one slot. A command that needs something first waits in its slot and is tried again from its last
//! phase when anything has happened. Changes wait while a checkpoint finds places for changed pages, not while it is written.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use super::cache::{FrameId, Stop};
use super::checkpoint::{self, Payload, Phase as Checkpoint};
use super::command::{Command, Event, Failure};
use super::commands::Slot;
use super::commit::{Log, Next};
use super::format::{Bytes, CheckpointHeader, CountsPage, FANOUT, Layout, MapPage, Record};
use super::grow::Growth;
use super::recover::READS_MAX;
use super::request::{Finished, Request, RequestId, RequestOp};
use super::state::{Counters, State, VolumeInfo};
use super::{Block, Lsn, VolumeId};

/// What a store may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands under way at once.
    pub commands: usize,
    /// Clean map pages kept in memory: 4 KiB each, and each maps 1 MiB.
    pub map_pages: usize,
    /// Pages of reference counts kept in memory: 4 KiB each, for 8 MiB of blocks.
    pub counts_pages: usize,
    /// Changed map pages in memory at most; a checkpoint begins at half of it.
    pub frames: usize,
}

impl Default for Limits {
    /// 64 MiB of map, 4 MiB of counts.
    fn default() -> Self {
        Self { commands: 256, map_pages: 16_384, counts_pages: 1_024, frames: 4_096 }
    }
}

/// Frames that one command may take at most: two ways down a tree.
const FRAMES_PER_COMMAND: usize = 16;

/// Pages of counts that one change may need at once: each entry of a leaf may name a block of another. While a page is awaited
/// those that came for the same change stay, or it would never have them all.
const COUNTS_PER_CHANGE: usize = FANOUT;

/// Blocks of table and summary that are written at a time: a checkpoint of a large store is no burst.
const PAYLOAD_AT_ONCE: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Load(Stop),
    Data { slot: usize, offset: u32 },
    Log,
    Checkpoint,
}

/// A store, open.
pub struct Store {
    pub(crate) state: State,
    pub(crate) log: Log,
    pub(crate) limits: Limits,
    checkpoint: Checkpoint,
    placed: Vec<(FrameId, Block)>,
    /// Sequence number of the last checkpoint.
    seq: u64,
    pub(crate) growth: Option<Growth>,
    pub(crate) checkpoint_wanted: bool,
    commit_wanted: bool,
    /// Empty while the command in it is taken a step further.
    slots: Vec<Option<Box<Slot>>>,
    free_slots: Vec<usize>,
    waiting: Vec<usize>,
    /// Takes turns with `waiting`, so that neither grows anew.
    retried: Vec<usize>,
    purposes: Vec<Option<Purpose>>,
    free_purposes: Vec<u32>,
    /// Pages that are being read, and how often that failed.
    loading: HashMap<Stop, u32>,
    requests: VecDeque<Request>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) stopped: bool,
    /// Commands whose data is being written.
    pub(crate) writing: usize,
    /// Frames that writes under way will take at most.
    pub(crate) frames_promised: u64,
}

impl Store {
    pub(crate) fn new(state: State, log: Log, limits: Limits, header: &CheckpointHeader) -> Self {
        assert!(limits.frames >= 4 * FRAMES_PER_COMMAND);
        Self {
            state,
            log,
            limits,
            checkpoint: Checkpoint::Idle,
            placed: Vec::new(),
            seq: header.seq,
            growth: None,
            checkpoint_wanted: false,
            commit_wanted: false,
            slots: (0..limits.commands).map(|_| Some(Box::default())).collect(),
            free_slots: (0..limits.commands).rev().collect(),
            waiting: Vec::with_capacity(limits.commands),
            retried: Vec::with_capacity(limits.commands),
            purposes: Vec::new(),
            free_purposes: Vec::new(),
            loading: HashMap::new(),
            requests: VecDeque::new(),
            events: VecDeque::new(),
            stopped: false,
            writing: 0,
            frames_promised: 0,
        }
    }

    /// Identity of the store.
    pub fn uuid(&self) -> Uuid {
        self.state.uuid
    }

    /// The last record applied.
    pub fn lsn(&self) -> Lsn {
        self.state.lsn
    }

    /// The last record that is on the media.
    pub fn durable_lsn(&self) -> Lsn {
        self.log.durable()
    }

    /// Space.
    pub fn counters(&self) -> Counters {
        self.state.counters()
    }

    /// What a volume is.
    pub fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        self.state.info(id)
    }

    /// All volumes and snapshots.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeInfo> {
        self.state.infos()
    }

    /// Whether metadata could not be written: only reads work until the store is opened again.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether deleted volumes still hold space that [`Self::turn`] frees.
    pub fn is_reaping(&self) -> bool {
        self.state.reapable().is_some()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.free_slots.len() == self.slots.len()
            && self.free_purposes.len() == self.purposes.len()
            && (self.stopped || matches!(self.checkpoint, Checkpoint::Idle) && self.log.is_idle())
    }

    /// Takes a command, or says at once why not. Its end is an [`Event::Done`].
    pub fn submit(&mut self, command: &Command<'_>) -> Result<(), Failure> {
        let index = self.free_slots.last().copied().ok_or(Failure::Busy)?;
        let slot = self.slots[index].as_mut().expect("a slot is taken out while it runs, and put back");
        slot.fill(command, &self.state)?;
        self.free_slots.pop();
        self.run(index);
        Ok(())
    }

    /// A checkpoint is to be written soon, so that opening has no log to read.
    pub fn request_checkpoint(&mut self) {
        self.checkpoint_wanted = true;
    }

    /// Whether a requested checkpoint is not on the media yet.
    pub fn is_checkpointing(&self) -> bool {
        !self.stopped && (self.checkpoint_wanted || !matches!(self.checkpoint, Checkpoint::Idle))
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.state.layout
    }

    /// Goes on with what waits: once per turn of the driver, and after requests were finished.
    pub fn turn(&mut self) {
        let mut retried = std::mem::take(&mut self.retried);
        std::mem::swap(&mut self.waiting, &mut retried);
        for index in retried.drain(..) {
            self.run(index);
        }
        self.retried = retried;
        self.reap();
        self.start_commit();
        self.start_checkpoint();
        // What is being written cannot be read yet.
        if matches!(self.checkpoint, Checkpoint::Idle) {
            let awaited = self.loading.keys().any(|stop| matches!(stop, Stop::Counts { .. }));
            self.state.meta.space.trim(if awaited { COUNTS_PER_CHANGE } else { 0 });
            self.state.meta.pages.trim();
        }
    }

    /// The next request for the device.
    pub fn next_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// Takes the memory of a [`RequestOp::WriteMeta`] back, so that the next one need not allocate any.
    pub fn recycle(&mut self, bytes: Box<Bytes>) {
        self.log.recycle(bytes);
    }

    /// The next thing to tell.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A request is finished.
    pub fn finish(&mut self, id: RequestId, finished: Finished<'_>) {
        let purpose = self.purposes[id.0 as usize].take().expect("a request finishes once");
        self.free_purposes.push(id.0);
        match purpose {
            Purpose::Load(stop) => self.loaded(stop, finished),
            Purpose::Data { slot, offset } => self.data_finished(slot, offset, finished),
            Purpose::Log | Purpose::Checkpoint if matches!(finished, Finished::Failed) => self.stop(),
            Purpose::Log | Purpose::Checkpoint if self.stopped => {}
            Purpose::Log => {
                let next = self.log.advance();
                self.commit_goes_on(next);
            }
            Purpose::Checkpoint => self.checkpoint_goes_on(),
        }
    }

    fn run(&mut self, index: usize) {
        let mut slot = self.slots[index].take().expect("a command does not run inside itself");
        let outcome = self.advance(index, &mut slot);
        let tag = slot.tag();
        if outcome.is_err() {
            slot.end();
        }
        let in_data = slot.is_in_data();
        self.slots[index] = Some(slot);
        match outcome {
            Ok(()) if in_data => {}
            Ok(()) => self.waiting.push(index),
            Err(result) => {
                self.free_slots.push(index);
                self.events.push_back(Event::Done { tag, result });
            }
        }
    }

    fn data_finished(&mut self, index: usize, offset: u32, finished: Finished<'_>) {
        let slot = self.slots[index].as_mut().expect("data is under way between two steps");
        if slot.data_finished(offset, finished) {
            self.writing -= usize::from(slot.writes());
            self.run(index);
        }
    }

    pub(crate) fn request(&mut self, purpose: Purpose, op: RequestOp) {
        let id = self.free_purposes.pop().unwrap_or_else(|| {
            self.purposes.push(None);
            u32::try_from(self.purposes.len() - 1).expect("requests are bounded")
        });
        self.purposes[id as usize] = Some(purpose);
        self.requests.push_back(Request { id: RequestId(id), op });
    }

    /// Arranges for what stopped an operation. Says whether waiting helps.
    pub(crate) fn arrange(&mut self, stop: Stop) -> Result<(), Failure> {
        match stop {
            Stop::Full => return Err(Failure::Full),
            Stop::Damaged => return Err(Failure::Corrupt),
            Stop::Commit => self.commit_wanted = true,
            Stop::Checkpoint if !matches!(self.checkpoint, Checkpoint::Idle) => {}
            Stop::Checkpoint => self.checkpoint_wanted = true,
            Stop::Map { .. } | Stop::Counts { .. } if self.loading.contains_key(&stop) => {}
            Stop::Map { .. } | Stop::Counts { .. } => {
                self.loading.insert(stop, 0);
                self.load(stop);
            }
        }
        Ok(())
    }

    fn load(&mut self, stop: Stop) {
        let block = match stop {
            Stop::Map { block, .. } => block,
            Stop::Counts { page } => self.state.meta.space.page_block(page),
            Stop::Commit | Stop::Checkpoint | Stop::Full | Stop::Damaged => unreachable!("nothing to read"),
        };
        self.request(Purpose::Load(stop), RequestOp::ReadMeta { block });
    }

    /// What could not be read is read again: only what fails more often is out of reach.
    fn loaded(&mut self, stop: Stop, finished: Finished<'_>) {
        let failed = self.loading.get_mut(&stop).expect("what is read was asked for");
        *failed += 1;
        if matches!(finished, Finished::Failed) && *failed < READS_MAX {
            return self.load(stop);
        }
        self.loading.remove(&stop);
        let bytes = if let Finished::Meta(bytes) = finished { Some(bytes) } else { None };
        insert(&mut self.state, stop, bytes);
    }

    /// Whether changes may begin; they would move what a checkpoint is finding places for.
    pub(crate) fn may_change(&self) -> Result<(), Stop> {
        let writing = !matches!(self.checkpoint, Checkpoint::Idle);
        if matches!(self.checkpoint, Checkpoint::Placing { .. })
            || writing && self.state.meta.space.is_crowded()
            || self.is_becoming_larger()
        {
            return Err(Stop::Checkpoint);
        }
        if !self.log.has_ring_room() {
            return Err(Stop::Checkpoint);
        }
        if self.log.has_room() { Ok(()) } else { Err(Stop::Commit) }
    }

    /// Whether there is room for frames and for blocks of data, and so much is left.
    pub(crate) fn has_space(&self, frames: usize, data: u64, left: u64) -> Result<(), Stop> {
        let dirty = self.state.meta.pages.dirty();
        if dirty + frames > self.limits.frames {
            return Err(Stop::Checkpoint);
        }
        let space = &self.state.meta.space;
        if space.available() >= (dirty + frames) as u64 + data + left {
            return Ok(());
        }
        Err(match (space.released(), space.replaced()) {
            // What a write under way replaces is free soon after it.
            (0, 0) if self.writing > 0 => Stop::Commit,
            (0, 0) => Stop::Full,
            (0, _) => Stop::Checkpoint,
            _ => Stop::Commit,
        })
    }

    /// Blocks that are kept for changes which free space.
    pub(crate) fn slack(&self) -> u64 {
        FRAMES_PER_COMMAND as u64 * 4 + self.state.layout.blocks() / 512
    }

    pub(crate) fn apply(&mut self, record: &Record<'_>) {
        self.state.apply(record);
        self.log.append(record, self.state.lsn);
    }

    fn reap(&mut self) {
        if self.stopped {
            return;
        }
        let Some(volume) = self.state.reapable() else { return };
        let record = Record::Reap { volume };
        let ready = self.may_change().and_then(|()| {
            let frames = self.state.ready(&record)?;
            self.has_space(frames, 0, self.left_by_change(volume))
        });
        match ready {
            Ok(()) => self.apply(&record),
            // Other changes may free what it takes to free this.
            Err(Stop::Full) => {}
            Err(stop) if self.arrange(stop).is_err() => self.state.set_stuck(volume),
            Err(_) => {}
        }
    }

    fn start_commit(&mut self) {
        let durable = self.log.durable();
        let awaits = |slot: &Slot| slot.awaits_after(durable);
        let awaited = self.waiting.iter().any(|index| self.slots[*index].as_deref().is_some_and(awaits));
        if !self.log.is_idle() || self.stopped || !(awaited || self.commit_wanted) {
            return;
        }
        self.commit_wanted = false;
        let next = self.log.begin(self.state.lsn);
        self.commit_goes_on(next);
    }

    fn commit_goes_on(&mut self, next: Next) {
        match next {
            Next::Nothing => {}
            Next::Flush => self.request(Purpose::Log, RequestOp::Flush),
            Next::Write(blocks) => {
                for _ in 0..blocks {
                    let Some((position, bytes)) = self.log.next_sealed() else { break };
                    if self.log.copies() > 1 {
                        let copy = self.log.copy(&bytes);
                        self.write_log(position, 1, copy);
                    }
                    self.write_log(position, 0, bytes);
                }
            }
            Next::Durable => self.free_released(),
        }
    }

    fn write_log(&mut self, position: u64, copy: u64, bytes: Box<Bytes>) {
        let block = self.state.layout.log(position, copy);
        self.request(Purpose::Log, RequestOp::WriteMeta { block, bytes, fua: true });
    }

    fn free_released(&mut self) {
        let oldest = self.slots.iter().flatten().filter_map(|slot| slot.reading_since()).min();
        let durable = self.log.durable();
        let upto = oldest.map_or(durable, |oldest| durable.min(oldest));
        self.state.meta.space.free_released(upto);
    }

    pub(crate) fn start_checkpoint(&mut self) {
        let long = self.log.is_long() || self.state.meta.pages.dirty() > self.limits.frames / 2;
        let idle = matches!(self.checkpoint, Checkpoint::Idle);
        if idle && !self.stopped && (self.checkpoint_wanted || long) {
            self.checkpoint_wanted = false;
            let mut frames = self.state.meta.pages.frames_by_level();
            frames.reverse();
            self.checkpoint = Checkpoint::Placing { frames };
        }
        if let Checkpoint::Placing { .. } = self.checkpoint {
            self.place();
        }
    }

    fn place(&mut self) {
        let Checkpoint::Placing { frames } = &mut self.checkpoint else { return };
        match checkpoint::place(&mut self.state, frames, &mut self.placed) {
            Ok(()) => self.write_checkpoint(),
            Err(stop @ (Stop::Map { .. } | Stop::Counts { .. })) => {
                self.arrange(stop).expect("a load can be arranged");
            }
            // Every frame has a block in reserve: there is damage.
            Err(_) => self.stop(),
        }
    }

    fn write_checkpoint(&mut self) {
        let seq = self.seq + 1;
        let mut writes = Vec::new();
        let placed = std::mem::take(&mut self.placed);
        checkpoint::settle(&mut self.state, &placed, seq, |block, bytes| writes.push((block, bytes)));
        self.become_larger(seq, |block, bytes| writes.push((block, bytes)));
        self.state.meta.space.write_dirty(seq, |block, bytes| writes.push((block, bytes)));
        self.state.meta.space.begin_checkpoint();
        let mut payload = Payload::of(&self.state);
        let header = CheckpointHeader {
            store: self.state.uuid,
            seq,
            lsn: self.state.lsn,
            log_position: self.log.begin_checkpoint(),
            incarnation: self.log.incarnation(),
            // Known when all of it is under way.
            payload_crc: 0,
        };
        let mut left = writes.len();
        for (block, bytes) in writes {
            self.request(Purpose::Checkpoint, RequestOp::WriteMeta { block, bytes, fua: false });
        }
        for _ in 0..PAYLOAD_AT_ONCE {
            left += usize::from(self.write_payload(&mut payload, seq));
        }
        self.checkpoint = Checkpoint::Writing { left, payload, header };
    }

    /// Writes a block of the payload. Whether there was one.
    fn write_payload(&mut self, payload: &mut Payload, seq: u64) -> bool {
        let Some((block, bytes)) = payload.next(&self.state.layout, seq) else { return false };
        self.request(Purpose::Checkpoint, RequestOp::WriteMeta { block, bytes, fua: false });
        true
    }

    fn checkpoint_goes_on(&mut self) {
        self.checkpoint = match std::mem::replace(&mut self.checkpoint, Checkpoint::Idle) {
            Checkpoint::Idle | Checkpoint::Placing { .. } => unreachable!("no request is under way"),
            Checkpoint::Writing { left, mut payload, header } => {
                let left = left - usize::from(!self.write_payload(&mut payload, header.seq));
                if left > 0 {
                    Checkpoint::Writing { left, payload, header }
                } else {
                    self.request(Purpose::Checkpoint, RequestOp::Flush);
                    Checkpoint::Flushing { header: CheckpointHeader { payload_crc: payload.crc(), ..header } }
                }
            }
            Checkpoint::Flushing { header } => {
                for block in self.state.layout.headers(header.seq) {
                    let bytes = header.encode();
                    self.request(Purpose::Checkpoint, RequestOp::WriteMeta { block, bytes, fua: true });
                }
                Checkpoint::Header { left: 2, header }
            }
            Checkpoint::Header { left: 2, header } => Checkpoint::Header { left: 1, header },
            Checkpoint::Header { header, .. } => match self.write_superblock(self.state.layout.data_end()) {
                Some(()) => Checkpoint::Superblocks { left: 2, header },
                None => self.checkpoint_done(&header),
            },
            Checkpoint::Superblocks { left: 2, header } => match self.write_superblock(Block(0)) {
                Some(()) => Checkpoint::Superblocks { left: 1, header },
                None => unreachable!("a growth ends with its superblocks"),
            },
            Checkpoint::Superblocks { header, .. } => {
                self.growth = None;
                self.checkpoint_done(&header)
            }
        };
    }

    fn checkpoint_done(&mut self, header: &CheckpointHeader) -> Checkpoint {
        self.seq = header.seq;
        self.log.end_checkpoint(header);
        self.state.meta.space.end_checkpoint();
        self.free_released();
        Checkpoint::Idle
    }

    /// Metadata could not be written. What is not durable yet never will be; reads go on.
    fn stop(&mut self) {
        self.stopped = true;
        self.checkpoint_wanted = false;
    }
}

/// Puts what was read where it was missing; nothing, or what does not decode, is damage.
pub(crate) fn insert(state: &mut State, stop: Stop, bytes: Option<&Bytes>) {
    match stop {
        Stop::Map { block, level } => {
            let layout = &state.layout;
            let page =
                bytes.and_then(|bytes| MapPage::decode(bytes, block, level, |at| layout.is_data(at)).ok());
            match page {
                Some(page) => state.meta.pages.insert(block, Box::new(page)),
                None => state.meta.pages.insert_damaged(block),
            }
        }
        Stop::Counts { page } => match bytes.map(|bytes| CountsPage::decode(bytes, page)) {
            Some(Ok(counts)) => state.meta.space.insert(page, Box::new(counts)),
            Some(Err(_)) => state.meta.space.give_up(page),
            None => state.meta.space.insert_unreadable(page),
        },
        Stop::Commit | Stop::Checkpoint | Stop::Full | Stop::Damaged => {}
    }
}
