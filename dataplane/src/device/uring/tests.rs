//! Against real files, and loop block devices where the tests may make them.
#![allow(clippy::cast_possible_truncation, reason = "sizes of tests are small")]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nvme::Status;
use tempfile::TempDir;

use super::{UringConfig, UringDevice};
use crate::device::tests::rig::{Rig, wait_readable};
use crate::device::{BlockSize, Device, DeviceError, Done, Io, Lba, Op, OpKind, Operations, Submission};

const BYTES: u64 = 4 << 20;

fn config(directory: &TempDir) -> UringConfig {
    let mut config = UringConfig::new("file", directory.path().join("file"));
    config.size_bytes = Some(BYTES);
    config
}

fn file(directory: &TempDir) -> UringDevice {
    UringDevice::open(&config(directory)).unwrap()
}

fn buffered(directory: &TempDir) -> UringDevice {
    UringDevice::open(&UringConfig { direct: false, ..config(directory) }).unwrap()
}

fn bytes_allocated(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

/// Dirty pages of a file in the page cache; `None` where the kernel does not tell (before Linux 6.5).
fn dirty_pages(path: &Path) -> Option<u64> {
    #[repr(C)]
    #[derive(Default)]
    struct CacheStat {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    const CACHESTAT: libc::c_long = 451;
    let file = File::open(path).unwrap();
    let range = [0u64, 0];
    let mut stat = CacheStat::default();
    // SAFETY: `cachestat(fd, range, stat, flags)` reads two and writes five words, all of which live here.
    let result = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), &raw mut stat, 0) };
    (result == 0).then_some(stat.dirty + stat.writeback)
}

#[test]
fn fua_and_flush_bring_data_to_the_media_and_plain_writes_do_not() {
    let directory = TempDir::new().unwrap();
    let device = buffered(&directory);
    let path = directory.path().join("file");
    let mut rig = Rig::new(&device);
    assert_eq!(rig.write(0, &[1; 8192]), Status::SUCCESS);
    match dirty_pages(&path) {
        None => return println!("skipped: this kernel has no cachestat"),
        Some(dirty) => assert_eq!(dirty, 2),
    }
    assert_eq!(rig.flush(), Status::SUCCESS);
    assert_eq!(dirty_pages(&path), Some(0));
    assert_eq!(rig.write_fua(0, &[2; 8192]), Status::SUCCESS);
    assert_eq!(dirty_pages(&path), Some(0));
    assert!(device.info().write_cache);
    assert!(device.info().operations.contains(Operations::FLUSH | Operations::FUA));
}

#[test]
fn deallocation_gives_space_back_to_the_file_system() {
    let directory = TempDir::new().unwrap();
    let device = file(&directory);
    let path = directory.path().join("file");
    let mut rig = Rig::new(&device);
    let before = bytes_allocated(&path);
    assert_eq!(rig.write_fua(0, &[1; 1 << 20]), Status::SUCCESS);
    assert!(bytes_allocated(&path) >= before + (1 << 20));
    assert_eq!(rig.deallocate(0, 128), Status::SUCCESS);
    assert!(bytes_allocated(&path) <= before + (512 << 10));
    assert_eq!(rig.zero(128, 128, true), Status::SUCCESS);
    assert!(bytes_allocated(&path) <= before);
    assert_eq!(rig.read(0, 1 << 20).unwrap(), vec![0; 1 << 20]);
    assert_eq!(path.metadata().unwrap().len(), BYTES);
}

#[test]
fn a_second_user_is_refused_and_told_who_holds_the_file() {
    let directory = TempDir::new().unwrap();
    let device = file(&directory);
    let refused = UringDevice::open(&config(&directory)).map(|_| ()).unwrap_err();
    let pid = std::process::id().to_string();
    assert!(matches!(&refused, DeviceError::Busy { holder, .. } if holder.contains(&pid)), "{refused}");
    drop(device);
    file(&directory);
}

#[test]
fn what_cannot_be_opened_is_refused_with_its_reason() {
    let directory = TempDir::new().unwrap();
    let missing = UringConfig::new("x", directory.path().join("missing"));
    assert!(matches!(UringDevice::open(&missing), Err(DeviceError::Io { action: "open", .. })));
    let folder = UringConfig::new("x", directory.path());
    assert!(matches!(UringDevice::open(&folder), Err(DeviceError::FileType { .. })));
    let small =
        UringConfig { size_bytes: Some(100), ..UringConfig::new("x", directory.path().join("small")) };
    assert!(matches!(UringDevice::open(&small), Err(DeviceError::TooSmall { .. })));
}

#[test]
fn identity_follows_the_path() {
    let directory = TempDir::new().unwrap();
    let first = file(&directory).info().uuid;
    assert_eq!(file(&directory).info().uuid, first);
    let other = UringConfig { path: directory.path().join("other"), ..config(&directory) };
    assert_ne!(UringDevice::open(&other).unwrap().info().uuid, first);
}

#[test]
fn a_file_that_grew_or_shrank_is_noticed() {
    let directory = TempDir::new().unwrap();
    let device = file(&directory);
    let path = directory.path().join("file");
    let mut rig = Rig::new(&device);
    let end = BYTES >> 12;
    assert_eq!(rig.write(end, &[1; 4096]), Status::LBA_OUT_OF_RANGE.dnr());
    assert!(!device.rescan().unwrap());
    File::options().write(true).open(&path).unwrap().set_len(2 * BYTES).unwrap();
    assert!(device.rescan().unwrap());
    assert_eq!(device.info().blocks, 2 * end);
    assert_eq!(rig.write(end, &[1; 4096]), Status::SUCCESS);
    File::options().write(true).open(&path).unwrap().set_len(BYTES).unwrap();
    assert_eq!(rig.read(end, 4096), Err(Status::LBA_OUT_OF_RANGE.dnr()));
    assert!(device.rescan().unwrap());
    assert_eq!(device.info().blocks, end);
}

#[test]
fn a_full_queue_gives_the_io_back_and_takes_it_later() {
    let directory = TempDir::new().unwrap();
    let device = file(&directory);
    let mut rig = Rig::with_depth(&device, 4);
    for tag in 0..4 {
        let buffer = rig.buffer(&[tag as u8; 4096]);
        assert!(rig.submit(tag, Op::Write { lba: Lba(tag), buffer, fua: false }).is_none());
    }
    let buffer = rig.buffer(&[9; 4096]);
    let fifth = rig.queue.submit(Io { tag: 9, op: Op::Write { lba: Lba(9), buffer, fua: false } });
    let Submission::Busy(io) = fifth else { panic!("{fifth:?}") };
    let mut tags = Vec::new();
    while tags.len() < 4 {
        tags.extend(rig.wait().into_iter().map(|done| (done.tag, done.status)));
    }
    tags.sort_by_key(|(tag, _)| *tag);
    assert_eq!(tags, [0, 1, 2, 3].map(|tag| (tag, Status::SUCCESS)));
    assert!(matches!(rig.queue.submit(io), Submission::Queued));
    assert_eq!(rig.wait()[0].tag, 9);
    assert_eq!(rig.read(9, 4096).unwrap(), [9; 4096]);
}

#[test]
fn a_sleeper_is_woken_by_every_completion() {
    let directory = TempDir::new().unwrap();
    let device = file(&directory);
    let mut rig = Rig::new(&device);
    let mut done = Done::new();
    let mut slept = 0;
    for round in 0..200 {
        let op = if round % 2 == 0 {
            Op::Flush
        } else {
            Op::Write { lba: Lba(round), buffer: rig.buffer(&[1; 4096]), fua: true }
        };
        assert!(rig.submit(round, op).is_none());
        while done.is_empty() {
            if rig.queue.before_sleep() {
                slept += 1;
                wait_readable(rig.queue.wait_fd().unwrap());
            }
            rig.queue.poll(&mut done);
        }
        assert!(done.drain().all(|io| io.tag == round && io.status.is_success()));
    }
    assert!(slept > 0, "nothing was ever waited for");
}

#[test]
fn a_closing_queue_waits_for_the_kernel_and_returns_all_buffers() {
    let directory = TempDir::new().unwrap();
    let device = file(&directory).with_alignment(4096);
    let mut rig = Rig::new(&device);
    for lba in 0..32 {
        let buffer = rig.buffer(&[lba as u8; 64 << 10]);
        assert!(rig.submit(lba, Op::Write { lba: Lba(lba * 16), buffer, fua: true }).is_none());
    }
    rig.queue.kick();
    drop(rig.queue);
    let usage = rig.pool.usage();
    assert_eq!((usage.small_in_use, usage.large_in_use), (0, 0));
    assert_eq!(device.open_queue_count(), 0);
}

#[test]
fn neighbouring_small_blocks_written_from_two_threads_do_not_undo_each_other() {
    const SECTORS: u64 = 64;
    let directory = TempDir::new().unwrap();
    let small = UringConfig { block_size: Some(BlockSize::B512), ..config(&directory) };
    let device = UringDevice::open(&small).unwrap().with_alignment(4096);
    std::thread::scope(|scope| {
        for half in 0..2 {
            let device = &device;
            scope.spawn(move || {
                let mut rig = Rig::new(device);
                for round in 1..=20u8 {
                    for lba in (half..SECTORS).step_by(2) {
                        assert_eq!(rig.write(lba, &[round; 512]), Status::SUCCESS);
                    }
                }
            });
        }
    });
    assert_eq!(Rig::new(&device).read(0, SECTORS as usize * 512).unwrap(), vec![20; SECTORS as usize * 512]);
}

#[test]
fn completions_are_counted_with_their_latency() {
    let directory = TempDir::new().unwrap();
    let device = file(&directory);
    let mut rig = Rig::new(&device);
    assert_eq!(rig.write(0, &[1; 8192]), Status::SUCCESS);
    assert!(rig.read(u64::MAX, 4096).is_err());
    drop(rig);
    let counters = device.counters();
    let write = counters.of(OpKind::Write);
    assert_eq!((write.operations, write.bytes, write.errors), (1, 8192, 0));
    assert!(write.latency_ns_total > 0);
    assert_eq!(write.latency_ns_min, Some(write.latency_ns_max));
    assert_eq!(counters.of(OpKind::Read).errors, 1);
}

/// A loop block device on a file of its own; gone when dropped.
struct Loop {
    path: PathBuf,
    _directory: TempDir,
}

impl Loop {
    /// `None`, with the reason printed, where loop devices cannot be made.
    fn new(sector: u32) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let backing = directory.path().join("disk");
        File::create(&backing).unwrap().set_len(BYTES).unwrap();
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", &sector.to_string()]).arg(&backing);
        match command.output() {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap().trim().into();
                Some(Self { path, _directory: directory })
            }
            Ok(output) => {
                println!("skipped: losetup: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                println!("skipped: losetup: {error}");
                None
            }
        }
    }

    /// Counts of flushes the block device did (`Documentation/block/stat.rst`, field 16).
    fn flushes(&self) -> u64 {
        let name = self.path.file_name().unwrap().to_str().unwrap();
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        stat.split_ascii_whitespace().nth(15).unwrap().parse().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[test]
fn a_block_device_is_flushed_by_fua_and_flush_and_not_by_plain_writes() {
    let Some(disk) = Loop::new(512) else { return };
    let device = UringDevice::open(&UringConfig::new("disk", &disk.path)).unwrap();
    assert_eq!((device.info().block_size, device.info().blocks), (BlockSize::B512, BYTES >> 9));
    let mut rig = Rig::new(&device);
    let start = disk.flushes();
    assert_eq!(rig.write(0, &[1; 4096]), Status::SUCCESS);
    assert_eq!(disk.flushes(), start);
    assert_eq!(rig.write_fua(0, &[2; 4096]), Status::SUCCESS);
    let after_fua = disk.flushes();
    assert!(after_fua > start);
    assert_eq!(rig.write(8, &[3; 4096]), Status::SUCCESS);
    assert_eq!(rig.flush(), Status::SUCCESS);
    assert!(disk.flushes() > after_fua);
    let refused = UringDevice::open(&UringConfig::new("again", &disk.path)).map(|_| ()).unwrap_err();
    assert!(matches!(refused, DeviceError::Busy { .. }), "{refused}");
}

#[test]
fn a_block_device_with_large_sectors_serves_small_blocks() {
    let Some(disk) = Loop::new(4096) else { return };
    let small = UringConfig { block_size: Some(BlockSize::B512), ..UringConfig::new("disk", &disk.path) };
    let device = UringDevice::open(&small).unwrap();
    let mut rig = Rig::new(&device);
    assert_eq!(rig.write(0, &[5; 8192]), Status::SUCCESS);
    assert_eq!(rig.write(3, &[6; 512]), Status::SUCCESS);
    assert_eq!(rig.zero(7, 2, true), Status::SUCCESS);
    let wanted = [vec![5; 3 * 512], vec![6; 512], vec![5; 3 * 512], vec![0; 1024], vec![5; 7 * 512]].concat();
    assert_eq!(rig.read(0, 8192).unwrap(), wanted);
    assert_eq!(rig.deallocate(0, 16), Status::SUCCESS);
    assert!(rig.read(0, 8192).unwrap().iter().all(|byte| *byte == 0) || !device.deallocates());
    drop(rig);
    drop(device);
    let large = UringDevice::open(&UringConfig::new("disk", &disk.path)).unwrap();
    assert_eq!(large.info().block_size, BlockSize::B4096);
}
