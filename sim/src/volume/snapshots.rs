//! Snapshots of all replicas at one moment: somebody freezes the head, copies one replica after the other, and asks whether
//! the moment lasted.

use std::collections::BTreeMap;

use dataplane::volume::{FreezeId, Frozen, HeadId, Members};

use super::disk::Stamp;
use super::world::{BLOCKS, MS, What, World};

/// How long writes wait at most.
const FREEZE_NS: u64 = 3_000 * MS;

/// One snapshot on its way.
pub(super) struct Snapshot {
    node: usize,
    head: HeadId,
    freeze: FreezeId,
    began: u64,
    /// Replicas that held the same when it began; of these, those that are to be copied.
    left: Option<Members>,
    copies: BTreeMap<usize, Vec<Stamp>>,
}

impl World {
    pub(super) fn snapshot_turn(&mut self) {
        let pause = self.rng.u64(MS..2 * self.snapshots_ns);
        self.after(pause, What::Snapshot);
        if self.snapshot.is_some() {
            return;
        }
        let node = self.rng.usize(..self.nodes.len());
        let now = self.nodes[node].clock.at(self.now);
        let Some(own) = &mut self.nodes[node].head else { return };
        let head = own.volume.config().head;
        let Ok(freeze) = own.volume.freeze(FREEZE_NS, now) else { return };
        let (left, copies) = (None, BTreeMap::new());
        self.tell(|| format!("snapshot at node {node}: {freeze:?}"));
        self.snapshot = Some(Snapshot { node, head, freeze, began: self.now, left, copies });
        self.after(MS, What::Copying);
    }

    /// Waits for the moment, copies one more replica, or asks whether it lasted.
    pub(super) fn snapshot_step(&mut self) {
        let Some(mut snapshot) = self.snapshot.take() else { return };
        let node = snapshot.node;
        let now = self.nodes[node].clock.at(self.now);
        let own = self.nodes[node].head.as_mut().filter(|own| own.volume.config().head == snapshot.head);
        let Some(own) = own else { return };
        let ended = match &mut snapshot.left {
            None => match own.volume.frozen(snapshot.freeze) {
                Frozen::Held(members) => {
                    snapshot.left = Some(members);
                    None
                }
                Frozen::Waiting => None,
                Frozen::Over => return,
            },
            Some(left) => match left.iter().next() {
                Some(replica) => {
                    left.remove(replica);
                    let copied = &self.nodes[replica.index()];
                    if copied.is_up() {
                        snapshot.copies.insert(replica.index(), copied.disk.content().to_vec());
                    }
                    None
                }
                None => match own.volume.thaw(snapshot.freeze, now) {
                    Frozen::Waiting => None,
                    Frozen::Over => Some(Members::NONE),
                    Frozen::Held(members) => Some(members),
                },
            },
        };
        self.drive(node);
        match ended {
            Some(members) => self.check_snapshot(&snapshot, members),
            None => {
                let pause = self.rng.u64(MS..150 * MS);
                self.snapshot = Some(snapshot);
                self.after(pause, What::Copying);
            }
        }
    }

    /// The copies of these replicas are equal, and what a read in between could have returned.
    fn check_snapshot(&mut self, snapshot: &Snapshot, members: Members) {
        let copies: Option<Vec<&Vec<Stamp>>> =
            members.iter().map(|replica| snapshot.copies.get(&replica.index())).collect();
        let Some(copies) = copies.filter(|copies| !copies.is_empty()) else { return };
        self.tally.snapshots += 1;
        for block in 0..BLOCKS {
            let stamp = copies[0][block];
            if copies.iter().any(|copy| copy[block] != stamp) {
                return self.break_promise(format!("block {block} differs between copies of one snapshot"));
            }
            self.history.read(block, stamp, snapshot.began, self.now);
        }
    }
}
