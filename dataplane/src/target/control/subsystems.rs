//! Subsystems and their hosts.

use std::sync::Arc;

use nvme::Nqn;

use super::checks::{bump_discovery, check_subsystem, describe, free_slot, limit, nvm};
use super::{Outcome, Target};
use crate::target::error::ControlError;
use crate::target::limits;
use crate::target::options::{SubsystemInfo, SubsystemKind, SubsystemOptions};
use crate::target::registry::Registry;
use crate::target::shared::unique;
use crate::target::view::SubsystemView;

impl Target {
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
                uid: unique(),
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
}
