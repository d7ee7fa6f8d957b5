//! The I/O of one fio job: its queues, what is in flight on them, what has ended.
//!
//! An I/O takes a slot, whose number is the tag of its commands; most are one command, and need no more than to be remembered. Commands go to the queues in turn; what no queue has room
//! for waits in a backlog and goes first when commands end. A lost connection, on whichever queue, ends the job's
//! controller: everything in flight fails, and so does everything that comes later.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use arrayvec::ArrayVec;
use fabrics::Now;
use fabrics::host::{HostSink, SubmitError, SubmitRefusal};
use nvme::{Cqe, Nsid, QueueId};
use reactors::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use transport::host::HostQueue;

use crate::abi::memory::Region;
use crate::buffer::Buffer;
use crate::command::{Extent, Namespace, Op};
use crate::errno::Errno;
use crate::keeper::Keeper;
use crate::options::{Completion, JobOptions, QUEUES_MAX};
use crate::request::{self, Request};
use crate::session::{Session, SessionError};

/// One receive takes what a busy target sends in a turn.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// Time between two looks at time-outs and at the admin queue.
const HOUSEKEEPING_NS: u64 = fabrics::NS_PER_MS;
/// Passes without completions between two looks at the clock; a power of two.
const PASSES_PER_LOOK: u32 = 64;
/// Longest sleep, so that the loss of the admin queue is noticed.
const SLEEP_NS_MAX: u64 = 100 * fabrics::NS_PER_MS;

/// Why a job cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// No controller, queue or namespace.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No thread for the admin queue.
    #[error("no thread for the admin queue: {0}")]
    Thread(std::io::Error),
}

/// What is asked for, in bytes.
#[derive(Debug)]
pub struct Ask {
    /// What to do.
    pub op: Op,
    /// Where: an index given by [`Job::namespace_index`].
    pub namespace: usize,
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The bytes, for what moves data: as many.
    pub data: Option<Region>,
}

/// What became of an I/O that was submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submitted {
    /// It ends in [`Job::reap`].
    Queued,
    /// There was nothing to do.
    Done,
}

enum End {
    Answered(nvme::Status),
    Lost,
}

/// What one call into the machines reported.
#[derive(Default)]
struct Reports {
    ended: Vec<(u64, End)>,
    late: bool,
}

impl HostSink<Buffer> for Reports {
    #[inline]
    fn completed(&mut self, tag: u64, cqe: Cqe, _data: Option<Buffer>) {
        self.ended.push((tag, End::Answered(cqe.status())));
    }

    fn failed(&mut self, tag: u64, _data: Option<Buffer>) {
        self.ended.push((tag, End::Lost));
    }

    fn timed_out(&mut self, _tag: u64, _cid: u16) {
        self.late = true;
    }
}

/// One job. `T` is what the owner knows an I/O by.
pub struct Job<T> {
    // First, so that I/O queues are closed before the controller they belong to.
    queues: ArrayVec<HostQueue<Buffer>, QUEUES_MAX>,
    keeper: Keeper,
    namespaces: Vec<Namespace>,
    completion: Completion,
    writes_zeroes: bool,
    /// I/Os of one command that is with a queue.
    lone: Vec<Option<(T, Op)>>,
    /// All others. A slot is in use in one of both, or free.
    slots: Vec<Option<Request<T>>>,
    free: Vec<usize>,
    backlog: VecDeque<usize>,
    reports: Reports,
    ended: VecDeque<(T, Result<(), Errno>)>,
    /// I/Os taken on since the last send.
    unsent: usize,
    next_queue: usize,
    buffer: Box<[u8]>,
    clock: Clock,
    now: Now,
    next_look: Now,
    passes: u32,
    /// What I/Os fail with once the connection is lost.
    lost: Option<Errno>,
    has_complained: bool,
}

impl<T: Copy> Job<T> {
    /// Connects a job that keeps at most `iodepth` I/Os in flight on these namespaces.
    ///
    /// # Errors
    /// [`JobError`] with what failed.
    pub fn connect(options: &JobOptions, iodepth: u32, nsids: &[Nsid]) -> Result<Self, JobError> {
        let (asked, nsids, depth) = (options.clone(), nsids.to_vec(), options.depth(iodepth));
        let open = move || {
            let mut session = Session::connect(&asked, asked.queues, depth)?;
            let namespaces: Vec<Namespace> =
                nsids.iter().map(|nsid| session.namespace(*nsid)).collect::<Result<_, SessionError>>()?;
            let (host, io_queues) = session.into_parts()?;
            Ok::<_, SessionError>((host, (io_queues, namespaces)))
        };
        let (keeper, (io_queues, namespaces)) = Keeper::open(open).map_err(JobError::Thread)??;
        let queues =
            (1..=options.queues).map(|id| io_queues.connect(QueueId(id))).collect::<Result<_, _>>()?;
        let slots = iodepth.max(1) as usize;
        Ok(Self {
            queues,
            keeper,
            namespaces,
            completion: options.completion,
            writes_zeroes: options.write_zeroes,
            lone: vec![None; slots],
            slots: std::iter::repeat_with(|| None).take(slots).collect(),
            free: (0..slots).rev().collect(),
            backlog: VecDeque::with_capacity(slots),
            reports: Reports { ended: Vec::with_capacity(2 * slots), late: false },
            ended: VecDeque::with_capacity(slots),
            unsent: 0,
            next_queue: 0,
            buffer: vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice(),
            clock: Clock::new(),
            now: Now(0),
            next_look: Now(0),
            passes: 0,
            lost: None,
            has_complained: false,
        })
    }

    /// The index by which [`Ask`] names a namespace, when the job was connected with it.
    #[must_use]
    pub fn namespace_index(&self, nsid: Nsid) -> Option<usize> {
        self.namespaces.iter().position(|namespace| namespace.nsid == nsid)
    }

    /// The namespace of an index.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn namespace(&self, index: usize) -> &Namespace {
        &self.namespaces[index]
    }

    /// Whether writes are to be Write Zeroes.
    #[must_use]
    pub fn writes_zeroes(&self) -> bool {
        self.writes_zeroes
    }

    /// Takes an I/O on; its commands are sent by [`Job::commit`] or [`Job::reap`].
    ///
    /// # Errors
    /// It is not taken on, and what it ends with.
    ///
    /// # Panics
    /// When more I/Os are in flight than the job was made for.
    #[inline]
    pub fn submit(&mut self, io: T, ask: Ask) -> Result<Submitted, Errno> {
        if let Some(errno) = self.lost {
            return Err(errno);
        }
        let namespace = self.namespaces[ask.namespace];
        let extent = match namespace.extent(ask.offset, ask.bytes) {
            Ok(extent) => extent,
            Err(unaligned) => {
                self.complain(|| format!("{} refused: {unaligned}", ask.op));
                return Err(Errno::INVALID);
            }
        };
        if extent.blocks == 0 && ask.op != Op::Flush {
            return Ok(Submitted::Done);
        }
        self.now = Now(self.clock.now().as_nanos());
        if self.backlog.is_empty() && namespace.is_one_command(ask.op, extent) {
            return self.submit_one(io, ask, namespace, extent);
        }
        let slot = self.free.pop().expect("fio keeps to its iodepth");
        self.slots[slot] = Some(Request::new(io, ask.op, namespace, extent, ask.data));
        self.unsent += 1;
        // Whoever came earlier goes first.
        if !self.backlog.is_empty() || !self.send(slot) {
            self.backlog.push_back(slot);
        }
        Ok(Submitted::Queued)
    }

    /// Takes an I/O on that is one command, when nothing waits for room.
    #[inline]
    fn submit_one(
        &mut self,
        io: T,
        ask: Ask,
        namespace: Namespace,
        extent: Extent,
    ) -> Result<Submitted, Errno> {
        let slot = self.free.pop().expect("fio keeps to its iodepth");
        let command = request::whole(ask.op, namespace, extent, ask.data);
        match offer(&mut self.queues, &mut self.next_queue, command, slot as u64, self.now) {
            Offered::Taken => self.lone[slot] = Some((io, ask.op)),
            Offered::NoRoom(command) => {
                self.slots[slot] = Some(Request::unsent(io, ask.op, namespace, command));
                self.backlog.push_back(slot);
            }
            Offered::Refused => {
                self.free.push(slot);
                self.complain(|| SubmitRefusal::TooLong.to_string());
                return Err(Errno::INVALID);
            }
        }
        self.unsent += 1;
        Ok(Submitted::Queued)
    }

    /// Sends what was submitted, unless [`Job::reap`] is about to: while other I/Os are out or wait to be reaped, fio comes
    /// back for them before it sleeps, and everything it submits until then goes out in one piece.
    #[inline]
    pub fn commit(&mut self) {
        if self.unsent == self.in_flight() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.unsent = 0;
        for queue in &mut self.queues {
            queue.flush(&mut self.reports);
        }
        self.settle();
    }

    /// Waits until at least `min` I/Os have ended or `timeout` is over, and moves up to `max` of those that ended to `out`.
    /// The sockets are left alone while enough ended earlier: so one send carries all that fio makes of one receive.
    pub fn reap(
        &mut self,
        min: usize,
        max: usize,
        timeout: Option<Duration>,
        out: &mut Vec<(T, Result<(), Errno>)>,
    ) {
        self.hand_over(max, out);
        if !out.is_empty() && out.len() >= min {
            return;
        }
        self.now = Now(self.clock.now().as_nanos());
        let deadline = timeout.map_or(Now::NEVER, |timeout| {
            self.now.after_ns(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
        });
        loop {
            let came = self.pass();
            self.hand_over(max, out);
            if out.len() >= min.min(max) || self.in_flight() == 0 || self.now >= deadline {
                return;
            }
            if !came && self.completion == Completion::Interrupt {
                self.sleep(deadline);
            }
        }
    }

    #[inline]
    fn hand_over(&mut self, max: usize, out: &mut Vec<(T, Result<(), Errno>)>) {
        let ready = self.ended.len().min(max.saturating_sub(out.len()));
        out.extend(self.ended.drain(..ready));
    }

    /// I/Os that were taken on and are not reaped.
    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.ended.len()
    }

    /// One send of what was submitted, one receive on every queue that waits for something, and what follows from it. Whether
    /// anything came.
    #[inline]
    fn pass(&mut self) -> bool {
        // What fio made of the last receive goes out first: the target works on it while we look.
        if self.unsent > 0 {
            self.flush();
        }
        let mut came = false;
        for queue in self.queues.iter_mut().filter(|queue| queue.in_flight() > 0) {
            came |= queue.receive(&mut self.buffer, self.now, &mut self.reports);
        }
        self.passes = self.passes.wrapping_add(1);
        if came || self.passes.is_multiple_of(PASSES_PER_LOOK) || self.completion == Completion::Interrupt {
            self.now = Now(self.clock.now().as_nanos());
            if self.now >= self.next_look {
                self.keep_house();
                self.next_look = self.now.after_ns(HOUSEKEEPING_NS);
            }
        }
        self.settle();
        self.flush();
        came || !self.ended.is_empty()
    }

    #[cold]
    fn keep_house(&mut self) {
        for queue in &mut self.queues {
            queue.on_tick(self.now, &mut self.reports);
        }
        if self.reports.late {
            self.lose(Errno::TIMED_OUT, "a command was not answered in time (see command_timeout=)");
        }
        if self.lost.is_none()
            && let Some(why) = self.keeper.lost().map(str::to_owned)
        {
            self.lose(Errno::IO, &why);
        }
        self.check_links();
    }

    /// Ends the job when a queue has.
    fn check_links(&mut self) {
        let broken = self.queues.iter().find_map(|queue| queue.error().map(ToString::to_string));
        if let Some(why) = broken {
            self.lose(Errno::IO, &why);
        }
    }

    #[cold]
    fn lose(&mut self, errno: Errno, why: &str) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(errno);
        eprintln!("pollux: connection lost: {why}");
        self.has_complained = true;
        for queue in &mut self.queues {
            queue.close(&mut self.reports);
        }
    }

    /// Gives what ended to the I/Os it belongs to; sends what waited for room.
    #[inline]
    fn settle(&mut self) {
        while !self.reports.ended.is_empty() {
            let mut ended = std::mem::take(&mut self.reports.ended);
            if self.lost.is_none() && ended.iter().any(|(_, end)| matches!(end, End::Lost)) {
                self.check_links();
            }
            for (tag, end) in ended.drain(..) {
                self.on_command_ended(tag, end);
            }
            // Losing the connection may have ended more, in a list of its own.
            ended.append(&mut self.reports.ended);
            self.reports.ended = ended;
        }
        self.send_backlog();
    }

    #[inline]
    fn on_command_ended(&mut self, tag: u64, end: End) {
        let slot = usize::try_from(tag).expect("tags are slots");
        if let Some((io, op)) = self.lone[slot].take() {
            let outcome = self.outcome_of(op, end);
            self.ended.push_back((io, outcome));
            self.free.push(slot);
            return;
        }
        let request = self.slots[slot].as_ref().expect("a slot is in use until its commands have ended");
        let outcome = self.outcome_of(request.op(), end);
        if let Some(request) = &mut self.slots[slot] {
            request.command_ended(outcome);
        }
        if outcome.is_err() {
            // Nothing of it is sent any more.
            self.backlog.retain(|waiting| *waiting != slot);
        }
        self.retire(slot);
    }

    #[inline]
    fn outcome_of(&mut self, op: Op, end: End) -> Result<(), Errno> {
        match end {
            End::Answered(status) if status.is_success() => Ok(()),
            End::Answered(status) => {
                self.complain(|| format!("{op} failed: {status}"));
                Err(Errno::of(status))
            }
            End::Lost => Err(self.lost.unwrap_or(Errno::IO)),
        }
    }

    /// Frees the slot when its I/O has ended.
    #[inline]
    fn retire(&mut self, slot: usize) {
        if let Some(end) = self.slots[slot].as_ref().and_then(Request::ended) {
            self.ended.push_back(end);
            self.slots[slot] = None;
            self.free.push(slot);
        }
    }

    fn send_backlog(&mut self) {
        while let Some(slot) = self.backlog.front().copied() {
            if let (Some(errno), Some(request)) = (self.lost, &mut self.slots[slot]) {
                request.abandon(errno);
            } else if !self.send(slot) {
                return;
            }
            self.backlog.pop_front();
            self.retire(slot);
        }
    }

    /// Gives the I/O's commands to the queues, from the next one on; `false` when some are left.
    #[inline]
    fn send(&mut self, slot: usize) -> bool {
        let Some(request) = &mut self.slots[slot] else { return true };
        while let Some(command) = request.next_command() {
            match offer(&mut self.queues, &mut self.next_queue, command, slot as u64, self.now) {
                Offered::Taken => {}
                Offered::NoRoom(command) => {
                    request.put_back(command);
                    return false;
                }
                Offered::Refused => {
                    request.command_ended(Err(Errno::INVALID));
                    self.complain(|| SubmitRefusal::TooLong.to_string());
                    self.retire(slot);
                    return true;
                }
            }
        }
        true
    }

    /// Says what the first I/O that failed failed of; fio tells only its number.
    #[cold]
    fn complain(&mut self, what: impl FnOnce() -> String) {
        if !self.has_complained {
            self.has_complained = true;
            eprintln!("pollux: {}", what());
        }
    }

    /// Sleeps until a queue has something, or time does.
    fn sleep(&mut self, deadline: Now) {
        self.queues.iter_mut().for_each(HostQueue::before_sleep);
        let due = self.queues.iter().filter_map(HostQueue::next_deadline).min().unwrap_or(Now::NEVER);
        let ns = due.min(deadline).since(self.now).min(SLEEP_NS_MAX);
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(ns).unwrap_or(0) };
        let mut sockets: ArrayVec<_, QUEUES_MAX> = self
            .queues
            .iter()
            .filter(|queue| queue.error().is_none())
            .map(|queue| {
                let flags = if queue.wants_write() { PollFlags::OUT | PollFlags::IN } else { PollFlags::IN };
                PollFd::from_borrowed_fd(queue.as_fd(), flags)
            })
            .collect();
        // A signal ends the sleep early; the caller looks again anyway.
        let _ = poll(&mut sockets, Some(&timeout));
    }
}

/// What became of a command that was offered to the queues.
enum Offered {
    Taken,
    /// No queue has room: it comes back.
    NoRoom(crate::request::Command),
    /// No queue will ever take it.
    Refused,
}

/// Submits to the first queue with room, from `next` on.
#[inline]
fn offer(
    queues: &mut [HostQueue<Buffer>],
    next: &mut usize,
    (sqe, mut data): crate::request::Command,
    tag: u64,
    now: Now,
) -> Offered {
    for _ in 0..queues.len() {
        let chosen = *next;
        *next = if chosen + 1 == queues.len() { 0 } else { chosen + 1 };
        match queues[chosen].submit(sqe, data, tag, now) {
            Ok(()) => return Offered::Taken,
            Err(SubmitError { reason: SubmitRefusal::TooLong, .. }) => return Offered::Refused,
            Err(refused) => data = refused.data,
        }
    }
    Offered::NoRoom((sqe, data))
}
