//! Zeroed memory on a huge page, shared by threads, that readers take along as I/O buffers instead of copying it.
//!
//! A region is cut into chunks, each with a lock: one writer, or any number of readers. A guard holds the locks of every
//! chunk its range touches, so access of any size is atomic. A reader may keep its locks in an [`IoBuf`] until its bytes
//! are sent: a writer never waits for that inside a call ([`Region::try_write`]), it comes back later; and while it has to
//! come back, nothing more of those chunks is lent. A writer may keep its locks as well ([`Region::reserve`]): then it is the
//! others that come back later.
//!
//! Invariants
//! - Bytes of a chunk are written only under its writer lock and read only under a reader lock.
//! - Locks are taken in ascending order, and a writer that meets a reader lets go of all it has: nobody waits in a circle.
//! - The mapping lives until the last guard and the last lent buffer are gone.

use std::fmt;
use std::hint::spin_loop;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::arena::{ARENA_ALIGN, Arena};
use super::io_buf::IoBuf;

/// Bytes of a region: one huge page.
pub const REGION_SIZE: usize = ARENA_ALIGN;
/// Bytes under one lock: most I/O touches one chunk, and a writer that holds one is done with it in microseconds.
pub const CHUNK_SIZE: usize = 64 << 10;
const CHUNKS: usize = REGION_SIZE / CHUNK_SIZE;

/// A writer has the chunk.
const WRITER: u32 = 1 << 31;
/// A writer was turned away by readers. Lost when another writer unlocks: it is set again by the next attempt.
const WANTED: u32 = 1 << 30;
/// A writer has the chunk and keeps it: nobody waits for that.
const RESERVED: u32 = 1 << 29;
/// The rest counts readers.
const READERS: u32 = RESERVED - 1;

#[derive(Default)]
struct Lock(AtomicU32);

impl Lock {
    /// Enters as a reader once no writer is inside; `false` when it is reserved. `patient` readers stay behind writers that
    /// are waiting: `false` as well.
    #[inline]
    fn try_read(&self, patient: bool) -> bool {
        let mut state = self.0.load(Relaxed);
        loop {
            if state & RESERVED != 0 || patient && state & WANTED != 0 {
                return false;
            }
            if state & WRITER != 0 {
                spin_loop();
                state = self.0.load(Relaxed);
                continue;
            }
            match self.0.compare_exchange_weak(state, state + 1, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    #[inline]
    fn end_read(&self) {
        let before = self.0.fetch_sub(1, Release);
        debug_assert!(before & READERS != 0);
    }

    /// Enters as the writer, `bits`, or says that readers are inside, or that it is reserved.
    #[inline]
    fn try_write(&self, bits: u32) -> bool {
        let mut state = self.0.load(Relaxed);
        loop {
            if state & RESERVED != 0 {
                return false;
            }
            if state & READERS != 0 {
                self.0.fetch_or(WANTED, Relaxed);
                return false;
            }
            if state & WRITER != 0 {
                spin_loop();
                state = self.0.load(Relaxed);
                continue;
            }
            match self.0.compare_exchange_weak(state, bits, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// By a plain store, which does not wait for what was written to leave the core.
    #[inline]
    fn end_write(&self) {
        self.0.store(0, Release);
    }
}

/// 2 MiB of memory, all zeroes at first.
pub struct Region {
    arena: Arena,
    locks: [Lock; CHUNKS],
}

impl Region {
    /// Maps a region.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn map() -> io::Result<Arc<Self>> {
        let arena = Arena::map(REGION_SIZE, false)?;
        Ok(Arc::new(Self { arena, locks: Default::default() }))
    }

    #[inline]
    fn locks(&self, range: &Range<usize>) -> &[Lock] {
        assert!(range.start < range.end && range.end <= REGION_SIZE, "{range:?} is not within a region");
        &self.locks[range.start / CHUNK_SIZE..range.end.div_ceil(CHUNK_SIZE)]
    }

    #[inline]
    pub(super) fn start(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset < REGION_SIZE);
        // SAFETY: the offset lies inside the mapping.
        unsafe { self.arena.base().add(offset) }
    }

    /// The bytes of `range` as a buffer, without a copy. Nobody writes to their chunks until it is dropped. `None` when a
    /// writer waits for one of them, or has reserved it: copy instead ([`Self::try_read`]).
    ///
    /// # Panics
    /// When the range is empty or reaches beyond the region.
    #[inline]
    pub fn lend(self: &Arc<Self>, range: Range<usize>) -> Option<IoBuf> {
        self.enter_as_reader(&range, true).then(|| IoBuf::lent(Lent { region: Arc::clone(self), range }))
    }

    #[inline]
    fn enter_as_reader(&self, range: &Range<usize>, patient: bool) -> bool {
        let locks = self.locks(range);
        let turned_away = locks.iter().position(|lock| !lock.try_read(patient));
        locks[..turned_away.unwrap_or(0)].iter().for_each(Lock::end_read);
        turned_away.is_none()
    }

    #[inline]
    fn enter_as_writer(&self, range: &Range<usize>, bits: u32) -> bool {
        let locks = self.locks(range);
        let turned_away = locks.iter().position(|lock| !lock.try_write(bits));
        locks[..turned_away.unwrap_or(0)].iter().for_each(Lock::end_write);
        turned_away.is_none()
    }

    /// Asks the processor for the right to change the bytes of `range` soon. A hint: nothing is touched.
    ///
    /// # Panics
    /// When the range starts beyond the region.
    #[inline]
    pub fn prefetch_write(&self, range: Range<usize>) {
        assert!(range.start < REGION_SIZE, "{range:?} is not within a region");
        let start = self.start(range.start).as_ptr();
        for offset in (0..range.len()).step_by(CACHE_LINE) {
            prefetch_line_to_write(start.wrapping_add(offset));
        }
    }

    /// Where a byte lies: for [`prefetch`].
    ///
    /// # Panics
    /// When it lies beyond the region.
    #[inline]
    pub fn address(&self, offset: usize) -> *const u8 {
        assert!(offset < REGION_SIZE, "{offset} is not within a region");
        self.start(offset).as_ptr()
    }

    /// The bytes of `range`, to copy. Waits for a writer that is inside, never for one that is turned away. `None` while a part
    /// is reserved: try again later.
    ///
    /// # Panics
    /// When the range is empty or reaches beyond the region.
    #[inline]
    pub fn try_read(&self, range: Range<usize>) -> Option<ReadGuard<'_>> {
        self.enter_as_reader(&range, false).then(|| ReadGuard { region: self, range })
    }

    /// The bytes of `range`, to write. `None` while a reader is inside or a part is reserved: try again later.
    ///
    /// # Panics
    /// When the range is empty or reaches beyond the region.
    #[inline]
    pub fn try_write(&self, range: Range<usize>) -> Option<WriteGuard<'_>> {
        self.enter_as_writer(&range, WRITER).then(|| WriteGuard { region: self, range })
    }

    /// The bytes of `range`, to write in a later call: until then everybody is turned away from their chunks. `None` as for
    /// [`Self::try_write`].
    ///
    /// # Panics
    /// When the range is empty or reaches beyond the region.
    #[inline]
    pub fn reserve(self: &Arc<Self>, range: Range<usize>) -> Option<Reservation> {
        let entered = self.enter_as_writer(&range, WRITER | RESERVED);
        entered.then(|| Reservation { region: Arc::clone(self), range })
    }
}

const CACHE_LINE: usize = 64;
/// Distance of the lines that are asked for. The processor brings their neighbours by itself, and a processor stops at a
/// request for which it has no fill buffer: asking for each line of 2 KiB takes longer than it saves.
const PREFETCH_STEP: usize = 192;

/// Asks the processor to have `len` bytes from `start` at hand soon. A hint: nothing is read, any address will do.
#[inline]
pub fn prefetch(start: *const u8, len: usize) {
    for offset in (0..len).step_by(PREFETCH_STEP) {
        prefetch_line(start.wrapping_add(offset));
    }
}

#[inline]
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn prefetch_line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch accesses nothing: any address is allowed.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
}

#[inline]
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn prefetch_line_to_write(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
    // SAFETY: as above; processors without this prefetch ignore it.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) };
}

#[inline]
#[cfg(any(not(target_arch = "x86_64"), miri))]
fn prefetch_line(_: *const u8) {}

#[inline]
#[cfg(any(not(target_arch = "x86_64"), miri))]
fn prefetch_line_to_write(_: *const u8) {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("base", &self.arena.base()).finish_non_exhaustive()
    }
}

/// Bytes of a region under reader locks, on loan to an [`IoBuf`].
pub(super) struct Lent {
    region: Arc<Region>,
    range: Range<usize>,
}

impl Lent {
    #[inline]
    pub(super) fn start(&self) -> NonNull<u8> {
        self.region.start(self.range.start)
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }
}

impl Drop for Lent {
    #[inline]
    fn drop(&mut self) {
        self.region.locks(&self.range).iter().for_each(Lock::end_read);
    }
}

/// Bytes under reader locks.
pub struct ReadGuard<'a> {
    region: &'a Region,
    range: Range<usize>,
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies in the region, is initialised, and its locks keep writers away.
        unsafe { std::slice::from_raw_parts(self.region.start(self.range.start).as_ptr(), self.range.len()) }
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.region.locks(&self.range).iter().for_each(Lock::end_read);
    }
}

/// Bytes under writer locks.
pub struct WriteGuard<'a> {
    region: &'a Region,
    range: Range<usize>,
}

impl WriteGuard<'_> {
    /// Makes every byte zero, and gives the memory back to the system where the pages are small enough for that.
    pub fn clear(&mut self) {
        let (start, len) = (self.region.start(self.range.start), self.range.len());
        if !self.region.arena.discard(start, len) {
            self.fill(0);
        }
    }
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies in the region, is initialised, and its locks keep everybody else away.
        unsafe { std::slice::from_raw_parts(self.region.start(self.range.start).as_ptr(), self.range.len()) }
    }
}

impl DerefMut for WriteGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range lies in the region, is initialised, and its locks keep everybody else away.
        unsafe {
            std::slice::from_raw_parts_mut(self.region.start(self.range.start).as_ptr(), self.range.len())
        }
    }
}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.region.locks(&self.range).iter().for_each(Lock::end_write);
    }
}

/// Bytes of a region that are to be written later, under writer locks that nobody waits for.
#[derive(Debug)]
pub struct Reservation {
    region: Arc<Region>,
    range: Range<usize>,
}

impl Reservation {
    /// The bytes, to write now.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the range lies in the region, is initialised, and its locks keep everybody else away.
        unsafe {
            std::slice::from_raw_parts_mut(self.region.start(self.range.start).as_ptr(), self.range.len())
        }
    }
}

impl Drop for Reservation {
    #[inline]
    fn drop(&mut self) {
        self.region.locks(&self.range).iter().for_each(Lock::end_write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_bytes_keep_writers_away_until_they_are_dropped() {
        let region = Region::map().unwrap();
        region.try_write(0..4096).unwrap().fill(7);
        let lent = region.lend(100..200).unwrap();
        assert!(lent.is_lent());
        assert_eq!(lent.part(0), [7; 100]);
        assert!(region.try_write(CHUNK_SIZE - 1..CHUNK_SIZE + 1).is_none());
        assert!(region.try_write(CHUNK_SIZE..CHUNK_SIZE + 1).is_some(), "the other chunk was let go of");
        drop(lent);
        assert!(region.try_write(0..1).is_some());
    }

    #[test]
    fn nothing_is_lent_while_a_writer_waits_but_everything_can_be_read() {
        let region = Region::map().unwrap();
        let lent = region.lend(0..1).unwrap();
        assert!(region.try_write(0..1).is_none());
        assert!(region.lend(0..1).is_none());
        assert!(region.lend(0..2 * CHUNK_SIZE).is_none());
        assert_eq!(&region.try_read(0..3).unwrap()[..], [0; 3]);
        drop(lent);
        region.try_write(0..1).unwrap().fill(1);
        assert_eq!(region.lend(0..2).unwrap().part(0), [1, 0]);
    }

    #[test]
    fn a_lent_buffer_outlives_the_region_that_lent_it() {
        let region = Region::map().unwrap();
        region.try_write(REGION_SIZE - 3..REGION_SIZE).unwrap().fill(9);
        let lent = region.lend(REGION_SIZE - 5..REGION_SIZE).unwrap();
        drop(region);
        assert_eq!(lent.as_contiguous(), Some(&[0, 0, 9, 9, 9][..]));
    }

    #[test]
    fn cleared_bytes_are_zero_and_their_neighbours_untouched() {
        let region = Region::map().unwrap();
        region.try_write(0..REGION_SIZE).unwrap().fill(7);
        region.try_write(CHUNK_SIZE..2 * CHUNK_SIZE).unwrap().clear();
        let content = region.try_read(0..REGION_SIZE).unwrap();
        assert!(content[CHUNK_SIZE..2 * CHUNK_SIZE].iter().all(|byte| *byte == 0));
        assert!(content[..CHUNK_SIZE].iter().chain(&content[2 * CHUNK_SIZE..]).all(|byte| *byte == 7));
    }

    #[test]
    fn what_is_reserved_is_entered_by_nobody_until_it_is_written() {
        let region = Region::map().unwrap();
        let mut reservation = region.reserve(CHUNK_SIZE - 1..CHUNK_SIZE + 1).unwrap();
        assert!(region.try_read(0..1).is_none());
        assert!(region.lend(CHUNK_SIZE..CHUNK_SIZE + 1).is_none());
        assert!(region.try_write(0..1).is_none());
        assert!(region.reserve(0..1).is_none());
        assert!(region.try_read(0..3 * CHUNK_SIZE).is_none());
        assert!(region.try_write(2 * CHUNK_SIZE..3 * CHUNK_SIZE).is_some(), "what was entered is let go of");
        reservation.bytes().fill(5);
        drop(reservation);
        assert_eq!(region.lend(CHUNK_SIZE - 2..CHUNK_SIZE + 2).unwrap().part(0), [0, 5, 5, 0]);
    }

    #[test]
    fn what_is_lent_is_not_reserved() {
        let region = Region::map().unwrap();
        let lent = region.lend(0..1).unwrap();
        assert!(region.reserve(0..1).is_none());
        assert!(region.lend(0..1).is_none(), "a writer waits");
        drop(lent);
        assert!(region.reserve(0..1).is_some());
    }

    #[test]
    fn no_reader_sees_half_of_a_write() {
        const WRITES: u8 = if cfg!(miri) { 10 } else { 200 };
        let range = CHUNK_SIZE - 500..CHUNK_SIZE + 500;
        let region = Region::map().unwrap();
        let whole = |bytes: &[u8]| bytes.iter().all(|byte| *byte == bytes[0]).then_some(bytes[0]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 1..=WRITES {
                    if value % 2 == 0 {
                        let reserve = || region.reserve(range.clone());
                        std::iter::repeat_with(reserve).flatten().next().unwrap().bytes().fill(value);
                    } else {
                        let write = || region.try_write(range.clone());
                        std::iter::repeat_with(write).flatten().next().unwrap().fill(value);
                    }
                }
            });
            for lends in [true, false] {
                let (region, range) = (&region, range.clone());
                scope.spawn(move || {
                    let mut last = 0;
                    while last < WRITES {
                        let lent = if lends { region.lend(range.clone()) } else { None };
                        let seen = match (&lent, region.try_read(range.clone())) {
                            (Some(lent), _) => whole(lent.part(0)),
                            (None, Some(read)) => whole(&read),
                            (None, None) => continue,
                        };
                        let seen = seen.expect("a torn read");
                        assert!(seen >= last, "content went back in time");
                        last = seen;
                    }
                });
            }
        });
    }
}
