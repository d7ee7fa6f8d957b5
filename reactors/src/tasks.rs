//! The local executor: futures for slow work on a reactor (connect, discovery, RPC, rebuild).
//!
//! Invariants
//! - A fixed number of slots; each has one waker for its whole life, and is in the ready queue at most once, so that the
//!   queue cannot overflow. A waker that outlives its task wakes the slot's next task in vain, which is harmless.
//! - Wakers work from any thread, through the reactor's notifier. Futures stay on the reactor.
//! - No borrow of the slots is held while a future runs: tasks may spawn and abort tasks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crossbeam_queue::ArrayQueue;

use crate::mailbox::Notifier;
use crate::time::Timestamp;

/// Names a task, to abort it. Stale once the task ended; using it then has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId {
    slot: u32,
    generation: u32,
}

/// Why a task was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// Every slot is taken.
    #[error("all {limit} tasks of the reactor are running")]
    Full {
        /// Slots there are.
        limit: u32,
    },
}

type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

struct SlotWaker {
    slot: u32,
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

struct ReadyQueue {
    slots: ArrayQueue<u32>,
    notifier: Arc<Notifier>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let pushed = self.ready.slots.push(self.slot);
            debug_assert_eq!(pushed, Ok(()), "each slot is queued at most once");
            self.ready.notifier.notify();
        }
    }
}

/// What a slot holds.
enum Task {
    Vacant,
    Waiting { name: Rc<str>, future: BoxedFuture },
    Running,
}

struct Slot {
    task: Task,
    generation: u32,
    flag: Arc<SlotWaker>,
    waker: Waker,
}

/// Slots, ready queue and sleeping futures of one reactor.
pub(crate) struct Executor {
    ready: Arc<ReadyQueue>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    limit: u32,
    sleepers: RefCell<BTreeMap<(Timestamp, u64), Waker>>,
    next_wake: Cell<Timestamp>,
    sleeper_sequence: Cell<u64>,
    now: Cell<Timestamp>,
}

impl Executor {
    pub(crate) fn new(limit: u32, notifier: Arc<Notifier>) -> Self {
        let slots = ArrayQueue::new(limit.max(1) as usize);
        Self {
            ready: Arc::new(ReadyQueue { slots, notifier }),
            slots: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
            limit,
            sleepers: RefCell::new(BTreeMap::new()),
            next_wake: Cell::new(Timestamp::MAX),
            sleeper_sequence: Cell::new(0),
            now: Cell::new(Timestamp::ZERO),
        }
    }

    pub(crate) fn spawn(&self, name: &str, future: BoxedFuture) -> Result<TaskId, SpawnError> {
        let slot = self.vacant_slot().ok_or(SpawnError::Full { limit: self.limit })?;
        let mut slots = self.slots.borrow_mut();
        let entry = &mut slots[slot as usize];
        entry.task = Task::Waiting { name: name.into(), future };
        entry.waker.wake_by_ref();
        Ok(TaskId { slot, generation: entry.generation })
    }

    fn vacant_slot(&self) -> Option<u32> {
        if let Some(slot) = self.free.borrow_mut().pop() {
            return Some(slot);
        }
        let mut slots = self.slots.borrow_mut();
        let slot = u32::try_from(slots.len()).ok().filter(|slot| *slot < self.limit)?;
        let flag =
            Arc::new(SlotWaker { slot, queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        let waker = Waker::from(Arc::clone(&flag));
        slots.push(Slot { task: Task::Vacant, generation: 0, flag, waker });
        Some(slot)
    }

    /// Drops the task. `false` when it had ended before.
    pub(crate) fn abort(&self, id: TaskId) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some(entry) = slots.get_mut(id.slot as usize).filter(|entry| entry.generation == id.generation)
        else {
            return false;
        };
        let task = std::mem::replace(&mut entry.task, Task::Vacant);
        entry.generation = entry.generation.wrapping_add(1);
        self.free.borrow_mut().push(id.slot);
        drop(slots); // The future's own drop may use the executor.
        !matches!(task, Task::Vacant)
    }

    /// How many tasks there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.borrow().len() - self.free.borrow().len()
    }

    #[inline]
    pub(crate) fn set_now(&self, now: Timestamp) {
        self.now.set(now);
    }

    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        self.now.get()
    }

    /// Whether a task wants to be polled at `now`.
    #[inline]
    pub(crate) fn has_ready(&self, now: Timestamp) -> bool {
        !self.ready.slots.is_empty() || self.next_wake.get() <= now
    }

    /// When the first sleeping future wants to be woken; `MAX` for never.
    pub(crate) fn next_wake(&self) -> Timestamp {
        self.next_wake.get()
    }

    /// Wakes the sleepers whose time has come.
    pub(crate) fn wake_sleepers(&self, now: Timestamp) {
        let mut sleepers = self.sleepers.borrow_mut();
        while let Some(first) = sleepers.first_entry().filter(|first| first.key().0 <= now) {
            first.remove().wake();
        }
        self.next_wake.set(sleepers.keys().next().map_or(Timestamp::MAX, |(deadline, _)| *deadline));
    }

    /// Polls the next ready task; its name, or `None` when no task is ready.
    pub(crate) fn poll_next(&self) -> Option<Rc<str>> {
        loop {
            if self.ready.slots.is_empty() {
                return None;
            }
            let slot = self.ready.slots.pop()?;
            if let Some(name) = self.poll_slot(slot) {
                return Some(name);
            }
        }
    }

    fn poll_slot(&self, slot: u32) -> Option<Rc<str>> {
        let (name, mut future, waker, generation) = self.take(slot)?;
        let outcome = future.as_mut().poll(&mut Context::from_waker(&waker));
        self.put_back(TaskId { slot, generation }, Rc::clone(&name), future, outcome);
        Some(name)
    }

    fn take(&self, slot: u32) -> Option<(Rc<str>, BoxedFuture, Waker, u32)> {
        let mut slots = self.slots.borrow_mut();
        let entry = &mut slots[slot as usize];
        // Before the poll: a wake during it queues the slot again.
        entry.flag.queued.swap(false, Ordering::AcqRel);
        match std::mem::replace(&mut entry.task, Task::Running) {
            Task::Waiting { name, future } => Some((name, future, entry.waker.clone(), entry.generation)),
            other => {
                entry.task = other;
                None
            }
        }
    }

    fn put_back(&self, id: TaskId, name: Rc<str>, future: BoxedFuture, outcome: Poll<()>) {
        if outcome.is_ready() {
            self.abort(id);
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let entry = &mut slots[id.slot as usize];
        if entry.generation == id.generation {
            entry.task = Task::Waiting { name, future };
            return;
        }
        drop(slots); // It aborted itself.
        drop(future);
    }

    /// Drops all tasks.
    pub(crate) fn clear(&self) {
        let ids: Vec<TaskId> = (0..)
            .zip(self.slots.borrow().iter())
            .filter(|(_, entry)| !matches!(entry.task, Task::Vacant))
            .map(|(slot, entry)| TaskId { slot, generation: entry.generation })
            .collect();
        for id in ids {
            self.abort(id);
        }
    }

    fn add_sleeper(&self, deadline: Timestamp, waker: Waker) -> u64 {
        let sequence = self.sleeper_sequence.get();
        self.sleeper_sequence.set(sequence + 1);
        self.sleepers.borrow_mut().insert((deadline, sequence), waker);
        self.next_wake.set(self.next_wake.get().min(deadline));
        sequence
    }

    fn remove_sleeper(&self, deadline: Timestamp, sequence: u64) {
        self.sleepers.borrow_mut().remove(&(deadline, sequence));
    }
}

/// Ends at its deadline, never before. Made by [`LocalHandle::sleep_until`](crate::LocalHandle::sleep_until).
#[must_use = "a future does nothing unless polled"]
pub struct Sleep {
    executor: Rc<Executor>,
    deadline: Timestamp,
    sequence: Option<u64>,
}

impl Sleep {
    pub(crate) fn new(executor: Rc<Executor>, deadline: Timestamp) -> Self {
        Self { executor, deadline, sequence: None }
    }

    fn forget(&mut self) {
        if let Some(sequence) = self.sequence.take() {
            self.executor.remove_sleeper(self.deadline, sequence);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.forget();
        if self.executor.now() >= self.deadline {
            return Poll::Ready(());
        }
        let sequence = self.executor.add_sleeper(self.deadline, context.waker().clone());
        self.sequence = Some(sequence);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Lets everything else on the reactor have its turn.
pub fn yield_now() -> YieldNow {
    YieldNow { yielded: false }
}

/// Made by [`yield_now`].
#[derive(Debug)]
#[must_use = "a future does nothing unless polled"]
pub struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
