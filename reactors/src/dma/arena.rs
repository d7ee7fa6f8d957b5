//! The mapping under a pool.
//!
//! Invariant: `base` is 2 MiB-aligned and `len` bytes from it are mapped, readable and writable, and initialised (zero
//! from the kernel) until drop.

use std::io;
use std::ptr::NonNull;
#[cfg(not(miri))]
use std::sync::Once;

/// Alignment of the arena, and the size of the huge pages it asks for.
pub(super) const ARENA_ALIGN: usize = 2 << 20;

pub(super) struct Arena {
    base: NonNull<u8>,
    len: usize,
    huge_pages: bool,
}

// SAFETY: an arena is an address range; who may touch which bytes of it is the business of its slots and pieces.
unsafe impl Send for Arena {}
// SAFETY: no method of a shared arena touches its bytes, but `discard`, whose caller owns the range.
unsafe impl Sync for Arena {}

impl Arena {
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn huge_pages(&self) -> bool {
        self.huge_pages
    }
}

#[cfg(not(miri))]
mod mapped {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    use super::{ARENA_ALIGN, Arena, NonNull, Once, io};

    impl Arena {
        /// Maps `len` bytes, rounded up to whole huge pages. `prefault` makes every page resident now.
        pub(in super::super) fn map(len: usize, prefault: bool) -> io::Result<Self> {
            let len = len.checked_next_multiple_of(ARENA_ALIGN).ok_or(io::ErrorKind::OutOfMemory)?;
            let arena = match map_huge(len) {
                Some(base) => Self { base, len, huge_pages: true },
                None => Self { base: map_plain(len)?, len, huge_pages: false },
            };
            if prefault {
                arena.advise(Advice::LinuxPopulateWrite)?;
            }
            Ok(arena)
        }

        fn advise(&self, advice: Advice) -> io::Result<()> {
            // SAFETY: the range is this arena's own mapping, and neither advice used here discards its contents.
            Ok(unsafe { madvise(self.base.as_ptr().cast(), self.len, advice) }?)
        }
    }

    impl Arena {
        /// Makes the pages of a range zero by giving them back; `false` when they are huge, and nothing was done.
        pub(in super::super) fn discard(&self, start: NonNull<u8>, len: usize) -> bool {
            let offset = start.as_ptr().addr() - self.base.as_ptr().addr();
            assert!(offset + len <= self.len);
            // SAFETY: the range lies in this mapping; private anonymous pages read as zero after the advice, and the
            // caller owns every byte of the range.
            !self.huge_pages && unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxDontNeed) }.is_ok()
        }
    }

    impl Drop for Arena {
        fn drop(&mut self) {
            unmap(self.base.as_ptr(), self.len);
        }
    }

    fn map(len: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED the kernel picks unused addresses, so no existing memory changes.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, access, MapFlags::PRIVATE | flags) }?;
        NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Reserves huge pages for all of `len`, so that touching them later cannot fail.
    fn map_huge(len: usize) -> Option<NonNull<u8>> {
        let base = map(len, MapFlags::HUGETLB | MapFlags::HUGE_2MB);
        base.inspect_err(warn_once).ok()
    }

    fn warn_once(error: &io::Error) {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(
                %error,
                "no 2 MiB huge pages for I/O buffers: using ordinary memory, which is slower; \
                 reserve some with `sysctl vm.nr_hugepages=N`"
            );
        });
    }

    /// Maps one huge page too much and trims both ends to the alignment.
    fn map_plain(len: usize) -> io::Result<NonNull<u8>> {
        let start = map(len + ARENA_ALIGN, MapFlags::empty())?.as_ptr();
        let head = start.align_offset(ARENA_ALIGN);
        let base = start.wrapping_add(head);
        unmap(start, head);
        unmap(base.wrapping_add(len), ARENA_ALIGN - head);
        // SAFETY: the range lies inside the mapping made above; the advice does not change its contents. Without
        // transparent huge pages in the kernel it fails, and small pages do.
        let _ = unsafe { madvise(base.cast(), len, Advice::LinuxHugepage) };
        NonNull::new(base).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn unmap(start: *mut u8, len: usize) {
        if len == 0 {
            return;
        }
        // SAFETY: the callers pass whole pages of a mapping of theirs that nothing refers to: the trimmed ends, or the
        // arena after the last buffer of it is gone.
        let unmapped = unsafe { munmap(start.cast(), len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Miri knows no `mmap` with alignment: it gets the same memory from the allocator.
#[cfg(miri)]
mod allocated {
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    use super::{ARENA_ALIGN, Arena, NonNull, io};

    fn layout(len: usize) -> io::Result<Layout> {
        Layout::from_size_align(len, ARENA_ALIGN).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    impl Arena {
        pub(in super::super) fn map(len: usize, _prefault: bool) -> io::Result<Self> {
            let len = len.max(1).next_multiple_of(ARENA_ALIGN);
            // SAFETY: `len` is not zero.
            let base = unsafe { alloc_zeroed(layout(len)?) };
            let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { base, len, huge_pages: false })
        }

        pub(in super::super) fn discard(&self, _start: NonNull<u8>, _len: usize) -> bool {
            false
        }
    }

    impl Drop for Arena {
        fn drop(&mut self) {
            if let Ok(layout) = layout(self.len) {
                // SAFETY: allocated in `map` with the same layout.
                unsafe { dealloc(self.base.as_ptr(), layout) };
            }
        }
    }
}
