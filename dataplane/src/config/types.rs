//! Every key of the configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use uuid::Uuid;

use super::name::NqnName;
use super::schema::{Described, Kind};
use super::size::ByteSize;
use crate::described;
use crate::described_words;
use crate::device::TimeoutAction;
use crate::logs::{LogFormat, LogLevel};

impl Described for SocketAddr {
    const KIND: Kind = Kind::Text;
}

impl Described for PathBuf {
    const KIND: Kind = Kind::Text;
}

/// Where the daemon answers JSON-RPC unless told otherwise.
pub const RPC_SOCKET: &str = "/var/run/pollux/dataplane.sock";

described_words! {
    /// What a reactor does when there is nothing to do.
    pub enum Idling {
        /// Poll for a while, then sleep in the kernel until something happens.
        Adaptive = "adaptive",
        /// Poll for ever: the lowest latency, a core always busy.
        Polling = "polling",
        /// Sleep at once.
        Interrupt = "interrupt",
    }
}

described_words! {
    /// What holds the blocks of a device.
    pub enum DeviceKind {
        /// A block device or file, through io_uring.
        Uring = "uring",
        /// Memory. Lost at exit.
        Memory = "memory",
        /// Nothing: writes vanish, reads give zeroes.
        Null = "null",
    }
}

described_words! {
    /// What carries NVMe-oF.
    pub enum Transport {
        /// NVMe/TCP.
        Tcp = "tcp",
        /// NVMe/RDMA: InfiniBand, RoCE, iWARP.
        Rdma = "rdma",
    }
}

described_words! {
    /// State of a path, as hosts see it.
    pub enum PathState {
        /// The best path.
        Optimized = "optimized",
        /// Works, with less performance.
        NonOptimized = "non_optimized",
        /// Does not serve commands.
        Inaccessible = "inaccessible",
    }
}

described! {
    /// The threads that do I/O: one per core, pinned.
    pub struct Reactors {
        /// The cores, as a list (`0-3,8`) or a mask (`0xf`). The option `--cores` goes first.
        cores: String = "0".to_owned(),
        /// What a reactor does when there is nothing to do.
        mode: Idling = Idling::Adaptive,
        /// Microseconds that an `adaptive` reactor polls after its last work before it sleeps.
        idle_after_us: u64 = 75,
        /// Milliseconds that one piece of work may take before a warning names it.
        stall_after_ms: u64 = 10,
    }
}

described! {
    /// Memory for data on its way, per reactor.
    pub struct Buffers {
        /// Buffers of 4 KiB.
        small: u32 = 4096,
        /// Buffers of 128 KiB.
        large: u32 = 256,
        /// Make all of it resident at start instead of on first use.
        prefault: bool = false,
    }
}

described! {
    /// The control socket.
    pub struct Rpc {
        /// A unix socket with mode 0600. The option `--rpc-socket` goes first.
        socket: PathBuf = PathBuf::from(RPC_SOCKET),
    }
}

described! {
    /// Metrics for Prometheus.
    pub struct Metrics {
        /// Address and port of an HTTP server that answers `/metrics`; none by default. The option `--metrics` goes first.
        address: Option<SocketAddr> = None,
    }
}

described! {
    /// The log, on standard error.
    pub struct Log {
        /// How much. The option `--log-level` and then `POLLUX_LOG` in the environment go first.
        level: LogLevel = LogLevel::Notice,
        /// How a line looks. The option `--log-format` goes first.
        format: LogFormat = LogFormat::Text,
    }
}

described! {
    /// NVMe/TCP. The transport exists when this table or any listener of it does.
    pub struct Tcp {
        /// Entries of an I/O queue, 2–65536.
        queue_depth: u32 = 128,
        /// Entries of an admin queue, 32–4096.
        admin_queue_depth: u32 = 128,
        /// I/O queues of one controller, 1–64.
        io_queues_per_controller: u16 = 64,
        /// Data inside a command capsule: a multiple of 16 bytes up to 64 KiB.
        in_capsule_data: ByteSize = ByteSize(8 << 10),
        /// Data of one command: 4 KiB times a power of two, up to 2 MiB.
        io_size: ByteSize = ByteSize(128 << 10),
        /// End read data with the SUCCESS flag instead of a response, for hosts without SQ flow control.
        c2h_success: bool = true,
    }
}

described! {
    /// NVMe/RDMA. The transport exists when this table or any listener of it does; the machine must have RDMA then.
    pub struct Rdma {
        /// Entries of an I/O queue, 2–65536.
        queue_depth: u32 = 128,
        /// Entries of an admin queue, 32–4096.
        admin_queue_depth: u32 = 128,
        /// I/O queues of one controller, 1–64.
        io_queues_per_controller: u16 = 64,
        /// Data inside a command capsule: a multiple of 16 bytes up to 64 KiB.
        in_capsule_data: ByteSize = ByteSize(8 << 10),
        /// Data of one command: 4 KiB times a power of two, up to 2 MiB.
        io_size: ByteSize = ByteSize(128 << 10),
        /// Receives that the connections of a device share on each reactor, where the device can: a multiple of 128 up to 4096.
        /// 0: each connection has its own.
        shared_receives: u32 = 4096,
    }
}

described! {
    /// A device.
    pub struct Device {
        /// Its name: 1–255 printable characters without spaces.
        name: String,
        /// What holds its blocks.
        kind: DeviceKind,
        /// For `uring`: the block device or file.
        path: Option<PathBuf>,
        /// For `memory` and `null`: the capacity. For `uring`: the file is created when there is none, and made at least
        /// this long; without it, it must exist.
        size: Option<ByteSize>,
        /// For `uring`: go around the page cache. Default `true`; `false` is for file systems without direct I/O.
        direct: Option<bool>,
        /// Bytes of a block, 512 or 4096. Default 4096; for `uring`, the block device's own.
        block_size: Option<u32>,
        /// Identity, which hosts see. Default: random, or for `uring` derived from the path.
        uuid: Option<Uuid>,
    }
}

described! {
    /// A store: thin volumes, snapshots and clones on one device. Stores that are on the devices of this file open by
    /// themselves; this table makes sure of it.
    pub struct Store {
        /// Its name: 1–63 bytes, printable, without spaces and slashes. Its volumes are devices `NAME/VOLUME`.
        name: String,
        /// The name of the device.
        device: String,
        /// Make it when the device is empty. Default `false`: it must be there.
        create: Option<bool>,
        /// Every write is on the media before it completes: nothing is lost when this process dies and hosts go on. Default
        /// `false`: with the next flush.
        write_through: Option<bool>,
    }
}

described! {
    /// A controller of another target. Its namespaces are the devices `NAMEn1`, `NAMEn2`, ….
    pub struct Controller {
        /// Its name here.
        name: String,
        /// What carries the connection. Default `tcp`.
        transport: Option<Transport>,
        /// IP address and port where it listens.
        address: SocketAddr,
        /// NQN of its subsystem.
        subnqn: NqnName,
        /// Who we are. Default: made of this machine's identity.
        hostnqn: Option<NqnName>,
        /// Seconds for which I/O waits for a lost connection before it fails with a path error. Default 0.
        fail_after_s: Option<u32>,
        /// Seconds between attempts to connect, at most. Default 10.
        reconnect_delay_s: Option<u32>,
        /// Its one namespace is a replica of a volume with blocks of so many bytes: the device `NAMEn1` is there even while
        /// the controller cannot be reached. Default: a controller that cannot be reached ends the start.
        replica_block_size: Option<u32>,
    }
}

described! {
    /// A replica of a replicated volume, on a device of this node.
    pub struct Replica {
        /// Its name, and that of its device.
        name: String,
        /// The device it lies on.
        device: String,
        /// UUID of the volume.
        volume: Uuid,
        /// Bytes that hosts see, the same for all replicas. Default: what fits beside the metadata.
        size: Option<ByteSize>,
        /// The device reads as zeroes everywhere when the replica is made, so that it needs no copying. Default `false`.
        zeroed: Option<bool>,
    }
}

described! {
    /// A replicated volume. It is not active until it is told to be, by RPC.
    pub struct Volume {
        /// Its name, and that of its device.
        name: String,
        /// Its UUID, the same on every node.
        uuid: Uuid,
        /// Devices of its replicas, 1 to 5, in the same order on every node.
        replicas: Vec<String>,
        /// Replicas that must be in sync for a write. Default 1.
        min_in_sync: Option<u8>,
        /// Mebibytes per second that are copied to replicas at most. Default: no limit.
        rebuild_bandwidth_mb_s: Option<u64>,
        /// Copies make room while reads and writes of hosts take longer than so many microseconds on average. Default: never.
        rebuild_latency_target_us: Option<u64>,
    }
}

described! {
    /// SPDK, which serves NVMe devices of this machine in a build with feature `spdk` (docs/hardware.md).
    pub struct Spdk {
        /// PCI addresses of the only devices that may be attached, by RPC too. Default: all that are bound to `vfio-pci`.
        allowed: Option<Vec<String>> = None,
    }
}

described! {
    /// How controllers are treated, of this machine and of other targets: `bdev_nvme_set_options` with these parameters.
    pub struct NvmeControllers {
        /// Microseconds that an I/O command may take. Default 0: no limit for controllers of this machine, 8 s for others.
        timeout_us: u64 = 0,
        /// Microseconds that an admin command of a controller of this machine may take. Default 0: as long as an I/O command.
        timeout_admin_us: u64 = 0,
        /// What becomes of a late command of a controller of this machine.
        action_on_timeout: TimeoutAction = TimeoutAction::None,
        /// Keep-alive time-out asked of other targets, in milliseconds.
        keep_alive_timeout_ms: u32 = 5000,
        /// How often RDMA sends again what is not acknowledged, 0 to 7.
        transport_retry_count: u8 = 7,
    }
}

described! {
    /// A controller of this machine, through SPDK. Its namespaces are the devices `NAMEn1`, `NAMEn2`, ….
    pub struct LocalController {
        /// Its name here.
        name: String,
        /// Its PCI address, such as `0000:01:00.0`. It must be bound to `vfio-pci`: `pollux device bind`.
        address: String,
    }
}

described! {
    /// A namespace: a device that hosts see.
    pub struct Namespace {
        /// The name of the device.
        device: String,
        /// Namespace identifier. Default: the lowest free one.
        nsid: Option<u32>,
        /// UUID. Default: the device's.
        uuid: Option<Uuid>,
        /// Globally unique identifier, 32 hexadecimal digits.
        nguid: Option<String>,
        /// IEEE extended unique identifier, 16 hexadecimal digits.
        eui64: Option<String>,
        /// ANA group. Default: the NSID.
        ana_group: Option<u32>,
    }
}

described! {
    /// Where a subsystem listens.
    pub struct Listener {
        /// What is served there. Default `tcp`.
        transport: Option<Transport>,
        /// IP address and port: `192.0.2.1:4420`, `[2001:db8::1]:4420`.
        address: SocketAddr,
        /// State of every ANA group on this path. Default `optimized`; another needs `ana_reporting`.
        ana_state: Option<PathState>,
    }
}

described! {
    /// A subsystem: namespaces under one name.
    pub struct Subsystem {
        /// Its NVMe Qualified Name: `nqn.2026-01.org.example:disks`.
        nqn: NqnName,
        /// Serial number, up to 20 printable ASCII characters. Default: twenty zeroes.
        serial: Option<String>,
        /// Model number, up to 40 printable ASCII characters.
        model: Option<String>,
        /// Let every host connect. Default `false`: only `hosts`.
        allow_any_host: Option<bool>,
        /// NQNs of the hosts that may connect.
        hosts: Option<Vec<NqnName>>,
        /// Report ANA states. Default `false`.
        ana_reporting: Option<bool>,
        /// The highest NSID. Default 32.
        namespaces_max: Option<u32>,
        /// The lowest controller identifier. Default 1.
        controller_id_min: Option<u16>,
        /// The highest controller identifier. Default 65519.
        controller_id_max: Option<u16>,
        /// Leave it out of the discovery log page. Default `false`.
        hidden: Option<bool>,
        /// Its namespaces.
        namespaces: Option<Vec<Namespace>>,
        /// Where it listens.
        listeners: Option<Vec<Listener>>,
    }
}

described! {
    /// Another discovery service that ours refers to.
    pub struct Referral {
        /// What it is reached by. Default `tcp`.
        transport: Option<Transport>,
        /// IP address and port.
        address: SocketAddr,
        /// Its NQN. Default: the well-known discovery NQN.
        nqn: Option<NqnName>,
    }
}

described! {
    /// The discovery service.
    pub struct Discovery {
        /// Where it listens over TCP: addresses with ports.
        listeners: Vec<SocketAddr> = Vec::new(),
        /// Where it listens over RDMA: addresses with ports.
        rdma_listeners: Vec<SocketAddr> = Vec::new(),
        /// Other discovery services.
        referrals: Vec<Referral> = Vec::new(),
    }
}

described! {
    /// The whole file. Every table may be left out.
    pub struct Config {
        /// The threads that do I/O.
        reactors: Reactors = Reactors::default(),
        /// Memory for data on its way.
        buffers: Buffers = Buffers::default(),
        /// The control socket.
        rpc: Rpc = Rpc::default(),
        /// Metrics for Prometheus.
        metrics: Metrics = Metrics::default(),
        /// The log.
        log: Log = Log::default(),
        /// NVMe/TCP.
        tcp: Option<Tcp> = None,
        /// NVMe/RDMA.
        rdma: Option<Rdma> = None,
        /// What holds blocks.
        devices: Vec<Device> = Vec::new(),
        /// SPDK as a whole.
        spdk: Spdk = Spdk::default(),
        /// How controllers are treated.
        nvme_controllers: Option<NvmeControllers> = None,
        /// Controllers of this machine.
        nvme: Vec<LocalController> = Vec::new(),
        /// Controllers whose namespaces are devices here.
        controllers: Vec<Controller> = Vec::new(),
        /// Thin volumes on devices.
        stores: Vec<Store> = Vec::new(),
        /// Replicas of replicated volumes.
        replicas: Vec<Replica> = Vec::new(),
        /// Replicated volumes.
        volumes: Vec<Volume> = Vec::new(),
        /// What hosts connect to.
        subsystems: Vec<Subsystem> = Vec::new(),
        /// How hosts find it.
        discovery: Discovery = Discovery::default(),
    }
}
