//! Queue pairs: batched posts, and the buffers of work that is under way.
//!
//! Work is named by 32 bits whose low half is a slot below [`QpConfig::slots`]; a slot has one piece of work at a time. A
//! piece of work is several requests when its buffer is in several parts; only the last of them ends it. Work that does
//! not fit the send queue waits here, in order.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::rc::Rc;

use fabrics::rdma::Remote;
use rdma_mummy_sys as sys;
use reactors::IoBuf;

use super::cm::{CmId, ConnectParams};
use super::cq::{Completion, CompletionQueue};
use super::device_events::QpKey;
use super::domain::Domain;
use super::memory::Slots;
use super::shared::{Share, SharedReceives};
use super::{VerbsError, check, check_number};

/// Requests posted with one call.
const BATCH: usize = 64;

/// Why there is no queue pair, and the identifier it was for, if there is still one.
pub(crate) type Refused = (VerbsError, Option<CmId>);

/// What a queue pair is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QpConfig {
    /// What completions call the connection.
    pub(crate) connection: u32,
    /// Pieces of work that may be under way.
    pub(crate) slots: u16,
    /// Requests that one piece of work can be.
    pub(crate) requests_per_work: u32,
    /// Pieces of work that should fit the send queue at a time.
    pub(crate) sends: u32,
    /// Receives posted, or promised where they are shared.
    pub(crate) receives: u16,
    /// Bytes of a message that is received.
    pub(crate) receive_bytes: usize,
    /// Bytes of a message that is sent.
    pub(crate) send_bytes: usize,
}

/// A request that waits to be posted.
#[derive(Clone, Copy)]
struct Request {
    wr_id: u64,
    opcode: sys::ibv_wr_opcode::Type,
    flags: u32,
    element: sys::ibv_sge,
    remote: Remote,
    /// Requests of the same work that follow.
    more: u32,
}

/// Work that is under way.
#[derive(Default)]
struct Work {
    buffer: Option<IoBuf>,
    requests: u32,
}

/// A queue pair and its connection.
pub(crate) struct Qp {
    // Dropped in this order: the device's work ends before the memory it is about.
    pair: Pair,
    receives: Receives,
    sends: Sends,
    room: Room,
}

/// Room in a completion queue, given back when it is dropped.
struct Room {
    cq: Rc<CompletionQueue>,
    reserved: u32,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.cq.release(self.reserved);
    }
}

/// The identifier of a connection, and the queue pair that was made for it; dropped in this order.
struct Pair {
    queue_pair: QueuePair,
    id: CmId,
}

/// The queue pair of an identifier.
struct QueuePair(NonNull<sys::rdma_cm_id>);

impl Pair {
    /// Of an identifier whose queue pair was made.
    fn new(id: CmId) -> Self {
        Self { queue_pair: QueuePair(id.as_ptr()), id }
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: the queue pair was made for this identifier, and is destroyed once and before it.
        unsafe { sys::rdma_destroy_qp(self.0.as_ptr()) };
    }
}

/// The messages that come.
pub(crate) enum Receives {
    /// Into memory of the queue pair's own.
    Own(OwnReceives),
    /// Into memory that many queue pairs share.
    Shared(Share),
}

/// See [`Receives::Own`].
pub(crate) struct OwnReceives {
    connection: u64,
    slots: Slots,
    refill: Vec<u32>,
    chain: Chain,
}

/// Receives that are posted with one call, kept for its memory.
pub(super) struct Chain {
    requests: Vec<sys::ibv_recv_wr>,
    elements: Vec<sys::ibv_sge>,
}

/// The work that is given.
pub(crate) struct Sends {
    connection: u64,
    domain: Rc<Domain>,
    slots: Slots,
    work: Box<[Work]>,
    waiting: VecDeque<Request>,
    /// Requests that fit the send queue.
    room: u32,
    inline_bytes: usize,
    requests: Vec<sys::ibv_send_wr>,
    elements: Vec<sys::ibv_sge>,
}

impl Qp {
    /// A queue pair for a connection that is not connected yet, all its receives posted.
    ///
    /// # Errors
    /// The queue has no room, or the device refuses; the identifier comes back if there is still one.
    pub(crate) fn new(
        id: CmId,
        cq: &Rc<CompletionQueue>,
        shared: Option<&Rc<SharedReceives>>,
        config: &QpConfig,
    ) -> Result<Self, Refused> {
        let share = shared.and_then(|shared| shared.share(config.receives));
        let receives = if share.is_some() { 0 } else { u32::from(config.receives) };
        let room_for_shared = share.as_ref().is_none_or(|share| cq.reserve_shared(share.receives().depth()));
        let reserved = send_entries(cq, config) + receives;
        if !room_for_shared || !cq.reserve(reserved) {
            let full =
                VerbsError { call: "completion queue", source: std::io::ErrorKind::StorageFull.into() };
            return Err((full, Some(id)));
        }
        Self::make(id, Room { cq: Rc::clone(cq), reserved }, share, config)
    }

    fn make(id: CmId, room: Room, share: Option<Share>, config: &QpConfig) -> Result<Self, Refused> {
        let cq = &room.cq;
        let entries = send_entries(cq, config);
        let connection = u64::from(config.connection) << 32;
        let made = Receives::new(cq.domain(), connection, share, config).and_then(|receives| {
            let sends = Slots::new(cq.domain(), config.slots.into(), config.send_bytes)?;
            let inline_bytes = create(&id, cq, entries, &receives, config)?;
            Ok((receives, sends, inline_bytes))
        });
        let (mut receives, sends, inline_bytes) = match made {
            Ok(made) => made,
            Err(error) => return Err((error, Some(id))),
        };
        let pair = Pair::new(id);
        if let Receives::Own(own) = &mut receives {
            own.post(&pair).map_err(|error| (error, None))?;
        }
        let sends = Sends::new(connection, Rc::clone(cq.domain()), sends, entries, inline_bytes);
        Ok(Self { pair, receives, sends, room })
    }

    /// How events and completions of shared receives name it.
    pub(crate) fn key(&self) -> QpKey {
        // SAFETY: the queue pair lives as long as `self`.
        let number = unsafe { (*self.pair.id.queue_pair()).qp_num };
        QpKey { device: self.domain().device(), number }
    }

    /// Whether its receives are shared.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.receives, Receives::Shared(_))
    }

    /// Puts it in error, so that the device lets go of all work.
    pub(crate) fn stop(&self) {
        // SAFETY: plain data, for which all zero bytes are valid.
        let mut attr: sys::ibv_qp_attr = unsafe { std::mem::zeroed() };
        attr.qp_state = sys::ibv_qp_state::IBV_QPS_ERR;
        let mask = i32::try_from(sys::ibv_qp_attr_mask::IBV_QP_STATE.0).unwrap_or(0);
        // SAFETY: the queue pair lives. It fails when the device is gone, and all work with it.
        unsafe { sys::ibv_modify_qp(self.pair.id.queue_pair(), &raw mut attr, mask) };
    }

    /// The connection.
    pub(crate) fn id(&self) -> &CmId {
        &self.pair.id
    }

    /// The device's domain.
    pub(crate) fn domain(&self) -> &Rc<Domain> {
        self.room.cq.domain()
    }

    /// Accepts the connection that was asked for.
    pub(crate) fn accept(&self, params: &ConnectParams<'_>) -> Result<(), VerbsError> {
        self.id().accept(params)
    }

    /// Asks for the connection.
    pub(crate) fn connect(&self, params: &ConnectParams<'_>) -> Result<(), VerbsError> {
        self.id().connect(params)
    }

    /// Tells the peer that it is over; all work ends badly.
    pub(crate) fn disconnect(&self) {
        self.id().disconnect();
    }

    /// Gives up a connection that is not established. An iWARP device makes that wait until the peer answers, or until it has
    /// waited long enough for that: so the identifier is destroyed on a thread of its own.
    pub(crate) fn give_up(self) {
        let Self { pair: Pair { queue_pair, id }, receives, sends, room } = self;
        // The device's work ends before the memory it is about.
        drop(queue_pair);
        drop((receives, sends, room));
        // Without a thread the identifier is destroyed here.
        let _ = std::thread::Builder::new().name("rdma-give-up".to_owned()).spawn(move || drop(id));
    }

    /// Messages to read, and work to give for them.
    #[inline]
    pub(crate) fn split(&mut self) -> (&Receives, &mut Sends) {
        (&self.receives, &mut self.sends)
    }

    /// The message was used: its memory can be received into again, from the next flush on.
    #[inline]
    pub(crate) fn reuse(&mut self, receive: Completion) {
        match &mut self.receives {
            Receives::Own(own) => own.refill.push(receive.work()),
            Receives::Shared(share) => share.receives().give_back(receive.work()),
        }
    }

    /// Whether [`Qp::flush`] has something to post.
    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        matches!(&self.receives, Receives::Own(own) if !own.refill.is_empty()) || self.sends.fits()
    }

    /// Posts what waits, as far as it fits, but for shared receives.
    ///
    /// # Errors
    /// The queue pair is broken.
    #[inline]
    pub(crate) fn flush(&mut self) -> Result<(), VerbsError> {
        if let Receives::Own(own) = &mut self.receives
            && !own.refill.is_empty()
        {
            own.post(&self.pair)?;
        }
        while self.sends.fits() {
            self.sends.post(&self.pair)?;
        }
        Ok(())
    }
}

impl Receives {
    fn new(
        domain: &Domain,
        connection: u64,
        share: Option<Share>,
        config: &QpConfig,
    ) -> Result<Self, VerbsError> {
        if let Some(share) = share {
            return Ok(Self::Shared(share));
        }
        let slots = Slots::new(domain, config.receives.into(), config.receive_bytes)?;
        let count = slots.count();
        let refill = (0..).take(count).collect();
        Ok(Self::Own(OwnReceives { connection, refill, slots, chain: Chain::with_capacity(count) }))
    }

    /// The message that a receive brought.
    #[inline]
    pub(crate) fn message(&self, receive: &Completion, bytes: usize) -> &[u8] {
        match self {
            Self::Own(own) => own.slots.bytes(receive.work() as usize, bytes),
            Self::Shared(share) => share.receives().message(receive.work(), bytes),
        }
    }
}

impl OwnReceives {
    fn post(&mut self, pair: &Pair) -> Result<(), VerbsError> {
        let Self { connection, slots, refill, chain } = self;
        let element =
            |index: u32| (*connection | u64::from(index), slots.element(index as usize, slots.stride()));
        chain.post("ibv_post_recv", refill.drain(..).map(element), |requests, bad| {
            // SAFETY: the queue pair lives; the chain and its elements do for the call. A slot is posted at first and after
            // its completion only, so the device has it once.
            unsafe { sys::ibv_post_recv(pair.id.queue_pair(), requests, bad) }
        })
    }
}

impl Chain {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self { requests: Vec::with_capacity(count), elements: Vec::with_capacity(count) }
    }

    /// Lets `call` post receives: their names, and where the device is to put what comes.
    pub(super) fn post(
        &mut self,
        name: &'static str,
        receives: impl Iterator<Item = (u64, sys::ibv_sge)>,
        call: impl FnOnce(*mut sys::ibv_recv_wr, *mut *mut sys::ibv_recv_wr) -> i32,
    ) -> Result<(), VerbsError> {
        self.requests.clear();
        self.elements.clear();
        for (wr_id, element) in receives {
            self.elements.push(element);
            let (next, sg_list) = (std::ptr::null_mut(), std::ptr::null_mut());
            self.requests.push(sys::ibv_recv_wr { wr_id, next, sg_list, num_sge: 1 });
        }
        let elements = self.elements.as_mut_ptr();
        let requests = self.requests.as_mut_ptr();
        let count = self.requests.len();
        for (index, request) in self.requests.iter_mut().enumerate() {
            request.sg_list = elements.wrapping_add(index);
            request.next = next_of(requests, index, count);
        }
        let mut bad = std::ptr::null_mut();
        check_number(name, call(requests, &raw mut bad))
    }
}

impl Sends {
    fn new(connection: u64, domain: Rc<Domain>, slots: Slots, room: u32, inline_bytes: usize) -> Self {
        let mut work = Vec::new();
        work.resize_with(slots.count(), Work::default);
        Self {
            connection,
            domain,
            slots,
            work: work.into_boxed_slice(),
            waiting: VecDeque::new(),
            room,
            inline_bytes,
            requests: Vec::with_capacity(BATCH),
            elements: Vec::with_capacity(BATCH),
        }
    }

    /// Reads the peer's memory into a buffer.
    #[inline]
    pub(crate) fn read(&mut self, work: u32, buffer: IoBuf, remote: Remote) {
        let requests = self.push_parts(work, &buffer, remote, sys::ibv_wr_opcode::IBV_WR_RDMA_READ, 0);
        self.begin(work, Some(buffer), requests);
    }

    /// Writes a buffer into the peer's memory, if one is given, and sends a message after it; the peer is made to invalidate
    /// one of its keys, if one is given.
    #[inline]
    pub(crate) fn send(
        &mut self,
        work: u32,
        data: Option<(IoBuf, Remote)>,
        message: &[&[u8]],
        invalidate: Option<u32>,
    ) {
        let mut requests = 1;
        let buffer = data.map(|(bytes, remote)| {
            requests += self.push_parts(work, &bytes, remote, sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE, 1);
            bytes
        });
        let index = slot(work);
        self.begin(work, buffer, requests);
        let target = self.slots.bytes_mut(index);
        let mut len = 0;
        for part in message {
            target[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        let (opcode, key) = match invalidate {
            Some(key) => (sys::ibv_wr_opcode::IBV_WR_SEND_WITH_INV, key),
            None => (sys::ibv_wr_opcode::IBV_WR_SEND, 0),
        };
        // Soft iWARP takes no message inline that invalidates a key.
        let inline = if len <= self.inline_bytes && invalidate.is_none() {
            sys::ibv_send_flags::IBV_SEND_INLINE.0
        } else {
            0
        };
        self.waiting.push_back(Request {
            wr_id: self.connection | u64::from(work),
            opcode,
            flags: sys::ibv_send_flags::IBV_SEND_SIGNALED.0 | inline,
            element: self.slots.element(index, len),
            remote: Remote { address: 0, length: 0, key },
            more: 0,
        });
    }

    /// One request for each part of a buffer; `after` more follow. Only the last of all is told of, but where the device
    /// reports writes too early unless it tells of each.
    fn push_parts(
        &mut self,
        work: u32,
        buffer: &IoBuf,
        remote: Remote,
        opcode: sys::ibv_wr_opcode::Type,
        after: u32,
    ) -> u32 {
        let parts = u32::try_from(buffer.part_count()).unwrap_or(u32::MAX);
        let mut address = remote.address;
        // Data that cannot be registered fails at the device: no memory has this key.
        let lkey = self.domain.keys(buffer).map_or(0, |keys| keys.local);
        let tells_all =
            opcode == sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE && self.domain.limits().writes_must_be_signaled;
        for (index, (ptr, len)) in (1..).zip(buffer.raw_parts()) {
            let more = parts - index + after;
            let signaled = if more == 0 || tells_all { sys::ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
            let length = u32::try_from(len).unwrap_or(u32::MAX);
            self.waiting.push_back(Request {
                wr_id: self.connection | u64::from(work),
                opcode,
                flags: signaled,
                element: sys::ibv_sge { addr: ptr.as_ptr().addr() as u64, length, lkey },
                remote: Remote { address, length, ..remote },
                more,
            });
            address = address.wrapping_add(len as u64);
        }
        parts
    }

    #[inline]
    fn begin(&mut self, work: u32, buffer: Option<IoBuf>, requests: u32) {
        let entry = &mut self.work[slot(work)];
        assert!(entry.requests == 0, "a slot has one piece of work at a time");
        *entry = Work { buffer, requests };
    }

    /// Work ended well: its buffer comes back.
    #[inline]
    pub(crate) fn end(&mut self, completion: &Completion) -> Option<IoBuf> {
        let work = std::mem::take(&mut self.work[slot(completion.work())]);
        self.room += work.requests;
        work.buffer
    }

    fn fits(&self) -> bool {
        self.waiting.front().is_some_and(|first| first.more < self.room)
    }

    fn post(&mut self, pair: &Pair) -> Result<(), VerbsError> {
        self.requests.clear();
        self.elements.clear();
        let mut between = true;
        while let Some(request) = self.waiting.front() {
            // A piece of work is posted as a whole or not at all; a batch ends between two.
            if between && (request.more >= self.room || self.requests.len() >= BATCH) {
                break;
            }
            between = request.more == 0;
            self.room -= 1;
            self.elements.push(request.element);
            self.requests.push(c_request(request));
            self.waiting.pop_front();
        }
        let elements = self.elements.as_mut_ptr();
        let requests = self.requests.as_mut_ptr();
        let count = self.requests.len();
        for (index, request) in self.requests.iter_mut().enumerate() {
            request.sg_list = elements.wrapping_add(index);
            request.next = next_of(requests, index, count);
        }
        let mut bad = std::ptr::null_mut();
        // SAFETY: the chain and its elements lie in vectors that are not touched until the call is over; the memory they name
        // is registered, and belongs to this queue pair until it is told of the end of the work.
        let status = unsafe { sys::ibv_post_send(pair.id.queue_pair(), requests, &raw mut bad) };
        check_number("ibv_post_send", status)
    }
}

/// The request after the one at `index` of a chain of `count`.
fn next_of<T>(first: *mut T, index: usize, count: usize) -> *mut T {
    if index + 1 == count { std::ptr::null_mut() } else { first.wrapping_add(index + 1) }
}

/// Entries of the send queue: enough for the work, at most what the device has.
fn send_entries(cq: &CompletionQueue, config: &QpConfig) -> u32 {
    let wanted = config.sends.saturating_mul(config.requests_per_work);
    wanted.min(cq.domain().limits().queue_entries).max(config.requests_per_work)
}

/// Makes the queue pair; how many bytes it sends inline.
fn create(
    id: &CmId,
    cq: &CompletionQueue,
    sends: u32,
    receives: &Receives,
    config: &QpConfig,
) -> Result<usize, VerbsError> {
    let mut result = Err(VerbsError { call: "rdma_create_qp", source: std::io::ErrorKind::Other.into() });
    // Devices that send nothing inline refuse instead of offering less.
    for inline in [config.send_bytes.min(INLINE_BYTES_MAX), 0] {
        // SAFETY: plain data, for which all zero bytes are valid.
        let mut attr: sys::ibv_qp_init_attr = unsafe { std::mem::zeroed() };
        attr.send_cq = cq.as_ptr();
        attr.recv_cq = cq.as_ptr();
        attr.qp_type = sys::ibv_qp_type::IBV_QPT_RC;
        attr.cap.max_send_wr = sends;
        attr.cap.max_send_sge = 1;
        match receives {
            Receives::Own(_) => {
                attr.cap.max_recv_wr = config.receives.into();
                attr.cap.max_recv_sge = 1;
            }
            Receives::Shared(share) => attr.srq = share.receives().as_ptr(),
        }
        attr.cap.max_inline_data = u32::try_from(inline).unwrap_or(0);
        let pd = cq.domain().pd().as_ptr();
        // SAFETY: the identifier, the domain and the queue live, and belong to one device.
        let status = unsafe { sys::rdma_create_qp(id.as_ptr().as_ptr(), pd, &raw mut attr) };
        result = check("rdma_create_qp", status).map(|()| inline);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The most that is worth sending inline: a command capsule without data.
const INLINE_BYTES_MAX: usize = fabrics::rdma::COMMAND_BYTES;

fn slot(work: u32) -> usize {
    (work & 0xFFFF) as usize
}

fn c_request(request: &Request) -> sys::ibv_send_wr {
    let Remote { address, key, .. } = request.remote;
    sys::ibv_send_wr {
        wr_id: request.wr_id,
        next: std::ptr::null_mut(),
        sg_list: std::ptr::null_mut(),
        num_sge: 1,
        opcode: request.opcode,
        send_flags: request.flags,
        imm_data_invalidated_rkey_union: sys::imm_data_invalidated_rkey_union_t { invalidated_rkey: key },
        wr: sys::wr_t { rdma: sys::rdma_t { remote_addr: address, rkey: key } },
        qp_type: sys::qp_type_t { xrc: sys::xrc_t { remote_srqn: 0 } },
        bind_mw_tso_union: sys::bind_mw_tso_union_t {
            tso: sys::tso_t { hdr: std::ptr::null_mut(), hdr_sz: 0, mss: 0 },
        },
    }
}
