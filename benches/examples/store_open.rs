//! How long opening a store takes after a crash with a full log, by its size.
//!
//!     cargo run --release -p pollux-benches --example store_open -- --tib 16
//!     cargo run --release -p pollux-benches --example store_open -- --tib 16 --file /mnt/nvme/store
//!
//! In memory it says what the code takes; on a file, or a block device, what its reads and writes take as well. A file is
//! sparse, and takes a few hundred MiB.
#![allow(missing_docs, reason = "a measuring program")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use benches::store::{Machine, Sparse};
use clap::Parser;
use dataplane::device::uring::{UringConfig, UringDevice};
use dataplane::lvol::DeviceMedia;
use dataplane::store::Media;

/// Fills the map of a large, sparse store, lets it crash with a full log, and measures opening
#[derive(Parser)]
struct Args {
    /// Size of the store, less one block
    #[arg(long, default_value_t = 16)]
    tib: u64,
    /// Leaves of the map, scattered over the whole store
    #[arg(long, default_value_t = 50_000)]
    leaves: u64,
    /// Leaves that the log changes
    #[arg(long, default_value_t = 1_500)]
    changed: u64,
    /// Writes of one block after the last checkpoint
    #[arg(long, default_value_t = 1_000_000)]
    writes: u64,
    /// File or block device that the store is made on; what it holds is lost
    #[arg(long)]
    file: Option<PathBuf>,
}

const BLOCKS_PER_TIB: u64 = 1 << 28;

fn main() {
    let args = Args::parse();
    assert!(args.changed > 0 && args.changed <= args.leaves, "the log changes some of the leaves");
    let blocks = args.tib * BLOCKS_PER_TIB - 1;
    match &args.file {
        None => {
            let media = measure(Sparse::new(blocks), &args, |media| media);
            println!("{} blocks read, from the first on", media.reads);
        }
        Some(path) => {
            let media = measure(device(path, Some(blocks << 12)), &args, |media| {
                drop(media);
                device(path, None)
            });
            drop(media);
        }
    }
}

fn device(path: &Path, size_bytes: Option<u64>) -> DeviceMedia {
    let mut config = UringConfig::new("store", path);
    config.size_bytes = size_bytes;
    let device = UringDevice::open(&config).unwrap_or_else(|error| panic!("{error}"));
    DeviceMedia::open(&device).unwrap_or_else(|error| panic!("{error}"))
}

/// Makes a store, leaves a log behind, opens it again. `crash`: what is left of the device.
fn measure<M: Media>(media: M, args: &Args, crash: impl FnOnce(M) -> M) -> M {
    let mut machine = Machine::create(media, None);
    let stride = machine.media.blocks() / args.leaves;
    (0..args.leaves).for_each(|leaf| machine.write(leaf * stride));
    let stall = checkpoint(&mut machine);
    let before = machine.store.lsn().0;
    for index in 0..args.writes {
        let leaf = index % args.changed * (args.leaves / args.changed);
        machine.write(leaf * stride + index / args.changed % 200);
        // Not after every write: the log would fill with blocks of few records.
        if index % 64 == 0 {
            machine.flush();
        }
    }
    machine.flush();
    let (lsn, media) = (machine.store.lsn().0, machine.media);
    drop(machine.store);
    let media = crash(media);
    let began = Instant::now();
    let machine = Machine::open(media);
    let took = began.elapsed();
    assert_eq!(machine.store.lsn().0, lsn);
    println!(
        "{} TiB, {} leaves: opened in {:.3} s, at most {} records after a checkpoint; \
         a checkpoint kept the reactor for {:.1} ms at a time",
        args.tib,
        args.leaves,
        took.as_secs_f64(),
        lsn - before,
        stall.as_secs_f64() * 1e3
    );
    machine.media
}

/// Writes a checkpoint; says how long its longest turn took, without the device.
fn checkpoint<M: Media>(machine: &mut Machine<M>) -> Duration {
    machine.store.request_checkpoint();
    let mut longest = Duration::ZERO;
    while machine.store.is_checkpointing() {
        let began = Instant::now();
        machine.store.turn();
        longest = longest.max(began.elapsed());
        machine.turn();
    }
    longest
}
