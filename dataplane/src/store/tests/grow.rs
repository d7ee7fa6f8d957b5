//! A store takes the rest of a device that became larger.

use std::iter::once;

use proptest::prelude::*;

use super::rig::{BLOCKS, Rig};
use crate::store::format::{COUNTS_PER_PAGE, DiskSuperblock, FormatError, GROWTHS_MAX, Layout, Region};
use crate::store::{Block, Failure, GrowError, Limits, OpenError, VolumeId, check, open};

fn grow(rig: &mut Rig, blocks: u64) -> Result<(), GrowError> {
    rig.media.1 = blocks;
    rig.store.grow(blocks, "name")?;
    while rig.store.is_growing() {
        rig.turn();
    }
    Ok(())
}

/// Writes until the store is full; says how many blocks that were.
fn fill(rig: &mut Rig, volume: VolumeId) -> u64 {
    (0..1 << 20).find(|at| rig.write(volume, *at, 1, 1) == Err(Failure::Full)).unwrap()
}

#[test]
fn a_full_store_takes_writes_again_after_it_grew_and_keeps_what_it_held() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 1 << 20);
    let first = fill(&mut rig, volume);
    let total = rig.store.counters().total;
    assert_eq!(grow(&mut rig, 3 * BLOCKS), Ok(()));
    assert!(rig.store.counters().total > total + 2 * BLOCKS - 100);
    assert_eq!(rig.write(volume, 1 << 19, 1, 2), Ok(()));
    let second = fill(&mut rig, volume);
    assert!(second > first + BLOCKS, "{first}, then {second}");
    let mut rig = rig.reopen();
    assert_eq!(rig.store.layout().blocks(), 3 * BLOCKS);
    assert_eq!(rig.read(volume, first, 1), Ok(vec![1]));
    assert_eq!(rig.read(volume, 1 << 19, 1), Ok(vec![2]));
    assert_eq!(check(&mut rig.media, true).unwrap().faults, []);
    // What was freed of the new space can be taken, too.
    rig.control(crate::store::Control::Delete { volume }).unwrap();
    rig.reap();
    let mut rig = rig.reopen();
    let counters = rig.store.counters();
    assert_eq!((counters.free, counters.freeing), (counters.total, 0));
    assert_eq!(check(&mut rig.media, true).unwrap().faults, []);
}

#[test]
fn a_store_that_has_all_of_its_device_or_gets_too_little_is_left_as_it_is() {
    let mut rig = Rig::new();
    assert_eq!(grow(&mut rig, BLOCKS), Err(GrowError::Nothing { blocks: BLOCKS }));
    let Err(GrowError::TooLittle { least, .. }) = grow(&mut rig, BLOCKS + 1) else {
        panic!("it is too little")
    };
    assert_eq!(grow(&mut rig, BLOCKS + least - 1), Err(GrowError::TooLittle { more: least - 1, least }));
    assert_eq!(grow(&mut rig, BLOCKS + least), Ok(()));
    assert_eq!(rig.store.layout().earlier_blocks().collect::<Vec<_>>(), [BLOCKS]);
}

#[test]
fn a_store_grows_as_often_as_its_superblock_has_room_for() {
    let mut rig = Rig::new();
    let sizes: Vec<u64> = (1..=GROWTHS_MAX as u64).map(|times| BLOCKS + 200 * times).collect();
    for blocks in &sizes {
        assert_eq!(grow(&mut rig, *blocks), Ok(()));
    }
    assert_eq!(grow(&mut rig, 1 << 20), Err(GrowError::TooOften));
    let rig = rig.reopen();
    let found: Vec<u64> =
        rig.store.layout().earlier_blocks().chain(once(rig.store.layout().blocks())).collect();
    assert_eq!(found[0], BLOCKS);
    assert_eq!(found[1..], sizes);
}

#[test]
fn both_superblocks_of_a_grown_store_carry_its_name_and_either_is_enough() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 100);
    grow(&mut rig, 2 * BLOCKS).unwrap();
    for place in [0, 2 * BLOCKS - 1] {
        assert_eq!(DiskSuperblock::name(&rig.media.0[&place]), "name");
        let mut media = rig.media.clone();
        media.0.insert(place, [0x77; 4096]);
        let mut rig = Rig::open(media);
        assert_eq!(rig.read(volume, 0, 1), Ok(vec![0]));
        assert_eq!(DiskSuperblock::name(&rig.media.0[&place]), "name", "opening repairs it");
    }
}

#[test]
fn opening_leaves_a_superblock_at_the_end_of_a_device_that_became_larger_and_undoes_a_growth_cut_short() {
    let mut rig = Rig::new();
    let (before, volume) = (rig.media.clone(), rig.create("v", 100));
    let first = rig.media.0[&0];
    grow(&mut rig, 2 * BLOCKS).unwrap();
    // As if power had failed before the first superblock was written, after the last one was.
    rig.media.0.insert(0, first);
    let mut rig = Rig::open(rig.media);
    assert_eq!(rig.store.layout().blocks(), BLOCKS);
    assert_eq!(rig.media.0[&(2 * BLOCKS - 1)], first);
    rig.media.0.insert(0, [0x77; 4096]);
    let rig = Rig::open(rig.media);
    assert!(rig.store.volume(volume).is_some());
    assert_eq!(before.0[&(BLOCKS - 1)], first);
}

#[test]
fn a_grown_store_is_refused_where_its_feature_is_not_known_and_on_a_device_that_shrank() {
    let mut rig = Rig::new();
    grow(&mut rig, 2 * BLOCKS).unwrap();
    let mut media = rig.media;
    // A feature that this program does not know, either.
    let mut newer = media.clone();
    let superblock = newer.0.get_mut(&0).unwrap();
    superblock[16] |= 2;
    DiskSuperblock::rename(superblock, "name").unwrap();
    let refusal = open(&mut newer, Limits::default()).err();
    let newer = FormatError::Newer { version: 2, incompatible: 2 };
    assert_eq!(refusal, Some(OpenError::Superblock(newer)));
    media.1 = 2 * BLOCKS - 1;
    let refusal = open(&mut media, Limits::default()).err();
    assert_eq!(refusal, Some(OpenError::DeviceTooSmall { store: 2 * BLOCKS, device: 2 * BLOCKS - 1 }));
}

#[test]
fn an_error_of_the_device_while_growing_stops_the_store_and_the_old_one_is_opened() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 100);
    rig.write(volume, 0, 1, 7).unwrap();
    rig.run(crate::store::Operation::Flush).unwrap();
    rig.media.1 = 2 * BLOCKS;
    rig.fails_beyond = Some(Block(BLOCKS));
    rig.store.grow(2 * BLOCKS, "").unwrap();
    while rig.store.is_growing() {
        rig.turn();
    }
    assert!(rig.store.is_stopped());
    assert_eq!(rig.read(volume, 0, 1), Ok(vec![7]));
    let mut rig = Rig::open(rig.media);
    assert_eq!(rig.store.layout().blocks(), BLOCKS);
    assert_eq!(rig.read(volume, 0, 1), Ok(vec![7]));
}

proptest! {
    /// Every block of a store is for one thing, and its metadata finds what it is to find.
    #[test]
    fn regions_of_grown_stores_do_not_overlap(
        blocks in 300..20_000u64,
        more in prop::collection::vec(90..9_000u64, 0..6),
        volumes in 1..200u32,
    ) {
        let Ok(mut layout) = Layout::new(blocks, volumes, 16) else { return Ok(()) };
        for more in more {
            layout = layout.grown_to(layout.blocks() + more).unwrap_or(layout);
        }
        let encoded = DiskSuperblock::encode(uuid::Uuid::from_u128(3), &layout);
        prop_assert_eq!(&DiskSuperblock::decode(&encoded).unwrap().1, &layout);
        let mut regions: Vec<_> = (0..layout.blocks()).map(|block| layout.region(Block(block)).unwrap()).collect();
        let mut take = |block: Block, region: Region| {
            let place = usize::try_from(block.0).unwrap();
            let found = std::mem::replace(&mut regions[place], Region::Unused);
            if found == region { Ok(()) } else { Err(TestCaseError::fail(format!("{block:?} is for {found:?}"))) }
        };
        take(Block(0), Region::Superblock)?;
        take(layout.data_end(), Region::Superblock)?;
        for seq in 0..2 {
            layout.headers(seq).into_iter().try_for_each(|block| take(block, Region::Checkpoint))?;
            for index in 0..layout.payload_blocks() {
                layout.payload(seq, index).into_iter().try_for_each(|block| take(block, Region::Checkpoint))?;
            }
        }
        for position in 0..layout.ring_blocks() {
            (0..2).try_for_each(|copy| take(layout.log(position, copy), Region::Log))?;
        }
        if layout.log_blocks() % 2 == 1 {
            take(Block(layout.log(0, 0).0 + layout.log_blocks() - 1), Region::Log)?;
        }
        let mut data = 0;
        for page in 0..layout.counts_pages() {
            [false, true].into_iter().try_for_each(|side| take(layout.counts(page, side), Region::Counts))?;
            for index in 0..layout.blocks_in(page) {
                let block = Block(layout.first_in(page).0 + index as u64);
                prop_assert_eq!(layout.locate(block), Some((page, index)));
                prop_assert!(index < COUNTS_PER_PAGE);
                take(block, Region::Data)?;
                data += 1;
            }
        }
        prop_assert_eq!(data, layout.data_blocks());
        prop_assert!(regions.iter().all(|region| *region == Region::Unused));
    }
}
