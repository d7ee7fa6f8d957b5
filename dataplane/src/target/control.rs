//! The control API: validates, publishes to the reactors, waits for them, tells the hosts. Calls block and must not be
//! made on a reactor.

use std::sync::{Arc, Mutex};

use nvme::{Nqn, Nsid};
use transport::{CloseReason, TransportKind};
use uuid::Uuid;

use super::error::ControlError;
use super::limits;
use super::message::{Event, Message};
use super::options::{
    AnaState, BoundListener, ControllerInfo, ListenAddress, ListenerInfo, Listeners, NamespaceInfo,
    NamespaceOptions, NamespaceStats, QueueInfo, ReactorStats, Referral, SubsystemInfo, SubsystemKind,
    SubsystemOptions, TargetStats, TransportInfo, TransportOptions,
};
use super::publish::{Publisher, notify, post};
use super::registry::{Controller, Registry};
use super::shared::{locked, unique};
use super::stats::{IoCounters, LatencyHistogram};
use super::view::{DISCOVERY_SLOT, Link, Listener, Namespace, NamespaceIdentity, SubsystemView, TargetView};

type Outcome<T = ()> = Result<T, ControlError>;

/// Subsystems, namespaces, listeners, hosts: what the process serves. One per process, shared by every thread.
pub struct Target {
    pub(super) publisher: Publisher,
    sockets: Mutex<Sockets>,
}

/// Transports that can listen, and the addresses that are listened on.
#[derive(Default)]
struct Sockets {
    drivers: Vec<(TransportKind, Arc<dyn Listeners>)>,
    open: Vec<OpenAddress>,
}

/// An address and how many subsystems use it.
struct OpenAddress {
    transport: TransportKind,
    bound: BoundListener,
    users: usize,
}

impl Target {
    /// A target with a discovery subsystem and nothing else.
    pub fn new() -> Arc<Self> {
        let mut options = SubsystemOptions::new(Nqn::discovery());
        options.allow_any_host = true;
        let discovery = SubsystemView {
            kind: SubsystemKind::Discovery,
            options,
            hosts: Vec::new(),
            namespaces: Vec::new(),
            listeners: Vec::new(),
            registry: Arc::default(),
        };
        let view = TargetView {
            version: 0,
            discovery_generation: 0,
            transports: Vec::new(),
            subsystems: vec![Some(Arc::new(discovery))],
            referrals: Vec::new(),
            reactors: Arc::new([]),
        };
        Arc::new(Self { publisher: Publisher::new(view), sockets: Mutex::default() })
    }

    // Transports

    /// Adds a transport. Its queues get the limits of `options`; `listeners` opens its addresses.
    ///
    /// # Errors
    /// When it exists, or an option is out of its range.
    pub fn create_transport(
        &self,
        kind: TransportKind,
        options: TransportOptions,
        listeners: Arc<dyn Listeners>,
    ) -> Outcome {
        check_transport(&options)?;
        self.publisher.change(|view| {
            if view.transport(kind).is_some() {
                return Err(ControlError::TransportExists(kind));
            }
            view.transports.push(TransportInfo { kind, options });
            Ok(())
        })?;
        locked(&self.sockets).drivers.push((kind, listeners));
        Ok(())
    }

    /// The transports there are.
    pub fn transports(&self) -> Vec<TransportInfo> {
        self.publisher.current().transports.clone()
    }

    // Subsystems

    /// Adds a subsystem.
    ///
    /// # Errors
    /// When the name is taken, or an option is out of its range.
    pub fn create_subsystem(&self, options: SubsystemOptions) -> Outcome {
        check_subsystem(&options)?;
        self.publisher.change(|view| {
            if view.find(&options.nqn).is_some() {
                return Err(ControlError::SubsystemExists(options.nqn));
            }
            let slot = free_slot(view)?;
            view.subsystems[slot] = Some(Arc::new(SubsystemView {
                kind: SubsystemKind::Nvm,
                namespaces: vec![None; options.namespaces_max as usize],
                options,
                hosts: Vec::new(),
                listeners: Vec::new(),
                registry: Arc::new(Registry::default()),
            }));
            Ok(())
        })
    }

    /// Ends every association of a subsystem and removes it with its namespaces and listeners.
    ///
    /// # Errors
    /// When there is no such subsystem, or it is the discovery subsystem.
    pub fn delete_subsystem(&self, nqn: &Nqn) -> Outcome {
        let removed = self.publisher.change(|view| {
            let (slot, sub) = nvm(view, nqn, "deletion")?;
            view.subsystems[slot] = None;
            bump_discovery(view);
            Ok(sub)
        })?;
        self.destroy(removed.registry.all());
        for listener in &removed.listeners {
            self.close_address(listener);
        }
        self.tell_discovery();
        Ok(())
    }

    /// Every subsystem, the discovery subsystem first.
    pub fn subsystems(&self) -> Vec<SubsystemInfo> {
        self.publisher.current().subsystems.iter().flatten().map(|sub| describe(sub)).collect()
    }

    /// One subsystem.
    ///
    /// # Errors
    /// When there is no such subsystem.
    pub fn subsystem(&self, nqn: &Nqn) -> Outcome<SubsystemInfo> {
        let view = self.publisher.current();
        let (_, sub) = view.find(nqn).ok_or(ControlError::NoSuchSubsystem(*nqn))?;
        Ok(describe(sub))
    }

    // Namespaces

    /// Adds a namespace and tells the hosts that are connected.
    ///
    /// # Errors
    /// When an identifier is taken or out of range, the device is used already, or it does not open on a reactor.
    pub fn add_namespace(&self, nqn: &Nqn, options: NamespaceOptions) -> Outcome<Nsid> {
        let nsid = self.edit(nqn, "adding a namespace", |view, sub| {
            let nsid = choose_nsid(sub, options.nsid)?;
            check_device(view, &options)?;
            let namespace = new_namespace(sub, nsid, options)?;
            let index = nsid.get() as usize - 1;
            sub.namespaces[index] = Some(Arc::new(namespace));
            Ok(nsid)
        })?;
        self.tell(nqn, Event::NamespaceChanged(nsid));
        Ok(nsid)
    }

    /// Removes a namespace once its I/O in flight is finished, and tells the hosts that are connected.
    ///
    /// # Errors
    /// When there is no such subsystem or namespace.
    pub fn remove_namespace(&self, nqn: &Nqn, nsid: Nsid) -> Outcome {
        self.edit(nqn, "removing a namespace", |_, sub| {
            sub.namespace(nsid).ok_or(ControlError::NoSuchNamespace { nqn: *nqn, nsid })?;
            sub.namespaces[nsid.get() as usize - 1] = None;
            Ok(())
        })?;
        self.tell(nqn, Event::NamespaceChanged(nsid));
        Ok(())
    }

    /// Removes every namespace on this device, as before the device is deleted. The namespaces that were removed.
    ///
    /// # Errors
    /// As [`Self::remove_namespace`].
    pub fn remove_device(&self, device: &str) -> Outcome<Vec<(Nqn, Nsid)>> {
        let users = self.device_users(device);
        for (nqn, nsid) in &users {
            self.remove_namespace(nqn, *nsid)?;
        }
        Ok(users)
    }

    /// The namespaces on this device.
    pub fn device_users(&self, device: &str) -> Vec<(Nqn, Nsid)> {
        let view = self.publisher.current();
        let all =
            view.subsystems.iter().flatten().flat_map(|sub| sub.active().map(|ns| (sub.options.nqn, ns)));
        all.filter(|(_, ns)| &*ns.info().name == device).map(|(nqn, ns)| (nqn, ns.nsid)).collect()
    }

    /// Tells the hosts of every namespace on this device that its capacity changed.
    pub fn device_resized(&self, device: &str) {
        for (nqn, nsid) in self.device_users(device) {
            self.tell(&nqn, Event::NamespaceChanged(nsid));
        }
    }

    // Hosts

    /// Puts a host on the allow-list.
    ///
    /// # Errors
    /// When it is there already.
    pub fn add_host(&self, nqn: &Nqn, host: Nqn) -> Outcome {
        self.edit_visible(nqn, |sub| {
            if sub.hosts.contains(&host) {
                return Err(ControlError::HostExists { nqn: *nqn, host });
            }
            limit("hosts of a subsystem", sub.hosts.len(), limits::HOSTS_MAX)?;
            sub.hosts.push(host);
            Ok(())
        })
    }

    /// Takes a host off the allow-list and ends its associations, unless any host is allowed.
    ///
    /// # Errors
    /// When it is not on the list.
    pub fn remove_host(&self, nqn: &Nqn, host: Nqn) -> Outcome {
        self.edit_visible(nqn, |sub| {
            let at = sub.hosts.iter().position(|other| *other == host);
            sub.hosts.remove(at.ok_or(ControlError::NoSuchHost { nqn: *nqn, host })?);
            Ok(())
        })?;
        self.drop_strangers(nqn);
        Ok(())
    }

    /// Allows every host, or only those on the allow-list; associations of others end then.
    ///
    /// # Errors
    /// When there is no such subsystem.
    pub fn set_allow_any_host(&self, nqn: &Nqn, allow: bool) -> Outcome {
        self.edit_visible(nqn, |sub| {
            sub.options.allow_any_host = allow;
            Ok(())
        })?;
        self.drop_strangers(nqn);
        Ok(())
    }

    // Listeners

    /// Serves a subsystem at an address, opening it when no other subsystem did. The address with the bound port.
    ///
    /// # Errors
    /// When it listens there already, there is no such transport, or the address cannot be listened on.
    pub fn add_listener(&self, nqn: &Nqn, address: ListenAddress) -> Outcome<ListenAddress> {
        let bound = self.open_address(address)?;
        let added = self.edit_any(nqn, |_, sub| {
            let address = ListenAddress { socket: bound.address, ..address };
            if sub.listeners.iter().any(|listener| listener.address == address) {
                return Err(ControlError::ListenerExists { nqn: *nqn, address });
            }
            limit("listeners of a subsystem", sub.listeners.len(), limits::LISTENERS_MAX)?;
            let port = free_port(sub);
            let groups = sub.options.namespaces_max;
            sub.listeners.push(Arc::new(Listener::new(address.transport, bound, port, groups)));
            Ok(address)
        });
        match added {
            Ok(address) => {
                self.tell_discovery();
                Ok(address)
            }
            Err(error) => {
                self.release_address(address.transport, bound);
                Err(error)
            }
        }
    }

    /// Stops serving a subsystem at an address and ends the associations that came through it.
    ///
    /// # Errors
    /// When it does not listen there.
    pub fn remove_listener(&self, nqn: &Nqn, address: ListenAddress) -> Outcome {
        let (listener, registry) = self.edit_any(nqn, |_, sub| {
            let at = sub.listeners.iter().position(|listener| listener.address == address);
            let at = at.ok_or(ControlError::NoSuchListener { nqn: *nqn, address })?;
            Ok((sub.listeners.remove(at), Arc::clone(&sub.registry)))
        })?;
        self.close_address(&listener);
        let through = |controller: &Arc<Controller>| controller.address == listener.address;
        self.destroy(registry.all().into_iter().filter(through).collect());
        self.tell_discovery();
        Ok(())
    }

    /// Sets the ANA state of one group, or of all, on one listener, and tells the hosts that use it.
    ///
    /// # Errors
    /// When the subsystem does not report ANA states, does not listen there, or has no such group.
    pub fn set_ana_state(
        &self,
        nqn: &Nqn,
        address: ListenAddress,
        state: AnaState,
        group: Option<u32>,
    ) -> Outcome {
        let view = self.publisher.current();
        let (_, sub) = nvm(&view, nqn, "ANA")?;
        if !sub.options.ana_reporting {
            return Err(ControlError::AnaReportingOff(*nqn));
        }
        check_ana_group(&sub, group)?;
        let listener = sub.listeners.iter().find(|listener| listener.address == address);
        let listener = listener.ok_or(ControlError::NoSuchListener { nqn: *nqn, address })?;
        if listener.set_ana(state, group) {
            let mut told = sub.registry.all();
            told.retain(|controller| controller.address == listener.address);
            notify(&view, told, Event::AnaChanged);
        }
        Ok(())
    }

    /// The listeners of a subsystem.
    ///
    /// # Errors
    /// When there is no such subsystem.
    pub fn listeners(&self, nqn: &Nqn) -> Outcome<Vec<ListenerInfo>> {
        Ok(self.subsystem(nqn)?.listeners)
    }

    // Referrals

    /// Adds a referral to the discovery log page.
    ///
    /// # Errors
    /// When there is one to that address.
    pub fn add_referral(&self, referral: Referral) -> Outcome {
        self.publisher.change(|view| {
            if view.referrals.iter().any(|other| other.address == referral.address) {
                return Err(ControlError::ReferralExists(referral.address));
            }
            limit("referrals", view.referrals.len(), limits::REFERRALS_MAX)?;
            view.referrals.push(referral);
            bump_discovery(view);
            Ok(())
        })?;
        self.tell_discovery();
        Ok(())
    }

    /// Removes a referral from the discovery log page.
    ///
    /// # Errors
    /// When there is none to that address.
    pub fn remove_referral(&self, address: ListenAddress) -> Outcome {
        self.publisher.change(|view| {
            let at = view.referrals.iter().position(|referral| referral.address == address);
            view.referrals.remove(at.ok_or(ControlError::NoSuchReferral(address))?);
            bump_discovery(view);
            Ok(())
        })?;
        self.tell_discovery();
        Ok(())
    }

    /// The referrals there are.
    pub fn referrals(&self) -> Vec<Referral> {
        self.publisher.current().referrals.clone()
    }

    // Associations

    /// The controllers of a subsystem.
    ///
    /// # Errors
    /// When there is no such subsystem.
    pub fn controllers(&self, nqn: &Nqn) -> Outcome<Vec<ControllerInfo>> {
        Ok(self.registry(nqn)?.all().iter().map(|controller| controller.describe()).collect())
    }

    /// The connected queues of a subsystem.
    ///
    /// # Errors
    /// When there is no such subsystem.
    pub fn queues(&self, nqn: &Nqn) -> Outcome<Vec<QueueInfo>> {
        Ok(self.registry(nqn)?.all().iter().flat_map(|controller| controller.describe_queues()).collect())
    }

    // Statistics

    /// What every reactor serves, and what was done to every namespace.
    pub fn stats(&self) -> TargetStats {
        let view = self.publisher.current();
        let of = |link: &Link| ReactorStats {
            reactor: link.reactor,
            admin_queues: link.counters.admin_queues.get(),
            io_queues: link.counters.io_queues.get(),
            admin_queues_total: link.counters.admin_queues_total.get(),
            io_queues_total: link.counters.io_queues_total.get(),
            device_io_pending: link.counters.device_io_pending.get(),
            io_commands_total: link.counters.io_commands_total.get(),
        };
        let all = view.subsystems.iter().flatten();
        let namespaces = all.flat_map(|sub| sub.active().map(|ns| stats_of(sub, ns))).collect();
        TargetStats { reactors: view.reactors.iter().map(of).collect(), namespaces }
    }

    // Helpers

    fn registry(&self, nqn: &Nqn) -> Outcome<Arc<Registry>> {
        let view = self.publisher.current();
        let (_, sub) = view.find(nqn).ok_or(ControlError::NoSuchSubsystem(*nqn))?;
        Ok(Arc::clone(&sub.registry))
    }

    /// Edits one subsystem, whichever it is; a change of the discovery log page is counted.
    fn edit_any<R>(
        &self,
        nqn: &Nqn,
        edit: impl FnOnce(&TargetView, &mut SubsystemView) -> Outcome<R>,
    ) -> Outcome<R> {
        self.publisher.change(|view| {
            let (slot, sub) = view.find(nqn).ok_or(ControlError::NoSuchSubsystem(*nqn))?;
            let mut sub = (**sub).clone();
            let outcome = edit(view, &mut sub)?;
            view.subsystems[slot] = Some(Arc::new(sub));
            bump_discovery(view);
            Ok(outcome)
        })
    }

    /// Edits an NVM subsystem in a way that the discovery log page does not show.
    fn edit<R>(
        &self,
        nqn: &Nqn,
        operation: &'static str,
        edit: impl FnOnce(&TargetView, &mut SubsystemView) -> Outcome<R>,
    ) -> Outcome<R> {
        self.publisher.change(|view| {
            let (slot, sub) = nvm(view, nqn, operation)?;
            let mut sub = (*sub).clone();
            let outcome = edit(view, &mut sub)?;
            view.subsystems[slot] = Some(Arc::new(sub));
            Ok(outcome)
        })
    }

    /// Edits who may see a subsystem.
    fn edit_visible<R>(&self, nqn: &Nqn, edit: impl FnOnce(&mut SubsystemView) -> Outcome<R>) -> Outcome<R> {
        let outcome = self.edit_any(nqn, |_, sub| edit(sub))?;
        self.tell_discovery();
        Ok(outcome)
    }

    fn tell(&self, nqn: &Nqn, event: Event) {
        let view = self.publisher.current();
        if let Some((_, sub)) = view.find(nqn) {
            notify(&view, sub.registry.all(), event);
        }
    }

    fn tell_discovery(&self) {
        let view = self.publisher.current();
        if let Some(discovery) = &view.subsystems[DISCOVERY_SLOT] {
            notify(&view, discovery.registry.all(), Event::DiscoveryChanged);
        }
    }

    /// Ends the associations of hosts that the allow-list no longer admits.
    fn drop_strangers(&self, nqn: &Nqn) {
        let view = self.publisher.current();
        if let Some((_, sub)) = view.find(nqn) {
            let strangers = sub.registry.all().into_iter().filter(|c| !sub.allows(&c.host.nqn)).collect();
            self.destroy(strangers);
        }
    }

    fn destroy(&self, controllers: Vec<Arc<Controller>>) {
        let view = self.publisher.current();
        for controller in controllers {
            let link = view.reactors.iter().find(|link| link.reactor == controller.home.reactor);
            if let Some(link) = link {
                post(link, Message::Destroy(controller, CloseReason::Service));
            }
        }
    }

    fn open_address(&self, address: ListenAddress) -> Outcome<BoundListener> {
        let mut sockets = locked(&self.sockets);
        let same = |open: &&mut OpenAddress| {
            open.transport == address.transport && open.bound.address == address.socket
        };
        if let Some(open) = sockets.open.iter_mut().find(same) {
            open.users += 1;
            return Ok(open.bound);
        }
        let driver = sockets.drivers.iter().find(|(kind, _)| *kind == address.transport);
        let (_, driver) = driver.ok_or(ControlError::NoSuchTransport(address.transport))?;
        let bound = driver.open(address.socket).map_err(|source| ControlError::Listen { address, source })?;
        sockets.open.push(OpenAddress { transport: address.transport, bound, users: 1 });
        Ok(bound)
    }

    fn close_address(&self, listener: &Listener) {
        self.release_address(listener.address.transport, listener.bound);
    }

    fn release_address(&self, transport: TransportKind, bound: BoundListener) {
        let mut sockets = locked(&self.sockets);
        let at =
            sockets.open.iter().position(|open| open.transport == transport && open.bound.id == bound.id);
        let Some(at) = at else { return };
        sockets.open[at].users -= 1;
        if sockets.open[at].users > 0 {
            return;
        }
        sockets.open.remove(at);
        if let Some((_, driver)) = sockets.drivers.iter().find(|(kind, _)| *kind == transport) {
            driver.close(bound.id);
        }
    }
}

fn nvm(view: &TargetView, nqn: &Nqn, operation: &'static str) -> Outcome<(usize, Arc<SubsystemView>)> {
    let (slot, sub) = view.find(nqn).ok_or(ControlError::NoSuchSubsystem(*nqn))?;
    match sub.kind {
        SubsystemKind::Nvm => Ok((slot, Arc::clone(sub))),
        SubsystemKind::Discovery => Err(ControlError::DiscoverySubsystem { operation }),
    }
}

fn bump_discovery(view: &mut TargetView) {
    view.discovery_generation += 1;
}

fn limit(what: &'static str, count: usize, limit: usize) -> Outcome {
    if count < limit { Ok(()) } else { Err(ControlError::TooMany { what, limit }) }
}

fn free_slot(view: &mut TargetView) -> Outcome<usize> {
    if let Some(slot) = view.subsystems.iter().position(Option::is_none) {
        return Ok(slot);
    }
    limit("subsystems", view.subsystems.len(), limits::SUBSYSTEMS_MAX)?;
    view.subsystems.push(None);
    Ok(view.subsystems.len() - 1)
}

fn free_port(sub: &SubsystemView) -> u16 {
    (0..=u16::MAX)
        .find(|port| sub.listeners.iter().all(|listener| listener.port != *port))
        .unwrap_or_default()
}

fn choose_nsid(sub: &SubsystemView, wanted: Option<Nsid>) -> Outcome<Nsid> {
    let (nqn, max) = (sub.options.nqn, sub.options.namespaces_max);
    match wanted {
        Some(nsid) if nsid.get() == 0 || nsid.get() > max => Err(ControlError::NsidOutOfRange { nsid, max }),
        Some(nsid) if sub.namespace(nsid).is_some() => Err(ControlError::NsidInUse { nqn, nsid }),
        Some(nsid) => Ok(nsid),
        None => (1..=max)
            .map(Nsid)
            .find(|nsid| sub.namespace(*nsid).is_none())
            .ok_or(ControlError::TooMany { what: "namespaces of a subsystem", limit: max as usize }),
    }
}

fn check_device(view: &TargetView, options: &NamespaceOptions) -> Outcome {
    let name = options.device.info().name;
    for sub in view.subsystems.iter().flatten() {
        if let Some(ns) = sub.active().find(|ns| ns.info().name == name) {
            let (device, nqn, nsid) = (name.to_string(), sub.options.nqn, ns.nsid);
            return Err(ControlError::DeviceInUse { device, nqn, nsid });
        }
    }
    Ok(())
}

fn new_namespace(sub: &SubsystemView, nsid: Nsid, options: NamespaceOptions) -> Outcome<Namespace> {
    let NamespaceOptions { device, uuid, nguid, eui64, ana_group, .. } = options;
    let uuid = uuid.unwrap_or_else(|| device.info().uuid);
    let nguid = nguid.unwrap_or_else(|| uuid.into_bytes());
    check_identifiers(sub, uuid, nguid, eui64)?;
    check_ana_group(sub, ana_group)?;
    let ana_group = ana_group.unwrap_or(nsid.get());
    let identity = NamespaceIdentity { nsid, uid: unique(), uuid, nguid, eui64, ana_group };
    Ok(Namespace::new(identity, device))
}

fn check_ana_group(sub: &SubsystemView, group: Option<u32>) -> Outcome {
    let max = sub.options.namespaces_max;
    match group {
        Some(group) if group == 0 || group > max => Err(ControlError::AnaGroupOutOfRange { group, max }),
        _ => Ok(()),
    }
}

fn check_identifiers(sub: &SubsystemView, uuid: Uuid, nguid: [u8; 16], eui64: Option<[u8; 8]>) -> Outcome {
    for (zero, what) in
        [(uuid.is_nil(), "the UUID"), (nguid == [0; 16], "the NGUID"), (eui64 == Some([0; 8]), "the EUI-64")]
    {
        if zero {
            return Err(ControlError::ZeroIdentifier { what });
        }
    }
    let nqn = sub.options.nqn;
    for ns in sub.active() {
        let same = [
            (ns.uuid == uuid, "UUID"),
            (ns.nguid == nguid, "NGUID"),
            (eui64.is_some() && ns.eui64 == eui64, "EUI-64"),
        ];
        if let Some((_, what)) = same.iter().find(|(same, _)| *same) {
            return Err(ControlError::IdentifierInUse { what, nqn, nsid: ns.nsid });
        }
    }
    Ok(())
}

fn stats_of(sub: &SubsystemView, ns: &Namespace) -> NamespaceStats {
    let mut stats = NamespaceStats {
        subsystem: sub.options.nqn,
        nsid: ns.nsid,
        device: ns.info().name.to_string(),
        counters: IoCounters::default(),
        read_latency: LatencyHistogram::default(),
        write_latency: LatencyHistogram::default(),
    };
    for counters in ns.counters() {
        stats.counters.merge(&counters.snapshot());
        counters.merge_latency(&mut stats.read_latency, &mut stats.write_latency);
    }
    stats
}

fn describe(sub: &SubsystemView) -> SubsystemInfo {
    let nvm = sub.kind == SubsystemKind::Nvm;
    let listener = |listener: &Arc<Listener>| ListenerInfo {
        address: listener.address,
        ana_states: if nvm { listener.ana_states() } else { Vec::new() },
    };
    SubsystemInfo {
        kind: sub.kind,
        options: sub.options.clone(),
        hosts: sub.hosts.clone(),
        namespaces: sub.active().map(|ns| ns.describe()).collect::<Vec<NamespaceInfo>>(),
        listeners: sub.listeners.iter().map(listener).collect(),
    }
}

fn check_text(what: &'static str, text: &str, max: usize) -> Outcome {
    let printable = text.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
    if printable && (1..=max).contains(&text.len()) {
        return Ok(());
    }
    Err(ControlError::Text { what, len: text.len(), allowed: 1..=max })
}

fn check_subsystem(options: &SubsystemOptions) -> Outcome {
    if options.nqn.is_discovery() {
        return Err(ControlError::SubsystemExists(options.nqn));
    }
    check_text("the serial number", &options.serial, 20)?;
    check_text("the model number", &options.model, 40)?;
    let (min, max) = (options.controller_id_min, options.controller_id_max);
    if min == 0 || min > max || max > nvme::ControllerId::MAX.get() {
        return Err(ControlError::ControllerIdRange { min, max });
    }
    let namespaces = options.namespaces_max;
    if namespaces == 0 || namespaces > limits::NAMESPACES_MAX {
        return Err(ControlError::NsidOutOfRange { nsid: Nsid(namespaces), max: limits::NAMESPACES_MAX });
    }
    Ok(())
}

fn check_transport(options: &TransportOptions) -> Outcome {
    for (option, value, allowed) in [
        ("max_queue_depth", u64::from(options.queue_depth_max), 2..=65_536),
        ("max_aq_depth", u64::from(options.admin_queue_depth_max), 32..=4096),
        ("max_io_qpairs_per_ctrlr", u64::from(options.io_queues_per_controller_max), 1..=65_534),
        ("in_capsule_data_size", u64::from(options.in_capsule_data_bytes), 0..=65_536),
        ("max_io_size", u64::from(options.io_bytes_max), 4096..=2_097_152),
    ] {
        if !allowed.contains(&value) {
            return Err(ControlError::TransportOption { option, value, allowed });
        }
    }
    if !options.io_bytes_max.is_power_of_two() {
        let value = u64::from(options.io_bytes_max);
        return Err(ControlError::TransportOptionRule {
            option: "max_io_size",
            value,
            rule: "a power of two",
        });
    }
    if !options.in_capsule_data_bytes.is_multiple_of(16) {
        let (option, value) = ("in_capsule_data_size", u64::from(options.in_capsule_data_bytes));
        return Err(ControlError::TransportOptionRule { option, value, rule: "a multiple of 16" });
    }
    Ok(())
}
