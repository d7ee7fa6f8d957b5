//! The boundary between a transport's target driver and the target above it.
//!
//! One service exists per reactor; every transport of that reactor shares it (`Rc<RefCell<S>>`). A driver's turn is:
//! read every connection (commands reach [`TargetService::execute`]), one [`TargetService::poll`], then one send per
//! connection. So what `execute` answers at once and what `poll` hands over leave in the same turn.
//!
//! Invariants: `open` and `closed` are called exactly once per connection, in that order; no call carries a [`ConnId`]
//! after its `closed`; an [`Effect`] for a connection that is gone is recognised by its generation and dropped.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use fabrics::{CommandId, Completion, Execution, Now};
use nvme::Sqe;
use reactors::IoBuf;

/// A transport instance of the process, as created by `nvmf_create_transport`: TCP or RDMA.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransportId(pub u16);

/// An address a transport listens on. Unique within its transport, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u32);

/// A connection of one reactor. Copy; an id kept after its connection closed never names another connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// The transport that drives it.
    pub transport: TransportId,
    /// Place in that transport's slab on this reactor. Dense, so that it may index a table.
    pub index: u32,
    /// How often that place was reused.
    pub generation: u32,
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnId({}:{}.{})", self.transport.0, self.index, self.generation)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}", self.transport.0, self.index, self.generation)
    }
}

/// What carries a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransportKind {
    /// NVMe/TCP.
    Tcp,
    /// NVMe/RDMA.
    Rdma,
}

impl TransportKind {
    /// Whether a read may be answered with a [lent](IoBuf::is_lent) buffer: the transport sends it, or takes a copy, in the
    /// turn it gets it.
    #[must_use]
    pub const fn takes_lent(self) -> bool {
        match self {
            Self::Tcp => true,
            // The device takes the bytes later, from registered memory only.
            Self::Rdma => false,
        }
    }
}

/// Who is at the other end, and where it came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// What carries the connection.
    pub transport: TransportKind,
    /// The listener that accepted it.
    pub listener: ListenerId,
    /// Our address, as the peer reached it.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer closed it in order.
    PeerClosed,
    /// The link failed: reset, unreachable, acknowledgement time-out. Carries the raw `errno`.
    LinkFailed(i32),
    /// The peer broke the transport's protocol, or the machine ended the connection.
    Protocol,
    /// The peer was too slow: handshake or transfer not in time.
    TimedOut,
    /// The service asked for it: keep-alive time-out, fatal controller error, host no longer allowed.
    Service,
    /// The transport, its listener or the process is shutting down.
    Shutdown,
}

/// What a service hands back to a transport.
#[derive(Debug)]
pub enum Effect {
    /// A command that was pending is finished.
    Complete(ConnId, CommandId, Completion<IoBuf>),
    /// End this connection: what was completed before is still sent, then it closes. Commands in flight are dropped;
    /// [`TargetService::closed`] follows with the same reason.
    Close(ConnId, CloseReason),
}

/// A target on one reactor, as the transports see it. Called only on that reactor's thread, never re-entered.
pub trait TargetService: 'static {
    /// What the service keeps per connection: nothing → Connect → admin or I/O queue.
    type Queue;

    /// A connection finished its transport-level handshake set-up and may send commands.
    fn open(&mut self, conn: ConnId, peer: &Peer) -> Self::Queue;

    /// Runs one command. `data` holds a host-to-controller command's data, complete. `Done` answers in this turn;
    /// `Pending` is answered by exactly one [`Effect::Complete`] with this `id`.
    fn execute(
        &mut self,
        conn: ConnId,
        queue: &mut Self::Queue,
        id: CommandId,
        sqe: &Sqe,
        data: Option<IoBuf>,
        now: Now,
    ) -> Execution<IoBuf>;

    /// This command, or its data, is about to come: [`Self::execute`] follows, perhaps after others. A hint, on which nothing may
    /// depend.
    #[inline]
    fn expect(&mut self, _queue: &Self::Queue, _sqe: &Sqe) {}

    /// A buffer of exactly `len` bytes for a command's incoming data; `None` when there is none now: the connection
    /// then stops reading until one is free.
    fn allocate(&mut self, len: usize) -> Option<IoBuf>;

    /// Once per turn, after every connection was read: kick the devices, poll them, hand over what is finished for the
    /// connections of `transport`. Effects of other transports are kept for their own call.
    fn poll(&mut self, transport: TransportId, now: Now, out: &mut dyn FnMut(Effect));

    /// How many of the queue's pending commands wait for an event rather than for work (Asynchronous Event Requests): a
    /// drain does not wait for those.
    fn event_waiters(&self, queue: &Self::Queue) -> usize;

    /// The connection is gone. Device I/O still in flight for it finishes into nothing.
    fn closed(&mut self, conn: ConnId, queue: Self::Queue, reason: CloseReason);

    /// Time passes: keep-alive time-outs and the like. Called in coarse steps, not every turn.
    fn tick(&mut self, now: Now);

    /// When [`Self::tick`] has something to do next; the reactor does not sleep past it.
    fn next_deadline(&self) -> Option<Now>;

    /// Becomes readable when [`Self::poll`] has something to hand over while the reactor sleeps (device completions;
    /// several sources nest in one epoll descriptor). Constant over the service's life. `None`: it is only woken otherwise.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The reactor is about to sleep: arm the wake-up, then say whether sleeping is right (`false`: work is there now).
    fn before_sleep(&mut self) -> bool;
}
