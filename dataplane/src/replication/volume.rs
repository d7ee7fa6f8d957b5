//! The volume on one node, as a device: active here or not.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fabrics::Now;
use reactors::{Clock, IoBuf};
use uuid::Uuid;

use super::driver::{Head, OnEvent};
use super::error::ReplicationError;
use super::keeper;
use super::lane::Lane;
use super::options::ResyncOptions;
use super::replica::LEASE;
use super::slots::Slots;
use crate::device::{
    Atomicity, BlockSize, CounterBook, Device, DeviceCounters, DeviceError, DeviceInfo, Done, Io, Lba, Meter,
    OpKind, Operations, Queue, QueueContext, Submission,
};
use crate::volume::{
    Config, Epoch, FreezeId, FreezeRefused, Frozen, HeadId, Members, MembersRefused, Phase, REPLICAS_MAX,
    ReplicaIndex, ResizeRefused, Resizing, RosterRefused, Volume, VolumeCounters, check_removal,
};

/// How far clocks of nodes may run apart: crystals are a tenth as bad.
const DRIFT_PPM: u32 = 1000;
/// A replica that has not answered for this long is given up.
const SLOW_NS: u64 = 700 * fabrics::NS_PER_MS;
/// How often idle regions are looked for.
const CLEAN_NS: u64 = 5 * fabrics::NS_PER_S;
/// How often replicas that are not attached are tried.
const ATTACH_NS: u64 = fabrics::NS_PER_S / 2;
/// Commands of a volume at a time, over all reactors.
const COMMANDS_MAX: u32 = 1024;
/// Regions copied at a time.
pub(super) const COPIES_MAX: u8 = 4;

/// What a volume is made of.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) name: Arc<str>,
    pub(super) uuid: Uuid,
    /// What hosts see; it changes while it is served.
    pub(super) bytes: Arc<AtomicU64>,
    pub(super) region_bytes: u32,
    pub(super) block_size: BlockSize,
    pub(super) min_in_sync: u8,
    /// Its replicas, as they are now.
    pub(super) slots: Arc<Slots>,
}

impl Shape {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }
}

/// What the queues of a volume share.
pub(super) struct Shared {
    shape: Shape,
    pub(super) uuid: Uuid,
    pub(super) block_size: BlockSize,
    head: Mutex<Option<Arc<Head>>>,
    resync: Mutex<ResyncOptions>,
    /// Counts the changes of `head`.
    generation: AtomicU64,
    counters: CounterBook,
    clock: Clock,
}

impl Shared {
    pub(super) fn slots(&self) -> &Arc<Slots> {
        &self.shape.slots
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Head>>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head, and the number of the change that brought it.
    fn current(&self) -> (Option<Arc<Head>>, u64) {
        let head = self.lock();
        (head.clone(), self.generation.load(Ordering::Acquire))
    }

    /// Lets the reactors in.
    pub(super) fn publish(&self, head: Option<Arc<Head>>) {
        let mut current = self.lock();
        *current = head;
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

struct Active {
    head: Arc<Head>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Active {
    /// Whether it is not at its end.
    fn is_on(&self) -> bool {
        !self.head.lock().is_over()
    }
}

/// A volume on this node. Dropping it ends its activation at once, without letting go of the replicas.
pub struct VolumeDevice {
    shared: Arc<Shared>,
    active: Mutex<Option<Active>>,
}

/// How an activation is.
#[derive(Clone, Debug)]
pub(super) struct HeadStatus {
    pub(super) phase: Phase,
    pub(super) epoch: Epoch,
    pub(super) recorded: Members,
    pub(super) attached: Members,
    pub(super) failed: Members,
    pub(super) kept_out: Members,
    pub(super) latency_ns: Option<u64>,
    pub(super) stale: Vec<u64>,
    pub(super) dirty: u64,
    pub(super) counters: VolumeCounters,
}

impl VolumeDevice {
    pub(super) fn new(shape: Shape) -> Self {
        let shared = Shared {
            uuid: shape.uuid,
            block_size: shape.block_size,
            shape,
            head: Mutex::default(),
            resync: Mutex::default(),
            generation: AtomicU64::new(0),
            counters: CounterBook::default(),
            clock: Clock::new(),
        };
        Self { shared: Arc::new(shared), active: Mutex::default() }
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shared.shape
    }

    fn active(&self) -> MutexGuard<'_, Option<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now(self.shared.clock.now().as_nanos())
    }

    /// Makes this node the head, for what management has recorded.
    pub(super) fn activate(
        &self,
        epoch: Epoch,
        in_sync: Members,
        on_event: OnEvent,
    ) -> Result<(), ReplicationError> {
        let mut active = self.active();
        if let Some(own) = active.as_ref().filter(|own| own.is_on()) {
            return Err(ReplicationError::Active(own.head.lock().epoch().0));
        }
        // One may have been removed since it was looked up by its name.
        if !self.shared.slots().members().covers(in_sync) {
            return Err(ReplicationError::NotAMember("one of them".to_owned()));
        }
        end(active.take(), false);
        let shape = &self.shared.shape;
        let config = Config {
            members: shape.slots.members(),
            blocks: shape.bytes() >> shape.block_size.shift(),
            region_blocks: shape.region_bytes >> shape.block_size.shift(),
            min_in_sync: shape.min_in_sync,
            head: HeadId(Uuid::new_v4().as_u128()),
            local: shape.slots.local(),
            lease_ns: u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX),
            drift_ppm: DRIFT_PPM,
            slow_ns: SLOW_NS,
            commands_max: COMMANDS_MAX,
            copies_max: COPIES_MAX,
            pace: self.resync().pace(shape.block_size.shift()),
            clean_ns: CLEAN_NS,
            attach_ns: ATTACH_NS,
        };
        let machine = Volume::new(config, epoch, in_sync, self.now());
        let head = Arc::new(Head::new(machine, on_event));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, own, told) = (Arc::clone(&self.shared), Arc::clone(&head), Arc::clone(&stop));
        let work = move || {
            let name = Arc::clone(&shared.shape.name);
            if let Err(error) = keeper::run(&shared, &own, &told) {
                tracing::error!(volume = &*name, %error, "the volume cannot be kept");
            }
            shared.publish(None);
        };
        let name = format!("volume-{}", shape.name);
        let thread = std::thread::Builder::new().name(name).spawn(work)?;
        *active = Some(Active { head, stop, thread });
        Ok(())
    }

    /// Takes no more commands, finishes those it has, and lets go of the replicas.
    pub(super) fn deactivate(&self) {
        if let Some(active) = &*self.active() {
            active.head.lock().deactivate(self.now());
            active.head.nudge();
        }
    }

    /// Follows a record.
    pub(super) fn set_members(&self, epoch: Epoch, in_sync: Members) -> Result<(), MembersRefused> {
        let active = self.active();
        let head = &active.as_ref().ok_or(MembersRefused::NotActive)?.head;
        let followed = head.lock().set_members(epoch, in_sync, self.now());
        head.nudge();
        followed
    }

    /// Asks the head there is, and lets its thread look at what came of it.
    pub(super) fn with_head<R>(&self, ask: impl FnOnce(&mut Volume, Now) -> R) -> Option<R> {
        let active = self.active();
        let head = &active.as_ref()?.head;
        let answer = ask(&mut head.lock(), self.now());
        head.nudge();
        Some(answer)
    }

    /// Lets writes wait.
    pub(super) fn freeze(&self, wait: Duration) -> Result<FreezeId, FreezeRefused> {
        let ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        match &*self.active() {
            Some(active) => active.head.lock().freeze(ns, self.now()),
            None => Err(FreezeRefused::NotActive),
        }
    }

    /// Whether replicas hold the same since then.
    pub(super) fn frozen(&self, freeze: FreezeId) -> Frozen {
        self.active().as_ref().map_or(Frozen::Over, |active| active.head.lock().frozen(freeze))
    }

    /// Asks for the end of it.
    pub(super) fn thaw(&self, freeze: FreezeId) -> Frozen {
        self.with_head(|machine, now| machine.thaw(freeze, now)).unwrap_or(Frozen::Over)
    }

    /// How regions are copied.
    pub(super) fn resync(&self) -> ResyncOptions {
        *self.shared.resync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how regions are copied, now and when it is activated again.
    pub(super) fn set_resync(&self, options: ResyncOptions) {
        *self.shared.resync.lock().unwrap_or_else(PoisonError::into_inner) = options;
        if let Some(active) = &*self.active() {
            let pace = options.pace(self.shared.block_size.shift());
            active.head.lock().set_pace(pace, self.now());
        }
    }

    /// Stops to copy to a replica until it may come back.
    pub(super) fn keep_out(&self, replica: ReplicaIndex) -> Result<(), MembersRefused> {
        match &*self.active() {
            Some(active) => active.head.lock().keep_out(replica, self.now()),
            None => Err(MembersRefused::NotActive),
        }
    }

    /// Takes a replica back that was kept out.
    pub(super) fn let_come(&self, replica: ReplicaIndex) -> Result<(), MembersRefused> {
        match &*self.active() {
            Some(active) => active.head.lock().let_come(replica),
            None => return Err(MembersRefused::NotActive),
        }
        Ok(())
    }

    /// One more replica, at once if it is active. `None`: there is no place for it.
    pub(super) fn add_replica(&self, name: String, device: Arc<dyn Device>, local: bool) -> Option<()> {
        let active = self.active();
        let replica = self.shared.slots().insert(name, device, local)?;
        if let Some(active) = active.as_ref().filter(|active| active.is_on()) {
            active.head.lock().add_replica(replica, local);
        }
        Some(())
    }

    /// Gives hosts more blocks.
    pub(super) fn resize(&self, blocks: u64) -> Result<(), ResizeRefused> {
        match &*self.active() {
            Some(active) => active.head.lock().resize(blocks, self.now()),
            None => Err(ResizeRefused::Busy),
        }
    }

    /// What became of that.
    pub(super) fn resizing(&self) -> Resizing {
        let over = Resizing::Refused(ResizeRefused::Busy);
        self.active().as_ref().map_or(over, |active| active.head.lock().resizing())
    }

    /// Lets go of a replica for good.
    pub(super) fn remove_replica(&self, replica: ReplicaIndex) -> Result<(), RosterRefused> {
        let active = self.active();
        match active.as_ref().filter(|active| active.is_on()) {
            Some(active) => active.head.lock().remove_replica(replica, self.now())?,
            None => check_removal(self.shared.slots().members().len(), self.shape().min_in_sync)?,
        }
        self.shared.slots().remove(replica);
        if let Some(active) = &*active {
            active.head.wake_all();
        }
        Ok(())
    }

    /// How the last activation is.
    pub(super) fn status(&self) -> Option<HeadStatus> {
        let active = self.active();
        let machine = active.as_ref()?.head.lock();
        let replicas = Members::first(REPLICAS_MAX);
        Some(HeadStatus {
            phase: machine.phase(),
            epoch: machine.epoch(),
            recorded: machine.recorded(),
            attached: machine.attached(),
            failed: machine.failed(),
            kept_out: machine.kept_out(),
            latency_ns: machine.latency_ns(),
            stale: replicas.iter().map(|replica| machine.regions_stale(replica)).collect(),
            dirty: machine.regions_dirty(),
            counters: machine.counters(),
        })
    }
}

/// Ends an activation: told to stop, or at its end already.
fn end(active: Option<Active>, stop: bool) {
    let Some(active) = active else { return };
    active.stop.store(stop, Ordering::Release);
    // A panic there was reported when it happened.
    let _ = active.thread.join();
}

impl Drop for VolumeDevice {
    fn drop(&mut self) {
        end(self.active().take(), true);
    }
}

impl Device for VolumeDevice {
    fn info(&self) -> DeviceInfo {
        let shape = &self.shared.shape;
        DeviceInfo {
            name: Arc::clone(&shape.name),
            product: "Replicated volume",
            uuid: shape.uuid,
            block_size: shape.block_size,
            blocks: shape.bytes() >> shape.block_size.shift(),
            write_cache: true,
            operations: Operations::all(),
            atomic: Atomicity::BLOCK,
            preferred_blocks: 1,
        }
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        let shared = &self.shared;
        let lane = Lane::open(shared.uuid, shared.block_size, shared.slots(), context)?;
        Ok(Box::new(VolumeQueue { shared: Arc::clone(shared), meter: shared.counters.open(), lane }))
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.counters.sum()
    }
}

/// One reactor's way into a volume.
struct VolumeQueue {
    shared: Arc<Shared>,
    lane: Lane,
    meter: Meter,
}

impl VolumeQueue {
    /// Turns to the head that there is now.
    fn follow(&mut self) {
        if self.shared.generation.load(Ordering::Acquire) == self.lane.generation() {
            return;
        }
        let (head, generation) = self.shared.current();
        self.lane.attach(head, generation);
    }
}

impl Queue for VolumeQueue {
    fn submit(&mut self, io: Io) -> Submission {
        self.follow();
        self.lane.submit(io)
    }

    fn is_memory(&self) -> bool {
        self.lane.is_memory()
    }

    #[inline]
    fn lend(&mut self, lba: Lba, bytes: u32) -> Option<IoBuf> {
        self.follow();
        let lent = self.lane.lend(lba, bytes)?;
        self.meter.done(OpKind::Read, u64::from(bytes));
        Some(lent)
    }

    fn kick(&mut self) {
        self.lane.kick();
    }

    fn poll(&mut self, done: &mut Done) {
        self.follow();
        self.lane.poll(false);
        while !done.is_full()
            && let Some((kind, bytes, finished)) = self.lane.take_finished()
        {
            match finished.status.is_success() {
                true => self.meter.done(kind, bytes),
                false => self.meter.failed(kind),
            }
            done.push(finished);
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.lane.wait_fd())
    }

    fn before_sleep(&mut self) -> bool {
        self.lane.before_sleep()
    }

    fn has_background(&self) -> bool {
        true
    }

    fn in_flight(&self) -> usize {
        self.lane.in_flight()
    }
}
