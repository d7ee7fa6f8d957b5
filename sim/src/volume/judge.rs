//! What must hold in the end, and of what hosts see.

use dataplane::volume::{Epoch, ReplicaIndex, Volume};

use super::node::Head;
use super::world::World;

impl World {
    fn serving(&self) -> Option<&Volume> {
        let heads = self.nodes.iter().filter_map(|node| node.head.as_ref());
        heads.map(|head| &head.volume).find(|volume| volume.config().head == self.manager.record.head)
    }

    pub(super) fn is_whole(&self) -> bool {
        let all = self.manager.members;
        self.serving().is_some_and(|volume| {
            volume.recorded() == all
                && volume.members() == all
                && volume.config().blocks == self.manager.blocks
                && volume.attached() == all
                && all.iter().all(|replica| volume.regions_stale(replica) == 0)
        })
    }

    pub(super) fn describe(&self) -> String {
        let heads: Vec<String> = self
            .nodes
            .iter()
            .map(|node| match &node.head {
                Some(Head { volume, sent, .. }) => {
                    let stale: Vec<u64> = (0..self.nodes.len())
                        .map(|replica| {
                            volume.regions_stale(ReplicaIndex(u8::try_from(replica).expect("small")))
                        })
                        .collect();
                    format!(
                        "{:?} epoch {} recorded {:?} attached {:?} failed {:?} stale {stale:?} sent {}",
                        volume.phase(),
                        volume.epoch(),
                        volume.recorded(),
                        volume.attached(),
                        volume.failed(),
                        sent.len()
                    )
                }
                None => format!("no head, up {}", node.is_up()),
            })
            .collect();
        format!(
            "record {:?}; members {:?}, {} blocks; {}",
            self.manager.record,
            self.manager.members,
            self.manager.blocks,
            heads.join("; ")
        )
    }

    pub(super) fn check_quiet(&self) -> Result<(), String> {
        let Some(volume) = self.serving().filter(|_| self.is_whole()) else {
            return Err(format!("not whole when quiet: {}", self.describe()));
        };
        let blocks = usize::try_from(self.manager.blocks).expect("small");
        let members: Vec<usize> = self.manager.members.iter().map(ReplicaIndex::index).collect();
        let first = self.nodes[members[0]].disk.content();
        for number in members {
            let node = &self.nodes[number];
            if let Some(block) = (0..blocks).find(|block| node.disk.content()[*block] != first[*block]) {
                return Err(format!(
                    "block {block} differs between replica {number} and the first when quiet"
                ));
            }
            if node.size != self.manager.blocks {
                return Err(format!("replica {number} holds {} blocks of {blocks}", node.size));
            }
            if !node.pages.is_empty() {
                return Err(format!("replica {number} has dirty regions when quiet"));
            }
        }
        if volume.regions_dirty() > 0 {
            return Err("regions stay dirty when quiet".to_owned());
        }
        let counters = volume.counters();
        if counters.regions_copied > counters.regions_to_copy {
            return Err(format!("more was copied than was dirty: {counters:?}"));
        }
        Ok(())
    }

    /// Hosts see so many blocks of a head.
    pub(super) fn show(&mut self, epoch: Epoch, blocks: u64) {
        let (shown_at, shown) = self.shown;
        if epoch >= shown_at && blocks < shown {
            self.break_promise(format!(
                "hosts see {blocks} blocks at epoch {epoch} after {shown} at {shown_at}"
            ));
        }
        self.shown = (epoch.max(shown_at), blocks.max(shown));
    }
}
