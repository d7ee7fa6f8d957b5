//! The command line: what can be asked, in nvme-cli's and SPDK's words.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::perf::workload::Workload;
use crate::size::ByteCount;

const EXIT_CODES: &str = "Exit codes:
  0    success
  1    an I/O or a command failed
  2    wrong usage
  3    the target or the RPC socket cannot be reached, or the connection was refused
  4    data read differs from data written (perf --verify), or a store has faults (store check)
  130  interrupted";

/// Discover, inspect, measure and control NVMe over Fabrics targets.
#[derive(Debug, Parser)]
#[command(name = "pollux", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the subsystems a discovery controller offers
    Discover(Box<DiscoverArgs>),
    /// Show a controller's, or with --nsid a namespace's, Identify data
    Identify(Box<IdentifyArgs>),
    /// Measure a namespace: IOPS, bandwidth and latency percentiles, optionally with verified data
    Perf(Box<PerfArgs>),
    /// Make, list, rename, grow, check and destroy stores: what volumes live in
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Make, list, resize, snapshot, clone, roll back, rename and delete volumes
    Volume {
        #[command(subcommand)]
        command: VolumeCommand,
    },
    /// Call a JSON-RPC method of a data plane
    Rpc(RpcArgs),
    /// NVMe devices of this machine: who has them, and giving them to SPDK and back
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Print the completion script of a shell
    Completions {
        /// The shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page per command into a folder
    Man {
        /// Folder to write pollux.1, pollux-perf.1, … into, instead of printing pollux.1
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// List NVMe devices with their drivers and users, huge pages and the state of the IOMMU
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give devices to vfio-pci, so that SPDK can use them; refuses those that are mounted or in use
    Bind(BindArgs),
    /// Give devices back to the kernel's driver
    Unbind(UnbindArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BindArgs {
    /// PCI addresses, such as 0000:01:00.0
    #[arg(required = true, value_name = "ADDRESS")]
    pub(crate) addresses: Vec<dataplane::pci::PciAddress>,
    /// Have at least so much memory in huge pages of 2 MiB (suffixes M, G: powers of 1024)
    #[arg(long, value_name = "BYTES")]
    pub(crate) huge_pages: Option<ByteCount>,
    /// Only print what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UnbindArgs {
    /// PCI addresses, such as 0000:01:00.0
    #[arg(required = true, value_name = "ADDRESS")]
    pub(crate) addresses: Vec<dataplane::pci::PciAddress>,
    /// Only print what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The link a controller is reached over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportType {
    /// NVMe/TCP
    Tcp,
    /// NVMe/RDMA: InfiniBand, RoCE, iWARP
    Rdma,
}

impl TransportType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }
}

/// How to reach a controller, and as whom.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Transport type
    #[arg(short = 't', long, value_enum, default_value = "tcp")]
    pub(crate) transport: TransportType,
    /// Transport address: an IPv4 or IPv6 address or a host name
    #[arg(short = 'a', long, value_name = "ADDRESS")]
    pub(crate) traddr: String,
    /// Transport service: the port
    #[arg(short = 's', long, value_name = "PORT", default_value_t = 4420)]
    pub(crate) trsvcid: u16,
    /// Host NQN to connect as [default: a random UUID NQN]
    #[arg(short = 'q', long, value_name = "NQN")]
    pub(crate) hostnqn: Option<nvme::Nqn>,
    /// Host identifier to connect as, a UUID [default: random, or the one in a UUID host NQN]
    #[arg(short = 'I', long, value_name = "UUID")]
    pub(crate) hostid: Option<uuid::Uuid>,
    /// Protect PDU headers with a CRC32C
    #[arg(short = 'g', long, alias = "hdr-digest")]
    pub(crate) header_digest: bool,
    /// Protect data with a CRC32C
    #[arg(short = 'G', long)]
    pub(crate) data_digest: bool,
    /// Keep-alive time-out the controller is asked for, in seconds; 0 turns it off
    #[arg(short = 'k', long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) keep_alive_tmo: u32,
    /// How long to wait for the connection, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) connect_timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// Print one JSON object in nvme-cli's form instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct IdentifyArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// NQN of the subsystem
    #[arg(short = 'n', long, value_name = "NQN")]
    pub(crate) subnqn: nvme::Nqn,
    /// Show this namespace, instead of the controller and a list of its namespaces
    #[arg(long, value_name = "NSID", value_parser = clap::value_parser!(u32).range(1..0xffff_ffff))]
    pub(crate) nsid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PerfArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// NQN of the subsystem
    #[arg(short = 'n', long, value_name = "NQN")]
    pub(crate) subnqn: nvme::Nqn,
    /// Namespace to work on
    #[arg(long, value_name = "NSID", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..0xffff_ffff))]
    pub(crate) nsid: u32,
    /// Pattern of accesses
    #[arg(short = 'w', long, value_enum)]
    pub(crate) workload: Workload,
    /// Percentage of reads in rw and randrw
    #[arg(short = 'M', long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) mix: u8,
    /// Bytes per I/O: a multiple of the namespace's block size (suffixes k, M: powers of 1024)
    #[arg(short = 'o', long, value_name = "BYTES", default_value = "4k")]
    pub(crate) size: ByteCount,
    /// I/Os in flight on each queue
    #[arg(short = 'd', long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) depth: u16,
    /// I/O queues (connections) on each core
    #[arg(short = 'P', long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) queues: u16,
    /// Further I/O queues on each core that stay connected and idle
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) idle_queues: u16,
    /// Cores to run on, one thread each: a list such as 0,2-3 or a mask such as 0x5 [default: the first allowed one]
    #[arg(short = 'c', long, value_name = "LIST")]
    pub(crate) cores: Option<reactors::CoreSet>,
    /// How long to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) time: Duration,
    /// How long to run before measuring, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub(crate) warmup: Duration,
    /// Stop after this many I/Os on each queue, even when time is left
    #[arg(long, value_name = "COUNT")]
    pub(crate) io_count: Option<u64>,
    /// First byte of the namespace to touch
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub(crate) offset: ByteCount,
    /// Bytes of the namespace to touch [default: to its end]
    #[arg(long, value_name = "BYTES")]
    pub(crate) length: Option<ByteCount>,
    /// Write a checkable pattern, check every read against it, and read back all that was written at the end
    #[arg(long)]
    pub(crate) verify: bool,
    /// Receive reads over TCP straight into their buffers, without a copy
    #[arg(long)]
    pub(crate) place_data: bool,
    /// Ask for Force Unit Access on every write
    #[arg(long)]
    pub(crate) fua: bool,
    /// Seed of addresses and patterns [default: random]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Fail an I/O that was not answered within this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Print one JSON object at the end
    #[arg(long)]
    pub(crate) json: bool,
    /// Print no live figures
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// How to reach a data plane's control.
#[derive(Clone, Debug, Args)]
pub(crate) struct SocketArgs {
    /// Unix socket of the data plane
    #[arg(short = 's', long, alias = "socket", value_name = "PATH", env = "POLLUX_RPC_SOCKET", default_value = dataplane::config::RPC_SOCKET)]
    pub(crate) rpc_socket: PathBuf,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct RpcArgs {
    #[command(flatten)]
    pub(crate) socket: SocketArgs,
    /// Method to call; rpc_get_methods lists them
    pub(crate) method: String,
    /// Parameters: a JSON object, or - to read it from standard input
    #[arg(value_name = "JSON")]
    pub(crate) params: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Make a store on a device of a data plane, and open it
    Create {
        /// The device, which must be empty
        device: String,
        /// Name of the store: 1 to 63 bytes, without spaces and slashes
        name: String,
        /// Make it even when the device holds something, which is lost
        #[arg(long)]
        force: bool,
        /// Volumes, snapshots and clones at most [default: one for each 2 MiB, 256 to 16384]
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=32766))]
        volumes_max: Option<u32>,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// List the open stores
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Open the store on a device; stores open by themselves when their device is created
    Open {
        /// The device
        device: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Close a store with everything on the media; hosts lose its volumes until it is opened again
    Close {
        /// The store
        name: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Give a store another name
    Rename {
        /// The name it has
        old: String,
        /// The name it gets
        new: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Give a store the rest of its device, which has become larger; hosts go on meanwhile
    Grow {
        /// The store
        name: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Make a closed store one of the current version of the format, and open it; older versions of Pollux then refuse it
    Upgrade {
        /// The device it is on
        device: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Make the device forget a store; one that has volumes only with --force
    Destroy {
        /// The store
        name: String,
        /// Even when it has volumes, which are lost
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Read all of a store that no data plane has open, writing nothing, and say what is wrong
    Check {
        /// Path of the block device or file
        path: PathBuf,
        /// Read and check every block of data as well
        #[arg(long)]
        data: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a store that no data plane has open says of itself, writing nothing
    Dump {
        /// Path of the block device or file
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume, which reads as zeroes
    Create {
        /// STORE/NAME
        volume: String,
        /// Its size: a multiple of 1 MiB (suffixes M, G, T: powers of 1024)
        size: ByteCount,
        /// Promise space for all of it, so that its writes never meet a full store
        #[arg(long)]
        reserve: bool,
        /// Keep no checksums: blocks are not checked when they are read
        #[arg(long)]
        no_checksums: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// List volumes and snapshots
    List {
        /// Only those of this store
        store: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Delete a volume or snapshot; hosts lose it, what was made from it stays
    Delete {
        /// STORE/NAME or UUID
        volume: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Give a volume another size
    Resize {
        /// STORE/NAME or UUID
        volume: String,
        /// Its new size: a multiple of 1 MiB
        size: ByteCount,
        /// Smaller even when blocks beyond the new size hold data, which is lost
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Keep what a volume holds at this instant; of a replicated one, on every replica in sync
    Snapshot {
        /// STORE/NAME or UUID of the volume, or the name of a replicated volume that is active here
        volume: String,
        /// Name of the snapshot, in the same store; on replicas it is VOLUME@NAME in the store of each
        name: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// List the snapshots of a replicated volume that is active here, and which replicas hold them
    Snapshots {
        /// Name of the replicated volume
        volume: String,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Delete a snapshot of a replicated volume that is active here, confirmed or not, on every attached replica
    DeleteSnapshot {
        /// Name of the replicated volume
        volume: String,
        /// Name of the snapshot
        name: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Make a writable volume that begins as a snapshot, or as a volume is now
    Clone {
        /// STORE/NAME or UUID of the snapshot or volume
        origin: String,
        /// Name of the clone, in the same store
        name: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Make a volume hold again what a snapshot holds; what was written since is lost
    Rollback {
        /// STORE/NAME or UUID of the volume
        volume: String,
        /// STORE/NAME or UUID of the snapshot
        snapshot: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Say how a volume may be used from now on
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// STORE/NAME or UUID
        volume: String,
        /// Whether hosts may not change it
        #[arg(long, value_name = "BOOL", group = "change")]
        read_only: Option<bool>,
        /// Whether space for all of it is promised
        #[arg(long, value_name = "BOOL", group = "change")]
        reserve: Option<bool>,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Copy all that a volume shares, so that it depends on nothing else; hosts go on meanwhile
    Flatten {
        /// STORE/NAME or UUID
        volume: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Let a clone take the place of what it was made from: snapshots up to its own become its snapshots
    Promote {
        /// STORE/NAME or UUID
        volume: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Count what a volume's space consists of
    Usage {
        /// STORE/NAME or UUID
        volume: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// List the ranges of bytes that differ between two volumes or snapshots
    Diff {
        /// STORE/NAME or UUID of the earlier one
        before: String,
        /// STORE/NAME or UUID of the later one
        after: String,
        /// Print one JSON object a line, in blocks of 4 KiB
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Give a volume or snapshot another name
    Rename {
        /// STORE/NAME or UUID
        volume: String,
        /// The name it gets, without the store's
        name: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
}

/// Longest time that can be asked for: a day, so that no arithmetic on deadlines can overflow.
const SECONDS_MAX: f64 = 86_400.0;

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| format!("expected a number of seconds, got '{text}'"))?;
    if (0.0..=SECONDS_MAX).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(format!("expected 0 to {SECONDS_MAX} seconds, got '{text}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_out_of_range_are_refused() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert!(seconds("-1").is_err());
        assert!(seconds("NaN").is_err());
        assert!(seconds("1e9").is_err());
    }

    #[test]
    fn the_usual_perf_line_parses() {
        let cli = Cli::try_parse_from([
            "pollux",
            "perf",
            "--transport",
            "tcp",
            "--traddr",
            "127.0.0.1",
            "--trsvcid",
            "4420",
            "--subnqn",
            "nqn.2026-01.io.pollux:a",
            "--workload",
            "randread",
            "--size",
            "4096",
            "--depth",
            "32",
            "--queues",
            "1",
            "--cores",
            "1",
            "--time",
            "5",
            "--json",
        ])
        .unwrap();
        let Command::Perf(perf) = cli.command else { panic!("not perf") };
        assert_eq!(perf.workload, Workload::Randread);
        assert_eq!(perf.size, ByteCount(4096));
    }
}
