//! Reservations: the access table of the specification, the commands, and who is told.

use std::sync::atomic::Ordering;

use nvme::admin::GetLogPage;
use nvme::event::AsyncEvent;
use nvme::log::{ReservationNotification, lid};
use nvme::nvm::{
    AcquireAction, AcquireData, ChangePersistence, Flush, ReadWrite, RegisterAction, RegisterData,
    ReleaseAction, ReleaseData, ReservationAcquire, ReservationRegister, ReservationRelease,
    ReservationReport, ReservationStatusExtended, ReservationType,
};
use nvme::zerocopy::{FromBytes, IntoBytes};
use nvme::{Lba, Nsid, Status, U64};

use super::events::request_event;
use super::io::{pattern, sized};
use super::lab::{HeldDevice, Host, Lab};

const NS: Nsid = Nsid(1);
const CONFLICT: Status = Status::RESERVATION_CONFLICT;
const INVALID: Status = Status::INVALID_FIELD.dnr();

fn register(lab: &mut Lab, host: &mut Host, action: RegisterAction, current: u64, new: u64) -> Status {
    let persistence = ChangePersistence::NO_CHANGE;
    let ignore_key = false;
    let command = ReservationRegister { nsid: NS, action, ignore_key, dispersed: false, persistence };
    let data = RegisterData { crkey: U64::new(current), nrkey: U64::new(new) };
    lab.status(&mut host.io, command.to_sqe(1), Some(data.as_bytes()))
}

fn join(lab: &mut Lab, host: &mut Host, key: u64) {
    assert_eq!(register(lab, host, RegisterAction::REGISTER, 0, key), Status::SUCCESS);
}

fn acquire(lab: &mut Lab, host: &mut Host, action: AcquireAction, kind: u8, keys: (u64, u64)) -> Status {
    let kind = ReservationType(kind);
    let command = ReservationAcquire { nsid: NS, action, ignore_key: false, dispersed: false, kind };
    let data = AcquireData { crkey: U64::new(keys.0), prkey: U64::new(keys.1) };
    lab.status(&mut host.io, command.to_sqe(1), Some(data.as_bytes()))
}

fn release(lab: &mut Lab, host: &mut Host, action: ReleaseAction, kind: u8, key: u64) -> Status {
    let kind = ReservationType(kind);
    let command = ReservationRelease { nsid: NS, action, ignore_key: false, dispersed: false, kind };
    let data = ReleaseData { crkey: U64::new(key) };
    lab.status(&mut host.io, command.to_sqe(1), Some(data.as_bytes()))
}

/// Holder flag and key of each registrant; type and generation.
fn report(lab: &mut Lab, host: &mut Host) -> (Vec<(bool, u64)>, u8, u32) {
    let command = ReservationReport { nsid: NS, numd: 255, extended: true, dispersed: false };
    let page = lab.fetch(&mut host.io, command.to_sqe(1), 1024).unwrap();
    let (header, entries) = ReservationStatusExtended::ref_from_prefix(&page).unwrap();
    let entries = entries.chunks(64).take(usize::from(header.status.regctl.get()));
    let entry = |entry: &[u8]| (entry[2] & 1 == 1, u64::from_le_bytes(entry[8..16].try_into().unwrap()));
    (entries.map(entry).collect(), header.status.rtype, header.status.generation.get())
}

#[test]
fn every_type_admits_whom_the_specification_says() {
    // Type; may a registrant read, write; may another host read, write. The holder may do all.
    let table = [
        (1, (true, false), (true, false)),
        (2, (false, false), (false, false)),
        (3, (true, true), (true, false)),
        (4, (true, true), (false, false)),
        (5, (true, true), (true, false)),
        (6, (true, true), (false, false)),
    ];
    for (kind, registrant, other) in table {
        let mut lab = Lab::new(2);
        let mut hosts = [lab.host_on(1, 0, 0), lab.host_on(2, 0, 1), lab.host_on(3, 1, 1)];
        join(&mut lab, &mut hosts[0], 11);
        join(&mut lab, &mut hosts[1], 22);
        assert_eq!(acquire(&mut lab, &mut hosts[0], AcquireAction::ACQUIRE, kind, (11, 0)), Status::SUCCESS);
        let one = vec![0; 512];
        for (host, (reads, writes)) in hosts.iter_mut().zip([(true, true), registrant, other]) {
            let allowed = |may: bool| if may { Status::SUCCESS } else { CONFLICT };
            let read = sized(ReadWrite::read(NS, Lba(0), 1));
            assert_eq!(lab.status(&mut host.io, read, None), allowed(reads), "type {kind}");
            let compare = sized(ReadWrite::compare(NS, Lba(0), 1));
            assert_eq!(lab.status(&mut host.io, compare, Some(&one)), allowed(reads), "type {kind}");
            let write = sized(ReadWrite::write(NS, Lba(0), 1));
            assert_eq!(lab.status(&mut host.io, write, Some(&one)), allowed(writes), "type {kind}");
            let zero = ReadWrite::write_zeroes(NS, Lba(0), 1).to_sqe(1);
            assert_eq!(lab.status(&mut host.io, zero, None), allowed(writes), "type {kind}");
            let flush = Flush { nsid: NS }.to_sqe(1);
            assert_eq!(lab.status(&mut host.io, flush, None), allowed(writes), "type {kind}");
        }
        assert_eq!(release(&mut lab, &mut hosts[0], ReleaseAction::RELEASE, kind, 11), Status::SUCCESS);
        let write = sized(ReadWrite::write(NS, Lba(0), 1));
        assert_eq!(lab.status(&mut hosts[2].io, write, Some(&one)), Status::SUCCESS);
    }
}

#[test]
fn registration_follows_its_keys() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    assert_eq!(register(&mut lab, &mut host, RegisterAction::REGISTER, 0, 0), INVALID);
    assert_eq!(register(&mut lab, &mut host, RegisterAction::UNREGISTER, 0, 0), CONFLICT);
    assert_eq!(register(&mut lab, &mut host, RegisterAction::REPLACE, 0, 5), CONFLICT);
    join(&mut lab, &mut host, 5);
    join(&mut lab, &mut host, 5);
    assert_eq!(register(&mut lab, &mut host, RegisterAction::REGISTER, 0, 6), CONFLICT);
    assert_eq!(register(&mut lab, &mut host, RegisterAction::REPLACE, 4, 6), CONFLICT);
    assert_eq!(register(&mut lab, &mut host, RegisterAction::REPLACE, 5, 6), Status::SUCCESS);
    assert_eq!(report(&mut lab, &mut host), (vec![(false, 6)], 0, 3));
    assert_eq!(register(&mut lab, &mut host, RegisterAction(3), 6, 7), INVALID);
    assert_eq!(register(&mut lab, &mut host, RegisterAction::UNREGISTER, 6, 0), Status::SUCCESS);
    assert_eq!(report(&mut lab, &mut host), (vec![], 0, 4));
}

#[test]
fn reservations_that_survive_a_power_loss_are_refused() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let data = RegisterData { crkey: U64::new(0), nrkey: U64::new(1) };
    for (persistence, wanted) in
        [(ChangePersistence::SET, INVALID), (ChangePersistence::CLEAR, Status::SUCCESS)]
    {
        let action = RegisterAction::REGISTER;
        let command =
            ReservationRegister { nsid: NS, action, ignore_key: false, dispersed: false, persistence };
        assert_eq!(lab.status(&mut host.io, command.to_sqe(1), Some(data.as_bytes())), wanted);
    }
}

#[test]
fn acquiring_takes_a_registration_and_a_free_reservation() {
    let mut lab = Lab::new(1);
    let (mut one, mut two) = (lab.host(1), lab.host(2));
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 1, (5, 0)), CONFLICT);
    join(&mut lab, &mut one, 5);
    join(&mut lab, &mut two, 6);
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 1, (4, 0)), CONFLICT);
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 7, (5, 0)), INVALID);
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 1, (5, 0)), Status::SUCCESS);
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 1, (5, 0)), Status::SUCCESS);
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 2, (5, 0)), CONFLICT);
    assert_eq!(acquire(&mut lab, &mut two, AcquireAction::ACQUIRE, 1, (6, 0)), CONFLICT);
    assert_eq!(report(&mut lab, &mut two), (vec![(true, 5), (false, 6)], 1, 2));
    assert_eq!(release(&mut lab, &mut two, ReleaseAction::RELEASE, 1, 6), Status::SUCCESS);
    assert_eq!(release(&mut lab, &mut one, ReleaseAction::RELEASE, 2, 5), INVALID);
    assert_eq!(release(&mut lab, &mut one, ReleaseAction::RELEASE, 1, 4), CONFLICT);
    assert_eq!(release(&mut lab, &mut one, ReleaseAction::RELEASE, 1, 5), Status::SUCCESS);
    assert_eq!(report(&mut lab, &mut one).1, 0);
}

#[test]
fn preempting_takes_over_and_tells_the_victim() {
    let mut lab = Lab::new(2);
    let (mut one, mut two) = (lab.host_on(1, 0, 0), lab.host_on(2, 1, 1));
    join(&mut lab, &mut one, 5);
    join(&mut lab, &mut two, 6);
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 1, (5, 0)), Status::SUCCESS);
    let event = request_event(&mut lab, &mut one.admin);
    assert_eq!(acquire(&mut lab, &mut two, AcquireAction::PREEMPT, 2, (6, 9)), CONFLICT);
    assert_eq!(acquire(&mut lab, &mut two, AcquireAction::PREEMPT, 2, (6, 5)), Status::SUCCESS);
    assert_eq!(report(&mut lab, &mut two), (vec![(true, 6)], 2, 3));
    let told = AsyncEvent::from_result(lab.finish(&one.admin, event).result);
    assert_eq!((told.kind.0, told.info, told.lid), (6, 0, lid::RESERVATION_NOTIFICATION));
    let page = GetLogPage::new(lid::RESERVATION_NOTIFICATION, 64, 0).to_sqe(1);
    let notice = lab.fetch(&mut one.admin, page, 64).unwrap();
    let notice = ReservationNotification::read_from_bytes(&notice).unwrap();
    assert_eq!((notice.count.get(), notice.kind, notice.nsid.get()), (1, 1, 1));
    let empty = lab.fetch(&mut one.admin, page, 64).unwrap();
    assert_eq!(ReservationNotification::read_from_bytes(&empty), Ok(ReservationNotification::default()));
}

#[test]
fn preempt_and_abort_waits_for_io_in_flight() {
    let (device, gate) = HeldDevice::create("h0");
    let mut lab = Lab::with_device(2, device);
    let (mut one, mut two) = (lab.host_on(1, 0, 0), lab.host_on(2, 1, 1));
    join(&mut lab, &mut one, 5);
    join(&mut lab, &mut two, 6);
    let write = lab.start(&mut one.io, sized(ReadWrite::write(NS, Lba(0), 1)), Some(&pattern(1, 1)));
    let command = ReservationAcquire {
        nsid: NS,
        action: AcquireAction::PREEMPT_AND_ABORT,
        ignore_key: false,
        dispersed: false,
        kind: ReservationType(1),
    };
    let data = AcquireData { crkey: U64::new(6), prkey: U64::new(5) };
    let preempt = lab.start(&mut two.io, command.to_sqe(1), Some(data.as_bytes()));
    lab.settle();
    assert!(lab.completed(&two.io, preempt).is_none());
    gate.open.store(true, Ordering::Relaxed);
    assert_eq!(lab.finish(&two.io, preempt).status, Status::SUCCESS);
    assert_eq!(lab.finish(&one.io, write).status, Status::SUCCESS);
}

#[test]
fn the_last_of_all_registrants_frees_the_reservation() {
    let mut lab = Lab::new(1);
    let (mut one, mut two) = (lab.host(1), lab.host(2));
    join(&mut lab, &mut one, 5);
    join(&mut lab, &mut two, 6);
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 6, (5, 0)), Status::SUCCESS);
    assert_eq!(report(&mut lab, &mut one).0, [(true, 5), (true, 6)]);
    assert_eq!(register(&mut lab, &mut one, RegisterAction::UNREGISTER, 5, 0), Status::SUCCESS);
    assert_eq!(report(&mut lab, &mut two), (vec![(true, 6)], 6, 3));
    assert_eq!(register(&mut lab, &mut two, RegisterAction::UNREGISTER, 6, 0), Status::SUCCESS);
    assert_eq!(report(&mut lab, &mut two), (vec![], 0, 4));
}

#[test]
fn clearing_removes_everything() {
    let mut lab = Lab::new(1);
    let (mut one, mut two) = (lab.host(1), lab.host(2));
    join(&mut lab, &mut one, 5);
    join(&mut lab, &mut two, 6);
    assert_eq!(acquire(&mut lab, &mut one, AcquireAction::ACQUIRE, 2, (5, 0)), Status::SUCCESS);
    assert_eq!(release(&mut lab, &mut two, ReleaseAction::CLEAR, 0, 6), Status::SUCCESS);
    assert_eq!(report(&mut lab, &mut one), (vec![], 0, 3));
}

#[test]
fn a_report_of_short_host_identifiers_is_refused() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let command = ReservationReport { nsid: NS, numd: 15, extended: false, dispersed: false };
    let refused = lab.fetch(&mut host.io, command.to_sqe(1), 64);
    assert_eq!(refused, Err(Status::HOST_ID_INCONSISTENT_FORMAT.dnr()));
}
