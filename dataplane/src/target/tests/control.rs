//! The control API: what it validates, and that a refusal changes nothing.

use nvme::{Nqn, Nsid};
use transport::TransportKind;
use uuid::Uuid;

use super::lab::{BrokenDevice, Lab, address, host, memory, nqn, subsystem};
use crate::target::{
    AnaState, ControlError, NamespaceOptions, Referral, SubsystemKind, SubsystemOptions, TransportOptions,
};

type Call = Box<dyn FnOnce(&crate::target::Target) -> Result<(), ControlError> + Send>;

fn other() -> Nqn {
    nqn("nqn.2026-01.org.example:other")
}

#[test]
fn every_refusal_names_its_reason_and_changes_nothing() {
    let mut lab = Lab::new(2);
    let sub = subsystem();
    let device = memory("shared");
    let shared = std::sync::Arc::clone(&device);
    lab.control(move |target| target.add_namespace(&subsystem(), NamespaceOptions::new(shared)).unwrap());
    let before = format!("{:?}", lab.target.subsystems());
    let with = |edit: fn(&mut SubsystemOptions)| {
        let mut options = SubsystemOptions::new(other());
        edit(&mut options);
        options
    };
    let nsid = |nsid| NamespaceOptions { nsid: Some(Nsid(nsid)), ..NamespaceOptions::new(memory("fresh")) };
    let zero = NamespaceOptions { uuid: Some(Uuid::nil()), ..NamespaceOptions::new(memory("fresh")) };
    let group = NamespaceOptions { ana_group: Some(33), ..NamespaceOptions::new(memory("fresh")) };
    let same = NamespaceOptions { uuid: Some(device.info().uuid), ..NamespaceOptions::new(memory("fresh")) };
    let calls: Vec<(&str, Call)> = vec![
        ("exists already", Box::new(move |t| t.create_subsystem(SubsystemOptions::new(sub)))),
        ("exists already", Box::new(move |t| t.create_subsystem(SubsystemOptions::new(Nqn::discovery())))),
        ("serial number has 0", {
            let o = with(|o| o.serial.clear());
            Box::new(move |t| t.create_subsystem(o))
        }),
        ("model number has 41", {
            let o = with(|o| o.model = "m".repeat(41));
            Box::new(move |t| t.create_subsystem(o))
        }),
        ("controller identifiers 0", {
            let o = with(|o| o.controller_id_min = 0);
            Box::new(move |t| t.create_subsystem(o))
        }),
        ("NSID 0 is outside", {
            let o = with(|o| o.namespaces_max = 0);
            Box::new(move |t| t.create_subsystem(o))
        }),
        ("no subsystem", Box::new(|t| t.delete_subsystem(&other()))),
        ("does not apply", Box::new(|t| t.delete_subsystem(&Nqn::discovery()))),
        ("NSID 33 is outside 1–32", {
            let o = nsid(33);
            Box::new(move |t| t.add_namespace(&sub, o).map(drop))
        }),
        ("has a namespace 1 already", {
            let o = nsid(1);
            Box::new(move |t| t.add_namespace(&sub, o).map(drop))
        }),
        ("must not be all zeroes", Box::new(move |t| t.add_namespace(&sub, zero).map(drop))),
        ("has that UUID already", Box::new(move |t| t.add_namespace(&sub, same).map(drop))),
        ("ANA group 33", Box::new(move |t| t.add_namespace(&sub, group).map(drop))),
        (
            "is namespace 2 of",
            Box::new(move |t| t.add_namespace(&sub, NamespaceOptions::new(device)).map(drop)),
        ),
        (
            "does not open",
            Box::new(move |t| {
                t.add_namespace(&sub, NamespaceOptions::new(BrokenDevice::create("b"))).map(drop)
            }),
        ),
        ("has no namespace 9", Box::new(move |t| t.remove_namespace(&sub, Nsid(9)))),
        ("listens on", Box::new(move |t| t.add_listener(&sub, address(4420)).map(drop))),
        ("cannot listen", Box::new(move |t| t.add_listener(&sub, address(1)).map(drop))),
        ("does not listen", Box::new(move |t| t.remove_listener(&sub, address(9)))),
        ("does not listen", Box::new(move |t| t.set_ana_state(&sub, address(9), AnaState::Change, None))),
        ("ANA group 99", Box::new(move |t| t.set_ana_state(&sub, address(4420), AnaState::Change, Some(99)))),
        ("not on the allow-list", Box::new(move |t| t.remove_host(&sub, host(1)))),
        ("no referral", Box::new(|t| t.remove_referral(address(9)))),
    ];
    for (wanted, call) in calls {
        let error = lab.control(|target| call(target)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error:?} does not say {wanted:?}");
    }
    assert_eq!(format!("{:?}", lab.target.subsystems()), before);
    assert_eq!(lab.sockets.open.lock().unwrap().len(), 1);
}

#[test]
fn transport_options_have_their_ranges() {
    let mut lab = Lab::new(1);
    let sockets = std::sync::Arc::clone(&lab.sockets);
    let twice = lab.control(|t| t.create_transport(TransportKind::Tcp, TransportOptions::default(), sockets));
    assert!(matches!(twice, Err(ControlError::TransportExists(TransportKind::Tcp))));
    let edits: [fn(&mut TransportOptions); 5] = [
        |o| o.queue_depth_max = 1,
        |o| o.admin_queue_depth_max = 31,
        |o| o.in_capsule_data_bytes = 65_537,
        |o| o.in_capsule_data_bytes = 1000,
        |o| o.io_bytes_max = 5000,
    ];
    for edit in edits {
        let mut options = TransportOptions::default();
        edit(&mut options);
        let sockets = std::sync::Arc::clone(&lab.sockets);
        let refused = lab.control(|t| t.create_transport(TransportKind::Tcp, options, sockets));
        assert!(
            matches!(
                refused,
                Err(ControlError::TransportOption { .. } | ControlError::TransportOptionRule { .. })
            ),
            "{refused:?}"
        );
    }
}

#[test]
fn an_address_stays_open_while_a_subsystem_uses_it() {
    let mut lab = Lab::new(1);
    lab.control(|target| {
        target.create_subsystem(SubsystemOptions::new(other())).unwrap();
        target.add_listener(&other(), address(4420)).unwrap();
    });
    let host = lab.host(1);
    lab.control(|target| target.remove_listener(&subsystem(), address(4420)).unwrap());
    assert!(lab.is_closed(&host.admin) && lab.is_closed(&host.io));
    assert_eq!(lab.sockets.open.lock().unwrap().len(), 1);
    lab.control(|target| target.delete_subsystem(&other()).unwrap());
    assert!(lab.sockets.open.lock().unwrap().is_empty());
}

#[test]
fn a_deleted_subsystem_takes_its_associations_and_frees_its_devices() {
    let mut lab = Lab::new(2);
    let host = lab.host_on(1, 0, 1);
    assert_eq!(lab.target.device_users("m0"), [(subsystem(), Nsid(1))]);
    lab.control(|target| target.delete_subsystem(&subsystem()).unwrap());
    assert!(lab.is_closed(&host.admin) && lab.is_closed(&host.io));
    assert!(lab.target.device_users("m0").is_empty());
    assert!(lab.target.controllers(&subsystem()).is_err());
    lab.control(|target| target.create_subsystem(SubsystemOptions::new(other())).unwrap());
    let kinds: Vec<SubsystemKind> = lab.target.subsystems().iter().map(|sub| sub.kind).collect();
    assert_eq!(kinds, [SubsystemKind::Discovery, SubsystemKind::Nvm]);
}

#[test]
fn removing_a_device_removes_its_namespaces() {
    let mut lab = Lab::new(1);
    let removed = lab.control(|target| target.remove_device("m0").unwrap());
    assert_eq!(removed, [(subsystem(), Nsid(1))]);
    assert!(lab.target.subsystem(&subsystem()).unwrap().namespaces.is_empty());
}

#[test]
fn referrals_come_and_go() {
    let mut lab = Lab::new(1);
    let referral = Referral { address: address(8009), nqn: Nqn::discovery(), secure_channel: false };
    let same = referral.clone();
    lab.control(|target| {
        target.add_referral(referral).unwrap();
        assert!(matches!(target.add_referral(same), Err(ControlError::ReferralExists(_))));
        assert_eq!(target.referrals().len(), 1);
        target.remove_referral(address(8009)).unwrap();
        assert!(target.referrals().is_empty());
    });
}
