//! What the store should hold: the state after every record that changed something a host can see.
//!
//! Opening after a crash must give the state after some record, not older than the last one that was promised to be on
//! the media. That is stricter than "old or new per block": it makes a snapshot a prefix of the acknowledged writes.

use std::collections::BTreeMap;
use std::rc::Rc;

use dataplane::store::format::Bytes;
use dataplane::store::{
    BLOCK_BYTES, ChangedRange, Control, Lsn, Settings, VolumeBlock, VolumeId, VolumeKind,
};

/// Blocks of a leaf of the map: one record never crosses its bounds.
const LEAF_BLOCKS: u64 = 256;

/// A block like no other: `stamp` tells it from all that were written before.
pub fn stamped(stamp: u64) -> Rc<Bytes> {
    let mut bytes = [0; BLOCK_BYTES];
    let mut word = stamp.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes());
        word = word.rotate_left(9).wrapping_add(stamp);
    }
    Rc::new(bytes)
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
    /// How it is used.
    pub settings: Settings,
    /// Where it was made from, while that exists.
    pub origin: Option<VolumeId>,
    /// The record that made it.
    pub born: Lsn,
    /// Blocks that were written and not unmapped since.
    pub content: Rc<BTreeMap<u64, Rc<Bytes>>>,
}

/// All volumes.
pub type State = BTreeMap<u32, Volume>;

/// A change that was sent to the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Blocks from `at` on.
    Write {
        /// Whose.
        volume: VolumeId,
        /// First block.
        at: VolumeBlock,
        /// What.
        data: Vec<Rc<Bytes>>,
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
    /// Shared blocks become the volume's own: nothing that a host sees.
    Own {
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
            Change::Write { volume, at, data } => self.write(*volume, *at, data),
            Change::Unmap { volume, at, blocks } => self.unmap(*volume, *at, *blocks),
            Change::Own { .. } => Vec::new(),
            Change::Control(control, made) => vec![self.control(control, *made, lsn)],
        };
        let count = steps.len() as u64;
        for (step, state) in (1..).zip(steps) {
            self.history.insert(Lsn(lsn.0 + step - count), Rc::new(state));
        }
    }

    fn write(&self, volume: VolumeId, at: VolumeBlock, data: &[Rc<Bytes>]) -> Vec<State> {
        let mut state = State::clone(self.now());
        let mut steps = Vec::new();
        for (block, bytes) in (at.0..).zip(data) {
            if block % LEAF_BLOCKS == 0 && block > at.0 {
                steps.push(state.clone());
            }
            let volume = state.get_mut(&volume.0).expect("written volumes exist");
            Rc::make_mut(&mut volume.content).insert(block, Rc::clone(bytes));
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

    fn control(&self, control: &Control, made: Option<VolumeId>, lsn: Lsn) -> State {
        let mut state = State::clone(self.now());
        let made = made.map(|id| id.0);
        match control {
            Control::Create { name, blocks, .. } => {
                state.insert(made.expect("it was made"), empty(name, *blocks, Settings::default(), lsn));
            }
            Control::CreateWith { name, blocks, settings, .. } => {
                state.insert(made.expect("it was made"), empty(name, *blocks, *settings, lsn));
            }
            Control::Copy { origin, name, kind, .. } => {
                let from = state[&origin.0].clone();
                let settings = Settings { checksums: from.settings.checksums, ..Settings::default() };
                let (name, origin) = (name.clone(), Some(*origin));
                let volume = Volume { name, kind: *kind, settings, origin, born: lsn, ..from };
                state.insert(made.expect("it was made"), volume);
            }
            Control::Delete { volume } => {
                state.remove(&volume.0);
                let orphans = state.values_mut().filter(|other| other.origin == Some(*volume));
                orphans.for_each(|orphan| orphan.origin = None);
            }
            Control::Resize { volume, blocks } | Control::Truncate { volume, blocks } => {
                let volume = existing(&mut state, *volume);
                volume.blocks = *blocks;
                Rc::make_mut(&mut volume.content).retain(|block, _| block < blocks);
            }
            Control::Configure { volume, read_only, reserved } => {
                let settings = &mut existing(&mut state, *volume).settings;
                settings.read_only = read_only.unwrap_or(settings.read_only);
                settings.reserved = reserved.unwrap_or(settings.reserved);
            }
            Control::Detach { volume } => existing(&mut state, *volume).origin = None,
            Control::Promote { volume } => promote(&mut state, *volume),
            Control::Rollback { volume, snapshot } => {
                let source = state[&snapshot.0].clone();
                let volume = existing(&mut state, *volume);
                (volume.content, volume.blocks) = (source.content, source.blocks);
            }
            Control::Rename { volume, name } => existing(&mut state, *volume).name.clone_from(name),
        }
        state
    }
}

fn existing(state: &mut State, id: VolumeId) -> &mut Volume {
    state.get_mut(&id.0).expect("changed volumes exist")
}

/// Snapshots that are not younger than where the clone was made from change sides, and so do the clone and their volume.
fn promote(state: &mut State, clone: VolumeId) {
    let source = state[&clone.0].origin.expect("only clones are promoted");
    let is_snapshot = state[&source.0].kind == VolumeKind::Snapshot;
    let parent = if is_snapshot { state[&source.0].origin } else { Some(source) };
    let until = state[if is_snapshot { &source.0 } else { &clone.0 }].born;
    let taken_over = |other: &Volume| {
        other.kind == VolumeKind::Snapshot
            && other.born <= until
            && other.origin == parent
            && parent.is_some()
    };
    state.values_mut().filter(|other| taken_over(other)).for_each(|other| other.origin = Some(clone));
    if is_snapshot {
        existing(state, source).origin = Some(clone);
    }
    let before = parent.and_then(|parent| state[&parent.0].origin);
    existing(state, clone).origin = before;
    if let Some(parent) = parent {
        existing(state, parent).origin = Some(if is_snapshot { source } else { clone });
    }
}

fn empty(name: &str, blocks: u64, settings: Settings, born: Lsn) -> Volume {
    let name = name.to_owned();
    let (kind, content) = (VolumeKind::Writable, Rc::default());
    Volume { name, blocks, kind, settings, origin: None, born, content }
}

/// Whether a block of a volume holds these bytes in any of these states.
pub(crate) fn holds<'a>(
    mut states: impl Iterator<Item = &'a Rc<State>>,
    volume: VolumeId,
    block: u64,
    bytes: &Rc<Bytes>,
) -> bool {
    const ZERO: Bytes = [0; BLOCK_BYTES];
    states.any(|state| {
        state.get(&volume.0).is_some_and(|volume| match volume.content.get(&block) {
            None => **bytes == ZERO,
            Some(content) => Rc::ptr_eq(bytes, content) || bytes == content,
        })
    })
}

/// What differs between two volumes, as far as hosts see: blocks that hold other bytes, or are mapped in one alone. The store
/// may name more, since the same bytes may have been written again.
pub(crate) fn differs(from: Option<&Volume>, to: &Volume) -> BTreeMap<u64, (bool, bool)> {
    let nothing = Rc::default();
    let before = from.map_or(&nothing, |from| &from.content);
    let blocks = before.keys().chain(to.content.keys());
    let changed = blocks.filter(|block| before.get(block) != to.content.get(block));
    changed.map(|block| (*block, (before.contains_key(block), to.content.contains_key(block)))).collect()
}

/// The same form of what the store says.
pub(crate) fn each_block(ranges: &[ChangedRange]) -> BTreeMap<u64, (bool, bool)> {
    let blocks = ranges.iter().flat_map(|range| {
        (range.at.0..range.at.0 + range.blocks).map(|block| (block, (range.before, range.after)))
    });
    blocks.collect()
}
