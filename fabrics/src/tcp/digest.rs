//! CRC32C digests of PDU headers and data (NVMe/TCP 1.0 §3.3.1.1).

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

/// Digest of a PDU header: its HLEN bytes.
#[inline]
pub(crate) fn header_digest(header: &[u8]) -> [u8; 4] {
    crc32_iscsi(header).to_le_bytes()
}

/// Digest of the data of one PDU, computed as the data passes by.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct DataDigest(u32);

impl DataDigest {
    /// Takes the next bytes in.
    #[inline]
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        // Continuing from a digest of 0 is the same as beginning, which is cheaper.
        self.0 = if self.0 == 0 { crc32_iscsi(bytes) } else { continued(self.0, bytes) };
    }

    /// The digest as it lies on the wire.
    #[inline]
    pub(crate) fn bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    /// Digest of `len` bytes of `data` from `offset` on.
    pub(crate) fn of<B: crate::IoBuffer>(data: &B, offset: usize, len: usize) -> Self {
        let mut digest = Self::default();
        digest.update_from(data, offset, len);
        digest
    }

    /// Takes `len` bytes of `data` from `offset` on in.
    pub(crate) fn update_from<B: crate::IoBuffer>(&mut self, data: &B, mut offset: usize, mut len: usize) {
        while len > 0 {
            let part = data.part(offset);
            let part = &part[..part.len().min(len)];
            assert!(!part.is_empty());
            self.update(part);
            offset += part.len();
            len -= part.len();
        }
    }
}

/// Digest of what `digest` is the digest of, followed by `bytes`.
#[allow(clippy::cast_possible_truncation, reason = "a CRC32 has 32 bits")]
fn continued(digest: u32, bytes: &[u8]) -> u32 {
    let mut state = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!digest));
    state.update(bytes);
    state.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_the_value_that_rfc_3720_gives() {
        assert_eq!(header_digest(b"123456789"), 0xE306_9283u32.to_le_bytes());
        let mut digest = DataDigest::default();
        digest.update(b"1234");
        digest.update(b"56789");
        assert_eq!(digest.bytes(), 0xE306_9283u32.to_le_bytes());
        assert_eq!(DataDigest::of(&[0u8; 32].to_vec(), 0, 32).bytes(), 0x8A91_36AAu32.to_le_bytes());
    }
}
