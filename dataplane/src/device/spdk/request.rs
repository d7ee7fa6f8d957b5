//! One I/O on its way through a queue pair: which commands it takes. Pure: no device.

use nvme::{Lba, Status};
use reactors::{IoBuf, Timestamp};
use spdk_rs::{Operation, PoolBuffer};

use crate::device::{IoDone, OpKind};

/// Times that an I/O is given to a queue pair that goes away under it, before it fails.
const ATTEMPTS_MAX: u8 = 8;

/// One accepted I/O.
pub(super) struct Request {
    pub(super) tag: u64,
    pub(super) kind: OpKind,
    pub(super) fua: bool,
    /// Zeroing may release space.
    pub(super) deallocate: bool,
    pub(super) lba: Lba,
    pub(super) blocks: u32,
    /// Blocks that are done: less than all only of operations that take several commands.
    pub(super) blocks_done: u32,
    /// Blocks of the command in flight.
    blocks_running: u32,
    attempts: u8,
    /// Here unless a command is in flight.
    pub(super) buffer: Option<PoolBuffer>,
    pub(super) started: Timestamp,
}

/// What comes after a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Another one: the rest, or the same again on another queue pair.
    Command,
    /// It is finished.
    Finished(Status),
}

impl Request {
    pub(super) fn new(tag: u64, kind: OpKind, lba: Lba, blocks: u32, started: Timestamp) -> Self {
        Self {
            tag,
            kind,
            fua: false,
            deallocate: false,
            lba,
            blocks,
            blocks_done: 0,
            blocks_running: 0,
            attempts: 0,
            buffer: None,
            started,
        }
    }

    /// The next command.
    pub(super) fn next(&mut self) -> Operation {
        let lba = self.lba.get() + u64::from(self.blocks_done);
        let left = self.blocks - self.blocks_done;
        self.blocks_running = left;
        match self.kind {
            OpKind::Read => Operation::Read { lba },
            OpKind::Write => Operation::Write { lba, fua: self.fua },
            OpKind::Flush => Operation::Flush,
            OpKind::Deallocate => Operation::Deallocate { lba, blocks: left },
            OpKind::WriteZeroes => {
                let blocks = left.min(Operation::ZEROES_MAX);
                self.blocks_running = blocks;
                Operation::WriteZeroes { lba, blocks, deallocate: self.deallocate, fua: self.fua }
            }
        }
    }

    /// Takes note of how the command ended.
    pub(super) fn on_completed(&mut self, status: Status, queue_is_gone: bool) -> Next {
        if queue_is_gone {
            self.attempts += 1;
            return if self.attempts < ATTEMPTS_MAX { Next::Command } else { Next::Finished(status) };
        }
        if !status.is_success() {
            return Next::Finished(status);
        }
        self.blocks_done += self.blocks_running;
        if self.blocks_done < self.blocks { Next::Command } else { Next::Finished(Status::SUCCESS) }
    }

    pub(super) fn finish(self, status: Status) -> IoDone {
        IoDone { tag: self.tag, status, buffer: self.buffer.map(PoolBuffer::into_inner) }
    }
}

/// A finished I/O that never became a request.
pub(super) fn refused(tag: u64, status: Status, buffer: Option<IoBuf>) -> IoDone {
    IoDone { tag, status, buffer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: OpKind, blocks: u32) -> Request {
        Request::new(1, kind, Lba(10), blocks, Timestamp::ZERO)
    }

    #[test]
    fn zeroing_takes_as_many_commands_as_its_length_needs() {
        let mut zero = request(OpKind::WriteZeroes, 3 * Operation::ZEROES_MAX - 1);
        let mut ranges = Vec::new();
        loop {
            let Operation::WriteZeroes { lba, blocks, .. } = zero.next() else { panic!() };
            ranges.push((lba, blocks));
            match zero.on_completed(Status::SUCCESS, false) {
                Next::Command => {}
                Next::Finished(status) => break assert!(status.is_success()),
            }
        }
        let max = Operation::ZEROES_MAX;
        let at = |blocks: u32| 10 + u64::from(blocks);
        assert_eq!(ranges, [(10, max), (at(max), max), (at(2 * max), max - 1)]);
    }

    #[test]
    fn a_command_whose_queue_went_away_is_repeated_and_not_for_ever() {
        let mut write = request(OpKind::Write, 8);
        write.fua = true;
        let first = write.next();
        assert_eq!(first, Operation::Write { lba: 10, fua: true });
        assert_eq!(write.on_completed(Status::ABORTED_SQ_DELETION, true), Next::Command);
        assert_eq!(write.next(), first);
        let ends = (0..20).map(|_| write.on_completed(Status::ABORTED_SQ_DELETION, true)).last();
        assert_eq!(ends, Some(Next::Finished(Status::ABORTED_SQ_DELETION)));
    }

    #[test]
    fn an_error_of_the_device_ends_it_with_its_status() {
        let mut read = request(OpKind::Read, 1);
        read.next();
        let error = Status::UNRECOVERED_READ_ERROR.dnr();
        assert_eq!(read.on_completed(error, false), Next::Finished(error));
        assert_eq!(read.finish(error).status, error);
    }
}
