//! I/O commands: what they do, and every way they are refused.

use std::sync::atomic::Ordering;

use nvme::nvm::{DatasetManagement, Flush, Range, ReadWrite};
use nvme::zerocopy::IntoBytes;
use nvme::{Lba, Nsid, SglDescriptor, Sqe, Status, U32, U64, opcode};

use super::lab::{BLOCK, BLOCKS, HeldDevice, Host, Lab, memory, subsystem};
use crate::target::NamespaceOptions;

const NS: Nsid = Nsid(1);

pub(super) fn sized(command: ReadWrite) -> Sqe {
    let length = command.nlb * u32::try_from(BLOCK).unwrap();
    command.to_sqe(7).with_sgl(SglDescriptor::Transport { length })
}

pub(super) fn write(lab: &mut Lab, host: &mut Host, lba: u64, data: &[u8]) -> Status {
    let blocks = u32::try_from(data.len() / BLOCK).unwrap();
    lab.status(&mut host.io, sized(ReadWrite::write(NS, Lba(lba), blocks)), Some(data))
}

pub(super) fn read(lab: &mut Lab, host: &mut Host, lba: u64, blocks: u32) -> Result<Vec<u8>, Status> {
    let bytes = blocks * u32::try_from(BLOCK).unwrap();
    lab.fetch(&mut host.io, ReadWrite::read(NS, Lba(lba), blocks).to_sqe(7), bytes)
}

pub(super) fn pattern(seed: u8, blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK).map(|at| seed.wrapping_add(u8::try_from(at % 251).unwrap())).collect()
}

#[test]
fn what_is_written_is_read_back() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let data = pattern(3, 16);
    assert_eq!(write(&mut lab, &mut host, 100, &data), Status::SUCCESS);
    assert_eq!(read(&mut lab, &mut host, 100, 16), Ok(data.clone()));
    assert_eq!(read(&mut lab, &mut host, 108, 1), Ok(data[8 * BLOCK..9 * BLOCK].to_vec()));
    let fua = sized(ReadWrite::write(NS, Lba(100), 1).with_fua());
    assert_eq!(lab.status(&mut host.io, fua, Some(&pattern(9, 1))), Status::SUCCESS);
    assert_eq!(read(&mut lab, &mut host, 100, 1), Ok(pattern(9, 1)));
}

#[test]
fn flush_reaches_one_namespace_or_all() {
    let (device, gate) = HeldDevice::create("h0");
    gate.open.store(true, Ordering::Relaxed);
    let mut lab = Lab::with_device(1, device);
    let (second, second_gate) = HeldDevice::create("h1");
    second_gate.open.store(true, Ordering::Relaxed);
    lab.control(|target| target.add_namespace(&subsystem(), NamespaceOptions::new(second)).unwrap());
    let mut host = lab.host(1);
    assert_eq!(lab.status(&mut host.io, Flush { nsid: NS }.to_sqe(1), None), Status::SUCCESS);
    let one = (gate.submitted.load(Ordering::Relaxed), second_gate.submitted.load(Ordering::Relaxed));
    assert_eq!(one, (1, 0));
    assert_eq!(lab.status(&mut host.io, Flush { nsid: Nsid::ALL }.to_sqe(1), None), Status::SUCCESS);
    let all = (gate.submitted.load(Ordering::Relaxed), second_gate.submitted.load(Ordering::Relaxed));
    assert_eq!(all, (2, 1));
}

#[test]
fn zeroed_and_deallocated_blocks_read_as_zeroes() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    assert_eq!(write(&mut lab, &mut host, 0, &pattern(1, 64)), Status::SUCCESS);
    let mut zero = ReadWrite::write_zeroes(NS, Lba(8), 8);
    assert_eq!(lab.status(&mut host.io, zero.to_sqe(1), None), Status::SUCCESS);
    zero.deac = true;
    zero.slba = Lba(16);
    assert_eq!(lab.status(&mut host.io, zero.to_sqe(1), None), Status::SUCCESS);
    assert_eq!(read(&mut lab, &mut host, 8, 16), Ok(vec![0; 16 * BLOCK]));
    let ranges: Vec<Range> = [(32, 4), (0, 0), (40, 8)]
        .map(|(slba, nlb)| Range { slba: U64::new(slba), nlb: U32::new(nlb), ..Range::default() })
        .into();
    let sqe = DatasetManagement::deallocate(NS, 3).to_sqe(1);
    assert_eq!(lab.status(&mut host.io, sqe, Some(ranges.as_bytes())), Status::SUCCESS);
    let found = read(&mut lab, &mut host, 32, 16).unwrap();
    let written = pattern(1, 64);
    assert_eq!(found[4 * BLOCK..8 * BLOCK], written[36 * BLOCK..40 * BLOCK]);
    assert_eq!(found[8 * BLOCK..], vec![0; 8 * BLOCK]);
}

#[test]
fn compare_tells_equal_from_different() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let data = pattern(5, 4);
    assert_eq!(write(&mut lab, &mut host, 7, &data), Status::SUCCESS);
    let sqe = sized(ReadWrite::compare(NS, Lba(7), 4));
    assert_eq!(lab.status(&mut host.io, sqe, Some(&data)), Status::SUCCESS);
    let mut other = data;
    other[2047] ^= 1;
    assert_eq!(lab.status(&mut host.io, sqe, Some(&other)), Status::COMPARE_FAILURE);
}

#[test]
fn verify_reads_what_is_there_and_refuses_what_is_not() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let whole = ReadWrite::verify(NS, Lba(0), u32::try_from(BLOCKS).unwrap()).to_sqe(1);
    assert_eq!(lab.status(&mut host.io, whole, None), Status::SUCCESS);
    let beyond = ReadWrite::verify(NS, Lba(BLOCKS - 1), 2).to_sqe(1);
    assert_eq!(lab.status(&mut host.io, beyond, None), Status::LBA_OUT_OF_RANGE.dnr());
}

#[test]
fn commands_are_refused_with_the_status_the_specification_names() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let one = pattern(1, 1);
    let last = Lba(BLOCKS);
    let short = ReadWrite::read(NS, Lba(0), 2).to_sqe(1).with_sgl(SglDescriptor::Transport { length: 512 });
    let mut protected = ReadWrite::write(NS, Lba(0), 1);
    protected.prinfo = 1;
    let mut directive = ReadWrite::write(NS, Lba(0), 1);
    directive.dtype = 1;
    let range = Range { slba: U64::new(BLOCKS), nlb: U32::new(1), ..Range::default() };
    let gone = Status::INVALID_NAMESPACE_OR_FORMAT.dnr();
    let length = Status::DATA_SGL_LENGTH_INVALID.dnr();
    let invalid = Status::INVALID_FIELD.dnr();
    let table: [(&str, Sqe, Option<&[u8]>, Status); 19] = [
        ("read beyond the end", sized(ReadWrite::read(NS, last, 1)), None, Status::LBA_OUT_OF_RANGE.dnr()),
        (
            "read over the end",
            sized(ReadWrite::read(NS, Lba(BLOCKS - 1), 2)),
            None,
            Status::LBA_OUT_OF_RANGE.dnr(),
        ),
        (
            "read that wraps",
            sized(ReadWrite::read(NS, Lba(u64::MAX), 1)),
            None,
            Status::LBA_OUT_OF_RANGE.dnr(),
        ),
        (
            "write beyond the end",
            sized(ReadWrite::write(NS, last, 1)),
            Some(&one),
            Status::LBA_OUT_OF_RANGE.dnr(),
        ),
        (
            "zero beyond the end",
            sized(ReadWrite::write_zeroes(NS, last, 1)),
            None,
            Status::LBA_OUT_OF_RANGE.dnr(),
        ),
        (
            "compare beyond the end",
            sized(ReadWrite::compare(NS, last, 1)),
            Some(&one),
            Status::LBA_OUT_OF_RANGE.dnr(),
        ),
        (
            "deallocate beyond the end",
            DatasetManagement::deallocate(NS, 1).to_sqe(1),
            Some(range.as_bytes()),
            Status::LBA_OUT_OF_RANGE.dnr(),
        ),
        ("namespace 0", sized(ReadWrite::read(Nsid(0), Lba(0), 1)), None, gone),
        ("inactive namespace", sized(ReadWrite::read(Nsid(2), Lba(0), 1)), None, gone),
        ("no such namespace", sized(ReadWrite::read(Nsid(5000), Lba(0), 1)), None, gone),
        ("broadcast read", sized(ReadWrite::read(Nsid::ALL, Lba(0), 1)), None, gone),
        ("short SGL", short, None, length),
        ("write without data", sized(ReadWrite::write(NS, Lba(0), 1)), None, length),
        ("write with too much data", sized(ReadWrite::write(NS, Lba(0), 1)), Some(&pattern(0, 2)), length),
        ("deallocate without data", DatasetManagement::deallocate(NS, 1).to_sqe(1), None, length),
        ("protection information", sized(protected), Some(&one), invalid),
        ("directive", sized(directive), Some(&one), invalid),
        ("more than MDTS", sized(ReadWrite::read(NS, Lba(0), 257)), None, invalid),
        ("unknown opcode", Sqe::new(opcode::io::COPY, 1), None, Status::INVALID_OPCODE.dnr()),
    ];
    for (name, sqe, data, wanted) in table {
        assert_eq!(lab.status(&mut host.io, sqe, data), wanted, "{name}");
    }
    assert_eq!(read(&mut lab, &mut host, 0, 1), Ok(vec![0; BLOCK]));
}

#[test]
fn a_full_device_delays_commands_and_loses_none() {
    let (device, gate) = HeldDevice::create("h0");
    gate.room.store(2, Ordering::Relaxed);
    let mut lab = Lab::with_device(1, device);
    let mut host = lab.host(1);
    let sqes: Vec<Sqe> = (0..5).map(|lba| sized(ReadWrite::write(NS, Lba(lba), 1))).collect();
    let data = pattern(4, 5);
    let ids: Vec<u32> = (0..5)
        .map(|at| lab.start(&mut host.io, sqes[at], Some(&data[at * BLOCK..(at + 1) * BLOCK])))
        .collect();
    lab.settle();
    assert_eq!(gate.submitted.load(Ordering::Relaxed), 2);
    gate.open.store(true, Ordering::Relaxed);
    for id in ids {
        assert_eq!(lab.finish(&host.io, id).status, Status::SUCCESS);
    }
    assert_eq!(read(&mut lab, &mut host, 0, 5), Ok(data));
}

#[test]
fn reads_wait_for_buffers_and_come_when_some_are_free() {
    let (device, gate) = HeldDevice::create("h0");
    let mut lab = Lab::with_device(1, device);
    let mut host = lab.host(1);
    let sqe = sized(ReadWrite::read(NS, Lba(0), 256));
    let ids: Vec<u32> = (0..20).map(|_| lab.start(&mut host.io, sqe, None)).collect();
    lab.settle();
    assert_eq!(gate.submitted.load(Ordering::Relaxed), 16);
    gate.open.store(true, Ordering::Relaxed);
    for id in ids {
        assert_eq!(lab.finish(&host.io, id).status, Status::SUCCESS);
    }
}

#[test]
fn commands_and_their_latencies_are_counted() {
    let (device, gate) = HeldDevice::create("h0");
    let mut lab = Lab::with_device(1, device);
    let mut host = lab.host(1);
    let id = lab.start(&mut host.io, sized(ReadWrite::read(NS, Lba(0), 8)), None);
    lab.advance(1_000_000);
    gate.open.store(true, Ordering::Relaxed);
    assert_eq!(lab.finish(&host.io, id).status, Status::SUCCESS);
    assert_eq!(write(&mut lab, &mut host, 0, &pattern(0, 2)), Status::SUCCESS);
    assert_eq!(write(&mut lab, &mut host, BLOCKS, &pattern(0, 2)), Status::LBA_OUT_OF_RANGE.dnr());
    let stats = lab.target.stats();
    let counters = stats.namespaces[0].counters;
    assert_eq!((counters.read_commands, counters.read_bytes, counters.read_ns_total), (1, 4096, 1_000_000));
    assert_eq!((counters.write_commands, counters.written_bytes, counters.errors), (1, 1024, 1));
    assert!(stats.namespaces[0].read_latency.quantile_ns(0.99) > 1_000_000);
    assert_eq!((stats.reactors[0].io_queues, stats.reactors[0].admin_queues), (1, 1));
}

#[test]
fn namespaces_on_more_devices_are_independent() {
    let mut lab = Lab::new(1);
    let nsid = lab.control(|target| target.add_namespace(&subsystem(), NamespaceOptions::new(memory("m1"))));
    assert_eq!(nsid.unwrap(), Nsid(2));
    let mut host = lab.host(1);
    assert_eq!(write(&mut lab, &mut host, 0, &pattern(1, 1)), Status::SUCCESS);
    let other = lab.fetch(&mut host.io, ReadWrite::read(Nsid(2), Lba(0), 1).to_sqe(1), 512);
    assert_eq!(other, Ok(vec![0; BLOCK]));
}
