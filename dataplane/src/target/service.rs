//! The target on one reactor: connections, messages, device completions. The path of a Read or Write through it is
//! [`io`](super::io); everything else is slower and rarer.
//!
//! Invariants: a command is answered once, by the value `execute` returns or by one effect. A namespace index stays
//! valid while a flight refers to it. Nothing here blocks or takes a lock on the path of an I/O.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use fabrics::{CommandId, Completion, Execution, Now};
use nvme::{Sqe, Status};
use reactors::mailbox::{Mailbox, SendError};
use reactors::{IoBuf, LocalHandle};
use rustix::event::epoll;
use transport::{CloseReason, ConnId, Effect, Peer, TargetService, TransportId};

use super::admin::AdminController;
use super::control::Target;
use super::flight::{Flights, Parked};
use super::fused::Held;
use super::limits::MAILBOX_CAPACITY;
use super::local::{LocalNamespace, LocalSubsystem};
use super::message::{Barrier, Message};
use super::queue::{QueueState, Role};
use super::stats::ReactorCounters;
use super::view::{Link, TargetView};
use crate::device::Done;

/// Messages handled per turn, so that a flood of them does not starve I/O.
/// I/Os that limits hold up are not looked at more often than this by a reactor that could sleep.
const HELD_UP_MIN_NS: u64 = 50_000;
const MESSAGES_PER_TURN: usize = 64;

/// The target on one reactor.
pub struct ReactorTarget {
    pub(super) index: usize,
    pub(super) local: LocalHandle,
    pub(super) view: Arc<TargetView>,
    pub(super) counters: Arc<ReactorCounters>,
    mailbox: Mailbox<Message>,
    /// Messages for which a mailbox had no room: retried every turn.
    unsent: VecDeque<(usize, Message)>,
    pub(super) subsystems: Vec<Option<LocalSubsystem>>,
    pub(super) namespaces: Vec<Option<Box<LocalNamespace>>>,
    /// Namespaces with I/O in flight.
    pub(super) active: Vec<u32>,
    pub(super) flights: Flights,
    pub(super) parked: VecDeque<Parked>,
    /// Connections without a queue yet, and until when they may stay so; not decided before the first tick.
    pub(super) fresh: Vec<(ConnId, Option<Now>)>,
    /// First fused commands that wait for their second.
    pub(super) held: Vec<Held>,
    /// What the next poll of each transport hands over.
    outboxes: Vec<VecDeque<Effect>>,
    /// The controllers whose admin queue is here, by their unique number.
    pub(super) admins: BTreeMap<u64, AdminController>,
    done: Option<Box<Done>>,
    /// Readable when a device has completions.
    pub(super) events: OwnedFd,
    pub(super) deadline: Now,
    pub(super) now: Now,
    /// A transport has turned the service since the target's poller last looked.
    pub(super) turned: bool,
}

impl ReactorTarget {
    /// The part of `target` on the reactor that `local` is of. Call it once, on that reactor, before connections come.
    /// Add [`TargetPoller`](super::TargetPoller) to the reactor as well: it takes messages when no transport does.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn attach(target: &Arc<Target>, local: &LocalHandle) -> io::Result<Rc<RefCell<Self>>> {
        Self::attach_as(usize::from(local.id().0), target, local)
    }

    /// As [`Self::attach`], for a reactor with this number.
    pub(super) fn attach_as(
        index: usize,
        target: &Arc<Target>,
        local: &LocalHandle,
    ) -> io::Result<Rc<RefCell<Self>>> {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (sender, mailbox) = local.mailbox(MAILBOX_CAPACITY);
        let counters = Arc::<ReactorCounters>::default();
        let link = Link { reactor: index, sender, counters: Arc::clone(&counters) };
        let view = target.publisher.amend(|view| {
            view.reactors = view.reactors.iter().cloned().chain([link]).collect();
        });
        let empty = Arc::new(TargetView { version: 0, subsystems: Vec::new(), ..(*view).clone() });
        let mut this = Self {
            index,
            local: local.clone(),
            view: empty,
            counters,
            mailbox,
            unsent: VecDeque::new(),
            subsystems: Vec::new(),
            namespaces: Vec::new(),
            active: Vec::new(),
            flights: Flights::default(),
            parked: VecDeque::new(),
            fresh: Vec::new(),
            held: Vec::new(),
            outboxes: Vec::new(),
            admins: BTreeMap::new(),
            done: Some(Box::default()),
            events,
            deadline: Now::NEVER,
            now: Now(local.now().as_nanos()),
            turned: false,
        };
        this.apply(view, None);
        Ok(Rc::new(RefCell::new(this)))
    }

    /// Queues what the transport of a connection gets with its next poll.
    pub(super) fn emit(&mut self, transport: TransportId, effect: Effect) {
        let index = usize::from(transport.0);
        if self.outboxes.len() <= index {
            self.outboxes.resize_with(index + 1, VecDeque::new);
        }
        self.outboxes[index].push_back(effect);
    }

    /// Answers a command that was pending.
    pub(super) fn complete(&mut self, conn: ConnId, command: u32, completion: Completion<IoBuf>) {
        self.emit(conn.transport, Effect::Complete(conn, CommandId::from_bits(command), completion));
    }

    pub(super) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        self.emit(conn.transport, Effect::Close(conn, reason));
    }

    /// Sends to a reactor, this one included.
    pub(super) fn send(&mut self, reactor: usize, message: Message) {
        if !self.try_send(reactor, message) {
            self.deadline = self.now;
        }
    }

    /// Whether the message is gone: sent, or its receiver does not exist any more. Else it is kept.
    fn try_send(&mut self, reactor: usize, message: Message) -> bool {
        let Some(link) = self.view.reactors.iter().find(|link| link.reactor == reactor) else { return true };
        match link.sender.send(message) {
            Ok(()) | Err(SendError::Closed(_)) => true,
            Err(SendError::Full(message)) => {
                self.unsent.push_back((reactor, message));
                false
            }
        }
    }

    pub(super) fn broadcast_wake(&mut self) {
        let reactors: Vec<usize> = self.view.reactors.iter().map(|link| link.reactor).collect();
        for reactor in reactors {
            self.send(reactor, Message::Wake);
        }
    }

    /// Takes messages, polls devices, retries what waits. Whether anything was done.
    pub(super) fn turn(&mut self, now: Now) -> bool {
        self.now = now;
        let mut busy = false;
        for _ in 0..MESSAGES_PER_TURN {
            let Some(message) = self.mailbox.recv() else { break };
            self.handle(message);
            busy = true;
        }
        for _ in 0..self.unsent.len() {
            let Some((reactor, message)) = self.unsent.pop_front() else { break };
            busy |= self.try_send(reactor, message);
        }
        if !self.active.is_empty() {
            busy |= self.poll_devices();
        }
        if !self.parked.is_empty() {
            busy |= self.retry_parked();
        }
        busy
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::View(view, replier) => self.apply(view, replier),
            Message::Event(controller, event) => self.on_event(&controller, event),
            Message::Close(conn, reason) => self.close(conn, reason),
            Message::Destroy(controller, reason) => self.destroy(controller.uid, reason),
            Message::Drain { namespace, barrier } => self.join_barrier(namespace, barrier),
            Message::Drained(tag) => self.barrier_passed(tag),
            Message::Abort(request) => self.abort_here(request),
            Message::Aborted { request, aborted } => self.finish_abort(request, aborted),
            Message::Wake => {}
        }
    }

    /// Kicks and polls every device with I/O in flight.
    fn poll_devices(&mut self) -> bool {
        let Some(mut done) = self.done.take() else { return false };
        let mut busy = false;
        let mut at = 0;
        while let Some(&index) = self.active.get(at) {
            busy |= self.poll_namespace(index, &mut done);
            if self.settle(index) {
                self.active.swap_remove(at);
            } else {
                at += 1;
            }
        }
        self.done = Some(done);
        self.counters.device_io_pending.set(self.flights.len() as u64);
        busy
    }

    fn poll_namespace(&mut self, index: u32, done: &mut Done) -> bool {
        let Some(ns) = self.namespace_mut(index) else { return false };
        ns.queue.kick();
        ns.queue.poll(done);
        let mut late = Vec::new();
        if !ns.backlog.is_empty() {
            ns.retry_backlog(|finished| late.push(finished));
            ns.queue.kick();
        }
        let busy = !done.is_empty() || !late.is_empty();
        for finished in done.drain().chain(late) {
            self.device_done(finished);
        }
        busy
    }

    /// Whether a namespace needs no polling any more; a removed one goes then.
    fn settle(&mut self, index: u32) -> bool {
        let Some(ns) = self.namespace_mut(index) else { return true };
        if !ns.is_drained() || ns.live && (ns.queue.in_flight() > 0 || ns.queue.has_background()) {
            return false;
        }
        ns.active = false;
        if !ns.live {
            self.drop_namespace(index);
        }
        true
    }

    #[inline]
    pub(super) fn namespace_mut(&mut self, index: u32) -> Option<&mut LocalNamespace> {
        self.namespaces.get_mut(index as usize)?.as_deref_mut()
    }

    /// A reactor-local namespace of this identity.
    fn find_namespace(&self, uid: u64) -> Option<u32> {
        let is_it = |ns: &Option<Box<LocalNamespace>>| ns.as_ref().is_some_and(|ns| ns.shared.uid == uid);
        self.namespaces.iter().position(is_it).and_then(|index| u32::try_from(index).ok())
    }

    fn join_barrier(&mut self, namespace: u64, barrier: Arc<Barrier>) {
        let index = self.find_namespace(namespace);
        let passed = match index.and_then(|index| self.namespace_mut(index)) {
            Some(ns) => ns.drain(barrier),
            None => vec![barrier],
        };
        self.arrive(passed);
    }

    /// Tells those who asked for these barriers that this reactor has passed them.
    pub(super) fn arrive(&mut self, passed: Vec<Arc<Barrier>>) {
        for barrier in passed {
            if barrier.arrive() {
                self.send(barrier.origin, Message::Drained(barrier.tag));
            }
        }
    }

    /// Starts a barrier on a namespace, on every reactor.
    pub(super) fn start_barrier(&mut self, namespace: u64, tag: u32) {
        let reactors: Vec<usize> = self.view.reactors.iter().map(|link| link.reactor).collect();
        let barrier = Barrier::new(reactors.len(), self.index, tag);
        for reactor in reactors {
            self.send(reactor, Message::Drain { namespace, barrier: Arc::clone(&barrier) });
        }
    }
}

impl TargetService for ReactorTarget {
    type Queue = QueueState;

    fn open(&mut self, conn: ConnId, peer: &Peer) -> QueueState {
        self.fresh.push((conn, None));
        self.deadline = Now(0);
        QueueState::new(peer.clone())
    }

    #[inline]
    fn execute(
        &mut self,
        conn: ConnId,
        queue: &mut QueueState,
        id: CommandId,
        sqe: &Sqe,
        data: Option<IoBuf>,
        now: Now,
    ) -> Execution<IoBuf> {
        self.now = now;
        let command = id.to_bits();
        match &mut queue.role {
            Role::Io(io) => self.io(conn, io, command, sqe, data),
            Role::Admin(uid) => {
                let uid = *uid;
                self.admin(conn, uid, command, sqe, data)
            }
            Role::Fresh => self.connect(conn, queue, sqe, data),
        }
    }

    #[inline]
    fn expect(&mut self, queue: &QueueState, sqe: &Sqe) {
        if let Role::Io(io) = &queue.role {
            self.expect_io(io, sqe);
        }
    }

    fn allocate(&mut self, len: usize) -> Option<IoBuf> {
        self.local.pool().alloc_io(len)
    }

    fn poll(&mut self, transport: TransportId, now: Now, out: &mut dyn FnMut(Effect)) {
        self.turned = true;
        self.turn(now);
        if let Some(outbox) = self.outboxes.get_mut(usize::from(transport.0)) {
            outbox.drain(..).for_each(out);
        }
    }

    fn event_waiters(&self, queue: &QueueState) -> usize {
        match queue.role {
            Role::Admin(uid) => self.admins.get(&uid).map_or(0, |admin| admin.events.waiting()),
            Role::Fresh | Role::Io(_) => 0,
        }
    }

    fn closed(&mut self, conn: ConnId, queue: QueueState, _: CloseReason) {
        self.flights.release(usize::from(queue.depth));
        match queue.role {
            Role::Fresh => self.no_longer_fresh(conn),
            Role::Admin(uid) => self.admin_closed(uid),
            Role::Io(io) => self.io_closed(conn, &io),
        }
    }

    fn tick(&mut self, now: Now) {
        self.now = now;
        if now >= self.deadline {
            self.expire();
        }
    }

    fn next_deadline(&self) -> Option<Now> {
        (self.deadline != Now::NEVER).then_some(self.deadline)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(&self.events))
    }

    fn before_sleep(&mut self) -> bool {
        let idle = self.outboxes.iter().all(VecDeque::is_empty) && self.unsent.is_empty();
        let mut willing = idle;
        for at in 0..self.active.len() {
            let index = self.active[at];
            willing &= self.namespace_mut(index).is_none_or(|ns| ns.queue.before_sleep());
            willing &= self.wakes_in_time(index);
        }
        willing
    }
}

impl ReactorTarget {
    /// Whether what the limits of a namespace hold up is tried again in time; if not, it is from now on.
    fn wakes_in_time(&mut self, index: u32) -> bool {
        let wait_ns = self.namespace_mut(index).and_then(|ns| ns.held_up_ns());
        let at = wait_ns.map_or(Now::NEVER, |ns| self.now.after_ns(ns.max(HELD_UP_MIN_NS)));
        let in_time = self.deadline <= at;
        self.deadline = self.deadline.min(at);
        in_time
    }
}

/// A command that ends with this status, at once.
pub(super) fn done(status: Status) -> Execution<IoBuf> {
    Execution::Done(Completion::status(status))
}
