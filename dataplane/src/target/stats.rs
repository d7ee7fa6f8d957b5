//! Counters and latency histograms: one set per namespace and reactor, written by that reactor alone with plain
//! loads and stores, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Histogram buckets per power of two: bounds the error of a percentile to 25 %.
const SUB_BUCKETS: usize = 4;
const SUB_BITS: u32 = 2;
/// Buckets of a histogram: all of 64-bit nanoseconds.
const BUCKETS: usize = 64 * SUB_BUCKETS;

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub(super) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What was done to one namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoCounters {
    /// Reads completed.
    pub read_commands: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes completed.
    pub write_commands: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes completed.
    pub flush_commands: u64,
    /// Other I/O commands completed.
    pub other_commands: u64,
    /// I/O commands that ended in an error.
    pub errors: u64,
    /// Time of all reads, in nanoseconds.
    pub read_ns_total: u64,
    /// Time of all writes, in nanoseconds.
    pub write_ns_total: u64,
}

impl IoCounters {
    pub(super) fn merge(&mut self, other: &Self) {
        self.read_commands += other.read_commands;
        self.read_bytes += other.read_bytes;
        self.write_commands += other.write_commands;
        self.written_bytes += other.written_bytes;
        self.flush_commands += other.flush_commands;
        self.other_commands += other.other_commands;
        self.errors += other.errors;
        self.read_ns_total += other.read_ns_total;
        self.write_ns_total += other.write_ns_total;
    }
}

/// How long commands took: counts by nanoseconds, four buckets per power of two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LatencyHistogram {
    counts: Box<[u64; BUCKETS]>,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]) }
    }
}

impl LatencyHistogram {
    /// Commands counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bound of the latency of the fastest `fraction` (0–1) of the commands, in nanoseconds; 0 with none.
    pub fn quantile_ns(&self, fraction: f64) -> u64 {
        let total = self.total();
        let mut seen = 0_u64;
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            seen += count;
            if seen as f64 >= fraction * total as f64 {
                return bucket_end(bucket);
            }
        }
        0
    }

    /// Every bucket that counted something: its upper bound in nanoseconds (exclusive), its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(i, count)| (bucket_end(i), *count))
    }

    fn merge(&mut self, other: &Histogram) {
        for (sum, count) in self.counts.iter_mut().zip(&other.0) {
            *sum += count.get();
        }
    }
}

/// Bucket of a latency.
#[inline]
fn bucket_of(ns: u64) -> usize {
    if ns < SUB_BUCKETS as u64 {
        return usize::from(ns.to_le_bytes()[0]);
    }
    let exponent = 63 - ns.leading_zeros();
    let sub = usize::from((ns >> (exponent - SUB_BITS)).to_le_bytes()[0]) & (SUB_BUCKETS - 1);
    (exponent - SUB_BITS + 1) as usize * SUB_BUCKETS + sub
}

/// First latency after a bucket.
fn bucket_end(bucket: usize) -> u64 {
    if bucket < SUB_BUCKETS {
        return bucket as u64 + 1;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let mantissa = (SUB_BUCKETS + bucket % SUB_BUCKETS) as u128 + 1;
    u64::try_from(mantissa << shift).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Histogram([Counter; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// What a command counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Other,
}

/// One namespace on one reactor.
#[derive(Debug, Default)]
pub(super) struct NamespaceCounters {
    read_commands: Counter,
    read_bytes: Counter,
    write_commands: Counter,
    written_bytes: Counter,
    flush_commands: Counter,
    other_commands: Counter,
    errors: Counter,
    read_ns: Counter,
    write_ns: Counter,
    read_latency: Histogram,
    write_latency: Histogram,
}

impl NamespaceCounters {
    /// Counts one finished command.
    #[inline]
    pub(super) fn count(&self, kind: Kind, bytes: u64, ns: u64) {
        match kind {
            Kind::Read => {
                self.read_commands.add(1);
                self.read_bytes.add(bytes);
                self.read_ns.add(ns);
                self.read_latency.0[bucket_of(ns)].add(1);
            }
            Kind::Write => {
                self.write_commands.add(1);
                self.written_bytes.add(bytes);
                self.write_ns.add(ns);
                self.write_latency.0[bucket_of(ns)].add(1);
            }
            Kind::Flush => self.flush_commands.add(1),
            Kind::Other => self.other_commands.add(1),
        }
    }

    pub(super) fn count_error(&self) {
        self.errors.add(1);
    }

    pub(super) fn snapshot(&self) -> IoCounters {
        IoCounters {
            read_commands: self.read_commands.get(),
            read_bytes: self.read_bytes.get(),
            write_commands: self.write_commands.get(),
            written_bytes: self.written_bytes.get(),
            flush_commands: self.flush_commands.get(),
            other_commands: self.other_commands.get(),
            errors: self.errors.get(),
            read_ns_total: self.read_ns.get(),
            write_ns_total: self.write_ns.get(),
        }
    }

    pub(super) fn merge_latency(&self, reads: &mut LatencyHistogram, writes: &mut LatencyHistogram) {
        reads.merge(&self.read_latency);
        writes.merge(&self.write_latency);
    }
}

/// One reactor.
#[derive(Debug, Default)]
pub(super) struct ReactorCounters {
    pub(super) admin_queues: Counter,
    pub(super) io_queues: Counter,
    pub(super) admin_queues_total: Counter,
    pub(super) io_queues_total: Counter,
    pub(super) device_io_pending: Counter,
    pub(super) io_commands_total: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_below_the_end_of_its_bucket_and_not_below_its_start() {
        for ns in (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) + 1, (1 << bit) - 1]).chain([u64::MAX - 1])
        {
            let bucket = bucket_of(ns);
            assert!(ns < bucket_end(bucket), "{ns} in {bucket}");
            assert!(bucket == 0 || ns >= bucket_end(bucket - 1), "{ns} in {bucket}");
        }
    }

    #[test]
    fn a_quantile_bounds_its_share_of_the_commands() {
        let counters = NamespaceCounters::default();
        for ns in 1..=1000 {
            counters.count(Kind::Read, 512, ns * 1000);
        }
        let (mut reads, mut writes) = (LatencyHistogram::default(), LatencyHistogram::default());
        counters.merge_latency(&mut reads, &mut writes);
        assert_eq!((reads.total(), writes.total()), (1000, 0));
        let median = reads.quantile_ns(0.5);
        assert!((500_000..=625_000).contains(&median), "{median}");
        assert!(reads.quantile_ns(1.0) >= 1_000_000);
        assert_eq!(counters.snapshot().read_bytes, 512_000);
    }
}
