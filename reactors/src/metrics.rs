//! Counters of a reactor, readable from any thread.
//!
//! Invariant: only the reactor writes its counters, so adding is a plain load and store, without a locked instruction.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::dma::PoolUsage;

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only on the reactor's thread.
    #[inline]
    pub(crate) fn add(&self, amount: u64) {
        self.set(self.get().wrapping_add(amount));
    }

    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The live counters; aligned to keep other reactors' stores off their cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ReactorMetrics {
    pub(crate) turns: Counter,
    pub(crate) busy_turns: Counter,
    pub(crate) busy_ns: Counter,
    pub(crate) idle_ns: Counter,
    pub(crate) sleeping_ns: Counter,
    pub(crate) sleeps: Counter,
    pub(crate) messages: Counter,
    pub(crate) timers_fired: Counter,
    pub(crate) tasks_polled: Counter,
    pub(crate) stalls: Counter,
    pub(crate) small_in_use: Counter,
    pub(crate) large_in_use: Counter,
    pub(crate) small_free_min: Counter,
    pub(crate) large_free_min: Counter,
}

/// The counters of one reactor at one moment. All but the buffer gauges only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReactorSnapshot {
    /// Turns of the loop.
    pub turns: u64,
    /// Turns in which something had work.
    pub busy_turns: u64,
    /// Nanoseconds spent in busy turns.
    pub busy_ns: u64,
    /// Nanoseconds spent polling without finding work.
    pub idle_ns: u64,
    /// Nanoseconds asleep in the kernel.
    pub sleeping_ns: u64,
    /// Times it slept, each ended by one wake-up.
    pub sleeps: u64,
    /// Messages run.
    pub messages: u64,
    /// Timers fired.
    pub timers_fired: u64,
    /// Polls of tasks.
    pub tasks_polled: u64,
    /// Pollers, messages, timers or tasks that ran longer than allowed.
    pub stalls: u64,
    /// Small buffer slots in use. Buffer numbers follow every 64 turns and before sleep.
    pub small_in_use: u64,
    /// Large buffer slots in use.
    pub large_in_use: u64,
    /// The fewest small slots ever free.
    pub small_free_min: u64,
    /// The fewest large slots ever free.
    pub large_free_min: u64,
}

impl ReactorMetrics {
    pub(crate) fn snapshot(&self) -> ReactorSnapshot {
        ReactorSnapshot {
            turns: self.turns.get(),
            busy_turns: self.busy_turns.get(),
            busy_ns: self.busy_ns.get(),
            idle_ns: self.idle_ns.get(),
            sleeping_ns: self.sleeping_ns.get(),
            sleeps: self.sleeps.get(),
            messages: self.messages.get(),
            timers_fired: self.timers_fired.get(),
            tasks_polled: self.tasks_polled.get(),
            stalls: self.stalls.get(),
            small_in_use: self.small_in_use.get(),
            large_in_use: self.large_in_use.get(),
            small_free_min: self.small_free_min.get(),
            large_free_min: self.large_free_min.get(),
        }
    }

    pub(crate) fn set_pool(&self, usage: PoolUsage) {
        self.small_in_use.set(usage.small_in_use as u64);
        self.large_in_use.set(usage.large_in_use as u64);
        self.small_free_min.set(usage.small_free_min as u64);
        self.large_free_min.set(usage.large_free_min as u64);
    }
}
