//! The target's side of one NVMe/RDMA connection, which is one queue pair (NVMe/RDMA transport 1.0 §3).
//!
//! Capsules of the host go in through [`TargetConn::on_capsule`], which runs commands on a [`CommandHandler`]; what is to be
//! read from, written to or sent to the host goes out through a [`Wire`], whose work ends in [`TargetConn::on_read`] and
//! [`TargetConn::on_responded`].
//!
//! Invariants: every command taken is handed to the handler at most once and answered exactly once; never more responses are
//! on their way than the host has receives for; a slot is occupied until its response is delivered, so there are twice as
//! many as commands: a host may use its place again before we learn that it was told. Buffers belong to the link while it
//! moves their bytes.

mod execute;
mod slot;

use std::collections::VecDeque;

use nvme::zerocopy::FromBytes;
use nvme::{Cqe, Direction, Fuse, Psdt, SglDescriptor, Sqe, Status};

use super::{COMMAND_BYTES, CloseReason, HostQueueSizes, Remote};
use crate::fused::{FusedFirst, Partner};
use crate::slab::Slab;
use crate::target::{CommandHandler, SubmissionQueue, bad_length};
use crate::{CommandId, IoBuffer, NS_PER_S, Now};
use slot::{Slot, State};

/// What the owner of a target connection chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TargetParams {
    /// Data a command capsule may carry, in bytes: what IOCCSZ promises, and the receives have room for.
    pub in_capsule_data_size: u32,
    /// Data of one command, in bytes (MDTS); more is answered with Data SGL Length Invalid.
    pub max_io_size: u32,
    /// Time for the host to have Connect answered well, in nanoseconds.
    pub connect_timeout_ns: u64,
}

impl Default for TargetParams {
    fn default() -> Self {
        Self { in_capsule_data_size: 8192, max_io_size: 1 << 20, connect_timeout_ns: 10 * NS_PER_S }
    }
}

/// Moves bytes for a connection. Work that is given ends, unless the link does first.
pub trait Wire<B> {
    /// Reads `buffer.len()` bytes of the host's memory into the buffer; ends in [`TargetConn::on_read`].
    fn read(&mut self, work: CommandId, buffer: B, remote: Remote);

    /// Writes the data, all of the buffer, into the host's memory, then sends the response, which invalidates a key of the
    /// host when one is given; ends in [`TargetConn::on_responded`].
    fn respond(&mut self, work: CommandId, data: Option<(B, Remote)>, cqe: &Cqe, invalidate: Option<u32>);
}

/// What became of a capsule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Received {
    /// It was used; its memory is free.
    Taken,
    /// No slot or no buffer for it now: give it again, before those that came after it, once something ended.
    Blocked,
    /// The connection is closed.
    Closing,
}

/// What a connection did so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TargetStats {
    /// Commands taken.
    pub commands: u64,
    /// Commands whose data was read from the host's memory.
    pub reads: u64,
    /// Commands whose data was in the capsule.
    pub in_capsule: u64,
    /// Responses with data written to the host's memory.
    pub writes: u64,
    /// Times a capsule could not be taken.
    pub blocked: u64,
    /// Responses that waited for the host to have room.
    pub held: u64,
    /// Completions for commands that were gone.
    pub stale_completions: u64,
}

/// Where the data of a command is, or goes.
enum Transfer {
    /// There is none.
    None,
    /// In the capsule, so many bytes from its data area's start.
    Capsule { offset: usize },
    /// In the host's memory, to be read.
    Read,
    /// Into the host's memory.
    Write,
}

/// What the SGL of a command says.
struct Located {
    length: u32,
    remote: Option<Remote>,
    invalidate: Option<u32>,
    transfer: Transfer,
}

/// The target's side of one connection.
#[derive(Debug)]
pub struct TargetConn<B> {
    params: TargetParams,
    slots: Slab<Slot<B>>,
    sq: SubmissionQueue,
    fused_first: FusedFirst,
    /// Responses the host has receives for.
    responses_max: u16,
    /// Responses the link has.
    responses: u16,
    /// Commands answered that wait for room, oldest first.
    held: VecDeque<u16>,
    connect_deadline: Now,
    closed: Option<CloseReason>,
    stats: TargetStats,
}

impl<B: IoBuffer> TargetConn<B> {
    /// A connection that was accepted with these sizes.
    pub fn new(params: TargetParams, sizes: &HostQueueSizes, now: Now) -> Self {
        let slots = sizes.commands.saturating_mul(2);
        Self {
            params,
            slots: Slab::with_slots(slots),
            sq: SubmissionQueue::new(sizes.commands),
            fused_first: FusedFirst::None,
            responses_max: sizes.responses,
            responses: 0,
            held: VecDeque::with_capacity(slots.into()),
            connect_deadline: now.after_ns(params.connect_timeout_ns),
            closed: None,
            stats: TargetStats::default(),
        }
    }

    /// How many slots a connection of these sizes has: work identifiers are below it.
    pub fn slots(sizes: &HostQueueSizes) -> u16 {
        sizes.commands.saturating_mul(2)
    }

    /// Takes a capsule of the host: a command, and what follows it in the same message.
    #[inline]
    pub fn on_capsule<H, W>(&mut self, capsule: &[u8], handler: &mut H, wire: &mut W) -> Received
    where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        if self.closed.is_some() {
            return Received::Closing;
        }
        let Ok((sqe, data)) = Sqe::ref_from_prefix(capsule) else {
            self.closed = Some(CloseReason::BadCapsule);
            return Received::Closing;
        };
        if self.slots.is_full() {
            return self.block();
        }
        let mut buffer = None;
        let located = self.locate(sqe, data.len());
        if let Ok(Located { length, transfer: Transfer::Capsule { .. } | Transfer::Read, .. }) = &located {
            buffer = handler.allocate(*length as usize);
            if buffer.is_none() {
                return self.block();
            }
        }
        self.accept(*sqe, data, located, buffer, handler, wire);
        Received::Taken
    }

    #[cold]
    fn block(&mut self) -> Received {
        self.stats.blocked += 1;
        Received::Blocked
    }

    #[inline]
    fn accept<H, W>(
        &mut self,
        sqe: Sqe,
        capsule_data: &[u8],
        located: Result<Located, Status>,
        buffer: Option<B>,
        handler: &mut H,
        wire: &mut W,
    ) where
        H: CommandHandler<Buffer = B>,
        W: Wire<B>,
    {
        let fuse = sqe.fuse();
        let (located, state) = match located {
            Ok(located) => (located, State::Reading),
            Err(status) => {
                let none = Located { length: 0, remote: None, invalidate: None, transfer: Transfer::None };
                (none, State::Rejected(status))
            }
        };
        let Located { length, remote, invalidate, transfer } = located;
        let entry = Slot { sqe, length, remote, invalidate, partner: Partner::None, state };
        let Some((slot, generation)) = self.slots.insert(entry) else { return };
        self.stats.commands += 1;
        self.sq.advance();
        if fuse != Fuse::Normal || self.fused_first != FusedFirst::None {
            self.pair(slot, fuse, handler, wire);
        }
        if matches!(self.slots.at(slot).map(|entry| &entry.state), Some(State::Rejected(_))) {
            return self.answer_rejected(slot, handler, wire);
        }
        match (transfer, buffer, remote) {
            (Transfer::Read, Some(buffer), Some(remote)) => {
                self.stats.reads += 1;
                wire.read(CommandId::new(slot, generation), buffer, remote);
            }
            (Transfer::Capsule { offset }, Some(mut buffer), _) => {
                self.stats.in_capsule += 1;
                buffer.copy_in(0, &capsule_data[offset..offset + length as usize]);
                self.on_data(slot, Some(buffer), handler, wire);
            }
            _ => self.on_data(slot, None, handler, wire),
        }
    }

    /// Data length of a command and where its data is; the status when its SGL is no good.
    #[inline]
    fn locate(&self, sqe: &Sqe, capsule_data: usize) -> Result<Located, Status> {
        let located = |length, remote, invalidate, transfer| Located { length, remote, invalidate, transfer };
        if sqe.psdt() != Psdt::Sgl {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let direction = nvme::fabrics::direction(sqe);
        if direction == Direction::None {
            return Ok(located(0, None, None, Transfer::None));
        }
        match sqe.sgl.decode() {
            Ok(SglDescriptor::KeyedDataBlock { address, length, key, invalidate }) => {
                self.check_length(length)?;
                let invalidate = (invalidate && length > 0).then_some(key);
                let remote = Some(Remote { address, length, key });
                Ok(located(
                    length,
                    remote,
                    invalidate,
                    match (direction, length) {
                        (_, 0) => Transfer::None,
                        (Direction::HostToController, _) => Transfer::Read,
                        _ => Transfer::Write,
                    },
                ))
            }
            Ok(SglDescriptor::InCapsule { offset, length }) => {
                if direction != Direction::HostToController {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                let offset = usize::try_from(offset).map_err(|_| Status::SGL_OFFSET_INVALID.dnr())?;
                let allowed = capsule_data.min(self.params.in_capsule_data_size as usize);
                let room = allowed.checked_sub(offset).ok_or(Status::SGL_OFFSET_INVALID.dnr())?;
                if length as usize > room {
                    return Err(bad_length());
                }
                self.check_length(length)?;
                let transfer = if length == 0 { Transfer::None } else { Transfer::Capsule { offset } };
                Ok(located(length, None, None, transfer))
            }
            Ok(SglDescriptor::DataBlock { length: 0, .. }) => Ok(located(0, None, None, Transfer::None)),
            _ => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID.dnr()),
        }
    }

    fn check_length(&self, length: u32) -> Result<(), Status> {
        if length > self.params.max_io_size { Err(bad_length()) } else { Ok(()) }
    }

    /// Time passes. Closes the connection when the host did not become a queue in time.
    pub fn on_tick(&mut self, now: Now) {
        if self.closed.is_none() && now >= self.connect_deadline {
            self.closed = Some(CloseReason::ConnectTimeout);
        }
    }

    /// When [`Self::on_tick`] has something to do.
    #[inline]
    pub fn next_deadline(&self) -> Option<Now> {
        (self.closed.is_none() && self.connect_deadline != Now::NEVER).then_some(self.connect_deadline)
    }

    /// Why the connection is closed, once it is.
    #[inline]
    pub fn closed(&self) -> Option<CloseReason> {
        self.closed
    }

    /// Ends the connection from our side: nothing is taken any more; what was answered is still sent.
    pub fn close(&mut self) {
        self.closed.get_or_insert(CloseReason::Local);
    }

    /// Commands that are not answered, or whose answer is not delivered.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.slots.occupied().into()
    }

    /// Answers that are not delivered.
    #[inline]
    pub fn undelivered(&self) -> usize {
        usize::from(self.responses) + self.held.len()
    }

    /// What the connection did so far.
    pub fn stats(&self) -> &TargetStats {
        &self.stats
    }
}

const _: () = assert!(COMMAND_BYTES == Sqe::SIZE);
