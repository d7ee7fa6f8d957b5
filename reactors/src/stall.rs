//! Finds what holds a reactor up, and names it.
//!
//! Messages, tasks, timers and deferred work are rare and slow: the reactor reads the clock after each and knows exactly.
//! Pollers are the hot path: before each call the reactor only stores who it is, a plain store. That a turn was too long
//! shows in the two clock reads that every turn has anyway; who it was is sampled by a watchdog thread, four times in the
//! allowed time. The watchdog also reports a turn that never ends, and parks when all reactors sleep.
//!
//! Invariant: the watchdog only reads and leaves a note in the beacon; counting is done by the reactor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crate::group::ReactorShared;
use crate::poller::PollerId;
use crate::time::{Clock, Timestamp, duration_nanos};

/// Samples in the allowed time; with four, two fall into the second half of every stall.
const SAMPLES_PER_LIMIT: u32 = 4;
/// A turn this many times longer than allowed is reported while it still runs.
const HANG_LIMITS: u32 = 100;
/// How long all reactors must have slept for the watchdog to park.
const PARK_AFTER_SAMPLES: u32 = 100;
/// A parked watchdog looks again this often even when nobody woke it.
const PARKED_FOR: Duration = Duration::from_secs(1);
/// At most one warning a reactor in this time; the rest is counted.
const WARN_EVERY: Duration = Duration::from_secs(1);

const NOBODY: u32 = 0;
const ASLEEP: u64 = 0;

/// What a reactor shows of its current turn.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Beacon {
    turn_start: AtomicU64,
    running: AtomicU32,
    suspect: AtomicU32,
    suspect_turn: AtomicU64,
}

impl Beacon {
    #[inline]
    pub(crate) fn turn(&self, start: Timestamp) {
        self.turn_start.store(start.as_nanos().max(1), Ordering::Relaxed);
    }

    pub(crate) fn asleep(&self) {
        self.turn_start.store(ASLEEP, Ordering::Relaxed);
    }

    /// Also before the first turn.
    pub(crate) fn is_asleep(&self) -> bool {
        self.turn_start.load(Ordering::Relaxed) == ASLEEP
    }

    #[inline]
    pub(crate) fn running(&self, poller: PollerId) {
        self.running.store(poller.0, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn nobody_runs(&self) {
        self.running.store(NOBODY, Ordering::Relaxed);
    }

    /// Who was seen running late in the turn that started at `start`.
    fn suspect_of(&self, start: Timestamp) -> Option<PollerId> {
        let seen = self.suspect_turn.load(Ordering::Acquire) == start.as_nanos().max(1);
        Some(PollerId(self.suspect.load(Ordering::Relaxed))).filter(|poller| seen && poller.0 != NOBODY)
    }
}

/// The reactor's side: counts stalls and warns, at a bounded rate.
pub(crate) struct StallMeter {
    limit: Duration,
    warn_after: Timestamp,
    suppressed: u64,
    explained: bool,
}

impl StallMeter {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, warn_after: Timestamp::ZERO, suppressed: 0, explained: false }
    }

    /// Something that ran from `start` to `end` outside the hot path. Returns `end`, where the next thing starts.
    pub(crate) fn ran(
        &mut self,
        shared: &ReactorShared,
        what: &str,
        start: Timestamp,
        end: Timestamp,
    ) -> Timestamp {
        let took = end.saturating_since(start);
        if took > self.limit {
            self.explained = true;
            self.stalled(shared, what, took, end);
        }
        end
    }

    /// A whole turn, at its end.
    #[inline]
    pub(crate) fn turn_ran(&mut self, shared: &ReactorShared, start: Timestamp, end: Timestamp) {
        let took = end.saturating_since(start);
        if took > self.limit || self.explained {
            self.long_turn(shared, start, took, end);
        }
    }

    #[cold]
    fn long_turn(&mut self, shared: &ReactorShared, start: Timestamp, took: Duration, end: Timestamp) {
        if std::mem::take(&mut self.explained) {
            return;
        }
        let name = match shared.beacon.suspect_of(start) {
            Some(poller) => shared.poller_name(poller),
            None => "not sampled: the sum of its pollers, or a thread that lost its core".to_owned(),
        };
        self.stalled(shared, &name, took, end);
    }

    #[cold]
    fn stalled(&mut self, shared: &ReactorShared, what: &str, took: Duration, now: Timestamp) {
        shared.metrics.stalls.add(1);
        if now < self.warn_after {
            self.suppressed += 1;
            return;
        }
        self.warn_after = now + WARN_EVERY;
        let suppressed = std::mem::take(&mut self.suppressed);
        tracing::warn!(reactor = %shared.id, what, ?took, suppressed, "stalled the reactor");
    }
}

/// The sampling thread of a group. Stops when dropped.
pub(crate) struct Watchdog {
    state: Arc<WatchdogState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct WatchdogState {
    stop: AtomicBool,
    parked: AtomicBool,
}

/// Lets a reactor that wakes up wake the watchdog as well.
#[derive(Clone)]
pub(crate) struct WatchdogCall {
    state: Arc<WatchdogState>,
    thread: Thread,
}

impl WatchdogCall {
    #[inline]
    pub(crate) fn woke(&self) {
        if self.state.parked.load(Ordering::Relaxed) {
            self.thread.unpark();
        }
    }
}

impl Watchdog {
    pub(crate) fn start(
        reactors: Vec<Arc<ReactorShared>>,
        limit: Duration,
        clock: Clock,
    ) -> std::io::Result<Self> {
        let state = Arc::new(WatchdogState::default());
        let shared = Arc::clone(&state);
        let run = move || Samples { reactors, limit, clock, quiet: 0, reported: Vec::new() }.run(&shared);
        let thread = std::thread::Builder::new().name("pollux-watchdog".into()).spawn(run)?;
        Ok(Self { state, thread: Some(thread) })
    }

    pub(crate) fn call(&self) -> Option<WatchdogCall> {
        let thread = self.thread.as_ref()?.thread().clone();
        Some(WatchdogCall { state: Arc::clone(&self.state), thread })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

struct Samples {
    reactors: Vec<Arc<ReactorShared>>,
    limit: Duration,
    clock: Clock,
    quiet: u32,
    /// Turns already reported as hanging, by their start.
    reported: Vec<u64>,
}

impl Samples {
    fn run(&mut self, state: &WatchdogState) {
        self.reported = vec![ASLEEP; self.reactors.len()];
        while !state.stop.load(Ordering::Relaxed) {
            let parked = self.quiet >= PARK_AFTER_SAMPLES;
            state.parked.store(parked, Ordering::Relaxed);
            std::thread::park_timeout(if parked { PARKED_FOR } else { self.limit / SAMPLES_PER_LIMIT });
            self.sample_all();
        }
    }

    fn sample_all(&mut self) {
        let now = self.clock.now();
        let mut awake = false;
        for (reactor, reported) in self.reactors.iter().zip(&mut self.reported) {
            let start = reactor.beacon.turn_start.load(Ordering::Relaxed);
            awake |= start != ASLEEP;
            let runs_for = now.saturating_since(Timestamp::from_nanos(start));
            if start != ASLEEP && runs_for > self.limit / 2 {
                note_suspect(&reactor.beacon, start);
                if runs_for > self.limit * HANG_LIMITS && *reported != start {
                    *reported = start;
                    report_hang(reactor, runs_for);
                }
            }
        }
        self.quiet = if awake { 0 } else { self.quiet.saturating_add(1) };
    }
}

fn note_suspect(beacon: &Beacon, start: u64) {
    let running = beacon.running.load(Ordering::Relaxed);
    if running != NOBODY {
        beacon.suspect.store(running, Ordering::Relaxed);
        beacon.suspect_turn.store(start, Ordering::Release);
    }
}

fn report_hang(reactor: &ReactorShared, runs_for: Duration) {
    let running = PollerId(reactor.beacon.running.load(Ordering::Relaxed));
    let what = reactor.poller_name(running);
    tracing::error!(reactor = %reactor.id, what, ?runs_for, "the reactor hangs");
}

/// The limit as configured, at least what sampling can resolve.
pub(crate) fn checked_limit(limit: Duration) -> Duration {
    const FINEST: Duration = Duration::from_millis(1);
    Duration::from_nanos(duration_nanos(limit.max(FINEST)))
}
