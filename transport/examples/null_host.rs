//! A host with one queue that keeps `DEPTH` 4 KiB reads or writes in flight: what our host's driver and protocol cost.
//!
//! `null_host ADDRESS DEPTH read|write SECONDS [SUBSYSTEM]`. Pin it with `taskset`. Prints thousands of I/O per second.
#![allow(missing_docs, clippy::unwrap_used, reason = "a measuring tool")]

use fabrics::Now;
use fabrics::tcp::host::{HostData, HostSink};
use nvme::nvm::ReadWrite;
use nvme::{Cqe, HostId, Lba, Nqn, Nsid, QueueId};
use reactors::{Clock, DmaPool, PoolConfig};
use transport::Data;
use transport::tcp::host::{Blocking, HostConfig, HostQueue};

const BLOCKS: u32 = 8;
const BYTES: usize = 4096;

#[derive(Default)]
struct Ended(Vec<(u64, Data)>);

impl HostSink<Data> for Ended {
    fn completed(&mut self, tag: u64, cqe: Cqe, data: Option<Data>) {
        assert!(cqe.status().is_success(), "{}", cqe.status());
        self.0.push((tag, data.unwrap()));
    }

    fn failed(&mut self, tag: u64, _data: Option<Data>) {
        panic!("command {tag} failed");
    }

    fn timed_out(&mut self, tag: u64, _cid: u16) {
        panic!("command {tag} takes too long");
    }
}

fn submit(queue: &mut HostQueue<Data>, is_write: bool, tag: u64, data: Data, now: Now) {
    let lba = Lba(tag * u64::from(BLOCKS));
    let (command, data) = if is_write {
        (ReadWrite::write(Nsid(1), lba, BLOCKS), HostData::ToController(data))
    } else {
        (ReadWrite::read(Nsid(1), lba, BLOCKS), HostData::FromController(data))
    };
    queue.submit(command.to_sqe(0), data, tag, now).unwrap();
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (address, depth) = (args[0].parse().unwrap(), args[1].parse::<u64>().unwrap());
    let (is_write, seconds) = (args[2] == "write", args[3].parse::<f64>().unwrap());
    let subsystem = args.get(4).map_or("nqn.2026-01.org.example:null", String::as_str);
    let config =
        HostConfig::new(address, Nqn::from_uuid([1; 16]), HostId([1; 16]), Nqn::new(subsystem).unwrap());
    let pool = DmaPool::new(PoolConfig::default()).unwrap();
    let mut host = Blocking::connect(config).unwrap();
    let connect_data = |bytes: &[u8]| {
        let mut buffer = pool.alloc_io(bytes.len())?;
        buffer.copy_in(0, bytes);
        Some(Data(buffer))
    };
    let mut queue = host.io_queue(QueueId(1), connect_data).unwrap();
    let clock = Clock::new();
    let now = || Now(clock.now().as_nanos());
    let mut buffer = vec![0; 256 << 10];
    let (mut ended, mut taken) = (Ended::default(), Vec::new());
    for tag in 0..depth {
        submit(&mut queue, is_write, tag, Data(pool.alloc_io(BYTES).unwrap()), now());
    }
    queue.flush(&mut ended);
    let (mut done, start) = (0_u64, clock.now());
    let mut elapsed = 0.0;
    while elapsed < seconds {
        let turn = now();
        if !queue.receive(&mut buffer, turn, &mut ended) {
            elapsed = clock.now().saturating_since(start).as_secs_f64();
            continue;
        }
        std::mem::swap(&mut ended.0, &mut taken);
        for (tag, data) in taken.drain(..) {
            done += 1;
            submit(&mut queue, is_write, tag, data, turn);
        }
        queue.flush(&mut ended);
    }
    println!("depth {depth} {}: {:.0}k IOPS", args[2], done as f64 / elapsed / 1e3);
    println!("{:?}", queue.traffic());
}
