//! What the path of an I/O through a volume allocates: nothing for a read, next to nothing for a write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dataplane::device::memory::MemoryDevice;
use dataplane::device::{
    BlockSize, Device, DeviceRegistry, Done, Io, Lba, Op, Queue, QueueContext, Submission,
};
use dataplane::lvol::{CreateStore, StoreSet};
use dataplane::store::Settings;
use reactors::{DmaPool, LocalReactor, PoolConfig, ReactorsConfig};
use uuid::Uuid;

const BLOCK_BYTES: usize = 4096;
const VOLUME_BLOCKS: u64 = 4096;
const DEPTH: u64 = 16;

/// A volume of a store in memory, whose reactor is this thread.
fn volume(reactor: &mut LocalReactor) -> (DeviceRegistry, Arc<dyn Device>) {
    let devices = DeviceRegistry::default();
    let memory = MemoryDevice::new("base", BlockSize::B4096, 65_536, Uuid::new_v4()).expect("memory");
    devices.add(Arc::new(memory)).expect("added");
    let stores = StoreSet::new(devices.clone(), vec![reactor.handle()]);
    let made = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Control waits for the reactor, which turns here.
        scope.spawn(|| {
            let options = CreateStore {
                device: "base".into(),
                name: "s".into(),
                uuid: None,
                volumes_max: None,
                unmap: false,
                force: false,
            };
            let store = stores.create(&options).expect("a store");
            stores.create_volume(&store, "v", VOLUME_BLOCKS, None, Settings::default()).expect("a volume");
            made.store(true, Ordering::Release);
        });
        while !made.load(Ordering::Acquire) {
            reactor.turn();
        }
    });
    let volume = devices.get("s/v").expect("a device");
    (devices, volume)
}

/// Does so many I/Os of one block each, [`DEPTH`] at a time, all over the volume.
fn run(reactor: &mut LocalReactor, queue: &mut dyn Queue, pool: &DmaPool, count: u64, write: bool) {
    let mut done = Done::new();
    for batch in 0..count / DEPTH {
        let mut left = DEPTH;
        for tag in 0..DEPTH {
            let lba = Lba((batch * DEPTH + tag) * 257 % VOLUME_BLOCKS);
            let buffer = pool.alloc_io(BLOCK_BYTES).expect("a buffer");
            let op = if write { Op::Write { lba, buffer, fua: false } } else { Op::Read { lba, buffer } };
            match queue.submit(Io { tag, op }) {
                Submission::Done(io) => {
                    assert!(io.status.is_success(), "{}", io.status);
                    left -= 1;
                }
                Submission::Queued => {}
                Submission::Busy(_) => panic!("{DEPTH} fit"),
            }
        }
        while left > 0 {
            queue.kick();
            queue.poll(&mut done);
            for io in done.drain() {
                assert!(io.status.is_success(), "{}", io.status);
                left -= 1;
            }
            reactor.turn();
        }
    }
}

#[test]
fn a_read_of_a_volume_allocates_nothing_and_a_write_next_to_nothing() {
    const COUNT: u64 = 20_000;
    let buffers = PoolConfig { small_slots: 512, large_slots: 8, prefault: false };
    let mut reactor =
        LocalReactor::new(&ReactorsConfig { buffers, ..ReactorsConfig::default() }).expect("a reactor");
    let (_devices, volume) = volume(&mut reactor);
    let pool = reactor.with(|context| context.local().pool().clone());
    let mut queue = volume.open_queue(&QueueContext { pool: &pool, depth: 32 }).expect("a queue");
    // Everything that grows has grown, and what is read is there.
    run(&mut reactor, &mut *queue, &pool, 2 * VOLUME_BLOCKS, true);
    run(&mut reactor, &mut *queue, &pool, VOLUME_BLOCKS, false);
    let reads = allocation_counter::measure(|| run(&mut reactor, &mut *queue, &pool, COUNT, false));
    // Nothing of its own; a checkpoint of the writes before may end meanwhile.
    assert!(reads.count_total < COUNT / 400, "{} for {COUNT} reads", reads.count_total);
    let writes = allocation_counter::measure(|| run(&mut reactor, &mut *queue, &pool, COUNT, true));
    // A block of the log for some hundred records, and checkpoints.
    assert!(writes.count_total < COUNT / 10, "{} for {COUNT} writes", writes.count_total);
}
