//! A volume with three copies on three daemons: writes, losses of replicas and heads, resynchronisation, no stale reads.

mod common;
mod peer;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use common::{Daemon, PATIENCE, free_address};
use nvme::{HostId, Nqn, Status};
use peer::{Association, BLOCK_BYTES, Peer, Place};
use serde_json::{Value, json};

const VOLUME: &str = "7f3c1d7e-98f8-4a54-9f0b-8f5f4d2b6a10";
const FRONT: &str = "nqn.2026-01.org.example:volume";
const NODES: usize = 3;
/// `EBUSY`, negated.
const BUSY: i64 = -16;
/// `EINPROGRESS`, negated.
const IN_PROGRESS: i64 = -115;
const SIZE: u64 = 32 << 20;
/// Where the data begins on the device of a replica of this size.
const DATA_AT: usize = 1 << 20;

fn replica_nqn(node: usize) -> String {
    format!("nqn.2026-01.org.example:replica{node}")
}

struct Node {
    daemon: Daemon,
    front: SocketAddr,
    back: SocketAddr,
}

/// Three nodes, each with a replica and a way to the others.
struct Cluster {
    nodes: Vec<Node>,
    files: tempfile::TempDir,
    epoch: u64,
    in_sync: Vec<usize>,
    seen: Vec<u64>,
    /// Replicas of the volume.
    members: Vec<usize>,
    /// Bytes that hosts see.
    size: u64,
}

fn listen(daemon: &Daemon, nqn: &str, device: &str, address: SocketAddr, hidden: bool) {
    let at = json!({"trtype": "TCP", "traddr": address.ip(), "trsvcid": address.port().to_string()});
    for (method, params) in [
        (
            "nvmf_create_subsystem",
            json!({"nqn": nqn, "allow_any_host": true, "hidden": hidden, "ana_reporting": !hidden}),
        ),
        ("nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": {"bdev_name": device}})),
        ("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": at})),
    ] {
        daemon.call(method, params).expect(method);
    }
}

impl Cluster {
    fn start() -> Self {
        Self::with_spares(0)
    }

    /// With more nodes, whose replicas the volume does not have yet.
    fn with_spares(spares: usize) -> Self {
        let files = tempfile::tempdir().expect("folder");
        let count = NODES + spares;
        let addresses: Vec<_> = (0..count).map(|_| (free_address(), free_address())).collect();
        let mut cluster = Self {
            nodes: Vec::new(),
            files,
            epoch: 0,
            in_sync: vec![0, 1, 2],
            seen: vec![0; count],
            members: vec![0, 1, 2],
            size: SIZE,
        };
        for (node, (front, back)) in addresses.into_iter().enumerate() {
            let daemon = cluster.start_replica(node, back);
            cluster.nodes.push(Node { daemon, front, back });
        }
        for node in 0..count {
            cluster.join(node);
        }
        cluster
    }

    /// A daemon with its replica, which others reach.
    fn start_replica(&self, node: usize, back: SocketAddr) -> Daemon {
        let daemon = Daemon::start(&[]);
        daemon.call("nvmf_create_transport", json!({"trtype": "TCP"})).expect("a transport");
        let file = self.files.path().join(format!("disk{node}"));
        let disk = json!({"name": "disk", "filename": file, "block_size": BLOCK_BYTES, "size_bytes": SIZE + (4 << 20)});
        daemon.call("bdev_uring_create", disk).expect("a device");
        let replica =
            json!({"name": "own", "bdev_name": "disk", "volume": VOLUME, "size_bytes": SIZE, "zeroed": true});
        daemon.call("replica_create", replica).expect("a replica");
        listen(&daemon, &replica_nqn(node), "own", back, true);
        daemon
    }

    /// Attaches the others' replicas, and makes the volume.
    fn join(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let back = self.nodes[other].back;
            let attach = json!({
                "name": format!("r{other}"), "trtype": "tcp", "traddr": back.ip(),
                "trsvcid": back.port().to_string(), "subnqn": replica_nqn(other), "reconnect_delay_sec": 1,
            });
            self.nodes[node].daemon.call("bdev_nvme_attach_controller", attach).expect("attached");
        }
        let create = json!({"name": "v", "uuid": VOLUME, "replicas": self.names(node, &self.members), "min_in_sync": 1});
        self.nodes[node].daemon.call("volume_create", create).expect("a volume");
        listen(&self.nodes[node].daemon, FRONT, "v", self.nodes[node].front, false);
        self.seen[node] = 0;
    }

    /// The devices of replicas, as a node calls them.
    fn names(&self, node: usize, replicas: &[usize]) -> Vec<String> {
        let name =
            |replica: &usize| if *replica == node { "own".to_owned() } else { format!("r{replica}n1") };
        replicas.iter().map(name).collect()
    }

    fn record(&mut self, in_sync: &[usize]) -> (u64, Vec<usize>) {
        self.epoch += 1;
        self.in_sync = in_sync.to_vec();
        (self.epoch, self.in_sync.clone())
    }

    fn activate(&mut self, node: usize, in_sync: &[usize]) {
        let (epoch, in_sync) = self.record(in_sync);
        let params = json!({"name": "v", "epoch": epoch, "in_sync": self.names(node, &in_sync)});
        match self.nodes[node].daemon.call("volume_activate", params) {
            // On a busy machine a replica may be given up for slow: then the head proposes what to record.
            Err((code, _)) if code == IN_PROGRESS => {
                self.manage_until(node, "active", |volume| volume["state"] == "active");
            }
            outcome => assert!(outcome.is_ok(), "{outcome:?}"),
        }
    }

    /// Does as the head of a node proposes, until its volume is as wanted.
    fn manage_until(&mut self, node: usize, what: &str, mut holds: impl FnMut(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let volume = self.nodes[node].daemon.call("volume_get", json!({"name": "v"})).expect("a volume");
            if holds(&volume) {
                return;
            }
            assert!(Instant::now() < deadline, "never {what}: {volume}");
            self.follow(node);
        }
    }

    fn follow(&mut self, node: usize) {
        let since = json!({"since": self.seen[node], "timeout_ms": 50});
        let events = self.nodes[node].daemon.call("volume_events", since).expect("events");
        for event in events.as_array().expect("a list") {
            self.seen[node] = event["id"].as_u64().expect("a number");
            let named = |replica: &usize| {
                let name = json!(self.names(node, &[*replica])[0]);
                event["replicas"].as_array().is_some_and(|list| list.contains(&name))
            };
            let in_sync: Vec<usize> = match event["event"].as_str() {
                Some("propose_out") => {
                    self.in_sync.iter().copied().filter(|replica| !named(replica)).collect()
                }
                Some("propose_in") => (0..self.nodes.len())
                    .filter(|replica| self.in_sync.contains(replica) || named(replica))
                    .collect(),
                _ => continue,
            };
            if event["epoch"].as_u64() != Some(self.epoch) || in_sync == self.in_sync || in_sync.is_empty() {
                continue;
            }
            let (epoch, in_sync) = self.record(&in_sync);
            let params = json!({"name": "v", "epoch": epoch, "in_sync": self.names(node, &in_sync)});
            self.nodes[node].daemon.call("volume_set_members", params).expect("followed");
        }
    }

    /// How a node sees the volume.
    fn volume(&self, node: usize) -> Value {
        self.nodes[node].daemon.call("volume_get", json!({"name": "v"})).expect("a volume")
    }

    /// Waits until a head has proposed it; it is still there to be followed.
    fn wait_for_event(&self, node: usize, event: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut since = self.seen[node];
        while Instant::now() < deadline {
            let ask = json!({"since": since, "timeout_ms": 1000});
            let events = self.nodes[node].daemon.call("volume_events", ask).expect("events");
            let events = events.as_array().expect("a list");
            if events.iter().any(|one| one["event"] == event) {
                return;
            }
            since = events.last().map_or(since, |last| last["id"].as_u64().expect("a number"));
        }
        panic!("no {event}");
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].daemon.signal("KILL");
        self.nodes[node].daemon.wait();
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node].daemon = self.start_replica(node, self.nodes[node].back);
        self.join(node);
    }

    fn queue(&self, node: usize) -> (Association, Peer) {
        let place = Place {
            address: self.nodes[node].front,
            subnqn: Nqn::new(FRONT).expect("valid"),
            hostnqn: Nqn::new("nqn.2026-01.org.example:host").expect("valid"),
            hostid: HostId([7; 16]),
        };
        let association = Association::open(&place, 0, PATIENCE);
        let queue = association.queue(&place, 1, 32, PATIENCE);
        (association, queue)
    }

    fn perf(&self, node: usize, seed: u64) {
        let run = Command::new(env!("CARGO_BIN_EXE_pollux"))
            .args(["perf", "--traddr", "127.0.0.1", "--trsvcid", &self.nodes[node].front.port().to_string()])
            .args([
                "--subnqn",
                FRONT,
                "--workload",
                "randrw",
                "--size",
                "16k",
                "--depth",
                "16",
                "--time",
                "60",
            ])
            .args(["--io-count", "600", "--verify", "--quiet", "--seed", &seed.to_string()])
            .output()
            .expect("pollux runs");
        let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{text}");
    }

    /// What hosts see, on one replica's disk.
    fn content(&self, node: usize) -> Vec<u8> {
        let bytes = std::fs::read(self.files.path().join(format!("disk{node}"))).expect("a file");
        let end = DATA_AT + usize::try_from(self.size).expect("small");
        bytes[DATA_AT..end].to_vec()
    }

    fn assert_equal_copies(&self) {
        let first = self.members[0];
        for node in &self.members {
            assert!(
                self.content(*node) == self.content(first),
                "replica {node} differs from replica {first}"
            );
        }
    }
}

impl Cluster {
    /// Tells every node about a replica.
    fn tell_all(&mut self, method: &str, replica: usize) {
        for node in 0..self.nodes.len() {
            let params = json!({"name": "v", "replica": self.names(node, &[replica])[0]});
            self.nodes[node].daemon.call(method, params).expect(method);
        }
    }

    fn add(&mut self, replica: usize) {
        self.tell_all("volume_add_replica", replica);
        self.members.push(replica);
    }

    /// Records a replica out, and removes it everywhere.
    fn remove(&mut self, head: usize, replica: usize) {
        let left: Vec<usize> = self.in_sync.iter().copied().filter(|other| *other != replica).collect();
        let (epoch, in_sync) = self.record(&left);
        let params = json!({"name": "v", "epoch": epoch, "in_sync": self.names(head, &in_sync)});
        self.nodes[head].daemon.call("volume_set_members", params).expect("followed");
        self.manage_until(head, "without it", |volume| volume["state"] == "active");
        self.tell_all("volume_remove_replica", replica);
        self.members.retain(|other| *other != replica);
    }

    /// Verified load on a node, until the child is told otherwise: 16 KiB at a time.
    fn load(&self, node: usize, count: &str) -> std::process::Child {
        Command::new(env!("CARGO_BIN_EXE_pollux"))
            .args(["perf", "--traddr", "127.0.0.1", "--trsvcid", &self.nodes[node].front.port().to_string()])
            .args([
                "--subnqn",
                FRONT,
                "--workload",
                "randrw",
                "--size",
                "16k",
                "--depth",
                "8",
                "--time",
                "60",
            ])
            .args(["--io-count", count, "--verify", "--quiet", "--seed", "77"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("pollux runs")
    }
}

fn is_whole(volume: &Value) -> bool {
    let replicas = volume["replicas"].as_array().expect("a list");
    volume["state"] == "active"
        && replicas.iter().all(|replica| {
            replica["in_sync"] == true && replica["attached"] == true && replica["regions_stale"] == 0
        })
}

#[test]
fn what_is_written_is_on_every_copy() {
    let mut cluster = Cluster::start();
    let (_association, mut queue) = cluster.queue(0);
    let refused = peer::write_block(&mut queue, 0, 1);
    assert!(refused.is(Status::ASYMMETRIC_ACCESS_INACCESSIBLE) && !refused.is_dnr(), "{refused}");
    cluster.activate(0, &[0, 1, 2]);
    cluster.perf(0, 1);
    assert!(peer::write_block(&mut queue, 5, 0xA5).is_success());
    assert_eq!(peer::read_block(&mut queue, 5), Ok(0xA5));
    cluster.assert_equal_copies();
    let volume = cluster.nodes[0].daemon.call("volume_get", json!({"name": "v"})).expect("a volume");
    assert!(is_whole(&volume), "{volume}");
    assert_eq!(volume["regions_to_copy"], 0, "{volume}");
}

#[test]
fn paths_show_whether_their_node_serves_the_volume() {
    let mut cluster = Cluster::start();
    let shown = |cluster: &Cluster, node: usize| {
        let listeners = cluster.nodes[node]
            .daemon
            .call("nvmf_subsystem_get_listeners", json!({"nqn": FRONT}))
            .expect("listed");
        let group = &listeners[0]["ana_states"][0];
        assert_eq!(group["ana_group"], 1, "that of the first namespace");
        group["ana_state"].as_str().expect("a word").to_owned()
    };
    assert_eq!(shown(&cluster, 0), "inaccessible");
    cluster.activate(0, &[0, 1, 2]);
    assert_eq!([0, 1, 2].map(|node| shown(&cluster, node)), ["optimized", "inaccessible", "inaccessible"]);
    cluster.nodes[0].daemon.call("volume_deactivate", json!({"name": "v"})).expect("let go");
    cluster.activate(1, &[0, 1, 2]);
    assert_eq!([0, 1, 2].map(|node| shown(&cluster, node)), ["inaccessible", "optimized", "inaccessible"]);
}

#[test]
fn a_lost_replica_holds_writes_until_it_is_recorded_out_and_gets_back_what_it_missed() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    cluster.perf(0, 1);
    let (_association, mut queue) = cluster.queue(0);
    assert!(peer::write_block(&mut queue, 5, 1).is_success());
    cluster.kill(2);
    let written = std::thread::spawn(move || {
        let status = peer::write_block(&mut queue, 5, 2);
        (status, Instant::now(), queue)
    });
    cluster.wait_for_event(0, "propose_out");
    assert!(!written.is_finished(), "acknowledged before the set without the replica was recorded");
    let managed = Instant::now();
    cluster.manage_until(0, "without the replica", |volume| volume["replicas"][2]["in_sync"] == false);
    let (status, at, mut queue) = written.join().expect("no panic");
    assert!(status.is_success() && at > managed, "{status}");
    assert!(peer::write_block(&mut queue, 6, 3).is_success());
    cluster.restart(2);
    cluster.manage_until(0, "whole again", is_whole);
    assert!(peer::write_block(&mut queue, 7, 4).is_success());
    cluster.assert_equal_copies();
    let volume = cluster.nodes[0].daemon.call("volume_get", json!({"name": "v"})).expect("a volume");
    assert!(volume["regions_copied"].as_u64() <= volume["regions_to_copy"].as_u64(), "{volume}");
}

#[test]
fn writes_wait_while_copies_are_frozen_and_a_thaw_says_which_stayed_equal() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    cluster.perf(0, 1);
    let (_association, mut queue) = cluster.queue(0);
    let freeze = |cluster: &Cluster| {
        let params = json!({"name": "v", "timeout_ms": 20_000});
        cluster.nodes[0].daemon.call("volume_freeze", params).expect("frozen")
    };
    let thaw = |cluster: &Cluster, frozen: &Value| {
        cluster.nodes[0].daemon.call("volume_thaw", json!({"name": "v", "freeze": frozen["freeze"]}))
    };
    let frozen = freeze(&cluster);
    assert_eq!(frozen["replicas"], json!(["own", "r1n1", "r2n1"]));
    let twice = cluster.nodes[0].daemon.call("volume_freeze", json!({"name": "v"}));
    assert!(twice.expect_err("once").1.contains("frozen already"));
    let before = cluster.content(0);
    let written = std::thread::spawn(move || (peer::write_block(&mut queue, 5, 0x77), queue));
    cluster.assert_equal_copies();
    assert!(cluster.content(0) == before && !written.is_finished());
    assert_eq!(thaw(&cluster, &frozen).expect("it lasted")["replicas"], frozen["replicas"]);
    let (status, _queue) = written.join().expect("no panic");
    assert!(status.is_success(), "{status}");
    assert!(thaw(&cluster, &frozen).expect_err("over").1.contains("not frozen"));
    // One that dies meanwhile does not count.
    let frozen = freeze(&cluster);
    cluster.kill(2);
    cluster.manage_until(0, "without the replica", |volume| volume["replicas"][2]["in_sync"] == false);
    assert_eq!(thaw(&cluster, &frozen).expect("it lasted")["replicas"], json!(["own", "r1n1"]));
}

#[test]
fn a_killed_head_is_followed_by_another_that_has_everything_acknowledged() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    cluster.perf(0, 1);
    let (_association, mut queue) = cluster.queue(0);
    for lba in 0..50 {
        assert!(peer::write_block(&mut queue, lba, 9).is_success());
    }
    cluster.kill(0);
    let killed = Instant::now();
    cluster.activate(1, &[1, 2]);
    println!("another head {} ms after the kill", killed.elapsed().as_millis());
    let (_association, mut queue) = cluster.queue(1);
    for lba in 0..50 {
        assert_eq!(peer::read_block(&mut queue, lba), Ok(9));
    }
    assert!(peer::write_block(&mut queue, 3, 10).is_success());
    cluster.restart(0);
    cluster.manage_until(1, "whole again", is_whole);
    cluster.perf(1, 2);
    cluster.assert_equal_copies();
}

#[test]
fn a_hung_head_serves_nothing_stale_when_it_wakes_up() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    let (_old_association, mut old) = cluster.queue(0);
    assert!(peer::write_block(&mut old, 1, 1).is_success());
    cluster.nodes[0].daemon.signal("STOP");
    cluster.activate(1, &[1, 2]);
    let (_association, mut queue) = cluster.queue(1);
    assert!(peer::write_block(&mut queue, 1, 2).is_success());
    cluster.nodes[0].daemon.signal("CONT");
    let stale = peer::read_block(&mut old, 1).expect_err("another is the head");
    assert!(stale.is(Status::ASYMMETRIC_ACCESS_INACCESSIBLE), "{stale}");
    assert_eq!(peer::read_block(&mut queue, 1), Ok(2));
    cluster.manage_until(1, "whole again", is_whole);
    cluster.assert_equal_copies();
}

#[test]
fn a_head_that_lets_go_is_followed_at_once() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    let (_association, mut queue) = cluster.queue(0);
    assert!(peer::write_block(&mut queue, 1, 1).is_success());
    cluster.nodes[0].daemon.call("volume_deactivate", json!({"name": "v"})).expect("let go");
    let before = Instant::now();
    cluster.activate(2, &[0, 1, 2]);
    println!("switched in {} ms", before.elapsed().as_millis());
    let (_association, mut next) = cluster.queue(2);
    assert_eq!(peer::read_block(&mut next, 1), Ok(1));
    assert!(peer::read_block(&mut queue, 1).expect_err("let go").is(Status::ASYMMETRIC_ACCESS_INACCESSIBLE));
    cluster.manage_until(2, "whole", is_whole);
}

#[test]
fn a_new_copy_is_paused_called_off_and_finished_and_has_holes_where_there_is_nothing() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    let (_association, mut queue) = cluster.queue(0);
    assert!(peer::write_block(&mut queue, 5, 0xA5).is_success());
    let resync = |params: Value| cluster.nodes[0].daemon.call("volume_set_resync", params);
    let error = resync(json!({"name": "v", "concurrency": 9})).expect_err("too many");
    assert!(error.1.contains("1 to 4"), "{error:?}");
    resync(json!({"name": "v", "paused": true, "rebuild_latency_target_us": 500})).expect("paused");
    cluster.kill(2);
    std::fs::remove_file(cluster.files.path().join("disk2")).expect("there is one");
    cluster.manage_until(0, "without the replica", |volume| volume["replicas"][2]["in_sync"] == false);
    cluster.restart(2);
    cluster.manage_until(0, "attached", |volume| volume["replicas"][2]["attached"] == true);
    let regions = SIZE / cluster.volume(0)["region_bytes"].as_u64().expect("bytes");
    assert_eq!(cluster.volume(0)["replicas"][2]["regions_stale"], regions);
    let replica = json!({"name": "v", "replica": "r2n1"});
    cluster.nodes[0].daemon.call("volume_cancel_resync", replica.clone()).expect("called off");
    cluster.wait_for_event(0, "detached");
    let volume = cluster.volume(0);
    assert_eq!(volume["replicas"][2]["attached"], false, "{volume}");
    assert_eq!(volume["replicas"][2]["kept_out"], true, "{volume}");
    let in_sync =
        cluster.nodes[0].daemon.call("volume_cancel_resync", json!({"name": "v", "replica": "own"}));
    assert!(in_sync.expect_err("in sync").1.contains("in sync"));
    cluster.nodes[0].daemon.call("volume_resume_resync", replica).expect("goes on");
    cluster.nodes[0]
        .daemon
        .call("volume_set_resync", json!({"name": "v", "paused": false}))
        .expect("goes on");
    cluster.manage_until(0, "whole again", is_whole);
    assert_eq!(cluster.volume(0)["regions_copied"], regions);
    cluster.assert_equal_copies();
    let file = std::fs::metadata(cluster.files.path().join("disk2")).expect("a file");
    let allocated = std::os::unix::fs::MetadataExt::blocks(&file) * 512;
    assert!(allocated < SIZE / 4, "{allocated} bytes are allocated");
}

#[test]
fn a_new_copy_that_restarts_in_the_middle_goes_on_where_it_was() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    cluster.perf(0, 3);
    // What was written lately is copied again in any case.
    cluster.manage_until(0, "at rest", |volume| volume["regions_dirty"] == 0);
    let resync = |cluster: &Cluster, params: Value| {
        cluster.nodes[0].daemon.call("volume_set_resync", params).expect("changed");
    };
    let stale = |volume: &Value| volume["replicas"][2]["regions_stale"].as_u64().expect("a number");
    let attached = |volume: &Value| volume["replicas"][2]["attached"] == true;
    cluster.kill(2);
    std::fs::remove_file(cluster.files.path().join("disk2")).expect("there is one");
    cluster.manage_until(0, "without the replica", |volume| volume["replicas"][2]["in_sync"] == false);
    resync(&cluster, json!({"name": "v", "bandwidth_mb_sec": 8}));
    cluster.restart(2);
    let regions = SIZE / cluster.volume(0)["region_bytes"].as_u64().expect("bytes");
    cluster.manage_until(0, "half of it", |volume| attached(volume) && stale(volume) <= regions / 2);
    resync(&cluster, json!({"name": "v", "paused": true, "bandwidth_mb_sec": 0}));
    cluster.kill(2);
    cluster.manage_until(0, "gone", |volume| !attached(volume));
    cluster.restart(2);
    cluster.manage_until(0, "there again", attached);
    let left = stale(&cluster.volume(0));
    assert!(left < regions, "{left} of {regions} regions are copied again");
    resync(&cluster, json!({"name": "v", "paused": false}));
    cluster.manage_until(0, "whole again", is_whole);
    cluster.assert_equal_copies();
}

#[test]
fn daemons_that_load_what_they_saved_have_their_volume_back_whoever_can_be_reached() {
    let mut cluster = Cluster::start();
    cluster.nodes[0]
        .daemon
        .call("volume_set_resync", json!({"name": "v", "bandwidth_mb_sec": 64}))
        .expect("set");
    cluster.activate(0, &[0, 1, 2]);
    let (_association, mut queue) = cluster.queue(0);
    assert!(peer::write_block(&mut queue, 5, 0xA5).is_success());
    let saved: Vec<Value> = (0..NODES)
        .map(|node| cluster.nodes[node].daemon.call("save_config", Value::Null).expect("saved"))
        .collect();
    for node in 0..NODES {
        cluster.kill(node);
    }
    // The first one comes back alone: it has its volume, but not before the others are there too is anything served.
    for (node, saved) in saved.iter().enumerate() {
        let daemon = Daemon::start(&[]);
        daemon.call("load_config", saved.clone()).expect("loaded");
        cluster.nodes[node].daemon = daemon;
    }
    let volume = cluster.volume(0);
    assert_eq!(volume["state"], "inactive", "{volume}");
    assert_eq!(volume["resync"]["bandwidth_mb_sec"], 64, "{volume}");
    let (_association, mut queue) = cluster.queue(0);
    let refused = peer::read_block(&mut queue, 5).expect_err("not active");
    assert!(refused.is(Status::ASYMMETRIC_ACCESS_INACCESSIBLE), "{refused}");
    cluster.activate(0, &[0, 1, 2]);
    assert_eq!(peer::read_block(&mut queue, 5), Ok(0xA5));
    assert_eq!(cluster.nodes[0].daemon.call("save_config", Value::Null).expect("saved"), saved[0]);
    cluster.manage_until(0, "whole", is_whole);
}

#[test]
fn a_fenced_replica_refuses_every_head_below_the_epoch() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    let (_association, mut queue) = cluster.queue(0);
    assert!(peer::write_block(&mut queue, 1, 1).is_success());
    cluster.nodes[1].daemon.call("replica_fence", json!({"name": "own", "epoch": 11})).expect("fenced");
    cluster.manage_until(0, "deposed by what it refused", |volume| volume["state"] == "deposed");
    assert!(peer::write_block(&mut queue, 1, 2).is(Status::ASYMMETRIC_ACCESS_INACCESSIBLE));
    cluster.epoch = 10;
    cluster.activate(2, &[1, 2]);
    let (_association, mut queue) = cluster.queue(2);
    assert_eq!(peer::read_block(&mut queue, 1), Ok(1));
    cluster.manage_until(2, "whole", is_whole);
}

#[test]
fn a_replica_is_moved_to_a_spare_under_verified_load_and_never_believed_again() {
    let mut cluster = Cluster::with_spares(1);
    cluster.activate(0, &[0, 1, 2]);
    let call = |cluster: &Cluster, method: &str, replica: &str| {
        cluster.nodes[0].daemon.call(method, json!({"name": "v", "replica": replica}))
    };
    let refused = call(&cluster, "volume_remove_replica", "r2n1").expect_err("it is in sync");
    assert!(refused.0 == BUSY && refused.1.contains("record the next epoch without it"), "{refused:?}");
    let twice = call(&cluster, "volume_add_replica", "r2n1").expect_err("it is one");
    assert!(twice.1.contains("already"), "{twice:?}");
    let load = cluster.load(0, "3000");
    cluster.add(3);
    cluster.manage_until(0, "whole with the spare", |volume| {
        is_whole(volume) && volume["replicas"].as_array().is_some_and(|list| list.len() == 4)
    });
    cluster.remove(0, 2);
    let ended = load.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    cluster.manage_until(0, "whole without it", is_whole);
    cluster.assert_equal_copies();
    // Its device is let go of: nobody else uses it.
    cluster.nodes[0].daemon.call("bdev_nvme_detach_controller", json!({"name": "r2"})).expect("released");
    // Another head knows the new one, and has everything.
    cluster.nodes[0].daemon.call("volume_deactivate", json!({"name": "v"})).expect("let go");
    cluster.activate(3, &[0, 1, 3]);
    let (_association, mut queue) = cluster.queue(3);
    assert!(peer::write_block(&mut queue, 5, 0x5A).is_success());
    let back = json!({"name": "v", "replica": "r2n1"});
    cluster.nodes[3].daemon.call("volume_add_replica", back).expect("added again");
    cluster.manage_until(3, "given everything", |volume| {
        is_whole(volume) && volume["replicas"].as_array().is_some_and(|list| list.len() == 4)
    });
    let events = cluster.nodes[3].daemon.call("volume_events", json!({})).expect("events");
    let given = |event: &Value| event["event"] == "resync" && event["replica"] == "r2n1";
    let given =
        events.as_array().expect("a list").iter().find(|event| given(event)).expect("it was attached");
    assert_eq!(given["regions"].as_u64(), Some(SIZE >> 20), "{given}");
    cluster.members.push(2);
    cluster.assert_equal_copies();
}

#[test]
fn the_last_replica_stays_and_others_come_back_and_are_saved() {
    let mut cluster = Cluster::start();
    for replica in ["r1n1", "r2n1"] {
        let gone = json!({"name": "v", "replica": replica});
        cluster.nodes[0].daemon.call("volume_remove_replica", gone).expect("nobody serves it");
    }
    let last = json!({"name": "v", "replica": "own"});
    let refused = cluster.nodes[0].daemon.call("volume_remove_replica", last).expect_err("the last");
    assert!(refused.1.contains("the last one"), "{refused:?}");
    cluster.activate(0, &[0]);
    let stranger = json!({"name": "v", "replica": "disk"});
    let refused = cluster.nodes[0].daemon.call("volume_add_replica", stranger).expect_err("no replica");
    assert!(refused.1.contains("no replica of volume"), "{refused:?}");
    let replica = json!({"name": "v", "replica": "r1n1"});
    cluster.nodes[0].daemon.call("volume_add_replica", replica).expect("added");
    cluster.members = vec![0, 1];
    cluster.manage_until(0, "whole with two", |volume| {
        is_whole(volume) && volume["replicas"].as_array().is_some_and(|list| list.len() == 2)
    });
    cluster.assert_equal_copies();
    let saved = cluster.nodes[0].daemon.call("save_config", Value::Null).expect("saved").to_string();
    assert!(saved.contains(r#""replicas":["own","r1n1"]"#), "{saved}");
}

#[test]
fn a_volume_grows_under_verified_load_and_stays_as_it_is_where_a_device_has_no_room() {
    let mut cluster = Cluster::start();
    let resize = |cluster: &Cluster, bytes: u64| {
        cluster.nodes[0].daemon.call("volume_resize", json!({"name": "v", "size_bytes": bytes}))
    };
    assert_eq!(resize(&cluster, SIZE + (2 << 20)).expect_err("inactive").0, BUSY);
    cluster.activate(0, &[0, 1, 2]);
    let refused = resize(&cluster, SIZE + (8 << 20)).expect_err("the devices are smaller");
    assert!(refused.1.contains("grow them first"), "{refused:?}");
    let refused = resize(&cluster, SIZE - (1 << 20)).expect_err("data would be gone");
    assert!(refused.1.contains("does not shrink"), "{refused:?}");
    let (_association, mut queue) = cluster.queue(0);
    let last = (SIZE + (2 << 20)) / u64::from(BLOCK_BYTES) - 1;
    let beyond = peer::write_block(&mut queue, last, 1);
    assert!(beyond.is(Status::LBA_OUT_OF_RANGE), "{beyond}");
    let load = cluster.load(0, "1500");
    resize(&cluster, SIZE + (2 << 20)).expect("grown");
    assert!(peer::write_block(&mut queue, last, 0x42).is_success());
    assert_eq!(cluster.volume(0)["size_bytes"], SIZE + (2 << 20));
    let ended = load.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    cluster.size = SIZE + (2 << 20);
    cluster.manage_until(0, "whole", is_whole);
    cluster.assert_equal_copies();
    // The next head finds the size on the replicas, and what was made before is opened as it is.
    cluster.kill(0);
    cluster.activate(1, &[1, 2]);
    assert_eq!(cluster.volume(1)["size_bytes"], SIZE + (2 << 20));
    let (_association, mut queue) = cluster.queue(1);
    assert_eq!(peer::read_block(&mut queue, last), Ok(0x42));
    cluster.restart(0);
    cluster.manage_until(1, "whole again", is_whole);
    cluster.assert_equal_copies();
}
