//! The reactors of a process: starting, reaching, stopping them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cores::{CoreId, CoreSet};
use crate::dma::{PoolConfig, PoolError};
use crate::mailbox::{Mailbox, MailboxSender, Notifier, SendError};
use crate::metrics::{ReactorMetrics, ReactorSnapshot};
use crate::poller::{PollerId, ReactorId};
use crate::reactor::{Reactor, ReactorContext};
use crate::reply::{self, Reply};
use crate::stall::{Beacon, Watchdog, WatchdogCall, checked_limit};
use crate::time::Clock;

/// When a reactor that has nothing to do sleeps in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdleMode {
    /// After it found no work for [`ReactorsConfig::idle_after`].
    #[default]
    Adaptive,
    /// Never.
    Polling,
    /// At once.
    Interrupt,
}

/// How to start reactors.
#[derive(Clone, Debug)]
pub struct ReactorsConfig {
    /// One reactor is pinned to each; no core twice.
    pub cores: Vec<CoreId>,
    /// When to sleep.
    pub mode: IdleMode,
    /// In [`IdleMode::Adaptive`]: how long to poll after the last work. A wake-up costs about 5 µs, so the default of
    /// 75 µs loses little even when work comes just after it.
    pub idle_after: Duration,
    /// The buffers of each reactor.
    pub buffers: PoolConfig,
    /// What runs longer without a break is reported as a stall. At least 1 ms.
    pub stall_after: Duration,
    /// How long pollers may take to drain at shutdown.
    pub drain_for: Duration,
    /// Messages that fit into a reactor's mailbox.
    pub inbox_capacity: usize,
    /// Tasks a reactor runs at a time.
    pub tasks_max: u32,
}

impl Default for ReactorsConfig {
    fn default() -> Self {
        Self {
            cores: Vec::new(),
            mode: IdleMode::default(),
            idle_after: Duration::from_micros(75),
            buffers: PoolConfig::default(),
            stall_after: Duration::from_millis(10),
            drain_for: Duration::from_secs(10),
            inbox_capacity: 1024,
            tasks_max: 1024,
        }
    }
}

/// Why reactors did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration names no core.
    #[error("no core to run on")]
    NoCores,
    /// A core does not exist, or this process may not run on it.
    #[error("core {core} is not available to this process; available are {available}")]
    UnknownCore {
        /// The core.
        core: CoreId,
        /// What there is.
        available: CoreSet,
    },
    /// A core is named twice.
    #[error("core {core} is named twice")]
    DuplicateCore {
        /// The core.
        core: CoreId,
    },
    /// The kernel refused to pin a thread.
    #[error("cannot pin a thread to core {core}")]
    Pin {
        /// The core.
        core: CoreId,
    },
    /// No buffers.
    #[error(transparent)]
    Buffers(#[from] PoolError),
    /// No thread or no descriptor.
    #[error("cannot start a reactor: {0}")]
    System(#[from] io::Error),
}

/// A closure on its way to a reactor.
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce(&mut ReactorContext<'_>) + Send>,
}

/// What other threads see of a reactor.
#[derive(Debug)]
pub(crate) struct ReactorShared {
    pub(crate) id: ReactorId,
    pub(crate) core: Option<CoreId>,
    pub(crate) metrics: ReactorMetrics,
    pub(crate) beacon: Beacon,
    pub(crate) stop: AtomicBool,
    pub(crate) notifier: Arc<Notifier>,
    names: Mutex<BTreeMap<PollerId, String>>,
}

impl ReactorShared {
    fn new(id: ReactorId, core: Option<CoreId>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            id,
            core,
            metrics: ReactorMetrics::default(),
            beacon: Beacon::default(),
            stop: AtomicBool::new(false),
            notifier: Notifier::new()?,
            names: Mutex::default(),
        }))
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<PollerId, String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name_poller(&self, id: PollerId, name: &str) {
        self.names().insert(id, name.to_owned());
    }

    pub(crate) fn forget_poller(&self, id: PollerId) {
        self.names().remove(&id);
    }

    pub(crate) fn poller_name(&self, id: PollerId) -> String {
        self.names().get(&id).cloned().unwrap_or_else(|| "a message, task or removed poller".to_owned())
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.notifier.notify();
    }
}

/// Why a closure was not accepted by a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Its mailbox is full; try again later.
    #[error("the reactor's mailbox is full")]
    Full,
    /// The reactor stopped.
    #[error("the reactor stopped")]
    Stopped,
}

/// Reaches one reactor from any thread.
#[derive(Clone, Debug)]
pub struct ReactorHandle {
    inbox: MailboxSender<Message>,
    shared: Arc<ReactorShared>,
}

impl ReactorHandle {
    /// A handle, and the mailbox for the reactor to read.
    pub(crate) fn create(
        id: ReactorId,
        core: Option<CoreId>,
        inbox_capacity: usize,
    ) -> io::Result<(Self, Mailbox<Message>)> {
        let shared = ReactorShared::new(id, core)?;
        let (inbox, mailbox) = Mailbox::new(inbox_capacity.max(1), Arc::clone(&shared.notifier));
        Ok((Self { inbox, shared }, mailbox))
    }

    /// The number of the reactor.
    #[inline]
    #[must_use]
    pub fn id(&self) -> ReactorId {
        self.shared.id
    }

    /// The core it is pinned to; `None` for a [`LocalReactor`](crate::LocalReactor).
    #[must_use]
    pub fn core(&self) -> Option<CoreId> {
        self.shared.core
    }

    /// Runs `work` on the reactor, after what was sent before from this thread.
    ///
    /// Work that is accepted while the reactor stops may be dropped without being run.
    ///
    /// # Errors
    /// [`RunError`]; `work` is dropped.
    pub fn run<F>(&self, work: F) -> Result<(), RunError>
    where
        F: FnOnce(&mut ReactorContext<'_>) + Send + 'static,
    {
        let message = Message { name: std::any::type_name::<F>(), run: Box::new(work) };
        self.inbox.send(message).map_err(|error| match error {
            SendError::Full(_) => RunError::Full,
            SendError::Closed(_) => RunError::Stopped,
        })
    }

    /// Runs `work` on the reactor and hands back its result, to `.await` or to [`Reply::wait`] for.
    ///
    /// # Errors
    /// [`RunError`]; `work` is dropped. The reply ends with [`Canceled`](reply::Canceled) when the reactor stops first.
    pub fn call<F, R>(&self, work: F) -> Result<Reply<R>, RunError>
    where
        F: FnOnce(&mut ReactorContext<'_>) -> R + Send + 'static,
        R: Send + 'static,
    {
        let (replier, reply) = reply::channel();
        self.run(move |context| replier.reply(work(context)))?;
        Ok(reply)
    }

    /// The reactor's counters now.
    #[must_use]
    pub fn metrics(&self) -> ReactorSnapshot {
        self.shared.metrics.snapshot()
    }

    /// Whether it sleeps in the kernel just now.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.shared.beacon.is_asleep()
    }

    pub(crate) fn shared(&self) -> &Arc<ReactorShared> {
        &self.shared
    }

    pub(crate) fn stop(&self) {
        self.shared.stop();
    }
}

/// Asks all reactors of a group to stop; from any thread, and async-signal-safe.
#[derive(Clone, Debug)]
pub struct Stopper {
    reactors: Arc<[Arc<ReactorShared>]>,
}

impl Stopper {
    /// Asks them to drain and stop. Again has no effect.
    pub fn stop(&self) {
        self.reactors.iter().for_each(|reactor| reactor.stop());
    }

    /// Whether they were asked.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.reactors.iter().any(|reactor| reactor.stop.load(Ordering::Relaxed))
    }
}

/// How a reactor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactorOutcome {
    /// Which reactor.
    pub id: ReactorId,
    /// Pollers that did not drain in time.
    pub undrained: Vec<String>,
    /// Whether its thread panicked.
    pub panicked: bool,
}

/// A group of running reactors, one pinned thread each. Dropping it stops them and waits for them.
pub struct Reactors {
    handles: Vec<ReactorHandle>,
    threads: Vec<JoinHandle<Vec<String>>>,
    stopper: Stopper,
    watchdog: Option<Watchdog>,
}

impl Reactors {
    /// Starts one reactor on each core. Returns when all run, or none.
    ///
    /// # Errors
    /// [`StartError`] with the core or resource that is missing.
    pub fn start(config: ReactorsConfig) -> Result<Self, StartError> {
        check_cores(&config.cores)?;
        let mut handles = Vec::new();
        let mut inboxes = Vec::new();
        for (core, number) in config.cores.iter().zip(0..) {
            let (handle, inbox) =
                ReactorHandle::create(ReactorId(number), Some(*core), config.inbox_capacity)?;
            handles.push(handle);
            inboxes.push(inbox);
        }
        let shared: Vec<_> = handles.iter().map(|handle| Arc::clone(&handle.shared)).collect();
        let limit = checked_limit(config.stall_after);
        let watchdog = Watchdog::start(shared.clone(), limit, Clock::new())?;
        let stopper = Stopper { reactors: shared.into() };
        let call = watchdog.call();
        let mut group = Self { handles, threads: Vec::new(), stopper, watchdog: Some(watchdog) };
        group.start_threads(&config, inboxes, call.as_ref())?;
        Ok(group)
    }

    fn start_threads(
        &mut self,
        config: &ReactorsConfig,
        inboxes: Vec<Mailbox<Message>>,
        watchdog: Option<&WatchdogCall>,
    ) -> Result<(), StartError> {
        let (started, starts) = mpsc::channel();
        for (handle, inbox) in self.handles.iter().zip(inboxes) {
            let (config, handle) = (config.clone(), handle.clone());
            let (watchdog, started) = (watchdog.cloned(), started.clone());
            let name = format!("reactor-{}", handle.id());
            let run = move || run_pinned(&config, handle, inbox, watchdog, started);
            self.threads.push(std::thread::Builder::new().name(name).spawn(run)?);
        }
        drop(started);
        starts.into_iter().collect()
    }

    /// How many reactors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Whether there is none; never for a group that started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// Reactor `index`, in the order of the cores given.
    ///
    /// # Panics
    /// When there is no such reactor.
    #[must_use]
    pub fn handle(&self, index: usize) -> ReactorHandle {
        self.handles[index].clone()
    }

    /// All reactors, in the order of the cores given.
    #[must_use]
    pub fn handles(&self) -> &[ReactorHandle] {
        &self.handles
    }

    /// The counters of every reactor now.
    #[must_use]
    pub fn metrics(&self) -> Vec<ReactorSnapshot> {
        self.handles.iter().map(ReactorHandle::metrics).collect()
    }

    /// What asks the group to stop, for signal handlers and other threads.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Asks all reactors to drain and stop; [`Reactors::join`] waits for it.
    pub fn shutdown(&self) {
        self.stopper.stop();
    }

    /// Waits until all reactors have stopped; someone must have asked them to.
    #[must_use]
    pub fn join(mut self) -> Vec<ReactorOutcome> {
        self.join_threads()
    }

    fn join_threads(&mut self) -> Vec<ReactorOutcome> {
        let outcome = |(thread, handle): (JoinHandle<Vec<String>>, &ReactorHandle)| match thread.join() {
            Ok(undrained) => ReactorOutcome { id: handle.id(), undrained, panicked: false },
            Err(_) => ReactorOutcome { id: handle.id(), undrained: Vec::new(), panicked: true },
        };
        let outcomes = self.threads.drain(..).zip(&self.handles).map(outcome).collect();
        self.watchdog = None;
        outcomes
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        self.shutdown();
        self.join_threads();
    }
}

impl fmt::Debug for Reactors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactors").field("len", &self.len()).finish_non_exhaustive()
    }
}

fn check_cores(cores: &[CoreId]) -> Result<(), StartError> {
    if cores.is_empty() {
        return Err(StartError::NoCores);
    }
    let available = CoreSet::available();
    for (index, core) in cores.iter().enumerate() {
        if !available.contains(*core) {
            return Err(StartError::UnknownCore { core: *core, available });
        }
        if cores[..index].contains(core) {
            return Err(StartError::DuplicateCore { core: *core });
        }
    }
    Ok(())
}

fn run_pinned(
    config: &ReactorsConfig,
    handle: ReactorHandle,
    inbox: Mailbox<Message>,
    watchdog: Option<WatchdogCall>,
    started: mpsc::Sender<Result<(), StartError>>,
) -> Vec<String> {
    let reactor = pin(handle.core()).and_then(|()| Reactor::new(config, handle, inbox, watchdog));
    let (outcome, reactor) = match reactor {
        Ok(reactor) => (Ok(()), Some(reactor)),
        Err(error) => (Err(error), None),
    };
    // The starter waits for this; when it gave up, it also stops the reactor.
    let _ = started.send(outcome);
    drop(started);
    let Some(mut reactor) = reactor else { return Vec::new() };
    while !reactor.finished() {
        reactor.step();
    }
    reactor.finish()
}

fn pin(core: Option<CoreId>) -> Result<(), StartError> {
    let Some(core) = core else { return Ok(()) };
    let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(core.0) });
    if pinned { Ok(()) } else { Err(StartError::Pin { core }) }
}
