//! From start to stop: reactors, target, control, signals.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dataplane::assembly::Assembly;
use dataplane::config::Idling;
use dataplane::device::DeviceRegistry;
use dataplane::device::fault::FaultTable;
use dataplane::device::nvmf::ControllerTable;
use dataplane::logs::LogControl;
use dataplane::lvol::StoreSet;
use dataplane::metrics;
use dataplane::replication::VolumeTable;
use dataplane::rpc::{self, Control, ControlSocket, Methods, Notifications};
use dataplane::target::Target;
use reactors::{IdleMode, PoolConfig, ReactorOutcome, Reactors, ReactorsConfig};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Settings;
use crate::exit::Failure;

/// Serves until a signal, then drains.
pub(crate) fn run(settings: &Settings, log: LogControl) -> Result<(), Failure> {
    let started = Instant::now();
    let system = |error: &dyn std::fmt::Display| Failure::System(error.to_string());
    // First the socket: a second daemon on it must not get as far as cores and memory.
    let socket = ControlSocket::bind(&settings.config.rpc.socket)
        .map_err(|error| Failure::Unavailable(error.to_string()))?;
    let config = reactors_config(settings);
    let mode = config.mode;
    #[cfg(not(feature = "spdk"))]
    say_what_cannot_be_used();
    let reactors = Reactors::start(config).map_err(|error| system(&error))?;
    let assembly =
        Assembly::new(reactors.handles().to_vec(), Target::new()).map_err(|error| system(&error))?;
    let devices = DeviceRegistry::default();
    let stores = Arc::new(StoreSet::new(devices.clone(), reactors.handles().to_vec()));
    let control = Arc::new(Control {
        assembly,
        volumes: VolumeTable::on(&stores),
        stores,
        devices,
        faults: FaultTable::default(),
        controllers: ControllerTable::default(),
        nvme_options: Mutex::default(),
        #[cfg(feature = "spdk")]
        spdk: spdk_table(settings)?,
        mode,
        log,
        notifications: Notifications::default(),
        started,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .max_blocking_threads(rpc::CLIENTS_MAX + 1)
        .build()
        .map_err(|error| system(&error))?;
    let ended = runtime.block_on(serve(settings, &control, &socket, reactors));
    // Methods that still wait for reactors that are gone must not hold up the exit.
    runtime.shutdown_background();
    ended
}

/// Names the devices that are given to processes like this one, which a build without SPDK cannot use.
#[cfg(not(feature = "spdk"))]
fn say_what_cannot_be_used() {
    let machine = dataplane::pci::Machine::look(&dataplane::pci::Root::default());
    for device in
        machine.devices.iter().filter(|device| device.driver.as_deref() == Some(dataplane::pci::VFIO))
    {
        tracing::warn!(address = %device.address, "an NVMe device is bound to vfio-pci, but this build has no SPDK and cannot use it");
    }
}

#[cfg(feature = "spdk")]
fn spdk_table(settings: &Settings) -> Result<dataplane::device::spdk::SpdkTable, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Config(format!("spdk.allowed: {error}"));
    let allowed = settings
        .config
        .spdk
        .allowed
        .as_ref()
        .map(|addresses| addresses.iter().map(|address| address.parse()).collect::<Result<Vec<_>, _>>());
    let allowed = allowed.transpose().map_err(|error| wrong(&error))?;
    Ok(dataplane::device::spdk::SpdkTable::new(allowed))
}

fn reactors_config(settings: &Settings) -> ReactorsConfig {
    let config = &settings.config;
    ReactorsConfig {
        cores: settings.cores.as_slice().to_vec(),
        mode: match config.reactors.mode {
            Idling::Adaptive => IdleMode::Adaptive,
            Idling::Polling => IdleMode::Polling,
            Idling::Interrupt => IdleMode::Interrupt,
        },
        idle_after: Duration::from_micros(config.reactors.idle_after_us),
        stall_after: Duration::from_millis(config.reactors.stall_after_ms),
        buffers: PoolConfig {
            small_slots: config.buffers.small,
            large_slots: config.buffers.large,
            prefault: config.buffers.prefault,
        },
        ..ReactorsConfig::default()
    }
}

async fn serve(
    settings: &Settings,
    control: &Arc<Control>,
    socket: &ControlSocket,
    reactors: Reactors,
) -> Result<(), Failure> {
    let system = |error: std::io::Error| Failure::System(error.to_string());
    let mut signals = Signals::new().map_err(system)?;
    let methods = Arc::new(Methods::new(Arc::clone(control)));
    apply(settings, &methods).await?;
    serve_metrics(settings, control)?;
    tokio::spawn(rpc::serve(socket.listener().map_err(system)?, methods));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cores = %settings.cores,
        socket = %settings.config.rpc.socket.display(),
        "serving"
    );
    let number = signals.next().await;
    tracing::info!(signal = number, "draining");
    reactors.shutdown();
    let mut drained = tokio::task::spawn_blocking(move || reactors.join());
    tokio::select! {
        outcomes = &mut drained => judge(&outcomes.unwrap_or_default()),
        number = signals.next() => Err(Failure::SecondSignal(number)),
    }
}

/// Makes the calls that the configuration file stands for.
async fn apply(settings: &Settings, methods: &Arc<Methods>) -> Result<(), Failure> {
    let calls = settings.config.calls().map_err(|error| Failure::Config(error.to_string()))?;
    let methods = Arc::clone(methods);
    let applied = tokio::task::spawn_blocking(move || {
        calls.into_iter().try_for_each(|call| match methods.call(call.method, call.params) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::Config(format!("{}: {}", call.what, error.message))),
        })
    });
    applied.await.unwrap_or_else(|error| Err(Failure::System(error.to_string())))
}

fn serve_metrics(settings: &Settings, control: &Arc<Control>) -> Result<(), Failure> {
    let Some(address) = settings.config.metrics.address else { return Ok(()) };
    let listener = std::net::TcpListener::bind(address)
        .map_err(|error| Failure::Unavailable(format!("metrics on {address}: {error}")))?;
    let source: Arc<dyn metrics::Source> = Arc::clone(control) as Arc<dyn metrics::Source>;
    tokio::spawn(metrics::serve(listener, source));
    Ok(())
}

fn judge(outcomes: &[ReactorOutcome]) -> Result<(), Failure> {
    let bad: Vec<String> = outcomes
        .iter()
        .filter(|outcome| outcome.panicked || !outcome.undrained.is_empty())
        .map(|outcome| match outcome.panicked {
            true => format!("reactor {} panicked", outcome.id),
            false => format!("reactor {} did not drain: {}", outcome.id, outcome.undrained.join(", ")),
        })
        .collect();
    if bad.is_empty() {
        tracing::info!("stopped");
        return Ok(());
    }
    Err(Failure::Undrained(bad.join("; ")))
}

/// The signals that stop the process; those that would, but are ignored, are taken too.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Keeps the default action, to exit, from happening.
    _ignored: [Signal; 2],
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            _ignored: [signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?],
        })
    }

    /// The number of the next signal to stop.
    async fn next(&mut self) -> u8 {
        /// As `signal(7)` numbers them.
        const SIGINT: u8 = 2;
        const SIGTERM: u8 = 15;
        tokio::select! {
            _ = self.interrupt.recv() => SIGINT,
            _ = self.terminate.recv() => SIGTERM,
        }
    }
}
