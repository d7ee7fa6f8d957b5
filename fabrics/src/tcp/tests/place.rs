//! Data of reads goes straight to its buffers when answers come in order, and is right when they do not.

use arrayvec::ArrayVec;
use nvme::Status;

use super::pipe::{Pair, T0, read_command, sent_by_host, write_command};
use crate::tcp::host::{HostData, HostParams, HostProgress};
use crate::tcp::target::{Progress, TargetParams};
use crate::{CommandId, Completion};

const IO_BYTES: usize = 4096;

fn reading(host: HostParams, target: TargetParams, sq_flow_control: bool, count: usize) -> Pair {
    let mut pair = Pair::new(host, target, IO_BYTES * count, None);
    pair.connect(32, sq_flow_control);
    for (at, byte) in pair.disk.bytes.iter_mut().enumerate() {
        *byte = u8::try_from(at / IO_BYTES + 1).unwrap();
    }
    pair
}

fn submit_read(pair: &mut Pair, number: usize) {
    let data = HostData::FromController(vec![0; IO_BYTES]);
    let offset = u32::try_from(number * IO_BYTES).unwrap();
    let sqe = read_command(offset, u32::try_from(IO_BYTES).unwrap());
    pair.host.submit(sqe, data, number as u64, T0).unwrap();
}

/// What the target has to say once it has everything that the host sent.
fn answers(pair: &mut Pair) -> Vec<u8> {
    let out = sent_by_host(&pair.host);
    pair.host.on_sent(out.len(), &mut pair.ends);
    assert_eq!(pair.target.on_bytes(&out, T0, &mut pair.disk), Progress::Consumed);
    let out = super::pipe::sent_by_target(&pair.target);
    pair.target.on_sent(out.len());
    out
}

/// Receives as a queue does: `bytes` into what the host laid out, as many as fit at a time. How many receives that took.
fn receive(pair: &mut Pair, mut bytes: &[u8]) -> usize {
    let mut staging = vec![0; 1 << 16];
    let mut receives = 0;
    while !bytes.is_empty() {
        let mut parts = ArrayVec::new();
        pair.host.lay_out(&mut staging, &mut parts);
        let mut count = 0;
        for part in &mut parts {
            let len = part.len().min(bytes.len());
            part[..len].copy_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            count += len;
        }
        drop(parts);
        let progress = pair.host.on_received(&staging, count, T0, &mut pair.ends);
        assert_eq!(progress, HostProgress::Consumed);
        receives += 1;
    }
    receives
}

fn assert_read(pair: &Pair, count: usize) {
    assert_eq!(pair.ends.completed.len(), count);
    for (tag, end) in &pair.ends.completed {
        let byte = u8::try_from(tag + 1).unwrap();
        assert_eq!(*end, (Status::SUCCESS, 0, Some(vec![byte; IO_BYTES])), "read {tag}");
    }
}

#[test]
fn answers_in_order_are_received_in_place_all_at_once() {
    const COUNT: usize = 8;
    for digests in [false, true] {
        for (sq_flow_control, c2h_success) in [(false, true), (false, false), (true, true)] {
            let host = HostParams { header_digest: digests, data_digest: digests, ..HostParams::default() };
            let target = TargetParams { c2h_success, ..TargetParams::default() };
            let mut pair = reading(host, target, sq_flow_control, COUNT);
            // Whether responses follow the data is learned from the first read.
            submit_read(&mut pair, 0);
            let bytes = answers(&mut pair);
            receive(&mut pair, &bytes);
            pair.ends.completed.clear();
            assert!((0..100).any(|_| laid_out(&mut pair)), "nothing is laid out any more");
            let (placed, wrong) = (pair.host.stats().bytes_placed, pair.host.stats().guesses_wrong);
            for number in 0..COUNT {
                submit_read(&mut pair, number);
            }
            let bytes = answers(&mut pair);
            assert_eq!(receive(&mut pair, &bytes), 1, "digests {digests}, responses {sq_flow_control}");
            assert_read(&pair, COUNT);
            assert_eq!(pair.host.stats().guesses_wrong, wrong);
            assert_eq!(pair.host.stats().bytes_placed - placed, (COUNT * IO_BYTES) as u64);
        }
    }
}

/// Lays out once; whether anything but staging was.
fn laid_out(pair: &mut Pair) -> bool {
    submit_read(pair, 0);
    let mut staging = vec![0; 1 << 16];
    let mut parts = ArrayVec::new();
    pair.host.lay_out(&mut staging, &mut parts);
    let is_laid_out = parts.len() > 1;
    drop(parts);
    let bytes = answers(pair);
    receive(pair, &bytes);
    pair.ends.completed.clear();
    is_laid_out
}

#[test]
fn reads_and_writes_in_order_are_foreseen_together() {
    let mut pair = reading(HostParams::default(), TargetParams::default(), false, 8);
    for number in [0usize, 2, 4] {
        submit_read(&mut pair, number);
        let offset = u32::try_from((number + 1) * IO_BYTES).unwrap();
        let data = HostData::ToController(vec![u8::try_from(number + 2).unwrap(); IO_BYTES]);
        pair.host.submit(write_command(offset), data, 100 + number as u64, T0).unwrap();
    }
    let bytes = answers(&mut pair);
    assert_eq!(receive(&mut pair, &bytes), 1);
    assert_eq!(pair.ends.completed.len(), 6);
    assert_eq!((pair.host.stats().guesses_wrong, pair.host.stats().bytes_placed), (0, 3 * IO_BYTES as u64));
}

#[test]
fn data_cut_anywhere_is_placed_to_its_end() {
    let mut pair =
        reading(HostParams { data_digest: true, ..HostParams::default() }, TargetParams::default(), false, 2);
    submit_read(&mut pair, 0);
    submit_read(&mut pair, 1);
    let bytes = answers(&mut pair);
    for piece in bytes.chunks(1000) {
        receive(&mut pair, piece);
    }
    assert_read(&pair, 2);
    assert_eq!(pair.host.stats().guesses_wrong, 0);
    assert_eq!(pair.host.stats().bytes_placed, 2 * IO_BYTES as u64);
}

/// Answers the commands that the disk was asked to keep, in the order given by their numbers.
fn answer_in_order(pair: &mut Pair, order: &[usize]) -> Vec<u8> {
    let out = sent_by_host(&pair.host);
    pair.host.on_sent(out.len(), &mut pair.ends);
    pair.disk.keeps = true;
    assert_eq!(pair.target.on_bytes(&out, T0, &mut pair.disk), Progress::Consumed);
    let mut kept: Vec<Option<(CommandId, Completion<Vec<u8>>)>> =
        pair.disk.pending.drain(..).map(Some).collect();
    for &number in order {
        let (id, completion) = kept[number].take().unwrap();
        pair.target.complete(id, completion);
    }
    let out = super::pipe::sent_by_target(&pair.target);
    pair.target.on_sent(out.len());
    out
}

#[test]
fn answers_out_of_order_are_gathered_and_right() {
    for order in [[1usize, 0, 2, 3], [3, 2, 1, 0], [0, 1, 3, 2], [0, 3, 1, 2]] {
        let mut pair = reading(HostParams::default(), TargetParams::default(), false, 4);
        for number in 0..4 {
            submit_read(&mut pair, number);
        }
        let bytes = answer_in_order(&mut pair, &order);
        receive(&mut pair, &bytes);
        assert_read(&pair, 4);
        assert_eq!(pair.host.stats().guesses_wrong, 1, "{order:?}");
    }
}

#[test]
fn a_read_that_fails_among_others_loses_none_of_their_data() {
    let mut pair = reading(HostParams::default(), TargetParams::default(), false, 3);
    submit_read(&mut pair, 0);
    // Longer than its buffer: refused.
    let (sqe, data) = (read_command(0, 8192), HostData::FromController(vec![0; IO_BYTES]));
    pair.host.submit(sqe, data, 9, T0).unwrap();
    submit_read(&mut pair, 1);
    submit_read(&mut pair, 2);
    let bytes = answers(&mut pair);
    receive(&mut pair, &bytes);
    let (status, ..) = pair.ends.completed.remove(&9).unwrap();
    assert!(!status.is_success());
    assert_read(&pair, 3);
}

#[test]
fn a_late_read_does_not_keep_others_from_being_placed() {
    let mut pair = reading(HostParams::default(), TargetParams::default(), false, 4);
    for number in 0..2 {
        submit_read(&mut pair, number);
    }
    // Read 0 is not answered for now.
    let out = sent_by_host(&pair.host);
    pair.host.on_sent(out.len(), &mut pair.ends);
    pair.disk.keeps = true;
    assert_eq!(pair.target.on_bytes(&out, T0, &mut pair.disk), Progress::Consumed);
    pair.disk.keeps = false;
    let late = pair.disk.pending.remove(0);
    let (id, completion) = pair.disk.pending.remove(0);
    pair.target.complete(id, completion);
    let bytes = answers(&mut pair);
    receive(&mut pair, &bytes);
    assert_eq!(pair.host.stats().guesses_wrong, 1);
    assert!((0..100).any(|_| laid_out_for(&mut pair, 2)), "nothing is laid out any more");
    let before = pair.host.stats().bytes_placed;
    submit_read(&mut pair, 3);
    let bytes = answers(&mut pair);
    receive(&mut pair, &bytes);
    assert_eq!(pair.host.stats().bytes_placed - before, IO_BYTES as u64);
    assert_eq!(pair.host.stats().guesses_wrong, 1, "the late one is not waited for");
    let (id, completion) = late;
    pair.target.complete(id, completion);
    let bytes = answers(&mut pair);
    receive(&mut pair, &bytes);
    assert!(pair.ends.completed.contains_key(&0));
}

/// One read after which it is known whether receives are laid out again.
fn laid_out_for(pair: &mut Pair, number: usize) -> bool {
    let before = pair.host.stats().bytes_placed;
    submit_read(pair, number);
    let bytes = answers(pair);
    receive(pair, &bytes);
    pair.ends.completed.remove(&(number as u64));
    pair.host.stats().bytes_placed > before
}
