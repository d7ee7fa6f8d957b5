//! Pages of the map, and pages of reference counts.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Bytes, FormatError, check_seal, seal};
use crate::store::{BLOCK_BYTES, Block};

/// Base-two logarithm of [`FANOUT`].
pub const FANOUT_SHIFT: u32 = 8;
/// Entries of a map page. A leaf maps 1 MiB.
pub const FANOUT: usize = 1 << FANOUT_SHIFT;
/// Counts in a page of reference counts.
pub const COUNTS_PER_PAGE: usize = (BLOCK_BYTES - HEADER_BYTES) / size_of::<U16>();

const HEADER_BYTES: usize = 64;
const MAP_MAGIC: [u8; 4] = *b"PLXM";
const COUNTS_MAGIC: [u8; 4] = *b"PLXC";

/// Start of either page.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct PageHeader {
    magic: [u8; 4],
    crc: U32,
    /// Own block (map) or number (counts): a page written to the wrong place is not taken for another.
    address: U64,
    /// Sequence number of the checkpoint that wrote it.
    checkpoint: U64,
    /// Leaf 0, and up.
    level: U32,
    reserved: [u8; 36],
}
const _: () = assert!(size_of::<PageHeader>() == HEADER_BYTES);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct MapDisk {
    header: PageHeader,
    targets: [U64; FANOUT],
    sums: [U32; FANOUT],
    reserved: [u8; BLOCK_BYTES - HEADER_BYTES - 12 * FANOUT],
}
const _: () = assert!(size_of::<MapDisk>() == BLOCK_BYTES);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct CountsDisk {
    header: PageHeader,
    counts: [U16; COUNTS_PER_PAGE],
}
const _: () = assert!(size_of::<CountsDisk>() == BLOCK_BYTES);

/// A page of the map. A leaf holds, for each block of 1 MiB of a volume, the block of the device and the CRC32C of its
/// data; a page above holds where the pages below lie. 0: nothing there, reads as zeroes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapPage {
    /// Leaf 0, and up.
    pub level: u8,
    /// Blocks of the device. In memory also pages that have no block yet.
    pub targets: [u64; FANOUT],
    /// CRC32C of each block; leaves only.
    pub sums: [u32; FANOUT],
}

impl MapPage {
    /// A target that says: what was here is lost. It lies where no data can.
    pub const LOST: u64 = 1;

    /// A page of which all is lost.
    pub fn lost(level: u8) -> Self {
        Self { level, targets: [Self::LOST; FANOUT], sums: [0; FANOUT] }
    }

    /// A page that maps nothing.
    pub fn empty(level: u8) -> Self {
        Self { level, targets: [0; FANOUT], sums: [0; FANOUT] }
    }

    /// Whether it maps nothing.
    pub fn is_empty(&self) -> bool {
        self.targets.iter().all(|target| *target == 0)
    }

    /// As it is written to `block`.
    pub fn encode(&self, block: Block, checkpoint: u64) -> Box<Bytes> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        if let Ok(disk) = MapDisk::mut_from_bytes(&mut bytes[..]) {
            disk.header.magic = MAP_MAGIC;
            disk.header.address = block.0.into();
            disk.header.checkpoint = checkpoint.into();
            disk.header.level = u32::from(self.level).into();
            disk.targets = self.targets.map(U64::from);
            disk.sums = self.sums.map(U32::from);
        }
        seal(&mut bytes, offset_of!(PageHeader, crc));
        bytes
    }

    /// The page of `level` that lies at `block`, every target of which passes `valid`.
    pub fn decode(
        bytes: &Bytes,
        block: Block,
        level: u8,
        valid: impl Fn(Block) -> bool,
    ) -> Result<Self, FormatError> {
        const WHAT: &str = "map page";
        let disk = MapDisk::ref_from_bytes(bytes).map_err(|_| FormatError::Magic { what: WHAT })?;
        check_header(&disk.header, bytes, MAP_MAGIC, block.0, WHAT)?;
        if disk.header.level.get() != u32::from(level) {
            return Err(FormatError::Value {
                what: WHAT,
                field: "level",
                value: disk.header.level.get().into(),
            });
        }
        let page = Self { level, targets: disk.targets.map(U64::get), sums: disk.sums.map(U32::get) };
        let bad = |target: &&u64| **target > Self::LOST && !valid(Block(**target));
        match page.targets.iter().find(bad) {
            None => Ok(page),
            Some(target) => Err(FormatError::Value { what: WHAT, field: "target", value: *target }),
        }
    }
}

/// How often each of a stretch of blocks is referred to. 0: free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountsPage(pub [u16; COUNTS_PER_PAGE]);

impl CountsPage {
    /// As it is written for page `number`.
    pub fn encode(&self, number: u32, checkpoint: u64) -> Box<Bytes> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        if let Ok(disk) = CountsDisk::mut_from_bytes(&mut bytes[..]) {
            disk.header = PageHeader::new_zeroed();
            disk.header.magic = COUNTS_MAGIC;
            disk.header.address = u64::from(number).into();
            disk.header.checkpoint = checkpoint.into();
            disk.counts = self.0.map(U16::from);
        }
        seal(&mut bytes, offset_of!(PageHeader, crc));
        bytes
    }

    /// Page `number`.
    pub fn decode(bytes: &Bytes, number: u32) -> Result<Self, FormatError> {
        const WHAT: &str = "page of counts";
        let disk = CountsDisk::ref_from_bytes(bytes).map_err(|_| FormatError::Magic { what: WHAT })?;
        check_header(&disk.header, bytes, COUNTS_MAGIC, u64::from(number), WHAT)?;
        let counts = disk.counts.map(U16::get);
        match counts.iter().find(|count| **count >= 1 << 15) {
            None => Ok(Self(counts)),
            Some(count) => Err(FormatError::Value { what: WHAT, field: "count", value: (*count).into() }),
        }
    }
}

fn check_header(
    header: &PageHeader,
    bytes: &Bytes,
    magic: [u8; 4],
    address: u64,
    what: &'static str,
) -> Result<(), FormatError> {
    if header.magic != magic {
        return Err(FormatError::Magic { what });
    }
    check_seal(bytes, offset_of!(PageHeader, crc), what)?;
    let found = header.address.get();
    if found == address { Ok(()) } else { Err(FormatError::Value { what, field: "address", value: found }) }
}
