//! I/O commands that take more than one device I/O: a small machine each, that says what to do next. One device I/O of
//! a job is under way at a time.

use nvme::nvm::Range;
use nvme::{Lba, Status};
use reactors::{DmaPool, IoBuf};
use zerocopy::FromBytes;

use super::fused::CompareWrite;
use super::limits::VERIFY_STEP_BYTES;
use crate::device::{IoDone, Op};

/// A command of several steps.
pub(super) enum Job {
    Compare(Compare),
    Verify(Verify),
    Deallocate(Deallocate),
    FlushAll(FlushAll),
    CompareWrite(CompareWrite),
    /// Waits for a barrier, then ends well.
    Barrier,
}

/// What a job wants next.
pub(super) enum Step {
    /// This, on the namespace of the command.
    Submit(Op),
    /// A flush of another namespace of the subsystem, by index and identity.
    FlushOf(u32, u64),
    /// A buffer: come back when one is free.
    Starved,
    /// The end.
    Finish(Status),
}

/// Compare (NVM command set 1.1 §3.2.1).
pub(super) struct Compare {
    pub(super) lba: Lba,
    pub(super) expected: IoBuf,
}

impl Compare {
    pub(super) fn step(&self, done: Option<IoDone>, pool: &DmaPool) -> Step {
        match done {
            None => read(self.lba, self.expected.len(), pool),
            Some(done) => Step::Finish(compare(&self.expected, &done)),
        }
    }
}

pub(super) fn read(lba: Lba, bytes: usize, pool: &DmaPool) -> Step {
    match pool.alloc_io(bytes) {
        Some(buffer) => Step::Submit(Op::Read { lba, buffer }),
        None => Step::Starved,
    }
}

/// Whether what was read is what was expected.
pub(super) fn compare(expected: &IoBuf, done: &IoDone) -> Status {
    match &done.buffer {
        _ if !done.status.is_success() => done.status,
        Some(found) if found.slices().eq(expected.slices()) => Status::SUCCESS,
        _ => Status::COMPARE_FAILURE,
    }
}

/// Verify (NVM command set 1.1 §3.2.5): reads the blocks and looks at nothing but the status.
pub(super) struct Verify {
    pub(super) next: u64,
    pub(super) left: u64,
    pub(super) shift: u8,
}

impl Verify {
    pub(super) fn step(&mut self, done: Option<IoDone>, pool: &DmaPool) -> Step {
        if let Some(done) = done {
            if !done.status.is_success() {
                return Step::Finish(done.status);
            }
            let blocks = done.buffer.map_or(0, |buffer| buffer.len() as u64) >> self.shift;
            self.next += blocks;
            self.left -= blocks.min(self.left);
        }
        let bytes = (self.left << self.shift).min(u64::from(VERIFY_STEP_BYTES));
        match usize::try_from(bytes) {
            Ok(0) | Err(_) => Step::Finish(Status::SUCCESS),
            Ok(bytes) => read(Lba(self.next), bytes, pool),
        }
    }
}

/// Dataset Management with Attribute Deallocate (NVM command set 1.1 §3.2.3).
pub(super) struct Deallocate {
    pub(super) ranges: IoBuf,
    pub(super) count: u16,
    pub(super) next: u16,
}

impl Deallocate {
    pub(super) fn step(&mut self, done: Option<IoDone>) -> Step {
        if let Some(done) = done {
            if !done.status.is_success() {
                return Step::Finish(done.status);
            }
            self.next += 1;
        }
        while self.next < self.count {
            let range = self.range();
            if range.nlb.get() > 0 {
                return Step::Submit(Op::Deallocate { lba: Lba(range.slba.get()), blocks: range.nlb.get() });
            }
            self.next += 1;
        }
        Step::Finish(Status::SUCCESS)
    }

    fn range(&self) -> Range {
        let mut bytes = [0; Range::SIZE];
        self.ranges.copy_out(usize::from(self.next) * Range::SIZE, &mut bytes);
        Range::read_from_bytes(&bytes).unwrap_or_default()
    }
}

/// Flush of every namespace (base 2.1 §7.2).
pub(super) struct FlushAll {
    /// Index on this reactor and identity of each namespace, last first.
    pub(super) left: Vec<(u32, u64)>,
}

impl FlushAll {
    pub(super) fn step(&mut self, done: Option<IoDone>) -> Step {
        if let Some(done) = done.filter(|done| !done.status.is_success()) {
            return Step::Finish(done.status);
        }
        match self.left.pop() {
            Some((index, uid)) => Step::FlushOf(index, uid),
            None => Step::Finish(Status::SUCCESS),
        }
    }
}
