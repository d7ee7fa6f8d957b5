//! What a host was promised holds over the end of the daemon, however it comes; and what an idle daemon costs.

mod common;
mod peer;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Daemon, PATIENCE, build_folder, free_address, http_get};
use nvme::nvm::{Flush, ReadWrite};
use nvme::tcp::{C2hData, PduType};
use nvme::{HostId, Lba, Nqn};
use peer::{Association, BLOCK_BYTES, NSID, Peer, Place};
use serde_json::json;
use tempfile::TempDir;
use zerocopy::FromBytes;

const SUBSYSTEM: &str = "nqn.2026-01.org.example:durable";
const BLOCKS: u64 = 2048;
/// Writes in flight.
const DEPTH: u16 = 16;
/// Acknowledged writes after which the daemon is ended.
const WRITES_BEFORE_END: u64 = 3000;
/// Writes between two flushes.
const FLUSH_EVERY: u64 = 200;

fn place(address: SocketAddr) -> Place {
    Place {
        address,
        subnqn: Nqn::new(SUBSYSTEM).expect("valid"),
        hostnqn: Nqn::new("nqn.2026-01.org.example:host").expect("valid"),
        hostid: HostId([7; 16]),
    }
}

/// What hosts see: the file itself, or a volume of a store on it.
#[derive(Clone, Copy, PartialEq)]
enum Served {
    File,
    Volume,
}

impl Served {
    /// Bytes of the file: a store takes more than its volume.
    fn file_bytes(self) -> u64 {
        let volume = BLOCKS * u64::from(BLOCK_BYTES);
        if self == Self::File { volume } else { 4 * volume }
    }

    fn device(self) -> &'static str {
        if self == Self::File { "disk" } else { "store/volume" }
    }
}

/// Makes the store and the volume, on a file that nothing serves yet.
fn make_volume(daemon: &Daemon, file: &Path) {
    let disk = json!({"name": "disk", "filename": file, "block_size": BLOCK_BYTES});
    let mebibytes = (BLOCKS * u64::from(BLOCK_BYTES)) >> 20;
    let volume = json!({"lvs_name": "store", "lvol_name": "volume", "size_in_mib": mebibytes});
    for (method, params) in [
        ("bdev_uring_create", disk),
        ("bdev_lvol_create_lvstore", json!({"bdev_name": "disk", "lvs_name": "store"})),
        ("bdev_lvol_create", volume),
        ("bdev_uring_delete", json!({"name": "disk"})),
    ] {
        daemon.call(method, params).expect(method);
    }
}

fn serve(daemon: &Daemon, file: &Path, address: SocketAddr, served: Served) {
    let device = served.device();
    let disk = json!({"name": "disk", "filename": file, "block_size": BLOCK_BYTES});
    let listen = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": address.ip(), "trsvcid": address.port().to_string()});
    for (method, params) in [
        ("nvmf_create_transport", json!({"trtype": "TCP"})),
        ("bdev_uring_create", disk),
        ("nvmf_create_subsystem", json!({"nqn": SUBSYSTEM, "allow_any_host": true})),
        ("nvmf_subsystem_add_ns", json!({"nqn": SUBSYSTEM, "namespace": {"bdev_name": device}})),
        ("nvmf_subsystem_add_listener", json!({"nqn": SUBSYSTEM, "listen_address": listen})),
    ] {
        daemon.call(method, params).expect(method);
    }
}

/// What each block may hold: the number of the last write that must be there, and of the last that was sent. Numbers only
/// grow, and one write at a time is on its way to a block.
struct Ledger {
    promised: Vec<u64>,
    sent: Vec<u64>,
    /// The last number that was used.
    number: u64,
}

impl Ledger {
    fn new() -> Self {
        let blocks = usize::try_from(BLOCKS).expect("small");
        Self { promised: vec![0; blocks], sent: vec![0; blocks], number: 0 }
    }
}

/// Writes numbers to blocks until the connection ends.
struct Writer<'a> {
    queue: Peer,
    ledger: Ledger,
    acknowledged: Vec<u64>,
    /// Block and number of the write of each identifier.
    in_flight: Vec<Option<(usize, u64)>>,
    number: u64,
    random: fastrand::Rng,
    done: &'a AtomicU64,
    /// Whether only what was flushed counts as promised.
    flushes: bool,
}

impl<'a> Writer<'a> {
    /// Goes on where `ledger` ends.
    fn new(queue: Peer, ledger: Ledger, flushes: bool, done: &'a AtomicU64) -> Self {
        let acknowledged = ledger.promised.clone();
        let in_flight = vec![None; usize::from(DEPTH)];
        Self {
            queue,
            acknowledged,
            in_flight,
            number: ledger.number,
            random: fastrand::Rng::with_seed(ledger.number),
            ledger,
            done,
            flushes,
        }
    }

    fn run(mut self) -> Ledger {
        while (0..DEPTH).all(|cid| self.start(cid)) {
            while self.in_flight.iter().any(Option::is_some) {
                let Some(cid) = self.take_answer() else { return self.end() };
                let more = !self.flushes || !self.number.is_multiple_of(FLUSH_EVERY);
                if more && !self.start(cid) {
                    return self.end();
                }
            }
            if !self.flush() {
                break;
            }
        }
        self.end()
    }

    fn end(mut self) -> Ledger {
        self.ledger.number = self.number;
        if !self.flushes {
            self.ledger.promised = self.acknowledged;
        }
        self.ledger
    }

    fn start(&mut self, cid: u16) -> bool {
        let lane = u64::from(cid);
        let block = self.random.u64(..BLOCKS / u64::from(DEPTH)) * u64::from(DEPTH) + lane;
        self.number += 1;
        let data = self.number.to_le_bytes().repeat(usize::try_from(BLOCK_BYTES / 8).expect("small"));
        let index = usize::try_from(block).expect("small");
        self.in_flight[usize::from(cid)] = Some((index, self.number));
        self.ledger.sent[index] = self.number;
        let write = ReadWrite::write(NSID, Lba(block), 1).to_sqe(cid);
        self.queue.send(&peer::capsule(write, &data))
    }

    /// The identifier of a write that was acknowledged; `None` when the connection ended.
    fn take_answer(&mut self) -> Option<u16> {
        let (cid, status, _) = self.queue.try_response(PATIENCE)?;
        if !status.is_success() {
            // Refused while the daemon ends: not promised.
            return None;
        }
        let (block, number) = self.in_flight[usize::from(cid)].take().expect("it was in flight");
        self.acknowledged[block] = number;
        self.done.fetch_add(1, Ordering::Relaxed);
        Some(cid)
    }

    fn flush(&mut self) -> bool {
        let flush = peer::capsule(Flush { nsid: NSID }.to_sqe(DEPTH), &[]);
        let flushed = self.queue.send(&flush)
            && matches!(self.queue.try_response(PATIENCE), Some((_, status, _)) if status.is_success());
        if flushed {
            self.ledger.promised.clone_from(&self.acknowledged);
        }
        flushed
    }
}

/// Every block holds a whole write: the promised one or one that was sent after it.
fn check(address: SocketAddr, ledger: &Ledger) {
    let place = place(address);
    let association = Association::open(&place, 0, PATIENCE);
    let mut queue = association.queue(&place, 1, 32, PATIENCE);
    for (block, (promised, sent)) in (0u64..).zip(ledger.promised.iter().zip(&ledger.sent)) {
        assert!(queue.send(&peer::read(1, block, 1)));
        let pdu = queue.receive_within(PATIENCE).expect("data");
        assert_eq!(pdu[0], PduType::C2H_DATA.0);
        let data = &pdu[size_of::<C2hData>()..];
        let (number, _) = u64::read_from_prefix(data).expect("a block");
        assert!(data.chunks_exact(8).all(|part| part == number.to_le_bytes()), "block {block} is torn");
        assert!(
            (*promised..=*sent).contains(&number),
            "block {block} holds {number}, promised {promised}, sent {sent}"
        );
        let (_, status, _) = queue.response(PATIENCE);
        assert!(status.is_success(), "{status}");
    }
}

/// Loads a daemon until so many writes were acknowledged, and ends it with a signal. Its exit code, and its folder.
fn load_until(
    mut daemon: Daemon,
    address: SocketAddr,
    ledger: Ledger,
    ended: (&str, u64, bool),
) -> (Ledger, Option<i32>, TempDir) {
    let (signal, writes, flushes) = ended;
    let place = place(address);
    let association = Association::open(&place, 0, PATIENCE);
    let queue = association.queue(&place, 1, 32, PATIENCE);
    let done = AtomicU64::new(0);
    let (ledger, code) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| Writer::new(queue, ledger, flushes, &done).run());
        while done.load(Ordering::Relaxed) < writes {
            assert!(!writer.is_finished(), "the load ended early");
            std::thread::yield_now();
        }
        daemon.signal(signal);
        let code = daemon.wait().code();
        (writer.join().expect("no panic"), code)
    });
    let folder = std::mem::replace(&mut daemon.folder, tempfile::tempdir().expect("folder"));
    (ledger, code, folder)
}

/// Ends daemons under load with a signal, one after the other on the same file, each after so many writes, and looks.
fn ends_under_load(served: Served, signal: &str, flushes: bool, writes: &[u64]) -> Option<i32> {
    let mut folder = tempfile::tempdir_in(build_folder()).expect("folder");
    let file = folder.path().join("disk");
    std::fs::File::create(&file).and_then(|file| file.set_len(served.file_bytes())).expect("a file");
    let mut daemon = Daemon::start_in(folder, &[]);
    if served == Served::Volume {
        make_volume(&daemon, &file);
    }
    let mut address = free_address();
    serve(&daemon, &file, address, served);
    let (mut ledger, mut code) = (Ledger::new(), None);
    for writes in writes {
        (ledger, code, folder) = load_until(daemon, address, ledger, (signal, *writes, flushes));
        assert!(ledger.promised.iter().any(|number| *number > 0));
        daemon = Daemon::start_in(folder, &[]);
        address = free_address();
        serve(&daemon, &file, address, served);
        check(address, &ledger);
    }
    code
}

#[test]
fn no_acknowledged_write_is_lost_when_the_daemon_is_stopped_under_load() {
    assert_eq!(ends_under_load(Served::File, "TERM", false, &[WRITES_BEFORE_END]), Some(0));
}

#[test]
fn no_flushed_write_is_lost_when_the_daemon_is_killed_under_load() {
    assert_eq!(ends_under_load(Served::File, "KILL", true, &[WRITES_BEFORE_END]), None);
}

#[test]
fn no_acknowledged_write_to_a_volume_is_lost_when_the_daemon_is_stopped_under_load() {
    let writes = [WRITES_BEFORE_END, 1];
    assert_eq!(ends_under_load(Served::Volume, "TERM", false, &writes), Some(0));
}

#[test]
fn no_flushed_write_to_a_volume_is_lost_when_the_daemon_is_killed_under_load_again_and_again() {
    // Through commits, checkpoints, and space that is used again.
    let writes = [WRITES_BEFORE_END, 250, 5 * WRITES_BEFORE_END, 777, 10 * WRITES_BEFORE_END];
    assert_eq!(ends_under_load(Served::Volume, "KILL", true, &writes), None);
}

/// What a daemon did in a while: turns of its reactor by its own count, and processor time.
fn cost_of(daemon: &Daemon, metrics: SocketAddr, window: Duration) -> (u64, Duration) {
    let turns = || {
        let text = http_get(metrics, "/metrics");
        let line = text.lines().find(|line| line.starts_with("pollux_reactor_turns_total{core=\"0\"}"));
        let value = line.and_then(|line| line.split_whitespace().last()).expect("a count");
        value.parse::<u64>().expect("a number")
    };
    let (turns_before, cpu_before, began) = (turns(), daemon.cpu_time(), Instant::now());
    // The time that is measured, not time to wait for something.
    std::thread::sleep(window);
    let cpu = daemon.cpu_time() - cpu_before;
    (turns() - turns_before, cpu.div_f64(began.elapsed().as_secs_f64()))
}

#[test]
fn an_idle_daemon_sleeps_with_and_without_a_connection() {
    sleeps_when_idle(Served::File);
}

#[test]
fn an_idle_daemon_with_a_store_sleeps_and_tells_of_its_space() {
    sleeps_when_idle(Served::Volume);
}

fn sleeps_when_idle(served: Served) {
    /// Timers, metrics and keep-alives of a second may wake a reactor a few times.
    const TURNS_PER_SECOND_MAX: u64 = 100;
    const WINDOW: Duration = Duration::from_secs(3);
    let folder = tempfile::tempdir_in(build_folder()).expect("folder");
    let file = folder.path().join("disk");
    std::fs::File::create(&file).and_then(|file| file.set_len(served.file_bytes())).expect("a file");
    let (metrics, address) = (free_address(), free_address());
    let daemon = Daemon::start_in(folder, &["--metrics", &metrics.to_string()]);
    if served == Served::Volume {
        make_volume(&daemon, &file);
    }
    serve(&daemon, &file, address, served);
    let place = place(address);
    let measure = |what: &str| {
        let (turns, cpu) = cost_of(&daemon, metrics, WINDOW);
        assert!(turns < TURNS_PER_SECOND_MAX * WINDOW.as_secs(), "{what}: {turns} turns");
        assert!(cpu < Duration::from_millis(20), "{what}: {cpu:?} of processor time a second");
    };
    measure("without connections");
    let association = Association::open(&place, 30_000, PATIENCE);
    let mut queue = association.queue(&place, 1, 32, PATIENCE);
    let (_, status, _) = queue.command(&peer::read(1, 0, 1), PATIENCE);
    assert!(status.is_success(), "{status}");
    measure("with a connection");
    let (_, status, _) = queue.command(&peer::read(2, 0, 1), PATIENCE);
    assert!(status.is_success(), "{status}");
    let told = http_get(metrics, "/metrics");
    let free = told.lines().find_map(|line| line.strip_prefix("pollux_store_free_bytes{store=\"store\"} "));
    let free = free.map(|bytes| bytes.parse::<u64>().expect("a number"));
    assert_eq!(free.is_some_and(|free| free > served.file_bytes() / 2), served == Served::Volume, "{free:?}");
}
