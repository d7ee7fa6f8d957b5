//! What the machines cost without sockets: digests by size, and one I/O through a target.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use arrayvec::ArrayVec;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fabrics::tcp::target::{CommandHandler, Progress, TargetConn, TargetParams};
use fabrics::{CommandId, Completion, Execution, IoBuffer, Now};
use nvme::fabrics::{ConnectCommand, cattr};
use nvme::tcp::{CapsuleCmd, CommonHeader, IcReq, PduType};
use nvme::{SglDescriptor, Sqe, opcode};
use zerocopy::IntoBytes;

const BLOCK: usize = 4096;
const BATCH: u16 = 32;

/// Data that costs nothing to get and to give back, so that only the machine is measured.
enum Data {
    Zeros,
    Owned(Box<[u8; BLOCK]>),
}

static ZEROS: [u8; BLOCK] = [0; BLOCK];

impl IoBuffer for Data {
    fn len(&self) -> usize {
        BLOCK
    }

    fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        if let Self::Owned(block) = self {
            block[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn part(&self, offset: usize) -> &[u8] {
        match self {
            Self::Zeros => &ZEROS[offset..],
            Self::Owned(block) => &block[offset..],
        }
    }
}

struct Null {
    pool: Vec<Box<[u8; BLOCK]>>,
}

impl CommandHandler for Null {
    type Buffer = Data;

    fn allocate(&mut self, _: usize) -> Option<Data> {
        self.pool.pop().map(Data::Owned)
    }

    fn execute(&mut self, _: CommandId, sqe: &Sqe, data: Option<Data>) -> Execution<Data> {
        if let Some(Data::Owned(block)) = data {
            self.pool.push(block);
        }
        Execution::Done(if sqe.opcode == opcode::io::READ {
            Completion::data(Data::Zeros)
        } else {
            Completion::result(0)
        })
    }
}

fn capsule(sqe: Sqe, data: &[u8]) -> Vec<u8> {
    let mut ch = CommonHeader::of(PduType::CAPSULE_CMD, 72);
    if !data.is_empty() {
        ch.pdo = 72;
    }
    ch.plen = u32::try_from(72 + data.len()).unwrap_or(0).into();
    let mut bytes = CapsuleCmd { ch, sqe }.as_bytes().to_vec();
    bytes.extend(data);
    bytes
}

fn connected() -> (TargetConn<Data>, Null) {
    let mut conn = TargetConn::new(TargetParams::default(), Now(0));
    let mut null = Null { pool: (0..64).map(|_| Box::new([0; BLOCK])).collect() };
    let mut connect = ConnectCommand::new(0);
    connect.sqsize = 127.into();
    connect.cattr = cattr::DISABLE_SQ_FLOW_CONTROL;
    connect.sgl = SglDescriptor::InCapsule { offset: 0, length: 1024 }.into();
    let mut bytes = IcReq::new(0, 0, 0).as_bytes().to_vec();
    bytes.extend(capsule(connect.to_sqe(), &[0; 1024]));
    assert_eq!(conn.on_bytes(&bytes, Now(0), &mut null), Progress::Consumed);
    let sent = conn.tx_pending();
    conn.on_sent(sent);
    (conn, null)
}

fn machine(c: &mut Criterion) {
    let length = 4096;
    let read = Sqe::new(opcode::io::READ, 1).with_sgl(SglDescriptor::Transport { length });
    let write = Sqe::new(opcode::io::WRITE, 1).with_sgl(SglDescriptor::InCapsule { offset: 0, length });
    let flush = Sqe::new(opcode::io::FLUSH, 1);
    let mut group = c.benchmark_group("target, one turn of 32 commands");
    group.throughput(Throughput::Elements(BATCH.into()));
    for (name, one) in [
        ("flush", capsule(flush, &[])),
        ("read 4 KiB", capsule(read, &[])),
        ("write 4 KiB", capsule(write, &ZEROS)),
    ] {
        let batch = one.repeat(BATCH.into());
        let (mut conn, mut null) = connected();
        group.bench_function(name, |b| {
            b.iter(|| {
                assert_eq!(conn.on_bytes(black_box(&batch), Now(0), &mut null), Progress::Consumed);
                let mut parts = ArrayVec::new();
                conn.gather(&mut parts);
                black_box(&parts);
                drop(parts);
                let sent = conn.tx_pending();
                conn.on_sent(sent);
            });
        });
    }
    group.finish();
}

fn digests(c: &mut Criterion) {
    // crc-fast against crc32c: 15 to 25 ns for a header, 170 to 550 for 4 KiB.
    for len in [24usize, 72, 4096, 131_072] {
        let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect();
        let mut group = c.benchmark_group(format!("CRC32C of {len} bytes"));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function("whole", |b| b.iter(|| crc_fast::crc32_iscsi(black_box(&data))));
        group.bench_function("continued", |b| {
            b.iter(|| {
                let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
                digest.update(black_box(&data));
                digest.finalize()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, machine, digests);
criterion_main!(benches);
