//! The devices of a volume's replicas, by their place in it; they come and go while it is served.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::Device;
use crate::volume::{Members, REPLICAS_MAX, ReplicaIndex};

const COUNT: usize = REPLICAS_MAX as usize;

/// One replica's device.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) device: Arc<dyn Device>,
    /// It is a replica of this process.
    pub(super) local: bool,
    /// Of all that ever lay in a place of this volume: one that was taken out and put back is another.
    number: u64,
}

/// See the module.
pub(super) struct Slots {
    list: Mutex<[Option<Slot>; COUNT]>,
    /// Counts changes.
    version: AtomicU64,
}

/// The devices at one version: each with its number, or nothing in that place.
pub(super) type Devices = [Option<(u64, Arc<dyn Device>)>; COUNT];

impl Slots {
    /// In these places, from the first.
    pub(super) fn new(replicas: Vec<(String, Arc<dyn Device>, bool)>) -> Arc<Self> {
        let slots = Self { list: Mutex::default(), version: AtomicU64::new(0) };
        for (name, device, local) in replicas {
            slots.insert(name, device, local);
        }
        Arc::new(slots)
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Slot>; COUNT]> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The devices, and the version that they are of.
    pub(super) fn devices(&self) -> (u64, Devices) {
        let list = self.lock();
        let devices =
            list.each_ref().map(|slot| slot.as_ref().map(|slot| (slot.number, Arc::clone(&slot.device))));
        (self.version(), devices)
    }

    /// Puts a device into the first free place; `None` when there is none.
    pub(super) fn insert(&self, name: String, device: Arc<dyn Device>, local: bool) -> Option<ReplicaIndex> {
        let mut list = self.lock();
        let place = list.iter().position(Option::is_none)?;
        let number = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        list[place] = Some(Slot { name, device, local, number });
        u8::try_from(place).ok().map(ReplicaIndex)
    }

    /// Lets go of the device in a place.
    pub(super) fn remove(&self, replica: ReplicaIndex) {
        let removed = self.lock()[replica.index()].take();
        self.version.fetch_add(1, Ordering::AcqRel);
        // Closing may block: not under the lock.
        drop(removed);
    }

    /// Places that are taken.
    pub(super) fn members(&self) -> Members {
        let list = self.lock();
        (0..REPLICAS_MAX).map(ReplicaIndex).filter(|replica| list[replica.index()].is_some()).collect()
    }

    /// The replica of this process.
    pub(super) fn local(&self) -> Option<ReplicaIndex> {
        let list = self.lock();
        let is_local = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.local);
        list.iter().position(is_local).and_then(|place| u8::try_from(place).ok()).map(ReplicaIndex)
    }

    pub(super) fn index(&self, name: &str) -> Option<ReplicaIndex> {
        let list = self.lock();
        let is_it = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.name == name);
        list.iter().position(is_it).and_then(|place| u8::try_from(place).ok()).map(ReplicaIndex)
    }

    /// The name of a replica, unless it is gone.
    pub(super) fn name(&self, replica: ReplicaIndex) -> Option<String> {
        self.lock()[replica.index()].as_ref().map(|slot| slot.name.clone())
    }

    pub(super) fn names(&self, members: Members) -> Vec<String> {
        members.iter().filter_map(|replica| self.name(replica)).collect()
    }
}
