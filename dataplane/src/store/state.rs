//! What a store is at one record of its log: volumes, their maps, the counts. Records change it, live and in recovery
//! alike, and the same records always give the same state.

use uuid::Uuid;

use super::cache::{Pages, Stop, Target};
use super::format::{FANOUT, Layout, NAME_BYTES, Record, VolumeEntry};
use super::space::Space;
use super::tree::{Leaf, Meta, Root, Step, height_for};
use super::{Block, Lsn, VOLUME_BLOCKS_MAX, VolumeBlock, VolumeId};

/// What a volume may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeKind {
    /// Hosts read and write it.
    Writable,
    /// It never changes.
    Snapshot,
}

/// What a volume is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeInfo {
    /// Its place.
    pub id: VolumeId,
    /// Identity that hosts see.
    pub uuid: Uuid,
    /// Name, unique in the store.
    pub name: String,
    /// Size in blocks.
    pub blocks: u64,
    /// What it may be used for.
    pub kind: VolumeKind,
    /// What it was made from, while that exists.
    pub origin: Option<VolumeId>,
}

/// Space of a store, in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters {
    /// For data and map pages.
    pub total: u64,
    /// Free now.
    pub free: u64,
    /// Free once what is under way is done, and a checkpoint is written.
    pub freeing: u64,
    /// Changed map pages in memory, each of which a checkpoint gives a block.
    pub unplaced: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) entry: VolumeEntry,
    pub(crate) root: Root,
    /// Freeing met damage.
    pub(crate) stuck: bool,
}

impl Volume {
    pub(crate) fn from_entry(entry: VolumeEntry, layout: &Layout) -> Option<Self> {
        let target = Target::from_raw(entry.root.get());
        let height = entry.height;
        let rooted = match target {
            Target::None => true,
            Target::Block(block) => layout.is_data(block),
            Target::Frame(_) => false,
        };
        let sized = entry.blocks.get() <= VOLUME_BLOCKS_MAX
            && (height_for(entry.blocks.get())..=height_for(VOLUME_BLOCKS_MAX)).contains(&height);
        (rooted && sized).then_some(Self { entry, root: Root { target, height }, stuck: false })
    }

    /// The entry a checkpoint writes, once the root has a block.
    pub(crate) fn to_entry(&self) -> VolumeEntry {
        let mut entry = self.entry.clone();
        entry.root = self.root.target.raw().into();
        entry.height = self.root.height;
        entry
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.entry.blocks.get()
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.entry.flags & flag != 0
    }

    fn keep(&self) -> Leaf {
        Leaf(self.blocks().div_ceil(FANOUT as u64))
    }

    fn info(&self, id: VolumeId) -> VolumeInfo {
        let kind = if self.has(VolumeEntry::SNAPSHOT) { VolumeKind::Snapshot } else { VolumeKind::Writable };
        VolumeInfo {
            id,
            uuid: Uuid::from_bytes(self.entry.uuid),
            name: self.entry.name().to_owned(),
            blocks: self.blocks(),
            kind,
            origin: self.entry.origin.get().checked_sub(1).map(VolumeId),
        }
    }
}

pub(crate) struct State {
    pub(crate) uuid: Uuid,
    pub(crate) layout: Layout,
    pub(crate) meta: Meta,
    pub(crate) volumes: Vec<Option<Volume>>,
    pub(crate) lsn: Lsn,
}

impl State {
    pub(crate) fn empty(uuid: Uuid, layout: Layout, map_pages: usize, counts_pages: usize) -> Self {
        let meta = Meta { pages: Pages::new(map_pages), space: Space::empty(layout, counts_pages) };
        Self { uuid, layout, meta, volumes: vec![None; layout.volumes as usize], lsn: Lsn(0) }
    }

    /// A volume that is not deleted.
    pub(crate) fn live(&self, id: VolumeId) -> Option<&Volume> {
        self.place(id).filter(|volume| !volume.has(VolumeEntry::DELETED))
    }

    fn place(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(id.0 as usize)?.as_ref()
    }

    fn place_mut(&mut self, id: VolumeId) -> &mut Volume {
        self.volumes[id.0 as usize].as_mut().expect("readiness was checked")
    }

    /// A place in the table that no volume has.
    pub(crate) fn free_place(&self) -> Option<VolumeId> {
        let place = self.volumes.iter().position(Option::is_none)?;
        u32::try_from(place).ok().map(VolumeId)
    }

    pub(crate) fn named(&self, name: &str) -> Option<VolumeId> {
        self.list().find(|(_, volume)| volume.entry.name() == name).map(|(id, _)| id)
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = (VolumeId, &Volume)> {
        let places = (0u32..).zip(&self.volumes);
        let volumes = places.filter_map(|(id, volume)| volume.as_ref().map(|volume| (VolumeId(id), volume)));
        volumes.filter(|(_, volume)| !volume.has(VolumeEntry::DELETED))
    }

    pub(crate) fn info(&self, id: VolumeId) -> Option<VolumeInfo> {
        self.live(id).map(|volume| volume.info(id))
    }

    pub(crate) fn infos(&self) -> impl Iterator<Item = VolumeInfo> {
        self.list().map(|(id, volume)| volume.info(id))
    }

    /// A volume that has something to free, and can.
    pub(crate) fn reapable(&self) -> Option<VolumeId> {
        let mut places = (0u32..).zip(&self.volumes);
        let ready = |volume: &Volume| volume.has(VolumeEntry::REAPING) && !volume.stuck;
        places.find(|(_, place)| place.as_ref().is_some_and(ready)).map(|(id, _)| VolumeId(id))
    }

    /// A volume's map is damaged: what it takes stays until the store is opened again.
    pub(crate) fn set_stuck(&mut self, id: VolumeId) {
        self.place_mut(id).stuck = true;
    }

    pub(crate) fn counters(&self) -> Counters {
        let space = &self.meta.space;
        Counters {
            total: self.layout.data_end().0 - self.layout.data_start().0,
            free: space.available(),
            freeing: (space.released() + space.replaced()) as u64,
            unplaced: self.meta.pages.dirty() as u64,
        }
    }

    /// That a record can be applied now, and how many frames it takes. Records of a log are checked as strangers' are.
    pub(crate) fn ready(&mut self, record: &Record<'_>) -> Result<usize, Stop> {
        match *record {
            Record::Map { volume, at, entries } => {
                let frames = self.ready_leaf(volume, at, entries.len())?;
                entries.iter().try_for_each(|entry| self.ready_target(Block(entry.target.get())))?;
                Ok(frames)
            }
            Record::Unmap { volume, at, blocks } => self.ready_leaf(volume, at, usize::from(blocks)),
            Record::Create { volume, entry } => self.ready_create(volume, entry),
            Record::Delete { volume } | Record::Rename { volume, .. } => {
                self.live(volume).map(|_| 0).ok_or(Stop::Damaged)
            }
            Record::Resize { volume, blocks } => self.ready_resize(volume, blocks),
            Record::Rollback { volume, snapshot, husk } => {
                let free = self.volumes.get(husk.0 as usize).is_some_and(Option::is_none);
                let root = self.live(snapshot).filter(|_| free).ok_or(Stop::Damaged)?.root;
                self.live(volume).ok_or(Stop::Damaged)?;
                self.meta.ready_root(root)?;
                Ok(0)
            }
            Record::Reap { volume } => match self.ready_reap(volume)? {
                Step::Done => Ok(0),
                Step::Shared { frames, .. } | Step::Leaf { frames, .. } => Ok(frames),
            },
        }
    }

    fn ready_leaf(&mut self, volume: VolumeId, at: VolumeBlock, blocks: usize) -> Result<usize, Stop> {
        let volume = self.live(volume).ok_or(Stop::Damaged)?;
        let (leaf, first) = Leaf::of(at);
        let end = at.0.checked_add(blocks as u64).filter(|end| *end <= volume.blocks());
        if end.is_none() || first + blocks > FANOUT {
            return Err(Stop::Damaged);
        }
        let way = self.meta.ready(volume.root, leaf, 0)?;
        self.meta.ready_entries(way.target, first..first + blocks)?;
        Ok(way.frames)
    }

    fn ready_target(&mut self, block: Block) -> Result<(), Stop> {
        self.meta.space.need(block)?;
        if self.meta.space.is_unreferred(block) { Ok(()) } else { Err(Stop::Damaged) }
    }

    fn ready_create(&mut self, volume: VolumeId, entry: &VolumeEntry) -> Result<usize, Stop> {
        let free = self.volumes.get(volume.0 as usize).is_some_and(Option::is_none);
        if !free || entry.blocks.get() > VOLUME_BLOCKS_MAX || entry.root.get() != 0 {
            return Err(Stop::Damaged);
        }
        if let Some(origin) = entry.origin.get().checked_sub(1) {
            let origin = self.live(VolumeId(origin)).ok_or(Stop::Damaged)?;
            if origin.blocks() != entry.blocks.get() {
                return Err(Stop::Damaged);
            }
            let root = origin.root;
            self.meta.ready_root(root)?;
        }
        Ok(0)
    }

    fn ready_resize(&mut self, volume: VolumeId, blocks: u64) -> Result<usize, Stop> {
        let volume = self.live(volume).filter(|volume| !volume.has(VolumeEntry::REAPING));
        let volume = volume.filter(|_| blocks <= VOLUME_BLOCKS_MAX).ok_or(Stop::Damaged)?;
        let (root, grown) = (volume.root, usize::from(height_for(blocks).saturating_sub(volume.root.height)));
        let (leaf, first) = Leaf::of(VolumeBlock(blocks));
        if blocks >= volume.blocks() || first == 0 {
            return Ok(grown);
        }
        let way = self.meta.ready(root, leaf, 0)?;
        self.meta.ready_entries(way.target, first..FANOUT)?;
        Ok(way.frames)
    }

    fn ready_reap(&mut self, volume: VolumeId) -> Result<Step, Stop> {
        let volume = self.place(volume).filter(|volume| volume.has(VolumeEntry::REAPING));
        let (root, keep) = volume.map(|volume| (volume.root, volume.keep())).ok_or(Stop::Damaged)?;
        self.meta.ready_reap(root, keep)
    }

    /// Whether unmapping these blocks, which lie in one leaf, changes anything.
    pub(crate) fn maps_any(&self, volume: VolumeId, at: VolumeBlock, blocks: usize) -> Result<bool, Stop> {
        let root = self.live(volume).ok_or(Stop::Damaged)?.root;
        let (leaf, first) = Leaf::of(at);
        let page = self.meta.leaf(root, leaf)?;
        Ok(page.is_some_and(|page| page.targets[first..first + blocks].iter().any(|target| *target != 0)))
    }

    /// Applies a record that is ready.
    pub(crate) fn apply(&mut self, record: &Record<'_>) {
        self.lsn = self.lsn.next();
        let lsn = self.lsn;
        match *record {
            Record::Map { volume, at, entries } => {
                self.with_root(volume, |meta, root| meta.map(root, at, entries, lsn));
            }
            Record::Unmap { volume, at, blocks } => {
                let (leaf, first) = Leaf::of(at);
                self.with_root(volume, |meta, root| {
                    meta.unmap(root, leaf, first..first + usize::from(blocks), lsn);
                });
            }
            Record::Create { volume, entry } => self.create(volume, entry),
            Record::Delete { volume } => self.delete(volume),
            Record::Resize { volume, blocks } => self.resize(volume, blocks),
            Record::Rollback { volume, snapshot, husk } => self.rollback(volume, snapshot, husk),
            Record::Rename { volume, name } => self.place_mut(volume).entry.name = *name,
            Record::Reap { volume } => self.reap(volume),
        }
    }

    fn with_root(&mut self, volume: VolumeId, change: impl FnOnce(&mut Meta, &mut Root)) {
        let place = self.volumes[volume.0 as usize].as_mut().expect("readiness was checked");
        change(&mut self.meta, &mut place.root);
    }

    fn create(&mut self, id: VolumeId, entry: &VolumeEntry) {
        let mut entry = entry.clone();
        entry.born = self.lsn.0.into();
        entry.flags &= VolumeEntry::LIVE | VolumeEntry::SNAPSHOT;
        entry.flags |= VolumeEntry::LIVE;
        let mut root = Root { target: Target::None, height: height_for(entry.blocks.get()) };
        if let Some(origin) = entry.origin.get().checked_sub(1) {
            let origin = self.place_mut(VolumeId(origin));
            root = origin.root;
            // What an interrupted shrinking left beyond the size is the copy's to free as well.
            entry.flags |= origin.entry.flags & VolumeEntry::REAPING;
            self.meta.share(root);
        }
        self.volumes[id.0 as usize] = Some(Volume { entry, root, stuck: false });
    }

    fn delete(&mut self, id: VolumeId) {
        let volume = self.place_mut(id);
        volume.entry.blocks = 0.into();
        volume.entry.flags |= VolumeEntry::DELETED | VolumeEntry::REAPING;
        volume.entry.name = [0; NAME_BYTES];
        let orphans = self.volumes.iter_mut().flatten().filter(|other| other.entry.origin == id.0 + 1);
        orphans.for_each(|orphan| orphan.entry.origin = 0.into());
    }

    fn resize(&mut self, id: VolumeId, blocks: u64) {
        let lsn = self.lsn;
        let volume = self.place_mut(id);
        let before = volume.blocks();
        volume.entry.blocks = blocks.into();
        if blocks < before {
            volume.entry.flags |= VolumeEntry::REAPING;
            self.clear_tail(id, blocks, lsn);
        }
        self.with_root(id, |meta, root| meta.grow(root, height_for(blocks)));
    }

    /// The last leaf that stays may be mapped beyond the new size.
    fn clear_tail(&mut self, id: VolumeId, blocks: u64, lsn: Lsn) {
        let (leaf, first) = Leaf::of(VolumeBlock(blocks));
        self.with_root(id, |meta, root| {
            let present = first > 0 && meta.leaf(*root, leaf).is_ok_and(|page| page.is_some());
            if present {
                meta.unmap(root, leaf, first..FANOUT, lsn);
            }
        });
    }

    fn rollback(&mut self, id: VolumeId, snapshot: VolumeId, husk: VolumeId) {
        let source = self.place_mut(snapshot);
        let (root, blocks, reaping) =
            (source.root, source.entry.blocks, source.entry.flags & VolumeEntry::REAPING);
        self.meta.share(root);
        let volume = self.place_mut(id);
        let old = Volume { entry: volume.entry.clone(), root: volume.root, stuck: false };
        volume.root = root;
        volume.entry.blocks = blocks;
        volume.entry.flags = volume.entry.flags & !VolumeEntry::REAPING | reaping;
        let old = self.volumes[husk.0 as usize].insert(old);
        old.entry.origin = 0.into();
        old.entry.blocks = 0.into();
        old.entry.flags |= VolumeEntry::DELETED | VolumeEntry::REAPING;
        old.entry.name = [0; NAME_BYTES];
    }

    fn reap(&mut self, id: VolumeId) {
        let lsn = self.lsn;
        let step = self.ready_reap(id).expect("readiness was checked");
        if let Step::Done = step {
            let volume = self.place_mut(id);
            volume.entry.flags &= !VolumeEntry::REAPING;
            if volume.has(VolumeEntry::DELETED) {
                self.volumes[id.0 as usize] = None;
            }
        } else {
            self.with_root(id, |meta, root| meta.reap(root, step, lsn));
        }
    }
}
