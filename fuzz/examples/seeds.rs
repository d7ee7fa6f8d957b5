//! Writes the hand-made inputs of the corpora: well-formed sessions a fuzzer can start from.
//! Run it from `fuzz/` after a format or a target changed: `cargo run -p pollux-fuzz --example seeds`.

use std::fs;
use std::path::Path;

use nvme::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Fes, H2cData, IcReq, IcResp, PduType, R2t, TermReq,
};
use nvme::zerocopy::IntoBytes;
use nvme::{Cqe, HostId, Lba, Nqn, Nsid, SglDescriptor, Sqe, Status, fabrics, nvm};

fn main() {
    for (name, bytes) in target_sessions() {
        write("tcp_target", name, &bytes);
    }
    for (name, bytes) in host_sessions() {
        write("tcp_host", name, &bytes);
    }
    for (name, bytes) in structures() {
        write("nvme_structures", name, &bytes);
    }
    for (name, bytes) in store_changes() {
        write("store_open", name, &bytes);
    }
    for (name, bytes) in store_structures() {
        write("store_structures", name, &bytes);
    }
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("the corpus folder can be made");
    fs::write(folder.join(name), bytes).expect("the corpus can be written");
}

/// An input: the choices, then everything as one piece.
fn whole(choices: u8, pdus: &[&[u8]]) -> Vec<u8> {
    let mut input = vec![choices, 0xff];
    pdus.iter().for_each(|pdu| input.extend_from_slice(pdu));
    input
}

/// An input cut into pieces of `size`.
fn cut(choices: u8, size: u8, pdus: &[&[u8]]) -> Vec<u8> {
    let mut input = vec![choices];
    for piece in pdus.concat().chunks(usize::from(size)) {
        input.push(u8::try_from(piece.len()).expect("pieces are short"));
        input.extend_from_slice(piece);
    }
    input
}

fn capsule(sqe: Sqe, data: &[u8]) -> Vec<u8> {
    let mut common = CommonHeader::of(PduType::CAPSULE_CMD, 72);
    let pdo = if data.is_empty() { 0 } else { 72 };
    common.pdo = pdo;
    common.plen.set(u32::try_from(72 + data.len()).expect("short"));
    let mut pdu = CapsuleCmd { ch: common, sqe }.as_bytes().to_vec();
    pdu.extend_from_slice(data);
    pdu
}

fn data_pdu(mut header: Vec<u8>, data: &[u8]) -> Vec<u8> {
    header[3] = 24;
    let plen = u32::try_from(24 + data.len()).expect("short");
    header[4..8].copy_from_slice(&plen.to_le_bytes());
    header.extend_from_slice(data);
    header
}

fn connect() -> Vec<u8> {
    let nqn: Nqn = "nqn.2026-01.io.pollux:fuzz".parse().expect("a valid NQN");
    let data = fabrics::ConnectData::new(HostId([7; 16]), nvme::ControllerId(0xffff), &nqn, &nqn);
    let sqe = fabrics::ConnectCommand::new(2)
        .to_sqe()
        .with_sgl(SglDescriptor::InCapsule { offset: 0, length: 1024 });
    capsule(sqe, data.as_bytes())
}

fn write_command(cid: u16, blocks: u32, sgl: SglDescriptor) -> Sqe {
    nvm::ReadWrite::write(Nsid(1), Lba(8), blocks).to_sqe(cid).with_sgl(sgl)
}

fn target_sessions() -> Vec<(&'static str, Vec<u8>)> {
    let hello = IcReq::new(0, 0, 0);
    let hello = hello.as_bytes();
    let digests = IcReq::new(0, 3, 3);
    let padded = IcReq::new(3, 0, 0);
    let connect = connect();
    let read = capsule(
        nvm::ReadWrite::read(Nsid(1), Lba(0), 1)
            .to_sqe(4)
            .with_sgl(SglDescriptor::Transport { length: 4096 }),
        &[],
    );
    let in_capsule =
        capsule(write_command(6, 1, SglDescriptor::InCapsule { offset: 0, length: 4096 }), &[9; 4096]);
    let big = capsule(write_command(8, 4, SglDescriptor::Transport { length: 16384 }), &[]);
    let h2c = data_pdu(h2c_header(8, 0, 0, 16384), &[3; 16384]);
    let too_long = capsule(write_command(10, 1, SglDescriptor::Transport { length: 1 << 30 }), &[]);
    let term = TermReq::new(PduType::H2C_TERM_REQ, Fes::INVALID_PDU_HEADER_FIELD, 8, 24);
    vec![
        ("hello", whole(0, &[hello])),
        ("hello-digests", whole(3, &[digests.as_bytes(), &connect])),
        ("hello-padded", whole(0, &[padded.as_bytes(), &connect, &read])),
        ("connect-read", whole(0, &[hello, &connect, &read])),
        ("connect-read-cut", cut(0, 7, &[hello, &connect, &read])),
        ("write-in-capsule", whole(0, &[hello, &connect, &in_capsule, &read])),
        ("write-r2t", whole(4, &[hello, &connect, &big, &h2c])),
        ("write-r2t-cut", cut(0x14, 200, &[hello, &connect, &big, &h2c])),
        ("too-long", whole(0, &[hello, &too_long, &read])),
        ("no-hello", whole(0, &[&read])),
        ("term", whole(0, &[hello, term.as_bytes()])),
        ("unasked-data", whole(0, &[hello, &h2c])),
    ]
}

fn h2c_header(cccid: u16, ttag: u16, offset: u32, length: u32) -> Vec<u8> {
    let mut ch = CommonHeader::of(PduType::H2C_DATA, 24);
    ch.flags = nvme::tcp::flags::LAST_PDU;
    let mut header = H2cData { ch, ..H2cData::default() };
    header.cccid.set(cccid);
    header.ttag.set(ttag);
    header.datao.set(offset);
    header.datal.set(length);
    header.as_bytes().to_vec()
}

fn c2h_header(cccid: u16, flags: u8, offset: u32, length: u32) -> Vec<u8> {
    let mut ch = CommonHeader::of(PduType::C2H_DATA, 24);
    ch.flags = flags;
    let mut header = C2hData { ch, ..C2hData::default() };
    header.cccid.set(cccid);
    header.datao.set(offset);
    header.datal.set(length);
    header.as_bytes().to_vec()
}

fn host_sessions() -> Vec<(&'static str, Vec<u8>)> {
    use nvme::tcp::flags::{LAST_PDU, SUCCESS};
    let hello = IcResp::new(0, 0, 128 << 10);
    let hello = hello.as_bytes();
    let digests = IcResp::new(0, 3, 4096);
    let data = data_pdu(c2h_header(0, LAST_PDU | SUCCESS, 0, 8192), &[1; 8192]);
    let half = data_pdu(c2h_header(0, 0, 0, 4096), &[1; 4096]);
    let rest = data_pdu(c2h_header(0, LAST_PDU, 4096, 4096), &[2; 4096]);
    let response = |cid| CapsuleResp::new(Cqe::new(cid, Status::SUCCESS)).as_bytes().to_vec();
    let r2t = R2t::new(1, 9, 0, 8192);
    let term = TermReq::new(PduType::C2H_TERM_REQ, Fes::HEADER_DIGEST_ERROR, 0, 0);
    // One empty piece first, so that a command is in flight when the answer comes.
    let after_hello = |pdus: &[&[u8]]| {
        let mut input = vec![16, 128];
        input.extend_from_slice(hello);
        input.extend_from_slice(&[0, 0, 0, 0xff]);
        pdus.iter().for_each(|pdu| input.extend_from_slice(pdu));
        input
    };
    vec![
        ("hello", whole(0, &[hello])),
        ("hello-digests", whole(3, &[digests.as_bytes()])),
        ("read-success", after_hello(&[&data])),
        ("read-two-pdus", after_hello(&[&half, &rest, &response(0)])),
        ("read-response-early", after_hello(&[&half, &response(0)])),
        ("write-response", after_hello(&[&response(1), &response(2)])),
        ("write-r2t", after_hello(&[r2t.as_bytes(), &response(1)])),
        ("twice", after_hello(&[&response(0), &response(0)])),
        ("term", after_hello(&[term.as_bytes()])),
        ("no-hello", whole(0, &[&response(0)])),
    ]
}

fn structures() -> Vec<(&'static str, Vec<u8>)> {
    let with_skip = |skip: u8, bytes: &[u8]| {
        let mut input = vec![skip];
        input.extend_from_slice(bytes);
        input
    };
    let read = nvm::ReadWrite::read(Nsid(1), Lba(u64::MAX), 65536).to_sqe(1);
    let connect = connect();
    vec![
        ("zeroes", vec![0; 4097]),
        ("ones", vec![0xff; 4097]),
        ("sqe", with_skip(0, read.as_bytes())),
        ("sqe-unaligned", with_skip(1, &[&[0], read.as_bytes()].concat())),
        ("connect-data", with_skip(72, &connect)),
        ("cqe", with_skip(0, Cqe::new(1, Status::INVALID_FIELD).as_bytes())),
        ("nqn", with_skip(0, b"nqn.2014-08.org.nvmexpress:uuid:2f8e4bd5-0c5a-4c43-9f0e-6a6a1f2f6a11")),
        ("nqn-bad", with_skip(0, b"nqn.2014-13.org.example:x")),
        ("icreq", with_skip(0, IcReq::new(31, 3, 15).as_bytes())),
    ]
}

/// A change of a store's block, whose checksum is made right.
fn patch(block: u16, offset: u16, content: &[u8]) -> Vec<u8> {
    let len = u8::try_from(content.len()).expect("short");
    [&block.to_le_bytes()[..], &offset.to_le_bytes(), &[len], content].concat()
}

/// Blocks of the device that `store_open` changes: superblock 0, checkpoints from 1 on, log, counts, map and data.
fn store_changes() -> Vec<(&'static str, Vec<u8>)> {
    // Every block of the device gets the same change: whichever kind it is meant for meets it.
    let everywhere = |offset, content: &[u8]| {
        (0..400u16).flat_map(|block| patch(block, offset, content)).collect::<Vec<u8>>()
    };
    vec![
        ("untouched", Vec::new()),
        ("superblock-gone", patch(0, 0, &[0; 8])),
        ("superblocks-huge", [patch(0, 40, &[0xff; 8]), patch(399, 40, &[0xff; 8])].concat()),
        ("superblocks-of-version-1", [patch(0, 12, &[1]), patch(399, 12, &[1])].concat()),
        ("superblock-log-of-one", patch(0, 56, &1u64.to_le_bytes())),
        ("newest-header-gone", patch(1, 8, &[0xff; 4])),
        ("sequence-everywhere", everywhere(32, &[0xff; 7])),
        ("first-target-everywhere", everywhere(64, &200u64.to_le_bytes())),
        ("lost-everywhere", everywhere(72, &1u64.to_le_bytes())),
        ("count-everywhere", everywhere(100, &[7, 0])),
        ("record-kind-everywhere", everywhere(64, &[8])),
        ("volume-flags", (2..12).flat_map(|block| patch(block, 33, &[0xff])).collect()),
        ("volume-height", (2..12).flat_map(|block| patch(block, 32, &[200])).collect()),
        ("checksum-wrong", patch(0x8000 | 20, 70, &[1])),
    ]
}

fn store_structures() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<_> = [
        ("superblock-zeroes", 0u8),
        ("checkpoint-zeroes", 1),
        ("map-zeroes", 2),
        ("counts-zeroes", 3),
        ("log-zeroes", 4),
    ]
    .map(|(name, kind)| (name, vec![kind]))
    .into();
    all.push(("map-ones", [&[2][..], &[0xff; 4088]].concat()));
    all.push(("counts-ones", [&[3][..], &[0xff; 4088]].concat()));
    let mut log = vec![4u8; 4089];
    log[1..].fill(1);
    // Up to its end, records of kind 1 with 257 bytes: not a whole number of entries.
    log[1 + 28..1 + 32].copy_from_slice(&[0, 16, 9, 0]);
    all.push(("log-ones", log));
    let mut delete = vec![0u8; 4089];
    delete[0] = 4;
    delete[1 + 28..1 + 32].copy_from_slice(&[80, 0, 1, 0]);
    delete[1 + 60] = 4;
    all.push(("log-delete", delete));
    all
}
