//! No I/O allocates: neither the target nor the host, from the socket to the device and back.
//!
//! The counter is per thread, and target, host and device run in this one, so nothing else can disturb the count.
#![allow(missing_docs, reason = "a test")]

use std::sync::Arc;

use benches::loopback::Loopback;
use benches::machines::Kind;
use dataplane::device::memory::MemoryDevice;
use dataplane::device::{BlockSize, Device};
use uuid::Uuid;

/// I/Os before counting: every list has reached its size, every block its memory.
const WARM_UP: u64 = 3_000;
/// I/Os counted: one allocation in a few thousand would show.
const COUNTED: u64 = 10_000;

fn device() -> Arc<dyn Device> {
    let device = MemoryDevice::new("m0", BlockSize::B4096, 1024, Uuid::from_u128(7));
    Arc::new(device.unwrap_or_else(|error| panic!("{error}")))
}

fn allocations(depth: u16, digests: bool, kind: Kind) -> u64 {
    let mut target = Loopback::new(device());
    let mut lane = target.connect(depth, digests);
    target.run(&mut lane, Kind::Write, WARM_UP);
    target.run(&mut lane, kind, WARM_UP);
    allocation_counter::measure(|| target.run(&mut lane, kind, COUNTED)).count_total
}

#[test]
fn a_counter_that_counts_nothing_would_be_noticed() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(7))));
    assert_eq!(counted.count_total, 1);
}

#[test]
fn reads_of_4_kib_allocate_nothing_at_any_depth() {
    for depth in [1, 32, 127] {
        assert_eq!(allocations(depth, false, Kind::Read), 0, "depth {depth}");
    }
}

#[test]
fn writes_of_4_kib_allocate_nothing_at_any_depth() {
    for depth in [1, 32, 127] {
        assert_eq!(allocations(depth, false, Kind::Write), 0, "depth {depth}");
    }
}

#[test]
fn digests_allocate_nothing() {
    for kind in [Kind::Read, Kind::Write] {
        assert_eq!(allocations(32, true, kind), 0, "{kind:?}");
    }
}
