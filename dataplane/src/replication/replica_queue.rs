//! One reactor's way into a replica: windows, the door, and what its device does.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nvme::{Lba, Status};
use reactors::{DmaPool, IoBuf};

use super::replica::Shared;
use super::snapshots;
use super::window::{Answers, Ask, Call, DOOR_BYTES, Verdict, split};
use crate::device::{BlockSize, Done, Io, IoDone, Op, Queue, QueueContext, Submission};
use crate::volume::format::{self, BLOCK_BYTES, Superblock};
use crate::volume::{FenceStep, ReplicaState, Session};

/// How a command of an attachment that is over ends: a path error, so that nobody takes the media for broken.
pub(super) const DETACHED: Status = Status::INTERNAL_PATH_ERROR;
/// What a change of the superblock ends with while something else is being written: it is to be asked again.
pub(super) const PERSISTING: Status = Status::NAMESPACE_NOT_READY;
/// Asked again after this while another fence is being written.
const PERSISTING_NS: u64 = fabrics::NS_PER_MS;

/// What the base device works on.
enum Work {
    /// A command in a window.
    Window { tag: u64 },
    /// A flush called through the door.
    Flush { tag: u64, buffer: IoBuf },
    /// The superblock of a fence.
    Fence { tag: u64, buffer: IoBuf, wanted: Wanted },
    /// The superblock with what the head told.
    Told { tag: u64, buffer: IoBuf, superblock: Superblock },
}

/// What a superblock is written for.
#[derive(Clone, Copy)]
struct Wanted {
    session: Session,
    /// The head says that the replica holds everything.
    sound: bool,
    /// The head says that the bitmap names what the replica lacks.
    mapped: bool,
    state: ReplicaState,
}

/// See the module.
pub(super) struct ReplicaQueue {
    shared: Arc<Shared>,
    inner: Box<dyn Queue>,
    pool: DmaPool,
    block_size: BlockSize,
    works: Vec<Option<Work>>,
    free: Vec<u32>,
    finished: VecDeque<IoDone>,
    batch: Done,
}

impl ReplicaQueue {
    pub(super) fn new(shared: Arc<Shared>, inner: Box<dyn Queue>, context: &QueueContext<'_>) -> Self {
        let depth = context.depth.max(1);
        let block_size = shared.base.info().block_size;
        Self {
            shared,
            inner,
            pool: context.pool.clone(),
            block_size,
            works: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            finished: VecDeque::new(),
            batch: Done::new(),
        }
    }

    /// Hands work to the base device; the operation comes back when it is full.
    fn start(&mut self, op: Op, work: impl FnOnce() -> Work) -> Result<Option<IoDone>, Op> {
        let Some(slot) = self.free.pop() else { return Err(op) };
        match self.inner.submit(Io { tag: u64::from(slot), op }) {
            Submission::Done(done) => {
                self.works[slot as usize] = Some(work());
                Ok(Some(done))
            }
            Submission::Queued => {
                self.works[slot as usize] = Some(work());
                Ok(None)
            }
            Submission::Busy(io) => {
                self.free.push(slot);
                Err(io.op)
            }
        }
    }

    fn in_window(&mut self, window: u16, blocks: &std::ops::Range<u64>, io: Io) -> Submission {
        let Some(blocks) = self.find(blocks) else {
            return refuse(io, Status::LBA_OUT_OF_RANGE.dnr());
        };
        let now = self.shared.now();
        if !self.shared.lock().admit(window, now) {
            return refuse(io, DETACHED);
        }
        let (tag, original) = (io.tag, lba_of(&io.op));
        match self.start(moved(io.op, Lba(blocks.start)), || Work::Window { tag }) {
            Ok(None) => Submission::Queued,
            Ok(Some(done)) => Submission::Done(self.window_done(done)),
            Err(op) => {
                self.shared.lock().machine.done();
                Submission::Busy(Io { tag, op: moved(op, original) })
            }
        }
    }

    /// The blocks of the base device behind blocks of a window, if a head may touch them.
    #[inline]
    fn find(&self, blocks: &std::ops::Range<u64>) -> Option<std::ops::Range<u64>> {
        self.shared.place.find(blocks).filter(|blocks| self.shared.reaches(blocks.end))
    }

    /// The base device has finished a command of a window at once.
    fn window_done(&mut self, done: IoDone) -> IoDone {
        let slot = u32::try_from(done.tag).unwrap_or(u32::MAX);
        let work = self.works[slot as usize].take();
        self.free.push(slot);
        self.shared.lock().machine.done();
        let Some(Work::Window { tag }) = work else { unreachable!("it was just put there") };
        IoDone { tag, ..done }
    }

    /// Where reports of errands are read: behind the answers.
    fn reports(&self) -> Lba {
        Lba(DOOR_BYTES as u64 >> self.block_size.shift())
    }

    /// The door: calls are written, answers read.
    fn at_door(&mut self, io: Io) -> Submission {
        match io.op {
            Op::Read { lba, mut buffer } if lba == Lba(0) && buffer.len() == DOOR_BYTES => {
                let answers: Answers = self.shared.answers();
                buffer.copy_in(0, &answers.encode());
                done(io.tag, Status::SUCCESS, buffer)
            }
            Op::Read { lba, mut buffer } if lba == self.reports() && buffer.len() == DOOR_BYTES => {
                let report = self.shared.errands.report();
                buffer.copy_in(0, &report.map_or([0; DOOR_BYTES], |report| report.encode()));
                done(io.tag, Status::SUCCESS, buffer)
            }
            Op::Write { lba, buffer, .. } if lba == Lba(0) && buffer.len() == DOOR_BYTES => {
                let mut bytes = [0; DOOR_BYTES];
                buffer.copy_out(0, &mut bytes);
                match Call::decode(&bytes) {
                    Some(call) => self.called(io.tag, buffer, &call),
                    None => done(io.tag, Status::INVALID_FIELD.dnr(), buffer),
                }
            }
            op => refuse(Io { tag: io.tag, op }, Status::LBA_OUT_OF_RANGE.dnr()),
        }
    }

    fn called(&mut self, tag: u64, buffer: IoBuf, call: &Call) -> Submission {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        if call.volume != state.superblock.volume {
            return done(tag, Status::INVALID_FIELD.dnr(), buffer);
        }
        let known = match call.ask {
            Ask::Errand(ref errand) => {
                let attached = state.machine.session() == Some(call.session);
                drop(state);
                let begun = attached && snapshots::begin(&self.shared, call.session, errand.clone());
                return done(tag, if begun { Status::SUCCESS } else { DETACHED }, buffer);
            }
            Ask::Fence { epoch, sound } => {
                let step = match state.persisting {
                    true => FenceStep::Later { ns: PERSISTING_NS },
                    false => state.machine.fence(epoch, call.session, now),
                };
                match step {
                    FenceStep::Persist(accepted) => {
                        state.persisting = true;
                        drop(state);
                        let session = call.session;
                        return self.persist(
                            tag,
                            buffer,
                            Wanted { session, sound, mapped: false, state: accepted },
                        );
                    }
                    FenceStep::Later { ns } => state.answer(call.session, Verdict::Later { ns }),
                    FenceStep::Superseded => state.answer(call.session, Verdict::Superseded),
                }
                true
            }
            Ask::Renew { sound, mapped } => {
                let known = state.machine.renew(call.session, sound, now);
                let content = state.superblock.content;
                if known && content.told(sound, mapped) != content && !state.persisting {
                    // From now on it holds everything, or its bitmap counts: that must outlive a restart.
                    state.persisting = true;
                    let accepted = state.machine.state();
                    drop(state);
                    let session = call.session;
                    return self.persist(tag, buffer, Wanted { session, sound, mapped, state: accepted });
                }
                known
            }
            Ask::Release => {
                state.machine.release(call.session, now);
                true
            }
            Ask::Flush => {
                let known = state.machine.admit(call.session, now);
                if known {
                    drop(state);
                    return self.flush(tag, buffer);
                }
                false
            }
            Ask::Adopt { .. } | Ask::Grow { .. } => {
                drop(state);
                return self.told(tag, buffer, call);
            }
        };
        drop(state);
        done(tag, if known { Status::SUCCESS } else { DETACHED }, buffer)
    }

    /// The head changes what the superblock says.
    fn told(&mut self, tag: u64, buffer: IoBuf, call: &Call) -> Submission {
        let bytes = if let Ask::Grow { bytes, .. } = call.ask { bytes } else { 0 };
        if !self.shared.has_room(bytes) {
            return done(tag, Status::CAPACITY_EXCEEDED, buffer);
        }
        let mut state = self.shared.lock();
        if !state.machine.renew(call.session, false, self.shared.now()) {
            return done(tag, DETACHED, buffer);
        }
        let superblock = match call.ask {
            Ask::Adopt { lineage } => Superblock { lineage, ..state.superblock },
            Ask::Grow { store: true, .. } => Superblock { bytes, ..state.superblock },
            _ => return done(tag, Status::SUCCESS, buffer),
        };
        if state.persisting {
            return done(tag, PERSISTING, buffer);
        }
        state.persisting = true;
        drop(state);
        let op = self.superblock_write(&superblock);
        self.start_persisting(tag, buffer, op, |buffer| Work::Told { tag, buffer, superblock })
    }

    fn flush(&mut self, tag: u64, buffer: IoBuf) -> Submission {
        let mut buffer = Some(buffer);
        match self.start(Op::Flush, || Work::Flush { tag, buffer: buffer.take().expect("called once") }) {
            Ok(None) => Submission::Queued,
            Ok(Some(done)) => self.finish_now(done),
            Err(_) => {
                self.shared.lock().machine.done();
                let buffer = buffer.take().expect("not used");
                Submission::Busy(Io { tag, op: Op::Write { lba: Lba(0), buffer, fua: false } })
            }
        }
    }

    /// Writes the superblock that says whom the replica has accepted.
    fn persist(&mut self, tag: u64, buffer: IoBuf, wanted: Wanted) -> Submission {
        let op = self.fence_write(wanted);
        self.start_persisting(tag, buffer, op, |buffer| Work::Fence { tag, buffer, wanted })
    }

    fn start_persisting(
        &mut self,
        tag: u64,
        buffer: IoBuf,
        op: Option<Op>,
        work: impl FnOnce(IoBuf) -> Work,
    ) -> Submission {
        let mut buffer = Some(buffer);
        let started = op.map(|op| self.start(op, || work(buffer.take().expect("called once"))));
        match started {
            Some(Ok(None)) => Submission::Queued,
            Some(Ok(Some(done))) => self.finish_now(done),
            Some(Err(_)) | None => {
                self.shared.lock().persisting = false;
                let buffer = buffer.take().expect("not used");
                Submission::Busy(Io { tag, op: Op::Write { lba: Lba(0), buffer, fua: false } })
            }
        }
    }

    fn fence_write(&self, wanted: Wanted) -> Option<Op> {
        let state = self.shared.lock();
        let mut superblock = state.superblock;
        superblock.state = wanted.state;
        superblock.content = superblock.content.told(wanted.sound, wanted.mapped);
        if state.machine.session() != Some(wanted.session) {
            superblock.window = state.next_window();
        }
        drop(state);
        self.superblock_write(&superblock)
    }

    fn superblock_write(&self, superblock: &Superblock) -> Option<Op> {
        let mut block = self.pool.alloc_io(BLOCK_BYTES)?;
        let sequence = self.shared.lock().sequence + 1;
        block.copy_in(0, &format::encode_superblock(superblock, sequence)[..]);
        let lba = Lba(self.shared.place.at(format::superblock_at(sequence)));
        Some(Op::Write { lba, buffer: block, fua: true })
    }

    /// The superblock is on the media: the head is accepted, unless something came between.
    fn accepted(&self, Wanted { session, sound, mapped, state: wanted }: Wanted) {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        state.persisting = false;
        state.sequence += 1;
        match state.machine.fence(wanted.epoch, session, now) {
            FenceStep::Persist(again) if again == wanted => {
                if state.machine.session() != Some(session) {
                    state.window = state.next_window();
                }
                let window = state.window;
                let content = state.superblock.content;
                state.superblock.state = wanted;
                state.superblock.content = content.told(sound, mapped);
                state.superblock.window = window;
                state.machine.accepted(wanted, session, sound, now);
                let sound = state.machine.is_sound();
                state.answer(session, Verdict::Accepted { window, sound, content });
            }
            FenceStep::Persist(_) | FenceStep::Superseded => state.answer(session, Verdict::Superseded),
            FenceStep::Later { ns } => state.answer(session, Verdict::Later { ns }),
        }
    }

    fn finish_now(&mut self, done: IoDone) -> Submission {
        match self.finish(done) {
            Some(done) => Submission::Done(done),
            None => Submission::Queued,
        }
    }

    /// What the caller is told about work that the base device has finished.
    fn finish(&mut self, finished: IoDone) -> Option<IoDone> {
        let slot = u32::try_from(finished.tag).ok()?;
        let work = self.works.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(match work {
            Work::Window { tag } => {
                self.shared.lock().machine.done();
                IoDone { tag, ..finished }
            }
            Work::Flush { tag, buffer } => {
                self.shared.lock().machine.done();
                IoDone { tag, status: finished.status, buffer: Some(buffer) }
            }
            Work::Fence { tag, buffer, wanted } => {
                if finished.status.is_success() {
                    self.accepted(wanted);
                } else {
                    self.shared.lock().persisting = false;
                }
                IoDone { tag, status: finished.status, buffer: Some(buffer) }
            }
            Work::Told { tag, buffer, superblock } => {
                let mut state = self.shared.lock();
                state.persisting = false;
                if finished.status.is_success() {
                    state.sequence += 1;
                    state.superblock = superblock;
                }
                IoDone { tag, status: finished.status, buffer: Some(buffer) }
            }
        })
    }
}

fn lba_of(op: &Op) -> Lba {
    match op {
        Op::Read { lba, .. }
        | Op::Write { lba, .. }
        | Op::WriteZeroes { lba, .. }
        | Op::Deallocate { lba, .. } => *lba,
        Op::Flush => Lba(0),
    }
}

/// The same operation somewhere else.
fn moved(mut op: Op, to: Lba) -> Op {
    match &mut op {
        Op::Read { lba, .. }
        | Op::Write { lba, .. }
        | Op::WriteZeroes { lba, .. }
        | Op::Deallocate { lba, .. } => {
            *lba = to;
        }
        Op::Flush => {}
    }
    op
}

fn refuse(io: Io, status: Status) -> Submission {
    Submission::Done(IoDone { tag: io.tag, status, buffer: io.op.into_buffer() })
}

fn done(tag: u64, status: Status, buffer: IoBuf) -> Submission {
    Submission::Done(IoDone { tag, status, buffer: Some(buffer) })
}

impl Queue for ReplicaQueue {
    fn submit(&mut self, io: Io) -> Submission {
        let Some(blocks) = io.op.blocks(self.block_size) else {
            // It names no window: it cannot be told whose it is, and promises nothing.
            return refuse(io, Status::INVALID_FIELD.dnr());
        };
        match split(&blocks) {
            Some((0, _)) => self.at_door(io),
            Some((window, blocks)) => self.in_window(window, &blocks, io),
            None => refuse(io, Status::LBA_OUT_OF_RANGE.dnr()),
        }
    }

    fn is_memory(&self) -> bool {
        self.inner.is_memory()
    }

    #[inline]
    fn lend(&mut self, lba: Lba, bytes: u32) -> Option<IoBuf> {
        let blocks = u64::from(bytes >> self.block_size.shift());
        let (window, blocks) = split(&(lba.get()..lba.get().checked_add(blocks)?))?;
        let blocks = self.find(&blocks).filter(|_| window > 0)?;
        let now = self.shared.now();
        let mut state = self.shared.lock();
        if !state.admit(window, now) {
            return None;
        }
        let lent = self.inner.lend(Lba(blocks.start), bytes);
        state.machine.done();
        lent
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn poll(&mut self, done: &mut Done) {
        let mut batch = std::mem::take(&mut self.batch);
        self.inner.poll(&mut batch);
        for finished in batch.drain() {
            let finished = self.finish(finished);
            self.finished.extend(finished);
        }
        self.batch = batch;
        while !done.is_full()
            && let Some(finished) = self.finished.pop_front()
        {
            done.push(finished);
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn before_sleep(&mut self) -> bool {
        self.inner.before_sleep() && self.finished.is_empty()
    }

    fn has_background(&self) -> bool {
        self.inner.has_background()
    }

    fn in_flight(&self) -> usize {
        self.works.len() - self.free.len() + self.finished.len()
    }
}
