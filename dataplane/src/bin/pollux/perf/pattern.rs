//! Self-describing block contents for `--verify`.
//!
//! Every device block written carries its own address, the generation of the write and a CRC32C, so a read tells apart
//! damage (checksum), misdirection (address) and loss or staleness (generation).
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | magic `PLXV` |
//! | 4..8 | CRC32C of bytes 8.. |
//! | 8..16 | LBA |
//! | 16..20 | generation |
//! | 20..24 | reserved, zero |
//! | 24..32 | seed of the run |
//! | 32.. | pseudo-random bytes derived from seed, LBA and generation |

use crc_fast::{CrcAlgorithm, checksum};

const MAGIC: [u8; 4] = *b"PLXV";
const HEADER_BYTES: usize = 32;

/// The identity of one written block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockIdentity {
    pub(crate) lba: u64,
    pub(crate) generation: u32,
    pub(crate) seed: u64,
}

/// How a block read differs from the block written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Miscompare {
    #[error(
        "block {lba}: no pattern found (first bytes {found:02x?}): the write was lost or overwritten by another"
    )]
    NoPattern { lba: u64, found: [u8; 4] },
    #[error("block {lba}: CRC32C is {computed:#010x}, the block says {stored:#010x}: damaged")]
    BadChecksum { lba: u64, stored: u32, computed: u32 },
    #[error("block {lba}: holds the content of block {found}: misdirected")]
    WrongBlock { lba: u64, found: u64 },
    #[error("block {lba}: generation {found} where {expected} was acknowledged: {}", if found < expected {"stale"} else {"newer than expected"})]
    WrongGeneration { lba: u64, expected: u32, found: u32 },
    #[error("block {lba}: written by another run (seed {found:#x}, expected {expected:#x})")]
    WrongSeed { lba: u64, expected: u64, found: u64 },
}

/// Fills one block with the pattern of `identity`.
pub(crate) fn fill(block: &mut [u8], identity: BlockIdentity) {
    let (header, body) = block.split_at_mut(HEADER_BYTES);
    let mut words = fastrand::Rng::with_seed(
        identity.seed ^ identity.lba.rotate_left(24) ^ u64::from(identity.generation).rotate_left(48),
    );
    for chunk in body.chunks_exact_mut(8) {
        chunk.copy_from_slice(&words.u64(..).to_le_bytes());
    }
    header[0..4].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&identity.lba.to_le_bytes());
    header[16..20].copy_from_slice(&identity.generation.to_le_bytes());
    header[20..24].fill(0);
    header[24..32].copy_from_slice(&identity.seed.to_le_bytes());
    let crc = block_crc(block);
    block[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Holds one block read against the identity of the last acknowledged write.
pub(crate) fn check(block: &[u8], expected: BlockIdentity) -> Result<(), Miscompare> {
    let lba = expected.lba;
    let magic: [u8; 4] = field(block, 0);
    if magic != MAGIC {
        return Err(Miscompare::NoPattern { lba, found: magic });
    }
    let (stored, computed) = (u32::from_le_bytes(field(block, 4)), block_crc(block));
    if stored != computed {
        return Err(Miscompare::BadChecksum { lba, stored, computed });
    }
    let seed = u64::from_le_bytes(field(block, 24));
    if seed != expected.seed {
        return Err(Miscompare::WrongSeed { lba, expected: expected.seed, found: seed });
    }
    let found = u64::from_le_bytes(field(block, 8));
    if found != lba {
        return Err(Miscompare::WrongBlock { lba, found });
    }
    let generation = u32::from_le_bytes(field(block, 16));
    if generation != expected.generation {
        return Err(Miscompare::WrongGeneration { lba, expected: expected.generation, found: generation });
    }
    Ok(())
}

fn block_crc(block: &[u8]) -> u32 {
    let wide = checksum(CrcAlgorithm::Crc32Iscsi, &block[8..]);
    u32::try_from(wide).expect("a CRC-32 fits in 32 bits")
}

fn field<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    block[at..at + N].try_into().expect("the range has N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: BlockIdentity = BlockIdentity { lba: 77, generation: 3, seed: 0xfeed };

    fn written() -> Vec<u8> {
        let mut block = vec![0xa5; 4096];
        fill(&mut block, IDENTITY);
        block
    }

    #[test]
    fn a_block_read_back_unchanged_passes() {
        assert_eq!(check(&written(), IDENTITY), Ok(()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = written();
        for byte in (0..4096).step_by(97).chain(0..HEADER_BYTES) {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            assert!(check(&bad, IDENTITY).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn zeroes_old_data_and_the_neighbours_data_are_told_apart() {
        assert!(matches!(check(&[0; 512], IDENTITY), Err(Miscompare::NoPattern { lba: 77, .. })));
        let block = written();
        let newer = BlockIdentity { generation: 4, ..IDENTITY };
        assert_eq!(check(&block, newer), Err(Miscompare::WrongGeneration { lba: 77, expected: 4, found: 3 }));
        let neighbour = BlockIdentity { lba: 78, ..IDENTITY };
        assert_eq!(check(&block, neighbour), Err(Miscompare::WrongBlock { lba: 78, found: 77 }));
        let other_run = BlockIdentity { seed: 1, ..IDENTITY };
        assert_eq!(
            check(&block, other_run),
            Err(Miscompare::WrongSeed { lba: 77, expected: 1, found: 0xfeed })
        );
    }
}
