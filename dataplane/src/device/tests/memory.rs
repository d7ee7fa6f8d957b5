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
    for lba in (0..(256 << 20) >> 12).step_by(16 << 10 >> 2) {
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
