//! From complete commands to delivered answers.

use nvme::{Fuse, Status};

use super::slot::{Answer, State};
use super::{TargetConn, Wire};
use crate::fused::{FusedFirst, Partner};
use crate::rdma::{CloseReason, Remote};
use crate::target::{CommandHandler, bounded, connect_shape, cqe_of};
use crate::{CommandId, Completion, Execution, IoBuffer, Now};

impl<B: IoBuffer> TargetConn<B> {
    /// The data of a command was read; the buffer comes back.
    #[inline]
    pub fn on_read<H, W>(&mut self, work: CommandId, buffer: B, handler: &mut H, wire: &mut W)
    where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        let slot = work.slot();
        let entry = self.slots.get_mut(slot, work.generation());
        if entry.is_some_and(|entry| matches!(entry.state, State::Reading)) {
            self.on_data(slot, Some(buffer), handler, wire);
        }
    }

    /// All the data of a command is here: runs it, unless it is half of a fused operation whose other half is not.
    #[inline]
    pub(super) fn on_data<H, W>(&mut self, slot: u16, data: Option<B>, handler: &mut H, wire: &mut W)
    where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        let Some(entry) = self.slots.at_mut(slot) else { return };
        entry.advance(State::Ready { data });
        match entry.partner {
            Partner::None => self.execute(slot, handler, wire),
            Partner::Awaited => {}
            Partner::Lost(status) => self.reject(slot, status, handler, wire),
            Partner::Slot(other) => {
                let is_first = entry.sqe.fuse() == Fuse::First;
                if !self.slots.at(other).is_some_and(super::Slot::is_ready) {
                    return;
                }
                let (first, second) = if is_first { (slot, other) } else { (other, slot) };
                self.execute(first, handler, wire);
                self.execute(second, handler, wire);
            }
        }
    }

    #[inline]
    fn execute<H, W>(&mut self, slot: u16, handler: &mut H, wire: &mut W)
    where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        let Some(generation) = self.slots.generation(slot) else { return };
        let Some(entry) = self.slots.at_mut(slot) else { return };
        let data = match entry.advance(State::Executing) {
            State::Ready { data } => data,
            _ => None,
        };
        match handler.execute(CommandId::new(slot, generation), &entry.sqe, data) {
            Execution::Done(completion) => self.respond(slot, completion, wire),
            Execution::Pending => {}
        }
    }

    /// Finds the other half of a fused operation.
    #[cold]
    pub(super) fn pair<H, W>(&mut self, slot: u16, fuse: Fuse, handler: &mut H, wire: &mut W)
    where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        let pairing = self.fused_first.arrived(slot, fuse);
        if let Some(first) = pairing.abandoned {
            self.lose_partner(first, Status::ABORTED_MISSING_FUSED, handler, wire);
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

    /// The other half of `slot` is not coming: it fails now, or as soon as its data is here.
    #[cold]
    fn lose_partner<H, W>(&mut self, slot: u16, status: Status, handler: &mut H, wire: &mut W)
    where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        self.set_partner(slot, Partner::Lost(status));
        if self.slots.at(slot).is_some_and(super::Slot::is_ready) {
            self.reject(slot, status, handler, wire);
        }
    }

    /// Refuses a command that has arrived.
    #[cold]
    fn reject<H, W>(&mut self, slot: u16, status: Status, handler: &mut H, wire: &mut W)
    where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        let Some(entry) = self.slots.at_mut(slot) else { return };
        entry.advance(State::Rejected(status));
        self.answer_rejected(slot, handler, wire);
    }

    #[cold]
    pub(super) fn answer_rejected<H, W>(&mut self, slot: u16, handler: &mut H, wire: &mut W)
    where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        let Some(entry) = self.slots.at(slot) else { return };
        let State::Rejected(status) = entry.state else { return debug_assert!(false, "not refused") };
        let partner = entry.partner;
        self.respond(slot, Completion::status(status), wire);
        match partner {
            Partner::Awaited => self.fused_first = FusedFirst::Failed,
            Partner::Slot(other) => self.lose_partner(other, Status::ABORTED_FAILED_FUSED, handler, wire),
            Partner::None | Partner::Lost(_) => {}
        }
    }

    /// A command that was pending is finished. `false`, and nothing happens, when it is not pending any more.
    ///
    /// Data longer than the SGL of the command is not sent; the host gets Data SGL Length Invalid.
    #[inline]
    pub fn complete<W: Wire<B>>(&mut self, id: CommandId, completion: Completion<B>, wire: &mut W) -> bool {
        let slot = id.slot();
        let entry = self.slots.get_mut(slot, id.generation());
        if !entry.is_some_and(|entry| matches!(entry.state, State::Executing)) {
            self.stats.stale_completions += 1;
            return false;
        }
        self.respond(slot, completion, wire);
        true
    }

    /// Answers the command in `slot` as soon as the host has room for it.
    #[inline]
    fn respond<W: Wire<B>>(&mut self, slot: u16, completion: Completion<B>, wire: &mut W) {
        let Some(entry) = self.slots.at_mut(slot) else { return debug_assert!(false, "answered twice") };
        let Completion { status, result, data } = bounded(completion, entry.length);
        let shape = if status.is_success() { connect_shape(&entry.sqe) } else { None };
        if let Some((depth, flow_control)) = shape {
            self.sq.reshape(depth, flow_control);
            self.connect_deadline = Now::NEVER;
        }
        let cqe = cqe_of(entry.sqe.cid.get(), status, result, self.sq.sqhd(shape.is_some()));
        let data = data.zip(entry.remote).map(|(data, remote)| {
            let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
            (data, Remote { length, ..remote })
        });
        let answer = Answer { data, cqe };
        if self.responses >= self.responses_max {
            self.stats.held += 1;
            entry.advance(State::Held(answer));
            self.held.push_back(slot);
        } else {
            entry.advance(State::Sending);
            self.send(slot, answer, wire);
        }
    }

    /// Hands the answer of a command that is now Sending to the link.
    #[inline]
    fn send<W: Wire<B>>(&mut self, slot: u16, answer: Answer<B>, wire: &mut W) {
        let Some(generation) = self.slots.generation(slot) else { return };
        let Some(entry) = self.slots.at(slot) else { return };
        self.responses += 1;
        self.stats.writes += u64::from(answer.data.is_some());
        wire.respond(CommandId::new(slot, generation), answer.data, &answer.cqe, entry.invalidate);
    }

    /// A response is delivered: its slot is free, and one that waited goes.
    #[inline]
    pub fn on_responded<W: Wire<B>>(&mut self, work: CommandId, wire: &mut W) {
        let slot = work.slot();
        let entry = self.slots.get_mut(slot, work.generation());
        if !entry.is_some_and(|entry| matches!(entry.state, State::Sending)) {
            self.closed.get_or_insert(CloseReason::Local);
            return debug_assert!(false, "no response was on its way");
        }
        self.slots.free(slot);
        self.responses -= 1;
        if let Some(next) = self.held.pop_front()
            && let Some(entry) = self.slots.at_mut(next)
            && let State::Held(answer) = entry.advance(State::Sending)
        {
            self.send(next, answer, wire);
        }
    }
}
