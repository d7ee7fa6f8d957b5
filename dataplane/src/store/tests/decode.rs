//! Decoders: what was written comes back; anything else is refused, not believed, and never a panic.

use proptest::prelude::*;
use uuid::Uuid;

use crate::store::format::{
    Bytes, COUNTS_PER_PAGE, CheckpointHeader, CountsPage, DiskSuperblock, FANOUT, Layout, LogBlock,
    LogHeader, MapEntry, MapPage, Record, Records, VolumeEntry, crc32c,
};
use crate::store::{BLOCK_BYTES, Block, Lsn, VolumeBlock, VolumeId};

fn a_layout() -> Layout {
    Layout::new(10_000, 64, 32).unwrap()
}

/// Decodes as everything.
fn decode_all(bytes: &Bytes) {
    let _ = DiskSuperblock::decode(bytes);
    let _ = CheckpointHeader::decode(bytes);
    let _ = MapPage::decode(bytes, Block(0), 0, |block| a_layout().is_data(block));
    let _ = CountsPage::decode(bytes, 0);
    if let Ok((_, records)) = Records::decode(bytes) {
        assert!(records.count() <= BLOCK_BYTES);
    }
}

fn block(bytes: &[u8]) -> Bytes {
    let mut block = [0; BLOCK_BYTES];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

/// Puts a valid checksum at `at`.
fn seal(bytes: &mut Bytes, at: usize) {
    bytes[at..at + 4].fill(0);
    let crc = crc32c(bytes);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #[test]
    fn hostile_bytes_are_refused_without_panic(
        bytes in prop::collection::vec(any::<u8>(), BLOCK_BYTES),
        kind in 0..5usize,
    ) {
        let mut bytes = block(&bytes);
        decode_all(&bytes);
        // With signature and checksum right, the fields are what is looked at.
        let (magic, crc): (&[u8], _) =
            [(&b"PLXSTORE"[..], 8), (b"PLXCHECK", 8), (b"PLXM", 4), (b"PLXC", 4), (b"PLXL", 4)][kind];
        bytes[..magic.len()].copy_from_slice(magic);
        seal(&mut bytes, crc);
        decode_all(&bytes);
    }

    #[test]
    fn any_changed_byte_is_noticed(at in 0..BLOCK_BYTES, flip in 1..=255u8, seq in any::<u64>()) {
        let mut superblock = DiskSuperblock::encode(Uuid::from_u128(5), &a_layout());
        superblock[at] ^= flip;
        prop_assert!(DiskSuperblock::decode(&superblock).is_err());
        let mut page = MapPage::empty(1).encode(Block(77), seq);
        page[at] ^= flip;
        prop_assert!(MapPage::decode(&page, Block(77), 1, |_| true).is_err());
        let mut counts = CountsPage([3; COUNTS_PER_PAGE]).encode(4, seq);
        counts[at] ^= flip;
        prop_assert!(CountsPage::decode(&counts, 4).is_err());
    }

    #[test]
    fn the_layout_has_no_overlaps(blocks in 0..1u64 << 41, volumes in 0..40_000u32, log_blocks in 0..1u64 << 21) {
        let Ok(layout) = Layout::new(blocks, volumes, log_blocks) else { return Ok(()) };
        let ends = [
            1,
            layout.checkpoint(0).0.min(layout.checkpoint(1).0) + layout.checkpoint_blocks(),
            layout.checkpoint(1).0 + layout.checkpoint_blocks(),
            layout.log(0, 0).0 + layout.log_blocks(),
            layout.counts(layout.counts_pages() - 1, true).0 + 1,
        ];
        let starts = [
            layout.checkpoint(0).0, layout.checkpoint(1).0, layout.log(0, 0).0, layout.counts(0, false).0,
            layout.data_start().0,
        ];
        prop_assert_eq!(ends, starts);
        prop_assert!(layout.data_end().0 < blocks);
        let counted = u64::from(layout.counts_pages()) * COUNTS_PER_PAGE as u64;
        prop_assert!(counted >= layout.data_end().0 - layout.data_start().0);
    }

    #[test]
    fn map_pages_come_back(targets in prop::collection::vec(any::<u64>(), FANOUT), sums in prop::collection::vec(any::<u32>(), FANOUT)) {
        let mut page = MapPage::empty(0);
        page.targets.copy_from_slice(&targets);
        page.sums.copy_from_slice(&sums);
        let bytes = page.encode(Block(9), 3);
        prop_assert_eq!(MapPage::decode(&bytes, Block(9), 0, |_| true), Ok(page));
        prop_assert!(MapPage::decode(&bytes, Block(8), 0, |_| true).is_err());
        prop_assert!(MapPage::decode(&bytes, Block(9), 1, |_| true).is_err());
        prop_assert!(MapPage::decode(&bytes, Block(9), 0, |block| a_layout().is_data(block)).is_err());
    }

    #[test]
    fn records_come_back_in_order(
        volume in any::<u32>(),
        at in 0..1u64 << 36,
        writes in prop::collection::vec((any::<u64>(), any::<u32>()), 1..200),
        blocks in any::<u16>(),
        others in any::<(u32, u32)>(),
    ) {
        let volume = VolumeId(volume);
        let entries: Vec<MapEntry> =
            writes.iter().map(|(target, sum)| MapEntry { target: (*target).into(), sum: (*sum).into() }).collect();
        let entry = VolumeEntry::new(Uuid::from_u128(1), at, "name").unwrap();
        let records = [
            Record::Map { volume, at: VolumeBlock(at), entries: &entries },
            Record::Unmap { volume, at: VolumeBlock(at), blocks },
            Record::Create { volume, entry: &entry },
            Record::Delete { volume },
            Record::Resize { volume, blocks: at },
            Record::Rollback { volume, snapshot: VolumeId(others.0), husk: VolumeId(others.1) },
            Record::Rename { volume, name: &entry.name },
            Record::Reap { volume },
            Record::Configure { volume, flags: VolumeEntry::READ_ONLY },
            Record::Detach { volume },
            Record::Promote { volume },
        ];
        let mut log = LogBlock::default();
        for record in &records {
            prop_assert!(log.fits(record));
            log.push(record);
        }
        let header = LogHeader { incarnation: 3, position: at, lsn: Lsn(4), committed: 5, checkpoint: 6 };
        let bytes = log.seal(header);
        let (found, decoded) = Records::decode(&bytes).unwrap();
        prop_assert_eq!(found, header);
        let decoded: Vec<_> = decoded.map(Result::unwrap).collect();
        prop_assert_eq!(&decoded[..], &records[..]);
    }
}

#[test]
fn the_largest_map_record_fits_an_empty_log_block() {
    let entries = [MapEntry { target: 1.into(), sum: 2.into() }; FANOUT];
    let record = Record::Map { volume: VolumeId(1), at: VolumeBlock(0), entries: &entries };
    assert!(LogBlock::default().fits(&record));
}
