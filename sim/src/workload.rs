//! Random commands, of the kinds and in the places where a store is likely to be wrong.

use std::rc::Rc;

use dataplane::store::{Control, VolumeBlock, VolumeId, VolumeKind};
use fastrand::Rng;
use uuid::Uuid;

use crate::model::{Change, Stamp, State, Volume};

/// Volumes up to this size are compared block by block.
pub(crate) const SMALL_BLOCKS: u64 = 700;
const VOLUMES_AIM: usize = 5;
const HUGE_BLOCKS: u64 = 1 << 30;

/// What to send to the store.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Change { change: Change, fua: bool },
    Read { volume: VolumeId, at: VolumeBlock, blocks: u32 },
    Flush,
}

pub(crate) struct Workload {
    names: u64,
    stamps: u64,
}

impl Workload {
    pub(crate) fn new() -> Self {
        Self { names: 0, stamps: 0 }
    }

    pub(crate) fn next(&mut self, state: &State, rng: &mut Rng) -> Action {
        if state.is_empty() {
            return self.create(rng);
        }
        match rng.u8(0..100) {
            0..46 => self.write(state, rng),
            46..60 => read(state, rng),
            60..68 => unmap(state, rng),
            68..80 => Action::Flush,
            80..86 if state.len() < VOLUMES_AIM => self.create(rng),
            86..92 => self.copy(state, rng),
            92..94 => control(Control::Delete { volume: pick(state, rng).0 }),
            94..96 => resize(state, rng),
            96..98 => rollback(state, rng),
            98 => control(Control::Rename { volume: pick(state, rng).0, name: self.name() }),
            _ if state.len() >= VOLUMES_AIM => control(Control::Delete { volume: pick(state, rng).0 }),
            _ => self.write(state, rng),
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }

    fn create(&mut self, rng: &mut Rng) -> Action {
        let blocks = if rng.u8(0..6) == 0 { HUGE_BLOCKS } else { rng.u64(1..=SMALL_BLOCKS) };
        control(Control::Create { name: self.name(), uuid: uuid(rng), blocks })
    }

    fn copy(&mut self, state: &State, rng: &mut Rng) -> Action {
        let kind = if rng.bool() { VolumeKind::Snapshot } else { VolumeKind::Writable };
        control(Control::Copy { origin: pick(state, rng).0, name: self.name(), uuid: uuid(rng), kind })
    }

    fn write(&mut self, state: &State, rng: &mut Rng) -> Action {
        let (volume, at, blocks) = place(state, rng);
        let stamps = (0..blocks).map(|_| {
            self.stamps += 1;
            Stamp(self.stamps)
        });
        let change = Change::Write { volume, at, stamps: stamps.collect() };
        Action::Change { change, fua: rng.u8(0..10) == 0 }
    }
}

fn control(control: Control) -> Action {
    Action::Change { change: Change::Control(control, None), fua: true }
}

fn uuid(rng: &mut Rng) -> Uuid {
    Uuid::from_u128(rng.u128(..))
}

fn pick<'a>(state: &'a State, rng: &mut Rng) -> (VolumeId, &'a Volume) {
    let (id, volume) = state.iter().nth(rng.usize(..state.len())).expect("the index is in range");
    (VolumeId(*id), volume)
}

/// A few blocks of some volume: near its ends, near the bounds of leaves, anywhere.
fn place(state: &State, rng: &mut Rng) -> (VolumeId, VolumeBlock, u32) {
    let (id, volume) = pick(state, rng);
    let last = volume.blocks - 1;
    let hot = [0, 250, 505, last.saturating_sub(12), rng.u64(0..=last.min(SMALL_BLOCKS))];
    let at = (hot[rng.usize(..hot.len())] + rng.u64(0..8)).min(last);
    let most = if rng.u8(0..20) == 0 { 200 } else { 16 };
    let blocks = rng.u64(1..=most).min(volume.blocks - at);
    (id, VolumeBlock(at), u32::try_from(blocks).expect("at most 200"))
}

fn read(state: &State, rng: &mut Rng) -> Action {
    let (volume, at, blocks) = place(state, rng);
    Action::Read { volume, at, blocks }
}

fn unmap(state: &State, rng: &mut Rng) -> Action {
    let (volume, at, blocks) = place(state, rng);
    let whole = rng.u8(0..4) == 0;
    let (at, blocks) = if whole {
        let blocks = state[&volume.0].blocks.min(256);
        (VolumeBlock(0), u32::try_from(blocks).expect("at most 256"))
    } else {
        (at, blocks)
    };
    Action::Change { change: Change::Unmap { volume, at, blocks }, fua: rng.u8(0..10) == 0 }
}

fn resize(state: &State, rng: &mut Rng) -> Action {
    let blocks = if rng.u8(0..6) == 0 { HUGE_BLOCKS } else { rng.u64(1..=SMALL_BLOCKS) };
    control(Control::Resize { volume: pick(state, rng).0, blocks })
}

fn rollback(state: &State, rng: &mut Rng) -> Action {
    control(Control::Rollback { volume: pick(state, rng).0, snapshot: pick(state, rng).0 })
}

/// What a block of a volume may hold in any of these states.
pub(crate) fn holds<'a>(
    mut states: impl Iterator<Item = &'a Rc<State>>,
    volume: VolumeId,
    block: u64,
    bytes: &[u8],
) -> bool {
    states.any(|state| {
        let content = state.get(&volume.0).map(|volume| volume.content.get(&block).copied());
        match content {
            None => false,
            Some(None) => bytes.iter().all(|byte| *byte == 0),
            Some(Some(stamp)) => bytes == stamp.bytes(),
        }
    })
}
