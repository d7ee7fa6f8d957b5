//! Fixed-width text fields: ASCII padded with spaces (base 2.1 §1.4.2) and UTF-8 padded with NULs.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Text that does not fit its field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    /// The text has more bytes than the field.
    #[error("text of {bytes} bytes does not fit a field of {bytes_max}")]
    TooLong {
        /// Length of the text in bytes.
        bytes: usize,
        /// What the field holds.
        bytes_max: usize,
    },
    /// A byte the field cannot hold: outside printable ASCII, or a NUL.
    #[error("byte {byte:#04x} at offset {offset} is not allowed")]
    Byte {
        /// The byte.
        byte: u8,
        /// Its offset in the text.
        offset: usize,
    },
}

/// ASCII text, left-justified and padded with spaces (serial and model numbers, firmware revision).
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct Ascii<const N: usize>([u8; N]);

impl<const N: usize> Ascii<N> {
    /// Only spaces.
    pub const EMPTY: Self = Self([b' '; N]);

    /// Pads `text`, which is printable ASCII of at most `N` bytes.
    pub fn new(text: &str) -> Result<Self, TextError> {
        let bytes = text.as_bytes();
        if let Some(offset) = bytes.iter().position(|b| !(0x20..=0x7E).contains(b)) {
            return Err(TextError::Byte { byte: bytes[offset], offset });
        }
        let mut field = Self::EMPTY;
        let room =
            field.0.get_mut(..bytes.len()).ok_or(TextError::TooLong { bytes: bytes.len(), bytes_max: N })?;
        room.copy_from_slice(bytes);
        Ok(field)
    }

    /// The field with its padding.
    pub const fn as_bytes_padded(&self) -> &[u8; N] {
        &self.0
    }

    /// The text without the spaces (or NULs, which some devices pad with) after it.
    pub fn trimmed(&self) -> &[u8] {
        let end = self.0.iter().rposition(|b| !matches!(b, b' ' | 0)).map_or(0, |last| last + 1);
        &self.0[..end]
    }

    /// The text without padding, if it is UTF-8 as the specification demands.
    pub fn to_str(&self) -> Option<&str> {
        core::str::from_utf8(self.trimmed()).ok()
    }
}

impl<const N: usize> Default for Ascii<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Display for Ascii<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.trimmed().escape_ascii(), f)
    }
}

impl<const N: usize> fmt::Debug for Ascii<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// UTF-8 text ended by the first NUL and padded with more (NQN fields).
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct NulStr<const N: usize>([u8; N]);

impl<const N: usize> NulStr<N> {
    /// Only NULs.
    pub const EMPTY: Self = Self([0; N]);

    /// Pads `text`, which has no NUL and leaves room for one.
    pub fn new(text: &str) -> Result<Self, TextError> {
        let bytes = text.as_bytes();
        if let Some(offset) = bytes.iter().position(|b| *b == 0) {
            return Err(TextError::Byte { byte: 0, offset });
        }
        if bytes.len() >= N {
            return Err(TextError::TooLong { bytes: bytes.len(), bytes_max: N.saturating_sub(1) });
        }
        let mut field = Self::EMPTY;
        field.0[..bytes.len()].copy_from_slice(bytes);
        Ok(field)
    }

    /// The field with its padding.
    pub const fn as_bytes_padded(&self) -> &[u8; N] {
        &self.0
    }

    /// Whether a NUL ends the text within the field.
    pub fn is_terminated(&self) -> bool {
        self.0.contains(&0)
    }

    /// The bytes before the first NUL; all of them when there is none.
    pub fn before_nul(&self) -> &[u8] {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(N);
        &self.0[..end]
    }

    /// The text before the first NUL, if it is terminated and UTF-8.
    pub fn to_str(&self) -> Option<&str> {
        if self.is_terminated() { core::str::from_utf8(self.before_nul()).ok() } else { None }
    }

    /// The text as an NVMe qualified name.
    pub fn nqn(&self) -> Result<crate::Nqn, crate::NqnError> {
        if self.is_terminated() {
            crate::Nqn::from_bytes(self.before_nul())
        } else {
            Err(crate::NqnError::NotTerminated)
        }
    }
}

impl<const N: usize> Default for NulStr<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl From<&crate::Nqn> for NulStr<256> {
    fn from(nqn: &crate::Nqn) -> Self {
        let mut field = Self::EMPTY;
        field.0[..nqn.as_str().len()].copy_from_slice(nqn.as_str().as_bytes());
        field
    }
}

impl<const N: usize> fmt::Display for NulStr<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.before_nul().escape_ascii(), f)
    }
}

impl<const N: usize> fmt::Debug for NulStr<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_pads_with_spaces_and_reads_trimmed() {
        let field = Ascii::<8>::new("ab c").unwrap();
        assert_eq!(field.as_bytes_padded(), b"ab c    ");
        assert_eq!(field.to_str(), Some("ab c"));
        assert_eq!(Ascii::<8>::new("123456789"), Err(TextError::TooLong { bytes: 9, bytes_max: 8 }));
        assert_eq!(Ascii::<8>::new("a\n"), Err(TextError::Byte { byte: b'\n', offset: 1 }));
    }

    #[test]
    fn nul_text_needs_room_for_its_terminator() {
        assert_eq!(NulStr::<4>::new("abc").unwrap().as_bytes_padded(), b"abc\0");
        assert_eq!(NulStr::<4>::new("abcd"), Err(TextError::TooLong { bytes: 4, bytes_max: 3 }));
        assert_eq!(NulStr::<4>::new("a\0"), Err(TextError::Byte { byte: 0, offset: 1 }));
        assert_eq!(NulStr::<2>(*b"ab").to_str(), None);
    }
}
