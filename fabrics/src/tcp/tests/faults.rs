//! Every framing error, with the status and information its TermReq carries (NVMe/TCP 1.0 §3.6.2.4, §3.6.2.5).

use nvme::tcp::{CommonHeader, Fes, IcReq, PduType, TermReq, flags};
use nvme::{Cqe, Sgl, SglDescriptor, Sqe, Status};
use zerocopy::{FromBytes, IntoBytes};

use super::pipe::{Disk, Ends, FLUSH, T0, WRITE, read_command, sent_by_host, sent_by_target};
use crate::tcp::host::{HostConn, HostData, HostParams, HostProgress};
use crate::tcp::target::{Progress, TargetConn, TargetParams};
use crate::tcp::{CloseReason, ConnState, Fault};

/// A PDU made of raw parts.
fn pdu(pdu_type: PduType, pdu_flags: u8, pdo: u8, header: &[u8], data: &[u8]) -> Vec<u8> {
    let hlen = u8::try_from(8 + header.len()).unwrap();
    let mut ch = CommonHeader::of(pdu_type, hlen);
    ch.flags = pdu_flags;
    ch.pdo = pdo;
    let start = if data.is_empty() { usize::from(hlen) } else { usize::from(pdo) };
    ch.plen = u32::try_from(start + data.len()).unwrap().into();
    let mut bytes = ch.as_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(start.max(bytes.len()), 0);
    bytes.extend(data);
    bytes
}

fn with(mut bytes: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

fn ic_req() -> Vec<u8> {
    IcReq::new(0, 0, 0).as_bytes().to_vec()
}

fn capsule(sqe: Sqe, data: &[u8]) -> Vec<u8> {
    pdu(PduType::CAPSULE_CMD, 0, if data.is_empty() { 0 } else { 72 }, sqe.as_bytes(), data)
}

fn write(sgl: SglDescriptor) -> Sqe {
    Sqe::new(WRITE, 0x77).with_sgl(Sgl::from(sgl))
}

/// An H2CData PDU: identifier, tag, offset, announced length.
fn h2c(cccid: u16, ttag: u16, datao: u32, datal: u32, pdu_flags: u8, data: &[u8]) -> Vec<u8> {
    let mut header = vec![];
    header.extend(cccid.to_le_bytes());
    header.extend(ttag.to_le_bytes());
    header.extend(datao.to_le_bytes());
    header.extend(datal.to_le_bytes());
    header.extend([0; 4]);
    pdu(PduType::H2C_DATA, pdu_flags, 24, &header, data)
}

/// The TermReq at the end of what a machine sent.
fn term(sent: &[u8]) -> (Fes, u32, Vec<u8>) {
    let start = (0..sent.len()).find(|at| {
        TermReq::ref_from_prefix(&sent[*at..]).is_ok_and(|(term, _)| {
            matches!(term.ch.pdu_type(), PduType::C2H_TERM_REQ | PduType::H2C_TERM_REQ)
                && term.ch.hlen == 24
                && term.ch.plen.get() as usize == sent.len() - *at
        })
    });
    let (term, header) = TermReq::ref_from_prefix(&sent[start.unwrap()..]).unwrap();
    (term.fes(), term.fei.get(), header.to_vec())
}

/// A target after its handshake, with a write of 8,192 bytes waiting for data under tag 0x00.
fn target_awaiting_data() -> TargetConn<Vec<u8>> {
    let params = TargetParams { max_h2c_data: 4096, ..TargetParams::default() };
    let mut conn = TargetConn::new(params, T0);
    let mut disk = Disk::new(1 << 16, None);
    let mut start = ic_req();
    start.extend(capsule(write(SglDescriptor::Transport { length: 8192 }), &[]));
    assert_eq!(conn.on_bytes(&start, T0, &mut disk), Progress::Consumed);
    let sent = sent_by_target(&conn);
    assert_eq!(sent.len(), 128 + 24);
    conn.on_sent(sent.len());
    conn
}

fn check_target(conn: &mut TargetConn<Vec<u8>>, bad: &[u8], fes: Fes, fei: u32, what: &str) {
    let mut disk = Disk::new(1 << 16, None);
    assert_eq!(conn.on_bytes(bad, T0, &mut disk), Progress::Closing, "{what}");
    assert!(disk.executed.is_empty(), "{what}");
    let sent = sent_by_target(conn);
    let (got_fes, got_fei, header) = term(&sent);
    assert_eq!((got_fes, got_fei), (fes, fei), "{what}");
    assert!(header.len() >= 8, "{what}");
    assert_eq!(header, bad[..header.len()], "{what}: the header at fault is sent back");
    let reason = CloseReason::Fault(Fault { fes, fei });
    assert_eq!(conn.state(), ConnState::Terminating(reason), "{what}");
    conn.on_sent(sent.len());
    assert_eq!(conn.state(), ConnState::Closed(reason), "{what}");
}

#[test]
fn a_target_names_every_fault_of_a_handshake() {
    let fresh = || TargetConn::new(TargetParams::default(), T0);
    let field = Fes::INVALID_PDU_HEADER_FIELD;
    for (what, bad, fes, fei) in [
        ("a command before ICReq", capsule(Sqe::new(FLUSH, 1), &[]), Fes::PDU_SEQUENCE_ERROR, 0),
        ("data before ICReq", h2c(0, 0, 0, 4, 0, &[1; 4]), Fes::PDU_SEQUENCE_ERROR, 0),
        ("an unknown type", with(ic_req(), 0, &[0x42]), field, 0),
        ("a type of the controller", with(ic_req(), 0, &[PduType::IC_RESP.0]), field, 0),
        ("HLEN", with(ic_req(), 2, &[127]), field, 2),
        ("PLEN", with(ic_req(), 4, &[129]), field, 4),
        ("a digest before it is agreed", with(ic_req(), 1, &[flags::HDGSTF]), field, 1),
        ("PFV", with(ic_req(), 8, &[1]), Fes::UNSUPPORTED_PARAMETER, 8),
        ("HPDA", with(ic_req(), 10, &[32]), field, 10),
    ] {
        check_target(&mut fresh(), &bad, fes, fei, what);
    }
}

#[test]
fn a_target_names_every_fault_of_a_data_transfer() {
    let field = Fes::INVALID_PDU_HEADER_FIELD;
    let good = h2c(0x77, 0, 0, 4096, 0, &[1; 4096]);
    for (what, bad, fes, fei) in [
        ("a second ICReq", ic_req(), Fes::PDU_SEQUENCE_ERROR, 0),
        ("an unknown type", with(good.clone(), 0, &[0x08]), field, 0),
        ("HLEN", with(good.clone(), 2, &[28]), field, 2),
        ("PDO before the end of the header", with(good.clone(), 3, &[20]), field, 3),
        ("PDO not aligned", with(good.clone(), 3, &[26]), field, 3),
        ("PLEN shorter than the header", with(good.clone(), 4, &[20, 0, 0, 0]), field, 4),
        ("PLEN without data", with(good.clone(), 4, &[24, 0, 0, 0]), field, 4),
        ("a header digest that is not agreed", with(good.clone(), 1, &[flags::HDGSTF]), field, 1),
        ("a data digest that is not agreed", with(good.clone(), 1, &[flags::DDGSTF]), field, 1),
        ("CCCID", with(good.clone(), 8, &[0x78]), field, 8),
        ("a tag of no R2T", with(good.clone(), 10, &[1]), field, 10),
        ("a tag of no slot", with(good.clone(), 10, &[0xF0, 0xFF]), field, 10),
        ("DATAL", with(good.clone(), 16, &[1]), field, 16),
        ("data out of order", with(good.clone(), 12, &[4]), Fes::DATA_TRANSFER_OUT_OF_RANGE, 0),
        ("LAST_PDU too early", with(good.clone(), 1, &[flags::LAST_PDU]), field, 1),
        ("more than MAXH2CDATA", h2c(0x77, 0, 0, 4100, 0, &[1; 4100]), Fes::DATA_TRANSFER_LIMIT_EXCEEDED, 0),
        ("a capsule with a wrong HLEN", with(capsule(Sqe::new(FLUSH, 1), &[]), 2, &[64]), field, 2),
        ("a capsule that is too short", with(capsule(Sqe::new(FLUSH, 1), &[]), 4, &[71]), field, 4),
        ("a capsule with too much data", capsule(Sqe::new(WRITE, 1), &[0; 8196]), field, 4),
        (
            "a capsule with data before its header's end",
            with(capsule(Sqe::new(WRITE, 1), &[0; 512]), 3, &[68]),
            field,
            3,
        ),
    ] {
        check_target(&mut target_awaiting_data(), &bad, fes, fei, what);
    }
}

#[test]
fn data_past_the_end_of_the_command_or_of_its_r2t_is_out_of_range() {
    let mut conn = target_awaiting_data();
    let mut disk = Disk::new(1 << 16, None);
    let first = h2c(0x77, 0, 0, 4092, 0, &[1; 4092]);
    assert_eq!(conn.on_bytes(&first, T0, &mut disk), Progress::Consumed);
    let second = h2c(0x77, 0, 4092, 4096, 0, &[1; 4096]);
    assert_eq!(conn.on_bytes(&second, T0, &mut disk), Progress::Consumed);
    let beyond = h2c(0x77, 0, 8188, 8, flags::LAST_PDU, &[1; 8]);
    check_target(&mut conn, &beyond, Fes::DATA_TRANSFER_OUT_OF_RANGE, 0, "past the end");
}

#[test]
fn the_end_of_an_r2t_without_last_pdu_is_a_fault() {
    let mut conn = target_awaiting_data();
    let mut disk = Disk::new(1 << 16, None);
    assert_eq!(conn.on_bytes(&h2c(0x77, 0, 0, 4096, 0, &[1; 4096]), T0, &mut disk), Progress::Consumed);
    let bad = h2c(0x77, 0, 4096, 4096, 0, &[1; 4096]);
    check_target(&mut conn, &bad, Fes::INVALID_PDU_HEADER_FIELD, 1, "LAST_PDU missing");
}

#[test]
fn data_after_the_transfer_is_complete_names_no_r2t() {
    let mut conn = target_awaiting_data();
    let mut disk = Disk::new(1 << 16, None);
    assert_eq!(conn.on_bytes(&h2c(0x77, 0, 0, 4096, 0, &[1; 4096]), T0, &mut disk), Progress::Consumed);
    let last = h2c(0x77, 0, 4096, 4096, flags::LAST_PDU, &[1; 4096]);
    assert_eq!(conn.on_bytes(&last, T0, &mut disk), Progress::Consumed);
    assert_eq!(disk.executed.len(), 1);
    let sent = sent_by_target(&conn);
    conn.on_sent(sent.len());
    check_target(&mut conn, &last, Fes::INVALID_PDU_HEADER_FIELD, 10, "data again");
}

#[test]
fn a_term_req_of_the_host_closes_at_once() {
    let mut conn = target_awaiting_data();
    let fault = Fault { fes: Fes::HEADER_DIGEST_ERROR, fei: 0xABCD };
    let mut bytes = TermReq::new(PduType::H2C_TERM_REQ, fault.fes, fault.fei, 8).as_bytes().to_vec();
    bytes.extend([0; 8]);
    let mut disk = Disk::new(16, None);
    assert_eq!(conn.on_bytes(&bytes, T0, &mut disk), Progress::Closing);
    assert_eq!(conn.state(), ConnState::Closed(CloseReason::PeerTerminated(fault)));
    assert_eq!(conn.tx_pending(), 0);
}

/// What a target answers to a command, by status; the connection stays up.
fn status_of(params: TargetParams, bytes: &[u8]) -> Status {
    let mut conn = TargetConn::new(params, T0);
    let mut disk = Disk::new(1 << 16, None);
    assert_eq!(conn.on_bytes(&ic_req(), T0, &mut disk), Progress::Consumed);
    conn.on_sent(128);
    assert_eq!(conn.on_bytes(bytes, T0, &mut disk), Progress::Consumed);
    assert_eq!(conn.state(), ConnState::Ready);
    let sent = sent_by_target(&conn);
    let cqe = Cqe::read_from_bytes(&sent[sent.len() - 16..]).unwrap();
    assert_eq!(sent.len(), 24);
    cqe.status()
}

#[test]
fn a_bad_data_pointer_fails_the_command_and_nothing_else() {
    let params = TargetParams::default();
    let data = [7u8; 512];
    let length = 512;
    let mut prp = write(SglDescriptor::Transport { length });
    prp.flags = 0;
    let into_capsule = read_command(0, 512).with_sgl(SglDescriptor::InCapsule { offset: 0, length });
    let too_long = (1 << 20) + 4;
    for (what, bytes, status) in [
        ("PRP", capsule(prp, &[]), Status::INVALID_FIELD),
        (
            "in-capsule offset",
            capsule(write(SglDescriptor::InCapsule { offset: 4, length }), &data),
            Status::SGL_OFFSET_INVALID,
        ),
        (
            "longer than the capsule",
            capsule(write(SglDescriptor::InCapsule { offset: 0, length: 516 }), &data),
            Status::DATA_SGL_LENGTH_INVALID,
        ),
        (
            "shorter than the capsule",
            capsule(write(SglDescriptor::InCapsule { offset: 0, length: 508 }), &data),
            Status::DATA_SGL_LENGTH_INVALID,
        ),
        (
            "data in the capsule and asked for",
            capsule(write(SglDescriptor::Transport { length }), &data),
            Status::DATA_SGL_LENGTH_INVALID,
        ),
        ("data for a command without", capsule(Sqe::new(FLUSH, 1), &data), Status::DATA_SGL_LENGTH_INVALID),
        ("a read into the capsule", capsule(into_capsule, &data), Status::INVALID_FIELD),
        (
            "a keyed descriptor",
            capsule(
                write(SglDescriptor::KeyedDataBlock { address: 1, length, key: 2, invalidate: false }),
                &[],
            ),
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
        ),
        (
            "longer than a command may be",
            capsule(write(SglDescriptor::Transport { length: too_long }), &[]),
            Status::DATA_SGL_LENGTH_INVALID,
        ),
    ] {
        assert!(status_of(params, &bytes).is(status), "{what}");
    }
}

#[test]
fn a_command_with_an_sgl_of_no_length_runs_without_data() {
    for sgl in [
        SglDescriptor::Transport { length: 0 },
        SglDescriptor::InCapsule { offset: 0, length: 0 },
        SglDescriptor::DataBlock { address: 0, length: 0 },
    ] {
        assert_eq!(status_of(TargetParams::default(), &capsule(write(sgl), &[])), Status::SUCCESS);
    }
}

/// A host after its handshake, with a read of 4,096 bytes (identifier 0) and a write of 8,192 (identifier 1) under way.
fn host_with_commands() -> (HostConn<Vec<u8>>, Ends) {
    let params = HostParams { depth: 4, in_capsule_data_size: 0, ..HostParams::default() };
    let mut host = HostConn::new(params, T0);
    let mut ends = Ends::default();
    let response = nvme::tcp::IcResp::new(0, 0, 4096);
    assert_eq!(host.on_bytes(response.as_bytes(), T0, &mut ends), HostProgress::Consumed);
    host.submit(read_command(0, 4096), HostData::FromController(vec![0; 4096]), 10, T0).unwrap();
    host.submit(Sqe::new(WRITE, 0), HostData::ToController(vec![0; 8192]), 11, T0).unwrap();
    let len = host.tx_pending();
    host.on_sent(len, &mut ends);
    (host, ends)
}

fn c2h(cccid: u16, datao: u32, datal: u32, pdu_flags: u8, data: &[u8]) -> Vec<u8> {
    with(h2c(cccid, 0, datao, datal, pdu_flags, data), 0, &[PduType::C2H_DATA.0])
}

fn r2t(cccid: u16, r2to: u32, r2tl: u32) -> Vec<u8> {
    let header = &h2c(cccid, 0x99, r2to, r2tl, 0, &[])[8..24];
    pdu(PduType::R2T, 0, 0, header, &[])
}

fn response(cid: u16) -> Vec<u8> {
    pdu(PduType::CAPSULE_RESP, 0, 0, Cqe::new(cid, Status::SUCCESS).as_bytes(), &[])
}

#[test]
fn a_host_names_every_fault_of_a_controller_and_fails_what_is_outstanding() {
    let field = Fes::INVALID_PDU_HEADER_FIELD;
    let out_of_range = Fes::DATA_TRANSFER_OUT_OF_RANGE;
    let data = [5u8; 4096];
    for (what, bad, fes, fei) in [
        ("a response to nothing", response(0x33), field, 20),
        ("a response to a later generation", response(4), field, 20),
        ("a response of the wrong length", with(response(0), 4, &[25]), field, 4),
        ("an unknown type", with(response(0), 0, &[0x0C]), field, 0),
        ("a type of the host", with(response(0), 0, &[PduType::CAPSULE_CMD.0]), field, 0),
        ("ICResp again", nvme::tcp::IcResp::new(0, 0, 4096).as_bytes().to_vec(), Fes::PDU_SEQUENCE_ERROR, 0),
        ("data for nothing", c2h(2, 0, 4096, 4, &data), field, 8),
        ("data for a write", c2h(1, 0, 4096, 4, &data), field, 8),
        ("data out of order", c2h(0, 4, 4092, 4, &data[..4092]), out_of_range, 0),
        ("data past the end", c2h(0, 0, 5000, 4, &[0; 5000]), out_of_range, 0),
        ("DATAL", c2h(0, 0, 4092, 4, &data), field, 16),
        ("SUCCESS without LAST_PDU", c2h(0, 0, 4096, flags::SUCCESS, &data), field, 1),
        ("an R2T for a read", r2t(0, 0, 4096), field, 8),
        ("an R2T past the end", r2t(1, 0, 8196), out_of_range, 0),
        ("an R2T out of order", r2t(1, 4096, 4096), out_of_range, 0),
        ("an R2T for nothing", r2t(1, 0, 0), out_of_range, 0),
    ] {
        let (mut host, mut ends) = host_with_commands();
        assert_eq!(host.on_bytes(&bad, T0, &mut ends), HostProgress::Closing, "{what}");
        let sent = sent_by_host(&host);
        let (got_fes, got_fei, header) = term(&sent);
        assert_eq!((got_fes, got_fei), (fes, fei), "{what}");
        assert_eq!(header, bad[..header.len()], "{what}");
        assert!(ends.failed.is_empty(), "{what}: buffers are kept until all is sent");
        host.on_sent(sent.len(), &mut ends);
        assert_eq!(host.state(), ConnState::Closed(CloseReason::Fault(Fault { fes, fei })), "{what}");
        assert_eq!(ends.failed.keys().copied().collect::<Vec<_>>(), [10, 11], "{what}");
        assert_eq!(host.in_flight(), 0, "{what}");
    }
}

#[test]
fn an_r2t_while_an_earlier_one_is_not_yet_served_exceeds_maxr2t() {
    let (mut host, mut ends) = host_with_commands();
    let long = 1 << 20;
    host.submit(Sqe::new(WRITE, 0), HostData::ToController(vec![0; long]), 12, T0).unwrap();
    // More than the queue of unsent data takes: part of the first R2T stays to be served.
    assert_eq!(host.on_bytes(&r2t(2, 0, 400_000), T0, &mut ends), HostProgress::Consumed);
    assert!(host.tx_pending() < 400_000);
    assert_eq!(host.on_bytes(&r2t(2, 400_000, 4), T0, &mut ends), HostProgress::Closing);
    assert_eq!(term(&sent_by_host(&host)).0, Fes::R2T_LIMIT_EXCEEDED);
}

#[test]
fn a_host_refuses_a_bad_handshake() {
    let good = || nvme::tcp::IcResp::new(0, 0, 4096).as_bytes().to_vec();
    let field = Fes::INVALID_PDU_HEADER_FIELD;
    for (what, bad, fes, fei) in [
        ("a response before ICResp", response(0), Fes::PDU_SEQUENCE_ERROR, 0),
        ("PFV", with(good(), 8, &[1]), Fes::UNSUPPORTED_PARAMETER, 8),
        ("CPDA", with(good(), 10, &[32]), field, 10),
        ("MAXH2CDATA too small", with(good(), 12, &[0, 8, 0, 0]), field, 12),
        ("MAXH2CDATA not in dwords", with(good(), 12, &[2, 16, 0, 0]), field, 12),
        ("PLEN", with(good(), 4, &[127]), field, 4),
    ] {
        let mut host = HostConn::<Vec<u8>>::new(HostParams::default(), T0);
        let mut ends = Ends::default();
        assert_eq!(host.on_bytes(&bad, T0, &mut ends), HostProgress::Closing, "{what}");
        let (got_fes, got_fei, _) = term(&sent_by_host(&host));
        assert_eq!((got_fes, got_fei), (fes, fei), "{what}");
    }
}

#[test]
fn a_second_answer_to_a_command_is_a_fault() {
    let (mut host, mut ends) = host_with_commands();
    let mut bytes = c2h(0, 0, 4096, flags::LAST_PDU | flags::SUCCESS, &[5; 4096]);
    assert_eq!(host.on_bytes(&bytes, T0, &mut ends), HostProgress::Consumed);
    assert_eq!(ends.completed[&10].2.as_deref(), Some(&[5u8; 4096][..]));
    bytes = response(0);
    assert_eq!(host.on_bytes(&bytes, T0, &mut ends), HostProgress::Closing);
    assert_eq!(ends.completed.len(), 1);
}

#[test]
fn an_early_error_answer_stops_the_data_and_keeps_the_buffer_until_it_is_sent() {
    let (mut host, mut ends) = host_with_commands();
    assert_eq!(host.on_bytes(&r2t(1, 0, 8192), T0, &mut ends), HostProgress::Consumed);
    host.on_sent(100, &mut ends);
    let cqe = Cqe::new(1, Status::INTERNAL_ERROR);
    let bytes = pdu(PduType::CAPSULE_RESP, 0, 0, cqe.as_bytes(), &[]);
    assert_eq!(host.on_bytes(&bytes, T0, &mut ends), HostProgress::Consumed);
    assert!(ends.completed.is_empty());
    let left = host.tx_pending();
    host.on_sent(left, &mut ends);
    assert!(ends.completed[&11].0.is(Status::INTERNAL_ERROR));
    assert_eq!(ends.completed[&11].2.as_ref().map(Vec::len), Some(8192));
}
