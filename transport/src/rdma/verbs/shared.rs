//! Receives that many queue pairs of one thread share: memory for the capsules that come, not for all that could.
//!
//! Invariant: a slot is posted, or was told of by a completion that was not given back yet, or waits to be posted. It grows
//! with the connections that use it, up to its depth; beyond that they share what there is.

use std::cell::{Cell, OnceCell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

use rdma_mummy_sys as sys;

use super::VerbsError;
use super::domain::Domain;
use super::memory::Slots;
use super::qp::Chain;

/// Most receives: half of what a completion queue has room for, the other half being for what is sent.
const SHARED_DEPTH_MAX: u32 = 4096;
/// Slots whose memory is registered at a time: one connection's of the usual depth.
const CHUNK: usize = 128;

/// See the module.
pub(crate) struct SharedReceives {
    // Before the memory that the device receives into.
    queue: SharedQueue,
    chunks: Box<[OnceCell<Slots>]>,
    bytes: usize,
    /// What those that use it may have on their way, together.
    promised: Cell<u32>,
    /// Slots that there are; a multiple of a chunk.
    made: Cell<u32>,
    depth: u32,
    refill: RefCell<Vec<u32>>,
    chain: RefCell<Chain>,
    domain: Rc<Domain>,
}

struct SharedQueue(NonNull<sys::ibv_srq>);

impl Drop for SharedQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold what they share, so none is left.
        unsafe { sys::ibv_destroy_srq(self.0.as_ptr()) };
    }
}

/// What a queue pair may have on its way of shared receives; given back when it is dropped.
pub(crate) struct Share {
    receives: Rc<SharedReceives>,
    count: u32,
}

impl Drop for Share {
    fn drop(&mut self) {
        let promised = &self.receives.promised;
        promised.set(promised.get().saturating_sub(self.count));
    }
}

impl SharedReceives {
    /// Up to `depth` receives of `bytes` bytes each, or as many as the device has; `None` when it has none.
    pub(crate) fn new(domain: &Rc<Domain>, depth: u32, bytes: usize) -> Option<Rc<Self>> {
        let limits = domain.limits();
        let depth = depth.min(limits.shared_entries).min(SHARED_DEPTH_MAX);
        let chunks = depth as usize / CHUNK;
        if limits.shared_queues == 0 || chunks == 0 {
            return None;
        }
        let depth = u32::try_from(chunks * CHUNK).ok()?;
        let mut attr = sys::ibv_srq_init_attr {
            srq_context: std::ptr::null_mut(),
            attr: sys::ibv_srq_attr { max_wr: depth, max_sge: 1, srq_limit: 0 },
        };
        // SAFETY: the domain lives, and what is made holds it; `attr` lives for the call.
        let ptr = unsafe { sys::ibv_create_srq(domain.pd().as_ptr(), &raw mut attr) };
        let queue = SharedQueue(NonNull::new(ptr)?);
        Some(Rc::new(Self {
            queue,
            chunks: (0..chunks).map(|_| OnceCell::new()).collect(),
            bytes,
            promised: Cell::new(0),
            made: Cell::new(0),
            depth,
            refill: RefCell::new(Vec::with_capacity(depth as usize)),
            chain: RefCell::new(Chain::with_capacity(depth as usize)),
            domain: Rc::clone(domain),
        }))
    }

    /// Receives that it can have.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Lets a queue pair have `count` messages on their way. Where a message without a receive would end the connection
    /// (iWARP), only as many are promised as there are receives; elsewhere it is sent again. `None`: no receives are left.
    pub(crate) fn share(self: &Rc<Self>, count: u16) -> Option<Share> {
        let count = u32::from(count);
        let promised = self.promised.get() + count;
        if self.domain.limits().iwarp && promised > self.depth {
            return None;
        }
        while self.made.get() < promised.min(self.depth) {
            if !self.grow() {
                break;
            }
        }
        let enough = if self.domain.limits().iwarp { promised } else { count };
        if self.made.get() < enough.min(self.depth) || self.post().is_err() {
            return None;
        }
        self.promised.set(promised);
        Some(Share { receives: Rc::clone(self), count })
    }

    /// Makes another chunk of slots; `false` when there is no memory that may be registered.
    fn grow(&self) -> bool {
        let first = self.made.get();
        let Some(chunk) = self.chunks.get(first as usize / CHUNK) else { return false };
        let Ok(slots) = Slots::new(&self.domain, CHUNK, self.bytes) else { return false };
        let made = chunk.set(slots).is_ok();
        debug_assert!(made);
        self.refill.borrow_mut().extend((first..).take(CHUNK));
        self.made.set(first + u32::try_from(CHUNK).unwrap_or(0));
        true
    }

    fn chunk(&self, index: u32) -> Option<(&Slots, usize)> {
        let slots = self.chunks.get(index as usize / CHUNK)?.get()?;
        Some((slots, index as usize % CHUNK))
    }

    /// The message that a receive brought.
    #[inline]
    pub(super) fn message(&self, index: u32, bytes: usize) -> &[u8] {
        self.chunk(index).map_or(&[], |(slots, at)| slots.bytes(at, bytes))
    }

    /// The message was used, or never came: its memory is posted with the next [`Self::post`].
    #[inline]
    pub(crate) fn give_back(&self, index: u32) {
        self.refill.borrow_mut().push(index);
    }

    /// Posts what was given back.
    ///
    /// # Errors
    /// The device is broken.
    #[inline]
    pub(crate) fn post(&self) -> Result<(), VerbsError> {
        let mut refill = self.refill.borrow_mut();
        if refill.is_empty() {
            return Ok(());
        }
        let element = |index: u32| {
            let (slots, at) = self.chunk(index)?;
            Some((SHARED_TAG | u64::from(index), slots.element(at, slots.stride())))
        };
        let elements = refill.drain(..).filter_map(element);
        self.chain.borrow_mut().post("ibv_post_srq_recv", elements, |requests, bad| {
            // SAFETY: the queue lives; the chain and its elements do for the call. A slot is posted at first and after its
            // completion only, so the device has it once.
            unsafe { sys::ibv_post_srq_recv(self.queue.0.as_ptr(), requests, bad) }
        })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ibv_srq {
        self.queue.0.as_ptr()
    }
}

impl Share {
    pub(super) fn receives(&self) -> &Rc<SharedReceives> {
        &self.receives
    }
}

/// What completions of shared receives have for the connection, which is known only by the queue pair's number.
pub(super) const SHARED_TAG: u64 = (u32::MAX as u64) << 32;
