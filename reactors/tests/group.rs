//! Pinned reactors: starting, waking, stalling, stopping.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::Cell;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use reactors::mailbox::{Mailbox, MailboxSender};
use reactors::reply;
use reactors::{
    CoreId, CoreSet, IdleMode, Poller, PoolConfig, ReactorHandle, Reactors, ReactorsConfig, StartError,
    TimerToken, Turn, Work,
};

/// Far beyond anything a loaded machine needs: reaching it means that a wake-up was lost.
const LOST_AFTER: Duration = Duration::from_secs(60);

fn config(cores: usize, mode: IdleMode) -> ReactorsConfig {
    let buffers = PoolConfig { small_slots: 16, large_slots: 2, prefault: false };
    let cores = CoreSet::available().into_vec().into_iter().take(cores).collect();
    ReactorsConfig { cores, mode, buffers, ..ReactorsConfig::default() }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LOST_AFTER, "never happened: {what}");
        std::thread::yield_now();
    }
}

fn wait_for_sleep(handle: &ReactorHandle) {
    wait_until("the reactor falls asleep", || handle.is_asleep() && handle.metrics().turns > 0);
}

fn call<R: Send + 'static>(
    handle: &ReactorHandle,
    work: impl FnOnce(&mut reactors::ReactorContext<'_>) -> R + Send + 'static,
) -> R {
    handle.call(work).unwrap().wait_timeout(LOST_AFTER).expect("a lost wake-up").unwrap()
}

#[test]
fn unusable_cores_are_refused_by_name() {
    let start = |cores| Reactors::start(ReactorsConfig { cores, ..config(1, IdleMode::Interrupt) }).map(drop);
    let some = CoreSet::available().as_slice()[0];
    assert!(matches!(start(vec![]), Err(StartError::NoCores)));
    assert!(matches!(start(vec![some, some]), Err(StartError::DuplicateCore { core }) if core == some));
    let unknown = start(vec![CoreId(8000)]).unwrap_err();
    assert!(unknown.to_string().starts_with("core 8000 is not available"), "{unknown}");
}

#[test]
fn a_failed_start_leaves_no_thread_behind() {
    let buffers = PoolConfig { small_slots: 0, large_slots: 0, prefault: false };
    let config = ReactorsConfig { buffers, ..config(2, IdleMode::Interrupt) };
    assert!(matches!(Reactors::start(config), Err(StartError::Buffers(_))));
}

#[test]
fn each_reactor_runs_pinned_to_its_core() {
    let cores = CoreSet::available();
    let reactors = Reactors::start(config(cores.len(), IdleMode::Adaptive)).unwrap();
    for (handle, core) in reactors.handles().iter().zip(cores.as_slice()) {
        let allowed = call(handle, |_| CoreSet::available());
        assert_eq!(allowed.as_slice(), [*core]);
        assert_eq!(handle.core(), Some(*core));
    }
}

#[test]
fn a_sleeping_reactor_takes_no_turns_and_a_message_wakes_it() {
    let reactors = Reactors::start(config(1, IdleMode::Adaptive)).unwrap();
    let handle = reactors.handle(0);
    wait_for_sleep(&handle);
    let turns = handle.metrics().turns;
    let (_replier, never) = reply::channel::<()>();
    assert!(never.wait_timeout(Duration::from_millis(200)).is_err());
    assert_eq!(handle.metrics().turns, turns);
    call(&handle, |_| ());
    assert!(handle.metrics().sleeps > 0);
}

#[test]
fn a_task_waker_wakes_a_sleeping_reactor() {
    let reactors = Reactors::start(config(1, IdleMode::Interrupt)).unwrap();
    let handle = reactors.handle(0);
    let (ask, asked) = reply::channel();
    let (answer, answered) = reply::channel();
    call(&handle, move |context| {
        context.spawn("echo", async move { answer.reply(asked.await) }).unwrap();
    });
    wait_for_sleep(&handle);
    ask.reply(3);
    assert_eq!(answered.wait_timeout(LOST_AFTER).expect("a lost wake-up"), Ok(Ok(3)));
}

#[test]
fn a_sleeping_task_wakes_its_reactor() {
    let reactors = Reactors::start(config(1, IdleMode::Interrupt)).unwrap();
    let handle = reactors.handle(0);
    let (answer, answered) = reply::channel();
    call(&handle, move |context| {
        let local = context.local().clone();
        let nap = async move {
            // What is tested: nothing but the end of this sleep wakes the reactor.
            local.sleep(Duration::from_millis(20)).await;
            answer.reply(local.now());
        };
        context.spawn("nap", nap).unwrap();
    });
    assert!(answered.wait_timeout(LOST_AFTER).expect("a lost wake-up").is_ok());
}

/// Not drained until it was polled so often after the request.
struct InFlight {
    left: u32,
    completed: Arc<Mutex<Vec<&'static str>>>,
    draining: bool,
}

impl Poller for InFlight {
    fn name(&self) -> &str {
        "in flight"
    }

    fn poll(&mut self, _turn: &mut Turn<'_>) -> Work {
        if !self.draining || self.left == 0 {
            return Work::Idle;
        }
        self.left -= 1;
        self.completed.lock().unwrap().push("completed");
        Work::Busy
    }

    fn drain(&mut self, _turn: &mut Turn<'_>) -> bool {
        self.draining = true;
        self.left == 0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.completed.lock().unwrap().push("dropped");
    }
}

#[test]
fn shutdown_of_sleeping_reactors_completes_what_is_in_flight() {
    let reactors = Reactors::start(config(2, IdleMode::Adaptive)).unwrap();
    let completed = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&completed);
    let handle = reactors.handle(0);
    call(&handle, move |context| {
        context.add_poller(Box::new(InFlight { left: 3, completed: log, draining: false })).unwrap();
    });
    wait_for_sleep(&handle);
    let stopper = reactors.stopper();
    std::thread::spawn(move || stopper.stop()).join().unwrap();
    assert!(reactors.stopper().is_stopping());
    let outcomes = reactors.join();
    assert!(outcomes.iter().all(|outcome| outcome.undrained.is_empty() && !outcome.panicked));
    assert_eq!(*completed.lock().unwrap(), ["completed", "completed", "completed", "dropped"]);
    assert!(handle.call(|_| ()).is_err());
}

#[test]
fn a_message_that_panics_is_reported_by_join() {
    let reactors = Reactors::start(config(1, IdleMode::Interrupt)).unwrap();
    let pending = reactors.handle(0).call(|_| panic!("on purpose")).unwrap();
    assert!(pending.wait().is_err());
    assert!(reactors.join()[0].panicked);
}

struct Slow {
    naps: u32,
}

impl Poller for Slow {
    fn name(&self) -> &str {
        "slow poller"
    }

    fn poll(&mut self, _turn: &mut Turn<'_>) -> Work {
        if self.naps == 0 {
            return Work::Idle;
        }
        self.naps -= 1;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        Work::Busy
    }
}

#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_slow_poller_is_named() {
    let reactors = Reactors::start(config(1, IdleMode::Adaptive)).unwrap();
    let handle = reactors.handle(0);
    let capture = Capture::default();
    let writer = capture.clone();
    call(&handle, move |context| {
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        context.put(Rc::new(tracing::subscriber::set_default(subscriber)));
        context.add_poller(Box::new(Slow { naps: 100 })).unwrap();
    });
    // A loaded machine may stall the reactor by itself; one warning a second is given, so one of the next is ours.
    let text = || String::from_utf8(capture.0.lock().unwrap().clone()).unwrap();
    wait_until("the poller is named", || text().contains("slow poller"));
    assert!(handle.metrics().stalls > 0);
}

/// One end of a game in which each token goes to the other reactor by a random way after a random pause.
struct Player {
    mailbox: Mailbox<u64>,
    socket: UnixDatagram,
    own: MailboxSender<u64>,
    peer_mailbox: MailboxSender<u64>,
    peer_socket: UnixDatagram,
    peer: ReactorHandle,
    random: u64,
    finished: mpsc::Sender<()>,
}

impl Player {
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn forward(&mut self, token: u64, turn: &mut Turn<'_>) {
        let Some(token) = token.checked_sub(1) else {
            self.finished.send(()).unwrap();
            return;
        };
        for _ in 0..self.random_below(2_000) {
            std::hint::spin_loop();
        }
        match self.random_below(16) {
            0..6 => self.peer_mailbox.send(token).unwrap(),
            6..10 => drop(self.peer_socket.send(&token.to_ne_bytes()).unwrap()),
            10..14 => {
                let relay = self.peer_mailbox.clone();
                self.peer.run(move |_| relay.send(token).unwrap()).unwrap();
            }
            14 => {
                let relay = self.own.clone();
                let (local, nap) = (turn.local().clone(), self.random_below(100));
                let task = async move {
                    // One of the ways to be woken: by a timer of a task.
                    local.sleep(Duration::from_micros(nap)).await;
                    relay.send(token).unwrap();
                };
                turn.local().spawn("relay", task).unwrap();
            }
            _ => {
                let delay = Duration::from_micros(self.random_below(200));
                turn.arm_after(delay, TimerToken(token));
            }
        }
    }
}

impl Poller for Player {
    fn name(&self) -> &str {
        "player"
    }

    fn poll(&mut self, turn: &mut Turn<'_>) -> Work {
        let mut bytes = [0; 8];
        let by_socket = self.socket.recv(&mut bytes).is_ok().then(|| u64::from_ne_bytes(bytes));
        let tokens = [self.mailbox.recv(), by_socket];
        tokens.into_iter().flatten().map(|token| self.forward(token, turn)).count().gt(&0).into()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn on_timer(&mut self, token: TimerToken, turn: &mut Turn<'_>) {
        self.forward(token.0, turn);
    }
}

/// Plays `rounds` rounds with the pollers sleeping as `idle_after` says; panics when a token gets stuck.
fn play(mode: IdleMode, idle_after: Duration, rounds: u64) -> u64 {
    let config = ReactorsConfig { idle_after, ..config(2, mode) };
    let reactors = Reactors::start(config).unwrap();
    let last = reactors.len() - 1;
    let handles = [reactors.handle(0), reactors.handle(last)];
    let boxes = handles.each_ref().map(|handle| {
        call(handle, |context| {
            let (sender, mailbox) = context.mailbox::<u64>(64);
            context.put(Rc::new(Cell::new(Some(mailbox))));
            sender
        })
    });
    let (left, right) = (UnixDatagram::pair().unwrap(), UnixDatagram::pair().unwrap());
    let sockets = [(left.0, right.1), (right.0, left.1)];
    let (finished, ends) = mpsc::channel();
    for (me, (socket, peer_socket)) in sockets.into_iter().enumerate() {
        socket.set_nonblocking(true).unwrap();
        let (own, peer_mailbox, peer) = (boxes[me].clone(), boxes[1 - me].clone(), handles[1 - me].clone());
        let finished = finished.clone();
        let random = 0x9e37_79b9_7f4a_7c15 ^ (me as u64 + 1);
        call(&handles[me], move |context| {
            let mailbox = context.take::<Cell<Option<Mailbox<u64>>>>().unwrap().take().unwrap();
            let player = Player { mailbox, socket, own, peer_mailbox, peer_socket, peer, random, finished };
            context.add_poller(Box::new(player)).unwrap();
        });
    }
    boxes[0].send(rounds).unwrap();
    boxes[1].send(rounds).unwrap();
    for _token in 0..2 {
        let ended = ends.recv_timeout(LOST_AFTER);
        assert_eq!(ended, Ok(()), "a wake-up was lost: {:?}", reactors.metrics());
    }
    reactors.metrics().iter().map(|metrics| metrics.sleeps).sum()
}

#[test]
fn no_wake_up_is_lost_when_reactors_sleep_at_once() {
    assert!(play(IdleMode::Interrupt, Duration::ZERO, 4_000) > 100);
}

#[test]
fn no_wake_up_is_lost_when_reactors_sleep_at_random_moments() {
    for idle_us in [1, 5, 20] {
        play(IdleMode::Adaptive, Duration::from_micros(idle_us), 3_000);
    }
}
