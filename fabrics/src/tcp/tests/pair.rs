//! Host and target against each other: right data, each command once, whatever they agree on and however bytes are cut.

use nvme::{Sqe, Status};
use proptest::prelude::*;

use super::pipe::{Dice, FLUSH, Pair, READ, T0, WRITE, read_command, sent_by_target, write_command};
use crate::tcp::host::{HostData, HostParams};
use crate::tcp::target::{Progress, TargetConn, TargetParams};
use crate::tcp::{CloseReason, ConnState};

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).unwrap()
}

#[derive(Clone, Debug)]
struct Setup {
    host: HostParams,
    target: TargetParams,
    depth: u16,
    sq_flow_control: bool,
    sizes: Vec<usize>,
    seed: u64,
}

prop_compose! {
    fn setups()(
        digests in any::<(bool, bool)>(),
        (cpda, hpda) in (0u8..=31, 0u8..=31),
        (max_r2t_host, max_r2t_target) in (1u8..=16, 1u8..=16),
        in_capsule in prop_oneof![Just(0u32), Just(512), Just(4096), Just(8192), Just(65536)],
        max_h2c_data in prop_oneof![Just(4096u32), Just(8192), Just(131_072)],
        r2t_length in prop_oneof![Just(4096u32), Just(10_000), Just(u32::MAX)],
        depth in 2u16..20,
        sq_flow_control in any::<bool>(),
        sizes in proptest::collection::vec(prop_oneof![
            1usize..600, Just(512), Just(4096), 4000usize..12_000, Just(131_072), 1usize..50_000
        ], 1..14),
        seed in any::<u64>(),
    ) -> Setup {
        let (header_digest, data_digest) = digests;
        Setup {
            host: HostParams {
                depth: depth - 1, in_capsule_data_size: in_capsule, hpda, max_r2t: max_r2t_host,
                header_digest, data_digest, ..HostParams::default()
            },
            target: TargetParams {
                in_capsule_data_size: in_capsule, max_h2c_data, max_r2t: max_r2t_target, r2t_length, cpda,
                ..TargetParams::default()
            },
            depth, sq_flow_control, sizes, seed,
        }
    }
}

/// Runs the commands that `command` gives for each number below `count`; those that the target interrupts for want of
/// buffers run again, as a host does.
fn run_all(
    pair: &mut Pair,
    count: usize,
    command: impl Fn(usize) -> (Sqe, HostData<Vec<u8>>),
) -> Vec<Option<Vec<u8>>> {
    let mut left: Vec<usize> = (0..count).collect();
    let mut data = vec![None; count];
    while !left.is_empty() {
        for &n in &left {
            while pair.host.is_full() {
                assert!(pair.turn());
            }
            let (sqe, data) = command(n);
            pair.host.submit(sqe, data, n as u64, T0).unwrap();
        }
        pair.settle();
        assert_eq!(pair.ends.completed.len(), left.len());
        left.clear();
        for (tag, (status, _, buffer)) in std::mem::take(&mut pair.ends.completed) {
            let n = usize::try_from(tag).unwrap();
            if status.is(Status::COMMAND_INTERRUPTED) {
                left.push(n);
            } else {
                assert_eq!(status, Status::SUCCESS);
                data[n] = buffer;
            }
        }
    }
    assert!(pair.ends.failed.is_empty());
    data
}

/// Writes every size, flushes, reads it back.
fn run(setup: &Setup) -> Pair {
    let total: usize = setup.sizes.iter().sum();
    let mut pair = Pair::new(setup.host, setup.target, total, Some(setup.seed));
    pair.connect(setup.depth, setup.sq_flow_control);
    let mut dice = Dice::new(setup.seed ^ 77);
    let pattern: Vec<u8> = (0..total).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
    let starts: Vec<usize> = (0..setup.sizes.len()).map(|n| setup.sizes[..n].iter().sum()).collect();
    let part = |n: usize| pattern[starts[n]..starts[n] + setup.sizes[n]].to_vec();
    run_all(&mut pair, starts.len(), |n| (write_command(u32_of(starts[n])), HostData::ToController(part(n))));
    assert!(pair.disk.bytes == pattern, "the disk holds something else than what was written");
    run_all(&mut pair, 1, |_| (Sqe::new(FLUSH, 0), HostData::None));
    let read = run_all(&mut pair, starts.len(), |n| {
        let len = setup.sizes[n];
        (read_command(u32_of(starts[n]), u32_of(len)), HostData::FromController(vec![0; len]))
    });
    for (n, data) in read.into_iter().enumerate() {
        assert!(data == Some(part(n)), "read {n} gives something else than what was written");
    }
    assert_eq!(pair.host.in_flight(), 0);
    pair
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 100 }))]

    #[test]
    fn any_mix_of_sizes_parameters_and_cuts_gives_the_right_data_once(setup in setups()) {
        let pair = run(&setup);
        prop_assert_eq!(pair.target.in_flight(), 0);
        prop_assert!(pair.target.stats().commands >= 2 * setup.sizes.len() as u64 + 2);
        prop_assert_eq!(pair.target.stats().data_digest_errors, 0);
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_answers(cuts in proptest::collection::vec(1usize..200, 1..40)) {
        let (target, stream, whole) = recorded();
        let mut conn = TargetConn::new(target, T0);
        let mut disk = super::pipe::Disk::new(1 << 16, None);
        let mut got = Vec::new();
        let mut cuts = cuts.iter().cycle();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let len = rest.len().min(*cuts.next().unwrap());
            prop_assert_eq!(conn.on_bytes(&rest[..len], T0, &mut disk), Progress::Consumed);
            rest = &rest[len..];
            got.extend(drain(&mut conn));
        }
        prop_assert!(got == whole, "the answers differ");
    }
}

/// Sends all that is pending and gives it.
fn drain(conn: &mut TargetConn<Vec<u8>>) -> Vec<u8> {
    let out = sent_by_target(conn);
    conn.on_sent(out.len());
    out
}

/// A session with in-capsule data, R2Ts, reads and digests: the host's bytes and the target's answers.
fn recorded() -> (TargetParams, Vec<u8>, Vec<u8>) {
    let target = TargetParams { r2t_length: 4096, max_r2t: 2, cpda: 3, ..TargetParams::default() };
    let host =
        HostParams { header_digest: true, data_digest: true, hpda: 7, max_r2t: 2, ..HostParams::default() };
    let mut pair = Pair::new(host, target, 1 << 16, None);
    pair.connect(32, true);
    for tag in 0..8 {
        let offset = u32::try_from(tag * 8192).unwrap();
        let data = vec![u8::try_from(tag).unwrap(); if tag % 2 == 0 { 1000 } else { 20_000 }];
        let room = (1 << 16) - usize::try_from(offset).unwrap();
        let data = data[..data.len().min(room)].to_vec();
        pair.host.submit(write_command(offset), HostData::ToController(data), tag, T0).unwrap();
        pair.settle();
    }
    // Reads come last: which slot they hold until their data is sent depends on the cuts, and R2Ts name slots.
    for tag in 100..108 {
        let data = HostData::FromController(vec![0; 3000]);
        pair.host.submit(read_command(u32::try_from(tag).unwrap(), 3000), data, tag, T0).unwrap();
        pair.settle();
    }
    assert_eq!(pair.ends.completed.len(), 16);
    (target, pair.host_stream, pair.target_stream)
}

#[test]
fn byte_at_a_time_equals_all_at_once() {
    let (target, stream, whole) = recorded();
    let mut conn = TargetConn::new(target, T0);
    let mut disk = super::pipe::Disk::new(1 << 16, None);
    let mut got = Vec::new();
    for byte in &stream {
        assert_eq!(conn.on_bytes(&[*byte], T0, &mut disk), Progress::Consumed);
        got.extend(drain(&mut conn));
    }
    assert!(got == whole, "the answers differ");
}

#[test]
fn the_host_reads_the_same_byte_at_a_time() {
    let setup = HostParams { data_digest: true, ..HostParams::default() };
    let mut pair = Pair::new(setup, TargetParams::default(), 1 << 16, None);
    pair.connect(32, false);
    pair.host.submit(read_command(5, 20_000), HostData::FromController(vec![1; 20_000]), 1, T0).unwrap();
    let out = super::pipe::sent_by_host(&pair.host);
    pair.host.on_sent(out.len(), &mut pair.ends);
    assert_eq!(pair.target.on_bytes(&out, T0, &mut pair.disk), Progress::Consumed);
    for byte in drain(&mut pair.target) {
        let progress = pair.host.on_bytes(&[byte], T0, &mut pair.ends);
        assert_eq!(progress, crate::tcp::host::HostProgress::Consumed);
    }
    assert_eq!(pair.ends.completed[&1], (Status::SUCCESS, 0, Some(vec![0; 20_000])));
}

#[test]
fn without_flow_control_a_successful_read_has_no_response_capsule() {
    let read_bytes = |sq_flow_control| {
        let mut pair = Pair::new(HostParams::default(), TargetParams::default(), 4096, None);
        pair.connect(32, sq_flow_control);
        let before = pair.target_stream.len();
        pair.host.submit(read_command(0, 4096), HostData::FromController(vec![1; 4096]), 1, T0).unwrap();
        pair.settle();
        assert_eq!(pair.ends.completed[&1], (Status::SUCCESS, 0, Some(vec![0; 4096])));
        pair.target_stream.len() - before
    };
    assert_eq!(read_bytes(true), 24 + 4096 + 24);
    assert_eq!(read_bytes(false), 24 + 4096);
}

#[test]
fn sqhd_counts_commands_modulo_the_queue_with_flow_control() {
    let mut pair = Pair::new(HostParams::default(), TargetParams::default(), 16, None);
    pair.connect(4, true);
    let mut heads = vec![pair.host.sq_head()];
    for tag in 0..5 {
        pair.host.submit(Sqe::new(FLUSH, 0), HostData::None, tag, T0).unwrap();
        pair.settle();
        heads.push(pair.host.sq_head());
    }
    assert_eq!(heads, [1, 2, 3, 0, 1, 2]);
}

#[test]
fn connect_without_flow_control_reports_sqhd_ffff() {
    let mut pair = Pair::new(HostParams::default(), TargetParams::default(), 16, None);
    pair.connect(4, false);
    assert_eq!(pair.host.sq_head(), 0xFFFF);
}

#[test]
fn without_the_success_flag_every_read_ends_with_a_response() {
    for (c2h_success, bytes) in [(true, 24 + 512), (false, 24 + 512 + 24)] {
        let target = TargetParams { c2h_success, ..TargetParams::default() };
        let mut pair = Pair::new(HostParams::default(), target, 4096, None);
        pair.connect(4, false);
        pair.host.submit(read_command(0, 512), HostData::FromController(vec![0; 512]), 1, T0).unwrap();
        let out = super::pipe::sent_by_host(&pair.host);
        pair.host.on_sent(out.len(), &mut pair.ends);
        assert_eq!(pair.target.on_bytes(&out, T0, &mut pair.disk), Progress::Consumed);
        assert_eq!(pair.target.tx_pending(), bytes);
        pair.settle();
        assert_eq!(pair.ends.completed.len(), 1);
    }
}

#[test]
fn a_long_transfer_keeps_the_agreed_number_of_r2ts_outstanding() {
    let host = HostParams { max_r2t: 3, in_capsule_data_size: 0, ..HostParams::default() };
    let target = TargetParams { r2t_length: 4096, max_r2t: 8, ..TargetParams::default() };
    let mut pair = Pair::new(host, target, 1 << 16, None);
    pair.connect(32, true);
    pair.host.submit(write_command(0), HostData::ToController(vec![9; 40_960]), 1, T0).unwrap();
    let out = super::pipe::sent_by_host(&pair.host);
    pair.host.on_sent(out.len(), &mut pair.ends);
    assert_eq!(pair.target.on_bytes(&out, T0, &mut pair.disk), Progress::Consumed);
    assert_eq!(pair.target.tx_pending(), 3 * 24);
    pair.settle();
    assert_eq!(pair.target.stats().r2ts, 10);
    assert_eq!(pair.disk.bytes[..40_960], vec![9; 40_960]);
    assert_eq!(pair.disk.executed.len(), 1);
    assert_eq!(pair.disk.executed[0].0.opcode, WRITE);
}

#[test]
fn data_longer_than_the_sgl_is_not_sent() {
    let mut pair = Pair::new(HostParams::default(), TargetParams::default(), 8192, None);
    pair.connect(4, false);
    pair.host.submit(read_command(0, 8192), HostData::FromController(vec![1; 4096]), 1, T0).unwrap();
    pair.settle();
    let (status, _, data) = &pair.ends.completed[&1];
    assert!(status.is(Status::DATA_SGL_LENGTH_INVALID));
    assert_eq!(data.as_deref(), Some(&vec![1; 4096][..]));
}

#[test]
fn success_with_less_data_than_asked_for_is_an_error_at_the_host() {
    let mut pair = Pair::new(HostParams::default(), TargetParams::default(), 8192, None);
    pair.connect(4, false);
    pair.host.submit(read_command(0, 100), HostData::FromController(vec![1; 4096]), 1, T0).unwrap();
    pair.settle();
    assert!(pair.ends.completed[&1].0.is(Status::DATA_TRANSFER_ERROR));
}

#[test]
fn a_queue_takes_as_many_commands_as_it_has_room_for() {
    let params = HostParams { depth: 3, ..HostParams::default() };
    let mut pair = Pair::new(params, TargetParams::default(), 16, None);
    let refused = pair.host.submit(Sqe::new(FLUSH, 0), HostData::None, 0, T0).unwrap_err();
    assert_eq!(refused.reason, crate::tcp::host::SubmitRefusal::NotReady);
    pair.connect(4, true);
    for tag in 0..3 {
        pair.host.submit(Sqe::new(FLUSH, 0), HostData::None, tag, T0).unwrap();
    }
    let refused = pair.host.submit(Sqe::new(READ, 0), HostData::FromController(vec![7]), 3, T0).unwrap_err();
    assert_eq!(refused.reason, crate::tcp::host::SubmitRefusal::QueueFull);
    assert_eq!(refused.data, HostData::FromController(vec![7]));
}

#[test]
fn a_full_queue_of_reads_is_taken_in_one_receive() {
    for (digests, entries) in [(false, 33u16), (true, 33), (false, 129), (true, 129)] {
        let commands = entries - 1;
        let params = HostParams {
            depth: commands,
            header_digest: digests,
            data_digest: digests,
            ..HostParams::default()
        };
        let mut pair = Pair::new(params, TargetParams::default(), 4096, None);
        pair.connect(entries, false);
        for tag in 0..commands {
            let data = HostData::FromController(vec![0; 4096]);
            pair.host.submit(read_command(0, 4096), data, tag.into(), T0).unwrap();
        }
        pair.settle();
        assert_eq!(pair.ends.completed.len(), usize::from(commands));
        assert_eq!(pair.target.stats().blocked, 0, "digests {digests}, {commands} commands");
    }
}

#[test]
fn a_controller_without_the_digests_asked_for_is_refused() {
    let host = HostParams { header_digest: true, ..HostParams::default() };
    let target = TargetParams { header_digest: false, ..TargetParams::default() };
    let mut pair = Pair::new(host, target, 16, None);
    pair.settle();
    assert_eq!(pair.host.state(), ConnState::Closed(CloseReason::Incompatible));
}
