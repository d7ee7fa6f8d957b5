//! An attached controller: the thread that watches it, its devices, and the table of all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme::identify::{IdentifyController, IdentifyNamespace};
use nvme::log::SmartLog;
use nvme::zerocopy::FromBytes;
use spdk_rs::{
    AsyncEvent, Controller, ControllerOptions, EnvOptions, Environment, NamespaceInfo, PciAddress,
};
use uuid::Uuid;

use super::bell::Bell;
use super::{Shared, SpdkConfig, SpdkDevice, SpdkError};
use crate::device::counters::CounterBook;
use crate::device::nvme_options::Remedy;
use crate::device::shape::{Shape, Splits};
use crate::device::{ControllerCounts, Device, DeviceRegistry, NvmeOptions};

/// How often the thread does the controller's chores.
const TURN: Duration = Duration::from_millis(50);
/// How often the SMART log is read.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// How long queues have to hand back their queue pairs before a reset is given up.
const HAND_BACK: Duration = Duration::from_secs(10);
/// How long an admin command may take.
const ADMIN: Duration = Duration::from_secs(5);
/// One entry of the error log, and the list of changed namespaces (base 2.1 §5.1.12.1.2 and §5.1.12.1.5).
const ERROR_ENTRY_BYTES: usize = 64;
const CHANGED_LIST_BYTES: usize = 4096;
/// Resets in a row that fail before the controller is given up.
const RESETS_MAX: u32 = 3;
/// Namespace of the UUIDs of namespaces that have none of their own.
const NAMESPACE_UUIDS: Uuid = Uuid::from_u128(0x7b5f_1a64_9f0c_4f3b_8f6e_13a1_7d3a_b0d2);

/// Called with the name of a device whose capacity changed.
pub type OnResize = Arc<dyn Fn(&str) + Send + Sync>;

/// How an attached controller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ControllerState {
    /// It works.
    Up,
    /// It is being reset; I/O waits.
    Resetting,
    /// No reset helps; I/O fails.
    Failed,
    /// It is not there any more; I/O fails.
    Removed,
}

impl ControllerState {
    const ALL: [Self; 4] = [Self::Up, Self::Resetting, Self::Failed, Self::Removed];

    /// As SPDK calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "enabled",
            Self::Resetting => "resetting",
            Self::Failed => "failed",
            Self::Removed => "removed",
        }
    }
}

/// What the thread shares with queues and callers.
pub(super) struct Watched {
    pub(super) environment: Environment,
    name: String,
    state: AtomicU8,
    /// A queue found the controller not working.
    trouble: AtomicBool,
    stop: AtomicBool,
    /// Gone once the controller is detached.
    controller: Mutex<Option<Controller>>,
    bells: Mutex<Vec<Weak<Bell>>>,
    /// The SMART log, as it was read last.
    health: Mutex<Option<SmartLog>>,
    /// Resets that were asked for, and finished.
    resets: Mutex<(u64, u64)>,
    changed: Condvar,
    options: Mutex<NvmeOptions>,
    counters: Counters,
}

/// What became of it so far.
#[derive(Default)]
struct Counters {
    events: AtomicU64,
    late_commands: AtomicU64,
    aborts: AtomicU64,
    resets: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    #[inline]
    pub(super) fn state(&self) -> ControllerState {
        ControllerState::ALL[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Changes the state and lets all queues know.
    fn set(&self, state: ControllerState) {
        self.state.store(state as u8, Ordering::Release);
        lock(&self.bells).iter().filter_map(Weak::upgrade).for_each(|bell| bell.ring());
    }

    /// The SMART log as it was read last.
    pub(super) fn last_health(&self) -> Option<SmartLog> {
        *lock(&self.health)
    }

    pub(super) fn handle(&self) -> Option<Controller> {
        lock(&self.controller).clone()
    }

    /// A queue wants to hear of changes.
    pub(super) fn listen(&self, bell: Bell) -> Arc<Bell> {
        let bell = Arc::new(bell);
        lock(&self.bells).push(Arc::downgrade(&bell));
        bell
    }

    pub(super) fn forget(&self, bell: &Arc<Bell>) {
        lock(&self.bells).retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(bell)));
    }

    /// A queue cannot go on: the thread finds out why.
    pub(super) fn report_trouble(&self) {
        if !self.trouble.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// A queue handed its queue pair back.
    pub(super) fn queue_pair_closed(&self) {
        self.wake();
    }

    /// An I/O command is late. `abort` asks the controller to abort it, and says whether it could be asked; gives whether it was.
    pub(super) fn on_late_io(&self, device: &str, abort: impl FnOnce() -> bool) -> bool {
        self.counters.late_commands.fetch_add(1, Ordering::Relaxed);
        let remedy = lock(&self.options).action.of_io();
        tracing::warn!(device, ?remedy, "a command is not answered in time");
        let aborting = remedy == Remedy::Abort && abort();
        self.counters.aborts.fetch_add(aborting.into(), Ordering::Relaxed);
        if remedy != Remedy::Wait && !aborting {
            self.ask_for_reset();
        }
        aborting
    }

    /// Lets the thread reset the controller, and waits for nothing.
    fn ask_for_reset(&self) {
        lock(&self.resets).0 += 1;
        self.changed.notify_all();
    }

    fn wake(&self) {
        let _resets = lock(&self.resets);
        self.changed.notify_all();
    }

    /// Waits until something happens, or for `patience`.
    fn wait(&self, patience: Duration) {
        let resets = lock(&self.resets);
        let _ = self.changed.wait_timeout(resets, patience);
    }
}

/// An attached controller. Dropping it detaches the controller once its queues are closed.
pub struct SpdkController {
    config: SpdkConfig,
    watched: Arc<Watched>,
    devices: Arc<[Arc<SpdkDevice>]>,
    thread: Option<JoinHandle<()>>,
}

impl SpdkController {
    /// Attaches it, makes devices of its namespaces and starts to watch.
    ///
    /// # Errors
    /// When it does not come up, or none of its namespaces can be a device.
    pub fn attach(
        environment: &Environment,
        config: SpdkConfig,
        options: NvmeOptions,
        on_resize: OnResize,
    ) -> Result<Self, SpdkError> {
        let controller = environment.attach(&config.address.into(), &ControllerOptions::default())?;
        controller.set_timeouts(options.timeout, admin_timeout(&options));
        let watched = Arc::new(Watched {
            environment: environment.clone(),
            name: config.name.clone(),
            state: AtomicU8::new(ControllerState::Up as u8),
            trouble: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            controller: Mutex::new(Some(controller.clone())),
            bells: Mutex::default(),
            health: Mutex::default(),
            resets: Mutex::default(),
            changed: Condvar::new(),
            options: Mutex::new(options),
            counters: Counters::default(),
        });
        let identity = controller.identify();
        // SPDK splits what is longer than the controller takes, and at NOIOB.
        let transfer_bytes_max = controller.transfer_bytes_max().into();
        let splits = Splits { transfer_bytes_max, at_optimal_boundary: true };
        let device = |namespace| device(&config, &watched, &identity, splits, namespace);
        let devices: Arc<[_]> = controller.namespaces().iter().map(device).collect::<Result<_, _>>()?;
        let thread = Watcher { watched: Arc::clone(&watched), devices: Arc::clone(&devices), on_resize };
        let name = format!("nvme-{}", config.name);
        let spawned = std::thread::Builder::new().name(name).spawn(move || thread.run());
        let thread = Some(spawned.map_err(SpdkError::Thread)?);
        Ok(Self { config, watched, devices, thread })
    }

    /// What it was attached with.
    pub fn config(&self) -> &SpdkConfig {
        &self.config
    }

    /// How it is now.
    pub fn state(&self) -> ControllerState {
        self.watched.state()
    }

    /// What it went through.
    pub fn counts(&self) -> ControllerCounts {
        let Counters { events, late_commands, aborts, resets } = &self.watched.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ControllerCounts {
            events: count(events),
            late_commands: count(late_commands),
            aborts: count(aborts),
            resets: count(resets),
        }
    }

    /// Changes what becomes of commands that are late, from now on.
    fn set_options(&self, options: NvmeOptions) {
        *lock(&self.watched.options) = options;
        if let Some(controller) = self.watched.handle() {
            controller.set_timeouts(options.timeout, admin_timeout(&options));
        }
    }

    fn gone(&self, why: &str) -> SpdkError {
        SpdkError::Controller { name: self.config.name.clone(), why: why.into() }
    }

    /// Resets it. I/O waits meanwhile.
    ///
    /// # Errors
    /// When it does not come up again, or is gone.
    pub fn reset(&self) -> Result<(), SpdkError> {
        let mut resets = lock(&self.watched.resets);
        resets.0 += 1;
        let wanted = resets.0;
        self.watched.changed.notify_all();
        while resets.1 < wanted && !self.watched.stop.load(Ordering::Acquire) {
            let waited = self.watched.changed.wait_timeout(resets, TURN);
            resets = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(resets);
        match self.state() {
            ControllerState::Up => Ok(()),
            state => Err(self.gone(state.name())),
        }
    }

    /// Identify Controller data.
    ///
    /// # Errors
    /// When it is gone.
    pub fn identify(&self) -> Result<IdentifyController, SpdkError> {
        let controller = self.watched.handle().ok_or_else(|| self.gone("removed"))?;
        let data = controller.identify();
        IdentifyController::read_from_bytes(&*data).map_err(|_| self.gone("Identify gave too few bytes"))
    }

    /// The SMART / Health Information log (base 2.1 §5.1.12.1.3).
    ///
    /// # Errors
    /// When it is gone or does not answer.
    pub fn health(&self) -> Result<SmartLog, SpdkError> {
        let controller = self.watched.handle().ok_or_else(|| self.gone("removed"))?;
        read_health(&controller).map_err(|why| self.gone(&why))
    }

    /// The log as it was less than a minute ago: asks nobody and waits for nothing.
    pub fn last_health(&self) -> Option<SmartLog> {
        self.watched.last_health()
    }
}

fn admin_timeout(options: &NvmeOptions) -> Duration {
    if options.timeout_admin.is_zero() { options.timeout } else { options.timeout_admin }
}

/// Bytes of a log page that events are about; reading it is what lets the next event of the kind come (base 2.1 §5.1.2.1).
fn event_page_bytes(page: u8) -> Option<usize> {
    match page {
        nvme::log::lid::ERROR => Some(ERROR_ENTRY_BYTES),
        nvme::log::lid::CHANGED_NAMESPACES => Some(CHANGED_LIST_BYTES),
        _ => None,
    }
}

fn read_health(controller: &Controller) -> Result<SmartLog, String> {
    let page = controller.log_page(nvme::log::lid::SMART, None, size_of::<SmartLog>(), ADMIN);
    let (status, data) = page.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("Get Log Page: {status:?}"));
    }
    let data = data.as_deref().unwrap_or_default();
    SmartLog::read_from_bytes(data).map_err(|_| "the log page is too short".into())
}

impl Drop for SpdkController {
    fn drop(&mut self) {
        self.watched.stop.store(true, Ordering::Release);
        self.watched.wake();
        if let Some(thread) = self.thread.take() {
            // It ends within a turn, or with the reset that runs.
            let _ = thread.join();
        }
        *lock(&self.watched.controller) = None;
    }
}

fn device(
    config: &SpdkConfig,
    watched: &Arc<Watched>,
    controller: &[u8; 4096],
    splits: Splits,
    namespace: &NamespaceInfo,
) -> Result<Arc<SpdkDevice>, SpdkError> {
    let wrong = |why: String| SpdkError::Controller {
        name: config.name.clone(),
        why: format!("namespace {}: {why}", namespace.id),
    };
    let short = || wrong("Identify gave too few bytes".into());
    let identity = IdentifyController::read_from_bytes(controller).map_err(|_| short())?;
    let data = IdentifyNamespace::read_from_bytes(&*namespace.identify).map_err(|_| short())?;
    let shared = Shared {
        name: format!("{}n{}", config.name, namespace.id).into(),
        nsid: namespace.id,
        uuid: uuid_of(namespace, &identity, &data),
        shape: Shape::of(&identity, &data, splits).map_err(wrong)?,
        blocks: AtomicU64::new(namespace.blocks),
        controller: Arc::clone(watched),
        counters: CounterBook::default(),
    };
    Ok(Arc::new(SpdkDevice { shared: Arc::new(shared) }))
}

/// The namespace's own UUID, else one that is made of what identifies it.
fn uuid_of(namespace: &NamespaceInfo, controller: &IdentifyController, data: &IdentifyNamespace) -> Uuid {
    if let Some(own) = namespace.uuid.map(Uuid::from_bytes).filter(|uuid| !uuid.is_nil()) {
        return own;
    }
    if data.nguid != [0; 16] {
        return Uuid::new_v5(&NAMESPACE_UUIDS, &data.nguid);
    }
    let identity = format!("{} {} {}", controller.sn, controller.mn, namespace.id);
    Uuid::new_v5(&NAMESPACE_UUIDS, identity.as_bytes())
}

/// What a controller had said about time when it was last asked.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Seen {
    admin: u64,
    aborts: u64,
}

/// The thread's work.
struct Watcher {
    watched: Arc<Watched>,
    devices: Arc<[Arc<SpdkDevice>]>,
    on_resize: OnResize,
}

impl Watcher {
    fn run(&self) {
        let mut health_due = Instant::now();
        let mut seen = Seen::default();
        while !self.watched.stop.load(Ordering::Acquire) {
            self.turn(&mut seen);
            if Instant::now() >= health_due {
                health_due = Instant::now() + HEALTH_INTERVAL;
                self.look_at_health();
            }
            self.watched.wait(TURN);
        }
    }

    fn look_at_health(&self) {
        let health = self.watched.handle().and_then(|controller| read_health(&controller).ok());
        *lock(&self.watched.health) = health;
    }

    fn turn(&self, seen: &mut Seen) {
        let Some(controller) = self.watched.handle() else { return self.answer_resets() };
        let mut events = Vec::new();
        let works = controller.poll(|event| events.push(event)).is_ok();
        if controller.is_removed() {
            return self.removed(controller);
        }
        if works {
            events.into_iter().for_each(|event| self.heed(event, &controller));
        }
        self.heed_late(seen, &controller);
        let asked = { *lock(&self.watched.resets) };
        let trouble = self.watched.trouble.swap(false, Ordering::AcqRel) && !works;
        if asked.0 > asked.1 || trouble || (!works && self.watched.state() == ControllerState::Up) {
            self.reset(&controller);
            self.answer_resets();
        }
    }

    fn heed(&self, event: AsyncEvent, controller: &Controller) {
        let name = &self.watched.name;
        self.watched.counters.events.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(controller = %name, ?event, "event of an NVMe controller");
        if event.log_page == nvme::log::lid::SMART {
            self.look_at_health();
        } else if let Some(bytes) = event_page_bytes(event.log_page)
            && let Err(error) = controller.log_page(event.log_page, None, bytes, ADMIN)
        {
            tracing::warn!(controller = %name, %error, "the log page of an event cannot be read");
        }
        // A notice that namespace attributes changed (base 2.1 §5.1.2).
        if (event.kind, event.info) == (2, 0) {
            self.look_at_sizes(controller);
        }
    }

    /// Looks whether the controller did not answer admin commands in time, or did not abort what it should have.
    fn heed_late(&self, seen: &mut Seen, controller: &Controller) {
        let now = Seen { admin: controller.late_admin_commands(), aborts: controller.aborts_failed() };
        let before = std::mem::replace(seen, now);
        if *seen == before {
            return;
        }
        let remedy = lock(&self.watched.options).action.of_controller();
        let (late, not_aborted) = (seen.admin - before.admin, seen.aborts - before.aborts);
        tracing::warn!(controller = %self.watched.name, late, not_aborted, ?remedy, "an NVMe controller is late");
        self.watched.counters.late_commands.fetch_add(late, Ordering::Relaxed);
        if remedy == Remedy::Reset {
            self.watched.ask_for_reset();
        }
    }

    fn look_at_sizes(&self, controller: &Controller) {
        for device in &*self.devices {
            let blocks = controller.namespace(device.shared.nsid).map_or(0, |namespace| namespace.blocks);
            if device.set_blocks(blocks) {
                (self.on_resize)(&device.shared.name);
            }
        }
    }

    fn reset(&self, controller: &Controller) {
        let name = &self.watched.name;
        tracing::warn!(controller = %name, "resetting an NVMe controller");
        self.watched.set(ControllerState::Resetting);
        let closed = self.wait_for_queues(controller);
        let came_up = closed && (0..RESETS_MAX).any(|_| controller.reset().is_ok());
        let state = match came_up {
            true => ControllerState::Up,
            false => ControllerState::Failed,
        };
        if came_up {
            self.watched.counters.resets.fetch_add(1, Ordering::Relaxed);
            self.look_at_sizes(controller);
            tracing::info!(controller = %name, "the NVMe controller is up again");
        } else {
            tracing::error!(controller = %name, "the NVMe controller does not come up again");
        }
        self.watched.set(state);
    }

    /// Everybody who asked for a reset so far has an answer.
    fn answer_resets(&self) {
        let mut resets = lock(&self.watched.resets);
        resets.1 = resets.0;
        self.watched.changed.notify_all();
    }

    /// Fails all I/O and lets go of the device, so that the system can.
    fn removed(&self, controller: Controller) {
        let name = &self.watched.name;
        if self.watched.state() != ControllerState::Removed {
            tracing::error!(controller = %name, "an NVMe controller was removed");
            self.watched.set(ControllerState::Removed);
        }
        self.answer_resets();
        if self.wait_for_queues(&controller) {
            *lock(&self.watched.controller) = None;
            drop(controller);
        }
    }

    /// Whether all queue pairs were handed back in time.
    fn wait_for_queues(&self, controller: &Controller) -> bool {
        let deadline = Instant::now() + HAND_BACK;
        while controller.open_queue_pairs() > 0 {
            if Instant::now() >= deadline || self.watched.stop.load(Ordering::Acquire) {
                return false;
            }
            self.watched.wait(TURN);
        }
        true
    }
}

/// The controllers of a process by name.
pub struct SpdkTable {
    options: EnvOptions,
    controllers: Mutex<BTreeMap<String, Arc<SpdkController>>>,
}

impl SpdkTable {
    /// No controllers; only those of `allowed` can be attached, if it is given.
    pub fn new(allowed: Option<Vec<PciAddress>>) -> Self {
        let options = EnvOptions { name: "pollux".into(), allowed, ..EnvOptions::default() };
        Self { options, controllers: Mutex::default() }
    }

    /// Attaches a controller and adds its namespaces as devices; their names. SPDK is set up with the first.
    ///
    /// # Errors
    /// When the name is taken, SPDK cannot be set up, the controller does not come up, or a device cannot be added.
    pub fn attach(
        &self,
        config: SpdkConfig,
        options: NvmeOptions,
        registry: &DeviceRegistry,
        on_resize: OnResize,
    ) -> Result<Vec<String>, SpdkError> {
        let mut controllers = lock(&self.controllers);
        if controllers.contains_key(&config.name) {
            return Err(SpdkError::Exists(config.name));
        }
        let environment = Environment::init(&self.options)?;
        let name = config.name.clone();
        let controller = SpdkController::attach(&environment, config, options, on_resize)?;
        let mut added: Vec<String> = Vec::new();
        for device in &*controller.devices {
            if let Err(error) = registry.add(Arc::clone(device) as Arc<dyn Device>) {
                for name in added {
                    registry.delete(&name)?;
                }
                return Err(error.into());
            }
            added.push(device.shared.name.to_string());
        }
        controllers.insert(name, Arc::new(controller));
        Ok(added)
    }

    /// Changes what becomes of late commands of all controllers.
    pub fn set_options(&self, options: NvmeOptions) {
        self.list().iter().for_each(|controller| controller.set_options(options));
    }

    /// The controller of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<Arc<SpdkController>, SpdkError> {
        lock(&self.controllers).get(name).cloned().ok_or_else(|| SpdkError::NotFound(name.into()))
    }

    /// Names of a controller's devices.
    ///
    /// # Errors
    /// When there is no such controller.
    pub fn devices(&self, name: &str) -> Result<Vec<String>, SpdkError> {
        Ok(self.get(name)?.devices.iter().map(|device| device.shared.name.to_string()).collect())
    }

    /// Detaches a controller whose devices nobody uses; their names.
    ///
    /// # Errors
    /// When there is none, or a device is in use.
    pub fn detach(&self, name: &str, registry: &DeviceRegistry) -> Result<Vec<String>, SpdkError> {
        let devices = self.devices(name)?;
        for device in &devices {
            registry.delete(device)?;
        }
        let detached = lock(&self.controllers).remove(name);
        // It waits for the thread: not under the lock.
        drop(detached);
        Ok(devices)
    }

    /// All controllers, in the order of their names.
    pub fn list(&self) -> Vec<Arc<SpdkController>> {
        lock(&self.controllers).values().cloned().collect()
    }
}
