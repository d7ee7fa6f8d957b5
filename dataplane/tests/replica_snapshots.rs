//! Snapshots of a volume whose three replicas lie on volumes of stores: one call, one moment, whoever dies in the middle.

mod common;
mod peer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use common::{Daemon, PATIENCE, eventually, free_address};
use dataplane::device::DeviceRegistry;
use dataplane::device::uring::{UringConfig, UringDevice};
use dataplane::lvol::{DeviceMedia, StoreSet};
use dataplane::store::{Block, Media};
use nvme::{HostId, Nqn};
use peer::{Association, BLOCK_BYTES, Peer, Place};
use reactors::{CoreSet, IdleMode, Reactors, ReactorsConfig};
use serde_json::{Value, json};

const VOLUME: &str = "3b1f6a52-7a35-4f0f-9a0e-5a1c2f7d9e44";
const FRONT: &str = "nqn.2026-01.org.example:volume";
const NODES: usize = 3;
const SIZE_MIB: u64 = 8;
const SIZE: u64 = SIZE_MIB << 20;
/// Where the data begins on the device of a replica of this size, in blocks.
const DATA_AT: u64 = 256;
/// Blocks that one writer writes in turn.
const TURN: u64 = 16;

fn replica_nqn(node: usize) -> String {
    format!("nqn.2026-01.org.example:replica{node}")
}

struct Node {
    daemon: Daemon,
    front: SocketAddr,
    back: SocketAddr,
}

/// Three nodes, each with a store, a replica in it, and a way to the others.
struct Cluster {
    nodes: Vec<Node>,
    files: tempfile::TempDir,
    epoch: u64,
    in_sync: Vec<usize>,
    seen: Vec<u64>,
}

fn listen(daemon: &Daemon, nqn: &str, device: &str, address: SocketAddr) {
    let at = json!({"trtype": "TCP", "traddr": address.ip(), "trsvcid": address.port().to_string()});
    for (method, params) in [
        ("nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": true, "ana_reporting": nqn == FRONT})),
        ("nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": {"bdev_name": device}})),
        ("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": at})),
    ] {
        daemon.call(method, params).expect(method);
    }
}

impl Cluster {
    fn start() -> Self {
        let files = tempfile::tempdir_in(common::build_folder()).expect("folder");
        let mut cluster =
            Self { nodes: Vec::new(), files, epoch: 0, in_sync: vec![0, 1, 2], seen: vec![0; NODES] };
        for node in 0..NODES {
            let (front, back) = (free_address(), free_address());
            let daemon = cluster.start_replica(node, back, true);
            cluster.nodes.push(Node { daemon, front, back });
        }
        (0..NODES).for_each(|node| cluster.join(node));
        cluster
    }

    fn disk(&self, node: usize) -> std::path::PathBuf {
        self.files.path().join(format!("disk{node}"))
    }

    fn start_replica(&self, node: usize, back: SocketAddr, new: bool) -> Daemon {
        let daemon = Daemon::start(&[]);
        daemon.call("nvmf_create_transport", json!({"trtype": "TCP"})).expect("a transport");
        let disk = json!({"name": "disk", "filename": self.disk(node), "block_size": BLOCK_BYTES, "size_bytes": 96 << 20});
        daemon.call("bdev_uring_create", disk).expect("a device");
        if new {
            daemon
                .call("bdev_lvol_create_lvstore", json!({"bdev_name": "disk", "lvs_name": "s"}))
                .expect("a store");
            let volume = json!({"lvs_name": "s", "lvol_name": "r", "size_in_mib": SIZE_MIB + 1, "thin_provision": true});
            daemon.call("bdev_lvol_create", volume).expect("a volume");
        }
        let replica =
            json!({"name": "own", "bdev_name": "s/r", "volume": VOLUME, "size_bytes": SIZE, "zeroed": true});
        daemon.call("replica_create", replica).expect("a replica");
        listen(&daemon, &replica_nqn(node), "own", back);
        daemon
    }

    fn join(&mut self, node: usize) {
        for other in (0..NODES).filter(|other| *other != node) {
            let back = self.nodes[other].back;
            let attach = json!({
                "name": format!("r{other}"), "trtype": "tcp", "traddr": back.ip(), "replica_block_size": BLOCK_BYTES,
                "trsvcid": back.port().to_string(), "subnqn": replica_nqn(other), "reconnect_delay_sec": 1,
            });
            self.nodes[node].daemon.call("bdev_nvme_attach_controller", attach).expect("attached");
        }
        let create = json!({"name": "v", "uuid": VOLUME, "replicas": self.names(node, &[0, 1, 2])});
        self.nodes[node].daemon.call("volume_create", create).expect("a volume");
        listen(&self.nodes[node].daemon, FRONT, "v", self.nodes[node].front);
        self.seen[node] = 0;
    }

    fn names(&self, node: usize, replicas: &[usize]) -> Vec<String> {
        let name =
            |replica: &usize| if *replica == node { "own".to_owned() } else { format!("r{replica}n1") };
        replicas.iter().map(name).collect()
    }

    /// The node of a replica, as another node calls it.
    fn node_of(&self, node: usize, name: &Value) -> usize {
        let known = |replica: &usize| json!(self.names(node, &[*replica])[0]) == *name;
        (0..NODES).find(known).expect("a replica of the volume")
    }

    fn activate(&mut self, node: usize, in_sync: &[usize]) {
        self.epoch += 1;
        self.in_sync = in_sync.to_vec();
        let params = json!({"name": "v", "epoch": self.epoch, "in_sync": self.names(node, in_sync)});
        // On a busy machine a replica may be given up for slow: then the head proposes what to record.
        let outcome = self.nodes[node].daemon.call("volume_activate", params);
        assert!(outcome.as_ref().map_or_else(|(code, _)| *code == -115, |_| true), "{outcome:?}");
        self.manage_until(node, "active", |volume| volume["state"] == "active");
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
            let named: Vec<usize> = event["replicas"]
                .as_array()
                .map(|list| list.iter().map(|name| self.node_of(node, name)).collect())
                .unwrap_or_default();
            let in_sync: Vec<usize> = match event["event"].as_str() {
                Some("propose_out") => {
                    self.in_sync.iter().copied().filter(|replica| !named.contains(replica)).collect()
                }
                Some("propose_in") => (0..NODES)
                    .filter(|replica| self.in_sync.contains(replica) || named.contains(replica))
                    .collect(),
                _ => continue,
            };
            if event["epoch"].as_u64() == Some(self.epoch) && in_sync != self.in_sync && !in_sync.is_empty() {
                self.epoch += 1;
                self.in_sync = in_sync;
                let names = self.names(node, &self.in_sync);
                let params = json!({"name": "v", "epoch": self.epoch, "in_sync": names});
                self.nodes[node].daemon.call("volume_set_members", params).expect("followed");
            }
        }
    }

    /// Waits until so many more are written. On a busy machine that may take records: replicas are given up for slow.
    fn write_more(&mut self, head: usize, writer: &Writer, more: u64) {
        let wanted = writer.acknowledged() + more;
        self.manage_until(head, "written", |_| writer.acknowledged() >= wanted);
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].daemon.signal("KILL");
        self.nodes[node].daemon.wait();
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node].daemon = self.start_replica(node, self.nodes[node].back, false);
        self.join(node);
    }

    fn call(&self, node: usize, method: &str, params: Value) -> Result<Value, (i64, String)> {
        self.nodes[node].daemon.call(method, params)
    }

    fn snapshot(&self, node: usize, name: &str) -> Result<Value, (i64, String)> {
        self.call(node, "volume_snapshot", json!({"name": "v", "snapshot_name": name}))
    }

    /// What a head lists: by name and whether confirmed, the nodes that hold it.
    fn list(&self, node: usize) -> BTreeMap<(String, bool), Vec<usize>> {
        let found = self.call(node, "volume_get_snapshots", json!({"name": "v"})).expect("listed");
        assert_eq!(found["silent"], json!([]), "{found}");
        let mut list = BTreeMap::new();
        for one in found["snapshots"].as_array().expect("a list") {
            let name = one["name"].as_str().expect("a name").to_owned();
            let confirmed = one["confirmed"] == true;
            assert_eq!(one["moment"].is_string(), confirmed, "{one}");
            let holders = one["replicas"].as_array().expect("a list");
            let holders = holders.iter().map(|holder| self.node_of(node, holder)).collect();
            let other = list.insert((name, confirmed), holders);
            assert!(other.is_none(), "one name, one moment: {found}");
        }
        list
    }

    /// Kills everybody, and compares what the snapshots of one name hold. Gives what hosts saw of it.
    fn equal_content(&mut self, names: &BTreeMap<String, Vec<usize>>) -> BTreeMap<String, Vec<u8>> {
        (0..NODES).for_each(|node| self.kill(node));
        let all: Vec<&str> = names.keys().map(String::as_str).collect();
        let disks: Vec<BTreeMap<String, Vec<u8>>> =
            (0..NODES).map(|node| contents(&self.disk(node), &all)).collect();
        let mut equal = BTreeMap::new();
        for (name, holders) in names {
            let first = &disks[holders[0]][name];
            for holder in holders {
                assert!(disks[*holder][name] == *first, "{name} differs on node {holder}");
            }
            equal.insert(name.clone(), first.clone());
        }
        equal
    }
}

/// What hosts saw of snapshots in the store on a file that nobody uses.
fn contents(disk: &Path, names: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let cores = CoreSet::available().into_vec().into_iter().take(1).collect();
    let config = ReactorsConfig { cores, mode: IdleMode::Interrupt, ..ReactorsConfig::default() };
    let reactors = Reactors::start(config).expect("reactors");
    let devices = DeviceRegistry::default();
    let config = UringConfig::new("disk", disk);
    devices.add(Arc::new(UringDevice::open(&config).expect("opens"))).expect("a new name");
    let stores = StoreSet::new(devices.clone(), reactors.handles().to_vec());
    let store = stores.open("disk").expect("a store");
    let mut found = BTreeMap::new();
    for name in names {
        let Ok(device) = devices.get(&format!("s/r@{name}")) else { continue };
        let mut media = DeviceMedia::open(device.as_ref()).expect("opens");
        let mut blocks = vec![[0; BLOCK_BYTES as usize]; usize::try_from(SIZE).expect("small") / 4096];
        media.read_range(Block(DATA_AT), &mut blocks).expect("read");
        found.insert((*name).to_owned(), blocks.as_flattened().to_vec());
    }
    stores.close(&store).expect("closed");
    reactors.shutdown();
    assert_eq!(reactors.join().len(), 1);
    found
}

/// Writes block after block in turn, one at a time: what is there says how many writes were.
struct Writer {
    first: u64,
    begun: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(address: SocketAddr, number: u8) -> Self {
        let first = u64::from(number) * 500;
        let (begun, acknowledged) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let stop = Arc::<AtomicBool>::default();
        let (told, own, done) = (Arc::clone(&stop), Arc::clone(&begun), Arc::clone(&acknowledged));
        let thread = std::thread::spawn(move || {
            let (_association, mut queue) = queue(address, number);
            for count in 1.. {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                own.store(count, Ordering::SeqCst);
                let status = peer::try_write_block(&mut queue, first + count % TURN, stamp(count));
                if !status.is_some_and(|status| status.is_success()) {
                    // The head is gone.
                    return;
                }
                done.store(count, Ordering::SeqCst);
            }
        });
        Self { first, begun, acknowledged, stop, thread }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("no panic");
    }

    /// How many writes a content has of it, all of them and no other.
    fn prefix(first: u64, content: &[u8], least: u64, most: u64) -> u64 {
        let block = |lba: u64| &content[usize::try_from(lba).expect("small") * 4096..][..4096];
        let holds = |count: u64| {
            (0..TURN).all(|place| {
                let last = (count.saturating_sub(TURN - 1)..=count).rev().find(|write| write % TURN == place);
                let byte = last.filter(|write| *write > 0).map_or(0, stamp);
                block(first + place).iter().all(|found| *found == byte)
            })
        };
        (least..=most).find(|count| holds(*count)).expect("a prefix of what was written")
    }
}

fn stamp(count: u64) -> u8 {
    u8::try_from(count % 251 + 1).expect("small")
}

fn queue(address: SocketAddr, number: u8) -> (Association, Peer) {
    queue_of(FRONT, address, number)
}

fn queue_of(nqn: &str, address: SocketAddr, number: u8) -> (Association, Peer) {
    let place = Place {
        address,
        subnqn: Nqn::new(nqn).expect("valid"),
        hostnqn: Nqn::new(&format!("nqn.2026-01.org.example:host{number}")).expect("valid"),
        hostid: HostId([number; 16]),
    };
    let association = Association::open(&place, 0, PATIENCE);
    let queue = association.queue(&place, 1, 32, PATIENCE);
    (association, queue)
}

fn is_whole(volume: &Value) -> bool {
    let replicas = volume["replicas"].as_array().expect("a list");
    volume["state"] == "active"
        && replicas.iter().all(|replica| replica["in_sync"] == true && replica["regions_stale"] == 0)
}

#[test]
fn one_call_takes_equal_snapshots_of_what_was_acknowledged_while_hosts_write() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    let writers = [1, 2].map(|number| Writer::start(cluster.nodes[0].front, number));
    let mut bounds = BTreeMap::new();
    for name in ["one", "two", "three"] {
        writers.iter().for_each(|writer| cluster.write_more(0, writer, 20));
        cluster.manage_until(0, "whole", is_whole);
        let least = [0, 1].map(|at: usize| writers[at].acknowledged());
        let began = Instant::now();
        let taken = cluster.snapshot(0, name).expect("taken");
        println!("{name} taken in {} us", began.elapsed().as_micros());
        let most = [0, 1].map(|at: usize| writers[at].begun.load(Ordering::SeqCst));
        assert_eq!(taken["replicas"], json!(["own", "r1n1", "r2n1"]), "{taken}");
        assert_eq!(taken["left_over"], json!([]), "{taken}");
        bounds.insert(name.to_owned(), (least, most));
    }
    writers.iter().for_each(|writer| cluster.write_more(0, writer, 20));
    let twice = cluster.snapshot(0, "two").expect_err("there is one");
    assert!(twice.0 == -17 && twice.1.contains("s/r@two"), "{twice:?}");
    let deleted = cluster.call(0, "volume_delete_snapshot", json!({"name": "v", "snapshot_name": "two"}));
    assert_eq!(deleted.expect("deleted")["replicas"], json!(["own", "r1n1", "r2n1"]));
    let again = cluster.call(0, "volume_delete_snapshot", json!({"name": "v", "snapshot_name": "two"}));
    assert_eq!(again.expect_err("gone").0, -2);
    let names = cluster.list(0);
    let kept: Vec<(String, bool)> = names.keys().cloned().collect();
    assert_eq!(kept, [("one".to_owned(), true), ("three".to_owned(), true)]);
    let firsts = [writers[0].first, writers[1].first];
    writers.into_iter().for_each(|writer| writer.finish());
    let names = names.into_iter().map(|((name, _), holders)| (name, holders)).collect();
    for (name, content) in cluster.equal_content(&names) {
        let (least, most) = bounds[&name];
        for at in 0..2 {
            let count = Writer::prefix(firsts[at], &content, least[at], most[at]);
            println!("{name}: {count} writes of {}..={}", least[at], most[at]);
        }
    }
}

#[test]
fn a_replica_on_another_device_is_an_error_before_anything_waits() {
    let cluster = Cluster::start();
    let error = cluster.snapshot(0, "early").expect_err("not active");
    assert!(error.1.contains("not active"), "{error:?}");
    for name in ["", "a b", "a@b", "a~", "a/b"] {
        assert_eq!(cluster.snapshot(0, name).expect_err("no name").0, -22);
    }
    let daemon = &cluster.nodes[0].daemon;
    for (method, params) in [
        ("bdev_malloc_create", json!({"name": "m", "num_blocks": 4096, "block_size": 4096})),
        ("replica_create", json!({"name": "plain", "bdev_name": "m", "volume": FOREIGN, "zeroed": true})),
        ("volume_create", json!({"name": "w", "uuid": FOREIGN, "replicas": ["plain"]})),
        ("volume_activate", json!({"name": "w", "epoch": 1, "in_sync": ["plain"]})),
    ] {
        daemon.call(method, params).expect(method);
    }
    let error = cluster.call(0, "volume_snapshot", json!({"name": "w", "snapshot_name": "x"}));
    let error = error.expect_err("no store");
    assert!(error.0 == -95 && error.1.contains("no volume of a store"), "{error:?}");
    let freeze = cluster.call(0, "volume_freeze", json!({"name": "w"})).expect("nothing was frozen");
    assert_eq!(freeze["freeze"], 1, "the first");
}

const FOREIGN: &str = "0b0f5f55-5b1f-4f65-8a2a-3f1f0b6c7d10";

/// Deletes every snapshot that is not confirmed, by name.
fn delete_unconfirmed(cluster: &Cluster, head: usize) -> usize {
    let left: Vec<String> =
        cluster.list(head).into_keys().filter(|(_, confirmed)| !confirmed).map(|(name, _)| name).collect();
    for name in &left {
        let params = json!({"name": "v", "snapshot_name": name});
        cluster.call(head, "volume_delete_snapshot", params).expect("deleted");
    }
    assert!(cluster.list(head).keys().all(|(_, confirmed)| *confirmed));
    left.len()
}

#[test]
fn a_replica_that_dies_in_the_middle_has_none_that_counts_and_the_others_are_equal() {
    let mut cluster = Cluster::start();
    cluster.activate(0, &[0, 1, 2]);
    let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut left = 0;
    for round in 0..4 {
        let writer = Writer::start(cluster.nodes[0].front, 1);
        cluster.write_more(0, &writer, 20);
        let name = format!("round{round}");
        let mut client = cluster.nodes[0].daemon.connect();
        let params = json!({"name": "v", "snapshot_name": name});
        let call = move || client.call("volume_snapshot", params);
        let taking = if round == 0 {
            cluster.kill(2);
            std::thread::spawn(call)
        } else {
            let taking = std::thread::spawn(call);
            cluster.kill(2);
            taking
        };
        while !taking.is_finished() {
            cluster.follow(0);
        }
        let outcome = taking.join().expect("no panic");
        println!("round {round}: {outcome:?}");
        cluster.manage_until(0, "without the replica", |volume| volume["replicas"][2]["in_sync"] == false);
        cluster.write_more(0, &writer, 20);
        writer.finish();
        cluster.restart(2);
        cluster.manage_until(0, "whole again", is_whole);
        let list = cluster.list(0);
        match outcome {
            Ok(taken) => {
                let kept = taken["replicas"].as_array().expect("a list");
                let kept: Vec<usize> = kept.iter().map(|name| cluster.node_of(0, name)).collect();
                let holders = &list[&(name.clone(), true)];
                assert!(kept.iter().all(|node| holders.contains(node)), "{taken} {list:?}");
                expected.insert(name, holders.clone());
            }
            Err(_) => assert!(!list.contains_key(&(name, true)), "{list:?}"),
        }
        left += delete_unconfirmed(&cluster, 0);
    }
    println!("{} taken, {left} left over and deleted", expected.len());
    cluster.equal_content(&expected);
}

#[test]
fn what_a_killed_head_has_left_is_confirmed_and_equal_or_can_be_deleted() {
    let mut cluster = Cluster::start();
    let mut head = 0;
    cluster.activate(head, &[0, 1, 2]);
    let mut left = 0;
    for round in 0..4 {
        let writer = Writer::start(cluster.nodes[head].front, 1);
        cluster.write_more(head, &writer, 20);
        let mut client = cluster.nodes[head].daemon.connect();
        let params = json!({"name": "v", "snapshot_name": format!("round{round}")});
        let taking = std::thread::spawn(move || client.call("volume_snapshot", params));
        let next = (head + 1) % NODES;
        if round % 2 == 1 {
            // By then replicas are being asked.
            let begun = |cluster: &Cluster| {
                let all = cluster.call(next, "bdev_lvol_get_lvols", Value::Null).expect("listed");
                all.as_array().expect("a list").iter().any(|one| {
                    one["alias"].as_str().is_some_and(|alias| alias.contains(&format!("@round{round}")))
                })
            };
            eventually("a replica has one", || begun(&cluster));
        }
        cluster.kill(head);
        // Its connection ended, most likely.
        let answered = taking.join().is_ok_and(|outcome| outcome.is_ok());
        writer.finish();
        let others: Vec<usize> = (0..NODES).filter(|node| *node != head).collect();
        cluster.activate(next, &others);
        cluster.restart(head);
        head = next;
        cluster.manage_until(head, "whole again", is_whole);
        let list = cluster.list(head);
        println!("round {round}: {list:?}");
        assert!(!answered || list.contains_key(&(format!("round{round}"), true)), "{list:?}");
        left += delete_unconfirmed(&cluster, head);
    }
    let confirmed: BTreeMap<String, Vec<usize>> =
        cluster.list(head).into_iter().map(|((name, _), holders)| (name, holders)).collect();
    println!("{} confirmed, {left} left over and deleted", confirmed.len());
    cluster.equal_content(&confirmed);
}

/// A block that is written, and one that is written twice, with a snapshot in between.
fn snapshot_between_writes(cluster: &mut Cluster) -> (Peer, Association, Value) {
    cluster.activate(0, &[0, 1, 2]);
    let (association, mut queue) = queue(cluster.nodes[0].front, 9);
    for lba in [5, 700] {
        assert!(peer::write_block(&mut queue, lba, 0x11).is_success());
    }
    cluster.manage_until(0, "whole", is_whole);
    let taken = cluster.snapshot(0, "base").expect("taken");
    assert_eq!(taken["replicas"], json!(["own", "r1n1", "r2n1"]));
    assert!(peer::write_block(&mut queue, 5, 0x22).is_success());
    (queue, association, taken["moment"].clone())
}

#[test]
fn clones_of_one_moment_are_a_volume_of_their_own_without_copying() {
    let mut cluster = Cluster::start();
    let (mut queue, _association, moment) = snapshot_between_writes(&mut cluster);
    let clone = |node: usize, name: &str| {
        let params = json!({"snapshot_name": "s/r@base", "clone_name": name});
        cluster.call(node, "bdev_lvol_clone", params).expect("cloned");
    };
    let make = |node: usize, clone: &str, moment: &Value| {
        let params = json!({"name": "copy", "bdev_name": format!("s/{clone}"), "volume": FOREIGN, "size_bytes": SIZE, "moment": moment});
        cluster.call(node, "replica_create", params)
    };
    clone(0, "w");
    let error = make(0, "w", &json!(FOREIGN)).expect_err("another moment");
    assert!(error.0 == -22 && error.1.contains("no clone"), "{error:?}");
    let error = make(0, "r@base", &moment).expect_err("a snapshot");
    assert!(error.0 < 0, "{error:?}");
    let front = free_address();
    listen(&cluster.nodes[0].daemon, &replica_nqn(7), "s/w", front);
    {
        let (_association, mut written) = queue_of(&replica_nqn(7), front, 8);
        assert!(peer::write_block(&mut written, 3, 0x33).is_success());
    }
    cluster.call(0, "nvmf_delete_subsystem", json!({"nqn": replica_nqn(7)})).expect("deleted");
    let error = make(0, "w", &moment).expect_err("written");
    assert!(error.1.contains("written since"), "{error:?}");

    let backs: Vec<SocketAddr> = (0..NODES).map(|_| free_address()).collect();
    for (node, back) in backs.iter().enumerate() {
        clone(node, "c");
        make(node, "c", &moment).expect("a replica");
        listen(&cluster.nodes[node].daemon, &replica_nqn(10 + node), "copy", *back);
    }
    for (node, back) in backs.iter().enumerate().skip(1) {
        let attach = json!({
            "name": format!("c{node}"), "trtype": "tcp", "traddr": back.ip(), "trsvcid": back.port().to_string(),
            "subnqn": replica_nqn(10 + node),
        });
        cluster.call(0, "bdev_nvme_attach_controller", attach).expect("attached");
    }
    let replicas = json!(["copy", "c1n1", "c2n1"]);
    cluster
        .call(0, "volume_create", json!({"name": "c", "uuid": FOREIGN, "replicas": replicas}))
        .expect("a volume");
    cluster
        .call(0, "volume_activate", json!({"name": "c", "epoch": 1, "in_sync": replicas}))
        .expect("active");
    let front = free_address();
    listen(&cluster.nodes[0].daemon, &replica_nqn(20), "c", front);
    let (_other, mut copy) = queue_of(&replica_nqn(20), front, 8);
    for (lba, byte) in [(5, 0x11), (700, 0x11), (6, 0)] {
        assert_eq!(peer::read_block(&mut copy, lba), Ok(byte));
    }
    let volume = cluster.call(0, "volume_get", json!({"name": "c"})).expect("a volume");
    assert_eq!(volume["regions_to_copy"], 0, "{volume}");
    assert!(peer::write_block(&mut copy, 6, 0x44).is_success());
    assert_eq!(peer::read_block(&mut queue, 5), Ok(0x22), "the volume went its own way");
}

#[test]
fn replicas_that_were_rolled_back_and_others_are_never_taken_for_equal() {
    let mut cluster = Cluster::start();
    let (mut queue, _association, moment) = snapshot_between_writes(&mut cluster);
    let error =
        cluster.call(1, "bdev_lvol_rollback", json!({"lvol_name": "s/r", "snapshot_name": "s/r@base"}));
    assert_eq!(error.expect_err("it is a replica").0, -16);
    let roll_back = |cluster: &Cluster, node: usize| {
        let epoch = cluster.epoch + 1;
        let params = json!({"name": "own", "snapshot_name": "base", "moment": moment, "epoch": epoch});
        cluster.call(node, "replica_rollback", params)
    };
    // One that went back before the others could: they hold what is newer, and it is given that again.
    cluster.call(0, "volume_deactivate", json!({"name": "v"})).expect("let go");
    let stale = json!({"name": "own", "snapshot_name": "base", "moment": moment, "epoch": cluster.epoch});
    assert_eq!(cluster.call(1, "replica_rollback", stale).expect_err("a head of that epoch").0, -116);
    roll_back(&cluster, 1).expect("rolled back");
    cluster.activate(0, &[0, 1, 2]);
    cluster.manage_until(0, "whole again", is_whole);
    assert_eq!(peer::read_block(&mut queue, 5), Ok(0x22));
    // Two go back, and one is down meanwhile: what it holds is not believed.
    cluster.call(0, "volume_deactivate", json!({"name": "v"})).expect("let go");
    cluster.kill(2);
    for node in [0, 1] {
        roll_back(&cluster, node).expect("rolled back");
    }
    cluster.kill(1);
    cluster.restart(1);
    cluster.activate(0, &[0, 1]);
    assert_eq!(peer::read_block(&mut queue, 5), Ok(0x11));
    cluster.restart(2);
    cluster.manage_until(0, "whole again", is_whole);
    let regions = SIZE
        / cluster.call(0, "volume_get", json!({"name": "v"})).expect("a volume")["region_bytes"]
            .as_u64()
            .expect("bytes");
    let volume = cluster.call(0, "volume_get", json!({"name": "v"})).expect("a volume");
    assert!(volume["regions_copied"].as_u64() >= Some(regions), "{volume}");
    for (node, others) in [(1, [0, 1, 2]), (2, [0, 1, 2])] {
        cluster.call((node + 2) % 3, "volume_deactivate", json!({"name": "v"})).expect("let go");
        cluster.activate(node, &others);
        let (_association, mut queue) = self::queue(cluster.nodes[node].front, 9);
        assert_eq!(peer::read_block(&mut queue, 5), Ok(0x11));
        assert_eq!(peer::read_block(&mut queue, 700), Ok(0x11));
    }
}
