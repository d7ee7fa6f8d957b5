//! What the host sends: command capsules, and data that the controller asked for.

use nvme::tcp::{ADMIN_IN_CAPSULE_BYTES, CapsuleCmd, CommonHeader, H2cData, PduType, flags};
use nvme::{SglDescriptor, Sqe, opcode};
use zerocopy::IntoBytes;

use super::slot::{Slot, State};
use super::{HostConn, TERM_BYTES_MAX};
use crate::host::{HostData, SubmitError, SubmitRefusal};
use crate::tcp::ConnState;
use crate::tcp::digest::{DataDigest, header_digest};
use crate::{IoBuffer, Now};

/// Data that the controller asked for with one R2T and that is not yet queued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) slot: u16,
    pub(super) ttag: u16,
    pub(super) offset: u32,
    pub(super) left: u32,
}

impl<B: IoBuffer> HostConn<B> {
    /// Sends a command. Its identifier and data pointer are filled in here; `data` is all of the buffer given. The
    /// command ends on the sink with `tag`; its time-out is that of the connection.
    ///
    /// # Errors
    /// The command is not sent and the data comes back: [`SubmitRefusal`] says why.
    #[inline]
    pub fn submit(&mut self, sqe: Sqe, data: HostData<B>, tag: u64, now: Now) -> Result<(), SubmitError<B>> {
        let deadline = now.after_ns(self.params.command_timeout_ns);
        self.submit_until(sqe, data, tag, deadline)
    }

    /// As [`Self::submit`], with a deadline of its own: [`Now::NEVER`] for an asynchronous event request.
    ///
    /// # Errors
    /// As [`Self::submit`].
    #[inline]
    pub fn submit_until(
        &mut self,
        mut sqe: Sqe,
        data: HostData<B>,
        tag: u64,
        deadline: Now,
    ) -> Result<(), SubmitError<B>> {
        if let Some(reason) = self.refusal() {
            return Err(SubmitError { reason, data });
        }
        let length = match &data {
            HostData::None => 0,
            HostData::ToController(buffer) | HostData::FromController(buffer) => buffer.len(),
        };
        let Ok(length) = u32::try_from(length) else {
            return Err(SubmitError { reason: SubmitRefusal::TooLong, data });
        };
        let in_capsule = matches!(data, HostData::ToController(_))
            && length > 0
            && length <= self.capsule_data_max(sqe.opcode);
        let entry = Slot {
            tag,
            deadline,
            cid: 0,
            parts_unsent: u16::from(in_capsule),
            r2ts: 0,
            place: 0,
            damaged: false,
            timed_out: false,
            moved: if in_capsule { length } else { 0 },
            length,
            data,
            state: State::Outstanding,
        };
        let Some((slot, generation)) = self.slots.insert(entry) else {
            unreachable!("refusal() has seen a free slot")
        };
        let cid = self.ids.cid(slot, generation);
        sqe.cid = cid.into();
        sqe.flags = sqe.flags & 0x3F | 0x40;
        sqe.sgl = if in_capsule {
            SglDescriptor::InCapsule { offset: 0, length }.into()
        } else {
            SglDescriptor::Transport { length }.into()
        };
        self.send_capsule(slot, sqe, if in_capsule { length } else { 0 });
        if let Some(entry) = self.slots.at_mut(slot) {
            entry.cid = cid;
        }
        // What waits for an event is answered whenever that happens.
        if deadline != Now::NEVER {
            self.expect_answer(slot, cid);
        }
        self.commands_deadline = self.commands_deadline.min(deadline);
        self.stats.commands += 1;
        Ok(())
    }

    #[inline]
    fn refusal(&self) -> Option<SubmitRefusal> {
        match self.state {
            ConnState::Ready if self.slots.is_full() => Some(SubmitRefusal::QueueFull),
            ConnState::Ready if self.tx.room() < self.capsule_tx_bytes + TERM_BYTES_MAX => {
                Some(SubmitRefusal::Busy)
            }
            ConnState::Ready => None,
            ConnState::Handshaking => Some(SubmitRefusal::NotReady),
            ConnState::Terminating(_) | ConnState::Closed(_) => Some(SubmitRefusal::Closed),
        }
    }

    #[inline]
    fn capsule_data_max(&self, opcode: u8) -> u32 {
        if opcode == opcode::FABRICS { ADMIN_IN_CAPSULE_BYTES } else { self.params.in_capsule_data_size }
    }

    /// The slot that an identifier names, if its command is outstanding.
    #[inline]
    pub(super) fn slot_of(&mut self, cid: u16) -> Option<(u16, &mut Slot<B>)> {
        let slot = self.ids.slot(cid);
        let entry = self.slots.at_mut(slot)?;
        (entry.cid == cid && entry.state == State::Outstanding).then_some((slot, entry))
    }

    /// Queues a command capsule with the first `in_capsule` bytes of the slot's data.
    #[inline]
    fn send_capsule(&mut self, slot: u16, sqe: Sqe, in_capsule: u32) {
        let framing = self.framing;
        let mut ch = CommonHeader::of(PduType::CAPSULE_CMD, 72);
        let mut plen = 72 + framing.header_digest_bytes();
        if framing.header_digest {
            ch.flags |= flags::HDGSTF;
        }
        let mut pad = 0;
        if in_capsule > 0 {
            ch.pdo = framing.data_offset_out(CapsuleCmd::SIZE);
            pad = usize::from(ch.pdo) - plen;
            plen = usize::from(ch.pdo) + in_capsule as usize + framing.data_digest_bytes();
            if framing.data_digest {
                ch.flags |= flags::DDGSTF;
            }
        }
        ch.plen = crate::tcp::tx::u32_of(plen).into();
        let pdu = CapsuleCmd { ch, sqe };
        self.send_header(pdu.as_bytes(), pad);
        if in_capsule > 0 {
            self.send_part(slot, 0, in_capsule);
        }
    }

    /// Queues a header, its digest and the padding before its data.
    #[inline]
    fn send_header(&mut self, header: &[u8], pad: usize) {
        self.tx.push_bytes(header);
        if self.framing.header_digest {
            self.tx.push_bytes(&header_digest(header));
        }
        if pad > 0 {
            self.tx.push_zeros(pad);
        }
    }

    /// Queues data of a slot and its digest. The slot already counts the part as unsent.
    #[inline]
    fn send_part(&mut self, slot: u16, offset: u32, len: u32) {
        self.tx.push_slot(slot, offset, len);
        if self.framing.data_digest
            && let Some(data) = self.slots.at(slot).and_then(Slot::data_out)
        {
            let digest = DataDigest::of(data, offset as usize, len as usize);
            self.tx.push_bytes(&digest.bytes());
        }
    }

    /// Turns R2Ts into H2CData PDUs, in order, as long as there is room for their headers.
    pub(super) fn send_granted(&mut self) {
        while self.tx.room() >= self.tx_reserve() + self.h2c_tx_bytes {
            let Some(grant) = self.grants.front_mut() else { return };
            let len = grant.left.min(self.max_h2c_data);
            let Grant { slot, ttag, offset, left } = *grant;
            grant.offset += len;
            grant.left -= len;
            let is_last = len == left;
            if is_last {
                self.grants.pop_front();
            }
            let Some(entry) = self.slots.at_mut(slot) else { unreachable!("a grant outlived its command") };
            entry.parts_unsent += 1;
            entry.r2ts -= u8::from(is_last);
            let cid = entry.cid;
            self.send_h2c(slot, cid, ttag, offset, len, is_last);
        }
    }

    fn send_h2c(&mut self, slot: u16, cid: u16, ttag: u16, offset: u32, len: u32, is_last: bool) {
        let framing = self.framing;
        let pdo = framing.data_offset_out(H2cData::SIZE);
        let mut pdu = H2cData {
            ch: CommonHeader::of(PduType::H2C_DATA, 24),
            cccid: cid.into(),
            ttag: ttag.into(),
            datao: offset.into(),
            datal: len.into(),
            ..H2cData::default()
        };
        pdu.ch.pdo = pdo;
        pdu.ch.plen = (u32::from(pdo) + len + if framing.data_digest { 4 } else { 0 }).into();
        pdu.ch.flags = if is_last { flags::LAST_PDU } else { 0 }
            | if framing.header_digest { flags::HDGSTF } else { 0 }
            | if framing.data_digest { flags::DDGSTF } else { 0 };
        let pad = usize::from(pdo) - H2cData::SIZE - framing.header_digest_bytes();
        self.send_header(pdu.as_bytes(), pad);
        self.send_part(slot, offset, len);
    }

    /// The command was answered: data asked for and not yet queued is not sent any more.
    pub(super) fn drop_grants(&mut self, slot: u16) {
        self.grants.retain(|grant| grant.slot != slot);
    }
}
