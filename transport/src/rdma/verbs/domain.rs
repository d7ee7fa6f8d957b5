//! What one thread has of one device: a protection domain and the pools registered there.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use rdma_mummy_sys as sys;
use reactors::{DmaPool, IoBuf};

use super::cm::{CmId, CmKey};
use super::device_events::DeviceKey;
use super::memory::Registration;
use super::{VerbsError, check_number};

/// Who may reach the registered buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Only our own work: a target's.
    Local,
    /// The peer too, with the key it is given: a host's.
    Remote,
}

/// What a device can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Work requests of a queue.
    pub(crate) queue_entries: u32,
    /// Queues of shared receives.
    pub(crate) shared_queues: u32,
    /// Entries of one.
    pub(crate) shared_entries: u32,
    /// Entries of a completion queue.
    pub(crate) completions: u32,
    /// Reads of peers that a connection serves at a time.
    pub(crate) reads_served: u8,
    /// Reads that a connection has on their way at a time.
    pub(crate) reads_sent: u8,
    /// iWARP: what a read fills must be writable by the peer.
    pub(crate) iwarp: bool,
    /// Linux' soft iWARP sends what an unsignaled write has from the buffer itself, and reports the work that follows it as
    /// done when TCP has taken the pages, not sent them (`siw_qp_prepare_tx`). What is signaled it copies.
    pub(crate) writes_must_be_signaled: bool,
}

/// What siw calls its vendor: "bmt".
const SOFT_IWARP_VENDOR: u32 = 0x62_6D74;

/// Keys of registered memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Keys {
    /// For our own work.
    pub(crate) local: u32,
    /// For the peer.
    pub(crate) remote: u32,
}

/// A pool whose memory is registered, kept mapped by its handle.
struct Arena {
    registration: Registration,
    pool: DmaPool,
}

/// A protection domain, with each pool registered when a buffer of it is first seen.
pub(crate) struct Domain {
    // Registrations go before the domain they are in.
    arenas: RefCell<Vec<Arena>>,
    pd: Rc<Pd>,
    limits: Limits,
    access: Access,
}

/// A protection domain; registrations hold it.
pub(super) struct Pd {
    ptr: NonNull<sys::ibv_pd>,
    context: NonNull<sys::ibv_context>,
    /// librdmacm closes a device that was removed with the last identifier there: this one goes last.
    anchor: CmId,
}

impl Pd {
    pub(super) fn as_ptr(&self) -> *mut sys::ibv_pd {
        self.ptr.as_ptr()
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        // SAFETY: whatever was made in it held a reference and is gone.
        unsafe { sys::ibv_dealloc_pd(self.ptr.as_ptr()) };
    }
}

thread_local! {
    /// The domains of this thread's hosts: its queues share one per device, so that a pool is registered once.
    static OF_HOSTS: RefCell<Vec<Weak<Domain>>> = const { RefCell::new(Vec::new()) };
}

impl Domain {
    /// A domain on the device of a connection.
    ///
    /// # Errors
    /// When the device refuses.
    pub(crate) fn open(id: &CmId, access: Access) -> Result<Rc<Self>, VerbsError> {
        let no_device = || VerbsError { call: "rdma_cm_id", source: std::io::ErrorKind::NotFound.into() };
        let context = id.context().ok_or_else(no_device)?;
        let limits = limits(context)?;
        let anchor = id.anchor()?;
        // SAFETY: librdmacm keeps the device open while it has identifiers there, and the domain has one of its own.
        let ptr = unsafe { sys::ibv_alloc_pd(context.as_ptr()) };
        let ptr = NonNull::new(ptr).ok_or_else(|| VerbsError::last("ibv_alloc_pd"))?;
        let pd = Rc::new(Pd { ptr, context, anchor });
        Ok(Rc::new(Self { arenas: RefCell::default(), pd, limits, access }))
    }

    /// The domain that this thread's hosts share on the device of a connection.
    ///
    /// # Errors
    /// When the device refuses.
    pub(crate) fn of_hosts(id: &CmId) -> Result<Rc<Self>, VerbsError> {
        OF_HOSTS.with_borrow_mut(|all| {
            all.retain(|domain| domain.strong_count() > 0);
            if let Some(domain) = all.iter().filter_map(Weak::upgrade).find(|domain| domain.is_of(id)) {
                return Ok(domain);
            }
            let domain = Self::open(id, Access::Remote)?;
            all.push(Rc::downgrade(&domain));
            Ok(domain)
        })
    }

    /// Whether a connection is on the device of this domain.
    pub(crate) fn is_of(&self, id: &CmId) -> bool {
        id.context() == Some(self.pd.context)
    }

    /// How events that tell of the device's removal name it.
    pub(crate) fn key(&self) -> CmKey {
        self.pd.anchor.key()
    }

    /// How events name the device.
    #[inline]
    pub(crate) fn device(&self) -> DeviceKey {
        DeviceKey::new(self.pd.context)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn pd(&self) -> &Rc<Pd> {
        &self.pd
    }

    pub(super) fn context(&self) -> NonNull<sys::ibv_context> {
        self.pd.context
    }

    /// Registers a pool, unless it is.
    ///
    /// # Errors
    /// When the device refuses: more memory than may be locked, mostly.
    pub(crate) fn register(&self, pool: &DmaPool) -> Result<Keys, VerbsError> {
        let range = pool.arena();
        if let Some(keys) = self.find(range.ptr) {
            return Ok(keys);
        }
        let access = access_flags(self.access, self.limits.iwarp);
        let registration = Registration::new(&self.pd, range.ptr, range.len, access)?;
        let keys = Keys { local: registration.local_key(), remote: registration.remote_key() };
        self.arenas.borrow_mut().push(Arena { registration, pool: pool.clone() });
        Ok(keys)
    }

    /// The keys of a buffer, whose pool is registered if it is not yet.
    ///
    /// # Errors
    /// The device refuses, or the buffer is lent: it lies in no pool.
    #[inline]
    pub(crate) fn keys(&self, buffer: &IoBuf) -> Result<Keys, VerbsError> {
        let first = buffer.raw_parts().next();
        match (first.and_then(|(ptr, _)| self.find(ptr)), buffer.pool()) {
            (Some(keys), _) => Ok(keys),
            (None, Some(pool)) => self.register(&pool),
            (None, None) => {
                Err(VerbsError { call: "ibv_reg_mr", source: std::io::ErrorKind::InvalidInput.into() })
            }
        }
    }

    #[inline]
    fn find(&self, ptr: NonNull<u8>) -> Option<Keys> {
        let address = ptr.as_ptr().addr();
        self.arenas.borrow().iter().find_map(|arena| {
            let range = arena.pool.arena();
            let offset = address.checked_sub(range.ptr.as_ptr().addr())?;
            (offset < range.len).then(|| Keys {
                local: arena.registration.local_key(),
                remote: arena.registration.remote_key(),
            })
        })
    }
}

fn access_flags(access: Access, iwarp: bool) -> u32 {
    use sys::ibv_access_flags as flags;
    let local = flags::IBV_ACCESS_LOCAL_WRITE.0;
    match access {
        Access::Local if iwarp => local | flags::IBV_ACCESS_REMOTE_WRITE.0,
        Access::Local => local,
        Access::Remote => local | flags::IBV_ACCESS_REMOTE_READ.0 | flags::IBV_ACCESS_REMOTE_WRITE.0,
    }
}

fn limits(context: NonNull<sys::ibv_context>) -> Result<Limits, VerbsError> {
    // SAFETY: plain data, for which all zero bytes are valid.
    let mut attr: sys::ibv_device_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the device is open and `attr` is written within its bounds.
    check_number("ibv_query_device", unsafe { sys::ibv_query_device(context.as_ptr(), &raw mut attr) })?;
    // SAFETY: an open context points at its device.
    let device = unsafe { context.as_ref() }.device;
    // SAFETY: devices outlive the contexts opened on them.
    let transport = unsafe { (*device).transport_type };
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    let reads = |number: i32| u8::try_from(number.clamp(0, 255)).unwrap_or(u8::MAX);
    Ok(Limits {
        queue_entries: count(attr.max_qp_wr),
        shared_queues: count(attr.max_srq),
        shared_entries: count(attr.max_srq_wr),
        completions: count(attr.max_cqe),
        reads_served: reads(attr.max_qp_rd_atom),
        reads_sent: reads(attr.max_qp_init_rd_atom),
        iwarp: transport == sys::ibv_transport_type::IBV_TRANSPORT_IWARP,
        writes_must_be_signaled: attr.vendor_id == SOFT_IWARP_VENDOR,
    })
}
