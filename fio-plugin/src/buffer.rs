//! What a command of a job carries.

use fabrics::IoBuffer;
use nvme::nvm::Range;
use reactors::IoBuf;
use transport::HostBuffer;

use crate::abi::memory::Region;

/// Data of one command.
#[derive(Debug)]
pub enum Buffer {
    /// Part of fio's buffer.
    Region(Region),
    /// The one range of a Dataset Management command.
    Range([u8; Range::SIZE]),
    /// The data of Connect.
    Owned(Vec<u8>),
}

impl IoBuffer for Buffer {
    #[inline]
    fn len(&self) -> usize {
        match self {
            Self::Region(region) => region.len(),
            Self::Range(range) => range.len(),
            Self::Owned(bytes) => bytes.len(),
        }
    }

    #[inline]
    fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        self.part_mut(offset)[..bytes.len()].copy_from_slice(bytes);
    }

    #[inline]
    fn part(&self, offset: usize) -> &[u8] {
        let whole = match self {
            Self::Region(region) => region.as_slice(),
            Self::Range(range) => range,
            Self::Owned(owned) => owned,
        };
        &whole[offset..]
    }

    #[inline]
    fn part_mut(&mut self, offset: usize) -> &mut [u8] {
        let whole = match self {
            Self::Region(region) => region.as_mut_slice(),
            Self::Range(range) => range,
            Self::Owned(owned) => owned,
        };
        &mut whole[offset..]
    }
}

/// fio owns the memory of its jobs, which no pool knows.
impl HostBuffer for Buffer {
    fn pooled(&self) -> Option<&IoBuf> {
        None
    }
}
