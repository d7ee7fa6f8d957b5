//! What goes wrong: nodes crash, links are cut, devices are slow or lose blocks.

use dataplane::volume::{HeadId, Members, Replica, ReplicaIndex};

use super::world::{BLOCKS, LEASE_NS, MS, What, World};

/// A replica that is away for so long is out of the record, unless it is the last: no proposal to take it in is on its way.
const EMPTIED_AFTER_NS: u64 = 3_000 * MS;

impl World {
    pub(super) fn fault(&mut self) {
        if !self.trouble {
            return;
        }
        let count = self.nodes.len();
        let node = self.rng.usize(..count);
        match self.rng.u8(0..12) {
            0..3 => self.crash_somehow(node),
            10..12 => self.crash_somehow(self.head_node()),
            3..6 => {
                let (from, to) = (self.rng.usize(..=count), self.rng.usize(..=count));
                let both = self.rng.bool();
                let ns = self.rng.u64(50 * MS..8_000 * MS);
                if from != to {
                    self.tally.cuts += 1;
                    self.cut_link(from, to, ns);
                    if both {
                        self.cut_link(to, from, ns);
                    }
                }
            }
            6 => self.nodes[node].slowness = *self.rng.choice(&[1, 10, 3_000]).expect("some"),
            7 => {
                let block = self.rng.usize(..BLOCKS);
                // Two replicas never lose the same block: that would be more than a copy can help with.
                if self.nodes.iter().all(|other| other.disk.bad.is_empty()) {
                    self.nodes[node].disk.bad.insert(block);
                }
            }
            _ => self.nodes[node].slowness = 1,
        }
        let next = self.rng.u64(100 * MS..self.peace_ns);
        self.after(next, What::Fault);
    }

    fn cut_link(&mut self, from: usize, to: usize, ns: u64) {
        self.tell(|| format!("cut {from} to {to} for {} ms", ns / MS));
        self.cut[from][to] = true;
        self.after(ns, What::Cut { from, to, cut: false });
    }

    /// A new head is not safe for long: what its hosts were shown must outlive it.
    pub(super) fn strike_later(&mut self, node: usize, head: HeadId, in_sync: Members) {
        if !self.trouble {
            return;
        }
        if self.rng.u8(0..4) > 0 {
            self.hosts.look();
        }
        if in_sync.len() > 1 && self.rng.bool() {
            let ns = self.rng.u64(..2_500 * MS);
            self.after(ns, What::Strike { node, head });
        }
    }

    /// A write has reached one replica: now and then its head is gone before it reaches the others.
    pub(super) fn strike_in_flight(&mut self, head: usize, replica: usize) {
        let recorded = self.nodes[head].head.as_ref().map_or(0, |own| own.volume.recorded().len());
        // The others can go on together, with copies that differ.
        if self.trouble && recorded > 2 && head != replica && self.rng.u8(..40) == 0 {
            self.lose_messages(head, 100);
            self.crash_somehow(head);
        }
    }

    pub(super) fn strike(&mut self, node: usize, head: HeadId) {
        let own = self.nodes[node].head.as_ref().map(|own| own.volume.config().head);
        if self.trouble && own == Some(head) {
            self.crash_somehow(node);
        }
    }

    /// A host was shown blocks that another one is writing: now and then the head is gone before that has reached everybody.
    pub(super) fn strike_shown(&mut self, head: usize) {
        if self.trouble && self.rng.u8(..10) == 0 {
            self.lose_messages(head, 100);
            self.crash_somehow(head);
        }
    }

    /// A replica has stored that regions are clean: now and then its power fails at that moment.
    pub(super) fn strike_clean(&mut self, replica: usize) {
        if self.trouble && self.rng.u8(..60) == 0 {
            self.crash(replica, true);
        }
    }

    fn crash_somehow(&mut self, node: usize) {
        let power = self.rng.bool();
        self.crash(node, power);
    }

    pub(super) fn crash(&mut self, node: usize, power: bool) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.tally.crashes += 1;
        if let Some(head) = &self.nodes[node].head {
            let counters = head.volume.counters();
            self.tally.copied += counters.regions_copied;
            self.tally.to_copy += counters.regions_to_copy;
        }
        self.tell(|| format!("node {node} crashes, power {power}"));
        self.nodes[node].crash(power, &mut self.rng);
        self.lose_messages(node, 50);
        self.hosts_lost(node);
        let boot = self.nodes[node].boot;
        for head in 0..self.nodes.len() {
            let delay = self.delay(node, head);
            self.after(delay, What::Reset { head, replica: node, boot });
        }
        let down = self.rng.u64(10 * MS..6_000 * MS);
        let emptied = down > EMPTIED_AFTER_NS && down.is_multiple_of(2);
        self.after(down, What::Heal { node, emptied });
    }

    /// A node is there again; `emptied` with another disk, if nobody counts on what was on the old one.
    pub(super) fn start_node(&mut self, number: usize, emptied: bool) {
        let now = self.nodes[number].clock.at(self.now);
        let counts = self.manager.record.in_sync.has(ReplicaIndex(u8::try_from(number).expect("small")));
        let node = &mut self.nodes[number];
        if node.replica.is_none() {
            if emptied && !counts && self.trouble {
                node.empty();
                self.tally.emptied += 1;
                self.tell(|| format!("node {number} has another disk"));
            }
            let node = &mut self.nodes[number];
            node.replica = Some(Replica::new(node.state, LEASE_NS, now));
            self.tell(|| format!("node {number} is up"));
        }
    }

    pub(super) fn heal_everything(&mut self) {
        self.trouble = false;
        for row in &mut self.cut {
            row.fill(false);
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].slowness = 1;
            self.nodes[node].disk.bad.clear();
            self.start_node(node, false);
        }
        // What links have swallowed is missed at last, by whoever has nobody else to ask.
        for head in 0..self.nodes.len() {
            for replica in 0..self.nodes.len() {
                let boot = self.nodes[replica].boot;
                let delay = self.delay(replica, head);
                self.after(delay, What::Reset { head, replica, boot });
            }
        }
    }
}
