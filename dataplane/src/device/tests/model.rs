//! Every device against a plain vector of bytes.

use std::path::Path;

use nvme::Status;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;
use uuid::Uuid;

use super::rig::Rig;
use crate::device::memory::MemoryDevice;
use crate::device::null::NullDevice;
use crate::device::uring::{UringConfig, UringDevice};
use crate::device::{BlockSize, Device, DeviceInfo, Lba, Op, Operations};

#[derive(Clone, Debug)]
enum Action {
    Read { lba: u64, blocks: u32 },
    Write { lba: u64, blocks: u32, seed: u8, fua: bool },
    Zero { lba: u64, blocks: u32, deallocate: bool, fua: bool },
    Deallocate { lba: u64, blocks: u32 },
    Flush,
}

/// Actions on a device of `blocks` blocks, some of them beyond its end; transfers of up to 1 MiB.
fn actions(blocks: u64, block: u32) -> impl Strategy<Value = Vec<Action>> {
    let lba = 0..blocks + 2;
    let few = prop_oneof![4 => 1..=40u32, 1 => 1..=(1 << 20) / block];
    let place = (lba, few);
    let action = prop_oneof![
        3 => place.clone().prop_map(|(lba, blocks)| Action::Read { lba, blocks }),
        3 => (place.clone(), any::<u8>(), any::<bool>())
            .prop_map(|((lba, blocks), seed, fua)| Action::Write { lba, blocks, seed, fua }),
        1 => (place.clone(), any::<bool>(), any::<bool>())
            .prop_map(|((lba, blocks), deallocate, fua)| Action::Zero { lba, blocks, deallocate, fua }),
        1 => place.prop_map(|(lba, blocks)| Action::Deallocate { lba, blocks }),
        1 => Just(Action::Flush),
    ];
    prop::collection::vec(action, 1..40)
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![seed | 1; len];
    for (i, block) in bytes.chunks_mut(64).enumerate() {
        block[..4].copy_from_slice(&(i as u32 ^ u32::from(seed) << 24 | 1).to_le_bytes());
    }
    bytes
}

/// How deallocated blocks read: the model follows the device where both are right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// Data stays until overwritten.
    Data,
    /// Nothing: reads are zeroes.
    Nothing,
}

struct Model<'a> {
    rig: Rig,
    bytes: Vec<u8>,
    block: usize,
    device: &'a dyn Device,
    keeps: Keeps,
}

impl Model<'_> {
    fn range(&self, lba: u64, blocks: u32) -> Option<std::ops::Range<usize>> {
        let (start, len) = (lba as usize * self.block, blocks as usize * self.block);
        (start + len <= self.bytes.len()).then_some(start..start + len)
    }

    fn run(&mut self, action: &Action) -> Result<(), TestCaseError> {
        let (range, status) = match *action {
            Action::Read { lba, blocks } => return self.read(lba, blocks),
            Action::Write { lba, blocks, seed, fua } => {
                let data = pattern(seed, blocks as usize * self.block);
                let status = if fua { self.rig.write_fua(lba, &data) } else { self.rig.write(lba, &data) };
                let range = self.range(lba, blocks);
                if let (Some(range), Keeps::Data) = (range.clone(), self.keeps) {
                    self.bytes[range].copy_from_slice(&data);
                }
                (range, status)
            }
            Action::Zero { lba, blocks, deallocate, fua } => {
                let status = self.rig.run(Op::WriteZeroes { lba: Lba(lba), blocks, deallocate, fua }).status;
                let range = self.range(lba, blocks);
                range.iter().for_each(|range| self.bytes[range.clone()].fill(0));
                (range, status)
            }
            Action::Deallocate { lba, blocks } => return self.deallocate(lba, blocks),
            Action::Flush => (Some(0..0), self.rig.flush()),
        };
        prop_assert_eq!(
            status,
            if range.is_some() { Status::SUCCESS } else { Status::LBA_OUT_OF_RANGE.dnr() }
        );
        Ok(())
    }

    fn read(&mut self, lba: u64, blocks: u32) -> Result<(), TestCaseError> {
        let read = self.rig.read(lba, blocks as usize * self.block);
        match self.range(lba, blocks) {
            Some(range) => prop_assert!(read.as_deref() == Ok(&self.bytes[range]), "wrong data"),
            None => prop_assert_eq!(read, Err(Status::LBA_OUT_OF_RANGE.dnr())),
        }
        Ok(())
    }

    /// Each block keeps all its data or reads as zeroes; only zeroes if the device says so.
    fn deallocate(&mut self, lba: u64, blocks: u32) -> Result<(), TestCaseError> {
        let status = self.rig.deallocate(lba, blocks);
        let Some(range) = self.range(lba, blocks) else {
            prop_assert_eq!(status, Status::LBA_OUT_OF_RANGE.dnr());
            return Ok(());
        };
        prop_assert_eq!(status, Status::SUCCESS);
        let now = self.rig.read(lba, range.len()).expect("in range");
        if self.device.info().operations.contains(Operations::DEALLOCATE_ZEROES) {
            prop_assert!(now.iter().all(|byte| *byte == 0));
        }
        for (now, before) in now.chunks(self.block).zip(self.bytes[range.clone()].chunks(self.block)) {
            prop_assert!(now == before || now.iter().all(|byte| *byte == 0));
        }
        self.bytes[range].copy_from_slice(&now);
        Ok(())
    }

    fn check_all(&mut self) -> Result<(), TestCaseError> {
        let blocks = self.device.info().blocks;
        for lba in (0..blocks).step_by(64) {
            self.read(lba, u32::try_from((blocks - lba).min(64)).unwrap())?;
        }
        Ok(())
    }
}

/// Runs random actions on fresh devices, made in an empty directory.
fn follows_model(keeps: Keeps, cases: u32, make: impl Fn(&Path) -> Box<dyn Device>) {
    let directory = TempDir::new().unwrap();
    let DeviceInfo { blocks, block_size, .. } = make(directory.path()).info();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&actions(blocks, block_size.bytes()), |actions| {
        let directory = TempDir::new().unwrap();
        let device = make(directory.path());
        let block = block_size.bytes() as usize;
        let bytes = vec![0; blocks as usize * block];
        let mut model = Model { rig: Rig::new(&*device), bytes, block, device: &*device, keeps };
        for action in &actions {
            model.run(action)?;
        }
        model.check_all()
    });
    outcome.unwrap();
}

const BYTES: u64 = 3 << 20;

fn memory(block_size: BlockSize) -> Box<dyn Device> {
    let blocks = BYTES >> block_size.shift();
    Box::new(MemoryDevice::new("memory", block_size, blocks, Uuid::nil()).unwrap())
}

fn file(directory: &Path, block_size: BlockSize, direct: bool) -> UringDevice {
    let mut config = UringConfig::new("file", directory.join("file"));
    config.block_size = Some(block_size);
    config.size_bytes = Some(BYTES);
    config.direct = direct;
    UringDevice::open(&config).unwrap()
}

#[test]
fn memory_keeps_what_was_written_4096() {
    follows_model(Keeps::Data, 48, |_| memory(BlockSize::B4096));
}

#[test]
fn memory_keeps_what_was_written_512() {
    follows_model(Keeps::Data, 48, |_| memory(BlockSize::B512));
}

#[test]
fn null_reads_zeroes_whatever_was_written() {
    follows_model(Keeps::Nothing, 16, |_| {
        Box::new(NullDevice::new("null", BlockSize::B512, BYTES >> 9, Uuid::nil()).unwrap())
    });
}

#[test]
fn a_file_keeps_what_was_written_4096() {
    follows_model(Keeps::Data, 12, |directory| Box::new(file(directory, BlockSize::B4096, true)));
}

#[test]
fn a_file_keeps_what_was_written_512() {
    follows_model(Keeps::Data, 12, |directory| Box::new(file(directory, BlockSize::B512, true)));
}

#[test]
fn a_file_behind_the_page_cache_keeps_what_was_written() {
    follows_model(Keeps::Data, 12, |directory| Box::new(file(directory, BlockSize::B512, false)));
}

#[test]
fn a_file_of_4096_byte_sectors_keeps_what_was_written_in_512_byte_blocks() {
    follows_model(Keeps::Data, 24, |directory| {
        Box::new(file(directory, BlockSize::B512, true).with_alignment(4096))
    });
}

#[test]
fn a_file_that_refuses_to_be_cleared_keeps_what_was_written() {
    follows_model(Keeps::Data, 12, |directory| {
        Box::new(file(directory, BlockSize::B512, true).with_alignment(4096).without_clearing())
    });
}
