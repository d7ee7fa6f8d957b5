//! The host's machine against an arbitrary target.

use std::collections::BTreeSet;

use arrayvec::ArrayVec;
use fabrics::Now;
use fabrics::tcp::host::{HostConn, HostData, HostParams, HostProgress, HostSink};
use nvme::{Cqe, Lba, Nsid, nvm};

use crate::Pieces;

const BLOCKS: u32 = 2;
const IO_BYTES: usize = 8192;
/// Room for the headers of a full queue, and for what cannot be foreseen.
const STAGING_BYTES: usize = 4096;

/// Holds every tag that was submitted and has not completed; a tag that completes twice is a failure.
#[derive(Default)]
struct Outstanding(BTreeSet<u64>);

impl Outstanding {
    fn end(&mut self, tag: u64) {
        assert!(self.0.remove(&tag), "command {tag} completed twice");
    }
}

impl HostSink<Vec<u8>> for Outstanding {
    fn completed(&mut self, tag: u64, _cqe: Cqe, _data: Option<Vec<u8>>) {
        self.end(tag);
    }

    fn failed(&mut self, tag: u64, _data: Option<Vec<u8>>) {
        self.end(tag);
    }

    fn timed_out(&mut self, tag: u64, _cid: u16) {
        assert!(self.0.contains(&tag));
    }
}

/// Feeds the input to a host connection that keeps reads and writes in flight: byte 0 chooses its parameters, the rest
/// is what the target sends, in pieces. Every command must end exactly once.
pub fn tcp_host(input: &[u8]) {
    let Some((&choices, stream)) = input.split_first() else { return };
    let params = HostParams {
        depth: 4,
        header_digest: choices & 1 != 0,
        data_digest: choices & 2 != 0,
        max_r2t: 1 + (choices >> 2 & 3),
        in_capsule_data_size: if choices & 16 != 0 { 8192 } else { 0 },
        ..HostParams::default()
    };
    let mut conn = HostConn::new(params, Now(0));
    let mut sink = Outstanding::default();
    let mut next_tag = 0;
    for (turn, piece) in (1..).zip(Pieces::new(stream)) {
        let now = Now(turn * 1_000_000);
        submit(&mut conn, &mut sink, &mut next_tag, now);
        send_all(&mut conn, &mut sink);
        let is_laid_out = choices & 32 != 0;
        let progress = match is_laid_out {
            true => receive(&mut conn, piece, now, &mut sink),
            false => conn.on_bytes(piece, now, &mut sink),
        };
        if progress == HostProgress::Closing {
            break;
        }
    }
    send_all(&mut conn, &mut sink);
    conn.on_tick(Now(u64::MAX / 2), &mut sink);
    conn.close(&mut sink);
    assert!(sink.0.is_empty(), "never completed: {:?}", sink.0);
}

/// Receives a piece as a queue does: into what the connection laid out.
fn receive(conn: &mut HostConn<Vec<u8>>, mut piece: &[u8], now: Now, sink: &mut Outstanding) -> HostProgress {
    let mut staging = [0; STAGING_BYTES];
    while !piece.is_empty() {
        let mut parts = ArrayVec::new();
        conn.lay_out(&mut staging, &mut parts);
        let mut count = 0;
        for part in &mut parts {
            let (came, later) = piece.split_at(part.len().min(piece.len()));
            part[..came.len()].copy_from_slice(came);
            piece = later;
            count += came.len();
        }
        drop(parts);
        assert!(count > 0, "a layout without room");
        if conn.on_received(&staging, count, now, sink) == HostProgress::Closing {
            return HostProgress::Closing;
        }
    }
    HostProgress::Consumed
}

fn submit(conn: &mut HostConn<Vec<u8>>, sink: &mut Outstanding, next_tag: &mut u64, now: Now) {
    let tag = *next_tag;
    let (sqe, data) = match tag % 3 {
        0 => (
            nvm::ReadWrite::read(Nsid(1), Lba(0), BLOCKS).to_sqe(0),
            HostData::FromController(vec![0; IO_BYTES]),
        ),
        1 => (
            nvm::ReadWrite::write(Nsid(1), Lba(0), BLOCKS).to_sqe(0),
            HostData::ToController(vec![7; IO_BYTES]),
        ),
        _ => (nvm::Flush { nsid: Nsid(1) }.to_sqe(0), HostData::None),
    };
    if conn.submit(sqe, data, tag, now).is_ok() {
        sink.0.insert(tag);
        *next_tag += 1;
    }
}

fn send_all(conn: &mut HostConn<Vec<u8>>, sink: &mut Outstanding) {
    loop {
        let mut parts = ArrayVec::new();
        conn.gather(&mut parts);
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        drop(parts);
        if bytes == 0 {
            return;
        }
        conn.on_sent(bytes, sink);
    }
}
