//! More blocks for hosts, while they are served.
//!
//! A replica keeps durably how many blocks it holds. A volume is as large as the smallest replica that is recorded, so it
//! grows at one point: when the last of these has stored the new size. Before that, bits of the regions that come are on
//! every replica, set: nothing is known of what lies there. So whatever head comes next finds the old size, or the new one with
//! regions that are made equal before they are read.
//!
//! Invariants: hosts see no more blocks than every replica that counts has stored; a replica stores a size only when its own
//! bits for it are on its media; hosts never see fewer.

use fabrics::Now;

use super::machine::{Phase, Volume};
use super::pending::Purpose;
use super::{Bitmap, Event, Joined, Lane, LossReason, Members, Outcome, ReplicaIndex, RequestOp};

/// The size cannot be changed like this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResizeRefused {
    /// The head does not serve, or its set is being changed.
    #[error("the volume is not active here, or its replicas are being changed; try again")]
    Busy,
    /// What lies at the end would be gone.
    #[error("a replicated volume does not shrink")]
    Smaller,
    /// The device of a replica is too small.
    #[error("the devices of replicas {0:?} have no room: grow them first")]
    NoRoom(Members),
}

/// How far a change of the size is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resizing {
    /// Not yet: look again.
    Waiting,
    /// It is as large.
    Done,
    /// It stays as it is.
    Refused(ResizeRefused),
}

/// The change there is.
#[derive(Default, Debug)]
pub(super) enum Growth {
    #[default]
    None,
    /// Replicas are asked whether they have room; these have not answered.
    Asking { blocks: u64, waiting: Members },
    /// These have none, or cannot be asked.
    Refused(ResizeRefused),
}

impl Growth {
    /// These can no longer be asked.
    pub(super) fn forget(&mut self, replicas: Members) {
        if matches!(self, Self::Asking { waiting, .. } if waiting.meets(replicas)) {
            *self = Self::Refused(ResizeRefused::Busy);
        }
    }
}

impl Volume {
    /// Regions that bits and copies are laid out for.
    pub fn regions(&self) -> u64 {
        self.laid.div_ceil(u64::from(self.config.region_blocks))
    }

    /// Gives hosts so many blocks. What became of it is in [`Volume::resizing`].
    ///
    /// # Errors
    /// It does not serve, its set is changing, or it would shrink; nothing has changed.
    pub fn resize(&mut self, blocks: u64, now: Now) -> Result<(), ResizeRefused> {
        let counted = self.recorded | self.pledged;
        if self.phase != Phase::Active || !self.failed.is_empty() {
            return Err(ResizeRefused::Busy);
        }
        if blocks < self.laid {
            return Err(ResizeRefused::Smaller);
        }
        if blocks == self.laid {
            self.growth = Growth::None;
            return Ok(());
        }
        if matches!(self.growth, Growth::Asking { .. }) || self.laid > self.config.blocks {
            return Err(ResizeRefused::Busy);
        }
        self.growth = Growth::Asking { blocks, waiting: counted };
        for replica in counted.iter() {
            let op = RequestOp::Grow { blocks, store: false };
            self.send(replica, Lane::default(), Purpose::Room, op, now);
        }
        Ok(())
    }

    /// How far [`Volume::resize`] is.
    pub fn resizing(&self) -> Resizing {
        match self.growth {
            _ if self.is_over() => Resizing::Refused(ResizeRefused::Busy),
            Growth::Refused(why) => Resizing::Refused(why),
            Growth::None if self.laid == self.config.blocks => Resizing::Done,
            _ => Resizing::Waiting,
        }
    }

    pub(super) fn on_room(&mut self, replica: ReplicaIndex, outcome: &Outcome, now: Now) {
        let Growth::Asking { blocks, mut waiting } = self.growth else { return };
        match outcome {
            Outcome::Done => waiting.remove(replica),
            Outcome::Failed(_) => {
                self.growth = Growth::Refused(ResizeRefused::NoRoom(Members::one(replica)));
                return;
            }
            _ => return self.fail(replica, LossReason::Path, now),
        }
        self.growth = Growth::Asking { blocks, waiting };
        if waiting.is_empty() {
            self.growth = Growth::None;
            self.lay_out(blocks);
        }
    }

    /// Bits for more regions, which may differ on all replicas but one.
    fn lay_out(&mut self, blocks: u64) {
        let first = self.laid / u64::from(self.config.region_blocks);
        self.set_layout(blocks);
        let regions = first..self.regions();
        self.intent.mark(regions.clone());
        let counted = self.recorded - self.failed;
        let source = self.config.local.filter(|local| counted.has(*local)).or(counted.iter().next());
        for replica in self.attached().iter().filter(|replica| Some(*replica) != source) {
            for region in regions.clone() {
                let new = self.peers[replica.index()].stale.set(region);
                self.counters.regions_to_copy += u64::from(new);
            }
        }
    }

    fn set_layout(&mut self, blocks: u64) {
        self.laid = blocks;
        let regions = self.regions();
        self.forget_cycle();
        self.copying.resize(regions);
        self.intent.resize(regions);
        for peer in &mut self.peers {
            for bitmap in [&mut peer.stale, &mut peer.unflushed, &mut peer.flushing] {
                bitmap.resize(regions, false);
            }
        }
    }

    /// It begins as large as the smallest of the recorded replicas says.
    pub(super) fn find_size(&mut self) {
        let said =
            |replica: ReplicaIndex| self.peers[replica.index()].joined.as_ref().map(|joined| joined.blocks);
        let Some(blocks) = self.recorded.iter().filter_map(said).min() else { return };
        if blocks != self.config.blocks {
            self.set_layout(blocks);
            self.config.blocks = blocks;
            self.event(Event::Resized { blocks });
        }
    }

    /// What an earlier head began is finished: those who have stored the new size may be alone one day.
    pub(super) fn resume_growth(&mut self) {
        let stored = self.recorded.iter().map(|replica| self.peers[replica.index()].blocks).max();
        if let Some(blocks) = stored.filter(|blocks| *blocks > self.laid) {
            self.lay_out(blocks);
        }
    }

    /// What a replica lacks by its own bits, and behind its end.
    pub(super) fn lacks_beyond(&self, said: &Joined) -> Bitmap {
        let mut lacks = Bitmap::clone(&said.intent);
        lacks.resize(self.regions(), true);
        let region = u64::from(self.config.region_blocks);
        if said.blocks < self.laid && !said.blocks.is_multiple_of(region) {
            lacks.set(said.blocks / region);
        }
        lacks
    }

    /// Whether a replica has stored as many blocks as there are to be. One that came with more was there when a volume did not
    /// grow after all: it counts only once it has forgotten that.
    pub(super) fn is_large(&self, replica: ReplicaIndex) -> bool {
        self.peers[replica.index()].blocks == self.laid
    }

    /// Tells attached replicas how large they are to be, as soon as their bits say what they lack of it.
    pub(super) fn tell_size(&mut self, now: Now) {
        for replica in self.attached().iter() {
            let idle = !self.peers[replica.index()].growing && !self.is_large(replica);
            if idle && self.intent.is_complete(replica) {
                self.peers[replica.index()].growing = true;
                let op = RequestOp::Grow { blocks: self.laid, store: true };
                self.send(replica, Lane::default(), Purpose::Grow(self.laid), op, now);
            }
        }
    }

    pub(super) fn on_grown(&mut self, replica: ReplicaIndex, blocks: u64, outcome: &Outcome, now: Now) {
        self.peers[replica.index()].growing = false;
        match outcome {
            Outcome::Later { .. } => return,
            Outcome::Failed(_) => return self.fail(replica, LossReason::TooSmall, now),
            _ if !self.fail_unless_done(replica, outcome, now) => return,
            _ => {}
        }
        self.peers[replica.index()].blocks = blocks;
        self.finish_growth();
        self.on_copied_everything(replica, now);
    }

    /// Hosts see what every replica that counts has stored.
    pub(super) fn finish_growth(&mut self) {
        let all = (self.recorded | self.pledged).iter().all(|replica| self.is_large(replica));
        if all && self.laid > self.config.blocks {
            self.config.blocks = self.laid;
            self.event(Event::Resized { blocks: self.laid });
        }
    }
}
