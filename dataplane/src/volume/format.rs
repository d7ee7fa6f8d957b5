//! What a replica keeps beside the data: a superblock and the pages of the write-intent bitmap, each twice.
//!
//! They lie in front of the data, with room for the pages of a volume eight times as large: so a replica is found whatever
//! became of the size of its device, and grows without anything being moved.
//!
//! Both copies of a thing lie side by side, and are written in turn: the one that is not the newest. So a write that is torn
//! leaves the other one whole. A reader takes the newest whole copy. A page of which no copy is whole counts as dirty
//! everywhere; a replica without a whole superblock is none.

use uuid::Uuid;

use super::{Bitmap, Epoch, HeadId, Lineage, ReplicaState};

/// Bytes of a block of metadata, whatever the device's logical blocks are.
pub const BLOCK_BYTES: usize = 4096;
/// Words of a page of the bitmap: the block without its header.
pub const PAGE_WORDS: usize = (BLOCK_BYTES - HEADER_BYTES) / 8;
/// Magic, kind and number, sequence, checksum, and room.
const HEADER_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"PLXREPL2";
/// Of replicas that were made before: their metadata lies behind the data.
const MAGIC_BEHIND: [u8; 8] = *b"PLXREPL1";
/// Pages have room for a volume so many times as large as it was made.
const GROWTH: u64 = 8;
/// The data begins at a multiple of as many blocks: of a region of 1 MiB.
const DATA_ALIGNMENT: u64 = 256;
/// The superblock's number; pages count from 0.
const SUPERBLOCK: u32 = u32::MAX;

/// A block of metadata.
pub type Block = [u8; BLOCK_BYTES];

/// What a superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The volume this is a replica of.
    pub volume: Uuid,
    /// Bytes that hosts see.
    pub bytes: u64,
    /// Bytes of a region of the bitmap.
    pub region_bytes: u32,
    /// How much of the volume it holds.
    pub content: Content,
    /// A number that changes with every attachment, for drivers.
    pub window: u16,
    /// What was accepted.
    pub state: ReplicaState,
    /// Whose bits it shares.
    pub lineage: Lineage,
    /// Nil but in a snapshot: the moment that it holds. A replica says so while a snapshot of it is taken; one that is found so
    /// is what a snapshot holds, or was about to be.
    pub moment: Uuid,
    /// Blocks in front of the data.
    pub front: u32,
}

/// How much of its volume a replica holds, as it knows itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// It held everything once.
    Whole,
    /// Nothing, whatever its bitmap says: it was made, and no head has filled in the bitmap since.
    Fresh,
    /// It is being filled for the first time: its bitmap names what it lacks.
    Partial,
}

impl Content {
    /// After a head has told it that it holds everything (`sound`), or that its bitmap names all that it lacks (`mapped`).
    #[must_use]
    pub fn told(self, sound: bool, mapped: bool) -> Self {
        match self {
            _ if sound => Self::Whole,
            Self::Fresh if mapped => Self::Partial,
            _ => self,
        }
    }

    /// Whether it held everything once: what others hold beside it is not older.
    pub fn is_whole(self) -> bool {
        self == Self::Whole
    }

    /// As it is written. Programs that know two states take whatever is not 0 for fresh.
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::Fresh => 1,
            Self::Partial => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Whole,
            2 => Self::Partial,
            _ => Self::Fresh,
        }
    }
}

/// Blocks in front of the data of a replica that is made for this many regions.
pub fn front_blocks(regions: u64) -> u64 {
    (2 * (1 + pages(regions.saturating_mul(GROWTH)))).next_multiple_of(DATA_ALIGNMENT)
}

/// Most regions of which the bits have room in front of the data.
pub fn regions_max(front: u32) -> u64 {
    (u64::from(front) / 2).saturating_sub(1) * PAGE_WORDS as u64 * 64
}

/// Whether this is a superblock of a replica whose metadata lies behind the data.
pub fn is_of_earlier_version(block: &Block) -> bool {
    block[..8] == MAGIC_BEHIND && block[8..12] == SUPERBLOCK.to_le_bytes()
}

/// Pages of the bitmap.
pub fn pages(regions: u64) -> u64 {
    regions.div_ceil(PAGE_WORDS as u64 * 64)
}

/// Where copy `copy` (0 or 1) of the superblock lies, in blocks of metadata.
pub fn superblock_at(copy: u64) -> u64 {
    copy & 1
}

/// Where copy `copy` (0 or 1) of a page lies, in blocks of metadata.
pub fn page_at(page: u32, copy: u64) -> u64 {
    2 + 2 * u64::from(page) + (copy & 1)
}

fn seal(block: &mut Block, number: u32, sequence: u64) {
    block[..8].copy_from_slice(&MAGIC);
    block[8..12].copy_from_slice(&number.to_le_bytes());
    block[16..24].copy_from_slice(&sequence.to_le_bytes());
    block[12..16].fill(0);
    let sum = crc(block);
    block[12..16].copy_from_slice(&sum.to_le_bytes());
}

fn crc(block: &Block) -> u32 {
    crate::store::format::crc32c(block)
}

/// The sequence of a whole block of this number.
fn unseal(block: &Block, number: u32) -> Option<u64> {
    let stored = u32::from_le_bytes([block[12], block[13], block[14], block[15]]);
    let mut zeroed = *block;
    zeroed[12..16].fill(0);
    let whole = block[..8] == MAGIC && block[8..12] == number.to_le_bytes() && crc(&zeroed) == stored;
    whole.then(|| word(block, 16))
}

fn word(block: &Block, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&block[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// A superblock as it is written.
pub fn encode_superblock(superblock: &Superblock, sequence: u64) -> Box<Block> {
    let mut block = Box::new([0; BLOCK_BYTES]);
    let Superblock { volume, bytes, region_bytes, content, window, state, lineage, moment, front } =
        superblock;
    block[32..48].copy_from_slice(volume.as_bytes());
    block[48..56].copy_from_slice(&bytes.to_le_bytes());
    block[56..60].copy_from_slice(&region_bytes.to_le_bytes());
    block[60] = content.to_byte();
    block[62..64].copy_from_slice(&window.to_le_bytes());
    block[64..72].copy_from_slice(&state.epoch.0.to_le_bytes());
    block[72..88].copy_from_slice(&state.head.0.to_le_bytes());
    block[88..104].copy_from_slice(&lineage.head.0.to_le_bytes());
    block[104..108].copy_from_slice(&lineage.number.to_le_bytes());
    block[112..128].copy_from_slice(moment.as_bytes());
    block[108..112].copy_from_slice(&front.to_le_bytes());
    seal(&mut block, SUPERBLOCK, sequence);
    block
}

/// The newest whole superblock of two copies, and its sequence.
pub fn decode_superblock(copies: [&Block; 2]) -> Option<(Superblock, u64)> {
    let newest = copies.into_iter().filter_map(|block| Some((unseal(block, SUPERBLOCK)?, block)));
    let (sequence, block) = newest.max_by_key(|(sequence, _)| *sequence)?;
    let (mut volume, mut moment) = ([0; 16], [0; 16]);
    volume.copy_from_slice(&block[32..48]);
    let head = |at| HeadId(u128::from(word(block, at)) | u128::from(word(block, at + 8)) << 64);
    let number = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    moment.copy_from_slice(&block[112..128]);
    let superblock = Superblock {
        volume: Uuid::from_bytes(volume),
        bytes: word(block, 48),
        region_bytes: u32::from_le_bytes([block[56], block[57], block[58], block[59]]),
        content: Content::from_byte(block[60]),
        window: u16::from_le_bytes([block[62], block[63]]),
        state: ReplicaState { epoch: Epoch(word(block, 64)), head: head(72) },
        lineage: Lineage { head: head(88), number: number(104) },
        moment: Uuid::from_bytes(moment),
        front: number(108),
    };
    Some((superblock, sequence))
}

/// A page of the bitmap as it is written.
pub fn encode_page(page: u32, words: &[u64], sequence: u64) -> Box<Block> {
    assert!(words.len() <= PAGE_WORDS);
    let mut block = Box::new([0; BLOCK_BYTES]);
    for (bytes, word) in block[HEADER_BYTES..].chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    seal(&mut block, page, sequence);
    block
}

/// Adds the newest whole one of two copies of a page to a bitmap; its sequence. With none whole, every region of the page is
/// added, and the sequence is 0.
pub fn decode_page(page: u32, copies: [&Block; 2], into: &mut Bitmap) -> u64 {
    let at = page as usize * PAGE_WORDS;
    let newest = copies.into_iter().filter_map(|block| Some((unseal(block, page)?, block)));
    let Some((sequence, block)) = newest.max_by_key(|(sequence, _)| *sequence) else {
        into.unite_words(at, &[u64::MAX; PAGE_WORDS]);
        return 0;
    };
    let words: Vec<u64> = (0..PAGE_WORDS).map(|index| word(block, HEADER_BYTES + index * 8)).collect();
    into.unite_words(at, &words);
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(epoch: u64) -> Superblock {
        Superblock {
            volume: Uuid::from_u128(7),
            bytes: 1 << 30,
            region_bytes: 1 << 20,
            content: Content::Partial,
            window: 4000,
            state: ReplicaState { epoch: Epoch(epoch), head: HeadId(u128::MAX - 5) },
            lineage: Lineage { head: HeadId(u128::MAX - 6), number: 3 },
            moment: Uuid::from_u128(3),
            front: 256,
        }
    }

    #[test]
    fn the_newest_whole_superblock_counts() {
        let (old, mut new) = (encode_superblock(&superblock(4), 8), encode_superblock(&superblock(5), 9));
        assert_eq!(decode_superblock([&old, &new]), Some((superblock(5), 9)));
        new[70] ^= 1;
        assert_eq!(decode_superblock([&new, &old]), Some((superblock(4), 8)));
        assert_eq!(decode_superblock([&new, &[0; BLOCK_BYTES]]), None);
    }

    #[test]
    fn what_a_replica_holds_only_grows_and_programs_that_know_two_states_take_a_part_for_nothing() {
        use Content::{Fresh, Partial, Whole};
        assert_eq!(
            [Fresh, Partial, Whole].map(|content| content.told(false, false)),
            [Fresh, Partial, Whole]
        );
        assert_eq!(
            [Fresh, Partial, Whole].map(|content| content.told(false, true)),
            [Partial, Partial, Whole]
        );
        assert_eq!([Fresh, Partial, Whole].map(|content| content.told(true, false)), [Whole; 3]);
        assert_eq!(
            [Fresh, Partial, Whole].map(|content| Content::from_byte(content.to_byte())),
            [Fresh, Partial, Whole]
        );
        assert_eq!(Whole.to_byte(), 0);
        assert_ne!(Partial.to_byte(), 0);
    }

    #[test]
    fn a_page_without_a_whole_copy_is_dirty_everywhere() {
        let regions = PAGE_WORDS as u64 * 64 + 10;
        assert_eq!(pages(regions), 2);
        let mut map = Bitmap::new(regions);
        let page = encode_page(1, &[0b101], 3);
        assert_eq!(decode_page(1, [&page, &[0; BLOCK_BYTES]], &mut map), 3);
        let first = PAGE_WORDS as u64 * 64;
        assert_eq!(map.iter().collect::<Vec<_>>(), [first, first + 2]);
        // A page in the place of another is no copy of it.
        assert_eq!(decode_page(0, [&page, &page], &mut map), 0);
        assert_eq!(map.ones(), first + 2);
    }
}
