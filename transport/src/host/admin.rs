//! The admin queue of one controller: brings it up, keeps it alive, listens for its events, runs admin commands.
//!
//! States: handshake → bring-up (commands, sometimes waiting) → up → failed. A failed queue stays failed; whoever wants the
//! controller back connects anew. Every command submitted ends exactly once in [`AdminQueue::take_done`].

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use fabrics::Now;
use fabrics::host::{Bringup, Controller, KeepAliveStep, KeepAliveTimer, Payload, Request, Step};
use fabrics::host::{HostData, HostSink};
use nvme::admin::{AsyncEventRequest, KeepAlive};
use nvme::{Cqe, QueueId, Status};

use super::config::{HostConfig, HostError};
use super::queue::HostQueue;

/// Asynchronous Event Requests kept outstanding, as far as the controller takes them.
const EVENT_REQUESTS: u8 = 4;

/// Tags of our own commands; owners have 32 bits.
const TAG_BRINGUP: u64 = 1 << 32;
const TAG_KEEP_ALIVE: u64 = 2 << 32;
const TAG_EVENT: u64 = 3 << 32;

/// An admin command that ended.
#[derive(Debug)]
pub struct AdminDone {
    /// Its owner's tag.
    pub tag: u32,
    /// Its completion, with its data; `None` when the connection ended first.
    pub outcome: Option<(Cqe, Vec<u8>)>,
}

enum Stage {
    Handshake(Bringup, Request),
    BringingUp(Bringup),
    Waiting(Bringup, Now),
    Up(Box<Controller>),
    Failed(HostError),
}

struct Ended {
    tag: u64,
    outcome: Option<(Cqe, Vec<u8>)>,
}

/// What one call into the machine reported.
#[derive(Default)]
struct Reports {
    ended: VecDeque<Ended>,
    late: bool,
}

impl HostSink<Vec<u8>> for Reports {
    fn completed(&mut self, tag: u64, cqe: Cqe, data: Option<Vec<u8>>) {
        self.ended.push_back(Ended { tag, outcome: Some((cqe, data.unwrap_or_default())) });
    }

    fn failed(&mut self, tag: u64, _data: Option<Vec<u8>>) {
        self.ended.push_back(Ended { tag, outcome: None });
    }

    fn timed_out(&mut self, _tag: u64, _cid: u16) {
        self.late = true;
    }
}

/// The admin queue of one controller.
pub struct AdminQueue {
    queue: HostQueue<Vec<u8>>,
    stage: Stage,
    keep_alive: KeepAliveTimer,
    kato_ms: u32,
    reports: Reports,
    done: VecDeque<AdminDone>,
    events: VecDeque<u64>,
}

impl AdminQueue {
    /// Starts to connect and to bring the controller up.
    ///
    /// # Errors
    /// When the system refuses at once.
    pub fn connect(config: &HostConfig, now: Now) -> Result<Self, HostError> {
        let queue =
            config.connect_admin(now).map_err(|error| HostError::Link { queue: QueueId::ADMIN, error })?;
        let (bringup, request) = Bringup::new(config.bringup.clone());
        Ok(Self {
            queue,
            stage: Stage::Handshake(bringup, request),
            keep_alive: KeepAliveTimer::new(0, now),
            kato_ms: config.bringup.kato_ms,
            reports: Reports::default(),
            done: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// Receives into `buffer`, acts on it and on the time, sends. Returns whether anything happened.
    pub fn poll(&mut self, buffer: &mut [u8], now: Now) -> bool {
        let mut busy = self.queue.receive(buffer, now, &mut self.reports);
        self.queue.on_tick(now, &mut self.reports);
        self.advance(now);
        while let Some(ended) = self.reports.ended.pop_front() {
            self.on_ended(ended, now);
        }
        if std::mem::take(&mut self.reports.late) {
            // An Abort would need this very queue.
            self.fail(HostError::CommandTimeout { queue: QueueId::ADMIN });
        }
        self.tick_keep_alive(now);
        busy |= self.queue.flush(&mut self.reports);
        if let Some(error) = self.queue.error() {
            let error = HostError::Link { queue: QueueId::ADMIN, error: error.clone() };
            self.fail(error);
        }
        busy | !self.done.is_empty()
    }

    /// The controller, once it is up.
    pub fn controller(&self) -> Option<&Controller> {
        match &self.stage {
            Stage::Up(controller) => Some(controller),
            _ => None,
        }
    }

    /// Why it is not, or no longer, up; every command was given back then.
    pub fn error(&self) -> Option<&HostError> {
        match &self.stage {
            Stage::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Sends an admin command; its end is in [`AdminQueue::take_done`] with this tag. `false`: not now, the queue is full
    /// or not up.
    pub fn submit(&mut self, request: Request, tag: u32, now: Now) -> bool {
        matches!(self.stage, Stage::Up(_)) && self.send(request, u64::from(tag), now)
    }

    /// The next command that ended.
    pub fn take_done(&mut self) -> Option<AdminDone> {
        self.done.pop_front()
    }

    /// The next asynchronous event: dwords 0 and 1 of its completion.
    pub fn take_event(&mut self) -> Option<u64> {
        self.events.pop_front()
    }

    /// When [`AdminQueue::poll`] has something to do even if nothing is received.
    pub fn next_deadline(&self) -> Now {
        let queue = self.queue.next_deadline().unwrap_or(Now::NEVER).min(self.keep_alive.next_deadline());
        match self.stage {
            Stage::Waiting(_, until) => queue.min(until),
            _ => queue,
        }
    }

    /// Closes the connection; outstanding commands end.
    pub fn close(&mut self) {
        self.fail(HostError::Closed);
    }

    pub(super) fn before_sleep(&mut self) {
        self.queue.before_sleep();
    }

    pub(super) fn wants_write(&self) -> bool {
        self.queue.wants_write()
    }

    fn fail(&mut self, error: HostError) {
        if matches!(self.stage, Stage::Failed(_)) {
            return;
        }
        self.stage = Stage::Failed(error);
        self.keep_alive = KeepAliveTimer::new(0, Now(0));
        self.queue.close(&mut self.reports);
        while let Some(ended) = self.reports.ended.pop_front() {
            self.give_back(ended);
        }
    }

    fn give_back(&mut self, ended: Ended) {
        if let Ok(tag) = u32::try_from(ended.tag) {
            self.done.push_back(AdminDone { tag, outcome: ended.outcome });
        }
    }

    /// Steps that need no completion: the handshake is over, a wait is over.
    fn advance(&mut self, now: Now) {
        match &mut self.stage {
            Stage::Handshake(bringup, request) if self.queue.is_ready() => {
                let (bringup, request) = (bringup.clone(), request.clone());
                self.stage = Stage::BringingUp(bringup);
                self.send(request, TAG_BRINGUP, now);
            }
            Stage::Waiting(bringup, until) if now >= *until => {
                let step = bringup.on_wait_over();
                let bringup = bringup.clone();
                self.take_step(bringup, step, now);
            }
            _ => {}
        }
    }

    fn on_ended(&mut self, ended: Ended, now: Now) {
        match ended.tag {
            TAG_BRINGUP => self.on_bringup(ended.outcome, now),
            TAG_KEEP_ALIVE if ended.outcome.is_some() => self.keep_alive.on_answer(),
            TAG_EVENT => self.on_event(ended.outcome, now),
            _ => self.give_back(ended),
        }
    }

    fn on_bringup(&mut self, outcome: Option<(Cqe, Vec<u8>)>, now: Now) {
        let Some((cqe, data)) = outcome else { return };
        let Stage::BringingUp(bringup) = &mut self.stage else { return };
        match bringup.on_completed(cqe.status(), cqe.result.get(), &data, now) {
            Ok(step) => {
                let bringup = bringup.clone();
                self.take_step(bringup, step, now);
            }
            Err(error) => self.fail(error.into()),
        }
    }

    fn take_step(&mut self, bringup: Bringup, step: Step, now: Now) {
        match step {
            Step::Send(request) => {
                self.stage = Stage::BringingUp(bringup);
                self.send(request, TAG_BRINGUP, now);
            }
            Step::Wait(until) => self.stage = Stage::Waiting(bringup, until),
            Step::Done(controller) => {
                let requests = EVENT_REQUESTS.min(controller.identity.aerl.saturating_add(1));
                self.keep_alive = KeepAliveTimer::new(self.kato_ms, now);
                self.stage = Stage::Up(controller);
                (0..requests).for_each(|_| self.request_event());
            }
        }
    }

    fn request_event(&mut self) {
        // It waits for an event: no deadline.
        let sqe = AsyncEventRequest.to_sqe(0);
        let _ = self.queue.submit_until(sqe, HostData::None, TAG_EVENT, Now::NEVER);
    }

    fn on_event(&mut self, outcome: Option<(Cqe, Vec<u8>)>, _now: Now) {
        let Some((cqe, _)) = outcome else { return };
        // A failed request (limit exceeded, aborted at shutdown) would fail again.
        if cqe.status() == Status::SUCCESS {
            self.events.push_back(cqe.result.get());
            self.request_event();
        }
    }

    fn tick_keep_alive(&mut self, now: Now) {
        match self.keep_alive.on_tick(now) {
            KeepAliveStep::None => {}
            KeepAliveStep::Send => {
                let request = Request { sqe: KeepAlive.to_sqe(0), data: Payload::None };
                self.send(request, TAG_KEEP_ALIVE, now);
            }
            KeepAliveStep::Dead => self.fail(HostError::KeepAlive),
        }
    }

    fn send(&mut self, request: Request, tag: u64, now: Now) -> bool {
        let data = match request.data {
            Payload::None => HostData::None,
            Payload::ToController(bytes) => HostData::ToController(bytes),
            Payload::FromController(len) => HostData::FromController(vec![0; len]),
        };
        self.queue.submit(request.sqe, data, tag, now).is_ok()
    }
}

impl AsFd for AdminQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
