//! What the store's machine costs for one 4 KiB I/O, without the device and the checksum, and what its parts cost.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;

use benches::store::Machine;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::store::format::{LogBlock, LogHeader, MapEntry, Record};
use dataplane::store::{Lsn, VolumeBlock, VolumeId};

/// Blocks that are mapped: 256 MiB in 256 leaves.
const MAPPED: u64 = 65_536;

/// A walk over all mapped blocks in no order a prefetcher knows.
fn next(at: &mut u64) -> u64 {
    *at = (*at * 5 + 4_099) % MAPPED;
    *at
}

fn commands(c: &mut Criterion) {
    let mut machine = Machine::new(1 << 20, None);
    (0..MAPPED).for_each(|at| machine.write(at));
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(1));
    let mut at = 0;
    group.bench_function("read 4 KiB, mapped", |b| b.iter(|| machine.read(next(&mut at))));
    group.bench_function("write 4 KiB, mapped", |b| b.iter(|| machine.write(next(&mut at))));
    group.bench_function("turn with nothing to do", |b| b.iter(|| machine.turn()));
    group.finish();
}

fn log(c: &mut Criterion) {
    let entries = [MapEntry { target: 1.into(), sum: 2.into() }];
    let record = Record::Map { volume: VolumeId(1), at: VolumeBlock(3), entries: &entries };
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(1));
    let mut block = LogBlock::default();
    group.bench_function("record of one block, sealed when full", |b| {
        b.iter(|| {
            if !block.fits(&record) {
                let header =
                    LogHeader { incarnation: 1, position: 2, lsn: Lsn(3), committed: 0, checkpoint: 0 };
                black_box(std::mem::take(&mut block).seal(header));
            }
            block.push(black_box(&record));
        });
    });
    group.finish();
}

criterion_group!(benches, commands, log);
criterion_main!(benches);
