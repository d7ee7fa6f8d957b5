//! Bytes that no honest peer sends: nothing panics, nothing grows, and with digests nothing wrong is believed.

use nvme::Status;
use nvme::tcp::{IcReq, IcResp};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::pipe::{Disk, Ends, Pair, T0, read_command, sent_by_host, sent_by_target, write_command};
use crate::tcp::host::{HostConn, HostData, HostParams, HostProgress};
use crate::tcp::target::{Progress, TargetConn, TargetParams};

/// Bytes a machine may have to send after input of this length: an answer is never longer than what it answers,
/// but for data, and there is none here.
const fn bound(input: usize) -> usize {
    128 + 152 + 2 * input
}

/// PDUs with plausible common headers and random contents.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let pdu = (
        prop_oneof![Just(4u8), Just(5), Just(6), Just(7), Just(9), Just(2), Just(3), any::<u8>()],
        any::<u8>(),
        prop_oneof![Just(72u8), Just(24), Just(128), any::<u8>()],
        prop_oneof![Just(24u8), Just(72), Just(76), any::<u8>()],
        prop_oneof![Just(72u32), Just(24), Just(584), 24u32..300, any::<u32>()],
        proptest::collection::vec(any::<u8>(), 0..600),
    );
    proptest::collection::vec(pdu, 1..6).prop_map(|pdus| {
        let mut bytes = vec![];
        for (pdu_type, flags, hlen, pdo, plen, rest) in pdus {
            bytes.extend([pdu_type, flags & 0x0F, hlen, pdo]);
            bytes.extend(plen.to_le_bytes());
            bytes.extend(&rest);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 300 }))]

    #[test]
    fn no_bytes_panic_a_target_or_make_it_grow(
        handshake in any::<bool>(),
        bytes in prop_oneof![plausible(), proptest::collection::vec(any::<u8>(), 0..2000)],
        cut in 1usize..300,
    ) {
        let mut conn = TargetConn::new(TargetParams { max_io_size: 1 << 16, ..TargetParams::default() }, T0);
        let mut disk = Refusing;
        if handshake {
            prop_assert_eq!(conn.on_bytes(IcReq::new(3, 0, 9).as_bytes(), T0, &mut disk), Progress::Consumed);
        }
        for chunk in bytes.chunks(cut) {
            match conn.on_bytes(chunk, T0, &mut disk) {
                Progress::Consumed => {}
                Progress::Blocked { consumed } => {
                    prop_assert!(consumed <= chunk.len());
                    break;
                }
                Progress::Closing => {
                    prop_assert!(!conn.state().is_open());
                    break;
                }
            }
        }
        prop_assert!(sent_by_target(&conn).len() <= bound(bytes.len()));
    }

    #[test]
    fn no_bytes_panic_a_host_or_make_it_grow(
        handshake in any::<bool>(),
        bytes in prop_oneof![plausible(), proptest::collection::vec(any::<u8>(), 0..2000)],
        cut in 1usize..300,
    ) {
        let mut host = HostConn::new(HostParams { depth: 8, in_capsule_data_size: 0, ..HostParams::default() }, T0);
        let mut ends = Ends::default();
        if handshake {
            let _ = host.on_bytes(IcResp::new(0, 0, 4096).as_bytes(), T0, &mut ends);
            for tag in 0..4 {
                host.submit(read_command(0, 100), HostData::FromController(vec![0; 100]), tag, T0).unwrap();
                host.submit(write_command(0), HostData::ToController(vec![0; 100]), 10 + tag, T0).unwrap();
            }
        }
        let before = host.tx_pending();
        for chunk in bytes.chunks(cut) {
            if host.on_bytes(chunk, T0, &mut ends) == HostProgress::Closing {
                break;
            }
        }
        prop_assert!(host.tx_pending() <= before + bound(bytes.len()) + 4 * 124);
        host.close(&mut ends);
        let submitted = if handshake { 8 } else { 0 };
        prop_assert_eq!(ends.completed.len() + ends.failed.len(), submitted);
    }

    #[test]
    fn with_digests_a_flipped_bit_never_reaches_the_disk(bit in any::<prop::sample::Index>()) {
        let (stream, handshake, writes) = recorded();
        let mut bad = stream.clone();
        let bit = handshake * 8 + bit.index((stream.len() - handshake) * 8);
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut conn = TargetConn::new(PARAMS, T0);
        let mut disk = Disk::new(1 << 16, None);
        let _ = conn.on_bytes(&bad, T0, &mut disk);
        for (sqe, data) in &disk.executed {
            let same = writes.iter().any(|(good, good_data)| good == sqe && good_data == data);
            prop_assert!(same, "a command ran that was never sent: {sqe:?}");
        }
        let is_caught = disk.executed.len() < writes.len();
        prop_assert!(is_caught, "the flip went unnoticed");
    }

    #[test]
    fn with_digests_a_flipped_bit_never_reaches_the_host_as_success(bit in any::<prop::sample::Index>()) {
        let mut pair = digest_pair();
        pair.disk.bytes[..20_000].fill(0x5A);
        pair.host.submit(read_command(0, 20_000), HostData::FromController(vec![0; 20_000]), 1, T0).unwrap();
        let out = sent_by_host(&pair.host);
        pair.host.on_sent(out.len(), &mut pair.ends);
        prop_assert_eq!(pair.target.on_bytes(&out, T0, &mut pair.disk), Progress::Consumed);
        let mut answer = sent_by_target(&pair.target);
        let bit = bit.index(answer.len() * 8);
        answer[bit / 8] ^= 1 << (bit % 8);
        let _ = pair.host.on_bytes(&answer, T0, &mut pair.ends);
        if let Some((status, _, _)) = pair.ends.completed.get(&1) {
            prop_assert!(status.is(Status::TRANSIENT_TRANSPORT_ERROR));
        }
    }
}

/// No buffers, so that hostile lengths allocate nothing.
struct Refusing;

impl crate::tcp::target::CommandHandler for Refusing {
    type Buffer = Vec<u8>;

    fn allocate(&mut self, len: usize) -> Option<Vec<u8>> {
        assert!(len <= 1 << 16, "a length past max_io_size was asked for");
        (len < 1000).then(|| vec![0; len])
    }

    fn execute(
        &mut self,
        _: crate::CommandId,
        _: &nvme::Sqe,
        _: Option<Vec<u8>>,
    ) -> crate::Execution<Vec<u8>> {
        crate::Execution::Done(crate::Completion::status(Status::INVALID_OPCODE))
    }
}

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

fn digest_pair() -> Pair {
    let host = HostParams { header_digest: true, data_digest: true, ..HostParams::default() };
    let mut pair = Pair::new(host, PARAMS, 1 << 16, None);
    pair.connect(32, true);
    pair
}

type Executed = Vec<(nvme::Sqe, Option<Vec<u8>>)>;

/// What a host sends for two writes with digests, how long its handshake is, and what the disk saw.
fn recorded() -> (Vec<u8>, usize, Executed) {
    let mut pair = digest_pair();
    // Connect is replayed as well: it is executed, and flips in it have to be caught.
    for (tag, len) in [(1, 300), (2, 9000)] {
        pair.host.submit(write_command(0), HostData::ToController(vec![0xA5; len]), tag, T0).unwrap();
        pair.settle();
    }
    let stream = pair.host_stream.clone();
    let mut conn = TargetConn::new(PARAMS, T0);
    let mut disk = Disk::new(1 << 16, None);
    assert_eq!(conn.on_bytes(&stream, T0, &mut disk), Progress::Consumed);
    assert_eq!(disk.executed.len(), 3);
    (stream, IcReq::SIZE, disk.executed)
}
