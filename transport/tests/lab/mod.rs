//! A target and its hosts in one thread: every turn of either is explicit, so a test waits for conditions, never for time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabrics::Now;
use fabrics::tcp::host::{HostData, HostParams, HostSink};
use fabrics::tcp::target::TargetParams;
use nvme::fabrics::{ConnectCommand, ConnectData, cattr};
use nvme::nvm::ReadWrite;
use nvme::{ControllerId, Cqe, HostId, Lba, Nqn, Nsid, Sqe, Status};
use reactors::{LocalReactor, PoolConfig, ReactorsConfig};
use transport::tcp::host::HostQueue;
use transport::tcp::target::{Acceptor, ConnectionStats, TcpTarget, TcpTargetPoller};
use transport::{ListenerId, TransportId};
use zerocopy::IntoBytes;

use crate::ram::{BLOCK, Mode, RamService, Seen};

/// Bytes of the namespace.
pub(crate) const NAMESPACE: usize = 16 << 20;
/// A condition that does not come true in this time never does, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Options {
    pub(crate) params: TargetParams,
    pub(crate) mode: Mode,
    pub(crate) buffers: PoolConfig,
    pub(crate) connections_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            params: TargetParams::default(),
            mode: Mode::Inline,
            buffers: PoolConfig::default(),
            connections_max: 256,
        }
    }
}

/// A target with one driver, listening on a port of its own.
pub(crate) struct Lab {
    pub(crate) reactor: LocalReactor,
    pub(crate) target: Arc<TcpTarget>,
    pub(crate) seen: Rc<Seen>,
    pub(crate) listener: ListenerId,
    pub(crate) address: SocketAddr,
}

impl Lab {
    pub(crate) fn new(options: Options) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), options)
    }

    /// One that listens here.
    pub(crate) fn at(address: SocketAddr, options: Options) -> Self {
        let config = ReactorsConfig { buffers: options.buffers, ..ReactorsConfig::default() };
        let mut reactor = LocalReactor::new(&config).unwrap();
        let target = TcpTarget::new(TransportId(3), options.connections_max, options.params).unwrap();
        let seen = add_driver(&mut reactor, &target, options.mode);
        reactor.with(|context| context.add_poller(Box::new(Acceptor::new(&target))).unwrap());
        let (listener, address) = target.listen(address).unwrap();
        Self { reactor, target, seen, listener, address }
    }

    /// The time of the target's and the hosts' machines.
    pub(crate) fn now(&mut self) -> Now {
        Now(self.reactor.with(|context| context.local().clock().now().as_nanos()))
    }

    /// Turns the target until `done`.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "it never happens that {what}");
            self.reactor.turn();
        }
    }

    /// A connected I/O queue of `depth` commands.
    pub(crate) fn host(&mut self, params: HostParams) -> Host {
        self.host_at(self.address, params)
    }

    pub(crate) fn host_at(&mut self, address: SocketAddr, params: HostParams) -> Host {
        let now = self.now();
        let queue = HostQueue::connect(address, None, params, PATIENCE, now).unwrap();
        let mut host = Host { queue, sink: Ended::default(), buffer: vec![0; 256 << 10], next_tag: 0 };
        self.until("the handshake ends", |lab| {
            host.turn(lab.now());
            host.queue.is_ready()
        });
        let connect = ConnectCommand {
            qid: 1.into(),
            sqsize: params.depth.into(),
            cattr: cattr::DISABLE_SQ_FLOW_CONTROL,
            ..ConnectCommand::new(0)
        };
        let name = Nqn::new("nqn.2026-01.org.example:ram").unwrap();
        let data = ConnectData::new(HostId([1; 16]), ControllerId(1), &name, &name);
        let data = HostData::ToController(data.as_bytes().to_vec());
        let tag = host.submit(connect.to_sqe(), data, self.now());
        assert_eq!(self.wait(&mut host, tag).0, Status::SUCCESS);
        host
    }

    /// Turns both until the command ended: its status and data.
    pub(crate) fn wait(&mut self, host: &mut Host, tag: u64) -> (Status, Option<Vec<u8>>) {
        self.until("the command completes", |lab| {
            host.turn(lab.now());
            assert!(host.queue.error().is_none(), "{:?}", host.queue.error());
            host.sink.done.contains_key(&tag)
        });
        host.sink.done.remove(&tag).unwrap()
    }

    pub(crate) fn write(&mut self, host: &mut Host, lba: u64, bytes: &[u8]) {
        let (sqe, data) = write(lba, bytes);
        let tag = host.submit(sqe, data, self.now());
        assert_eq!(self.wait(host, tag).0, Status::SUCCESS);
    }

    pub(crate) fn read(&mut self, host: &mut Host, lba: u64, len: usize) -> Vec<u8> {
        let (sqe, data) = read(lba, len);
        let tag = host.submit(sqe, data, self.now());
        let (status, data) = self.wait(host, tag);
        assert_eq!(status, Status::SUCCESS);
        data.unwrap()
    }

    /// A connection that speaks as the test makes it, after a valid handshake.
    pub(crate) fn raw(&mut self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut request = [0; 128];
        (request[2], request[4]) = (128, 128);
        stream.write_all(&request).unwrap();
        let before = self.seen.opened.get();
        self.until("the connection is accepted", |lab| lab.seen.opened.get() > before);
        stream.set_nonblocking(true).unwrap();
        let mut answer = [0; 128];
        self.until(
            "the handshake is answered",
            |_| matches!(stream.peek(&mut answer), Ok(count) if count == answer.len()),
        );
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        assert_eq!(answer[0], 1, "ICResp");
        stream
    }

    /// Every connection, as management sees it from a thread of its own.
    pub(crate) fn list(&mut self) -> Vec<ConnectionStats> {
        let target = Arc::clone(&self.target);
        let asking = std::thread::spawn(move || target.connection_stats());
        self.until("the driver answers", |_| asking.is_finished());
        asking.join().unwrap()
    }
}

/// A driver with a service of its own, as another reactor would have.
pub(crate) fn add_driver(reactor: &mut LocalReactor, target: &Arc<TcpTarget>, mode: Mode) -> Rc<Seen> {
    reactor.with(|context| {
        let local = context.local().clone();
        let service = RamService::new(local.pool().clone(), NAMESPACE, mode);
        let seen = Rc::clone(&service.seen);
        let driver = TcpTargetPoller::new(target, &local, Rc::new(RefCell::new(service))).unwrap();
        context.add_poller(Box::new(driver)).unwrap();
        seen
    })
}

/// How commands ended.
#[derive(Default)]
pub(crate) struct Ended {
    pub(crate) done: BTreeMap<u64, (Status, Option<Vec<u8>>)>,
    pub(crate) failed: Vec<u64>,
}

impl HostSink<Vec<u8>> for Ended {
    fn completed(&mut self, tag: u64, cqe: Cqe, data: Option<Vec<u8>>) {
        assert!(self.done.insert(tag, (cqe.status(), data)).is_none(), "completed twice");
    }

    fn failed(&mut self, tag: u64, _data: Option<Vec<u8>>) {
        self.failed.push(tag);
    }

    fn timed_out(&mut self, tag: u64, _cid: u16) {
        panic!("command {tag} takes too long");
    }
}

/// A host with one queue.
pub(crate) struct Host {
    pub(crate) queue: HostQueue<Vec<u8>>,
    pub(crate) sink: Ended,
    buffer: Vec<u8>,
    next_tag: u64,
}

impl Host {
    pub(crate) fn submit(&mut self, sqe: Sqe, data: HostData<Vec<u8>>, now: Now) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.queue.submit(sqe, data, tag, now).unwrap();
        tag
    }

    pub(crate) fn turn(&mut self, now: Now) {
        self.queue.receive(&mut self.buffer, now, &mut self.sink);
        self.queue.flush(&mut self.sink);
    }
}

fn blocks(len: usize) -> u32 {
    assert_eq!(len % BLOCK, 0);
    u32::try_from(len / BLOCK).unwrap()
}

pub(crate) fn write(lba: u64, bytes: &[u8]) -> (Sqe, HostData<Vec<u8>>) {
    let sqe = ReadWrite::write(Nsid(1), Lba(lba), blocks(bytes.len())).to_sqe(0);
    (sqe, HostData::ToController(bytes.to_vec()))
}

pub(crate) fn read(lba: u64, len: usize) -> (Sqe, HostData<Vec<u8>>) {
    let sqe = ReadWrite::read(Nsid(1), Lba(lba), blocks(len)).to_sqe(0);
    (sqe, HostData::FromController(vec![0; len]))
}

/// Bytes that differ everywhere and with every seed (xorshift).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
