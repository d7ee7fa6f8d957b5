//! Model-checks the sleep protocol of a reactor under every interleaving and every reordering that C11 allows.
//!
//! The protocol's own source file is compiled here against loom's atomics.

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[allow(unreachable_pub, reason = "the file is public in its own crate")]
#[path = "../src/mailbox/gate.rs"]
mod gate;

use gate::SleepGate;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

struct World {
    gate: SleepGate,
    items: AtomicUsize,
    /// Stands for the eventfd: stays raised until the sleeper takes it.
    event: Notify,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: SleepGate::new(), items: AtomicUsize::new(0), event: Notify::new() })
    }
}

/// The producer's half, with a choice of how it asks the gate.
fn produce(world: &World, must_raise: fn(&SleepGate) -> bool) {
    world.items.fetch_add(1, Ordering::Release);
    if must_raise(&world.gate) {
        world.event.notify();
    }
}

/// The reactor's half: ends when it saw `want` items, and deadlocks when a wake-up is lost.
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
                producer.event.notify();
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
