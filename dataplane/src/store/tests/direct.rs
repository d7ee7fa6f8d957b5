//! What needs no command: blocks that are found in the map, and writes that are prepared.

use super::rig::{BLOCKS, Rig};
use crate::store::format::crc32c;
use crate::store::{BLOCK_BYTES, Control, Media, Store, VolumeBlock, VolumeId, VolumeKind};

const AT: VolumeBlock = VolumeBlock(5);

/// Blocks that are found, and whether their checksums are those of this byte.
fn found(store: &Store, volume: VolumeId, at: u64, blocks: u32, byte: u8) -> Option<bool> {
    let sum = crc32c(&[byte; BLOCK_BYTES]);
    let found = store.find(volume, VolumeBlock(at), blocks)?;
    found.sums.map(|sums| sums.len() == blocks as usize && sums.iter().all(|other| *other == sum))
}

/// Writes a block that is full of `byte` without a command, if that can be.
fn write(rig: &mut Rig, volume: VolumeId, at: VolumeBlock, byte: u8) -> bool {
    let likely = rig.store.next_block();
    let Some(prepared) = rig.store.prepare(volume, at) else { return false };
    assert_eq!(likely, Some(prepared.block()));
    let bytes = [byte; BLOCK_BYTES];
    rig.media.write(prepared.block(), &bytes).unwrap();
    rig.store.finish_prepared(prepared, crc32c(&bytes));
    true
}

#[test]
fn what_lies_together_is_found_with_its_checksums_and_nothing_else_is() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 600);
    rig.write(volume, 4, 3, 7).unwrap();
    assert_eq!(found(&rig.store, volume, 4, 3, 7), Some(true));
    assert_eq!(found(&rig.store, volume, 6, 1, 7), Some(true));
    assert_eq!(found(&rig.store, volume, 6, 2, 7), None, "one is not mapped");
    assert_eq!(found(&rig.store, volume, 599, 2, 7), None, "one is beyond the end");
    assert_eq!(found(&rig.store, volume, u64::MAX, 1, 7), None);
    assert_eq!(found(&rig.store, VolumeId(30), 4, 1, 7), None, "no volume");
    let mut rig = rig.reopen();
    assert_eq!(found(&rig.store, volume, 4, 3, 7), None, "the map is not in memory yet");
    assert_eq!(rig.read(volume, 4, 3).unwrap(), [7; 3]);
    assert_eq!(found(&rig.store, volume, 4, 3, 7), Some(true));
}

#[test]
fn a_prepared_write_is_what_is_read_and_takes_the_place_of_what_was_there() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 600);
    rig.write(volume, 0, 8, 1).unwrap();
    let before = (rig.store.volume(volume).unwrap().allocated, rig.store.lsn());
    assert!(write(&mut rig, volume, AT, 2));
    assert!(write(&mut rig, volume, VolumeBlock(100), 3), "new in a leaf that is there");
    assert_eq!(rig.read(volume, 4, 3).unwrap(), [1, 2, 1]);
    assert_eq!(rig.read(volume, 100, 1).unwrap(), [3]);
    let after = (rig.store.volume(volume).unwrap().allocated, rig.store.lsn());
    assert_eq!((after.0 - before.0, after.1.0 - before.1.0), (1, 2));
    let mut rig = rig.reopen();
    assert_eq!(rig.read(volume, 4, 3).unwrap(), [1, 2, 1]);
    let report = crate::store::check(&mut rig.media, true).unwrap();
    assert_eq!(report.faults, []);
}

#[test]
fn a_prepared_write_that_is_given_up_changes_nothing() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 600);
    rig.write(volume, 0, 8, 1).unwrap();
    let before = (rig.store.counters(), rig.store.lsn());
    let prepared = rig.store.prepare(volume, AT).unwrap();
    assert_eq!(rig.store.counters().free, before.0.free - 1);
    rig.store.give_up(prepared);
    assert_eq!((rig.store.counters(), rig.store.lsn()), before);
    assert_eq!(rig.read(volume, 5, 1).unwrap(), [1]);
}

#[test]
fn a_write_that_needs_anything_first_is_not_prepared() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 600);
    assert!(!write(&mut rig, volume, AT, 2), "there is no leaf");
    rig.write(volume, 0, 8, 1).unwrap();
    assert!(write(&mut rig, volume, AT, 2));
    assert!(!write(&mut rig, volume, VolumeBlock(600), 2), "beyond the end");
    let snapshot = rig.copy(volume, "s", VolumeKind::Snapshot);
    assert!(!write(&mut rig, volume, AT, 3), "its leaf is shared");
    assert!(!write(&mut rig, snapshot, AT, 3), "never changes");
    rig.write(volume, 0, 1, 3).unwrap();
    assert!(write(&mut rig, volume, AT, 3));
    rig.control(Control::Configure { volume, read_only: Some(true), reserved: None }).unwrap();
    assert!(!write(&mut rig, volume, AT, 4), "read-only");
    rig.control(Control::Configure { volume, read_only: Some(false), reserved: None }).unwrap();
    let mut rig = rig.reopen();
    assert!(!write(&mut rig, volume, AT, 4), "its leaf is on the device");
    assert_eq!(rig.read(volume, 4, 2).unwrap(), [1, 3]);
    assert_eq!(rig.read(snapshot, 4, 2).unwrap(), [1, 2]);
}

#[test]
fn prepared_writes_stop_before_the_space_that_others_need() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 256);
    rig.write(volume, 0, 1, 1).unwrap();
    let (first, filler) = (rig.store.counters().free, rig.create("filler", 100_000));
    let full = (0..BLOCKS).find(|at| rig.write(filler, *at, 1, 1).is_err()).unwrap();
    assert!(full > first / 2);
    let writes = (0..100).filter(|round| write(&mut rig, volume, AT, *round)).count();
    assert_eq!(writes, 0, "a full store refuses them as it refuses commands");
}
