//! What to do next: the kinds of workload, and the stream of operations each queue issues.

use clap::ValueEnum;

/// The workloads of `spdk_nvme_perf`, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Random reads.
    Randread,
    /// Random writes.
    Randwrite,
    /// Sequential reads and writes in the proportion of --mix.
    Rw,
    /// Random reads and writes in the proportion of --mix.
    Randrw,
}

impl Workload {
    /// Whether addresses are drawn at random.
    pub(crate) fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite | Self::Randrw)
    }

    fn read_percent(self, mix: u8) -> u8 {
        match self {
            Self::Read | Self::Randread => 100,
            Self::Write | Self::Randwrite => 0,
            Self::Rw | Self::Randrw => mix,
        }
    }
}

/// The direction of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Units (aligned pieces of one I/O size) a queue works on: `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnitRange {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl UnitRange {
    /// The part of `self` that queue `index` of `total` owns; parts are disjoint and cover everything.
    pub(crate) fn share(self, index: u64, total: u64) -> Self {
        let begin = self.count * index / total;
        let end = self.count * (index + 1) / total;
        Self { first: self.first + begin, count: end - begin }
    }
}

/// An endless stream of operations over a range of units. The same seed gives the same stream.
pub(crate) struct Generator {
    range: UnitRange,
    read_percent: u8,
    random: bool,
    cursor: u64,
    rng: fastrand::Rng,
}

impl Generator {
    /// `range` must not be empty; `mix` is the percentage of reads in mixed workloads.
    pub(crate) fn new(workload: Workload, mix: u8, range: UnitRange, seed: u64) -> Self {
        assert!(range.count > 0);
        assert!(mix <= 100);
        Self {
            range,
            read_percent: workload.read_percent(mix),
            random: workload.is_random(),
            cursor: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The next operation: which unit, and which direction.
    pub(crate) fn next(&mut self) -> (u64, Access) {
        let unit = if self.random { self.rng.u64(0..self.range.count) } else { self.advance() };
        (self.range.first + unit, self.access())
    }

    /// The unit after `unit`, wrapping inside the range: where to look when `unit` is busy.
    pub(crate) fn neighbour(&self, unit: u64) -> u64 {
        let next = unit + 1;
        if next == self.range.first + self.range.count { self.range.first } else { next }
    }

    fn advance(&mut self) -> u64 {
        let unit = self.cursor;
        self.cursor = (unit + 1) % self.range.count;
        unit
    }

    fn access(&mut self) -> Access {
        let read = match self.read_percent {
            100 => true,
            0 => false,
            percent => self.rng.u8(0..100) < percent,
        };
        if read { Access::Read } else { Access::Write }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: UnitRange = UnitRange { first: 10, count: 5 };

    #[test]
    fn sequential_streams_walk_the_range_and_wrap() {
        let mut generator = Generator::new(Workload::Read, 0, RANGE, 1);
        let units: Vec<u64> = (0..7).map(|_| generator.next().0).collect();
        assert_eq!(units, [10, 11, 12, 13, 14, 10, 11]);
    }

    #[test]
    fn random_streams_stay_inside_and_reach_every_unit() {
        let mut generator = Generator::new(Workload::Randread, 0, RANGE, 1);
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            let (unit, access) = generator.next();
            assert_eq!(access, Access::Read);
            seen[usize::try_from(unit - RANGE.first).unwrap()] = true;
        }
        assert_eq!(seen, [true; 5]);
    }

    #[test]
    fn the_mix_is_the_percentage_of_reads() {
        let mut generator = Generator::new(Workload::Randrw, 70, RANGE, 7);
        let reads = (0..100_000).filter(|_| generator.next().1 == Access::Read).count();
        assert!((69_000..=71_000).contains(&reads), "{reads}");
    }

    #[test]
    fn the_same_seed_gives_the_same_stream() {
        let stream = |seed| {
            let mut generator =
                Generator::new(Workload::Randrw, 50, UnitRange { first: 0, count: 1 << 20 }, seed);
            (0..100).map(|_| generator.next()).collect::<Vec<_>>()
        };
        assert_eq!(stream(3), stream(3));
        assert_ne!(stream(3), stream(4));
    }

    #[test]
    fn shares_are_disjoint_and_cover_the_range() {
        let whole = UnitRange { first: 3, count: 101 };
        let mut next = whole.first;
        for index in 0..7 {
            let share = whole.share(index, 7);
            assert_eq!(share.first, next);
            next += share.count;
        }
        assert_eq!(next, whole.first + whole.count);
    }
}
