//! What CRC32C costs at the sizes that digests cover: a header, a command capsule, one block, a large transfer.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;

use crc_fast::{CrcAlgorithm, Digest};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn digests(c: &mut Criterion) {
    for len in [24_usize, 72, 4096, 131_072] {
        let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect();
        let mut group = c.benchmark_group(format!("CRC32C of {len} bytes"));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function("whole", |b| b.iter(|| crc_fast::crc32_iscsi(black_box(&data))));
        group.bench_function("continued", |b| {
            b.iter(|| {
                let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
                digest.update(black_box(&data));
                digest.finalize()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, digests);
criterion_main!(benches);
