//! Bytes and offsets that others wrote down: what the Linux host and target put on the wire, and the offsets that
//! public headers assert.

use core::mem::offset_of;
use nvme::zerocopy::{FromBytes, IntoBytes};
use nvme::{
    ControllerId, Cqe, Direction, Fuse, HostId, Lba, Nqn, Nsid, Psdt, QueueId, Sgl, SglDescriptor, Sqe,
    Status, U16, U32, admin, fabrics, features, identify, log, nvm, opcode, properties, tcp,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).expect("ascii"), 16).expect("hex"))
        .collect()
}

fn padded(text: &str, bytes: usize) -> Vec<u8> {
    let mut out = hex(text);
    out.resize(bytes, 0);
    out
}

#[test]
fn icreq_of_a_linux_host_with_both_digests() {
    let wire = padded("00 00 80 00 80000000 0000 00 03 00000000", 128);
    assert_eq!(tcp::IcReq::new(0, tcp::digest::HEADER | tcp::digest::DATA, 0).as_bytes(), wire);
}

#[test]
fn icresp_of_a_linux_target() {
    let wire = padded("01 00 80 00 80000000 0000 00 00 00001000", 128);
    assert_eq!(tcp::IcResp::new(0, 0, 0x0010_0000).as_bytes(), wire);
}

#[test]
fn connect_of_a_linux_host_for_its_admin_queue() {
    // Opcode 7Fh, SGL, fctype 1; 1,024 bytes in the capsule; qid 0, 32 entries, keep alive 15 s.
    let wire = padded(
        "7f 40 0800 01 00000000000000000000000000000000000000
         0000000000000000 00040000 000000 01
         0000 0000 1f00 00 00 983a0000",
        64,
    );
    let connect = fabrics::ConnectCommand {
        sgl: SglDescriptor::InCapsule { offset: 0, length: 1024 }.into(),
        sqsize: U16::new(31),
        kato: U32::new(15_000),
        ..fabrics::ConnectCommand::new(8)
    };
    assert_eq!(connect.as_bytes(), wire);
    let sqe = Sqe::ref_from_bytes(&wire).expect("64 bytes");
    let view = fabrics::ConnectCommand::of(sqe);
    assert_eq!((view.qid(), view.queue_entries(), view.kato.get()), (QueueId::ADMIN, Some(32), 15_000));
    assert_eq!(fabrics::direction(sqe), Direction::HostToController);
}

#[test]
fn connect_data_has_its_names_at_256_and_512() {
    let host =
        Nqn::new("nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef").expect("valid");
    let data = fabrics::ConnectData::new(HostId([7; 16]), ControllerId::DYNAMIC, &Nqn::discovery(), &host);
    let bytes = data.as_bytes();
    assert_eq!(bytes[..18], *b"\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\xff\xff");
    assert_eq!(bytes[256..293], *b"nqn.2014-08.org.nvmexpress.discovery\0");
    assert_eq!(bytes[512..544], *b"nqn.2014-08.org.nvmexpress:uuid:");
}

#[test]
fn property_set_of_cc_enables_the_controller() {
    let wire = padded(
        "7f 40 0100 00 0000000000000000000000000000000000000000000000000000000000000000000000
         00 000000 14000000 0100460000000000",
        64,
    );
    let value = u64::from(properties::Cc::ENABLE_NVM.0);
    let set = fabrics::PropertySet::at(1, fabrics::PropertySize::Four, properties::offset::CC, value);
    assert_eq!(set.as_bytes(), wire);
}

#[test]
fn property_get_of_cap_asks_for_eight_bytes() {
    let get = fabrics::PropertyGet::at(2, fabrics::PropertySize::Eight, properties::offset::CAP);
    assert_eq!(get.as_bytes()[40..48], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fabrics::direction(&get.to_sqe()), Direction::None);
}

#[test]
fn read_of_a_linux_host_over_tcp() {
    // 8 blocks at 0x12_3456_789A of namespace 1, data by transport SGL of 4,096 bytes.
    let wire = padded(
        "02 40 2a00 01000000 0000000000000000 0000000000000000
         0000000000000000 00100000 000000 5a
         9a78563412000000 0700 0000 00000000",
        64,
    );
    let read = nvm::ReadWrite::read(Nsid(1), Lba(0x12_3456_789A), 8);
    let sqe = read.to_sqe(0x2A).with_sgl(SglDescriptor::Transport { length: 4096 });
    assert_eq!(sqe.as_bytes(), wire);
    assert_eq!(
        (sqe.psdt(), sqe.fuse(), sqe.direction()),
        (Psdt::Sgl, Fuse::Normal, Direction::ControllerToHost)
    );
}

#[test]
fn write_with_fua_sets_bit_30_and_fuse_stays_in_the_low_bits() {
    let sqe = nvm::ReadWrite::write(Nsid(1), Lba(0), 1).with_fua().to_sqe(1).with_fuse(Fuse::Second);
    assert_eq!(sqe.cdw12.get(), 1 << 30);
    assert_eq!(sqe.flags, 0b0100_0010);
}

#[test]
fn reservation_report_has_the_dwords_of_libnvme() {
    let report = nvm::ReservationReport { nsid: Nsid(1), numd: 15, extended: true, dispersed: true };
    let sqe = report.to_sqe(0);
    assert_eq!((sqe.cdw10.get(), sqe.cdw11.get(), report.data_bytes()), (15, 0b11, 64));
}

#[test]
fn reservation_acquire_puts_the_type_in_the_second_byte() {
    let acquire = nvm::ReservationAcquire {
        nsid: Nsid(1),
        action: nvm::AcquireAction::PREEMPT_AND_ABORT,
        ignore_key: false,
        dispersed: false,
        kind: nvm::ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    };
    assert_eq!(acquire.to_sqe(0).cdw10.get(), 0x0502);
}

#[test]
fn deallocate_of_linux_discard_is_attribute_4_with_zero_based_ranges() {
    let sqe = nvm::DatasetManagement::deallocate(Nsid(1), 256).to_sqe(0);
    assert_eq!((sqe.opcode, sqe.cdw10.get(), sqe.cdw11.get()), (9, 255, 4));
}

#[test]
fn get_log_page_of_a_discovery_header() {
    let mut command = admin::GetLogPage::new(log::lid::DISCOVERY, 1024, 0);
    command.rae = true;
    let sqe = command.to_sqe(0);
    assert_eq!(sqe.cdw10.get(), 0x00FF_8070);
    assert_eq!(sqe.cdw11.get(), 0);
}

#[test]
fn identify_descriptor_list_is_cns_3() {
    let command =
        admin::Identify { nsid: Nsid(5), ..admin::Identify::new(identify::cns::NAMESPACE_DESCRIPTORS) };
    let sqe = command.to_sqe(0);
    assert_eq!((sqe.nsid.get(), sqe.cdw10.get(), sqe.opcode), (5, 3, opcode::admin::IDENTIFY));
}

#[test]
fn number_of_queues_asks_in_both_halves() {
    assert_eq!(features::NumberOfQueues::both(4).0, 0x0003_0003);
}

#[test]
fn the_async_events_a_linux_host_enables_have_its_bits() {
    // Namespace attributes, firmware activation, ANA change, discovery change.
    let config = features::AsyncEventConfig(0)
        .with_namespace_attribute(true)
        .with_firmware_activation(true)
        .with_ana_change(true)
        .with_discovery_log(true);
    assert_eq!(config.0, 0x8000_0B00);
}

#[test]
fn statuses_have_the_codes_of_the_linux_host() {
    for (status, code) in [
        (Status::SUCCESS, 0x0),
        (Status::INVALID_NAMESPACE_OR_FORMAT, 0xB),
        (Status::DATA_SGL_LENGTH_INVALID, 0xF),
        (Status::HOST_ID_INCONSISTENT_FORMAT, 0x18),
        (Status::LBA_OUT_OF_RANGE, 0x80),
        (Status::RESERVATION_CONFLICT, 0x83),
        (Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED, 0x105),
        (Status::FEATURE_NOT_CHANGEABLE, 0x10E),
        (Status::CONNECT_INCOMPATIBLE_FORMAT, 0x180),
        (Status::CONNECT_CONTROLLER_BUSY, 0x181),
        (Status::CONNECT_INVALID_PARAMETERS, 0x182),
        (Status::CONNECT_RESTART_DISCOVERY, 0x183),
        (Status::CONNECT_INVALID_HOST, 0x184),
        (Status::AUTHENTICATION_REQUIRED, 0x191),
        (Status::WRITE_FAULT, 0x280),
        (Status::COMPARE_FAILURE, 0x285),
        (Status::ASYMMETRIC_ACCESS_PERSISTENT_LOSS, 0x301),
        (Status::ASYMMETRIC_ACCESS_INACCESSIBLE, 0x302),
        (Status::ASYMMETRIC_ACCESS_TRANSITION, 0x303),
        (Status::HOST_PATHING_ERROR, 0x370),
        (Status::ABORTED_BY_HOST, 0x371),
    ] {
        assert_eq!(status.code(), code, "{status}");
    }
    assert_eq!(Status::INVALID_FIELD.dnr().to_cqe_field(false), 0x8004);
}

#[test]
fn a_response_capsule_with_an_error_has_its_bytes() {
    let cqe = Cqe::new(0x1234, Status::INVALID_OPCODE.dnr()).with_sqhd(7);
    let wire = hex("05 00 18 00 18000000 0000000000000000 0700 0000 3412 0280");
    assert_eq!(tcp::CapsuleResp::new(cqe).as_bytes(), wire);
}

#[test]
fn a_termination_carries_its_status_and_the_offending_header() {
    let term = tcp::TermReq::new(tcp::PduType::C2H_TERM_REQ, tcp::Fes::INVALID_PDU_HEADER_FIELD, 4, 72);
    assert_eq!(term.as_bytes(), padded("03 00 18 00 60000000 0100 04000000", 24));
}

#[test]
fn an_r2t_has_its_bytes() {
    let wire = hex("09 00 18 00 18000000 0500 0100 00200000 00100000 00000000");
    assert_eq!(tcp::R2t::new(5, 1, 0x2000, 0x1000).as_bytes(), wire);
}

#[test]
fn a_keyed_descriptor_has_the_bytes_of_linux_rdma() {
    // Address, 24-bit length, key, then type 4h with subtype Fh: invalidate.
    let sgl = Sgl::from(SglDescriptor::KeyedDataBlock {
        address: 0x1122_3344_5566_7788,
        length: 0x01_0203,
        key: 0xAABB_CCDD,
        invalidate: true,
    });
    assert_eq!(sgl.bytes[..], hex("8877665544332211 030201 ddccbbaa 4f"));
}

#[test]
fn identify_controller_has_the_offsets_that_other_headers_assert() {
    use identify::IdentifyController as C;
    let offsets = [
        (offset_of!(C, mdts), 77),
        (offset_of!(C, cntlid), 78),
        (offset_of!(C, ver), 80),
        (offset_of!(C, oaes), 92),
        (offset_of!(C, ctratt), 96),
        (offset_of!(C, cntrltype), 111),
        (offset_of!(C, oacs), 256),
        (offset_of!(C, aerl), 259),
        (offset_of!(C, lpa), 261),
        (offset_of!(C, kas), 320),
        (offset_of!(C, anatt), 342),
        (offset_of!(C, nanagrpid), 348),
        (offset_of!(C, sqes), 512),
        (offset_of!(C, nn), 516),
        (offset_of!(C, oncs), 520),
        (offset_of!(C, vwc), 525),
        (offset_of!(C, sgls), 536),
        (offset_of!(C, subnqn), 768),
        (offset_of!(C, ioccsz), 1792),
        (offset_of!(C, icdoff), 1800),
        (offset_of!(C, msdbd), 1803),
        (offset_of!(C, ofcs), 1804),
        (offset_of!(C, psd), 2048),
        (offset_of!(C, vs), 3072),
    ];
    for (ours, theirs) in offsets {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn an_identify_controller_for_8_kib_in_capsule_says_516() {
    let controller = identify::IdentifyController { ioccsz: U32::new(516), ..Default::default() };
    assert_eq!(controller.in_capsule_bytes(), 8192);
    let none = identify::IdentifyController { ioccsz: U32::new(4), mdts: 5, ..Default::default() };
    assert_eq!((none.in_capsule_bytes(), none.data_bytes_max(0)), (0, Some(128 * 1024)));
}

#[test]
fn a_namespace_of_4_kib_blocks_says_12() {
    let mut namespace = identify::IdentifyNamespace { flbas: 0x21, ..Default::default() };
    namespace.lbaf[0x11] = identify::LbaFormat::new(12);
    assert_eq!((namespace.format_index(), namespace.block_bytes()), (0x11, Some(4096)));
    assert_eq!(identify::IdentifyNamespace::default().block_bytes(), None);
}
