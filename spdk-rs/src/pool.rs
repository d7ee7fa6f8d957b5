//! The reactors' pools as memory that devices may access: registered once, used without a copy.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use reactors::{DmaPool, IoBuf};

use crate::dma::DmaMemory;
use crate::error::errno;
use crate::{Environment, sys};

/// How many registrations each arena has, by its address: SPDK takes a range only once.
static REGISTERED: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);

/// A pool whose whole arena SPDK's devices may access. Clones share the registration, which ends with the last of them
/// and of their buffers.
#[derive(Clone)]
pub struct RegisteredPool(Rc<Registration>);

struct Registration {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the arena mapped while it is registered.
    _pool: DmaPool,
}

impl RegisteredPool {
    /// Registers the pool's arena. It may take milliseconds: every page is pinned for the devices.
    pub fn new(_: &Environment, pool: &DmaPool) -> io::Result<Self> {
        let arena = pool.arena();
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        let count = registered.get_or_insert_default().entry(arena.ptr.addr().get()).or_insert(0);
        if *count == 0 {
            // SAFETY: the arena is mapped, 2 MiB-aligned and a multiple of 2 MiB long, and stays so while `_pool` lives.
            let result = unsafe { sys::spdk_mem_register(arena.ptr.as_ptr().cast::<c_void>(), arena.len) };
            if result != 0 {
                return Err(errno(result));
            }
        }
        *count += 1;
        Ok(Self(Rc::new(Registration { start: arena.ptr, len: arena.len, _pool: pool.clone() })))
    }

    /// A buffer of this pool as memory for devices; one of another pool comes back.
    #[inline]
    pub fn adopt(&self, buffer: IoBuf) -> Result<PoolBuffer, IoBuf> {
        let inside = |(part, len): (NonNull<u8>, usize)| {
            let offset = part.addr().get().checked_sub(self.0.start.addr().get());
            offset.and_then(|offset| offset.checked_add(len)).is_some_and(|end| end <= self.0.len)
        };
        if buffer.raw_parts().all(inside) {
            Ok(PoolBuffer { buffer, _registered: self.clone() })
        } else {
            Err(buffer)
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = registered.get_or_insert_default();
        let Some(count) = counts.get_mut(&self.start.addr().get()) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.start.addr().get());
            // SAFETY: registered in `new` with the same range; no command has a buffer of it, for each would keep this
            // registration.
            unsafe { sys::spdk_mem_unregister(self.start.as_ptr().cast::<c_void>(), self.len) };
        }
    }
}

/// An I/O buffer of a registered pool.
pub struct PoolBuffer {
    buffer: IoBuf,
    /// After the buffer: dropped later.
    _registered: RegisteredPool,
}

impl PoolBuffer {
    /// The I/O buffer.
    #[inline]
    pub fn into_inner(self) -> IoBuf {
        self.buffer
    }
}

impl Deref for PoolBuffer {
    type Target = IoBuf;

    #[inline]
    fn deref(&self) -> &IoBuf {
        &self.buffer
    }
}

impl fmt::Debug for PoolBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.buffer.fmt(f)
    }
}

// SAFETY: the parts of an I/O buffer lie in its pool's arena, which never moves and is registered as long as this value
// lives; they belong to the buffer alone. `adopt` checked that the arena is the registered one.
unsafe impl DmaMemory for PoolBuffer {
    #[inline]
    fn byte_count(&self) -> usize {
        self.buffer.len()
    }

    #[inline]
    fn segment(&self, index: usize) -> Option<(NonNull<u8>, usize)> {
        self.buffer.raw_parts().nth(index)
    }
}
