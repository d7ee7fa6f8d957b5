//! Management: the record, who may change it, and where the head is.

use dataplane::volume::{Epoch, Event, HeadId, Members, Phase, ReplicaIndex};

use super::node::Head;
use super::world::{What, World};

const MS: u64 = 1_000_000;
/// How often it looks around.
const TURN_NS: u64 = 250 * MS;
/// A head that is not heard of for so long is replaced.
const SILENCE_NS: u64 = 1_500 * MS;

/// What is changed only by compare-and-swap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) epoch: Epoch,
    pub(super) in_sync: Members,
    pub(super) head: HeadId,
    pub(super) node: usize,
}

/// What it tells a node.
#[derive(Clone, Copy)]
pub(super) enum Order {
    Activate {
        head: HeadId,
        epoch: Epoch,
        in_sync: Members,
    },
    SetMembers {
        head: HeadId,
        epoch: Epoch,
        in_sync: Members,
    },
    /// These are the replicas of the volume, at this count of changes.
    Roster {
        members: Members,
        change: u64,
    },
    /// Hosts are to see so many blocks.
    Resize {
        blocks: u64,
    },
    /// Every head but this one is to let go.
    Deactivate {
        but: HeadId,
    },
}

pub(super) struct Manager {
    pub(super) record: Record,
    /// The replicas that the volume is to have.
    pub(super) members: Members,
    /// The blocks that hosts are to see.
    pub(super) blocks: u64,
    /// Counts how often they changed.
    pub(super) change: u64,
    heads: u128,
    heard: u64,
    /// The head was told, and answered that it serves or is gone.
    gone: bool,
}

impl Manager {
    pub(super) fn new(in_sync: Members, blocks: u64) -> Self {
        let record = Record { epoch: Epoch(0), in_sync, head: HeadId::NONE, node: 0 };
        Self { record, members: in_sync, blocks, change: 0, heads: 0, heard: 0, gone: true }
    }
}

impl World {
    pub(super) fn order(&mut self, node: usize, order: Order) {
        let manager = self.nodes.len();
        if !self.cut[manager][node] {
            let delay = self.delay(manager, node);
            self.after(delay, What::Order { node, order });
        }
    }

    fn is_reachable(&self, node: usize) -> bool {
        let manager = self.nodes.len();
        self.nodes[node].is_up() && !self.cut[manager][node] && !self.cut[node][manager]
    }

    /// Looks whether there is a head, and makes one when there is none.
    pub(super) fn manager_turn(&mut self) {
        let record = self.manager.record;
        let serves = |head: &Head| {
            let over = matches!(head.volume.phase(), Phase::Deposed | Phase::Released);
            head.volume.config().head == record.head && !over
        };
        let alive =
            self.is_reachable(record.node) && self.nodes[record.node].head.as_ref().is_some_and(serves);
        if alive && !self.manager.gone {
            self.manager.heard = self.now;
        }
        let silent = self.now - self.manager.heard > SILENCE_NS;
        let bored = self.trouble && self.rng.u8(0..100) == 0;
        if self.manager.gone || silent || bored {
            self.move_head(bored);
        }
        for node in 0..self.nodes.len() {
            self.order(node, Order::Deactivate { but: self.manager.record.head });
        }
        self.manage_roster();
        self.manage_size();
        self.after(TURN_NS, What::Manager);
    }

    /// Records the next epoch with another head: of the replicas in sync those that can be reached, or all.
    fn move_head(&mut self, bored: bool) {
        let reachable: Vec<usize> = (0..self.nodes.len()).filter(|node| self.is_reachable(*node)).collect();
        let Some(node) = self.rng.choice(&reachable).copied() else { return };
        let there: Members =
            reachable.iter().map(|node| ReplicaIndex(u8::try_from(*node).expect("small"))).collect();
        let record = self.manager.record;
        let in_sync = record.in_sync & there;
        if in_sync.is_empty() {
            return;
        }
        let in_sync = if bored || self.rng.u8(0..4) == 0 { record.in_sync } else { in_sync };
        self.manager.heads += 1;
        let head = HeadId(self.manager.heads);
        let epoch = Epoch(record.epoch.0 + 1);
        self.manager.record = Record { epoch, in_sync, head, node };
        (self.manager.heard, self.manager.gone) = (self.now, false);
        self.tally.records += 1;
        self.tell(|| format!("record {:?}: new head", self.manager.record));
        self.order(node, Order::Activate { head, epoch, in_sync });
    }

    /// What a head reports; it changes the record only if nobody did meanwhile.
    pub(super) fn report(&mut self, node: usize, head: HeadId, event: &Event) {
        let record = self.manager.record;
        if record.head != head {
            return;
        }
        self.manager.heard = self.now;
        let (epoch, in_sync) = match event {
            Event::ProposeOut { replicas, epoch, .. } => (*epoch, record.in_sync - *replicas),
            Event::ProposeIn { replicas, epoch } => {
                (*epoch, record.in_sync | *replicas & self.manager.members)
            }
            Event::Deposed { .. } | Event::Released => {
                self.manager.gone = true;
                return;
            }
            _ => return,
        };
        if epoch != record.epoch || in_sync.is_empty() || in_sync == record.in_sync {
            // Its proposal was for an older record: tell it the one there is.
            let Record { epoch, in_sync, .. } = record;
            return self.order(node, Order::SetMembers { head, epoch, in_sync });
        }
        let epoch = Epoch(epoch.0 + 1);
        self.manager.record = Record { epoch, in_sync, ..record };
        self.tally.records += 1;
        self.tell(|| format!("record {:?} after {event:?}", self.manager.record));
        self.order(node, Order::SetMembers { head, epoch, in_sync });
    }

    pub(super) fn obey(&mut self, node: usize, order: Order) {
        let now = self.nodes[node].clock.at(self.now);
        match order {
            Order::Activate { head, epoch, in_sync } => {
                // An order that is late must not replace a later head.
                if self.manager.record.head == head {
                    self.activate(node, head, epoch, in_sync);
                }
            }
            Order::SetMembers { head, epoch, in_sync } => {
                let Some(own) = &mut self.nodes[node].head else { return };
                if own.volume.config().head == head {
                    // A record that is older than what the head has is refused: it was told before.
                    let _ = own.volume.set_members(epoch, in_sync, now);
                }
            }
            Order::Roster { members, change } => self.know(node, members, change),
            Order::Resize { blocks } => {
                if let Some(own) = &mut self.nodes[node].head {
                    // What is refused is tried again.
                    let _ = own.volume.resize(blocks, now);
                }
            }
            Order::Deactivate { but } => {
                let Some(own) = &mut self.nodes[node].head else { return };
                if own.volume.config().head != but && own.volume.config().head.0 < but.0 {
                    own.volume.deactivate(now);
                }
            }
        }
        self.drive(node);
    }
}
