//! Answers: C2HData with its data, and response capsules (NVMe/TCP 1.0 §3.3.2.1, §3.3.3).

use nvme::tcp::{C2hData, CapsuleResp, CommonHeader, PduType, flags};
use nvme::{Cqe, opcode};
use zerocopy::IntoBytes;

use super::TargetConn;
use super::slot::State;
use crate::target::{bounded, connect_shape, cqe_of};
use crate::tcp::ConnState;
use crate::tcp::digest::{DataDigest, header_digest};
use crate::tcp::tx::u32_of;
use crate::{CommandId, Completion, IoBuffer};

impl<B: IoBuffer> TargetConn<B> {
    /// A command that was pending is finished. `false`, and nothing happens, when it is not pending any more: the
    /// connection ended.
    ///
    /// Data longer than the SGL of the command is not sent; the host gets Data SGL Length Invalid.
    #[inline]
    pub fn complete(&mut self, id: CommandId, completion: Completion<B>) -> bool {
        let slot = id.slot();
        let is_pending = self
            .slots
            .get_mut(slot, id.generation())
            .is_some_and(|entry| matches!(entry.state, State::Executing));
        if !is_pending {
            self.stats.stale_completions += 1;
            return false;
        }
        if self.state == ConnState::Ready {
            self.respond(slot, completion);
        } else {
            self.slots.free(slot);
        }
        true
    }

    /// Queues the answer to the command in `slot`, which is freed now or when its data is sent.
    #[inline]
    pub(super) fn respond(&mut self, slot: u16, completion: Completion<B>) {
        let Some(entry) = self.slots.at_mut(slot) else { return debug_assert!(false, "answered twice") };
        let Completion { status, result, data } = bounded(completion, entry.length);
        let cid = entry.sqe.cid.get();
        let is_connect =
            entry.sqe.opcode == opcode::FABRICS && status.is_success() && self.on_connected(slot);
        let needs_capsule = match data {
            None => {
                self.slots.free(slot);
                true
            }
            Some(buffer) => {
                let news = result != 0 || status.to_cqe_field(false) != 0;
                let needs_capsule = self.sq.flow_control() || !self.params.c2h_success || news;
                self.send_data(slot, cid, buffer, !needs_capsule);
                needs_capsule
            }
        };
        if needs_capsule {
            self.send_capsule(cqe_of(cid, status, result, self.sq.sqhd(is_connect)));
        }
    }

    #[inline]
    fn send_capsule(&mut self, cqe: Cqe) {
        let mut pdu = CapsuleResp::new(cqe);
        if self.framing.header_digest {
            pdu.ch.flags = flags::HDGSTF;
            pdu.ch.plen = self.framing.header_end(pdu.ch.hlen).into();
            self.tx.push_bytes(pdu.as_bytes());
            self.tx.push_bytes(&header_digest(pdu.as_bytes()));
        } else {
            self.tx.push_bytes(pdu.as_bytes());
        }
    }

    /// Queues all data of a command as one C2HData PDU.
    #[inline]
    fn send_data(&mut self, slot: u16, cid: u16, buffer: B, success: bool) {
        let framing = self.framing;
        let len = u32_of(buffer.len());
        let pdo = framing.data_offset_out(C2hData::SIZE);
        let mut pdu = C2hData {
            ch: CommonHeader::of(PduType::C2H_DATA, 24),
            cccid: cid.into(),
            datal: len.into(),
            ..C2hData::default()
        };
        pdu.ch.pdo = pdo;
        pdu.ch.plen = (u32::from(pdo) + len + u32_of(framing.data_digest_bytes())).into();
        pdu.ch.flags = flags::LAST_PDU
            | if success { flags::SUCCESS } else { 0 }
            | if framing.header_digest { flags::HDGSTF } else { 0 }
            | if framing.data_digest { flags::DDGSTF } else { 0 };
        self.tx.push_bytes(pdu.as_bytes());
        if framing.header_digest {
            self.tx.push_bytes(&header_digest(pdu.as_bytes()));
        }
        let pad = usize::from(pdo) - C2hData::SIZE - framing.header_digest_bytes();
        if pad > 0 {
            self.tx.push_zeros(pad);
        }
        self.tx.push_slot(slot, 0, len);
        if framing.data_digest {
            let digest = DataDigest::of(&buffer, 0, buffer.len());
            self.tx.push_bytes(&digest.bytes());
        }
        if let Some(entry) = self.slots.at_mut(slot) {
            entry.advance(State::Sending { buffer });
            self.sending += 1;
        }
    }

    /// A fabrics command succeeded: when it is Connect, sizes the queue as that says (base 2.1 §6.3), else `false`.
    #[cold]
    fn on_connected(&mut self, slot: u16) -> bool {
        let shape = self.slots.at(slot).and_then(|entry| connect_shape(&entry.sqe));
        let Some((depth, sq_flow_control)) = shape else { return false };
        self.set_queue(depth, sq_flow_control);
        true
    }
}
