//! Data of reads straight into their buffers.
//!
//! Controllers mostly answer in the order of the commands. A receive can therefore be laid out in advance: room for a header, the
//! buffer of the oldest read, room for a header, the buffer of the next one, and so on. What arrives is checked PDU by
//! PDU before it counts; from the first one that is not what was expected, all the rest is gathered and read as a plain
//! stream, and for some receives nothing is laid out.
//!
//! Invariant: between [`HostConn::lay_out`] and the end of [`HostConn::on_received`] only commands whose answers were already
//! taken can end, so what lies in the buffers of the others is never lost.

use std::collections::VecDeque;
use std::io::IoSliceMut;

use arrayvec::ArrayVec;
use nvme::tcp::{C2hData, CapsuleResp, PduType, R2t, flags};

use super::slot::{Slot, State};
use super::{HostConn, HostProgress};
use crate::host::{HostData, HostSink};
use crate::slab::Slab;
use crate::tcp::ConnState;
use crate::tcp::frame::{common_header, view};
use crate::tcp::tx::u32_of;
use crate::{IoBuffer, Now};

/// Most PDUs that one receive is laid out for.
const GUESSES_MAX: usize = 64;
/// Most bytes of data that one receive is laid out for: as much as a receive brings, and the most that is ever gathered.
const PLACED_BYTES_MAX: usize = 512 << 10;
/// Most parts a receive has: header and data of each PDU, and the rest.
pub const RX_PARTS_MAX: usize = 2 * GUESSES_MAX + 1;
/// Receives that nothing is laid out for after a guess was wrong; doubled each time, up to the most.
const DOUBT_MIN: u16 = 8;
const DOUBT_MAX: u16 = 1024;

/// A command that was sent: where it is, and what the controller calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sent {
    slot: u16,
    cid: u16,
}

/// What the next receive is laid out for: one PDU, or the rest of the data of one.
#[derive(Clone, Copy, Debug)]
struct Guess {
    sent: Sent,
    /// Whether the header is still to come.
    has_header: bool,
    /// Place of the next byte of data in the buffer.
    offset: u32,
    /// Bytes of data that the PDU still has; zero for one that has none.
    data: u32,
    /// Bytes of them that are laid out; fewer ends the layout.
    placed: u32,
}

impl Guess {
    /// A response, or a request for data.
    fn header_only(sent: Sent) -> Self {
        Self { sent, has_header: true, offset: 0, data: 0, placed: 0 }
    }
}

/// What is expected, and how far that can be trusted.
#[derive(Debug)]
pub(super) struct Placement {
    /// Commands in the order in which answers are expected; those that ended are left in until they are met,
    /// those that were overtaken are taken out.
    sent: VecDeque<Sent>,
    guesses: ArrayVec<Guess, GUESSES_MAX>,
    /// The controller sends a response after the data of a read.
    has_responses: bool,
    /// Receives to go without a layout.
    doubt: u16,
    /// How many that will be after the next wrong guess.
    next_doubt: u16,
    /// What came after a wrong guess, as it was sent.
    line: Vec<u8>,
}

impl Placement {
    pub(super) fn with_depth(depth: u16) -> Self {
        Self {
            // Twice what can be outstanding, so that what ended is cleared out seldom.
            sent: VecDeque::with_capacity(2 * usize::from(depth)),
            guesses: ArrayVec::new(),
            has_responses: false,
            doubt: 0,
            next_doubt: DOUBT_MIN,
            line: Vec::new(),
        }
    }

    fn was_wrong(&mut self, late: Sent) {
        self.doubt = self.next_doubt;
        self.next_doubt = (2 * self.next_doubt).min(DOUBT_MAX);
        // It may take long, and is not waited for: it comes unexpected.
        if let Some(at) = self.sent.iter().position(|sent| *sent == late) {
            self.sent.remove(at);
        }
    }

    fn was_right(&mut self) {
        self.next_doubt = (self.next_doubt / 2).max(DOUBT_MIN);
    }
}

/// What a receive brought into staging; what lies in buffers is only counted.
struct Arrived<'a> {
    staging: &'a [u8],
    left: usize,
}

impl<'a> Arrived<'a> {
    /// The next bytes in staging: `len`, or as many as came.
    #[inline]
    fn take(&mut self, len: usize) -> &'a [u8] {
        let len = len.min(self.left);
        let (taken, rest) = self.staging.split_at(len);
        self.staging = rest;
        self.left -= len;
        taken
    }

    /// How many of the next `len` bytes, in a buffer, came.
    #[inline]
    fn skip(&mut self, len: u32) -> u32 {
        let came = u32_of((len as usize).min(self.left));
        self.left -= came as usize;
        came
    }
}

impl<B: IoBuffer> HostConn<B> {
    /// Expects the answer to a command after those to the earlier ones.
    #[inline]
    pub(super) fn expect_answer(&mut self, slot: u16, cid: u16) {
        if !self.params.place_data {
            return;
        }
        if self.placement.sent.len() == self.placement.sent.capacity() {
            self.forget_ended();
        }
        self.placement.sent.push_back(Sent { slot, cid });
    }

    #[cold]
    fn forget_ended(&mut self) {
        let slots = &self.slots;
        self.placement.sent.retain(|sent| waiting(slots, *sent).is_some());
    }

    /// Whether [`Self::lay_out`] may give more than its staging.
    #[inline]
    pub fn places_data(&self) -> bool {
        self.params.place_data
    }

    /// What the next receive should be received into, in order: `staging` for headers and for what cannot be foreseen, and
    /// the buffers of reads between them. Call [`Self::on_received`] with what came, or lay out anew when nothing did.
    #[inline]
    pub fn lay_out<'a>(
        &'a mut self,
        staging: &'a mut [u8],
        parts: &mut ArrayVec<IoSliceMut<'a>, RX_PARTS_MAX>,
    ) {
        self.placement.guesses.clear();
        let is_open = self.state == ConnState::Ready && self.rx.have == 0 && self.slots.occupied() > 0;
        if !self.params.place_data || !is_open || self.placement.doubt > 0 {
            self.placement.doubt = self.placement.doubt.saturating_sub(1);
            return parts.push(IoSliceMut::new(staging));
        }
        let is_all = self.guess();
        let (header, digest) = (self.header_bytes(), self.framing.data_digest_bytes());
        let guesses = &self.placement.guesses;
        let mut places = places(&mut self.slots, guesses);
        let mut rest = staging;
        let mut staged = 0;
        for (guess, place) in guesses.iter().zip(&mut places) {
            staged += if guess.has_header { header } else { 0 };
            if guess.placed > 0 {
                push_front(&mut rest, staged, parts);
                parts.push(IoSliceMut::new(std::mem::take(place)));
                staged = if guess.placed == guess.data { digest } else { 0 };
            }
        }
        let staged = if is_all { rest.len() } else { staged };
        push_front(&mut rest, staged, parts);
    }

    /// Guesses what comes next. Whether that is all that can come.
    fn guess(&mut self) -> bool {
        let mut room = PLACED_BYTES_MAX;
        let arriving = self.rx.body.map(|body| body.slot);
        if let Some(body) = self.rx.body {
            let Some(entry) = self.slots.at_mut(body.slot) else { return true };
            let sent = Sent { slot: body.slot, cid: entry.cid };
            if body.is_plain() {
                let guess =
                    Guess { sent, has_header: false, offset: body.offset, data: body.left, placed: 0 };
                if !self.guess_data(guess, &mut room) {
                    return false;
                }
            } else {
                // Padding or a digest comes first: the stream is simpler.
                return true;
            }
        }
        while let Some(front) = self.placement.sent.front().copied()
            && waiting(&self.slots, front).is_none()
        {
            self.placement.sent.pop_front();
        }
        for index in 0..self.placement.sent.len() {
            let sent = self.placement.sent[index];
            let Some(entry) = waiting(&self.slots, sent) else { continue };
            if arriving == Some(sent.slot) {
                continue;
            }
            // Room for data and a response.
            if self.placement.guesses.remaining_capacity() < 2 || room == 0 {
                return false;
            }
            let (offset, data) = (entry.moved, entry.length - entry.moved);
            if matches!(entry.data, HostData::FromController(_)) && data > 0 {
                let guess = Guess { sent, has_header: true, offset, data, placed: 0 };
                if !self.guess_data(guess, &mut room) {
                    return false;
                }
            } else {
                self.placement.guesses.push(Guess::header_only(sent));
            }
        }
        true
    }

    /// Lays out the data of one PDU, and expects the response that may follow. Whether all of the data is laid out.
    #[inline]
    fn guess_data(&mut self, mut guess: Guess, room: &mut usize) -> bool {
        let Some(entry) = self.slots.at_mut(guess.sent.slot) else { return false };
        let HostData::FromController(buffer) = &entry.data else { return false };
        let contiguous = buffer.part(guess.offset as usize).len();
        guess.placed = u32_of((guess.data as usize).min(contiguous).min(*room));
        debug_assert!(guess.placed > 0, "part() is never empty before the end, and there was room");
        *room -= guess.placed as usize;
        self.placement.guesses.push(guess);
        entry.place = u8::try_from(self.placement.guesses.len()).unwrap_or(0);
        if guess.placed < guess.data {
            return false;
        }
        if self.placement.has_responses {
            self.placement.guesses.push(Guess::header_only(guess.sent));
        }
        true
    }

    /// Reads the `count` bytes that were received into what [`Self::lay_out`] gave, with the same `staging`. Commands that end
    /// do so on `sink`.
    pub fn on_received<S: HostSink<B>>(
        &mut self,
        staging: &[u8],
        count: usize,
        now: Now,
        sink: &mut S,
    ) -> HostProgress {
        let mut arrived = Arrived { staging, left: count };
        let header_bytes = self.header_bytes();
        for index in 0..self.placement.guesses.len() {
            let guess = self.placement.guesses[index];
            if guess.has_header {
                let header = arrived.take(header_bytes);
                if header.len() == header_bytes && !self.is_expected(header, guess) {
                    return self.on_wrong_guess(index, header, arrived, now, sink);
                }
                if self.on_bytes(header, now, sink) == HostProgress::Closing {
                    return HostProgress::Closing;
                }
            }
            if arrived.left > 0
                && guess.placed > 0
                && self.on_placed(guess, &mut arrived, now, sink) == HostProgress::Closing
            {
                return HostProgress::Closing;
            }
            if arrived.left == 0 {
                self.placement.was_right();
                return HostProgress::Consumed;
            }
        }
        let rest = arrived.take(usize::MAX);
        self.on_bytes(rest, now, sink)
    }

    /// Whether this is the header that was guessed.
    #[inline]
    fn is_expected(&mut self, header: &[u8], guess: Guess) -> bool {
        let Some(ch) = common_header(header) else { return false };
        let cid = guess.sent.cid;
        if guess.data == 0 {
            return match ch.pdu_type() {
                PduType::CAPSULE_RESP => {
                    view::<CapsuleResp>(header).is_some_and(|pdu| pdu.cqe.cid.get() == cid)
                }
                PduType::R2T => view::<R2t>(header).is_some_and(|pdu| pdu.cccid.get() == cid),
                _ => false,
            };
        }
        let overhead = u32_of(header.len() + self.framing.data_digest_bytes());
        let is_it = ch.pdu_type() == PduType::C2H_DATA
            && view::<C2hData>(header).is_some_and(|pdu| pdu.cccid.get() == cid)
            && usize::from(ch.pdo) == header.len()
            && ch.plen.get().checked_sub(overhead) == Some(guess.data);
        if is_it && ch.flags & flags::LAST_PDU != 0 {
            self.placement.has_responses = ch.flags & flags::SUCCESS == 0;
        }
        is_it
    }

    /// Data lies in its buffer.
    #[inline]
    fn on_placed<S: HostSink<B>>(
        &mut self,
        guess: Guess,
        arrived: &mut Arrived<'_>,
        now: Now,
        sink: &mut S,
    ) -> HostProgress {
        let len = arrived.skip(guess.placed);
        let with_digest = self.framing.data_digest;
        let (Some(body), Some(entry)) = (self.rx.body.as_mut(), self.slots.at(guess.sent.slot)) else {
            unreachable!("the header was the one expected, and its command waits")
        };
        let HostData::FromController(buffer) = &entry.data else {
            unreachable!("data is laid out in the buffers of reads only")
        };
        body.on_placed(buffer, len, with_digest);
        self.stats.bytes_in += u64::from(len);
        self.stats.bytes_placed += u64::from(len);
        let digest = if len == guess.data { self.framing.data_digest_bytes() } else { 0 };
        // Ends the PDU when that was all of it.
        self.on_bytes(arrived.take(digest), now, sink)
    }

    /// Something else came: gathers it from where it lies, and reads it as a stream.
    #[cold]
    fn on_wrong_guess<S: HostSink<B>>(
        &mut self,
        index: usize,
        header: &[u8],
        mut arrived: Arrived<'_>,
        now: Now,
        sink: &mut S,
    ) -> HostProgress {
        let (header_bytes, digest_bytes) = (self.header_bytes(), self.framing.data_digest_bytes());
        let mut line = std::mem::take(&mut self.placement.line);
        line.clear();
        for (number, guess) in self.placement.guesses[index..].iter().enumerate() {
            if guess.has_header {
                line.extend_from_slice(if number == 0 { header } else { arrived.take(header_bytes) });
            }
            if guess.placed > 0 {
                let len = arrived.skip(guess.placed);
                if let Some(HostData::FromController(buffer)) =
                    self.slots.at(guess.sent.slot).map(|entry| &entry.data)
                {
                    line.extend_from_slice(&buffer.part(guess.offset as usize)[..len as usize]);
                }
                line.extend_from_slice(arrived.take(if len == guess.data { digest_bytes } else { 0 }));
            }
        }
        line.extend_from_slice(arrived.take(usize::MAX));
        let late = self.placement.guesses[index].sent;
        self.placement.was_wrong(late);
        self.stats.guesses_wrong += 1;
        let progress = self.on_bytes(&line, now, sink);
        self.placement.line = line;
        progress
    }

    /// Header and digest of an answer.
    #[inline]
    fn header_bytes(&self) -> usize {
        C2hData::SIZE + self.framing.header_digest_bytes()
    }
}

/// The command, while its answer is awaited.
#[inline]
fn waiting<B>(slots: &Slab<Slot<B>>, sent: Sent) -> Option<&Slot<B>> {
    slots.at(sent.slot).filter(|entry| entry.cid == sent.cid && entry.state == State::Outstanding)
}

/// Where the data of each guess belongs.
#[inline]
fn places<'a, B: IoBuffer>(
    slots: &'a mut Slab<Slot<B>>,
    guesses: &[Guess],
) -> ArrayVec<&'a mut [u8], GUESSES_MAX> {
    let mut places: ArrayVec<&mut [u8], GUESSES_MAX> = guesses.iter().map(|_| Default::default()).collect();
    let mut left = guesses.iter().filter(|guess| guess.placed > 0).count();
    for entry in slots.iter_mut() {
        if left == 0 {
            break;
        }
        let Some(index) = usize::from(std::mem::take(&mut entry.place)).checked_sub(1) else { continue };
        let HostData::FromController(buffer) = &mut entry.data else { continue };
        let guess = &guesses[index];
        places[index] = &mut buffer.part_mut(guess.offset as usize)[..guess.placed as usize];
        left -= 1;
    }
    places
}

/// Moves the first `len` bytes of `rest` to the parts.
#[inline]
fn push_front<'a>(rest: &mut &'a mut [u8], len: usize, parts: &mut ArrayVec<IoSliceMut<'a>, RX_PARTS_MAX>) {
    if len > 0 {
        let (front, back) = std::mem::take(rest).split_at_mut(len);
        *rest = back;
        parts.push(IoSliceMut::new(front));
    }
}

const _: () = assert!(C2hData::SIZE == CapsuleResp::SIZE && C2hData::SIZE == R2t::SIZE);
