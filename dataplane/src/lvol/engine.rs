//! The reactor that owns a store: runs the machine, carries out its metadata requests, and moves the data of its own
//! reactor's commands. Others are told what to move.
//!
//! Invariants: a command of the machine has the tag of one slot of one lane, or of one control call. Each request of the
//! machine is finished once. Everything waits in bounded places: slots, requests of slots, metadata requests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use nvme::Lba;
use reactors::dma::prefetch;
use reactors::mailbox::{Mailbox, MailboxSender, SendError};
use reactors::reply::Replier;
use reactors::{DmaPool, IoBuf};

use super::lane::{Finished, Lane, META, checksum};
use super::order::{Move, Moved, Order, Sums, ToClient, ToOwner, Way};
use super::port::Port;
use super::walks::{Copying, Walk, Walks};
use crate::device::{Io, Op};
use crate::store::{
    BLOCK_BYTES, Command, Control, Counters, Event, Failure, Finished as Answer, Found, GrowError, Operation,
    Request, RequestId, RequestOp, Store, VolumeBlock, VolumeId,
};

/// Which lane a tag of the machine belongs to, in its upper half: the owner's own.
const OWN: u32 = 0;
/// A control call.
const CONTROL: u32 = u32::MAX;
/// Messages of other reactors taken at a time.
const MESSAGES_MAX: usize = 256;
/// Times that the machine is turned at once, when one turn makes work for the next.
const ROUNDS_MAX: usize = 8;
/// Commands of unmaps that go on, per turn: a deallocated terabyte must not stop the reactor.
const STEPS_MAX: usize = 16;

/// Metadata requests with the device at a time: a checkpoint of thousands leaves buffers to hosts.
const META_MAX: usize = 256;
/// Base-two logarithm of [`BLOCK_BYTES`].
const BLOCK_SHIFT: u32 = BLOCK_BYTES.trailing_zeros();
/// Buffers kept for metadata.
const SPARE_BUFFERS: usize = 16;

/// What a control call ends with.
pub(super) type Answered = Result<Option<VolumeId>, Failure>;

/// What growing ends with.
pub(super) type Grown = Result<(), GrowError>;

/// What the owner tells of a store's space, in blocks, for whoever looks.
#[derive(Default)]
pub(super) struct Gauges {
    pub(super) total: AtomicU64,
    pub(super) free: AtomicU64,
    pub(super) freeing: AtomicU64,
    pub(super) promised: AtomicU64,
    pub(super) stopped: AtomicBool,
}

impl Gauges {
    fn publish(&self, store: &Store) {
        let Counters { total, free, freeing, promised, .. } = store.counters();
        for (gauge, value) in
            [(&self.total, total), (&self.free, free), (&self.freeing, freeing), (&self.promised, promised)]
        {
            gauge.store(value, Relaxed);
        }
        self.stopped.store(store.is_stopped(), Relaxed);
    }
}

/// Another reactor.
pub(super) struct ClientLink {
    pub(super) sender: MailboxSender<ToClient>,
    pub(super) sums: Arc<Sums>,
}

/// A metadata request with the device.
struct Meta {
    request: RequestId,
    kind: MetaKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MetaKind {
    Read,
    /// Done with the write, or the flush.
    Plain,
    /// The device cannot write through its cache: a flush follows.
    Through,
}

/// See the module.
pub(super) struct Engine {
    pub(super) store: Store,
    pub(super) lane: Lane,
    clients: Vec<ClientLink>,
    mailbox: Mailbox<ToOwner>,
    /// Messages for which a mailbox had no room, in order: what comes later must not overtake.
    unsent: VecDeque<(u16, ToClient)>,
    /// Commands for which the machine had no slot.
    waiting: VecDeque<(u32, u32, Order)>,
    metas: Vec<Option<Meta>>,
    free_metas: Vec<u32>,
    /// Buffers for metadata that hosts cannot take: their writes end with a commit, which needs one.
    spare: Vec<IoBuf>,
    /// Metadata requests for which there was no buffer, or that were too many.
    starved: VecDeque<Request>,
    controls: Vec<Option<Replier<Answered>>>,
    /// Who waits for the store to have grown.
    growing: Option<Replier<Grown>>,
    /// Who waits for the store to be closed.
    closing: Option<Replier<()>>,
    pub(super) pool: DmaPool,
    pub(super) walks: Walks,
    gauges: Arc<Gauges>,
    /// Whether a write can be asked to go through the device's cache.
    fua: bool,
    /// The machine has something new to look at.
    stirred: bool,
    finished: Vec<Finished>,
    scratch: Vec<u32>,
}

impl Engine {
    pub(super) fn new(
        store: Store,
        mut lane: Lane,
        mailbox: Mailbox<ToOwner>,
        pool: DmaPool,
        fua: bool,
        gauges: Arc<Gauges>,
    ) -> Self {
        let walks = Walks::new(&mut lane);
        Self {
            store,
            lane,
            walks,
            gauges,
            clients: Vec::new(),
            mailbox,
            unsent: VecDeque::new(),
            waiting: VecDeque::new(),
            metas: Vec::new(),
            free_metas: Vec::new(),
            spare: (0..SPARE_BUFFERS).map_while(|_| pool.alloc_io(BLOCK_BYTES)).collect(),
            starved: VecDeque::new(),
            controls: Vec::new(),
            growing: None,
            closing: None,
            pool,
            fua,
            stirred: true,
            finished: Vec::new(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Adds another reactor, and says by which number it goes.
    pub(super) fn add_client(&mut self, link: ClientLink) -> u16 {
        self.clients.push(link);
        u16::try_from(self.clients.len() - 1).unwrap_or(u16::MAX)
    }

    /// Starts a control call; `replier` gets its end.
    pub(super) fn control(&mut self, control: Control, replier: Replier<Answered>) {
        let index = self.controls.iter().position(Option::is_none).unwrap_or(self.controls.len());
        if index == self.controls.len() {
            self.controls.push(None);
        }
        let tag = tag(CONTROL, u32::try_from(index).unwrap_or(u32::MAX));
        match self.store.submit(&Command { tag, operation: Operation::Control(control) }) {
            Ok(()) => {
                self.controls[index] = Some(replier);
                self.stirred = true;
            }
            Err(failure) => replier.reply(Err(failure)),
        }
    }

    /// The store is to use so many blocks of its device; `replier` hears when it does.
    pub(super) fn grow(&mut self, blocks: u64, name: &str, replier: Replier<Grown>) {
        match self.store.grow(blocks, name) {
            Ok(()) => {
                self.growing = Some(replier);
                self.stirred = true;
                self.progress();
            }
            Err(error) => replier.reply(Err(error)),
        }
    }

    /// Adds what takes many steps.
    pub(super) fn begin(&mut self, walk: Walk) {
        self.walks.push(walk);
        self.stirred = true;
    }

    /// Starts a command of a copying; one that is refused at once ends it.
    pub(super) fn start_own(&mut self, slot: u32, order: Order, copying: &mut Copying) {
        let Order::Own { volume, at, blocks } = order else { return };
        let operation = Operation::Own { volume, at, blocks };
        match self.store.submit(&Command { tag: tag(OWN, slot), operation }) {
            Ok(()) => self.stirred = true,
            Err(Failure::Busy) => self.waiting.push_back((OWN, slot, order)),
            Err(failure) => {
                copying.failure = Some(failure);
                self.lane.done(slot, Err(failure));
            }
        }
    }

    fn submit(&mut self, origin: u32, slot: u32, order: Order) {
        let operation = match order {
            Order::Read { volume, at, blocks } => Operation::Read { volume, at, blocks },
            Order::Unmap { volume, at, blocks, fua } => Operation::Unmap { volume, at, blocks, fua },
            Order::Own { volume, at, blocks } => Operation::Own { volume, at, blocks },
            Order::Flush => Operation::Flush,
            Order::Write { volume, at, blocks, fua } => {
                let sums = match origin {
                    OWN => self.lane.sums(),
                    origin => &self.clients[client_index(origin)].sums,
                };
                sums.load(slot, 0, blocks, &mut self.scratch);
                Operation::Write { volume, at, sums: &self.scratch, fua }
            }
        };
        match self.store.submit(&Command { tag: tag(origin, slot), operation }) {
            Ok(()) => self.stirred = true,
            Err(Failure::Busy) => self.waiting.push_back((origin, slot, order)),
            Err(failure) => self.done(origin, slot, Err(failure)),
        }
    }

    /// Messages of other reactors. Whether there were any.
    fn receive(&mut self) -> bool {
        let mut any = false;
        for _ in 0..MESSAGES_MAX {
            let Some(message) = self.mailbox.recv() else { break };
            any = true;
            match message {
                ToOwner::Submit { client, slot, order } => self.submit(u32::from(client) + 1, slot, order),
                ToOwner::Moved { client, moved } => self.moved(Some(client), moved),
            }
        }
        while let Some((client, message)) = self.unsent.pop_front() {
            if let Err(message) = self.try_send(client, message) {
                self.unsent.push_front((client, message));
                break;
            }
        }
        any
    }

    fn send(&mut self, client: u16, message: ToClient) {
        let sent = if self.unsent.is_empty() { self.try_send(client, message) } else { Err(message) };
        if let Err(message) = sent {
            self.unsent.push_back((client, message));
        }
    }

    /// The message, when there is no room for it.
    fn try_send(&mut self, client: u16, message: ToClient) -> Result<(), ToClient> {
        match self.clients[usize::from(client)].sender.send(message) {
            Ok(()) => Ok(()),
            Err(SendError::Full(message)) => Err(message),
            Err(SendError::Closed(message)) => {
                // The reactor is gone with its data: what the machine waits for from it has failed.
                if let ToClient::Move(what) = message
                    && what.way != Way::Zero
                {
                    self.answer(what.request, &Answer::Failed);
                }
                Ok(())
            }
        }
    }

    fn answer(&mut self, request: RequestId, answer: &Answer<'_>) {
        self.store.finish(request, *answer);
        self.stirred = true;
    }

    fn moved(&mut self, client: Option<u16>, Moved { what, ok }: Moved) {
        match what.way {
            _ if !ok => self.answer(what.request, &Answer::Failed),
            Way::Read(_) => {
                let sums = match client {
                    None => self.lane.sums(),
                    Some(client) => &self.clients[usize::from(client)].sums,
                };
                sums.load(what.slot, what.offset, what.blocks, &mut self.scratch);
                self.store.finish(what.request, Answer::Sums(&self.scratch));
                self.stirred = true;
            }
            Way::Write(_) | Way::Zero => self.answer(what.request, &Answer::Done),
        }
    }

    /// What the base device finished. Whether there was anything.
    fn collect(&mut self) -> bool {
        let mut finished = std::mem::take(&mut self.finished);
        let any = self.lane.collect(&mut finished);
        finished.drain(..).for_each(|finished| self.base_finished(finished));
        self.finished = finished;
        any
    }

    fn base_finished(&mut self, finished: Finished) {
        match finished {
            Finished::Data(moved) => self.moved(None, moved),
            Finished::Meta(index, ok, buffer) => self.meta_finished(index, ok, buffer),
        }
    }

    fn meta_finished(&mut self, index: u32, ok: bool, buffer: Option<IoBuf>) {
        let Some(Meta { request, kind }) = self.metas[index as usize].take() else { return };
        match (kind, &buffer) {
            (MetaKind::Read, Some(buffer)) if ok => {
                let mut bytes = [0; BLOCK_BYTES];
                buffer.copy_out(0, &mut bytes);
                self.answer(request, &Answer::Meta(&bytes));
            }
            (MetaKind::Through, _) if ok => {
                self.metas[index as usize] = Some(Meta { request, kind: MetaKind::Plain });
                self.keep_buffer(buffer);
                return self.submit_meta(index, Op::Flush);
            }
            (MetaKind::Plain, _) if ok => self.answer(request, &Answer::Done),
            _ => self.answer(request, &Answer::Failed),
        }
        self.keep_buffer(buffer);
        self.free_metas.push(index);
    }

    fn submit_meta(&mut self, index: u32, op: Op) {
        if let Some(finished) = self.lane.submit(Io { tag: META | u64::from(index), op }) {
            self.base_finished(finished);
        }
    }

    /// Starts a metadata request, unless too many are under way or there is no buffer for it.
    fn start_meta(&mut self, Request { id, op }: Request) -> Result<(), Request> {
        if self.metas.len() - self.free_metas.len() >= META_MAX {
            return Err(Request { id, op });
        }
        let (kind, op) = match op {
            RequestOp::Flush => (MetaKind::Plain, Op::Flush),
            RequestOp::ReadMeta { block } => match self.meta_buffer() {
                Some(buffer) => (MetaKind::Read, Op::Read { lba: self.lane.lba(block), buffer }),
                None => return Err(Request { id, op: RequestOp::ReadMeta { block } }),
            },
            RequestOp::WriteMeta { block, bytes, fua } => match self.meta_buffer() {
                Some(mut buffer) => {
                    buffer.copy_in(0, &bytes[..]);
                    self.store.recycle(bytes);
                    let kind = if fua && !self.fua { MetaKind::Through } else { MetaKind::Plain };
                    (kind, Op::Write { lba: self.lane.lba(block), buffer, fua: fua && self.fua })
                }
                None => return Err(Request { id, op: RequestOp::WriteMeta { block, bytes, fua } }),
            },
            RequestOp::ReadData { .. } | RequestOp::ZeroData { .. } | RequestOp::WriteData { .. } => {
                unreachable!("data is moved by its lane")
            }
        };
        let index = self.free_metas.pop().unwrap_or_else(|| {
            self.metas.push(None);
            u32::try_from(self.metas.len() - 1).unwrap_or(u32::MAX)
        });
        self.metas[index as usize] = Some(Meta { request: id, kind });
        self.submit_meta(index, op);
        Ok(())
    }

    fn meta_buffer(&mut self) -> Option<IoBuf> {
        self.spare.pop().or_else(|| self.pool.alloc_io(BLOCK_BYTES))
    }

    /// A metadata request's buffer is free: kept while there are few.
    fn keep_buffer(&mut self, buffer: Option<IoBuf>) {
        if self.spare.len() < SPARE_BUFFERS {
            self.spare.extend(buffer);
        }
    }

    /// Carries out what the machine asks for. Whether there was anything.
    fn issue(&mut self) -> bool {
        let mut any = false;
        while let Some(request) = self.starved.pop_front() {
            if let Err(request) = self.start_meta(request) {
                self.starved.push_front(request);
                break;
            }
        }
        while let Some(request) = self.store.next_request() {
            any = true;
            let (tag, offset, blocks, way) = match request.op {
                RequestOp::ReadData { tag, offset, block, blocks } => (tag, offset, blocks, Way::Read(block)),
                RequestOp::WriteData { tag, offset, block, blocks } => {
                    (tag, offset, blocks, Way::Write(block))
                }
                RequestOp::ZeroData { tag, offset, blocks } => (tag, offset, blocks, Way::Zero),
                RequestOp::ReadMeta { .. } | RequestOp::WriteMeta { .. } | RequestOp::Flush => {
                    if let Err(request) = self.start_meta(request) {
                        self.starved.push_back(request);
                    }
                    continue;
                }
            };
            let (origin, slot) = origin(tag);
            self.start_move(origin, Move { slot, offset, blocks, way, request: request.id });
        }
        any
    }

    fn start_move(&mut self, origin: u32, what: Move) {
        if what.way == Way::Zero {
            // Nothing to wait for: whoever has the data fills it before it hears that the command is done.
            self.answer(what.request, &Answer::Done);
        }
        if origin == OWN {
            if let Some(finished) = self.lane.start(what) {
                self.base_finished(finished);
            }
        } else if let Ok(client) = u16::try_from(origin - 1) {
            self.send(client, ToClient::Move(what));
        }
    }

    /// Passes on what the machine tells. Whether there was anything.
    fn report(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.store.next_event() {
            any = true;
            let Event::Done { tag, result } = event else { continue };
            let (origin, slot) = origin(tag);
            match origin {
                CONTROL => {
                    if let Some(replier) = self.controls.get_mut(slot as usize).and_then(Option::take) {
                        replier.reply(result);
                    }
                }
                origin => self.done(origin, slot, result.map(drop)),
            }
        }
        any
    }

    fn done(&mut self, origin: u32, slot: u32, result: Result<(), Failure>) {
        if origin == OWN {
            if let Err(failure) = result
                && !self.walks.is_empty()
                && self.lane.is_copy(self.walks.outbox(), slot)
            {
                self.copy_failed(self.lane.tag(slot), failure);
            }
            self.lane.done(slot, result);
        } else if let Ok(client) = u16::try_from(origin - 1) {
            self.send(client, ToClient::Done { slot, result });
        }
    }

    /// Commands that wait for a slot of the machine, and unmaps that go on.
    fn resume(&mut self) -> bool {
        let before = self.waiting.len();
        for _ in 0..before {
            let Some((origin, slot, order)) = self.waiting.pop_front() else { break };
            self.submit(origin, slot, order);
            if self.waiting.len() == before {
                // No slot yet; the first in line stays first.
                self.waiting.rotate_right(1);
                break;
            }
        }
        let mut any = self.waiting.len() < before;
        for _ in 0..STEPS_MAX {
            let Some((slot, order)) = self.lane.take_step() else { break };
            self.submit(OWN, slot, order);
            any = true;
        }
        any
    }

    /// Turns the machine for as long as that makes new work at once.
    fn turn(&mut self) -> bool {
        let reaping = self.store.is_reaping() && !self.store.is_stopped();
        self.stirred |= reaping;
        let mut busy = reaping;
        for _ in 0..ROUNDS_MAX {
            if !std::mem::take(&mut self.stirred) {
                break;
            }
            self.store.turn();
            self.issue();
            self.report();
            busy = true;
        }
        if busy {
            self.gauges.publish(&self.store);
        }
        if !self.store.is_growing()
            && let Some(replier) = self.growing.take()
        {
            replier.reply(if self.store.is_stopped() { Err(GrowError::Stopped) } else { Ok(()) });
        }
        busy
    }

    /// Brings everything to the media; `replier` hears when it is there.
    pub(super) fn close(&mut self, replier: Replier<()>) {
        self.walks.stop();
        self.closing = Some(replier);
        self.progress();
    }

    /// Works towards nothing being under way and everything that was applied being in a checkpoint on the media. Whether
    /// that is so.
    fn settle(&mut self) -> bool {
        let quiet =
            self.walks.is_empty() && self.lane.is_idle() && self.waiting.is_empty() && self.store.is_idle();
        if self.store.is_stopped() {
            return self.lane.is_idle();
        }
        if quiet && self.store.durable_lsn() < self.store.lsn() && !self.store.is_checkpointing() {
            self.store.request_checkpoint();
            self.stirred = true;
            return false;
        }
        quiet && !self.store.is_checkpointing()
    }
}

impl Port for Engine {
    fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    /// As far as it goes: a device in memory ends it.
    #[inline]
    fn start(&mut self, slot: u32, order: Order) {
        self.submit(OWN, slot, order);
        self.issue();
        self.report();
    }

    #[inline]
    fn lend(&mut self, queue: u32, volume: VolumeId, lba: Lba, bytes: u32) -> Option<IoBuf> {
        let found = find(&self.lane, &self.store, (volume, lba), bytes)?;
        self.lane.lend(queue, bytes, found)
    }

    /// Checking reads all of it at once: memory that no cache holds is asked for before.
    #[inline]
    fn expect_read(&mut self, volume: VolumeId, lba: Lba, bytes: u32) {
        if let Some(Found { block, sums }) = find(&self.lane, &self.store, (volume, lba), bytes) {
            sums.into_iter().for_each(|sums| prefetch(sums.as_ptr().cast(), size_of_val(sums)));
            self.lane.expect_read(block, bytes);
        }
    }

    #[inline]
    fn take_over(&mut self, queue: u32, volume: VolumeId, lba: Lba, buffer: IoBuf) -> Result<(), IoBuf> {
        if !self.lane.is_memory() || buffer.len() != BLOCK_BYTES {
            return Err(buffer);
        }
        let Some(prepared) = self.store.prepare(volume, VolumeBlock(lba.get())) else { return Err(buffer) };
        let sum = if prepared.is_summed() { checksum(&buffer) } else { 0 };
        match self.lane.take_over(queue, prepared.block(), buffer) {
            Ok(()) => {
                self.store.finish_prepared(prepared, sum);
                self.stirred = true;
                Ok(())
            }
            Err(buffer) => {
                self.store.give_up(prepared);
                Err(buffer)
            }
        }
    }

    #[inline]
    fn expect_write(&mut self, bytes: u32) {
        if self.lane.is_memory()
            && let Some(block) = self.store.next_block()
        {
            self.lane.expect_write(block, bytes);
        }
    }

    fn kick(&mut self) {
        self.lane.kick();
    }

    fn progress(&mut self) -> bool {
        let mut busy = self.receive();
        busy |= self.collect();
        busy |= self.resume();
        busy |= self.issue();
        busy |= self.report();
        if !self.walks.is_empty() {
            busy |= self.walk();
            self.stirred = true;
        }
        busy |= self.turn();
        if self.closing.is_some()
            && self.settle()
            && let Some(replier) = self.closing.take()
        {
            replier.reply(());
        }
        self.lane.kick();
        busy
    }

    fn may_sleep(&mut self) -> bool {
        let waits = self.unsent.is_empty() && self.starved.is_empty() && !self.stirred;
        waits && !self.lane.has_steps() && self.lane.before_sleep()
    }

    fn drain(&mut self) -> bool {
        self.walks.stop();
        self.progress();
        self.settle()
    }
}

/// Where the blocks of a read lie, if in memory and together.
#[inline]
fn find<'a>(lane: &Lane, store: &'a Store, (volume, lba): (VolumeId, Lba), bytes: u32) -> Option<Found<'a>> {
    let is_here = lane.is_memory() && (bytes as usize).is_multiple_of(BLOCK_BYTES);
    is_here.then(|| store.find(volume, VolumeBlock(lba.get()), bytes >> BLOCK_SHIFT)).flatten()
}

fn tag(origin: u32, slot: u32) -> u64 {
    u64::from(origin) << 32 | u64::from(slot)
}

/// The lane and the slot of a tag.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of 64 bits")]
fn origin(tag: u64) -> (u32, u32) {
    ((tag >> 32) as u32, tag as u32)
}

fn client_index(origin: u32) -> usize {
    origin as usize - 1
}
