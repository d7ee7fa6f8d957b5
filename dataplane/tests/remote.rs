//! Namespaces of one daemon as devices of another: content, limits, lost connections, changes.

mod common;
mod peer;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use common::{Daemon, PATIENCE, eventually, free_address};
use nvme::nvm::{DatasetManagement, Flush, Range, ReadWrite};
use nvme::zerocopy::IntoBytes;
use nvme::{HostId, Lba, Nqn, Status, U32, U64};
use peer::{Association, BLOCK_BYTES, NSID, Peer, Place};
use serde_json::{Value, json};

const BACK: &str = "nqn.2026-01.org.example:back";
const FRONT: &str = "nqn.2026-01.org.example:front";
const SIZE: u64 = 16 << 20;

fn listen(daemon: &Daemon, nqn: &str, device: &str, address: SocketAddr) {
    let at = json!({"trtype": "TCP", "traddr": address.ip(), "trsvcid": address.port().to_string()});
    for (method, params) in [
        ("nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": true})),
        ("nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": {"bdev_name": device}})),
        ("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": at})),
    ] {
        daemon.call(method, params).expect(method);
    }
}

/// A daemon with a file that it serves.
fn start_back(file: &Path, address: SocketAddr) -> Daemon {
    let daemon = Daemon::start(&[]);
    daemon.call("nvmf_create_transport", json!({"trtype": "TCP"})).expect("a transport");
    let disk = json!({"name": "disk", "filename": file, "block_size": BLOCK_BYTES, "size_bytes": SIZE});
    daemon.call("bdev_uring_create", disk).expect("a device");
    listen(&daemon, BACK, "disk", address);
    daemon
}

fn attachment(address: SocketAddr) -> Value {
    json!({
        "name": "far", "trtype": "tcp", "traddr": address.ip(), "trsvcid": address.port().to_string(),
        "subnqn": BACK, "reconnect_delay_sec": 1,
    })
}

/// A daemon that serves what it attaches, in larger commands than the other one takes.
fn start_front(back: SocketAddr, address: SocketAddr, more: &Value) -> Daemon {
    let daemon = Daemon::start(&[]);
    let transport = json!({"trtype": "TCP", "max_io_size": 1 << 20, "io_unit_size": 131_072});
    daemon.call("nvmf_create_transport", transport).expect("a transport");
    let mut attach = attachment(back);
    for (name, value) in more.as_object().expect("an object") {
        attach[name] = value.clone();
    }
    assert_eq!(daemon.call("bdev_nvme_attach_controller", attach), Ok(json!(["farn1"])));
    listen(&daemon, FRONT, "farn1", address);
    daemon
}

fn queue(address: SocketAddr) -> (Association, Peer) {
    let place = Place {
        address,
        subnqn: Nqn::new(FRONT).expect("valid"),
        hostnqn: Nqn::new("nqn.2026-01.org.example:host").expect("valid"),
        hostid: HostId([7; 16]),
    };
    let association = Association::open(&place, 0, PATIENCE);
    let queue = association.queue(&place, 1, 32, PATIENCE);
    (association, queue)
}

#[test]
fn what_is_written_through_a_remote_namespace_is_read_back_in_every_size() {
    let folder = tempfile::tempdir().expect("folder");
    let (back, front) = (free_address(), free_address());
    let _back = start_back(&folder.path().join("disk"), back);
    let daemon = start_front(back, front, &json!({}));
    let port = front.port().to_string();
    for (size, workload) in [("4k", "randrw"), ("128k", "randrw"), ("1m", "rw"), ("324k", "randrw")] {
        let run = Command::new(env!("CARGO_BIN_EXE_pollux"))
            .args(["perf", "--traddr", "127.0.0.1", "--trsvcid", &port, "--subnqn", FRONT])
            .args(["--workload", workload, "--size", size, "--depth", "8", "--time", "60"])
            .args(["--io-count", "300", "--verify", "--quiet"])
            .output()
            .expect("pollux runs");
        let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{size}: {text}");
    }
    let stat = daemon.call("bdev_get_iostat", json!({"name": "farn1"})).expect("counters");
    assert!(stat["bdevs"][0]["num_write_ops"].as_u64() > Some(100), "{stat}");
}

#[test]
fn every_kind_of_command_reaches_the_other_side() {
    let folder = tempfile::tempdir().expect("folder");
    let (back, front) = (free_address(), free_address());
    let _back = start_back(&folder.path().join("disk"), back);
    let daemon = start_front(back, front, &json!({}));
    let (_association, mut queue) = queue(front);
    assert!(peer::write_block(&mut queue, 3, 0xAB).is_success());
    assert_eq!(peer::read_block(&mut queue, 3), Ok(0xAB));
    let flush = peer::capsule(Flush { nsid: NSID }.to_sqe(1), &[]);
    assert!(queue.command(&flush, PATIENCE).1.is_success());
    let zeroes = peer::capsule(ReadWrite::write_zeroes(NSID, Lba(0), 4096).to_sqe(1), &[]);
    assert!(queue.command(&zeroes, PATIENCE).1.is_success());
    assert_eq!(peer::read_block(&mut queue, 3), Ok(0));
    assert!(peer::write_block(&mut queue, 3, 0xCD).is_success());
    let range = Range { attributes: U32::new(0), nlb: U32::new(4096), slba: U64::new(0) };
    let trim = peer::capsule(DatasetManagement::deallocate(NSID, 1).to_sqe(1), range.as_bytes());
    assert!(queue.command(&trim, PATIENCE).1.is_success());
    assert_eq!(peer::read_block(&mut queue, 3), Ok(0));
    let beyond = SIZE / u64::from(BLOCK_BYTES);
    assert!(peer::read_block(&mut queue, beyond).expect_err("beyond the end").is(Status::LBA_OUT_OF_RANGE));
    let controllers = daemon.call("bdev_nvme_get_controllers", json!({})).expect("a list");
    assert_eq!(controllers[0]["ctrlrs"][0]["state"], "enabled");
    // The namespace goes with its device.
    daemon.call("bdev_nvme_detach_controller", json!({"name": "far"})).expect("detached");
    assert_eq!(daemon.call("bdev_nvme_get_controllers", json!({})), Ok(json!([])));
    assert_eq!(daemon.call("bdev_get_bdevs", json!({})), Ok(json!([])));
}

#[test]
fn a_lost_target_fails_commands_with_a_path_error_and_serves_again_when_it_is_back() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("disk");
    let (back, front) = (free_address(), free_address());
    let mut first = start_back(&file, back);
    let daemon = start_front(back, front, &json!({}));
    let (_association, mut queue) = queue(front);
    assert!(peer::write_block(&mut queue, 9, 0x11).is_success());
    first.signal("KILL");
    first.wait();
    eventually("a path error", || match peer::read_block(&mut queue, 9) {
        Ok(_) => false,
        Err(status) => {
            assert!(status.is(Status::HOST_PATHING_ERROR) && !status.is_dnr(), "{status}");
            true
        }
    });
    eventually("the loss is shown", || {
        let shown = daemon.call("bdev_nvme_get_controllers", json!({"name": "far"})).expect("a list");
        shown[0]["ctrlrs"][0]["state"] == "resetting" && shown[0]["ctrlrs"][0]["error"].is_string()
    });
    let _second = start_back(&file, back);
    eventually("it serves again", || peer::read_block(&mut queue, 9) == Ok(0x11));
    eventually("the return is shown", || {
        let shown = daemon.call("bdev_nvme_get_controllers", json!({})).expect("a list");
        shown[0]["ctrlrs"][0]["state"] == "enabled"
    });
}

#[test]
fn commands_wait_for_a_target_that_comes_back_in_time() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("disk");
    let (back, front) = (free_address(), free_address());
    let mut first = start_back(&file, back);
    let _daemon = start_front(back, front, &json!({"fast_io_fail_timeout_sec": 3600}));
    let (_association, mut queue) = queue(front);
    assert!(peer::write_block(&mut queue, 9, 0x22).is_success());
    first.signal("KILL");
    first.wait();
    // What is in flight when the connection breaks fails; what comes after waits.
    let waiting = std::thread::spawn(move || {
        let mut outcome = peer::read_block(&mut queue, 9);
        if outcome.is_err() {
            outcome = peer::read_block(&mut queue, 9);
        }
        outcome
    });
    let _second = start_back(&file, back);
    assert_eq!(waiting.join().expect("no panic"), Ok(0x22));
}

#[test]
fn a_target_that_grows_makes_the_device_grow() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("disk");
    let (back, front) = (free_address(), free_address());
    let first = start_back(&file, back);
    let daemon = start_front(back, front, &json!({}));
    std::fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_len(2 * SIZE))
        .expect("grown");
    first.call("bdev_uring_rescan", json!({"name": "disk"})).expect("seen");
    eventually("the new size", || {
        let shown = daemon.call("bdev_get_bdevs", json!({"name": "farn1"})).expect("a list");
        shown[0]["num_blocks"] == 2 * SIZE / u64::from(BLOCK_BYTES)
    });
    let (_association, mut queue) = queue(front);
    assert!(peer::write_block(&mut queue, 2 * SIZE / u64::from(BLOCK_BYTES) - 1, 1).is_success());
}

#[test]
fn what_cannot_be_attached_is_refused_with_a_reason() {
    let daemon = Daemon::start(&[]);
    let nowhere = attachment(free_address());
    let (code, message) = daemon.call("bdev_nvme_attach_controller", nowhere).expect_err("nobody listens");
    assert_eq!(code, -5, "{message}");
    let mut other = attachment(free_address());
    other["trtype"] = json!("FC");
    let (code, message) = daemon.call("bdev_nvme_attach_controller", other).expect_err("no such transport");
    assert_eq!(code, -32602, "{message}");
    let (code, _) = daemon.call("bdev_nvme_detach_controller", json!({"name": "far"})).expect_err("none");
    assert_eq!(code, -19);
}
