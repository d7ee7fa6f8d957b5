//! Puts reactors, target and transports together.
//!
//! Every reactor has its part of the target from the start; a transport adds a driver to each reactor when it is created, and
//! an acceptor to the first.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use fabrics::rdma::{DEPTH_MAX, RequestLimits};
use fabrics::tcp::target::TargetParams;
use reactors::{ReactorContext, ReactorHandle, RunError};
use transport::rdma::VerbsError;
use transport::rdma::target::{
    RdmaAcceptor, RdmaConfig, RdmaDeviceEvents, RdmaListenError, RdmaReactorTraffic, RdmaTarget,
    RdmaTargetPoller,
};
use transport::tcp::target::{Acceptor, ListenError, ReactorTraffic, TcpTarget, TcpTargetPoller};
use transport::{ListenerId, TransportId, TransportKind};

use crate::target::limits::IO_QUEUES_MAX;
use crate::target::{
    BoundListener, ControlError, Listeners, ReactorTarget, Target, TargetPoller, TransportOptions,
};

/// Connections of the TCP transport: each costs some kilobytes here and its socket buffers in the kernel.
pub const CONNECTIONS_MAX: u32 = 8192;

/// Connections of the RDMA transport: each pins about a megabyte for the capsules of a queue of 128.
const RDMA_CONNECTIONS_MAX: u32 = 1024;

const TCP: TransportId = TransportId(0);
const RDMA: TransportId = TransportId(1);

/// Why the parts do not come together.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The target refused.
    #[error(transparent)]
    Target(Box<ControlError>),
    /// A reactor does not take work.
    #[error("reactor {reactor}: {source}")]
    Reactor {
        /// Its number.
        reactor: u16,
        /// Why.
        source: RunError,
    },
    /// A reactor stopped before it answered.
    #[error("reactor {reactor} stopped")]
    Stopped {
        /// Its number.
        reactor: u16,
    },
    /// Out of descriptors.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// The machine has no RDMA: no rdma-core, no connection manager in the kernel.
    #[error("RDMA is not available: {0}")]
    NoRdma(#[from] VerbsError),
}

impl From<ControlError> for AssemblyError {
    fn from(error: ControlError) -> Self {
        Self::Target(Box::new(error))
    }
}

/// The parts of a serving process.
pub struct Assembly {
    reactors: Vec<ReactorHandle>,
    target: Arc<Target>,
    tcp: OnceLock<Arc<TcpTarget>>,
    rdma: OnceLock<Arc<RdmaTarget>>,
}

impl Assembly {
    /// Gives every reactor its part of `target`.
    ///
    /// # Errors
    /// When a reactor does not answer or the process is out of descriptors.
    pub fn new(reactors: Vec<ReactorHandle>, target: Arc<Target>) -> Result<Self, AssemblyError> {
        for reactor in &reactors {
            let target = Arc::clone(&target);
            on_reactor(reactor, move |context| attach(context, &target))?;
        }
        Ok(Self { reactors, target, tcp: OnceLock::new(), rdma: OnceLock::new() })
    }

    /// The reactors, in order.
    #[must_use]
    pub fn reactors(&self) -> &[ReactorHandle] {
        &self.reactors
    }

    /// The target.
    #[must_use]
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Creates the TCP transport. Blocks until every reactor drives it: never call it on one.
    ///
    /// # Errors
    /// When it exists, an option is out of range, or a reactor cannot drive it.
    pub fn create_tcp(&self, options: TransportOptions) -> Result<(), AssemblyError> {
        let tcp = TcpTarget::new(TCP, CONNECTIONS_MAX, params(&options))?;
        let listeners = Arc::new(TcpListeners(Arc::clone(&tcp)));
        self.target.create_transport(TransportKind::Tcp, options, listeners)?;
        for reactor in &self.reactors {
            let tcp = Arc::clone(&tcp);
            on_reactor(reactor, move |context| drive(context, &tcp))?;
        }
        if let Some(first) = self.reactors.first() {
            let tcp = Arc::clone(&tcp);
            on_reactor(first, move |context| {
                let acceptor = Box::new(Acceptor::new(&tcp));
                context.add_poller(acceptor).map(drop).map_err(std::io::Error::other)
            })?;
        }
        // The target refuses a second transport of a kind, so nobody was here before.
        let _ = self.tcp.set(tcp);
        Ok(())
    }

    /// Creates the RDMA transport. Blocks until every reactor drives it: never call it on one.
    ///
    /// # Errors
    /// When the machine has no RDMA, the transport exists, an option is out of range, or a reactor cannot drive it.
    pub fn create_rdma(&self, options: TransportOptions) -> Result<(), AssemblyError> {
        let rdma = RdmaTarget::new(RDMA, rdma_config(&options))?;
        let listeners = Arc::new(RdmaListeners(Arc::clone(&rdma)));
        self.target.create_transport(TransportKind::Rdma, options, listeners)?;
        follow_listeners(&rdma, &self.target)?;
        for reactor in &self.reactors {
            let rdma = Arc::clone(&rdma);
            on_reactor(reactor, move |context| drive_rdma(context, &rdma))?;
        }
        if let Some(first) = self.reactors.first() {
            let rdma = Arc::clone(&rdma);
            on_reactor(first, move |context| {
                let acceptor = Box::new(RdmaAcceptor::new(&rdma));
                context.add_poller(acceptor).map(drop).map_err(std::io::Error::other)
            })?;
        }
        // The target refuses a second transport of a kind, so nobody was here before.
        let _ = self.rdma.set(rdma);
        Ok(())
    }

    /// What each reactor's RDMA driver did; empty without the transport.
    #[must_use]
    pub fn rdma_traffic(&self) -> Vec<RdmaReactorTraffic> {
        self.rdma.get().map(|rdma| rdma.reactor_stats()).unwrap_or_default()
    }

    /// What RDMA devices said; nothing without the transport.
    #[must_use]
    pub fn rdma_events(&self) -> RdmaDeviceEvents {
        self.rdma.get().map(|rdma| rdma.device_events()).unwrap_or_default()
    }

    /// What each reactor's TCP driver did; empty without the transport.
    #[must_use]
    pub fn tcp_traffic(&self) -> Vec<ReactorTraffic> {
        self.tcp.get().map(|tcp| tcp.reactor_stats()).unwrap_or_default()
    }

    /// How many pollers each reactor has; `None` for one that does not answer.
    #[must_use]
    pub fn poller_counts(&self) -> Vec<Option<usize>> {
        let ask = |reactor: &ReactorHandle| reactor.call(|context| context.poller_count()).ok()?.wait().ok();
        self.reactors.iter().map(ask).collect()
    }
}

fn on_reactor<F>(reactor: &ReactorHandle, work: F) -> Result<(), AssemblyError>
where
    F: FnOnce(&mut ReactorContext<'_>) -> std::io::Result<()> + Send + 'static,
{
    let number = reactor.id().0;
    let reply = reactor.call(work).map_err(|source| AssemblyError::Reactor { reactor: number, source })?;
    reply.wait().map_err(|_| AssemblyError::Stopped { reactor: number })??;
    Ok(())
}

fn attach(context: &mut ReactorContext<'_>, target: &Arc<Target>) -> std::io::Result<()> {
    let service = ReactorTarget::attach(target, context.local())?;
    context.add_poller(Box::new(TargetPoller::new(&service))).map_err(std::io::Error::other)?;
    context.local().put(service);
    Ok(())
}

fn drive(context: &mut ReactorContext<'_>, tcp: &Arc<TcpTarget>) -> std::io::Result<()> {
    let Some(service) = context.local().get::<RefCell<ReactorTarget>>() else {
        return Err(std::io::Error::other("the reactor has no target"));
    };
    let poller = TcpTargetPoller::new(tcp, context.local(), service)?;
    context.add_poller(Box::new(poller)).map(drop).map_err(std::io::Error::other)
}

fn drive_rdma(context: &mut ReactorContext<'_>, rdma: &Arc<RdmaTarget>) -> std::io::Result<()> {
    let Some(service) = context.local().get::<RefCell<ReactorTarget>>() else {
        return Err(std::io::Error::other("the reactor has no target"));
    };
    let poller = RdmaTargetPoller::new(rdma, context.local(), service)?;
    context.add_poller(Box::new(poller)).map(drop).map_err(std::io::Error::other)
}

fn rdma_config(options: &TransportOptions) -> RdmaConfig {
    let entries = |max: u32| u16::try_from(max).unwrap_or(u16::MAX).min(DEPTH_MAX);
    RdmaConfig {
        connections_max: RDMA_CONNECTIONS_MAX,
        params: fabrics::rdma::target::TargetParams {
            in_capsule_data_size: options.in_capsule_data_bytes,
            max_io_size: options.io_bytes_max,
            ..fabrics::rdma::target::TargetParams::default()
        },
        limits: RequestLimits {
            admin_entries_max: entries(options.admin_queue_depth_max),
            io_entries_max: entries(options.queue_depth_max),
            qid_max: options.io_queues_per_controller_max.min(IO_QUEUES_MAX),
        },
        shared_receives_max: options.shared_receives_max,
    }
}

fn params(options: &TransportOptions) -> TargetParams {
    TargetParams {
        in_capsule_data_size: options.in_capsule_data_bytes,
        max_io_size: options.io_bytes_max,
        c2h_success: options.c2h_success,
        ..TargetParams::default()
    }
    .clamped()
}

/// Opens and closes the addresses of the TCP transport.
struct TcpListeners(Arc<TcpTarget>);

impl Listeners for TcpListeners {
    fn open(&self, address: SocketAddr) -> std::io::Result<BoundListener> {
        match self.0.listen(address) {
            Ok((id, address)) => Ok(BoundListener { id, address }),
            Err(ListenError::System { source, .. }) => Err(source),
            Err(error @ ListenError::Draining) => Err(std::io::Error::other(error)),
        }
    }

    fn close(&self, listener: ListenerId) {
        self.0.unlisten(listener, false);
    }
}

/// Opens and closes the addresses of the RDMA transport.
struct RdmaListeners(Arc<RdmaTarget>);

impl Listeners for RdmaListeners {
    fn open(&self, address: SocketAddr) -> std::io::Result<BoundListener> {
        match self.0.listen(address) {
            Ok((id, address)) => Ok(BoundListener { id, address }),
            Err(RdmaListenError::System { source, .. }) => Err(source.source),
            Err(error @ RdmaListenError::Draining) => Err(std::io::Error::other(error)),
        }
    }

    fn close(&self, listener: ListenerId) {
        self.0.unlisten(listener, false);
    }

    fn is_listening(&self, listener: ListenerId) -> bool {
        self.0.is_listening(listener)
    }
}

/// Keeps what discovery offers in step with the listeners that a transport lost and got back, on a thread of its own: the
/// transport tells of them on a reactor, and a change waits for every reactor. The thread ends with the transport.
fn follow_listeners(rdma: &RdmaTarget, target: &Arc<Target>) -> std::io::Result<()> {
    // One is enough: whoever takes it sees all that changed until then.
    let (changed, changes) = std::sync::mpsc::sync_channel::<()>(1);
    let target = Arc::downgrade(target);
    std::thread::Builder::new().name("rdma-listeners".to_owned()).spawn(move || {
        while changes.recv().is_ok() {
            let Some(target) = target.upgrade() else { return };
            if let Err(error) = target.refresh_listening(TransportKind::Rdma) {
                tracing::warn!(%error, "discovery was not told of RDMA listeners that went or came");
            }
        }
    })?;
    rdma.on_listeners_changed(Box::new(move || {
        // Full: the thread has yet to look.
        let _ = changed.try_send(());
    }));
    Ok(())
}
