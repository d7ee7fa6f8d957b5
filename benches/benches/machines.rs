//! What the protocol machines cost per command, without sockets and devices: receive, execute, answer, complete.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;

use arrayvec::ArrayVec;
use benches::IO_BYTES;
use benches::machines::{Kind, NOW, Pair, Recorded};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fabrics::tcp::host::HostProgress;
use fabrics::tcp::target::Progress;
use nvme::tcp::{CapsuleCmd, PduType};
use reactors::{DmaPool, PoolConfig};

/// Commands in one receive: what a queue of depth 32 has under way.
const BATCH: u16 = 32;

// A command without data is its header, its slot and its answer: the floor under the others.
const KINDS: [(Kind, &str); 3] =
    [(Kind::Read, "read 4 KiB"), (Kind::Write, "write 4 KiB in capsule"), (Kind::Flush, "no data")];

fn pool() -> DmaPool {
    let config = PoolConfig { small_slots: 256, large_slots: 2, prefault: true };
    DmaPool::new(config).unwrap_or_else(|error| panic!("{error}"))
}

/// Bytes of commands in, answers out to where `sendmsg` would take them.
fn target(c: &mut Criterion, digests: bool) {
    let pool = pool();
    let mut group = c.benchmark_group(if digests { "target, digests" } else { "target" });
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (kind, name) in KINDS {
        let recorded = Recorded::new(&pool, kind, BATCH, digests);
        let mut pair = Pair::new(&pool, BATCH, digests);
        group.bench_function(name, |b| {
            b.iter(|| {
                let progress = pair.target.on_bytes(black_box(&recorded.commands), NOW, &mut pair.handler);
                assert_eq!(progress, Progress::Consumed);
                let mut parts = ArrayVec::new();
                pair.target.gather(&mut parts);
                let bytes = black_box(&parts).iter().map(|part| part.len()).sum();
                drop(parts);
                pair.target.on_sent(bytes);
            });
        });
    }
    group.finish();
}

/// Commands in, capsules out to where `sendmsg` would take them, recorded answers in, completions out. Answers get the
/// identifiers of the commands they are for, which counts: two bytes each.
fn host(c: &mut Criterion) {
    let pool = pool();
    let mut group = c.benchmark_group("host");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (kind, name) in KINDS {
        let mut answers = Recorded::new(&pool, kind, BATCH, false).answers;
        let mut pair = Pair::new(&pool, BATCH, false);
        group.bench_function(name, |b| {
            b.iter(|| {
                pair.submit(kind, BATCH);
                let mut parts = ArrayVec::new();
                pair.host.gather(&mut parts);
                let bytes = black_box(&parts).iter().map(|part| part.len()).sum();
                let headers = parts.iter().filter(|part| part.len() != IO_BYTES);
                address(&mut answers, headers.flat_map(|part| part.chunks_exact(CapsuleCmd::SIZE)));
                drop(parts);
                pair.host.on_sent(bytes, &mut pair.ended);
                let progress = pair.host.on_bytes(&answers, NOW, &mut pair.ended);
                assert_eq!(progress, HostProgress::Consumed);
            });
        });
        assert_eq!(pair.ended.failed, 0);
    }
    group.finish();
}

/// Makes `answers` the answers to these commands, in order.
fn address<'a>(answers: &mut [u8], commands: impl Iterator<Item = &'a [u8]>) {
    let mut rest = answers;
    for command in commands {
        let cid = if rest[0] == PduType::C2H_DATA.0 { 8 } else { 20 };
        rest[cid..cid + 2].copy_from_slice(&command[10..12]);
        let plen = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        rest = &mut rest[plen..];
    }
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

fn machines(c: &mut Criterion) {
    host(c);
    for digests in [false, true] {
        target(c, digests);
        both(c, digests);
    }
}

criterion_group!(benches, machines);
criterion_main!(benches);
