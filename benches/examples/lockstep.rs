//! Runs I/O over loopback with target and host in one thread, for tools that count: callgrind, strace, perf stat.
//!
//! Counts grow with COUNT alone, so the difference of two runs divided by that of their COUNTs is the cost of one I/O at
//! both ends together. Prints one JSON object with what the host's driver counted, and the time it took: on a quiet machine the
//! difference between two devices is what one costs more than the other. With --cores, one core and two can be compared on a machine
//! that has no others for the hosts.
#![allow(missing_docs, reason = "a measuring program")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::loopback::{BLOCKS, Loopback};
use benches::machines::Kind;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use dataplane::device::memory::MemoryDevice;
use dataplane::device::null::NullDevice;
use dataplane::device::{BlockSize, Device, DeviceRegistry};
use dataplane::lvol::{CreateStore, StoreSet};
use dataplane::replication::{CreateVolume, VolumeTable};
use dataplane::store::Settings;
use reactors::ReactorHandle;
use rustix::thread::{CpuSet, sched_setaffinity};
use uuid::Uuid;

/// A store writes to free blocks: it has this many times its volume's, and some for itself.
const STORE_FACTOR: u64 = 4;
const STORE_BLOCKS_MIN: u64 = 1 << 14;
/// A replica's metadata lies beside its data.
const REPLICA_BLOCKS: u64 = 1 << 12;
/// Blocks from one I/O to the next when they are not to follow each other; odd, so that every block has its turn.
const STRIDE: u64 = 40_503;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    Read,
    Write,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Media {
    Memory,
    Null,
    /// A thin volume of a store on a memory device.
    Volume,
    /// The same without checksums.
    UncheckedVolume,
    /// A replicated volume with all its three copies here, on memory devices.
    Replicated,
}

/// Runs 4 KiB I/O with target and host in lockstep in one thread, or in one on each of several cores
#[derive(Parser)]
struct Args {
    #[arg(value_enum)]
    workload: Workload,
    /// I/Os in flight
    #[arg(value_parser = clap::value_parser!(u16).range(1..=127))]
    depth: u16,
    /// I/Os in all; with --cores, on each
    count: u64,
    /// Header and data digests
    #[arg(long)]
    digests: bool,
    #[arg(long, value_enum, default_value = "memory")]
    device: Media,
    /// Blocks that the load touches, all of them written first. More than the default are touched in no order
    #[arg(long, default_value_t = BLOCKS)]
    blocks: u64,
    /// Cores to run on at once, from the first: each has a target and a host, all share the device
    #[arg(long, value_name = "COUNT", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1024))]
    cores: Option<usize>,
}

const UUID: Uuid = Uuid::from_u128(7);

fn memory(blocks: u64) -> Arc<dyn Device> {
    let device = MemoryDevice::new("m0", BlockSize::B4096, blocks, UUID);
    Arc::new(device.unwrap_or_else(|error| panic!("{error}")))
}

fn null(blocks: u64) -> Arc<dyn Device> {
    let device = NullDevice::new("n0", BlockSize::B4096, blocks, UUID);
    Arc::new(device.unwrap_or_else(|error| panic!("{error}")))
}

/// A thin volume, and the stores that keep it open.
fn volume(blocks: u64, checksums: bool, handle: ReactorHandle) -> (Arc<dyn Device>, StoreSet) {
    let devices = DeviceRegistry::default();
    let added = devices.add(memory((blocks * STORE_FACTOR).max(STORE_BLOCKS_MIN)));
    added.unwrap_or_else(|error| panic!("{error}"));
    let stores = StoreSet::new(devices.clone(), vec![handle]);
    let store = CreateStore {
        device: "m0".to_owned(),
        name: "s".to_owned(),
        uuid: None,
        volumes_max: None,
        unmap: false,
        force: false,
    };
    let store = stores.create(&store).unwrap_or_else(|error| panic!("{error}"));
    let settings = Settings { checksums, ..Settings::default() };
    let made = stores.create_volume(&store, "v", blocks, None, settings);
    made.unwrap_or_else(|error| panic!("{error}"));
    let device = devices.get("s/v").unwrap_or_else(|error| panic!("{error}"));
    (device, stores)
}

/// A volume of three copies, all in sync, and what keeps it.
fn replicated(blocks: u64) -> (Arc<dyn Device>, VolumeTable) {
    let (devices, table) = (DeviceRegistry::default(), VolumeTable::default());
    let names: Vec<String> = (0..3).map(|copy| format!("r{copy}")).collect();
    let bytes = blocks * u64::from(BlockSize::B4096.bytes());
    for (copy, name) in names.iter().enumerate() {
        let base = format!("m{copy}");
        let memory = MemoryDevice::new(&base, BlockSize::B4096, blocks + REPLICA_BLOCKS, Uuid::new_v4());
        let memory = Arc::new(memory.unwrap_or_else(|error| panic!("{error}")));
        devices.add(memory).unwrap_or_else(|error| panic!("{error}"));
        let made = table.create_replica(&devices, name, &base, UUID, Some(bytes), true);
        made.unwrap_or_else(|error| panic!("{error}"));
    }
    let create = CreateVolume { name: "v".to_owned(), uuid: UUID, replicas: names.clone(), min_in_sync: 1 };
    table.create_volume(&devices, create).unwrap_or_else(|error| panic!("{error}"));
    let active = table.activate("v", 1, &names, Arc::new(|_, _| ()));
    active.unwrap_or_else(|error| panic!("{error}"));
    let device = devices.get("v").unwrap_or_else(|error| panic!("{error}"));
    (device, table)
}

/// How many cores have come so far, at the start and at the end.
#[derive(Default)]
struct Meeting {
    ready: AtomicUsize,
    done: AtomicUsize,
}

/// Waits for all cores. The target goes on turning, as in life: others may wait for what it has put off.
fn meet(arrived: &AtomicUsize, cores: usize, target: &mut Loopback) {
    arrived.fetch_add(1, Ordering::AcqRel);
    while arrived.load(Ordering::Acquire) < cores {
        target.turn();
    }
}

/// What one core did.
struct Share {
    receive_calls: u64,
    send_calls: u64,
    took: Duration,
}

fn run(args: &Args, mut target: Loopback, meeting: &Meeting) -> Share {
    let cores = args.cores.unwrap_or(1);
    let mut lane = target.connect(args.depth, args.digests);
    lane.spread(args.blocks, if args.blocks == BLOCKS { 1 } else { STRIDE });
    target.run(&mut lane, Kind::Write, 2 * args.blocks);
    meet(&meeting.ready, cores, &mut target);
    let before = *lane.queue().traffic();
    let kind = if args.workload == Workload::Read { Kind::Read } else { Kind::Write };
    let start = Instant::now();
    target.run(&mut lane, kind, args.count);
    let took = start.elapsed();
    let after = *lane.queue().traffic();
    meet(&meeting.done, cores, &mut target);
    Share {
        receive_calls: after.receive_calls - before.receive_calls,
        send_calls: after.send_calls - before.send_calls,
        took,
    }
}

fn run_here(args: &Args) -> Share {
    let (mut stores, mut volumes) = (None, None);
    let target = Loopback::with(|handle| match args.device {
        Media::Memory => memory(args.blocks),
        Media::Null => null(args.blocks),
        Media::Volume | Media::UncheckedVolume => {
            let (device, open) = volume(args.blocks, args.device == Media::Volume, handle);
            stores = Some(open);
            device
        }
        Media::Replicated => {
            let (device, table) = replicated(args.blocks);
            volumes = Some(table);
            device
        }
    });
    run(args, target, &Meeting::default())
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).unwrap_or_else(|errno| panic!("core {core}: {errno}"));
}

/// A target and a host on each core, over one device.
fn run_on(cores: usize, args: &Args) -> Vec<Share> {
    let device = match args.device {
        Media::Memory => memory(args.blocks),
        Media::Null => null(args.blocks),
        Media::Volume | Media::UncheckedVolume | Media::Replicated => {
            let refused =
                "a volume belongs to the reactor that opened its store: --cores takes memory or null";
            Args::command().error(ErrorKind::ArgumentConflict, refused).exit()
        }
    };
    let meeting = Meeting::default();
    thread::scope(|scope| {
        let (device, meeting) = (&device, &meeting);
        let share = |core| {
            move || {
                pin(core);
                run(args, Loopback::new(Arc::clone(device)), meeting)
            }
        };
        let threads: Vec<_> = (0..cores).map(|core| scope.spawn(share(core))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panic!("a core failed"))).collect()
    })
}

fn main() {
    let args = Args::parse();
    let shares = args.cores.map_or_else(|| vec![run_here(&args)], |cores| run_on(cores, &args));
    let ios = args.count * shares.len() as u64;
    let took = shares.iter().map(|share| share.took).max().unwrap_or_default();
    let counted = serde_json::json!({
        "ios": ios,
        "host_receive_calls": shares.iter().map(|share| share.receive_calls).sum::<u64>(),
        "host_send_calls": shares.iter().map(|share| share.send_calls).sum::<u64>(),
        "ns_per_io": took.as_nanos() as f64 / args.count as f64,
        "iops": ios as f64 / took.as_secs_f64(),
    });
    println!("{counted}");
}
