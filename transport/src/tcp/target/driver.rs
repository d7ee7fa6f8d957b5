//! The driver of one reactor: reads its connections, lets the service work, sends once per connection and turn.
//!
//! Turn: messages → hot connections → epoll → blocked connections → `service.poll` → sends → timers. Only what a lone
//! connection is answered at once leaves before epoll is asked. A connection is
//! *hot* while bytes came lately: it is received from in every turn without asking. Every other one costs nothing until
//! epoll names it. All that are not hot, and all during a sleep, are registered level-triggered, so a sleep or a missed guess
//! loses nothing.
//!
//! Invariants: `TargetService::closed` is called once for each `open`; a connection is received from only while its
//! machine can take the bytes, so what it holds is bounded by its slots, one receive buffer, and its send queue.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;
use fabrics::Now;
use fabrics::tcp::target::TargetConn;
use reactors::mailbox::Mailbox;
use reactors::{LocalHandle, Poller, Timestamp, Turn, Work};

use super::connection::{Connection, reason};
use super::control::{Message, TcpTarget};
use super::stats::{ConnectionStats, ReactorStats, TrafficStats};
use crate::connections::{Connections, key};
use crate::drain::{Drain, now};
use crate::drivers::Load;
use crate::ready::{EPOLL_INTERVAL_NS, Interest, ReadySet};
use crate::{CloseReason, ConnId, ListenerId, Peer, TargetService};

/// One receive takes what a busy connection sends in a turn; one buffer serves all connections of the reactor.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// Connections received from without asking epoll. Each costs an empty receive per idle turn, so only a few.
const HOT_MAX: usize = 4;
/// Receives in a row from a hot connection that is the only one: together they take less than a microsecond.
const LONE_TRIES: usize = 4;
/// Turns without bytes after which a connection is no longer hot.
const HOT_TURNS: u32 = 256;
/// Turns for which epoll is asked every time after it named a connection that is not hot.
const EPOLL_EAGER_TURNS: u32 = 64;
/// Messages taken per turn.
const MESSAGES_PER_TURN: usize = 16;
/// Messages that may wait: an accept batch and some questions.
const MAILBOX_MESSAGES: usize = 256;
/// Time-outs are looked at in steps of this; the shortest they guard is a second.
const TICK_NS: u64 = 20_000_000;
/// epoll key of the service's own descriptor; no connection reaches this generation and index.
const SERVICE_KEY: u64 = u64::MAX;

mod end;
mod read;
mod write;

/// When epoll is asked: rarely while only hot connections have work, always while others do.
#[derive(Default)]
struct EpollCadence {
    /// Turns in which it is asked whatever the time.
    eager: u32,
    last: Now,
}

impl EpollCadence {
    /// Whether this is a turn to ask in.
    fn due(&self, now: Now) -> bool {
        self.eager > 0 || now.since(self.last) >= EPOLL_INTERVAL_NS
    }

    /// The next turn is one.
    fn hurry(&mut self) {
        self.eager = self.eager.max(1);
    }

    /// epoll was asked; `cold` says whether it named a connection that is not hot.
    fn asked(&mut self, now: Now, cold: bool) {
        self.last = now;
        self.eager = if cold { EPOLL_EAGER_TURNS } else { self.eager.saturating_sub(1) };
    }
}

/// Drives the TCP connections of one reactor for the service of that reactor.
pub struct TcpTargetPoller<S: TargetService> {
    target: Arc<TcpTarget>,
    service: Rc<RefCell<S>>,
    mailbox: Mailbox<Message>,
    load: Arc<Load<ReactorStats>>,
    ready: ReadySet,
    connections: Connections<Connection<S::Queue>>,
    hot: ArrayVec<ConnId, HOT_MAX>,
    /// To be sent to in this turn.
    dirty: Vec<ConnId>,
    /// Being sent to.
    sending: Vec<ConnId>,
    /// Not read because they cannot take more.
    blocked: Vec<ConnId>,
    /// Ended by the service in this turn's poll.
    ending: Vec<(ConnId, CloseReason)>,
    buffer: Box<[u8]>,
    epoll: EpollCadence,
    next_tick: Now,
    /// Nothing times out before this; may be too early.
    deadline: Now,
    drain: Drain,
    accepted: u64,
    closed: u64,
    closed_traffic: TrafficStats,
    busy: bool,
}

impl<S: TargetService> TcpTargetPoller<S> {
    /// A driver of `target` for the reactor it is made on. From then on connections are placed here: add it to the
    /// reactor in the same turn.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(target: &Arc<TcpTarget>, local: &LocalHandle, service: Rc<RefCell<S>>) -> io::Result<Self> {
        let ready = ReadySet::new()?;
        if let Some(fd) = service.borrow().wait_fd() {
            ready.add(fd, SERVICE_KEY, Interest::READ)?;
        }
        let (sender, mailbox) = local.mailbox(MAILBOX_MESSAGES);
        let load = Arc::<Load<ReactorStats>>::default();
        target.drivers().add(sender, Arc::clone(&load));
        Ok(Self {
            target: Arc::clone(target),
            service,
            mailbox,
            load,
            ready,
            connections: Connections::new(target.id()),
            hot: ArrayVec::new(),
            dirty: Vec::new(),
            sending: Vec::new(),
            blocked: Vec::new(),
            ending: Vec::new(),
            buffer: vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice(),
            epoll: EpollCadence::default(),
            next_tick: Now(0),
            deadline: Now::NEVER,
            drain: Drain::default(),
            accepted: 0,
            closed: 0,
            closed_traffic: TrafficStats::default(),
            busy: false,
        })
    }

    fn turn(&mut self, now: Now) -> Work {
        self.busy = false;
        self.take_messages(now);
        self.read_hot(now);
        self.send_answered(now);
        self.read_ready(now);
        self.retry_blocked(now);
        self.poll_service(now);
        self.end_requested(now);
        self.send_dirty(now);
        if self.is_draining() {
            self.drain_step(now);
        }
        if now >= self.next_tick {
            self.tick(now);
        }
        Work::from(self.busy)
    }

    fn take_messages(&mut self, now: Now) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(message) = self.mailbox.recv() else { return };
            self.busy = true;
            match message {
                Message::Accepted(fd, peer) => self.open(fd, peer, now),
                Message::CloseListener(listener) => self.close_listener(listener, now),
                Message::List(replier) => replier.reply(self.list()),
                Message::Drain(replier) => self.start_drain(Some(replier), now),
            }
        }
    }

    fn open(&mut self, fd: OwnedFd, peer: Peer, now: Now) {
        self.accepted += 1;
        if self.is_draining() {
            self.load.let_go();
            return;
        }
        let machine = TargetConn::new(*self.target.params(), now);
        let service = &mut *self.service.borrow_mut();
        let id = self.connections.insert(|id| {
            let queue = service.open(id, &peer);
            Connection::new(fd, peer, machine, queue)
        });
        let Some(connection) = self.connections.get_mut(id) else { return };
        self.deadline = self.deadline.min(connection.deadline().unwrap_or(Now::NEVER));
        if let Err(errno) = self.ready.add(&connection.fd, key(id), Interest::READ) {
            self.ending.push((id, reason(errno)));
        }
    }

    fn close_listener(&mut self, listener: ListenerId, now: Now) {
        let theirs = self.connections.iter().filter(|(_, connection)| connection.peer.listener == listener);
        for id in theirs.map(|(id, _)| id).collect::<Vec<_>>() {
            self.end(id, CloseReason::Shutdown, now);
        }
    }

    fn list(&self) -> Vec<ConnectionStats> {
        let stats = |(conn, connection): (ConnId, &Connection<S::Queue>)| ConnectionStats {
            conn,
            peer: connection.peer.clone(),
            in_flight: connection.machine.in_flight(),
            tx_pending_bytes: connection.machine.tx_pending(),
            traffic: connection.traffic,
        };
        self.connections.iter().map(stats).collect()
    }
}

impl<S: TargetService> Poller for TcpTargetPoller<S> {
    fn name(&self) -> &str {
        "tcp target"
    }

    fn poll(&mut self, turn: &mut Turn<'_>) -> Work {
        self.turn(now(turn))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn before_sleep(&mut self, _turn: &mut Turn<'_>) -> bool {
        self.publish();
        // What woke the reactor is looked for at once.
        self.epoll.hurry();
        if !self.dirty.is_empty() || !self.service.borrow_mut().before_sleep() {
            return false;
        }
        self.cool_all();
        true
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let service = self.service.borrow().next_deadline().unwrap_or(Now::NEVER);
        let due = self.deadline.min(service).min(self.drain.deadline());
        // Time-outs are looked at in ticks: not before the next one.
        (due != Now::NEVER).then(|| Timestamp::from_nanos(due.max(self.next_tick).0))
    }

    fn drain(&mut self, turn: &mut Turn<'_>) -> bool {
        if !self.is_draining() {
            self.start_drain(None, now(turn));
        }
        self.connections.len() == 0
    }
}
