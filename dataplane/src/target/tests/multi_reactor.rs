//! Queues, controllers and namespaces that span reactors.

use std::sync::atomic::Ordering;

use nvme::admin::Abort;
use nvme::nvm::ReadWrite;
use nvme::{Lba, Nsid, QueueId, Status};

use super::events::request_event;
use super::io::{pattern, read, sized, write};
use super::lab::{Dial, HeldDevice, Lab, memory, subsystem};
use crate::target::NamespaceOptions;

#[test]
fn io_queues_of_one_controller_work_on_every_reactor() {
    let mut lab = Lab::new(3);
    let mut host = lab.host_on(1, 0, 1);
    let (io, connected) = lab.dial(&Dial { reactor: 2, ..Dial::io(1, host.cntlid, 2) });
    assert_eq!(connected.status, Status::SUCCESS);
    assert_eq!(write(&mut lab, &mut host, 5, &pattern(1, 2)), Status::SUCCESS);
    host.io = io;
    assert_eq!(read(&mut lab, &mut host, 5, 2), Ok(pattern(1, 2)));
    let queues = lab.target.queues(&subsystem()).unwrap();
    assert_eq!(queues.iter().map(|queue| queue.reactor).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn the_end_of_the_admin_queue_closes_queues_on_other_reactors() {
    let mut lab = Lab::new(3);
    let mut host = lab.host_on(1, 0, 1);
    let (second, _) = lab.dial(&Dial { reactor: 2, ..Dial::io(1, host.cntlid, 2) });
    lab.close(host.admin);
    assert!(lab.is_closed(&host.io) && lab.is_closed(&second));
    let late = lab.status(&mut host.io, sized(ReadWrite::read(Nsid(1), Lba(0), 1)), None);
    assert_eq!(late, Status::COMMAND_SEQUENCE_ERROR);
}

#[test]
fn events_reach_the_admin_queue_on_its_own_reactor() {
    let mut lab = Lab::new(2);
    let mut host = lab.host_on(1, 1, 0);
    let event = request_event(&mut lab, &mut host.admin);
    lab.control(|target| target.add_namespace(&subsystem(), NamespaceOptions::new(memory("m1"))).unwrap());
    assert_eq!(lab.finish(&host.admin, event).status, Status::SUCCESS);
}

#[test]
fn removing_a_namespace_waits_for_the_io_of_every_reactor() {
    let (device, gate) = HeldDevice::create("h0");
    let mut lab = Lab::with_device(2, device);
    let mut host = lab.host_on(1, 0, 1);
    let id = lab.start(&mut host.io, sized(ReadWrite::write(Nsid(1), Lba(0), 1)), Some(&pattern(1, 1)));
    let target = std::sync::Arc::clone(&lab.target);
    std::thread::scope(|scope| {
        let removal = scope.spawn(move || target.remove_namespace(&subsystem(), Nsid(1)));
        // The reactors have the new view once a command for the namespace is refused.
        loop {
            lab.settle();
            let probe = lab.start(&mut host.io, sized(ReadWrite::read(Nsid(1), Lba(0), 1)), None);
            match lab.completed(&host.io, probe) {
                Some(refused) => break assert_eq!(refused.status, Status::INVALID_NAMESPACE_OR_FORMAT.dnr()),
                None => std::thread::yield_now(),
            }
        }
        assert!(!removal.is_finished());
        gate.open.store(true, Ordering::Relaxed);
        while !removal.is_finished() {
            lab.turn();
            std::thread::yield_now();
        }
        assert!(removal.join().unwrap().is_ok());
    });
    assert_eq!(lab.finish(&host.io, id).status, Status::SUCCESS);
}

#[test]
fn an_abort_travels_to_the_reactor_of_its_queue() {
    let (device, gate) = HeldDevice::create("h0");
    gate.room.store(1, Ordering::Relaxed);
    let mut lab = Lab::with_device(2, device);
    let mut host = lab.host_on(1, 0, 1);
    let sqe = |cid| {
        let mut sqe = sized(ReadWrite::write(Nsid(1), Lba(0), 1));
        sqe.cid = nvme::U16::new(cid);
        sqe
    };
    let working = lab.start(&mut host.io, sqe(40), Some(&pattern(1, 1)));
    let waiting = lab.start(&mut host.io, sqe(41), Some(&pattern(2, 1)));
    let abort = |cid| Abort { sqid: QueueId(1), cid }.to_sqe(5);
    assert_eq!(lab.run(&mut host.admin, abort(41), None).result, 0);
    assert_eq!(lab.finish(&host.io, waiting).status, Status::ABORT_REQUESTED);
    assert_eq!(lab.run(&mut host.admin, abort(40), None).result, 1);
    gate.open.store(true, Ordering::Relaxed);
    assert_eq!(lab.finish(&host.io, working).status, Status::SUCCESS);
}
