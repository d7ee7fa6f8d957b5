//! What the protocol machines cost per command, without sockets and devices: receive, execute, answer, complete.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::collections::VecDeque;
use std::hint::black_box;

use benches::machines::{HostLoad, Kind, Pair, TargetLoad};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fabrics::slab::Slab;
use reactors::{DmaPool, PoolConfig};

/// Commands in one receive: what a queue of depth 32 has under way.
const BATCH: u16 = 32;
/// Less than a command's header, and no divisor of anything.
const PIECE_BYTES: usize = 61;

// A command without data is its header, its slot and its answer: the floor under the others.
const KINDS: [(Kind, &str); 3] =
    [(Kind::Read, "read 4 KiB"), (Kind::Write, "write 4 KiB in capsule"), (Kind::Flush, "no data")];

fn pool() -> DmaPool {
    let config = PoolConfig { small_slots: 256, large_slots: 2, prefault: true };
    DmaPool::new(config).unwrap_or_else(|error| panic!("{error}"))
}

fn target(c: &mut Criterion, digests: bool) {
    let pool = pool();
    let mut group = c.benchmark_group(if digests { "target, digests" } else { "target" });
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (kind, name) in KINDS {
        let mut load = TargetLoad::new(&pool, kind, BATCH, digests);
        group.bench_function(name, |b| b.iter(|| load.round()));
    }
    group.finish();
}

fn host(c: &mut Criterion) {
    let pool = pool();
    let mut group = c.benchmark_group("host");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (kind, name) in KINDS {
        let mut load = HostLoad::new(&pool, kind, BATCH);
        group.bench_function(name, |b| b.iter(|| load.round()));
        assert_eq!(load.failed(), 0);
    }
    group.finish();
}

/// The same as `target`, received in pieces that cut headers and data anywhere: what reading PDUs costs when nothing is whole.
fn pieces(c: &mut Criterion) {
    let pool = pool();
    let mut group = c.benchmark_group(format!("target, in pieces of {PIECE_BYTES} bytes"));
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (kind, name) in KINDS {
        let mut load = TargetLoad::new(&pool, kind, BATCH, false);
        group.bench_function(name, |b| b.iter(|| load.round_in_pieces(PIECE_BYTES)));
    }
    group.finish();
}

/// Commands in, capsules out, answers in, completions out; the wire between is a copy, which counts.
fn both(c: &mut Criterion, digests: bool) {
    let pool = pool();
    let mut group = c.benchmark_group(if digests { "host and target, digests" } else { "host and target" });
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (kind, name) in KINDS {
        let mut pair = Pair::new(&pool, BATCH, digests);
        group.bench_function(name, |b| b.iter(|| pair.round(kind, BATCH)));
        assert_eq!(pair.ended.failed, 0);
    }
    group.finish();
}

/// The slots of a queue of 128, all but one taken, as commands come and go.
fn slab(c: &mut Criterion) {
    const SLOTS: u16 = 128;
    let mut slab = Slab::with_slots(SLOTS);
    let mut tokens: VecDeque<_> = (1..SLOTS).filter_map(|_| slab.insert([0u64; 16])).collect();
    c.bench_function("command slab: put in, found by its token, taken out", |b| {
        b.iter(|| {
            tokens.extend(slab.insert(black_box([1; 16])));
            let (slot, generation) = tokens.pop_front()?;
            slab.get_mut(slot, generation)?[0] += 1;
            slab.remove(slot)
        });
    });
}

fn machines(c: &mut Criterion) {
    slab(c);
    host(c);
    pieces(c);
    for digests in [false, true] {
        target(c, digests);
        both(c, digests);
    }
}

criterion_group!(benches, machines);
criterion_main!(benches);
