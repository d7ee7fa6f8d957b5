//! One reactor in the test's own thread, mostly on simulated time.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reactors::{
    IdleMode, LocalReactor, Poller, PoolConfig, ReactorsConfig, RunError, SpawnError, TIMER_TICK, TimerToken,
    Timestamp, Turn, Work, yield_now,
};

fn config() -> ReactorsConfig {
    let buffers = PoolConfig { small_slots: 16, large_slots: 2, prefault: false };
    ReactorsConfig { buffers, ..ReactorsConfig::default() }
}

fn reactor() -> LocalReactor {
    LocalReactor::new(&config()).unwrap()
}

fn at(millis: u64) -> Timestamp {
    // Beyond any real clock of a test process, so that simulated time only moves forward.
    Timestamp::from_nanos((1_000_000 + millis) * 1_000_000)
}

/// Keeps a log of what is called.
struct Recorder {
    log: Rc<RefCell<Vec<String>>>,
    arm: Vec<(Timestamp, u64)>,
    drains_left: u32,
    name: &'static str,
}

impl Recorder {
    fn arming(log: &Rc<RefCell<Vec<String>>>, arm: Vec<(Timestamp, u64)>) -> Box<Self> {
        Box::new(Self { log: Rc::clone(log), arm, drains_left: 1, name: "" })
    }

    fn draining(log: &Rc<RefCell<Vec<String>>>, name: &'static str, drains_left: u32) -> Box<Self> {
        Box::new(Self { log: Rc::clone(log), arm: Vec::new(), drains_left, name })
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.log.borrow_mut().push(format!("{}{what}", self.name));
    }
}

impl Poller for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn poll(&mut self, turn: &mut Turn<'_>) -> Work {
        let busy = !self.arm.is_empty();
        for (deadline, token) in self.arm.drain(..) {
            turn.arm(deadline, TimerToken(token));
        }
        busy.into()
    }

    fn on_timer(&mut self, token: TimerToken, _turn: &mut Turn<'_>) {
        self.note(token.0);
    }

    fn drain(&mut self, _turn: &mut Turn<'_>) -> bool {
        self.drains_left = self.drains_left.saturating_sub(1);
        self.drains_left == 0
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.note("dropped");
    }
}

#[test]
fn pollers_get_their_timers_in_order_and_never_early() {
    let mut reactor = reactor();
    let log = Rc::new(RefCell::default());
    let arm = vec![(at(30), 3), (at(10), 1), (at(10), 2)];
    let recorder = Recorder::arming(&log, arm);
    reactor.with(|context| context.add_poller(recorder).map(drop)).unwrap();
    assert_eq!(reactor.turn_at(at(0)), Work::Busy);
    assert_eq!(reactor.turn_at(at(9)), Work::Idle);
    assert!(log.borrow().is_empty());
    assert_eq!(reactor.turn_at(at(10) + TIMER_TICK), Work::Busy);
    assert_eq!(*log.borrow(), ["1", "2"]);
    reactor.turn_at(at(31));
    assert_eq!(*log.borrow(), ["1", "2", "3"]);
    assert_eq!(reactor.handle().metrics().timers_fired, 3);
}

#[test]
fn a_removed_poller_comes_back_without_its_timers() {
    let mut reactor = reactor();
    let log = Rc::new(RefCell::default());
    let recorder = Recorder::arming(&log, vec![(at(10), 1)]);
    let id = reactor.with(|context| context.add_poller(recorder)).unwrap();
    reactor.turn_at(at(0));
    let poller = reactor.with(|context| context.remove_poller(id));
    assert!(poller.is_some());
    assert!(reactor.with(|context| context.remove_poller(id)).is_none());
    reactor.turn_at(at(20));
    assert!(log.borrow().is_empty());
}

#[test]
fn shutdown_turns_until_every_poller_is_drained_then_drops_the_last_added_first() {
    let mut reactor = reactor();
    let log = Rc::new(RefCell::default());
    for (name, drains_left) in [("a ", 5), ("b ", 2)] {
        let recorder = Recorder::draining(&log, name, drains_left);
        reactor.with(|context| context.add_poller(recorder).map(drop)).unwrap();
    }
    let handle = reactor.handle();
    assert_eq!(reactor.shutdown(), Vec::<String>::new());
    assert_eq!(*log.borrow(), ["b dropped", "a dropped"]);
    assert!(handle.metrics().turns >= 5);
}

#[test]
fn shutdown_names_what_did_not_drain_in_time() {
    let config = ReactorsConfig { drain_for: Duration::from_millis(5), ..config() };
    let mut reactor = LocalReactor::new(&config).unwrap();
    let recorder = Recorder::draining(&Rc::default(), "", u32::MAX);
    reactor.with(|context| context.add_poller(recorder).map(drop)).unwrap();
    assert_eq!(reactor.shutdown(), ["recorder"]);
}

#[test]
fn a_full_inbox_refuses_and_a_stopped_reactor_cancels() {
    let mut reactor = LocalReactor::new(&ReactorsConfig { inbox_capacity: 2, ..config() }).unwrap();
    let handle = reactor.handle();
    let first = handle.call(|context| context.poller_count()).unwrap();
    let second = handle.call(|context| context.id().0).unwrap();
    assert_eq!(handle.run(|_| {}), Err(RunError::Full));
    assert_eq!(reactor.turn(), Work::Busy);
    assert_eq!((first.wait(), second.wait()), (Ok(0), Ok(0)));
    let late = handle.call(|_| ()).unwrap();
    drop(reactor);
    assert!(late.wait().is_err());
    assert_eq!(handle.run(|_| {}), Err(RunError::Stopped));
    assert_eq!(handle.metrics().messages, 2);
}

#[test]
fn tasks_sleep_yield_and_wake_across_threads() {
    let mut reactor = reactor();
    let (replier, reply) = reactors::reply::channel();
    let log = Rc::new(RefCell::new(Vec::new()));
    let local = reactor.with(|context| context.local().clone());
    let (task, notes) = (local.clone(), Rc::clone(&log));
    let main = async move {
        yield_now().await;
        notes.borrow_mut().push("yielded");
        task.sleep_until(at(50)).await;
        assert!(task.now() >= at(50));
        notes.borrow_mut().push("slept");
        assert_eq!(reply.await, Ok(9));
        notes.borrow_mut().push("answered");
    };
    local.spawn("main", main).unwrap();
    reactor.turn_at(at(0));
    assert_eq!(*log.borrow(), ["yielded"]);
    assert_eq!(reactor.turn_at(at(49)), Work::Idle);
    reactor.turn_at(at(50));
    assert_eq!(log.borrow().last(), Some(&"slept"));
    std::thread::spawn(move || replier.reply(9)).join().unwrap();
    reactor.turn_at(at(51));
    assert_eq!(log.borrow().last(), Some(&"answered"));
    assert_eq!(local.task_count(), 0);
}

#[test]
fn task_slots_are_bounded_and_reused() {
    let mut reactor = LocalReactor::new(&ReactorsConfig { tasks_max: 2, ..config() }).unwrap();
    let local = reactor.with(|context| context.local().clone());
    let first = local.spawn("waits", std::future::pending()).unwrap();
    local.spawn("waits", std::future::pending()).unwrap();
    assert_eq!(local.spawn("waits", async {}), Err(SpawnError::Full { limit: 2 }));
    reactor.turn_at(at(0));
    assert!(local.abort(first));
    assert!(!local.abort(first));
    let ran = Rc::new(Cell::new(false));
    let flag = Rc::clone(&ran);
    local.spawn("runs", async move { flag.set(true) }).unwrap();
    reactor.turn_at(at(1));
    assert!(ran.get());
    assert_eq!(local.task_count(), 1);
}

#[test]
fn tasks_may_abort_themselves_and_spawn_others() {
    let mut reactor = reactor();
    let local = reactor.with(|context| context.local().clone());
    let own_id = Rc::new(Cell::new(None));
    let dropped = Rc::new(());
    let (task, id, held) = (local.clone(), Rc::clone(&own_id), Rc::clone(&dropped));
    let suicidal = async move {
        let _held = held;
        assert!(task.abort(id.get().unwrap()));
        task.spawn("heir", std::future::pending()).unwrap();
        std::future::pending::<()>().await;
    };
    own_id.set(Some(local.spawn("suicidal", suicidal).unwrap()));
    reactor.turn_at(at(0));
    assert_eq!(Rc::strong_count(&dropped), 1);
    assert_eq!(local.task_count(), 1);
}

#[test]
fn a_dropped_sleep_leaves_nothing_behind() {
    let mut reactor = reactor();
    let local = reactor.with(|context| context.local().clone());
    let task = local.clone();
    let aborted = local.spawn("sleeper", async move { task.sleep_until(at(10)).await }).unwrap();
    reactor.turn_at(at(0));
    assert!(local.abort(aborted));
    let before = reactor.handle().metrics().tasks_polled;
    assert_eq!(reactor.turn_at(at(20)), Work::Idle);
    assert_eq!(reactor.handle().metrics().tasks_polled, before);
}

#[test]
fn deferred_work_may_change_the_reactor() {
    let mut reactor = reactor();
    reactor.with(|context| {
        context.put(Rc::new(41_u32));
        context.defer(|context| {
            let number = context.get::<u32>().unwrap();
            context.put(Rc::new(*number + 1));
            context.add_poller(Recorder::arming(&Rc::default(), Vec::new())).unwrap();
        });
    });
    assert_eq!(reactor.turn(), Work::Busy);
    assert_eq!(reactor.with(|context| context.poller_count()), 1);
    assert_eq!(reactor.with(|context| context.take::<u32>()).as_deref(), Some(&42));
    assert_eq!(reactor.with(|context| context.get::<u32>()), None);
}

#[test]
fn the_pool_of_a_turn_is_the_reactors() {
    let mut reactor = reactor();
    let buffer = reactor.with(|context| context.pool().alloc(1)).unwrap();
    (0..64).for_each(|_| assert_eq!(reactor.turn(), Work::Idle));
    assert_eq!(reactor.handle().metrics().small_in_use, 1);
    drop(buffer);
    (0..64).for_each(|_| assert_eq!(reactor.turn(), Work::Idle));
    let metrics = reactor.handle().metrics();
    assert_eq!((metrics.small_in_use, metrics.small_free_min), (0, 15));
}

/// Counts what arrives on a socket.
struct SocketPoller {
    socket: UnixDatagram,
    received: Rc<Cell<u32>>,
    refusals: u32,
    prepared: Rc<Cell<i32>>,
}

impl Poller for SocketPoller {
    fn name(&self) -> &str {
        "socket"
    }

    fn poll(&mut self, _turn: &mut Turn<'_>) -> Work {
        let mut byte = [0];
        let received = self.socket.recv(&mut byte).is_ok();
        self.received.set(self.received.get() + u32::from(received));
        received.into()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn before_sleep(&mut self, _turn: &mut Turn<'_>) -> bool {
        self.prepared.set(self.prepared.get() + 1);
        self.refusals = self.refusals.saturating_sub(1);
        self.refusals == 0
    }

    fn after_sleep(&mut self) {
        self.prepared.set(self.prepared.get() - 1);
    }
}

#[test]
fn a_reactor_asks_before_every_sleep_and_wakes_by_descriptor() {
    let mut reactor = LocalReactor::new(&ReactorsConfig { mode: IdleMode::Interrupt, ..config() }).unwrap();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (received, prepared) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let poller =
        SocketPoller { socket: theirs, received: received.clone(), refusals: 3, prepared: prepared.clone() };
    reactor.with(|context| context.add_poller(Box::new(poller)).map(drop)).unwrap();
    let handle = reactor.handle();
    let sender = std::thread::spawn(move || {
        while !handle.is_asleep() || handle.metrics().turns == 0 {
            std::thread::yield_now();
        }
        ours.send(&[1]).unwrap();
    });
    reactor.run_until(|_| received.get() == 1);
    sender.join().unwrap();
    assert_eq!(prepared.get(), 0, "every before_sleep has its after_sleep");
    assert!(reactor.handle().metrics().sleeps >= 1);
    assert!(reactor.handle().metrics().turns >= 4, "two refusals, the sleep, the wake-up");
}

#[test]
fn a_sleeping_reactor_wakes_for_its_timer_without_spinning_before() {
    let mut reactor = LocalReactor::new(&ReactorsConfig { mode: IdleMode::Interrupt, ..config() }).unwrap();
    let log = Rc::new(RefCell::default());
    let start = reactor.with(|context| context.clock().now());
    let deadline = start + Duration::from_millis(60);
    let recorder = Recorder::arming(&log, vec![(deadline, 1)]);
    reactor.with(|context| context.add_poller(recorder).map(drop)).unwrap();
    reactor.run_until(|_| !log.borrow().is_empty());
    assert!(reactor.with(|context| context.clock().now()) >= deadline);
    let metrics = reactor.handle().metrics();
    assert!(
        metrics.turns <= 12,
        "a timer passes few wheel levels, but the reactor turned {} times",
        metrics.turns
    );
    assert!(metrics.sleeping_ns > 50_000_000);
}

#[test]
fn polling_never_sleeps_and_adaptive_only_after_its_time() {
    for (mode, idle_after) in [(IdleMode::Polling, 0), (IdleMode::Adaptive, 3_600)] {
        let config = ReactorsConfig { mode, idle_after: Duration::from_secs(idle_after), ..config() };
        let mut reactor = LocalReactor::new(&config).unwrap();
        let mut turns_left = 10_000;
        reactor.run_until(|_| {
            turns_left -= 1;
            turns_left == 0
        });
        let metrics = reactor.handle().metrics();
        assert_eq!((metrics.sleeps, metrics.turns), (0, 9_999));
        assert_eq!(metrics.busy_turns, 0);
    }
}

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Capture {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn spin(time: Duration) {
    let start = std::time::Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// What a reactor logs and counts when a task and a message take longer than allowed.
fn stall_twice() -> (String, u64) {
    let capture = Capture::default();
    let writer = capture.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let config = ReactorsConfig { stall_after: Duration::from_millis(20), ..config() };
    let mut reactor = LocalReactor::new(&config).unwrap();
    let local = reactor.with(|context| context.local().clone());
    local.spawn("slow task", async { spin(Duration::from_millis(21)) }).unwrap();
    reactor.turn();
    reactor.handle().run(|_| spin(Duration::from_millis(21))).unwrap();
    reactor.turn();
    reactor.turn();
    (capture.text(), reactor.handle().metrics().stalls)
}

#[test]
fn slow_messages_and_tasks_are_counted_and_the_first_is_named() {
    // A loaded machine may itself stall a reactor first and take the one warning; then another reactor tries.
    let mut attempts = (0..50).map(|_| stall_twice());
    let named = attempts.find(|(text, stalls)| {
        assert!(*stalls >= 2);
        text.contains("slow task")
    });
    let (text, _) = named.expect("no reactor named its slow task");
    let warnings = text.lines().filter(|line| line.contains("stalled the reactor"));
    assert_eq!(warnings.count(), 1, "warnings are limited: {text}");
}
