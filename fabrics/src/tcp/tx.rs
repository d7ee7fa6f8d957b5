//! What a connection has yet to send: header bytes in one contiguous buffer, data by reference to command slots.
//!
//! Invariants: bytes leave in the order they were pushed; adjacent header bytes form one segment, so that many
//! responses leave as one contiguous run; the byte buffer never grows past the capacity it was given, because its
//! owner asks [`TxQueue::room`] before it accepts more work.

use std::collections::VecDeque;
use std::io::IoSlice;

use arrayvec::ArrayVec;

use crate::IoBuffer;

/// Most parts one send can have: `UIO_MAXIOV` of Linux.
pub const TX_PARTS_MAX: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Segment {
    /// The next `left` bytes of the byte buffer.
    Bytes { left: u32 },
    /// `left` bytes of the slot's data from `offset` on.
    Slot { slot: u16, offset: u32, left: u32 },
}

#[derive(Debug)]
pub(crate) struct TxQueue {
    bytes: Vec<u8>,
    /// Bytes of `bytes` already sent.
    sent: usize,
    capacity: usize,
    segments: VecDeque<Segment>,
    pending: usize,
}

impl TxQueue {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), sent: 0, capacity, segments: VecDeque::new(), pending: 0 }
    }

    /// Sets the bound of unsent header bytes. Allocates: called when a queue is set up.
    pub(crate) fn set_capacity(&mut self, capacity: usize, segments: usize) {
        self.capacity = self.capacity.max(capacity);
        self.bytes.reserve(self.capacity.saturating_sub(self.bytes.len()));
        self.segments.reserve(segments.saturating_sub(self.segments.len()));
    }

    /// Header bytes that can be pushed before the bound is reached.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len() - self.sent)
    }

    /// Bytes not yet sent, data included.
    #[inline]
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Appends header bytes.
    #[inline]
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.compact();
        }
        self.bytes.extend_from_slice(bytes);
        self.count_bytes(bytes.len());
    }

    /// Appends `len` zero bytes.
    #[inline]
    pub(crate) fn push_zeros(&mut self, len: usize) {
        self.bytes.resize(self.bytes.len() + len, 0);
        self.count_bytes(len);
    }

    #[inline]
    fn count_bytes(&mut self, len: usize) {
        self.pending += len;
        let len = u32_of(len);
        match self.segments.back_mut() {
            Some(Segment::Bytes { left }) => *left += len,
            _ if len > 0 => self.segments.push_back(Segment::Bytes { left: len }),
            _ => {}
        }
    }

    /// Appends `len` bytes of a slot's data from `offset` on. The slot keeps its data until they are sent.
    #[inline]
    pub(crate) fn push_slot(&mut self, slot: u16, offset: u32, len: u32) {
        debug_assert!(len > 0);
        self.pending += len as usize;
        self.segments.push_back(Segment::Slot { slot, offset, left: len });
    }

    /// Fills `out` with what is to be sent next, as much as fits; `data_of` finds the data of a slot.
    pub(crate) fn gather<'a, B: IoBuffer + 'a>(
        &'a self,
        data_of: impl Fn(u16) -> Option<&'a B>,
        out: &mut ArrayVec<IoSlice<'a>, TX_PARTS_MAX>,
    ) {
        let mut position = self.sent;
        for segment in &self.segments {
            if out.is_full() {
                return;
            }
            match *segment {
                Segment::Bytes { left } => {
                    let end = position + left as usize;
                    out.push(IoSlice::new(&self.bytes[position..end]));
                    position = end;
                }
                Segment::Slot { slot, offset, left } => {
                    let Some(data) = data_of(slot) else {
                        unreachable!("slot {slot} was freed with unsent data")
                    };
                    if !gather_parts(data, offset as usize, left as usize, out) {
                        return;
                    }
                }
            }
        }
    }

    /// `bytes` of what was gathered are sent. `finished` hears of each slot segment that is completely sent.
    pub(crate) fn advance(&mut self, mut bytes: usize, mut finished: impl FnMut(u16)) {
        assert!(bytes <= self.pending);
        self.pending -= bytes;
        while bytes > 0 {
            let Some(front) = self.segments.front_mut() else { return };
            let (left, is_bytes) = match front {
                Segment::Bytes { left } => (left, true),
                Segment::Slot { left, .. } => (left, false),
            };
            let taken = (*left as usize).min(bytes);
            *left -= u32_of(taken);
            bytes -= taken;
            if is_bytes {
                self.sent += taken;
            } else if let Segment::Slot { offset, .. } = front {
                *offset += u32_of(taken);
            }
            match *front {
                Segment::Bytes { left: 0 } => drop(self.segments.pop_front()),
                Segment::Slot { slot, left: 0, .. } => {
                    self.segments.pop_front();
                    finished(slot);
                }
                _ => return,
            }
        }
        if self.pending == 0 {
            debug_assert_eq!(self.sent, self.bytes.len());
            self.bytes.clear();
            self.sent = 0;
        }
    }

    /// Forgets everything unsent. `finished` hears of each slot segment.
    pub(crate) fn clear(&mut self, mut finished: impl FnMut(u16)) {
        for segment in self.segments.drain(..) {
            if let Segment::Slot { slot, .. } = segment {
                finished(slot);
            }
        }
        self.bytes.clear();
        self.sent = 0;
        self.pending = 0;
    }

    #[cold]
    fn compact(&mut self) {
        self.bytes.drain(..self.sent);
        self.sent = 0;
    }
}

/// Appends `left` bytes of `data` from `offset` on; `false` when `out` became full first.
#[inline]
fn gather_parts<'a, B: IoBuffer>(
    data: &'a B,
    mut offset: usize,
    mut left: usize,
    out: &mut ArrayVec<IoSlice<'a>, TX_PARTS_MAX>,
) -> bool {
    while left > 0 {
        if out.is_full() {
            return false;
        }
        let part = data.part(offset);
        let part = &part[..part.len().min(left)];
        assert!(!part.is_empty());
        offset += part.len();
        left -= part.len();
        out.push(IoSlice::new(part));
    }
    true
}

/// Lengths inside a PDU fit 32 bits, because PLEN does.
#[inline]
pub(crate) fn u32_of(len: usize) -> u32 {
    debug_assert!(u32::try_from(len).is_ok());
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(tx: &TxQueue, data: &[Vec<u8>]) -> Vec<u8> {
        let mut out = ArrayVec::new();
        tx.gather(|slot| data.get(usize::from(slot)), &mut out);
        out.iter().flat_map(|part| part.iter().copied()).collect()
    }

    #[test]
    fn adjacent_bytes_leave_as_one_part() {
        let mut tx = TxQueue::with_capacity(64);
        tx.push_bytes(b"abc");
        tx.push_bytes(b"def");
        tx.push_zeros(1);
        let mut out = ArrayVec::new();
        tx.gather(|_| None::<&Vec<u8>>, &mut out);
        assert_eq!(out.len(), 1);
        assert_eq!(&*out[0], b"abcdef\0");
    }

    #[test]
    fn a_slot_is_reported_once_its_last_byte_is_sent() {
        let data = [b"data".to_vec()];
        let mut tx = TxQueue::with_capacity(64);
        tx.push_bytes(b"<");
        tx.push_slot(0, 1, 3);
        tx.push_bytes(b">");
        assert_eq!(sent(&tx, &data), b"<ata>");
        tx.advance(3, |_| panic!("a byte is left"));
        assert_eq!(sent(&tx, &data), b"a>");
        let mut finished = vec![];
        tx.advance(1, |slot| finished.push(slot));
        assert_eq!(finished, [0]);
        assert_eq!(tx.room(), 63);
        tx.advance(1, |_| panic!("no slot is left"));
        assert_eq!((tx.pending(), tx.room()), (0, 64));
    }

    #[test]
    fn the_byte_buffer_never_grows_past_its_capacity() {
        let mut tx = TxQueue::with_capacity(100);
        let capacity = tx.bytes.capacity();
        for _ in 0..1000 {
            while tx.room() >= 24 {
                tx.push_bytes(&[7; 24]);
            }
            tx.advance(25, |_| {});
        }
        assert_eq!(tx.bytes.capacity(), capacity);
    }

    proptest! {
        #[test]
        fn what_is_pushed_leaves_in_order_at_any_pace(
            pushes in proptest::collection::vec((any::<bool>(), 1u8..40), 0..60),
            paces in proptest::collection::vec(0usize..50, 1..200),
        ) {
            let data: Vec<Vec<u8>> = (0..4u8).map(|slot| (0..40).map(|i| slot * 50 + i).collect()).collect();
            let mut tx = TxQueue::with_capacity(4096);
            let mut want = Vec::new();
            for (i, (is_bytes, len)) in pushes.into_iter().enumerate() {
                let slot = i % 4;
                if is_bytes {
                    tx.push_bytes(&vec![len; usize::from(len)]);
                    want.extend(vec![len; usize::from(len)]);
                } else {
                    tx.push_slot(u16::try_from(slot).unwrap(), 0, u32::from(len));
                    want.extend(&data[slot][..usize::from(len)]);
                }
            }
            let mut got = Vec::new();
            for pace in paces {
                let now = sent(&tx, &data);
                let taken = pace.min(now.len());
                got.extend(&now[..taken]);
                tx.advance(taken, |_| {});
                prop_assert_eq!(tx.pending(), want.len() - got.len());
            }
            got.extend(sent(&tx, &data));
            prop_assert_eq!(got, want);
        }
    }
}
