//! Listeners: the addresses that are open, the subsystems that use them, the ANA states there.

use std::sync::Arc;

use nvme::Nqn;
use transport::TransportKind;

use super::checks::{bump_discovery, check_ana_group, limit, nvm};
use super::{Outcome, Target};
use crate::target::error::ControlError;
use crate::target::limits;
use crate::target::message::Event;
use crate::target::options::{AnaState, BoundListener, ListenAddress, ListenerInfo, Listeners};
use crate::target::publish::notify;
use crate::target::registry::Controller;
use crate::target::shared::locked;
use crate::target::view::{Listener, SubsystemView};

/// Transports that can listen, and the addresses that are listened on.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) drivers: Vec<(TransportKind, Arc<dyn Listeners>)>,
    open: Vec<OpenAddress>,
}

/// An address and how many subsystems use it.
struct OpenAddress {
    transport: TransportKind,
    bound: BoundListener,
    users: usize,
}

impl Target {
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
                // Another subsystem's address may be one that is lost at present.
                if let Err(error) = self.refresh_listening(address.transport) {
                    tracing::warn!(%error, "whether hosts can reach a new listener is not known");
                }
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

    /// Asks a transport which of its listeners hosts can reach; discovery offers no others, and hosts that are connected to it
    /// are told of changes. Blocks until every reactor agreed: never call it on one.
    ///
    /// # Errors
    /// When a reactor does not answer.
    pub fn refresh_listening(&self, kind: TransportKind) -> Outcome {
        let driver = {
            let sockets = locked(&self.sockets);
            sockets.drivers.iter().find(|(driven, _)| *driven == kind).map(|(_, driver)| Arc::clone(driver))
        };
        let Some(driver) = driver else { return Ok(()) };
        let view = self.publisher.current();
        let mut changed = false;
        for listener in view.subsystems.iter().flatten().flat_map(|sub| &sub.listeners) {
            if listener.address.transport == kind {
                changed |= listener.set_listening(driver.is_listening(listener.bound.id));
            }
        }
        if changed {
            self.publisher.change(|view| {
                bump_discovery(view);
                Ok(())
            })?;
            self.tell_discovery();
        }
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

    pub(super) fn close_address(&self, listener: &Listener) {
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

fn free_port(sub: &SubsystemView) -> u16 {
    (0..=u16::MAX)
        .find(|port| sub.listeners.iter().all(|listener| listener.port != *port))
        .unwrap_or_default()
}
