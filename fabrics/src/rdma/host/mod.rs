//! The host's side of one NVMe/RDMA connection, which is one queue pair (NVMe/RDMA transport 1.0 §3).
//!
//! Commands go in through [`HostConn::submit_until`] and complete on a [`HostSink`]; command capsules go out through a
//! [`HostWire`]; response capsules come in through [`HostConn::on_response`].
//!
//! Invariants: every command accepted ends exactly once on the sink; not before its capsule is known to be sent, because
//! until then the link reads its memory; never more commands are outstanding than the controller has receives for.

mod slot;

use nvme::zerocopy::FromBytes;
use nvme::{Cqe, SglDescriptor, Sqe};

use super::{CloseReason, DEPTH_MAX, RESPONSE_BYTES, Remote};
use crate::cid::CommandIds;
use crate::host::{HostData, HostSink, SubmitError, SubmitRefusal};
use crate::slab::Slab;
use crate::{CommandId, IoBuffer, NS_PER_S, Now};
use slot::{Slot, State};

/// What the owner of a host connection chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostParams {
    /// Commands outstanding at a time: SQSIZE of Connect, and no more than the controller has receives for.
    pub depth: u16,
    /// Data a command capsule may carry, in bytes: none on an admin queue, what IOCCSZ gives on an I/O queue.
    pub in_capsule_data_size: u32,
    /// Time for a command to complete, in nanoseconds, before its owner is told.
    pub command_timeout_ns: u64,
}

impl Default for HostParams {
    fn default() -> Self {
        Self { depth: 127, in_capsule_data_size: 0, command_timeout_ns: 30 * NS_PER_S }
    }
}

/// Sends capsules and lends memory for a connection.
pub trait HostWire<B> {
    /// Lets the controller reach the memory of a command's data; `None` when that cannot be.
    fn expose(&mut self, slot: u16, data: &HostData<B>) -> Option<Remote>;

    /// Sends a command capsule with the data given, all of it, inside; ends in [`HostConn::on_sent`].
    fn send(&mut self, work: CommandId, sqe: &Sqe, in_capsule: Option<&B>);

    /// The command in this slot ended: what the controller wrote is to be found in `buffer` from now on.
    fn collect(&mut self, slot: u16, buffer: &mut B);
}

/// What a connection did so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HostStats {
    /// Commands sent.
    pub commands: u64,
    /// Commands whose data went in the capsule.
    pub in_capsule: u64,
}

/// The host's side of one connection.
#[derive(Debug)]
pub struct HostConn<B> {
    params: HostParams,
    slots: Slab<Slot<B>>,
    ids: CommandIds,
    /// Not later than the first deadline of a command.
    commands_deadline: Now,
    closed: Option<CloseReason>,
    stats: HostStats,
}

impl<B: IoBuffer> HostConn<B> {
    /// A connection that is established.
    pub fn new(params: HostParams) -> Self {
        let params = HostParams { depth: params.depth.clamp(1, DEPTH_MAX), ..params };
        Self {
            params,
            slots: Slab::with_slots(params.depth),
            ids: CommandIds::for_slots(params.depth),
            commands_deadline: Now::NEVER,
            closed: None,
            stats: HostStats::default(),
        }
    }

    /// When a command that is submitted now takes too long.
    #[inline]
    pub fn deadline(&self, now: Now) -> Now {
        now.after_ns(self.params.command_timeout_ns)
    }

    /// Sends a command. Its identifier and data pointer are filled in here; `data` is all of the buffer given. The command
    /// ends on the sink with `tag`. [`Now::NEVER`] is for one that waits for an event.
    ///
    /// # Errors
    /// The command is not sent and the data comes back: [`SubmitRefusal`] says why.
    #[inline]
    pub fn submit_until<W: HostWire<B>>(
        &mut self,
        mut sqe: Sqe,
        data: HostData<B>,
        tag: u64,
        deadline: Now,
        wire: &mut W,
    ) -> Result<(), SubmitError<B>> {
        let reason = match self.closed {
            Some(_) => Some(SubmitRefusal::Closed),
            None if self.slots.is_full() => Some(SubmitRefusal::QueueFull),
            None => None,
        };
        if let Some(reason) = reason {
            return Err(SubmitError { reason, data });
        }
        let entry = Slot::new(tag, deadline);
        let Some((slot, generation)) = self.slots.insert(entry) else { unreachable!("a free slot was seen") };
        let in_capsule = self.in_capsule(&data);
        match self.pointer(slot, in_capsule, &data, wire) {
            Some(descriptor) => sqe.sgl = descriptor.into(),
            None => {
                self.slots.free(slot);
                return Err(SubmitError { reason: SubmitRefusal::TooLong, data });
            }
        }
        let cid = self.ids.cid(slot, generation);
        sqe.cid = cid.into();
        sqe.flags = sqe.flags & 0x3F | 0x40;
        let inside = match &data {
            HostData::ToController(buffer) if in_capsule => Some(buffer),
            _ => None,
        };
        wire.send(CommandId::new(slot, generation), &sqe, inside);
        if let Some(entry) = self.slots.at_mut(slot) {
            entry.cid = cid;
            entry.data = data;
        }
        self.commands_deadline = self.commands_deadline.min(deadline);
        self.stats.commands += 1;
        self.stats.in_capsule += u64::from(in_capsule);
        Ok(())
    }

    #[inline]
    fn in_capsule(&self, data: &HostData<B>) -> bool {
        match data {
            HostData::ToController(buffer) => {
                !buffer.is_empty() && buffer.len() <= self.params.in_capsule_data_size as usize
            }
            _ => false,
        }
    }

    #[inline]
    fn pointer<W: HostWire<B>>(
        &self,
        slot: u16,
        in_capsule: bool,
        data: &HostData<B>,
        wire: &mut W,
    ) -> Option<SglDescriptor> {
        let nothing = Remote { address: 0, length: 0, key: 0 };
        match data {
            HostData::ToController(buffer) if in_capsule => {
                Some(SglDescriptor::InCapsule { offset: 0, length: u32::try_from(buffer.len()).ok()? })
            }
            HostData::ToController(buffer) | HostData::FromController(buffer) if !buffer.is_empty() => {
                let remote = wire.expose(slot, data)?;
                debug_assert_eq!(remote.length as usize, buffer.len());
                (remote.length <= nvme::KEYED_LENGTH_MAX).then(|| remote.descriptor(false))
            }
            _ => Some(nothing.descriptor(false)),
        }
    }

    /// Takes a response capsule.
    #[inline]
    pub fn on_response<S, W>(&mut self, capsule: &[u8], wire: &mut W, sink: &mut S)
    where
        S: HostSink<B>,
        W: HostWire<B>,
    {
        if self.closed.is_some() {
            return;
        }
        let Ok((cqe, _)) = Cqe::read_from_prefix(capsule) else {
            self.closed = Some(CloseReason::BadCapsule);
            return;
        };
        let slot = self.ids.slot(cqe.cid.get());
        match self.slots.at_mut(slot) {
            Some(entry) if entry.cid == cqe.cid.get() && entry.state == State::Outstanding => {
                if entry.sent {
                    self.finish(slot, cqe, wire, sink);
                } else {
                    entry.advance(State::Answered(cqe));
                }
            }
            _ => self.closed = Some(CloseReason::UnknownCommand),
        }
    }

    /// The capsule of a command is sent.
    #[inline]
    pub fn on_sent<S, W>(&mut self, work: CommandId, wire: &mut W, sink: &mut S)
    where
        S: HostSink<B>,
        W: HostWire<B>,
    {
        let slot = work.slot();
        let Some(entry) = self.slots.get_mut(slot, work.generation()) else { return };
        entry.sent = true;
        if let State::Answered(cqe) = entry.state {
            self.finish(slot, cqe, wire, sink);
        }
    }

    /// Frees the slot and gives the completion to the owner.
    #[inline]
    fn finish<S, W>(&mut self, slot: u16, cqe: Cqe, wire: &mut W, sink: &mut S)
    where
        S: HostSink<B>,
        W: HostWire<B>,
    {
        let Some(mut entry) = self.slots.remove(slot) else { return };
        if let HostData::FromController(buffer) = &mut entry.data {
            wire.collect(slot, buffer);
        }
        sink.completed(entry.tag, cqe, entry.data.into_buffer());
    }

    /// Time passes: tells of commands that take too long.
    pub fn on_tick<S: HostSink<B>>(&mut self, now: Now, sink: &mut S) {
        if self.closed.is_some() || now < self.commands_deadline {
            return;
        }
        self.commands_deadline = Now::NEVER;
        for slot in 0..self.slots.slots() {
            let Some(entry) = self.slots.at_mut(slot).filter(|entry| !entry.timed_out) else { continue };
            if entry.deadline <= now {
                entry.timed_out = true;
                sink.timed_out(entry.tag, entry.cid);
            } else {
                self.commands_deadline = self.commands_deadline.min(entry.deadline);
            }
        }
    }

    /// When [`Self::on_tick`] may have something to do.
    #[inline]
    pub fn next_deadline(&self) -> Option<Now> {
        (self.closed.is_none() && self.commands_deadline != Now::NEVER).then_some(self.commands_deadline)
    }

    /// Ends the connection; the link no longer touches any memory. Every outstanding command ends on `sink`.
    pub fn close<S, W>(&mut self, wire: &mut W, sink: &mut S)
    where
        S: HostSink<B>,
        W: HostWire<B>,
    {
        self.closed.get_or_insert(CloseReason::Local);
        for slot in 0..self.slots.slots() {
            match self.slots.at(slot).map(|entry| entry.state) {
                Some(State::Answered(cqe)) => self.finish(slot, cqe, wire, sink),
                Some(State::Outstanding) => {
                    let Some(entry) = self.slots.remove(slot) else { continue };
                    sink.failed(entry.tag, entry.data.into_buffer());
                }
                None => {}
            }
        }
        debug_assert_eq!(self.slots.occupied(), 0);
    }

    /// Why the connection is closed, once it is.
    #[inline]
    pub fn closed(&self) -> Option<CloseReason> {
        self.closed
    }

    /// Commands that have not completed.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.slots.occupied().into()
    }

    /// Whether a command would be refused for want of a slot.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// What the connection did so far.
    pub fn stats(&self) -> &HostStats {
        &self.stats
    }
}

const _: () = assert!(RESPONSE_BYTES == Cqe::SIZE);
