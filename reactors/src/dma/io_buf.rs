//! The buffer of one I/O: up to 1 MiB in up to eight slots, held inline.
//!
//! Invariant: `slots[..part_count()]` are owned; all but the last part are full large slots. A buffer in a small slot has
//! one part.

use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use super::pool::{DmaBuf, Inner, LARGE_SLOT_SIZE};

/// Slots one I/O may take.
const PARTS_MAX: usize = 8;
/// The longest I/O in bytes: what MDTS of the target advertises at most.
pub const IO_SIZE_MAX: usize = PARTS_MAX * LARGE_SLOT_SIZE;

const _: () = assert!(size_of::<IoBuf>() <= 48, "an I/O buffer fits into a request of 128 bytes");

/// The bytes of one I/O, in one or more contiguous parts. Returns its slots on drop.
///
/// As with [`DmaBuf`], bytes are whatever the last holder left: read only what was written.
pub struct IoBuf {
    pool: Rc<Inner>,
    len: u32,
    slots: [u32; PARTS_MAX],
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
        Some(Self { pool: Rc::clone(pool), len: u32::try_from(len).ok()?, slots })
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

    /// How many contiguous parts it consists of.
    #[inline]
    #[must_use]
    pub fn part_count(&self) -> usize {
        self.len().div_ceil(LARGE_SLOT_SIZE)
    }

    /// Where part `index` starts in the arena, in bytes; a multiple of 4 KiB.
    ///
    /// # Panics
    /// When there is no such part.
    #[must_use]
    pub fn offset_in_arena(&self, index: usize) -> usize {
        self.pool.slot_offset(self.slots[..self.part_count()][index])
    }

    #[inline]
    fn part_len(&self, index: usize) -> usize {
        (self.len() - index * LARGE_SLOT_SIZE).min(LARGE_SLOT_SIZE)
    }

    #[inline]
    fn part_ptr(&self, index: usize) -> NonNull<u8> {
        self.pool.slot_ptr(self.slots[..self.part_count()][index])
    }

    /// Part `index`; all parts but the last are 128 KiB.
    ///
    /// # Panics
    /// When there is no such part.
    #[inline]
    #[must_use]
    pub fn part(&self, index: usize) -> &[u8] {
        // SAFETY: the slot is initialised memory of at least `part_len` bytes that only this handle owns.
        unsafe { std::slice::from_raw_parts(self.part_ptr(index).as_ptr(), self.part_len(index)) }
    }

    /// Part `index`, to write.
    ///
    /// # Panics
    /// When there is no such part.
    #[inline]
    #[must_use]
    pub fn part_mut(&mut self, index: usize) -> &mut [u8] {
        // SAFETY: the slot is initialised memory of at least `part_len` bytes that only this handle owns.
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
        pieces(self.len(), offset, len).map(|piece| &self.part(piece.part)[piece.start..piece.end])
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
        for piece in pieces(self.len(), offset, bytes.len()) {
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
        for piece in pieces(self.len(), offset, len) {
            self.part_mut(piece.part)[piece.start..piece.end].fill(0);
        }
    }
}

/// Bytes `start..end` of part `part`.
struct Piece {
    part: usize,
    start: usize,
    end: usize,
}

#[inline]
fn pieces(total: usize, offset: usize, len: usize) -> impl Iterator<Item = Piece> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= total);
    assert!(inside, "{len} bytes from {offset} reach beyond a buffer of {total}");
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let (part, start) = (at / LARGE_SLOT_SIZE, at % LARGE_SLOT_SIZE);
        let taken = (end - at).min(LARGE_SLOT_SIZE - start);
        at += taken;
        Some(Piece { part, start, end: start + taken })
    })
}

impl Drop for IoBuf {
    #[inline]
    fn drop(&mut self) {
        // Reversed, so that the next allocation of this size gets the same slots in the same order.
        for slot in self.slots[..self.part_count()].iter().rev() {
            self.pool.push(*slot);
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
        Self { pool, len, slots }
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = &self.slots[..self.part_count()];
        f.debug_struct("IoBuf").field("len", &self.len).field("slots", &slots).finish_non_exhaustive()
    }
}
