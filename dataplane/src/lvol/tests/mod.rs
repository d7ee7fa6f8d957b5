//! What volumes promise, on reactors with threads of their own.
#![allow(clippy::cast_possible_truncation, reason = "sizes of tests are small")]

mod rig;

use std::sync::Arc;

use nvme::Status;

use crate::device::fault::{Effect, FaultDevice, Rule};
use crate::device::uring::{UringConfig, UringDevice};
use crate::device::{BlockSize, Device, OpKind};
use crate::store::{self, Media as _, Settings, VolumeBlock, VolumeKind};

use super::{Content, CreateStore, DeviceMedia, StoreError};
use rig::{Ask, BLOCK, Rig, stamped};

const MIB: u64 = 1 << 20;
const SUCCESS: Status = Status::SUCCESS;

/// A store named `s` on `base`, with a volume `s/v` of so many blocks, open on both hosts.
fn volume(block_size: BlockSize, blocks: u64) -> Rig {
    let rig = Rig::new();
    rig.memory("base", block_size, 256 * MIB);
    let store = rig.store("base", "s");
    rig.stores.create_volume(&store, "v", blocks, None, Settings::default()).unwrap();
    for host in rig.hosts() {
        rig.open(&host, "s/v");
    }
    rig
}

#[test]
fn what_one_reactor_writes_another_reads() {
    for block_size in [BlockSize::B4096, BlockSize::B512] {
        let rig = volume(block_size, 4096);
        let [one, two] = rig.hosts();
        for (from, to, at) in [(&one, &two, 3), (&two, &one, 700), (&two, &two, 1500), (&one, &one, 2500)] {
            for blocks in [1, 2, 31, 32, 33, 256] {
                Rig::write(from, "s/v", at, stamped(at, blocks));
                assert_eq!(Rig::read(to, "s/v", at, blocks), stamped(at, blocks));
            }
        }
    }
}

#[test]
fn several_stores_serve_every_reactor_and_closing_one_leaves_the_others() {
    let rig = volume(BlockSize::B4096, 4096);
    rig.memory("more", BlockSize::B512, 256 * MIB);
    let second = rig.store("more", "t");
    rig.stores.create_volume(&second, "v", 4096, None, Settings::default()).unwrap();
    let hosts = rig.hosts();
    hosts.iter().for_each(|host| rig.open(host, "t/v"));
    let mut places = (0_u64..).step_by(100);
    for host in &hosts {
        let (here, there) = (places.next().unwrap(), places.next().unwrap());
        Rig::write(host, "s/v", here, stamped(here, 20));
        Rig::write(host, "t/v", there, stamped(there, 20));
        for other in &hosts {
            assert_eq!(Rig::read(other, "s/v", here, 20), stamped(here, 20));
            assert_eq!(Rig::read(other, "t/v", there, 20), stamped(there, 20));
            assert_eq!(Rig::read(other, "t/v", here, 20), vec![0; 20 * BLOCK]);
            assert_eq!(Rig::read(other, "s/v", there, 20), vec![0; 20 * BLOCK]);
        }
    }
    hosts.iter().for_each(|host| rig.close(host, "t/v"));
    rig.stores.close(&second).unwrap();
    assert!(rig.devices.get("t/v").is_err());
    assert_eq!(Rig::read(&hosts[1], "s/v", 0, 20), stamped(0, 20));
    rig.stores.open("more").unwrap();
    rig.open(&hosts[0], "t/v");
    assert_eq!(Rig::read(&hosts[0], "t/v", 100, 20), stamped(100, 20));
}

#[test]
fn a_thread_that_is_no_reactor_uses_a_volume_too_and_a_store_closes_behind_it() {
    let rig = volume(BlockSize::B512, 4096);
    let store = rig.stores.find("s").unwrap();
    let [one, two] = rig.hosts();
    let mut media = DeviceMedia::open(rig.devices.get("s/v").unwrap().as_ref()).unwrap();
    let mut blocks = vec![[0; BLOCK]; 100];
    for (block, bytes) in blocks.iter_mut().zip(stamped(7, 100).chunks(BLOCK)) {
        block.copy_from_slice(bytes);
    }
    media.write_range(store::Block(7), &blocks).unwrap();
    media.flush().unwrap();
    assert_eq!(Rig::read(&two, "s/v", 7, 100), stamped(7, 100));
    Rig::write(&one, "s/v", 9, stamped(900, 2));
    let mut read = vec![[0; BLOCK]; 100];
    media.read_range(store::Block(7), &mut read).unwrap();
    assert!(read[0] == blocks[0] && read[4..] == blocks[4..]);
    assert_eq!(read[2..4].as_flattened(), stamped(900, 2));
    assert!(media.read(store::Block(4096), &mut read[0]).is_err(), "beyond the end");
    drop(media);
    [one, two].iter().for_each(|host| rig.close(host, "s/v"));
    rig.stores.close(&store).unwrap();
}

#[test]
fn what_was_never_written_reads_as_zeroes_and_neighbours_stay() {
    let rig = volume(BlockSize::B4096, 4096);
    for host in rig.hosts() {
        Rig::write(&host, "s/v", 10, stamped(10, 1));
        let found = Rig::read(&host, "s/v", 9, 3);
        assert_eq!(found[..BLOCK], vec![0; BLOCK]);
        assert_eq!(found[BLOCK..2 * BLOCK], stamped(10, 1));
        assert_eq!(found[2 * BLOCK..], vec![0; BLOCK]);
    }
}

#[test]
fn scattered_blocks_come_back_in_one_read() {
    let rig = volume(BlockSize::B4096, 4096);
    for (host, first) in rig.hosts().iter().zip([0, 2048]) {
        // Written backwards and with holes, so that no two blocks lie side by side.
        for number in (0..64).rev().filter(|number| number % 5 != 0) {
            Rig::write(host, "s/v", first + number, stamped(first + number, 1));
        }
        let found = Rig::read(host, "s/v", first, 64);
        for (number, block) in (0..64).zip(found.chunks(BLOCK)) {
            let expected = if number % 5 == 0 { vec![0; BLOCK] } else { stamped(first + number, 1) };
            assert_eq!(block, expected, "block {number}");
        }
    }
}

#[test]
fn zeroed_and_deallocated_blocks_read_as_zeroes_and_give_their_space_back() {
    let rig = volume(BlockSize::B4096, 4096);
    let store = rig.stores.find("s").unwrap();
    let empty = store.summary().unwrap().counters;
    for host in rig.hosts() {
        for at in (0..4096).step_by(256) {
            Rig::write(&host, "s/v", at, stamped(at, 256));
        }
        assert_eq!(Rig::run(&host, "s/v", Ask::Zero { at: 100, blocks: 1000 }).0, SUCCESS);
        let found = Rig::read(&host, "s/v", 99, 2);
        assert_eq!(found, [stamped(99, 1), vec![0; BLOCK]].concat());
        assert_eq!(Rig::read(&host, "s/v", 1099, 2), [vec![0; BLOCK], stamped(1100, 1)].concat());
        assert_eq!(Rig::run(&host, "s/v", Ask::Deallocate { at: 0, blocks: 4096 }).0, SUCCESS);
        assert_eq!(Rig::read(&host, "s/v", 1100, 256), vec![0; 256 * BLOCK]);
    }
    assert_eq!(Rig::run(&rig.hosts()[0], "s/v", Ask::Flush).0, SUCCESS);
    let counters = store.summary().unwrap().counters;
    assert!(counters.free + counters.freeing + 64 > empty.free, "{counters:?} was {empty:?}");
}

#[test]
fn io_outside_the_volume_and_writes_to_snapshots_are_refused() {
    let rig = volume(BlockSize::B4096, 100);
    rig.stores.copy_volume("s/v", "snap", VolumeKind::Snapshot).unwrap();
    for host in rig.hosts() {
        rig.open(&host, "s/snap");
        let beyond = Ask::Write { at: 99, bytes: stamped(0, 2), fua: false };
        assert_eq!(Rig::run(&host, "s/v", beyond).0, Status::LBA_OUT_OF_RANGE.dnr());
        assert_eq!(
            Rig::run(&host, "s/v", Ask::Read { at: u64::MAX, blocks: 1 }).0,
            Status::LBA_OUT_OF_RANGE.dnr()
        );
        let protected = Status::NAMESPACE_WRITE_PROTECTED.dnr();
        let write = Ask::Write { at: 0, bytes: stamped(0, 1), fua: false };
        assert_eq!(Rig::run(&host, "s/snap", write).0, protected);
        assert_eq!(Rig::run(&host, "s/snap", Ask::Zero { at: 0, blocks: 1 }).0, protected);
        assert_eq!(Rig::run(&host, "s/snap", Ask::Flush).0, SUCCESS);
    }
}

#[test]
fn a_snapshot_keeps_what_was_there_and_a_clone_goes_its_own_way() {
    let rig = volume(BlockSize::B4096, 1024);
    let [one, two] = rig.hosts();
    Rig::write(&one, "s/v", 0, stamped(0, 8));
    rig.stores.copy_volume("s/v", "snap", VolumeKind::Snapshot).unwrap();
    Rig::write(&two, "s/v", 4, stamped(100, 8));
    rig.stores.copy_volume("s/snap", "clone", VolumeKind::Writable).unwrap();
    rig.open(&one, "s/snap");
    rig.open(&two, "s/clone");
    Rig::write(&two, "s/clone", 0, stamped(200, 1));
    assert_eq!(Rig::read(&one, "s/snap", 0, 12), [stamped(0, 8), vec![0; 4 * BLOCK]].concat());
    assert_eq!(Rig::read(&one, "s/v", 0, 12), [stamped(0, 4), stamped(100, 8)].concat());
    assert_eq!(Rig::read(&two, "s/clone", 0, 8), [stamped(200, 1), stamped(1, 7)].concat());
    rig.close(&two, "s/v");
    rig.stores.roll_back("s/v", "s/snap").unwrap();
    assert_eq!(Rig::read(&one, "s/v", 0, 8), stamped(0, 8));
}

#[test]
fn a_closed_store_opens_with_everything_that_was_written() {
    let rig = volume(BlockSize::B4096, 4096);
    let [one, two] = rig.hosts();
    let write = |host, at| Rig::start(host, "s/v", Ask::Write { at, bytes: stamped(at, 16), fua: false });
    let writes: Vec<_> =
        (0..4096).step_by(16).map(|at| write(if at % 32 == 0 { &one } else { &two }, at)).collect();
    for write in writes {
        assert_eq!(write.wait().unwrap().0, SUCCESS);
    }
    for host in [&one, &two] {
        rig.close(host, "s/v");
    }
    rig.stores.close(&rig.stores.find("s").unwrap()).unwrap();
    assert!(rig.devices.get("s/v").is_err());
    let store = rig.stores.open("base").unwrap();
    assert_eq!(store.name(), "s");
    rig.open(&two, "s/v");
    for at in (0..4096).step_by(64) {
        assert_eq!(Rig::read(&two, "s/v", at, 64), stamped(at, 64));
    }
    // What the store says of itself, it is.
    rig.close(&two, "s/v");
    rig.stores.close(&store).unwrap();
    let mut media = DeviceMedia::open(rig.devices.get("base").unwrap().as_ref()).unwrap();
    let report = store::check(&mut media, true).unwrap();
    assert_eq!(report.faults, []);
    assert!(report.used > 4096);
}

#[test]
fn many_commands_at_a_time_on_both_reactors_end_with_their_own_data() {
    let rig = volume(BlockSize::B4096, 4096);
    let hosts = rig.hosts();
    let write = |at: u64| {
        let ask = Ask::Write { at, bytes: stamped(at + 9000, 1), fua: at.is_multiple_of(50) };
        Rig::start(&hosts[(at % 2) as usize], "s/v", ask)
    };
    for batch in 0..8 {
        let writes: Vec<_> = (batch * 400..batch * 400 + 400).map(write).collect();
        writes.into_iter().for_each(|write| assert_eq!(write.wait().unwrap().0, SUCCESS));
    }
    let read = |at: u64| (at, Rig::start(&hosts[(at % 2) as usize], "s/v", Ask::Read { at, blocks: 1 }));
    for batch in 0..8 {
        let reads: Vec<_> = (batch * 400..batch * 400 + 400).map(read).collect();
        for (at, read) in reads {
            assert_eq!(read.wait().unwrap(), (SUCCESS, stamped(at + 9000, 1)));
        }
    }
}

#[test]
fn a_full_store_says_so_and_heals_when_something_is_freed() {
    let rig = Rig::new();
    rig.memory("base", BlockSize::B4096, 32 * MIB);
    let store = rig.store("base", "s");
    rig.stores.create_volume(&store, "v", 1 << 20, None, Settings::default()).unwrap();
    for host in rig.hosts() {
        rig.open(&host, "s/v");
        let mut at = 0;
        let full = loop {
            let (status, _) = Rig::run(&host, "s/v", Ask::Write { at, bytes: stamped(at, 64), fua: false });
            if status != SUCCESS {
                break status;
            }
            at += 64;
        };
        assert_eq!(full, Status::CAPACITY_EXCEEDED);
        assert_eq!(Rig::read(&host, "s/v", 0, 64), stamped(0, 64));
        assert_eq!(Rig::run(&host, "s/v", Ask::Deallocate { at: 0, blocks: 1 << 20 }).0, SUCCESS);
        Rig::write(&host, "s/v", 5, stamped(5, 64));
        assert_eq!(Rig::run(&host, "s/v", Ask::Deallocate { at: 0, blocks: 1 << 20 }).0, SUCCESS);
        rig.close(&host, "s/v");
    }
}

#[test]
fn a_flipped_bit_is_an_error_and_never_data() {
    let rig = volume(BlockSize::B4096, 4096);
    for (host, at) in rig.hosts().iter().zip([0, 512]) {
        Rig::write(host, "s/v", at, stamped(at + 77, 4));
        assert_eq!(Rig::run(host, "s/v", Ask::Flush).0, SUCCESS);
        flip(&rig, &stamped(at + 78, 1));
        let (status, _) = Rig::run(host, "s/v", Ask::Read { at, blocks: 4 });
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR.dnr());
        assert_eq!(Rig::read(host, "s/v", at + 2, 2), stamped(at + 79, 2));
    }
}

#[test]
fn the_owner_lends_what_was_written_where_it_lies_together_and_nothing_else() {
    let rig = volume(BlockSize::B4096, 600);
    let [owner, other] = rig.hosts();
    for (at, blocks) in [(10, 8), (252, 8), (599, 1)] {
        Rig::write(&owner, "s/v", at, stamped(at, blocks));
    }
    assert_eq!(Rig::lend(&owner, "s/v", 10, 8), Some(stamped(10, 8)));
    assert_eq!(Rig::lend(&owner, "s/v", 13, 2), Some(stamped(13, 2)));
    assert_eq!(Rig::lend(&owner, "s/v", 599, 1), Some(stamped(599, 1)));
    for (at, blocks, why) in [
        (9, 2, "one was never written"),
        (252, 8, "the map goes on in another page"),
        (599, 2, "one is beyond the end"),
        (u64::MAX, 1, "far beyond"),
    ] {
        assert_eq!(Rig::lend(&owner, "s/v", at, blocks), None, "{why}");
    }
    Rig::write(&owner, "s/v", 12, stamped(99, 1));
    assert_eq!(Rig::lend(&owner, "s/v", 12, 1), Some(stamped(99, 1)));
    assert_eq!(Rig::lend(&owner, "s/v", 10, 8), None, "they lie together no longer");
    assert_eq!(Rig::run(&owner, "s/v", Ask::Deallocate { at: 13, blocks: 1 }).0, SUCCESS);
    assert_eq!(Rig::lend(&owner, "s/v", 13, 1), None, "nothing is there any more");
    let reads = *rig.devices.get("s/v").unwrap().counters().of(OpKind::Read);
    assert_eq!((reads.operations, reads.bytes, reads.errors), (4, 12 * BLOCK as u64, 0));
    if owner.id() != other.id() {
        assert_eq!(Rig::lend(&other, "s/v", 10, 1), None, "the map is with the owner");
    }
}

#[test]
fn what_is_damaged_is_not_lent() {
    let rig = volume(BlockSize::B4096, 4096);
    let [owner, _] = rig.hosts();
    Rig::write(&owner, "s/v", 0, stamped(77, 4));
    flip(&rig, &stamped(78, 1));
    assert_eq!(Rig::lend(&owner, "s/v", 0, 4), None);
    assert_eq!(Rig::lend(&owner, "s/v", 1, 1), None);
    assert_eq!(Rig::lend(&owner, "s/v", 2, 2), Some(stamped(79, 2)));
}

#[test]
fn a_write_that_the_owner_takes_over_is_there_for_all_and_after_closing() {
    let rig = volume(BlockSize::B4096, 600);
    let [owner, other] = rig.hosts();
    assert!(!Rig::take_over(&owner, "s/v", 5, stamped(5, 1)), "nothing of its part of the map is there");
    for at in (0..600).step_by(200) {
        Rig::write(&owner, "s/v", at, stamped(at, 200));
    }
    let store = rig.stores.find("s").unwrap();
    let mut taken = 0;
    for at in 0..600 {
        // Where the base device has no memory yet, it takes nothing over.
        match Rig::take_over(&owner, "s/v", at, stamped(at + 7, 1)) {
            true => taken += 1,
            false => Rig::write(&owner, "s/v", at, stamped(at + 7, 1)),
        }
        assert_eq!(Rig::read(&other, "s/v", at, 1), stamped(at + 7, 1));
    }
    assert!(taken > 300, "{taken} of 600");
    assert_eq!(Rig::read(&owner, "s/v", 100, 256), stamped(107, 256));
    assert!(!Rig::take_over(&owner, "s/v", 600, stamped(0, 1)), "beyond the end");
    assert!(!Rig::take_over(&owner, "s/v", 0, stamped(0, 2)), "two blocks");
    store.set_write_through(true);
    assert!(!Rig::take_over(&owner, "s/v", 17, stamped(0, 1)), "to be on the media first");
    store.set_write_through(false);
    if owner.id() != other.id() {
        assert!(!Rig::take_over(&other, "s/v", 17, stamped(0, 1)), "the map is with the owner");
    }
    rig.stores.configure_volume("s/v", Some(true), None).unwrap();
    assert!(!Rig::take_over(&owner, "s/v", 17, stamped(0, 1)), "read-only");
    for host in [&owner, &other] {
        rig.close(host, "s/v");
    }
    rig.stores.close(&store).unwrap();
    let mut media = DeviceMedia::open(rig.devices.get("base").unwrap().as_ref()).unwrap();
    assert_eq!(store::check(&mut media, true).unwrap().faults, []);
    rig.stores.open("base").unwrap();
    rig.open(&other, "s/v");
    assert_eq!(Rig::read(&other, "s/v", 17, 1), stamped(24, 1));
}

/// Changes a bit of the block of the base device that holds this.
fn flip(rig: &Rig, content: &[u8]) {
    use crate::store::Media;
    let mut media = DeviceMedia::open(rig.devices.get("base").unwrap().as_ref()).unwrap();
    let mut bytes = [0; BLOCK];
    for block in (0..media.blocks()).map(store::Block) {
        media.read(block, &mut bytes).unwrap();
        if bytes == content {
            bytes[1000] ^= 4;
            return media.write(block, &bytes).unwrap();
        }
    }
    panic!("no block holds it");
}

#[test]
fn a_device_that_fails_ends_io_with_its_status_and_the_store_goes_on_reading() {
    let rig = Rig::new();
    rig.memory("inner", BlockSize::B4096, 64 * MIB);
    let base = Arc::new(FaultDevice::new("base", rig.devices.get("inner").unwrap()));
    rig.devices.add(Arc::clone(&base) as Arc<dyn Device>).unwrap();
    let store = rig.store("base", "s");
    rig.stores.create_volume(&store, "v", 1024, None, Settings::default()).unwrap();
    for host in rig.hosts() {
        rig.open(&host, "s/v");
        Rig::write(&host, "s/v", 0, stamped(0, 4));
        let fail = |kind| Rule {
            kind: Some(kind),
            count: Some(1),
            ..Rule::always(Effect::Fail(Status::UNRECOVERED_READ_ERROR))
        };
        base.add(fail(OpKind::Read));
        let (status, _) = Rig::run(&host, "s/v", Ask::Read { at: 0, blocks: 4 });
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR.dnr());
        assert_eq!(Rig::read(&host, "s/v", 0, 4), stamped(0, 4));
        base.add(fail(OpKind::Write));
        let write = Ask::Write { at: 0, bytes: stamped(9, 4), fua: false };
        assert!(!Rig::run(&host, "s/v", write).0.is_success());
        assert_eq!(Rig::read(&host, "s/v", 0, 4), stamped(0, 4));
    }
    base.add(Rule { kind: Some(OpKind::Flush), ..Rule::always(Effect::Fail(Status::INTERNAL_ERROR)) });
    let [one, two] = rig.hosts();
    Rig::write(&one, "s/v", 0, stamped(50, 1));
    assert!(!Rig::run(&two, "s/v", Ask::Flush).0.is_success());
    assert!(store.summary().unwrap().stopped);
    let write = Ask::Write { at: 0, bytes: stamped(9, 4), fua: false };
    assert_eq!(Rig::run(&two, "s/v", write).0, Status::INTERNAL_ERROR.dnr());
    assert_eq!(Rig::read(&two, "s/v", 1, 3), stamped(1, 3));
}

#[test]
fn volumes_live_on_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    let mut config = UringConfig::new("base", folder.path().join("disk"));
    config.size_bytes = Some(64 * MIB);
    config.direct = false;
    rig.devices.add(Arc::new(UringDevice::open(&config).unwrap())).unwrap();
    let store = rig.store("base", "s");
    rig.stores.create_volume(&store, "v", 2048, None, Settings::default()).unwrap();
    for (host, first) in rig.hosts().iter().zip([0, 1024]) {
        rig.open(host, "s/v");
        for at in (first..first + 1024).rev().step_by(7) {
            Rig::write(host, "s/v", at, stamped(at, 1));
        }
        assert_eq!(Rig::run(host, "s/v", Ask::Flush).0, SUCCESS);
        let found = Rig::read(host, "s/v", first, 256);
        for (at, block) in (first..).zip(found.chunks(BLOCK)) {
            let written = (first + 1023 - at).is_multiple_of(7);
            assert_eq!(block, if written { stamped(at, 1) } else { vec![0; BLOCK] });
        }
    }
}

#[test]
fn a_store_grows_with_its_device_while_hosts_write() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    let mut config = UringConfig::new("base", folder.path().join("disk"));
    config.size_bytes = Some(16 * MIB);
    config.direct = false;
    config.block_size = Some(BlockSize::B512);
    rig.devices.add(Arc::new(UringDevice::open(&config).unwrap())).unwrap();
    let store = rig.store("base", "s");
    rig.stores.create_volume(&store, "v", 8192, None, Settings::default()).unwrap();
    let [one, two] = rig.hosts();
    rig.open(&one, "s/v");
    rig.open(&two, "s/v");
    let write = |at: u64| Ask::Write { at, bytes: stamped(at, 1), fua: at.is_multiple_of(16) };
    let under_way: Vec<_> =
        (0..64).map(|at| Rig::start(if at % 2 == 0 { &one } else { &two }, "s/v", write(at))).collect();
    let before = store.summary().unwrap().counters.total;
    std::fs::File::options().write(true).open(&config.path).unwrap().set_len(64 * MIB).unwrap();
    rig.stores.grow(&store).unwrap();
    rig.stores.grow(&store).unwrap();
    assert_eq!(store.summary().unwrap().counters.total / 8192, 1);
    assert!(before < 4096);
    under_way.into_iter().for_each(|reply| assert_eq!(reply.wait().unwrap().0, SUCCESS));
    // More than the store had room for.
    (64..6000).step_by(32).for_each(|at| Rig::write(&two, "s/v", at, stamped(at, 32)));
    assert_eq!(Rig::read(&one, "s/v", 0, 256), stamped(0, 256));
    assert_eq!(Rig::read(&one, "s/v", 5900, 100), stamped(5900, 100));
}

#[test]
fn a_device_with_data_is_not_taken_unless_forced_and_a_destroyed_store_is_gone() {
    let rig = Rig::new();
    rig.memory("base", BlockSize::B4096, 64 * MIB);
    let mut options = CreateStore {
        device: "base".into(),
        name: "s".into(),
        uuid: None,
        volumes_max: None,
        unmap: false,
        force: false,
    };
    assert!(rig.stores.examine("base").unwrap().is_none());
    let store = rig.stores.create(&options).unwrap();
    assert!(matches!(rig.stores.create(&options), Err(StoreError::StoreExists { .. })));
    options.name = "t".into();
    assert!(matches!(rig.stores.create(&options), Err(StoreError::Device(_))), "the device is in use");
    rig.stores.close(&store).unwrap();
    let refused = rig.stores.create(&options).map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Holds { content: Content::Known("a Pollux store") }), "{refused}");
    options.force = true;
    let store = rig.stores.create(&options).unwrap();
    rig.stores.destroy(&store).unwrap();
    assert!(rig.stores.examine("base").unwrap().is_none());
    options.force = false;
    assert!(matches!(rig.stores.create(&options), Err(StoreError::Holds { content: Content::Unknown(_) })));
}

#[test]
fn names_change_and_stay_changed() {
    let rig = volume(BlockSize::B4096, 100);
    for host in rig.hosts() {
        rig.close(&host, "s/v");
    }
    let store = rig.stores.find("s").unwrap();
    rig.stores.rename(&store, "other").unwrap();
    rig.stores.rename_volume("other/v", "w").unwrap();
    assert!(rig.devices.get("s/v").is_err());
    let uuid = rig.devices.get("other/w").unwrap().info().uuid;
    rig.stores.close(&store).unwrap();
    let store = rig.stores.open("base").unwrap();
    assert_eq!(store.name(), "other");
    assert_eq!(rig.devices.get("other/w").unwrap().info().uuid, uuid);
    for bad in ["", "a/b", "a b", &"x".repeat(64)] {
        assert!(matches!(rig.stores.rename(&store, bad), Err(StoreError::Name { .. })), "{bad}");
        assert!(matches!(
            rig.stores.create_volume(&store, bad, 1, None, Settings::default()),
            Err(StoreError::Name { .. })
        ));
    }
}

#[test]
fn a_volume_in_use_is_neither_deleted_nor_closed_over() {
    let rig = volume(BlockSize::B4096, 100);
    let claim = rig.devices.claim("s/v", crate::device::ClaimKind::SharedRead, "a test").unwrap();
    assert!(matches!(rig.stores.delete_volume("s/v"), Err(StoreError::InUse { .. })));
    let store = rig.stores.find("s").unwrap();
    assert!(matches!(rig.stores.close(&store), Err(StoreError::InUse { .. })));
    drop(claim);
    for host in rig.hosts() {
        rig.close(&host, "s/v");
    }
    rig.stores.delete_volume("s/v").unwrap();
    assert!(matches!(rig.stores.delete_volume("s/v"), Err(StoreError::NoVolume { .. })));
    rig.stores.close(&store).unwrap();
}

#[test]
fn a_resized_volume_has_its_new_size_at_once() {
    let rig = volume(BlockSize::B4096, 100);
    let [one, two] = rig.hosts();
    rig.stores.resize_volume("s/v", 300, false).unwrap();
    assert_eq!(rig.devices.get("s/v").unwrap().info().blocks, 300);
    Rig::write(&two, "s/v", 290, stamped(1, 10));
    assert_eq!(Rig::read(&one, "s/v", 290, 10), stamped(1, 10));
}

#[test]
fn a_flattened_clone_shares_nothing_and_keeps_what_hosts_write_meanwhile() {
    let rig = volume(BlockSize::B4096, 4096);
    let [one, two] = rig.hosts();
    // Holes, scattered blocks and long runs.
    for at in (0..4096).step_by(64) {
        Rig::write(&one, "s/v", at + at % 7, stamped(at + at % 7, 40));
    }
    rig.stores.copy_volume("s/v", "snap", VolumeKind::Snapshot).unwrap();
    rig.stores.copy_volume("s/snap", "clone", VolumeKind::Writable).unwrap();
    rig.open(&two, "s/clone");
    Rig::write(&two, "s/clone", 500, stamped(9_000, 3));
    let before = rig.stores.usage("s/clone").unwrap();
    std::thread::scope(|scope| {
        let copied = scope.spawn(|| rig.stores.copy_shared("s/clone"));
        for at in (0..4096).step_by(16) {
            Rig::write(&two, "s/clone", at, stamped(at + 100_000, 1));
        }
        copied.join().unwrap().unwrap();
    });
    let after = rig.stores.usage("s/clone").unwrap();
    let (_, clone) = rig.stores.find_volume("s/clone").unwrap();
    assert!(before.own < 300, "{before:?}");
    assert_eq!(after.own, clone.info.allocated);
    rig.stores.delete_volume("s/snap").unwrap();
    let expected = |at: u64| {
        let start = at / 64 * 64;
        let written = (start + start % 7..start + start % 7 + 40).contains(&at);
        match at {
            _ if at.is_multiple_of(16) => stamped(at + 100_000, 1),
            500..503 => stamped(at - 500 + 9_000, 1),
            _ if written => stamped(at, 1),
            _ => vec![0; BLOCK],
        }
    };
    for first in (0..4096).step_by(256) {
        let found = Rig::read(&two, "s/clone", first, 256);
        for (at, block) in (first..).zip(found.chunks(BLOCK)) {
            assert_eq!(block, expected(at), "block {at}");
        }
    }
    for host in rig.hosts() {
        rig.close(&host, "s/v");
    }
    rig.close(&two, "s/clone");
    rig.stores.close(&rig.stores.find("s").unwrap()).unwrap();
    let mut media = DeviceMedia::open(rig.devices.get("base").unwrap().as_ref()).unwrap();
    assert_eq!(store::check(&mut media, true).unwrap().faults, []);
}

#[test]
fn differences_name_what_was_written_since_and_go_on_where_they_ended() {
    let rig = volume(BlockSize::B4096, 40_000);
    let [one, _] = rig.hosts();
    Rig::write(&one, "s/v", 10, stamped(10, 10));
    rig.stores.copy_volume("s/v", "snap", VolumeKind::Snapshot).unwrap();
    Rig::write(&one, "s/v", 15, stamped(0, 10));
    Rig::write(&one, "s/v", 30_000, stamped(0, 1));
    assert_eq!(Rig::run(&one, "s/v", Ask::Zero { at: 11, blocks: 1 }).0, SUCCESS);
    let list = |from, start| {
        let found = rig.stores.differences(from, "s/v", VolumeBlock(start)).unwrap();
        assert_eq!(found.next, None);
        let range = |r: &store::ChangedRange| (r.at.0, r.blocks, r.before, r.after);
        found.ranges.iter().map(range).collect::<Vec<_>>()
    };
    let all = [(11, 1, true, false), (15, 5, true, true), (20, 5, false, true), (30_000, 1, false, true)];
    assert_eq!(list(Some("s/snap"), 0), all);
    assert_eq!(list(Some("s/snap"), 22), [(22, 3, false, true), (30_000, 1, false, true)]);
    assert_eq!(list(None, 0), [(10, 1, false, true), (12, 13, false, true), (30_000, 1, false, true)]);
}

#[test]
fn a_reserved_volume_has_its_space_when_the_rest_is_full() {
    let rig = Rig::new();
    rig.memory("base", BlockSize::B4096, 64 * MIB);
    let store = rig.store("base", "s");
    let reserved = Settings { reserved: true, ..Settings::default() };
    rig.stores.create_volume(&store, "v", 4096, None, reserved).unwrap();
    rig.stores.create_volume(&store, "thin", 1 << 20, None, Settings::default()).unwrap();
    let too_large = rig.stores.create_volume(&store, "w", 1 << 20, None, reserved);
    assert!(matches!(too_large, Err(StoreError::Refused(store::Failure::Full))));
    let [one, two] = rig.hosts();
    rig.open(&one, "s/v");
    rig.open(&two, "s/thin");
    let mut at = 0;
    let write = |at| Rig::run(&two, "s/thin", Ask::Write { at, bytes: stamped(at, 64), fua: false }).0;
    while write(at) == SUCCESS {
        at += 64;
    }
    assert_eq!(write(at), Status::CAPACITY_EXCEEDED);
    for at in (0..4096).step_by(64) {
        Rig::write(&one, "s/v", at, stamped(at, 64));
    }
}

#[test]
fn a_volume_without_checksums_is_read_as_it_is() {
    let rig = Rig::new();
    rig.memory("base", BlockSize::B4096, 64 * MIB);
    let store = rig.store("base", "s");
    let settings = Settings { checksums: false, ..Settings::default() };
    rig.stores.create_volume(&store, "v", 1024, None, settings).unwrap();
    for (host, at) in rig.hosts().iter().zip([0, 512]) {
        rig.open(host, "s/v");
        Rig::write(host, "s/v", at, stamped(at + 77, 2));
        assert_eq!(Rig::read(host, "s/v", at, 2), stamped(at + 77, 2));
        flip(&rig, &stamped(at + 78, 1));
        assert_ne!(Rig::read(host, "s/v", at, 2), stamped(at + 77, 2));
    }
}

#[test]
fn a_volume_is_read_only_when_it_is_set_so_and_after_it_was_opened_again() {
    let rig = volume(BlockSize::B4096, 100);
    let [one, two] = rig.hosts();
    Rig::write(&one, "s/v", 0, stamped(0, 1));
    rig.stores.configure_volume("s/v", Some(true), None).unwrap();
    let write = |host, at| Rig::run(host, "s/v", Ask::Write { at, bytes: stamped(9, 1), fua: false }).0;
    let protected = Status::NAMESPACE_WRITE_PROTECTED.dnr();
    assert_eq!((write(&one, 0), write(&two, 0)), (protected, protected));
    for host in rig.hosts() {
        rig.close(&host, "s/v");
    }
    rig.stores.close(&rig.stores.find("s").unwrap()).unwrap();
    rig.stores.open("base").unwrap();
    rig.open(&one, "s/v");
    assert_eq!(write(&one, 0), protected);
    assert_eq!(Rig::read(&one, "s/v", 0, 1), stamped(0, 1));
    rig.stores.configure_volume("s/v", Some(false), None).unwrap();
    assert_eq!(write(&one, 0), SUCCESS);
}

#[test]
fn a_volume_shrinks_over_data_only_by_force() {
    let rig = volume(BlockSize::B4096, 1000);
    let [one, _] = rig.hosts();
    Rig::write(&one, "s/v", 900, stamped(0, 1));
    let refused = rig.stores.resize_volume("s/v", 500, false);
    assert!(matches!(refused, Err(StoreError::Refused(store::Failure::WouldLoseData))));
    assert_eq!(rig.stores.resize_volume("s/v", 901, false).unwrap().blocks, 901);
    assert_eq!(rig.stores.resize_volume("s/v", 500, true).unwrap().blocks, 500);
    assert_eq!(Rig::run(&one, "s/v", Ask::Read { at: 500, blocks: 1 }).0, Status::LBA_OUT_OF_RANGE.dnr());
}

#[test]
fn hosts_that_have_all_buffers_do_not_keep_their_writes_from_becoming_durable() {
    let rig = Rig::with_buffers(20);
    rig.memory("base", BlockSize::B4096, 64 * MIB);
    let store = rig.store("base", "s");
    rig.stores.create_volume(&store, "v", 4096, None, Settings::default()).unwrap();
    let [one, _] = rig.hosts();
    rig.open(&one, "s/v");
    for round in 0..50 {
        let write = |at| Ask::Write { at: round * 64 + at, bytes: stamped(at, 1), fua: true };
        let writes: Vec<_> = (0..4).map(|at| Rig::start(&one, "s/v", write(at))).collect();
        writes.into_iter().for_each(|write| assert_eq!(write.wait().unwrap().0, SUCCESS));
    }
}

#[test]
fn more_pieces_than_mailboxes_hold_arrive_in_order() {
    let rig = volume(BlockSize::B4096, 4096);
    let hosts = rig.hosts();
    // No two blocks side by side, and every third a hole, which is told of and not asked back.
    let holes = |at: u64| at.is_multiple_of(3);
    for at in (0..4096).rev().filter(|at| !holes(*at)) {
        Rig::write(&hosts[0], "s/v", at, stamped(at, 1));
    }
    for host in &hosts {
        for _ in 0..3 {
            // What a buffer held before must not be taken for a hole's zeroes.
            let read = |at| (at, Rig::start(host, "s/v", Ask::Read { at, blocks: 256 }));
            let reads: Vec<_> = (0..4096).step_by(256).map(read).collect();
            for (first, read) in reads {
                let (status, found) = read.wait().unwrap();
                assert_eq!(status, SUCCESS);
                for (at, block) in (first..).zip(found.chunks(BLOCK)) {
                    let expected = if holes(at) { vec![0; BLOCK] } else { stamped(at, 1) };
                    assert!(block == expected, "block {at}");
                }
            }
        }
    }
}
