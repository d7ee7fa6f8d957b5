//! One copy of a volume, on a device.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use fabrics::Now;
use reactors::Clock;
use uuid::Uuid;

use super::error::ReplicationError;
use super::replica_queue::ReplicaQueue;
use super::snapshots::Errands;
use super::window::{ANSWERS_MAX, Answer, Answers, BLOCKS, METADATA, Verdict, WINDOWS};
use crate::device::{
    Claim, Device, DeviceCounters, DeviceError, DeviceInfo, Operations, Queue, QueueContext,
};
use crate::lvol::{DeviceMedia, StoreSet};
use crate::store::{Block, Media};
use crate::volume::format::{self, BLOCK_BYTES, Content, Superblock};
use crate::volume::{Epoch, HeadId, Lineage, REGION_BYTES_MAX, Replica, ReplicaState, Session};

/// How long a replica lets nobody else in after it heard from the head.
pub(super) const LEASE: Duration = Duration::from_millis(1500);
/// How long commands of a head that is refused are waited for.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How often they are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Base-two logarithm of [`BLOCK_BYTES`].
pub(super) const BLOCK_SHIFT: u8 = 12;

/// What a replica is, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaInfo {
    /// The volume it is a copy of.
    pub volume: Uuid,
    /// Bytes that hosts see.
    pub bytes: u64,
    /// The highest epoch it accepted.
    pub epoch: Epoch,
    /// Whether a head is attached.
    pub attached: bool,
    /// Whether it has been up since it was last known to hold everything.
    pub sound: bool,
}

/// What a new replica begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Nothing. `zeroed`: the device reads as zeroes everywhere, so that all such replicas are equal.
    Empty {
        /// See above.
        zeroed: bool,
    },
    /// The device is a clone of what a snapshot of this moment holds, and nothing was written to it since: all such replicas are
    /// equal.
    Moment(Uuid),
}

impl Start {
    fn zeroed(self) -> Option<bool> {
        match self {
            Self::Empty { zeroed } => Some(zeroed),
            Self::Moment(_) => None,
        }
    }

    /// Whether a device with this superblock is a clone of that moment.
    fn is_of(self, found: &Superblock) -> bool {
        matches!(self, Self::Moment(moment) if moment == found.moment && !moment.is_nil())
    }

    /// Whether a device that is a replica already is not one that began so.
    fn is_refused(self, found: &Superblock) -> bool {
        let began = |moment: Uuid| found.lineage == Lineage::of_moment(moment.as_u128());
        matches!(self, Self::Moment(moment) if !began(moment))
    }
}

/// One copy of a volume.
pub struct ReplicaDevice {
    shared: Arc<Shared>,
}

/// What its queues share.
pub(super) struct Shared {
    name: Arc<str>,
    uuid: Uuid,
    pub(super) base: Arc<dyn Device>,
    _claim: Option<Claim>,
    pub(super) place: Place,
    /// The end of the device below, when it was last asked.
    end: AtomicU64,
    state: Mutex<State>,
    pub(super) errands: Errands,
    /// One of them may have the base device.
    pub(super) stores: Weak<StoreSet>,
    pub(super) clock: Clock,
}

/// Where things lie, in logical blocks of the base device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Base-two logarithm of logical blocks in a block of metadata.
    pub(super) shift: u8,
    /// The first block of the data.
    pub(super) data: u64,
}

impl Place {
    pub(super) fn new(front: u32, block_shift: u8) -> Self {
        let shift = BLOCK_SHIFT - block_shift;
        Self { shift, data: u64::from(front) << shift }
    }

    /// A block of metadata.
    pub(super) fn at(&self, block: u64) -> u64 {
        block << self.shift
    }

    /// The blocks of the device behind blocks of a window: those of the data, or of the pages. Only the replica itself
    /// touches the superblock.
    pub(super) fn find(&self, blocks: &std::ops::Range<u64>) -> Option<std::ops::Range<u64>> {
        if blocks.start >= METADATA {
            let pages = blocks.start - METADATA..blocks.end - METADATA;
            return (pages.start >= self.at(2) && pages.end <= self.data).then_some(pages);
        }
        let data = blocks.start + self.data..blocks.end.checked_add(self.data)?;
        (blocks.end <= METADATA).then_some(data)
    }
}

/// What changes.
pub(super) struct State {
    pub(super) machine: Replica,
    pub(super) superblock: Superblock,
    pub(super) sequence: u64,
    /// Of the head that is attached.
    pub(super) window: u16,
    /// A superblock is on its way.
    pub(super) persisting: bool,
    answers: VecDeque<Answer>,
}

impl State {
    pub(super) fn answer(&mut self, session: Session, verdict: Verdict) {
        self.answers.retain(|answer| answer.session != session);
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(Answer { session, verdict });
    }

    /// A command came in a window; whether it is to be carried out, as [`Replica::admit`] says.
    #[inline]
    pub(super) fn admit(&mut self, window: u16, now: Now) -> bool {
        let session = self.machine.session().filter(|_| self.window == window);
        session.is_some_and(|session| self.machine.admit(session, now))
    }

    pub(super) fn next_window(&self) -> u16 {
        self.window % (WINDOWS - 1) + 1
    }

    pub(super) fn answers(&self) -> Answers {
        Answers {
            volume: self.superblock.volume,
            bytes: self.superblock.bytes,
            region_bytes: self.superblock.region_bytes,
            epoch: self.machine.state().epoch,
            lineage: self.superblock.lineage,
            front: self.superblock.front,
            room: 0,
            list: self.answers.iter().copied().collect(),
        }
    }
}

impl Shared {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Now {
        Now(self.clock.now().as_nanos())
    }

    /// Whether blocks lie within the device below, which may have grown.
    pub(super) fn reaches(&self, end: u64) -> bool {
        end <= self.end.load(Ordering::Relaxed) || {
            let found = self.base.info().blocks;
            self.end.store(found, Ordering::Relaxed);
            end <= found
        }
    }

    /// Bytes that hosts could see of it as large as the device is now.
    fn room(&self, front: u32) -> u64 {
        let blocks = self.base.info().blocks.saturating_sub(self.place.data);
        let device = blocks.min(METADATA) << (BLOCK_SHIFT - self.place.shift);
        device.min(format::regions_max(front).saturating_mul(u64::from(REGION_BYTES_MAX)))
    }

    /// What is read from the door.
    pub(super) fn answers(&self) -> Answers {
        let answers = self.lock().answers();
        Answers { room: self.room(answers.front), ..answers }
    }

    /// Whether it could be so large.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let front = self.lock().superblock.front;
        bytes <= self.room(front)
    }
}

/// What lies where in a device, for a control thread.
pub(super) struct Disk {
    media: DeviceMedia,
    device: String,
}

impl Disk {
    pub(super) fn open(base: &Arc<dyn Device>) -> Result<Self, ReplicationError> {
        Ok(Self { media: DeviceMedia::open(base.as_ref())?, device: base.info().name.to_string() })
    }

    /// Most bytes that hosts can see of it: what is left beside the metadata, in whole regions.
    fn capacity(&self) -> u64 {
        self.capacity_beside(format::front_blocks)
    }

    fn capacity_beside(&self, metadata: impl Fn(u64) -> u64) -> u64 {
        let (mut regions, blocks) =
            (self.media.blocks() * BLOCK_BYTES as u64 / u64::from(REGION_BYTES_MAX), self.media.blocks());
        let per_region = u64::from(REGION_BYTES_MAX) / BLOCK_BYTES as u64;
        while regions > 0 && regions * per_region + metadata(regions) > blocks {
            regions -= 1;
        }
        regions * u64::from(REGION_BYTES_MAX)
    }

    fn read(&mut self, block: u64) -> Result<Box<format::Block>, ReplicationError> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        self.media.read(Block(block), &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn superblock(&mut self) -> Result<Option<(Superblock, u64)>, ReplicationError> {
        let (first, second) = (self.read(0)?, self.read(1)?);
        Ok(format::decode_superblock([&first, &second]))
    }

    /// Writes a superblock in its turn. It is on the media then, and everything that was completed before.
    pub(super) fn write_superblock(
        &mut self,
        superblock: &Superblock,
        sequence: u64,
    ) -> Result<(), ReplicationError> {
        let at = format::superblock_at(sequence);
        self.media.write(Block(at), &format::encode_superblock(superblock, sequence))?;
        Ok(self.media.flush()?)
    }

    /// Gives a replica, whose newest superblock had this sequence, another superblock and clean bits; its new sequence. A crash
    /// leaves one or the other.
    pub(super) fn replace(
        &mut self,
        superblock: &Superblock,
        sequence: u64,
    ) -> Result<u64, ReplicationError> {
        self.write_pages(superblock, true)?;
        self.media.flush()?;
        for next in 1..=2 {
            self.write_superblock(superblock, sequence + next)?;
        }
        Ok(sequence + 2)
    }

    fn write_pages(&mut self, superblock: &Superblock, clean: bool) -> Result<(), ReplicationError> {
        let regions = superblock.bytes.div_ceil(u64::from(superblock.region_bytes));
        let words = [if clean { 0 } else { u64::MAX }; format::PAGE_WORDS];
        for page in 0..u32::try_from(format::pages(regions)).unwrap_or(u32::MAX) {
            for copy in 0..2 {
                let block = format::encode_page(page, &words, 1);
                self.media.write(Block(format::page_at(page, copy)), &block)?;
            }
        }
        Ok(())
    }

    /// Whether the device holds so much.
    fn check_room(&self, front: u32, bytes: u64) -> Result<(), ReplicationError> {
        let needed = u64::from(front).saturating_add(bytes.div_ceil(BLOCK_BYTES as u64));
        match bytes > 0 && needed <= self.media.blocks() {
            true => Ok(()),
            false => Err(ReplicationError::TooSmall { device: self.device.clone(), bytes }),
        }
    }

    /// A replica of an earlier version lies here: nothing of it may be overwritten unasked.
    fn refuse_earlier(&mut self, bytes: Option<u64>) -> Result<(), ReplicationError> {
        let behind = |regions| 2 * (1 + format::pages(regions));
        let at = bytes.unwrap_or_else(|| self.capacity_beside(behind)).div_ceil(BLOCK_BYTES as u64);
        let is_old = at < self.media.blocks() && format::is_of_earlier_version(&*self.read(at)?);
        match is_old {
            true => Err(ReplicationError::Earlier { device: self.device.clone() }),
            false => Ok(()),
        }
    }

    /// Writes an empty replica. With `equal`, its content is known to be that of the others: all zeroes.
    fn format(&mut self, superblock: &Superblock, equal: bool) -> Result<(), ReplicationError> {
        self.write_pages(superblock, equal)?;
        for copy in 0..2 {
            let block = format::encode_superblock(superblock, 1);
            self.media.write(Block(format::superblock_at(copy)), &block)?;
        }
        self.media.flush()?;
        Ok(())
    }
}

impl ReplicaDevice {
    /// Opens the replica of `volume` on a device, and makes it when there is none. `bytes`: what hosts see; all that fits by
    /// default. `start`: what a new one begins with.
    ///
    /// # Errors
    /// When the device fails, is too small, or holds a replica of another volume.
    pub fn open(
        name: &str,
        base: Arc<dyn Device>,
        (claim, stores): (Option<Claim>, Weak<StoreSet>),
        volume: Uuid,
        bytes: Option<u64>,
        start: Start,
    ) -> Result<Self, ReplicationError> {
        let mut disk = Disk::open(&base)?;
        let (superblock, sequence) = match disk.superblock()? {
            Some((found, sequence)) if start.is_of(&found) => {
                disk.check_room(found.front, found.bytes)?;
                let fresh = Superblock {
                    volume,
                    content: Content::Whole,
                    window: 0,
                    state: ReplicaState { epoch: Epoch(0), head: HeadId::NONE },
                    lineage: Lineage::of_moment(found.moment.as_u128()),
                    moment: Uuid::nil(),
                    ..found
                };
                let sequence = disk.replace(&fresh, sequence)?;
                (fresh, sequence)
            }
            Some((found, _)) if start.is_refused(&found) => {
                return Err(ReplicationError::NoMoment { device: disk.device.clone() });
            }
            Some((found, _)) if found.volume != volume => {
                let (device, found, wanted) = (disk.device.clone(), found.volume, volume);
                return Err(ReplicationError::OtherVolume { device, found, wanted });
            }
            Some((found, _)) if !found.moment.is_nil() => {
                // What a snapshot held. Others may have gone on since then, and no bit says where.
                tracing::warn!(device = disk.device, moment = %found.moment, "a replica of a snapshot: all is to be copied");
                let (content, lineage, moment) = (Content::Fresh, Lineage::NONE, Uuid::nil());
                // Its number of attachments went back as well: what is still on its way to a later one must not meet it.
                let window = Uuid::new_v4().as_fields().1 % WINDOWS;
                let superblock = Superblock { content, lineage, moment, window, ..found };
                disk.check_room(found.front, found.bytes)?;
                disk.format(&superblock, false)?;
                (superblock, 1)
            }
            Some((found, sequence)) => {
                disk.check_room(found.front, found.bytes)?;
                (found, sequence)
            }
            None if start.zeroed().is_none() => {
                return Err(ReplicationError::NoMoment { device: disk.device.clone() });
            }
            None => {
                disk.refuse_earlier(bytes)?;
                let zeroed = start.zeroed() == Some(true);
                let bytes = bytes.unwrap_or_else(|| disk.capacity());
                let front = format::front_blocks(bytes.div_ceil(u64::from(REGION_BYTES_MAX)));
                let state = ReplicaState { epoch: Epoch(0), head: HeadId::NONE };
                let superblock = Superblock {
                    volume,
                    bytes,
                    region_bytes: REGION_BYTES_MAX,
                    content: Content::Fresh,
                    window: 0,
                    state,
                    lineage: Lineage::NONE,
                    moment: Uuid::nil(),
                    front: u32::try_from(front).unwrap_or(u32::MAX),
                };
                disk.check_room(superblock.front, bytes)?;
                disk.format(&superblock, zeroed)?;
                (superblock, 1)
            }
        };
        let clock = Clock::new();
        let now = Now(clock.now().as_nanos());
        let lease_ns = u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX);
        let state = State {
            machine: Replica::new(superblock.state, lease_ns, now),
            superblock,
            sequence,
            window: superblock.window,
            persisting: false,
            answers: VecDeque::new(),
        };
        let place = Place::new(superblock.front, base.info().block_size.shift());
        let uuid = Uuid::new_v5(&volume, base.info().uuid.as_bytes());
        let (state, end) = (Mutex::new(state), AtomicU64::new(base.info().blocks));
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.into(),
                uuid,
                base,
                _claim: claim,
                place,
                end,
                state,
                errands: Errands::default(),
                stores,
                clock,
            }),
        })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What it is now.
    pub fn replica(&self) -> ReplicaInfo {
        let state = self.shared.lock();
        ReplicaInfo {
            volume: state.superblock.volume,
            bytes: state.superblock.bytes,
            epoch: state.machine.state().epoch,
            attached: state.machine.session().is_some(),
            sound: state.machine.is_sound(),
        }
    }

    /// Refuses heads below an epoch from now on, and over restarts. Returns once nothing of them is under way.
    pub(super) fn forbid(&self, epoch: Epoch) -> Result<(), ReplicationError> {
        let shared = &self.shared;
        let busy = || ReplicationError::Attaching(shared.name.to_string());
        let nobody = HeadId(Uuid::new_v4().as_u128());
        let mut disk = Disk::open(&shared.base)?;
        let (wanted, block, at) = {
            let mut state = shared.lock();
            if state.persisting {
                return Err(busy());
            }
            let Some(wanted) = state.machine.forbid(epoch, nobody) else { return Ok(()) };
            state.persisting = true;
            let superblock = Superblock { state: wanted, ..state.superblock };
            let sequence = state.sequence + 1;
            let at = format::superblock_at(sequence);
            (wanted, format::encode_superblock(&superblock, sequence), at)
        };
        let written = disk.media.write(Block(at), &block).and_then(|()| disk.media.flush());
        let mut state = shared.lock();
        state.persisting = false;
        written?;
        state.sequence += 1;
        state.superblock.state = wanted;
        state.machine.forbidden(wanted);
        drop(state);
        let deadline = Instant::now() + DRAIN_MAX;
        while shared.lock().machine.is_busy() {
            if Instant::now() > deadline {
                return Err(busy());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Name of the device it lies on.
    pub fn base_name(&self) -> String {
        self.shared.base.info().name.to_string()
    }
}

impl Device for ReplicaDevice {
    fn info(&self) -> DeviceInfo {
        let base = self.shared.base.info();
        DeviceInfo {
            name: Arc::clone(&self.shared.name),
            product: "Replica of a volume",
            uuid: self.shared.uuid,
            blocks: BLOCKS,
            // Flushes are called through the door.
            operations: base.operations - Operations::FLUSH,
            ..base
        }
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        let inner = self.shared.base.open_queue(context)?;
        Ok(Box::new(ReplicaQueue::new(Arc::clone(&self.shared), inner, context)))
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.base.counters()
    }
}
