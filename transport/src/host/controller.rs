//! A controller with its I/O queues that stays connected: reconnects with backoff, aborts what takes too long, resets when that
//! does not help.
//!
//! States: down (until a time) → bringing up → connecting queues → up, from each back to down, and to lost when the policy
//! gives up. Every I/O command submitted ends exactly once on the sink; on the way down it is given back as failed, with
//! its data, and the owner who wants it replayed submits it again after [`HostEvent::Up`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use arrayvec::ArrayVec;
use fabrics::Now;
use fabrics::host::{
    ABORTS_MAX, Aborts, Controller, Payload, Reconnect, ReconnectPolicy, Request, Retry, Verdict,
};
use fabrics::host::{HostData, HostSink, SubmitError, SubmitRefusal};
use nvme::{Cqe, QueueId, Sqe};

use super::admin::{AdminDone, AdminQueue};
use super::config::{HostConfig, HostError};
use super::connect::{Connecting, QueueConnect};
use super::nanos;
use super::queue::HostQueue;
use crate::HostBuffer;
use crate::ready::{EPOLL_INTERVAL_NS, Interest, ReadySet};

/// One receive takes what a busy queue was sent in a turn.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// Queues with commands in flight that are received from without asking epoll; beyond that epoll says which.
const HOT_QUEUES: usize = 4;
/// Time-outs are looked at in steps of this.
const TICK_NS: u64 = 10_000_000;
/// Tag of the Aborts this sends; owners use smaller ones.
const TAG_ABORT: u32 = u32::MAX;

/// What happens to a controller.
#[derive(Debug)]
pub enum HostEvent {
    /// It is up, for the first time or again: commands can be submitted.
    Up,
    /// It is down; what was outstanding was given back. It is being reconnected.
    Down(HostError),
    /// It is down for good.
    Lost(HostError),
    /// It reports an asynchronous event: dwords 0 and 1 of the completion.
    Async(u64),
}

/// Hears how commands end and what happens.
pub trait ControllerSink<B> {
    /// The controller completed a command of this I/O queue (from 0); `data` is its buffer, whichever way it went.
    fn completed(&mut self, queue: usize, tag: u64, cqe: Cqe, data: Option<B>);
    /// The connection ended first: whether the command took effect is unknown.
    fn failed(&mut self, queue: usize, tag: u64, data: Option<B>);
    /// An admin command ended.
    fn admin(&mut self, done: AdminDone);
    /// Something happened to the controller.
    fn event(&mut self, event: HostEvent);
}

enum Stage<B> {
    Down { at: Now },
    BringingUp(AdminQueue),
    Connecting { admin: AdminQueue, queues: Vec<HostQueue<B>>, next: Option<Box<QueueConnect<B>>> },
    Up { admin: AdminQueue, queues: Vec<HostQueue<B>> },
    Lost(HostError),
}

/// Makes a buffer that holds the bytes given.
type MakeBuffer<B> = Box<dyn Fn(&[u8]) -> Option<B>>;

/// A controller and its I/O queues, driven by whoever owns it: [`HostController::receive`], submit, [`HostController::flush`].
pub struct HostController<B> {
    config: HostConfig,
    make_buffer: MakeBuffer<B>,
    stage: Stage<B>,
    reconnect: Option<Reconnect>,
    abort_bound: Duration,
    aborts: Aborts,
    ready: ReadySet,
    buffer: Box<[u8]>,
    last_epoll: Now,
    next_tick: Now,
}

/// Passes the ends of one queue's commands on, and follows those that are late.
struct QueueSink<'a, S> {
    queue: usize,
    now: Now,
    sink: &'a mut S,
    aborts: &'a mut Aborts,
    verdicts: ArrayVec<Verdict, ABORTS_MAX>,
}

impl<B, S: ControllerSink<B>> HostSink<B> for QueueSink<'_, S> {
    #[inline]
    fn completed(&mut self, tag: u64, cqe: Cqe, data: Option<B>) {
        self.aborts.on_completed(id(self.queue), tag);
        self.sink.completed(self.queue, tag, cqe, data);
    }

    fn failed(&mut self, tag: u64, data: Option<B>) {
        self.sink.failed(self.queue, tag, data);
    }

    fn timed_out(&mut self, tag: u64, cid: u16) {
        if self.verdicts.is_full() {
            return;
        }
        self.verdicts.push(self.aborts.on_timeout(id(self.queue), tag, cid, self.now));
    }
}

impl<B: HostBuffer> HostController<B> {
    /// A controller that connects at its first turn. Without `reconnect` a connection that is lost, or never made, stays
    /// lost. A late command has `abort_bound` to complete once it was aborted. `make_buffer` makes a buffer that holds the
    /// bytes given: for the data of Connect.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(
        config: HostConfig,
        reconnect: Option<ReconnectPolicy>,
        abort_bound: Duration,
        make_buffer: impl Fn(&[u8]) -> Option<B> + 'static,
    ) -> io::Result<Self> {
        Ok(Self {
            config,
            make_buffer: Box::new(make_buffer),
            stage: Stage::Down { at: Now(0) },
            reconnect: reconnect.map(Reconnect::new),
            abort_bound,
            aborts: Aborts::new(0, nanos(abort_bound)),
            ready: ReadySet::new()?,
            buffer: vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice(),
            last_epoll: Now(0),
            next_tick: Now(0),
        })
    }

    /// The controller, while it is up.
    pub fn controller(&self) -> Option<&Controller> {
        match &self.stage {
            Stage::Up { admin, .. } => admin.controller(),
            _ => None,
        }
    }

    /// How many I/O queues are up.
    pub fn io_queues(&self) -> usize {
        match &self.stage {
            Stage::Up { queues, .. } => queues.len(),
            _ => 0,
        }
    }

    /// An I/O queue that is up, for its counters.
    pub fn io_queue(&self, queue: usize) -> Option<&HostQueue<B>> {
        match &self.stage {
            Stage::Up { queues, .. } => queues.get(queue),
            _ => None,
        }
    }

    /// Why it is down for good, if it is.
    pub fn lost(&self) -> Option<&HostError> {
        match &self.stage {
            Stage::Lost(error) => Some(error),
            _ => None,
        }
    }

    /// Sends a command on I/O queue `queue` (from 0) at the next flush.
    ///
    /// # Errors
    /// The command is not sent and the data comes back: the reason says why.
    #[inline]
    pub fn submit(
        &mut self,
        queue: usize,
        sqe: Sqe,
        data: HostData<B>,
        tag: u64,
        now: Now,
    ) -> Result<(), SubmitError<B>> {
        match &mut self.stage {
            Stage::Up { queues, .. } if queue < queues.len() => queues[queue].submit(sqe, data, tag, now),
            Stage::Lost(_) => Err(SubmitError { reason: SubmitRefusal::Closed, data }),
            _ => Err(SubmitError { reason: SubmitRefusal::NotReady, data }),
        }
    }

    /// Sends an admin command; `tag` is below `u32::MAX`. `false`: not now.
    pub fn submit_admin(&mut self, request: Request, tag: u32, now: Now) -> bool {
        match &mut self.stage {
            Stage::Up { admin, .. } => {
                // The next tick sends it.
                self.next_tick = now;
                admin.submit(request, tag, now)
            }
            _ => false,
        }
    }

    /// Receives, completes, and goes on with whatever is under way. Returns whether anything happened.
    pub fn receive<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        match &self.stage {
            Stage::Up { .. } => self.serve(now, sink),
            Stage::Lost(_) => false,
            Stage::Down { at } if now < *at => false,
            _ => match self.bring_up(now, sink) {
                Ok(busy) => busy,
                Err(error) => {
                    self.go_down(error, now, sink);
                    true
                }
            },
        }
    }

    /// Sends what was submitted. Returns whether anything was sent.
    #[inline]
    pub fn flush<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        let Stage::Up { queues, .. } = &mut self.stage else { return false };
        let mut busy = false;
        for (queue, link) in queues.iter_mut().enumerate() {
            let aborts = &mut self.aborts;
            busy |= link.flush(&mut QueueSink { queue, now, sink, aborts, verdicts: ArrayVec::new() });
        }
        busy
    }

    /// Becomes readable when [`HostController::receive`] has something to do. Call [`HostController::before_sleep`] first.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Makes [`HostController::wait_fd`] readable whenever this descriptor is: for a timer of the owner. It leaves when it is
    /// closed.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wake_with(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // No socket has this key: what wakes only is ignored when readiness is looked at.
        Ok(self.ready.add(fd, u64::MAX, Interest::READ)?)
    }

    /// Makes the descriptor wait for what is waited for now.
    pub fn before_sleep(&mut self) {
        self.last_epoll = Now(0);
        match &mut self.stage {
            Stage::Up { admin, queues } => {
                admin.before_sleep();
                watch(&self.ready, admin, admin.wants_write());
                for queue in queues {
                    queue.before_sleep();
                    watch(&self.ready, queue, queue.wants_write());
                }
            }
            Stage::BringingUp(admin) => {
                admin.before_sleep();
                watch(&self.ready, admin, admin.wants_write());
            }
            Stage::Connecting { admin, next, .. } => {
                admin.before_sleep();
                watch(&self.ready, admin, admin.wants_write());
                if let Some(next) = next {
                    next.before_sleep();
                    watch(&self.ready, &**next, next.wants_write());
                }
            }
            Stage::Down { .. } | Stage::Lost(_) => {}
        }
    }

    /// When [`HostController::receive`] has something to do even if nothing comes.
    pub fn next_deadline(&self) -> Now {
        match &self.stage {
            Stage::Down { at } => *at,
            Stage::Lost(_) => Now::NEVER,
            Stage::BringingUp(admin) => admin.next_deadline(),
            Stage::Connecting { admin, next, .. } => {
                admin.next_deadline().min(next.as_ref().map_or(Now(0), |next| next.next_deadline()))
            }
            Stage::Up { admin, queues } => {
                let queues = queues.iter().filter_map(HostQueue::next_deadline).min();
                let due = queues.unwrap_or(Now::NEVER).min(admin.next_deadline());
                due.min(self.aborts.next_deadline()).max(self.next_tick)
            }
        }
    }

    /// Closes the connections for good; what is outstanding is given back.
    pub fn close<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) {
        self.reconnect = None;
        if self.lost().is_none() {
            self.go_down(HostError::Closed, now, sink);
        }
    }

    /// One step on the way up.
    fn bring_up<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) -> Result<bool, HostError> {
        match &mut self.stage {
            Stage::Down { .. } => {
                let admin = AdminQueue::connect(&self.config, now)?;
                watch(&self.ready, &admin, true);
                self.stage = Stage::BringingUp(admin);
            }
            Stage::BringingUp(admin) => {
                let busy = poll_admin(admin, &mut self.buffer, now)?;
                if admin.controller().is_none() {
                    return Ok(busy);
                }
                let Stage::BringingUp(admin) = self.take_stage() else { unreachable!("matched above") };
                self.stage = Stage::Connecting { admin, queues: Vec::new(), next: None };
            }
            Stage::Connecting { .. } => return self.connect_queues(now, sink),
            Stage::Up { .. } | Stage::Lost(_) => {}
        }
        Ok(true)
    }

    fn take_stage(&mut self) -> Stage<B> {
        std::mem::replace(&mut self.stage, Stage::Down { at: Now(0) })
    }

    /// Connects the I/O queues, one after the other.
    fn connect_queues<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) -> Result<bool, HostError> {
        let Stage::Connecting { admin, queues, next } = &mut self.stage else { return Ok(false) };
        let mut busy = poll_admin(admin, &mut self.buffer, now)?;
        let Some(controller) = admin.controller() else { return Ok(busy) };
        if let Some(connect) = next.take() {
            match connect.poll(&mut self.buffer, now)? {
                Connecting::Pending(connect) => {
                    *next = Some(Box::new(connect));
                    return Ok(busy);
                }
                Connecting::Ready(queue) => queues.push(queue),
            }
            busy = true;
        }
        if queues.len() < usize::from(controller.io_queues) {
            let connect =
                QueueConnect::start(&self.config, controller, id(queues.len()), &self.make_buffer, now)?;
            watch(&self.ready, &connect, true);
            *next = Some(Box::new(connect));
            return Ok(true);
        }
        self.aborts = Aborts::new(controller.identity.acl, nanos(self.abort_bound));
        let Stage::Connecting { admin, queues, .. } = self.take_stage() else { return Ok(busy) };
        self.stage = Stage::Up { admin, queues };
        if let Some(reconnect) = &mut self.reconnect {
            reconnect.on_connected();
        }
        sink.event(HostEvent::Up);
        Ok(true)
    }

    /// A turn while up.
    fn serve<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        let Stage::Up { queues, .. } = &mut self.stage else { return false };
        let asks_epoll = queues.len() > HOT_QUEUES || now.since(self.last_epoll) >= EPOLL_INTERVAL_NS;
        let asks_epoll_only = queues.len() > HOT_QUEUES;
        let mut busy = false;
        for (queue, link) in queues.iter_mut().enumerate() {
            if link.in_flight() > 0 && (!asks_epoll_only || link.is_polled()) {
                let aborts = &mut self.aborts;
                let mut sink = QueueSink { queue, now, sink, aborts, verdicts: ArrayVec::new() };
                busy |= link.receive(&mut self.buffer, now, &mut sink);
            }
        }
        if asks_epoll {
            busy |= self.serve_ready(now, sink);
        }
        if now >= self.next_tick {
            self.next_tick = now.after_ns(TICK_NS);
            busy |= self.tick(now, sink);
        }
        busy | self.check_links(now, sink)
    }

    fn serve_ready<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        self.last_epoll = now;
        let Stage::Up { admin, queues } = &mut self.stage else { return false };
        let mut busy = false;
        for event in self.ready.poll() {
            if event.key == key(admin) {
                busy |= admin.poll(&mut self.buffer, now);
            } else if let Some((queue, link)) =
                queues.iter_mut().enumerate().find(|(_, link)| key(*link) == event.key)
            {
                if event.writable && !link.wants_write() {
                    watch(&self.ready, &*link, false);
                }
                let aborts = &mut self.aborts;
                let mut sink = QueueSink { queue, now, sink, aborts, verdicts: ArrayVec::new() };
                busy |= link.receive(&mut self.buffer, now, &mut sink);
            }
        }
        busy
    }

    /// Time-outs, admin completions and events.
    fn tick<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        let Stage::Up { admin, queues } = &mut self.stage else { return false };
        let mut busy = admin.poll(&mut self.buffer, now);
        let mut reset = self.aborts.is_reset_due(now).then_some(QueueId(1));
        for (queue, link) in queues.iter_mut().enumerate() {
            let aborts = &mut self.aborts;
            let mut queue_sink = QueueSink { queue, now, sink, aborts, verdicts: ArrayVec::new() };
            link.on_tick(now, &mut queue_sink);
            for verdict in queue_sink.verdicts {
                busy = true;
                match verdict {
                    Verdict::Abort(sqe) => {
                        // An admin queue that is full answers, or times out and so resets.
                        let _ = admin.submit(Request { sqe, data: Payload::None }, TAG_ABORT, now);
                    }
                    Verdict::Wait => {}
                    Verdict::Reset => reset = Some(id(queue)),
                }
            }
        }
        if let Some(queue) = reset {
            self.go_down(HostError::CommandTimeout { queue }, now, sink);
        }
        busy
    }

    /// Passes on what the admin queue has, and goes down with the first link that did.
    fn check_links<S: ControllerSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        let Stage::Up { admin, queues } = &mut self.stage else { return true };
        let mut busy = false;
        while let Some(done) = admin.take_done() {
            busy = true;
            if done.tag != TAG_ABORT {
                sink.admin(done);
            }
        }
        while let Some(event) = admin.take_event() {
            busy = true;
            sink.event(HostEvent::Async(event));
        }
        let failed = queues.iter().enumerate().find_map(|(queue, link)| {
            Some(HostError::Link { queue: id(queue), error: link.error()?.clone() })
        });
        if let Some(error) = admin.error().cloned().or(failed) {
            self.go_down(error, now, sink);
            busy = true;
        }
        busy
    }

    /// Gives everything back and decides whether to connect again.
    #[cold]
    fn go_down<S: ControllerSink<B>>(&mut self, error: HostError, now: Now, sink: &mut S) {
        if let Stage::Up { mut admin, mut queues } | Stage::Connecting { mut admin, mut queues, .. } =
            self.take_stage()
        {
            for (queue, link) in queues.iter_mut().enumerate() {
                let aborts = &mut self.aborts;
                link.close(&mut QueueSink { queue, now, sink, aborts, verdicts: ArrayVec::new() });
            }
            admin.close();
            while let Some(done) = admin.take_done() {
                if done.tag != TAG_ABORT {
                    sink.admin(done);
                }
            }
        }
        self.aborts.on_reset();
        // The clock's low bits are as good as random between hosts.
        let [a, b, ..] = now.0.to_le_bytes();
        let retry = self.reconnect.as_mut().map(|it| it.on_down(now, u16::from_le_bytes([a, b])));
        match retry {
            Some(Retry::At(at)) => {
                self.stage = Stage::Down { at };
                sink.event(HostEvent::Down(error));
            }
            Some(Retry::GiveUp) | None => {
                self.stage = Stage::Lost(error.clone());
                sink.event(HostEvent::Lost(error));
            }
        }
    }
}

fn poll_admin(admin: &mut AdminQueue, buffer: &mut [u8], now: Now) -> Result<bool, HostError> {
    let busy = admin.poll(buffer, now);
    admin.error().map_or(Ok(busy), |error| Err(error.clone()))
}

/// Identifier of I/O queue `queue`, counted from 0.
fn id(queue: usize) -> QueueId {
    QueueId(u16::try_from(queue + 1).unwrap_or(u16::MAX))
}

/// epoll key of a socket.
fn key(socket: &impl AsFd) -> u64 {
    use std::os::fd::AsRawFd;
    u64::from(socket.as_fd().as_raw_fd().unsigned_abs())
}

/// Watches a socket, whether or not it was watched before.
fn watch(ready: &ReadySet, socket: &impl AsFd, write: bool) {
    let interest = Interest { read: true, write };
    if ready.modify(socket.as_fd(), key(socket), interest).is_err() {
        // Without it the socket is still looked at in every tick.
        let _ = ready.add(socket.as_fd(), key(socket), interest);
    }
}
