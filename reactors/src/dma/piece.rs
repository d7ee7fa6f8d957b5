//! Zeroed memory on huge pages, owned piece by piece: for content that outlives I/Os and is shared between threads.
//!
//! Invariant: pieces of one region never overlap, so a piece is the only way to its bytes; the region is unmapped when
//! its last piece is gone.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::arena::{ARENA_ALIGN, Arena};

/// Bytes of the region that pieces are cut from: one huge page.
pub const REGION_SIZE: usize = ARENA_ALIGN;

/// A part of a region.
pub struct HugePiece {
    /// Lies in `region`: reached without looking there.
    start: NonNull<u8>,
    len: usize,
    region: Arc<Arena>,
}

// SAFETY: a piece is the only access to its bytes, as a `Box<[u8]>` is; the region under it may be unmapped by any thread.
unsafe impl Send for HugePiece {}
// SAFETY: a shared piece only reads; writing takes it by unique reference.
unsafe impl Sync for HugePiece {}

impl HugePiece {
    /// Maps a region, all zeroes, and cuts it into pieces of `len` bytes.
    ///
    /// # Errors
    /// When there is no memory.
    ///
    /// # Panics
    /// When `len` does not divide [`REGION_SIZE`].
    pub fn region(len: usize) -> io::Result<Vec<Self>> {
        assert!(len > 0 && REGION_SIZE.is_multiple_of(len));
        let region = Arc::new(Arena::map(REGION_SIZE, false)?);
        let piece = |offset| {
            // SAFETY: the offset lies inside the region.
            let start = unsafe { region.base().add(offset) };
            Self { start, len, region: Arc::clone(&region) }
        };
        Ok((0..REGION_SIZE).step_by(len).map(piece).collect())
    }

    /// Makes every byte zero, and gives the memory back to the system where the pages are small enough for that.
    pub fn clear(&mut self) {
        if !self.region.discard(self.start, self.len) {
            self.fill(0);
        }
    }
}

impl Deref for HugePiece {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies in the region, is initialised, and only this piece reaches it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for HugePiece {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range lies in the region, is initialised, and only this piece reaches it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for HugePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HugePiece")
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zero_disjoint_and_outlive_each_other() {
        let mut pieces = HugePiece::region(REGION_SIZE / 4).unwrap();
        assert_eq!(pieces.len(), 4);
        for (number, piece) in (1u8..).zip(&mut pieces) {
            assert!(piece.iter().all(|byte| *byte == 0));
            piece.fill(number);
        }
        let last = pieces.pop().unwrap();
        assert!(pieces.iter().zip(1u8..).all(|(piece, number)| piece.iter().all(|byte| *byte == number)));
        drop(pieces);
        let other_thread = std::thread::spawn(move || last.iter().all(|byte| *byte == 4));
        assert!(other_thread.join().unwrap());
    }

    #[test]
    fn a_cleared_piece_is_zero_and_its_neighbours_are_untouched() {
        let mut pieces = HugePiece::region(64 << 10).unwrap();
        pieces.iter_mut().for_each(|piece| piece.fill(7));
        pieces[1].clear();
        assert!(pieces[1].iter().all(|byte| *byte == 0));
        assert!(pieces[0].iter().chain(pieces[2].iter()).all(|byte| *byte == 7));
        pieces[1].fill(9);
        assert!(pieces[1].iter().all(|byte| *byte == 9));
    }
}
