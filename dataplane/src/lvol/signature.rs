//! What a device holds, as far as its first and last bytes tell: so that nobody's data is overwritten by mistake.

use crate::store::format::Bytes;
use crate::store::{BLOCK_BYTES, Block, Media, MediaError};

/// Blocks at either end that must be empty: 1 MiB.
const END_BLOCKS: u64 = 256;

/// Where something begins, and what it then is.
struct Signature {
    /// Byte of the device; negative ones are counted from its end.
    at: i64,
    magic: &'static [u8],
    what: &'static str,
}

const fn is(at: i64, magic: &'static [u8], what: &'static str) -> Signature {
    Signature { at, magic, what }
}

/// The first that fits is named, so what lies inside another comes first.
const SIGNATURES: &[Signature] = &[
    is(0, b"PLXSTORE", "a Pollux store"),
    is(0, b"SPDKBLOB", "an SPDK blobstore"),
    is(0, b"LUKS\xba\xbe", "a LUKS volume"),
    is(0x4000, b"SKUL\xba\xbe", "a LUKS volume"),
    is(512, b"EFI PART", "a GPT partition table"),
    is(4096, b"EFI PART", "a GPT partition table"),
    is(-512, b"EFI PART", "a GPT partition table"),
    is(-4096, b"EFI PART", "a GPT partition table"),
    is(512, b"LABELONE", "an LVM physical volume"),
    is(0, b"LABELONE", "an LVM physical volume"),
    is(1024, b"LABELONE", "an LVM physical volume"),
    is(1536, b"LABELONE", "an LVM physical volume"),
    is(4096, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    is(0, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    is(0, b"XFSB", "an XFS filesystem"),
    is(0x1_0040, b"_BHRfS_M", "a btrfs filesystem"),
    is(0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "a bcache device"),
    is(1080, b"\x53\xef", "an ext2, ext3 or ext4 filesystem"),
    is(1024, b"\x10\x20\xf5\xf2", "an F2FS filesystem"),
    is(4086, b"SWAPSPACE2", "swap space"),
    is(0x8001, b"CD001", "an ISO 9660 filesystem"),
    is(3, b"NTFS    ", "an NTFS filesystem"),
    is(82, b"FAT32   ", "a FAT filesystem"),
    is(54, b"FAT16   ", "a FAT filesystem"),
    is(510, b"\x55\xaa", "an MBR partition table or boot sector"),
];

/// ZFS keeps a ring of uberblocks in each label, from 128 KiB on, in either byte order.
const UBERBLOCK_MAGICS: [[u8; 8]; 2] = [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()];
const UBERBLOCKS: std::ops::Range<usize> = 128 << 10..256 << 10;
const UBERBLOCK_STEP: usize = 1024;

/// What was found on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Something that is known.
    Known(&'static str),
    /// Something: the first block that is not zero.
    Unknown(Block),
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(what) => write!(f, "the device holds {what}"),
            Self::Unknown(block) => {
                write!(f, "the device holds data, at byte {}", block.0 * BLOCK_BYTES as u64)
            }
        }
    }
}

/// What a device holds; nothing when its first and last MiB are zero.
///
/// # Errors
/// When it cannot be read.
pub fn content(media: &mut impl Media) -> Result<Option<Content>, MediaError> {
    let blocks = media.blocks();
    let head = read(media, 0, END_BLOCKS.min(blocks))?;
    let start = blocks.saturating_sub(END_BLOCKS);
    let tail = read(media, start, blocks - start)?;
    if let Some(what) = known(&head, &tail) {
        return Ok(Some(Content::Known(what)));
    }
    let first = |bytes: &[u8], start: u64| {
        let at = bytes.iter().position(|byte| *byte != 0)?;
        Some(Content::Unknown(Block(start + (at / BLOCK_BYTES) as u64)))
    };
    Ok(first(&head, 0).or_else(|| first(&tail, start)))
}

fn read(media: &mut impl Media, start: u64, blocks: u64) -> Result<Vec<u8>, MediaError> {
    let mut all = Vec::new();
    let mut bytes: Bytes = [0; BLOCK_BYTES];
    for block in start..start + blocks {
        media.read(Block(block), &mut bytes)?;
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

fn known(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    let fits = |signature: &&Signature| {
        let from_end = usize::try_from(signature.at.unsigned_abs()).ok();
        let place = match signature.at {
            0.. => from_end.and_then(|at| head.get(at..)),
            _ => from_end.and_then(|back| tail.len().checked_sub(back)).and_then(|at| tail.get(at..)),
        };
        place.is_some_and(|place| place.starts_with(signature.magic))
    };
    SIGNATURES.iter().find(fits).map(|signature| signature.what).or_else(|| zfs(head).then_some("a ZFS pool"))
}

fn zfs(head: &[u8]) -> bool {
    let ring = head.get(UBERBLOCKS).unwrap_or_default();
    ring.chunks(UBERBLOCK_STEP).any(|block| UBERBLOCK_MAGICS.iter().any(|magic| block.starts_with(magic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Memory(Vec<u8>);

    impl Media for Memory {
        fn blocks(&self) -> u64 {
            (self.0.len() / BLOCK_BYTES) as u64
        }

        fn read(&mut self, block: Block, bytes: &mut Bytes) -> Result<(), MediaError> {
            let at = usize::try_from(block.0).unwrap() * BLOCK_BYTES;
            bytes.copy_from_slice(&self.0[at..at + BLOCK_BYTES]);
            Ok(())
        }

        fn write(&mut self, _: Block, _: &Bytes) -> Result<(), MediaError> {
            unreachable!("looking writes nothing")
        }

        fn flush(&mut self) -> Result<(), MediaError> {
            unreachable!("looking writes nothing")
        }
    }

    fn device() -> Memory {
        Memory(vec![0; 4 << 20])
    }

    #[test]
    fn an_empty_device_is_empty() {
        assert_eq!(content(&mut device()), Ok(None));
    }

    #[test]
    fn every_signature_is_found_where_it_lies() {
        for signature in SIGNATURES {
            let mut device = device();
            let len = i64::try_from(device.0.len()).unwrap();
            let at = if signature.at < 0 { len + signature.at } else { signature.at };
            let at = usize::try_from(at).unwrap();
            device.0[at..at + signature.magic.len()].copy_from_slice(signature.magic);
            assert_eq!(content(&mut device), Ok(Some(Content::Known(signature.what))));
        }
    }

    #[test]
    fn data_that_nobody_knows_is_found_in_the_first_and_the_last_mebibyte() {
        for at in [70_000, (1 << 20) - 1, (3 << 20), (4 << 20) - 1] {
            let mut device = device();
            device.0[at] = 1;
            let block = Block((at / BLOCK_BYTES) as u64);
            assert_eq!(content(&mut device), Ok(Some(Content::Unknown(block))));
        }
        let mut middle = device();
        middle.0[2 << 20] = 1;
        assert_eq!(content(&mut middle), Ok(None));
    }

    #[test]
    fn a_zfs_pool_is_known_by_its_uberblocks() {
        let mut device = device();
        device.0[(128 << 10) + 5 * UBERBLOCK_STEP..][..8].copy_from_slice(&UBERBLOCK_MAGICS[0]);
        assert_eq!(content(&mut device), Ok(Some(Content::Known("a ZFS pool"))));
    }
}
