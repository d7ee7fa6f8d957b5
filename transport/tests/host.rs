//! The host's controller and its blocking form, against our target.
#![allow(missing_docs, dead_code, clippy::unwrap_used, reason = "tests; the lab is shared with others")]

mod lab;
mod ram;

use std::net::SocketAddr;
use std::time::Duration;

use fabrics::NS_PER_MS;
use fabrics::Now;
use fabrics::host::{Payload, ReconnectPolicy, Request};
use fabrics::tcp::host::{HostData, HostSink, SubmitRefusal};
use lab::{Ended, Lab, Options, noise, read, write};
use nvme::admin::{GetLogPage, Identify, KeepAlive};
use nvme::identify::{IdentifyController, cns};
use nvme::log::lid;
use nvme::{Cqe, HostId, Nqn, QueueId, Status};
use ram::Mode;
use transport::tcp::host::{
    AdminDone, Blocking, ControllerSink, HostConfig, HostController, HostError, HostEvent, LinkError,
    connect_queue,
};
use zerocopy::FromBytes;

fn config(address: SocketAddr) -> HostConfig {
    let subnqn = Nqn::new("nqn.2026-01.org.example:ram").unwrap();
    HostConfig::new(address, Nqn::from_uuid([1; 16]), HostId([1; 16]), subnqn)
}

/// Runs `work` in a thread of its own while the target turns.
fn beside<T: Send + 'static>(lab: &mut Lab, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(work);
    lab.until("the host is done", |_| thread.is_finished());
    thread.join().unwrap()
}

fn copy(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes.to_vec())
}

#[test]
fn a_tool_connects_identifies_and_reads_logs() {
    let mut lab = Lab::new(Options::default());
    let config = config(lab.address);
    let (identity, log, entries) = beside(&mut lab, move || {
        let mut host = Blocking::connect(config).unwrap();
        assert_eq!(host.controller().unwrap().cntlid.0, 1);
        let identity = host.identify(&Identify::new(cns::CONTROLLER)).unwrap();
        let log = host.get_log_page(&GetLogPage::new(lid::DISCOVERY, 4, 0), 10_240).unwrap();
        (identity, log, host.discover(0).unwrap())
    });
    assert_eq!(IdentifyController::read_from_bytes(&identity).unwrap().aerl, 3);
    assert_eq!((log.len(), log[0]), (10_240, 7));
    let (generation, entries) = entries;
    assert_eq!((generation, entries.len(), entries[39].portid.get()), (7, 40, 39));
}

#[test]
fn a_tool_connects_io_queues_and_moves_data() {
    let mut lab = Lab::new(Options::default());
    let config = HostConfig { header_digest: true, data_digest: true, ..config(lab.address) };
    beside(&mut lab, move || {
        let host = Blocking::connect(config).unwrap();
        let mut queue = connect_queue(host.config(), host.controller().unwrap(), QueueId(1), copy).unwrap();
        let (mut sink, mut buffer) = (Ended::default(), vec![0; 64 << 10]);
        let bytes = noise(2, 32 << 10);
        let (sqe, data) = write(0, &bytes);
        queue.submit(sqe, data, 1, Now(0)).unwrap();
        let (sqe, data) = read(0, bytes.len());
        let mut reading = Some((sqe, data));
        while !sink.done.contains_key(&2) {
            queue.flush(&mut sink);
            queue.receive(&mut buffer, Now(0), &mut sink);
            assert!(queue.error().is_none());
            if sink.done.contains_key(&1)
                && let Some((sqe, data)) = reading.take()
            {
                queue.submit(sqe, data, 2, Now(0)).unwrap();
            }
        }
        assert_eq!(sink.done[&2], (Status::SUCCESS, Some(bytes)));
    });
}

#[test]
fn connecting_to_nobody_says_so() {
    let lab = Lab::new(Options::default());
    let config = config(lab.address);
    drop(lab);
    let refused = Blocking::connect(config).err().unwrap();
    assert!(matches!(refused, HostError::Link { error: LinkError::System(_), .. }), "{refused}");
}

/// What a controller said.
#[derive(Default)]
struct Told {
    ended: Ended,
    admin: Vec<AdminDone>,
    ups: usize,
    downs: usize,
    lost: Option<HostError>,
}

impl ControllerSink<Vec<u8>> for Told {
    fn completed(&mut self, queue: usize, tag: u64, cqe: Cqe, data: Option<Vec<u8>>) {
        self.ended.completed(tag << 8 | queue as u64, cqe, data);
    }

    fn failed(&mut self, queue: usize, tag: u64, data: Option<Vec<u8>>) {
        self.ended.failed(tag << 8 | queue as u64, data);
    }

    fn admin(&mut self, done: AdminDone) {
        self.admin.push(done);
    }

    fn event(&mut self, event: HostEvent) {
        match event {
            HostEvent::Up => self.ups += 1,
            HostEvent::Down(_) => self.downs += 1,
            HostEvent::Lost(error) => self.lost = Some(error),
            HostEvent::Async(_) => {}
        }
    }
}

struct Driven {
    controller: HostController<Vec<u8>>,
    told: Told,
}

impl Driven {
    fn new(config: HostConfig, reconnect: Option<ReconnectPolicy>, bound: Duration) -> Self {
        let controller = HostController::new(config, reconnect, bound, copy).unwrap();
        Self { controller, told: Told::default() }
    }

    fn turn(&mut self, now: Now) {
        self.controller.receive(now, &mut self.told);
        self.controller.flush(now, &mut self.told);
    }

    fn until(&mut self, lab: &mut Lab, what: &str, mut done: impl FnMut(&Self) -> bool) {
        lab.until(what, |lab| {
            self.turn(lab.now());
            done(self)
        });
    }

    fn run(
        &mut self,
        lab: &mut Lab,
        queue: usize,
        command: (nvme::Sqe, HostData<Vec<u8>>),
    ) -> Option<Vec<u8>> {
        self.controller.submit(queue, command.0, command.1, 9, lab.now()).unwrap();
        let key = 9 << 8 | queue as u64;
        self.until(lab, "the command completes", |it| it.told.ended.done.contains_key(&key));
        let (status, data) = self.told.ended.done.remove(&key).unwrap();
        assert_eq!(status, Status::SUCCESS);
        data
    }
}

const FAST: ReconnectPolicy =
    ReconnectPolicy { delay_min_ns: NS_PER_MS, delay_max_ns: 5 * NS_PER_MS, loss_timeout_ns: None };

#[test]
fn a_controller_serves_every_queue_and_reconnects_when_its_target_returns() {
    let mut lab = Lab::new(Options::default());
    let address = lab.address;
    let mut config = config(address);
    config.bringup.io_queues = 3;
    let mut host = Driven::new(config, Some(FAST), Duration::from_secs(10));
    host.until(&mut lab, "it comes up", |it| it.told.ups == 1);
    assert_eq!(host.controller.io_queues(), 3);
    let bytes = noise(8, 16 << 10);
    for queue in 0..3 {
        host.run(&mut lab, queue, write(queue as u64 * 32, &bytes));
        assert_eq!(host.run(&mut lab, queue, read(queue as u64 * 32, bytes.len())).unwrap(), bytes);
    }
    // The target goes away with a read in flight.
    lab.seen.hold.set(true);
    let (sqe, data) = read(0, 4096);
    host.controller.submit(1, sqe, data, 5, lab.now()).unwrap();
    drop(lab);
    let mut lab = Lab::at(address, Options::default());
    host.until(&mut lab, "it comes up again", |it| it.told.ups == 2);
    assert_eq!(host.told.ended.failed, [5 << 8 | 1]);
    assert!(host.told.downs >= 1);
    host.run(&mut lab, 2, write(0, &bytes));
    assert_eq!(host.run(&mut lab, 0, read(0, bytes.len())).unwrap(), bytes);
}

#[test]
fn without_a_policy_a_lost_connection_stays_lost() {
    let mut lab = Lab::new(Options::default());
    let mut host = Driven::new(config(lab.address), None, Duration::from_secs(10));
    host.until(&mut lab, "it comes up", |it| it.told.ups == 1);
    drop(lab);
    let mut elsewhere = Lab::new(Options::default());
    host.until(&mut elsewhere, "the loss is noticed", |it| it.told.lost.is_some());
    let (sqe, data) = read(0, 512);
    let refused = host.controller.submit(0, sqe, data, 1, elsewhere.now()).unwrap_err();
    assert_eq!(refused.reason, SubmitRefusal::Closed);
    assert!(matches!(refused.data, HostData::FromController(_)));
}

#[test]
fn a_command_that_takes_too_long_is_aborted_and_then_the_controller_reset() {
    let mut lab = Lab::new(Options { mode: Mode::Deferred, ..Options::default() });
    let config = HostConfig { command_timeout: Duration::from_millis(30), ..config(lab.address) };
    let mut host = Driven::new(config, Some(FAST), Duration::from_millis(30));
    host.until(&mut lab, "it comes up", |it| it.told.ups == 1);
    lab.seen.hold.set(true);
    let (sqe, data) = read(0, 4096);
    host.controller.submit(0, sqe, data, 5, lab.now()).unwrap();
    host.until(&mut lab, "it is reset", |it| it.told.downs >= 1);
    assert_eq!(host.told.ended.failed, [5 << 8]);
    assert_eq!(lab.seen.aborts.get(), 1);
    lab.seen.hold.set(false);
    host.until(&mut lab, "it is up again", |it| it.told.ups >= 2);
    assert!(host.told.ended.done.is_empty());
}

#[test]
fn keep_alives_go_out_and_admin_commands_run_beside_io() {
    let mut lab = Lab::new(Options::default());
    let mut config = config(lab.address);
    config.bringup.kato_ms = 40;
    let mut host = Driven::new(config, None, Duration::from_secs(10));
    host.until(&mut lab, "it comes up", |it| it.told.ups == 1);
    let seen = std::rc::Rc::clone(&lab.seen);
    host.until(&mut lab, "keep-alives arrive", |_| seen.keep_alives.get() >= 3);
    let request = Request {
        sqe: Identify::new(cns::CONTROLLER).to_sqe(0),
        data: Payload::FromController(IdentifyController::SIZE),
    };
    assert!(host.controller.submit_admin(request, 77, lab.now()));
    host.until(&mut lab, "the admin command ends", |it| !it.told.admin.is_empty());
    let (cqe, data) = host.told.admin[0].outcome.as_ref().unwrap();
    assert_eq!((host.told.admin[0].tag, cqe.status(), data.len()), (77, Status::SUCCESS, 4096));
    assert!(host.controller.submit_admin(
        Request { sqe: KeepAlive.to_sqe(0), data: Payload::None },
        78,
        lab.now()
    ));
    host.until(&mut lab, "it ends too", |it| it.told.admin.len() == 2);
    host.controller.close(Now(0), &mut host.told);
    assert!(matches!(host.told.lost, Some(HostError::Closed)));
    lab.until("the target sees it", |lab| lab.target.connections() == 0);
}
