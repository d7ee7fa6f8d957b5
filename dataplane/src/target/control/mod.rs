//! The control API: validates, publishes to the reactors, waits for them, tells the hosts. Calls block and must not be
//! made on a reactor.

mod checks;
mod listeners;
mod namespaces;
mod subsystems;

use std::sync::{Arc, Mutex};

use nvme::Nqn;
use transport::{CloseReason, TransportKind};

use self::checks::{bump_discovery, check_transport, limit, nvm};
use self::listeners::Sockets;
use super::error::ControlError;
use super::limits;
use super::message::{Event, Message};
use super::options::{
    ControllerInfo, ListenAddress, Listeners, QueueInfo, ReactorStats, Referral, SubsystemKind,
    SubsystemOptions, TargetStats, TransportInfo, TransportOptions,
};
use super::publish::{Publisher, notify, post};
use super::registry::{Controller, Registry};
use super::shared::{locked, unique};
use super::view::{DISCOVERY_SLOT, Link, SubsystemView, TargetView};

type Outcome<T = ()> = Result<T, ControlError>;

/// Subsystems, namespaces, listeners, hosts: what the process serves. One per process, shared by every thread.
pub struct Target {
    pub(super) publisher: Publisher,
    sockets: Mutex<Sockets>,
}

impl Target {
    /// A target with a discovery subsystem and nothing else.
    pub fn new() -> Arc<Self> {
        let mut options = SubsystemOptions::new(Nqn::discovery());
        options.allow_any_host = true;
        let discovery = SubsystemView {
            uid: unique(),
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

    // Associations and statistics

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
        let namespaces = all.flat_map(|sub| sub.active().map(|ns| checks::stats_of(sub, ns))).collect();
        TargetStats { reactors: view.reactors.iter().map(of).collect(), namespaces }
    }

    // Helpers

    fn registry(&self, nqn: &Nqn) -> Outcome<Arc<Registry>> {
        let view = self.publisher.current();
        let (_, sub) = view.find(nqn).ok_or(ControlError::NoSuchSubsystem(*nqn))?;
        Ok(Arc::clone(&sub.registry))
    }

    /// Edits one subsystem, whichever it is; a change of the discovery log page is counted.
    pub(super) fn edit_any<R>(
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
    pub(super) fn edit<R>(
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
    pub(super) fn edit_visible<R>(
        &self,
        nqn: &Nqn,
        edit: impl FnOnce(&mut SubsystemView) -> Outcome<R>,
    ) -> Outcome<R> {
        let outcome = self.edit_any(nqn, |_, sub| edit(sub))?;
        self.tell_discovery();
        Ok(outcome)
    }

    pub(super) fn tell(&self, nqn: &Nqn, event: Event) {
        let view = self.publisher.current();
        if let Some((_, sub)) = view.find(nqn) {
            notify(&view, sub.registry.all(), event);
        }
    }

    pub(super) fn tell_discovery(&self) {
        let view = self.publisher.current();
        if let Some(discovery) = &view.subsystems[DISCOVERY_SLOT] {
            notify(&view, discovery.registry.all(), Event::DiscoveryChanged);
        }
    }

    /// Ends the associations of hosts that the allow-list no longer admits.
    pub(super) fn drop_strangers(&self, nqn: &Nqn) {
        let view = self.publisher.current();
        if let Some((_, sub)) = view.find(nqn) {
            let strangers = sub.registry.all().into_iter().filter(|c| !sub.allows(&c.host.nqn)).collect();
            self.destroy(strangers);
        }
    }

    pub(super) fn destroy(&self, controllers: Vec<Arc<Controller>>) {
        let view = self.publisher.current();
        for controller in controllers {
            let link = view.reactors.iter().find(|link| link.reactor == controller.home.reactor);
            if let Some(link) = link {
                post(link, Message::Destroy(controller, CloseReason::Service));
            }
        }
    }
}
