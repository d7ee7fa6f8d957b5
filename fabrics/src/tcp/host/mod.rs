//! The host's side of one NVMe/TCP connection, which is one queue pair (NVMe/TCP 1.0 §3).
//!
//! Commands go in through [`HostConn::submit`] and complete on a [`HostSink`]; bytes of the controller go in through
//! [`HostConn::on_bytes`], or without a copy of the data through [`HostConn::lay_out`] and [`HostConn::on_received`]; bytes for
//! it come out through [`HostConn::gather`] and [`HostConn::on_sent`].
//!
//! Invariants: every command accepted ends exactly once on the sink, with a completion or as failed; its buffer is
//! not given back before its last byte is sent; command identifiers carry a generation, so an answer to an earlier
//! command is recognised; once the connection is closed nothing is outstanding.

mod params;
mod place;
mod receive;
mod send;
mod slot;

use std::collections::VecDeque;
use std::io::IoSlice;

use arrayvec::ArrayVec;
use nvme::Cqe;
use nvme::tcp::{
    CapsuleCmd, CommonHeader, H2cData, IcReq, MAXH2CDATA_MIN, PduType, TERM_DATA_BYTES_MAX, TermReq, digest,
};
use zerocopy::IntoBytes;

pub use crate::host::{HostData, HostSink, SubmitError, SubmitRefusal};
pub use params::HostParams;
pub use place::RX_PARTS_MAX;

use super::frame::{Framing, Receiver, alignment};
use super::tx::{TX_PARTS_MAX, TxQueue};
use super::{CloseReason, ConnState, ConnStats, Fault};
use crate::cid::CommandIds;
use crate::slab::Slab;
use crate::{IoBuffer, Now};
use place::Placement;
use send::Grant;
use slot::{Slot, State};

/// Header bytes that ending a connection can take: a TermReq with the header it complains about.
const TERM_BYTES_MAX: usize = TermReq::SIZE + TERM_DATA_BYTES_MAX;

/// H2CData PDUs queued at a time: enough for a full send, few enough to bound the queue.
const H2C_PDUS_QUEUED: usize = 64;

/// What became of the bytes given to [`HostConn::on_bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum HostProgress {
    /// All of them were used.
    Consumed,
    /// The connection ends: nothing more is read. Send what is pending, then close.
    Closing,
}

/// The host's side of one connection.
#[derive(Debug)]
pub struct HostConn<B> {
    params: HostParams,
    state: ConnState,
    framing: Framing,
    rx: Receiver,
    placement: Placement,
    tx: TxQueue,
    slots: Slab<Slot<B>>,
    /// R2Ts in the order they came, to be turned into H2CData as there is room.
    grants: VecDeque<Grant>,
    max_h2c_data: u32,
    ids: CommandIds,
    /// Header bytes of one command capsule at most.
    capsule_tx_bytes: usize,
    /// Header bytes of one H2CData PDU at most.
    h2c_tx_bytes: usize,
    sq_head: u16,
    handshake_deadline: Now,
    /// Not later than the first deadline of a command.
    commands_deadline: Now,
    stats: ConnStats,
}

impl<B: IoBuffer> HostConn<B> {
    /// A connection that was just established; its ICReq is queued.
    pub fn new(params: HostParams, now: Now) -> Self {
        let params = params.clamped();
        let mut conn = Self {
            params,
            state: ConnState::Handshaking,
            framing: Framing::INITIAL,
            rx: Receiver::new(),
            placement: Placement::with_depth(params.depth),
            tx: TxQueue::with_capacity(IcReq::SIZE + TERM_BYTES_MAX),
            slots: Slab::with_slots(params.depth),
            grants: VecDeque::with_capacity(usize::from(params.depth) * usize::from(params.max_r2t)),
            max_h2c_data: MAXH2CDATA_MIN,
            ids: CommandIds::for_slots(params.depth),
            capsule_tx_bytes: 0,
            h2c_tx_bytes: 0,
            sq_head: 0,
            handshake_deadline: now.after_ns(params.handshake_timeout_ns),
            commands_deadline: Now::NEVER,
            stats: ConnStats::default(),
        };
        let wishes = if params.header_digest { digest::HEADER } else { 0 }
            | if params.data_digest { digest::DATA } else { 0 };
        let request = IcReq::new(params.hpda, wishes, u32::from(params.max_r2t) - 1);
        conn.tx.push_bytes(request.as_bytes());
        conn
    }

    /// The handshake gave the shape of PDUs: makes room for the headers of a full queue.
    fn set_framing(&mut self, framing: Framing, max_h2c_data: u32) {
        self.framing = framing;
        self.max_h2c_data = max_h2c_data;
        let with_data = |hlen| usize::from(framing.data_offset_out(hlen)) + framing.data_digest_bytes();
        self.capsule_tx_bytes = with_data(CapsuleCmd::SIZE);
        self.h2c_tx_bytes = with_data(H2cData::SIZE);
        let capacity = self.tx_reserve() + H2C_PDUS_QUEUED * self.h2c_tx_bytes;
        let segments = 2 * (usize::from(self.params.depth) + H2C_PDUS_QUEUED) + 2;
        self.tx.set_capacity(capacity, segments);
    }

    /// Header bytes kept free for capsules and a TermReq.
    #[inline]
    fn tx_reserve(&self) -> usize {
        IcReq::SIZE + TERM_BYTES_MAX + usize::from(self.params.depth) * self.capsule_tx_bytes
    }

    fn agreed(&self, cpda: u8) -> Framing {
        Framing {
            header_digest: self.params.header_digest,
            data_digest: self.params.data_digest,
            align_in: alignment(self.params.hpda),
            align_out: alignment(cpda),
        }
    }

    /// A fatal error of the controller: answers with a TermReq that carries the header at fault, and reads no more.
    #[cold]
    fn fault(&mut self, fault: Fault, header: &[u8]) {
        let data = &header[..header.len().min(TERM_DATA_BYTES_MAX)];
        let data_bytes = u8::try_from(data.len()).unwrap_or(0);
        let term = TermReq::new(PduType::H2C_TERM_REQ, fault.fes, fault.fei, data_bytes);
        self.tx.push_bytes(term.as_bytes());
        self.tx.push_bytes(data);
        self.rx.end_header(None);
        self.state.advance(ConnState::Terminating(CloseReason::Fault(fault)));
    }

    #[cold]
    fn close_with<S: HostSink<B>>(&mut self, reason: CloseReason, sink: &mut S) {
        if matches!(self.state, ConnState::Closed(_)) {
            return;
        }
        self.state.advance(ConnState::Closed(reason));
        self.rx.end_header(None);
        self.tx.clear(|_| {});
        self.grants.clear();
        for slot in 0..self.slots.slots() {
            let Some(entry) = self.slots.remove(slot) else { continue };
            match entry.state {
                State::Outstanding => sink.failed(entry.tag, entry.data.into_buffer()),
                State::Answered(cqe) => {
                    let cqe = entry.judge(cqe);
                    sink.completed(entry.tag, cqe, entry.data.into_buffer());
                }
            }
        }
        debug_assert_eq!(self.slots.occupied(), 0);
    }

    /// Ends the connection from our side, at once: every outstanding command fails on `sink`.
    pub fn close<S: HostSink<B>>(&mut self, sink: &mut S) {
        let reason = self.state.reason().unwrap_or(CloseReason::Local);
        self.close_with(reason, sink);
    }

    /// What is to be sent next, in order: headers and data, as many parts as fit.
    pub fn gather<'a>(&'a self, out: &mut ArrayVec<IoSlice<'a>, TX_PARTS_MAX>) {
        self.tx.gather(|slot| self.slots.at(slot).and_then(Slot::data_out), out);
    }

    /// The first `bytes` bytes of what [`Self::gather`] gave are sent. More data may become ready to send.
    pub fn on_sent<S: HostSink<B>>(&mut self, bytes: usize, sink: &mut S) {
        self.stats.bytes_out += bytes as u64;
        let slots = &mut self.slots;
        self.tx.advance(bytes, |slot| {
            let Some(entry) = slots.at_mut(slot) else { return };
            debug_assert!(entry.parts_unsent > 0);
            entry.parts_unsent -= 1;
            if let State::Answered(cqe) = entry.state
                && entry.parts_unsent == 0
            {
                finish(slots, slot, cqe, sink);
            }
        });
        match self.state {
            ConnState::Ready => self.send_granted(),
            ConnState::Terminating(reason) if self.tx.pending() == 0 => self.close_with(reason, sink),
            _ => {}
        }
    }

    /// Bytes waiting to be sent.
    #[inline]
    pub fn tx_pending(&self) -> usize {
        self.tx.pending()
    }

    /// Time passes: tells of commands that take too long; closes the connection when the controller is too slow with
    /// its handshake or with a PDU it has begun.
    pub fn on_tick<S: HostSink<B>>(&mut self, now: Now, sink: &mut S) {
        if !self.state.is_open() || now < self.next_deadline().unwrap_or(Now::NEVER) {
            return;
        }
        if now >= self.handshake_deadline {
            return self.close_with(CloseReason::HandshakeTimeout, sink);
        }
        if self.rx.is_stalled(now, self.params.pdu_timeout_ns) {
            return self.close_with(CloseReason::PduTimeout, sink);
        }
        self.commands_deadline = Now::NEVER;
        for slot in 0..self.slots.slots() {
            let Some(entry) = self.slots.at_mut(slot) else { continue };
            if entry.timed_out {
                continue;
            }
            if entry.deadline <= now {
                entry.timed_out = true;
                sink.timed_out(entry.tag, entry.cid);
            } else {
                self.commands_deadline = self.commands_deadline.min(entry.deadline);
            }
        }
    }

    /// When [`Self::on_tick`] may have something to do; it may turn out that it has not.
    #[inline]
    pub fn next_deadline(&self) -> Option<Now> {
        if !self.state.is_open() {
            return None;
        }
        let pdu = self.rx.since.after_ns(self.params.pdu_timeout_ns);
        let deadline = self.handshake_deadline.min(pdu).min(self.commands_deadline);
        (deadline != Now::NEVER).then_some(deadline)
    }

    /// State of the connection.
    #[inline]
    pub fn state(&self) -> ConnState {
        self.state
    }

    /// Commands that have not completed.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.slots.occupied().into()
    }

    /// Whether [`Self::submit`] would refuse a command for want of a slot.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// Submission queue head of the last response that carried one.
    #[inline]
    pub fn sq_head(&self) -> u16 {
        self.sq_head
    }

    /// Data the controller takes in one H2CData PDU, in bytes (MAXH2CDATA).
    pub fn max_h2c_data(&self) -> u32 {
        self.max_h2c_data
    }

    /// What the connection did so far.
    pub fn stats(&self) -> &ConnStats {
        &self.stats
    }
}

/// Frees the slot and gives the completion to the owner.
#[inline]
fn finish<B, S: HostSink<B>>(slots: &mut Slab<Slot<B>>, slot: u16, cqe: Cqe, sink: &mut S) {
    let Some(entry) = slots.remove(slot) else { return debug_assert!(false, "completed twice") };
    let cqe = entry.judge(cqe);
    sink.completed(entry.tag, cqe, entry.data.into_buffer());
}

const _: () = assert!(CommonHeader::SIZE == 8);
