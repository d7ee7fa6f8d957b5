//! Runs I/O over loopback with target and host in one thread, for tools that count: callgrind, strace, perf stat.
//!
//! Counts grow with COUNT alone, so the difference of two runs divided by that of their COUNTs is the cost of one I/O at
//! both ends together. Prints one JSON object with what the host's driver counted.
#![allow(missing_docs, reason = "a measuring program")]

use std::sync::Arc;

use benches::loopback::Loopback;
use benches::machines::Kind;
use clap::{Parser, ValueEnum};
use dataplane::device::memory::MemoryDevice;
use dataplane::device::null::NullDevice;
use dataplane::device::{BlockSize, Device};
use uuid::Uuid;

/// Blocks that the load touches, all of them written first.
const BLOCKS: u64 = 1024;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    Read,
    Write,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Media {
    Memory,
    Null,
}

/// Runs 4 KiB I/O with target and host in lockstep in one thread
#[derive(Parser)]
struct Args {
    #[arg(value_enum)]
    workload: Workload,
    /// I/Os in flight
    #[arg(value_parser = clap::value_parser!(u16).range(1..=127))]
    depth: u16,
    /// I/Os in all
    count: u64,
    /// Header and data digests
    #[arg(long)]
    digests: bool,
    #[arg(long, value_enum, default_value = "memory")]
    device: Media,
}

fn device(media: Media) -> Arc<dyn Device> {
    let uuid = Uuid::from_u128(7);
    let made: Result<Arc<dyn Device>, _> = match media {
        Media::Memory => {
            MemoryDevice::new("m0", BlockSize::B4096, BLOCKS, uuid).map(|device| Arc::new(device) as _)
        }
        Media::Null => {
            NullDevice::new("n0", BlockSize::B4096, BLOCKS, uuid).map(|device| Arc::new(device) as _)
        }
    };
    made.unwrap_or_else(|error| panic!("{error}"))
}

fn main() {
    let args = Args::parse();
    let mut target = Loopback::new(device(args.device));
    let mut lane = target.connect(args.depth, args.digests);
    target.run(&mut lane, Kind::Write, 2 * BLOCKS);
    let before = *lane.queue().traffic();
    let kind = if args.workload == Workload::Read { Kind::Read } else { Kind::Write };
    target.run(&mut lane, kind, args.count);
    let after = lane.queue().traffic();
    let counted = serde_json::json!({
        "ios": args.count,
        "host_receive_calls": after.receive_calls - before.receive_calls,
        "host_send_calls": after.send_calls - before.send_calls,
    });
    println!("{counted}");
}
