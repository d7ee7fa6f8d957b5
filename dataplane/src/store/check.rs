//! Reads a whole store without writing: every page, every count, on request all data.

use std::collections::HashMap;

use super::cache::{Stop, Target};
use super::format::{Layout, crc32c};
use super::machine::Limits;
use super::open::{Media, OpenError, load, read_missing};
use super::state::{Counters, State, VolumeInfo};
use super::{BLOCK_BYTES, Block, Lsn, VolumeId};

/// Something wrong with a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A map page cannot be read, or is not what it should be. What it maps is out of reach.
    #[error("the map page at block {} is damaged", block.0)]
    Page {
        /// Where.
        block: Block,
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

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The last record.
    pub lsn: Lsn,
    /// Volumes, snapshots and clones.
    pub volumes: usize,
    /// Blocks that data and map pages take.
    pub used: u64,
    /// What is wrong; empty for a sound store. At most [`FAULTS_MAX`].
    pub faults: Vec<Fault>,
}

/// What a store holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contents {
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
    let (state, _, _) = load(media, limits)?;
    let (uuid, layout, lsn) = (state.uuid, state.layout, state.lsn);
    Ok(Contents { uuid, layout, lsn, counters: state.counters(), volumes: state.infos().collect() })
}

/// Faults that a report names at most.
pub const FAULTS_MAX: usize = 1000;

struct Walk<'a, M> {
    media: &'a mut M,
    state: State,
    references: HashMap<u64, u32>,
    data: bool,
    faults: Vec<Fault>,
}

/// Checks the store on a device; with `data`, the checksum of every block as well.
pub fn check(media: &mut impl Media, data: bool) -> Result<Report, OpenError> {
    let (state, _, _) = load(media, Limits::default())?;
    let mut walk = Walk { media, state, references: HashMap::new(), data, faults: Vec::new() };
    let roots: Vec<_> = (0u32..)
        .zip(&walk.state.volumes)
        .filter_map(|(id, volume)| volume.as_ref().map(|volume| (VolumeId(id), volume.root)))
        .collect();
    for (id, root) in &roots {
        walk.visit(*id, root.target, root.height, 0);
    }
    let used = walk.compare_counts();
    walk.faults.truncate(FAULTS_MAX);
    let volumes = walk.state.list().count();
    Ok(Report { lsn: walk.state.lsn, volumes, used, faults: walk.faults })
}

impl<M: Media> Walk<'_, M> {
    /// Counts a reference, and goes down when it is the first. Depth is bounded by the height of a tree.
    fn visit(&mut self, id: VolumeId, target: Target, level: u8, first: u64) {
        if target == Target::None {
            return;
        }
        let references = self.references.entry(target.raw()).or_default();
        *references += 1;
        if *references > 1 {
            return;
        }
        let Some(page) = self.page(target, level) else { return };
        let span = 1u64 << (8 * u32::from(level));
        for (index, raw) in (0..).zip(page.targets) {
            let at = first + index * span;
            match level {
                _ if raw == 0 => {}
                0 => self.visit_data(id, Block(raw), at, page.sums[usize::try_from(index).unwrap_or(0)]),
                level => self.visit(id, Target::from_raw(raw), level - 1, at),
            }
        }
    }

    fn page(&mut self, target: Target, level: u8) -> Option<Box<super::format::MapPage>> {
        loop {
            match self.state.meta.pages.get(target, level) {
                Ok(page) => return page.map(|page| Box::new(page.clone())),
                Err(stop @ Stop::Map { .. }) => read_missing(self.media, &mut self.state, stop),
                Err(_) => {
                    if let Target::Block(block) = target {
                        self.faults.push(Fault::Page { block });
                    }
                    return None;
                }
            }
        }
    }

    fn visit_data(&mut self, volume: VolumeId, block: Block, at: u64, sum: u32) {
        let references = self.references.entry(block.0).or_default();
        *references += 1;
        if *references > 1 || !self.data {
            return;
        }
        let mut bytes = [0; BLOCK_BYTES];
        if self.media.read(block, &mut bytes).is_err() || crc32c(&bytes) != sum {
            self.faults.push(Fault::Data { volume, at, block });
        }
    }

    /// Every count against the references that were found; says how many blocks are in use.
    fn compare_counts(&mut self) -> u64 {
        let mut used = 0;
        for block in self.state.layout.data_start().0..self.state.layout.data_end().0 {
            let references = self.references.get(&block).copied().unwrap_or(0);
            used += u64::from(references > 0);
            let block = Block(block);
            match self.count(block) {
                None if references > 0 => self.faults.push(Fault::Counts { block }),
                Some(count) if u32::from(count) != references => {
                    self.faults.push(Fault::Count { block, count, references });
                }
                _ => {}
            }
            if self.faults.len() >= FAULTS_MAX {
                break;
            }
        }
        used
    }

    fn count(&mut self, block: Block) -> Option<u16> {
        loop {
            match self.state.meta.space.need(block) {
                Ok(()) => return Some(self.state.meta.space.count(block)),
                Err(stop @ Stop::Counts { .. }) => read_missing(self.media, &mut self.state, stop),
                Err(_) => return None,
            }
        }
    }
}
