//! The buffer of one I/O: up to 1 MiB in up to eight slots, held inline.
//!
//! Invariants: `slots[..part_count()]` are owned; only the first part may begin, and only the last may end, inside its
//! slot. A buffer in a small slot has one part. Pieces that were split off share the slot they were cut in: its bytes belong
//! to one piece each, and it is free when the last piece of it is gone. A lent buffer has no slots: its parts follow each
//! other in a region's memory, which it only reads.

use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use super::pool::{DmaBuf, DmaPool, Inner, LARGE_SLOT_SIZE, SMALL_SLOT_SIZE};
use super::region::Lent;

/// Slots one I/O may take.
const PARTS_MAX: usize = 8;
/// The longest I/O in bytes: what MDTS of the target advertises at most.
pub const IO_SIZE_MAX: usize = PARTS_MAX * LARGE_SLOT_SIZE;

/// In `IoBuf::head`: there are, or were, other buffers with the same bytes. Positions in a slot are far below.
const SHARED: u32 = 1 << 31;

const _: () = assert!(size_of::<IoBuf>() <= 48, "an I/O buffer fits into a request of 128 bytes");

/// The bytes of one I/O, in one or more contiguous parts. Returns its slots on drop.
///
/// As with [`DmaBuf`], bytes are whatever the last holder left: read only what was written.
///
/// A buffer that is [lent](Self::is_lent) is somebody's content rather than slots of a pool: it can be read and sent, not
/// written, and it lies in no arena.
pub struct IoBuf {
    len: u32,
    /// Where it begins in its first slot, zero unless it was split off another; and whether it is [`SHARED`].
    head: u32,
    memory: Memory,
}

enum Memory {
    Slots { pool: Rc<Inner>, slots: [u32; PARTS_MAX] },
    Lent(Lent),
}

impl IoBuf {
    #[inline]
    pub(super) fn alloc(pool: &Rc<Inner>, len: usize) -> Option<Self> {
        let mut slots = [0; PARTS_MAX];
        let parts = len.div_ceil(LARGE_SLOT_SIZE);
        for taken in 0..parts {
            let Some(slot) = pool.pop_for(len) else {
                slots[..taken].iter().rev().for_each(|slot| pool.push(*slot));
                return None;
            };
            slots[taken] = slot;
        }
        let memory = Memory::Slots { pool: Rc::clone(pool), slots };
        Some(Self { len: u32::try_from(len).ok()?, head: 0, memory })
    }

    #[inline]
    pub(super) fn lent(lent: Lent) -> Self {
        let len = u32::try_from(lent.len()).unwrap_or(u32::MAX);
        Self { len, head: 0, memory: Memory::Lent(lent) }
    }

    /// Whether its bytes are somebody's content, which cannot change while this buffer lives: keep it briefly.
    #[inline]
    #[must_use]
    pub fn is_lent(&self) -> bool {
        matches!(self.memory, Memory::Lent(_))
    }

    /// Where it begins in its first slot.
    #[inline]
    fn head(&self) -> usize {
        (self.head & !SHARED) as usize
    }

    /// Whether it was [shared](Self::share): then it can be read and sent, not written.
    #[inline]
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.head & SHARED != 0
    }

    /// Another buffer with the same bytes, without a copy: to send them to several devices. From now on neither can be
    /// written. `None` for a lent buffer.
    #[must_use]
    pub fn share(&mut self) -> Option<Self> {
        let parts = self.part_count();
        let Memory::Slots { pool, slots } = &self.memory else { return None };
        slots[..parts].iter().for_each(|slot| pool.share(*slot));
        self.head |= SHARED;
        let memory = Memory::Slots { pool: Rc::clone(pool), slots: *slots };
        Some(Self { len: self.len, head: self.head, memory })
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pool it came from; `None` for a lent one.
    #[must_use]
    pub fn pool(&self) -> Option<DmaPool> {
        match &self.memory {
            Memory::Slots { pool, .. } => Some(DmaPool::of(pool)),
            Memory::Lent(_) => None,
        }
    }

    /// How many contiguous parts it consists of.
    #[inline]
    #[must_use]
    pub fn part_count(&self) -> usize {
        self.end().div_ceil(LARGE_SLOT_SIZE)
    }

    /// Where it ends, counted from the start of its first slot.
    #[inline]
    fn end(&self) -> usize {
        self.head() + self.len as usize
    }

    /// Where part `index` begins in its slot.
    #[inline]
    fn start_in_slot(&self, index: usize) -> usize {
        if index == 0 { self.head() } else { 0 }
    }

    /// Where part `index` starts in the arena, in bytes; a multiple of 4 KiB.
    ///
    /// # Panics
    /// When there is no such part, or the buffer is lent.
    #[must_use]
    pub fn offset_in_arena(&self, index: usize) -> usize {
        assert!(index < self.part_count());
        let (pool, slots) = self.slots();
        pool.slot_offset(slots[index]) + self.start_in_slot(index)
    }

    /// # Panics
    /// When the buffer is lent.
    #[inline]
    fn slots(&self) -> (&Rc<Inner>, &[u32; PARTS_MAX]) {
        match &self.memory {
            Memory::Slots { pool, slots } => (pool, slots),
            Memory::Lent(_) => panic!("a lent buffer has no slots"),
        }
    }

    #[inline]
    fn part_len(&self, index: usize) -> usize {
        (self.end() - index * LARGE_SLOT_SIZE).min(LARGE_SLOT_SIZE) - self.start_in_slot(index)
    }

    #[inline]
    fn part_ptr(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.part_count());
        match &self.memory {
            // SAFETY: the start is a position inside the slot.
            Memory::Slots { pool, slots } => unsafe {
                pool.slot_ptr(slots[index]).add(self.start_in_slot(index))
            },
            // SAFETY: every part starts within the lent bytes.
            Memory::Lent(lent) => unsafe { lent.start().add(index * LARGE_SLOT_SIZE) },
        }
    }

    /// Part `index`; all parts but the last are 128 KiB, and but the first of a buffer that was split off.
    ///
    /// # Panics
    /// When there is no such part.
    #[inline]
    #[must_use]
    pub fn part(&self, index: usize) -> &[u8] {
        // SAFETY: `part_len` bytes from there are initialised, and only this handle's or written by nobody.
        unsafe { std::slice::from_raw_parts(self.part_ptr(index).as_ptr(), self.part_len(index)) }
    }

    /// Part `index`, to write.
    ///
    /// # Panics
    /// When there is no such part, or the buffer is lent.
    #[inline]
    #[must_use]
    pub fn part_mut(&mut self, index: usize) -> &mut [u8] {
        assert!(!self.is_lent(), "lent bytes are not written");
        assert!(!self.is_shared(), "shared bytes are not written");
        // SAFETY: `part_len` bytes from there are initialised memory of the slot that only this handle owns.
        unsafe { std::slice::from_raw_parts_mut(self.part_ptr(index).as_ptr(), self.part_len(index)) }
    }

    /// The parts in order.
    #[inline]
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.part_count()).map(|index| self.part(index))
    }

    /// Address and length of each part, for a device. Keep the buffer until the device is done with it.
    #[inline]
    pub fn raw_parts(&self) -> impl ExactSizeIterator<Item = (NonNull<u8>, usize)> + '_ {
        (0..self.part_count()).map(|index| (self.part_ptr(index), self.part_len(index)))
    }

    /// The contiguous pieces of `len` bytes from `offset`, in order.
    ///
    /// # Panics
    /// When the range reaches beyond the end.
    #[inline]
    pub fn range(&self, offset: usize, len: usize) -> impl Iterator<Item = &[u8]> {
        self.pieces(offset, len).map(|piece| &self.part(piece.part)[piece.start..piece.end])
    }

    /// The whole buffer, when it is one part.
    #[inline]
    #[must_use]
    pub fn as_contiguous(&self) -> Option<&[u8]> {
        match self.part_count() {
            0 => Some(&[]),
            1 => Some(self.part(0)),
            _ => None,
        }
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Panics
    /// When they reach beyond the end.
    #[inline]
    pub fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in self.pieces(offset, bytes.len()) {
            let (now, later) = rest.split_at(piece.end - piece.start);
            self.part_mut(piece.part)[piece.start..piece.end].copy_from_slice(now);
            rest = later;
        }
    }

    /// Reads `into.len()` bytes from `offset`.
    ///
    /// # Panics
    /// When they reach beyond the end.
    #[inline]
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) {
        let mut rest = into;
        for piece in self.range(offset, rest.len()) {
            let (now, later) = rest.split_at_mut(piece.len());
            now.copy_from_slice(piece);
            rest = later;
        }
    }

    /// Writes `len` zeroes at `offset`.
    ///
    /// # Panics
    /// When they reach beyond the end.
    pub fn fill_zero(&mut self, offset: usize, len: usize) {
        for piece in self.pieces(offset, len) {
            self.part_mut(piece.part)[piece.start..piece.end].fill(0);
        }
    }

    /// Cuts the buffer in two: keeps the first `at` bytes, and hands over the rest. [`Self::join`] undoes it.
    ///
    /// # Panics
    /// When `at` is not a multiple of 4 KiB, or is not inside the buffer, or the buffer is lent.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(
            at.is_multiple_of(SMALL_SLOT_SIZE),
            "buffers are cut at multiples of {SMALL_SLOT_SIZE}, not at {at}"
        );
        assert!(at > 0 && at < self.len(), "{at} is not inside a buffer of {}", self.len());
        let cut = self.head() + at;
        let (first, head) = (cut / LARGE_SLOT_SIZE, cut % LARGE_SLOT_SIZE);
        let mut slots = [0; PARTS_MAX];
        let (pool, all) = self.slots();
        let taken = &all[first..self.part_count()];
        slots[..taken.len()].copy_from_slice(taken);
        if head > 0 {
            pool.share(slots[0]);
        }
        let memory = Memory::Slots { pool: Rc::clone(pool), slots };
        // Both are below a MiB.
        let (at, head) = (u32::try_from(at).unwrap_or(u32::MAX), u32::try_from(head).unwrap_or(u32::MAX));
        let rest = Self { len: self.len - at, head: head | self.head & SHARED, memory };
        self.len = at;
        rest
    }

    /// Makes one buffer of two that were one.
    ///
    /// # Errors
    /// The other buffer, when it does not follow this one in memory they were split from.
    pub fn join(&mut self, mut rest: Self) -> Result<(), Self> {
        let (end, is_empty, shared) = (self.end(), self.is_empty(), self.is_shared());
        let (index, head) = (end / LARGE_SLOT_SIZE, end % LARGE_SLOT_SIZE);
        let parts = rest.part_count();
        let (Memory::Slots { pool, slots }, Memory::Slots { pool: other, slots: more }) =
            (&mut self.memory, &rest.memory)
        else {
            return Err(rest);
        };
        let follows = Rc::ptr_eq(pool, other)
            && !is_empty
            && rest.head() == head
            && rest.is_shared() == shared
            && index + parts <= PARTS_MAX
            && (head == 0 || slots[index] == more[0]);
        if !follows {
            return Err(rest);
        }
        if head > 0 {
            pool.unshare(more[0]);
        }
        slots[index..index + parts].copy_from_slice(&more[..parts]);
        self.len += rest.len;
        // It owns nothing now.
        (rest.len, rest.head) = (0, 0);
        Ok(())
    }

    fn pieces(&self, offset: usize, len: usize) -> impl Iterator<Item = Piece> + use<> {
        pieces(self.head(), self.len(), offset, len)
    }
}

/// Bytes `start..end` of part `part`.
struct Piece {
    part: usize,
    start: usize,
    end: usize,
}

#[inline]
fn pieces(head: usize, total: usize, offset: usize, len: usize) -> impl Iterator<Item = Piece> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= total);
    assert!(inside, "{len} bytes from {offset} reach beyond a buffer of {total}");
    let (mut at, end) = (head + offset, head + offset + len);
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let (part, in_slot) = (at / LARGE_SLOT_SIZE, at % LARGE_SLOT_SIZE);
        let taken = (end - at).min(LARGE_SLOT_SIZE - in_slot);
        let start = if part == 0 { in_slot - head } else { in_slot };
        at += taken;
        Some(Piece { part, start, end: start + taken })
    })
}

impl Drop for IoBuf {
    #[inline]
    fn drop(&mut self) {
        let parts = self.part_count();
        let Memory::Slots { pool, slots } = &self.memory else { return };
        // Reversed, so that the next allocation of this size gets the same slots in the same order.
        for slot in slots[..parts].iter().rev() {
            pool.release(*slot);
        }
    }
}

/// A [`DmaBuf`] of at least one byte is an I/O buffer of one part; an empty one gives its slot back.
impl From<DmaBuf> for IoBuf {
    fn from(buffer: DmaBuf) -> Self {
        let (pool, slot, len) = buffer.into_parts();
        let mut slots = [0; PARTS_MAX];
        slots[0] = slot;
        if len == 0 {
            pool.push(slot);
        }
        Self { len, head: 0, memory: Memory::Slots { pool, slots } }
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("IoBuf");
        debug.field("len", &self.len);
        match &self.memory {
            Memory::Slots { slots, .. } => debug.field("slots", &&slots[..self.part_count()]),
            Memory::Lent(_) => debug.field("lent", &true),
        };
        debug.finish_non_exhaustive()
    }
}
