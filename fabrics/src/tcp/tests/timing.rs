//! Slow and stuck peers, late completions, waiting for buffers.

use nvme::tcp::IcReq;
use nvme::{Sqe, Status};
use zerocopy::IntoBytes;

use super::pipe::{Disk, FLUSH, Pair, T0, read_command, sent_by_host, write_command};
use crate::tcp::host::{HostConn, HostData, HostParams};
use crate::tcp::target::{CommandHandler, Progress, TargetConn, TargetParams};
use crate::tcp::{CloseReason, ConnState};
use crate::{CommandId, Completion, Execution, Now};

const PARAMS: TargetParams = TargetParams {
    in_capsule_data_size: 8192,
    max_h2c_data: 4096,
    max_r2t: 1,
    r2t_length: u32::MAX,
    max_io_size: 1 << 20,
    cpda: 0,
    c2h_success: true,
    header_digest: true,
    data_digest: true,
    handshake_timeout_ns: 100,
    pdu_timeout_ns: 200,
    data_timeout_ns: 1000,
    max_slots: 64,
};

fn at(ns: u64) -> Now {
    T0.after_ns(ns)
}

#[test]
fn a_host_that_never_sends_its_icreq_is_closed() {
    let mut conn = TargetConn::<Vec<u8>>::new(PARAMS, T0);
    assert_eq!(conn.next_deadline(), Some(at(100)));
    conn.on_tick(at(99));
    assert_eq!(conn.state(), ConnState::Handshaking);
    conn.on_tick(at(100));
    assert_eq!(conn.state(), ConnState::Closed(CloseReason::HandshakeTimeout));
    assert_eq!(conn.next_deadline(), None);
}

#[test]
fn a_pdu_that_stalls_midway_closes_the_connection_however_slowly_it_drips() {
    let mut conn = TargetConn::new(PARAMS, T0);
    let mut disk = Disk::new(16, None);
    assert_eq!(conn.on_bytes(IcReq::new(0, 0, 0).as_bytes(), T0, &mut disk), Progress::Consumed);
    assert_eq!(conn.next_deadline(), None);
    for (ns, byte) in [(10, 0x04), (100, 0x00), (200, 72)] {
        assert_eq!(conn.on_bytes(&[byte], at(ns), &mut disk), Progress::Consumed);
        conn.on_tick(at(ns));
        assert_eq!(conn.state(), ConnState::Ready);
    }
    assert_eq!(conn.next_deadline(), Some(at(210)));
    conn.on_tick(at(210));
    assert_eq!(conn.state(), ConnState::Closed(CloseReason::PduTimeout));
}

#[test]
fn data_that_never_comes_closes_the_connection() {
    let mut pair = Pair::new(HostParams::default(), PARAMS, 1 << 16, None);
    pair.connect(8, true);
    pair.host.submit(write_command(0), HostData::ToController(vec![1; 20_000]), 1, T0).unwrap();
    let out = sent_by_host(&pair.host);
    assert_eq!(pair.target.on_bytes(&out, at(50), &mut pair.disk), Progress::Consumed);
    assert_eq!(pair.target.next_deadline(), Some(at(1050)));
    pair.target.on_tick(at(1049));
    assert_eq!(pair.target.state(), ConnState::Ready);
    pair.target.on_tick(at(1050));
    assert_eq!(pair.target.state(), ConnState::Closed(CloseReason::DataTimeout));
}

#[test]
fn data_that_came_leaves_no_deadline() {
    let mut pair = Pair::new(HostParams::default(), PARAMS, 1 << 16, None);
    pair.connect(8, true);
    pair.host.submit(write_command(0), HostData::ToController(vec![1; 20_000]), 1, T0).unwrap();
    pair.settle();
    pair.target.on_tick(at(5000));
    assert_eq!(pair.target.state(), ConnState::Ready);
    assert_eq!(pair.target.next_deadline(), None);
}

#[test]
fn a_command_that_takes_too_long_is_told_once_and_may_still_complete() {
    let params = HostParams { command_timeout_ns: 500, ..HostParams::default() };
    let mut pair = Pair::new(params, PARAMS, 1 << 16, None);
    pair.connect(8, true);
    pair.host.submit(Sqe::new(FLUSH, 0), HostData::None, 1, T0).unwrap();
    pair.host.submit_until(Sqe::new(FLUSH, 0), HostData::None, 2, Now::NEVER).unwrap();
    pair.host.on_tick(at(499), &mut pair.ends);
    assert!(pair.ends.timed_out.is_empty());
    for ns in [500, 600, 10_000] {
        pair.host.on_tick(at(ns), &mut pair.ends);
    }
    assert_eq!(pair.ends.timed_out.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1]);
    assert_eq!(pair.host.next_deadline(), None);
    pair.settle();
    assert_eq!(pair.ends.completed.len(), 2);
}

#[test]
fn a_handshake_that_is_not_answered_closes_the_host() {
    let mut host = HostConn::<Vec<u8>>::new(HostParams::default(), T0);
    let mut ends = super::pipe::Ends::default();
    host.on_tick(host.next_deadline().unwrap(), &mut ends);
    assert_eq!(host.state(), ConnState::Closed(CloseReason::HandshakeTimeout));
}

#[test]
fn closing_fails_each_outstanding_command_once_with_its_buffer() {
    let mut pair = Pair::new(HostParams::default(), PARAMS, 1 << 16, None);
    pair.connect(8, true);
    pair.host.submit(read_command(0, 4), HostData::FromController(vec![1; 4]), 1, T0).unwrap();
    pair.host.submit(write_command(0), HostData::ToController(vec![2; 9000]), 2, T0).unwrap();
    pair.host.close(&mut pair.ends);
    pair.host.close(&mut pair.ends);
    assert_eq!(pair.ends.failed[&1], Some(vec![1; 4]));
    assert_eq!(pair.ends.failed[&2], Some(vec![2; 9000]));
    assert_eq!(pair.host.state(), ConnState::Closed(CloseReason::Local));
    assert_eq!(pair.host.tx_pending(), 0);
}

/// Holds every command, and has as many buffers as it is given.
struct Slow {
    buffers: usize,
    held: Vec<CommandId>,
}

impl CommandHandler for Slow {
    type Buffer = Vec<u8>;

    fn allocate(&mut self, len: usize) -> Option<Vec<u8>> {
        self.buffers = self.buffers.checked_sub(1)?;
        Some(vec![0; len])
    }

    fn execute(&mut self, id: CommandId, _: &Sqe, _: Option<Vec<u8>>) -> Execution<Vec<u8>> {
        self.held.push(id);
        Execution::Pending
    }
}

/// Notes the commands that it is told of, and those that it runs, by their offsets.
#[derive(Default)]
struct Told(Vec<(&'static str, u32)>);

impl CommandHandler for Told {
    type Buffer = Vec<u8>;

    fn allocate(&mut self, len: usize) -> Option<Vec<u8>> {
        Some(vec![0; len])
    }

    fn expect(&mut self, sqe: &Sqe) {
        self.0.push(("told", sqe.cdw10.get()));
    }

    fn execute(&mut self, _: CommandId, sqe: &Sqe, _: Option<Vec<u8>>) -> Execution<Vec<u8>> {
        self.0.push(("runs", sqe.cdw10.get()));
        Execution::Pending
    }
}

#[test]
fn the_handler_is_told_of_commands_while_others_are_ahead_of_them() {
    let mut pair = Pair::new(HostParams::default(), PARAMS, 1 << 16, None);
    pair.connect(32, true);
    for offset in 0..4 {
        let data = HostData::FromController(vec![0; 4]);
        pair.host.submit(read_command(offset, 4), data, u64::from(offset), T0).unwrap();
    }
    let out = sent_by_host(&pair.host);
    let mut told = Told::default();
    // The last one comes later, and is told of by nobody.
    let (first, last) = out.split_at(3 * 72 + 70);
    assert_eq!(pair.target.on_bytes(first, T0, &mut told), Progress::Consumed);
    assert_eq!(pair.target.on_bytes(last, T0, &mut told), Progress::Consumed);
    assert_eq!(told.0, [("told", 2), ("runs", 0), ("runs", 1), ("runs", 2), ("runs", 3)]);
}

/// A connected target and what a host sends it: writes of these lengths.
fn writes(lens: &[usize]) -> (Pair, Vec<u8>) {
    let mut pair = Pair::new(HostParams::default(), PARAMS, 1 << 16, None);
    pair.connect(32, true);
    for (tag, len) in lens.iter().enumerate() {
        let data = HostData::ToController(vec![3; *len]);
        pair.host.submit(write_command(0), data, tag as u64, T0).unwrap();
    }
    let out = sent_by_host(&pair.host);
    pair.host.on_sent(out.len(), &mut pair.ends);
    (pair, out)
}

#[test]
fn input_stops_without_a_buffer_and_goes_on_exactly_there() {
    let (mut pair, out) = writes(&[100, 200, 300]);
    let mut slow = Slow { buffers: 1, held: vec![] };
    let Progress::Blocked { consumed } = pair.target.on_bytes(&out, T0, &mut slow) else {
        panic!("not blocked")
    };
    assert_eq!(consumed, 72 + 100);
    assert!(pair.target.is_blocked());
    assert_eq!(slow.held.len(), 1);
    let again = pair.target.on_bytes(&out[consumed..], T0, &mut slow);
    assert_eq!(again, Progress::Blocked { consumed: 0 });
    slow.buffers = 2;
    assert_eq!(pair.target.on_bytes(&out[consumed..], T0, &mut slow), Progress::Consumed);
    assert_eq!(slow.held.len(), 3);
    assert!(!pair.target.is_blocked());
}

#[test]
fn a_header_cut_before_a_blocked_command_is_not_lost() {
    let (mut pair, out) = writes(&[100]);
    let mut slow = Slow { buffers: 0, held: vec![] };
    assert_eq!(pair.target.on_bytes(&out[..30], T0, &mut slow), Progress::Consumed);
    assert_eq!(pair.target.on_bytes(&out[30..], T0, &mut slow), Progress::Blocked { consumed: 42 });
    slow.buffers = 1;
    assert_eq!(pair.target.on_bytes(&out[72..], T0, &mut slow), Progress::Consumed);
    assert_eq!(slow.held.len(), 1);
}

#[test]
fn transfers_wait_for_buffers_in_order_without_stopping_the_data_before_them() {
    let (mut pair, out) = writes(&[9000, 9000]);
    let mut slow = Slow { buffers: 1, held: vec![] };
    assert_eq!(pair.target.on_bytes(&out, T0, &mut slow), Progress::Consumed);
    assert_eq!(pair.target.stats().r2ts, 1);
    slow.buffers = 1;
    assert_eq!(pair.target.on_bytes(&[], T0, &mut slow), Progress::Consumed);
    assert_eq!(pair.target.stats().r2ts, 2);
    assert_eq!(pair.target.in_flight(), 2);
}

#[test]
fn a_transfer_without_any_buffer_blocks_when_no_data_is_expected() {
    let (mut pair, out) = writes(&[9000]);
    let mut slow = Slow { buffers: 0, held: vec![] };
    assert_eq!(pair.target.on_bytes(&out, T0, &mut slow), Progress::Blocked { consumed: out.len() });
    slow.buffers = 1;
    assert_eq!(pair.target.on_bytes(&[], T0, &mut slow), Progress::Consumed);
    assert_eq!(pair.target.stats().r2ts, 1);
}

#[test]
fn a_capsule_that_would_wait_for_data_behind_it_is_interrupted() {
    let (mut pair, out) = writes(&[9000, 100]);
    let mut slow = Slow { buffers: 1, held: vec![] };
    assert_eq!(pair.target.on_bytes(&out, T0, &mut slow), Progress::Consumed);
    pair.settle();
    assert!(pair.ends.completed[&1].0.is(Status::COMMAND_INTERRUPTED));
}

#[test]
fn a_completion_of_a_command_that_is_gone_is_rejected() {
    let (mut pair, out) = writes(&[100]);
    let mut slow = Slow { buffers: 1, held: vec![] };
    assert_eq!(pair.target.on_bytes(&out, T0, &mut slow), Progress::Consumed);
    let bits = slow.held.pop().unwrap().to_bits();
    let done = || Completion::status(Status::SUCCESS);
    assert!(pair.target.complete(CommandId::from_bits(bits), done()));
    assert!(!pair.target.complete(CommandId::from_bits(bits), done()));
    assert!(!pair.target.complete(CommandId::from_bits(bits ^ 0xFFFF), done()));
    assert_eq!(pair.target.stats().stale_completions, 2);
    assert_eq!(pair.target.tx_pending(), 24);
}

#[test]
fn a_completion_after_the_connection_closed_sends_nothing() {
    let (mut pair, out) = writes(&[100]);
    let mut slow = Slow { buffers: 1, held: vec![] };
    assert_eq!(pair.target.on_bytes(&out, T0, &mut slow), Progress::Consumed);
    pair.target.close();
    assert_eq!(pair.target.in_flight(), 1);
    assert!(pair.target.complete(slow.held.pop().unwrap(), Completion::status(Status::SUCCESS)));
    assert_eq!((pair.target.in_flight(), pair.target.tx_pending()), (0, 0));
}
