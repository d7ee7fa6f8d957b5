//! Identify, features, log pages.

use fabrics::NS_PER_MS;
use nvme::admin::{FeatureSelect, GetFeatures, GetLogPage, Identify, SetFeatures};
use nvme::features::{FeatureCapabilities, HostBehavior, NumberOfQueues, Timestamp, fid};
use nvme::identify::{
    Csi, IdentifyController, IdentifyNamespace, NamespaceIdentifier, NsidList, cns, decode_descriptors,
};
use nvme::log::{CommandsAndEffects, ErrorEntry, SmartLog, SupportedLogPages, lid};
use nvme::nvm::ReadWrite;
use nvme::zerocopy::{FromBytes, IntoBytes};
use nvme::{Lba, Nsid, Sqe, Status, opcode};

use super::events::log;
use super::io::{pattern, sized, write};
use super::lab::{BLOCKS, Lab, Link, subsystem};

const INVALID: Status = Status::INVALID_FIELD.dnr();
const GONE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.dnr();

fn identify(lab: &mut Lab, link: &mut Link, cns: u8, nsid: u32) -> Result<Vec<u8>, Status> {
    lab.fetch(link, Identify { nsid: Nsid(nsid), ..Identify::new(cns) }.to_sqe(1), 4096)
}

#[test]
fn identify_controller_advertises_what_there_is() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let id = identify(&mut lab, &mut host.admin, cns::CONTROLLER, 0).unwrap();
    let id = IdentifyController::read_from_bytes(&id).unwrap();
    assert_eq!((id.cntlid(), id.subnqn.nqn()), (host.cntlid, Ok(subsystem())));
    assert_eq!((id.mdts, id.nn.get(), id.maxcmd.get()), (5, 32, 128));
    assert_eq!((id.in_capsule_bytes(), id.iorcsz.get(), id.icdoff.get()), (8192, 1, 0));
    assert_eq!((id.sqes, id.cqes, id.kas.get(), id.msdbd), (0x66, 0x44, 10, 1));
    assert_eq!((id.oncs.get(), id.fuses.get(), id.oacs.get(), id.vwc), (0b1111_1101, 1, 0, 0b110));
    assert_eq!((id.cmic, id.anacap, id.anagrpmax.get()), (0b1011, 0b101_1111, 32));
    assert_eq!(id.sgls.get() & 0b11, 1);
}

#[test]
fn identify_namespace_describes_the_device() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let id = identify(&mut lab, &mut host.admin, cns::NAMESPACE, 1).unwrap();
    let id = IdentifyNamespace::read_from_bytes(&id).unwrap();
    assert_eq!((id.nsze.get(), id.block_bytes(), id.anagrpid.get()), (BLOCKS, Some(512), 1));
    assert_eq!((id.nmic, id.rescap), (1, 0b1111_1110));
    let info = lab.target.subsystem(&subsystem()).unwrap().namespaces.remove(0);
    assert_eq!(id.nguid, info.nguid);
    let list = identify(&mut lab, &mut host.admin, cns::NAMESPACE_DESCRIPTORS, 1).unwrap();
    let ids = decode_descriptors(&list);
    assert!(ids.contains(&NamespaceIdentifier::Uuid(info.uuid.into_bytes())));
    assert!(ids.contains(&NamespaceIdentifier::Csi(Csi::NVM)));
}

#[test]
fn identify_lists_and_refuses_as_specified() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let admin = &mut host.admin;
    let list = identify(&mut lab, admin, cns::ACTIVE_NSID_LIST, 0).unwrap();
    let list = NsidList::read_from_bytes(&list).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [Nsid(1)]);
    assert_eq!(identify(&mut lab, admin, cns::ACTIVE_NSID_LIST, 1), Ok(vec![0; 4096]));
    assert_eq!(identify(&mut lab, admin, cns::NAMESPACE, 2), Ok(vec![0; 4096]));
    let controllers = identify(&mut lab, admin, cns::CONTROLLER_LIST, 0).unwrap();
    assert_eq!(controllers[..2], [1, 0]);
    for cns in [cns::CSI_NAMESPACE, cns::CSI_CONTROLLER, cns::INDEPENDENT_NAMESPACE, cns::COMMAND_SET] {
        assert!(identify(&mut lab, admin, cns, 1).is_ok(), "{cns:#x}");
    }
    for (cns, nsid, status) in [
        (cns::NAMESPACE, 0, GONE),
        (cns::NAMESPACE, 33, GONE),
        (cns::NAMESPACE, u32::MAX, GONE),
        (cns::ACTIVE_NSID_LIST, u32::MAX, GONE),
        (cns::ACTIVE_NSID_LIST, u32::MAX - 1, GONE),
        (cns::NAMESPACE_DESCRIPTORS, 2, GONE),
        (cns::NVM_SET_LIST, 0, INVALID),
        (0x7F, 0, INVALID),
    ] {
        assert_eq!(identify(&mut lab, admin, cns, nsid), Err(status), "{cns:#x} {nsid}");
    }
    let zoned = Identify { csi: Csi::ZONED.0, ..Identify::new(cns::CSI_CONTROLLER) };
    assert_eq!(lab.fetch(admin, zoned.to_sqe(1), 4096), Err(INVALID));
    let short = Identify::new(cns::CONTROLLER).to_sqe(1);
    assert_eq!(lab.fetch(admin, short, 4095), Err(Status::DATA_SGL_LENGTH_INVALID.dnr()));
}

#[test]
fn commands_that_are_not_supported_are_invalid_opcodes() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    for command in [opcode::admin::CREATE_IO_SQ, opcode::admin::FORMAT_NVM, opcode::admin::SANITIZE, 0xC0] {
        assert_eq!(lab.status(&mut host.admin, Sqe::new(command, 1), None), Status::INVALID_OPCODE.dnr());
    }
}

fn get(lab: &mut Lab, link: &mut Link, feature: u8, sel: FeatureSelect) -> Result<u64, Status> {
    let done = lab.run(link, GetFeatures { sel, nsid: Nsid(1), ..GetFeatures::new(feature) }.to_sqe(1), None);
    if done.status.is_success() { Ok(done.result) } else { Err(done.status) }
}

fn set(lab: &mut Lab, link: &mut Link, feature: u8, value: u32) -> Status {
    lab.status(link, SetFeatures::new(feature, value).to_sqe(1), None)
}

#[test]
fn features_keep_what_is_set_and_know_their_defaults() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let admin = &mut host.admin;
    for (feature, value, kept) in [
        (fid::ARBITRATION, 0x0102_0303, 0x0102_0303),
        (fid::TEMPERATURE_THRESHOLD, 0x140, 0x140),
        (fid::ERROR_RECOVERY, 50, 50),
        (fid::WRITE_ATOMICITY, 1, 1),
        (fid::KEEP_ALIVE_TIMER, 1500, 2000),
        (fid::ASYNC_EVENT_CONFIG, 1 << 8, 1 << 8),
    ] {
        let before = get(&mut lab, admin, feature, FeatureSelect::Default);
        assert_eq!(set(&mut lab, admin, feature, value), Status::SUCCESS, "{feature:#x}");
        assert_eq!(get(&mut lab, admin, feature, FeatureSelect::Current), Ok(kept), "{feature:#x}");
        assert_eq!(get(&mut lab, admin, feature, FeatureSelect::Default), before, "{feature:#x}");
        let can = get(&mut lab, admin, feature, FeatureSelect::Capabilities).unwrap();
        let can = FeatureCapabilities(u32::try_from(can).unwrap());
        assert!(can.changeable() && !can.saveable(), "{feature:#x}");
    }
}

#[test]
fn features_are_refused_as_specified() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let admin = &mut host.admin;
    for (name, command, status) in [
        ("unknown", SetFeatures::new(0x7C, 0), INVALID),
        (
            "saved",
            SetFeatures { sv: true, ..SetFeatures::new(fid::ARBITRATION, 0) },
            Status::FEATURE_NOT_SAVEABLE.dnr(),
        ),
        (
            "of a namespace",
            SetFeatures { nsid: Nsid(1), ..SetFeatures::new(fid::ARBITRATION, 0) },
            Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr(),
        ),
        ("power state 1", SetFeatures::new(fid::POWER_MANAGEMENT, 1), INVALID),
        ("DULBE", SetFeatures::new(fid::ERROR_RECOVERY, 1 << 16), INVALID),
        ("no cache", SetFeatures::new(fid::VOLATILE_WRITE_CACHE, 1), INVALID),
        ("interrupts", SetFeatures::new(fid::INTERRUPT_COALESCING, 0), INVALID),
        ("host identifier", SetFeatures::new(fid::HOST_IDENTIFIER, 1), Status::COMMAND_SEQUENCE_ERROR.dnr()),
        (
            "queues while connected",
            SetFeatures::new(fid::NUMBER_OF_QUEUES, 0),
            Status::COMMAND_SEQUENCE_ERROR.dnr(),
        ),
        (
            "persistence",
            SetFeatures { nsid: Nsid(1), ..SetFeatures::new(fid::RESERVATION_PERSISTENCE, 1) },
            INVALID,
        ),
        (
            "mask of nothing",
            SetFeatures { nsid: Nsid(9), ..SetFeatures::new(fid::RESERVATION_NOTIFICATION_MASK, 2) },
            GONE,
        ),
        ("command set", SetFeatures::new(fid::COMMAND_SET_PROFILE, 1), INVALID),
    ] {
        assert_eq!(lab.status(admin, command.to_sqe(1), None), status, "{name}");
    }
    assert_eq!(get(&mut lab, admin, 0x7C, FeatureSelect::Current), Err(INVALID));
    assert_eq!(get(&mut lab, admin, fid::ARBITRATION, FeatureSelect::Reserved(5)), Err(INVALID));
}

#[test]
fn queues_are_granted_up_to_the_limit() {
    let mut lab = Lab::new(1);
    let (mut admin, _) = lab.controller(&super::lab::Dial::admin(1));
    for (wanted, granted) in [(4, 4), (64, 64), (200, 64)] {
        let command = SetFeatures::new(fid::NUMBER_OF_QUEUES, NumberOfQueues::both(wanted).0).to_sqe(1);
        let result = lab.run(&mut admin, command, None).result;
        assert_eq!(result, u64::from(NumberOfQueues::both(granted).0));
    }
    assert_eq!(set(&mut lab, &mut admin, fid::NUMBER_OF_QUEUES, 0xFFFF), INVALID);
}

#[test]
fn features_with_data_move_it() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let admin = &mut host.admin;
    let stamp = Timestamp::new(1_000_000, 0);
    let command = SetFeatures::new(fid::TIMESTAMP, 0).to_sqe(1);
    assert_eq!(lab.status(admin, command, Some(stamp.as_bytes())), Status::SUCCESS);
    lab.advance(250 * NS_PER_MS);
    let found = lab.fetch(admin, GetFeatures::new(fid::TIMESTAMP).to_sqe(1), 8).unwrap();
    assert_eq!(Timestamp::read_from_bytes(&found).unwrap().milliseconds(), 1_000_250);
    let behavior = HostBehavior { acre: 1, ..HostBehavior::default() };
    let command = SetFeatures::new(fid::HOST_BEHAVIOR, 0).to_sqe(1);
    assert_eq!(lab.status(admin, command, Some(behavior.as_bytes())), Status::SUCCESS);
    assert_eq!(lab.status(admin, command, None), Status::DATA_SGL_LENGTH_INVALID.dnr());
    let id = GetFeatures { cdw11: 1, ..GetFeatures::new(fid::HOST_IDENTIFIER) };
    assert_eq!(lab.fetch(admin, id.to_sqe(1), 16), Ok(vec![1; 16]));
}

#[test]
fn log_pages_say_what_is_supported_and_what_happened() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    assert_eq!(write(&mut lab, &mut host, 0, &pattern(0, 8)), Status::SUCCESS);
    let refused = sized(ReadWrite::read(Nsid(1), Lba(77), 300));
    assert_eq!(lab.status(&mut host.io, refused, None), INVALID);
    let admin = &mut host.admin;
    let smart = SmartLog::read_from_bytes(&log(&mut lab, admin, lid::SMART, 512)).unwrap();
    assert_eq!(
        (smart.host_writes.get(), smart.data_units_written.get(), smart.error_entries.get()),
        (1, 1, 1)
    );
    let errors = log(&mut lab, admin, lid::ERROR, 128);
    let error = ErrorEntry::read_from_bytes(&errors[..64]).unwrap();
    assert_eq!(
        (error.error_count.get(), error.status(), error.lba.get(), error.sqid.get()),
        (1, INVALID, 77, 1)
    );
    assert_eq!(errors[64..], [0; 64]);
    let effects = log(&mut lab, admin, lid::COMMANDS_AND_EFFECTS, 4096);
    let effects = CommandsAndEffects::read_from_bytes(&effects).unwrap();
    assert!(effects.io(opcode::io::WRITE).lbcc() && !effects.io(opcode::io::COPY).csupp());
    let pages = log(&mut lab, admin, lid::SUPPORTED_LOG_PAGES, 1024);
    let pages = SupportedLogPages::read_from_bytes(&pages).unwrap();
    for page in (0..=u8::MAX).filter(|page| pages.get(*page).lsupp()) {
        assert!(lab.fetch(admin, GetLogPage::new(page, 64, 0).to_sqe(1), 64).is_ok(), "{page:#x}");
    }
}

#[test]
fn log_pages_are_read_in_parts_and_not_beyond_their_end() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let admin = &mut host.admin;
    let whole = log(&mut lab, admin, lid::COMMANDS_AND_EFFECTS, 4096);
    let part = GetLogPage::new(lid::COMMANDS_AND_EFFECTS, 512, 1024).to_sqe(1);
    assert_eq!(lab.fetch(admin, part, 512).as_deref(), Ok(&whole[1024..1536]));
    let unaligned = GetLogPage { lpo: 2, ..GetLogPage::new(lid::SMART, 64, 0) };
    for (name, command) in [
        ("beyond the end", GetLogPage::new(lid::SMART, 64, 516)),
        ("far beyond the end", GetLogPage::new(lid::SMART, 64, 1 << 40)),
        ("unaligned", unaligned),
        ("more than MDTS", GetLogPage::new(lid::SMART, 1 << 20, 0)),
        ("not supported", GetLogPage::new(lid::TELEMETRY_HOST, 64, 0)),
        ("discovery", GetLogPage::new(lid::DISCOVERY, 64, 0)),
        ("of one namespace", GetLogPage { nsid: Nsid(1), ..GetLogPage::new(lid::SMART, 64, 0) }),
    ] {
        assert_eq!(lab.fetch(admin, command.to_sqe(1), 64), Err(INVALID), "{name}");
    }
}
