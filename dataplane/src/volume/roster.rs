//! The replicas that a volume has, in sync or not: added and removed while it is served, and told apart from strangers.
//!
//! A replica that was away is given what its own bits and those of the others say. That is everything only as long as nobody
//! has cleared bits without it: its head may not have known of it, or it was removed. So every head gives those it is
//! attached to a *lineage* of its own, durably, before it clears the first bit, and another after a removal. Bits are cleared
//! only when every known replica is in sync and holds the newest. Whoever comes with another is given everything.
//!
//! Invariants: a replica adopts a lineage only when its own bits say on its media what it lacks; one that counts as in sync
//! holds a lineage of this head, or held one that the head found among those recorded.

use fabrics::Now;

use super::format::Content;
use super::machine::{Phase, Volume};
use super::pending::Purpose;
use super::{HeadId, Joined, Lane, LossReason, Members, Outcome, ReplicaIndex, RequestOp};

/// Replicas that hold the same one share their bits: together these say what any of them lacks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Lineage {
    /// The head that gave it.
    pub head: HeadId,
    /// Which of that head's.
    pub number: u32,
}

impl Lineage {
    /// None was adopted yet.
    pub const NONE: Self = Self { head: HeadId::NONE, number: 0 };

    /// That of replicas that were given the content of one moment, and no head has given another since. The same for all of
    /// one occasion, and for no other.
    pub fn of_moment(occasion: u128) -> Self {
        Self { head: HeadId(occasion), number: u32::MAX }
    }

    /// Whether it is one of [`Lineage::of_moment`].
    pub fn is_of_moment(self) -> bool {
        self.number == u32::MAX
    }
}

/// Of these recorded replicas, those that cannot be taken for equal to the rest: some were given the content of a moment, and the others
/// not, or that of another moment. Who was given nothing stays.
pub(super) fn differing(said: &[(ReplicaIndex, Lineage)]) -> Members {
    let mut of_moment = said.iter().filter(|(_, lineage)| lineage.is_of_moment());
    let Some((_, first)) = of_moment.next() else { return Members::NONE };
    let rest = said.iter().any(|(_, lineage)| !lineage.is_of_moment());
    let differs =
        |(_, lineage): &&(ReplicaIndex, Lineage)| lineage.is_of_moment() && (rest || lineage != first);
    said.iter().filter(differs).map(|(replica, _)| *replica).collect()
}

/// The replicas cannot be changed like this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RosterRefused {
    /// It counts for acknowledgements.
    #[error("it is in sync: record the next epoch without it first")]
    InSync,
    /// Somebody may have recorded it by now. It is not proposed again.
    #[error("it is proposed to be recorded: record the next epoch without it, then remove it")]
    Proposed,
    /// A volume has one at least.
    #[error("it is the last one")]
    Last,
    /// Fewer would be left than a write needs.
    #[error("{left} would be left, and min_in_sync is {min_in_sync}")]
    TooFew {
        /// Without it.
        left: u8,
        /// Needed.
        min_in_sync: u8,
    },
}

/// The lineages that a head knows.
pub(super) struct Roster {
    own: Lineage,
    /// Bits were not cleared without anybody who holds one of these.
    trusted: Vec<Lineage>,
}

impl Roster {
    pub(super) fn new(head: HeadId) -> Self {
        let own = Lineage { head, number: 0 };
        Self { own, trusted: vec![own] }
    }

    /// A recorded replica holds it.
    pub(super) fn trust(&mut self, lineage: Lineage) {
        if !self.trusted.contains(&lineage) {
            self.trusted.push(lineage);
        }
    }

    /// Bits are about to be cleared: everybody known holds the newest.
    pub(super) fn trust_only_own(&mut self) {
        self.trusted.clear();
        self.trusted.push(self.own);
    }

    fn renew(&mut self) {
        self.own.number += 1;
        self.trust(self.own);
    }

    /// Whether bits tell what a replica lacks.
    pub(super) fn tells(&self, said: &Joined) -> bool {
        said.content != Content::Fresh && self.trusted.contains(&said.lineage)
    }
}

impl Volume {
    /// Replicas of the volume, in sync or not.
    pub fn members(&self) -> Members {
        self.config.members
    }

    /// One more replica, in a place where there is none. It is given everything, then proposed to be recorded.
    ///
    /// # Panics
    /// When there is one.
    pub fn add_replica(&mut self, replica: ReplicaIndex, local: bool) {
        assert!(!self.config.members.has(replica));
        self.config.members.insert(replica);
        if local {
            self.config.local.get_or_insert(replica);
        }
        let peer = &mut self.peers[replica.index()];
        (peer.added, peer.fence_at) = (true, None);
    }

    /// Forgets a replica for good.
    ///
    /// # Errors
    /// It counts, or too few would be left. If it was proposed to be recorded, that is not done again, and it is left alone after
    /// the next record without it.
    pub fn remove_replica(&mut self, replica: ReplicaIndex, now: Now) -> Result<(), RosterRefused> {
        assert!(self.config.members.has(replica));
        let next = match self.phase {
            Phase::Changing { in_sync, .. } => in_sync,
            _ => Members::NONE,
        };
        if (self.recorded | next).has(replica) {
            return Err(RosterRefused::InSync);
        }
        check_removal(self.config.members.len(), self.config.min_in_sync)?;
        if self.pledged.has(replica) {
            self.leaving.insert(replica);
            return Err(RosterRefused::Proposed);
        }
        self.config.members.remove(replica);
        self.config.local = self.config.local.filter(|local| *local != replica);
        for members in [&mut self.held, &mut self.syncing, &mut self.attaching] {
            members.remove(replica);
        }
        self.fail(replica, LossReason::Cancelled, now);
        self.peers[replica.index()].stale.clear_all();
        self.roster.renew();
        self.run(now);
        Ok(())
    }

    /// A record came: of those that are to go and were not recorded nothing more is wanted.
    pub(super) fn leave_out(&mut self, unpledged: Members, now: Now) {
        let gone = std::mem::take(&mut self.leaving) & unpledged;
        self.syncing -= gone;
        self.held |= gone;
        for replica in gone.iter() {
            self.fail(replica, LossReason::Cancelled, now);
        }
    }

    /// Whether a replica holds what it is to hold.
    pub(super) fn shares_bits(&self, replica: ReplicaIndex) -> bool {
        self.peers[replica.index()].lineage == self.roster.own
    }

    /// Tells attached replicas whose bits they share, as soon as their own say what they lack.
    pub(super) fn tell_lineage(&mut self, now: Now) {
        for replica in self.attached().iter() {
            let idle = !self.peers[replica.index()].adopting && !self.shares_bits(replica);
            if idle && self.intent.is_complete(replica) {
                let lineage = self.roster.own;
                self.peers[replica.index()].adopting = true;
                let op = RequestOp::Adopt { lineage };
                self.send(replica, Lane::default(), Purpose::Adopt(lineage), op, now);
            }
        }
    }

    pub(super) fn on_adopted(
        &mut self,
        replica: ReplicaIndex,
        lineage: Lineage,
        outcome: &Outcome,
        now: Now,
    ) {
        self.peers[replica.index()].adopting = false;
        if matches!(outcome, Outcome::Later { .. }) || !self.fail_unless_done(replica, outcome, now) {
            return;
        }
        let peer = &mut self.peers[replica.index()];
        (peer.lineage, peer.added) = (lineage, false);
        self.on_copied_everything(replica, now);
    }
}

/// Whether one of so many replicas may go.
///
/// # Errors
/// It may not.
pub fn check_removal(members: u8, min_in_sync: u8) -> Result<(), RosterRefused> {
    let left = members.saturating_sub(1);
    if left == 0 {
        return Err(RosterRefused::Last);
    }
    if left < min_in_sync {
        return Err(RosterRefused::TooFew { left, min_in_sync });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_with_the_content_of_a_moment_are_equal_only_among_themselves() {
        let said = |lineages: &[Lineage]| -> Vec<(ReplicaIndex, Lineage)> {
            (0..).map(ReplicaIndex).zip(lineages.iter().copied()).collect()
        };
        let members = |list: &[u8]| -> Members { list.iter().copied().map(ReplicaIndex).collect() };
        let head = |number| Lineage { head: HeadId(7), number };
        let (one, other) = (Lineage::of_moment(1), Lineage::of_moment(2));
        for (lineages, differ) in [
            (vec![head(1), head(2), Lineage::NONE], members(&[])),
            (vec![one, one, one], members(&[])),
            (vec![head(1), one, one], members(&[1, 2])),
            (vec![one, Lineage::NONE], members(&[0])),
            (vec![one, other, one], members(&[1])),
            (vec![other, head(0), one], members(&[0, 2])),
        ] {
            assert_eq!(differing(&said(&lineages)), differ, "{lineages:?}");
        }
    }
}
