//! Runs 4 KiB I/O on several cores at once, a target and a host in lockstep on each, over one memory device that all share.
//!
//! Nothing polls in vain, so that one core and two can be compared on a machine that has no others for the hosts. Prints one JSON
//! object with the I/Os per second of all cores together.
#![allow(missing_docs, reason = "a measuring program")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benches::loopback::Loopback;
use benches::machines::Kind;
use clap::{Parser, ValueEnum};
use dataplane::device::memory::MemoryDevice;
use dataplane::device::{BlockSize, Device};
use rustix::thread::{CpuSet, sched_setaffinity};
use uuid::Uuid;

/// Blocks from one I/O to the next, so that they do not follow each other; odd, so that every block has its turn.
const STRIDE: u64 = 40_503;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    Read,
    Write,
}

/// Runs 4 KiB I/O with target and host in lockstep on several cores
#[derive(Clone, Parser)]
struct Args {
    #[arg(value_enum)]
    workload: Workload,
    /// I/Os in flight on each core
    #[arg(value_parser = clap::value_parser!(u16).range(1..=127))]
    depth: u16,
    /// I/Os on each core
    count: u64,
    /// Cores, from the first
    cores: usize,
    /// Blocks of the device, all of them written first
    #[arg(long, default_value_t = 1 << 16)]
    blocks: u64,
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

/// One core's share: how long it took.
fn run(core: usize, args: &Args, device: Arc<dyn Device>, meeting: &Meeting) -> Duration {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).unwrap_or_else(|errno| panic!("core {core}: {errno}"));
    let mut target = Loopback::new(device);
    let mut lane = target.connect(args.depth, false);
    lane.spread(args.blocks, STRIDE);
    target.run(&mut lane, Kind::Write, args.blocks);
    let kind = if args.workload == Workload::Read { Kind::Read } else { Kind::Write };
    meet(&meeting.ready, args.cores, &mut target);
    let began = Instant::now();
    target.run(&mut lane, kind, args.count);
    let took = began.elapsed();
    meet(&meeting.done, args.cores, &mut target);
    took
}

fn main() {
    let args = Args::parse();
    let device = MemoryDevice::new("m0", BlockSize::B4096, args.blocks, Uuid::from_u128(7));
    let device: Arc<dyn Device> = Arc::new(device.unwrap_or_else(|error| panic!("{error}")));
    let meeting = Meeting::default();
    let took = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.cores)
            .map(|core| (core, Arc::clone(&device)))
            .map(|(core, device)| {
                scope.spawn({
                    let (args, meeting) = (&args, &meeting);
                    move || run(core, args, device, meeting)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panic!("a core failed"))).max()
    });
    let seconds = took.unwrap_or_default().as_secs_f64();
    let ios = args.count * args.cores as u64;
    println!("{}", serde_json::json!({ "cores": args.cores, "ios": ios, "iops": ios as f64 / seconds }));
}
