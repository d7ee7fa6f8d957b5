//! Live figures while a run lasts: workers count with plain atomics, the main thread prints the difference.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

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

/// What the main thread and the workers of a run share.
pub(crate) struct RunControl {
    stop: AtomicBool,
    measuring: AtomicBool,
    ready: AtomicUsize,
    pub(crate) workers: Vec<LiveCounters>,
}

impl RunControl {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            stop: AtomicBool::new(false),
            measuring: AtomicBool::new(false),
            ready: AtomicUsize::new(0),
            workers: (0..workers).map(|_| LiveCounters::default()).collect(),
        }
    }

    /// A worker is connected.
    pub(crate) fn worker_ready(&self) {
        self.ready.fetch_add(1, Ordering::Release);
    }

    /// Whether every worker is connected.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) == self.workers.len()
    }

    /// The warm-up is over, or there is none.
    pub(crate) fn set_measuring(&self, measuring: bool) {
        self.measuring.store(measuring, Ordering::Relaxed);
    }

    pub(crate) fn is_measuring(&self) -> bool {
        self.measuring.load(Ordering::Relaxed)
    }

    /// Asks every worker to finish what is in flight and report.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
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
