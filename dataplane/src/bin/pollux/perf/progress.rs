//! When a run begins and ends, and live figures while it lasts: workers count with plain atomics, the main thread prints
//! the difference.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::report::as_f64;

/// Counters one worker writes and the main thread reads. Single writer: plain loads and stores suffice.
#[derive(Default)]
pub(crate) struct LiveCounters {
    operations: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl LiveCounters {
    /// Publishes running totals; called at most a few times each millisecond.
    pub(crate) fn publish(&self, operations: u64, bytes: u64, errors: u64) {
        self.operations.store(operations, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.errors.store(errors, Ordering::Relaxed);
    }
}

/// What the main thread and the workers of a run share. Workers keep the time themselves: with real-time priority they
/// may leave the main thread no processor to do it on.
pub(crate) struct RunControl {
    stop: AtomicBool,
    ready: AtomicUsize,
    began: OnceLock<Instant>,
    warmup: Duration,
    length: Duration,
    pub(crate) workers: Vec<LiveCounters>,
}

impl RunControl {
    /// A run that measures for `length` after `warmup`.
    pub(crate) fn new(workers: usize, warmup: Duration, length: Duration) -> Self {
        Self {
            stop: AtomicBool::new(false),
            ready: AtomicUsize::new(0),
            began: OnceLock::new(),
            warmup,
            length,
            workers: (0..workers).map(|_| LiveCounters::default()).collect(),
        }
    }

    /// A worker is connected. The run begins with the last of them.
    pub(crate) fn worker_ready(&self) {
        if self.ready.fetch_add(1, Ordering::AcqRel) + 1 == self.workers.len() {
            self.began.get_or_init(Instant::now);
        }
    }

    /// Time since the run began; `None` while workers are connecting.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        self.began.get().map(Instant::elapsed)
    }

    /// Whether the warm-up is over.
    pub(crate) fn is_measuring(&self) -> bool {
        self.elapsed().is_some_and(|elapsed| elapsed >= self.warmup)
    }

    /// Asks every worker to finish what is in flight and report.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the time is up, or the run was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.elapsed().is_some_and(|elapsed| elapsed >= self.warmup + self.length)
    }

    fn totals(&self) -> (u64, u64, u64) {
        self.workers.iter().fold((0, 0, 0), |(operations, bytes, errors), worker| {
            (
                operations + worker.operations.load(Ordering::Relaxed),
                bytes + worker.bytes.load(Ordering::Relaxed),
                errors + worker.errors.load(Ordering::Relaxed),
            )
        })
    }
}

/// Prints one line per interval to standard error: rewritten in place on a terminal, a line each otherwise.
pub(crate) struct ProgressLine {
    in_place: bool,
    before: (u64, u64, u64),
}

impl ProgressLine {
    pub(crate) fn new() -> Self {
        Self { in_place: std::io::stderr().is_terminal(), before: (0, 0, 0) }
    }

    /// `interval` is the time since the call before.
    pub(crate) fn print(&mut self, control: &RunControl, elapsed: Duration, interval: Duration) {
        let now = control.totals();
        let seconds = interval.as_secs_f64().max(1e-9);
        let rate = |after: u64, before: u64| as_f64(after.saturating_sub(before)) / seconds;
        let line = format!(
            "{:6.1} s  {:>10.0} IOPS  {:>9.1} MiB/s  {} errors",
            elapsed.as_secs_f64(),
            rate(now.0, self.before.0),
            rate(now.1, self.before.1) / f64::from(1 << 20),
            now.2
        );
        self.before = now;
        let mut out = std::io::stderr().lock();
        // A closed standard error must not end the measurement.
        let _ = if self.in_place { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }

    /// Leaves the terminal line clean for what follows.
    pub(crate) fn finish(&self) {
        if self.in_place {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_with_its_last_worker_and_ends_without_the_main_thread() {
        let control = RunControl::new(2, Duration::ZERO, Duration::ZERO);
        control.worker_ready();
        assert!(!control.is_measuring() && !control.is_stopped());
        control.worker_ready();
        assert!(control.is_measuring() && control.is_stopped());
    }

    #[test]
    fn a_warm_up_is_not_measured_and_an_interrupt_ends_it() {
        let day = Duration::from_secs(86_400);
        let control = RunControl::new(1, day, day);
        control.worker_ready();
        assert!(!control.is_measuring() && !control.is_stopped());
        control.stop();
        assert!(control.is_stopped());
    }
}
