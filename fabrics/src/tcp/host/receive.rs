//! What the controller sends: its handshake, responses, data, requests for data.

use nvme::tcp::{
    C2hData, CapsuleResp, CommonHeader, Fes, IcResp, MAXH2CDATA_MIN, PDA_MAX, PFV_1_0, PduType, R2t,
    TERM_DATA_BYTES_MAX, TermReq, digest, flags,
};
use nvme::{Cqe, Status};

use super::send::Grant;
use super::slot::State;
use super::{HostConn, HostProgress, finish};
use crate::host::{HostData, HostSink};
use crate::tcp::frame::{Body, BodyStep, Frame, Framing, common_header, field, peer_terminated, view};
use crate::tcp::{CloseReason, ConnState, Fault};
use crate::{IoBuffer, Now};

/// Offset of PFV in ICResp.
const PFV: u32 = 8;
/// Offset of CPDA in ICResp.
const CPDA: u32 = 10;
/// Offset of MAXH2CDATA in ICResp.
const MAXH2CDATA: u32 = 12;
/// Offset of CCCID in C2HData and R2T.
const CCCID: u32 = 8;
/// Offset of DATAL in C2HData.
const DATAL: u32 = 16;
/// Offset of the command identifier in a response capsule.
const RESPONSE_CID: u32 = 20;

impl<B: IoBuffer> HostConn<B> {
    /// Reads bytes of the controller. Commands that end do so on `sink`.
    pub fn on_bytes<S: HostSink<B>>(&mut self, bytes: &[u8], now: Now, sink: &mut S) -> HostProgress {
        let mut input = bytes;
        while self.state.is_open() {
            let more = if self.rx.body.is_some() {
                self.read_body(&mut input, sink)
            } else {
                self.read_header(&mut input, sink)
            };
            if !more {
                debug_assert!(input.is_empty());
                self.stats.bytes_in += bytes.len() as u64;
                self.rx.pause(now);
                return HostProgress::Consumed;
            }
        }
        self.stats.bytes_in += (bytes.len() - input.len()) as u64;
        HostProgress::Closing
    }

    /// `false` when the input ended first.
    #[inline]
    fn read_header<S: HostSink<B>>(&mut self, input: &mut &[u8], sink: &mut S) -> bool {
        let bytes = *input;
        if bytes.is_empty() {
            return false;
        }
        if self.rx.have > 0 || bytes.len() < CommonHeader::SIZE {
            return self.read_cut_header(input, sink);
        }
        let frame = match self.check_common(bytes) {
            Ok(frame) => frame,
            Err(fault) => {
                self.fault(fault, &bytes[..CommonHeader::SIZE]);
                return true;
            }
        };
        let size = frame.header as usize;
        if bytes.len() < size {
            return self.read_cut_header(input, sink);
        }
        let (header, rest) = bytes.split_at(size);
        *input = rest;
        self.on_header(header, frame, sink);
        true
    }

    #[cold]
    fn read_cut_header<S: HostSink<B>>(&mut self, input: &mut &[u8], sink: &mut S) -> bool {
        if !self.rx.gather(input, CommonHeader::SIZE) {
            return false;
        }
        let copy = self.rx.header;
        let frame = match self.check_common(&copy) {
            Ok(frame) => frame,
            Err(fault) => {
                self.fault(fault, &copy[..CommonHeader::SIZE]);
                return true;
            }
        };
        let size = frame.header as usize;
        if !self.rx.gather(input, size) {
            return false;
        }
        let copy = self.rx.header;
        self.on_header(&copy[..size], frame, sink);
        true
    }

    #[inline]
    fn check_common(&self, bytes: &[u8]) -> Result<Frame, Fault> {
        let Some(ch) = common_header(bytes) else { return Err(Fault::field(field::TYPE)) };
        match (ch.pdu_type(), self.state) {
            (PduType::CAPSULE_RESP | PduType::R2T, ConnState::Ready) => {
                self.framing.frame_without_data(ch, 24)
            }
            (PduType::C2H_DATA, ConnState::Ready) => {
                let frame = self.framing.frame_with_data(ch, 24)?;
                if frame.data == 0 { Err(Fault::field(field::PLEN)) } else { Ok(frame) }
            }
            (PduType::IC_RESP, ConnState::Handshaking) => Framing::INITIAL.frame_without_data(ch, 128),
            (PduType::C2H_TERM_REQ, _) => {
                let plen = ch.plen.get() as usize;
                if usize::from(ch.hlen) != TermReq::SIZE {
                    return Err(Fault::field(field::HLEN));
                }
                if !(TermReq::SIZE..=TermReq::SIZE + TERM_DATA_BYTES_MAX).contains(&plen) {
                    return Err(Fault::field(field::PLEN));
                }
                Ok(Frame { header: ch.hlen.into(), pad: 0, data: 0 })
            }
            (PduType::CAPSULE_RESP | PduType::R2T | PduType::C2H_DATA | PduType::IC_RESP, _) => {
                Err(Fault::of(Fes::PDU_SEQUENCE_ERROR))
            }
            _ => Err(Fault::field(field::TYPE)),
        }
    }

    #[inline]
    fn on_header<S: HostSink<B>>(&mut self, header: &[u8], frame: Frame, sink: &mut S) {
        let result = match header[0] {
            t if t == PduType::CAPSULE_RESP.0 => self.on_response(header, sink),
            t if t == PduType::C2H_DATA.0 => self.on_c2h_data(header, frame),
            t if t == PduType::R2T.0 => self.on_r2t(header),
            t if t == PduType::IC_RESP.0 => self.on_ic_resp(header, sink),
            _ => {
                self.close_with(peer_terminated(header), sink);
                Ok(())
            }
        };
        if let Err(fault) = result {
            self.fault(fault, header);
        }
    }

    /// NVMe/TCP 1.0 §3.6.2.3: what we got of our wishes.
    fn on_ic_resp<S: HostSink<B>>(&mut self, header: &[u8], sink: &mut S) -> Result<(), Fault> {
        let Some(response) = view::<IcResp>(header) else { return Err(Fault::field(field::HLEN)) };
        if response.pfv.get() != PFV_1_0 {
            return Err(Fault { fes: Fes::UNSUPPORTED_PARAMETER, fei: PFV });
        }
        if response.cpda > PDA_MAX {
            return Err(Fault::field(CPDA));
        }
        if response.maxh2cdata.get() < MAXH2CDATA_MIN || !response.maxh2cdata.get().is_multiple_of(4) {
            return Err(Fault::field(MAXH2CDATA));
        }
        let header_digest = response.dgst & digest::HEADER != 0;
        let data_digest = response.dgst & digest::DATA != 0;
        if (header_digest, data_digest) != (self.params.header_digest, self.params.data_digest) {
            self.close_with(CloseReason::Incompatible, sink);
            return Ok(());
        }
        let framing = self.agreed(response.cpda);
        self.set_framing(framing, response.maxh2cdata.get());
        self.state.advance(ConnState::Ready);
        self.handshake_deadline = Now::NEVER;
        self.rx.end_header(None);
        Ok(())
    }

    #[inline]
    fn on_response<S: HostSink<B>>(&mut self, header: &[u8], sink: &mut S) -> Result<(), Fault> {
        self.framing.verify_header(header, CapsuleResp::SIZE)?;
        let Some(pdu) = view::<CapsuleResp>(header) else { return Err(Fault::field(field::HLEN)) };
        let cqe = pdu.cqe;
        let Some((slot, _)) = self.slot_of(cqe.cid.get()) else { return Err(Fault::field(RESPONSE_CID)) };
        self.sq_head = cqe.sqhd.get();
        self.rx.end_header(None);
        self.on_answered(slot, cqe, sink);
        Ok(())
    }

    /// The command ended at the controller; it ends here when none of its data waits to be sent.
    #[inline]
    fn on_answered<S: HostSink<B>>(&mut self, slot: u16, cqe: Cqe, sink: &mut S) {
        let Some(entry) = self.slots.at_mut(slot) else { return };
        let has_grants = entry.r2ts > 0;
        if has_grants {
            // Its data was asked for and never went: whatever the controller says, it is not a success.
            entry.moved = 0;
        }
        if entry.parts_unsent == 0 {
            finish(&mut self.slots, slot, cqe, sink);
        } else {
            entry.advance(State::Answered(cqe));
        }
        if has_grants {
            self.drop_grants(slot);
        }
    }

    #[inline]
    fn on_c2h_data(&mut self, header: &[u8], frame: Frame) -> Result<(), Fault> {
        self.framing.verify_header(header, C2hData::SIZE)?;
        let Some(pdu) = view::<C2hData>(header) else { return Err(Fault::field(field::HLEN)) };
        let Some((slot, entry)) = self.slot_of(pdu.cccid.get()) else { return Err(Fault::field(CCCID)) };
        if !matches!(entry.data, HostData::FromController(_)) {
            return Err(Fault::field(CCCID));
        }
        if pdu.datal.get() != frame.data {
            return Err(Fault::field(DATAL));
        }
        if pdu.datao.get() != entry.moved || frame.data > entry.length - entry.moved {
            return Err(Fault::of(Fes::DATA_TRANSFER_OUT_OF_RANGE));
        }
        let marks = pdu.ch.flags & (flags::LAST_PDU | flags::SUCCESS);
        if marks == flags::SUCCESS {
            return Err(Fault::field(field::FLAGS));
        }
        let body = Body::new(slot, entry.moved, frame, pdu.ch.flags);
        self.rx.end_header(Some(body));
        Ok(())
    }

    /// `false` when the input ended first.
    #[inline]
    fn read_body<S: HostSink<B>>(&mut self, input: &mut &[u8], sink: &mut S) -> bool {
        let Some(body) = self.rx.body.as_mut() else { return true };
        let (slot, end, pdu_flags) = (body.slot, body.offset, body.flags);
        match body.step(input, self.framing.data_digest) {
            BodyStep::Starved => return false,
            BodyStep::Data { offset, bytes } => match self.slots.at_mut(slot).map(|entry| &mut entry.data) {
                Some(HostData::FromController(buffer)) => buffer.copy_in(offset as usize, bytes),
                _ => debug_assert!(false, "data for a command without a buffer for it"),
            },
            BodyStep::Done { intact } => {
                self.rx.end_body();
                self.stats.data_digest_errors += u64::from(!intact);
                let Some(entry) = self.slots.at_mut(slot) else { return true };
                debug_assert!(end <= entry.length);
                entry.moved = end;
                entry.damaged |= !intact;
                if pdu_flags & flags::SUCCESS != 0 {
                    let cqe = Cqe::new(entry.cid, Status::SUCCESS);
                    self.on_answered(slot, cqe, sink);
                }
            }
        }
        true
    }

    fn on_r2t(&mut self, header: &[u8]) -> Result<(), Fault> {
        self.framing.verify_header(header, R2t::SIZE)?;
        let Some(pdu) = view::<R2t>(header) else { return Err(Fault::field(field::HLEN)) };
        let r2ts_max = self.params.max_r2t;
        let Some((slot, entry)) = self.slot_of(pdu.cccid.get()) else { return Err(Fault::field(CCCID)) };
        if !matches!(entry.data, HostData::ToController(_)) {
            return Err(Fault::field(CCCID));
        }
        let (offset, left) = (pdu.r2to.get(), pdu.r2tl.get());
        if offset != entry.moved || left == 0 || left > entry.length - entry.moved {
            return Err(Fault::of(Fes::DATA_TRANSFER_OUT_OF_RANGE));
        }
        if entry.r2ts >= r2ts_max {
            return Err(Fault::of(Fes::R2T_LIMIT_EXCEEDED));
        }
        entry.r2ts += 1;
        entry.moved += left;
        let grant = Grant { slot, ttag: pdu.ttag.get(), offset, left };
        debug_assert!(self.grants.len() < self.grants.capacity());
        self.grants.push_back(grant);
        self.stats.r2ts += 1;
        self.rx.end_header(None);
        self.send_granted();
        Ok(())
    }
}
