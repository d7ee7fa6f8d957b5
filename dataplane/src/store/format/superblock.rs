//! The superblock: what identifies a store, and what its layout follows from.

use std::mem::{offset_of, size_of};

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Bytes, FormatError, GROWTHS_MAX, Layout, check_seal, seal};
use crate::store::BLOCK_BYTES;

const MAGIC: [u8; 8] = *b"PLXSTORE";
const WHAT: &str = "superblock";
/// The format version that stores are made with.
pub const VERSION: u32 = 2;
/// The version before: each block of the log lies on the device once. It is opened as it is; [`upgrade`](crate::store::upgrade)
/// makes it the current one.
pub const VERSION_OF_ONE_LOG: u32 = 1;
/// Incompatible feature: the store has grown, so it has more than one segment.
const GROWN: u64 = 1;

/// What identifies a store: at block 0 and at the last block.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub struct DiskSuperblock {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    /// Features that a reader must know to touch the store at all: [`GROWN`].
    incompatible: U64,
    uuid: [u8; 16],
    blocks: U64,
    volumes: U64,
    log_blocks: U64,
    /// UTF-8, zeroes after it; all zeroes for none. Within the first sector, so that no device tears a change of it.
    name: [u8; STORE_NAME_BYTES],
    /// Blocks it had when it was made and after each growth but the last; zeroes after them.
    earlier: [U64; GROWTHS_MAX],
    reserved: [u8; BLOCK_BYTES - 128 - 8 * GROWTHS_MAX],
}
const _: () = assert!(size_of::<DiskSuperblock>() == BLOCK_BYTES);
const _: () = assert!(offset_of!(DiskSuperblock, reserved) <= 512);

/// Bytes of a store's name at most.
pub const STORE_NAME_BYTES: usize = 64;

impl DiskSuperblock {
    /// The superblock of a store.
    pub fn encode(uuid: Uuid, layout: &Layout) -> Box<Bytes> {
        let mut earlier = [U64::ZERO; GROWTHS_MAX];
        earlier.iter_mut().zip(layout.earlier_blocks()).for_each(|(place, blocks)| *place = blocks.into());
        let superblock = Self {
            magic: MAGIC,
            crc: U32::ZERO,
            version: layout.version().into(),
            incompatible: if earlier[0] == 0 { 0 } else { GROWN }.into(),
            uuid: *uuid.as_bytes(),
            blocks: layout.blocks().into(),
            volumes: u64::from(layout.volumes()).into(),
            log_blocks: layout.log_blocks().into(),
            name: [0; STORE_NAME_BYTES],
            earlier,
            reserved: [0; BLOCK_BYTES - 128 - 8 * GROWTHS_MAX],
        };
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        bytes.copy_from_slice(superblock.as_bytes());
        seal(&mut bytes, offset_of!(Self, crc));
        bytes
    }

    /// The identity and layout of a store.
    pub fn decode(bytes: &Bytes) -> Result<(Uuid, Layout), FormatError> {
        let this = Self::ref_from_bytes(bytes).map_err(|_| FormatError::Magic { what: WHAT })?;
        if this.magic != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        check_seal(bytes, offset_of!(Self, crc), WHAT)?;
        let (version, incompatible) = (this.version.get(), this.incompatible.get());
        if version > VERSION || incompatible & !GROWN != 0 {
            return Err(FormatError::Newer { version, incompatible: incompatible & !GROWN });
        }
        if version < VERSION_OF_ONE_LOG {
            return Err(FormatError::Value { what: WHAT, field: "version", value: version.into() });
        }
        Ok((Uuid::from_bytes(this.uuid), this.layout()?))
    }

    fn layout(&self) -> Result<Layout, FormatError> {
        let bad = |field, value| FormatError::Value { what: WHAT, field, value };
        let volumes = self.volumes.get();
        let volumes = u32::try_from(volumes).map_err(|_| bad("volumes", volumes))?;
        let grew = self.earlier.iter().position(|blocks| *blocks == 0).unwrap_or(GROWTHS_MAX);
        if (grew > 0) != (self.incompatible == GROWN) {
            return Err(bad("growths", grew as u64));
        }
        let mut sizes = self.earlier[..grew].iter().chain([&self.blocks]).map(|blocks| blocks.get());
        let made = sizes.next().unwrap_or_default();
        let first = Layout::of_version(self.version.get(), made, volumes, self.log_blocks.get())?;
        sizes.try_fold(first, |layout, blocks| layout.grown_to(blocks).map_err(|_| bad("blocks", blocks)))
    }

    /// The name of a store; empty when it has none.
    pub fn name(bytes: &Bytes) -> &str {
        let at = offset_of!(Self, name);
        let name = &bytes[at..at + STORE_NAME_BYTES];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        std::str::from_utf8(&name[..end]).unwrap_or_default()
    }

    /// Gives a superblock the name of another.
    pub fn take_name(bytes: &mut Bytes, from: &Bytes) {
        let at = offset_of!(Self, name);
        let name = at..at + STORE_NAME_BYTES;
        bytes[name.clone()].copy_from_slice(&from[name]);
        seal(bytes, offset_of!(Self, crc));
    }

    /// Gives a superblock another name; `None` when it does not fit.
    pub fn rename(bytes: &mut Bytes, name: &str) -> Option<()> {
        let at = offset_of!(Self, name);
        let place = &mut bytes[at..at + STORE_NAME_BYTES];
        place.fill(0);
        place.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        seal(bytes, offset_of!(Self, crc));
        Some(())
    }
}
