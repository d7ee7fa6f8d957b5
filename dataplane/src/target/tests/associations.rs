//! Connect and the ends of associations.

use fabrics::NS_PER_S;
use nvme::fabrics::{ConnectInvalidParameter, Disconnect, PropertyGet, PropertySize};
use nvme::nvm::ReadWrite;
use nvme::properties::{Cc, Csts, ShutdownStatus, offset};
use nvme::{ControllerId, HostId, Lba, Nsid, Sqe, Status, opcode};

use super::io::sized;
use super::lab::{Dial, Lab, Link, host, nqn, subsystem};

fn read_one() -> Sqe {
    sized(ReadWrite::read(Nsid(1), Lba(0), 1))
}

fn csts(lab: &mut Lab, link: &mut Link) -> Csts {
    let sqe = PropertyGet::at(1, PropertySize::Four, offset::CSTS).to_sqe();
    Csts(u32::try_from(lab.run(link, sqe, None).result).unwrap())
}

#[test]
fn connect_gives_controllers_of_their_own_and_queues_of_the_depth_asked_for() {
    let mut lab = Lab::new(1);
    let one = lab.host(1);
    let two = lab.host(2);
    assert_ne!(one.cntlid, two.cntlid);
    assert_eq!(Lab::queue_id(&one.io), Some(nvme::QueueId(1)));
    let controllers = lab.target.controllers(&subsystem()).unwrap();
    assert_eq!(
        controllers.iter().map(|c| (c.host, c.io_queues)).collect::<Vec<_>>(),
        [(host(1), 1), (host(2), 1)]
    );
    let mut depths: Vec<u16> =
        lab.target.queues(&subsystem()).unwrap().iter().map(|queue| queue.depth).collect();
    depths.sort_unstable();
    assert_eq!(depths, [32, 32, 128, 128]);
}

#[test]
fn a_host_may_name_its_controller_while_it_is_free() {
    let mut lab = Lab::new(1);
    let wanted = Dial { cntlid: ControllerId(77), ..Dial::admin(1) };
    let (_link, cntlid) = lab.controller(&wanted);
    assert_eq!(cntlid, ControllerId(77));
    let again = lab.dial(&wanted).1;
    assert_eq!(again.status, Status::CONNECT_CONTROLLER_BUSY);
}

#[test]
fn connect_is_refused_with_the_parameter_at_fault() {
    let mut lab = Lab::new(1);
    let host1 = lab.host(1);
    let id = host1.cntlid;
    let fault = Status::CONNECT_INVALID_PARAMETERS.dnr();
    let table = [
        (
            "unknown subsystem",
            Dial { subnqn: nqn("nqn.2026-01.org.example:no"), ..Dial::admin(1) },
            ConnectInvalidParameter::SUBNQN,
        ),
        ("no entries", Dial { sqsize: 0, ..Dial::admin(1) }, ConnectInvalidParameter::SQSIZE),
        ("too many admin entries", Dial { sqsize: 128, ..Dial::admin(1) }, ConnectInvalidParameter::SQSIZE),
        ("too many entries", Dial { sqsize: 128, ..Dial::io(1, id, 2) }, ConnectInvalidParameter::SQSIZE),
        (
            "reserved controller",
            Dial { cntlid: ControllerId(0xFFF0), ..Dial::admin(1) },
            ConnectInvalidParameter::CNTLID,
        ),
        ("unknown controller", Dial::io(1, ControllerId(999), 2), ConnectInvalidParameter::CNTLID),
        (
            "other host name",
            Dial { hostnqn: host(2), ..Dial::io(1, id, 2) },
            ConnectInvalidParameter::HOSTNQN,
        ),
        (
            "other host id",
            Dial { hostid: HostId([9; 16]), ..Dial::io(1, id, 2) },
            ConnectInvalidParameter::HOSTID,
        ),
        ("too high a queue", Dial::io(1, id, 65), ConnectInvalidParameter::QID),
    ];
    for (name, dial, parameter) in table {
        let refused = lab.dial(&dial).1;
        assert_eq!((refused.status, refused.result), (fault, parameter.to_result()), "{name}");
    }
    let format = lab.dial(&Dial { recfmt: 1, ..Dial::admin(1) }).1;
    assert_eq!(format.status, Status::CONNECT_INCOMPATIBLE_FORMAT.dnr());
    let duplicate = lab.dial(&Dial::io(1, id, 1)).1;
    assert_eq!(duplicate.status, Status::COMMAND_SEQUENCE_ERROR.dnr());
    let port = lab.dial(&Dial { port: 9999, ..Dial::admin(1) }).1;
    assert_eq!(port.status, Status::CONNECT_INVALID_HOST.dnr());
}

#[test]
fn only_hosts_on_the_allow_list_connect_and_those_taken_off_are_dropped() {
    let mut lab = Lab::new(1);
    let stranger = lab.host(2);
    lab.control(|target| {
        target.add_host(&subsystem(), host(1)).unwrap();
        target.set_allow_any_host(&subsystem(), false).unwrap();
    });
    assert!(lab.is_closed(&stranger.admin) && lab.is_closed(&stranger.io));
    assert_eq!(lab.dial(&Dial::admin(2)).1.status, Status::CONNECT_INVALID_HOST.dnr());
    let known = lab.host(1);
    assert!(!lab.is_closed(&known.admin));
    lab.control(|target| target.remove_host(&subsystem(), host(1)).unwrap());
    assert!(lab.is_closed(&known.admin) && lab.is_closed(&known.io));
    assert!(lab.target.controllers(&subsystem()).unwrap().is_empty());
}

#[test]
fn nothing_but_connect_is_served_first_and_connect_only_once() {
    let mut lab = Lab::new(1);
    let mut fresh = lab.open(0, 4420);
    assert_eq!(lab.status(&mut fresh, read_one(), None), Status::COMMAND_SEQUENCE_ERROR.dnr());
    let connected = lab.dial_on(&mut fresh, &Dial::admin(1));
    assert_eq!(connected.status, Status::SUCCESS);
    assert_eq!(lab.dial_on(&mut fresh, &Dial::admin(1)).status, Status::COMMAND_SEQUENCE_ERROR.dnr());
    let identify = nvme::admin::Identify::new(1).to_sqe(1);
    assert_eq!(lab.status(&mut fresh, identify, None), Status::COMMAND_SEQUENCE_ERROR.dnr());
}

#[test]
fn io_queues_connect_only_while_the_controller_is_ready() {
    let mut lab = Lab::new(1);
    let (mut admin, connected) = lab.dial(&Dial::admin(1));
    let cntlid = nvme::fabrics::ConnectResult::from_result(connected.result).cntlid;
    let early = lab.dial(&Dial::io(1, cntlid, 1)).1;
    assert_eq!(early.result, ConnectInvalidParameter::QID.to_result());
    assert_eq!(lab.set_cc(&mut admin, Cc::ENABLE_NVM), Status::SUCCESS);
    assert!(csts(&mut lab, &mut admin).rdy());
    assert_eq!(lab.dial(&Dial::io(1, cntlid, 1)).1.status, Status::SUCCESS);
}

#[test]
fn a_reset_ends_the_io_queues_and_the_controller_can_be_enabled_again() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let event = lab.start(&mut host.admin, Sqe::new(opcode::admin::ASYNC_EVENT_REQUEST, 3), None);
    assert_eq!(lab.set_cc(&mut host.admin, Cc(0)), Status::SUCCESS);
    lab.settle();
    assert!(lab.is_closed(&host.io) && !lab.is_closed(&host.admin));
    assert_eq!(lab.finish(&host.admin, event).status, Status::ABORTED_SQ_DELETION);
    assert!(!csts(&mut lab, &mut host.admin).rdy());
    assert_eq!(lab.status(&mut host.io, read_one(), None), Status::COMMAND_SEQUENCE_ERROR);
    assert_eq!(lab.set_cc(&mut host.admin, Cc::ENABLE_NVM), Status::SUCCESS);
    assert_eq!(lab.dial(&Dial::io(1, host.cntlid, 1)).1.status, Status::SUCCESS);
}

#[test]
fn a_shutdown_completes_and_the_association_ends_when_the_host_stays_away() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    assert_eq!(lab.set_cc(&mut host.admin, Cc::ENABLE_NVM.with_shn(1)), Status::SUCCESS);
    assert_eq!(csts(&mut lab, &mut host.admin).shst(), ShutdownStatus::Complete);
    lab.advance(119 * NS_PER_S);
    assert!(lab.is_closed(&host.io) && !lab.is_closed(&host.admin));
    lab.advance(2 * NS_PER_S);
    assert!(lab.is_closed(&host.admin));
}

#[test]
fn a_silent_host_loses_its_association_and_a_lively_one_does_not() {
    let mut lab = Lab::new(1);
    let (silent, _) = lab.controller(&Dial { kato: 5000, ..Dial::admin(1) });
    let (mut lively, _) = lab.controller(&Dial { kato: 4001, ..Dial::admin(2) });
    for _ in 0..4 {
        lab.advance(4 * NS_PER_S);
        let alive = lab.status(&mut lively, Sqe::new(opcode::admin::KEEP_ALIVE, 1), None);
        assert_eq!(alive, Status::SUCCESS);
    }
    assert!(lab.is_closed(&silent) && !lab.is_closed(&lively));
    assert_eq!(lab.target.controllers(&subsystem()).unwrap()[0].keep_alive_ms, 5000);
}

#[test]
fn a_lost_admin_queue_ends_the_association_and_a_lost_io_queue_only_itself() {
    let mut lab = Lab::new(1);
    let host = lab.host(1);
    let (second, connected) = lab.dial(&Dial::io(1, host.cntlid, 2));
    assert_eq!(connected.status, Status::SUCCESS);
    lab.close(second);
    assert_eq!(lab.target.controllers(&subsystem()).unwrap()[0].io_queues, 1);
    assert_eq!(lab.dial(&Dial::io(1, host.cntlid, 2)).1.status, Status::SUCCESS);
    lab.close(host.admin);
    assert!(lab.is_closed(&host.io));
    assert!(lab.target.controllers(&subsystem()).unwrap().is_empty());
    let late = lab.dial(&Dial::io(1, host.cntlid, 3)).1;
    assert_eq!(late.result, ConnectInvalidParameter::CNTLID.to_result());
}

#[test]
fn a_connection_that_never_connects_is_closed() {
    let mut lab = Lab::new(1);
    lab.advance(100 * NS_PER_S);
    let idle = lab.open(0, 4420);
    let host = lab.host(1);
    lab.advance(29 * NS_PER_S);
    assert!(!lab.is_closed(&idle));
    lab.advance(2 * NS_PER_S);
    assert!(lab.is_closed(&idle) && !lab.is_closed(&host.admin) && !lab.is_closed(&host.io));
}

#[test]
fn disconnect_closes_an_io_queue_and_is_refused_on_the_admin_queue() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let disconnect = Disconnect::new(9).to_sqe();
    assert_eq!(lab.status(&mut host.admin, disconnect, None), Status::INVALID_QUEUE_TYPE.dnr());
    assert_eq!(lab.status(&mut host.io, disconnect, None), Status::SUCCESS);
    assert!(lab.is_closed(&host.io));
    assert_eq!(lab.target.controllers(&subsystem()).unwrap()[0].io_queues, 0);
}
