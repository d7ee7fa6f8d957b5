//! What only the memory and null devices promise.

use std::sync::atomic::{AtomicBool, Ordering};

use nvme::Status;
use uuid::Uuid;

use super::rig::Rig;
use crate::device::memory::MemoryDevice;
use crate::device::null::NullDevice;
use crate::device::{BlockSize, Device, DeviceError, Lba, Op, OpKind};

fn memory(bytes: u64) -> MemoryDevice {
    MemoryDevice::new("memory", BlockSize::B4096, bytes >> 12, Uuid::nil()).unwrap()
}

#[test]
fn only_what_was_written_takes_memory_and_deallocation_gives_it_back() {
    let device = memory(1 << 30);
    let mut rig = Rig::new(&device);
    assert_eq!(rig.read(0, 1 << 20).unwrap(), vec![0; 1 << 20]);
    assert_eq!(device.bytes_allocated(), 0);
    assert_eq!(rig.write(15, &[7; 8192]), Status::SUCCESS);
    assert_eq!(device.bytes_allocated(), 128 << 10);
    assert_eq!(rig.deallocate(0, 16), Status::SUCCESS);
    assert_eq!(device.bytes_allocated(), 64 << 10);
    assert_eq!(rig.zero(16, 16, false), Status::SUCCESS);
    assert_eq!(device.bytes_allocated(), 0);
    assert_eq!(rig.read(15, 8192).unwrap(), vec![0; 8192]);
}

#[test]
fn zeroing_much_is_done_in_steps_and_keeps_the_reactor_awake() {
    let device = memory(256 << 20);
    let mut rig = Rig::new(&device);
    for lba in (0..(256 << 20) >> 12).step_by(2 << 20 >> 12) {
        assert_eq!(rig.write(lba, &[9; 4096]), Status::SUCCESS);
    }
    let blocks = u32::try_from(device.info().blocks).unwrap();
    let zero = Op::WriteZeroes { lba: Lba(0), blocks, deallocate: false, fua: false };
    assert!(rig.submit(5, zero).is_none());
    assert!(!rig.queue.before_sleep());
    assert_eq!(rig.queue.in_flight(), 1);
    let done = rig.wait();
    assert_eq!((done[0].tag, done[0].status), (5, Status::SUCCESS));
    assert_eq!(device.bytes_allocated(), 0);
    assert_eq!(device.counters().of(OpKind::WriteZeroes).bytes, 256 << 20);
}

#[test]
fn a_read_sees_all_or_nothing_of_a_write_however_long() {
    let device = memory(1 << 20);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..3u8)
            .map(|seed| {
                let (device, stop) = (&device, &stop);
                scope.spawn(move || {
                    let mut rig = Rig::new(device);
                    while !stop.load(Ordering::Relaxed) {
                        assert_eq!(rig.write(8, &[seed; 200 << 10]), Status::SUCCESS);
                    }
                })
            })
            .collect();
        let mut rig = Rig::new(&device);
        let torn = (0..100).any(|_| {
            let bytes = rig.read(8, 200 << 10).unwrap();
            bytes.iter().any(|byte| *byte != bytes[0])
        });
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert!(!torn, "a read saw part of a write");
    });
}

#[test]
fn what_was_written_is_lent_without_a_copy_and_counts_as_a_read() {
    let device = memory(4 << 20);
    let mut rig = Rig::new(&device);
    assert!(rig.queue.lend(Lba(0), 4096).is_none(), "nothing is there to lend");
    assert_eq!(rig.write(511, &[7; 4096]), Status::SUCCESS);
    let lent = rig.queue.lend(Lba(510), 8192).unwrap();
    assert!(lent.is_lent());
    assert_eq!(lent.as_contiguous(), Some(&[[0; 4096], [7; 4096]].concat()[..]));
    let again = rig.queue.lend(Lba(511), 4096).unwrap();
    assert_eq!(again.part(0).as_ptr(), lent.part(0)[4096..].as_ptr(), "the same bytes");
    let reads = *device.counters().of(OpKind::Read);
    assert_eq!((reads.operations, reads.bytes), (2, 12 << 10));
}

#[test]
fn what_is_only_expected_changes_nothing() {
    let device = memory(4 << 20);
    let mut rig = Rig::new(&device);
    for (lba, bytes) in
        [(0, 4096), (1023, 4096), (1024, 4096), (u64::MAX, 8192), (0, 1), (511, 8192), (0, 1 << 30)]
    {
        rig.queue.expect_write(Lba(lba), bytes);
    }
    assert_eq!(device.bytes_allocated(), 0);
    assert_eq!(rig.write(0, &[1; 1 << 20]), Status::SUCCESS);
    rig.queue.expect_write(Lba(0), 4096);
    rig.queue.expect_write(Lba(511), 8192);
    assert_eq!(rig.read(0, 4096).unwrap(), [1; 4096]);
    assert_eq!(device.counters().of(OpKind::Write).operations, 1);
}

#[test]
fn a_write_that_was_taken_over_is_seen_by_all_that_comes_after_it() {
    let device = memory(4 << 20);
    let (mut rig, mut other) = (Rig::new(&device), Rig::new(&device));
    assert_eq!(rig.write(0, &[1; 128 << 10]), Status::SUCCESS);
    let buffer = rig.buffer(&[2; 4096]);
    assert!(rig.queue.take_over(Lba(1), buffer).is_ok());
    rig.queue.kick();
    assert_eq!(rig.queue.in_flight(), 1);
    assert!(other.queue.lend(Lba(1), 4096).is_none());
    let buffer = other.buffer(&[0; 8192]);
    assert!(other.submit(1, Op::Read { lba: Lba(0), buffer }).is_none(), "it waits");
    let buffer = other.buffer(&[3; 4096]);
    assert!(other.submit(2, Op::Write { lba: Lba(0), buffer, fua: false }).is_none(), "it waits");
    assert!(!other.queue.before_sleep(), "nothing would wake it");
    assert_eq!(other.read(16, 4096).unwrap(), [1; 4096], "another chunk");
    rig.queue.kick();
    assert_eq!(rig.queue.in_flight(), 0);
    let done: Vec<_> = other.wait().iter().map(|done| (done.tag, done.status)).collect();
    assert_eq!(done, [(1, Status::SUCCESS), (2, Status::SUCCESS)]);
    assert_eq!(other.read(0, 8192).unwrap(), [[3; 4096], [2; 4096]].concat());
    let writes = *device.counters().of(OpKind::Write);
    assert_eq!((writes.operations, writes.bytes), (3, (128 << 10) + 8192));
}

#[test]
fn a_queue_carries_out_what_it_took_over_before_anything_else_and_before_it_sleeps_or_goes() {
    type After = fn(Rig);
    let afters: [After; 6] = [
        |mut rig| assert_eq!(rig.queue.lend(Lba(0), 4096).unwrap().part(0), [2; 4096]),
        |mut rig| assert_eq!(rig.read(0, 4096).unwrap(), [2; 4096]),
        |mut rig| assert_eq!(rig.write(0, &[2; 4096]), Status::SUCCESS),
        |mut rig| assert!(rig.queue.take_over(Lba(8), rig.buffer(&[1; 4096])).is_ok()),
        |mut rig| assert!(rig.queue.before_sleep()),
        drop,
    ];
    let device = memory(4 << 20);
    for after in afters {
        let mut rig = Rig::new(&device);
        assert_eq!(rig.write(0, &[1; 64 << 10]), Status::SUCCESS);
        let buffer = rig.buffer(&[2; 4096]);
        assert!(rig.queue.take_over(Lba(0), buffer).is_ok());
        after(rig);
        assert_eq!(Rig::new(&device).read(0, 4096).unwrap(), [2; 4096]);
    }
}

#[test]
fn writes_that_are_long_or_to_new_or_lent_or_no_blocks_are_not_taken_over() {
    let device = memory(4 << 20);
    let mut rig = Rig::new(&device);
    assert!(rig.queue.take_over(Lba(0), rig.buffer(&[1; 4096])).is_err(), "new");
    assert_eq!(rig.write(0, &[1; 64 << 10]), Status::SUCCESS);
    assert!(rig.queue.take_over(Lba(16), rig.buffer(&[1; 4096])).is_err(), "new");
    assert!(rig.queue.take_over(Lba(0), rig.buffer(&[1; 12 << 10])).is_err(), "long");
    assert!(rig.queue.take_over(Lba(1024), rig.buffer(&[1; 4096])).is_err(), "beyond the end");
    let lent = rig.queue.lend(Lba(0), 4096).unwrap();
    let refused = rig.queue.take_over(Lba(1), rig.buffer(&[9; 4096])).unwrap_err();
    assert_eq!(refused.as_contiguous(), Some(&[9; 4096][..]), "the buffer comes back");
    drop(lent);
    assert_eq!(rig.queue.in_flight(), 0);
    assert_eq!(rig.read(0, 8192).unwrap(), [1; 8192]);
    assert_eq!(device.counters().of(OpKind::Write).operations, 1);
}

#[test]
fn ranges_that_do_not_lie_together_or_at_all_are_not_lent() {
    let device = memory(4 << 20);
    let mut rig = Rig::new(&device);
    assert_eq!(rig.write(0, &[7; 1 << 20]), Status::SUCCESS);
    assert_eq!(rig.write(512, &[7; 1 << 20]), Status::SUCCESS);
    for (lba, bytes) in [(511, 8192), (1024, 4096), (1023, 8192), (u64::MAX, 4096), (0, 512)] {
        assert!(rig.queue.lend(Lba(lba), bytes).is_none(), "{bytes} bytes from {lba}");
    }
    assert_eq!(rig.read(511, 8192).unwrap(), [[0; 4096], [7; 4096]].concat());
}

#[test]
fn writing_and_zeroing_wait_for_lent_bytes_and_for_nothing_else() {
    let device = memory(4 << 20);
    let mut rig = Rig::new(&device);
    assert_eq!(rig.write(0, &[1; 128 << 10]), Status::SUCCESS);
    let lent = rig.queue.lend(Lba(1), 4096).unwrap();
    let buffer = rig.buffer(&[2; 4096]);
    assert!(rig.submit(1, Op::Write { lba: Lba(1), buffer, fua: false }).is_none());
    assert!(rig.submit(2, Op::Deallocate { lba: Lba(0), blocks: 32 }).is_none());
    assert_eq!(rig.write(16, &[3; 4096]), Status::SUCCESS, "another chunk");
    assert!(!rig.queue.before_sleep(), "nothing would wake it");
    assert_eq!(rig.queue.in_flight(), 2);
    assert_eq!(rig.read(1, 4096).unwrap(), [1; 4096]);
    assert!(rig.queue.lend(Lba(2), 4096).is_none(), "a writer waits: it is not to wait for ever");
    assert_eq!(lent.as_contiguous(), Some(&[1; 4096][..]));
    drop(lent);
    let done: Vec<_> = rig.wait().iter().map(|done| (done.tag, done.status)).collect();
    assert_eq!(done, [(1, Status::SUCCESS), (2, Status::SUCCESS)]);
    assert_eq!(rig.read(0, 128 << 10).unwrap(), vec![0; 128 << 10]);
    assert_eq!(device.bytes_allocated(), 0);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let none = MemoryDevice::new("none", BlockSize::B512, 0, Uuid::nil()).map(|_| ());
    assert!(matches!(none, Err(DeviceError::Empty { .. })));
    let huge = MemoryDevice::new("huge", BlockSize::B512, u64::MAX >> 10, Uuid::nil()).map(|_| ());
    assert!(matches!(huge, Err(DeviceError::TooLarge { .. })));
    assert!(matches!(BlockSize::try_from(520), Err(DeviceError::BlockSize { bytes: 520 })));
}

#[test]
fn a_resized_null_device_heeds_its_new_size() {
    let device = NullDevice::new("null", BlockSize::B512, 8, Uuid::nil()).unwrap();
    let mut rig = Rig::new(&device);
    assert_eq!(rig.write(8, &[0; 512]), Status::LBA_OUT_OF_RANGE.dnr());
    device.resize(9).unwrap();
    assert_eq!(rig.write(8, &[0; 512]), Status::SUCCESS);
    assert!(matches!(memory(1 << 20).resize(9), Err(DeviceError::FixedSize { .. })));
}

#[test]
fn data_that_is_no_whole_number_of_blocks_is_refused() {
    let device = memory(1 << 20);
    let mut rig = Rig::new(&device);
    assert_eq!(rig.write(0, &[0; 512]), Status::DATA_SGL_LENGTH_INVALID.dnr());
}
