//! An attached controller: the thread that watches it, its devices, and the table of all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use fabrics::Now;
use fabrics::host::{Reconnect, Retry};
use nvme::admin::GetLogPage;
use nvme::event::{AsyncEvent, NoticeEvent};
use nvme::log::lid;
use reactors::Clock;
use transport::host::Blocking;

use super::{AttachError, NvmfConfig, NvmfDevice, identify};
use crate::device::{Device, DeviceRegistry};

/// How often the thread looks for events, and sends what keeps the association alive.
const TURN: Duration = Duration::from_millis(100);
/// The log page that clears a changed namespace list: one page of identifiers (base 2.1 §5.1.12.1.5).
const CHANGED_LIST_BYTES: u32 = 4096;

/// How an attached controller is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControllerState {
    /// Connected.
    Up,
    /// Not connected; it is tried again.
    Down {
        /// Why.
        error: String,
    },
    /// Given up: without a connection for longer than the configuration allows.
    Lost {
        /// Why.
        error: String,
    },
}

/// Called with the name of a device whose capacity changed.
pub type OnResize = Arc<dyn Fn(&str) + Send + Sync>;

/// What the thread shares with everybody else.
struct Watched {
    config: NvmfConfig,
    devices: Vec<Arc<NvmfDevice>>,
    state: Mutex<ControllerState>,
    stop: AtomicBool,
    on_resize: OnResize,
}

impl Watched {
    fn set(&self, state: ControllerState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// A controller that is attached. Dropping it disconnects.
pub struct NvmfController {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

impl NvmfController {
    /// Connects, identifies the namespaces and starts to watch.
    ///
    /// # Errors
    /// When it cannot be reached or a namespace cannot be a device.
    pub fn attach(config: NvmfConfig, on_resize: OnResize) -> Result<Self, AttachError> {
        let name = format!("nvmf-{}", config.name);
        let (answer, attached) = mpsc::sync_channel(1);
        // A connection stays on the thread that made it.
        let watch = move || match open(config, on_resize) {
            Ok((watched, host)) => {
                // The caller waits for it.
                let _ = answer.send(Ok(Arc::clone(&watched)));
                Watcher::new(watched, host).run();
            }
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(watch).map_err(AttachError::Thread)?;
        let ended = || AttachError::Thread(std::io::ErrorKind::UnexpectedEof.into());
        let watched = attached.recv().map_err(|_| ended())??;
        Ok(Self { watched, thread: Some(thread) })
    }

    /// What it was attached with.
    pub fn config(&self) -> &NvmfConfig {
        &self.watched.config
    }

    /// Its namespaces.
    pub fn devices(&self) -> &[Arc<NvmfDevice>] {
        &self.watched.devices
    }

    /// How it is now.
    pub fn state(&self) -> ControllerState {
        self.watched.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for NvmfController {
    fn drop(&mut self) {
        self.watched.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends within a turn, or when its connection attempt does.
            let _ = thread.join();
        }
    }
}

fn find(config: &NvmfConfig) -> Result<(Vec<identify::Found>, Blocking), AttachError> {
    let mut host = connect(config)?;
    let found = identify::namespaces(&mut host, &config.name)?;
    Ok((found, host))
}

/// Connects and identifies the namespaces; takes on trust what they are when that is allowed.
fn open(config: NvmfConfig, on_resize: OnResize) -> Result<(Arc<Watched>, Option<Blocking>), AttachError> {
    let (found, host, state) = match (find(&config), config.replica_block_size) {
        (Ok((found, host)), _) => (found, Some(host), ControllerState::Up),
        (Err(error), None) => return Err(error),
        (Err(error), Some(block_size)) => {
            let error = error.to_string();
            tracing::warn!(controller = config.name, error, "not reached yet");
            (vec![identify::replica(&config, block_size)], None, ControllerState::Down { error })
        }
    };
    let device = |found: identify::Found| {
        let identify::Found { nsid, uuid, shape, blocks } = found;
        Arc::new(NvmfDevice::new(&config, nsid, uuid, shape, blocks))
    };
    let devices = found.into_iter().map(device).collect();
    let (state, stop) = (Mutex::new(state), AtomicBool::new(false));
    Ok((Arc::new(Watched { config, devices, state, stop, on_resize }), host))
}

fn connect(config: &NvmfConfig) -> Result<Blocking, AttachError> {
    let mut host = config.host.clone();
    host.bringup.io_queues = 0;
    let (name, remote) = (config.name.clone(), host.remote);
    Blocking::connect(host).map_err(|source| AttachError::Connect { name, remote, source })
}

/// The thread's work.
struct Watcher {
    watched: Arc<Watched>,
    host: Option<Blocking>,
    reconnect: Reconnect,
    clock: Clock,
    again_at: Now,
}

impl Watcher {
    fn new(watched: Arc<Watched>, host: Option<Blocking>) -> Self {
        let reconnect = Reconnect::new(watched.config.reconnect);
        Self { watched, host, reconnect, clock: Clock::new(), again_at: Now(0) }
    }

    fn now(&self) -> Now {
        Now(self.clock.now().as_nanos())
    }

    fn run(mut self) {
        while !self.watched.stop.load(Ordering::Acquire) && !self.reconnect.is_lost() {
            if let Err(error) = self.turn() {
                self.go_down(&error);
            }
            std::thread::park_timeout(TURN);
        }
    }

    fn turn(&mut self) -> Result<(), AttachError> {
        if self.host.is_none() {
            if self.now() < self.again_at {
                return Ok(());
            }
            self.host = Some(connect(&self.watched.config)?);
            self.reconnect.on_connected();
            tracing::info!(controller = self.watched.config.name, "connected again");
            self.refresh()?;
            self.watched.set(ControllerState::Up);
        }
        let Some(host) = &mut self.host else { return Ok(()) };
        let config = &self.watched.config;
        let lost = |source| {
            let (name, remote) = (config.name.clone(), config.host.remote);
            AttachError::Connect { name, remote, source }
        };
        host.turn().map_err(lost)?;
        let mut changed = false;
        while let Some(event) = host.take_event() {
            let notice = AsyncEvent::from_result(event).as_notice();
            changed |= notice == Some(NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED);
        }
        if changed {
            // Reading the list is what lets the next event come.
            let page = GetLogPage::new(lid::CHANGED_NAMESPACES, CHANGED_LIST_BYTES, 0);
            let _ = host.get_log_page(&page, CHANGED_LIST_BYTES).map_err(lost)?;
            self.refresh()?;
        }
        Ok(())
    }

    /// Asks for the capacities anew. A namespace that is gone keeps its last one: its I/O says that it is gone.
    fn refresh(&mut self) -> Result<(), AttachError> {
        let Some(host) = &mut self.host else { return Ok(()) };
        for found in identify::namespaces(host, &self.watched.config.name)? {
            let device = self.watched.devices.iter().find(|device| device.nsid() == found.nsid);
            let Some(device) =
                device.filter(|device| device.shared.shape.block_size == found.shape.block_size)
            else {
                continue;
            };
            if device.set_blocks(found.blocks) {
                tracing::info!(device = &*device.shared.name, blocks = found.blocks, "new capacity");
                (self.watched.on_resize)(&device.shared.name);
            }
        }
        Ok(())
    }

    fn go_down(&mut self, error: &AttachError) {
        self.host = None;
        let now = self.now();
        let [a, b, ..] = now.0.to_le_bytes();
        let error = error.to_string();
        match self.reconnect.on_down(now, u16::from_le_bytes([a, b])) {
            Retry::At(at) => {
                self.again_at = at;
                tracing::warn!(controller = self.watched.config.name, error, "connection lost");
                self.watched.set(ControllerState::Down { error });
            }
            Retry::GiveUp => {
                tracing::error!(controller = self.watched.config.name, error, "given up");
                self.watched.set(ControllerState::Lost { error });
            }
        }
    }
}

/// The attached controllers of a process, by name.
#[derive(Default)]
pub struct ControllerTable(Mutex<BTreeMap<String, NvmfController>>);

impl ControllerTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, NvmfController>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a controller and adds its namespaces to the registry; their names.
    ///
    /// # Errors
    /// As [`NvmfController::attach`], and when a name or an identity is taken: then nothing is attached.
    pub fn attach(
        &self,
        config: NvmfConfig,
        registry: &DeviceRegistry,
        on_resize: OnResize,
    ) -> Result<Vec<String>, AttachError> {
        let name = config.name.clone();
        if self.lock().contains_key(&name) {
            return Err(AttachError::Exists { name });
        }
        let controller = NvmfController::attach(config, on_resize)?;
        let mut added: Vec<String> = Vec::new();
        for device in controller.devices() {
            if let Err(error) = registry.add(Arc::clone(device) as Arc<dyn Device>) {
                for name in &added {
                    registry.delete(name)?;
                }
                return Err(error.into());
            }
            added.push(device.info().name.to_string());
        }
        self.lock().insert(name, controller);
        Ok(added)
    }

    /// Removes the devices of a controller from the registry and disconnects; their names. Nobody may use them any more.
    ///
    /// # Errors
    /// When there is none of that name, or a device is in use.
    pub fn detach(&self, name: &str, registry: &DeviceRegistry) -> Result<Vec<String>, AttachError> {
        let devices = self.devices(name)?;
        for device in &devices {
            registry.delete(device)?;
        }
        let controller = self.lock().remove(name);
        drop(controller);
        Ok(devices)
    }

    /// Names of the devices of a controller.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn devices(&self, name: &str) -> Result<Vec<String>, AttachError> {
        let table = self.lock();
        let controller = table.get(name).ok_or_else(|| AttachError::NotFound { name: name.into() })?;
        Ok(controller.devices().iter().map(|device| device.info().name.to_string()).collect())
    }

    /// Every controller, in the order of names.
    pub fn list(&self) -> Vec<(NvmfConfig, ControllerState)> {
        self.lock().values().map(|controller| (controller.config().clone(), controller.state())).collect()
    }
}
