//! DMA-able buffers: one arena per reactor, cut into 4 KiB and 128 KiB slots.
//!
//! The arena is one mapping, 2 MiB-aligned, of huge pages when there are any. It never moves and lives until the last
//! buffer of it is gone, so that devices can register it once ([`DmaPool::arena`]). A slot is found by a `u32`; the free
//! lists are stacks, so the slot freed last, still in the cache, goes out first.
//!
//! Invariants
//! - A slot has at most one owner: a [`DmaBuf`] or an [`IoBuf`]. It returns to the pool when that is dropped.
//! - Memory is zero when the kernel gives it, and **is not cleared on reuse**: a holder reads (and sends) only bytes it
//!   wrote, or it would show one peer what another sent.
//! - A holder keeps its buffer until every device that was given its address is done with it.

mod arena;
mod io_buf;
mod pool;
mod region;
#[cfg(test)]
mod tests;

pub use io_buf::{IO_SIZE_MAX, IoBuf};
pub use pool::{
    ArenaRange, DmaBuf, DmaPool, LARGE_SLOT_SIZE, PoolConfig, PoolError, PoolUsage, SMALL_SLOT_SIZE,
};
pub use region::{CHUNK_SIZE, REGION_SIZE, ReadGuard, Region, Reservation, WriteGuard, prefetch};
