//! One thread's way to the replicas: carries out the requests of its lane, and gives commands back.

mod links;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use fabrics::Now;
use nvme::{Status, StatusCodeType};
use reactors::{Clock, DmaPool, IoBuf};
use rustix::event::epoll;
use uuid::Uuid;

use links::{Link, has_memory, open_link};

use super::driver::{Door, Ended, Gathered, Head};
use super::replica::BLOCK_SHIFT;
use super::replica_queue::PERSISTING;
use super::slots::Slots;
use super::window::{self, Answers, Ask, Call, DOOR_BYTES, METADATA, Verdict};
use crate::device::{BlockSize, DeviceError, Done, Io, IoDone, Lba, Op, OpKind, QueueContext, Submission};
use crate::volume::format::{self, BLOCK_BYTES, Content};
use crate::volume::{
    Bitmap, Failure, Joined, Lane as LaneNumber, Lineage, Operation, Outcome, REPLICAS_MAX, Refused,
    ReplicaIndex, Request, RequestId, RequestOp, Session,
};

/// Copies that may be under way.
const COPIES_MAX: usize = 16;

/// What a replica works on for us.
enum Work {
    Plain,
    /// A read of a command: its slot, and which of its attempts.
    Read {
        slot: u32,
        attempt: u32,
    },
    CopyRead {
        copy: u8,
    },
    Intent {
        page: u32,
        sequence: u64,
    },
    /// The steps of a fence: the call, the answers, the pages.
    Call,
    Answers {
        session: Session,
        read: bool,
    },
    Page(Box<Joining>),
    Told,
}

/// A replica that accepted us, while its bitmap is read.
struct Joining {
    session: Session,
    window: u16,
    sound: bool,
    content: Content,
    page: u32,
    pages: u64,
    lineage: Lineage,
    blocks: u64,
    room: u64,
    intent: Bitmap,
}

struct Pending {
    /// The activation that it belongs to.
    generation: u64,
    id: RequestId,
    replica: ReplicaIndex,
    work: Work,
}

/// A command of the host.
struct Client {
    tag: u64,
    /// Which command of the slot.
    round: u32,
    kind: OpKind,
    bytes: u64,
    buffer: Option<IoBuf>,
    attempt: u32,
}

/// The data of one copy, which belongs to whatever is copied there now.
#[derive(Default)]
struct Copied {
    /// The read that fills it.
    read: Option<RequestId>,
    /// The first block.
    at: u64,
    buffer: Option<IoBuf>,
    /// It is nothing but zeroes.
    hole: bool,
}

/// The head in use.
struct Current {
    head: Arc<Head>,
    number: LaneNumber,
}

/// See the module.
pub(super) struct Lane {
    volume: Uuid,
    block_size: BlockSize,
    block_shift: u8,
    pub(super) door: Arc<Door>,
    generation: u64,
    current: Option<Current>,
    slots: Arc<Slots>,
    /// Of the devices that the links lead to.
    version: u64,
    depth: u32,
    links: [Option<Link>; REPLICAS_MAX as usize],
    /// Queues of replicas that were removed, until they are idle.
    retired: Vec<Link>,
    /// A replica of this process is memory.
    lends: bool,
    pool: DmaPool,
    clock: Clock,
    events: OwnedFd,
    clients: Vec<Option<Client>>,
    free_clients: Vec<u32>,
    /// Tells the commands of a slot apart.
    rounds: u32,
    pending: Vec<Option<Pending>>,
    free_pending: Vec<u32>,
    copies: [Copied; COPIES_MAX],
    /// Requests that found no buffer.
    starved: VecDeque<Request>,
    outcomes: Vec<(RequestId, Outcome)>,
    gathered: Gathered,
    batch: Done,
    finished: VecDeque<(OpKind, u64, IoDone)>,
}

impl Lane {
    pub(super) fn open(
        volume: Uuid,
        block_size: BlockSize,
        slots: &Arc<Slots>,
        context: &QueueContext<'_>,
    ) -> Result<Self, DeviceError> {
        let failed =
            |source| DeviceError::Io { action: "open a queue of", path: volume.to_string().into(), source };
        let system = |errno: rustix::io::Errno| failed(errno.into());
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?;
        let door = Door::new().map_err(failed)?;
        epoll::add(&events, &*door, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(system)?;
        let (version, devices) = slots.devices();
        let mut links = Default::default();
        let places: &mut [Option<Link>; REPLICAS_MAX as usize] = &mut links;
        for (link, device) in places.iter_mut().zip(devices) {
            if let Some((number, device)) = device {
                *link = Some(open_link(&events, number, device.as_ref(), context)?);
            }
        }
        let depth = context.depth.max(1);
        Ok(Self {
            volume,
            block_size,
            block_shift: block_size.shift(),
            door,
            generation: 0,
            current: None,
            slots: Arc::clone(slots),
            version,
            depth,
            lends: has_memory(&links),
            links,
            retired: Vec::new(),
            pool: context.pool.clone(),
            clock: Clock::new(),
            events,
            clients: (0..depth).map(|_| None).collect(),
            free_clients: (0..depth).rev().collect(),
            rounds: 0,
            pending: Vec::new(),
            free_pending: Vec::new(),
            copies: Default::default(),
            starved: VecDeque::new(),
            outcomes: Vec::new(),
            gathered: Gathered::default(),
            batch: Done::new(),
            finished: VecDeque::new(),
        })
    }

    pub(super) fn now(&self) -> Now {
        Now(self.clock.now().as_nanos())
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Commands that were taken and not handed over.
    pub(super) fn in_flight(&self) -> usize {
        self.clients.len() - self.free_clients.len() + self.finished.len()
    }

    /// Turns to another head, or to none. Commands of the one before have ended, or end here.
    pub(super) fn attach(&mut self, head: Option<Arc<Head>>, generation: u64) {
        self.take_ended();
        self.take_routed();
        for slot in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            self.end(slot, Err(Failure::NotHead));
        }
        self.starved.clear();
        self.outcomes.clear();
        self.gathered = Gathered::default();
        self.generation = generation;
        self.current = head.map(|head| {
            let number = head.add_lane(&self.door);
            Current { head, number }
        });
    }

    // Commands

    /// Takes a command. What it was refused with at once is [`Self::finished`] too.
    pub(super) fn submit(&mut self, io: Io) -> Submission {
        let (operation, now) = (self.operation(&io.op), self.now());
        let Some(Current { head, number }) = &self.current else { return refuse(io, Failure::NotHead) };
        let Some(slot) = self.free_clients.pop() else { return Submission::Busy(io) };
        self.rounds = self.rounds.wrapping_add(1);
        let tag = u64::from(self.rounds) << 32 | u64::from(slot);
        let mut machine = head.lock();
        match machine.submit(tag, *number, operation, now) {
            Ok(()) => {}
            Err(refused) => {
                drop(machine);
                self.free_clients.push(slot);
                return match refused {
                    Refused::Busy => Submission::Busy(io),
                    Refused::Failed(failure) => refuse(io, failure),
                };
            }
        }
        head.gather(&mut machine, *number, &mut self.gathered);
        drop(machine);
        let (client_tag, kind, bytes) = (io.tag, io.op.kind(), self.bytes(&io.op));
        let (round, buffer) = (self.rounds, io.op.into_buffer());
        self.clients[slot as usize] =
            Some(Client { tag: client_tag, round, kind, bytes, buffer, attempt: 0 });
        self.progress();
        Submission::Queued
    }

    /// What is read, without a copy, where the replica on this node has it in memory and may be read at once.
    #[inline]
    pub(super) fn lend(&mut self, lba: Lba, bytes: u32) -> Option<IoBuf> {
        // The places of replicas must lead where the machine means.
        let is_current = self.lends && self.version == self.slots.version();
        let head = &self.current.as_ref().filter(|_| is_current)?.head;
        let now = self.now();
        // Nothing happens to the volume meanwhile.
        let machine = head.lock();
        let (replica, session) = machine.reads_at_once(lba.get(), bytes >> self.block_shift, now)?;
        let window = head.window(replica, session)?;
        let link = self.links[replica.index()].as_mut()?;
        link.queue.lend(window::lba(window, lba.get()), bytes)
    }

    pub(super) fn is_memory(&self) -> bool {
        self.lends
    }

    /// Base-two logarithm of logical blocks in a block of metadata.
    fn metadata_shift(&self) -> u8 {
        BLOCK_SHIFT - self.block_shift
    }

    fn bytes(&self, op: &Op) -> u64 {
        let blocks = op.blocks(self.block_size).unwrap_or(0..0);
        (blocks.end - blocks.start) << self.block_shift
    }

    fn operation(&self, op: &Op) -> Operation {
        let blocks = |buffer: &IoBuf| u32::try_from(buffer.len() >> self.block_shift).unwrap_or(u32::MAX);
        match op {
            Op::Read { lba, buffer } => Operation::Read { at: lba.get(), blocks: blocks(buffer) },
            Op::Write { lba, buffer, fua } => {
                Operation::Write { at: lba.get(), blocks: blocks(buffer), fua: *fua }
            }
            Op::WriteZeroes { lba, blocks, deallocate, fua } => {
                Operation::Zeroes { at: lba.get(), blocks: *blocks, deallocate: *deallocate, fua: *fua }
            }
            Op::Deallocate { lba, blocks } => {
                Operation::Zeroes { at: lba.get(), blocks: *blocks, deallocate: true, fua: false }
            }
            Op::Flush => Operation::Flush,
        }
    }

    fn end(&mut self, slot: u32, result: Result<(), Failure>) {
        let Some(client) = self.clients[slot as usize].take() else { return };
        self.free_clients.push(slot);
        let status = result.map_or_else(status_of, |()| Status::SUCCESS);
        let done = IoDone { tag: client.tag, status, buffer: client.buffer };
        self.finished.push_back((client.kind, client.bytes, done));
    }

    fn take_ended(&mut self) {
        let mut ended = std::mem::take(&mut self.gathered.ended);
        for (tag, result) in ended.drain(..) {
            self.on_ended(tag, result);
        }
        self.gathered.ended = ended;
    }

    fn on_ended(&mut self, tag: u64, result: Result<(), Failure>) {
        if self.has_client(tag) {
            self.end(slot_of(tag), result);
        }
    }

    /// Ends of our commands that other threads saw first.
    fn take_routed(&mut self) -> bool {
        let routed: Vec<Ended> = self.door.take_ended();
        let any = !routed.is_empty();
        for (tag, result) in routed {
            self.on_ended(tag, result);
        }
        any
    }

    /// The next command that ended: its kind, its bytes, and how.
    pub(super) fn take_finished(&mut self) -> Option<(OpKind, u64, IoDone)> {
        self.finished.pop_front()
    }

    // Turns

    /// Takes what replicas have finished, and goes on. Whether there was anything.
    pub(super) fn poll(&mut self, tick: bool) -> bool {
        // What the machine has for us is there, or somebody woke us for it.
        let woken = self.door.rest();
        let mut busy = woken && self.take_routed();
        busy |= self.poll_links();
        if woken || tick || !self.outcomes.is_empty() {
            self.report(tick);
        }
        for request in std::mem::take(&mut self.starved) {
            self.execute(request);
        }
        busy |= self.progress();
        self.kick();
        busy
    }

    /// Tells the machine what replicas have done, and perhaps the time, and takes what follows.
    fn report(&mut self, tick: bool) {
        let now = self.now();
        let Some(Current { head, number }) = &self.current else { return };
        let mut machine = head.lock();
        for (id, outcome) in self.outcomes.drain(..) {
            machine.finish(id, outcome, now);
        }
        // Afterwards: what has been answered is not late, however late we look.
        if tick {
            machine.on_tick(now);
        }
        head.gather(&mut machine, *number, &mut self.gathered);
    }

    /// Carries out what the machine wants, until it wants nothing more at once.
    fn progress(&mut self) -> bool {
        let mut busy = false;
        loop {
            let mut requests = std::mem::take(&mut self.gathered.requests);
            busy |= !requests.is_empty();
            for request in requests.drain(..) {
                self.execute(request);
            }
            // Nothing was added meanwhile: that takes a report.
            self.gathered.requests = requests;
            if self.outcomes.is_empty() || self.current.is_none() {
                break;
            }
            self.report(false);
        }
        busy |= !self.gathered.ended.is_empty();
        self.take_ended();
        busy
    }

    /// Passes on what was submitted to replicas.
    pub(super) fn kick(&mut self) {
        for link in self.links.iter_mut().flatten() {
            link.queue.kick();
        }
    }

    fn poll_links(&mut self) -> bool {
        self.follow_slots();
        self.poll_retired();
        let mut busy = false;
        for number in 0..self.links.len() {
            let Some(link) = &mut self.links[number] else { continue };
            let mut batch = std::mem::take(&mut self.batch);
            link.queue.poll(&mut batch);
            busy |= !batch.is_empty();
            for finished in batch.drain() {
                self.on_finished(finished);
            }
            self.batch = batch;
            while let Some(link) = &mut self.links[number]
                && let Some(io) = link.backlog.pop_front()
            {
                match link.queue.submit(io) {
                    Submission::Done(finished) => self.on_finished(finished),
                    Submission::Queued => {}
                    Submission::Busy(io) => {
                        link.backlog.push_front(io);
                        break;
                    }
                }
            }
        }
        busy
    }

    pub(super) fn wait_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    pub(super) fn before_sleep(&mut self) -> bool {
        let mut willing = self.version == self.slots.version();
        willing &= self.finished.is_empty() && self.starved.is_empty() && !self.door.is_woken();
        for link in self.links.iter_mut().flatten().chain(&mut self.retired) {
            willing &= link.queue.before_sleep();
        }
        willing
    }

    // Requests

    fn execute(&mut self, request: Request) {
        // A replica that was just added is wanted before the next turn.
        self.follow_slots();
        let Some(current) = &self.current else { return };
        let head = Arc::clone(&current.head);
        let Request { id, replica, session, ref op, .. } = request;
        let ask = match op {
            RequestOp::Fence { epoch, sound } => Some(Ask::Fence { epoch: *epoch, sound: *sound }),
            RequestOp::Renew { sound, mapped } => Some(Ask::Renew { sound: *sound, mapped: *mapped }),
            RequestOp::Release => Some(Ask::Release),
            RequestOp::Flush => Some(Ask::Flush),
            RequestOp::Adopt { lineage } => Some(Ask::Adopt { lineage: *lineage }),
            RequestOp::Grow { blocks, store } => {
                Some(Ask::Grow { bytes: blocks << self.block_shift, store: *store })
            }
            _ => None,
        };
        if let RequestOp::Read { tag, .. } | RequestOp::Write { tag, .. } = op
            && !self.has_client(*tag)
        {
            // Its command has ended meanwhile, and its slot may be another's.
            return self.outcomes.push((id, Outcome::Lost));
        }
        if let RequestOp::CopyWrite { copy, at, .. } = op {
            let copied = &self.copies[usize::from(*copy)];
            if copied.at != *at || copied.buffer.is_none() {
                return self.outcomes.push((id, Outcome::Lost));
            }
        }
        let made = match ask {
            Some(ask) => self.call(session, ask),
            None => match head.window(replica, session) {
                Some(window) => self.data(window, &head, &request),
                None => return self.outcomes.push((id, Outcome::Lost)),
            },
        };
        match made {
            Some((op, work)) => self.send(id, replica, op, work),
            None => self.starved.push_back(request),
        }
    }

    fn has_client(&self, tag: u64) -> bool {
        let client = self.clients.get(slot_of(tag) as usize).and_then(Option::as_ref);
        client.is_some_and(|client| u64::from(client.round) == tag >> 32)
    }

    /// A call through the door; `None` without a buffer.
    fn call(&self, session: Session, ask: Ask) -> Option<(Op, Work)> {
        let mut buffer = self.pool.alloc_io(DOOR_BYTES)?;
        let work = match ask {
            Ask::Fence { .. } => Work::Answers { session, read: false },
            Ask::Adopt { .. } | Ask::Grow { .. } => Work::Told,
            _ => Work::Call,
        };
        buffer.copy_in(0, &Call { volume: self.volume, session, ask }.encode());
        Some((Op::Write { lba: Lba(0), buffer, fua: false }, work))
    }

    /// Anything in a window; `None` without a buffer.
    fn data(&mut self, window: u16, head: &Head, request: &Request) -> Option<(Op, Work)> {
        let bytes = |blocks: u32| (blocks as usize) << self.block_shift;
        let at = |block: u64| window::lba(window, block);
        Some(match &request.op {
            RequestOp::Read { tag, at: from, blocks } => {
                let (slot, len) = (slot_of(*tag), bytes(*blocks));
                let client = self.clients[slot as usize].as_mut()?;
                let buffer = match client.buffer.take() {
                    Some(buffer) => buffer,
                    None => self.pool.alloc_io(len)?,
                };
                client.attempt += 1;
                (Op::Read { lba: at(*from), buffer }, Work::Read { slot, attempt: client.attempt })
            }
            RequestOp::Write { tag, at: from, fua, .. } => {
                let client = self.clients[slot_of(*tag) as usize].as_mut()?;
                let buffer = shared(client.buffer.as_mut()?, &self.pool)?;
                (Op::Write { lba: at(*from), buffer, fua: *fua }, Work::Plain)
            }
            RequestOp::Zeroes { at: from, blocks, deallocate, fua } => {
                let op =
                    Op::WriteZeroes { lba: at(*from), blocks: *blocks, deallocate: *deallocate, fua: *fua };
                (op, Work::Plain)
            }
            RequestOp::CopyRead { copy, at: from, blocks } => {
                let buffer = self.pool.alloc_io(bytes(*blocks))?;
                let copied = Copied { read: Some(request.id), at: *from, buffer: None, hole: false };
                self.copies[usize::from(*copy)] = copied;
                (Op::Read { lba: at(*from), buffer }, Work::CopyRead { copy: *copy })
            }
            RequestOp::CopyWrite { copy, at: from, blocks } if self.copies[usize::from(*copy)].hole => {
                // Less to send, and no space where there was none.
                let op = Op::WriteZeroes { lba: at(*from), blocks: *blocks, deallocate: true, fua: false };
                (op, Work::Plain)
            }
            RequestOp::CopyWrite { copy, at: from, .. } => {
                let buffer = shared(self.copies[usize::from(*copy)].buffer.as_mut()?, &self.pool)?;
                (Op::Write { lba: at(*from), buffer, fua: false }, Work::Plain)
            }
            RequestOp::Intent { page, words } => {
                let mut buffer = self.pool.alloc_io(BLOCK_BYTES)?;
                let sequences = self.links[request.replica.index()].as_ref().map(|link| &link.sequences);
                let newest = sequences.and_then(|sequences| sequences.get(*page as usize));
                // What an earlier head may have left there, unread, has a lower number than any of this epoch.
                let newest = newest.copied().filter(|newest| *newest > 0);
                let sequence = newest.unwrap_or_else(|| head.lock().epoch().0 << 32) + 1;
                buffer.copy_in(0, &format::encode_page(*page, words, sequence)[..]);
                let lba = at(METADATA + (format::page_at(*page, sequence) << self.metadata_shift()));
                (Op::Write { lba, buffer, fua: true }, Work::Intent { page: *page, sequence })
            }
            RequestOp::Fence { .. }
            | RequestOp::Renew { .. }
            | RequestOp::Release
            | RequestOp::Adopt { .. }
            | RequestOp::Grow { .. }
            | RequestOp::Flush => unreachable!("called through the door"),
        })
    }

    fn send(&mut self, id: RequestId, replica: ReplicaIndex, op: Op, work: Work) {
        let slot = self.free_pending.pop().unwrap_or_else(|| {
            self.pending.push(None);
            u32::try_from(self.pending.len() - 1).unwrap_or(u32::MAX)
        });
        self.pending[slot as usize] = Some(Pending { generation: self.generation, id, replica, work });
        let io = Io { tag: u64::from(slot), op };
        let Some(link) = &mut self.links[replica.index()] else {
            self.pending[slot as usize] = None;
            self.free_pending.push(slot);
            return self.outcomes.push((id, Outcome::Lost));
        };
        if !link.backlog.is_empty() {
            return link.backlog.push_back(io);
        }
        match link.queue.submit(io) {
            Submission::Done(finished) => self.on_finished(finished),
            Submission::Queued => {}
            Submission::Busy(io) => link.backlog.push_back(io),
        }
    }

    /// A replica has finished something.
    fn on_finished(&mut self, finished: IoDone) {
        let slot = u32::try_from(finished.tag).unwrap_or(u32::MAX);
        let Some(pending) = self.pending.get_mut(slot as usize).and_then(Option::take) else { return };
        self.free_pending.push(slot);
        let Pending { generation, id, replica, work } = pending;
        if generation != self.generation {
            return;
        }
        let IoDone { status, buffer, .. } = finished;
        let outcome = match (work, status.is_success()) {
            (Work::Read { slot, attempt }, _) => {
                self.give_back(slot, attempt, buffer);
                outcome_of(status)
            }
            (Work::CopyRead { copy }, _) => {
                let copied = &mut self.copies[usize::from(copy)];
                // Another copy may be there by now, of something else.
                if copied.read == Some(id) {
                    copied.hole = buffer.as_ref().is_some_and(is_zero);
                    copied.buffer = buffer;
                }
                outcome_of(status)
            }
            (Work::Intent { page, sequence }, true) => {
                if let Some(sequences) = self.sequences(replica) {
                    // Pages come when the volume grows.
                    sequences.resize(sequences.len().max(page as usize + 1), 0);
                    sequences[page as usize] = sequence;
                }
                Outcome::Done
            }
            (Work::Answers { session, read: false }, true) => {
                return self.ask_answers(id, replica, session, buffer);
            }
            (Work::Answers { session, read: true }, true) => {
                return self.read_answers(id, replica, session, buffer.as_ref());
            }
            (Work::Page(joining), true) => return self.on_page(id, replica, joining, buffer.as_ref()),
            (Work::Told, true) => Outcome::Done,
            (Work::Told, false) if status == PERSISTING => Outcome::Later { ns: 0 },
            (Work::Told, false) if status == Status::CAPACITY_EXCEEDED => Outcome::Failed(status),
            // Neither a call nor a page that cannot be had says anything of the media.
            (Work::Answers { .. } | Work::Page(_) | Work::Call | Work::Told, false) => Outcome::Lost,
            (Work::Plain | Work::Call | Work::Intent { .. }, _) => outcome_of(status),
        };
        self.outcomes.push((id, outcome));
    }

    /// A read's buffer goes back to its command, unless that has another by now.
    fn give_back(&mut self, slot: u32, attempt: u32, buffer: Option<IoBuf>) {
        let Some(client) = &mut self.clients[slot as usize] else { return };
        if client.attempt == attempt {
            client.buffer = buffer;
        }
    }

    // The steps of a fence

    /// The call was taken: its answer is read into the same buffer.
    fn ask_answers(&mut self, id: RequestId, replica: ReplicaIndex, session: Session, buffer: Option<IoBuf>) {
        match buffer {
            Some(buffer) => {
                let op = Op::Read { lba: Lba(0), buffer };
                self.send(id, replica, op, Work::Answers { session, read: true });
            }
            None => self.outcomes.push((id, Outcome::Lost)),
        }
    }

    fn read_answers(
        &mut self,
        id: RequestId,
        replica: ReplicaIndex,
        session: Session,
        buffer: Option<&IoBuf>,
    ) {
        let mut bytes = [0; DOOR_BYTES];
        if let Some(buffer) = buffer {
            buffer.copy_out(0, &mut bytes);
        }
        let answers = Answers::decode(&bytes);
        let verdict = answers.as_ref().and_then(|answers| answers.of(session));
        let outcome = match (verdict, answers) {
            (Some(Verdict::Accepted { window, sound, content }), Some(answers)) => {
                return self.joined(id, replica, session, (window, sound, content), &answers);
            }
            (Some(Verdict::Later { ns }), _) => Outcome::Later { ns },
            (Some(Verdict::Superseded), _) => Outcome::Superseded,
            _ => Outcome::Lost,
        };
        self.outcomes.push((id, outcome));
    }

    fn joined(
        &mut self,
        id: RequestId,
        replica: ReplicaIndex,
        session: Session,
        (window, sound, content): (u16, bool, Content),
        answers: &Answers,
    ) {
        let Some(current) = &self.current else { return };
        current.head.set_window(replica, session, window);
        let regions = answers.bytes.div_ceil(u64::from(answers.region_bytes.max(1)));
        // Pages behind the end of a smaller replica are read too: what was left there must not be newer than what is written.
        let pages = format::pages(regions.max(current.head.lock().regions()));
        if let Some(sequences) = self.sequences(replica) {
            sequences.resize(usize::try_from(pages).unwrap_or(usize::MAX), 0);
        }
        let (lineage, intent) = (answers.lineage, Bitmap::new(regions));
        let (blocks, room) = (answers.bytes >> self.block_shift, answers.room >> self.block_shift);
        let joining =
            Joining { session, window, sound, content, page: 0, pages, lineage, blocks, room, intent };
        self.read_page(id, replica, Box::new(joining));
    }

    /// Both copies of a page lie side by side.
    fn read_page(&mut self, id: RequestId, replica: ReplicaIndex, joining: Box<Joining>) {
        let Some(buffer) = self.pool.alloc_io(2 * BLOCK_BYTES) else {
            return self.outcomes.push((id, Outcome::Lost));
        };
        let page = format::page_at(joining.page, 0) << self.metadata_shift();
        let lba = window::lba(joining.window, METADATA + page);
        self.send(id, replica, Op::Read { lba, buffer }, Work::Page(joining));
    }

    fn on_page(
        &mut self,
        id: RequestId,
        replica: ReplicaIndex,
        mut joining: Box<Joining>,
        buffer: Option<&IoBuf>,
    ) {
        let Some(buffer) = buffer else { return self.outcomes.push((id, Outcome::Lost)) };
        let mut copies = [Box::new([0; BLOCK_BYTES]), Box::new([0; BLOCK_BYTES])];
        buffer.copy_out(0, &mut copies[0][..]);
        buffer.copy_out(BLOCK_BYTES, &mut copies[1][..]);
        let page = joining.page;
        let sequence = format::decode_page(page, [&copies[0], &copies[1]], &mut joining.intent);
        // Pages that are on their way meanwhile have higher ones.
        if let Some(newest) = self.sequences(replica).and_then(|all| all.get_mut(page as usize)) {
            *newest = sequence.max(*newest);
        }
        joining.page += 1;
        if u64::from(joining.page) < joining.pages {
            return self.read_page(id, replica, joining);
        }
        debug_assert!(joining.session.number > 0);
        let Joining { sound, content, lineage, blocks, room, intent, .. } = *joining;
        let joined = Joined { sound, content, lineage, blocks, room, intent: Box::new(intent) };
        self.outcomes.push((id, Outcome::Joined(joined)));
    }
}

/// The slot in a tag.
fn slot_of(tag: u64) -> u32 {
    let [a, b, c, d, ..] = tag.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Whether there is nothing but zeroes.
fn is_zero(buffer: &IoBuf) -> bool {
    let is_zero = |part: &[u8]| part.iter().fold(0, |bits, byte| bits | byte) == 0;
    buffer.slices().all(|slice| slice.chunks(BLOCK_BYTES).all(is_zero))
}

/// The same bytes for one more replica.
fn shared(buffer: &mut IoBuf, pool: &DmaPool) -> Option<IoBuf> {
    if let Some(shared) = buffer.share() {
        return Some(shared);
    }
    let mut copy = pool.alloc_io(buffer.len())?;
    let mut at = 0;
    for part in buffer.slices() {
        copy.copy_in(at, part);
        at += part.len();
    }
    Some(copy)
}

fn outcome_of(status: Status) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Done,
        status if status.sct() == StatusCodeType::Path => Outcome::Lost,
        status => Outcome::Failed(status),
    }
}

pub(super) fn status_of(failure: Failure) -> Status {
    match failure {
        Failure::NotHead => Status::ASYMMETRIC_ACCESS_INACCESSIBLE,
        Failure::TooFewReplicas => Status::NAMESPACE_NOT_READY,
        Failure::OutOfRange => Status::LBA_OUT_OF_RANGE.dnr(),
        Failure::Media(status) => status,
    }
}

fn refuse(io: Io, failure: Failure) -> Submission {
    Submission::Done(IoDone { tag: io.tag, status: status_of(failure), buffer: io.op.into_buffer() })
}
