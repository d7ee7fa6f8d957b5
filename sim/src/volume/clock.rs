//! A clock that is off, and runs off, within the bound that heads are told.

use fabrics::Now;
use fastrand::Rng;

/// The bound on drift, in millionths.
pub(super) const DRIFT_PPM: u32 = 5000;

/// One node's clock.
#[derive(Clone, Copy)]
pub(super) struct DriftingClock {
    offset_ns: u64,
    ppm: i64,
}

impl DriftingClock {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let bound = i64::from(DRIFT_PPM);
        let ppm = *rng.choice(&[-bound, 0, bound]).unwrap_or(&0);
        Self {
            offset_ns: rng.u64(0..10_000_000_000),
            ppm: if rng.bool() { ppm } else { rng.i64(-bound..=bound) },
        }
    }

    /// What it shows at a time of the world.
    pub(super) fn at(&self, world_ns: u64) -> Now {
        let drift = i128::from(world_ns) * i128::from(self.ppm) / 1_000_000;
        let shown = i128::from(world_ns) + drift + i128::from(self.offset_ns);
        Now(u64::try_from(shown).unwrap_or(0))
    }
}
