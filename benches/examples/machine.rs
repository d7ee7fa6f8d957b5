//! Runs 4 KiB commands through the NVMe/TCP machine of one end alone, for tools that count instructions.
//!
//! No socket, no device, no clock: counts grow with COUNT alone and repeat to the instruction.
#![allow(missing_docs, reason = "a measuring program")]

use benches::machines::{HostLoad, Kind, TargetLoad};
use clap::{Parser, ValueEnum};
use reactors::{DmaPool, PoolConfig};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum End {
    Host,
    Target,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    Read,
    Write,
}

/// Runs commands through the machine of one end alone
#[derive(Parser)]
struct Args {
    #[arg(value_enum)]
    end: End,
    #[arg(value_enum)]
    workload: Workload,
    /// Commands in a batch
    #[arg(value_parser = clap::value_parser!(u16).range(1..=127))]
    depth: u16,
    /// Commands in all, rounded up to whole batches
    count: u64,
}

fn main() {
    let args = Args::parse();
    let config = PoolConfig { small_slots: 512, large_slots: 2, prefault: true };
    let pool = DmaPool::new(config).unwrap_or_else(|error| panic!("{error}"));
    let kind = if args.workload == Workload::Read { Kind::Read } else { Kind::Write };
    let batches = args.count.div_ceil(u64::from(args.depth));
    match args.end {
        End::Target => {
            let mut load = TargetLoad::new(&pool, kind, args.depth, false);
            (0..batches).for_each(|_| load.round());
        }
        End::Host => {
            let mut load = HostLoad::new(&pool, kind, args.depth);
            (0..batches).for_each(|_| load.round());
            assert_eq!(load.failed(), 0);
        }
    }
}
