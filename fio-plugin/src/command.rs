//! What fio asks for, in bytes, and what a namespace is asked for, in logical blocks.

use std::fmt;

use nvme::{Lba, Nsid, Sqe, nvm};

/// What an I/O does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read.
    Read,
    /// Write; with `fua` the data is on the media when it completes.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Write Zeroes instead of the data.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
    },
    /// Deallocate.
    Trim,
    /// Flush: what completed before is on the media.
    Flush,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "Read",
            Self::Write { .. } => "Write",
            Self::WriteZeroes { .. } => "Write Zeroes",
            Self::Trim => "Deallocate",
            Self::Flush => "Flush",
        })
    }
}

/// What is read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its identifier.
    pub nsid: Nsid,
    /// Bytes of a logical block: a power of two.
    pub block_bytes: u32,
    /// Logical blocks it has.
    pub blocks: u64,
    /// Most bytes that one command may move; at least a block.
    pub transfer_bytes_max: u32,
}

/// Logical blocks that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The first.
    pub first: Lba,
    /// How many.
    pub blocks: u64,
}

/// A range of bytes that is not one of whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{bytes} bytes from {offset} are not whole blocks of {block_bytes} bytes")]
pub struct Unaligned {
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What it should be made of.
    pub block_bytes: u32,
}

impl Namespace {
    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_bytes))
    }

    /// The blocks of a range of bytes. One beyond the end is the controller's to refuse.
    ///
    /// # Errors
    /// When it does not start and end with a block.
    #[inline]
    pub fn extent(&self, offset: u64, bytes: u64) -> Result<Extent, Unaligned> {
        let block = u64::from(self.block_bytes);
        if !(offset | bytes).is_multiple_of(block) {
            return Err(Unaligned { offset, bytes, block_bytes: self.block_bytes });
        }
        Ok(Extent { first: Lba(offset / block), blocks: bytes / block })
    }

    /// Whether a read or a write is one command.
    #[inline]
    #[must_use]
    pub fn is_one_command(&self, op: Op, extent: Extent) -> bool {
        matches!(op, Op::Read | Op::Write { .. }) && extent.blocks <= u64::from(self.blocks_max(op))
    }

    /// Most blocks that one command may name.
    #[inline]
    #[must_use]
    pub fn blocks_max(&self, op: Op) -> u32 {
        match op {
            Op::Read | Op::Write { .. } => {
                (self.transfer_bytes_max / self.block_bytes).clamp(1, nvm::NLB_MAX)
            }
            Op::WriteZeroes { .. } => nvm::NLB_MAX,
            Op::Trim | Op::Flush => u32::MAX,
        }
    }
}

/// The command, without the data pointer and identifier that its queue fills in. `blocks` is at most
/// [`Namespace::blocks_max`].
#[inline]
#[must_use]
pub fn command(op: Op, nsid: Nsid, first: Lba, blocks: u32) -> Sqe {
    match op {
        Op::Read => nvm::ReadWrite::read(nsid, first, blocks).to_sqe(0),
        Op::Write { fua } => with_fua(nvm::ReadWrite::write(nsid, first, blocks), fua),
        Op::WriteZeroes { fua } => with_fua(nvm::ReadWrite::write_zeroes(nsid, first, blocks), fua),
        Op::Trim => nvm::DatasetManagement::deallocate(nsid, 1).to_sqe(0),
        Op::Flush => nvm::Flush { nsid }.to_sqe(0),
    }
}

#[inline]
fn with_fua(command: nvm::ReadWrite, fua: bool) -> Sqe {
    nvm::ReadWrite { fua, ..command }.to_sqe(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: Namespace =
        Namespace { nsid: Nsid(3), block_bytes: 4096, blocks: 256, transfer_bytes_max: 128 << 10 };

    #[test]
    fn whole_blocks_are_an_extent_and_nothing_else_is() {
        assert_eq!(NAMESPACE.bytes(), 1 << 20);
        assert_eq!(NAMESPACE.extent(8192, 4096), Ok(Extent { first: Lba(2), blocks: 1 }));
        assert_eq!(NAMESPACE.extent(0, 0), Ok(Extent { first: Lba(0), blocks: 0 }));
        for (offset, bytes) in [(512, 4096), (4096, 512), (1, 1)] {
            let refused = NAMESPACE.extent(offset, bytes).unwrap_err();
            assert_eq!(refused, Unaligned { offset, bytes, block_bytes: 4096 });
        }
    }

    #[test]
    fn a_command_moves_no_more_than_the_controller_takes() {
        assert_eq!(NAMESPACE.blocks_max(Op::Read), 32);
        assert_eq!(NAMESPACE.blocks_max(Op::WriteZeroes { fua: false }), 1 << 16);
        let tiny = Namespace { transfer_bytes_max: 512, ..NAMESPACE };
        assert_eq!(tiny.blocks_max(Op::Write { fua: false }), 1, "a block always fits");
    }

    #[test]
    fn force_unit_access_is_asked_for_when_wanted() {
        for fua in [false, true] {
            for op in [Op::Write { fua }, Op::WriteZeroes { fua }] {
                let sqe = command(op, Nsid(1), Lba(5), 2);
                let back = nvm::ReadWrite::from(&sqe);
                assert_eq!((back.fua, back.slba, back.nlb), (fua, Lba(5), 2));
            }
        }
    }
}
