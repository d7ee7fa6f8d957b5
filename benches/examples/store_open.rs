//! How long opening a store takes after a crash, by its size and the log that was left behind.
//!
//!     cargo run --release -p pollux-benches --example store_open -- --tib 16

use std::time::Instant;

use benches::store::Machine;
use clap::Parser;

/// Fills the map of a large, sparse store, lets it crash with a full log, and measures opening.
#[derive(Parser)]
struct Args {
    /// Size of the store.
    #[arg(long, default_value_t = 16)]
    tib: u64,
    /// Leaves of the map, scattered over the whole store.
    #[arg(long, default_value_t = 50_000)]
    leaves: u64,
    /// Writes after the last checkpoint.
    #[arg(long, default_value_t = 1_000_000)]
    writes: u64,
}

const BLOCKS_PER_TIB: u64 = 1 << 28;
/// Leaves that the log changes: with more, a checkpoint would begin.
const CHANGED: u64 = 1_500;

fn main() {
    let args = Args::parse();
    let blocks = args.tib * BLOCKS_PER_TIB;
    let mut machine = Machine::new(blocks, None);
    let stride = blocks / args.leaves;
    (0..args.leaves).for_each(|leaf| machine.write(leaf * stride));
    machine.store.request_checkpoint();
    while machine.store.is_checkpointing() {
        machine.turn();
    }
    let before = machine.store.lsn().0;
    for index in 0..args.writes {
        let leaf = index % CHANGED * (args.leaves / CHANGED);
        machine.write(leaf * stride + index / CHANGED % 200);
        // Not after every write: the log would fill with blocks of few records.
        if index % 64 == 0 {
            machine.flush();
        }
    }
    machine.flush();
    let (lsn, media) = (machine.store.lsn().0, machine.media);
    drop(machine.store);
    let began = Instant::now();
    let machine = Machine::open(media);
    let took = began.elapsed();
    assert_eq!(machine.store.lsn().0, lsn);
    println!(
        "{} TiB, {} leaves: opened in {:.3} s, up to {} records after a checkpoint",
        args.tib,
        args.leaves,
        took.as_secs_f64(),
        lsn - before
    );
}
