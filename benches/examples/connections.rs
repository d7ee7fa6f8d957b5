//! Opens many connections to one target, keeps them all, and proves that every one serves: each writes a block of its own
//! and reads it back, round after round, all at the same time.
//!
//! Prints one JSON object with what was served and, with `--pid`, the memory of the target; fails above `--memory-max-mib`.
#![allow(missing_docs, reason = "a measuring program")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::client::{Client, LaneError};
use benches::machines::Kind;
use clap::Parser;
use fabrics::IoBuffer;
use nvme::{Lba, Nqn};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Most I/O queues a host can have.
const QUEUES_MAX: usize = 64;
/// How often keep-alives are looked at.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// A round that takes longer than this is stuck.
const ROUND_TIME_MAX: Duration = Duration::from_secs(120);

/// Keeps many connections open and has every I/O queue among them write and read
#[derive(Parser)]
struct Args {
    /// Address and port of the target
    address: SocketAddr,
    /// NQN of the subsystem; namespace 1 has 64 blocks of 4 KiB for every host
    subsystem: Nqn,
    /// Connections, admin queues included; rounded up to whole hosts
    #[arg(long, default_value_t = 1000)]
    connections: u32,
    /// I/O queues of each host, which has one connection more for its admin queue
    #[arg(long, default_value_t = 39, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Seconds for which everything then stays connected with nothing but keep-alives
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Writes and reads of each queue
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Process whose memory is looked at while all connections are open
    #[arg(long)]
    pid: Option<u32>,
    /// Memory that process may occupy, in MiB
    #[arg(long, default_value_t = 1024)]
    memory_max_mib: u64,
}

/// All hosts, with what a round needs.
struct Fleet {
    hosts: Vec<Client>,
    kept_alive: Instant,
}

impl Fleet {
    fn connect(args: &Args) -> Self {
        let mut fleet = Self { hosts: Vec::new(), kept_alive: Instant::now() };
        for number in 0..args.connections.div_ceil(u32::from(args.queues) + 1) {
            let host = Client::connect(args.address, args.subsystem, args.queues);
            fleet.hosts.push(host.unwrap_or_else(|error| panic!("host {number}: {error}")));
            fleet.keep_alive();
        }
        fleet
    }

    fn keep_alive(&mut self) {
        if self.kept_alive.elapsed() < KEEP_ALIVE_INTERVAL {
            return;
        }
        self.kept_alive = Instant::now();
        for host in &mut self.hosts {
            host.turn().unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Every queue: the number of its host, and its own within that.
    fn queues(&self) -> Vec<(usize, usize)> {
        let all = self.hosts.iter().enumerate();
        all.flat_map(|(host, client)| (0..client.lanes.len()).map(move |lane| (host, lane))).collect()
    }

    /// One command on every queue at once.
    fn round(&mut self, kind: Kind) -> Result<(), LaneError> {
        let mut waiting = self.queues();
        for &(host, lane) in &waiting {
            self.hosts[host].start(lane, kind, block(host, lane));
        }
        let began = Instant::now();
        while !waiting.is_empty() {
            let mut still = Vec::with_capacity(waiting.len());
            for (host, lane) in waiting {
                if !self.hosts[host].finished(lane)? {
                    still.push((host, lane));
                }
            }
            waiting = still;
            self.keep_alive();
            assert!(began.elapsed() < ROUND_TIME_MAX, "{} queues are not answered", waiting.len());
        }
        Ok(())
    }

    /// Gives every queue's buffer its content for this round.
    fn fill(&mut self, round: u32) {
        for (host, lane) in self.queues() {
            let buffer = self.hosts[host].lanes[lane].buffer();
            let buffer = buffer.unwrap_or_else(|| panic!("a command is under way"));
            let stamp = stamp(host, lane, round);
            for offset in (0..buffer.len()).step_by(stamp.len()) {
                buffer.copy_in(offset, &stamp);
            }
        }
    }

    /// Buffers that do not hold what their queue wrote in this round.
    fn wrong(&mut self, round: u32) -> u32 {
        let mut wrong = 0;
        for (host, lane) in self.queues() {
            let buffer = self.hosts[host].lanes[lane].buffer();
            let buffer = buffer.unwrap_or_else(|| panic!("a command is under way"));
            let stamp = stamp(host, lane, round);
            wrong += u32::from(!buffer.part(0).chunks(stamp.len()).all(|chunk| chunk == stamp));
        }
        wrong
    }
}

/// A block for each queue of a fleet, whatever its shape.
fn block(host: usize, lane: usize) -> Lba {
    Lba((host * QUEUES_MAX + lane) as u64)
}

/// Sixteen bytes that no other queue and no other round has.
fn stamp(host: usize, lane: usize, round: u32) -> [u8; 16] {
    let number = u128::from(block(host, lane).0) << 64 | u128::from(round) << 8 | 0xA5;
    number.to_le_bytes()
}

/// Memory that a process occupies, huge pages included, in MiB.
fn memory_mib(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib =
            line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("{path} has no {name}"))
    };
    (kib("VmRSS:") + kib("HugetlbPages:")) >> 10
}

/// Lets this process have as many connections as it is allowed.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap_or_else(|error| panic!("nofile: {error}"));
}

fn main() -> ExitCode {
    let args = Args::parse();
    raise_descriptor_limit();
    let began = Instant::now();
    let mut fleet = Fleet::connect(&args);
    let connected = began.elapsed();
    let mut wrong = 0;
    for round in 0..args.rounds {
        fleet.fill(round);
        fleet.round(Kind::Write).unwrap_or_else(|error| panic!("write: {error:?}"));
        fleet.fill(u32::MAX);
        fleet.round(Kind::Read).unwrap_or_else(|error| panic!("read: {error:?}"));
        wrong += fleet.wrong(round);
    }
    let queues = fleet.queues().len();
    let memory = args.pid.map(memory_mib);
    let found = serde_json::json!({
        "connections": fleet.hosts.len() + queues,
        "io_queues": queues,
        "ios": 2 * queues as u64 * u64::from(args.rounds),
        "blocks_wrong": wrong,
        "connect_seconds": connected.as_secs_f64(),
        "target_memory_mib": memory,
    });
    println!("{found}");
    let held = Instant::now();
    while held.elapsed() < Duration::from_secs(args.hold) {
        fleet.keep_alive();
        std::thread::sleep(KEEP_ALIVE_INTERVAL);
    }
    let fits = memory.is_none_or(|memory| memory < args.memory_max_mib);
    if wrong == 0 && fits { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
