//! Stores of the version before: opened as they are, and upgraded by a step of their own.

use super::rig::{Memory, OPTIONS, Rig};
use crate::store::format::{DiskSuperblock, VERSION, VERSION_OF_ONE_LOG};
use crate::store::{
    BLOCK_BYTES, Block, CreateOptions, Limits, Media, MediaError, OpenError, Operation, VolumeId, create,
    open, upgrade,
};

/// An older store whose log holds what it holds.
fn older() -> (Memory, VolumeId) {
    let mut media = Memory::default();
    create(&mut media, &CreateOptions { version: VERSION_OF_ONE_LOG, ..OPTIONS }).unwrap();
    DiskSuperblock::rename(media.0.get_mut(&0).unwrap(), "name").unwrap();
    let mut rig = Rig::open(media);
    let volume = rig.create("a", 100);
    for at in 0..40 {
        rig.write(volume, at, 1, 1 + u8::try_from(at).unwrap()).unwrap();
        rig.run(Operation::Flush).unwrap();
    }
    (rig.media, volume)
}

fn version(media: &mut Memory) -> u32 {
    let mut bytes = [0; BLOCK_BYTES];
    media.read(Block(0), &mut bytes).unwrap();
    DiskSuperblock::decode(&bytes).unwrap().1.version()
}

fn holds_everything(media: Memory, volume: VolumeId) -> Rig {
    let mut rig = Rig::open(media);
    let wanted: Vec<u8> = (1..=40).collect();
    assert_eq!(rig.read(volume, 0, 40), Ok(wanted));
    rig
}

#[test]
fn an_older_store_is_opened_and_stays_as_old_as_it_is() {
    let (media, volume) = older();
    let mut rig = holds_everything(media, volume);
    rig.write(volume, 50, 1, 9).unwrap();
    rig.run(Operation::Flush).unwrap();
    let mut rig = holds_everything(rig.media, volume);
    assert_eq!(rig.read(volume, 50, 1), Ok(vec![9]));
    assert_eq!(version(&mut rig.media), VERSION_OF_ONE_LOG);
}

#[test]
fn an_upgraded_store_holds_the_same_under_the_same_name_and_survives_a_damaged_log_block() {
    let (mut media, volume) = older();
    assert_eq!(upgrade(&mut media, Limits::default()), Ok(VERSION_OF_ONE_LOG));
    assert_eq!(version(&mut media), VERSION);
    assert_eq!(DiskSuperblock::name(&media.0[&0]), "name");
    let mut rig = holds_everything(media, volume);
    for at in 60..70 {
        rig.write(volume, at, 1, 7).unwrap();
        rig.run(Operation::Flush).unwrap();
    }
    let layout = rig.store.layout().clone();
    for position in 0..layout.ring_blocks() {
        rig.media.0.insert(layout.log(position, 0).0, [0x77; BLOCK_BYTES]);
    }
    let mut rig = holds_everything(rig.media, volume);
    assert_eq!(rig.read(volume, 60, 10), Ok(vec![7; 10]));
    assert_eq!(upgrade(&mut rig.media, Limits::default()), Ok(VERSION));
}

/// A device that loses power after some writes.
struct Dying(Memory, u32);

impl Media for Dying {
    fn blocks(&self) -> u64 {
        self.0.blocks()
    }

    fn read(&mut self, block: Block, bytes: &mut [u8; BLOCK_BYTES]) -> Result<(), MediaError> {
        self.0.read(block, bytes)
    }

    fn write(&mut self, block: Block, bytes: &[u8; BLOCK_BYTES]) -> Result<(), MediaError> {
        self.1 = self.1.checked_sub(1).ok_or(MediaError { block: block.0 })?;
        self.0.write(block, bytes)
    }

    fn flush(&mut self) -> Result<(), MediaError> {
        Ok(())
    }
}

#[test]
fn an_upgrade_that_power_cuts_short_leaves_a_whole_store_of_either_version() {
    let (media, volume) = older();
    let mut seen = [0; 2];
    for writes in 0.. {
        let mut dying = Dying(media.clone(), writes);
        let done = upgrade(&mut dying, Limits::default());
        let version = version(&mut dying.0);
        seen[usize::from(version == VERSION)] += 1;
        let rig = holds_everything(dying.0, volume);
        let mut last = rig.media.clone();
        // The other superblock followed, with the opening.
        last.0.remove(&0);
        assert_eq!(open(&mut last, Limits::default()).unwrap().layout().version(), version);
        match done {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, OpenError::Media(_)), "{error}"),
        }
    }
    assert!(seen.iter().all(|times| *times > 1), "{seen:?}");
}
