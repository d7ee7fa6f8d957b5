//! What the parts of a reactor cost: a turn without work, a buffer, a timer, a message on one core and between two.
#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use reactors::mailbox::{Mailbox, MailboxSender};
use reactors::{IdleMode, LocalReactor, Poller, PoolConfig, ReactorsConfig, TimerToken, Turn, Work};

/// Items that a mailbox between two threads holds.
const CAPACITY: usize = 64;

/// Arms and cancels a timer in every turn, as a command with a time-out does.
struct TimerPoller;

impl Poller for TimerPoller {
    fn name(&self) -> &str {
        "timers"
    }

    fn poll(&mut self, turn: &mut Turn<'_>) -> Work {
        let timer = turn.arm_after(Duration::from_secs(2), TimerToken(1));
        Work::from(!turn.cancel(black_box(timer)))
    }
}

fn reactor() -> LocalReactor {
    let buffers = PoolConfig { small_slots: 256, large_slots: 32, prefault: true };
    let config = ReactorsConfig { mode: IdleMode::Polling, buffers, ..ReactorsConfig::default() };
    LocalReactor::new(&config).unwrap_or_else(|error| panic!("{error}"))
}

fn turns(c: &mut Criterion) {
    let mut empty = reactor();
    c.bench_function("turn without work", |b| b.iter(|| empty.turn()));
    let mut timers = reactor();
    let added = timers.with(|context| context.add_poller(Box::new(TimerPoller)).is_ok());
    assert!(added);
    c.bench_function("turn that arms and cancels a timer", |b| b.iter(|| timers.turn()));
}

fn buffers(c: &mut Criterion) {
    let mut reactor = reactor();
    let pool = reactor.with(|context| context.pool().clone());
    c.bench_function("buffer of 4 KiB, taken and freed", |b| b.iter(|| pool.alloc(4096)));
    c.bench_function("I/O buffer of 4 KiB, taken and freed", |b| b.iter(|| pool.alloc_io(4096)));
    c.bench_function("I/O buffer of 1 MiB, taken and freed", |b| b.iter(|| pool.alloc_io(1 << 20)));
}

fn mailbox(reactor: &mut LocalReactor) -> (MailboxSender<u64>, Mailbox<u64>) {
    reactor.with(|context| context.local().mailbox::<u64>(CAPACITY))
}

/// Sends back what comes, until told to end.
fn echo(mut incoming: Mailbox<u64>, outgoing: &MailboxSender<u64>, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        match incoming.recv() {
            // The other side has at most one item under way, so there is always room.
            Some(item) => assert!(outgoing.send(item).is_ok()),
            None => std::hint::spin_loop(),
        }
    }
}

fn mailboxes(c: &mut Criterion) {
    let mut reactor = reactor();
    let (sender, mut own) = mailbox(&mut reactor);
    c.bench_function("mailbox, sent and received on one core", |b| {
        b.iter(|| {
            let sent = sender.send(black_box(7));
            (sent.is_ok(), own.recv())
        });
    });
    let (there, incoming) = mailbox(&mut reactor);
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (back, end) = (&sender, &end);
        scope.spawn(move || echo(incoming, back, end));
        c.bench_function("mailbox, to another core and back", |b| {
            b.iter(|| {
                assert!(there.send(black_box(7)).is_ok());
                while own.recv().is_none() {
                    std::hint::spin_loop();
                }
            });
        });
        end.store(true, Ordering::Relaxed);
    });
}

criterion_group!(benches, turns, buffers, mailboxes);
criterion_main!(benches);
