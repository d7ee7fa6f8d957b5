//! Hostile peers against the real daemon, beside a well-behaved host that must not notice.

mod common;
mod peer;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Daemon, PATIENCE, eventually, free_address};
use nvme::admin::{Abort, AsyncEventRequest, Identify};
use nvme::fabrics::ConnectData;
use nvme::nvm::ReadWrite;
use nvme::tcp::{CommonHeader, PduType, R2t};
use nvme::{ControllerId, HostId, Lba, Nqn, NulStr, QueueId, SglDescriptor, Status, U16, U32};
use peer::{Association, BLOCK_BYTES, NSID, Peer, Place};
use serde_json::{Value, json};
use zerocopy::{FromBytes, IntoBytes};

const GOOD: &str = "nqn.2026-01.org.example:well-behaved";
const ATTACKED: &str = "nqn.2026-01.org.example:attacked-by-everyone";
/// What an attack may leave behind: both namespaces, pages of the buffer pool, tables of connections that were.
const ATTACK_MAX_KIB: u64 = 64 << 10;
/// Attacks are made twice; what the second round adds is a leak. This much is noise of the allocator.
const GROWTH_MAX_KIB: u64 = 8 << 10;
/// Associations that come and go, and what the second as many may add: a KiB each would be four times that.
const VISITS: u64 = 1000;
const VISITS_GROWTH_MAX_KIB: u64 = 256;
/// Commands of the floods.
const FLOOD: u16 = 200;
/// Connections opened at once by the attack that opens many.
const CROWD: usize = 300;
/// Sessions spoilt in one round, of which each is seeded by its number.
const SPOILT: u64 = 150;
/// A round takes no longer, however slow the machine: attacks of many steps stop at it.
const ROUND_TIME_MAX: Duration = Duration::from_secs(12);
/// The daemon closes a connection without ICReq after 10 s; the rest is for a loaded machine.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(30);
/// Time-out that the silent host asks for.
const KATO_MS: u32 = 1000;

/// What an attack is given.
struct Scene {
    place: Place,
    until: Instant,
    round: u64,
}

impl Scene {
    /// Who attacks: each attack is a host of its own.
    fn new(address: SocketAddr, number: u8, round: u64) -> Self {
        let place = Place {
            address,
            subnqn: Nqn::new(ATTACKED).expect("valid"),
            hostnqn: Nqn::new(&format!("nqn.2026-01.org.example:attacker-{number}")).expect("valid"),
            hostid: HostId([number + 1; 16]),
        };
        Self { place, until: Instant::now() + ROUND_TIME_MAX, round }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn association(&self) -> Association {
        Association::open(&self.place, 0, PATIENCE)
    }
}

/// Sends a session until the daemon hangs up.
fn play(address: SocketAddr, pdus: &[Vec<u8>]) {
    let mut peer = Peer::connect(address);
    for pdu in pdus {
        if peer.exchange(pdu).is_none() && !peer.send(&[]) {
            return;
        }
    }
}

/// Valid sessions in which one PDU has a few flipped bits.
fn flipped_bits(scene: &Scene) {
    for number in 0..SPOILT {
        if scene.is_over() {
            return;
        }
        let mut random = fastrand::Rng::with_seed(scene.round << 32 | number);
        let association = random.bool().then(|| scene.association());
        let mut pdus = match &association {
            Some(association) => peer::io_session(&scene.place, association.cntlid, 1),
            None => peer::admin_session(&scene.place),
        };
        let victim = random.usize(..pdus.len());
        for _ in 0..random.usize(1..=4) {
            // Nearly all that means something lies in the first bytes.
            let end = if random.bool() { pdus[victim].len().min(72) } else { pdus[victim].len() };
            let byte = random.usize(..end);
            pdus[victim][byte] ^= 1 << random.u8(..8);
        }
        play(scene.place.address, &pdus);
    }
}

/// Sessions that end at every boundary of a PDU and inside every PDU.
fn cut_short(scene: &Scene) {
    let association = scene.association();
    for pdus in [peer::admin_session(&scene.place), peer::io_session(&scene.place, association.cntlid, 1)] {
        for whole in 0..pdus.len() {
            let next = &pdus[whole];
            for cut in [0, 1, 8, next.len() / 2, next.len() - 1] {
                if scene.is_over() {
                    return;
                }
                let mut peer = Peer::connect(scene.place.address);
                peer.send(&pdus[..whole].concat());
                peer.send(&next[..cut]);
            }
        }
    }
}

/// Hosts that stop after each stage, and in the middle of it; those that never begin are thrown out.
fn stalled(scene: &Scene) {
    let mut silent = Peer::connect(scene.place.address);
    let mut begun = Peer::connect(scene.place.address);
    begun.send(&peer::ic_request()[..50]);
    let association = scene.association();
    let mut held = Vec::new();
    for pdus in [peer::admin_session(&scene.place), peer::io_session(&scene.place, association.cntlid, 1)] {
        for stage in 1..pdus.len() {
            let mut peer = Peer::connect(scene.place.address);
            peer.send(&pdus[..stage].concat());
            peer.send(&pdus[stage][..pdus[stage].len() / 2]);
            held.push(peer);
        }
    }
    assert!(silent.is_closed_within(HANDSHAKE_PATIENCE), "a connection without ICReq is kept");
    assert!(begun.is_closed_within(HANDSHAKE_PATIENCE), "a connection with half an ICReq is kept");
}

/// Lengths that are larger, smaller or elsewhere than they can be.
fn impossible_lengths(scene: &Scene) {
    let set = |bytes: &[u8], change: fn(&mut CommonHeader)| {
        let mut bytes = bytes.to_vec();
        let (header, _) = CommonHeader::mut_from_prefix(&mut bytes).expect("a PDU");
        change(header);
        bytes
    };
    let changes: [fn(&mut CommonHeader); 8] = [
        |header| header.plen = U32::new(u32::MAX),
        |header| header.plen = U32::new(0),
        |header| header.plen = U32::new(7),
        |header| header.plen = U32::new(1 << 20),
        |header| header.hlen = 255,
        |header| header.hlen = 0,
        |header| header.pdo = 255,
        |header| header.flags = 255,
    ];
    let association = scene.association();
    let pdus = peer::io_session(&scene.place, association.cntlid, 1);
    for (victim, pdu) in pdus.iter().enumerate() {
        for change in changes {
            if scene.is_over() {
                return;
            }
            let mut peer = Peer::connect(scene.place.address);
            peer.send(&pdus[..victim].concat());
            peer.send(&set(pdu, change));
        }
    }
}

/// Commands whose SGL does not fit what they ask for: refused one by one, on a connection that stays open.
fn impossible_sgls(scene: &Scene) {
    let association = scene.association();
    let mut queue = association.queue(&scene.place, 1, 32, PATIENCE);
    let read = |blocks| ReadWrite::read(NSID, Lba(0), blocks).to_sqe(5);
    let refused = [
        peer::transfer(read(1), u32::MAX),
        peer::transfer(read(1 << 16), 1 << 31),
        peer::transfer(read(8), BLOCK_BYTES),
        peer::transfer(ReadWrite::write(NSID, Lba(0), 8).to_sqe(5), 0),
        peer::raw_capsule(read(1).with_sgl(SglDescriptor::BitBucket { length: BLOCK_BYTES }), &[]),
        peer::raw_capsule(
            read(1).with_sgl(SglDescriptor::Segment { address: 0, length: u32::MAX, in_capsule: true }),
            &[],
        ),
        peer::raw_capsule(
            ReadWrite::write(NSID, Lba(0), 1)
                .to_sqe(5)
                .with_sgl(SglDescriptor::InCapsule { offset: u64::MAX - 10, length: BLOCK_BYTES }),
            &[0; 64],
        ),
        peer::read(5, u64::MAX, 1),
    ];
    for command in refused {
        let (cid, status, _) = queue.command(&command, PATIENCE);
        assert_eq!(cid, 5);
        assert!(!status.is_success(), "{command:x?}");
    }
    let (_, status, _) = queue.command(&peer::read(6, 0, 1), PATIENCE);
    assert!(status.is_success(), "{status}");
}

/// A host that asks for far more than it ever reads.
fn never_reads(scene: &Scene) {
    /// 128 KiB.
    const BLOCKS: u32 = 32;
    let association = scene.association();
    let mut queue = association.queue(&scene.place, 1, 128, PATIENCE);
    for cid in 0..2000 {
        if !queue.send(&peer::read(cid, 0, BLOCKS)) {
            break;
        }
    }
    // Held without a word for as long as the others attack.
    thread::sleep(scene.until.saturating_duration_since(Instant::now()).min(Duration::from_secs(3)));
}

/// Hundreds of connections at once, of which a third say nothing, a third begin, and a third bring up controllers.
fn crowd(scene: &Scene) {
    let session = peer::admin_session(&scene.place);
    let mut all: Vec<Peer> = Vec::new();
    for number in 0..CROWD {
        let mut peer = Peer::connect(scene.place.address);
        peer.send(&session[..[0, 1, 4][number % 3]].concat());
        all.push(peer);
    }
    let mut answered = 0;
    for peer in all.iter_mut().skip(1).step_by(3) {
        answered += usize::from(peer.receive_within(PATIENCE).is_some());
    }
    assert_eq!(answered, CROWD / 3);
}

/// Bytes of other protocols, and of none.
fn garbage(scene: &Scene) {
    let mut random = fastrand::Rng::with_seed(scene.round);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(100_000).collect();
    let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &noise[..500]].concat();
    let after = [peer::ic_request(), noise.clone()].concat();
    let pieces = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &noise[..], &tls, &after, &[0; 4096], &[255; 4096]];
    for bytes in pieces {
        let mut peer = Peer::connect(scene.place.address);
        peer.send(bytes);
        assert!(peer.is_closed_within(HANDSHAKE_PATIENCE), "kept after {:x?}", &bytes[..16]);
    }
}

/// Commands with the identifier of one that is in flight, and data that nobody asked for.
fn confused_identifiers(scene: &Scene) {
    let association = scene.association();
    let mut qid = 0;
    let mut end_of = |bytes: &[u8]| {
        qid += 1;
        let mut queue = association.queue(&scene.place, qid, 32, PATIENCE);
        queue.send(bytes);
        queue.is_closed_within(Duration::from_millis(300))
    };
    // The first waits for its data.
    end_of(&[peer::write(5, 0, 8), peer::write(5, 0, 8)].concat());
    end_of(&[peer::write(5, 0, 8), peer::read(5, 0, 1)].concat());
    end_of(&vec![peer::read(5, 0, 8); 20].concat());
    for (cccid, ttag) in [(0, 0), (5, 0), (0xFFFF, 0xFFFF), (31, 31 << 4)] {
        assert!(end_of(&peer::h2c_data(cccid, ttag, 0, &[0; 4096])), "data that nobody asked for is taken");
    }
    // More, elsewhere and under another tag than asked for.
    for ttag in [0, 1, 16, 0xFFF0] {
        end_of(&[peer::write(5, 0, 8), peer::h2c_data(5, ttag, 4096, &[0; 65_536])].concat());
    }
}

/// Connects that must be refused, each with a status.
fn wrong_connects(scene: &Scene) {
    let valid = scene.place.connect_data(ControllerId::DYNAMIC);
    let named = |subnqn: &[u8]| {
        let mut bytes = [0; 256];
        bytes[..subnqn.len()].copy_from_slice(subnqn);
        ConnectData { subnqn: NulStr::read_from_bytes(&bytes).expect("256 bytes"), ..valid }
    };
    let mut wrong: Vec<Vec<u8>> =
        [&b""[..], b"nqn.", &[b'a'; 256], &[0xFF; 200], b"nqn.2026-01.org.example:none"]
            .iter()
            .map(|subnqn| peer::connect(0, 31, 0, &named(subnqn)))
            .collect();
    let hostless = ConnectData { hostnqn: named(b"").subnqn, ..valid };
    wrong.extend([
        peer::connect(0, 31, 0, &hostless),
        peer::connect(0, 0, 0, &valid),
        peer::connect(0, u16::MAX, 0, &valid),
        peer::connect(1, 31, 0, &valid),
        peer::connect(u16::MAX, 31, 0, &ConnectData { cntlid: U16::new(0xFFEF), ..valid }),
        peer::connect(0, 31, 0, &ConnectData { cntlid: U16::new(0xFFF1), ..valid }),
    ]);
    let command =
        nvme::fabrics::ConnectCommand { sqsize: U16::new(31), ..nvme::fabrics::ConnectCommand::new(1) };
    for length in [1, 512, 1023, 2048, 8192] {
        let data = valid.as_bytes().iter().copied().cycle().take(length).collect::<Vec<u8>>();
        wrong.push(peer::capsule(command.to_sqe(), &data));
    }
    wrong.push(peer::capsule(command.to_sqe(), &[]));
    for (number, connect) in wrong.iter().enumerate() {
        // A Connect of the right size with a longer SGL is allowed to pass: its data begins with what is needed.
        let mut peer = Peer::connect(scene.place.address);
        peer.send(&peer::ic_request());
        assert!(peer.receive_within(PATIENCE).is_some());
        peer.send(connect);
        let Some(answer) = peer.receive_within(PATIENCE) else { continue };
        if answer[0] == PduType::CAPSULE_RESP.0 {
            let status = U16::from_bytes([answer[22], answer[23]]).get();
            let is_longer = (14..16).contains(&number);
            assert!(is_longer || status != 0, "Connect {number} passed");
        }
    }
}

/// More asynchronous event requests, aborts and identifies than a controller takes.
fn floods(scene: &Scene) {
    let mut association = scene.association();
    let requests: Vec<u8> =
        (100..100 + FLOOD).flat_map(|cid| peer::capsule(AsyncEventRequest.to_sqe(cid), &[])).collect();
    association.admin.send(&requests);
    let (mut refused, mut kept) = (0, 0);
    while refused + kept < FLOOD - 4 {
        let (_, status, _) = association.admin.response(PATIENCE);
        match status.is(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED) {
            true => refused += 1,
            false => kept += 1,
        }
    }
    assert_eq!(kept, 0, "an asynchronous event without a reason");

    let mut queue = association.queue(&scene.place, 1, 128, PATIENCE);
    let writes: Vec<u8> = (0..100).flat_map(|cid| peer::write(cid, u64::from(cid), 1)).collect();
    queue.send(&writes);
    let abort = |number: u16| Abort { sqid: QueueId(number % 3), cid: number % 128 }.to_sqe(1000 + number);
    let aborts: Vec<u8> = (0..FLOOD).flat_map(|number| peer::capsule(abort(number), &[])).collect();
    association.admin.send(&aborts);
    let mut answered = 0;
    while answered < FLOOD {
        let (cid, _, _) = association.admin.response(PATIENCE);
        answered += u16::from(cid >= 1000);
    }
    for cid in 0..FLOOD {
        association.admin.send(&peer::transfer(Identify::new(1).to_sqe(cid), BLOCK_BYTES));
    }
}

/// A host that asks for a short time-out and is silent loses its association, I/O queue and all.
fn silent_host(scene: &Scene) {
    let mut association = Association::open(&scene.place, KATO_MS, PATIENCE);
    let mut queue = association.queue(&scene.place, 1, 32, PATIENCE);
    assert!(association.admin.is_closed_within(HANDSHAKE_PATIENCE), "a silent host keeps its association");
    assert!(queue.is_closed_within(HANDSHAKE_PATIENCE), "a silent host keeps its queue");
}

type Attack = (&'static str, fn(&Scene));

const ATTACKS: [Attack; 12] = [
    ("flipped bits", flipped_bits),
    ("cut short", cut_short),
    ("stalled", stalled),
    ("impossible lengths", impossible_lengths),
    ("impossible SGLs", impossible_sgls),
    ("never reads", never_reads),
    ("crowd", crowd),
    ("garbage", garbage),
    ("confused identifiers", confused_identifiers),
    ("wrong connects", wrong_connects),
    ("floods", floods),
    ("silent host", silent_host),
];

/// All attacks at once.
fn attack(address: SocketAddr, round: u64) {
    thread::scope(|scope| {
        for ((name, attack), number) in ATTACKS.into_iter().zip(0..) {
            let run = move || attack(&Scene::new(address, number, round));
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run).expect("a thread");
        }
    });
}

/// A verified load that runs until told to stop.
struct GoodHost(Child);

impl GoodHost {
    fn start(address: SocketAddr) -> Self {
        let port = address.port().to_string();
        let child = Command::new(env!("CARGO_BIN_EXE_pollux"))
            .args([
                "perf",
                "--traddr",
                "127.0.0.1",
                "--trsvcid",
                &port,
                "--subnqn",
                GOOD,
                "--workload",
                "randrw",
            ])
            .args(["--depth", "16", "--time", "600", "--verify", "--quiet", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("pollux starts");
        Self(child)
    }

    /// Its report, after it has read back all that it wrote.
    fn stop(self) -> Value {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let output = self.0.wait_with_output().expect("waited for");
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).expect("a report")
    }
}

/// Two subsystems of one listener: what is done to one must not touch the other.
fn serve(daemon: &Daemon, address: SocketAddr) {
    daemon.call("nvmf_create_transport", json!({"trtype": "TCP"})).expect("a transport");
    for (nqn, device) in [(GOOD, "good"), (ATTACKED, "attacked")] {
        let size = json!({"name": device, "num_blocks": 2048, "block_size": BLOCK_BYTES});
        daemon.call("bdev_malloc_create", size).expect("a device");
        daemon
            .call("nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": true}))
            .expect("a subsystem");
        let namespace = json!({"nqn": nqn, "namespace": {"bdev_name": device}});
        daemon.call("nvmf_subsystem_add_ns", namespace).expect("a namespace");
        let listen = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": address.ip(), "trsvcid": address.port().to_string()});
        daemon
            .call("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": listen}))
            .expect("a listener");
    }
}

fn controllers(daemon: &Daemon, nqn: &str) -> usize {
    let list = daemon.call("nvmf_subsystem_get_controllers", json!({"nqn": nqn})).expect("listed");
    list.as_array().map_or(0, Vec::len)
}

#[test]
fn hostile_peers_harm_neither_the_daemon_nor_its_hosts() {
    let address = free_address();
    let daemon = Daemon::start(&[]);
    serve(&daemon, address);
    let good = GoodHost::start(address);
    eventually("the good host is connected", || controllers(&daemon, GOOD) == 1);
    let files = daemon.open_files();
    let mut resident = vec![daemon.resident_kib()];
    for round in 0..2 {
        attack(address, round);
        eventually("all attackers are forgotten", || controllers(&daemon, ATTACKED) == 0);
        eventually("all their sockets are closed", || daemon.open_files() <= files + 1);
        resident.push(daemon.resident_kib());
    }
    assert_eq!(controllers(&daemon, GOOD), 1, "the good host had to connect again");
    let report = good.stop();
    assert_eq!((&report["errors"], &report["miscompares"]), (&json!(0), &json!(0)), "{report}");
    assert!(report["blocks_verified"].as_u64() > Some(10_000), "{report}");
    assert!(
        resident[1] < resident[0] + ATTACK_MAX_KIB,
        "memory before and after each round, in KiB: {resident:?}"
    );
    assert!(
        resident[2] < resident[1] + GROWTH_MAX_KIB,
        "memory before and after each round, in KiB: {resident:?}"
    );
    let bad: Vec<String> =
        daemon.lines().filter(|line| ["ERROR", "panicked"].iter().any(|word| line.contains(word))).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_host_that_does_not_read_holds_up_nobody_who_writes_what_it_asked_for() {
    /// Together far more than the sockets take.
    const READS: u16 = 100;
    const BLOCKS: u32 = 32;
    let address = free_address();
    let daemon = Daemon::start(&[]);
    serve(&daemon, address);
    let scene = Scene::new(address, 0, 0);
    let (slow, other) = (scene.association(), scene.association());
    let mut slow_queue = slow.queue(&scene.place, 1, 128, PATIENCE);
    let mut other_queue = other.queue(&scene.place, 1, 32, PATIENCE);
    write_all(&mut other_queue, 1, 0, BLOCKS, 1);
    for cid in 0..READS {
        assert!(slow_queue.send(&peer::read(cid, 0, BLOCKS)));
    }
    write_all(&mut other_queue, 2, 0, BLOCKS, 2);
    assert_eq!(controllers(&daemon, ATTACKED), 2, "the slow host is still there");
    let mut newest = 1;
    for _ in 0..READS {
        let pdu = slow_queue.receive_within(PATIENCE).expect("data");
        let data = &pdu[pdu.len() - usize::try_from(BLOCKS * BLOCK_BYTES).expect("fits")..];
        assert!(data.iter().all(|byte| *byte == data[0]), "a torn read");
        assert!(data[0] >= newest, "what was read later is older");
        newest = data[0];
        let (_, status, _) = slow_queue.response(PATIENCE);
        assert!(status.is_success(), "{status}");
    }
    assert_eq!(daemon.stop().code(), Some(0));
}

/// Writes blocks full of `byte`, as the R2Ts ask for them.
fn write_all(queue: &mut Peer, cid: u16, lba: u64, blocks: u32, byte: u8) {
    assert!(queue.send(&peer::write(cid, lba, blocks)));
    let answer = queue.receive_within(PATIENCE).expect("an R2T");
    let (r2t, _) = R2t::read_from_prefix(&answer).expect("an R2T");
    assert_eq!((r2t.ch.pdu_type(), r2t.r2tl.get()), (PduType::R2T, blocks * BLOCK_BYTES));
    let data = vec![byte; usize::try_from(r2t.r2tl.get()).expect("fits")];
    let (_, status, _) = queue.command(&peer::h2c_data(cid, r2t.ttag.get(), r2t.r2to.get(), &data), PATIENCE);
    assert!(status.is_success(), "{status}");
}

#[test]
fn hosts_that_come_and_go_leave_nothing_behind() {
    let address = free_address();
    let daemon = Daemon::start(&[]);
    serve(&daemon, address);
    let scene = Scene::new(address, 0, 0);
    let files = daemon.open_files();
    let mut resident = Vec::new();
    for _ in 0..2 {
        for _ in 0..VISITS {
            let association = scene.association();
            let mut queue = association.queue(&scene.place, 1, 32, PATIENCE);
            // It goes with a command that waits for its data, and one that was answered but not read.
            queue.send(&[peer::read(1, 0, 8), peer::write(2, 0, 8)].concat());
        }
        eventually("all hosts are forgotten", || controllers(&daemon, ATTACKED) == 0);
        eventually("all sockets are closed", || daemon.open_files() <= files + 1);
        resident.push(daemon.resident_kib());
    }
    assert!(
        resident[1] <= resident[0] + VISITS_GROWTH_MAX_KIB,
        "memory after each round, in KiB: {resident:?}"
    );
}
