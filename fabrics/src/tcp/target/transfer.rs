//! Data that the host sends when it is asked to: R2T and H2CData (NVMe/TCP 1.0 §3.3.2.2).
//!
//! A command's data is asked for in pieces of `r2t_length`; piece `n` has the transfer tag (slot, generation + n), so
//! a tag names one R2T and a stale one is recognised. Pieces and the PDUs within them come in order.

use nvme::Status;
use nvme::tcp::{CommonHeader, Fes, H2cData, R2t, flags};
use zerocopy::IntoBytes;

use super::slot::{State, Transfer};
use super::{CommandHandler, Flow, TargetConn};
use crate::tcp::Fault;
use crate::tcp::digest::header_digest;
use crate::tcp::frame::{Body, Frame, field, view};
use crate::{IoBuffer, Now};

/// Offsets of the fields of H2CData (NVMe/TCP 1.0 §3.6.2.8).
const CCCID: u32 = 8;
const TTAG: u32 = 10;
const DATAL: u32 = 16;

/// Bits of a transfer tag that tell the R2Ts of a slot apart.
const PIECE_BITS: u32 = 4;
const PIECE_MASK: u16 = (1 << PIECE_BITS) - 1;
const _: () = assert!(crate::tcp::R2TS_MAX as u16 == PIECE_MASK + 1);
const _: () = assert!((crate::tcp::SLOTS_MAX as u32) << PIECE_BITS == 1 << 16);

impl<B: IoBuffer> TargetConn<B> {
    #[inline]
    pub(super) fn h2c_frame(&self, ch: &CommonHeader) -> Result<Frame, Fault> {
        let frame = self.framing.frame_with_data(ch, 24)?;
        if frame.data == 0 {
            return Err(Fault::field(field::PLEN));
        }
        if frame.data > self.params.max_h2c_data {
            return Err(Fault::of(Fes::DATA_TRANSFER_LIMIT_EXCEEDED));
        }
        Ok(frame)
    }

    /// The first state of a command whose data is to be asked for: commands get buffers in the order they came.
    pub(super) fn begin_transfer<H>(&mut self, length: u32, now: Now, handler: &mut H) -> State<B>
    where
        H: CommandHandler<Buffer = B>,
    {
        if !self.parked.is_empty() {
            return State::Parked;
        }
        let Some(buffer) = handler.allocate(length as usize) else { return State::Parked };
        self.with_buffer(buffer, length, now)
    }

    fn with_buffer(&mut self, buffer: B, length: u32, now: Now) -> State<B> {
        debug_assert_eq!(buffer.len(), length as usize);
        self.transfers += 1;
        State::Transfer(Transfer { buffer, received: 0, granted: 0, since: now, damaged: false })
    }

    /// Gives buffers to the commands that wait for one, as far as there are any, and asks for their data.
    #[cold]
    pub(super) fn unpark<H>(&mut self, now: Now, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        while let Some(&slot) = self.parked.front() {
            let length = self.slots.at(slot).map_or(0, |entry| entry.length);
            let Some(buffer) = handler.allocate(length as usize) else { return };
            self.parked.pop_front();
            let state = self.with_buffer(buffer, length, now);
            if let Some(entry) = self.slots.at_mut(slot) {
                entry.advance(state);
            }
            self.grant(slot, now);
        }
    }

    /// The header of an H2CData PDU has arrived: its data goes where an R2T asked for it, or the host is at fault.
    pub(super) fn on_h2c_data(&mut self, header: &[u8], frame: Frame) -> Result<Flow, Fault> {
        self.framing.verify_header(header, H2cData::SIZE)?;
        let Some(pdu) = view::<H2cData>(header) else { return Err(Fault::field(field::HLEN)) };
        let tag = pdu.ttag.get();
        let slot = tag >> PIECE_BITS;
        let generation = self.slots.generation(slot).unwrap_or(0);
        let Some(entry) = self.slots.at(slot) else { return Err(Fault::field(TTAG)) };
        let State::Transfer(transfer) = &entry.state else { return Err(Fault::field(TTAG)) };
        if pdu.cccid != entry.sqe.cid {
            return Err(Fault::field(CCCID));
        }
        let piece_length = self.params.r2t_length;
        let piece = transfer.received / piece_length;
        if tag != transfer_tag(slot, generation, piece) {
            return Err(Fault::field(TTAG));
        }
        if pdu.datal.get() != frame.data {
            return Err(Fault::field(DATAL));
        }
        let piece_end = (piece + 1).saturating_mul(piece_length).min(transfer.granted);
        if pdu.datao.get() != transfer.received || frame.data > piece_end - transfer.received {
            return Err(Fault::of(Fes::DATA_TRANSFER_OUT_OF_RANGE));
        }
        let is_last = pdu.ch.flags & flags::LAST_PDU != 0;
        if is_last != (transfer.received + frame.data == piece_end) {
            return Err(Fault::field(field::FLAGS));
        }
        let body = Body::new(slot, transfer.received, frame, pdu.ch.flags);
        self.rx.end_header(Some(body));
        Ok(Flow::More)
    }

    /// The data of an H2CData PDU is complete, up to `end` of the command's data.
    pub(super) fn on_transfer_pdu_done<H>(
        &mut self,
        slot: u16,
        end: u32,
        intact: bool,
        now: Now,
        handler: &mut H,
    ) where
        H: CommandHandler<Buffer = B>,
    {
        let Some(entry) = self.slots.at_mut(slot) else { return };
        let length = entry.length;
        let State::Transfer(transfer) = &mut entry.state else { return };
        debug_assert!(end > transfer.received);
        debug_assert!(end <= transfer.granted);
        transfer.received = end;
        transfer.damaged |= !intact;
        match (transfer.damaged, transfer.received) {
            (false, received) if received == length => {
                if let State::Transfer(done) = entry.advance(State::Ready { data: None }) {
                    entry.state = State::Ready { data: Some(done.buffer) };
                }
                self.transfers -= 1;
                self.on_ready(slot, handler);
            }
            (false, _) => self.grant(slot, now),
            // What was asked for still comes; nothing more is asked for.
            (true, received) if received == transfer.granted => {
                self.transfers -= 1;
                self.reject(slot, Status::TRANSIENT_TRANSPORT_ERROR, handler);
            }
            (true, _) => {}
        }
    }

    /// Asks for as much more data as the limit on outstanding R2Ts allows.
    pub(super) fn grant(&mut self, slot: u16, now: Now) {
        let generation = self.slots.generation(slot).unwrap_or(0);
        let Some(entry) = self.slots.at_mut(slot) else { return };
        let State::Transfer(transfer) = &mut entry.state else { return };
        let piece_length = self.params.r2t_length;
        while transfer.granted < entry.length {
            let piece = transfer.granted / piece_length;
            let outstanding = piece - transfer.received / piece_length;
            if outstanding >= u32::from(self.r2ts_max) {
                break;
            }
            let len = (entry.length - transfer.granted).min(piece_length);
            let tag = transfer_tag(slot, generation, piece);
            let mut pdu = R2t::new(entry.sqe.cid.get(), tag, transfer.granted, len);
            if self.framing.header_digest {
                pdu.ch.flags |= flags::HDGSTF;
                pdu.ch.plen = self.framing.header_end(pdu.ch.hlen).into();
                self.tx.push_bytes(pdu.as_bytes());
                self.tx.push_bytes(&header_digest(pdu.as_bytes()));
            } else {
                self.tx.push_bytes(pdu.as_bytes());
            }
            transfer.granted += len;
            self.stats.r2ts += 1;
        }
        self.transfers_since = self.transfers_since.min(now);
    }
}

/// The tag of the R2T for piece `piece` of the data of a slot.
#[allow(clippy::cast_possible_truncation, reason = "reduced to four bits")]
fn transfer_tag(slot: u16, generation: u16, piece: u32) -> u16 {
    let piece = generation.wrapping_add(piece as u16) & PIECE_MASK;
    slot << PIECE_BITS | piece
}
