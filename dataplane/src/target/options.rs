//! What the control API takes and gives: plain values, no behaviour beyond validation of their own ranges.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use nvme::{ControllerId, HostId, Nqn, Nsid, QueueId};
use transport::{ListenerId, TransportKind};
use uuid::Uuid;

use super::limits::NAMESPACES_DEFAULT;
use super::stats::{IoCounters, LatencyHistogram};
use crate::device::{Device, Limits};

/// State of one path to an ANA group (base 2.1 §8.1.1.4); the value is the one the ANA log page carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum AnaState {
    /// Best path.
    #[default]
    Optimized = 1,
    /// Works, with less performance.
    NonOptimized = 2,
    /// Commands fail; another path works.
    Inaccessible = 3,
    /// As inaccessible, for good.
    PersistentLoss = 4,
    /// Between two states; commands fail and are retried.
    Change = 15,
}

impl AnaState {
    /// The state of this value in the ANA log page.
    pub const fn from_wire(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Optimized,
            2 => Self::NonOptimized,
            3 => Self::Inaccessible,
            4 => Self::PersistentLoss,
            15 => Self::Change,
            _ => return None,
        })
    }

    /// The name that the control protocol uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non_optimized",
            Self::Inaccessible => "inaccessible",
            Self::PersistentLoss => "persistent_loss",
            Self::Change => "change",
        }
    }
}

/// Limits of a transport and of the queues on it. Sizes are bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransportOptions {
    /// Entries of an I/O queue at most: 2–65536 (MQES + 1).
    pub queue_depth_max: u32,
    /// Entries of an admin queue at most: 32–4096.
    pub admin_queue_depth_max: u32,
    /// I/O queues of one controller: 1–64 are granted, more are cut to 64.
    pub io_queues_per_controller_max: u16,
    /// In-capsule data of an I/O queue: a multiple of 16 up to 64 KiB.
    pub in_capsule_data_bytes: u32,
    /// Data of one command: a power of two times 4 KiB, up to 2 MiB (MDTS).
    pub io_bytes_max: u32,
    /// Size of an I/O unit of the buffer pool; accepted for compatibility.
    pub io_unit_bytes: u32,
    /// Shared buffers; accepted for compatibility, the reactors' pools are sized when the process starts.
    pub shared_buffers: u32,
    /// Whether read data may end with the SUCCESS flag instead of a response.
    pub c2h_success: bool,
    /// Seconds an Abort waits for its command; accepted for compatibility.
    pub abort_timeout_s: u32,
    /// Asynchronous acceptance of connections, in microseconds between looks; accepted for compatibility.
    pub acceptor_poll_us: u32,
    /// Over RDMA: receives that the connections of a device share on each reactor, at most; 0: each has its own.
    pub shared_receives_max: u32,
}

/// Receives that connections over RDMA share unless told otherwise: those of 32 queues of 128.
const SHARED_RECEIVES_MAX: u32 = 4096;

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            queue_depth_max: 128,
            admin_queue_depth_max: 128,
            io_queues_per_controller_max: 64,
            in_capsule_data_bytes: 8192,
            io_bytes_max: 131_072,
            io_unit_bytes: 131_072,
            shared_buffers: 511,
            c2h_success: true,
            abort_timeout_s: 1,
            acceptor_poll_us: 10_000,
            shared_receives_max: SHARED_RECEIVES_MAX,
        }
    }
}

/// A transport that exists.
#[derive(Clone, Debug)]
pub struct TransportInfo {
    /// What it is.
    pub kind: TransportKind,
    /// Its limits.
    pub options: TransportOptions,
}

/// Opens and closes listening addresses of one transport. Called on the thread of the control call.
pub trait Listeners: Send + Sync {
    /// Starts to accept connections; port 0 takes a free one.
    ///
    /// # Errors
    /// Why the address cannot be listened on.
    fn open(&self, address: SocketAddr) -> std::io::Result<BoundListener>;
    /// Stops accepting; connections that were accepted stay.
    fn close(&self, listener: ListenerId);
    /// Whether hosts can reach it: what is under it may be gone, until it returns.
    fn is_listening(&self, _listener: ListenerId) -> bool {
        true
    }
}

/// An address that is listened on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BoundListener {
    /// How connections name it ([`transport::Peer::listener`]).
    pub id: ListenerId,
    /// The address with the port that was bound.
    pub address: SocketAddr,
}

/// Where a subsystem, or another discovery service, is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenAddress {
    /// What carries it.
    pub transport: TransportKind,
    /// IP address and port.
    pub socket: SocketAddr,
}

impl ListenAddress {
    /// Transport address as the discovery log page has it: the IP address as text.
    pub fn traddr(&self) -> String {
        self.socket.ip().to_string()
    }

    /// Transport service identifier: the port as text.
    pub fn trsvcid(&self) -> String {
        self.socket.port().to_string()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.transport, self.socket)
    }
}

/// What kind of subsystem it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SubsystemKind {
    /// Namespaces.
    #[default]
    Nvm,
    /// The discovery service; there is exactly one, made with the target.
    Discovery,
}

/// How a subsystem is made.
#[derive(Clone, Debug)]
pub struct SubsystemOptions {
    /// Its name.
    pub nqn: Nqn,
    /// Serial number: 1–20 printable ASCII characters.
    pub serial: String,
    /// Model number: 1–40 printable ASCII characters.
    pub model: String,
    /// Whether hosts that are not on the allow-list may connect.
    pub allow_any_host: bool,
    /// Lowest controller identifier given out, at least 1.
    pub controller_id_min: u16,
    /// Highest controller identifier given out, at most FFEFh.
    pub controller_id_max: u16,
    /// Whether ANA states are reported.
    pub ana_reporting: bool,
    /// Largest NSID.
    pub namespaces_max: u32,
    /// Leave it out of the discovery log page.
    pub hidden: bool,
}

impl SubsystemOptions {
    /// A subsystem of this name with the defaults of every option.
    pub fn new(nqn: Nqn) -> Self {
        Self {
            nqn,
            serial: "00000000000000000000".into(),
            model: "Pollux NVMe-oF controller".into(),
            allow_any_host: false,
            controller_id_min: 1,
            controller_id_max: 0xFFEF,
            ana_reporting: false,
            namespaces_max: NAMESPACES_DEFAULT,
            hidden: false,
        }
    }
}

/// How a namespace is added.
#[derive(Clone)]
pub struct NamespaceOptions {
    /// What holds its blocks.
    pub device: Arc<dyn Device>,
    /// Identifier, or the lowest free one.
    pub nsid: Option<Nsid>,
    /// UUID; the device's when not given.
    pub uuid: Option<Uuid>,
    /// NGUID; derived from the UUID when not given.
    pub nguid: Option<[u8; 16]>,
    /// EUI-64, or none.
    pub eui64: Option<[u8; 8]>,
    /// ANA group; the NSID when not given.
    pub ana_group: Option<u32>,
    /// What hosts may take of it.
    pub limits: Arc<Limits>,
}

impl NamespaceOptions {
    /// This device, with everything else chosen by the target.
    pub fn new(device: Arc<dyn Device>) -> Self {
        let limits = Arc::default();
        Self { device, nsid: None, uuid: None, nguid: None, eui64: None, ana_group: None, limits }
    }
}

impl fmt::Debug for NamespaceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamespaceOptions")
            .field("nsid", &self.nsid)
            .field("uuid", &self.uuid)
            .field("ana_group", &self.ana_group)
            .finish_non_exhaustive()
    }
}

/// A namespace that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceInfo {
    /// Its identifier.
    pub nsid: Nsid,
    /// Name of its device.
    pub device: String,
    /// UUID.
    pub uuid: Uuid,
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI-64 if it has one.
    pub eui64: Option<[u8; 8]>,
    /// ANA group.
    pub ana_group: u32,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Logical blocks.
    pub blocks: u64,
}

/// A listener of a subsystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerInfo {
    /// Where.
    pub address: ListenAddress,
    /// State of each ANA group, group 1 first; empty on the discovery subsystem.
    pub ana_states: Vec<AnaState>,
    /// Whether hosts can reach it; else its device or address is gone, until it returns.
    pub listening: bool,
}

/// A subsystem that exists.
#[derive(Clone, Debug)]
pub struct SubsystemInfo {
    /// What it is.
    pub kind: SubsystemKind,
    /// How it was made, with what was changed since.
    pub options: SubsystemOptions,
    /// Hosts that may connect.
    pub hosts: Vec<Nqn>,
    /// Its namespaces, by NSID.
    pub namespaces: Vec<NamespaceInfo>,
    /// Where it listens.
    pub listeners: Vec<ListenerInfo>,
}

/// Another discovery service that the discovery log page refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Referral {
    /// Where it listens.
    pub address: ListenAddress,
    /// Its name; the well-known one unless said otherwise.
    pub nqn: Nqn,
    /// Whether it asks for a secure channel.
    pub secure_channel: bool,
}

/// A controller: one association of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControllerInfo {
    /// Identifier within its subsystem.
    pub id: ControllerId,
    /// Host NQN.
    pub host: Nqn,
    /// Host identifier.
    pub host_id: HostId,
    /// I/O queues connected now.
    pub io_queues: u16,
    /// Listener through which the admin queue came.
    pub listener: ListenAddress,
    /// Keep-alive time-out in milliseconds, 0 when off.
    pub keep_alive_ms: u32,
}

/// A queue pair: one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueInfo {
    /// Controller it belongs to.
    pub controller: ControllerId,
    /// 0 is the admin queue.
    pub id: QueueId,
    /// Host NQN.
    pub host: Nqn,
    /// Index of the reactor that serves it.
    pub reactor: usize,
    /// Entries of the submission queue.
    pub depth: u16,
    /// What carries it.
    pub transport: TransportKind,
    /// Our address.
    pub local: SocketAddr,
    /// The host's address.
    pub remote: SocketAddr,
}

/// What one reactor serves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReactorStats {
    /// Index of the reactor.
    pub reactor: usize,
    /// Admin queues connected now.
    pub admin_queues: u64,
    /// I/O queues connected now.
    pub io_queues: u64,
    /// Admin queues ever connected.
    pub admin_queues_total: u64,
    /// I/O queues ever connected.
    pub io_queues_total: u64,
    /// Commands that wait for a device now.
    pub device_io_pending: u64,
    /// I/O commands completed.
    pub io_commands_total: u64,
}

/// What one namespace did, over all reactors.
#[derive(Clone, Debug)]
pub struct NamespaceStats {
    /// Its subsystem.
    pub subsystem: Nqn,
    /// Its identifier.
    pub nsid: Nsid,
    /// Name of its device.
    pub device: String,
    /// Commands, bytes, errors.
    pub counters: IoCounters,
    /// Latency of reads, from command to completion.
    pub read_latency: LatencyHistogram,
    /// Latency of writes.
    pub write_latency: LatencyHistogram,
}

/// What the target did.
#[derive(Clone, Debug, Default)]
pub struct TargetStats {
    /// Per reactor.
    pub reactors: Vec<ReactorStats>,
    /// Per namespace.
    pub namespaces: Vec<NamespaceStats>,
}
