//! Replicas that are added and removed while the volume is served, by a manager whose orders come late or not at all.

use dataplane::volume::{Epoch, HeadId, Members, ReplicaIndex, RosterRefused};

use super::manager::{Order, Record};
use super::world::{MS, What, World};

/// Pause between changes at most.
const PAUSE_NS: u64 = 12_000 * MS;

impl World {
    /// Somebody wants one replica more or less.
    pub(super) fn roster_turn(&mut self) {
        let pause = self.rng.u64(500 * MS..PAUSE_NS);
        self.after(pause, What::Roster);
        if !self.trouble {
            return;
        }
        let count = u8::try_from(self.nodes.len()).expect("small");
        let chosen = ReplicaIndex(self.rng.u8(..count));
        let members = self.manager.members;
        if !members.has(chosen) {
            self.add(chosen);
        } else if members.len() > self.min_in_sync.max(1) && self.rng.bool() {
            // What the record still has must be recorded out; somebody must be left who has everything.
            let left = self.manager.record.in_sync - Members::one(chosen);
            if !left.is_empty() {
                self.manager.members.remove(chosen);
                self.manager.change += 1;
                self.tally.removed += 1;
                self.tell(|| format!("replica {chosen} is to go"));
                self.manage_roster();
            }
        }
    }

    fn add(&mut self, replica: ReplicaIndex) {
        let gone = !self.manager.record.in_sync.has(replica);
        if gone && self.rng.u8(..3) == 0 {
            self.replace_disk(replica.index());
        }
        self.manager.members.insert(replica);
        self.manager.change += 1;
        self.tally.added += 1;
        self.tell(|| format!("replica {replica} is to come"));
    }

    /// A replica is made anew, on an empty disk.
    fn replace_disk(&mut self, number: usize) {
        self.crash(number, true);
        self.nodes[number].empty();
        self.tally.emptied += 1;
    }

    /// Records out who is to go, and tells nodes that do not know yet.
    pub(super) fn manage_roster(&mut self) {
        let (record, members) = (self.manager.record, self.manager.members);
        let left = record.in_sync & members;
        if left.is_empty() {
            // It is the only one that has everything now.
            self.manager.members |= record.in_sync;
            self.manager.change += 1;
        } else if left != record.in_sync {
            self.record_members(left);
        }
        let (members, change) = (self.manager.members, self.manager.change);
        for node in 0..self.nodes.len() {
            let head = self.nodes[node].head.as_ref();
            // One that was about to go may be wanted again.
            let left_alone = head.is_some_and(|head| head.volume.kept_out().meets(members));
            if self.nodes[node].known != members || left_alone {
                self.order(node, Order::Roster { members, change });
            }
        }
    }

    fn record_members(&mut self, in_sync: Members) {
        let record = &mut self.manager.record;
        record.epoch = Epoch(record.epoch.0 + 1);
        record.in_sync = in_sync;
        let (node, head, epoch) = (record.node, record.head, record.epoch);
        self.tally.records += 1;
        self.tell(|| format!("record {:?}: others", self.manager.record));
        self.order(node, Order::SetMembers { head, epoch, in_sync });
    }

    /// A head has not heard of the record yet that says who is not in sync, or wants another one for a replica it proposed.
    pub(super) fn removal_refused(&mut self, head: HeadId, proposed: bool) {
        let Record { epoch, in_sync, node, head: wanted } = self.manager.record;
        match wanted == head {
            true if proposed => self.record_members(in_sync),
            true => self.order(node, Order::SetMembers { head, epoch, in_sync }),
            false => {}
        }
    }

    /// A node is told what replicas there are.
    pub(super) fn know(&mut self, number: usize, members: Members, change: u64) {
        let node = &mut self.nodes[number];
        if !node.is_up() || change < node.known_since {
            return;
        }
        node.known_since = change;
        let now = node.clock.at(self.now);
        let mut head = node.head.as_mut().map(|head| &mut head.volume).filter(|volume| !volume.is_over());
        for replica in (members - node.known).iter() {
            node.known.insert(replica);
            if let Some(head) = &mut head {
                head.add_replica(replica, replica.index() == number);
            }
        }
        // It may have been about to go.
        for replica in (node.known & members).iter() {
            if let Some(head) = &mut head {
                head.let_come(replica);
            }
        }
        let mut refused = None;
        for replica in (node.known - members).iter() {
            match head.as_mut().map_or(Ok(()), |head| head.remove_replica(replica, now)) {
                Ok(()) => node.known.remove(replica),
                Err(why) => {
                    let proposed = why == RosterRefused::Proposed;
                    refused = head.as_ref().map(|head| (head.config().head, proposed));
                }
            }
        }
        if let Some((head, proposed)) = refused {
            let manager = self.nodes.len();
            if !self.cut[number][manager] {
                let delay = self.delay(number, manager);
                self.after(delay, What::Refused { head, proposed });
            }
        }
    }
}
