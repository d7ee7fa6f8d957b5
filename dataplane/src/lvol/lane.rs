//! One reactor's commands on a store, with their data, and its queue of the base device.
//!
//! Data never leaves its reactor: whichever reactor's machine decides where a block lies, the block moves between the
//! host's buffer and the device through the queue that this reactor has. A buffer whose blocks lie in several places is cut
//! at blocks, moved in pieces, and joined again: nothing is copied.
//!
//! Invariants: a slot is free, or belongs to one I/O of one volume queue that has not been handed back. The pieces of a
//! slot, in order, and what is left of its buffer are the whole buffer.

use std::collections::VecDeque;
use std::sync::Arc;

use nvme::{Lba, Status};
use reactors::{Clock, IoBuf, Timestamp};

use super::order::{Move, Moved, Order, Sums, Way};
use super::status::status;
use crate::device::{Done, Io, IoDone, Meter, Op, OpKind, Queue, Submission};
use crate::store::format::crc32c;
use crate::store::{BLOCK_BYTES, Block, COMMAND_BLOCKS_MAX, Failure, Found, VolumeBlock, VolumeId};

/// I/Os of a reactor on one store at a time, over all of its volumes.
pub(super) const SLOTS: usize = 512;
/// Requests that the base device's queue is asked to hold: each I/O has one when nothing is fragmented.
pub(super) const BASE_DEPTH: u32 = 1024;
/// Base I/Os with this bit in their tag are the owner's, and not data.
pub(super) const META: u64 = 1 << 63;

struct Piece {
    /// Nothing for blocks that stay where they are.
    what: Option<Move>,
    buffer: Option<IoBuf>,
}

struct Slot {
    queue: u32,
    tag: u64,
    kind: OpKind,
    bytes: u64,
    started: Timestamp,
    /// Whether its blocks have checksums.
    summed: bool,
    /// What no move has taken yet, and the block where it begins.
    rest: Option<IoBuf>,
    cut: u32,
    /// In the order of their offsets.
    pieces: Vec<Piece>,
    /// Of an unmap that takes several commands: the volume, and what comes after the command under way.
    left: Option<(VolumeId, u64, u64)>,
    fua: bool,
}

/// One volume queue's end of a lane.
struct Outbox {
    done: VecDeque<IoDone>,
    in_flight: usize,
    meter: Meter,
    /// Not dropped yet.
    live: bool,
}

/// How far an I/O is whose submission has not returned yet.
enum AtOnce {
    /// There is none.
    Nobody,
    Waits(u32),
    Ended(IoDone),
}

/// What the base device finished.
pub(super) enum Finished {
    Data(Moved),
    /// A request of the owner, by its number.
    Meta(u32, bool, Option<IoBuf>),
}

/// See the module.
pub(super) struct Lane {
    base: Box<dyn Queue>,
    /// Whether the base device's content lies in memory.
    is_memory: bool,
    /// Base-two logarithm of the base device's blocks in one of ours.
    shift: u8,
    slots: Vec<Slot>,
    free: Vec<u32>,
    sums: Arc<Sums>,
    at_once: AtOnce,
    outboxes: Vec<Outbox>,
    free_outboxes: Vec<u32>,
    /// What the base device's queue had no room for.
    backlog: VecDeque<Io>,
    /// Slots whose unmap goes on.
    steps: VecDeque<u32>,
    done: Box<Done>,
    clock: Clock,
    batch_start: Option<Timestamp>,
}

impl Lane {
    pub(super) fn new(base: Box<dyn Queue>, shift: u8) -> Self {
        let slot = |_| Slot {
            queue: 0,
            tag: 0,
            kind: OpKind::Flush,
            bytes: 0,
            started: Timestamp::default(),
            summed: true,
            rest: None,
            cut: 0,
            pieces: Vec::with_capacity(1),
            left: None,
            fua: false,
        };
        Self {
            is_memory: base.is_memory(),
            base,
            shift,
            slots: (0..SLOTS).map(slot).collect(),
            free: (0..u32::try_from(SLOTS).unwrap_or(u32::MAX)).rev().collect(),
            sums: Arc::new(Sums::new(SLOTS)),
            at_once: AtOnce::Nobody,
            outboxes: Vec::new(),
            free_outboxes: Vec::new(),
            backlog: VecDeque::with_capacity(SLOTS),
            steps: VecDeque::with_capacity(SLOTS),
            done: Box::default(),
            clock: Clock::new(),
            batch_start: None,
        }
    }

    pub(super) fn sums(&self) -> &Arc<Sums> {
        &self.sums
    }

    pub(super) fn base(&self) -> &dyn Queue {
        &*self.base
    }

    // Volume queues

    pub(super) fn open_queue(&mut self, meter: Meter) -> u32 {
        let outbox = Outbox { done: VecDeque::new(), in_flight: 0, meter, live: true };
        match self.free_outboxes.pop() {
            Some(index) => {
                self.outboxes[index as usize] = outbox;
                index
            }
            None => {
                self.outboxes.push(outbox);
                u32::try_from(self.outboxes.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// The queue is gone: what it still has under way ends here.
    pub(super) fn close_queue(&mut self, queue: u32) {
        let outbox = &mut self.outboxes[queue as usize];
        outbox.live = false;
        outbox.done.clear();
        if outbox.in_flight == 0 {
            self.free_outboxes.push(queue);
        }
    }

    /// I/Os of a queue that were accepted and not handed over yet.
    pub(super) fn in_flight(&self, queue: u32) -> usize {
        let outbox = &self.outboxes[queue as usize];
        outbox.in_flight + outbox.done.len()
    }

    pub(super) fn has_done(&self, queue: u32) -> bool {
        !self.outboxes[queue as usize].done.is_empty()
    }

    pub(super) fn take_done(&mut self, queue: u32, into: &mut Done) {
        let outbox = &mut self.outboxes[queue as usize];
        let count = outbox.done.len().min(into.room());
        outbox.done.drain(..count).for_each(|done| into.push(done));
    }

    /// Counts an I/O that was refused.
    pub(super) fn refused(&self, queue: u32, kind: OpKind) {
        self.outboxes[queue as usize].meter.failed(kind);
    }

    /// What the device holds in these blocks, lent by it, if it lends and they are what was written.
    #[inline]
    pub(super) fn lend(&mut self, queue: u32, bytes: u32, Found { block, sums }: Found<'_>) -> Option<IoBuf> {
        let lba = self.lba(block);
        let lent = self.base.lend(lba, bytes)?;
        let is_sound = match sums {
            None => true,
            Some([sum]) => checksum(&lent) == *sum,
            Some(sums) => checksums(&lent).eq(sums.iter().copied()),
        };
        if !is_sound {
            return None;
        }
        self.outboxes[queue as usize].meter.done(OpKind::Read, u64::from(bytes));
        Some(lent)
    }

    pub(super) fn is_memory(&self) -> bool {
        self.is_memory
    }

    /// Lets the base device take over a write to a block.
    #[inline]
    pub(super) fn take_over(&mut self, queue: u32, block: Block, buffer: IoBuf) -> Result<(), IoBuf> {
        let (lba, bytes) = (self.lba(block), buffer.len() as u64);
        self.base.take_over(lba, buffer)?;
        self.outboxes[queue as usize].meter.done(OpKind::Write, bytes);
        Ok(())
    }

    /// These blocks will probably be lent soon.
    #[inline]
    pub(super) fn expect_read(&mut self, block: Block, bytes: u32) {
        let lba = self.lba(block);
        self.base.expect_read(lba, bytes);
    }

    /// These blocks will probably be written soon.
    #[inline]
    pub(super) fn expect_write(&mut self, block: Block, bytes: u32) {
        let lba = self.lba(block);
        self.base.expect_write(lba, bytes);
    }

    /// The I/O that was admitted last, if it has ended already. Asked once after each.
    #[inline]
    pub(super) fn take_ended(&mut self) -> Option<IoDone> {
        match std::mem::replace(&mut self.at_once, AtOnce::Nobody) {
            AtOnce::Ended(done) => Some(done),
            AtOnce::Nobody | AtOnce::Waits(_) => None,
        }
    }

    /// A slot for an I/O within its volume, and its first command. The I/O itself when all slots are taken.
    pub(super) fn admit(
        &mut self,
        queue: u32,
        (volume, summed): (VolumeId, bool),
        io: Io,
    ) -> Result<(u32, Order), Io> {
        let Io { tag, op } = io;
        let Some(index) = self.take_slot(queue, tag, op.kind()) else { return Err(Io { tag, op }) };
        self.at_once = AtOnce::Waits(index);
        let slot = &mut self.slots[index as usize];
        slot.summed = summed;
        let order = match op {
            Op::Read { lba, buffer } => {
                let (at, blocks) = (VolumeBlock(lba.get()), blocks_of(buffer.len()));
                (slot.bytes, slot.rest) = (buffer.len() as u64, Some(buffer));
                Order::Read { volume, at, blocks }
            }
            Op::Write { lba, buffer, fua } => {
                let (at, blocks) = (VolumeBlock(lba.get()), blocks_of(buffer.len()));
                if summed {
                    self.sums.set(index, 0, checksums(&buffer));
                }
                (slot.bytes, slot.rest) = (buffer.len() as u64, Some(buffer));
                Order::Write { volume, at, blocks, fua }
            }
            Op::Flush => Order::Flush,
            Op::WriteZeroes { lba, blocks, fua, .. } => self.unmap(index, volume, lba, blocks, fua),
            Op::Deallocate { lba, blocks } => self.unmap(index, volume, lba, blocks, false),
        };
        Ok((index, order))
    }

    /// A slot for a command that copies the shared blocks among those from `at` on, through `buffer`.
    pub(super) fn admit_copy(
        &mut self,
        queue: u32,
        tag: u64,
        volume: VolumeId,
        at: VolumeBlock,
        buffer: IoBuf,
    ) -> Option<(u32, Order)> {
        let index = self.take_slot(queue, tag, OpKind::Write)?;
        let blocks = blocks_of(buffer.len());
        self.slots[index as usize].rest = Some(buffer);
        Some((index, Order::Own { volume, at, blocks }))
    }

    fn take_slot(&mut self, queue: u32, tag: u64, kind: OpKind) -> Option<u32> {
        let index = self.free.pop()?;
        let started = *self.batch_start.get_or_insert_with(|| self.clock.now());
        let slot = &mut self.slots[index as usize];
        (slot.queue, slot.tag, slot.kind, slot.started) = (queue, tag, kind, started);
        (slot.left, slot.bytes, slot.cut, slot.summed) = (None, 0, 0, true);
        self.outboxes[queue as usize].in_flight += 1;
        Some(index)
    }

    /// Whether the I/O in a slot is of this queue.
    pub(super) fn is_copy(&self, queue: u32, slot: u32) -> bool {
        self.slots[slot as usize].queue == queue
    }

    /// The submitter's tag of the I/O in a slot.
    pub(super) fn tag(&self, slot: u32) -> u64 {
        self.slots[slot as usize].tag
    }

    fn unmap(&mut self, index: u32, volume: VolumeId, lba: Lba, blocks: u32, fua: bool) -> Order {
        let slot = &mut self.slots[index as usize];
        slot.bytes = u64::from(blocks) * BLOCK_BYTES as u64;
        slot.fua = fua;
        slot.left = Some((volume, lba.get(), u64::from(blocks)));
        // There is a block, so there is a step.
        self.next_step(index).unwrap_or(Order::Flush)
    }

    /// The next command of an unmap: up to the end of a leaf of the map. Durable with the last.
    fn next_step(&mut self, index: u32) -> Option<Order> {
        let slot = &mut self.slots[index as usize];
        let (volume, at, left) = slot.left.take().filter(|(.., left)| *left > 0)?;
        let unit = u64::from(COMMAND_BLOCKS_MAX);
        let blocks = left.min(unit - at % unit);
        slot.left = (blocks < left).then_some((volume, at + blocks, left - blocks));
        let fua = slot.fua && slot.left.is_none();
        let blocks = u32::try_from(blocks).unwrap_or(COMMAND_BLOCKS_MAX);
        Some(Order::Unmap { volume, at: VolumeBlock(at), blocks, fua })
    }

    /// A command that goes on where an unmap left off.
    pub(super) fn take_step(&mut self) -> Option<(u32, Order)> {
        let index = self.steps.pop_front()?;
        let order = self.next_step(index)?;
        Some((index, order))
    }

    pub(super) fn has_steps(&self) -> bool {
        !self.steps.is_empty()
    }

    // Data

    /// Starts a move. What it ends with, if it is done at once.
    pub(super) fn start(&mut self, what: Move) -> Option<Finished> {
        let slot = &mut self.slots[what.slot as usize];
        let mut buffer = slot.take_piece(what)?;
        let bytes = buffer.len();
        let number = slot.pieces.len() as u64;
        slot.pieces.push(Piece { what: Some(what), buffer: None });
        let op = match what.way {
            Way::Zero => {
                buffer.fill_zero(0, bytes);
                slot.pieces[to_index(number)].buffer = Some(buffer);
                return None;
            }
            Way::Read(block) => Op::Read { lba: self.lba(block), buffer },
            Way::Write(block) => Op::Write { lba: self.lba(block), buffer, fua: false },
        };
        self.submit(Io { tag: number << 32 | u64::from(what.slot), op })
    }

    /// Where a block lies on the base device.
    pub(super) fn lba(&self, block: Block) -> Lba {
        Lba(block.0 << self.shift)
    }

    /// Hands an I/O to the base device, now or later. What it ends with, if it is done at once.
    pub(super) fn submit(&mut self, io: Io) -> Option<Finished> {
        if !self.backlog.is_empty() {
            self.backlog.push_back(io);
            return None;
        }
        match self.base.submit(io) {
            Submission::Done(done) => Some(self.finished(done)),
            Submission::Queued => None,
            Submission::Busy(io) => {
                self.backlog.push_back(io);
                None
            }
        }
    }

    fn finished(&mut self, done: IoDone) -> Finished {
        let IoDone { tag, status, buffer } = done;
        let low = to_index(tag & u64::from(u32::MAX));
        if tag & META != 0 {
            return Finished::Meta(u32::try_from(low).unwrap_or(u32::MAX), status.is_success(), buffer);
        }
        let summed = self.slots[low].summed;
        let piece = &mut self.slots[low].pieces[to_index(tag >> 32)];
        // A piece that stays where it is has no I/O.
        let Some(what) = piece.what else { unreachable!("only moves are submitted") };
        let ok = status.is_success();
        if let (Way::Read(_), true, true, Some(buffer)) = (what.way, ok, summed, &buffer) {
            self.sums.set(what.slot, what.offset, checksums(buffer));
        }
        piece.buffer = buffer;
        Finished::Data(Moved { what, ok })
    }

    /// Hands what the base device finished to `sink`. Whether there was anything.
    pub(super) fn collect(&mut self, sink: &mut Vec<Finished>) -> bool {
        let before = sink.len();
        if self.base.in_flight() > 0 {
            let mut done = std::mem::take(&mut self.done);
            self.base.poll(&mut done);
            sink.extend(done.drain().map(|done| self.finished(done)));
            self.done = done;
        }
        while let Some(io) = self.backlog.pop_front() {
            match self.base.submit(io) {
                Submission::Done(done) => {
                    let finished = self.finished(done);
                    sink.push(finished);
                }
                Submission::Queued => {}
                Submission::Busy(io) => {
                    self.backlog.push_front(io);
                    break;
                }
            }
        }
        sink.len() > before
    }

    pub(super) fn kick(&mut self) {
        self.batch_start = None;
        self.base.kick();
    }

    // Ends

    /// A command is done. An unmap may go on.
    pub(super) fn done(&mut self, index: u32, result: Result<(), Failure>) {
        if result.is_ok() && self.slots[index as usize].left.is_some() {
            self.steps.push_back(index);
            return;
        }
        let kind = self.slots[index as usize].kind;
        self.end(index, result.map_or_else(|failure| status(failure, kind), |()| Status::SUCCESS));
    }

    fn end(&mut self, index: u32, status: Status) {
        let slot = &mut self.slots[index as usize];
        let buffer = slot.joined();
        let outbox = &mut self.outboxes[slot.queue as usize];
        outbox.in_flight -= 1;
        if status.is_success() {
            outbox.meter.done(slot.kind, slot.bytes);
            let now = *self.batch_start.get_or_insert_with(|| self.clock.now());
            let took = now.saturating_since(slot.started).as_nanos();
            outbox.meter.took(slot.kind, u64::try_from(took).unwrap_or(u64::MAX));
        } else {
            outbox.meter.failed(slot.kind);
        }
        let done = IoDone { tag: slot.tag, status, buffer };
        if matches!(self.at_once, AtOnce::Waits(at_once) if at_once == index) {
            self.at_once = AtOnce::Ended(done);
        } else if outbox.live {
            outbox.done.push_back(done);
        } else if outbox.in_flight == 0 {
            self.free_outboxes.push(slot.queue);
        }
        self.free.push(index);
    }

    /// Ends everything: the store is out of reach. What the base device still has ends with the lane.
    pub(super) fn end_all(&mut self, status: Status) {
        self.steps.clear();
        let free: std::collections::HashSet<u32> = self.free.iter().copied().collect();
        let taken = (0..u32::try_from(SLOTS).unwrap_or(u32::MAX)).filter(|index| !free.contains(index));
        for index in taken.collect::<Vec<_>>() {
            let moving = self.slots[index as usize].pieces.iter().any(|piece| piece.buffer.is_none());
            if !moving {
                self.end(index, status);
            }
        }
    }

    /// Whether no I/O is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == SLOTS
    }

    /// Whether sleeping is right, as far as the base device goes.
    pub(super) fn before_sleep(&mut self) -> bool {
        self.backlog.is_empty() && self.steps.is_empty() && self.base.before_sleep()
    }
}

impl Slot {
    /// The part of the buffer for a move. Moves come in the order of their offsets; blocks between them stay where they are.
    /// One that begins before the last is the first of another way of the same data, whose first way has ended.
    #[inline]
    fn take_piece(&mut self, what: Move) -> Option<IoBuf> {
        if what.offset < self.cut {
            self.rest = self.joined();
            self.cut = 0;
        }
        if what.offset > self.cut {
            let gap = self.cut_off(what.offset - self.cut);
            self.pieces.push(Piece { what: None, buffer: gap });
        }
        self.cut_off(what.blocks)
    }

    /// The next blocks of the buffer.
    #[inline]
    fn cut_off(&mut self, blocks: u32) -> Option<IoBuf> {
        let mut buffer = self.rest.take()?;
        let bytes = blocks as usize * BLOCK_BYTES;
        if bytes < buffer.len() {
            self.rest = Some(buffer.split_off(bytes));
        }
        self.cut += blocks;
        Some(buffer)
    }

    /// The whole buffer, from its pieces.
    fn joined(&mut self) -> Option<IoBuf> {
        if self.pieces.len() == 1 && self.rest.is_none() {
            return self.pieces.pop()?.buffer;
        }
        let mut pieces = self.pieces.drain(..).filter_map(|piece| piece.buffer).chain(self.rest.take());
        let mut whole = pieces.next()?;
        for piece in pieces {
            // What does not follow was not cut from this buffer; every piece was.
            assert!(whole.join(piece).is_ok());
        }
        Some(whole)
    }
}

fn blocks_of(bytes: usize) -> u32 {
    u32::try_from(bytes / BLOCK_BYTES).unwrap_or(u32::MAX)
}

/// CRC32C of a buffer that is one block.
#[inline]
pub(super) fn checksum(buffer: &IoBuf) -> u32 {
    debug_assert_eq!(buffer.len(), BLOCK_BYTES);
    crc32c(buffer.part(0))
}

/// CRC32C of each block of a buffer. Parts of a buffer begin and end at blocks.
pub(super) fn checksums(buffer: &IoBuf) -> impl Iterator<Item = u32> {
    buffer.slices().flat_map(|part| part.chunks_exact(BLOCK_BYTES).map(crc32c))
}

/// Numbers of slots and pieces.
#[expect(clippy::cast_possible_truncation, reason = "they are 32 bits wide")]
fn to_index(number: u64) -> usize {
    number as usize
}
