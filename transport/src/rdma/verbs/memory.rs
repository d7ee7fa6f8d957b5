//! Registered memory: a range of someone's, or slots of our own for messages.

use std::ptr::NonNull;
use std::rc::Rc;

use rdma_mummy_sys as sys;

use super::VerbsError;
use super::domain::{Domain, Pd};

/// A range of memory that the device may reach. Whoever makes one keeps the memory mapped until it is dropped.
pub(super) struct Registration {
    mr: NonNull<sys::ibv_mr>,
    _pd: Rc<Pd>,
}

impl Registration {
    pub(super) fn new(pd: &Rc<Pd>, start: NonNull<u8>, len: usize, access: u32) -> Result<Self, VerbsError> {
        let access = i32::try_from(access).unwrap_or(0);
        // SAFETY: the range is mapped, and stays so by the contract of this type.
        let mr = unsafe { sys::ibv_reg_mr(pd.as_ptr(), start.as_ptr().cast(), len, access) };
        let mr = NonNull::new(mr).ok_or_else(|| VerbsError::last("ibv_reg_mr"))?;
        Ok(Self { mr, _pd: Rc::clone(pd) })
    }

    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: the registration lives as long as `self`.
        unsafe { self.mr.as_ref() }.lkey
    }

    pub(super) fn remote_key(&self) -> u32 {
        // SAFETY: the registration lives as long as `self`.
        unsafe { self.mr.as_ref() }.rkey
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: owned and given up once; no queue pair that used it is left, by the order in which their owners drop.
        unsafe { sys::ibv_dereg_mr(self.mr.as_ptr()) };
    }
}

/// So many slots of so many bytes each, for messages.
pub(super) struct Slots {
    registration: Registration,
    memory: NonNull<u8>,
    stride: usize,
    count: usize,
}

impl Slots {
    pub(super) fn new(domain: &Domain, count: usize, bytes: usize) -> Result<Self, VerbsError> {
        let stride = bytes.next_multiple_of(SLOT_ALIGN);
        let len = (stride * count).max(SLOT_ALIGN);
        let memory = Box::leak(vec![0_u8; len].into_boxed_slice());
        let start = NonNull::from(&mut *memory).cast::<u8>();
        let access = sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0;
        match Registration::new(domain.pd(), start, len, access) {
            Ok(registration) => Ok(Self { registration, memory: start, stride, count }),
            Err(error) => {
                // SAFETY: leaked above, and not used by anything.
                drop(unsafe { Box::from_raw(std::ptr::from_mut(memory)) });
                Err(error)
            }
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of a slot.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Slot `index`, its first `len` bytes, for the device.
    pub(super) fn element(&self, index: usize, len: usize) -> sys::ibv_sge {
        sys::ibv_sge {
            addr: self.at(index).as_ptr().addr() as u64,
            length: u32::try_from(len.min(self.stride)).unwrap_or(0),
            lkey: self.registration.local_key(),
        }
    }

    /// The first `len` bytes of slot `index`, which the device has no work for.
    pub(super) fn bytes(&self, index: usize, len: usize) -> &[u8] {
        // SAFETY: in bounds, initialised, and the caller knows by a completion that the device is done with it.
        unsafe { std::slice::from_raw_parts(self.at(index).as_ptr(), len.min(self.stride)) }
    }

    /// Slot `index`, which the device has no work for.
    pub(super) fn bytes_mut(&mut self, index: usize) -> &mut [u8] {
        // SAFETY: in bounds, initialised, and the caller knows that the device is done with it.
        unsafe { std::slice::from_raw_parts_mut(self.at(index).as_ptr(), self.stride) }
    }

    fn at(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.count);
        // SAFETY: within the allocation, as just asserted.
        unsafe { self.memory.add(index * self.stride) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let len = (self.stride * self.count).max(SLOT_ALIGN);
        let memory = std::ptr::slice_from_raw_parts_mut(self.memory.as_ptr(), len);
        // SAFETY: leaked in `new` with this length. The device has no work left: the queue pair is destroyed before its slots,
        // so that the registration that is dropped after this is not used either.
        drop(unsafe { Box::from_raw(memory) });
    }
}

/// Slots start at cache lines.
const SLOT_ALIGN: usize = 64;
