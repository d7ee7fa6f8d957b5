//! Memory that devices may access.

use std::ffi::c_void;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::{Environment, sys};

/// Memory that a command may be given.
///
/// # Safety
/// While the value is not touched, wherever it is moved:
/// - [`Self::segment`] gives the same contiguous, non-empty, mapped and writable memory, in order, then `None`;
/// - nothing but the value's holder reads or writes that memory;
/// - all of it is registered with SPDK's environment.
///
/// Dropping the value, not moving it, is what may give the memory back.
pub unsafe trait DmaMemory {
    /// Bytes in all segments.
    fn byte_count(&self) -> usize;

    /// The address and length of segment `index`.
    fn segment(&self, index: usize) -> Option<(NonNull<u8>, usize)>;
}

/// Zeroed memory from SPDK's own heap.
pub struct DmaBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone, and SPDK's heap is locked.
unsafe impl Send for DmaBuffer {}

// SAFETY: SPDK's heap is registered with its environment; the memory stays at its place until drop.
unsafe impl DmaMemory for DmaBuffer {
    fn byte_count(&self) -> usize {
        self.len
    }

    fn segment(&self, index: usize) -> Option<(NonNull<u8>, usize)> {
        (index == 0 && self.len > 0).then_some((self.start, self.len))
    }
}

impl DmaBuffer {
    /// Alignment of every buffer: a page of the device.
    pub const ALIGN: usize = 4096;
    /// `SPDK_MALLOC_DMA`: memory for devices.
    const FOR_DEVICES: u32 = 1;
    /// `SPDK_ENV_SOCKET_ID_ANY`: on any node.
    const ANY_NODE: i32 = -1;

    /// `len` zeroes. `None` when the environment has no memory left.
    pub fn zeroed(_: &Environment, len: usize) -> Option<Self> {
        let bytes = len.max(1);
        // SAFETY: the environment is set up. Where the memory lies physically is not asked for.
        let memory = unsafe {
            sys::spdk_zmalloc(bytes, Self::ALIGN, std::ptr::null_mut(), Self::ANY_NODE, Self::FOR_DEVICES)
        };
        Some(Self { start: NonNull::new(memory.cast())?, len })
    }
}

impl Deref for DmaBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes that only this value owns. No device has them: commands take buffers by value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for DmaBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `spdk_zmalloc` in `zeroed`, freed once, here.
        unsafe { sys::spdk_free(self.start.as_ptr().cast::<c_void>()) };
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}
