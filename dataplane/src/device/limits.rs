//! What hosts may take of a device: I/Os and bytes per second, over all reactors together.
//!
//! Each limit is one clock, the time up to which everything is used up: an I/O moves it on by what the I/O is worth, and may
//! start while it is not ahead of the present by more than the burst. (ITU-T I.371: generic cell rate algorithm.) No lock, and
//! one load when there is no limit. Reactors that look at the same moment may both start: one I/O too many each, at most.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fabrics::NS_PER_S;
use reactors::Clock;

use super::{BlockSize, Op, OpKind};

/// How far ahead the clocks may be, when nobody says: I/Os in flight are not told apart from each other below that.
const BURST: Duration = Duration::from_millis(1);

/// The limits of a device; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Reads, writes and all other I/Os but flushes, per second.
    pub ios: Option<u64>,
    /// Bytes read and written per second.
    pub bytes: Option<u64>,
    /// Bytes read per second.
    pub read_bytes: Option<u64>,
    /// Bytes written per second.
    pub written_bytes: Option<u64>,
    /// What was not used for so long may be used at once.
    pub burst: Duration,
}

impl Default for Rates {
    fn default() -> Self {
        Self { ios: None, bytes: None, read_bytes: None, written_bytes: None, burst: BURST }
    }
}

impl Rates {
    fn all(&self) -> [Option<u64>; 4] {
        [self.ios, self.bytes, self.read_bytes, self.written_bytes]
    }

    /// Whether there is any limit.
    pub fn any(&self) -> bool {
        self.all().iter().any(Option::is_some)
    }
}

#[derive(Default, Debug)]
struct Bucket {
    /// Units per second; 0 for no limit.
    rate: AtomicU64,
    /// Up to when everything is used up, in nanoseconds.
    used_until: AtomicU64,
}

impl Bucket {
    /// How long until something may start, in nanoseconds.
    fn wait_ns(&self, now: u64, burst: u64) -> u64 {
        match self.rate.load(Relaxed) {
            0 => 0,
            _ => self.used_until.load(Relaxed).saturating_sub(now.saturating_add(burst)),
        }
    }

    fn charge(&self, units: u64, now: u64) {
        let rate = self.rate.load(Relaxed);
        if rate == 0 {
            return;
        }
        let cost = units.saturating_mul(NS_PER_S) / rate;
        let after = |until: u64| Some(until.max(now).saturating_add(cost));
        // The closure gives something every time, so that this cannot fail.
        let _ = self.used_until.fetch_update(Relaxed, Relaxed, after);
    }
}

/// The limits of a device and how far they are used up.
#[derive(Debug)]
pub struct Limits {
    on: AtomicBool,
    burst_ns: AtomicU64,
    buckets: [Bucket; 4],
    clock: Clock,
}

impl Default for Limits {
    fn default() -> Self {
        let burst_ns = AtomicU64::new(u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX));
        Self { on: AtomicBool::new(false), burst_ns, buckets: Default::default(), clock: Clock::new() }
    }
}

impl Limits {
    /// Whether there is any limit.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// The limits that there are.
    pub fn rates(&self) -> Rates {
        let rate = |at: usize| Some(self.buckets[at].rate.load(Relaxed)).filter(|rate| *rate > 0);
        Rates {
            ios: rate(0),
            bytes: rate(1),
            read_bytes: rate(2),
            written_bytes: rate(3),
            burst: Duration::from_nanos(self.burst_ns.load(Relaxed)),
        }
    }

    /// Changes the limits, at once.
    pub fn set(&self, rates: Rates) {
        let now = self.now();
        for (bucket, rate) in self.buckets.iter().zip(rates.all()) {
            bucket.rate.store(rate.unwrap_or(0), Relaxed);
            // What was used under another limit says nothing.
            bucket.used_until.store(now, Relaxed);
        }
        self.burst_ns.store(u64::try_from(rates.burst.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.on.store(rates.any(), Relaxed);
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    /// Takes what an I/O is worth; `false`: it has to wait.
    #[inline]
    pub fn take(&self, op: &Op, block_size: BlockSize) -> bool {
        !self.is_on() || op.kind() == OpKind::Flush || self.take_at(op, block_size, self.now())
    }

    #[cold]
    fn take_at(&self, op: &Op, block_size: BlockSize, now: u64) -> bool {
        if self.wait_ns_at(now) > 0 {
            return false;
        }
        let blocks = op.blocks(block_size).unwrap_or(0..0);
        let bytes = (blocks.end - blocks.start) << block_size.shift();
        let (read, written) = match op.kind() {
            OpKind::Read => (bytes, 0),
            OpKind::Write => (0, bytes),
            _ => (0, 0),
        };
        for (bucket, units) in self.buckets.iter().zip([1, read + written, read, written]) {
            bucket.charge(units, now);
        }
        true
    }

    fn wait_ns_at(&self, now: u64) -> u64 {
        let burst = self.burst_ns.load(Relaxed);
        self.buckets.iter().map(|bucket| bucket.wait_ns(now, burst)).max().unwrap_or(0)
    }

    /// How long until something may start, in nanoseconds.
    pub fn wait_ns(&self) -> u64 {
        if self.is_on() { self.wait_ns_at(self.now()) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use nvme::Lba;
    use reactors::{DmaPool, PoolConfig};

    use super::*;

    const MS: u64 = 1_000_000;

    /// I/Os of an operation that start in a second from now, asked for every 10 µs.
    fn started(limits: &Limits, op: &Op) -> u64 {
        let from = limits.now();
        (0..100_000).filter(|step| limits.take_at(op, BlockSize::B4096, from + step * 10_000)).count() as u64
    }

    fn ops() -> (Op, Op) {
        let pool = DmaPool::new(PoolConfig { small_slots: 4, large_slots: 0, prefault: false }).unwrap();
        let buffer = || pool.alloc_io(4096).unwrap();
        let read = Op::Read { lba: Lba(0), buffer: buffer() };
        (read, Op::Write { lba: Lba(0), buffer: buffer(), fua: false })
    }

    #[test]
    fn each_limit_holds_what_it_is_for_and_nothing_else() {
        let (read, write) = ops();
        let limits = Limits::default();
        let near = |count: u64, wanted: u64| count >= wanted && count <= wanted + wanted / 100 + 2;
        limits.set(Rates { ios: Some(5000), ..Rates::default() });
        assert!(near(started(&limits, &read), 5000));
        limits.set(Rates { bytes: Some(4096 * 700), ..Rates::default() });
        assert!(near(started(&limits, &write), 700));
        limits.set(Rates { read_bytes: Some(4096 * 700), ..Rates::default() });
        assert!(near(started(&limits, &read), 700));
        limits.set(Rates {
            written_bytes: Some(4096 * 300),
            read_bytes: Some(4096 * 900),
            ..Rates::default()
        });
        assert!(near(started(&limits, &write), 300));
        assert_eq!(limits.rates().written_bytes, Some(4096 * 300));
        limits.set(Rates::default());
        assert!(!limits.is_on() && limits.take(&write, BlockSize::B4096));
    }

    #[test]
    fn what_was_not_used_may_be_used_at_once_up_to_the_burst() {
        let (read, _) = ops();
        let limits = Limits::default();
        limits.set(Rates { ios: Some(100), burst: Duration::from_millis(500), ..Rates::default() });
        let at = limits.now() + 10_000 * MS;
        let at_once = (0..200).filter(|_| limits.take_at(&read, BlockSize::B4096, at)).count();
        assert!((50..=52).contains(&at_once), "{at_once}");
        assert!(limits.wait_ns_at(at) > 0 && limits.wait_ns_at(at + 11 * MS) == 0);
    }
}
