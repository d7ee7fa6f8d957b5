//! Map pages in memory: clean ones under the block they lie at, changed ones in frames until a checkpoint places them.
//!
//! A target in a page is 0, a block, or (memory only) a frame. A frame counts how many targets and roots name it, as a
//! block's count does on the device. Clean pages may go at any time between two operations; frames never.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::Block;
use super::format::{FANOUT, MapPage};

const FRAME: u64 = 1 << 63;

/// What keeps an operation from going on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stop {
    /// This map page is to be read first.
    Map { block: Block, level: u8 },
    /// This page of counts is to be read first.
    Counts { page: u32 },
    /// The log is to be committed first.
    Commit,
    /// A checkpoint is to be written first.
    Checkpoint,
    /// No free block.
    Full,
    /// Metadata that cannot be read or makes no sense.
    Damaged,
}

/// A changed page's place in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameId(u32);

/// What an entry of an index page, or a root, names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    None,
    /// There was something, which damage took.
    Lost,
    Block(Block),
    Frame(FrameId),
}

impl Target {
    pub(crate) fn from_raw(raw: u64) -> Self {
        match raw {
            0 => Self::None,
            MapPage::LOST => Self::Lost,
            block if block & FRAME == 0 => Self::Block(Block(block)),
            frame => Self::Frame(FrameId(u32::try_from(frame & !FRAME).unwrap_or(u32::MAX))),
        }
    }

    pub(crate) fn raw(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Lost => MapPage::LOST,
            Self::Block(block) => block.0,
            Self::Frame(frame) => FRAME | u64::from(frame.0),
        }
    }
}

pub(crate) struct Frame {
    pub(crate) page: Box<MapPage>,
    pub(crate) refs: u16,
}

/// Spreads numbers of blocks, which nobody chooses: much faster than the hash that withstands chosen ones.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let product = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ product >> 32;
    }
}

pub(crate) struct Pages {
    clean: HashMap<u64, Box<MapPage>, BuildHasherDefault<Spread>>,
    /// Clean pages, oldest first; some are gone already.
    order: VecDeque<u64>,
    capacity: usize,
    damaged: HashSet<u64, BuildHasherDefault<Spread>>,
    frames: Vec<Option<Frame>>,
    free: Vec<FrameId>,
}

impl Pages {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            clean: HashMap::with_capacity_and_hasher(capacity, BuildHasherDefault::default()),
            order: VecDeque::with_capacity(capacity),
            capacity,
            damaged: HashSet::default(),
            frames: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Changed pages.
    pub(crate) fn dirty(&self) -> usize {
        self.frames.len() - self.free.len()
    }

    /// Whether the page at `block` could not be read.
    pub(crate) fn is_damaged(&self, block: Block) -> bool {
        self.damaged.contains(&block.0)
    }

    pub(crate) fn block(&self, block: Block, level: u8) -> Result<&MapPage, Stop> {
        if self.damaged.contains(&block.0) {
            return Err(Stop::Damaged);
        }
        match self.clean.get(&block.0) {
            Some(page) if page.level == level => Ok(page),
            Some(_) => Err(Stop::Damaged),
            None => Err(Stop::Map { block, level }),
        }
    }

    /// The page that a target, not [`Target::None`], names.
    pub(crate) fn get(&self, target: Target, level: u8) -> Result<Option<&MapPage>, Stop> {
        match target {
            Target::None => Ok(None),
            Target::Lost => Err(Stop::Damaged),
            Target::Block(block) => self.block(block, level).map(Some),
            Target::Frame(id) => Ok(Some(&self.frame(id).page)),
        }
    }

    pub(crate) fn frame(&self, id: FrameId) -> &Frame {
        self.frames[id.0 as usize].as_ref().expect("a target names a live frame")
    }

    pub(crate) fn frame_mut(&mut self, id: FrameId) -> &mut Frame {
        self.frames[id.0 as usize].as_mut().expect("a target names a live frame")
    }

    /// A new frame with one reference.
    pub(crate) fn add(&mut self, page: Box<MapPage>) -> FrameId {
        let frame = Some(Frame { page, refs: 1 });
        match self.free.pop() {
            Some(id) => {
                self.frames[id.0 as usize] = frame;
                id
            }
            None => {
                self.frames.push(frame);
                FrameId(u32::try_from(self.frames.len() - 1).expect("frames are bounded"))
            }
        }
    }

    /// Gives a frame up, with what it held.
    pub(crate) fn remove(&mut self, id: FrameId) -> Frame {
        self.free.push(id);
        self.frames[id.0 as usize].take().expect("a frame is given up once")
    }

    /// All frames, lowest level first.
    pub(crate) fn frames_by_level(&self) -> Vec<FrameId> {
        let mut live: Vec<(u8, u32)> = (0u32..)
            .zip(&self.frames)
            .filter_map(|(id, frame)| frame.as_ref().map(|frame| (frame.page.level, id)))
            .collect();
        live.sort_unstable();
        live.into_iter().map(|(_, id)| FrameId(id)).collect()
    }

    /// A page was read, or written by a checkpoint.
    pub(crate) fn insert(&mut self, block: Block, page: Box<MapPage>) {
        self.damaged.remove(&block.0);
        if self.clean.insert(block.0, page).is_none() {
            self.order.push_back(block.0);
        }
    }

    /// A page could not be read.
    pub(crate) fn insert_damaged(&mut self, block: Block) {
        self.damaged.insert(block.0);
    }

    /// The page at `block`, which is present, moves out.
    pub(crate) fn take(&mut self, block: Block) -> Box<MapPage> {
        self.clean.remove(&block.0).expect("readiness was checked")
    }

    /// Forgets the page at `block`: the block is no page any more.
    pub(crate) fn forget(&mut self, block: Block) {
        self.clean.remove(&block.0);
        self.damaged.remove(&block.0);
    }

    /// Lets clean pages beyond the capacity go, the oldest first.
    pub(crate) fn trim(&mut self) {
        while self.clean.len() > self.capacity || self.order.len() > 2 * self.capacity + FANOUT {
            let Some(block) = self.order.pop_front() else { return };
            if self.clean.len() > self.capacity {
                self.clean.remove(&block);
            } else if self.clean.contains_key(&block) {
                self.order.push_back(block);
                self.order.retain(|block| self.clean.contains_key(block));
            }
        }
    }
}
