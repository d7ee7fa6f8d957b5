//! How regions are copied, in the units of people.

use std::time::Duration;

use super::volume::COPIES_MAX;
use crate::volume::Pace;

/// How regions of a volume are copied to replicas that lack them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResyncOptions {
    /// Nothing is copied but what reads wait for.
    pub paused: bool,
    /// Regions at a time: 1 to 4.
    pub concurrency: u8,
    /// Bytes per second at most; `None` for no limit.
    pub bytes_per_s: Option<u64>,
    /// Copies make room while commands of hosts take longer on average; `None`: they never do.
    pub latency_target: Option<Duration>,
}

impl Default for ResyncOptions {
    fn default() -> Self {
        Self { paused: false, concurrency: COPIES_MAX, bytes_per_s: None, latency_target: None }
    }
}

impl ResyncOptions {
    pub(super) fn is_valid(&self) -> bool {
        (1..=COPIES_MAX).contains(&self.concurrency)
    }

    pub(super) fn pace(&self, block_shift: u8) -> Pace {
        Pace {
            paused: self.paused,
            copies: self.concurrency,
            blocks_per_s: self.bytes_per_s.map(|bytes| (bytes >> block_shift).max(1)),
            latency_target_ns: self
                .latency_target
                .map(|target| u64::try_from(target.as_nanos()).unwrap_or(u64::MAX)),
        }
    }
}
