//! Settings of volumes, differences, space that is promised, and space that is counted.

use uuid::Uuid;

use super::rig::{BLOCKS, Rig};
use crate::store::{
    ChangedRange, Control, Failure, Operation, Progress, Settings, VolumeBlock, VolumeId, VolumeKind, check,
};

fn range(at: u64, blocks: u64, before: bool, after: bool) -> ChangedRange {
    ChangedRange { at: VolumeBlock(at), blocks, before, after }
}

fn changes(rig: &mut Rig, from: Option<VolumeId>, to: VolumeId) -> Vec<ChangedRange> {
    let mut walk = rig.store.changes(from, to).unwrap();
    let mut found = Vec::new();
    loop {
        match rig.store.next_changes(&mut walk, &mut found).unwrap() {
            Progress::Done => return found,
            Progress::More => {}
            Progress::Waiting => rig.turn(),
        }
    }
}

/// Blocks of its own, and blocks that only its snapshots hold.
fn usage(rig: &mut Rig, volume: VolumeId) -> (u64, u64) {
    let mut usage = rig.store.usage(volume).unwrap();
    loop {
        match rig.store.next_usage(&mut usage).unwrap() {
            Progress::Done => return (usage.own, usage.snapshot_only),
            Progress::More => {}
            Progress::Waiting => rig.turn(),
        }
    }
}

fn create_with(
    rig: &mut Rig,
    name: &str,
    blocks: u64,
    settings: Settings,
) -> Result<Option<VolumeId>, Failure> {
    rig.control(Control::CreateWith { name: name.into(), uuid: Uuid::from_u128(9), blocks, settings })
}

fn reserved(rig: &mut Rig, blocks: u64) -> VolumeId {
    let settings = Settings { reserved: true, ..Settings::default() };
    create_with(rig, "reserved", blocks, settings).unwrap().unwrap()
}

/// Blocks that a thin volume takes until the store is full.
fn fill(rig: &mut Rig) -> u64 {
    let other = rig.create("filler", 100_000);
    (0..BLOCKS).find(|at| rig.write(other, *at, 1, 1) == Err(Failure::Full)).unwrap()
}

#[test]
fn changes_between_snapshots_are_what_was_written_between_them() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 1 << 30);
    rig.write(volume, 0, 4, 1).unwrap();
    rig.write(volume, 1 << 29, 2, 1).unwrap();
    let first = rig.copy(volume, "first", VolumeKind::Snapshot);
    rig.write(volume, 2, 4, 2).unwrap();
    rig.write(volume, 70_000, 1, 2).unwrap();
    rig.run(Operation::Unmap { volume, at: VolumeBlock(0), blocks: 1, fua: false }).unwrap();
    let second = rig.copy(volume, "second", VolumeKind::Snapshot);
    rig.write(volume, 900, 1, 3).unwrap();
    for _ in 0..2 {
        let expected = [
            range(0, 1, true, false),
            range(2, 2, true, true),
            range(4, 2, false, true),
            range(70_000, 1, false, true),
        ];
        assert_eq!(changes(&mut rig, Some(first), second), expected);
        assert_eq!(changes(&mut rig, Some(second), second), []);
        assert_eq!(changes(&mut rig, Some(second), volume), [range(900, 1, false, true)]);
        assert_eq!(
            changes(&mut rig, None, first),
            [range(0, 4, false, true), range(1 << 29, 2, false, true)]
        );
        rig = rig.reopen();
    }
}

#[test]
fn changes_between_volumes_of_different_size_cover_the_larger_one() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 100);
    rig.write(volume, 50, 1, 1).unwrap();
    let snapshot = rig.copy(volume, "s", VolumeKind::Snapshot);
    rig.control(Control::Resize { volume, blocks: 1 << 25 }).unwrap();
    rig.write(volume, (1 << 25) - 1, 1, 2).unwrap();
    let grown = range((1 << 25) - 1, 1, false, true);
    assert_eq!(changes(&mut rig, Some(snapshot), volume), [grown]);
    assert_eq!(
        changes(&mut rig, Some(volume), snapshot),
        [ChangedRange { before: true, after: false, ..grown }]
    );
}

#[test]
fn a_walk_of_a_volume_that_is_gone_ends_with_an_error() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 100);
    let mut walk = rig.store.changes(None, volume).unwrap();
    rig.control(Control::Delete { volume }).unwrap();
    rig.reap();
    rig.turn();
    assert_eq!(rig.create("b", 100), volume);
    assert_eq!(rig.store.next_changes(&mut walk, &mut Vec::new()), Err(Failure::NoVolume));
    assert_eq!(rig.store.changes(None, VolumeId(39)), Err(Failure::NoVolume));
}

#[test]
fn a_smaller_size_that_would_lose_data_is_refused_unless_it_is_forced() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 1_000);
    rig.write(volume, 299, 1, 1).unwrap();
    assert_eq!(rig.control(Control::Resize { volume, blocks: 299 }), Err(Failure::WouldLoseData));
    assert_eq!(rig.control(Control::Resize { volume, blocks: 300 }), Ok(None));
    rig.reap();
    rig.turn();
    assert_eq!(rig.read(volume, 299, 1), Ok(vec![1]));
    assert_eq!(rig.control(Control::Truncate { volume, blocks: 10 }), Ok(None));
    rig.reap();
    assert_eq!(rig.store.volume(volume).unwrap().allocated, 0);
}

#[test]
fn a_read_only_volume_refuses_changes_until_it_is_writable_again_also_after_reopening() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 100);
    rig.write(volume, 0, 1, 1).unwrap();
    let set = |on| Control::Configure { volume, read_only: Some(on), reserved: None };
    rig.control(set(true)).unwrap();
    let mut rig = rig.reopen();
    assert!(rig.store.volume(volume).unwrap().settings.read_only);
    assert_eq!(rig.write(volume, 0, 1, 2), Err(Failure::ReadOnly));
    let unmap = Operation::Unmap { volume, at: VolumeBlock(0), blocks: 1, fua: false };
    assert_eq!(rig.run(unmap), Err(Failure::ReadOnly));
    assert_eq!(rig.control(Control::Truncate { volume, blocks: 1 }), Err(Failure::ReadOnly));
    assert_eq!(rig.read(volume, 0, 1), Ok(vec![1]));
    rig.control(set(false)).unwrap();
    assert_eq!(rig.write(volume, 0, 1, 2), Ok(()));
}

#[test]
fn a_volume_without_checksums_returns_what_the_device_holds_and_so_do_its_copies() {
    let mut rig = Rig::new();
    let settings = Settings { checksums: false, ..Settings::default() };
    let volume = create_with(&mut rig, "a", 100, settings).unwrap().unwrap();
    let summed = rig.create("b", 100);
    rig.write(volume, 0, 1, 0xA5).unwrap();
    let snapshot = rig.copy(volume, "s", VolumeKind::Snapshot);
    let (_, bytes) = rig.media.0.iter_mut().find(|(_, bytes)| bytes[..] == [0xA5; 4096]).unwrap();
    bytes[9] ^= 1;
    for volume in [volume, snapshot] {
        assert!(!rig.store.volume(volume).unwrap().settings.checksums);
        assert_eq!(rig.read(volume, 0, 1), Ok(vec![0xA5]));
    }
    let rollback = Control::Rollback { volume: summed, snapshot };
    assert_eq!(rig.control(rollback), Err(Failure::ChecksumsDiffer));
    assert_eq!(check(&mut rig.media, true).unwrap().faults, []);
}

#[test]
fn a_reserved_volume_can_be_written_in_full_when_others_have_filled_the_store() {
    let mut rig = Rig::new();
    let volume = reserved(&mut rig, 600);
    fill(&mut rig);
    for byte in [1, 2] {
        for at in (0..600).rev() {
            assert_eq!(rig.write(volume, at, 1, byte), Ok(()), "block {at}");
        }
    }
    assert_eq!(rig.store.counters().promised, 0);
}

#[test]
fn space_that_is_not_there_is_not_promised() {
    let mut rig = Rig::new();
    let settings = Settings { reserved: true, ..Settings::default() };
    assert_eq!(create_with(&mut rig, "b", BLOCKS, settings), Err(Failure::Full));
    let volume = reserved(&mut rig, 600);
    let taken = fill(&mut rig);
    assert!(taken < BLOCKS - 600, "{taken}");
    // All that it shares it may have to write again.
    rig.write(volume, 0, 200, 1).unwrap();
    let copy = |rig: &mut Rig| {
        let uuid = Uuid::from_u128(3);
        rig.control(Control::Copy { origin: volume, name: "s".into(), uuid, kind: VolumeKind::Snapshot })
    };
    assert_eq!(copy(&mut rig), Err(Failure::Full));
    let unreserve = Control::Configure { volume, read_only: None, reserved: Some(false) };
    rig.control(unreserve).unwrap();
    assert_eq!(rig.store.counters().promised, 0);
    assert!(copy(&mut rig).is_ok());
}

#[test]
fn promises_are_the_same_after_reopening() {
    let mut rig = Rig::new();
    let volume = reserved(&mut rig, 600);
    rig.write(volume, 0, 100, 1).unwrap();
    rig.copy(volume, "s", VolumeKind::Snapshot);
    rig.write(volume, 50, 100, 1).unwrap();
    let before = rig.store.counters().promised;
    assert!((500..600).contains(&before), "{before}");
    let rig = rig.reopen();
    assert_eq!(rig.store.counters().promised, before);
    let info = rig.store.volume(volume).unwrap();
    assert_eq!((info.allocated, info.own), (150, 100));
}

#[test]
fn counted_space_is_own_shared_and_only_in_snapshots() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 1_000);
    rig.write(volume, 0, 100, 1).unwrap();
    rig.write(volume, 300, 100, 1).unwrap();
    let snapshot = rig.copy(volume, "s", VolumeKind::Snapshot);
    rig.write(volume, 0, 30, 2).unwrap();
    for _ in 0..2 {
        assert_eq!(usage(&mut rig, volume), (30, 30));
        assert_eq!(usage(&mut rig, snapshot), (30, 0));
        assert_eq!(rig.store.volume(volume).unwrap().allocated, 200);
        rig = rig.reopen();
    }
    rig.control(Control::Delete { volume: snapshot }).unwrap();
    rig.reap();
    rig.turn();
    assert_eq!(usage(&mut rig, volume), (200, 0));
}

#[test]
fn blocks_made_a_volumes_own_are_shared_with_nothing_and_hold_the_same() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 1_000);
    rig.write(volume, 200, 100, 7).unwrap();
    let snapshot = rig.copy(volume, "s", VolumeKind::Snapshot);
    rig.write(volume, 210, 1, 8).unwrap();
    rig.own(volume, 190, 256).unwrap();
    assert_eq!(usage(&mut rig, volume), (100, 100));
    let mut expected = vec![7; 100];
    assert_eq!(rig.read(snapshot, 200, 100), Ok(expected.clone()));
    expected[10] = 8;
    assert_eq!(rig.read(volume, 200, 100), Ok(expected));
    assert_eq!(rig.own(snapshot, 0, 1), Err(Failure::ReadOnly));
    let writes = rig.data_writes;
    rig.own(volume, 190, 256).unwrap();
    assert_eq!(rig.data_writes, writes, "nothing is shared any more");
    rig.control(Control::Detach { volume }).unwrap();
    assert_eq!(rig.store.volume(volume).unwrap().origin, None);
    let mut rig = rig.reopen();
    assert_eq!(check(&mut rig.media, true).unwrap().faults, []);
}

#[test]
fn a_rotten_block_is_not_copied_as_if_it_were_data() {
    let mut rig = Rig::new();
    let volume = rig.create("a", 10);
    rig.write(volume, 0, 1, 0x5A).unwrap();
    rig.copy(volume, "s", VolumeKind::Snapshot);
    let (_, bytes) = rig.media.0.iter_mut().find(|(_, bytes)| bytes[..] == [0x5A; 4096]).unwrap();
    bytes[9] ^= 1;
    assert_eq!(rig.own(volume, 0, 1), Err(Failure::Corrupt));
    assert_eq!(rig.read(volume, 0, 1), Err(Failure::Corrupt));
}

#[test]
fn a_promoted_clone_has_the_snapshots_up_to_its_own_and_the_volume_is_its_clone() {
    let mut rig = Rig::new();
    let volume = rig.create("v", 100);
    let [old, middle, young] =
        ["old", "middle", "young"].map(|name| rig.copy(volume, name, VolumeKind::Snapshot));
    let clone = rig.copy(middle, "clone", VolumeKind::Writable);
    let other = rig.copy(middle, "other", VolumeKind::Writable);
    assert_eq!(rig.control(Control::Promote { volume }), Err(Failure::NoOrigin));
    assert_eq!(rig.control(Control::Promote { volume: middle }), Err(Failure::ReadOnly));
    rig.control(Control::Promote { volume: clone }).unwrap();
    let mut rig = rig.reopen();
    let origins =
        |rig: &Rig| [volume, old, middle, young, clone, other].map(|id| rig.store.volume(id).unwrap().origin);
    let after = [Some(middle), Some(clone), Some(clone), Some(volume), None, Some(middle)];
    assert_eq!(origins(&rig), after);
    rig.control(Control::Promote { volume }).unwrap();
    let before = [None, Some(volume), Some(volume), Some(volume), Some(middle), Some(middle)];
    assert_eq!(origins(&rig), before);
    // Of a volume itself: what it has of snapshots changes sides with it.
    let copy = rig.copy(volume, "copy", VolumeKind::Writable);
    rig.control(Control::Promote { volume: copy }).unwrap();
    assert_eq!(rig.store.volume(copy).unwrap().origin, None);
    assert_eq!(origins(&rig), [Some(copy), Some(copy), Some(copy), Some(copy), Some(middle), Some(middle)]);
}
