//! A volume that grows while it is served: devices first, some of them late, then the volume.

use super::manager::Order;
use super::world::{BLOCKS, MS, What, World};

/// Blocks that come at a time at most.
const STEP_BLOCKS: u64 = 12;
const PAUSE_NS: u64 = 25_000 * MS;

impl World {
    /// Somebody wants more.
    pub(super) fn growth_turn(&mut self) {
        let pause = self.rng.u64(2_000 * MS..PAUSE_NS);
        self.after(pause, What::Growth);
        let more = self.rng.u64(1..=STEP_BLOCKS);
        let blocks = (self.manager.blocks + more).min(BLOCKS as u64);
        if !self.trouble || blocks == self.manager.blocks {
            return;
        }
        self.manager.blocks = blocks;
        self.tally.grown += 1;
        self.tell(|| format!("hosts are to see {blocks} blocks"));
        self.manage_size();
    }

    /// Grows devices that are too small, one sooner, one later, and asks the head for what hosts are to see.
    pub(super) fn manage_size(&mut self) {
        let blocks = self.manager.blocks;
        for node in &mut self.nodes {
            let does = !self.trouble || self.rng.u8(..3) > 0;
            node.room = if does { node.room.max(blocks) } else { node.room };
        }
        let node = self.manager.record.node;
        let small = |volume: &dataplane::volume::Volume| volume.config().blocks < blocks;
        if self.nodes[node].head.as_ref().is_some_and(|head| small(&head.volume)) {
            self.order(node, Order::Resize { blocks });
        }
    }
}
