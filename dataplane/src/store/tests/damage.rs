//! Damage at rest stays where it is; refusals refuse.

use super::rig::{BLOCKS, Memory, OPTIONS, Rig};
use crate::store::format::{
    CheckpointHeader, CountsPage, DiskSuperblock, FormatError, Layout, LogBlock, LogHeader, MapPage, Record,
};
use crate::store::{
    Block, Control, Failure, Fault, Limits, Media, OpenError, Operation, READS_MAX, Reach, VolumeId,
    VolumeKind, check, create, open,
};

#[test]
fn a_write_after_a_snapshot_writes_no_more_data_than_it_was_given() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 1_000);
    rig.write(volume, 0, 256, 1).unwrap();
    let snapshot = rig.copy(volume, "s", VolumeKind::Snapshot);
    rig.data_writes = 0;
    rig.write(volume, 17, 1, 2).unwrap();
    assert_eq!(rig.data_writes, 1);
    assert_eq!(rig.read(volume, 16, 3).unwrap(), [1, 2, 1]);
    assert_eq!(rig.read(snapshot, 16, 3).unwrap(), [1, 1, 1]);
}

#[test]
fn a_flipped_bit_in_data_is_an_error_and_never_data() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 100);
    rig.write(volume, 0, 2, 0xA5).unwrap();
    let (block, _) = rig.media.0.iter().find(|(_, bytes)| bytes.iter().all(|byte| *byte == 0xA5)).unwrap();
    let block = *block;
    rig.media.0.get_mut(&block).unwrap()[2_000] ^= 8;
    let outcomes = [rig.read(volume, 0, 1), rig.read(volume, 1, 1)];
    assert!(outcomes.contains(&Err(Failure::Corrupt)), "{outcomes:?}");
    assert!(outcomes.contains(&Ok(vec![0xA5])), "{outcomes:?}");
    let mut rig = rig.reopen();
    let report = check(&mut rig.media, true).unwrap();
    assert!(matches!(report.faults[..], [Fault::Data { block: found, .. }] if found == Block(block)));
    assert_eq!((report.volumes[0].mapped, report.volumes[0].reachable), (2, 1));
}

#[test]
fn a_damaged_map_page_takes_down_what_it_maps_and_nothing_else() {
    let mut rig = Rig::new();
    let (hurt, sound) = (rig.create("hurt", 600), rig.create("sound", 600));
    for volume in [hurt, sound] {
        rig.write(volume, 0, 8, 1).unwrap();
        rig.write(volume, 300, 8, 2).unwrap();
    }
    let rig = rig.reopen();
    let mut media = rig.media.clone();
    let leaf = |bytes: &[u8; 4096], block: u64| {
        MapPage::decode(bytes, Block(block), 0, |_| true).is_ok_and(|page| page.targets[0] != 0)
    };
    let (block, _) = rig.media.0.iter().find(|(block, bytes)| leaf(bytes, **block)).unwrap();
    media.0.get_mut(block).unwrap()[100] ^= 1;
    let mut rig = Rig::open(media);
    let outcomes = [hurt, sound].map(|volume| rig.read(volume, 0, 8));
    assert!(outcomes.contains(&Err(Failure::Corrupt)), "{outcomes:?}");
    assert!(outcomes.contains(&Ok(vec![1; 8])), "{outcomes:?}");
    for volume in [hurt, sound] {
        assert_eq!(rig.read(volume, 300, 8), Ok(vec![2; 8]));
        rig.write(volume, 300, 8, 3).unwrap();
        assert_eq!(rig.read(volume, 300, 8), Ok(vec![3; 8]));
    }
    let report = check(&mut rig.media, false).unwrap();
    let page = |volume| Fault::Page { block: Block(*block), volume, at: 0, blocks: 256 };
    let whose = [hurt, sound].map(|volume| report.faults.contains(&page(volume)));
    assert!(whose[0] != whose[1], "{:?}", report.faults);
    let reach = |volume: &Reach| (volume.mapped, volume.reachable);
    let mut reach: Vec<_> = report.volumes.iter().map(reach).collect();
    reach.sort_unstable();
    assert_eq!(reach, [(16, 8), (16, 16)]);
}

#[test]
fn either_superblock_is_enough_to_open() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 10);
    rig.write(volume, 3, 1, 9).unwrap();
    let media = rig.reopen().media;
    for block in [0, BLOCKS - 1] {
        let mut media = media.clone();
        media.0.insert(block, [0x55; 4096]);
        assert_eq!(Rig::open(media).read(volume, 2, 2), Ok(vec![0, 9]));
    }
}

#[test]
fn a_device_that_holds_something_is_left_alone_unless_forced() {
    for block in [0, 1, 31, BLOCKS - 1] {
        let mut media = Memory::default();
        media.0.insert(block, [1; 4096]);
        assert_eq!(create(&mut media, &OPTIONS), Err(OpenError::NotEmpty { block }));
        assert_eq!(media.0.len(), 1);
        let forced = crate::store::CreateOptions { force: true, ..OPTIONS };
        assert!(create(&mut media, &forced).is_ok());
    }
}

#[test]
fn a_newer_format_is_refused_even_if_the_other_superblock_is_older() {
    let mut media = Rig::new().media;
    let superblock = media.0.get_mut(&0).unwrap();
    superblock[12] = 3;
    superblock[8..12].fill(0);
    let crc = crate::store::format::crc32c(superblock);
    superblock[8..12].copy_from_slice(&crc.to_le_bytes());
    let refusal = open(&mut media, Limits::default()).err();
    let newer = FormatError::Newer { version: 3, incompatible: 0 };
    assert_eq!(refusal, Some(OpenError::Superblock(newer)));
}

#[test]
fn a_full_store_fails_writes_and_is_healed_by_freeing_space() {
    let mut rig = Rig::new();
    let (volume, other) = (rig.create("a", 100_000), rig.create("b", 10));
    rig.write(other, 0, 1, 7).unwrap();
    let full = (0..BLOCKS).find(|at| rig.write(volume, *at, 1, 1) == Err(Failure::Full)).unwrap();
    assert!(full > BLOCKS / 2, "{full}");
    assert_eq!(rig.read(other, 0, 1), Ok(vec![7]));
    assert_eq!(rig.read(volume, full - 1, 2), Ok(vec![1, 0]));
    rig.control(Control::Delete { volume }).unwrap();
    rig.reap();
    rig.write(other, 1, 1, 8).unwrap();
    assert_eq!(rig.read(other, 0, 3), Ok(vec![7, 8, 0]));
}

#[test]
fn a_flush_with_nothing_to_flush_asks_the_device_for_nothing() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 10);
    rig.write(volume, 0, 1, 1).unwrap();
    rig.run(Operation::Flush).unwrap();
    let before = rig.flushes;
    rig.run(Operation::Flush).unwrap();
    assert_eq!(rig.flushes, before);
}

#[test]
fn a_log_block_of_an_earlier_life_is_not_taken_for_the_next_one() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 10);
    let mut media = rig.reopen().media;
    let store = open(&mut media, Limits::default()).unwrap();
    // The store is in its third life by now: a block of the second and one of the third, in the same place.
    let now = store.log.incarnation();
    for (incarnation, survives) in [(now - 1, true), (now, false)] {
        let mut log = LogBlock::default();
        log.push(&Record::Delete { volume });
        let position = store.log.position();
        let lsn = store.lsn().next();
        let header = LogHeader { incarnation, position, lsn, committed: 0, checkpoint: 0 };
        let mut media = media.clone();
        media.write(store.state.layout.log(position, 1), &log.seal(header)).unwrap();
        let found = open(&mut media, Limits::default()).unwrap();
        assert_eq!(found.volume(volume).is_some(), survives, "incarnation {incarnation}");
    }
}

#[test]
fn names_are_unique_and_snapshots_refuse_writes() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 10);
    let snapshot = rig.copy(volume, "s", VolumeKind::Snapshot);
    assert_eq!(rig.write(snapshot, 0, 1, 1), Err(Failure::ReadOnly));
    assert_eq!(rig.control(Control::Rename { volume, name: "s".into() }), Err(Failure::NameTaken));
    assert_eq!(rig.control(Control::Rename { volume, name: String::new() }), Err(Failure::BadName));
    assert_eq!(rig.control(Control::Rename { volume, name: "x".repeat(65) }), Err(Failure::BadName));
    assert_eq!(rig.write(volume, 10, 1, 1), Err(Failure::OutOfRange));
    assert_eq!(rig.write(volume, u64::MAX, 1, 1), Err(Failure::OutOfRange));
}

/// A store with two checkpoints behind it, whose log holds one more volume and some of its blocks.
fn with_log() -> (Memory, VolumeId) {
    let mut rig = Rig::new();
    let first = rig.create("a", 600);
    rig.write(first, 0, 8, 1).unwrap();
    let mut rig = rig.reopen();
    let volume = rig.create("b", 600);
    for at in 0..8 {
        rig.write(volume, at, 1, 2).unwrap();
        rig.run(Operation::Flush).unwrap();
    }
    rig.write(first, 0, 1, 3).unwrap();
    rig.run(Operation::Flush).unwrap();
    (rig.media, volume)
}

fn layout(media: &mut Memory) -> Layout {
    let mut bytes = [0; 4096];
    media.read(Block(0), &mut bytes).unwrap();
    DiskSuperblock::decode(&bytes).unwrap().1
}

fn newest(media: &Memory, layout: &Layout) -> CheckpointHeader {
    let header = |parity| {
        media.0.get(&layout.checkpoint(parity).0).and_then(|bytes| CheckpointHeader::decode(bytes).ok())
    };
    [0, 1].into_iter().filter_map(header).max_by_key(|header| header.seq).unwrap()
}

#[test]
fn any_one_damaged_block_of_a_checkpoint_or_of_the_log_changes_nothing() {
    let (mut media, volume) = with_log();
    let layout = layout(&mut media);
    let end = layout.counts(0, false).0;
    for block in 1..end {
        let mut media = media.clone();
        media.0.insert(block, [0x77; 4096]);
        let mut rig = Rig::open(media);
        assert_eq!(rig.read(volume, 0, 8), Ok(vec![2; 8]), "block {block}");
    }
}

#[test]
fn a_checkpoint_that_is_damaged_twice_is_refused_and_not_replaced_by_the_one_before() {
    let (mut media, _) = with_log();
    let layout = layout(&mut media);
    let seq = newest(&media, &layout).seq;
    for block in layout.payload(seq, 0) {
        media.0.insert(block.0, [0x77; 4096]);
    }
    let refusal = open(&mut media, Limits::default()).err();
    assert!(matches!(refusal, Some(OpenError::CheckpointDamaged { .. })), "{refusal:?}");
}

#[test]
fn a_block_of_the_log_that_is_damaged_twice_is_refused_when_later_ones_tell_that_it_was_there() {
    let (mut media, _) = with_log();
    let layout = layout(&mut media);
    let position = newest(&media, &layout).log_position + 3;
    for copy in 0..2 {
        media.0.insert(layout.log(position, copy).0, [0x77; 4096]);
    }
    let refusal = open(&mut media, Limits::default()).err();
    assert!(matches!(refusal, Some(OpenError::LogDamaged { .. })), "{refusal:?}");
}

#[test]
fn a_checkpoint_whose_header_is_damaged_twice_is_refused_when_the_log_tells_of_it() {
    let (mut media, _) = with_log();
    let layout = layout(&mut media);
    let seq = newest(&media, &layout).seq;
    for block in layout.headers(seq) {
        media.0.insert(block.0, [0x77; 4096]);
    }
    let refusal = open(&mut media, Limits::default()).err();
    assert_eq!(refusal, Some(OpenError::CheckpointDamaged { seq }));
}

#[test]
fn one_whole_checkpoint_is_made_of_two_that_are_damaged_in_different_blocks() {
    let (mut media, volume) = with_log();
    let layout = layout(&mut media);
    let seq = newest(&media, &layout).seq;
    let last = layout.payload_blocks() - 1;
    assert!(last > 0);
    media.0.insert(layout.payload(seq, 0)[0].0, [0x77; 4096]);
    media.0.insert(layout.payload(seq, last)[1].0, [0x77; 4096]);
    let mut rig = Rig::open(media);
    assert_eq!(rig.read(volume, 0, 8), Ok(vec![2; 8]));
}

#[test]
fn every_other_block_of_both_copies_of_the_log_may_be_damaged() {
    let (mut media, volume) = with_log();
    let layout = layout(&mut media);
    for position in 0..layout.ring_blocks() {
        media.0.insert(layout.log(position, position % 2).0, [0x77; 4096]);
    }
    let mut rig = Rig::open(media);
    assert_eq!(rig.read(volume, 0, 8), Ok(vec![2; 8]));
}

#[test]
fn the_log_of_a_store_that_was_here_before_is_not_taken_for_the_new_ones() {
    let mut rig = Rig::new();
    let volume = rig.create("old", 10);
    rig.write(volume, 0, 1, 1).unwrap();
    rig.run(Operation::Flush).unwrap();
    let mut media = rig.media;
    let again = crate::store::CreateOptions { uuid: uuid::Uuid::from_u128(70), force: true, ..OPTIONS };
    create(&mut media, &again).unwrap();
    let rig = Rig::open(media).reopen();
    assert_eq!(rig.store.volumes().count(), 0);
    assert_eq!(rig.store.lsn(), crate::store::Lsn(0));
}

#[test]
fn a_map_page_that_the_log_changes_is_given_up_alone_when_it_is_damaged() {
    let (media, volume) = with_log();
    let leaf = |bytes: &[u8; 4096], block: u64| {
        MapPage::decode(bytes, Block(block), 0, |_| true).is_ok_and(|page| page.targets[7] != 0)
    };
    let pages: Vec<u64> =
        media.0.iter().filter(|(block, bytes)| leaf(bytes, **block)).map(|(block, _)| *block).collect();
    assert!(!pages.is_empty());
    let mut damaged = media.clone();
    for block in &pages {
        damaged.0.insert(*block, [0x77; 4096]);
    }
    let mut rig = Rig::open(damaged);
    let first = VolumeId(0);
    assert_eq!(rig.store.counters().lost_pages, 1);
    assert_eq!(rig.read(volume, 0, 8), Ok(vec![2; 8]));
    // What the log says is there; what the page alone knew is lost, until it is written.
    assert_eq!(rig.read(first, 0, 1), Ok(vec![3]));
    assert_eq!(rig.read(first, 1, 1), Err(Failure::Corrupt));
    rig.write(first, 1, 1, 4).unwrap();
    assert_eq!(rig.read(first, 0, 2), Ok(vec![3, 4]));
    let mut rig = rig.reopen();
    assert_eq!(rig.read(first, 2, 1), Err(Failure::Corrupt));
    assert_eq!(rig.read(first, 300, 1), Ok(vec![0]));
    let faults = check(&mut rig.media, true).unwrap().faults;
    assert!(faults.contains(&Fault::Lost { volume: first, at: 2, blocks: 1 }), "{faults:?}");
    rig.control(Control::Delete { volume: first }).unwrap();
    rig.reap();
    assert_eq!(rig.store.volumes().count(), 1);
}

#[test]
fn counts_that_contradict_the_map_are_given_up_and_nothing_panics() {
    let (mut media, volume) = with_log();
    let layout = layout(&mut media);
    for side in [false, true] {
        let block = layout.counts(0, side);
        let Some(bytes) = media.0.get(&block.0).copied() else { continue };
        let mut counts = CountsPage::decode(&bytes, 0).unwrap();
        // As many free blocks as before, but others.
        let (used, free) = (
            counts.0.iter().position(|count| *count == 1).unwrap(),
            counts.0.iter().position(|count| *count == 0).unwrap(),
        );
        counts.0.swap(used, free);
        media.0.insert(block.0, *counts.encode(0, 3));
    }
    let mut rig = Rig::open(media);
    let first = VolumeId(0);
    for at in 0..8 {
        rig.write(first, at, 1, 9).ok();
    }
    for volume in [first, volume] {
        rig.control(Control::Delete { volume }).unwrap();
    }
    rig.reap();
    assert_eq!(rig.store.volumes().count(), 0);
}

#[test]
fn a_deleted_volume_is_freed_in_steps_of_one_leaf_at_most_and_its_place_is_free_after_the_last() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 1 << 30);
    for leaf in 0..6 {
        rig.write(volume, leaf << 20, 200, 1).unwrap();
    }
    let before = rig.store.lsn().0;
    rig.control(Control::Delete { volume }).unwrap();
    while rig.store.is_reaping() {
        let (lsn, freeing) = (rig.store.lsn().0, rig.store.counters());
        rig.store.turn();
        let (after, freed) = (rig.store.lsn().0, rig.store.counters());
        let pages = 1 + 4;
        assert!(after - lsn <= 1, "one record a turn");
        assert!(freed.free + freed.freeing <= freeing.free + freeing.freeing + 200 + pages);
        rig.turn();
    }
    // The deletion itself, a step for each leaf, and one for the place.
    assert_eq!(rig.store.lsn().0 - before, 8);
    assert_eq!(rig.create("b", 10), volume);
}

#[test]
fn a_page_of_a_map_that_the_device_cannot_read_fails_what_it_maps_until_the_store_is_opened_again() {
    let mut rig = Rig::new();
    let (hurt, sound) = (rig.create("hurt", 600), rig.create("sound", 600));
    for volume in [hurt, sound] {
        rig.write(volume, 0, 8, 1).unwrap();
        rig.write(volume, 300, 8, 2).unwrap();
    }
    let mut rig = rig.reopen();
    let mut refused = Vec::new();
    // The first page that is read for it is its root, which both leaves hang on.
    rig.unreadable = READS_MAX;
    refused.push(rig.read(hurt, 0, 8));
    refused.push(rig.write(hurt, 0, 8, 3).map(|()| Vec::new()));
    refused.push(rig.read(hurt, 300, 8));
    assert_eq!(refused, [const { Err(Failure::Corrupt) }; 3]);
    assert_eq!(rig.read(sound, 0, 8), Ok(vec![1; 8]));
    assert_eq!(rig.write(sound, 0, 8, 4), Ok(()));
    assert_eq!(rig.control(Control::Delete { volume: hurt }), Ok(None));
    let mut rig = rig.reopen();
    rig.reap();
    assert_eq!(rig.read(sound, 0, 8), Ok(vec![4; 8]));
    assert_eq!(rig.store.counters().lost_pages, 0);
    assert_eq!(check(&mut rig.media, true).unwrap().faults, []);
}

#[test]
fn a_page_of_metadata_that_the_device_reads_at_last_is_as_good_as_any() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 600);
    rig.write(volume, 0, 8, 1).unwrap();
    let mut rig = rig.reopen();
    rig.unreadable = READS_MAX - 1;
    assert_eq!(rig.read(volume, 0, 8), Ok(vec![1; 8]));
    assert_eq!(rig.unreadable, 0);
    rig.unreadable = READS_MAX - 1;
    assert_eq!(rig.control(Control::Delete { volume }), Ok(None));
    rig.reap();
    assert_eq!(check(&mut rig.reopen().media, true).unwrap().faults, []);
}

#[test]
fn the_check_names_each_damaged_copy_of_what_is_there_twice() {
    let (mut media, _) = with_log();
    assert_eq!(check(&mut media, true).unwrap().faults, []);
    let layout = layout(&mut media);
    let header = newest(&media, &layout);
    let mut blocks = vec![Block(0), layout.data_end()];
    blocks.extend(layout.headers(header.seq));
    for index in 0..layout.payload_blocks() {
        blocks.extend(layout.payload(header.seq, index));
    }
    for position in header.log_position..header.log_position + 5 {
        blocks.extend([0, 1].map(|copy| layout.log(position, copy)));
    }
    for block in blocks {
        let mut media = media.clone();
        media.0.insert(block.0, [0x77; 4096]);
        assert_eq!(check(&mut media, true).unwrap().faults, [Fault::Copy { block }]);
        drop(open(&mut media, Limits::default()).unwrap());
        assert_eq!(check(&mut media, true).unwrap().faults, []);
    }
}
