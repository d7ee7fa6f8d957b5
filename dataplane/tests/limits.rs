//! Limits of a device, as a host feels them.

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Daemon, free_address};
use serde_json::{Value, json};

const NQN: &str = "nqn.2026-01.org.example:limited";

fn serve(daemon: &Daemon) -> SocketAddr {
    let address = free_address();
    let at = json!({"trtype": "TCP", "traddr": address.ip(), "trsvcid": address.port().to_string()});
    for (method, params) in [
        ("bdev_malloc_create", json!({"name": "m", "num_blocks": 4096, "block_size": 4096})),
        ("nvmf_create_transport", json!({"trtype": "TCP"})),
        ("nvmf_create_subsystem", json!({"nqn": NQN, "allow_any_host": true})),
        ("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "m"}})),
        ("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": at})),
    ] {
        daemon.call(method, params).expect(method);
    }
    address
}

fn limit(daemon: &Daemon, params: Value) {
    daemon.call("bdev_set_qos_limit", params).expect("limited");
}

/// I/Os per second of a load.
fn load(address: SocketAddr, options: &[&str]) -> f64 {
    let run = Command::new(env!("CARGO_BIN_EXE_pollux"))
        .args(["perf", "--traddr", "127.0.0.1", "--trsvcid", &address.port().to_string(), "--subnqn", NQN])
        .args(["--quiet", "--json"])
        .args(options)
        .output()
        .expect("pollux runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let said: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    said["iops"].as_f64().expect("a number")
}

#[test]
fn a_host_gets_what_it_may_take_and_others_what_they_ask_for() {
    let daemon = Daemon::start(&[]);
    let address = serve(&daemon);
    let mixed = ["--workload", "randrw", "--size", "4k", "--depth", "32", "--time", "2"];
    limit(&daemon, json!({"name": "m", "rw_ios_per_sec": 1000}));
    let iops = load(address, &mixed);
    assert!((400.0..=1_100.0).contains(&iops), "{iops} with 1000 allowed");
    limit(&daemon, json!({"name": "m", "rw_ios_per_sec": 0, "w_mbytes_per_sec": 8}));
    let writes = load(address, &["--workload", "randwrite", "--size", "64k", "--depth", "8", "--time", "2"]);
    assert!((50.0..=145.0).contains(&writes), "{writes} with 128 allowed");
    let reads =
        load(address, &["--workload", "randread", "--size", "64k", "--depth", "8", "--io-count", "600"]);
    assert!(reads > 145.0, "{reads} where only writes are limited");
    let listed = daemon.call("bdev_get_bdevs", json!({"name": "m"})).expect("listed");
    assert_eq!(listed[0]["assigned_rate_limits"]["w_mbytes_per_sec"], 8);
    let saved = daemon.call("save_config", Value::Null).expect("saved").to_string();
    assert!(saved.contains("bdev_set_qos_limit"), "{saved}");
    let nothing = daemon.call("bdev_set_qos_limit", json!({"name": "m"})).expect_err("no limit");
    assert!(nothing.1.contains("no limit is given"), "{nothing:?}");
}

#[test]
fn what_waits_goes_on_when_the_limit_is_lifted_and_costs_nothing_while_it_waits() {
    let daemon = Daemon::start(&[]);
    let address = serve(&daemon);
    limit(&daemon, json!({"name": "m", "rw_ios_per_sec": 20}));
    let options = ["--workload", "randread", "--depth", "4", "--io-count", "2000", "--time", "60"];
    let began = Instant::now();
    let waiting = std::thread::spawn(move || load(address, &options));
    let served = || {
        let stat = daemon.call("bdev_get_iostat", json!({"name": "m"})).expect("counted");
        stat["bdevs"][0]["num_read_ops"].as_u64().expect("a number")
    };
    common::eventually("some I/Os were let through", || served() > 10);
    let used = daemon.cpu_time();
    common::eventually("some more were", || served() > 30);
    let used = daemon.cpu_time().checked_sub(used).unwrap_or_default();
    assert!(used < Duration::from_millis(500), "{used:?} of processor time for waiting a second");
    assert!(!waiting.is_finished() && served() < 200);
    limit(&daemon, json!({"name": "m", "rw_ios_per_sec": 0}));
    waiting.join().expect("it ends well");
    // At the limit it would have taken 100 s.
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
}
