//! What a store is at one record of its log: volumes, their maps, the counts. Records change it, live and in recovery
//! alike, and the same records always give the same state.

use std::collections::VecDeque;

use uuid::Uuid;

use super::cache::{Pages, Stop, Target};
use super::format::{FANOUT, Layout, MapEntry, NAME_BYTES, Record, VolumeEntry};
use super::space::Space;
use super::tree::{Dropped, Leaf, Meta, Root, Step, Way, height_for};
use super::{Block, Lsn, VOLUME_BLOCKS_MAX, VolumeBlock, VolumeId};

/// What a volume may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeKind {
    /// Hosts read and write it.
    Writable,
    /// It never changes.
    Snapshot,
}

/// How a volume may be used. What a snapshot or a clone is made of keeps its checksums, or has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Hosts may not change it.
    pub read_only: bool,
    /// Space for all of it is promised: its writes do not meet a full store.
    pub reserved: bool,
    /// Each block is checked when it is read.
    pub checksums: bool,
}

impl Default for Settings {
    /// Writable, thin, checked.
    fn default() -> Self {
        Self { read_only: false, reserved: false, checksums: true }
    }
}

impl Settings {
    pub(crate) fn flags(self) -> u8 {
        let flag = |on, flag| if on { flag } else { 0 };
        flag(self.read_only, VolumeEntry::READ_ONLY)
            | flag(self.reserved, VolumeEntry::RESERVED)
            | flag(!self.checksums, VolumeEntry::UNSUMMED)
    }
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
    /// How it may be used.
    pub settings: Settings,
    /// What lies beyond a smaller size is still being freed.
    pub shrinking: bool,
    /// Blocks that it maps, shared or not. After shrinking also those that are still to be freed.
    pub allocated: u64,
    /// Blocks of these that were written since it last was copied: at least so many it shares with nothing.
    pub own: u64,
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
    /// Of the free ones, promised to reserved volumes.
    pub promised: u64,
    /// Pages of counts that are damaged: each keeps 8 MiB from being taken and freed.
    pub damaged_counts: u64,
    /// Damaged pages of maps that opening gave up because the log changes what they map: it is lost.
    pub lost_pages: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) entry: VolumeEntry,
    pub(crate) root: Root,
}

impl Volume {
    pub(crate) fn from_entry(entry: VolumeEntry, layout: &Layout) -> Option<Self> {
        let target = Target::from_raw(entry.root.get());
        let height = entry.height;
        let rooted = match target {
            Target::None => true,
            Target::Block(block) => layout.is_data(block),
            Target::Lost => true,
            Target::Frame(_) => false,
        };
        let sized = entry.blocks.get() <= VOLUME_BLOCKS_MAX
            && (height_for(entry.blocks.get())..=height_for(VOLUME_BLOCKS_MAX)).contains(&height);
        (rooted && sized).then_some(Self { entry, root: Root { target, height } })
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

    /// Whether hosts may not change it.
    pub(crate) fn is_read_only(&self) -> bool {
        self.has(VolumeEntry::SNAPSHOT | VolumeEntry::READ_ONLY)
    }

    /// Blocks that are promised to it and not taken yet, its map's included.
    pub(crate) fn owed(&self) -> u64 {
        if !self.has(VolumeEntry::RESERVED) {
            return 0;
        }
        owed(self.blocks(), self.entry.own.get())
    }

    fn count(&mut self, added: u64, dropped: Dropped) {
        let entry = &mut self.entry;
        entry.mapped = entry.mapped.get().saturating_add(added).saturating_sub(dropped.mapped).into();
        entry.own = entry.own.get().saturating_add(added).saturating_sub(dropped.own).into();
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
            settings: Settings {
                read_only: self.has(VolumeEntry::READ_ONLY),
                reserved: self.has(VolumeEntry::RESERVED),
                checksums: !self.has(VolumeEntry::UNSUMMED),
            },
            shrinking: self.has(VolumeEntry::REAPING),
            allocated: self.entry.mapped.get(),
            own: self.entry.own.get(),
        }
    }
}

/// Blocks that a reserved volume of `blocks` blocks may still take when `own` are its own: data, leaves, pages above.
pub(crate) fn owed(blocks: u64, own: u64) -> u64 {
    let data = blocks.saturating_sub(own);
    if data == 0 {
        return 0;
    }
    let leaves = blocks.div_ceil(FANOUT as u64).min(data);
    data + leaves + leaves / (FANOUT as u64 - 1) + u64::from(height_for(blocks))
}

pub(crate) struct State {
    pub(crate) uuid: Uuid,
    pub(crate) layout: Layout,
    pub(crate) meta: Meta,
    pub(crate) volumes: Vec<Option<Volume>>,
    pub(crate) lsn: Lsn,
    /// What all reserved volumes are owed.
    pub(crate) promised: u64,
    /// Map pages that opening found damaged where the log goes on, and gave up.
    pub(crate) lost: u64,
    /// Volumes that have something to free.
    reaping: VecDeque<VolumeId>,
}

impl State {
    pub(crate) fn empty(uuid: Uuid, layout: Layout, map_pages: usize, counts_pages: usize) -> Self {
        let space = Space::empty(layout.clone(), counts_pages);
        let meta = Meta { pages: Pages::new(map_pages), space };
        let volumes = vec![None; layout.volumes() as usize];
        Self { uuid, layout, meta, volumes, lsn: Lsn(0), promised: 0, lost: 0, reaping: VecDeque::new() }
    }

    /// Puts the volume of a checkpoint's table in its place.
    pub(crate) fn insert(&mut self, id: VolumeId, volume: Volume) {
        self.promised += volume.owed();
        if volume.has(VolumeEntry::REAPING) {
            self.reaping.push_back(id);
        }
        self.volumes[id.0 as usize] = Some(volume);
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
        self.reaping.front().copied()
    }

    /// A volume's map is damaged: what it takes stays until the store is opened again.
    pub(crate) fn set_stuck(&mut self, id: VolumeId) {
        self.reaping.retain(|other| *other != id);
    }

    pub(crate) fn counters(&self) -> Counters {
        let space = &self.meta.space;
        Counters {
            total: self.layout.data_blocks(),
            free: space.available(),
            freeing: (space.released() + space.replaced()) as u64,
            unplaced: self.meta.pages.dirty() as u64,
            promised: self.promised,
            damaged_counts: self.meta.space.damaged().into(),
            lost_pages: self.lost,
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
            Record::Delete { volume }
            | Record::Rename { volume, .. }
            | Record::Configure { volume, .. }
            | Record::Detach { volume } => self.live(volume).map(|_| 0).ok_or(Stop::Damaged),
            Record::Promote { volume } => {
                let volume = self.live(volume).ok_or(Stop::Damaged)?;
                self.origin(volume).map(|_| 0).ok_or(Stop::Damaged)
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
        let way = match self.meta.own_leaf(volume.root, leaf) {
            Some(id) => Way { frames: 0, target: Target::Frame(id), shared: false },
            None => self.meta.ready(volume.root, leaf, 0)?,
        };
        self.meta.ready_entries(way.target, first..first + blocks)?;
        Ok(way.frames)
    }

    fn ready_target(&mut self, block: Block) -> Result<(), Stop> {
        self.meta.space.need(block)?;
        if self.meta.space.is_unreferred(block) || self.is_damaged() { Ok(()) } else { Err(Stop::Damaged) }
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

    /// Gives up what keeps `record` from being applied: a map page that cannot be read, or what damage keeps from being freed.
    /// `false`: that is not why.
    pub(crate) fn lose(&mut self, record: &Record<'_>) -> Result<bool, Stop> {
        let id = record.volume();
        match *record {
            Record::Create { .. } => self.finish_reaping(id),
            Record::Rollback { husk, .. } => self.finish_reaping(husk),
            Record::Map { at, entries, .. } => {
                Ok(self.lose_page(id, Leaf::of(at).0)? || self.distrust_targets(entries))
            }
            Record::Unmap { at, .. } => self.lose_page(id, Leaf::of(at).0),
            Record::Resize { blocks, .. } => {
                Ok(self.finish_reaping(id)? || self.lose_page(id, Leaf::of(VolumeBlock(blocks)).0)?)
            }
            Record::Reap { .. } => self.lose_last_page(id),
            _ => Ok(false),
        }
    }

    fn lose_page(&mut self, id: VolumeId, leaf: Leaf) -> Result<bool, Stop> {
        let Some(mut root) = self.place(id).map(|volume| volume.root) else { return Ok(false) };
        let lost = self.meta.lose(&mut root, leaf, self.lsn);
        self.place_mut(id).root = root;
        self.lost += u64::from(lost == Ok(true));
        lost
    }

    /// Gives up counts that say something else than that these blocks are free. `false`: they do not.
    fn distrust_targets(&mut self, entries: &[MapEntry]) -> bool {
        let space = &mut self.meta.space;
        let blocks = entries.iter().map(|entry| Block(entry.target.get()));
        let taken = blocks.filter(|block| space.need(*block).is_ok() && !space.is_unreferred(*block));
        let taken: Vec<Block> = taken.collect();
        taken.iter().for_each(|block| space.distrust(*block));
        !taken.is_empty()
    }

    fn lose_last_page(&mut self, id: VolumeId) -> Result<bool, Stop> {
        let Some(root) = self.place(id).map(|volume| volume.root) else { return Ok(false) };
        self.lose_page(id, self.meta.last_leaf(root))
    }

    /// Damage made freeing take longer than it took when the log was written, and the log goes on from where it was done.
    fn finish_reaping(&mut self, id: VolumeId) -> Result<bool, Stop> {
        let reaping = |state: &Self| state.place(id).is_some_and(|volume| volume.has(VolumeEntry::REAPING));
        if !self.is_damaged() || !reaping(self) {
            return Ok(false);
        }
        while reaping(self) {
            match self.ready_reap(id) {
                Ok(_) => self.reap(id),
                Err(Stop::Damaged) if self.lose_last_page(id)? => {}
                Err(stop) => return Err(stop),
            }
        }
        Ok(true)
    }

    /// Whether some metadata is given up, so that the log may not fit any more.
    pub(crate) fn is_damaged(&self) -> bool {
        self.lost > 0 || self.meta.space.damaged() > 0
    }

    /// A record of the log is passed over.
    pub(crate) fn skip(&mut self) {
        self.lsn = self.lsn.next();
    }

    /// Applies a record that is ready.
    pub(crate) fn apply(&mut self, record: &Record<'_>) {
        self.lsn = self.lsn.next();
        let lsn = self.lsn;
        // A volume never has fewer blocks of its own after it was written: where nothing is owed, nothing will be.
        let may_owe = self.promised > 0 || !matches!(record, Record::Map { .. });
        let owed = if may_owe { self.owed_by(record) } else { 0 };
        match *record {
            Record::Map { volume, at, entries } => {
                self.change(volume, entries.len() as u64, |meta, root| meta.map(root, at, entries, lsn));
            }
            Record::Unmap { volume, at, blocks } => {
                let (leaf, first) = Leaf::of(at);
                let range = first..first + usize::from(blocks);
                self.change(volume, 0, |meta, root| meta.unmap(root, leaf, range, lsn));
            }
            Record::Create { volume, entry } => self.create(volume, entry),
            Record::Configure { volume, flags } => {
                const SETTABLE: u8 = VolumeEntry::READ_ONLY | VolumeEntry::RESERVED;
                let entry = &mut self.place_mut(volume).entry;
                entry.flags = entry.flags & !SETTABLE | flags & SETTABLE;
            }
            Record::Detach { volume } => self.place_mut(volume).entry.origin = 0.into(),
            Record::Promote { volume } => self.promote(volume),
            Record::Delete { volume } => self.delete(volume),
            Record::Resize { volume, blocks } => self.resize(volume, blocks),
            Record::Rollback { volume, snapshot, husk } => self.rollback(volume, snapshot, husk),
            Record::Rename { volume, name } => self.place_mut(volume).entry.name = *name,
            Record::Reap { volume } => self.reap(volume),
        }
        if may_owe {
            self.promised = self.promised + self.owed_by(record) - owed;
        }
    }

    fn owed(&self, id: VolumeId) -> u64 {
        self.place(id).map_or(0, Volume::owed)
    }

    /// What is owed to the volumes whose blocks a record makes their own, or not.
    fn owed_by(&self, record: &Record<'_>) -> u64 {
        let volume = record.volume();
        let other = match *record {
            Record::Create { entry, .. } => entry.origin.get().checked_sub(1).map(VolumeId),
            Record::Rollback { snapshot, .. } => Some(snapshot),
            _ => None,
        };
        self.owed(volume) + other.filter(|other| *other != volume).map_or(0, |other| self.owed(other))
    }

    /// Changes a volume's map, and counts what it maps.
    fn change(&mut self, id: VolumeId, added: u64, change: impl FnOnce(&mut Meta, &mut Root) -> Dropped) {
        let volume = self.volumes[id.0 as usize].as_mut().expect("readiness was checked");
        let dropped = change(&mut self.meta, &mut volume.root);
        volume.count(added, dropped);
    }

    /// From now on nothing that the volume maps is its own.
    fn shares_all(&mut self, id: VolumeId) {
        self.place_mut(id).entry.own = 0.into();
    }

    fn reaps(&mut self, id: VolumeId) {
        self.place_mut(id).entry.flags |= VolumeEntry::REAPING;
        if !self.reaping.contains(&id) {
            self.reaping.push_back(id);
        }
    }

    fn create(&mut self, id: VolumeId, entry: &VolumeEntry) {
        let mut entry = entry.clone();
        entry.born = self.lsn.0.into();
        entry.flags &= !(VolumeEntry::REAPING | VolumeEntry::DELETED);
        entry.flags |= VolumeEntry::LIVE;
        (entry.mapped, entry.own) = (0.into(), 0.into());
        let mut root = Root { target: Target::None, height: height_for(entry.blocks.get()) };
        if let Some(origin) = entry.origin.get().checked_sub(1).map(VolumeId) {
            let from = self.place_mut(origin);
            root = from.root;
            entry.mapped = from.entry.mapped;
            // What an interrupted shrinking left beyond the size is the copy's to free as well.
            let inherited = VolumeEntry::REAPING | VolumeEntry::UNSUMMED;
            entry.flags = entry.flags & !inherited | from.entry.flags & inherited;
            self.meta.share(root);
            self.shares_all(origin);
        }
        let reaps = entry.flags & VolumeEntry::REAPING != 0;
        self.volumes[id.0 as usize] = Some(Volume { entry, root });
        if reaps {
            self.reaps(id);
        }
    }

    fn delete(&mut self, id: VolumeId) {
        let volume = self.place_mut(id);
        volume.entry.blocks = 0.into();
        volume.entry.flags |= VolumeEntry::DELETED;
        volume.entry.name = [0; NAME_BYTES];
        self.reaps(id);
        let orphans = self.volumes.iter_mut().flatten().filter(|other| other.entry.origin == id.0 + 1);
        orphans.for_each(|orphan| orphan.entry.origin = 0.into());
    }

    /// What a volume was made from, while that is there.
    pub(crate) fn origin(&self, volume: &Volume) -> Option<VolumeId> {
        let origin = volume.entry.origin.get().checked_sub(1).map(VolumeId)?;
        self.live(origin).map(|_| origin)
    }

    /// A clone of a snapshot of a volume: the snapshots of the volume up to that one become the clone's, and the volume a clone
    /// of that one. A clone of the volume itself: the same with the snapshots that are older than the clone.
    fn promote(&mut self, id: VolumeId) {
        let clone = self.place_mut(id).entry.clone();
        let from = VolumeId(clone.origin.get() - 1);
        let source = self.place_mut(from).entry.clone();
        let of_snapshot = source.flags & VolumeEntry::SNAPSHOT != 0;
        let (parent, until) = if of_snapshot {
            (source.origin.get().checked_sub(1).map(VolumeId), source.born.get())
        } else {
            (Some(from), clone.born.get())
        };
        let parent = parent.filter(|parent| *parent != id && self.live(*parent).is_some());
        if of_snapshot {
            self.place_mut(from).entry.origin = (id.0 + 1).into();
        }
        self.place_mut(id).entry.origin = 0.into();
        let Some(parent) = parent else { return };
        for other in self.volumes.iter_mut().flatten() {
            let entry = &mut other.entry;
            let older = entry.born.get() <= until && entry.flags & VolumeEntry::SNAPSHOT != 0;
            if older && entry.origin == parent.0 + 1 {
                entry.origin = (id.0 + 1).into();
            }
        }
        let before = self.place_mut(parent).entry.origin;
        self.place_mut(id).entry.origin = if before == id.0 + 1 { 0.into() } else { before };
        self.place_mut(parent).entry.origin = (if of_snapshot { from.0 } else { id.0 } + 1).into();
    }

    fn resize(&mut self, id: VolumeId, blocks: u64) {
        let lsn = self.lsn;
        let volume = self.place_mut(id);
        let before = volume.blocks();
        volume.entry.blocks = blocks.into();
        if blocks < before {
            self.reaps(id);
            self.clear_tail(id, blocks, lsn);
        }
        self.change(id, 0, |meta, root| {
            meta.grow(root, height_for(blocks));
            Dropped::default()
        });
    }

    /// The last leaf that stays may be mapped beyond the new size.
    fn clear_tail(&mut self, id: VolumeId, blocks: u64, lsn: Lsn) {
        let (leaf, first) = Leaf::of(VolumeBlock(blocks));
        self.change(id, 0, |meta, root| {
            let present = first > 0 && meta.leaf(*root, leaf).is_ok_and(|page| page.is_some());
            if present { meta.unmap(root, leaf, first..FANOUT, lsn) } else { Dropped::default() }
        });
    }

    fn rollback(&mut self, id: VolumeId, snapshot: VolumeId, husk: VolumeId) {
        const OF_THE_TREE: u8 = VolumeEntry::REAPING | VolumeEntry::UNSUMMED;
        let source = self.place_mut(snapshot);
        let (root, entry) = (source.root, source.entry.clone());
        self.meta.share(root);
        self.shares_all(snapshot);
        let volume = self.place_mut(id);
        let mut old = Volume { entry: volume.entry.clone(), root: volume.root };
        volume.root = root;
        (volume.entry.blocks, volume.entry.mapped, volume.entry.own) = (entry.blocks, entry.mapped, 0.into());
        volume.entry.flags = volume.entry.flags & !OF_THE_TREE | entry.flags & VolumeEntry::UNSUMMED;
        self.reaping.retain(|other| *other != id);
        if entry.flags & VolumeEntry::REAPING != 0 {
            self.reaps(id);
        }
        old.entry.origin = 0.into();
        old.entry.blocks = 0.into();
        old.entry.flags = old.entry.flags & !VolumeEntry::RESERVED | VolumeEntry::DELETED;
        old.entry.name = [0; NAME_BYTES];
        self.volumes[husk.0 as usize] = Some(old);
        self.reaps(husk);
    }

    fn reap(&mut self, id: VolumeId) {
        let lsn = self.lsn;
        let step = self.ready_reap(id).expect("readiness was checked");
        if let Step::Done = step {
            self.reaping.retain(|other| *other != id);
            let volume = self.place_mut(id);
            volume.entry.flags &= !VolumeEntry::REAPING;
            if volume.has(VolumeEntry::DELETED) {
                self.volumes[id.0 as usize] = None;
            }
        } else {
            self.change(id, 0, |meta, root| meta.reap(root, step, lsn));
        }
    }
}
