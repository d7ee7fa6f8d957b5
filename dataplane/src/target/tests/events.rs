//! Asynchronous events, aborts, ANA states: what admin queues hear and paths do.

use std::sync::atomic::Ordering;

use nvme::admin::{Abort, GetLogPage, SetFeatures};
use nvme::event::AsyncEvent;
use nvme::features::fid;
use nvme::log::{AnaGroups, AnaState as Wire, lid};
use nvme::nvm::ReadWrite;
use nvme::{Lba, Nsid, QueueId, Sqe, Status, opcode};

use super::io::{pattern, read, sized};
use super::lab::{BLOCK, HeldDevice, Lab, Link, address, memory, subsystem};
use crate::target::{AnaState, NamespaceOptions};

pub(super) fn request_event(lab: &mut Lab, link: &mut Link) -> u32 {
    lab.start(link, Sqe::new(opcode::admin::ASYNC_EVENT_REQUEST, 90), None)
}

pub(super) fn log(lab: &mut Lab, link: &mut Link, page: u8, bytes: u32) -> Vec<u8> {
    lab.fetch(link, GetLogPage::new(page, bytes, 0).to_sqe(1), bytes).unwrap()
}

fn changed(lab: &mut Lab, link: &mut Link) -> Vec<u32> {
    let page = log(lab, link, lid::CHANGED_NAMESPACES, 4096);
    let words = page.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    words.take_while(|nsid| *nsid != 0).collect()
}

#[test]
fn hosts_hear_of_namespaces_that_come_and_go() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let first = request_event(&mut lab, &mut host.admin);
    let second = request_event(&mut lab, &mut host.admin);
    lab.control(|target| target.add_namespace(&subsystem(), NamespaceOptions::new(memory("m1"))).unwrap());
    let event = AsyncEvent::from_result(lab.finish(&host.admin, first).result);
    assert_eq!((event.kind.0, event.info, event.lid), (2, 0, lid::CHANGED_NAMESPACES));
    lab.control(|target| target.remove_namespace(&subsystem(), Nsid(1)).unwrap());
    assert!(lab.completed(&host.admin, second).is_none());
    assert_eq!(changed(&mut lab, &mut host.admin), [1, 2]);
    assert_eq!(changed(&mut lab, &mut host.admin), [0_u32; 0]);
    assert_eq!(read(&mut lab, &mut host, 0, 1), Err(Status::INVALID_NAMESPACE_OR_FORMAT.dnr()));
    lab.control(|target| target.remove_namespace(&subsystem(), Nsid(2)).unwrap());
    assert!(lab.finish(&host.admin, second).status.is_success());
}

#[test]
fn ana_states_decide_and_are_told_per_listener() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let event = request_event(&mut lab, &mut host.admin);
    let cases = [
        (AnaState::Inaccessible, Err(Status::ASYMMETRIC_ACCESS_INACCESSIBLE), Wire::INACCESSIBLE),
        (AnaState::PersistentLoss, Err(Status::ASYMMETRIC_ACCESS_PERSISTENT_LOSS), Wire::PERSISTENT_LOSS),
        (AnaState::Change, Err(Status::ASYMMETRIC_ACCESS_TRANSITION), Wire::CHANGE),
        (AnaState::NonOptimized, Ok(vec![0; BLOCK]), Wire::NON_OPTIMIZED),
        (AnaState::Optimized, Ok(vec![0; BLOCK]), Wire::OPTIMIZED),
    ];
    for (changes, (state, outcome, wire)) in (1_u64..).zip(cases) {
        lab.control(|target| target.set_ana_state(&subsystem(), address(4420), state, Some(1)).unwrap());
        assert_eq!(read(&mut lab, &mut host, 0, 1), outcome, "{state:?}");
        let page = log(&mut lab, &mut host.admin, lid::ANA, 64);
        let (header, mut groups) = AnaGroups::parse(&page).unwrap();
        let group = groups.next().unwrap();
        assert_eq!((header.chgcnt.get(), group.group.state()), (changes, wire));
        assert!(group.contains(Nsid(1)));
    }
    let told = AsyncEvent::from_result(lab.finish(&host.admin, event).result);
    assert_eq!((told.info, told.lid), (3, lid::ANA));
    lab.control(|target| {
        target.set_ana_state(&subsystem(), address(4420), AnaState::Inaccessible, Some(2)).unwrap()
    });
    assert!(read(&mut lab, &mut host, 0, 1).is_ok());
}

#[test]
fn an_abort_ends_what_has_not_reached_the_device() {
    let (device, gate) = HeldDevice::create("h0");
    gate.room.store(1, Ordering::Relaxed);
    let mut lab = Lab::with_device(1, device);
    let mut host = lab.host(1);
    let mut sqe = sized(ReadWrite::write(Nsid(1), Lba(0), 1));
    sqe.cid = nvme::U16::new(40);
    let working = lab.start(&mut host.io, sqe, Some(&pattern(1, 1)));
    sqe.cid = nvme::U16::new(41);
    let waiting = lab.start(&mut host.io, sqe, Some(&pattern(2, 1)));
    let abort = |cid| Abort { sqid: QueueId(1), cid }.to_sqe(5);
    assert_eq!(lab.run(&mut host.admin, abort(40), None).result, 1);
    assert_eq!(lab.run(&mut host.admin, abort(41), None).result, 0);
    assert_eq!(lab.finish(&host.io, waiting).status, Status::ABORT_REQUESTED);
    assert_eq!(lab.run(&mut host.admin, abort(99), None).result, 1);
    gate.open.store(true, Ordering::Relaxed);
    assert_eq!(lab.finish(&host.io, working).status, Status::SUCCESS);
    assert_eq!(read(&mut lab, &mut host, 0, 1), Ok(pattern(1, 1)));
}

#[test]
fn an_abort_ends_an_event_request() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let event = request_event(&mut lab, &mut host.admin);
    let abort = Abort { sqid: QueueId(0), cid: 90 }.to_sqe(5);
    assert_eq!(lab.run(&mut host.admin, abort, None).result, 0);
    assert_eq!(lab.finish(&host.admin, event).status, Status::ABORT_REQUESTED);
}

#[test]
fn a_host_that_turned_an_event_off_does_not_hear_of_it() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let event = request_event(&mut lab, &mut host.admin);
    let off = SetFeatures::new(fid::ASYNC_EVENT_CONFIG, 0).to_sqe(1);
    assert_eq!(lab.status(&mut host.admin, off, None), Status::SUCCESS);
    lab.control(|target| target.remove_namespace(&subsystem(), Nsid(1)).unwrap());
    assert!(lab.completed(&host.admin, event).is_none());
    let lost = SetFeatures::new(fid::ASYNC_EVENT_CONFIG, 1 << 31).to_sqe(1);
    assert_eq!(lab.status(&mut host.admin, lost, None), Status::INVALID_FIELD.dnr());
}
