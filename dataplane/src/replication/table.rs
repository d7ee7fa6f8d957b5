//! The replicas and volumes of a process, by name; and what happened to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use super::error::ReplicationError;
use super::options::ResyncOptions;
use super::replica::{ReplicaDevice, ReplicaInfo, Start};
use super::slots::Slots;
use super::volume::{HeadStatus, Shape, VolumeDevice};
use super::window::{Answers, DOOR_BYTES};
use crate::device::{BlockSize, ClaimKind, Device, DeviceRegistry, Operations};
use crate::lvol::{DeviceMedia, StoreSet};
use crate::store::{BLOCK_BYTES, Block, Media, VolumeBlock, VolumeKind};
use crate::volume::{
    Epoch, Event, FreezeId, Frozen, Members, Phase, REPLICAS_MAX, ReplicaIndex, ResizeRefused, Resizing,
    VolumeCounters,
};

/// Events that are kept; the oldest go first.
const EVENTS_MAX: usize = 1024;
/// How long an activation is waited for.
const ACTIVATION_MAX: Duration = Duration::from_secs(8);
/// How often its progress is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How a volume is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateVolume {
    /// Its name, and that of its device.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Devices of its replicas, in the same order on every node.
    pub replicas: Vec<String>,
    /// Replicas that must be in sync for a write.
    pub min_in_sync: u8,
}

/// A replica of a volume, as this node knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    /// Name of its device.
    pub name: String,
    /// Recorded as in sync.
    pub in_sync: bool,
    /// It gets every write.
    pub attached: bool,
    /// Given up, and still recorded.
    pub failed: bool,
    /// Nothing is copied to it, because somebody said so.
    pub kept_out: bool,
    /// Regions that are still to be copied to it.
    pub regions_stale: u64,
}

/// A volume, as this node knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeStatus {
    /// How it was made.
    pub created: CreateVolume,
    /// Bytes that hosts see.
    pub bytes: u64,
    /// How it is here: `inactive`, `activating`, `active`, `changing`, `draining`, `deposed`.
    pub state: &'static str,
    /// The epoch of the last activation.
    pub epoch: Option<u64>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Regions whose intent bit is set.
    pub regions_dirty: u64,
    /// Bytes of a region.
    pub region_bytes: u32,
    /// How regions are copied.
    pub resync: ResyncOptions,
    /// How long reads and writes of hosts take on average, in nanoseconds.
    pub latency_ns: Option<u64>,
    /// What the last activation has done.
    pub counters: VolumeCounters,
}

/// Something that happened to a volume.
#[derive(Clone, PartialEq, Debug)]
pub struct VolumeEvent {
    /// Counts up from 1.
    pub id: u64,
    /// Whose.
    pub volume: String,
    /// What: its kind in `event`, the epoch, and what belongs to it.
    pub what: Value,
}

#[derive(Default)]
struct Ring {
    kept: VecDeque<VolumeEvent>,
    last: u64,
}

#[derive(Default)]
struct Events {
    ring: Mutex<Ring>,
    news: Condvar,
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, volume: &str, what: Value) {
        let mut ring = self.lock();
        if ring.kept.len() == EVENTS_MAX {
            ring.kept.pop_front();
        }
        ring.last += 1;
        let id = ring.last;
        ring.kept.push_back(VolumeEvent { id, volume: volume.to_owned(), what });
        drop(ring);
        self.news.notify_all();
    }
}

/// What hosts are to be told of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// It begins to serve here.
    Serves,
    /// It ceases to.
    Ceases,
    /// It has another size.
    Resized,
}

/// Called with the name of a volume.
pub(crate) type OnServing = Arc<dyn Fn(&str, Shown) + Send + Sync>;

/// The replicas and volumes of a process.
#[derive(Default)]
pub struct VolumeTable {
    /// Whose volumes replicas may lie on, and have snapshots there.
    stores: Weak<StoreSet>,
    replicas: Mutex<BTreeMap<String, Arc<ReplicaDevice>>>,
    volumes: Mutex<BTreeMap<String, Arc<VolumeDevice>>>,
    events: Arc<Events>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VolumeTable {
    /// An empty table; replicas may lie on volumes of these stores.
    pub fn on(stores: &Arc<StoreSet>) -> Self {
        Self { stores: Arc::downgrade(stores), ..Self::default() }
    }

    // Replicas

    /// Opens the replica of a volume on a device, makes it when there is none, and adds its device to the registry.
    ///
    /// # Errors
    /// As [`ReplicaDevice::open`], and when the device is missing or in use, or the name taken.
    pub fn create_replica(
        &self,
        registry: &DeviceRegistry,
        name: &str,
        base: &str,
        volume: Uuid,
        bytes: Option<u64>,
        zeroed: bool,
    ) -> Result<(), ReplicationError> {
        self.add(registry, name, base, (volume, bytes), Start::Empty { zeroed })
    }

    /// Makes a clone of a snapshot of that moment a replica of another volume, which begins with what it holds: replicas that begin
    /// with the same moment are equal, and nothing is copied.
    ///
    /// # Errors
    /// As [`Self::create_replica`]; when the device is no volume of a store that was cloned from a snapshot of that moment, or was
    /// written since.
    pub fn clone_replica(
        &self,
        registry: &DeviceRegistry,
        name: &str,
        base: &str,
        (volume, bytes): (Uuid, u64),
        moment: Uuid,
    ) -> Result<(), ReplicationError> {
        self.refuse_written(base, bytes)?;
        self.add(registry, name, base, (volume, Some(bytes)), Start::Moment(moment))
    }

    /// Whether what hosts see of a clone is still what its snapshot holds.
    fn refuse_written(&self, base: &str, bytes: u64) -> Result<(), ReplicationError> {
        let device = || base.to_owned();
        let stores = self.stores.upgrade().ok_or_else(|| ReplicationError::NoMoment { device: device() })?;
        let (store, clone) = stores.find_volume(base)?;
        let origin = clone.origin.ok_or_else(|| ReplicationError::NoMoment { device: device() })?;
        let origin = format!("{}/{origin}", store.name());
        if stores.find_volume(&origin)?.1.info.kind != VolumeKind::Snapshot {
            return Err(ReplicationError::NoMoment { device: device() });
        }
        let (end, mut next) = (bytes.div_ceil(BLOCK_BYTES as u64), Some(VolumeBlock(0)));
        while let Some(start) = next.filter(|start| start.0 < end) {
            let found = stores.differences(Some(&origin), base, start)?;
            if found.ranges.first().is_some_and(|range| range.at.0 < end) {
                return Err(ReplicationError::Written { device: device() });
            }
            next = found.next;
        }
        Ok(())
    }

    fn add(
        &self,
        registry: &DeviceRegistry,
        name: &str,
        base: &str,
        (volume, bytes): (Uuid, Option<u64>),
        start: Start,
    ) -> Result<(), ReplicationError> {
        let claim = registry.claim(base, ClaimKind::Exclusive, &format!("replica {name}"))?;
        let device = Arc::clone(claim.device());
        let replica = Arc::new(ReplicaDevice::open(
            name,
            device,
            (Some(claim), Weak::clone(&self.stores)),
            volume,
            bytes,
            start,
        )?);
        registry.add(Arc::clone(&replica) as Arc<dyn Device>)?;
        locked(&self.replicas).insert(name.to_owned(), replica);
        Ok(())
    }

    /// Removes a replica's device; what is on the device below stays. Nobody may use it any more.
    ///
    /// # Errors
    /// When there is none of that name, or it is in use.
    pub fn delete_replica(&self, registry: &DeviceRegistry, name: &str) -> Result<(), ReplicationError> {
        if !locked(&self.replicas).contains_key(name) {
            return Err(ReplicationError::NotAMember(name.to_owned()));
        }
        registry.delete(name)?;
        locked(&self.replicas).remove(name);
        Ok(())
    }

    /// The replicas of this process: name, device below, and what they are.
    pub fn replicas(&self) -> Vec<(String, String, ReplicaInfo)> {
        let replicas = locked(&self.replicas);
        replicas
            .iter()
            .map(|(name, replica)| (name.clone(), replica.base_name(), replica.replica()))
            .collect()
    }

    // Volumes

    /// Makes a volume of replicas that exist, inactive, and adds its device to the registry.
    ///
    /// # Errors
    /// When a replica is missing, no replica, or of another volume; when none can be reached; or the name is taken.
    pub fn create_volume(
        &self,
        registry: &DeviceRegistry,
        create: CreateVolume,
    ) -> Result<(), ReplicationError> {
        let count = create.replicas.len();
        if count == 0 || count > usize::from(REPLICAS_MAX) {
            return Err(ReplicationError::Replicas(count));
        }
        if create.min_in_sync == 0 || usize::from(create.min_in_sync) > count {
            return Err(ReplicationError::MinInSync { min_in_sync: create.min_in_sync, replicas: count });
        }
        let twice = |(at, name): (usize, &String)| create.replicas[..at].contains(name);
        if create.replicas.iter().enumerate().any(twice) {
            return Err(ReplicationError::Replicas(count));
        }
        if locked(&self.volumes).contains_key(&create.name) {
            return Err(ReplicationError::Exists(create.name));
        }
        let volume = Arc::new(VolumeDevice::new(self.shape(registry, &create)?));
        registry.add(Arc::clone(&volume) as Arc<dyn Device>)?;
        locked(&self.volumes).insert(create.name, volume);
        Ok(())
    }

    /// What the replicas say about the volume.
    fn shape(&self, registry: &DeviceRegistry, create: &CreateVolume) -> Result<Shape, ReplicationError> {
        let mut replicas = Vec::new();
        let mut said: Option<Answers> = None;
        let mut block_size = None;
        for name in &create.replicas {
            let device = registry.get(name)?;
            let found = *block_size.get_or_insert(device.info().block_size);
            if let Some(answers) = usable(name, device.as_ref(), create.uuid, found)? {
                let first = said.get_or_insert_with(|| answers.clone());
                // One may have been away while the others grew.
                first.bytes = first.bytes.min(answers.bytes);
                if first.region_bytes != answers.region_bytes {
                    return Err(ReplicationError::NoReplica { device: name.clone(), volume: create.uuid });
                }
            }
            replicas.push((name.clone(), device, self.is_here(name)));
        }
        let said = said.ok_or(ReplicationError::Unreachable(create.uuid))?;
        Ok(Shape {
            name: create.name.as_str().into(),
            uuid: create.uuid,
            bytes: Arc::new(AtomicU64::new(said.bytes)),
            region_bytes: said.region_bytes,
            block_size: block_size.unwrap_or(BlockSize::B4096),
            min_in_sync: create.min_in_sync,
            slots: Slots::new(replicas),
        })
    }

    fn is_here(&self, replica: &str) -> bool {
        locked(&self.replicas).contains_key(replica)
    }

    /// Makes one more replica known to a volume. Where it is active the replica is given everything, and proposed.
    ///
    /// # Errors
    /// When there is no such volume or device, the device is no replica of this volume and size, is one of it already, or there
    /// are as many as there may be.
    pub fn add_replica(
        &self,
        registry: &DeviceRegistry,
        name: &str,
        replica: &str,
    ) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        let shape = volume.shape();
        let count = usize::from(shape.slots.members().len()) + 1;
        if shape.slots.index(replica).is_some() {
            return Err(ReplicationError::Member(replica.to_owned()));
        }
        let device = registry.get(replica)?;
        let said = usable(replica, device.as_ref(), shape.uuid, shape.block_size)?;
        let fits = |said: Answers| said.region_bytes == shape.region_bytes && said.room >= shape.bytes();
        if !said.is_none_or(fits) {
            return Err(ReplicationError::NoReplica { device: replica.to_owned(), volume: shape.uuid });
        }
        let added = volume.add_replica(replica.to_owned(), device, self.is_here(replica));
        added.ok_or(ReplicationError::Replicas(count))
    }

    /// Gives hosts more of a volume, and waits until they see it.
    ///
    /// # Errors
    /// When there is no such volume, it is not active here, it would shrink, a device has no room, or it takes long: then it goes on.
    pub fn resize(&self, name: &str, bytes: u64) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        let shape = volume.shape();
        let blocks = bytes >> shape.block_size.shift();
        if blocks << shape.block_size.shift() != bytes {
            return Err(ReplicationError::Size(bytes));
        }
        let refused = |why| match why {
            ResizeRefused::NoRoom(replicas) => ReplicationError::NoRoom(shape.slots.names(replicas)),
            why => ReplicationError::Resize(why),
        };
        volume.resize(blocks).map_err(refused)?;
        let deadline = Instant::now() + ACTIVATION_MAX;
        while Instant::now() < deadline {
            match volume.resizing() {
                Resizing::Refused(why) => return Err(refused(why)),
                // Hosts are told by the thread that drives it, a moment later.
                Resizing::Done if shape.bytes() == bytes => return Ok(()),
                _ => std::thread::sleep(LOOK_INTERVAL),
            }
        }
        Err(ReplicationError::NotYet(name.to_owned()))
    }

    /// Forgets a replica of a volume for good, and lets go of its device.
    ///
    /// # Errors
    /// When there is no such volume or replica, it counts as in sync here, or too few would be left.
    pub fn remove_replica(&self, name: &str, replica: &str) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        let index = volume.shape().slots.index(replica);
        let index = index.ok_or_else(|| ReplicationError::NotAMember(replica.to_owned()))?;
        let removed = volume.remove_replica(index);
        removed.map_err(|source| ReplicationError::Roster { replica: replica.to_owned(), source })
    }

    pub(super) fn volume(&self, name: &str) -> Result<Arc<VolumeDevice>, ReplicationError> {
        locked(&self.volumes).get(name).cloned().ok_or_else(|| ReplicationError::NotFound(name.to_owned()))
    }

    /// Removes a volume that is not active here; its replicas stay. Nobody may use its device any more.
    ///
    /// # Errors
    /// When there is none of that name, or it is active or in use.
    pub fn delete_volume(&self, registry: &DeviceRegistry, name: &str) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        let over = |status: &HeadStatus| matches!(status.phase, Phase::Deposed | Phase::Released);
        if volume.status().is_some_and(|status| !over(&status)) {
            return Err(ReplicationError::InUse(name.to_owned()));
        }
        registry.delete(name)?;
        let removed = locked(&self.volumes).remove(name);
        drop(removed);
        Ok(())
    }

    /// Makes this node the head of a volume, for a record: its epoch and the replicas in sync. Waits until it serves.
    ///
    /// # Errors
    /// When it is active already, a name is no replica, or not every replica accepts in time: then it goes on trying, and
    /// proposes what to record.
    pub fn activate(
        &self,
        name: &str,
        epoch: u64,
        in_sync: &[String],
        on_serving: OnServing,
    ) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        let slots = Arc::clone(&volume.shape().slots);
        let members = members(&slots, in_sync)?;
        let (events, owner) = (Arc::clone(&self.events), name.to_owned());
        let (bytes, shift) = (Arc::clone(&volume.shape().bytes), volume.shape().block_size.shift());
        // Its paths are shown by the thread that drives it, a moment after it is active.
        let shown = Arc::new(AtomicBool::new(false));
        let is_shown = Arc::clone(&shown);
        let on_event = move |at: Epoch, event: &Event| {
            if let Some(what) = describe(&slots, shift, at, event) {
                tracing::info!(volume = owner, %what, "volume event");
                events.push(&owner, what);
            }
            match event {
                Event::Resized { blocks } => {
                    bytes.store(blocks << shift, Ordering::Release);
                    on_serving(&owner, Shown::Resized);
                }
                Event::Active { .. } => {
                    on_serving(&owner, Shown::Serves);
                    shown.store(true, Ordering::Release);
                }
                Event::Deposed { .. } | Event::Released => on_serving(&owner, Shown::Ceases),
                _ => {}
            }
        };
        volume.activate(Epoch(epoch), members, Box::new(on_event))?;
        let deadline = Instant::now() + ACTIVATION_MAX;
        while Instant::now() < deadline {
            match volume.status().map(|status| status.phase) {
                Some(Phase::Deposed | Phase::Released) | None => break,
                Some(Phase::Fencing { .. }) => std::thread::sleep(LOOK_INTERVAL),
                Some(_) if !is_shown.load(Ordering::Acquire) => std::thread::sleep(LOOK_INTERVAL),
                Some(_) => return Ok(()),
            }
        }
        Err(ReplicationError::NotYet(name.to_owned()))
    }

    /// Takes no more commands, finishes those under way, and lets go of the replicas. Waits until that is done.
    ///
    /// # Errors
    /// When there is no such volume.
    pub fn deactivate(&self, name: &str) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        volume.deactivate();
        let deadline = Instant::now() + ACTIVATION_MAX;
        while Instant::now() < deadline {
            match volume.status().map(|status| status.phase) {
                Some(Phase::Draining) => std::thread::sleep(LOOK_INTERVAL),
                _ => return Ok(()),
            }
        }
        Err(ReplicationError::NotYet(name.to_owned()))
    }

    /// Follows a record.
    ///
    /// # Errors
    /// When there is no such volume, a name is no replica, or the head cannot follow it.
    pub fn set_members(&self, name: &str, epoch: u64, in_sync: &[String]) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        let members = members(&volume.shape().slots, in_sync)?;
        volume.set_members(Epoch(epoch), members)?;
        Ok(())
    }

    /// Changes how regions are copied.
    ///
    /// # Errors
    /// When there is no such volume, or not so many regions can be copied at a time.
    pub fn set_resync(
        &self,
        name: &str,
        change: impl FnOnce(&mut ResyncOptions),
    ) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        let mut options = volume.resync();
        change(&mut options);
        if !options.is_valid() {
            return Err(ReplicationError::Concurrency(options.concurrency));
        }
        volume.set_resync(options);
        Ok(())
    }

    /// Stops to copy to a replica that is not in sync, and leaves it alone; or takes it back.
    ///
    /// # Errors
    /// When there is no such volume or replica, the volume is not active here, or the replica is in sync.
    pub fn keep_out(&self, name: &str, replica: &str, out: bool) -> Result<(), ReplicationError> {
        let volume = self.volume(name)?;
        for index in members(&volume.shape().slots, &[replica.to_owned()])?.iter() {
            if out { volume.keep_out(index)? } else { volume.let_come(index)? }
        }
        Ok(())
    }

    /// Lets writes of a volume wait for `wait` at most, or until [`Self::thaw`]. Returns the number of that pause once nothing is on its
    /// way, and the replicas that hold the same then.
    ///
    /// # Errors
    /// When there is no such volume, it is not active here, or its writes wait already; or the replicas in sync are not equal in
    /// that time.
    pub fn freeze(&self, name: &str, wait: Duration) -> Result<(u64, Vec<String>), ReplicationError> {
        let volume = self.volume(name)?;
        let freeze = volume.freeze(wait)?;
        loop {
            match volume.frozen(freeze) {
                Frozen::Waiting => std::thread::sleep(LOOK_INTERVAL),
                Frozen::Held(members) => return Ok((freeze.0, volume.shape().slots.names(members))),
                Frozen::Over => return Err(ReplicationError::NotFrozen(name.to_owned())),
            }
        }
    }

    /// Lets writes go on: the replicas that held the same from [`Self::freeze`] until this was called.
    ///
    /// # Errors
    /// When there is no such volume, or that pause was over before, whatever the reason.
    pub fn thaw(&self, name: &str, freeze: u64) -> Result<Vec<String>, ReplicationError> {
        let volume = self.volume(name)?;
        loop {
            match volume.thaw(FreezeId(freeze)) {
                Frozen::Waiting => std::thread::sleep(LOOK_INTERVAL),
                Frozen::Held(members) => return Ok(volume.shape().slots.names(members)),
                Frozen::Over => return Err(ReplicationError::NotFrozen(name.to_owned())),
            }
        }
    }

    /// Lets a replica refuse heads below an epoch, whoever they are, and what is on its way from them.
    ///
    /// # Errors
    /// When there is no such replica, its device fails, or it is being accepted by a head just now.
    pub fn fence_replica(&self, name: &str, epoch: u64) -> Result<(), ReplicationError> {
        let replica = locked(&self.replicas).get(name).cloned();
        let replica = replica.ok_or_else(|| ReplicationError::NotFound(name.to_owned()))?;
        replica.forbid(Epoch(epoch))
    }

    /// Gives a replica of this process the content that its snapshot holds, and refuses every head below `epoch`.
    ///
    /// # Errors
    /// When there is no such replica or snapshot, the snapshot is not of that moment, a head of that epoch or a higher one was
    /// accepted, or the device fails.
    pub fn roll_back_replica(
        &self,
        name: &str,
        snapshot: &str,
        moment: Uuid,
        epoch: u64,
    ) -> Result<(), ReplicationError> {
        let replica = locked(&self.replicas).get(name).cloned();
        let replica = replica.ok_or_else(|| ReplicationError::NotFound(name.to_owned()))?;
        replica.roll_back(snapshot, moment, Epoch(epoch))
    }

    /// Whether this node serves a volume; `None` when there is none of that name.
    pub fn serves(&self, name: &str) -> Option<bool> {
        let volume = self.volume(name).ok()?;
        let phase = volume.status().map(|status| status.phase);
        Some(matches!(phase, Some(Phase::Active | Phase::Changing { .. })))
    }

    /// One volume.
    ///
    /// # Errors
    /// When there is no such volume.
    pub fn get(&self, name: &str) -> Result<VolumeStatus, ReplicationError> {
        Ok(status(&*self.volume(name)?))
    }

    /// Every volume, in the order of names.
    pub fn list(&self) -> Vec<VolumeStatus> {
        let volumes = locked(&self.volumes);
        volumes.values().map(|volume| status(volume)).collect()
    }

    /// Events after `since`, oldest first; waits for one if there is none.
    pub fn events(&self, since: u64, wait: Duration) -> Vec<VolumeEvent> {
        let deadline = Instant::now() + wait;
        let mut ring = self.events.lock();
        while ring.last <= since {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                break;
            };
            ring = self.events.news.wait_timeout(ring, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        ring.kept.iter().filter(|event| event.id > since).cloned().collect()
    }
}

/// What is behind the door of a device. Outer `None`: it cannot be read; inner `None`: it is no replica.
fn ask(device: &dyn Device) -> Option<Option<Answers>> {
    let mut bytes = [0; DOOR_BYTES];
    DeviceMedia::open(device).ok()?.read(Block(0), &mut bytes).ok()?;
    Some(Answers::decode(&bytes))
}

/// What a device that is to be a replica says of itself; `None`: it cannot be reached now and is taken on trust. It must say who
/// it is when it is.
fn usable(
    name: &str,
    device: &dyn Device,
    volume: Uuid,
    block_size: BlockSize,
) -> Result<Option<Answers>, ReplicationError> {
    let no_replica = || ReplicationError::NoReplica { device: name.to_owned(), volume };
    let info = device.info();
    let fits = info.operations.contains(Operations::WRITE_ZEROES | Operations::FUA);
    if !fits || info.block_size != block_size {
        return Err(no_replica());
    }
    let Some(answers) = ask(device) else { return Ok(None) };
    answers.filter(|answers| answers.volume == volume).map(Some).ok_or_else(no_replica)
}

fn members(slots: &Slots, names: &[String]) -> Result<Members, ReplicationError> {
    let index = |name: &String| slots.index(name).ok_or_else(|| ReplicationError::NotAMember(name.clone()));
    if names.is_empty() {
        return Err(ReplicationError::Replicas(0));
    }
    names.iter().map(index).collect()
}

fn status(volume: &VolumeDevice) -> VolumeStatus {
    let shape = volume.shape();
    let head = volume.status();
    let state = match head.as_ref().map(|head| head.phase) {
        None | Some(Phase::Released) => "inactive",
        Some(Phase::Fencing { .. }) => "activating",
        Some(Phase::Active) => "active",
        Some(Phase::Changing { .. }) => "changing",
        Some(Phase::Draining) => "draining",
        Some(Phase::Deposed) => "deposed",
    };
    let has = |members: fn(&HeadStatus) -> Members, replica| {
        head.as_ref().is_some_and(|head| members(head).has(replica))
    };
    let replica = |index: ReplicaIndex| {
        Some(ReplicaStatus {
            name: shape.slots.name(index)?,
            in_sync: has(|head| head.recorded, index),
            attached: has(|head| head.attached, index),
            failed: has(|head| head.failed, index),
            kept_out: has(|head| head.kept_out, index),
            regions_stale: head.as_ref().map_or(0, |head| head.stale[index.index()]),
        })
    };
    let replicas: Vec<ReplicaStatus> = shape.slots.members().iter().filter_map(replica).collect();
    let created = CreateVolume {
        name: shape.name.to_string(),
        uuid: shape.uuid,
        replicas: replicas.iter().map(|replica| replica.name.clone()).collect(),
        min_in_sync: shape.min_in_sync,
    };
    VolumeStatus {
        bytes: volume.shape().bytes(),
        state,
        epoch: head.as_ref().map(|head| head.epoch.0),
        replicas,
        regions_dirty: head.as_ref().map_or(0, |head| head.dirty),
        region_bytes: volume.shape().region_bytes,
        resync: volume.resync(),
        latency_ns: head.as_ref().and_then(|head| head.latency_ns),
        counters: head.map(|head| head.counters).unwrap_or_default(),
        created,
    }
}

/// An event as people and programs read it; `None` for ends of commands.
fn describe(slots: &Slots, block_shift: u8, epoch: Epoch, event: &Event) -> Option<Value> {
    let names = |members: Members| slots.names(members);
    let name = |replica: &ReplicaIndex| slots.name(*replica);
    Some(match event {
        Event::Done { .. } => return None,
        Event::Active { epoch, in_sync } => {
            json!({"event": "active", "epoch": epoch.0, "in_sync": names(*in_sync)})
        }
        Event::ProposeOut { replicas, epoch, reason } => json!({
            "event": "propose_out", "epoch": epoch.0, "replicas": names(*replicas), "reason": reason.as_str(),
        }),
        Event::ProposeIn { replicas, epoch } => {
            json!({"event": "propose_in", "epoch": epoch.0, "replicas": names(*replicas)})
        }
        Event::Detached { replica, reason } => json!({
            "event": "detached", "epoch": epoch.0, "replica": name(replica), "reason": reason.as_str(),
        }),
        Event::Resync { replica, regions } => {
            json!({"event": "resync", "epoch": epoch.0, "replica": name(replica), "regions": regions})
        }
        Event::Resized { blocks } => {
            json!({"event": "resized", "epoch": epoch.0, "size_bytes": blocks << block_shift})
        }
        Event::Unflushed => json!({"event": "unflushed", "epoch": epoch.0}),
        Event::Deposed { superseded } => {
            json!({"event": "deposed", "epoch": epoch.0, "superseded": superseded})
        }
        Event::Released => json!({"event": "released", "epoch": epoch.0}),
    })
}
