//! What the store should hold: the state after every record that changed something a host can see.
//!
//! Opening after a crash must give the state after some record, not older than the last one that was promised to be on
//! the media. That is stricter than "old or new per block": it makes a snapshot a prefix of the acknowledged writes.

use std::collections::BTreeMap;
use std::rc::Rc;

use dataplane::store::format::Bytes;
use dataplane::store::{BLOCK_BYTES, Control, Lsn, VolumeBlock, VolumeId, VolumeKind};

/// Blocks of a leaf of the map: one record never crosses its bounds.
const LEAF_BLOCKS: u64 = 256;

/// What tells one written block from every other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The block with this stamp.
    pub fn bytes(self) -> Bytes {
        let mut bytes = [0; BLOCK_BYTES];
        let mut word = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&word.to_le_bytes());
            word = word.rotate_left(9).wrapping_add(self.0);
        }
        bytes
    }
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Size.
    pub blocks: u64,
    /// What it may be used for.
    pub kind: VolumeKind,
    /// Blocks that were written and not unmapped since.
    pub content: Rc<BTreeMap<u64, Stamp>>,
}

/// All volumes.
pub type State = BTreeMap<u32, Volume>;

/// A change that was sent to the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Blocks from `at` on, one for each stamp.
    Write {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// What.
        stamps: Vec<Stamp>,
    },
    /// Blocks read as zeroes.
    Unmap {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// How many.
        blocks: u32,
    },
    /// Volumes; with the place of the one that it makes.
    Control(Control, Option<VolumeId>),
}

/// The states since the store was opened.
#[derive(Clone, Debug)]
pub struct Model {
    history: BTreeMap<Lsn, Rc<State>>,
    /// What is promised to be on the media.
    pub promised: Lsn,
}

impl Model {
    /// The store holds `state` after record `lsn`.
    pub fn new(state: Rc<State>, lsn: Lsn) -> Self {
        Self { history: BTreeMap::from([(lsn, state)]), promised: lsn }
    }

    /// The state now.
    pub fn now(&self) -> &Rc<State> {
        self.history.last_key_value().expect("there is a first state").1
    }

    /// The state after a record.
    pub fn at(&self, lsn: Lsn) -> Option<&Rc<State>> {
        self.history.range(..=lsn).next_back().map(|(_, state)| state)
    }

    /// All states from the one after a record on.
    pub fn since(&self, lsn: Lsn) -> impl Iterator<Item = &Rc<State>> {
        self.at(lsn).into_iter().chain(self.history.range(Lsn(lsn.0 + 1)..).map(|(_, state)| state))
    }

    /// The store said that this is on the media.
    pub fn promise(&mut self, lsn: Lsn) {
        self.promised = self.promised.max(lsn);
    }

    /// A change was applied; `lsn` is its last record.
    pub fn apply(&mut self, change: &Change, lsn: Lsn) {
        let steps = match change {
            Change::Write { volume, at, stamps } => self.write(*volume, *at, stamps),
            Change::Unmap { volume, at, blocks } => self.unmap(*volume, *at, *blocks),
            Change::Control(control, made) => vec![self.control(control, *made)],
        };
        let count = steps.len() as u64;
        for (step, state) in (1..).zip(steps) {
            self.history.insert(Lsn(lsn.0 + step - count), Rc::new(state));
        }
    }

    fn write(&self, volume: VolumeId, at: VolumeBlock, stamps: &[Stamp]) -> Vec<State> {
        let mut state = State::clone(self.now());
        let mut steps = Vec::new();
        for (block, stamp) in (at.0..).zip(stamps) {
            if block % LEAF_BLOCKS == 0 && block > at.0 {
                steps.push(state.clone());
            }
            let volume = state.get_mut(&volume.0).expect("written volumes exist");
            Rc::make_mut(&mut volume.content).insert(block, *stamp);
        }
        steps.push(state);
        steps
    }

    /// Only leaves in which something is mapped get a record.
    fn unmap(&self, id: VolumeId, at: VolumeBlock, blocks: u32) -> Vec<State> {
        let mut state = State::clone(self.now());
        let mut steps = Vec::new();
        let (mut first, end) = (at.0, at.0 + u64::from(blocks));
        while first < end {
            let last = end.min((first / LEAF_BLOCKS + 1) * LEAF_BLOCKS);
            let volume = state.get_mut(&id.0).expect("unmapped volumes exist");
            let content = Rc::make_mut(&mut volume.content);
            let before = content.len();
            content.retain(|block, _| !(first..last).contains(block));
            if content.len() < before {
                steps.push(state.clone());
            }
            first = last;
        }
        steps
    }

    fn control(&self, control: &Control, made: Option<VolumeId>) -> State {
        let mut state = State::clone(self.now());
        let made = made.map(|id| id.0);
        match control {
            Control::Create { name, blocks, .. } => {
                let volume = Volume {
                    name: name.clone(),
                    blocks: *blocks,
                    kind: VolumeKind::Writable,
                    content: Rc::default(),
                };
                state.insert(made.expect("it was made"), volume);
            }
            Control::Copy { origin, name, kind, .. } => {
                let volume = Volume { name: name.clone(), kind: *kind, ..state[&origin.0].clone() };
                state.insert(made.expect("it was made"), volume);
            }
            Control::Delete { volume } => {
                state.remove(&volume.0);
            }
            Control::Resize { volume, blocks } => {
                let volume = state.get_mut(&volume.0).expect("resized volumes exist");
                volume.blocks = *blocks;
                Rc::make_mut(&mut volume.content).retain(|block, _| block < blocks);
            }
            Control::Rollback { volume, snapshot } => {
                let source = state[&snapshot.0].clone();
                let volume = state.get_mut(&volume.0).expect("rolled back volumes exist");
                (volume.content, volume.blocks) = (source.content, source.blocks);
            }
            Control::Rename { volume, name } => {
                state.get_mut(&volume.0).expect("renamed volumes exist").name.clone_from(name);
            }
        }
        state
    }
}
