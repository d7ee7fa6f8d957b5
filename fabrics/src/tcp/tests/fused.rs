//! Fused operations: the halves run together or not at all (base 2.1 §3.4.2).

use nvme::{Cqe, Fuse, Sqe, Status};
use zerocopy::FromBytes;

use super::pipe::{FLUSH, Pair, T0, WRITE, read_command, write_command};
use crate::tcp::host::{HostData, HostParams};
use crate::tcp::target::TargetParams;

fn pair() -> Pair {
    let host = HostParams { in_capsule_data_size: 1000, ..HostParams::default() };
    let mut pair = Pair::new(host, TargetParams::default(), 1 << 16, None);
    pair.connect(32, true);
    pair
}

fn submit(pair: &mut Pair, sqe: Sqe, fuse: Fuse, len: usize, tag: u64) {
    let data = if len == 0 { HostData::None } else { HostData::ToController(vec![1; len]) };
    pair.host.submit(sqe.with_fuse(fuse), data, tag, T0).unwrap();
}

fn statuses(pair: &Pair) -> Vec<(u64, Status)> {
    pair.ends.completed.iter().map(|(tag, (status, ..))| (*tag, *status)).collect()
}

#[test]
fn halves_run_one_directly_after_the_other_though_data_comes_later() {
    let mut pair = pair();
    // The first half needs an R2T; the second has all it needs; a third command comes between the data.
    submit(&mut pair, write_command(0), Fuse::First, 8192, 1);
    submit(&mut pair, write_command(100), Fuse::Second, 500, 2);
    submit(&mut pair, Sqe::new(FLUSH, 0), Fuse::Normal, 0, 3);
    pair.settle();
    let order: Vec<u8> = pair.disk.executed.iter().map(|(sqe, _)| sqe.opcode).collect();
    assert_eq!(order, [FLUSH, WRITE, WRITE]);
    assert_eq!(pair.disk.executed[1].1.as_ref().map(Vec::len), Some(8192));
    assert_eq!(pair.disk.executed[2].1.as_ref().map(Vec::len), Some(500));
    assert_eq!(statuses(&pair), [1, 2, 3].map(|tag| (tag, Status::SUCCESS)));
}

#[test]
fn a_first_half_without_its_second_is_aborted() {
    for len in [500, 8192] {
        let mut pair = pair();
        submit(&mut pair, write_command(0), Fuse::First, len, 1);
        submit(&mut pair, Sqe::new(FLUSH, 0), Fuse::Normal, 0, 2);
        pair.settle();
        assert_eq!(statuses(&pair), [(1, Status::ABORTED_MISSING_FUSED), (2, Status::SUCCESS)]);
        assert_eq!(pair.disk.executed.len(), 1);
    }
}

#[test]
fn a_second_half_without_its_first_is_aborted() {
    let mut pair = pair();
    submit(&mut pair, write_command(0), Fuse::Second, 500, 1);
    submit(&mut pair, write_command(0), Fuse::Normal, 500, 2);
    pair.settle();
    assert_eq!(statuses(&pair), [(1, Status::ABORTED_MISSING_FUSED), (2, Status::SUCCESS)]);
}

#[test]
fn a_refused_half_takes_the_other_with_it() {
    for refused_first in [true, false] {
        let mut pair = pair();
        let too_long = (1 << 20) + 4;
        let lens = if refused_first { [too_long, 500] } else { [500, too_long] };
        submit(&mut pair, write_command(0), Fuse::First, lens[0], 1);
        submit(&mut pair, write_command(0), Fuse::Second, lens[1], 2);
        pair.settle();
        let failed = (Status::DATA_SGL_LENGTH_INVALID.dnr(), Status::ABORTED_FAILED_FUSED);
        let (first, second) = if refused_first { failed } else { (failed.1, failed.0) };
        assert_eq!(statuses(&pair), [(1, first), (2, second)]);
        assert!(pair.disk.executed.is_empty());
    }
}

#[test]
fn responses_of_a_turn_lie_next_to_each_other() {
    let mut pair = pair();
    for tag in 0..3 {
        submit(&mut pair, Sqe::new(FLUSH, 0), Fuse::Normal, 0, tag);
    }
    pair.host.submit(read_command(0, 8), HostData::FromController(vec![0; 8]), 3, T0).unwrap();
    let out = super::pipe::sent_by_host(&pair.host);
    let progress = pair.target.on_bytes(&out, T0, &mut pair.disk);
    assert_eq!(progress, crate::tcp::target::Progress::Consumed);
    let mut parts = arrayvec::ArrayVec::new();
    pair.target.gather(&mut parts);
    let lens: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!(lens, [3 * 24 + 24, 8, 24]);
    let cqe = Cqe::read_from_bytes(&parts[0][8..24]).unwrap();
    assert_eq!(cqe.status(), Status::SUCCESS);
}
