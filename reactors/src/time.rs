//! Time as an argument: a timestamp newtype and the one clock that reads it.
//!
//! Invariant: all [`Clock`]s of a process share one origin, so timestamps compare across reactors.

use std::ops::Add;
use std::sync::OnceLock;
use std::time::Duration;

/// A point in time: nanoseconds since an origin that is fixed for the life of the process.
///
/// Timestamps of different processes do not compare. Simulators make their own with [`Timestamp::from_nanos`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than every other timestamp (584 years): "never".
    pub const MAX: Self = Self(u64::MAX);

    /// The timestamp `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`, zero when `earlier` is not earlier.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This timestamp moved by `delay`, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(duration_nanos(delay)))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        self.saturating_add(delay)
    }
}

/// Nanoseconds of `duration`, saturating at `u64::MAX` (584 years).
pub(crate) fn duration_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads the time: the processor's time-stamp counter where it is usable (about 10 ns), else `clock_gettime`.
///
/// The first clock of a process calibrates the counter, which takes up to 200 ms.
#[derive(Clone, Debug)]
pub struct Clock {
    source: quanta::Clock,
    origin: u64,
}

static ORIGIN: OnceLock<u64> = OnceLock::new();

impl Clock {
    /// A clock on the origin of this process.
    #[must_use]
    pub fn new() -> Self {
        let source = quanta::Clock::new();
        let origin = *ORIGIN.get_or_init(|| source.raw());
        Self { source, origin }
    }

    /// The time now.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(self.source.delta_as_nanos(self.origin, self.source.raw()))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_one_process_share_an_origin() {
        let first = Clock::new();
        let before = first.now();
        let between = Clock::new().now();
        let after = first.now();
        assert!(before <= between);
        assert!(between <= after);
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX + Duration::from_secs(1), Timestamp::MAX);
        assert_eq!(Timestamp::ZERO.saturating_since(Timestamp::MAX), Duration::ZERO);
        assert_eq!(Timestamp::from_nanos(5) + Duration::from_nanos(7), Timestamp::from_nanos(12));
        assert_eq!(Timestamp::ZERO + Duration::MAX, Timestamp::MAX);
    }

    #[test]
    fn the_clock_keeps_pace_with_the_system() {
        let clock = Clock::new();
        let (system, ours) = (std::time::Instant::now(), clock.now());
        while system.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (system, ours) = (system.elapsed(), clock.now().saturating_since(ours));
        assert!(
            ours.abs_diff(system) < Duration::from_millis(2) + system / 50,
            "{ours:?} against {system:?}"
        );
    }
}
