//! What one 4 KiB I/O costs inside the devices that finish it at once, and what ordering small writes costs.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;
use std::ops::Range;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::device::memory::MemoryDevice;
use dataplane::device::null::NullDevice;
use dataplane::device::uring::range_guard::{Access, RangeGuard};
use dataplane::device::{BlockSize, Device, Io, Lba, Op, Queue, QueueContext, Submission};
use reactors::{DmaPool, IoBuf, PoolConfig};

const BYTES: u64 = 64 << 20;
const BLOCKS: u64 = BYTES >> 12;

/// Runs one operation; its buffer comes back.
fn run(queue: &mut dyn Queue, op: Op) -> IoBuf {
    match queue.submit(Io { tag: 1, op }) {
        Submission::Done(done) if done.status.is_success() => done.buffer,
        _ => None,
    }
    .unwrap_or_else(|| panic!("the device did not finish at once"))
}

/// A cheap walk over all blocks in no order a prefetcher knows.
fn next(lba: &mut u64) -> Lba {
    *lba = (*lba * 5 + 4099) % BLOCKS;
    Lba(*lba)
}

fn bench(c: &mut Criterion, name: &str, device: &dyn Device) {
    let pool = DmaPool::new(PoolConfig::default()).unwrap_or_else(|error| panic!("{error}"));
    let context = QueueContext { pool: &pool, depth: 128 };
    let mut queue = device.open_queue(&context).unwrap_or_else(|error| panic!("{error}"));
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let mut buffer = pool.alloc_io(4096);
    for lba in 0..BLOCKS {
        buffer = buffer.map(|buffer| run(&mut *queue, Op::Write { lba: Lba(lba), buffer, fua: false }));
    }
    group.bench_function("read 4 KiB, same block", |b| {
        b.iter(|| {
            let read = |buffer| run(&mut *queue, Op::Read { lba: black_box(Lba(7)), buffer });
            buffer = buffer.take().map(read);
        });
    });
    let mut lba = 0;
    group.bench_function("read 4 KiB, all over 64 MiB", |b| {
        b.iter(|| {
            let lba = next(&mut lba);
            buffer = buffer.take().map(|buffer| run(&mut *queue, Op::Read { lba, buffer }));
        });
    });
    group.bench_function("write 4 KiB, same block", |b| {
        b.iter(|| {
            let write = |buffer| run(&mut *queue, Op::Write { lba: black_box(Lba(7)), buffer, fua: false });
            buffer = buffer.take().map(write);
        });
    });
    group.finish();
}

fn devices(c: &mut Criterion) {
    let uuid = uuid::Uuid::nil();
    match MemoryDevice::new("memory", BlockSize::B4096, BLOCKS, uuid) {
        Ok(memory) => bench(c, "memory device", &memory),
        Err(error) => panic!("{error}"),
    }
    match NullDevice::new("null", BlockSize::B4096, BLOCKS, uuid) {
        Ok(null) => bench(c, "null device", &null),
        Err(error) => panic!("{error}"),
    }
}

/// What a write of less than the backing's block pays for its order, with others in line before it.
fn range_guard(c: &mut Criterion) {
    let mut group = c.benchmark_group("range guard");
    for ahead in [0, 31, 127] {
        let guard = RangeGuard::default();
        let line: Vec<_> = (0..ahead).map(|at| guard.enter(range_of(at), Access::Rewrite)).collect();
        group.bench_function(format!("in, asked and out, {ahead} ahead"), |b| {
            b.iter(|| {
                let ticket = guard.enter(black_box(range_of(ahead)), Access::Rewrite);
                assert!(guard.may_start(&ticket));
                guard.leave(ticket);
            });
        });
        line.into_iter().for_each(|ticket| guard.leave(ticket));
    }
    group.finish();
}

/// Backing block number `at`, in bytes.
fn range_of(at: u64) -> Range<u64> {
    at * 4096..(at + 1) * 4096
}

criterion_group!(benches, devices, range_guard);
criterion_main!(benches);
