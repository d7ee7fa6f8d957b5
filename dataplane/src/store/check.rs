//! Reads a whole store without writing: every page, every count, on request all data.

use std::collections::{HashMap, HashSet};

use super::cache::{Stop, Target};
use super::copies::damaged;
use super::format::{DiskSuperblock, Layout, MapPage, VolumeEntry, crc32c};
use super::machine::Limits;
use super::open::{Media, OpenError};
use super::recover::{load, read_missing, superblock};
use super::state::{Counters, State, VolumeInfo};
use super::{BLOCK_BYTES, Block, Lsn, VolumeId};

/// Something wrong with a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// Of something that lies on the device twice, one copy is damaged. Nothing is lost; opening the store writes both again.
    #[error("block {} is damaged; another copy of it is whole", block.0)]
    Copy {
        /// The damaged one.
        block: Block,
    },
    /// A map page cannot be read, or is not what it should be. What it maps is out of reach, in all volumes that share it.
    #[error(
        "the map page at block {} is damaged: volume {}: blocks {at} to {} are out of reach",
        block.0, volume.0, at + blocks - 1
    )]
    Page {
        /// Where.
        block: Block,
        /// Whose, one of those that share it.
        volume: VolumeId,
        /// The first block that it maps.
        at: u64,
        /// How many it may map.
        blocks: u64,
    },
    /// The counts of this block cannot be read: it, and its neighbours, cannot be freed or taken.
    #[error("the counts around block {} are damaged", block.0)]
    Counts {
        /// One of the blocks.
        block: Block,
    },
    /// A block is referred to more or less often than its count says. With 0 references it is lost space.
    #[error("block {}: count {count}, referred to {references} times", block.0)]
    Count {
        /// Which.
        block: Block,
        /// What the store says.
        count: u16,
        /// What the maps say.
        references: u32,
    },
    /// These blocks were mapped by a page that was damaged: what they held is lost until they are written or unmapped.
    #[error("volume {}: {blocks} blocks from {at} on are lost", volume.0)]
    Lost {
        /// Whose.
        volume: VolumeId,
        /// The first.
        at: u64,
        /// How many.
        blocks: u64,
    },
    /// A volume maps more or fewer blocks than it counts.
    #[error("volume {}: counts {recorded} mapped blocks, maps {found}", volume.0)]
    Allocated {
        /// Whose.
        volume: VolumeId,
        /// What the volume says.
        recorded: u64,
        /// What its map says.
        found: u64,
    },
    /// Data is not what was written.
    #[error("block {} of volume {}: checksum mismatch at block {}", at, volume.0, block.0)]
    Data {
        /// Whose, one of those that share it.
        volume: VolumeId,
        /// Block of the volume.
        at: u64,
        /// Where it lies.
        block: Block,
    },
}

/// How much of a volume can be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// Which.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Blocks that it says it maps. While it is shrinking, what lies beyond its size is among them.
    pub mapped: u64,
    /// Of these, blocks whose place is known; when data was read, and is what was written.
    pub reachable: u64,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The last record.
    pub lsn: Lsn,
    /// Volumes, snapshots and clones.
    pub volumes: Vec<Reach>,
    /// Blocks that data and map pages take.
    pub used: u64,
    /// What is wrong; empty for a sound store. At most [`FAULTS_MAX`].
    pub faults: Vec<Fault>,
}

/// What a store holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contents {
    /// Name; empty when it has none.
    pub name: String,
    /// Identity.
    pub uuid: uuid::Uuid,
    /// Where everything lies.
    pub layout: Layout,
    /// The last record.
    pub lsn: Lsn,
    /// Space.
    pub counters: Counters,
    /// Volumes and snapshots.
    pub volumes: Vec<VolumeInfo>,
}

/// Reads what a store holds, without its maps.
pub fn contents(media: &mut impl Media, limits: Limits) -> Result<Contents, OpenError> {
    let name = DiskSuperblock::name(&superblock(media)?.bytes).to_owned();
    let (state, _, _) = load(media, limits)?;
    let (counters, volumes) = (state.counters(), state.infos().collect());
    Ok(Contents { name, uuid: state.uuid, lsn: state.lsn, layout: state.layout, counters, volumes })
}

/// Faults that a report names at most.
pub const FAULTS_MAX: usize = 1000;

struct Walk<'a, M> {
    media: &'a mut M,
    state: State,
    references: References,
    /// What was found below a page that others share.
    found: HashMap<u64, Found>,
    /// Blocks whose data is damaged.
    bad: HashSet<u64>,
    data: bool,
    faults: Vec<Fault>,
}

/// What a part of a map maps.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Found {
    blocks: u64,
    /// Of these, how many hold what was written.
    reachable: u64,
    /// Nothing of the map is damaged.
    whole: bool,
}

impl Found {
    const NOTHING: Self = Self { blocks: 0, reachable: 0, whole: true };
    const DAMAGE: Self = Self { blocks: 0, reachable: 0, whole: false };

    fn and(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            reachable: self.reachable + other.reachable,
            whole: self.whole && other.whole,
        }
    }
}

/// How often each block, and each frame, is referred to.
struct References {
    start: u64,
    blocks: Vec<u16>,
    frames: HashMap<u64, u16>,
}

impl References {
    /// Adds one; says how many that makes.
    fn add(&mut self, target: Target) -> u16 {
        let references = match target {
            Target::Block(block) => {
                &mut self.blocks[usize::try_from(block.0 - self.start).expect("targets lie in the store")]
            }
            other => self.frames.entry(other.raw()).or_default(),
        };
        *references = references.saturating_add(1);
        *references
    }
}

/// One tree of the store.
#[derive(Clone, Copy)]
struct Tree {
    id: VolumeId,
    summed: bool,
}

/// Checks the store on a device; with `data`, the checksum of every block as well. Takes two bytes of memory for each block.
pub fn check(media: &mut impl Media, data: bool) -> Result<Report, OpenError> {
    let (state, header, log_end) = load(media, Limits::default())?;
    let layout = state.layout.clone();
    let copies = damaged(media, &layout, &header, log_end);
    let blocks = usize::try_from(layout.data_end().0 - layout.data_start().0).unwrap_or(usize::MAX);
    let references =
        References { start: layout.data_start().0, blocks: vec![0; blocks], frames: HashMap::new() };
    let (found, bad, faults) = (HashMap::new(), HashSet::new(), Vec::new());
    let mut walk = Walk { media, state, references, found, bad, data, faults };
    copies.into_iter().for_each(|block| walk.fault(Fault::Copy { block }));
    let places = (0..layout.volumes()).map(VolumeId);
    let volumes = places.filter_map(|id| walk.visit_volume(id)).collect();
    let used = walk.compare_counts();
    Ok(Report { lsn: walk.state.lsn, volumes, used, faults: walk.faults })
}

impl<M: Media> Walk<'_, M> {
    /// A volume, or what is left of a deleted one, of which nothing is told.
    fn visit_volume(&mut self, id: VolumeId) -> Option<Reach> {
        let volume = self.state.volumes[id.0 as usize].as_ref()?;
        let (root, mapped, name) = (volume.root, volume.entry.mapped.get(), volume.entry.name().to_owned());
        let tree = Tree { id, summed: !volume.has(VolumeEntry::UNSUMMED) };
        let deleted = volume.has(VolumeEntry::DELETED);
        let found = self.visit(tree, root.target, root.height, 0);
        if deleted {
            return None;
        }
        if found.whole && found.blocks != mapped {
            self.fault(Fault::Allocated { volume: id, recorded: mapped, found: found.blocks });
        }
        Some(Reach { id, name, mapped, reachable: found.reachable })
    }

    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// Counts a reference, and goes down when it is the first. Depth is bounded by the height of a tree.
    fn visit(&mut self, tree: Tree, target: Target, level: u8, first: u64) -> Found {
        let span = 1u64 << (8 * u32::from(level));
        match target {
            Target::None => return Found::NOTHING,
            Target::Lost => {
                self.fault(Fault::Lost { volume: tree.id, at: first, blocks: 256 * span });
                return Found::DAMAGE;
            }
            Target::Block(_) | Target::Frame(_) => {}
        }
        if self.references.add(target) > 1 {
            return self.found.get(&target.raw()).copied().unwrap_or(Found::DAMAGE);
        }
        let Some(page) = self.page(target, level) else {
            if let Target::Block(block) = target {
                self.fault(Fault::Page { block, volume: tree.id, at: first, blocks: 256 * span });
            }
            return Found::DAMAGE;
        };
        let mut found = Found::NOTHING;
        for (index, raw) in page.targets.into_iter().enumerate().filter(|(_, raw)| *raw != 0) {
            let at = first + index as u64 * span;
            found = found.and(if level > 0 {
                self.visit(tree, Target::from_raw(raw), level - 1, at)
            } else if raw == MapPage::LOST {
                self.fault(Fault::Lost { volume: tree.id, at, blocks: 1 });
                Found::DAMAGE
            } else {
                self.visit_data(tree, Block(raw), at, page.sums[index])
            });
        }
        self.found.insert(target.raw(), found);
        found
    }

    fn page(&mut self, target: Target, level: u8) -> Option<Box<MapPage>> {
        self.state.meta.pages.trim();
        loop {
            match self.state.meta.pages.get(target, level) {
                Ok(page) => return page.map(|page| Box::new(page.clone())),
                Err(stop @ Stop::Map { .. }) => read_missing(self.media, &mut self.state, stop),
                Err(_) => return None,
            }
        }
    }

    fn visit_data(&mut self, tree: Tree, block: Block, at: u64, sum: u32) -> Found {
        let first = self.references.add(Target::Block(block)) == 1;
        if first && self.data && tree.summed {
            let mut bytes = [0; BLOCK_BYTES];
            if self.media.read(block, &mut bytes).is_err() || crc32c(&bytes) != sum {
                self.bad.insert(block.0);
                self.fault(Fault::Data { volume: tree.id, at, block });
            }
        }
        Found { blocks: 1, reachable: u64::from(!self.bad.contains(&block.0)), whole: true }
    }

    /// Every count against the references that were found; says how many blocks are in use.
    fn compare_counts(&mut self) -> u64 {
        let mut used = 0;
        for index in 0..self.references.blocks.len() {
            let references = self.references.blocks[index];
            let block = Block(self.references.start + index as u64);
            used += u64::from(references > 0);
            match self.count(block) {
                None if references > 0 => self.fault(Fault::Counts { block }),
                Some(count) if count != references => {
                    self.fault(Fault::Count { block, count, references: references.into() });
                }
                _ => {}
            }
        }
        used
    }

    fn count(&mut self, block: Block) -> Option<u16> {
        self.state.meta.space.trim(0);
        loop {
            match self.state.meta.space.need(block) {
                Ok(()) if !self.state.meta.space.is_known(block) => return None,
                Ok(()) => return Some(self.state.meta.space.count(block)),
                Err(stop @ Stop::Counts { .. }) => read_missing(self.media, &mut self.state, stop),
                Err(_) => return None,
            }
        }
    }
}
