//! What the hot pieces cost: a turn without work, a buffer, a timer, a message to a reactor that is awake.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use reactors::{IdleMode, LocalReactor, Poller, ReactorsConfig, TimerToken, Turn, Work};

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
    let config = ReactorsConfig { mode: IdleMode::Polling, ..ReactorsConfig::default() };
    LocalReactor::new(&config).expect("a reactor")
}

fn hot(criterion: &mut Criterion) {
    let mut empty = reactor();
    criterion.bench_function("turn without work", |bencher| bencher.iter(|| empty.turn()));

    let pool = empty.with(|context| context.pool().clone());
    criterion.bench_function("buffer of 4 KiB, taken and freed", |bencher| bencher.iter(|| pool.alloc(4096)));
    criterion.bench_function("I/O buffer of 4 KiB, taken and freed", |bencher| {
        bencher.iter(|| pool.alloc_io(4096))
    });
    criterion.bench_function("I/O buffer of 1 MiB, taken and freed", |bencher| {
        bencher.iter(|| pool.alloc_io(1 << 20))
    });

    let mut timers = reactor();
    timers.with(|context| context.add_poller(Box::new(TimerPoller)).map(drop)).expect("a poller");
    criterion.bench_function("turn that arms and cancels a timer", |bencher| bencher.iter(|| timers.turn()));

    let (sender, mut mailbox) = empty.with(|context| context.mailbox::<u64>(64));
    criterion.bench_function("mailbox, sent and received on one core", |bencher| {
        bencher.iter(|| {
            let sent = sender.send(7);
            (sent.is_ok(), mailbox.recv())
        });
    });
}

criterion_group!(benches, hot);
criterion_main!(benches);
