//! What a run measured: merging workers, and the two forms it is shown in (a table, one JSON object).

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::workload::{Access, Workload};

/// Longest latency told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// A latency histogram in nanoseconds: 1 ns to a minute, three digits.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds are valid")
}

/// Operations of one direction.
#[derive(Clone)]
pub(crate) struct DirectionTally {
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    pub(crate) latency_ns: Histogram<u64>,
}

impl DirectionTally {
    fn new() -> Self {
        Self { operations: 0, bytes: 0, errors: 0, latency_ns: latency_histogram() }
    }

    fn merge(&mut self, other: &Self) {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.latency_ns.add(&other.latency_ns).expect("equal bounds");
    }
}

/// What one worker, or all of them together, did in the measured time.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) read: DirectionTally,
    pub(crate) write: DirectionTally,
    /// Blocks compared with what was written, and how many of them differed.
    pub(crate) blocks_verified: u64,
    pub(crate) miscompares: u64,
    pub(crate) elapsed: Duration,
    /// The first error and the first miscompare, in words.
    pub(crate) first_error: Option<String>,
    pub(crate) first_miscompare: Option<String>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            read: DirectionTally::new(),
            write: DirectionTally::new(),
            blocks_verified: 0,
            miscompares: 0,
            elapsed: Duration::ZERO,
            first_error: None,
            first_miscompare: None,
        }
    }

    pub(crate) fn direction(&mut self, access: Access) -> &mut DirectionTally {
        match access {
            Access::Read => &mut self.read,
            Access::Write => &mut self.write,
        }
    }

    pub(crate) fn record(&mut self, access: Access, bytes: u64, latency_ns: u64) {
        let direction = self.direction(access);
        direction.operations += 1;
        direction.bytes += bytes;
        direction.latency_ns.saturating_record(latency_ns);
    }

    pub(crate) fn record_error(&mut self, access: Access, describe: impl FnOnce() -> String) {
        self.direction(access).errors += 1;
        self.first_error.get_or_insert_with(describe);
    }

    pub(crate) fn record_miscompare(&mut self, describe: impl FnOnce() -> String) {
        self.miscompares += 1;
        self.first_miscompare.get_or_insert_with(describe);
    }

    /// Adds a worker that ran at the same time: counts add up, the longest time stands.
    pub(crate) fn merge(&mut self, other: Self) {
        self.read.merge(&other.read);
        self.write.merge(&other.write);
        self.blocks_verified += other.blocks_verified;
        self.miscompares += other.miscompares;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.first_error = self.first_error.take().or(other.first_error);
        self.first_miscompare = self.first_miscompare.take().or(other.first_miscompare);
    }

    /// Forgets what was counted so far, but not what went wrong: the measurement begins now.
    pub(crate) fn restart(&mut self) {
        for direction in [&mut self.read, &mut self.write] {
            direction.operations = 0;
            direction.bytes = 0;
            direction.latency_ns.reset();
        }
    }

    /// Operations and bytes so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.read.operations + self.write.operations, self.read.bytes + self.write.bytes)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.read.errors + self.write.errors
    }
}

/// Latency figures in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    p9999: f64,
    max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            min: micros(histogram.min()),
            mean: histogram.mean() / 1_000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: micros(histogram.max()),
        }
    }
}

#[derive(Debug, Serialize)]
struct DirectionReport {
    operations: u64,
    iops: f64,
    bytes_per_second: f64,
    errors: u64,
    latency_us: Latency,
}

impl DirectionReport {
    fn of(tally: &DirectionTally, seconds: f64) -> Self {
        Self {
            operations: tally.operations,
            iops: as_f64(tally.operations) / seconds,
            bytes_per_second: as_f64(tally.bytes) / seconds,
            errors: tally.errors,
            latency_us: Latency::of(&tally.latency_ns),
        }
    }
}

/// What was asked for; part of the report so that a figure carries its conditions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Conditions {
    pub(crate) transport: &'static str,
    pub(crate) traddr: String,
    pub(crate) trsvcid: String,
    pub(crate) subnqn: String,
    pub(crate) nsid: u32,
    pub(crate) workload: Workload,
    pub(crate) mix_read_percent: u8,
    pub(crate) io_size: u64,
    pub(crate) block_size: u32,
    pub(crate) depth: u16,
    pub(crate) queues_per_core: u16,
    pub(crate) cores: Vec<usize>,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) place_data: bool,
    pub(crate) verify: bool,
    pub(crate) seed: u64,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    conditions: Conditions,
    seconds: f64,
    iops: f64,
    bytes_per_second: f64,
    latency_us: Latency,
    read: DirectionReport,
    write: DirectionReport,
    errors: u64,
    first_error: Option<String>,
    blocks_verified: u64,
    miscompares: u64,
    first_miscompare: Option<String>,
    /// CPU seconds this process used for each second of the run.
    host_cpu: f64,
}

impl Report {
    /// `host_cpu` is CPU seconds of this process per second of the run.
    pub(crate) fn new(conditions: Conditions, tally: &Tally, host_cpu: f64) -> Self {
        let seconds = tally.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let mut both = tally.read.clone();
        both.merge(&tally.write);
        Self {
            conditions,
            seconds,
            iops: as_f64(both.operations) / seconds,
            bytes_per_second: as_f64(both.bytes) / seconds,
            latency_us: Latency::of(&both.latency_ns),
            read: DirectionReport::of(&tally.read, seconds),
            write: DirectionReport::of(&tally.write, seconds),
            errors: tally.errors(),
            first_error: tally.first_error.clone(),
            blocks_verified: tally.blocks_verified,
            miscompares: tally.miscompares,
            first_miscompare: tally.first_miscompare.clone(),
            host_cpu,
        }
    }

    /// One JSON object on one line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has only finite numbers and string keys")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<6} {:>11} {:>10} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
            "", "IOPS", "MiB/s", "min µs", "mean", "p50", "p90", "p99", "p99.9", "max", "errors"
        )?;
        let total = DirectionReport {
            operations: self.read.operations + self.write.operations,
            iops: self.iops,
            bytes_per_second: self.bytes_per_second,
            errors: self.errors,
            latency_us: Latency { ..self.latency_us },
        };
        for (name, row) in [("read", &self.read), ("write", &self.write), ("total", &total)] {
            if name == "total" || row.operations + row.errors > 0 {
                write_row(f, name, row)?;
            }
        }
        writeln!(f, "{:.2} s, {:.0} % of one CPU used by this host", self.seconds, self.host_cpu * 100.0)?;
        if self.conditions.verify {
            writeln!(f, "verified {} blocks, {} miscompares", self.blocks_verified, self.miscompares)?;
        }
        for text in self.first_miscompare.iter().chain(&self.first_error) {
            writeln!(f, "first problem: {text}")?;
        }
        Ok(())
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, name: &str, row: &DirectionReport) -> fmt::Result {
    let l = &row.latency_us;
    writeln!(
        f,
        "{:<6} {:>11.0} {:>10.1} {:>8.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>7}",
        name,
        row.iops,
        row.bytes_per_second / f64::from(1 << 20),
        l.min,
        l.mean,
        l.p50,
        l.p90,
        l.p99,
        l.p999,
        l.max,
        row.errors
    )
}

fn micros(nanos: u64) -> f64 {
    as_f64(nanos) / 1_000.0
}

/// Counts are far below 2^53, so that the conversion is exact.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Conditions {
        Conditions {
            transport: "tcp",
            traddr: "127.0.0.1".into(),
            trsvcid: "4420".into(),
            subnqn: "nqn.2026-01.io.pollux:a".into(),
            nsid: 1,
            workload: Workload::Randrw,
            mix_read_percent: 50,
            io_size: 4096,
            block_size: 4096,
            depth: 4,
            queues_per_core: 1,
            cores: vec![0],
            header_digest: false,
            data_digest: false,
            place_data: false,
            verify: true,
            seed: 1,
        }
    }

    fn worker(latency_ns: u64) -> Tally {
        let mut tally = Tally::new();
        for _ in 0..100 {
            tally.record(Access::Read, 4096, latency_ns);
        }
        tally.elapsed = Duration::from_secs(2);
        tally
    }

    #[test]
    fn workers_that_ran_together_add_up() {
        let mut all = worker(10_000);
        all.merge(worker(30_000));
        let report = Report::new(conditions(), &all, 1.0);
        assert!((report.iops - 100.0).abs() < 1e-9);
        assert!((report.bytes_per_second - 409_600.0).abs() < 1e-6);
        assert!((report.latency_us.mean - 20.0).abs() < 0.1, "{:?}", report.latency_us);
    }

    #[test]
    fn the_first_error_is_kept_with_its_words() {
        let mut tally = worker(1);
        tally.record_error(Access::Write, || "first".into());
        tally.record_error(Access::Write, || "second".into());
        let report = Report::new(conditions(), &tally, 0.0);
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["errors"], 2);
        assert_eq!(json["first_error"], "first");
        assert_eq!(json["workload"], "randrw");
        assert!(report.to_string().contains("first problem: first"));
    }

    #[test]
    fn latencies_beyond_the_histogram_count_as_its_longest() {
        let mut tally = Tally::new();
        tally.record(Access::Read, 1, u64::MAX);
        assert_eq!(tally.read.latency_ns.len(), 1);
    }
}
