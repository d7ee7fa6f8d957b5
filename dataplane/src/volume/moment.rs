//! A snapshot of every replica in sync in one call: freeze, let each take its own, thaw, and keep them only when the moment lasted.
//!
//! - Snapshots are unconfirmed until the head has confirmed the moment; only then is any replica asked to keep its own.
//! - A replica that did not answer may hold one, or take it later: it is named in the outcome.
//! - When the head dies in the middle, some replicas may have kept theirs and others not. Those that were kept are good.

use fabrics::Now;

use super::freeze::{FreezeId, FreezeRefused, Frozen};
use super::machine::Volume;
use super::{Members, ReplicaIndex};

/// What a replica is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MomentAsk {
    /// To take a snapshot, unconfirmed.
    Take,
    /// To keep it: it is confirmed.
    Keep,
    /// To delete it.
    Drop,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MomentOutcome {
    /// Replicas that keep a snapshot of the same moment; none if it failed.
    pub kept: Members,
    /// Replicas that may hold an unconfirmed one, which is to be deleted.
    pub left: Members,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Until the replicas hold the same.
    Freezing,
    /// Until they have answered.
    Taking,
    /// Until the head knows whether the moment lasted.
    Thawing,
    /// Until each has kept or deleted what it has.
    Settling,
    Over,
}

/// See the module.
#[derive(Debug)]
pub struct Moment {
    freeze: FreezeId,
    stage: Stage,
    /// Asked, and not answered.
    asked: Members,
    /// Asked to take one.
    holders: Members,
    /// Have taken one.
    taken: Members,
    confirmed: Members,
    outcome: MomentOutcome,
}

impl Moment {
    /// Begins: writes wait for `ns` nanoseconds at most.
    ///
    /// # Errors
    /// As [`Volume::freeze`].
    pub fn begin(volume: &mut Volume, ns: u64, now: Now) -> Result<Self, FreezeRefused> {
        let freeze = volume.freeze(ns, now)?;
        let none = Members::NONE;
        let outcome = MomentOutcome { kept: none, left: none };
        let stage = Stage::Freezing;
        Ok(Self { freeze, stage, asked: none, holders: none, taken: none, confirmed: none, outcome })
    }

    /// Goes on: what to ask of which replicas. To be called again and again until there is an outcome. Every ask is to be
    /// answered with [`Moment::answered`].
    pub fn turn(&mut self, volume: &mut Volume, now: Now) -> Vec<(ReplicaIndex, MomentAsk)> {
        if !self.asked.is_empty() {
            return Vec::new();
        }
        match self.stage {
            Stage::Freezing => match volume.frozen(self.freeze) {
                Frozen::Waiting => Vec::new(),
                Frozen::Held(members) => {
                    (self.stage, self.holders, self.asked) = (Stage::Taking, members, members);
                    members.iter().map(|replica| (replica, MomentAsk::Take)).collect()
                }
                Frozen::Over => self.settle(Members::NONE),
            },
            Stage::Taking => {
                self.stage = Stage::Thawing;
                self.turn(volume, now)
            }
            Stage::Thawing => match volume.thaw(self.freeze, now) {
                Frozen::Waiting => Vec::new(),
                Frozen::Held(members) if self.taken.covers(members) => self.settle(members),
                Frozen::Held(_) | Frozen::Over => self.settle(Members::NONE),
            },
            Stage::Settling => {
                self.stage = Stage::Over;
                Vec::new()
            }
            Stage::Over => Vec::new(),
        }
    }

    /// The head is gone: nothing can be confirmed any more. What to ask of which replicas.
    pub fn give_up(&mut self) -> Vec<(ReplicaIndex, MomentAsk)> {
        match self.stage {
            _ if !self.asked.is_empty() => Vec::new(),
            Stage::Freezing | Stage::Taking | Stage::Thawing => self.settle(Members::NONE),
            Stage::Settling | Stage::Over => {
                self.stage = Stage::Over;
                Vec::new()
            }
        }
    }

    fn settle(&mut self, confirmed: Members) -> Vec<(ReplicaIndex, MomentAsk)> {
        (self.stage, self.confirmed, self.asked) = (Stage::Settling, confirmed, self.holders);
        let ask = |replica| if confirmed.has(replica) { MomentAsk::Keep } else { MomentAsk::Drop };
        self.holders.iter().map(|replica| (replica, ask(replica))).collect()
    }

    /// A replica has done what it was asked for, or it is not known whether it has.
    pub fn answered(&mut self, replica: ReplicaIndex, done: bool) {
        assert!(self.asked.has(replica), "an ask is answered once");
        self.asked.remove(replica);
        match (self.stage, done) {
            (Stage::Taking, true) => self.taken.insert(replica),
            (Stage::Settling, true) if self.confirmed.has(replica) => self.outcome.kept.insert(replica),
            (Stage::Settling, false) => self.outcome.left.insert(replica),
            _ => {}
        }
    }

    /// What came of it, once it is over.
    pub fn outcome(&self) -> Option<MomentOutcome> {
        (self.stage == Stage::Over).then_some(self.outcome)
    }

    /// Replicas that have not answered.
    pub fn waits_for(&self) -> Members {
        self.asked
    }
}
