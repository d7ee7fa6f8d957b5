//! Our host against our target driver, over loopback.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod lab;
mod ram;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use fabrics::NS_PER_MS;
use fabrics::tcp::host::{HostData, HostParams};
use fabrics::tcp::target::TargetParams;
use lab::{Lab, NAMESPACE, Options, noise, read, write};
use nvme::admin::AsyncEventRequest;
use nvme::tcp::{CapsuleCmd, CommonHeader, PduType};
use nvme::{SglDescriptor, Status};
use ram::{BLOCK, Mode};
use reactors::PoolConfig;
use transport::CloseReason;
use transport::tcp::host::LinkError;
use transport::tcp::target::ListenError;
use zerocopy::IntoBytes;

const SIZES: [usize; 10] =
    [512, 1024, 4096, 8192, 8704, 16 << 10, 64 << 10, 128 << 10, (128 << 10) + 512, 1 << 20];

fn every_size_survives(params: HostParams, mode: Mode) {
    let mut lab = Lab::new(Options { mode, ..Options::default() });
    let mut host = lab.host(params);
    for (seed, len) in (1..).zip(SIZES) {
        let bytes = noise(seed, len);
        let lba = seed * 3;
        lab.write(&mut host, lba, &bytes);
        assert!(lab.read(&mut host, lba, len) == bytes, "{len} bytes differ");
    }
}

#[test]
fn data_of_every_size_survives_a_write_and_a_read() {
    every_size_survives(HostParams::default(), Mode::Inline);
}

#[test]
fn data_survives_with_header_and_data_digests() {
    let digests = HostParams { header_digest: true, data_digest: true, ..HostParams::default() };
    every_size_survives(digests, Mode::Inline);
}

#[test]
fn data_survives_when_commands_finish_later_and_padding_is_asked_for() {
    let params = HostParams { hpda: 3, max_r2t: 4, data_digest: true, ..HostParams::default() };
    every_size_survives(params, Mode::Deferred);
}

#[test]
fn both_address_families_are_served_by_one_target() {
    let mut lab = Lab::new(Options::default());
    let (_, v6) = lab.target.listen("[::1]:0".parse().unwrap()).unwrap();
    assert_ne!(v6.port(), 0);
    let (v4, bytes) = (lab.address, noise(1, 4096));
    for address in [v4, v6] {
        let mut host = lab.host_at(address, HostParams::default());
        lab.write(&mut host, 8, &bytes);
        assert_eq!(lab.read(&mut host, 8, 4096), bytes);
    }
    assert_eq!(lab.target.listeners().len(), 2);
}

/// Mixed reads and writes with a full queue; every read is checked against a model.
fn churn(lab: &mut Lab, host: &mut lab::Host, depth: usize, operations: u64, len: usize) {
    let cells = NAMESPACE / len;
    let mut model: Vec<Option<u64>> = vec![None; cells];
    let mut busy: std::collections::BTreeMap<u64, (usize, Option<u64>)> = Default::default();
    let mut started = 0;
    while started < operations || !busy.is_empty() {
        while started < operations && busy.len() < depth {
            let cell = usize::from(noise(started, 1)[0]) % cells;
            if busy.values().any(|(other, _)| *other == cell) {
                break;
            }
            started += 1;
            let lba = u64::try_from(cell * len / BLOCK).unwrap();
            let seed = (started % 3 != 0).then_some(started);
            let (sqe, data) = match seed {
                Some(seed) => write(lba, &noise(seed, len)),
                None => read(lba, len),
            };
            busy.insert(host.submit(sqe, data, lab.now()), (cell, seed));
        }
        lab.until("something completes", |lab| {
            host.turn(lab.now());
            !host.sink.done.is_empty()
        });
        while let Some((tag, (status, data))) = host.sink.done.pop_first() {
            assert_eq!(status, Status::SUCCESS);
            let (cell, written) = busy.remove(&tag).unwrap();
            match written {
                Some(seed) => model[cell] = Some(seed),
                None => {
                    let want = model[cell].map_or(vec![0; len], |seed| noise(seed, len));
                    assert!(data.unwrap() == want, "cell {cell} holds something else");
                }
            }
        }
    }
}

#[test]
fn a_full_queue_of_mixed_io_reads_what_was_written() {
    let mut lab = Lab::new(Options { mode: Mode::Deferred, ..Options::default() });
    let mut host = lab.host(HostParams { depth: 127, ..HostParams::default() });
    churn(&mut lab, &mut host, 127, 4000, 4096);
}

#[test]
fn many_connections_are_served_and_counted() {
    let mut lab = Lab::new(Options::default());
    let mut hosts: Vec<_> =
        (0..48).map(|_| lab.host(HostParams { depth: 8, ..HostParams::default() })).collect();
    assert_eq!(lab.target.connections(), 48);
    for round in 0..3 {
        for (index, host) in (0..).zip(&mut hosts) {
            let bytes = noise(round * 100 + index, 4096);
            lab.write(host, index * 8, &bytes);
            assert_eq!(lab.read(host, index * 8, 4096), bytes);
        }
    }
    drop(hosts);
    lab.until("all connections are closed", |lab| lab.target.connections() == 0);
    assert_eq!((lab.seen.opened.get(), lab.seen.closed.get()), (48, 48));
    assert_eq!(lab.seen.last_reason.get(), Some(CloseReason::PeerClosed));
    assert_eq!(lab.target.accept_stats().accepted, 48);
}

#[test]
fn commands_wait_for_buffers_and_none_is_lost() {
    let buffers = PoolConfig { small_slots: 4, large_slots: 4, prefault: false };
    let mut lab = Lab::new(Options { mode: Mode::Deferred, buffers, ..Options::default() });
    let mut host = lab.host(HostParams { depth: 64, ..HostParams::default() });
    churn(&mut lab, &mut host, 64, 2000, 4096);
}

#[test]
fn transfers_wait_for_buffers_and_none_is_lost() {
    let buffers = PoolConfig { small_slots: 4, large_slots: 2, prefault: false };
    let mut lab = Lab::new(Options { mode: Mode::Deferred, buffers, ..Options::default() });
    let mut host = lab.host(HostParams { depth: 32, max_r2t: 4, ..HostParams::default() });
    churn(&mut lab, &mut host, 32, 400, 64 << 10);
}

#[test]
fn a_write_that_finds_all_buffers_in_use_goes_on_when_one_is_free() {
    let buffers = PoolConfig { small_slots: 4, large_slots: 1, prefault: false };
    let mut lab = Lab::new(Options { mode: Mode::Deferred, buffers, ..Options::default() });
    let (mut first, mut second) = (lab.host(HostParams::default()), lab.host(HostParams::default()));
    lab.seen.hold.set(true);
    let bytes = noise(4, 64 << 10);
    let (sqe, data) = write(0, &bytes);
    let in_the_way = first.submit(sqe, data, lab.now());
    lab.until("the first write holds the buffer", |lab| {
        let now = lab.now();
        first.turn(now);
        lab.seen.held.get() == 1
    });
    let (sqe, data) = write(256, &bytes);
    let waits = second.submit(sqe, data, lab.now());
    lab.until("the second write waits", |lab| {
        let now = lab.now();
        second.turn(now);
        lab.list().iter().any(|one| one.traffic.blocked > 0)
    });
    lab.seen.hold.set(false);
    assert_eq!(lab.wait(&mut first, in_the_way).0, Status::SUCCESS);
    assert_eq!(lab.wait(&mut second, waits).0, Status::SUCCESS);
}

/// As many read commands as a socket takes, none of whose answers is read.
fn flood_with_reads(stream: &mut TcpStream, len: usize) -> usize {
    let mut sent = 0;
    loop {
        let (mut sqe, _) = read(0, len);
        sqe.cid = u16::try_from(sent % 60_000).unwrap().into();
        sqe.sgl = SglDescriptor::Transport { length: u32::try_from(len).unwrap() }.into();
        let mut pdu = CapsuleCmd {
            ch: CommonHeader { plen: 72.into(), ..CommonHeader::of(PduType::CAPSULE_CMD, 72) },
            ..CapsuleCmd::default()
        };
        pdu.sqe = sqe;
        match stream.write(pdu.as_bytes()) {
            Ok(count) => assert_eq!(count, 72, "a send buffer that ends within a command"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("{error}"),
        }
        sent += 1;
        if sent == 2000 {
            return sent;
        }
    }
}

#[test]
fn a_peer_that_never_reads_is_bounded_and_others_are_served() {
    let mut lab = Lab::new(Options::default());
    let mut slow = lab.raw();
    let mut host = lab.host(HostParams::default());
    let bytes = noise(5, 4096);
    for round in 0..50 {
        flood_with_reads(&mut slow, 128 << 10);
        lab.write(&mut host, 64 + round, &bytes);
        assert_eq!(lab.read(&mut host, 64 + round, 4096), bytes);
    }
    let held = lab.reactor.with(|context| context.local().pool().usage());
    assert!(held.large_in_use <= 2, "{held:?}: a queue of two commands holds two buffers");
    let slow_one = lab.list().into_iter().find(|one| one.traffic.blocked > 0).unwrap();
    assert!(slow_one.in_flight <= 2, "{slow_one:?}");
    assert!(slow_one.tx_pending_bytes <= 2 * ((128 << 10) + 48), "{slow_one:?}");
    assert_eq!(lab.target.connections(), 2);
}

#[test]
fn a_peer_that_stalls_within_a_pdu_is_dropped_in_time() {
    let params = TargetParams { pdu_timeout_ns: 50 * NS_PER_MS, ..TargetParams::default() };
    let mut lab = Lab::new(Options { params, ..Options::default() });
    let mut stuck = lab.raw();
    stuck.write_all(&[PduType::CAPSULE_CMD.0, 0, 72, 0]).unwrap();
    let mut host = lab.host(HostParams::default());
    lab.until("the stalled peer is dropped", |lab| {
        let now = lab.now();
        host.turn(now);
        lab.seen.closed.get() == 1
    });
    assert_eq!(lab.seen.last_reason.get(), Some(CloseReason::TimedOut));
    let bytes = noise(9, 512);
    lab.write(&mut host, 0, &bytes);
    assert_eq!(lab.read(&mut host, 0, 512), bytes);
}

#[test]
fn a_peer_that_never_speaks_is_dropped_in_time() {
    let params = TargetParams { handshake_timeout_ns: 50 * NS_PER_MS, ..TargetParams::default() };
    let mut lab = Lab::new(Options { params, ..Options::default() });
    let _silent = TcpStream::connect(lab.address).unwrap();
    lab.until("the silent peer is dropped", |lab| lab.seen.closed.get() == 1);
    assert_eq!(lab.seen.last_reason.get(), Some(CloseReason::TimedOut));
}

#[test]
fn a_protocol_error_is_answered_with_a_termination_request_and_then_the_end() {
    let mut lab = Lab::new(Options::default());
    let mut peer = lab.raw();
    peer.write_all(&[0x55, 0, 72, 0, 72, 0, 0, 0]).unwrap();
    let mut answer: Vec<u8> = Vec::new();
    lab.until("the target closes", |_| {
        let mut piece = [0; 256];
        match peer.read(&mut piece) {
            Ok(0) => true,
            Ok(count) => {
                answer.extend(&piece[..count]);
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    });
    assert_eq!(answer[0], PduType::C2H_TERM_REQ.0);
    assert_eq!(lab.seen.last_reason.get(), Some(CloseReason::Protocol));
    drop(peer);
    lab.until("the connection is gone", |lab| lab.target.connections() == 0);
    assert_eq!(lab.seen.closed.get(), 1);
}

/// The start of a write whose data was promised.
fn half_a_write(stream: &mut TcpStream) {
    let len = 64 << 10;
    let (mut sqe, _) = write(0, &vec![0; len]);
    sqe.sgl = SglDescriptor::Transport { length: u32::try_from(len).unwrap() }.into();
    let mut pdu = CapsuleCmd {
        ch: CommonHeader { plen: 72.into(), ..CommonHeader::of(PduType::CAPSULE_CMD, 72) },
        ..CapsuleCmd::default()
    };
    pdu.sqe = sqe;
    stream.write_all(pdu.as_bytes()).unwrap();
}

#[test]
fn a_peer_that_resets_within_a_transfer_is_closed_once_and_leaks_nothing() {
    let mut lab = Lab::new(Options::default());
    let mut peer = lab.raw();
    half_a_write(&mut peer);
    let mut r2t = [0; 24];
    lab.until("data is asked for", |_| matches!(peer.peek(&mut r2t), Ok(24)));
    assert_eq!(r2t[0], PduType::R2T.0);
    // Unread bytes make the kernel reset the connection instead of closing it in order.
    drop(peer);
    lab.until("the reset is seen", |lab| lab.target.connections() == 0);
    assert_eq!((lab.seen.opened.get(), lab.seen.closed.get()), (1, 1));
    assert!(matches!(lab.seen.last_reason.get(), Some(CloseReason::LinkFailed(_))));
    assert_eq!(lab.reactor.with(|context| context.local().pool().usage().large_in_use), 0);
}

#[test]
fn a_peer_that_shuts_its_half_is_gone() {
    let mut lab = Lab::new(Options::default());
    let peer = lab.raw();
    peer.shutdown(Shutdown::Write).unwrap();
    lab.until("the end is seen", |lab| lab.target.connections() == 0);
    assert_eq!(lab.seen.last_reason.get(), Some(CloseReason::PeerClosed));
}

#[test]
fn a_drain_answers_what_was_taken_and_then_closes() {
    let mut lab = Lab::new(Options { mode: Mode::Deferred, ..Options::default() });
    let mut host = lab.host(HostParams::default());
    let waiter = host.submit(AsyncEventRequest.to_sqe(0), HostData::None, lab.now());
    lab.seen.hold.set(true);
    let bytes = noise(3, 4096);
    let tags: Vec<_> = (0..32)
        .map(|index| {
            let (sqe, data) = write(index * 8, &bytes);
            host.submit(sqe, data, lab.now())
        })
        .collect();
    lab.until("the writes are in flight", |lab| {
        let now = lab.now();
        host.turn(now);
        lab.seen.held.get() == 32
    });
    let reply = lab.target.drain().remove(0);
    assert!(matches!(lab.target.listen(lab.address), Err(ListenError::Draining)));
    for _ in 0..1000 {
        let now = lab.now();
        host.turn(now);
        lab.reactor.turn();
    }
    assert_eq!((lab.seen.closed.get(), host.sink.done.len()), (0, 0));
    lab.seen.hold.set(false);
    lab.until("the target closes", |lab| {
        let now = lab.now();
        host.turn(now);
        host.queue.error().is_some()
    });
    assert!(matches!(host.queue.error(), Some(LinkError::Closed)));
    assert!(tags.iter().all(|tag| host.sink.done[tag].0 == Status::SUCCESS));
    assert_eq!(host.sink.failed, [waiter]);
    lab.until("nothing is left", |lab| lab.target.connections() == 0);
    reply.wait().unwrap();
    assert_eq!(lab.seen.last_reason.get(), Some(CloseReason::Shutdown));
    assert!(TcpStream::connect(lab.address).is_err());
}

#[test]
fn a_stopping_reactor_drains_its_connections() {
    let mut lab = Lab::new(Options::default());
    let mut host = lab.host(HostParams::default());
    let bytes = noise(3, 4096);
    lab.write(&mut host, 0, &bytes);
    let seen = std::rc::Rc::clone(&lab.seen);
    drop(host);
    assert!(lab.reactor.shutdown().is_empty(), "every poller drained");
    assert_eq!((seen.opened.get(), seen.closed.get()), (1, 1));
}

#[test]
fn connections_beyond_the_limit_are_refused_until_one_is_free() {
    let mut lab = Lab::new(Options { connections_max: 2, ..Options::default() });
    let first = lab.raw();
    let _second = lab.raw();
    let mut third = TcpStream::connect(lab.address).unwrap();
    lab.until("the third is refused", |lab| lab.target.accept_stats().refused == 1);
    assert!(!matches!(third.read(&mut [0; 8]), Ok(1..)));
    drop(first);
    lab.until("the first is gone", |lab| lab.target.connections() == 1);
    lab.raw();
}

#[test]
fn a_removed_listener_frees_its_port_and_closes_its_connections_when_told() {
    let mut lab = Lab::new(Options::default());
    let (other, address) = lab.target.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut stays = lab.host_at(lab.address, HostParams::default());
    let mut goes = lab.host_at(address, HostParams::default());
    assert!(lab.target.unlisten(other, true));
    assert!(!lab.target.unlisten(other, true));
    assert!(TcpStream::connect(address).is_err());
    lab.until("its connection ends", |lab| {
        let now = lab.now();
        goes.turn(now);
        goes.queue.error().is_some()
    });
    let bytes = noise(1, 512);
    lab.write(&mut stays, 0, &bytes);
    assert_eq!(lab.seen.last_reason.get(), Some(CloseReason::Shutdown));
    let bound: Result<(_, SocketAddr), _> = lab.target.listen(address);
    assert_eq!(bound.unwrap().1, address);
    assert!(lab.target.listen(lab.address).is_err(), "taken");
    let first = lab.listener;
    assert!(lab.target.unlisten(first, false));
    lab.write(&mut stays, 0, &bytes);
}

#[test]
fn connections_are_listed_with_their_peers_and_traffic() {
    let mut lab = Lab::new(Options::default());
    let mut host = lab.host(HostParams::default());
    lab.write(&mut host, 0, &noise(1, 4096));
    let list = lab.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].peer.local, lab.address);
    assert_eq!(list[0].peer.listener, lab.listener);
    assert_eq!(list[0].traffic.commands, 2);
    assert!(list[0].traffic.bytes_received >= 128 + 72 + 1024 + 72 + 4096);
    assert_eq!(list[0].in_flight, 0);
}

#[test]
fn connections_are_placed_where_there_are_fewest() {
    let mut lab = Lab::new(Options::default());
    let (first, target) = (std::rc::Rc::clone(&lab.seen), std::sync::Arc::clone(&lab.target));
    let mut peers = vec![TcpStream::connect(lab.address).unwrap(), TcpStream::connect(lab.address).unwrap()];
    lab.until("both are at the only driver", |_| first.opened.get() == 2);
    let second = lab::add_driver(&mut lab.reactor, &target, Mode::Inline);
    peers.extend((0..4).map(|_| TcpStream::connect(lab.address).unwrap()));
    lab.until("all are placed", |_| first.opened.get() + second.opened.get() == 6);
    assert_eq!((first.opened.get(), second.opened.get()), (3, 3));
}

#[test]
fn a_connection_that_the_service_ends_is_closed_in_order() {
    let mut lab = Lab::new(Options::default());
    let mut host = lab.host(HostParams::default());
    lab.seen.close_all.set(true);
    lab.until("the host sees the end", |lab| {
        let now = lab.now();
        host.turn(now);
        host.queue.error().is_some()
    });
    assert!(matches!(host.queue.error(), Some(LinkError::Closed)));
    assert_eq!(lab.seen.last_reason.get(), Some(CloseReason::Service));
    lab.until("it is gone", |lab| lab.target.connections() == 0);
    assert_eq!(lab.seen.closed.get(), 1);
}

#[test]
fn an_error_of_the_service_reaches_the_host() {
    let mut lab = Lab::new(Options::default());
    let mut host = lab.host(HostParams::default());
    let beyond = u64::try_from(NAMESPACE / BLOCK).unwrap();
    let (sqe, data) = read(beyond, 4096);
    let tag = host.submit(sqe, data, lab.now());
    assert_eq!(lab.wait(&mut host, tag).0, Status::LBA_OUT_OF_RANGE);
}

#[test]
fn a_lost_target_fails_what_is_outstanding_exactly_once() {
    let mut lab = Lab::new(Options { mode: Mode::Deferred, ..Options::default() });
    let mut host = lab.host(HostParams::default());
    lab.seen.hold.set(true);
    let (sqe, data) = read(0, 4096);
    let tag = host.submit(sqe, data, lab.now());
    lab.until("the read is in flight", |lab| {
        let now = lab.now();
        host.turn(now);
        lab.seen.held.get() == 1
    });
    let now = lab.now();
    drop(lab);
    while host.queue.error().is_none() {
        host.turn(now);
    }
    assert_eq!((host.sink.failed, host.sink.done.len()), (vec![tag], 0));
    assert_eq!(host.queue.in_flight(), 0);
}
