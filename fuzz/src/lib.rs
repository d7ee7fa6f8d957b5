//! Fuzz targets: each takes any bytes and must return, without a panic and in bounded time and memory.
//!
//! `scripts/fuzz` runs them under libFuzzer; `tests/replay.rs` runs every input of `corpus/` in the ordinary tests.

mod host;
mod store;
mod structures;
mod target;

pub use host::tcp_host;
pub use store::{store_open, store_structures};
pub use structures::nvme_structures;
pub use target::tcp_target;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by name: the names of its executable in `fuzz_targets/` and its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("nvme_structures", nvme_structures),
    ("tcp_target", tcp_target),
    ("tcp_host", tcp_host),
    ("store_open", store_open),
    ("store_structures", store_structures),
];

/// Bytes an input is cut into, as a network would: the first byte of each piece says how long it is.
pub(crate) struct Pieces<'a> {
    rest: &'a [u8],
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.rest.split_first()?;
        // 0xff: all that is left, so that long PDUs need no length bytes in between.
        let take = if length == 0xff { rest.len() } else { usize::from(length).min(rest.len()) };
        let (piece, rest) = rest.split_at(take);
        self.rest = rest;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::Pieces;

    #[test]
    fn pieces_are_as_long_as_they_say_and_lose_nothing() {
        let pieces: Vec<&[u8]> = Pieces::new(&[2, b'a', b'b', 0, 0xff, b'c', b'd', b'e']).collect();
        assert_eq!(pieces, [b"ab".as_slice(), b"", b"cde"]);
        assert_eq!(Pieces::new(&[9, b'x']).collect::<Vec<_>>(), [b"x"]);
    }
}
