//! A target whose process has no descriptor left. Alone in its file: the limit is that of the whole process.
#![allow(missing_docs, dead_code, clippy::unwrap_used, reason = "tests; the lab is shared with others")]

mod lab;
mod ram;

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Instant;

use lab::{Lab, Options};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn accepting_pauses_without_descriptors_and_goes_on_when_there_are_some() {
    let mut lab = Lab::new(Options::default());
    let peers: Vec<_> = (0..3).map(|_| TcpStream::connect(lab.address).unwrap()).collect();
    let limit = getrlimit(Resource::Nofile);
    let next = peers[0].try_clone().unwrap();
    let lowest_free = u64::from(next.as_raw_fd().unsigned_abs());
    drop(next);
    setrlimit(Resource::Nofile, Rlimit { current: Some(lowest_free), ..limit }).unwrap();
    lab.until("descriptors are missed", |lab| lab.target.accept_stats().starved == 1);
    let start = Instant::now();
    for _ in 0..20_000 {
        lab.reactor.turn();
    }
    let pauses = u64::try_from(start.elapsed().as_millis()).unwrap() / 100;
    assert!(lab.target.accept_stats().starved <= 2 + pauses, "it spins");
    assert_eq!(lab.target.accept_stats().accepted, 0);
    setrlimit(Resource::Nofile, limit).unwrap();
    lab.until("the peers are accepted", |lab| lab.seen.opened.get() == 3);
}
