//! Completion queues, and completions as values that can be used once.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use arrayvec::ArrayVec;
use rdma_mummy_sys as sys;
use rustix::io::Errno;

use super::device_events::QpKey;
use super::domain::Domain;
use super::shared::SHARED_TAG;
use super::{VerbsError, check_number};

/// Completions taken at a time.
pub(crate) const COMPLETIONS_PER_POLL: usize = 32;

/// What kind of work ended. Only that of work that ended well is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WorkKind {
    /// A message came, of so many bytes.
    Receive(usize),
    /// A message was sent, and what was written before it.
    Send,
    /// The peer's memory was read.
    Read,
    /// Something that ends no work: a write, before the message that follows it.
    Other,
}

/// Work of a queue pair that ended.
#[derive(Debug)]
pub(crate) struct Completion {
    wr_id: u64,
    status: sys::ibv_wc_status::Type,
    opcode: sys::ibv_wc_opcode::Type,
    bytes: u32,
    queue_pair: QpKey,
}

impl Completion {
    /// The connection it belongs to, as its queue pair was told.
    pub(crate) fn connection(&self) -> u32 {
        let [.., a, b, c, d] = self.wr_id.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Whether it is of a shared receive: then only [`Self::queue_pair`] tells the connection.
    #[inline]
    pub(crate) fn is_shared(&self) -> bool {
        self.wr_id & SHARED_TAG == SHARED_TAG
    }

    /// The queue pair it is of.
    #[inline]
    pub(crate) fn queue_pair(&self) -> QpKey {
        self.queue_pair
    }

    /// The work: what it was given as.
    pub(crate) fn work(&self) -> u32 {
        let [a, b, c, d, ..] = self.wr_id.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Whether it ended well, and if so what kind it was; else the status as the library names it.
    pub(crate) fn outcome(&self) -> Result<WorkKind, &'static str> {
        use sys::ibv_wc_opcode as op;
        if self.status != sys::ibv_wc_status::IBV_WC_SUCCESS {
            return Err(status_name(self.status));
        }
        Ok(match self.opcode {
            op::IBV_WC_RECV => WorkKind::Receive(self.bytes as usize),
            op::IBV_WC_SEND => WorkKind::Send,
            op::IBV_WC_RDMA_READ => WorkKind::Read,
            _ => WorkKind::Other,
        })
    }

    /// Whether it only says that the queue pair is in error already.
    pub(crate) fn is_flush(&self) -> bool {
        self.status == sys::ibv_wc_status::IBV_WC_WR_FLUSH_ERR
    }
}

fn status_name(status: sys::ibv_wc_status::Type) -> &'static str {
    // SAFETY: no precondition; the library's answer is a constant of it, or null.
    let text = unsafe { sys::ibv_wc_status_str(status) };
    if text.is_null() {
        return "unknown status";
    }
    // SAFETY: a constant, NUL-terminated string of a library that is never unloaded.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_str().unwrap_or("unknown status")
}

/// Where completion queues wake whoever sleeps.
pub(crate) struct WakeChannel {
    ptr: NonNull<sys::ibv_comp_channel>,
    domain: Rc<Domain>,
}

impl WakeChannel {
    /// A channel on the device of a domain. Never blocks.
    pub(crate) fn new(domain: &Rc<Domain>) -> Result<Rc<Self>, VerbsError> {
        // SAFETY: the device is open as long as the domain lives, which the channel holds.
        let ptr = unsafe { sys::ibv_create_comp_channel(domain.context().as_ptr()) };
        let ptr = NonNull::new(ptr).ok_or_else(|| VerbsError::last("ibv_create_comp_channel"))?;
        let channel = Self { ptr, domain: Rc::clone(domain) };
        let failed = |errno: Errno| VerbsError { call: "fcntl", source: errno.into() };
        let flags = rustix::fs::fcntl_getfl(channel.as_fd()).map_err(failed)?;
        rustix::fs::fcntl_setfl(channel.as_fd(), flags | rustix::fs::OFlags::NONBLOCK).map_err(failed)?;
        Ok(Rc::new(channel))
    }

    /// Takes wake-ups that came, at most so many: an armed queue gives one, and a look for more would be a system call.
    pub(crate) fn take_wakeups(&self, most: usize) {
        for _ in 0..most {
            let (mut cq, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the channel lives and does not block; both are written only on success.
            let status = unsafe { sys::ibv_get_cq_event(self.ptr.as_ptr(), &raw mut cq, &raw mut context) };
            if status != 0 {
                return;
            }
            // SAFETY: the event was got just now and is acknowledged once; its queue cannot be destroyed before.
            unsafe { sys::ibv_ack_cq_events(cq, 1) };
        }
    }
}

impl AsFd for WakeChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives as long as `self`.
        let fd = unsafe { self.ptr.as_ref() }.fd;
        // SAFETY: the descriptor is open as long as the channel is.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for WakeChannel {
    fn drop(&mut self) {
        // SAFETY: completion queues hold their channel, so none uses it any more.
        let status = unsafe { sys::ibv_destroy_comp_channel(self.ptr.as_ptr()) };
        debug_assert_eq!(status, 0);
    }
}

/// A queue of completions, shared by queue pairs of one thread. It never overflows: room is reserved for all work that a
/// queue pair can have posted.
pub(crate) struct CompletionQueue {
    ptr: NonNull<sys::ibv_cq>,
    entries: u32,
    reserved: Cell<u32>,
    /// Room for all receives that are shared is reserved.
    for_shared: Cell<bool>,
    scratch: RefCell<Box<[sys::ibv_wc; COMPLETIONS_PER_POLL]>>,
    channel: Rc<WakeChannel>,
}

impl CompletionQueue {
    /// A queue with room for `entries` completions, or as many as the device has.
    pub(crate) fn new(channel: &Rc<WakeChannel>, entries: u32) -> Result<Rc<Self>, VerbsError> {
        let domain = &channel.domain;
        let entries = entries.min(domain.limits().completions);
        let count = i32::try_from(entries).unwrap_or(i32::MAX);
        let (context, wakes) = (domain.context().as_ptr(), channel.ptr.as_ptr());
        // SAFETY: the device lives as long as the domain, which the channel holds, which the queue holds.
        let ptr = unsafe { sys::ibv_create_cq(context, count, std::ptr::null_mut(), wakes, 0) };
        let ptr = NonNull::new(ptr).ok_or_else(|| VerbsError::last("ibv_create_cq"))?;
        // SAFETY: plain data, for which all zero bytes are valid.
        let scratch = unsafe { std::mem::zeroed::<[sys::ibv_wc; COMPLETIONS_PER_POLL]>() };
        Ok(Rc::new(Self {
            ptr,
            entries,
            reserved: Cell::new(0),
            for_shared: Cell::new(false),
            scratch: RefCell::new(Box::new(scratch)),
            channel: Rc::clone(channel),
        }))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ibv_cq {
        self.ptr.as_ptr()
    }

    pub(super) fn domain(&self) -> &Rc<Domain> {
        &self.channel.domain
    }

    /// Reserves room for so much work; `false` when there is not as much.
    pub(crate) fn reserve(&self, work: u32) -> bool {
        let wanted = self.reserved.get().saturating_add(work);
        let fits = wanted <= self.entries;
        if fits {
            self.reserved.set(wanted);
        }
        fits
    }

    /// Reserves room for all `depth` receives that are shared, once; `false` when there is not as much.
    pub(crate) fn reserve_shared(&self, depth: u32) -> bool {
        let reserved = self.for_shared.get() || self.reserve(depth);
        self.for_shared.set(reserved);
        reserved
    }

    /// Gives room back.
    pub(crate) fn release(&self, work: u32) {
        self.reserved.set(self.reserved.get().saturating_sub(work));
    }

    /// Takes completions that came, at most as many as fit.
    #[inline]
    pub(crate) fn poll(&self, out: &mut ArrayVec<Completion, COMPLETIONS_PER_POLL>) {
        let mut scratch = self.scratch.borrow_mut();
        let room = i32::try_from(out.remaining_capacity()).unwrap_or(0);
        // SAFETY: the queue lives, and the array has room for as many as are asked for.
        let came = unsafe { sys::ibv_poll_cq(self.ptr.as_ptr(), room, scratch.as_mut_ptr()) };
        // An error (negative) means that the device is gone, which its connections are told by other means.
        let came = usize::try_from(came).unwrap_or(0);
        let device = self.domain().device();
        out.extend(scratch[..came].iter().map(|wc| Completion {
            wr_id: wc.wr_id,
            status: wc.status,
            opcode: wc.opcode,
            bytes: wc.byte_len,
            queue_pair: QpKey { device, number: wc.qp_num },
        }));
    }

    /// Makes the channel's descriptor readable when the next completion comes. What came before must be polled after this.
    pub(crate) fn arm(&self) -> Result<(), VerbsError> {
        // SAFETY: the queue lives.
        check_number("ibv_req_notify_cq", unsafe { sys::ibv_req_notify_cq(self.ptr.as_ptr(), 0) })
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold the queue, so none is left; every event of it was acknowledged when it was taken.
        unsafe { sys::ibv_destroy_cq(self.ptr.as_ptr()) };
    }
}
