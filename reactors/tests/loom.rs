//! Model-checks the sleep protocol of a reactor under every interleaving and every reordering that C11 allows.
//!
//! The protocol's own source file is compiled here against loom's atomics.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[allow(unreachable_pub, reason = "the file is public in its own crate")]
#[path = "../src/mailbox/gate.rs"]
mod gate;

use gate::SleepGate;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use std::sync::Arc;

/// An eventfd: a flag that stays up until the sleeper takes it down.
#[derive(Default)]
struct Event {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    fn raise(&self) {
        *self.raised.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut raised = self.raised.lock().unwrap();
        while !*raised {
            raised = self.changed.wait(raised).unwrap();
        }
        *raised = false;
    }
}

struct World {
    gate: SleepGate,
    items: AtomicUsize,
    event: Event,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: SleepGate::new(), items: AtomicUsize::new(0), event: Event::default() })
    }
}

/// The producer's half, with a choice of how it asks the gate.
fn produce(world: &World, must_raise: fn(&SleepGate) -> bool) {
    world.items.fetch_add(1, Ordering::Release);
    if must_raise(&world.gate) {
        world.event.raise();
    }
}

/// The reactor's half: ends when it saw `want` items, never when a wake-up is lost.
fn consume(world: &World, want: usize, prepare: fn(&SleepGate)) {
    let mut seen = world.items.load(Ordering::Acquire);
    while seen < want {
        prepare(&world.gate);
        if world.items.load(Ordering::Acquire) == seen {
            world.event.wait();
        }
        world.gate.awake();
        seen = world.items.load(Ordering::Acquire);
    }
}

fn model(producers: usize, must_raise: fn(&SleepGate) -> bool, prepare: fn(&SleepGate)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let world = World::new();
        let threads: Vec<_> = (0..producers)
            .map(|_| {
                let world = Arc::clone(&world);
                loom::thread::spawn(move || produce(&world, must_raise))
            })
            .collect();
        consume(&world, producers, prepare);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn one_producer_never_loses_a_wake_up() {
    model(1, SleepGate::must_raise, SleepGate::prepare);
}

#[test]
fn two_producers_never_lose_a_wake_up() {
    model(2, SleepGate::must_raise, SleepGate::prepare);
}

/// The model can fail: a producer that looks at the flag before it published its item is caught.
#[test]
#[should_panic(expected = "deadlock")]
fn a_producer_that_looks_too_early_is_caught() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let world = World::new();
        let producer = Arc::clone(&world);
        let thread = loom::thread::spawn(move || {
            let raise = producer.gate.must_raise();
            producer.items.fetch_add(1, Ordering::Release);
            if raise {
                producer.event.raise();
            }
        });
        consume(&world, 1, SleepGate::prepare);
        thread.join().unwrap();
    });
}

/// The model can fail: a sleeper that announces nothing is caught.
#[test]
#[should_panic(expected = "deadlock")]
fn a_sleeper_that_does_not_announce_itself_is_caught() {
    model(1, SleepGate::must_raise, |_| {});
}
