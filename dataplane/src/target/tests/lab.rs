//! A target with reactors and hosts, all in one thread.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use fabrics::{CommandId, Completion, Execution, Now};
use nvme::fabrics::{ConnectCommand, ConnectData, ConnectResult, PropertySet, PropertySize, cattr};
use nvme::properties::{Cc, offset};
use nvme::{ControllerId, HostId, Nqn, Nsid, QueueId, SglDescriptor, Sqe, Status, U16, U32};
use reactors::{IoBuf, LocalReactor, PoolConfig, ReactorsConfig};
use transport::{CloseReason, ConnId, Effect, ListenerId, Peer, TargetService, TransportId, TransportKind};
use uuid::Uuid;

use crate::device::memory::MemoryDevice;
use crate::device::{
    BlockSize, Device, DeviceCounters, DeviceError, DeviceInfo, Done, Io, Queue, QueueContext, Submission,
};
use crate::target::{
    BoundListener, ListenAddress, Listeners, NamespaceOptions, QueueState, ReactorTarget, SubsystemOptions,
    Target, TransportOptions,
};

pub(super) const BLOCK: usize = 512;
pub(super) const BLOCKS: u64 = 4096;
const TCP: TransportId = TransportId(0);

pub(super) fn nqn(text: &str) -> Nqn {
    Nqn::new(text).unwrap()
}

pub(super) fn subsystem() -> Nqn {
    nqn("nqn.2026-01.org.example:sub")
}

pub(super) fn host(number: u8) -> Nqn {
    nqn(&format!("nqn.2026-01.org.example:host{number}"))
}

pub(super) fn address(port: u16) -> ListenAddress {
    ListenAddress { transport: TransportKind::Tcp, socket: SocketAddr::from(([127, 0, 0, 1], port)) }
}

/// Listens on nothing: the identifier of a listener is its port.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) open: Mutex<Vec<SocketAddr>>,
    /// Those that hosts cannot reach.
    pub(super) lost: Mutex<Vec<ListenerId>>,
}

impl Listeners for Sockets {
    fn open(&self, address: SocketAddr) -> std::io::Result<BoundListener> {
        if address.port() == 1 {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        self.open.lock().unwrap().push(address);
        Ok(BoundListener { id: ListenerId(u32::from(address.port())), address })
    }

    fn close(&self, listener: ListenerId) {
        self.open.lock().unwrap().retain(|address| u32::from(address.port()) != listener.0);
    }

    fn is_listening(&self, listener: ListenerId) -> bool {
        !self.lost.lock().unwrap().contains(&listener)
    }
}

pub(super) fn memory(name: &str) -> Arc<dyn Device> {
    Arc::new(MemoryDevice::new(name, BlockSize::B512, BLOCKS, Uuid::new_v4()).unwrap())
}

/// A connection.
pub(super) struct Link {
    pub(super) conn: ConnId,
    pub(super) reactor: usize,
    queue: Option<QueueState>,
}

struct ReactorBench {
    service: Rc<RefCell<ReactorTarget>>,
    completed: HashMap<(ConnId, u32), Completion<IoBuf>>,
    closed: VecDeque<ConnId>,
    _reactor: LocalReactor,
}

/// The target under test.
pub(super) struct Lab {
    pub(super) target: Arc<Target>,
    pub(super) sockets: Arc<Sockets>,
    reactors: Vec<ReactorBench>,
    pub(super) now: Now,
    connections: u32,
    commands: u32,
}

/// A host with one controller: its admin queue and one I/O queue.
pub(super) struct Host {
    pub(super) admin: Link,
    pub(super) io: Link,
    pub(super) cntlid: ControllerId,
}

/// How a host connects.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) subnqn: Nqn,
    pub(super) hostnqn: Nqn,
    pub(super) hostid: HostId,
    pub(super) cntlid: ControllerId,
    pub(super) qid: u16,
    pub(super) sqsize: u16,
    pub(super) kato: u32,
    pub(super) recfmt: u16,
    pub(super) port: u16,
    pub(super) reactor: usize,
}

impl Dial {
    pub(super) fn admin(number: u8) -> Self {
        Self {
            subnqn: subsystem(),
            hostnqn: host(number),
            hostid: HostId([number; 16]),
            cntlid: ControllerId::DYNAMIC,
            qid: 0,
            sqsize: 31,
            kato: 0,
            recfmt: 0,
            port: 4420,
            reactor: 0,
        }
    }

    pub(super) fn io(number: u8, cntlid: ControllerId, qid: u16) -> Self {
        Self { cntlid, qid, sqsize: 127, ..Self::admin(number) }
    }

    pub(super) fn discovery(number: u8) -> Self {
        Self { subnqn: Nqn::discovery(), ..Self::admin(number) }
    }
}

impl Lab {
    /// A target with `reactors` reactors, a transport, and nothing else.
    pub(super) fn bare(reactors: usize) -> Self {
        let target = Target::new();
        let sockets = Arc::new(Sockets::default());
        let buffers = PoolConfig { small_slots: 64, large_slots: 16, prefault: false };
        let bench = |index: usize| {
            let config = ReactorsConfig { buffers, ..ReactorsConfig::default() };
            let mut reactor = LocalReactor::new(&config).unwrap();
            let service =
                reactor.with(|context| ReactorTarget::attach_as(index, &target, context.local()).unwrap());
            let (completed, closed) = (HashMap::new(), VecDeque::new());
            ReactorBench { service, completed, closed, _reactor: reactor }
        };
        let reactors = (0..reactors).map(bench).collect();
        let mut lab = Self {
            target: Arc::clone(&target),
            sockets: Arc::clone(&sockets),
            reactors,
            now: Now(1),
            connections: 0,
            commands: 0,
        };
        lab.control(move |target| {
            target.create_transport(TransportKind::Tcp, TransportOptions::default(), sockets).unwrap();
        });
        lab
    }

    /// A target with one subsystem that any host may use, namespace 1 on a memory device, and a listener on 4420.
    pub(super) fn new(reactors: usize) -> Self {
        Self::with_device(reactors, memory("m0"))
    }

    pub(super) fn with_device(reactors: usize, device: Arc<dyn Device>) -> Self {
        let mut lab = Self::bare(reactors);
        lab.control(|target| {
            let options = SubsystemOptions {
                allow_any_host: true,
                ana_reporting: true,
                ..SubsystemOptions::new(subsystem())
            };
            target.create_subsystem(options).unwrap();
            target.add_listener(&subsystem(), address(4420)).unwrap();
            assert_eq!(target.add_namespace(&subsystem(), NamespaceOptions::new(device)).unwrap(), Nsid(1));
        });
        lab
    }

    /// Runs a control call beside the reactors, which turn until it returns.
    pub(super) fn control<R: Send>(&mut self, call: impl FnOnce(&Target) -> R + Send) -> R {
        let target = Arc::clone(&self.target);
        std::thread::scope(|scope| {
            let caller = scope.spawn(move || call(&target));
            while !caller.is_finished() {
                self.turn();
                std::thread::yield_now();
            }
            self.settle();
            caller.join().unwrap()
        })
    }

    /// One turn of every reactor.
    pub(super) fn turn(&mut self) {
        for index in 0..self.reactors.len() {
            self.turn_reactor(index);
        }
    }

    pub(super) fn turn_reactor(&mut self, index: usize) {
        let now = self.now;
        let bench = &mut self.reactors[index];
        let ReactorBench { service, completed, closed, .. } = bench;
        service.borrow_mut().tick(now);
        service.borrow_mut().poll(TCP, now, &mut |effect| match effect {
            Effect::Complete(conn, id, completion) => {
                let twice = completed.insert((conn, id.to_bits()), completion);
                assert!(twice.is_none());
            }
            Effect::Close(conn, _) => closed.push_back(conn),
        });
    }

    /// Turns until messages between the reactors have had their effects: each round trip takes two turns.
    pub(super) fn settle(&mut self) {
        for _ in 0..8 {
            self.turn();
        }
    }

    pub(super) fn advance(&mut self, ns: u64) {
        self.now = self.now.after_ns(ns);
        self.settle();
    }

    /// Opens a connection.
    pub(super) fn open(&mut self, reactor: usize, port: u16) -> Link {
        self.connections += 1;
        let conn = ConnId { transport: TCP, index: self.connections, generation: 1 };
        let remote_port = u16::try_from(40_000 + self.connections).unwrap();
        let peer = Peer {
            transport: TransportKind::Tcp,
            listener: ListenerId(u32::from(port)),
            local: SocketAddr::from(([127, 0, 0, 1], port)),
            remote: SocketAddr::from(([127, 0, 0, 1], remote_port)),
        };
        let queue = self.reactors[reactor].service.borrow_mut().open(conn, &peer);
        Link { conn, reactor, queue: Some(queue) }
    }

    /// Closes a connection, as its driver does.
    pub(super) fn close(&mut self, mut link: Link) {
        let queue = link.queue.take().unwrap();
        let service = &self.reactors[link.reactor].service;
        service.borrow_mut().closed(link.conn, queue, CloseReason::PeerClosed);
        self.settle();
    }

    /// Whether the target asked for the end of this connection.
    pub(super) fn is_closed(&self, link: &Link) -> bool {
        self.reactors[link.reactor].closed.contains(&link.conn)
    }

    pub(super) fn buffer(&self, reactor: usize, bytes: &[u8]) -> IoBuf {
        let mut buffer = self.reactors[reactor].service.borrow_mut().allocate(bytes.len()).unwrap();
        buffer.copy_in(0, bytes);
        buffer
    }

    /// Hands a command over; its number for [`Self::finish`].
    pub(super) fn start(&mut self, link: &mut Link, sqe: Sqe, data: Option<&[u8]>) -> u32 {
        let data = data.map(|bytes| self.buffer(link.reactor, bytes));
        self.commands += 1;
        let id = self.commands;
        let bench = &mut self.reactors[link.reactor];
        let queue = link.queue.as_mut().unwrap();
        let execution = bench.service.borrow_mut().execute(
            link.conn,
            queue,
            CommandId::from_bits(id),
            &sqe,
            data,
            self.now,
        );
        if let Execution::Done(completion) = execution {
            bench.completed.insert((link.conn, id), completion);
        }
        id
    }

    /// The completion of a command, if it has one.
    pub(super) fn completed(&mut self, link: &Link, id: u32) -> Option<Completion<IoBuf>> {
        self.reactors[link.reactor].completed.remove(&(link.conn, id))
    }

    pub(super) fn finish(&mut self, link: &Link, id: u32) -> Completion<IoBuf> {
        self.settle();
        self.completed(link, id).expect("the command is still pending")
    }

    /// Runs a command to its end.
    pub(super) fn run(&mut self, link: &mut Link, sqe: Sqe, data: Option<&[u8]>) -> Completion<IoBuf> {
        let id = self.start(link, sqe, data);
        self.finish(link, id)
    }

    pub(super) fn status(&mut self, link: &mut Link, sqe: Sqe, data: Option<&[u8]>) -> Status {
        self.run(link, sqe, data).status
    }

    /// Runs a command that returns `bytes` bytes.
    pub(super) fn fetch(&mut self, link: &mut Link, sqe: Sqe, bytes: u32) -> Result<Vec<u8>, Status> {
        let sqe = sqe.with_sgl(SglDescriptor::Transport { length: bytes });
        let completion = self.run(link, sqe, None);
        if !completion.status.is_success() {
            return Err(completion.status);
        }
        let data = completion.data.expect("a success without data");
        let mut found = vec![0; data.len()];
        data.copy_out(0, &mut found);
        Ok(found)
    }

    /// Sends a Connect on a new connection.
    pub(super) fn dial(&mut self, dial: &Dial) -> (Link, Completion<IoBuf>) {
        let mut link = self.open(dial.reactor, dial.port);
        let completion = self.dial_on(&mut link, dial);
        (link, completion)
    }

    pub(super) fn dial_on(&mut self, link: &mut Link, dial: &Dial) -> Completion<IoBuf> {
        let command = ConnectCommand {
            recfmt: U16::new(dial.recfmt),
            qid: U16::new(dial.qid),
            sqsize: U16::new(dial.sqsize),
            kato: U32::new(dial.kato),
            cattr: cattr::DISABLE_SQ_FLOW_CONTROL,
            ..ConnectCommand::new(1)
        };
        let data = ConnectData::new(dial.hostid, dial.cntlid, &dial.subnqn, &dial.hostnqn);
        self.run(link, command.to_sqe(), Some(nvme::zerocopy::IntoBytes::as_bytes(&data)))
    }

    pub(super) fn set_cc(&mut self, link: &mut Link, cc: Cc) -> Status {
        let sqe = PropertySet::at(2, PropertySize::Four, offset::CC, u64::from(cc.0)).to_sqe();
        self.status(link, sqe, None)
    }

    /// An admin queue with its controller enabled.
    pub(super) fn controller(&mut self, dial: &Dial) -> (Link, ControllerId) {
        let (mut link, connected) = self.dial(dial);
        assert_eq!(connected.status, Status::SUCCESS);
        let cntlid = ConnectResult::from_result(connected.result).cntlid;
        assert_eq!(self.set_cc(&mut link, Cc::ENABLE_NVM), Status::SUCCESS);
        (link, cntlid)
    }

    /// A host with its I/O queue on this reactor.
    pub(super) fn host_on(&mut self, number: u8, admin_reactor: usize, io_reactor: usize) -> Host {
        let (admin, cntlid) = self.controller(&Dial { reactor: admin_reactor, ..Dial::admin(number) });
        let dial = Dial { reactor: io_reactor, ..Dial::io(number, cntlid, 1) };
        let (io, connected) = self.dial(&dial);
        assert_eq!(connected.status, Status::SUCCESS);
        Host { admin, io, cntlid }
    }

    pub(super) fn host(&mut self, number: u8) -> Host {
        self.host_on(number, 0, 0)
    }

    pub(super) fn queue_id(link: &Link) -> Option<QueueId> {
        match &link.queue.as_ref()?.role {
            crate::target::queue::Role::Io(io) => Some(io.id),
            _ => None,
        }
    }
}

/// A device whose I/O stays where it is until released. Reads and writes go to memory then.
pub(super) struct HeldDevice {
    memory: MemoryDevice,
    gate: Arc<Gate>,
}

/// Lets the I/O of a [`HeldDevice`] pass, or holds it.
#[derive(Default)]
pub(super) struct Gate {
    pub(super) open: AtomicBool,
    /// I/Os that a queue holds at most; 0 is no limit.
    pub(super) room: AtomicU32,
    /// I/Os submitted so far.
    pub(super) submitted: AtomicU32,
}

impl HeldDevice {
    pub(super) fn create(name: &str) -> (Arc<dyn Device>, Arc<Gate>) {
        let memory = MemoryDevice::new(name, BlockSize::B512, BLOCKS, Uuid::new_v4()).unwrap();
        let gate = Arc::new(Gate::default());
        (Arc::new(Self { memory, gate: Arc::clone(&gate) }), gate)
    }
}

impl Device for HeldDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { write_cache: true, ..self.memory.info() }
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        let inner = self.memory.open_queue(context)?;
        Ok(Box::new(HeldQueue { inner, gate: Arc::clone(&self.gate), held: VecDeque::new() }))
    }

    fn counters(&self) -> DeviceCounters {
        self.memory.counters()
    }
}

struct HeldQueue {
    inner: Box<dyn Queue>,
    gate: Arc<Gate>,
    held: VecDeque<Io>,
}

impl Queue for HeldQueue {
    fn submit(&mut self, io: Io) -> Submission {
        let room = self.gate.room.load(Ordering::Relaxed) as usize;
        if room > 0 && self.held.len() >= room {
            return Submission::Busy(io);
        }
        self.gate.submitted.fetch_add(1, Ordering::Relaxed);
        self.held.push_back(io);
        Submission::Queued
    }

    fn kick(&mut self) {}

    fn poll(&mut self, done: &mut Done) {
        while self.gate.open.load(Ordering::Relaxed) && !done.is_full() {
            let Some(io) = self.held.pop_front() else { return };
            match self.inner.submit(io) {
                Submission::Done(finished) => done.push(finished),
                Submission::Queued | Submission::Busy(_) => unreachable!("memory finishes at once"),
            }
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn before_sleep(&mut self) -> bool {
        self.held.is_empty()
    }

    fn in_flight(&self) -> usize {
        self.held.len()
    }
}

/// A device that does not open.
pub(super) struct BrokenDevice(MemoryDevice);

impl BrokenDevice {
    pub(super) fn create(name: &str) -> Arc<dyn Device> {
        Arc::new(Self(MemoryDevice::new(name, BlockSize::B512, BLOCKS, Uuid::new_v4()).unwrap()))
    }
}

impl Device for BrokenDevice {
    fn info(&self) -> DeviceInfo {
        self.0.info()
    }

    fn open_queue(&self, _: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        Err(DeviceError::Empty { name: "broken".into() })
    }

    fn counters(&self) -> DeviceCounters {
        self.0.counters()
    }
}
