//! What the first I/O after a pause costs more than one in a steady stream: the time an idle target takes to wake.
//!
//! The host spins through the pauses, so that its own waking does not count. Prints one JSON object; fails when the medians
//! differ by more than `--limit-us`.
#![allow(missing_docs, reason = "a measuring program")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::client::Client;
use benches::machines::Kind;
use clap::Parser;
use hdrhistogram::Histogram;
use nvme::{Lba, Nqn};
use serde_json::{Value, json};

/// Blocks that the reads go over.
const BLOCKS: u64 = 1024;
/// The longest latency that is told apart from longer ones, in nanoseconds, and its significant decimal digits.
const LATENCY_MAX_NS: u64 = 10_000_000_000;
const DIGITS: u8 = 3;
/// Reads in a row between two pauses, so that each begins with an awake target.
const READS_BETWEEN: u64 = 8;

/// Compares the latency of the first 4 KiB read after a pause with that of reads in a row
#[derive(Parser)]
struct Args {
    /// Address and port of the target
    address: SocketAddr,
    /// NQN of the subsystem; namespace 1 has at least 1,024 blocks of 4 KiB
    subsystem: Nqn,
    /// Pauses
    #[arg(long, default_value_t = 200)]
    pauses: u32,
    /// Length of a pause, in milliseconds
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
    /// Reads in a row
    #[arg(long, default_value_t = 20_000)]
    steady: u32,
    /// What the first read may take more than the others, median to median, in microseconds
    #[arg(long, default_value_t = 100)]
    limit_us: u64,
}

/// One read, in nanoseconds.
fn read(client: &mut Client, number: u64) -> u64 {
    let began = client.now();
    client.start(0, Kind::Read, Lba(number % BLOCKS));
    loop {
        match client.finished(0) {
            Ok(true) => return client.now().since(began),
            Ok(false) => std::hint::spin_loop(),
            Err(error) => panic!("read: {error:?}"),
        }
    }
}

fn spin(pause: Duration) {
    let until = Instant::now() + pause;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_NS, DIGITS).unwrap_or_else(|error| panic!("{error}"))
}

fn us(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e6
}

fn summary(histogram: &Histogram<u64>) -> Value {
    let at = |quantile| us(histogram.value_at_quantile(quantile));
    json!({ "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "reads": histogram.len() })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let client = Client::connect(args.address, args.subsystem, 1);
    let mut client = client.unwrap_or_else(|error| panic!("{error}"));
    let (mut steady, mut first) = (histogram(), histogram());
    for number in 0..args.steady {
        steady.saturating_record(read(&mut client, number.into()));
    }
    for number in 0..args.pauses {
        spin(Duration::from_millis(args.pause_ms));
        first.saturating_record(read(&mut client, number.into()));
        client.turn().unwrap_or_else(|error| panic!("{error}"));
        for number in 0..READS_BETWEEN {
            read(&mut client, number);
        }
    }
    let more = first.value_at_quantile(0.5).saturating_sub(steady.value_at_quantile(0.5));
    let found = json!({
        "steady": summary(&steady),
        "first": summary(&first),
        "first_costs_more_us": us(more),
    });
    println!("{found}");
    if more <= args.limit_us * 1000 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
