//! What goes wrong: nodes crash, links are cut, devices are slow or lose blocks.

use dataplane::volume::Replica;

use super::world::{BLOCKS, LEASE_NS, MS, What, World};

impl World {
    pub(super) fn fault(&mut self) {
        if !self.trouble {
            return;
        }
        let count = self.nodes.len();
        let node = self.rng.usize(..count);
        match self.rng.u8(0..10) {
            0..3 => self.crash(node),
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
        let next = self.rng.u64(100 * MS..6_000 * MS);
        self.after(next, What::Fault);
    }

    fn cut_link(&mut self, from: usize, to: usize, ns: u64) {
        self.tell(|| format!("cut {from} to {to} for {} ms", ns / MS));
        self.cut[from][to] = true;
        self.after(ns, What::Cut { from, to, cut: false });
    }

    fn crash(&mut self, node: usize) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.tally.crashes += 1;
        if let Some(head) = &self.nodes[node].head {
            let counters = head.volume.counters();
            self.tally.copied += counters.regions_copied;
            self.tally.to_copy += counters.regions_to_copy;
        }
        let power = self.rng.bool();
        self.tell(|| format!("node {node} crashes, power {power}"));
        self.nodes[node].crash(power, &mut self.rng);
        self.hosts_lost(node);
        let boot = self.nodes[node].boot;
        for head in 0..self.nodes.len() {
            let delay = self.delay(node, head);
            self.after(delay, What::Reset { head, replica: node, boot });
        }
        let down = self.rng.u64(10 * MS..6_000 * MS);
        self.after(down, What::Heal { node });
    }

    pub(super) fn start_node(&mut self, number: usize) {
        let now = self.nodes[number].clock.at(self.now);
        let node = &mut self.nodes[number];
        if node.replica.is_none() {
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
            self.start_node(node);
        }
    }
}
