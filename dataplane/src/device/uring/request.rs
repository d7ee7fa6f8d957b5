//! One I/O on its way through the kernel: which system calls it takes, in which order. Pure: no ring, no file.
//!
//! A request works through its byte range from front to back; `cursor` is how far it got. [`Request::next`] says what to
//! do next; the queue does it, moves the cursor, and asks again. Parts that do not cover whole backing blocks go through
//! a bounce window: read the whole blocks, change them, write them back.

use std::ops::Range;

use nvme::Status;
use reactors::{IoBuf, Timestamp};

use super::bounce::{Bounce, WINDOW_BYTES};
use super::range_guard::{Access, Ticket};
use crate::device::OpKind;

/// Most bytes one `fallocate` zeroes or releases, so that no single call takes long.
const CLEAR_BYTES: u64 = 1 << 30;
/// Attempts at one system call that makes no progress before the I/O fails.
pub(super) const ATTEMPTS_MAX: u8 = 16;

/// What the kernel does for a request now, or did last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing yet: it waits for its turn or for a bounce window.
    Waiting,
    /// Data moves between buffer and device, from the cursor on.
    Transfer,
    /// The window is read from the device; so many bytes are there.
    Fill { window: Range<u64>, filled: u64 },
    /// The window is written to the device; so many bytes are.
    Spill { window: Range<u64>, spilled: u64 },
    /// The file system or block layer clears from the cursor to `end`.
    Clear { end: u64, how: ClearHow },
    /// Zeroes are written, from the cursor up to `end`.
    Zeroes { end: u64 },
    /// `fdatasync`.
    Sync,
}

/// Ways to clear a range without writing zeroes ourselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum ClearHow {
    /// Releases the space: `FALLOC_FL_PUNCH_HOLE`.
    Punch = 1,
    /// Keeps the space: `FALLOC_FL_ZERO_RANGE`.
    ZeroRange = 2,
}

impl ClearHow {
    /// Mode of `fallocate(2)`. Never changes the size of a file.
    pub(super) fn mode(self) -> i32 {
        libc::FALLOC_FL_KEEP_SIZE
            | match self {
                Self::Punch => libc::FALLOC_FL_PUNCH_HOLE,
                Self::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
            }
    }
}

/// Which [`ClearHow`]s the backing has refused: bits of their values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Refused(pub(super) u8);

impl Refused {
    pub(super) fn has(self, how: ClearHow) -> bool {
        self.0 & how as u8 != 0
    }
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Start this phase.
    Start(Phase),
    /// All is done.
    Finish,
}

/// One accepted I/O.
pub(super) struct Request {
    pub(super) tag: u64,
    pub(super) kind: OpKind,
    pub(super) fua: bool,
    /// Zeroing may release space.
    pub(super) deallocate: bool,
    /// Bytes of the device.
    pub(super) range: Range<u64>,
    pub(super) cursor: u64,
    /// A final `fdatasync` is due.
    pub(super) sync_due: bool,
    pub(super) attempts: u8,
    pub(super) phase: Phase,
    pub(super) buffer: Option<IoBuf>,
    pub(super) bounce: Option<Bounce>,
    pub(super) ticket: Option<Ticket>,
    pub(super) started: Timestamp,
}

fn align_down(at: u64, align: u64) -> u64 {
    at & !(align - 1)
}

/// No overflow: offsets are at most `i64::MAX`.
fn align_up(at: u64, align: u64) -> u64 {
    align_down(at + align - 1, align)
}

impl Request {
    /// Whether it covers parts of backing blocks.
    pub(super) fn is_unaligned(&self, align: u64) -> bool {
        (self.range.start | self.range.end) & (align - 1) != 0
    }

    /// Its range, widened to whole backing blocks.
    pub(super) fn blocks(&self, align: u64) -> Range<u64> {
        align_down(self.range.start, align)..align_up(self.range.end, align)
    }

    /// What it does to the backing blocks at its ends; `None` if it changes nothing.
    pub(super) fn access(&self, align: u64) -> Option<Access> {
        match self.kind {
            OpKind::Read | OpKind::Flush => None,
            _ if self.is_unaligned(align) => Some(Access::Rewrite),
            OpKind::Write | OpKind::WriteZeroes | OpKind::Deallocate => Some(Access::Whole),
        }
    }

    /// Deallocating part of a backing block is given up: what is not released keeps its content, as it may.
    pub(super) fn shrink_to_whole_blocks(&mut self, align: u64) {
        let start = align_up(self.range.start, align);
        self.range = start..align_down(self.range.end, align).max(start);
        self.cursor = start;
    }

    /// What comes after everything up to the cursor is done.
    pub(super) fn next(&self, align: u64, refused: Refused) -> Step {
        let left = self.cursor..self.range.end;
        if left.is_empty() {
            return if self.sync_due { Step::Start(Phase::Sync) } else { Step::Finish };
        }
        let whole_end = align_down(left.end, align);
        let starts_whole = left.start & (align - 1) == 0;
        match self.kind {
            OpKind::Read | OpKind::Write if starts_whole && whole_end == left.end => {
                Step::Start(Phase::Transfer)
            }
            OpKind::Read | OpKind::Write => self.window(align, left, WINDOW_BYTES),
            OpKind::WriteZeroes if starts_whole && left.start < whole_end => {
                Step::Start(self.clear_or_write(whole_end, refused))
            }
            OpKind::WriteZeroes => self.window(align, left, align),
            OpKind::Deallocate if refused.has(ClearHow::Punch) => Step::Finish,
            OpKind::Deallocate => Step::Start(Phase::Clear { end: clear_end(&left), how: ClearHow::Punch }),
            OpKind::Flush => Step::Finish,
        }
    }

    /// The next window: filled first where it keeps bytes of the device, spilled at once where it replaces all.
    fn window(&self, align: u64, left: Range<u64>, bytes_max: u64) -> Step {
        let start = align_down(left.start, align);
        let window = start..align_up(left.end, align).min(start + bytes_max);
        let replaces_all = left.start == window.start && window.end <= left.end;
        Step::Start(if self.kind != OpKind::Read && replaces_all {
            Phase::Spill { window, spilled: 0 }
        } else {
            Phase::Fill { window, filled: 0 }
        })
    }

    fn clear_or_write(&self, end: u64, refused: Refused) -> Phase {
        let ways = match self.deallocate {
            true => [ClearHow::Punch, ClearHow::ZeroRange],
            false => [ClearHow::ZeroRange, ClearHow::Punch],
        };
        match ways.into_iter().find(|how| !refused.has(*how)) {
            Some(how) => Phase::Clear { end: clear_end(&(self.cursor..end)), how },
            None => Phase::Zeroes { end },
        }
    }

    /// The bytes of the device that this request wants of a window.
    pub(super) fn wanted(&self, window: &Range<u64>) -> Range<u64> {
        self.range.start.max(window.start)..self.range.end.min(window.end)
    }

    /// Moves the cursor after a transfer of `bytes`, back to a whole backing block if it stopped within one.
    /// `false` if that is where it was.
    pub(super) fn transferred(&mut self, bytes: u64, align: u64) -> bool {
        let reached = (self.cursor + bytes).min(self.range.end);
        let reached = if reached == self.range.end { reached } else { align_down(reached, align) };
        let progressed = reached > self.cursor;
        self.cursor = reached.max(self.cursor);
        progressed
    }

    /// The status of a transfer that moved nothing: a file that became shorter, if it was a read.
    pub(super) fn stuck(&self) -> Status {
        match self.kind {
            OpKind::Read => Status::LBA_OUT_OF_RANGE.dnr(),
            _ => Status::INTERNAL_ERROR.dnr(),
        }
    }
}

fn clear_end(left: &Range<u64>) -> u64 {
    left.end.min(align_down(left.start, CLEAR_BYTES) + CLEAR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIGN: u64 = 4096;

    fn request(kind: OpKind, range: Range<u64>) -> Request {
        Request {
            tag: 0,
            kind,
            fua: false,
            deallocate: false,
            cursor: range.start,
            range,
            sync_due: false,
            attempts: 0,
            phase: Phase::Waiting,
            buffer: None,
            bounce: None,
            ticket: None,
            started: Timestamp::ZERO,
        }
    }

    #[test]
    fn whole_blocks_are_transferred_without_a_window() {
        assert_eq!(request(OpKind::Write, 4096..12288).next(ALIGN, Refused(0)), Step::Start(Phase::Transfer));
        assert_eq!(request(OpKind::Read, 512..1024).next(512, Refused(0)), Step::Start(Phase::Transfer));
    }

    #[test]
    fn part_of_a_block_is_read_before_it_is_written() {
        let fill = Phase::Fill { window: 4096..8192, filled: 0 };
        assert_eq!(request(OpKind::Write, 4608..5120).next(ALIGN, Refused(0)), Step::Start(fill));
    }

    #[test]
    fn a_window_in_the_middle_of_a_long_write_is_not_read_first() {
        let mut write = request(OpKind::Write, 512..512 + 3 * WINDOW_BYTES);
        write.cursor = WINDOW_BYTES;
        let spill = Phase::Spill { window: WINDOW_BYTES..2 * WINDOW_BYTES, spilled: 0 };
        assert_eq!(write.next(ALIGN, Refused(0)), Step::Start(spill));
    }

    #[test]
    fn zeroing_clears_whole_blocks_and_rewrites_its_ends() {
        let mut zero = request(OpKind::WriteZeroes, 3584..12800);
        let mut steps = Vec::new();
        while let Step::Start(phase) = zero.next(ALIGN, Refused(0)) {
            zero.cursor = match &phase {
                Phase::Fill { window, .. } => window.end.min(zero.range.end),
                Phase::Clear { end, .. } => *end,
                other => panic!("{other:?}"),
            };
            steps.push(phase);
        }
        let fill = |window| Phase::Fill { window, filled: 0 };
        let clear = Phase::Clear { end: 12288, how: ClearHow::ZeroRange };
        assert_eq!(steps, [fill(0..4096), clear, fill(12288..16384)]);
    }

    #[test]
    fn zeroing_falls_back_from_one_way_to_the_next() {
        let mut zero = request(OpKind::WriteZeroes, 0..8192);
        zero.deallocate = true;
        let next = |refused| zero.next(ALIGN, Refused(refused));
        assert_eq!(next(0), Step::Start(Phase::Clear { end: 8192, how: ClearHow::Punch }));
        assert_eq!(next(1), Step::Start(Phase::Clear { end: 8192, how: ClearHow::ZeroRange }));
        assert_eq!(next(3), Step::Start(Phase::Zeroes { end: 8192 }));
    }

    #[test]
    fn deallocation_that_is_refused_succeeds_without_doing_anything() {
        assert_eq!(request(OpKind::Deallocate, 0..8192).next(ALIGN, Refused(1)), Step::Finish);
    }

    #[test]
    fn deallocation_keeps_parts_of_blocks() {
        let mut inner = request(OpKind::Deallocate, 512..12800);
        inner.shrink_to_whole_blocks(ALIGN);
        assert_eq!((inner.range.clone(), inner.cursor), (4096..12288, 4096));
        let mut none = request(OpKind::Deallocate, 512..1024);
        none.shrink_to_whole_blocks(ALIGN);
        assert_eq!(none.next(ALIGN, Refused(0)), Step::Finish);
    }

    #[test]
    fn a_transfer_that_stops_within_a_block_repeats_the_block() {
        let mut read = request(OpKind::Read, 0..16384);
        assert!(read.transferred(5000, ALIGN));
        assert_eq!(read.cursor, 4096);
        assert!(!read.transferred(100, ALIGN));
        assert!(read.transferred(12288, ALIGN));
        assert_eq!(read.next(ALIGN, Refused(0)), Step::Finish);
    }

    #[test]
    fn a_sync_that_is_due_comes_last() {
        let mut zero = request(OpKind::WriteZeroes, 0..4096);
        zero.sync_due = true;
        zero.cursor = 4096;
        assert_eq!(zero.next(ALIGN, Refused(0)), Step::Start(Phase::Sync));
    }
}
