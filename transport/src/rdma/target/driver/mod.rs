//! The driver of one reactor: takes completions, lets the service work, posts once per connection and turn.
//!
//! Turn: messages → events of the connection manager → completions → blocked connections → `service.poll` → posts → timers.
//! Completions are polled without a system call; before the reactor sleeps their queues are armed and polled once more, so
//! that none is missed.
//!
//! Invariants: `TargetService::closed` is called once for each `open`; what a connection holds is bounded by its receives
//! and slots.

mod capsules;
mod end;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;
use fabrics::Now;
use fabrics::rdma::target::TargetConn;
use fabrics::rdma::{COMMAND_BYTES, RESPONSE_BYTES};
use nvme::U16;
use nvme::rdma::{CmAccept, CmStatus};
use nvme::zerocopy::IntoBytes;
use reactors::dma::LARGE_SLOT_SIZE;
use reactors::mailbox::Mailbox;
use reactors::{LocalHandle, Poller, Timestamp, Turn, Work};

use super::acceptor::reject;
use super::connection::{Connection, Leaving, Phase};
use super::control::{Incoming, Message, RdmaTarget};
use super::device::Devices;
use super::stats::{RdmaTraffic, ReactorStats};
use crate::connections::Connections;
use crate::drain::{Drain, now};
use crate::drivers::Load;
use crate::rdma::look::Looks;
use crate::rdma::verbs::{
    COMPLETIONS_PER_POLL, CmEvent, CmEventKind, CmKey, Completion, ConnectParams, EventChannel, QpConfig,
    QpKey, RETRIES,
};
use crate::ready::{Interest, ReadySet};
use crate::{CloseReason, ConnId, Data, ListenerId, TargetService};

/// Messages taken per turn.
const MESSAGES_PER_TURN: usize = 16;
/// Messages that may wait.
const MAILBOX_MESSAGES: usize = 256;
/// Events of the connection manager taken per look.
const EVENTS_PER_LOOK: usize = 16;
/// Polls of one completion queue in one turn; then the others have their turn.
const POLLS_PER_TURN: usize = 8;
/// Time-outs are looked at in steps of this; the shortest they guard is a second.
const TICK_NS: u64 = 20_000_000;
/// epoll keys; what is readable is not asked, only waited for.
const SERVICE_KEY: u64 = 0;
const CHANNEL_KEY: u64 = 1;
const DEVICE_KEY: u64 = 2;

/// Drives the RDMA connections of one reactor for the service of that reactor.
pub struct RdmaTargetPoller<S: TargetService> {
    target: Arc<RdmaTarget>,
    service: Rc<RefCell<S>>,
    mailbox: Mailbox<Message>,
    load: Arc<Load<ReactorStats>>,
    // Before what they are made of.
    connections: Connections<Connection<S::Queue>>,
    devices: Devices,
    channel: Arc<EventChannel>,
    ready: ReadySet,
    by_key: HashMap<CmKey, ConnId>,
    by_queue_pair: HashMap<QpKey, ConnId>,
    /// Queue pairs of connections that are gone.
    leaving: Vec<Leaving>,
    /// To be posted for in this turn.
    dirty: Vec<ConnId>,
    /// With capsules that cannot be taken.
    blocked: Vec<ConnId>,
    /// Ended in this turn.
    ending: Vec<(ConnId, CloseReason)>,
    /// Taken and not yet acted upon.
    completions: ArrayVec<Completion, COMPLETIONS_PER_POLL>,
    looks: Looks,
    next_tick: Now,
    /// Nothing times out before this; may be too early.
    deadline: Now,
    drain: Drain,
    accepted: u64,
    closed: u64,
    closed_traffic: RdmaTraffic,
    busy: bool,
}

impl<S: TargetService> RdmaTargetPoller<S> {
    /// A driver of `target` for the reactor it is made on. From then on connections are placed here: add it to the
    /// reactor in the same turn.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(target: &Arc<RdmaTarget>, local: &LocalHandle, service: Rc<RefCell<S>>) -> io::Result<Self> {
        let ready = ReadySet::new()?;
        if let Some(fd) = service.borrow().wait_fd() {
            ready.add(fd, SERVICE_KEY, Interest::READ)?;
        }
        let channel = EventChannel::new().map_err(io::Error::other)?;
        ready.add(&*channel, CHANNEL_KEY, Interest::READ)?;
        let (sender, mailbox) = local.mailbox(MAILBOX_MESSAGES);
        let load = Arc::<Load<ReactorStats>>::default();
        target.drivers().add(sender, Arc::clone(&load));
        Ok(Self {
            target: Arc::clone(target),
            service,
            mailbox,
            load,
            connections: Connections::new(target.id()),
            devices: Devices::new(local.pool().clone(), target.config().shared_receives_max),
            channel,
            ready,
            by_key: HashMap::new(),
            by_queue_pair: HashMap::new(),
            leaving: Vec::new(),
            dirty: Vec::new(),
            blocked: Vec::new(),
            ending: Vec::new(),
            completions: ArrayVec::new(),
            looks: Looks::default(),
            next_tick: Now(0),
            deadline: Now::NEVER,
            drain: Drain::default(),
            accepted: 0,
            closed: 0,
            closed_traffic: RdmaTraffic::default(),
            busy: false,
        })
    }

    fn turn(&mut self, now: Now) -> Work {
        self.busy = false;
        self.take_messages(now);
        if self.looks.is_due(now) {
            self.take_events(now);
        }
        self.take_completions(now);
        self.leaving.retain(|leaving| !leaving.is_over(now));
        self.retry_blocked(now);
        self.poll_service(now);
        self.end_requested(now);
        self.post_dirty(now);
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
                Message::Incoming(incoming) => self.open(*incoming, now),
                Message::CloseListener(listener) => self.close_listener(listener, now),
                Message::Device(event) => self.on_device_event(event, now),
                Message::Drain(replier) => self.start_drain(Some(replier), now),
            }
        }
    }

    fn open(&mut self, incoming: Incoming, now: Now) {
        self.accepted += 1;
        let Incoming { mut cm, peer, sizes, initiator_depth } = incoming;
        let migrated = cm.migrate(&self.channel);
        if self.is_draining() || migrated.is_err() {
            self.load.let_go();
            return reject(&cm, CmStatus::NO_RESOURCES);
        }
        let config = *self.target.config();
        let id = self.connections.next_id();
        let slots = TargetConn::<Data>::slots(&sizes);
        let parts = (config.params.max_io_size as usize).div_ceil(LARGE_SLOT_SIZE);
        let queue_pair = self.devices.queue_pair(
            cm,
            &QpConfig {
                connection: Connections::<Connection<S::Queue>>::tag(id),
                slots,
                requests_per_work: u32::try_from(parts + 1).unwrap_or(u32::MAX),
                sends: sizes.commands.into(),
                receives: sizes.commands,
                receive_bytes: COMMAND_BYTES + config.params.in_capsule_data_size as usize,
                send_bytes: RESPONSE_BYTES,
            },
        );
        let (qp, wakes) = match queue_pair {
            Ok(made) => made,
            Err((error, cm)) => {
                tracing::warn!(peer = %peer.remote, %error, "connection rejected");
                self.connections.skip(id);
                self.load.let_go();
                return cm.iter().for_each(|cm| reject(cm, CmStatus::NO_RESOURCES));
            }
        };
        if let Some(wakes) = wakes
            && let Err(errno) = self.ready.add(&*wakes, DEVICE_KEY, Interest::READ)
        {
            tracing::warn!(%errno, "an RDMA device cannot wake its reactor");
        }
        let accept = CmAccept { crqsize: U16::new(sizes.commands), ..CmAccept::default() };
        let accepted = qp.accept(&ConnectParams {
            private_data: accept.as_bytes(),
            responder_resources: 0,
            initiator_depth: initiator_depth.min(qp.domain().limits().reads_sent).max(1),
            retries: RETRIES,
        });
        if let Err(error) = accepted {
            tracing::warn!(peer = %peer.remote, %error, "connection not accepted");
            // What its queue pair still completes is not for the next connection.
            self.connections.skip(id);
            return self.load.let_go();
        }
        self.by_key.insert(qp.id().key(), id);
        self.by_queue_pair.insert(qp.key(), id);
        let is_shared = qp.is_shared();
        let machine = TargetConn::new(config.params, &sizes, now);
        self.deadline = self.deadline.min(machine.next_deadline().unwrap_or(Now::NEVER));
        let service = &mut *self.service.borrow_mut();
        self.connections.insert(|id| Connection {
            phase: Phase::Open { queue: service.open(id, &peer), draining: false },
            qp,
            peer,
            machine,
            arrived: std::collections::VecDeque::new(),
            commands: sizes.commands,
            pending: 0,
            dirty: false,
            blocked: false,
            traffic: RdmaTraffic { shared: is_shared.into(), ..RdmaTraffic::default() },
        });
    }

    fn close_listener(&mut self, listener: ListenerId, now: Now) {
        let theirs = self.connections.iter().filter(|(_, connection)| connection.peer.listener == listener);
        for id in theirs.map(|(id, _)| id).collect::<Vec<_>>() {
            self.end(id, CloseReason::Shutdown, now);
        }
    }

    fn take_events(&mut self, now: Now) {
        for _ in 0..EVENTS_PER_LOOK {
            let Some(event) = self.channel.next() else { return };
            self.busy = true;
            self.looks.found(now);
            self.on_event(&event, now);
        }
        self.looks.again();
    }

    fn on_event(&mut self, event: &CmEvent, now: Now) {
        if matches!(event.kind, CmEventKind::DeviceRemoved) {
            self.on_device_removed(event.id, now);
        }
        let Some(&id) = self.by_key.get(&event.id) else { return };
        match event.kind {
            CmEventKind::Disconnected => self.end(id, CloseReason::PeerClosed, now),
            CmEventKind::Rejected(_) | CmEventKind::Failed | CmEventKind::AddressChanged => {
                self.end(id, CloseReason::LinkFailed(event.status.abs()), now);
            }
            CmEventKind::DeviceRemoved => self.end(id, CloseReason::LinkFailed(libc::ENODEV), now),
            _ => {}
        }
    }

    fn publish(&self) {
        let mut traffic = self.closed_traffic;
        for (_, connection) in self.connections.iter() {
            traffic += connection.traffic();
        }
        self.load.stats.publish(traffic, self.accepted, self.closed);
    }

    /// Arms the completion queues; whether nothing came before they were. Their wake-ups are taken after every sleep.
    fn arm(&mut self) -> bool {
        for queue in self.devices.queues() {
            if queue.arm().is_err() {
                return false;
            }
            queue.poll(&mut self.completions);
        }
        self.completions.is_empty()
    }
}

impl<S: TargetService> Poller for RdmaTargetPoller<S> {
    fn name(&self) -> &str {
        "rdma target"
    }

    fn poll(&mut self, turn: &mut Turn<'_>) -> Work {
        self.turn(now(turn))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn before_sleep(&mut self, _turn: &mut Turn<'_>) -> bool {
        self.publish();
        self.arm() && self.dirty.is_empty() && self.service.borrow_mut().before_sleep()
    }

    fn after_sleep(&mut self) {
        self.devices.take_wakeups();
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let service = self.service.borrow().next_deadline().unwrap_or(Now::NEVER);
        let leaving = self.leaving.iter().map(|leaving| leaving.deadline).min().unwrap_or(Now::NEVER);
        let due = self.deadline.min(service).min(self.drain.deadline()).min(leaving);
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
