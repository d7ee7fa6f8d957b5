//! The pool, its free lists, and single-slot buffers.
//!
//! Invariant: large slots come first in the arena, so that slot numbers below `large_count` are large ones.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

use super::arena::Arena;
use super::io_buf::{IO_SIZE_MAX, IoBuf};

/// Bytes of a small slot: one logical block, the most common I/O.
pub const SMALL_SLOT_SIZE: usize = 4 << 10;
/// Bytes of a large slot: the transfer size from which per-command cost no longer shows.
pub const LARGE_SLOT_SIZE: usize = 128 << 10;

/// How many slots a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Slots of [`SMALL_SLOT_SIZE`].
    pub small_slots: u32,
    /// Slots of [`LARGE_SLOT_SIZE`].
    pub large_slots: u32,
    /// Make all memory resident at start, instead of on first use.
    pub prefault: bool,
}

impl Default for PoolConfig {
    /// 16 MiB of small and 32 MiB of large slots: 32 connections of depth 128, with room for large I/O.
    fn default() -> Self {
        Self { small_slots: 4096, large_slots: 256, prefault: false }
    }
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The configuration has no slots, or more than 2^32 - 1.
    #[error("a buffer pool needs between 1 and {} slots", u32::MAX)]
    BadSlotCount,
    /// The kernel gave no memory.
    #[error("cannot map {len} bytes of buffers: {source}")]
    Map {
        /// Bytes asked for.
        len: usize,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Where an arena lies, for registration with io_uring, as an RDMA memory region, or with SPDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaRange {
    /// The first byte, 2 MiB-aligned.
    pub ptr: NonNull<u8>,
    /// Bytes, a multiple of 2 MiB.
    pub len: usize,
}

/// How much of a pool is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Small slots in use now.
    pub small_in_use: usize,
    /// Large slots in use now.
    pub large_in_use: usize,
    /// The fewest small slots ever free.
    pub small_free_min: usize,
    /// The fewest large slots ever free.
    pub large_free_min: usize,
}

/// A stack of free slots.
struct FreeList {
    slots: Box<[Cell<u32>]>,
    free: Cell<usize>,
    free_min: Cell<usize>,
}

impl FreeList {
    /// All of `slots` free, the lowest on top.
    fn new(slots: std::ops::Range<u32>) -> Self {
        let slots: Box<[Cell<u32>]> = slots.rev().map(Cell::new).collect();
        let free = slots.len();
        Self { slots, free: Cell::new(free), free_min: Cell::new(free) }
    }

    #[inline]
    fn pop(&self) -> Option<u32> {
        let free = self.free.get().checked_sub(1)?;
        self.free.set(free);
        if free < self.free_min.get() {
            self.free_min.set(free);
        }
        Some(self.slots[free].get())
    }

    #[inline]
    fn push(&self, slot: u32) {
        let free = self.free.get();
        self.slots[free].set(slot);
        self.free.set(free + 1);
    }

    fn in_use(&self) -> usize {
        self.slots.len() - self.free.get()
    }
}

pub(super) struct Inner {
    arena: Arena,
    small: FreeList,
    large: FreeList,
    large_count: u32,
    /// For each slot: how many buffers beyond one share it.
    shares: Box<[Cell<u16>]>,
    freed: Cell<u64>,
}

impl Inner {
    #[inline]
    fn list(&self, slot: u32) -> &FreeList {
        if self.is_large(slot) { &self.large } else { &self.small }
    }

    #[inline]
    pub(super) fn is_large(&self, slot: u32) -> bool {
        slot < self.large_count
    }

    #[inline]
    pub(super) fn slot_size(&self, slot: u32) -> usize {
        if self.is_large(slot) { LARGE_SLOT_SIZE } else { SMALL_SLOT_SIZE }
    }

    #[inline]
    pub(super) fn slot_offset(&self, slot: u32) -> usize {
        let large = slot.min(self.large_count) as usize;
        let small = slot.saturating_sub(self.large_count) as usize;
        large * LARGE_SLOT_SIZE + small * SMALL_SLOT_SIZE
    }

    #[inline]
    pub(super) fn slot_ptr(&self, slot: u32) -> NonNull<u8> {
        // SAFETY: slot numbers come from the free lists, whose slots all lie inside the arena.
        unsafe { self.arena.base().add(self.slot_offset(slot)) }
    }

    #[inline]
    pub(super) fn pop_for(&self, len: usize) -> Option<u32> {
        if len <= SMALL_SLOT_SIZE { self.small.pop() } else { self.large.pop() }
    }

    #[inline]
    pub(super) fn push(&self, slot: u32) {
        self.list(slot).push(slot);
        self.freed.set(self.freed.get().wrapping_add(1));
    }

    /// Another buffer has this slot, or a part of it.
    pub(super) fn share(&self, slot: u32) {
        let shares = &self.shares[slot as usize];
        shares.set(shares.get() + 1);
    }

    /// Two pieces of a buffer that have parts of this slot are one again.
    pub(super) fn unshare(&self, slot: u32) {
        let shares = &self.shares[slot as usize];
        shares.set(shares.get() - 1);
    }

    /// A piece of a buffer, or all of it, lets go of a slot.
    #[inline]
    pub(super) fn release(&self, slot: u32) {
        match self.shares.get(slot as usize) {
            Some(shares) if shares.get() > 0 => shares.set(shares.get() - 1),
            _ => self.push(slot),
        }
    }
}

/// A handle to a reactor's buffers. Clones share the same slots; it stays on its thread.
#[derive(Clone)]
pub struct DmaPool {
    inner: Rc<Inner>,
}

impl DmaPool {
    /// Maps the arena of a new pool.
    ///
    /// # Errors
    /// [`PoolError`] when the configuration is unusable or the kernel gives no memory.
    pub fn new(config: PoolConfig) -> Result<Self, PoolError> {
        let slots = config.large_slots.checked_add(config.small_slots).filter(|slots| *slots > 0);
        let slots = slots.ok_or(PoolError::BadSlotCount)?;
        let len =
            config.large_slots as usize * LARGE_SLOT_SIZE + config.small_slots as usize * SMALL_SLOT_SIZE;
        let arena = Arena::map(len, config.prefault).map_err(|source| PoolError::Map { len, source })?;
        let inner = Inner {
            arena,
            large: FreeList::new(0..config.large_slots),
            small: FreeList::new(config.large_slots..slots),
            large_count: config.large_slots,
            shares: vec![Cell::new(0); slots as usize].into(),
            freed: Cell::new(0),
        };
        Ok(Self { inner: Rc::new(inner) })
    }

    /// A further handle to the pool of a buffer.
    pub(super) fn of(inner: &Rc<Inner>) -> Self {
        Self { inner: Rc::clone(inner) }
    }

    /// A buffer of `len` bytes in one slot, 4 KiB-aligned; a small slot when it fits, else a large one.
    ///
    /// `None` when no slot of that class is free, or `len` is above [`LARGE_SLOT_SIZE`]. Its bytes are whatever the last
    /// holder left: read only what you wrote.
    #[inline]
    #[must_use]
    pub fn alloc(&self, len: usize) -> Option<DmaBuf> {
        if len > LARGE_SLOT_SIZE {
            return None;
        }
        let slot = self.inner.pop_for(len)?;
        Some(DmaBuf { pool: Rc::clone(&self.inner), slot, len: u32::try_from(len).ok()? })
    }

    /// A buffer of `len` bytes for one I/O: one small slot up to 4 KiB, else as many large ones as it needs.
    ///
    /// `None` when not enough slots are free (none is taken then), or `len` is above [`IO_SIZE_MAX`].
    #[inline]
    #[must_use]
    pub fn alloc_io(&self, len: usize) -> Option<IoBuf> {
        if len > IO_SIZE_MAX {
            return None;
        }
        IoBuf::alloc(&self.inner, len)
    }

    /// Where the memory lies. It stays there while the pool or any buffer of it lives.
    #[must_use]
    pub fn arena(&self) -> ArenaRange {
        ArenaRange { ptr: self.inner.arena.base(), len: self.inner.arena.len() }
    }

    /// Whether the arena consists of reserved huge pages.
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        self.inner.arena.huge_pages()
    }

    /// How many slots ever came back. Who found the pool empty remembers this, and tries again when it has changed.
    #[inline]
    #[must_use]
    pub fn freed(&self) -> u64 {
        self.inner.freed.get()
    }

    /// How much is in use.
    #[must_use]
    pub fn usage(&self) -> PoolUsage {
        let Inner { small, large, .. } = &*self.inner;
        PoolUsage {
            small_in_use: small.in_use(),
            large_in_use: large.in_use(),
            small_free_min: small.free_min.get(),
            large_free_min: large.free_min.get(),
        }
    }
}

impl fmt::Debug for DmaPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaPool").field("arena", &self.arena()).field("usage", &self.usage()).finish()
    }
}

/// One slot, owned. Dereferences to its `len()` bytes; returns to its pool on drop.
pub struct DmaBuf {
    pool: Rc<Inner>,
    slot: u32,
    len: u32,
}

impl DmaBuf {
    /// Bytes the slot has room for: [`SMALL_SLOT_SIZE`] or [`LARGE_SLOT_SIZE`].
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pool.slot_size(self.slot)
    }

    /// Makes the buffer `len` bytes long. Bytes gained are whatever the slot held.
    ///
    /// # Panics
    /// When `len` is above [`DmaBuf::capacity`].
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a buffer of {} bytes cannot hold {len}", self.capacity());
        if let Ok(len) = u32::try_from(len) {
            self.len = len;
        }
    }

    /// Where the buffer starts in the arena, in bytes; a multiple of 4 KiB.
    #[must_use]
    pub fn offset_in_arena(&self) -> usize {
        self.pool.slot_offset(self.slot)
    }

    /// Gives up ownership of the slot without freeing it.
    pub(super) fn into_parts(self) -> (Rc<Inner>, u32, u32) {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so the reference is moved out exactly once.
        let pool = unsafe { std::ptr::read(&raw const this.pool) };
        (pool, this.slot, this.len)
    }
}

impl Drop for DmaBuf {
    #[inline]
    fn drop(&mut self) {
        self.pool.push(self.slot);
    }
}

impl Deref for DmaBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the slot is initialised memory of at least `len` bytes that only this handle owns.
        unsafe { std::slice::from_raw_parts(self.pool.slot_ptr(self.slot).as_ptr(), self.len as usize) }
    }
}

impl DerefMut for DmaBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the slot is initialised memory of at least `len` bytes that only this handle owns.
        unsafe { std::slice::from_raw_parts_mut(self.pool.slot_ptr(self.slot).as_ptr(), self.len as usize) }
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuf").field("slot", &self.slot).field("len", &self.len).finish_non_exhaustive()
    }
}
