//! Cutting a byte stream into PDUs: where a header ends, where its data lies, what is left of it.
//!
//! A header that lies complete in the receive buffer is read in place; only one that is cut by the end of the buffer
//! is gathered in [`Receiver::header`]. Data is never gathered: it goes to its buffer as it arrives.

use nvme::tcp::{CommonHeader, DIGEST_BYTES, Fes, PDA_MAX, alignment_bytes};

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::digest::{DataDigest, header_digest};
use super::tx::u32_of;
use super::{CloseReason, Fault};
use crate::Now;

/// Longest header with its digest: ICReq and ICResp, 128 bytes, have no digest but room for it costs nothing.
pub(crate) const HEADER_BYTES_MAX: usize = 128 + DIGEST_BYTES;

/// [`DIGEST_BYTES`] in the type that lengths of PDUs have.
const DIGEST: u32 = 4;
const _: () = assert!(DIGEST as usize == DIGEST_BYTES);

/// Offsets of the fields of the common header, for the FEI of a TermReq (NVMe/TCP 1.0 §3.6.1).
pub(crate) mod field {
    pub(crate) const TYPE: u32 = 0;
    pub(crate) const FLAGS: u32 = 1;
    pub(crate) const HLEN: u32 = 2;
    pub(crate) const PDO: u32 = 3;
    pub(crate) const PLEN: u32 = 4;
}

/// Shape of a PDU whose common header was found good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// Bytes of header and header digest.
    pub(crate) header: u32,
    /// Padding between them and the data.
    pub(crate) pad: u32,
    /// Bytes of data.
    pub(crate) data: u32,
}

/// What both sides agreed on for the shape of PDUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Framing {
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    /// Alignment of the data in PDUs that we receive, in bytes.
    pub(crate) align_in: u8,
    /// Alignment of the data in PDUs that we send, in bytes.
    pub(crate) align_out: u8,
}

impl Framing {
    /// As it is until the handshake is over: no digests, dword alignment.
    pub(crate) const INITIAL: Self =
        Self { header_digest: false, data_digest: false, align_in: 4, align_out: 4 };

    #[inline]
    pub(crate) fn header_digest_bytes(&self) -> usize {
        if self.header_digest { DIGEST_BYTES } else { 0 }
    }

    #[inline]
    pub(crate) fn data_digest_bytes(&self) -> usize {
        if self.data_digest { DIGEST_BYTES } else { 0 }
    }

    /// Offset of the data in a PDU that we send with a header of `hlen` bytes.
    #[inline]
    pub(crate) fn data_offset_out(&self, hlen: usize) -> u8 {
        let end = hlen + self.header_digest_bytes();
        let offset = end.next_multiple_of(usize::from(self.align_out));
        // 72 + 4 bytes aligned to 128 is 128.
        u8::try_from(offset).unwrap_or(u8::MAX)
    }

    /// The shape of a PDU that has a header of `hlen` bytes and may have data.
    #[inline]
    pub(crate) fn frame_with_data(&self, ch: &CommonHeader, hlen: u8) -> Result<Frame, Fault> {
        self.check_header(ch, hlen)?;
        let header = self.header_end(hlen);
        let plen = ch.plen.get();
        if plen == header {
            return Ok(Frame { header, pad: 0, data: 0 });
        }
        if plen < header {
            return Err(Fault::field(field::PLEN));
        }
        if u32::from(ch.pdo) < header || !ch.pdo.is_multiple_of(self.align_in) {
            return Err(Fault::field(field::PDO));
        }
        if ch.has_data_digest() != self.data_digest {
            return Err(Fault::field(field::FLAGS));
        }
        let pdo = u32::from(ch.pdo);
        let overhead = pdo + if self.data_digest { DIGEST } else { 0 };
        if plen <= overhead {
            return Err(Fault::field(field::PLEN));
        }
        Ok(Frame { header, pad: pdo - header, data: plen - overhead })
    }

    /// Where the header and its digest end, for a header of `hlen` bytes.
    #[inline]
    pub(crate) fn header_end(&self, hlen: u8) -> u32 {
        u32::from(hlen) + if self.header_digest { DIGEST } else { 0 }
    }

    /// The shape of a PDU that is nothing but its header of `hlen` bytes.
    #[inline]
    pub(crate) fn frame_without_data(&self, ch: &CommonHeader, hlen: u8) -> Result<Frame, Fault> {
        self.check_header(ch, hlen)?;
        let header = self.header_end(hlen);
        if ch.plen.get() != header {
            return Err(Fault::field(field::PLEN));
        }
        Ok(Frame { header, pad: 0, data: 0 })
    }

    #[inline]
    fn check_header(&self, ch: &CommonHeader, hlen: u8) -> Result<(), Fault> {
        if ch.hlen != hlen {
            return Err(Fault::field(field::HLEN));
        }
        if ch.has_header_digest() != self.header_digest {
            return Err(Fault::field(field::FLAGS));
        }
        Ok(())
    }

    /// Checks the digest that follows a header of `hlen` bytes, if digests are on. `header` holds both.
    #[inline]
    pub(crate) fn verify_header(&self, header: &[u8], hlen: usize) -> Result<(), Fault> {
        if !self.header_digest {
            return Ok(());
        }
        let (header, digest) = header.split_at(hlen);
        debug_assert_eq!(digest.len(), DIGEST_BYTES);
        if header_digest(header) == digest {
            return Ok(());
        }
        let mut received = [0; DIGEST_BYTES];
        received.copy_from_slice(&digest[..DIGEST_BYTES]);
        Err(Fault { fes: Fes::HEADER_DIGEST_ERROR, fei: u32::from_le_bytes(received) })
    }
}

/// Alignment in bytes that an HPDA or CPDA stands for: at most 128.
pub(crate) fn alignment(pda: u8) -> u8 {
    debug_assert!(pda <= PDA_MAX);
    u8::try_from(alignment_bytes(pda.min(PDA_MAX))).unwrap_or(128)
}

/// The data part of the PDU that is arriving.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body {
    /// Command slot whose data it is.
    pub(crate) slot: u16,
    /// Place of the next byte in the data of the command.
    pub(crate) offset: u32,
    /// Padding still to skip.
    pub(crate) pad: u32,
    /// Data bytes still to come.
    pub(crate) left: u32,
    /// Flags of the PDU.
    pub(crate) flags: u8,
    /// Bytes of the data digest that have come.
    digest_have: usize,
    digest_received: [u8; DIGEST_BYTES],
    digest: DataDigest,
}

/// A step in the body of a PDU.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum BodyStep<'a> {
    /// The input ended first.
    Starved,
    /// These bytes belong at `offset` of the data.
    Data {
        /// Place in the data of the command.
        offset: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The body is complete; `intact` unless its data digest is wrong.
    Done {
        /// Whether the digest is right, or off.
        intact: bool,
    },
}

impl Body {
    pub(crate) fn new(slot: u16, offset: u32, frame: Frame, flags: u8) -> Self {
        Self {
            slot,
            offset,
            pad: frame.pad,
            left: frame.data,
            flags,
            digest_have: 0,
            digest_received: [0; DIGEST_BYTES],
            digest: DataDigest::default(),
        }
    }

    /// Takes the next step from `input`, which is cut by what the step used.
    #[inline]
    pub(crate) fn step<'a>(&mut self, input: &mut &'a [u8], with_digest: bool) -> BodyStep<'a> {
        if self.pad > 0 {
            let skipped = (self.pad as usize).min(input.len());
            *input = &input[skipped..];
            self.pad -= u32_of(skipped);
        }
        if self.left > 0 {
            let len = (self.left as usize).min(input.len());
            if len == 0 {
                return BodyStep::Starved;
            }
            let (bytes, rest) = input.split_at(len);
            *input = rest;
            if with_digest {
                self.digest.update(bytes);
            }
            let offset = self.offset;
            self.offset += u32_of(len);
            self.left -= u32_of(len);
            return BodyStep::Data { offset, bytes };
        }
        if with_digest { self.digest_step(input) } else { BodyStep::Done { intact: true } }
    }

    /// Whether nothing but data comes next.
    pub(crate) fn is_plain(&self) -> bool {
        self.pad == 0 && self.left > 0
    }

    /// The next `len` bytes of data came, and lie in `buffer` already.
    #[inline]
    pub(crate) fn on_placed<B: crate::IoBuffer>(&mut self, buffer: &B, len: u32, with_digest: bool) {
        debug_assert!(self.pad == 0 && len <= self.left);
        if with_digest {
            self.digest.update_from(buffer, self.offset as usize, len as usize);
        }
        self.offset += len;
        self.left -= len;
    }

    fn digest_step<'a>(&mut self, input: &mut &'a [u8]) -> BodyStep<'a> {
        let have = self.digest_have;
        let len = (DIGEST_BYTES - have).min(input.len());
        let (bytes, rest) = input.split_at(len);
        *input = rest;
        self.digest_received[have..have + len].copy_from_slice(bytes);
        self.digest_have += len;
        if self.digest_have < DIGEST_BYTES {
            return BodyStep::Starved;
        }
        BodyStep::Done { intact: self.digest_received == self.digest.bytes() }
    }
}

/// Where a connection is in the byte stream.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// Start of a header that was cut by the end of the input.
    pub(crate) header: [u8; HEADER_BYTES_MAX],
    /// Bytes of it that have come.
    pub(crate) have: usize,
    /// The data part that is arriving, when a header announced one.
    pub(crate) body: Option<Body>,
    /// When the PDU that is arriving began to arrive; [`Now::NEVER`] between PDUs.
    pub(crate) since: Now,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { header: [0; HEADER_BYTES_MAX], have: 0, body: None, since: Now::NEVER }
    }

    /// Whether a PDU has begun and not ended.
    #[inline]
    pub(crate) fn is_mid_pdu(&self) -> bool {
        self.have > 0 || self.body.is_some()
    }

    /// Gathers header bytes until there are `want`; `false` when the input ended first.
    pub(crate) fn gather(&mut self, input: &mut &[u8], want: usize) -> bool {
        debug_assert!(want <= HEADER_BYTES_MAX);
        let len = want.saturating_sub(self.have).min(input.len());
        let (bytes, rest) = input.split_at(len);
        *input = rest;
        self.header[self.have..self.have + len].copy_from_slice(bytes);
        self.have += len;
        self.have >= want
    }

    /// The header is used up; `body` follows, or the next header.
    #[inline]
    pub(crate) fn end_header(&mut self, body: Option<Body>) {
        self.have = 0;
        self.body = body;
        if self.body.is_none() {
            self.since = Now::NEVER;
        }
    }

    /// The body is used up; the next header follows.
    #[inline]
    pub(crate) fn end_body(&mut self) {
        debug_assert!(self.body.is_some());
        self.body = None;
        self.since = Now::NEVER;
    }

    /// The input ended at `now`: within a PDU, its clock runs.
    #[inline]
    pub(crate) fn pause(&mut self, now: Now) {
        if self.is_mid_pdu() && self.since == Now::NEVER {
            self.since = now;
        }
    }

    /// Whether the PDU that is arriving takes longer than `timeout_ns`.
    pub(crate) fn is_stalled(&self, now: Now, timeout_ns: u64) -> bool {
        self.since != Now::NEVER && now.since(self.since) >= timeout_ns
    }
}

/// Reads a common header from the start of `bytes`.
#[inline]
pub(crate) fn common_header(bytes: &[u8]) -> Option<&CommonHeader> {
    view(bytes)
}

/// Views the start of `bytes` as a wire structure.
#[inline]
pub(crate) fn view<T>(bytes: &[u8]) -> Option<&T>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(bytes).ok().map(|(view, _)| view)
}

/// The close reason for a TermReq whose header is `header`.
pub(crate) fn peer_terminated(header: &[u8]) -> CloseReason {
    match view::<nvme::tcp::TermReq>(header) {
        Some(term) => CloseReason::PeerTerminated(Fault { fes: term.fes(), fei: term.fei.get() }),
        None => CloseReason::PeerTerminated(Fault::of(Fes(0))),
    }
}
