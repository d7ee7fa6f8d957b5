//! A whole target and hosts over loopback sockets, in one thread: one turn of the target, one of the host, and so on.
//!
//! Nothing overlaps and nothing spins in vain, so counts of instructions, system calls and allocations per I/O repeat from
//! run to run. Times do not mean much here: in life both ends run at once.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dataplane::device::Device;
use dataplane::target::{
    BoundListener, ListenAddress, Listeners, NamespaceOptions, ReactorTarget, SubsystemOptions, Target,
    TargetPoller, TransportOptions,
};
use fabrics::Now;
use fabrics::tcp::target::TargetParams;
use nvme::{HostId, Lba, Nqn, QueueId};
use reactors::{Clock, DmaPool, LocalReactor, PoolConfig, ReactorHandle, ReactorsConfig};
use transport::tcp::host::{AdminQueue, Connecting, HostConfig, HostQueue, QueueConnect};
use transport::tcp::target::{Acceptor, TcpTarget, TcpTargetPoller};
use transport::{Data, ListenerId, TransportId, TransportKind};
use uuid::Uuid;

use crate::IO_BYTES;
use crate::machines::{Ended, Kind};

/// Blocks that a load goes over, unless told otherwise.
pub const BLOCKS: u64 = 1024;
/// Bytes the host receives at a time.
const RECEIVE_BYTES: usize = 256 << 10;
/// Turns of both sides within which a connection comes up; loopback needs a few dozen.
const CONNECT_TURNS: u32 = 1_000_000;
/// Turns of both sides within which something ends on loopback.
const STUCK_TURNS: u32 = 1_000_000;

/// Longer than any run: nothing is reported as a stall.
const STALL_NEVER: Duration = Duration::from_secs(3600);

/// The transport as the target's control side sees it.
struct TcpListeners(Arc<TcpTarget>);

impl Listeners for TcpListeners {
    fn open(&self, address: SocketAddr) -> std::io::Result<BoundListener> {
        let (id, address) = self.0.listen(address).map_err(std::io::Error::other)?;
        Ok(BoundListener { id, address })
    }

    fn close(&self, listener: ListenerId) {
        self.0.unlisten(listener, true);
    }
}

/// A target with one subsystem, one namespace and one TCP listener, on a reactor that turns when told to.
pub struct Loopback {
    reactor: LocalReactor,
    tcp: Arc<TcpTarget>,
    address: SocketAddr,
    clock: Clock,
}

/// A host: an admin queue, and one I/O queue with buffers for all the commands it can have in flight.
pub struct HostLane {
    _admin: AdminQueue,
    queue: HostQueue<Data>,
    ended: Ended,
    received: Box<[u8]>,
    next_lba: u64,
    blocks: u64,
    step: u64,
}

/// The name of the subsystem.
///
/// # Panics
/// Never: the name is well-formed.
pub fn subsystem() -> Nqn {
    Nqn::new("nqn.2026-01.io.pollux:loopback").unwrap_or_else(|error| panic!("{error}"))
}

impl Loopback {
    /// A target that serves `device` as namespace 1.
    ///
    /// # Panics
    /// When the machine has no buffers, descriptors or loopback to give.
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self::with(|_| device)
    }

    /// A target that serves as namespace 1 what `make` makes, which may call the reactor and wait for it.
    ///
    /// # Panics
    /// When the machine has no buffers, descriptors or loopback to give.
    pub fn with(make: impl FnOnce(ReactorHandle) -> Arc<dyn Device> + Send) -> Self {
        let buffers = PoolConfig { small_slots: 2048, large_slots: 64, prefault: true };
        // A thread that loses its core is not a stall to report here: the report allocates.
        let config = ReactorsConfig { buffers, stall_after: STALL_NEVER, ..ReactorsConfig::default() };
        let mut reactor = LocalReactor::new(&config).unwrap_or_else(|error| panic!("{error}"));
        let options = TransportOptions::default();
        let params =
            TargetParams { in_capsule_data_size: options.in_capsule_data_bytes, ..TargetParams::default() };
        let tcp = TcpTarget::new(TransportId(0), 4096, params).unwrap_or_else(|error| panic!("{error}"));
        let target = Target::new();
        reactor.with(|context| {
            let local = context.local().clone();
            let service: Rc<RefCell<ReactorTarget>> =
                ReactorTarget::attach(&target, &local).unwrap_or_else(|error| panic!("{error}"));
            let poller = TargetPoller::new(&service);
            let driver =
                TcpTargetPoller::new(&tcp, &local, service).unwrap_or_else(|error| panic!("{error}"));
            let added = context
                .add_poller(Box::new(poller))
                .and_then(|_| context.add_poller(Box::new(driver)))
                .and_then(|_| context.add_poller(Box::new(Acceptor::new(&tcp))));
            assert!(added.is_ok());
        });
        let listeners = Arc::new(TcpListeners(Arc::clone(&tcp)));
        let address = set_up(&mut reactor, &target, options, listeners, make);
        Self { reactor, tcp, address, clock: Clock::new() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The TCP transport, for its counters.
    pub fn tcp(&self) -> &TcpTarget {
        &self.tcp
    }

    /// One turn of the target's reactor. A function of its own in every build: callgrind is told to count inside it.
    #[inline(never)]
    pub fn turn(&mut self) {
        self.reactor.turn();
    }

    fn now(&self) -> Now {
        Now(self.clock.now().as_nanos())
    }

    /// Connects a host whose I/O queue takes `depth` commands at a time; `digests` of header and data both or none.
    ///
    /// # Panics
    /// When it does not connect.
    pub fn connect(&mut self, depth: u16, digests: bool) -> HostLane {
        let config = host_config(self.address, depth, digests);
        let mut received = vec![0; RECEIVE_BYTES].into_boxed_slice();
        let mut admin =
            AdminQueue::connect(&config, self.now()).unwrap_or_else(|error| panic!("connect: {error}"));
        for _ in 0..CONNECT_TURNS {
            if admin.controller().is_some() {
                break;
            }
            self.turn();
            admin.poll(&mut received, self.now());
            assert!(admin.error().is_none(), "bring-up: {:?}", admin.error());
        }
        let controller = admin.controller().unwrap_or_else(|| panic!("the controller does not come up"));
        let pool = PoolConfig { small_slots: 2 * u32::from(depth) + 8, large_slots: 2, prefault: true };
        let pool = DmaPool::new(pool).unwrap_or_else(|error| panic!("{error}"));
        let buffer = |bytes: &[u8]| filled(&pool, bytes);
        let connecting = QueueConnect::start(&config, controller, QueueId(1), buffer, self.now());
        let queue = self.finish_connect(connecting.unwrap_or_else(|error| panic!("{error}")), &mut received);
        let buffers: Vec<Data> = (0..depth).map_while(|_| pool.alloc_io(IO_BYTES).map(Data)).collect();
        assert_eq!(buffers.len(), usize::from(depth));
        let ended = Ended { buffers, ..Ended::default() };
        HostLane { _admin: admin, queue, ended, received, next_lba: 0, blocks: BLOCKS, step: 1 }
    }

    fn finish_connect(&mut self, mut connect: QueueConnect<Data>, received: &mut [u8]) -> HostQueue<Data> {
        for _ in 0..CONNECT_TURNS {
            self.turn();
            match connect.poll(received, self.now()) {
                Ok(Connecting::Ready(queue)) => return queue,
                Ok(Connecting::Pending(pending)) => connect = pending,
                Err(error) => panic!("I/O queue: {error}"),
            }
        }
        panic!("the I/O queue does not come up")
    }

    /// Runs `count` commands of one kind, as many at a time as the queue takes.
    ///
    /// # Panics
    /// When one fails, or nothing moves any more.
    pub fn run(&mut self, lane: &mut HostLane, kind: Kind, count: u64) {
        let goal = lane.ended.completed + count;
        let mut left = count;
        let mut still = 0;
        while lane.ended.completed < goal {
            left = lane.send(kind, left, self.now());
            self.turn();
            still = if lane.receive(self.now()) { 0 } else { still + 1 };
            assert!(still < STUCK_TURNS, "{} commands do not end", lane.queue.in_flight());
            assert!(lane.queue.error().is_none(), "{:?}", lane.queue.error());
        }
        assert_eq!(lane.ended.failed, 0);
    }
}

impl HostLane {
    /// Submits what there are buffers for, and sends it; how many of `left` are left. Counted as [`Loopback::turn`] is.
    #[inline(never)]
    fn send(&mut self, kind: Kind, left: u64, now: Now) -> u64 {
        let left = self.refill(kind, left, now);
        self.queue.flush(&mut self.ended);
        left
    }

    /// Receives what has come; whether a command ended. Counted as [`Loopback::turn`] is.
    #[inline(never)]
    fn receive(&mut self, now: Now) -> bool {
        let before = self.ended.completed;
        self.queue.receive(&mut self.received, now, &mut self.ended);
        self.ended.completed > before
    }

    /// Submits while there are buffers; how many of `left` are left.
    fn refill(&mut self, kind: Kind, mut left: u64, now: Now) -> u64 {
        while left > 0 {
            let Some(buffer) = self.ended.buffers.pop() else { break };
            let sqe = kind.command(Lba(self.next_lba));
            self.next_lba = (self.next_lba + self.step) % self.blocks;
            if self.queue.submit(sqe, kind.data(Some(buffer)), 0, now).is_err() {
                panic!("a queue refuses fewer commands than it was made for");
            }
            left -= 1;
        }
        left
    }

    /// From now on the load goes over this many blocks, every `step`th after the other; all of them, when the two have no
    /// common factor. Without it, one after the other over [`BLOCKS`].
    pub fn spread(&mut self, blocks: u64, step: u64) {
        (self.blocks, self.step) = (blocks, step);
    }

    /// The queue, for its counters.
    pub fn queue(&self) -> &HostQueue<Data> {
        &self.queue
    }
}

/// What a host of this rig asks for: `depth` commands outstanding. No keep-alive: nobody looks after the admin queue while
/// a load runs, which takes as long as whoever counts makes it take.
fn host_config(address: SocketAddr, depth: u16, digests: bool) -> HostConfig {
    let id = Uuid::new_v4();
    let hostnqn = Nqn::from_uuid(*id.as_bytes());
    let mut config = HostConfig::new(address, hostnqn, HostId(*id.as_bytes()), subsystem());
    config.bringup.kato_ms = 0;
    config.io_entries = depth + 1;
    config.header_digest = digests;
    config.data_digest = digests;
    config
}

/// A buffer of the pool that holds `bytes`.
fn filled(pool: &DmaPool, bytes: &[u8]) -> Option<Data> {
    let mut buffer = pool.alloc_io(bytes.len())?;
    buffer.copy_in(0, bytes);
    Some(Data(buffer))
}

/// Transport, subsystem, namespace, listener. Control calls wait for the reactor, so they run beside it.
fn set_up(
    reactor: &mut LocalReactor,
    target: &Target,
    options: TransportOptions,
    listeners: Arc<dyn Listeners>,
    make: impl FnOnce(ReactorHandle) -> Arc<dyn Device> + Send,
) -> SocketAddr {
    let handle = reactor.handle();
    let calls = move || {
        let device = make(handle);
        let nqn = subsystem();
        let address =
            ListenAddress { transport: TransportKind::Tcp, socket: SocketAddr::from(([127, 0, 0, 1], 0)) };
        target.create_transport(TransportKind::Tcp, options, listeners)?;
        target.create_subsystem(SubsystemOptions { allow_any_host: true, ..SubsystemOptions::new(nqn) })?;
        target.add_namespace(&nqn, NamespaceOptions::new(device))?;
        target.add_listener(&nqn, address)
    };
    std::thread::scope(|scope| {
        let caller = scope.spawn(calls);
        while !caller.is_finished() {
            reactor.turn();
            std::thread::yield_now();
        }
        let bound = caller.join().unwrap_or_else(|_| panic!("a control call panicked"));
        bound.unwrap_or_else(|error| panic!("{error}")).socket
    })
}
