//! Compare and Write.

use std::sync::atomic::Ordering;

use fabrics::NS_PER_S;
use nvme::nvm::ReadWrite;
use nvme::{Fuse, Lba, Nsid, Sqe, Status};

use super::io::{pattern, read, sized, write};
use super::lab::{BLOCKS, Dial, HeldDevice, Host, Lab};

const NS: Nsid = Nsid(1);

fn first(lba: u64, blocks: u32) -> Sqe {
    sized(ReadWrite::compare(NS, Lba(lba), blocks)).with_fuse(Fuse::First)
}

fn second(lba: u64, blocks: u32) -> Sqe {
    sized(ReadWrite::write(NS, Lba(lba), blocks)).with_fuse(Fuse::Second)
}

fn pair(lab: &mut Lab, host: &mut Host, lba: u64, expected: &[u8], new: &[u8]) -> (Status, Status) {
    let blocks = u32::try_from(expected.len() / 512).unwrap();
    let one = lab.start(&mut host.io, first(lba, blocks), Some(expected));
    let two = lab.start(&mut host.io, second(lba, blocks), Some(new));
    (lab.finish(&host.io, one).status, lab.finish(&host.io, two).status)
}

#[test]
fn a_pair_writes_only_when_the_comparison_holds() {
    let mut lab = Lab::new(2);
    let mut host = lab.host_on(1, 0, 1);
    assert_eq!(write(&mut lab, &mut host, 9, &pattern(1, 1)), Status::SUCCESS);
    let held = pair(&mut lab, &mut host, 9, &pattern(1, 1), &pattern(2, 1));
    assert_eq!(held, (Status::SUCCESS, Status::SUCCESS));
    assert_eq!(read(&mut lab, &mut host, 9, 1), Ok(pattern(2, 1)));
    let failed = pair(&mut lab, &mut host, 9, &pattern(1, 1), &pattern(3, 1));
    assert_eq!(failed, (Status::COMPARE_FAILURE, Status::ABORTED_FAILED_FUSED));
    assert_eq!(read(&mut lab, &mut host, 9, 1), Ok(pattern(2, 1)));
    assert_eq!(write(&mut lab, &mut host, 9, &pattern(4, 1)), Status::SUCCESS);
}

#[test]
fn broken_pairs_end_with_the_status_of_each_half() {
    let mut lab = Lab::new(1);
    let mut host = lab.host(1);
    let one = pattern(0, 1);
    let alone = lab.status(&mut host.io, second(0, 1), Some(&one));
    assert_eq!(alone, Status::ABORTED_MISSING_FUSED);
    let lost = lab.start(&mut host.io, first(0, 1), Some(&one));
    let next = lab.start(&mut host.io, first(1, 1), Some(&one));
    assert_eq!(lab.finish(&host.io, lost).status, Status::ABORTED_MISSING_FUSED);
    lab.advance(3 * NS_PER_S);
    assert_eq!(lab.finish(&host.io, next).status, Status::ABORTED_MISSING_FUSED);
    let bad =
        lab.status(&mut host.io, sized(ReadWrite::write(NS, Lba(0), 1)).with_fuse(Fuse::First), Some(&one));
    assert_eq!(bad, Status::INVALID_OPCODE.dnr());
    let range = lab.start(&mut host.io, first(0, 1), Some(&one));
    assert_eq!(lab.status(&mut host.io, second(1, 1), Some(&one)), Status::ABORTED_FAILED_FUSED);
    assert_eq!(lab.finish(&host.io, range).status, Status::INVALID_FIELD.dnr());
    let large = pair(&mut lab, &mut host, 0, &pattern(0, 2), &pattern(0, 2));
    assert_eq!(large, (Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr(), Status::ABORTED_FAILED_FUSED));
    let beyond = pair(&mut lab, &mut host, BLOCKS, &one, &one);
    assert_eq!(beyond, (Status::LBA_OUT_OF_RANGE.dnr(), Status::ABORTED_FAILED_FUSED));
}

#[test]
fn a_pair_waits_for_writes_in_flight_on_every_reactor_and_later_ones_wait_for_it() {
    let (device, gate) = HeldDevice::create("h0");
    let mut lab = Lab::with_device(2, device);
    let mut near = lab.host_on(1, 0, 0);
    let (mut far, _) = lab.dial(&Dial { reactor: 1, ..Dial::io(1, near.cntlid, 2) });
    let early = lab.start(&mut far, sized(ReadWrite::write(NS, Lba(0), 1)), Some(&pattern(1, 1)));
    let one = lab.start(&mut near.io, first(0, 1), Some(&pattern(1, 1)));
    let two = lab.start(&mut near.io, second(0, 1), Some(&pattern(2, 1)));
    lab.settle();
    assert_eq!(gate.submitted.load(Ordering::Relaxed), 1);
    let late = lab.start(&mut far, sized(ReadWrite::write(NS, Lba(0), 1)), Some(&pattern(3, 1)));
    let aside = lab.start(&mut far, sized(ReadWrite::write(NS, Lba(1), 1)), Some(&pattern(4, 1)));
    lab.settle();
    assert_eq!(gate.submitted.load(Ordering::Relaxed), 2);
    gate.open.store(true, Ordering::Relaxed);
    for id in [early, late, aside] {
        assert_eq!(lab.finish(&far, id).status, Status::SUCCESS);
    }
    assert_eq!(lab.finish(&near.io, one).status, Status::SUCCESS);
    assert_eq!(lab.finish(&near.io, two).status, Status::SUCCESS);
    assert_eq!(read(&mut lab, &mut near, 0, 1), Ok(pattern(3, 1)));
}
