//! What the reactors see of the configuration: immutable, replaced as a whole. The control side keeps the same
//! values, so that what was published is what was decided.
//!
//! Invariants: slot 0 is the discovery subsystem. A slot belongs to one subsystem until it is deleted and every reactor
//! has acknowledged that. Views replace each other in the order of their `version`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use nvme::log::SmartLog;
use nvme::{HostId, Nqn, Nsid};
use reactors::mailbox::MailboxSender;
use transport::{Peer, TransportKind};
use uuid::Uuid;

use super::guard::RangeGuard;
use super::message::Message;
use super::options::{
    AnaState, BoundListener, ListenAddress, NamespaceInfo, Referral, SubsystemKind, SubsystemOptions,
    TransportInfo,
};
use super::registry::Registry;
use super::reservations::Reservations;
use super::shared::locked;
use super::stats::{NamespaceCounters, ReactorCounters};
use crate::device::{Device, DeviceInfo, Limits};

/// Where the discovery subsystem is.
pub(super) const DISCOVERY_SLOT: usize = 0;

/// Everything.
#[derive(Clone)]
pub(super) struct TargetView {
    pub(super) version: u64,
    /// GENCTR of the discovery log page.
    pub(super) discovery_generation: u64,
    pub(super) transports: Vec<TransportInfo>,
    pub(super) subsystems: Vec<Option<Arc<SubsystemView>>>,
    pub(super) referrals: Vec<Referral>,
    pub(super) reactors: Arc<[Link]>,
}

/// A way to a reactor.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) reactor: usize,
    pub(super) sender: MailboxSender<Message>,
    pub(super) counters: Arc<ReactorCounters>,
}

impl TargetView {
    /// The subsystem of this name and its slot.
    pub(super) fn find(&self, nqn: &Nqn) -> Option<(usize, &Arc<SubsystemView>)> {
        let mut all = self.subsystems.iter().enumerate();
        all.find_map(|(slot, sub)| sub.as_ref().filter(|sub| sub.options.nqn == *nqn).map(|sub| (slot, sub)))
    }

    pub(super) fn transport(&self, kind: TransportKind) -> Option<&TransportInfo> {
        self.transports.iter().find(|transport| transport.kind == kind)
    }
}

/// One subsystem.
#[derive(Clone)]
pub(super) struct SubsystemView {
    /// Never used twice in the process.
    pub(super) uid: u64,
    pub(super) kind: SubsystemKind,
    pub(super) options: SubsystemOptions,
    pub(super) hosts: Vec<Nqn>,
    /// By NSID − 1.
    pub(super) namespaces: Vec<Option<Arc<Namespace>>>,
    pub(super) listeners: Vec<Arc<Listener>>,
    pub(super) registry: Arc<Registry>,
}

impl SubsystemView {
    pub(super) fn allows(&self, host: &Nqn) -> bool {
        self.options.allow_any_host || self.hosts.contains(host)
    }

    /// The listener through which a connection came, if it is one of this subsystem.
    pub(super) fn listener_of(&self, peer: &Peer) -> Option<&Arc<Listener>> {
        let mut all = self.listeners.iter();
        all.find(|l| l.address.transport == peer.transport && l.bound.id == peer.listener)
    }

    pub(super) fn namespace(&self, nsid: Nsid) -> Option<&Arc<Namespace>> {
        let index = usize::try_from(nsid.get()).ok()?.checked_sub(1)?;
        self.namespaces.get(index)?.as_ref()
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.iter().flatten()
    }

    /// Whether any namespace has a volatile write cache.
    pub(super) fn has_write_cache(&self) -> bool {
        self.active().any(|ns| ns.info().write_cache)
    }
}

/// One listener of one subsystem, with the ANA state of every group on it.
pub(super) struct Listener {
    pub(super) address: ListenAddress,
    pub(super) bound: BoundListener,
    /// Port identifier: unique within the subsystem's lifetime as far as 16 bits reach.
    pub(super) port: u16,
    ana: Box<[AtomicU8]>,
    /// Counts ANA changes on this listener (CHGCNT).
    ana_changes: AtomicU64,
    /// Hosts can reach it.
    listening: AtomicBool,
}

impl Listener {
    pub(super) fn new(transport: TransportKind, bound: BoundListener, port: u16, groups: u32) -> Self {
        let state = AnaState::Optimized as u8;
        let ana = (0..groups).map(|_| AtomicU8::new(state)).collect();
        let address = ListenAddress { transport, socket: bound.address };
        Self { address, bound, port, ana, ana_changes: AtomicU64::new(0), listening: AtomicBool::new(true) }
    }

    /// Whether hosts can reach it.
    pub(super) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Sets whether hosts can reach it; whether that is news.
    pub(super) fn set_listening(&self, listening: bool) -> bool {
        self.listening.swap(listening, Ordering::AcqRel) != listening
    }

    /// State of a group (1 is the first), as in the ANA log page; groups that do not exist are optimized.
    #[inline]
    pub(super) fn ana_bits(&self, group: u32) -> u8 {
        let state = self.ana.get((group as usize).wrapping_sub(1));
        state.map_or(AnaState::Optimized as u8, |state| state.load(Ordering::Acquire))
    }

    pub(super) fn ana_states(&self) -> Vec<AnaState> {
        self.ana.iter().filter_map(|state| AnaState::from_wire(state.load(Ordering::Acquire))).collect()
    }

    /// Sets one group, or all; whether anything changed.
    pub(super) fn set_ana(&self, state: AnaState, group: Option<u32>) -> bool {
        let mut changed = false;
        for (number, slot) in (1_u32..).zip(&self.ana) {
            if group.is_none_or(|group| group == number) {
                changed |= slot.swap(state as u8, Ordering::AcqRel) != state as u8;
            }
        }
        if changed {
            self.ana_changes.fetch_add(1, Ordering::AcqRel);
        }
        changed
    }

    pub(super) fn ana_changes(&self) -> u64 {
        self.ana_changes.load(Ordering::Acquire)
    }

    /// The address to tell a host that came in at `local`: a wildcard is replaced by what the host used.
    pub(super) fn address_for(&self, local: IpAddr) -> ListenAddress {
        let mut address = self.address;
        if address.socket.ip().is_unspecified() && address.socket.is_ipv4() == local.is_ipv4() {
            address.socket = SocketAddr::new(local, address.socket.port());
        }
        address
    }
}

/// One namespace, as all reactors share it.
pub(super) struct Namespace {
    pub(super) nsid: Nsid,
    /// Never used twice in the process.
    pub(super) uid: u64,
    pub(super) device: Arc<dyn Device>,
    pub(super) uuid: Uuid,
    pub(super) nguid: [u8; 16],
    pub(super) eui64: Option<[u8; 8]>,
    pub(super) ana_group: u32,
    pub(super) reservations: Reservations,
    pub(super) guard: RangeGuard,
    pub(super) limits: Arc<Limits>,
    counters: std::sync::Mutex<Vec<Arc<NamespaceCounters>>>,
}

/// What identifies a new namespace.
pub(super) struct NamespaceIdentity {
    pub(super) nsid: Nsid,
    pub(super) uid: u64,
    pub(super) uuid: Uuid,
    pub(super) nguid: [u8; 16],
    pub(super) eui64: Option<[u8; 8]>,
    pub(super) ana_group: u32,
}

impl Namespace {
    pub(super) fn new(identity: NamespaceIdentity, device: Arc<dyn Device>, limits: Arc<Limits>) -> Self {
        let NamespaceIdentity { nsid, uid, uuid, nguid, eui64, ana_group } = identity;
        Self {
            nsid,
            uid,
            device,
            uuid,
            nguid,
            eui64,
            ana_group,
            reservations: Reservations::default(),
            guard: RangeGuard::default(),
            limits,
            counters: std::sync::Mutex::default(),
        }
    }

    pub(super) fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    /// The health of its device, if that tells.
    pub(super) fn health(&self) -> Option<SmartLog> {
        self.device.health()
    }

    /// A set of counters for one reactor, part of the sums from now on.
    pub(super) fn open_counters(&self) -> Arc<NamespaceCounters> {
        let counters = Arc::<NamespaceCounters>::default();
        locked(&self.counters).push(Arc::clone(&counters));
        counters
    }

    pub(super) fn counters(&self) -> Vec<Arc<NamespaceCounters>> {
        locked(&self.counters).clone()
    }

    pub(super) fn describe(&self) -> NamespaceInfo {
        let info = self.info();
        NamespaceInfo {
            nsid: self.nsid,
            device: info.name.to_string(),
            uuid: self.uuid,
            nguid: self.nguid,
            eui64: self.eui64,
            ana_group: self.ana_group,
            block_bytes: info.block_size.bytes(),
            blocks: info.blocks,
        }
    }
}

/// Who a host is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HostIdentity {
    pub(super) nqn: Nqn,
    pub(super) id: HostId,
}
