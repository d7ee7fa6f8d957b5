//! fio's memory as a command's data.

use std::ptr::NonNull;

/// Bytes of one of fio's buffers, lent to commands until their I/O ends. Not `Clone`: each byte is lent once.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
}

impl Region {
    /// Borrows `len` bytes from `start`.
    ///
    /// # Safety
    /// Until the region and all its parts are gone, or can no longer be reached, the bytes are initialised, readable and
    /// writable, and nobody else writes them; nobody else reads them either while they are written.
    #[must_use]
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte in it.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the first `len` bytes off.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    #[must_use]
    pub fn split_front(&mut self, len: usize) -> Self {
        assert!(len <= self.len, "{len} bytes of a region of {}", self.len);
        let front = Self { start: self.start, len };
        // SAFETY: `len` is at most the region's length (asserted), so the sum stays inside it or one past its end.
        self.start = unsafe { self.start.add(len) };
        self.len -= len;
        front
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: whoever made the region lent these bytes, initialised, and only this region names them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: whoever made the region lent these bytes to be written, and only this region names them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_region_are_the_bytes_in_order() {
        let mut bytes = *b"abcdef";
        let start = NonNull::new(bytes.as_mut_ptr()).unwrap();
        // SAFETY: the array outlives the region and is not used before the region's last use.
        let mut rest = unsafe { Region::new(start, bytes.len()) };
        let mut front = rest.split_front(2);
        assert_eq!((front.as_slice(), rest.as_slice()), (&b"ab"[..], &b"cdef"[..]));
        front.as_mut_slice()[1] = b'X';
        let all = rest.split_front(4);
        assert!(rest.is_empty());
        assert_eq!(all.len(), 4);
        assert_eq!(&bytes, b"aXcdef");
    }

    #[test]
    #[should_panic(expected = "3 bytes of a region of 2")]
    fn a_region_gives_no_more_than_it_has() {
        let mut bytes = [0; 2];
        // SAFETY: the array outlives the region and is not used any more.
        let mut region = unsafe { Region::new(NonNull::new(bytes.as_mut_ptr()).unwrap(), 2) };
        let _ = region.split_front(3);
    }
}
