//! The sleep/wake protocol between a reactor and whoever sends to it.
//!
//! Invariant: when a producer published an item before [`SleepGate::must_raise`], then either that call answered
//! `true` (and the producer raises the wake-up), or the consumer sees the item when it looks again after
//! [`SleepGate::prepare`]. It holds because both sides store, fence with `SeqCst`, and only then look at the other's
//! store: at least one of the two looks comes after both stores.
//!
//! The file takes its atomics from `super::sync`, so that the same text is model-checked with loom's.

use super::sync::{AtomicBool, Ordering, fence};

/// Says whether the consumer sleeps or is about to.
#[derive(Debug)]
pub struct SleepGate {
    asleep: AtomicBool,
}

impl SleepGate {
    /// A gate of a consumer that is awake.
    #[must_use]
    pub fn new() -> Self {
        Self { asleep: AtomicBool::new(false) }
    }

    /// Consumer: announces sleep. It must look at every queue once more before it really sleeps.
    pub fn prepare(&self) {
        // A swap: it comes after a late producer's swap in every view, not only in modification order.
        self.asleep.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Consumer: announces that it is awake and will look at its queues.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Producer, after it published an item: whether it must raise the wake-up. One of many producers is told so.
    #[must_use]
    pub fn must_raise(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel)
    }
}

impl Default for SleepGate {
    fn default() -> Self {
        Self::new()
    }
}
