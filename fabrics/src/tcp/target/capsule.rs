//! Command capsules: which data a command brings or wants, and when it runs (NVMe/TCP 1.0 §3.3.2).

use nvme::tcp::{ADMIN_IN_CAPSULE_BYTES, CapsuleCmd, CommonHeader};
use nvme::{Direction, Fuse, Psdt, SglDescriptor, Sqe, Status, opcode};

use super::slot::{Slot, State};
use super::{CommandHandler, Flow, TargetConn};
use crate::fused::{FusedFirst, Partner};
use crate::target::bad_length;
use crate::tcp::Fault;
use crate::tcp::frame::{Body, Frame, field, view};
use crate::{CommandId, Completion, Execution, IoBuffer, Now};

/// Where the host-to-controller data of a command comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Incoming {
    /// There is none.
    None,
    /// It is in the capsule.
    Capsule,
    /// It is to be asked for.
    Transfer,
}

impl<B: IoBuffer> TargetConn<B> {
    #[inline]
    pub(super) fn capsule_frame(&self, ch: &CommonHeader) -> Result<Frame, Fault> {
        let frame = self.framing.frame_with_data(ch, 72)?;
        if frame.data > self.params.capsule_data_max() {
            return Err(Fault::field(field::PLEN));
        }
        Ok(frame)
    }

    /// A command has arrived, its in-capsule data perhaps not.
    #[inline]
    pub(super) fn on_capsule<H>(
        &mut self,
        header: &[u8],
        frame: Frame,
        now: Now,
        handler: &mut H,
    ) -> Result<Flow, Fault>
    where
        H: CommandHandler<Buffer = B>,
    {
        self.framing.verify_header(header, CapsuleCmd::SIZE)?;
        let Some(CapsuleCmd { sqe, .. }) = view(header) else { return Err(Fault::field(field::HLEN)) };
        if !self.can_accept() {
            return Ok(Flow::Blocked);
        }
        let (length, state) = match self.incoming(sqe, frame.data) {
            Err(status) => (0, State::Rejected(status)),
            Ok((length, Incoming::None)) => (length, State::Ready { data: None }),
            Ok((length, Incoming::Transfer)) => (length, self.begin_transfer(length, now, handler)),
            Ok((length, Incoming::Capsule)) => match handler.allocate(length as usize) {
                Some(buffer) => {
                    debug_assert_eq!(buffer.len(), length as usize);
                    handler.expect(sqe);
                    (length, State::Capsule { buffer })
                }
                None if self.is_waiting_for_data_only() => (0, State::Rejected(Status::COMMAND_INTERRUPTED)),
                None => return Ok(Flow::Blocked),
            },
        };
        let is_parked = matches!(state, State::Parked);
        let entry = Slot { sqe: *sqe, length, partner: Partner::None, state };
        let Some((slot, _)) = self.slots.insert(entry) else { return Ok(Flow::Blocked) };
        if is_parked {
            self.parked.push_back(slot);
        }
        self.stats.commands += 1;
        self.sq.advance();
        let body = (frame.data > 0).then(|| Body::new(slot, 0, frame, 0));
        let is_whole = body.is_none();
        self.rx.end_header(body);
        if sqe.fuse() != Fuse::Normal || self.fused_first != FusedFirst::None {
            self.pair(slot, sqe.fuse(), handler);
        }
        if is_whole {
            self.on_arrived(slot, now, handler);
        }
        Ok(Flow::More)
    }

    /// A command without data in its capsule has arrived.
    #[inline]
    fn on_arrived<H>(&mut self, slot: u16, now: Now, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        match self.slots.at(slot).map(|entry| &entry.state) {
            Some(State::Ready { .. }) => self.on_ready(slot, handler),
            Some(State::Transfer(_)) => self.grant(slot, now),
            Some(State::Rejected(_)) => self.answer_rejected(slot, handler),
            Some(State::Parked) => {}
            _ => debug_assert!(false, "a capsule without data cannot be waiting for data"),
        }
    }

    /// Data length of a command and where its incoming data comes from; the status when its SGL is no good.
    #[inline]
    fn incoming(&self, sqe: &Sqe, capsule_data: u32) -> Result<(u32, Incoming), Status> {
        if sqe.psdt() != Psdt::Sgl {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let direction = nvme::fabrics::direction(sqe);
        if direction == Direction::None {
            return if capsule_data == 0 { Ok((0, Incoming::None)) } else { Err(bad_length()) };
        }
        let (length, in_capsule) = match sqe.sgl.decode() {
            Ok(SglDescriptor::Transport { length }) => (length, false),
            Ok(SglDescriptor::InCapsule { offset: 0, length }) => (length, true),
            Ok(SglDescriptor::InCapsule { .. }) => return Err(Status::SGL_OFFSET_INVALID.dnr()),
            Ok(SglDescriptor::DataBlock { length: 0, .. }) => (0, false),
            _ => return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID.dnr()),
        };
        if in_capsule {
            if direction != Direction::HostToController {
                return Err(Status::INVALID_FIELD.dnr());
            }
            let allowed = self.capsule_data_allowed(sqe);
            if length != capsule_data || length > allowed {
                return Err(bad_length());
            }
        } else if capsule_data != 0 {
            return Err(bad_length());
        }
        if length > self.params.max_io_size {
            return Err(bad_length());
        }
        Ok(match (direction, in_capsule, length) {
            (Direction::ControllerToHost, ..) | (.., 0) => (length, Incoming::None),
            (_, true, _) => (length, Incoming::Capsule),
            (_, false, _) => (length, Incoming::Transfer),
        })
    }

    /// Fabrics commands may bring 8 KiB to any queue; what an I/O queue takes of others, IOCCSZ says. Which queue
    /// this is only the handler knows: admin commands are held to the larger of both.
    fn capsule_data_allowed(&self, sqe: &Sqe) -> u32 {
        if sqe.opcode == opcode::FABRICS { ADMIN_IN_CAPSULE_BYTES } else { self.params.capsule_data_max() }
    }

    /// Whether nothing but data of the host can free a buffer of this connection. Waiting for a buffer before reading
    /// on would then be waiting for ever, since that data lies behind this capsule.
    #[cold]
    fn is_waiting_for_data_only(&self) -> bool {
        let parked = self.parked.len();
        self.transfers > 0 && usize::from(self.slots.occupied()) == usize::from(self.transfers) + parked
    }

    /// The data in the capsule is complete, or what there was is skipped.
    pub(super) fn on_capsule_done<H>(&mut self, slot: u16, intact: bool, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        let Some(entry) = self.slots.at_mut(slot) else { return debug_assert!(false, "body without slot") };
        if matches!(entry.state, State::Rejected(_)) {
            return self.answer_rejected(slot, handler);
        }
        if !intact {
            return self.reject(slot, Status::TRANSIENT_TRANSPORT_ERROR, handler);
        }
        match entry.advance(State::Ready { data: None }) {
            State::Capsule { buffer } => entry.state = State::Ready { data: Some(buffer) },
            other => debug_assert!(false, "no data was arriving in {:?}", other.phase()),
        }
        self.on_ready(slot, handler);
    }

    /// All the data of a command is here: runs it, unless it is half of a fused operation whose other half is not.
    #[inline]
    pub(super) fn on_ready<H>(&mut self, slot: u16, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        match self.slots.at(slot).map(|entry| entry.partner) {
            Some(Partner::None) => self.execute(slot, handler),
            Some(Partner::Awaited) | None => {}
            Some(Partner::Lost(status)) => self.reject(slot, status, handler),
            Some(Partner::Slot(other)) => {
                if !matches!(self.slots.at(other).map(|entry| &entry.state), Some(State::Ready { .. })) {
                    return;
                }
                let is_first = self.slots.at(slot).is_some_and(|entry| entry.sqe.fuse() == Fuse::First);
                let (first, second) = if is_first { (slot, other) } else { (other, slot) };
                self.execute(first, handler);
                self.execute(second, handler);
            }
        }
    }

    #[inline]
    fn execute<H>(&mut self, slot: u16, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        let Some(generation) = self.slots.generation(slot) else { return };
        let Some(entry) = self.slots.at_mut(slot) else { return };
        let data = match entry.advance(State::Executing) {
            State::Ready { data } => data,
            _ => None,
        };
        match handler.execute(CommandId::new(slot, generation), &entry.sqe, data) {
            Execution::Done(completion) => self.respond(slot, completion),
            Execution::Pending => {}
        }
    }

    /// Finds the other half of a fused operation, whose halves are adjacent in the queue (base 2.1 §3.4.2).
    #[cold]
    fn pair<H>(&mut self, slot: u16, fuse: Fuse, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        let pairing = self.fused_first.arrived(slot, fuse);
        if let Some(first) = pairing.abandoned {
            self.lose_partner(first, Status::ABORTED_MISSING_FUSED, handler);
        }
        if let Some(first) = pairing.first {
            self.set_partner(first, Partner::Slot(slot));
        }
        self.set_partner(slot, pairing.partner);
    }

    fn set_partner(&mut self, slot: u16, partner: Partner) {
        if let Some(entry) = self.slots.at_mut(slot) {
            entry.partner = partner;
        }
    }

    /// Refuses a command that has arrived.
    #[cold]
    pub(super) fn reject<H>(&mut self, slot: u16, status: Status, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        if let Some(entry) = self.slots.at_mut(slot) {
            entry.advance(State::Rejected(status));
        }
        self.answer_rejected(slot, handler);
    }

    /// Answers a refused command; its other half, if it is fused, fails with it.
    #[cold]
    fn answer_rejected<H>(&mut self, slot: u16, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        let Some(entry) = self.slots.at(slot) else { return };
        let State::Rejected(status) = entry.state else { return debug_assert!(false, "not refused") };
        let partner = entry.partner;
        self.respond(slot, Completion::status(status));
        match partner {
            Partner::Awaited => self.fused_first = FusedFirst::Failed,
            Partner::Slot(other) => self.lose_partner(other, Status::ABORTED_FAILED_FUSED, handler),
            Partner::None | Partner::Lost(_) => {}
        }
    }

    /// The other half of `slot` is not coming: it fails now, or as soon as its data is here.
    #[cold]
    fn lose_partner<H>(&mut self, slot: u16, status: Status, handler: &mut H)
    where
        H: CommandHandler<Buffer = B>,
    {
        self.set_partner(slot, Partner::Lost(status));
        if matches!(self.slots.at(slot).map(|entry| &entry.state), Some(State::Ready { .. })) {
            self.reject(slot, status, handler);
        }
    }
}
