//! What building and reading one structure of the wire costs.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use nvme::nvm::ReadWrite;
use nvme::tcp::{C2hData, CapsuleCmd, CapsuleResp, CommonHeader, PduType};
use nvme::zerocopy::{FromBytes, IntoBytes};
use nvme::{Cqe, Lba, Nsid, SglDescriptor, Sqe, Status};

const SGL: SglDescriptor = SglDescriptor::Transport { length: 4096 };

fn read_command(lba: u64) -> Sqe {
    ReadWrite::read(Nsid(1), Lba(lba), 8).to_sqe(7).with_sgl(SGL)
}

fn commands(c: &mut Criterion) {
    c.bench_function("SQE of a read: build", |b| b.iter(|| read_command(black_box(4711))));
    let sqe = read_command(4711);
    c.bench_function("SQE of a read: parse", |b| {
        b.iter(|| {
            let view = Sqe::ref_from_bytes(black_box(sqe.as_bytes())).ok();
            view.map(|sqe| (ReadWrite::from(sqe), sqe.sgl.decode(), sqe.psdt(), sqe.fuse()))
        });
    });
    c.bench_function("CQE: build", |b| {
        b.iter(|| Cqe::new(black_box(7), Status::SUCCESS).with_result(black_box(0)).with_sqhd(black_box(9)));
    });
    let cqe = Cqe::new(7, Status::SUCCESS);
    c.bench_function("CQE: parse", |b| {
        b.iter(|| {
            Cqe::ref_from_bytes(black_box(cqe.as_bytes())).ok().map(|cqe| (cqe.cid.get(), cqe.status()))
        });
    });
}

fn pdus(c: &mut Criterion) {
    let sqe = read_command(4711);
    c.bench_function("command capsule: build", |b| {
        b.iter(|| CapsuleCmd { ch: CommonHeader::of(PduType::CAPSULE_CMD, 72), sqe: black_box(sqe) });
    });
    let capsule = CapsuleCmd { ch: CommonHeader::of(PduType::CAPSULE_CMD, 72), sqe };
    c.bench_function("command capsule: parse", |b| {
        b.iter(|| {
            let view = CapsuleCmd::ref_from_bytes(black_box(capsule.as_bytes())).ok();
            view.map(|capsule| (capsule.ch.pdu_type(), capsule.ch.plen.get(), capsule.sqe.cid.get()))
        });
    });
    c.bench_function("response capsule: build", |b| {
        b.iter(|| CapsuleResp::new(Cqe::new(black_box(7), Status::SUCCESS)));
    });
    c.bench_function("C2HData header: build", |b| {
        b.iter(|| C2hData {
            ch: CommonHeader::of(PduType::C2H_DATA, 24),
            cccid: black_box(7).into(),
            datal: black_box(4096).into(),
            ..C2hData::default()
        });
    });
}

criterion_group!(benches, commands, pdus);
criterion_main!(benches);
