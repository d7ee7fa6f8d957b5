//! Group commit: what was applied becomes durable.
//!
//! flush (the data that the records speak of) → log blocks, each in all its copies, on the media when it is finished →
//! durable. So no record is on the media before the data it maps. A crash in between leaves a prefix of the log blocks.

use std::collections::VecDeque;

use super::format::{Bytes, CheckpointHeader, Layout, LogBlock, LogHeader, Record};
use super::{BLOCK_BYTES, Lsn};

/// Log blocks that wait for a commit at most, 256 KiB: enough for 9,000 writes of one block.
const PENDING_MAX: usize = 64;
/// Log blocks after which a checkpoint begins, 32 MiB: what a recovery reads in a fraction of a second.
const LONG_BLOCKS: u64 = 8_192;
/// Log blocks that one command's records fill at most: 128 that map one block each, and those of a whole leaf.
const COMMAND_LOG_BLOCKS: u64 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    /// The device flushes; these many sealed blocks follow.
    Flushing {
        blocks: usize,
    },
    /// So many writes, of all copies.
    Writing {
        left: usize,
    },
}

/// What a commit asks for next.
#[derive(Debug)]
pub(crate) enum Next {
    Flush,
    /// So many of [`Log::next_sealed`], each to all places of its copies.
    Write(usize),
    Durable,
    Nothing,
}

pub(crate) struct Log {
    incarnation: u64,
    /// Of the next block to be sealed.
    position: u64,
    /// The log begins here: the checkpoint's.
    start: u64,
    ring: u64,
    copies: usize,
    /// The last checkpoint on the media.
    checkpoint: u64,
    open: LogBlock,
    /// First record of the open block.
    open_first: Lsn,
    sealed: VecDeque<(u64, Box<Bytes>)>,
    /// Memory for log blocks.
    spare: Vec<Box<Bytes>>,
    phase: Phase,
    /// Blocks before this position are on the media.
    written: u64,
    /// Where the commit under way ends.
    end: u64,
    /// What the commit under way makes durable.
    target: Lsn,
    durable: Lsn,
}

impl Log {
    /// The log of a life that begins at `position`, after `lsn`, when the last checkpoint is `header`.
    pub(crate) fn new(header: &CheckpointHeader, position: u64, lsn: Lsn, layout: &Layout) -> Self {
        let copies = if layout.log_copies() == 1 { 1 } else { 2 };
        Self {
            // What an earlier life left behind the end of the log is not taken for its continuation.
            incarnation: header.incarnation + 1,
            position,
            start: header.log_position,
            ring: layout.ring_blocks(),
            copies,
            checkpoint: header.seq,
            open: LogBlock::default(),
            open_first: lsn.next(),
            sealed: VecDeque::with_capacity(PENDING_MAX),
            spare: Vec::with_capacity(copies * PENDING_MAX),
            phase: Phase::Idle,
            written: position,
            end: position,
            target: lsn,
            durable: lsn,
        }
    }

    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    #[cfg(test)]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Whether another command's records can wait for a commit.
    pub(crate) fn has_room(&self) -> bool {
        self.sealed.len() as u64 + COMMAND_LOG_BLOCKS < PENDING_MAX as u64
    }

    fn in_ring(&self) -> u64 {
        self.position - self.start
    }

    /// Whether the ring has room for what waits and another command's records.
    pub(crate) fn has_ring_room(&self) -> bool {
        self.in_ring() + 1 + COMMAND_LOG_BLOCKS <= self.ring
    }

    /// Whether it is time for a checkpoint.
    pub(crate) fn is_long(&self) -> bool {
        self.in_ring() > (self.ring / 2).min(LONG_BLOCKS)
    }

    /// Adds a record that was just applied as `lsn`.
    pub(crate) fn append(&mut self, record: &Record<'_>, lsn: Lsn) {
        if !self.open.fits(record) {
            self.seal();
        }
        if self.open.records() == 0 {
            self.open_first = lsn;
        }
        self.open.push(record);
    }

    /// The next block that a commit writes.
    pub(crate) fn next_sealed(&mut self) -> Option<(u64, Box<Bytes>)> {
        self.sealed.pop_front()
    }

    /// Keeps memory for log blocks.
    pub(crate) fn recycle(&mut self, bytes: Box<Bytes>) {
        if self.spare.len() < self.copies * PENDING_MAX {
            self.spare.push(bytes);
        }
    }

    /// How often each block is written.
    pub(crate) fn copies(&self) -> usize {
        self.copies
    }

    /// Another copy of a block.
    pub(crate) fn copy(&mut self, bytes: &Bytes) -> Box<Bytes> {
        let mut copy = self.spare.pop().unwrap_or_else(|| Box::new([0; BLOCK_BYTES]));
        copy.copy_from_slice(bytes);
        copy
    }

    fn seal(&mut self) {
        let header = LogHeader {
            incarnation: self.incarnation,
            position: self.position,
            lsn: self.open_first,
            committed: self.written,
            checkpoint: self.checkpoint,
        };
        let next = self.spare.pop().map_or_else(LogBlock::default, LogBlock::in_place_of);
        let bytes = std::mem::replace(&mut self.open, next).seal(header);
        self.sealed.push_back((self.position, bytes));
        self.position += 1;
    }

    /// Begins a commit of everything up to `lsn`, the last record applied.
    pub(crate) fn begin(&mut self, lsn: Lsn) -> Next {
        assert!(self.is_idle(), "one commit at a time");
        if self.open.records() > 0 {
            self.seal();
        }
        self.target = lsn;
        self.end = self.position;
        if self.sealed.is_empty() {
            return self.done();
        }
        self.phase = Phase::Flushing { blocks: self.sealed.len() };
        Next::Flush
    }

    /// A request of the commit is finished.
    pub(crate) fn advance(&mut self) -> Next {
        self.phase = match self.phase {
            Phase::Idle => unreachable!("an idle log has no requests under way"),
            Phase::Flushing { blocks: 0 } => return self.done(),
            Phase::Flushing { blocks } => {
                self.phase = Phase::Writing { left: blocks * self.copies };
                return Next::Write(blocks);
            }
            Phase::Writing { left: 1 } => return self.done(),
            Phase::Writing { left } => Phase::Writing { left: left - 1 },
        };
        Next::Nothing
    }

    fn done(&mut self) -> Next {
        self.phase = Phase::Idle;
        self.durable = self.durable.max(self.target);
        self.written = self.written.max(self.end);
        Next::Durable
    }

    /// A checkpoint is to hold everything so far: says where the log goes on after it.
    pub(crate) fn begin_checkpoint(&mut self) -> u64 {
        if self.open.records() > 0 {
            self.seal();
        }
        self.position
    }

    /// A checkpoint is on the media: the log begins where it says, and what waits from before is not needed.
    pub(crate) fn end_checkpoint(&mut self, header: &CheckpointHeader) {
        let position = header.log_position;
        self.checkpoint = header.seq;
        let needless = self.sealed.iter().take_while(|(at, _)| *at < position).count();
        self.sealed.drain(..needless);
        if let Phase::Flushing { blocks } = &mut self.phase {
            *blocks = blocks.saturating_sub(needless);
        }
        self.start = position;
        self.written = self.written.max(position);
        self.durable = self.durable.max(header.lsn);
    }
}
