//! Namespaces and the devices behind them.

use std::sync::Arc;

use nvme::{Nqn, Nsid};
use uuid::Uuid;

use super::checks::check_ana_group;
use super::{Outcome, Target};
use crate::target::error::ControlError;
use crate::target::message::Event;
use crate::target::options::NamespaceOptions;
use crate::target::shared::unique;
use crate::target::view::{Namespace, NamespaceIdentity, SubsystemView, TargetView};

impl Target {
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
    let NamespaceOptions { device, uuid, nguid, eui64, ana_group, limits, .. } = options;
    let uuid = uuid.unwrap_or_else(|| device.info().uuid);
    let nguid = nguid.unwrap_or_else(|| uuid.into_bytes());
    check_identifiers(sub, uuid, nguid, eui64)?;
    check_ana_group(sub, ana_group)?;
    let ana_group = ana_group.unwrap_or(nsid.get());
    let identity = NamespaceIdentity { nsid, uid: unique(), uuid, nguid, eui64, ana_group };
    Ok(Namespace::new(identity, device, limits))
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
