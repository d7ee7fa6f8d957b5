//! A new view on a reactor: opens device queues of namespaces that came, lets go of those that went.

use std::rc::Rc;
use std::sync::Arc;

use reactors::reply::Replier;
use rustix::event::epoll;

use super::local::{LocalNamespace, LocalSubsystem, NO_NAMESPACE};
use super::message::{Acknowledge, OpenFailed};
use super::service::ReactorTarget;
use super::view::{Namespace, SubsystemView, TargetView};
use crate::device::DeviceError;

type Answer = Option<Replier<Result<(), OpenFailed>>>;

impl ReactorTarget {
    /// Uses `view` from now on, unless it is older than the one in use.
    pub(super) fn apply(&mut self, view: Arc<TargetView>, answer: Answer) {
        if view.version < self.view.version {
            drop(Acknowledge::new(answer));
            return;
        }
        let before = self.subsystems.len();
        self.subsystems.resize_with(before.max(view.subsystems.len()), || None);
        let mut failure = None;
        let mut kept = Vec::new();
        for slot in 0..self.subsystems.len() {
            let wanted = view.subsystems.get(slot).and_then(Option::as_ref);
            if let Err(failed) = self.apply_subsystem(slot, wanted, &mut kept) {
                failure = Some(failed);
            }
        }
        self.view = view;
        match failure {
            None => self.release_others(&kept, &Acknowledge::new(answer)),
            Some(failed) => {
                self.release_others(&kept, &Acknowledge::new(None));
                if let Some(replier) = answer {
                    replier.reply(Err(failed));
                }
            }
        }
    }

    /// Makes one slot what the view says. Indexes of its namespaces are added to `kept`.
    fn apply_subsystem(
        &mut self,
        slot: usize,
        wanted: Option<&Arc<SubsystemView>>,
        kept: &mut Vec<u32>,
    ) -> Result<(), OpenFailed> {
        let Some(wanted) = wanted else {
            self.subsystems[slot] = None;
            return Ok(());
        };
        let mut failure = Ok(());
        let mut table = vec![NO_NAMESPACE; wanted.namespaces.len()];
        for (entry, namespace) in table.iter_mut().zip(&wanted.namespaces) {
            let Some(namespace) = namespace else { continue };
            match self.index_of(slot, namespace) {
                Ok(index) => {
                    *entry = index;
                    kept.push(index);
                }
                Err(source) => {
                    let device = namespace.info().name.to_string();
                    failure = Err(OpenFailed { reactor: self.index, device, source });
                }
            }
        }
        self.subsystems[slot] = Some(LocalSubsystem { view: Arc::clone(wanted), table });
        failure
    }

    /// The index of a namespace on this reactor, which is opened here when it is new.
    fn index_of(&mut self, slot: usize, namespace: &Arc<Namespace>) -> Result<u32, DeviceError> {
        let known = self.subsystems[slot].as_ref().and_then(|sub| sub.index(namespace.nsid.get()));
        let is_it = |index: &u32| {
            let local = self.namespaces.get(*index as usize).and_then(Option::as_ref);
            local.is_some_and(|local| local.shared.uid == namespace.uid)
        };
        match known.filter(is_it) {
            Some(index) => Ok(index),
            None => self.open_namespace(namespace),
        }
    }

    fn open_namespace(&mut self, namespace: &Arc<Namespace>) -> Result<u32, DeviceError> {
        let local = LocalNamespace::open(namespace, self.local.pool())?;
        let free = self.namespaces.iter().position(Option::is_none);
        let index = free.unwrap_or(self.namespaces.len());
        if index == self.namespaces.len() {
            self.namespaces.push(None);
        }
        let number = u32::try_from(index).unwrap_or(NO_NAMESPACE);
        if let Some(fd) = local.queue.wait_fd() {
            let data = epoll::EventData::new_u64(u64::from(number));
            // Should it fail, the device is still polled whenever the reactor is awake.
            let _ = epoll::add(&self.events, fd, data, epoll::EventFlags::IN);
        }
        let background = local.queue.has_background();
        self.namespaces[index] = Some(Box::new(local));
        if background {
            self.activate(number);
        }
        Ok(number)
    }

    /// Lets go of every namespace that is not in `kept`, once its I/O is finished.
    fn release_others(&mut self, kept: &[u32], acknowledge: &Rc<Acknowledge>) {
        let all = 0..u32::try_from(self.namespaces.len()).unwrap_or(u32::MAX);
        let gone: Vec<u32> = all.filter(|index| !kept.contains(index)).collect();
        for index in &gone {
            if let Some(ns) = self.namespace_mut(*index) {
                ns.live = false;
                ns.acknowledge.get_or_insert_with(|| Rc::clone(acknowledge));
            }
        }
        if !gone.is_empty() {
            self.retry_parked();
        }
        for index in gone {
            let drained = self.namespace_mut(index).is_some_and(|ns| ns.is_drained());
            if drained {
                self.active.retain(|other| *other != index);
                self.drop_namespace(index);
            }
        }
    }

    /// Closes a device queue; the view that dropped the namespace is answered when this was the last.
    pub(super) fn drop_namespace(&mut self, index: u32) {
        let Some(local) = self.namespaces.get_mut(index as usize).and_then(Option::take) else { return };
        if let Some(fd) = local.queue.wait_fd() {
            let _ = epoll::delete(&self.events, fd);
        }
    }
}
