//! Nothing is allocated for a read or a write of mapped blocks, nor for the commits in between.
//!
//! Checkpoints copy what they write; none begins while is counted.
#![allow(missing_docs, reason = "a test")]

use benches::store::Machine;

/// Blocks that are written, in two leaves of the map.
const BLOCKS: u64 = 512;
/// I/Os before counting: every list has reached its size, every block of the log and the device its memory.
const WARM_UP: u64 = 4_000;
/// I/Os counted.
const COUNTED: u64 = 4_000;
/// Times that a table or list that grows with what is written between two checkpoints may double while is counted.
const DOUBLINGS_MAX: u64 = 4;
/// Writes between two flushes.
const BATCH: u64 = 8;

fn machine() -> Machine {
    let mut machine = Machine::new(20_000, Some(8_192));
    write(&mut machine, WARM_UP);
    machine
}

fn write(machine: &mut Machine, count: u64) {
    for index in 0..count {
        machine.write(index * 7 % BLOCKS);
        if index % BATCH == 0 {
            machine.flush();
        }
    }
}

#[test]
fn reads_of_mapped_blocks_allocate_nothing() {
    let mut machine = machine();
    let read = |machine: &mut Machine| (0..COUNTED).for_each(|index| machine.read(index * 7 % BLOCKS));
    read(&mut machine);
    assert_eq!(allocation_counter::measure(|| read(&mut machine)).count_total, 0);
}

#[test]
fn writes_of_mapped_blocks_and_their_commits_allocate_nothing_but_what_the_device_keeps() {
    let mut machine = machine();
    let before = machine.media.written();
    let counted = allocation_counter::measure(|| write(&mut machine, COUNTED)).count_total;
    // The device takes memory for each block of the log that is written for the first time.
    let kept = (machine.media.written() - before) as u64;
    assert!(kept > 0, "commits write the log");
    assert!(counted <= kept + DOUBLINGS_MAX, "{counted} allocations, {kept} blocks");
}
