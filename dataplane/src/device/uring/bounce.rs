//! Memory for backing blocks that are only partly read or written.
//!
//! A queue has a fixed number of windows. A request holds at most one, and only while the kernel works for it; so one
//! becomes free in bounded time and no set of requests can wait for each other.

use std::ops::Range;

use reactors::IoBuf;
use zerocopy::FromZeros;

use super::backing::ALIGN_MAX;

/// Bytes of a window.
pub(super) const WINDOW_BYTES: u64 = 128 << 10;
/// Windows of a queue: as many requests move through windows at once.
pub(super) const WINDOWS: usize = 8;

const PAGE_BYTES: usize = ALIGN_MAX as usize;
const PAGES: usize = 32;
const _: () = assert!((PAGES * PAGE_BYTES) as u64 == WINDOW_BYTES);

/// Memory with the alignment that direct I/O needs at most.
#[derive(FromZeros)]
#[repr(C, align(4096))]
struct Pages([[u8; PAGE_BYTES]; PAGES]);

/// Read-only zeroes that any number of requests write from.
static ZEROES: Pages = Pages([[0; PAGE_BYTES]; PAGES]);

/// The zeroes, for the kernel to read.
pub(super) fn zeroes() -> &'static [u8] {
    ZEROES.0.as_flattened()
}

/// One window.
pub(super) struct Bounce(Box<Pages>);

impl Bounce {
    /// `None` without memory.
    pub(super) fn new() -> Option<Self> {
        Pages::new_box_zeroed().ok().map(Self)
    }

    /// The memory as one segment, for the kernel: bytes `part` of the window.
    pub(super) fn segment(&mut self, part: Range<usize>) -> libc::iovec {
        let bytes = &mut self.0.0.as_flattened_mut()[part];
        libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
    }

    /// Puts a request's data, or zeroes for none, into bytes `part` of the window.
    pub(super) fn patch(&mut self, part: Range<usize>, source: Option<(&IoBuf, usize)>) {
        let bytes = &mut self.0.0.as_flattened_mut()[part];
        match source {
            Some((buffer, offset)) => buffer.copy_out(offset, bytes),
            None => bytes.fill(0),
        }
    }

    /// Bytes `part` of the window.
    pub(super) fn bytes(&self, part: Range<usize>) -> &[u8] {
        &self.0.0.as_flattened()[part]
    }
}
