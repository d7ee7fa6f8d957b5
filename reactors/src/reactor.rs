//! One reactor: the turn, and the way to sleep.
//!
//! Order of a turn: messages, timers, pollers in the order they were added, tasks, deferred work, drain. The order in
//! which a reactor goes to sleep: announce it, ask the pollers, look at everything once more, wait in the kernel.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::dma::DmaPool;
use crate::epoll::WakeSet;
use crate::group::{IdleMode, Message, ReactorHandle, ReactorShared, ReactorsConfig, StartError};
use crate::local::LocalHandle;
use crate::mailbox::Mailbox;
use crate::poller::{Poller, PollerId, Turn, Work};
use crate::stall::{StallMeter, WatchdogCall, checked_limit};
use crate::time::{Clock, Timestamp, duration_nanos};
use crate::timers::TimerWheel;

/// Messages run a turn, so that a flood of them cannot starve the pollers.
const MESSAGES_PER_TURN: usize = 64;
/// Tasks polled a turn.
const TASKS_PER_TURN: usize = 32;
/// While draining, the longest sleep: a poller that starts its last work in `drain` need not wake its reactor.
const DRAIN_SLEEP_MAX: Duration = Duration::from_millis(1);
/// Buffer gauges are published every so many turns; a power of two.
const TURNS_PER_GAUGE: u64 = 64;

/// Why a poller was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddPollerError {
    /// Its descriptor cannot be waited for.
    #[error("cannot wait for the descriptor of poller `{name}`: {source}")]
    WaitFd {
        /// The poller's name.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

struct PollerSlot {
    id: PollerId,
    poller: Box<dyn Poller>,
}

/// How the current time is spent, and until when to poll.
struct Pace {
    mode: IdleMode,
    idle_after_ns: u64,
    turn_start: Timestamp,
    last_turn: Work,
    last_busy: Timestamp,
}

pub(crate) struct Reactor {
    shared: Arc<ReactorShared>,
    local: LocalHandle,
    inbox: Mailbox<Message>,
    pollers: Vec<PollerSlot>,
    poller_ids: u32,
    wheel: TimerWheel,
    wake_set: WakeSet,
    pace: Pace,
    stalls: StallMeter,
    watchdog: Option<WatchdogCall>,
    drain_for: Duration,
    drain_until: Option<Timestamp>,
    undrained: Vec<PollerId>,
    finished: bool,
}

impl Reactor {
    /// A reactor for the calling thread.
    pub(crate) fn new(
        config: &ReactorsConfig,
        handle: ReactorHandle,
        inbox: Mailbox<Message>,
        watchdog: Option<WatchdogCall>,
    ) -> Result<Self, StartError> {
        let shared = Arc::clone(handle.shared());
        let clock = Clock::new();
        let now = clock.now();
        let pool = DmaPool::new(config.buffers)?;
        let wake_set = WakeSet::new(&shared.notifier)?;
        let notifier = Arc::clone(&shared.notifier);
        let pace = Pace {
            mode: config.mode,
            idle_after_ns: duration_nanos(config.idle_after),
            turn_start: now,
            last_turn: Work::Idle,
            last_busy: now,
        };
        Ok(Self {
            local: LocalHandle::new(handle, clock, pool, notifier, config.tasks_max),
            shared,
            inbox,
            pollers: Vec::new(),
            poller_ids: 0,
            wheel: TimerWheel::new(now),
            wake_set,
            pace,
            stalls: StallMeter::new(checked_limit(config.stall_after)),
            watchdog,
            drain_for: config.drain_for,
            drain_until: None,
            undrained: Vec::new(),
            finished: false,
        })
    }

    pub(crate) fn local(&self) -> &LocalHandle {
        &self.local
    }

    pub(crate) fn context(&mut self) -> ReactorContext<'_> {
        ReactorContext { reactor: self }
    }

    /// Whether it was asked to stop and is drained, or out of time.
    pub(crate) fn finished(&self) -> bool {
        self.finished
    }

    /// One turn, then sleep if there is nothing to do.
    pub(crate) fn step(&mut self) -> Work {
        let now = self.local.clock().now();
        let work = self.turn(now);
        if !work.is_busy() && !self.finished && self.may_sleep(now) {
            self.sleep(now);
        }
        work
    }

    /// One turn that takes place at `now`.
    pub(crate) fn turn(&mut self, now: Timestamp) -> Work {
        self.begin_turn(now);
        let mut work = Work::Idle;
        if !self.inbox.is_empty() {
            work |= self.run_messages(now);
        }
        if self.wheel.next() <= now {
            work |= self.fire_timers(now);
        }
        work |= self.poll_all(now);
        if self.local.executor().has_ready(now) {
            work |= self.run_tasks(now);
        }
        if self.local.has_deferred() {
            work |= self.run_deferred();
        }
        if self.shared.stop.load(Ordering::Relaxed) {
            self.drain(now);
        }
        self.end_turn(work);
        work
    }

    #[inline]
    fn begin_turn(&mut self, now: Timestamp) {
        self.account(now);
        self.shared.beacon.turn(now);
        self.local.executor().set_now(now);
    }

    #[inline]
    fn end_turn(&mut self, work: Work) {
        self.pace.last_turn = work;
        let metrics = &self.shared.metrics;
        metrics.turns.add(1);
        if work.is_busy() {
            metrics.busy_turns.add(1);
        }
        if metrics.turns.get().is_multiple_of(TURNS_PER_GAUGE) {
            metrics.set_pool(self.local.pool().usage());
        }
    }

    /// Books the time since the last turn started, which now ends.
    #[inline]
    fn account(&mut self, now: Timestamp) {
        let took = now.as_nanos().saturating_sub(self.pace.turn_start.as_nanos());
        if self.pace.last_turn.is_busy() {
            self.shared.metrics.busy_ns.add(took);
            self.pace.last_busy = now;
        } else {
            self.shared.metrics.idle_ns.add(took);
        }
        self.stalls.turn_ran(&self.shared, self.pace.turn_start, now);
        self.pace.turn_start = now;
    }

    #[inline]
    fn poll_all(&mut self, now: Timestamp) -> Work {
        let Self { pollers, wheel, local, shared, .. } = self;
        let mut work = Work::Idle;
        for PollerSlot { id, poller } in pollers.iter_mut() {
            shared.beacon.running(*id);
            work |= poller.poll(&mut Turn::new(now, *id, wheel, local));
        }
        shared.beacon.nobody_runs();
        work
    }

    fn run_messages(&mut self, now: Timestamp) -> Work {
        let mut started = now;
        for _ in 0..MESSAGES_PER_TURN {
            let Some(Message { name, run }) = self.inbox.recv() else { break };
            run(&mut self.context());
            self.shared.metrics.messages.add(1);
            started = self.ran(name, started);
        }
        Work::Busy
    }

    fn run_deferred(&mut self) -> Work {
        let mut started = self.local.clock().now();
        for deferred in self.local.take_deferred() {
            (deferred.run)(&mut self.context());
            started = self.ran(deferred.name, started);
        }
        Work::Busy
    }

    fn run_tasks(&mut self, now: Timestamp) -> Work {
        self.local.executor().wake_sleepers(now);
        let mut started = self.local.clock().now();
        let mut work = Work::Idle;
        for _ in 0..TASKS_PER_TURN {
            let Some(name) = self.local.executor().poll_next() else { break };
            self.shared.metrics.tasks_polled.add(1);
            started = self.ran(&name, started);
            work = Work::Busy;
        }
        work
    }

    fn fire_timers(&mut self, now: Timestamp) -> Work {
        self.wheel.advance(now);
        let mut started = now;
        let mut work = Work::Idle;
        while let Some((owner, token)) = self.wheel.pop_due() {
            let Some(at) = self.pollers.iter().position(|slot| slot.id == owner) else { continue };
            let Self { pollers, wheel, local, .. } = self;
            pollers[at].poller.on_timer(token, &mut Turn::new(now, owner, wheel, local));
            self.shared.metrics.timers_fired.add(1);
            let ended = self.local.clock().now();
            let name = self.pollers[at].poller.name();
            started = self.stalls.ran(&self.shared, name, started, ended);
            work = Work::Busy;
        }
        work
    }

    fn ran(&mut self, name: &str, started: Timestamp) -> Timestamp {
        let ended = self.local.clock().now();
        self.stalls.ran(&self.shared, name, started, ended)
    }

    fn drain(&mut self, now: Timestamp) {
        let until = *self.drain_until.get_or_insert(now + self.drain_for);
        let Self { pollers, wheel, local, shared, .. } = self;
        self.undrained.clear();
        for PollerSlot { id, poller } in pollers.iter_mut() {
            shared.beacon.running(*id);
            if !poller.drain(&mut Turn::new(now, *id, wheel, local)) {
                self.undrained.push(*id);
            }
        }
        shared.beacon.nobody_runs();
        self.finished = self.undrained.is_empty() || now >= until;
    }

    /// Drops everything that runs here; the names of pollers that did not drain in time.
    pub(crate) fn finish(mut self) -> Vec<String> {
        let undrained = std::mem::take(&mut self.undrained);
        let names = undrained.into_iter().map(|id| self.shared.poller_name(id)).collect();
        self.discard();
        names
    }

    /// Drops everything that runs here: tasks, then pollers, the last added first.
    pub(crate) fn discard(mut self) {
        self.local.clear();
        while let Some(PollerSlot { poller, .. }) = self.pollers.pop() {
            drop(poller);
        }
        self.local.clear(); // What the pollers deferred while they were dropped.
        self.shared.metrics.set_pool(self.local.pool().usage());
        self.shared.beacon.asleep();
    }

    #[inline]
    fn may_sleep(&self, now: Timestamp) -> bool {
        match self.pace.mode {
            IdleMode::Polling => false,
            IdleMode::Interrupt => true,
            IdleMode::Adaptive => {
                now.as_nanos().saturating_sub(self.pace.last_busy.as_nanos()) >= self.pace.idle_after_ns
            }
        }
    }

    fn sleep(&mut self, now: Timestamp) {
        let shared = Arc::clone(&self.shared);
        shared.notifier.gate().prepare();
        let (asked, willing) = self.ask_pollers(now);
        if willing && !self.has_pending() {
            self.wait();
        }
        shared.notifier.gate().awake();
        self.pollers[..asked].iter_mut().for_each(|slot| slot.poller.after_sleep());
    }

    /// How many pollers were asked, and whether all of them agree to sleep.
    fn ask_pollers(&mut self, now: Timestamp) -> (usize, bool) {
        let Self { pollers, wheel, local, shared, .. } = self;
        for (index, PollerSlot { id, poller }) in pollers.iter_mut().enumerate() {
            shared.beacon.running(*id);
            if !poller.before_sleep(&mut Turn::new(now, *id, wheel, local)) {
                return (index + 1, false);
            }
        }
        shared.beacon.nobody_runs();
        (pollers.len(), true)
    }

    /// The last look before sleep, after it was announced.
    fn has_pending(&self) -> bool {
        let stopping = self.shared.stop.load(Ordering::Relaxed) && self.drain_until.is_none();
        let Self { inbox, local, .. } = self;
        let executor = local.executor();
        stopping
            || !inbox.is_empty()
            || local.has_deferred()
            || local.has_mail()
            || executor.has_ready(executor.now())
    }

    fn wait(&mut self) {
        let before = self.local.clock().now();
        let deadline = self.deadline(before);
        if deadline <= before {
            return;
        }
        self.account(before);
        self.shared.metrics.set_pool(self.local.pool().usage());
        self.shared.beacon.asleep();
        let limit = deadline.saturating_since(before);
        self.wake_set.wait((deadline != Timestamp::MAX).then(|| duration_nanos(limit)));
        self.woke(before);
    }

    fn woke(&mut self, slept_from: Timestamp) {
        let now = self.local.clock().now();
        self.shared.beacon.turn(now);
        if let Some(watchdog) = &self.watchdog {
            watchdog.woke();
        }
        self.shared.metrics.sleeps.add(1);
        self.shared.metrics.sleeping_ns.add(duration_nanos(now.saturating_since(slept_from)));
        self.pace.turn_start = now;
    }

    /// When something happens even if nothing wakes the reactor.
    fn deadline(&self, now: Timestamp) -> Timestamp {
        let drain = self.drain_until.map(|_| now + DRAIN_SLEEP_MAX);
        let pollers = self.pollers.iter().filter_map(|slot| slot.poller.next_deadline()).min();
        [Some(self.wheel.next()), Some(self.local.executor().next_wake()), drain, pollers]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Timestamp::MAX)
    }

    fn add_poller(&mut self, poller: Box<dyn Poller>) -> Result<PollerId, AddPollerError> {
        if let Some(fd) = poller.wait_fd() {
            self.wake_set
                .add(fd)
                .map_err(|source| AddPollerError::WaitFd { name: poller.name().to_owned(), source })?;
        }
        self.poller_ids += 1;
        let id = PollerId(self.poller_ids);
        self.shared.name_poller(id, poller.name());
        self.pollers.push(PollerSlot { id, poller });
        Ok(id)
    }

    fn remove_poller(&mut self, id: PollerId) -> Option<Box<dyn Poller>> {
        let at = self.pollers.iter().position(|slot| slot.id == id)?;
        let PollerSlot { poller, .. } = self.pollers.remove(at);
        if let Some(fd) = poller.wait_fd() {
            // A descriptor that was closed early has left the set by itself.
            let _ = self.wake_set.remove(fd);
        }
        self.wheel.cancel_all(id);
        self.shared.forget_poller(id);
        Some(poller)
    }
}

/// What a message or deferred work may do to its reactor. Everything of [`LocalHandle`] is there as well.
pub struct ReactorContext<'a> {
    reactor: &'a mut Reactor,
}

impl ReactorContext<'_> {
    /// Calls `poller` every turn from now on, after those that are there already.
    ///
    /// # Errors
    /// [`AddPollerError::WaitFd`] when its descriptor cannot be waited for, as a regular file's.
    pub fn add_poller(&mut self, poller: Box<dyn Poller>) -> Result<PollerId, AddPollerError> {
        self.reactor.add_poller(poller)
    }

    /// Takes a poller out, with its timers. `None` when it is not there.
    pub fn remove_poller(&mut self, id: PollerId) -> Option<Box<dyn Poller>> {
        self.reactor.remove_poller(id)
    }

    /// How many pollers there are.
    #[must_use]
    pub fn poller_count(&self) -> usize {
        self.reactor.pollers.len()
    }

    /// The reactor's services, to keep.
    #[must_use]
    pub fn local(&self) -> &LocalHandle {
        &self.reactor.local
    }
}

impl Deref for ReactorContext<'_> {
    type Target = LocalHandle;

    fn deref(&self) -> &LocalHandle {
        &self.reactor.local
    }
}

impl fmt::Debug for ReactorContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReactorContext").field("id", &self.id()).finish_non_exhaustive()
    }
}
