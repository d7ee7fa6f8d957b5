//! SPDK's own NVMe/TCP host, through `spdk-rs`, against our target: the bindings with real I/O, and the target with a host
//! that we did not write. One test: there is one SPDK environment per process.
#![cfg(feature = "spdk")]

mod common;

use std::time::{Duration, Instant};

use common::{Daemon, PATIENCE, free_address};
use serde_json::json;
use spdk_rs::{
    Command, CommandStatus, Completion, Controller, ControllerError, ControllerOptions, DmaBuffer,
    EnvOptions, Environment, Memory, Operation, PollGroup, QueueError, QueueOptions, QueuePair, RejectReason,
    TransportId,
};

const NQN: &str = "nqn.2026-01.org.example:spdk-host";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:b0c7a3a5-2c6e-4d0e-9a43-0c0d8b5d2f11";
const BLOCK: usize = 4096;
const BLOCKS: u64 = 4096;

type Pair = QueuePair<DmaBuffer>;

fn daemon() -> (Daemon, TransportId) {
    let daemon = Daemon::start(&[]);
    let address = free_address();
    let call =
        |method, params| daemon.call(method, params).unwrap_or_else(|error| panic!("{method}: {error:?}"));
    call("nvmf_create_transport", json!({"trtype": "TCP"}));
    call("bdev_malloc_create", json!({"name": "m", "num_blocks": BLOCKS, "block_size": BLOCK}));
    call("nvmf_create_subsystem", json!({"nqn": NQN, "serial_number": "SPDKHOST", "allow_any_host": true}));
    call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "m"}}));
    let listener = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": address.ip().to_string(),
        "trsvcid": address.port().to_string()});
    call("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": listener}));
    (daemon, TransportId::Tcp { address, subsystem: NQN.into() })
}

/// The next completion.
fn wait(pair: &mut Pair) -> Completion<DmaBuffer> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        pair.process_completions(0).expect("the queue pair is up");
        if let Some(done) = pair.pop() {
            return done;
        }
        assert!(Instant::now() < deadline, "no completion");
    }
}

fn run(pair: &mut Pair, operation: Operation, buffer: Option<DmaBuffer>) -> Completion<DmaBuffer> {
    pair.submit(operation, 77, buffer).expect("taken");
    let done = wait(pair);
    assert_eq!(done.tag, 77);
    done
}

fn filled(environment: &Environment, len: usize, byte: u8) -> Option<DmaBuffer> {
    let mut buffer = DmaBuffer::zeroed(environment, len).expect("memory");
    buffer.fill(byte);
    Some(buffer)
}

#[test]
fn spdks_host_reads_writes_compares_and_clears_through_the_bindings() {
    let (daemon, id) = daemon();
    let options = EnvOptions { memory: Memory::Ordinary { mib: 128 }, ..EnvOptions::default() };
    let environment = Environment::init(&options).expect("SPDK's environment");
    let host = ControllerOptions { host_nqn: Some(HOST.into()), ..ControllerOptions::default() };
    let attached = environment.attach(&id, &host);
    let controller =
        attached.unwrap_or_else(|error| panic!("{error}: {:#?}", daemon.lines().collect::<Vec<_>>()));
    assert_eq!(&controller.identify()[4..12], b"SPDKHOST");
    let [namespace] = &controller.namespaces()[..] else { panic!("one namespace") };
    assert_eq!((namespace.id, namespace.block_size, namespace.blocks), (1, 4096, BLOCKS));
    assert!(matches!(
        controller.open_queue_pair::<DmaBuffer>(2, &QueueOptions::default()),
        Err(QueueError::NoNamespace(2))
    ));

    io(&environment, &controller);
    refusals(&environment, &controller);
    in_a_group(&environment, &controller);
    admin(&environment, &controller);
    capacity(&daemon, &controller);
    late_commands_are_told_of_and_can_be_aborted(&daemon, &environment, &controller);
    closing_gives_everything_back(&environment, &controller);
    a_failed_controller_comes_back(&environment, &controller);
    drop(controller);
    let again = environment.attach(&id, &host).expect("attached again");
    drop(again);
    assert!(daemon.stop().success());
}

fn io(environment: &Environment, controller: &Controller) {
    let options = QueueOptions { depth: 8, buffer_bytes_max: 1 << 20, ..QueueOptions::default() };
    let mut pair: Pair = controller.open_queue_pair(1, &options).expect("a queue pair");
    // Longer than one command carries: SPDK splits it.
    let long = usize::try_from(controller.transfer_bytes_max()).expect("small") * 2;
    let write = Operation::Write { lba: 8, fua: true };
    assert!(run(&mut pair, write, filled(environment, long, 5)).status.is_success());
    let read = run(&mut pair, Operation::Read { lba: 8 }, filled(environment, long, 0));
    assert!(read.status.is_success() && read.buffer.expect("comes back").iter().all(|byte| *byte == 5));

    let same = run(&mut pair, Operation::Compare { lba: 8 }, filled(environment, BLOCK, 5));
    assert_eq!(same.status, CommandStatus::SUCCESS);
    let other = run(&mut pair, Operation::Compare { lba: 8 }, filled(environment, BLOCK, 6));
    assert_eq!(other.status.code(), (2, 0x85), "Compare Failure");

    assert!(run(&mut pair, Operation::Flush, None).status.is_success());
    let zeroes = Operation::WriteZeroes { lba: 8, blocks: 2, deallocate: true, fua: false };
    assert!(run(&mut pair, zeroes, None).status.is_success());
    let unmap = Operation::Deallocate { lba: 10, blocks: 2 };
    assert!(run(&mut pair, unmap, None).status.is_success());
    let read =
        run(&mut pair, Operation::Read { lba: 8 }, filled(environment, 5 * BLOCK, 9)).buffer.expect("it");
    assert!(
        read[..4 * BLOCK].iter().all(|byte| *byte == 0) && read[4 * BLOCK..].iter().all(|byte| *byte == 5)
    );

    // A Read of one block as a command of its own making.
    let raw = Command { opcode: 2, namespace: 1, dwords: [12, 0, 0, 0, 0, 0] };
    // SAFETY: one block, as long as the buffer.
    unsafe { pair.submit_raw(raw, 3, filled(environment, BLOCK, 0)) }.expect("taken");
    let read = wait(&mut pair);
    assert_eq!(read.tag, 3);
    assert!(read.status.is_success() && read.buffer.expect("it")[0] == 5);

    let beyond = run(&mut pair, Operation::Read { lba: BLOCKS }, filled(environment, BLOCK, 0));
    assert_eq!(beyond.status.code(), (0, 0x80), "LBA Out of Range");
    assert!(beyond.buffer.is_some());
    assert_eq!(controller.reset(), Err(ControllerError::QueuePairsOpen(1)));
}

fn refusals(environment: &Environment, controller: &Controller) {
    let mut pair: Pair =
        controller.open_queue_pair(1, &QueueOptions { depth: 2, ..QueueOptions::default() }).expect("a pair");
    let mut reason = |operation, buffer| pair.submit(operation, 0, buffer).expect_err("refused").reason;
    let read = Operation::Read { lba: 0 };
    assert_eq!(reason(read, None), RejectReason::BufferLength);
    assert_eq!(reason(read, filled(environment, BLOCK + 1, 0)), RejectReason::BufferLength);
    assert_eq!(reason(Operation::Flush, filled(environment, BLOCK, 0)), RejectReason::BufferLength);
    let none = Operation::Deallocate { lba: 0, blocks: 0 };
    assert_eq!(reason(none, None), RejectReason::BlockCount);
    for tag in 0..2 {
        pair.submit(Operation::Flush, tag, None).expect("there is room for two");
    }
    let full = pair.submit(read, 2, filled(environment, BLOCK, 3)).expect_err("no room");
    assert_eq!((full.reason, full.buffer.expect("comes back")[0]), (RejectReason::Full, 3));
    let mut tags = [wait(&mut pair).tag, wait(&mut pair).tag];
    tags.sort_unstable();
    assert_eq!((tags, pair.in_flight()), ([0, 1], 0));
}

fn in_a_group(environment: &Environment, controller: &Controller) {
    let group = PollGroup::new(environment).expect("a group");
    let options = QueueOptions { depth: 4, group: Some(group.clone()), ..QueueOptions::default() };
    let open = || controller.open_queue_pair::<DmaBuffer>(1, &options).expect("a pair");
    let mut pairs = [open(), open()];
    for pair in &mut pairs {
        pair.submit(Operation::Read { lba: 0 }, 1, filled(environment, BLOCK, 0)).expect("taken");
    }
    let (mut done, deadline) = (0, Instant::now() + PATIENCE);
    while done < 2 {
        assert!(Instant::now() < deadline, "{done} of 2");
        group.process_completions(0).expect("the group works");
        done += pairs.iter_mut().filter_map(Pair::pop).filter(|done| done.status.is_success()).count();
    }
}

fn admin(environment: &Environment, controller: &Controller) {
    // Identify Controller (base 2.1 §5.1.13): CNS 1.
    let identify = Command { opcode: 6, namespace: 0, dwords: [1, 0, 0, 0, 0, 0] };
    let data = DmaBuffer::zeroed(environment, 4096);
    // SAFETY: Identify moves 4096 bytes and changes nothing.
    let done = unsafe { controller.admin(identify, data, PATIENCE) }.expect("answered");
    assert!(done.status.is_success());
    assert_eq!(done.data.expect("comes back")[..], controller.identify()[..]);
    let unknown = Command { opcode: 0xbf, ..Command::default() };
    // SAFETY: nobody knows this command; it moves nothing.
    let done = unsafe { controller.admin(unknown, None, PATIENCE) }.expect("answered");
    assert_eq!(done.status.code(), (0, 1), "Invalid Command Opcode");
    // SMART / Health Information.
    let (status, page) = controller.log_page(2, None, 512, PATIENCE).expect("answered");
    assert!(status.is_success() && page.expect("comes back").len() == 512);
}

/// A namespace that grows is announced by an event, and known after.
fn capacity(daemon: &Daemon, controller: &Controller) {
    daemon
        .call("bdev_null_create", json!({"name": "n", "num_blocks": 256, "block_size": BLOCK}))
        .expect("made");
    let params = json!({"nqn": NQN, "namespace": {"bdev_name": "n"}});
    daemon.call("nvmf_subsystem_add_ns", params).expect("added");
    let deadline = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    while events.is_empty() {
        assert!(Instant::now() < deadline, "no event");
        controller.poll(|event| events.push((event.kind, event.info))).expect("the controller works");
        std::thread::yield_now();
    }
    assert_eq!(events, [(2, 0)], "Namespace Attribute Changed");
    assert_eq!(controller.namespace(2).map(|namespace| namespace.blocks), Some(256));
}

/// A device that may do one I/O each second makes all but the first late.
fn late_commands_are_told_of_and_can_be_aborted(
    daemon: &Daemon,
    environment: &Environment,
    controller: &Controller,
) {
    let limit = |ios: u64| {
        daemon.call("bdev_set_qos_limit", json!({"name": "m", "rw_ios_per_sec": ios})).expect("set")
    };
    let mut pair: Pair =
        controller.open_queue_pair(1, &QueueOptions { depth: 4, ..QueueOptions::default() }).expect("a pair");
    limit(1);
    controller.set_timeouts(Duration::from_millis(200), Duration::ZERO);
    for tag in 0..4 {
        pair.submit(Operation::Read { lba: tag }, tag, filled(environment, BLOCK, 0)).expect("taken");
    }
    let (deadline, mut late, mut done) = (Instant::now() + PATIENCE, Vec::new(), Vec::new());
    while late.len() < 2 {
        assert!(Instant::now() < deadline, "nothing is late");
        pair.process_completions(0).expect("the queue pair is up");
        late.extend(pair.take_late());
        done.extend(std::iter::from_fn(|| pair.pop()));
    }
    assert!(pair.abort(late[1]), "nobody else has the controller");
    let has_ended = |done: &[Completion<DmaBuffer>]| done.iter().any(|done| done.status.is_aborted());
    while !has_ended(&done) && controller.aborts_failed() == 0 {
        assert!(Instant::now() < deadline, "Abort has no end");
        controller.poll(|_| ()).expect("the controller works");
        pair.process_completions(0).expect("the queue pair is up");
        done.extend(std::iter::from_fn(|| pair.pop()));
    }
    controller.set_timeouts(Duration::ZERO, Duration::ZERO);
    limit(0);
    while done.len() < 4 {
        assert!(Instant::now() < deadline, "{} of 4", done.len());
        pair.process_completions(0).expect("the queue pair is up");
        done.extend(std::iter::from_fn(|| pair.pop()));
    }
    assert!(done.iter().all(|done| done.status.is_success() || done.status.is_aborted()));
    assert!(pair.take_late().len() < 4, "each is told of once");
}

fn closing_gives_everything_back(environment: &Environment, controller: &Controller) {
    let mut pair: Pair =
        controller.open_queue_pair(1, &QueueOptions { depth: 4, ..QueueOptions::default() }).expect("a pair");
    for tag in 0..4 {
        pair.submit(Operation::Read { lba: tag }, tag, filled(environment, BLOCK, 0)).expect("taken");
    }
    let mut back: Vec<u64> = pair.close().into_iter().map(|done| done.tag).collect();
    back.sort_unstable();
    assert_eq!((back, controller.open_queue_pairs()), (vec![0, 1, 2, 3], 0));
    let began = Instant::now();
    assert_eq!(controller.reset(), Ok(()));
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(!controller.is_failed() && !controller.is_removed());
}

fn a_failed_controller_comes_back(environment: &Environment, controller: &Controller) {
    let options = QueueOptions { depth: 4, ..QueueOptions::default() };
    let mut pair: Pair = controller.open_queue_pair(1, &options).expect("a pair");
    pair.submit(Operation::Read { lba: 0 }, 5, filled(environment, BLOCK, 0)).expect("taken");
    controller.fail();
    assert_eq!(pair.process_completions(0), Err(QueueError::Down));
    let refused = pair.submit(Operation::Flush, 6, None).expect_err("it failed");
    assert_eq!(refused.reason, RejectReason::Down);
    assert_eq!(controller.poll(|_| ()), Err(ControllerError::Failed));
    assert_eq!(pair.close().into_iter().map(|done| done.tag).collect::<Vec<_>>(), [5]);
    assert_eq!(controller.reset(), Ok(()));
    let mut pair: Pair = controller.open_queue_pair(1, &options).expect("a pair");
    assert!(run(&mut pair, Operation::Read { lba: 12 }, filled(environment, BLOCK, 0)).status.is_success());
}
