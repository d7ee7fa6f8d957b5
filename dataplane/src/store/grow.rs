//! A store takes more of its device.
//!
//! A checkpoint is written among the new blocks, as large as the store will be; when its header is on the media, the last
//! superblock follows, then the first. That is when the store is larger: until then the one that is on the media is the old
//! one, whole, and nothing changes that it would not know. Opening makes what a crash left of the rest undone.

use super::format::{Bytes, DiskSuperblock, GrowError, Layout};
use super::machine::{Purpose, Store};
use super::request::RequestOp;
use super::{BLOCK_BYTES, Block};

#[derive(Debug)]
pub(crate) enum Growth {
    /// The next checkpoint does it.
    Wanted { layout: Layout, superblock: Box<Bytes> },
    /// It is being written; this superblock follows.
    UnderWay { superblock: Box<Bytes> },
}

impl Store {
    /// The store is to use `blocks` blocks of its device, which has as many. Changes wait while that is written, reads do not.
    /// `name` is what its superblocks call it; empty for none.
    ///
    /// # Errors
    /// When that is not more than it has, or not enough more.
    pub fn grow(&mut self, blocks: u64, name: &str) -> Result<(), GrowError> {
        if self.stopped {
            return Err(GrowError::Stopped);
        }
        if self.growth.is_some() {
            return Err(GrowError::Busy);
        }
        let layout = self.state.layout.grown_to(blocks)?;
        let mut superblock = DiskSuperblock::encode(self.state.uuid, &layout);
        DiskSuperblock::rename(&mut superblock, name).ok_or(GrowError::Name)?;
        self.growth = Some(Growth::Wanted { layout, superblock });
        self.checkpoint_wanted = true;
        Ok(())
    }

    /// Whether the store is growing.
    pub fn is_growing(&self) -> bool {
        !self.stopped && self.growth.is_some()
    }

    /// Whether the state is that of the larger store already, and the superblocks are not.
    pub(crate) fn is_becoming_larger(&self) -> bool {
        matches!(self.growth, Some(Growth::UnderWay { .. }))
    }

    /// A checkpoint copies the state: if the store is to grow, it is that of the larger store from here on.
    pub(crate) fn become_larger(&mut self, seq: u64, mut write: impl FnMut(Block, Box<Bytes>)) {
        self.growth = match self.growth.take() {
            Some(Growth::Wanted { layout, superblock }) => {
                // No header that happens to lie there may be taken for one of this store.
                for block in layout.headers(seq + 1) {
                    write(block, Box::new([0; BLOCK_BYTES]));
                }
                self.state.meta.space.grow(layout.clone());
                self.state.layout = layout;
                Some(Growth::UnderWay { superblock })
            }
            other => other,
        };
    }

    /// Writes the superblock of a store that becomes larger; `None` when it does not.
    pub(crate) fn write_superblock(&mut self, block: Block) -> Option<()> {
        let Some(Growth::UnderWay { superblock }) = &self.growth else { return None };
        let bytes = superblock.clone();
        self.request(Purpose::Checkpoint, RequestOp::WriteMeta { block, bytes, fua: true });
        Some(())
    }
}
