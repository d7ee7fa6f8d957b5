//! One node: a replica with its disk, its clock, and perhaps the head.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::volume::format::Content;
use dataplane::volume::{
    Bitmap, Epoch, HeadId, Lineage, Members, Replica, ReplicaState, Request, RequestId, Volume,
};
use fastrand::Rng;

use super::clock::DriftingClock;
use super::disk::{Disk, Stamp};
use super::snapshots::Held;

/// A head with what its driver keeps: data of commands and copies, and requests that were sent.
pub(super) struct Head {
    pub(super) volume: Volume,
    /// Data of commands, by tag.
    pub(super) data: BTreeMap<u64, Vec<Stamp>>,
    pub(super) copies: BTreeMap<u8, Vec<Stamp>>,
    /// What was sent and not answered, by message.
    pub(super) sent: BTreeMap<u64, (RequestId, Request)>,
}

/// A node.
pub(super) struct Node {
    pub(super) clock: DriftingClock,
    pub(super) disk: Disk,
    /// Durable, by the number of the call.
    pub(super) snapshots: BTreeMap<u64, Held>,
    /// Calls that were called off since it came up.
    pub(super) dropped: BTreeSet<u64>,
    /// Durable beside the data.
    pub(super) state: ReplicaState,
    pub(super) content: Content,
    pub(super) lineage: Lineage,
    /// Blocks that it has stored to hold, and that its device has.
    pub(super) size: u64,
    pub(super) room: u64,
    pub(super) pages: Bitmap,
    /// `None` while the node is down.
    pub(super) replica: Option<Replica>,
    /// Counts restarts: what was under way before one never ends.
    pub(super) boot: u64,
    /// Writes under way: on a crash some of them may be there.
    pub(super) writing: BTreeMap<u64, (usize, Vec<Stamp>)>,
    /// Requests take so many times longer.
    pub(super) slowness: u64,
    /// Replicas of the volume that it was told of, and by which order: kept over restarts.
    pub(super) known: Members,
    pub(super) known_since: u64,
    pub(super) head: Option<Head>,
}

impl Node {
    pub(super) fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    /// Another disk is in the place of its own, and a replica was made on it.
    pub(super) fn empty(&mut self) {
        self.disk = Disk::new(self.disk.content().len());
        self.state = ReplicaState { epoch: Epoch(0), head: HeadId::NONE };
        (self.content, self.lineage) = (Content::Fresh, Lineage::NONE);
        self.pages.clear_all();
    }

    /// The process ends; with it everything but the disk.
    pub(super) fn crash(&mut self, power: bool, rng: &mut Rng) {
        self.replica = None;
        self.head = None;
        self.boot += 1;
        self.dropped.clear();
        for (at, stamps) in std::mem::take(&mut self.writing).into_values() {
            self.disk.tear(at, &stamps, rng);
        }
        if power {
            self.disk.lose_power(rng);
        }
    }
}
