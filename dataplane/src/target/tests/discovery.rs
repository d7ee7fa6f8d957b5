//! The discovery subsystem.

use nvme::admin::{GetLogPage, Identify, SetFeatures};
use nvme::discovery::{DiscoveryEntry, DiscoveryHeader, SubsystemType};
use nvme::event::AsyncEvent;
use nvme::features::{async_event, fid};
use nvme::identify::{ControllerType, IdentifyController, cns};
use nvme::log::lid;
use nvme::zerocopy::FromBytes;
use nvme::{Nqn, Sqe, Status, opcode};

use transport::{ListenerId, TransportKind};

use super::events::request_event;
use super::lab::{Dial, Lab, Link, address, host, nqn, subsystem};
use crate::target::{Referral, SubsystemOptions};

fn page(lab: &mut Lab, link: &mut Link) -> (u64, Vec<DiscoveryEntry>) {
    let header = lab.fetch(link, GetLogPage::new(lid::DISCOVERY, 1024, 0).to_sqe(1), 1024).unwrap();
    let header = DiscoveryHeader::read_from_bytes(&header).unwrap();
    let entry = |at: u64| {
        let sqe = GetLogPage::new(lid::DISCOVERY, 1024, 1024 * (at + 1)).to_sqe(1);
        DiscoveryEntry::read_from_bytes(&lab.fetch(link, sqe, 1024).unwrap()).unwrap()
    };
    let entries = (0..header.numrec.get()).map(entry).collect();
    (header.genctr.get(), entries)
}

fn names(entries: &[DiscoveryEntry]) -> Vec<(Nqn, u16)> {
    entries.iter().map(|e| (e.subnqn.nqn().unwrap(), e.socket_address().unwrap().port())).collect()
}

#[test]
fn a_host_sees_what_it_may_connect_to_and_nothing_else() {
    let mut lab = Lab::new(1);
    let private = nqn("nqn.2026-01.org.example:private");
    let hidden = nqn("nqn.2026-01.org.example:hidden");
    lab.control(|target| {
        target.create_subsystem(SubsystemOptions::new(private)).unwrap();
        target.add_listener(&private, address(4421)).unwrap();
        target.add_host(&private, host(2)).unwrap();
        let options =
            SubsystemOptions { allow_any_host: true, hidden: true, ..SubsystemOptions::new(hidden) };
        target.create_subsystem(options).unwrap();
        target.add_listener(&hidden, address(4420)).unwrap();
    });
    let (mut one, _) = lab.controller(&Dial::discovery(1));
    let (mut two, _) = lab.controller(&Dial::discovery(2));
    assert_eq!(names(&page(&mut lab, &mut one).1), [(subsystem(), 4420)]);
    assert_eq!(names(&page(&mut lab, &mut two).1), [(subsystem(), 4420), (private, 4421)]);
}

#[test]
fn listeners_of_the_discovery_subsystem_and_referrals_are_told() {
    let mut lab = Lab::new(1);
    let referral = Referral { address: address(8010), nqn: Nqn::discovery(), secure_channel: true };
    lab.control(|target| {
        target.add_listener(&Nqn::discovery(), address(8009)).unwrap();
        target.add_referral(referral).unwrap();
    });
    let (mut link, _) = lab.controller(&Dial { port: 8009, ..Dial::discovery(1) });
    let (_, entries) = page(&mut lab, &mut link);
    let kinds: Vec<SubsystemType> = entries.iter().map(DiscoveryEntry::subtype).collect();
    assert_eq!(kinds, [SubsystemType::CURRENT_DISCOVERY, SubsystemType::NVM, SubsystemType::REFERRAL]);
    assert_eq!(entries[2].treq & 0b11, 1);
    assert_eq!(entries[1].asqsz.get(), 128);
}

#[test]
fn a_change_moves_the_generation_and_is_told_on_persistent_connections() {
    let mut lab = Lab::new(2);
    let (mut link, _) = lab.controller(&Dial { kato: 30_000, reactor: 1, ..Dial::discovery(1) });
    let (before, _) = page(&mut lab, &mut link);
    let on = SetFeatures::new(fid::ASYNC_EVENT_CONFIG, async_event::DISCOVERY_LOG).to_sqe(1);
    assert_eq!(lab.status(&mut link, on, None), Status::SUCCESS);
    let event = request_event(&mut lab, &mut link);
    lab.control(|target| target.add_listener(&subsystem(), address(4430)).unwrap());
    let told = AsyncEvent::from_result(lab.finish(&link, event).result);
    assert_eq!((told.info, told.lid), (0xF0, lid::DISCOVERY));
    let (after, entries) = page(&mut lab, &mut link);
    assert!(after > before);
    assert_eq!(entries.len(), 2);
}

#[test]
fn a_listener_whose_device_is_gone_is_not_offered_until_it_returns_and_hosts_are_told_both_times() {
    let mut lab = Lab::new(2);
    lab.control(|target| target.add_listener(&subsystem(), address(4430)).unwrap());
    let (mut link, _) = lab.controller(&Dial { kato: 30_000, reactor: 1, ..Dial::discovery(1) });
    let on = SetFeatures::new(fid::ASYNC_EVENT_CONFIG, async_event::DISCOVERY_LOG).to_sqe(1);
    assert_eq!(lab.status(&mut link, on, None), Status::SUCCESS);
    let (before, _) = page(&mut lab, &mut link);
    let listening = |lab: &mut Lab, lost: &[ListenerId]| {
        *lab.sockets.lost.lock().unwrap() = lost.to_vec();
        lab.control(|target| {
            target.refresh_listening(TransportKind::Tcp).unwrap();
            target
                .listeners(&subsystem())
                .unwrap()
                .iter()
                .map(|listener| listener.listening)
                .collect::<Vec<_>>()
        })
    };
    let event = request_event(&mut lab, &mut link);
    assert_eq!(listening(&mut lab, &[ListenerId(4430)]), [true, false]);
    lab.finish(&link, event);
    let (without, entries) = page(&mut lab, &mut link);
    assert!(without > before);
    assert_eq!(names(&entries), [(subsystem(), 4420)]);
    // Nothing new, nothing told.
    assert_eq!(listening(&mut lab, &[ListenerId(4430)]), [true, false]);
    assert_eq!(page(&mut lab, &mut link).0, without);
    let event = request_event(&mut lab, &mut link);
    assert_eq!(listening(&mut lab, &[]), [true, true]);
    lab.finish(&link, event);
    assert_eq!(names(&page(&mut lab, &mut link).1), [(subsystem(), 4420), (subsystem(), 4430)]);
}

#[test]
fn a_discovery_controller_says_what_it_is_and_has_no_io_queues() {
    let mut lab = Lab::new(1);
    let (mut link, cntlid) = lab.controller(&Dial::discovery(1));
    let id = lab.fetch(&mut link, Identify::new(cns::CONTROLLER).to_sqe(1), 4096).unwrap();
    let id = IdentifyController::read_from_bytes(&id).unwrap();
    assert_eq!((id.cntrltype, id.cntlid()), (ControllerType::DISCOVERY.0, cntlid));
    assert_eq!(id.oaes.get(), async_event::DISCOVERY_LOG);
    let refused = lab.dial(&Dial { subnqn: Nqn::discovery(), ..Dial::io(1, cntlid, 1) }).1;
    assert_eq!(refused.status, Status::CONNECT_INVALID_PARAMETERS.dnr());
    let namespace = Identify::new(cns::ACTIVE_NSID_LIST).to_sqe(1);
    assert_eq!(lab.status(&mut link, namespace, None), Status::INVALID_FIELD.dnr());
    assert_eq!(lab.status(&mut link, Sqe::new(opcode::admin::ABORT, 1), None), Status::INVALID_OPCODE.dnr());
}
