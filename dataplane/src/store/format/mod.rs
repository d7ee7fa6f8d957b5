//! What lies on the device. All numbers are little-endian; every structure carries a CRC32C of itself.
//!
//! ```text
//! 0            superblock
//! 1            checkpoint A: header, volume table, space summary
//!              checkpoint B
//!              log: a ring of blocks, then the same again
//!              reference counts: two blocks for each page of counts, written in turn
//!              blocks: data and map pages
//! last         superblock, again
//! ```
//!
//! What came when the store grew begins with two larger checkpoints, which are used from then on, and counts of its own.
//!
//! Decoders take hostile bytes: they check before they believe, never panic and never allocate by what they read.

mod checkpoint;
mod layout;
mod log;
mod page;
mod superblock;

use super::BLOCK_BYTES;

pub use checkpoint::{
    CheckpointHeader, NAME_BYTES, SUMMARIES_PER_BLOCK, SummaryEntry, VOLUMES_PER_BLOCK, VolumeEntry,
};
pub use layout::{GROWTHS_MAX, GrowError, Layout, Region};
pub use log::{LogBlock, LogHeader, MapEntry, Record, Records};
pub use page::{COUNTS_PER_PAGE, CountsPage, FANOUT, FANOUT_SHIFT, MapPage};
pub use superblock::{DiskSuperblock, STORE_NAME_BYTES, VERSION, VERSION_OF_ONE_LOG};

/// A block's worth of bytes.
pub type Bytes = [u8; BLOCK_BYTES];

/// Why bytes are not the structure they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// Not this kind of structure.
    #[error("no signature of a {what}")]
    Magic {
        /// The structure looked for.
        what: &'static str,
    },
    /// Damaged or half written.
    #[error("{what}: checksum {got:#010x}, computed {want:#010x}")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// What the bytes carry.
        got: u32,
        /// What they should carry.
        want: u32,
    },
    /// Written by a newer version, or one with features this one does not know.
    #[error("format version {version}, incompatible features {incompatible:#x}: made by a newer version")]
    Newer {
        /// Format version of the device.
        version: u32,
        /// Feature bits that are not known here.
        incompatible: u64,
    },
    /// A value that no writer writes.
    #[error("{what}: {field} is {value}")]
    Value {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// CRC32C of some bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of a block whose checksum lies in the four bytes at `at`, as if these were zero.
fn sealed_crc(block: &Bytes, at: usize) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&block[..at]);
    digest.update(&[0; 4]);
    digest.update(&block[at + 4..]);
    #[expect(clippy::cast_possible_truncation, reason = "a 32-bit algorithm")]
    let crc = digest.finalize() as u32;
    crc
}

fn seal(block: &mut Bytes, at: usize) {
    let crc = sealed_crc(block, at);
    block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn check_seal(block: &Bytes, at: usize, what: &'static str) -> Result<(), FormatError> {
    let got = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let want = sealed_crc(block, at);
    if got == want { Ok(()) } else { Err(FormatError::Checksum { what, got, want }) }
}
