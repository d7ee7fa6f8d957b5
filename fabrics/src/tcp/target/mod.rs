//! The target's side of one NVMe/TCP connection, which is one queue pair (NVMe/TCP 1.0 §3).
//!
//! Bytes of the host go in through [`TargetConn::on_bytes`], which runs commands on a [`CommandHandler`] as they
//! become complete; answers come out through [`TargetConn::gather`] and [`TargetConn::on_sent`].
//!
//! Invariants: every command received is handed to the handler at most once and answered exactly once; a slot is
//! occupied from the arrival of its command until its last data byte is sent; a command is accepted only when there
//! is room for every byte of header that answering it can take, so nothing here grows with what a peer sends; after
//! the first fatal error nothing is read, and one TermReq is the last thing sent.

mod capsule;
mod params;
mod respond;
mod slot;
mod transfer;

use std::collections::VecDeque;
use std::io::IoSlice;

use arrayvec::ArrayVec;
use nvme::Sqe;
use nvme::tcp::{
    CapsuleCmd, CapsuleResp, CommonHeader, Fes, H2cData, IcReq, IcResp, PDA_MAX, PFV_1_0, PduType, R2t,
    TERM_DATA_BYTES_MAX, TermReq, digest,
};
use zerocopy::IntoBytes;

pub use crate::target::CommandHandler;
pub use params::{IN_CAPSULE_BYTES_MAX, TargetParams};

use super::frame::{
    BodyStep, Frame, Framing, Receiver, alignment, common_header, field, peer_terminated, view,
};
use super::tx::{TX_PARTS_MAX, TxQueue};
use super::{CloseReason, ConnState, ConnStats, Fault};
use crate::fused::FusedFirst;
use crate::slab::Slab;
use crate::target::SubmissionQueue;
use crate::{IoBuffer, Now};
use slot::{Slot, State};

/// Slots before Connect says how deep the queue is: Connect, and what follows while it is being answered.
const SLOTS_BEFORE_CONNECT: u16 = 2;

/// Header bytes that ending a connection can take: a TermReq with the header it complains about.
const TERM_BYTES_MAX: usize = TermReq::SIZE + TERM_DATA_BYTES_MAX;

/// What became of the bytes given to [`TargetConn::on_bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// All of them were used.
    Consumed,
    /// The first `consumed` were used. The rest, which may be empty, has to be given again, followed by what arrived
    /// since, once a command completed, data was sent or a buffer became free.
    Blocked {
        /// Bytes used.
        consumed: usize,
    },
    /// The connection ends: nothing more is read. Send what is pending, then close.
    Closing,
}

/// How a step of reading ended.
#[derive(PartialEq, Eq)]
enum Flow {
    /// There may be more.
    More,
    /// The input is used up.
    Starved,
    /// No slot, no buffer or no room to answer.
    Blocked,
}

/// The target's side of one connection.
#[derive(Debug)]
pub struct TargetConn<B> {
    params: TargetParams,
    state: ConnState,
    framing: Framing,
    rx: Receiver,
    tx: TxQueue,
    slots: Slab<Slot<B>>,
    /// R2Ts that may be outstanding for one command: our limit or the host's.
    r2ts_max: u8,
    /// Header bytes that one command can have in `tx` at most.
    command_tx_bytes: usize,
    sq: SubmissionQueue,
    fused_first: FusedFirst,
    /// Commands that wait for a buffer before their data is asked for, oldest first.
    parked: VecDeque<u16>,
    /// Commands whose data was asked for and is not all here.
    transfers: u16,
    /// Commands answered whose data is not all sent: they have nothing more to queue.
    sending: u16,
    handshake_deadline: Now,
    /// Not later than the start of the oldest transfer in progress.
    transfers_since: Now,
    blocked: bool,
    stats: ConnStats,
}

impl<B: IoBuffer> TargetConn<B> {
    /// A connection that was just accepted.
    pub fn new(params: TargetParams, now: Now) -> Self {
        let params = params.clamped();
        let mut conn = Self {
            params,
            state: ConnState::Handshaking,
            framing: Framing::INITIAL,
            rx: Receiver::new(),
            tx: TxQueue::with_capacity(IcResp::SIZE + TERM_BYTES_MAX),
            slots: Slab::with_slots(SLOTS_BEFORE_CONNECT.min(params.max_slots)),
            r2ts_max: 1,
            command_tx_bytes: 0,
            sq: SubmissionQueue::new(SLOTS_BEFORE_CONNECT),
            fused_first: FusedFirst::None,
            parked: VecDeque::new(),
            transfers: 0,
            sending: 0,
            handshake_deadline: now.after_ns(params.handshake_timeout_ns),
            transfers_since: Now::NEVER,
            blocked: false,
            stats: ConnStats::default(),
        };
        conn.size_tx();
        conn
    }

    /// Reads bytes of the host. Commands that become complete run on `handler` at once.
    pub fn on_bytes<H>(&mut self, bytes: &[u8], now: Now, handler: &mut H) -> Progress
    where
        H: CommandHandler<Buffer = B>,
    {
        let mut input = bytes;
        if !self.parked.is_empty() && self.state.is_open() {
            self.unpark(now, handler);
        }
        let flow = loop {
            if !self.state.is_open() {
                self.stats.bytes_in += (bytes.len() - input.len()) as u64;
                return Progress::Closing;
            }
            let flow = if self.rx.body.is_some() {
                self.read_body(&mut input, now, handler)
            } else {
                self.read_header(&mut input, now, handler)
            };
            if flow != Flow::More {
                break flow;
            }
        };
        let consumed = bytes.len() - input.len();
        self.stats.bytes_in += consumed as u64;
        if !self.parked.is_empty() {
            self.unpark(now, handler);
        }
        // Commands that wait for a buffer stop the input only when none of it can be data that frees one.
        let is_starved_of_buffers = self.transfers == 0 && !self.parked.is_empty();
        self.blocked = flow == Flow::Blocked || is_starved_of_buffers;
        if self.blocked {
            self.stats.blocked += 1;
            // Waiting for us is not the peer's fault: its clock starts anew.
            self.rx.since = Now::NEVER;
            return Progress::Blocked { consumed };
        }
        debug_assert!(input.is_empty());
        self.rx.pause(now);
        Progress::Consumed
    }

    #[inline]
    fn read_header<H>(&mut self, input: &mut &[u8], now: Now, handler: &mut H) -> Flow
    where
        H: CommandHandler<Buffer = B>,
    {
        let bytes = *input;
        if bytes.is_empty() {
            return Flow::Starved;
        }
        if self.rx.have > 0 || bytes.len() < CommonHeader::SIZE {
            return self.read_cut_header(input, now, handler);
        }
        let frame = match self.check_common(bytes) {
            Ok(frame) => frame,
            Err(fault) => return self.fault(fault, &bytes[..CommonHeader::SIZE]),
        };
        let size = frame.header as usize;
        if bytes.len() < size {
            return self.read_cut_header(input, now, handler);
        }
        let (header, rest) = bytes.split_at(size);
        if frame.data == 0
            && let Some(sqe) = foresee(rest, size)
        {
            handler.expect(sqe);
        }
        let flow = self.on_header(header, frame, now, handler);
        if flow == Flow::More {
            *input = rest;
        }
        flow
    }

    /// Reads a header that the end of the input cuts, or cut before.
    #[cold]
    fn read_cut_header<H>(&mut self, input: &mut &[u8], now: Now, handler: &mut H) -> Flow
    where
        H: CommandHandler<Buffer = B>,
    {
        if !self.rx.gather(input, CommonHeader::SIZE) {
            return Flow::Starved;
        }
        let copy = self.rx.header;
        let frame = match self.check_common(&copy) {
            Ok(frame) => frame,
            Err(fault) => return self.fault(fault, &copy[..CommonHeader::SIZE]),
        };
        let size = frame.header as usize;
        if !self.rx.gather(input, size) {
            return Flow::Starved;
        }
        let copy = self.rx.header;
        self.on_header(&copy[..size], frame, now, handler)
    }

    /// Checks the common header that `bytes` start with: all that decides where the PDU ends.
    #[inline]
    fn check_common(&self, bytes: &[u8]) -> Result<Frame, Fault> {
        let Some(ch) = common_header(bytes) else { return Err(Fault::field(field::TYPE)) };
        match (ch.pdu_type(), self.state) {
            (PduType::CAPSULE_CMD, ConnState::Ready) => self.capsule_frame(ch),
            (PduType::H2C_DATA, ConnState::Ready) => self.h2c_frame(ch),
            (PduType::IC_REQ, ConnState::Handshaking) => Framing::INITIAL.frame_without_data(ch, 128),
            (PduType::H2C_TERM_REQ, _) => Self::term_frame(ch),
            (PduType::CAPSULE_CMD | PduType::H2C_DATA | PduType::IC_REQ, _) => {
                Err(Fault::of(Fes::PDU_SEQUENCE_ERROR))
            }
            _ => Err(Fault::field(field::TYPE)),
        }
    }

    fn term_frame(ch: &CommonHeader) -> Result<Frame, Fault> {
        if usize::from(ch.hlen) != TermReq::SIZE {
            return Err(Fault::field(field::HLEN));
        }
        let plen = ch.plen.get() as usize;
        if !(TermReq::SIZE..=TERM_BYTES_MAX).contains(&plen) {
            return Err(Fault::field(field::PLEN));
        }
        Ok(Frame { header: ch.hlen.into(), pad: 0, data: 0 })
    }

    #[inline]
    fn on_header<H>(&mut self, header: &[u8], frame: Frame, now: Now, handler: &mut H) -> Flow
    where
        H: CommandHandler<Buffer = B>,
    {
        let result = match header[0] {
            t if t == PduType::CAPSULE_CMD.0 => self.on_capsule(header, frame, now, handler),
            t if t == PduType::H2C_DATA.0 => self.on_h2c_data(header, frame),
            t if t == PduType::IC_REQ.0 => self.on_ic_req(header),
            _ => {
                self.close_with(peer_terminated(header));
                Ok(Flow::More)
            }
        };
        match result {
            Ok(flow) => flow,
            Err(fault) => self.fault(fault, header),
        }
    }

    /// NVMe/TCP 1.0 §3.6.2.2: what the host wishes, and what it gets.
    fn on_ic_req(&mut self, header: &[u8]) -> Result<Flow, Fault> {
        /// Offset of PFV.
        const PFV: u32 = 8;
        /// Offset of HPDA.
        const HPDA: u32 = 10;
        let Some(request) = view::<IcReq>(header) else { return Err(Fault::field(field::HLEN)) };
        if request.pfv.get() != PFV_1_0 {
            return Err(Fault { fes: Fes::UNSUPPORTED_PARAMETER, fei: PFV });
        }
        if request.hpda > PDA_MAX {
            return Err(Fault::field(HPDA));
        }
        let mut allowed = 0;
        if self.params.header_digest {
            allowed |= digest::HEADER;
        }
        if self.params.data_digest {
            allowed |= digest::DATA;
        }
        let digests = request.dgst & allowed;
        let response = IcResp::new(self.params.cpda, digests, self.params.max_h2c_data);
        self.tx.push_bytes(response.as_bytes());
        self.framing = Framing {
            header_digest: digests & digest::HEADER != 0,
            data_digest: digests & digest::DATA != 0,
            align_in: alignment(self.params.cpda),
            align_out: alignment(request.hpda),
        };
        let r2ts_host = request.maxr2t.get().saturating_add(1);
        self.r2ts_max = u8::try_from(r2ts_host).unwrap_or(u8::MAX).min(self.params.max_r2t);
        self.state.advance(ConnState::Ready);
        self.handshake_deadline = Now::NEVER;
        self.size_tx();
        self.rx.end_header(None);
        Ok(Flow::More)
    }

    /// Makes room for the headers of as many commands as there are slots.
    fn size_tx(&mut self) {
        let framing = &self.framing;
        let response = CapsuleResp::SIZE + framing.header_digest_bytes();
        let c2h = usize::from(framing.data_offset_out(H2cData::SIZE)) + framing.data_digest_bytes();
        let r2ts = usize::from(self.r2ts_max) * (R2t::SIZE + framing.header_digest_bytes());
        self.command_tx_bytes = response + c2h.max(r2ts);
        let slots = usize::from(self.slots.slots());
        let capacity = IcResp::SIZE + TERM_BYTES_MAX + (slots + 1) * self.command_tx_bytes;
        self.tx.set_capacity(capacity, 2 * slots + 2);
        self.parked.reserve(slots.saturating_sub(self.parked.len()));
    }

    /// Whether another command can be taken: a slot, and room for all it and its elders may still have to queue.
    #[inline]
    fn can_accept(&self) -> bool {
        debug_assert!(self.sending <= self.slots.occupied());
        let commands = usize::from(self.slots.occupied() - self.sending) + 1;
        !self.slots.is_full() && self.tx.room() >= commands * self.command_tx_bytes + TERM_BYTES_MAX
    }

    #[inline]
    fn read_body<H>(&mut self, input: &mut &[u8], now: Now, handler: &mut H) -> Flow
    where
        H: CommandHandler<Buffer = B>,
    {
        let Some(body) = self.rx.body.as_mut() else { return Flow::More };
        let (slot, end) = (body.slot, body.offset);
        match body.step(input, self.framing.data_digest) {
            BodyStep::Starved => Flow::Starved,
            BodyStep::Data { offset, bytes } => {
                match self.slots.at_mut(slot).map(|entry| &mut entry.state) {
                    Some(State::Capsule { buffer }) => buffer.copy_in(offset as usize, bytes),
                    Some(State::Transfer(transfer)) => transfer.buffer.copy_in(offset as usize, bytes),
                    state => debug_assert!(matches!(state, Some(State::Rejected(_)))),
                }
                Flow::More
            }
            BodyStep::Done { intact } => {
                self.rx.end_body();
                self.stats.data_digest_errors += u64::from(!intact);
                self.on_body_done(slot, end, intact, now, handler);
                Flow::More
            }
        }
    }

    #[inline]
    fn on_body_done<H>(&mut self, slot: u16, end: u32, intact: bool, now: Now, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        match self.slots.at(slot).map(|entry| &entry.state) {
            Some(State::Transfer(_)) => self.on_transfer_pdu_done(slot, end, intact, now, handler),
            _ => self.on_capsule_done(slot, intact, handler),
        }
    }

    /// A fatal error of the peer: answers with a TermReq that carries the header at fault, and reads no more.
    #[cold]
    fn fault(&mut self, fault: Fault, header: &[u8]) -> Flow {
        let data = &header[..header.len().min(TERM_DATA_BYTES_MAX)];
        let data_bytes = u8::try_from(data.len()).unwrap_or(0);
        let term = TermReq::new(PduType::C2H_TERM_REQ, fault.fes, fault.fei, data_bytes);
        self.tx.push_bytes(term.as_bytes());
        self.tx.push_bytes(data);
        self.rx.end_header(None);
        self.state.advance(ConnState::Terminating(CloseReason::Fault(fault)));
        Flow::More
    }

    #[cold]
    fn close_with(&mut self, reason: CloseReason) {
        if matches!(self.state, ConnState::Closed(_)) {
            return;
        }
        self.state.advance(ConnState::Closed(reason));
        self.rx.end_header(None);
        self.parked.clear();
        let slots = &mut self.slots;
        self.tx.clear(|slot| {
            slots.free(slot);
        });
        self.sending = 0;
    }

    /// Ends the connection from our side, at once: what is not sent is dropped.
    pub fn close(&mut self) {
        let reason = self.state.reason().unwrap_or(CloseReason::Local);
        self.close_with(reason);
    }

    /// Makes this connection a queue of `depth` entries, as it does by itself when Connect is answered with success.
    ///
    /// Without submission queue flow control, SQHD is not reported and successful reads need no response capsule
    /// (NVMe/TCP 1.0 §3.3.2.1).
    pub fn set_queue(&mut self, depth: u16, sq_flow_control: bool) {
        self.sq.reshape(depth, sq_flow_control);
        self.slots.grow_to(depth.clamp(1, self.params.max_slots));
        self.size_tx();
    }

    /// What is to be sent next, in order: headers and data, as many parts as fit.
    pub fn gather<'a>(&'a self, out: &mut ArrayVec<IoSlice<'a>, TX_PARTS_MAX>) {
        self.tx.gather(|slot| self.slots.at(slot).and_then(Slot::data_out), out);
    }

    /// The buffers whose bytes are not all sent yet. A driver may put others with the same bytes in their places.
    pub fn unsent_mut(&mut self) -> impl Iterator<Item = &mut B> {
        self.slots.iter_mut().filter_map(Slot::data_out_mut)
    }

    /// The first `bytes` bytes of what [`Self::gather`] gave are sent. Frees the slots and buffers of data sent.
    pub fn on_sent(&mut self, bytes: usize) {
        self.stats.bytes_out += bytes as u64;
        let Self { tx, slots, sending, .. } = self;
        tx.advance(bytes, |slot| {
            slots.free(slot);
            *sending -= 1;
        });
        if let ConnState::Terminating(reason) = self.state
            && self.tx.pending() == 0
        {
            self.state.advance(ConnState::Closed(reason));
        }
    }

    /// Bytes waiting to be sent. A driver stops reading beyond [`super::TX_PENDING_MAX`].
    #[inline]
    pub fn tx_pending(&self) -> usize {
        self.tx.pending()
    }

    /// Time passes. Closes the connection when the peer was too slow; there is no TermReq for that.
    pub fn on_tick(&mut self, now: Now) {
        if !self.state.is_open() || now < self.next_deadline().unwrap_or(Now::NEVER) {
            return;
        }
        if now >= self.handshake_deadline {
            return self.close_with(CloseReason::HandshakeTimeout);
        }
        if self.rx.is_stalled(now, self.params.pdu_timeout_ns) {
            return self.close_with(CloseReason::PduTimeout);
        }
        self.transfers_since = self.oldest_transfer();
        if now >= self.transfers_since.after_ns(self.params.data_timeout_ns) {
            self.close_with(CloseReason::DataTimeout);
        }
    }

    fn oldest_transfer(&self) -> Now {
        let since = |slot: &Slot<B>| match &slot.state {
            State::Transfer(transfer) => transfer.since,
            _ => Now::NEVER,
        };
        self.slots.iter().map(|(_, slot)| since(slot)).min().unwrap_or(Now::NEVER)
    }

    /// When [`Self::on_tick`] may have something to do; it may turn out that it has not.
    #[inline]
    pub fn next_deadline(&self) -> Option<Now> {
        if !self.state.is_open() {
            return None;
        }
        let pdu = self.rx.since.after_ns(self.params.pdu_timeout_ns);
        let data = self.transfers_since.after_ns(self.params.data_timeout_ns);
        let deadline = self.handshake_deadline.min(pdu).min(data);
        (deadline != Now::NEVER).then_some(deadline)
    }

    /// State of the connection.
    #[inline]
    pub fn state(&self) -> ConnState {
        self.state
    }

    /// Whether the last [`Self::on_bytes`] stopped for want of a slot, a buffer or room to answer.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Commands that are not answered, or whose data is not all sent.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.slots.occupied().into()
    }

    /// What the connection did so far.
    pub fn stats(&self) -> &ConnStats {
        &self.stats
    }

    /// Whether header and data digests are in use.
    pub fn digests(&self) -> (bool, bool) {
        (self.framing.header_digest, self.framing.data_digest)
    }
}

/// The command after the next one, when both have come whole, without data, as they do in large numbers.
#[inline]
fn foresee(rest: &[u8], size: usize) -> Option<&Sqe> {
    let bytes = rest.get(size..size + CapsuleCmd::SIZE)?;
    let capsule: &CapsuleCmd = view(bytes)?;
    let is_whole = capsule.ch.pdu_type() == PduType::CAPSULE_CMD && capsule.ch.plen.get() as usize == size;
    is_whole.then_some(&capsule.sqe)
}

const _: () = assert!(CapsuleCmd::SIZE + 4 <= super::frame::HEADER_BYTES_MAX);
