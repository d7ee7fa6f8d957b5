//! One queue pair of the host over RDMA: a connection, its machine, and memory for data that does not lie in a pool.
//!
//! States: connecting (address → route → connection) → up → down. Completions are polled without a system call; before the
//! owner sleeps the queue is armed and polled once more, and what that found makes the descriptor readable.

mod staging;
mod watch;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use fabrics::host::{HostData, HostSink, SubmitError, SubmitRefusal};
use fabrics::rdma::host::{HostConn, HostParams};
use fabrics::rdma::{COMMAND_BYTES, RESPONSE_BYTES, request};
use fabrics::{CommandId, Now};
use nvme::rdma::{CmAccept, CmReject, CmStatus};
use nvme::zerocopy::{FromBytes, IntoBytes};
use nvme::{ControllerId, QueueId, Sqe};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use self::staging::{Detached, Memory, Staging};
use self::watch::Watch;
use super::verbs::{
    COMPLETIONS_PER_POLL, CmEvent, CmEventKind, CmId, Completion, CompletionQueue, ConnectParams,
    DeviceEvents, Domain, EventChannel, Qp, QpConfig, VerbsError, WakeChannel, WorkKind,
};
use crate::HostBuffer;
use crate::host::{LinkError, QueueTraffic, nanos};
use crate::ready::{Interest, ReadySet};

/// epoll keys; what is readable is not asked, only waited for.
const KEY: u64 = 0;
/// How often events of the connection manager are looked for while the owner turns an established queue.
const LOOK_NS: u64 = 10_000_000;

/// Polls that find nothing before the processor is offered to others. A poll makes no system call: where there are fewer
/// processors than busy threads, the kernel would let it poll to the end of its slice, while what it waits for waits for it.
const EMPTY_POLLS_PER_YIELD: u32 = 64;

/// What a queue over RDMA is connected with.
#[derive(Clone, Copy, Debug)]
pub struct RdmaQueueParams {
    /// Which queue it will be.
    pub id: QueueId,
    /// The controller an I/O queue belongs to.
    pub cntlid: ControllerId,
    /// How often what is not acknowledged is sent again: 0 to 7.
    pub retries: u8,
    /// Depth, data in capsules, time-out.
    pub machine: HostParams,
}

/// What an established connection is made of. Dropped in this order.
struct Established<B> {
    qp: Qp,
    staging: Staging,
    machine: HostConn<B>,
    cq: Rc<CompletionQueue>,
    wakes: Rc<WakeChannel>,
    events: DeviceEvents<Rc<Domain>>,
    watch: Watch,
}

/// State of the link.
enum Link<B> {
    /// The address, or the route, is being resolved.
    Resolving(CmId),
    /// The target was asked.
    Connecting(Box<Established<B>>),
    Up(Box<Established<B>>),
    Down(LinkError),
}

/// A queue pair over RDMA, admin or I/O.
pub(crate) struct RdmaQueue<B> {
    link: Link<B>,
    params: RdmaQueueParams,
    timeout: Duration,
    deadline: Now,
    next_look: Now,
    /// Taken when the queue was armed, and not yet acted upon.
    completions: ArrayVec<Completion, COMPLETIONS_PER_POLL>,
    traffic: QueueTraffic,
    empty_polls: u32,
    ready: ReadySet,
    /// Readable while there are completions that were taken.
    pending: OwnedFd,
    channel: Arc<EventChannel>,
}

impl From<VerbsError> for LinkError {
    fn from(error: VerbsError) -> Self {
        Self::Rdma { call: error.call, errno: Errno::from_raw_os_error(error.errno()) }
    }
}

impl<B: HostBuffer> RdmaQueue<B> {
    /// Starts to connect.
    pub(crate) fn connect(
        remote: SocketAddr,
        local: Option<SocketAddr>,
        params: RdmaQueueParams,
        timeout: Duration,
        now: Now,
    ) -> Result<Self, LinkError> {
        let channel = EventChannel::new()?;
        let id = CmId::new(&channel)?;
        id.resolve_address(local, remote, milliseconds(timeout))?;
        let ready = ReadySet::new().map_err(|error| LinkError::System(errno_of(&error)))?;
        ready.add(&*channel, KEY, Interest::READ).map_err(LinkError::System)?;
        let pending =
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(LinkError::System)?;
        ready.add(&pending, KEY, Interest::READ).map_err(LinkError::System)?;
        Ok(Self {
            link: Link::Resolving(id),
            params,
            timeout,
            deadline: now.after_ns(nanos(timeout)),
            next_look: now,
            completions: ArrayVec::new(),
            traffic: QueueTraffic::default(),
            empty_polls: 0,
            ready,
            pending,
            channel,
        })
    }

    /// Takes what came and completes what that finishes. Returns whether anything came.
    #[inline]
    pub(crate) fn receive<S: HostSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        let mut busy = false;
        if now >= self.next_look {
            if matches!(self.link, Link::Up(_)) {
                self.next_look = now.after_ns(LOOK_NS);
            }
            busy |= self.take_events(sink);
            busy |= self.take_device_events(now, sink);
        }
        if !matches!(self.link, Link::Up(_)) {
            self.on_tick(now, sink);
            return busy;
        }
        self.traffic.receive_calls += 1;
        let came = self.take_completions(sink);
        self.traffic.receive_calls_empty += u64::from(!came);
        self.empty_polls = if came { 0 } else { self.empty_polls + 1 };
        if self.empty_polls == EMPTY_POLLS_PER_YIELD {
            self.empty_polls = 0;
            std::thread::yield_now();
        }
        busy | came
    }

    fn take_completions<S: HostSink<B>>(&mut self, sink: &mut S) -> bool {
        let mut taken = std::mem::take(&mut self.completions);
        let kept = taken.len();
        if let Link::Up(up) = &self.link {
            up.cq.poll(&mut taken);
        }
        if kept > 0 {
            // Errors mean that it was not readable, which is what we want.
            let _ = rustix::io::read(&self.pending, &mut [0_u8; 8]);
        }
        let came = !taken.is_empty();
        for completion in taken.drain(..) {
            if let Err(error) = self.on_completion(completion, sink) {
                self.fail(error, sink);
                return true;
            }
        }
        came
    }

    #[inline]
    fn on_completion<S: HostSink<B>>(
        &mut self,
        completion: Completion,
        sink: &mut S,
    ) -> Result<(), LinkError> {
        let Link::Up(up) = &mut self.link else { return Ok(()) };
        let Established { qp, staging, machine, .. } = &mut **up;
        match completion.outcome() {
            Ok(WorkKind::Receive(bytes)) => {
                let (receives, sends) = qp.split();
                let capsule = receives.message(&completion, bytes);
                self.traffic.bytes_received += bytes as u64;
                machine.on_response(capsule, &mut Memory { sends, staging }, sink);
                qp.reuse(completion);
            }
            Ok(WorkKind::Send) => {
                let (_, sends) = qp.split();
                drop(sends.end(&completion));
                let work = CommandId::from_bits(completion.work());
                machine.on_sent(work, &mut Memory { sends, staging }, sink);
            }
            Ok(WorkKind::Read | WorkKind::Other) => {}
            Err(_) if completion.is_flush() => return Err(LinkError::Closed),
            Err(status) => return Err(LinkError::Work(status)),
        }
        machine.closed().map_or(Ok(()), |reason| Err(LinkError::RdmaProtocol(reason)))
    }

    /// Posts what waits. Returns whether anything was posted.
    #[inline]
    pub(crate) fn flush<S: HostSink<B>>(&mut self, sink: &mut S) -> bool {
        let Link::Up(up) = &mut self.link else { return false };
        if !up.qp.is_dirty() {
            return false;
        }
        self.traffic.send_calls += 1;
        if let Err(error) = up.qp.flush() {
            self.fail(error.into(), sink);
        }
        true
    }

    /// Time passes: connecting and commands may take too long.
    pub(crate) fn on_tick<S: HostSink<B>>(&mut self, now: Now, sink: &mut S) {
        match &mut self.link {
            Link::Resolving(_) | Link::Connecting(_) if now >= self.deadline => {
                self.fail(LinkError::ConnectTimeout(self.timeout), sink);
            }
            Link::Up(up) => match up.watch.on_tick(now) {
                Some(why) => self.fail(LinkError::Device(why), sink),
                None => up.machine.on_tick(now, sink),
            },
            _ => {}
        }
    }

    /// When [`RdmaQueue::on_tick`] may have something to do.
    pub(crate) fn next_deadline(&self) -> Option<Now> {
        match &self.link {
            Link::Resolving(_) | Link::Connecting(_) => Some(self.deadline),
            Link::Up(up) => {
                let watched = up.watch.deadline();
                let machine = up.machine.next_deadline().unwrap_or(Now::NEVER);
                Some(machine.min(watched)).filter(|due| *due != Now::NEVER)
            }
            Link::Down(_) => None,
        }
    }

    #[inline]
    pub(crate) fn submit(
        &mut self,
        sqe: Sqe,
        data: HostData<B>,
        tag: u64,
        now: Now,
    ) -> Result<(), SubmitError<B>> {
        let deadline = match &self.link {
            Link::Up(up) => up.machine.deadline(now),
            _ => now,
        };
        self.submit_until(sqe, data, tag, deadline)
    }

    #[inline]
    pub(crate) fn submit_until(
        &mut self,
        sqe: Sqe,
        data: HostData<B>,
        tag: u64,
        deadline: Now,
    ) -> Result<(), SubmitError<B>> {
        match &mut self.link {
            Link::Up(up) => {
                let Established { qp, staging, machine, .. } = &mut **up;
                let (_, sends) = qp.split();
                machine.submit_until(sqe, data, tag, deadline, &mut Memory { sends, staging })
            }
            Link::Down(_) => Err(SubmitError { reason: SubmitRefusal::Closed, data }),
            Link::Resolving(_) | Link::Connecting(_) => {
                Err(SubmitError { reason: SubmitRefusal::NotReady, data })
            }
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    pub(crate) fn error(&self) -> Option<&LinkError> {
        match &self.link {
            Link::Down(error) => Some(error),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        match &self.link {
            Link::Up(up) => up.machine.in_flight(),
            _ => 0,
        }
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        match &self.link {
            Link::Up(up) => up.machine.is_full(),
            _ => false,
        }
    }

    pub(crate) fn traffic(&self) -> &QueueTraffic {
        &self.traffic
    }

    /// Makes the descriptor readable when there is something to receive.
    pub(crate) fn arm(&mut self) {
        self.next_look = Now(0);
        let Link::Up(up) = &self.link else { return };
        up.wakes.take_wakeups(1);
        let armed = up.cq.arm();
        up.cq.poll(&mut self.completions);
        if armed.is_err() || !self.completions.is_empty() {
            // It cannot overflow: it is emptied whenever completions are taken.
            let _ = rustix::io::write(&self.pending, &1_u64.to_ne_bytes());
        }
    }

    pub(crate) fn close<S: HostSink<B>>(&mut self, sink: &mut S) {
        self.fail(LinkError::Local, sink);
    }

    fn take_events<S: HostSink<B>>(&mut self, sink: &mut S) -> bool {
        let mut busy = false;
        while let Some(event) = self.channel.next() {
            busy = true;
            if let Err(error) = self.on_event(&event) {
                self.fail(error, sink);
            }
        }
        busy
    }

    /// Takes what the device says of the connection.
    fn take_device_events<S: HostSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        let (Link::Up(on) | Link::Connecting(on)) = &mut self.link else { return false };
        let Established { events, watch, .. } = &mut **on;
        let said = std::iter::from_fn(|| events.next()).find_map(|event| watch.on_event(event, now));
        let Some(why) = said.or_else(|| watch.on_tick(now)) else { return false };
        self.fail(LinkError::Device(why), sink);
        true
    }

    fn on_event(&mut self, event: &CmEvent) -> Result<(), LinkError> {
        let failed = |call| LinkError::Rdma { call, errno: Errno::from_raw_os_error(event.status.abs()) };
        match (&event.kind, &mut self.link) {
            (CmEventKind::AddressResolved, Link::Resolving(id)) => {
                id.resolve_route(milliseconds(self.timeout))?;
            }
            (CmEventKind::RouteResolved, Link::Resolving(_)) => return self.ask(),
            (CmEventKind::Established(private_data), Link::Connecting(_)) => {
                let granted =
                    CmAccept::ref_from_prefix(private_data).map_or(0, |(accept, _)| accept.crqsize.get());
                self.come_up(granted);
            }
            (CmEventKind::Rejected(private_data), _) => {
                // Nobody listens there: a reason of the link's, and no status or zeroes where a target puts one.
                let status = CmReject::ref_from_prefix(private_data).map(|(reject, _)| reject.status());
                return Err(match status {
                    Ok(status) if status != CmStatus(0) => LinkError::Rejected(status),
                    _ if event.status < 0 => failed("rdma_connect"),
                    _ => LinkError::Rdma { call: "rdma_connect", errno: Errno::CONNREFUSED },
                });
            }
            (CmEventKind::Failed, Link::Resolving(_)) => return Err(failed("rdma_resolve_addr")),
            (CmEventKind::Failed, _) => return Err(failed("rdma_connect")),
            (CmEventKind::Disconnected, _) => return Err(LinkError::Closed),
            (CmEventKind::DeviceRemoved | CmEventKind::AddressChanged, _) => {
                return Err(LinkError::System(Errno::NODEV));
            }
            _ => {}
        }
        Ok(())
    }

    /// The way is known: makes the queue pair and asks the target.
    fn ask(&mut self) -> Result<(), LinkError> {
        let Link::Resolving(id) = std::mem::replace(&mut self.link, Link::Down(LinkError::Local)) else {
            return Ok(());
        };
        let domain = Domain::of_hosts(&id)?;
        let HostParams { depth, in_capsule_data_size, .. } = self.params.machine;
        let config = QpConfig {
            connection: 0,
            slots: depth,
            requests_per_work: 1,
            sends: depth.into(),
            receives: depth + 1,
            receive_bytes: RESPONSE_BYTES,
            send_bytes: COMMAND_BYTES + in_capsule_data_size as usize,
        };
        let wakes = WakeChannel::new(&domain)?;
        let cq = CompletionQueue::new(&wakes, 2 * u32::from(depth) + 1)?;
        let qp = Qp::new(id, &cq, None, &config).map_err(|(error, _)| error)?;
        self.ready.add(&*wakes, KEY, Interest::READ).map_err(LinkError::System)?;
        let events = DeviceEvents::of_domain(&domain)?;
        for said in [events.device_fd(), events.heard_fd()] {
            self.ready.add(said, KEY, Interest::READ).map_err(LinkError::System)?;
        }
        let private_data = request(self.params.id, self.params.cntlid, depth);
        qp.connect(&ConnectParams {
            private_data: private_data.as_bytes(),
            responder_resources: domain.limits().reads_served,
            initiator_depth: domain.limits().reads_sent,
            retries: self.params.retries,
        })?;
        let staging = Staging::new(&domain, depth)?;
        let machine = HostConn::new(self.params.machine);
        let watch = Watch::new(qp.key(), qp.id().port());
        self.link =
            Link::Connecting(Box::new(Established { qp, staging, machine, cq, wakes, events, watch }));
        Ok(())
    }

    /// The target accepted, and has receives for `granted` commands.
    fn come_up(&mut self, granted: u16) {
        let link = std::mem::replace(&mut self.link, Link::Down(LinkError::Local));
        if let Link::Connecting(mut up) = link {
            let depth = self.params.machine.depth;
            if granted > 0 && granted < depth {
                up.machine = HostConn::new(HostParams { depth: granted, ..self.params.machine });
            }
            self.link = Link::Up(up);
        }
    }

    #[cold]
    fn fail<S: HostSink<B>>(&mut self, error: LinkError, sink: &mut S) {
        // An error while the queue pair was being made has taken the link down already, without saying why.
        let was_asking = matches!(self.link, Link::Down(LinkError::Local));
        if matches!(self.link, Link::Down(_)) && !was_asking {
            return;
        }
        self.completions.clear();
        match std::mem::replace(&mut self.link, Link::Down(error)) {
            Link::Up(up) => {
                let Established { qp, mut staging, mut machine, events, .. } = *up;
                // The device stays open where others use it.
                let _ = self.ready.remove(events.device_fd());
                qp.disconnect();
                // The controller reaches no memory of ours from here on.
                drop(qp);
                machine.close(&mut Detached { staging: &mut staging }, sink);
            }
            Link::Connecting(up) => up.qp.give_up(),
            Link::Resolving(_) | Link::Down(_) => {}
        }
    }
}

impl<B> AsFd for RdmaQueue<B> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(0))
}
