//! Random commands, of the kinds and in the places where a store is likely to be wrong.

use dataplane::store::{Control, Settings, VolumeBlock, VolumeId, VolumeKind};
use fastrand::Rng;
use uuid::Uuid;

use crate::model::{Change, State, Volume, stamped};

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
            46..58 => read(state, rng),
            58..65 => unmap(state, rng),
            65..68 => own(state, rng),
            68..78 => Action::Flush,
            78..80 => configure(state, rng),
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
        let (name, uuid) = (self.name(), uuid(rng));
        if rng.u8(0..3) > 0 {
            return control(Control::Create { name, uuid, blocks });
        }
        let settings = Settings { read_only: false, reserved: rng.u8(0..3) > 0, checksums: rng.u8(0..3) > 0 };
        control(Control::CreateWith { name, uuid, blocks, settings })
    }

    fn copy(&mut self, state: &State, rng: &mut Rng) -> Action {
        let kind = if rng.bool() { VolumeKind::Snapshot } else { VolumeKind::Writable };
        control(Control::Copy { origin: pick(state, rng).0, name: self.name(), uuid: uuid(rng), kind })
    }

    fn write(&mut self, state: &State, rng: &mut Rng) -> Action {
        let (volume, at, blocks) = place(state, rng);
        let data = (0..blocks).map(|_| {
            self.stamps += 1;
            stamped(self.stamps)
        });
        let change = Change::Write { volume, at, data: data.collect() };
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
    let volume = pick(state, rng).0;
    control(if rng.bool() {
        Control::Truncate { volume, blocks }
    } else {
        Control::Resize { volume, blocks }
    })
}

fn configure(state: &State, rng: &mut Rng) -> Action {
    let volume = pick(state, rng).0;
    match rng.u8(0..8) {
        0 | 1 => return control(Control::Detach { volume }),
        2..5 => return control(Control::Promote { volume }),
        _ => {}
    }
    // Seldom read-only: the others are there to be written.
    let read_only = rng.bool().then(|| rng.u8(0..4) == 0);
    control(Control::Configure { volume, read_only, reserved: rng.bool().then(|| rng.bool()) })
}

fn own(state: &State, rng: &mut Rng) -> Action {
    let (volume, at, _) = place(state, rng);
    let blocks = rng.u64(1..=256).min(state[&volume.0].blocks - at.0);
    let blocks = u32::try_from(blocks).expect("at most 256");
    Action::Change { change: Change::Own { volume, at, blocks }, fua: false }
}

fn rollback(state: &State, rng: &mut Rng) -> Action {
    control(Control::Rollback { volume: pick(state, rng).0, snapshot: pick(state, rng).0 })
}
