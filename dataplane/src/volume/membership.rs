//! The set of replicas: acceptance, activation, changes, losses, and replicas that come (back).

use fabrics::Now;

use super::machine::{Phase, Volume};
use super::pending::Purpose;
use super::roster;
use super::{Bitmap, Epoch, Event, Joined, Lane, LossReason, Members, Outcome, ReplicaIndex, RequestOp};

/// A record that this head cannot follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembersRefused {
    /// It is no later than the one in use.
    #[error("epoch {offered} is not above {current}")]
    Epoch {
        /// Its epoch.
        offered: Epoch,
        /// The one in use.
        current: Epoch,
    },
    /// It names replicas that do not hold everything, or none.
    #[error("replicas {0:?} are not in sync")]
    NotInSync(Members),
    /// Replicas that are in sync cannot be kept out.
    #[error("replicas {0:?} are in sync")]
    InSync(Members),
    /// The head does not serve.
    #[error("the volume is not active here")]
    NotActive,
}

impl Volume {
    /// Asks a replica to accept this head.
    pub(super) fn fence(&mut self, replica: ReplicaIndex, epoch: Epoch, now: Now) {
        self.peers[replica.index()].fence_at = None;
        let sound = self.is_sound(replica);
        self.send(replica, Lane::default(), Purpose::Fence(epoch), RequestOp::Fence { epoch, sound }, now);
    }

    /// Asks again those that could not accept it before.
    pub(super) fn fence_due(&mut self, now: Now) {
        self.fence_failed(now);
        let (epoch, asked) = match self.phase {
            Phase::Fencing { waiting } => (self.epoch, waiting),
            Phase::Changing { epoch, waiting, .. } => (epoch, waiting | self.attaching),
            _ => (self.epoch, self.attaching),
        };
        for replica in asked.iter() {
            if self.peers[replica.index()].fence_at.is_some_and(|at| now >= at) {
                let epoch = if self.attaching.has(replica) { self.epoch } else { epoch };
                self.fence(replica, epoch, now);
            }
        }
    }

    /// While nothing is served, a replica that was given up may come back: it may be the only one there is.
    fn fence_failed(&mut self, now: Now) {
        for replica in self.failed.iter() {
            let Phase::Fencing { waiting } = self.phase else { return };
            let peer = &self.peers[replica.index()];
            if peer.outstanding == 0 && peer.fence_at.is_some_and(|at| now >= at) {
                self.failed.remove(replica);
                self.advance(Phase::Fencing { waiting: waiting | Members::one(replica) });
                self.new_session(replica);
                self.fence(replica, self.epoch, now);
            }
        }
    }

    pub(super) fn on_fence_answer(
        &mut self,
        replica: ReplicaIndex,
        epoch: Epoch,
        outcome: Outcome,
        now: Now,
    ) {
        match outcome {
            Outcome::Joined(joined) if self.attaching.has(replica) => {
                self.attached_now(replica, &joined, now)
            }
            Outcome::Joined(joined) => self.on_accepted(replica, epoch, joined, now),
            Outcome::Later { ns } => {
                self.peers[replica.index()].fence_at = Some(now.after_ns(ns));
            }
            Outcome::Failed(_) => self.fail(replica, LossReason::Media, now),
            _ => self.fail(replica, LossReason::Path, now),
        }
    }

    fn on_accepted(&mut self, replica: ReplicaIndex, accepted: Epoch, said: Joined, now: Now) {
        match self.phase {
            Phase::Fencing { mut waiting } if accepted == self.epoch => {
                waiting.remove(replica);
                let joined = &mut self.peers[replica.index()].joined;
                match joined {
                    // Accepting us makes it no sounder; it may have restarted since it accepted us first.
                    Some(before) => {
                        before.sound &= said.sound;
                        let mut intent = said.intent;
                        intent.resize(before.intent.len(), true);
                        before.intent.unite(&intent);
                    }
                    None => *joined = Some(said),
                }
                self.advance(Phase::Fencing { waiting });
                self.establish(now);
            }
            Phase::Changing { epoch, in_sync, mut waiting } if accepted == epoch => {
                waiting.remove(replica);
                self.advance(Phase::Changing { epoch, in_sync, waiting });
                if self.peers[replica.index()].trusted && !said.sound {
                    self.fail(replica, LossReason::Restarted, now);
                }
                self.finish_change(now);
            }
            // An answer for a set that was replaced meanwhile.
            _ => {}
        }
    }

    /// Starts to serve once every recorded replica has accepted, and can be trusted.
    fn establish(&mut self, now: Now) {
        let Phase::Fencing { waiting } = self.phase else { return };
        if !waiting.is_empty() {
            return;
        }
        let joined = self.recorded - self.failed;
        let trusted = |replica: &ReplicaIndex| {
            self.peers[replica.index()].joined.as_ref().is_some_and(|joined| joined.sound)
        };
        let fresh = |replica: &ReplicaIndex| {
            self.peers[replica.index()].joined.as_ref().is_some_and(|joined| !joined.content.is_whole())
        };
        let fresh: Members = joined.iter().filter(fresh).collect();
        if fresh != joined && !fresh.is_empty() {
            // They were made after the others were used.
            return self.give_up(fresh, LossReason::Restarted, now);
        }
        let lineage = |replica: ReplicaIndex| {
            self.peers[replica.index()].joined.as_ref().map(|joined| (replica, joined.lineage))
        };
        let lineages: Vec<_> = joined.iter().filter_map(lineage).collect();
        let differing = roster::differing(&lineages);
        if !differing.is_empty() {
            return self.give_up(differing, LossReason::Differs, now);
        }
        let sound: Members = joined.iter().filter(trusted).collect();
        if sound != joined && !sound.is_empty() {
            return self.give_up(joined - sound, LossReason::Restarted, now);
        }
        if self.failed.is_empty() && self.holds_leases(now) {
            if sound.is_empty() {
                self.event(Event::Unflushed);
            }
            self.start_serving(now);
        } else if self.failed.is_empty() {
            // It took so long that the first to accept us no longer hold to it.
            for replica in joined.iter() {
                self.fence(replica, self.epoch, now);
            }
            self.advance(Phase::Fencing { waiting: joined });
        }
    }

    fn start_serving(&mut self, now: Now) {
        self.find_size();
        let (all, regions): (Vec<_>, u64) = (self.recorded.iter().collect(), self.regions());
        for replica in &all {
            let peer = &mut self.peers[replica.index()];
            if let Some(mut joined) = peer.joined.take() {
                joined.intent.resize(regions, true);
                peer.blocks = joined.blocks;
                (peer.trusted, peer.lineage) = (joined.sound, joined.lineage);
                self.roster.trust(joined.lineage);
                self.intent.dirty.unite(&joined.intent);
            }
            self.intent.forget(*replica);
        }
        let local = self.config.local.filter(|replica| self.recorded.has(*replica));
        let source = local.or(all.first().copied());
        let dirty = self.intent.dirty.clone();
        self.counters.regions_to_copy += dirty.ones() * (all.len() as u64 - 1);
        for replica in all.iter().filter(|replica| Some(**replica) != source) {
            self.peers[replica.index()].stale = dirty.clone();
        }
        self.intent.recent.unite(&dirty);
        self.advance(Phase::Active);
        self.resume_growth();
        self.event(Event::Active { epoch: self.epoch, in_sync: self.recorded });
        for replica in all {
            self.peers[replica.index()].renew_at = now;
        }
    }

    /// Management has recorded this set at this epoch.
    ///
    /// # Errors
    /// The record is not one that this head can follow; nothing has changed.
    pub fn set_members(&mut self, epoch: Epoch, in_sync: Members, now: Now) -> Result<(), MembersRefused> {
        let current = match self.phase {
            Phase::Fencing { .. } | Phase::Active => self.epoch,
            Phase::Changing { epoch, .. } => epoch,
            _ => return Err(MembersRefused::NotActive),
        };
        if epoch <= current {
            return Err(MembersRefused::Epoch { offered: epoch, current });
        }
        let known = self.recorded | self.pledged;
        if in_sync.is_empty() || !known.covers(in_sync) {
            return Err(MembersRefused::NotInSync(in_sync - known));
        }
        let waiting = in_sync - self.failed;
        if let Phase::Fencing { .. } = self.phase {
            self.epoch = epoch;
            self.recorded = in_sync;
            self.failed &= in_sync;
            self.advance(Phase::Fencing { waiting });
            self.propose_out(LossReason::Path);
        } else {
            self.advance(Phase::Changing { epoch, in_sync, waiting });
        }
        for replica in waiting.iter() {
            self.fence(replica, epoch, now);
        }
        self.finish_change(now);
        self.establish(now);
        self.run(now);
        Ok(())
    }

    /// Serves under a new set once its replicas have accepted the epoch.
    fn finish_change(&mut self, now: Now) {
        let Phase::Changing { epoch, in_sync, waiting } = self.phase else { return };
        if !waiting.is_empty() {
            return;
        }
        assert!((self.recorded | self.pledged).covers(in_sync));
        let gone = self.recorded - in_sync;
        let unpledged = self.pledged - in_sync - self.failed;
        self.epoch = epoch;
        self.recorded = in_sync;
        self.pledged = Members::NONE;
        self.failed &= in_sync;
        // What was proposed and not taken is proposed again.
        self.syncing = (self.syncing | unpledged) - in_sync;
        self.advance(Phase::Active);
        for replica in gone.iter() {
            self.drop_requests(replica);
            self.intent.forget(replica);
            self.peers[replica.index()].fence_at = Some(now.after_ns(self.config.attach_ns));
        }
        self.reelect(now);
        self.event(Event::Active { epoch, in_sync });
        self.finish_growth();
        self.propose_out(LossReason::Path);
        self.settle_all(now);
        self.leave_out(unpledged, now);
        for replica in self.syncing.iter() {
            self.on_copied_everything(replica, now);
        }
    }

    /// Gives a replica up.
    pub(super) fn fail(&mut self, replica: ReplicaIndex, reason: LossReason, now: Now) {
        self.give_up(Members::one(replica), reason, now);
    }

    #[cold]
    fn give_up(&mut self, replicas: Members, reason: LossReason, now: Now) {
        if matches!(self.phase, Phase::Deposed | Phase::Released) {
            return;
        }
        self.freezer.forget(replicas);
        self.growth.forget(replicas);
        for replica in replicas.iter() {
            self.drop_requests(replica);
            self.intent.forget(replica);
            let peer = &mut self.peers[replica.index()];
            peer.joined = None;
            peer.trusted = false;
            peer.fence_at = Some(now.after_ns(self.config.attach_ns));
            if self.attaching.has(replica) {
                self.attaching.remove(replica);
            } else if self.syncing.has(replica) {
                self.syncing.remove(replica);
                self.event(Event::Detached { replica, reason });
            }
        }
        let counted = replicas & (self.recorded | self.pledged);
        let news = !self.failed.covers(counted);
        self.failed |= counted;
        if news {
            self.propose_out(reason);
        }
        match &mut self.phase {
            Phase::Fencing { waiting } => {
                *waiting -= replicas;
                self.establish(now);
            }
            Phase::Changing { waiting, .. } => {
                *waiting -= replicas;
                self.finish_change(now);
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Active | Phase::Changing { .. } | Phase::Draining) {
            self.reelect(now);
            self.forget_cycle();
            self.abandon_copies(replicas, now);
            self.wake_intent_waiters(now);
            self.settle_all(now);
            self.wake_sync_waiters(now);
        }
    }

    fn propose_out(&mut self, reason: LossReason) {
        let replicas = self.failed & (self.recorded | self.pledged);
        if !replicas.is_empty() {
            self.event(Event::ProposeOut { replicas, epoch: self.epoch, reason });
        }
    }

    /// A proposal, or the answer to it, may be lost.
    pub(super) fn propose_again(&mut self, now: Now) {
        if now < self.propose_at {
            return;
        }
        self.propose_at = now.after_ns(self.config.attach_ns);
        self.propose_out(LossReason::Path);
        let replicas = self.pledged - self.failed - self.leaving;
        if !replicas.is_empty() {
            self.event(Event::ProposeIn { replicas, epoch: self.epoch });
        }
    }

    fn drop_requests(&mut self, replica: ReplicaIndex) {
        for pending in self.requests.iter_mut().filter(|pending| pending.replica == replica) {
            pending.dead = true;
        }
        self.forget_replica(replica);
        let peer = &mut self.peers[replica.index()];
        (peer.renewing, peer.copy_flush) = (false, false);
        (peer.adopting, peer.growing) = (false, false);
    }

    /// A replica holds every write of the recorded set, and some regions may differ only because of writes that were never
    /// acknowledged nor read: when the one that the others are copied from is gone, any other will do.
    fn reelect(&mut self, now: Now) {
        let counted = self.recorded - self.failed;
        let has_source = |volume: &Self, region: u64| {
            counted.iter().any(|replica| !volume.peers[replica.index()].stale.has(region))
        };
        let Some(next) = counted.iter().min_by_key(|replica| self.peers[replica.index()].stale.ones()) else {
            return;
        };
        let lost: Vec<u64> =
            self.peers[next.index()].stale.iter().filter(|region| !has_source(self, *region)).collect();
        for region in lost {
            self.peers[next.index()].stale.clear(region);
        }
        self.flush_copies(next, now);
    }

    // Replicas that come

    /// Stops to copy to a replica that is not in sync, and leaves it alone until [`Volume::let_come`].
    ///
    /// # Errors
    /// It is in sync, or about to be recorded as such.
    pub fn keep_out(&mut self, replica: ReplicaIndex, now: Now) -> Result<(), MembersRefused> {
        let counted = self.recorded | self.pledged;
        if counted.has(replica) || !self.config.members.has(replica) {
            return Err(MembersRefused::InSync(Members::one(replica)));
        }
        self.held.insert(replica);
        if (self.syncing | self.attaching).has(replica) {
            self.fail(replica, LossReason::Cancelled, now);
            self.run(now);
        }
        Ok(())
    }

    /// Takes a replica back that was kept out, or was to be removed.
    pub fn let_come(&mut self, replica: ReplicaIndex) {
        self.leaving.remove(replica);
        self.held.remove(replica);
    }

    /// Replicas that are kept out.
    pub fn kept_out(&self) -> Members {
        self.held
    }

    /// Asks replicas that are not part of anything whether they are there.
    pub(super) fn attach_absent(&mut self, now: Now) {
        if self.phase != Phase::Active {
            return;
        }
        let known = self.recorded | self.pledged | self.syncing | self.attaching | self.failed | self.held;
        let absent = self.config.members - known;
        for replica in absent.iter() {
            let peer = &mut self.peers[replica.index()];
            let due = peer.fence_at.is_none_or(|at| now >= at);
            // What was sent earlier must be answered, or it could be carried out later.
            if due && peer.outstanding == 0 {
                self.new_session(replica);
                self.attaching.insert(replica);
                self.fence(replica, self.epoch, now);
            }
        }
    }

    /// A replica has accepted us: it gets every write from now on, and what it lacks is copied.
    fn attached_now(&mut self, replica: ReplicaIndex, said: &Joined, now: Now) {
        self.attaching.remove(replica);
        self.syncing.insert(replica);
        if said.room < self.laid {
            return self.fail(replica, LossReason::TooSmall, now);
        }
        let regions = self.regions();
        let lacks = self.lacks_beyond(said);
        let peer = &mut self.peers[replica.index()];
        peer.stale = match self.roster.tells(said) && !peer.added {
            true => self.intent.dirty.clone(),
            false => Bitmap::full(regions),
        };
        peer.stale.unite(&lacks);
        (peer.lineage, peer.blocks) = (said.lineage, said.blocks);
        peer.unflushed.clear_all();
        peer.flushing.clear_all();
        let regions = peer.stale.ones();
        self.intent.forget(replica);
        self.counters.regions_to_copy += regions;
        self.event(Event::Resync { replica, regions });
    }

    /// A replica lacks nothing any more: it counts from now on, and is proposed to be recorded.
    pub(super) fn pledge(&mut self, replica: ReplicaIndex, now: Now) {
        assert!(self.syncing.has(replica));
        assert!(self.peers[replica.index()].stale.is_empty());
        self.syncing.remove(replica);
        self.pledged.insert(replica);
        self.peers[replica.index()].trusted = true;
        self.extend_flushes(replica, now);
        self.event(Event::ProposeIn { replicas: Members::one(replica), epoch: self.epoch });
    }
}
