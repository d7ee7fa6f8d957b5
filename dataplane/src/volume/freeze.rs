//! Moments at which every replica in sync holds the same: the writes under way end, and no other begins.
//!
//! Who copies the replicas one after the other while that lasts has copied one moment. Whether it lasted is known at the
//! end: the head held its leases all the time, let nothing through, and every replica that counts was up from the beginning
//! until after it was copied.

use fabrics::Now;

use super::commands::Step;
use super::machine::{Phase, Volume};
use super::{Members, ReplicaIndex};

/// One pause of writes. Never the same for two of one head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreezeId(pub u64);

/// Writes cannot be paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FreezeRefused {
    /// The head does not serve.
    #[error("the volume is not active here")]
    NotActive,
    /// They are paused already.
    #[error("the volume is frozen already")]
    Frozen,
}

/// How a pause is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frozen {
    /// Not yet: look again.
    Waiting,
    /// These replicas hold the same.
    Held(Members),
    /// It is over, and nothing can be said.
    Over,
}

/// The pause there is.
#[derive(Default, Debug)]
pub(super) struct Freezer {
    /// Counts them.
    last: u64,
    until: Option<Now>,
    /// Replicas that hold the same, and were not given up since.
    held: Option<Members>,
    /// When its end was asked for.
    ending: Option<Now>,
    /// Writes that wait; they hold no blocks.
    pub(super) waiters: Vec<u32>,
}

impl Freezer {
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// The head is at its end.
    pub(super) fn stop(&mut self) {
        self.until = None;
        self.waiters.clear();
    }

    /// These may have lost what they held.
    pub(super) fn forget(&mut self, replicas: Members) {
        if let Some(held) = &mut self.held {
            *held -= replicas;
        }
    }
}

impl Volume {
    /// Lets writes wait, for `ns` nanoseconds or until [`Volume::thaw`]. Reads and flushes go on.
    ///
    /// # Errors
    /// The head does not serve, or writes wait already.
    pub fn freeze(&mut self, ns: u64, now: Now) -> Result<FreezeId, FreezeRefused> {
        if !matches!(self.phase, Phase::Active | Phase::Changing { .. }) {
            return Err(FreezeRefused::NotActive);
        }
        if self.freezer.is_on() {
            return Err(FreezeRefused::Frozen);
        }
        self.freezer.last += 1;
        self.freezer.until = Some(now.after_ns(ns));
        (self.freezer.held, self.freezer.ending) = (None, None);
        Ok(FreezeId(self.freezer.last))
    }

    /// Whether the replicas in sync hold the same now.
    pub fn frozen(&mut self, freeze: FreezeId) -> Frozen {
        if !self.freezer.is_on() || self.freezer.last != freeze.0 {
            return Frozen::Over;
        }
        if self.freezer.held.is_none() && self.is_even() {
            self.freezer.held = Some(self.recorded);
        }
        match self.freezer.held {
            None => Frozen::Waiting,
            Some(held) if held.is_empty() => Frozen::Over,
            Some(held) => Frozen::Held(held),
        }
    }

    /// Asks for the end of a pause, again and again until it is: with the replicas that held the same from [`Volume::frozen`]
    /// until it was asked for first.
    pub fn thaw(&mut self, freeze: FreezeId, now: Now) -> Frozen {
        let Frozen::Held(held) = self.frozen(freeze) else {
            if self.freezer.last == freeze.0 {
                self.end_freeze(now);
            }
            return Frozen::Over;
        };
        let asked = *self.freezer.ending.get_or_insert(now);
        // A replica that answers what was sent since has not restarted before.
        let confirmed = asked.after_ns(self.config.counted_lease_ns());
        let answered = |replica: &ReplicaIndex| {
            self.peers[replica.index()].lease_until.is_some_and(|until| until >= confirmed)
        };
        let silent: Members = held.iter().filter(|replica| !answered(replica)).collect();
        if !silent.is_empty() {
            for replica in silent.iter() {
                self.peers[replica.index()].renew_at = now;
            }
            self.renew_leases(now);
            return Frozen::Waiting;
        }
        let sole = self.holds_leases(now);
        self.end_freeze(now);
        if sole { Frozen::Held(held) } else { Frozen::Over }
    }

    pub(super) fn end_overdue_freeze(&mut self, now: Now) {
        if self.freezer.until.is_some_and(|until| now >= until) {
            self.end_freeze(now);
        }
    }

    pub(super) fn end_freeze(&mut self, now: Now) {
        self.freezer.until = None;
        for slot in std::mem::take(&mut self.freezer.waiters) {
            self.begin(slot, now);
        }
        self.run(now);
    }

    /// Whether no write is anywhere between its blocks and its end, and nothing is left of earlier heads.
    fn is_even(&self) -> bool {
        let even = |replica: ReplicaIndex| self.peers[replica.index()].stale.is_empty();
        let mut writes = self.commands.iter().flatten().filter(|command| command.changes_blocks());
        self.phase == Phase::Active
            && self.failed.is_empty()
            && self.recorded.iter().all(even)
            && writes.all(|command| command.step == Step::Frozen)
    }
}
