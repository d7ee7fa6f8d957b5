//! One I/O of fio on its way: split into commands, ended when all of them have.
//!
//! States: commands left to send → all sent → ended. The first command that fails ends the sending.

use fabrics::tcp::host::HostData;
use nvme::nvm::Range;
use nvme::zerocopy::IntoBytes;
use nvme::{Lba, Sqe, U32, U64};

use crate::abi::memory::Region;
use crate::buffer::Buffer;
use crate::command::{Extent, Namespace, Op, command};
use crate::errno::Errno;

/// A command to send: what it says and what it carries.
pub type Command = (Sqe, HostData<Buffer>);

/// All of an I/O as one command: of a read or write for which [`Namespace::is_one_command`].
#[inline]
#[must_use]
pub fn whole(op: Op, namespace: Namespace, extent: Extent, data: Option<Region>) -> Command {
    // It is one command, and the blocks of one command fit.
    let blocks = u32::try_from(extent.blocks).unwrap_or(u32::MAX);
    let sqe = command(op, namespace.nsid, extent.first, blocks);
    let data = match (op, data) {
        (Op::Read, Some(region)) => HostData::FromController(Buffer::Region(region)),
        (_, Some(region)) => HostData::ToController(Buffer::Region(region)),
        (_, None) => HostData::None,
    };
    (sqe, data)
}

/// One I/O.
#[derive(Debug)]
pub struct Request<T> {
    io: T,
    op: Op,
    namespace: Namespace,
    next: Lba,
    blocks_left: u64,
    /// A Flush that was not made into a command yet.
    flush_left: bool,
    /// What was not given to commands yet.
    data: Option<Region>,
    /// A command that no queue had room for.
    unsent: Option<Command>,
    outstanding: u32,
    outcome: Result<(), Errno>,
}

impl<T: Copy> Request<T> {
    /// The I/O `io`. `data` is as long as the extent, and `None` for what moves no data.
    pub fn new(io: T, op: Op, namespace: Namespace, extent: Extent, data: Option<Region>) -> Self {
        Self {
            io,
            op,
            namespace,
            next: extent.first,
            blocks_left: if op == Op::Flush { 0 } else { extent.blocks },
            flush_left: op == Op::Flush,
            data,
            unsent: None,
            outstanding: 0,
            outcome: Ok(()),
        }
    }

    /// The I/O `io`, which is this one command that no queue had room for.
    pub fn unsent(io: T, op: Op, namespace: Namespace, command: Command) -> Self {
        let none = Extent { first: Lba(0), blocks: 0 };
        Self { unsent: Some(command), ..Self::new(io, op, namespace, none, None) }
    }

    /// What it does.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The next command, which counts as outstanding from now on.
    #[inline]
    pub fn next_command(&mut self) -> Option<Command> {
        let command = match self.unsent.take() {
            Some(command) => command,
            None => self.make_command()?,
        };
        self.outstanding += 1;
        Some(command)
    }

    /// The command that [`Request::next_command`] gave could not be sent: it comes first next time.
    pub fn put_back(&mut self, command: Command) {
        assert!(self.unsent.is_none(), "only the last command can come back");
        self.outstanding -= 1;
        self.unsent = Some(command);
    }

    #[inline]
    fn make_command(&mut self) -> Option<Command> {
        if std::mem::take(&mut self.flush_left) {
            return Some((command(self.op, self.namespace.nsid, Lba(0), 0), HostData::None));
        }
        if self.blocks_left == 0 {
            return None;
        }
        let most = self.namespace.blocks_max(self.op);
        let blocks = u32::try_from(self.blocks_left).map_or(most, |left| left.min(most));
        let first = self.next;
        self.next = Lba(first.0.saturating_add(u64::from(blocks)));
        self.blocks_left -= u64::from(blocks);
        let sqe = command(self.op, self.namespace.nsid, first, blocks);
        Some((sqe, self.data_of(first, blocks)))
    }

    #[inline]
    fn data_of(&mut self, first: Lba, blocks: u32) -> HostData<Buffer> {
        let bytes = blocks as usize * self.namespace.block_bytes as usize;
        match (self.op, &mut self.data) {
            (Op::Read, Some(rest)) => HostData::FromController(Buffer::Region(rest.split_front(bytes))),
            (Op::Write { .. }, Some(rest)) => HostData::ToController(Buffer::Region(rest.split_front(bytes))),
            (Op::Trim, _) => {
                let range = Range { attributes: U32::ZERO, nlb: U32::new(blocks), slba: U64::new(first.0) };
                let mut bytes = [0; Range::SIZE];
                bytes.copy_from_slice(range.as_bytes());
                HostData::ToController(Buffer::Range(bytes))
            }
            _ => HostData::None,
        }
    }

    /// A command of it ended.
    #[inline]
    pub fn command_ended(&mut self, outcome: Result<(), Errno>) {
        assert!(self.outstanding > 0, "a command ends once");
        self.outstanding -= 1;
        if let Err(errno) = outcome {
            self.abandon(errno);
        }
    }

    /// Sends no more of it; the first error stands.
    #[cold]
    pub fn abandon(&mut self, errno: Errno) {
        self.blocks_left = 0;
        self.flush_left = false;
        self.unsent = None;
        if self.outcome.is_ok() {
            self.outcome = Err(errno);
        }
    }

    /// The I/O and how it ended, once it has.
    #[inline]
    pub fn ended(&self) -> Option<(T, Result<(), Errno>)> {
        let is_sent = self.blocks_left == 0 && !self.flush_left && self.unsent.is_none();
        (is_sent && self.outstanding == 0).then_some((self.io, self.outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fabrics::IoBuffer;
    use nvme::{Nsid, nvm};

    const NAMESPACE: Namespace =
        Namespace { nsid: Nsid(1), block_bytes: 512, blocks: 1 << 40, transfer_bytes_max: 1024 };

    fn region(bytes: &mut [u8]) -> Region {
        // SAFETY: the tests keep the array and do not use it while the region is there.
        #[allow(unsafe_code)]
        unsafe {
            Region::new(std::ptr::NonNull::new(bytes.as_mut_ptr()).unwrap(), bytes.len())
        }
    }

    fn read(extent: Extent, bytes: &mut [u8]) -> Request<u32> {
        Request::new(7, Op::Read, NAMESPACE, extent, Some(region(bytes)))
    }

    #[test]
    fn a_large_read_is_split_and_ends_with_its_last_command() {
        let mut bytes = [0; 5 * 512];
        let mut request = read(Extent { first: Lba(10), blocks: 5 }, &mut bytes);
        let mut seen = Vec::new();
        while let Some((sqe, data)) = request.next_command() {
            let HostData::FromController(buffer) = data else { panic!("a read fills its buffer") };
            let command = nvm::ReadWrite::from(&sqe);
            seen.push((command.slba.0, command.nlb, buffer.len()));
        }
        assert_eq!(seen, [(10, 2, 1024), (12, 2, 1024), (14, 1, 512)]);
        for _ in 0..2 {
            request.command_ended(Ok(()));
            assert_eq!(request.ended(), None);
        }
        request.command_ended(Ok(()));
        assert_eq!(request.ended(), Some((7, Ok(()))));
    }

    #[test]
    fn the_first_error_ends_the_sending_and_stands() {
        let mut bytes = [0; 6 * 512];
        let mut request = read(Extent { first: Lba(0), blocks: 6 }, &mut bytes);
        request.next_command().unwrap();
        request.next_command().unwrap();
        request.command_ended(Err(Errno::TIMED_OUT));
        assert!(request.next_command().is_none(), "the third command is not sent");
        assert_eq!(request.ended(), None, "the second is still out");
        request.command_ended(Err(Errno::IO));
        assert_eq!(request.ended(), Some((7, Err(Errno::TIMED_OUT))));
    }

    #[test]
    fn a_command_that_is_put_back_comes_first() {
        let mut bytes = [0; 4 * 512];
        let mut request = read(Extent { first: Lba(0), blocks: 4 }, &mut bytes);
        let command = request.next_command().unwrap();
        request.put_back(command);
        assert_eq!(request.ended(), None);
        let firsts: Vec<u64> = std::iter::from_fn(|| request.next_command())
            .map(|(sqe, _)| nvm::ReadWrite::from(&sqe).slba.0)
            .collect();
        assert_eq!(firsts, [0, 2]);
    }

    #[test]
    fn a_trim_carries_its_range_and_a_flush_nothing() {
        let extent = Extent { first: Lba(9), blocks: 1 << 33 };
        let mut trim = Request::new(1, Op::Trim, NAMESPACE, extent, None);
        let mut ranges = Vec::new();
        while let Some((_, HostData::ToController(Buffer::Range(bytes)))) = trim.next_command() {
            let range = nvme::zerocopy::FromBytes::read_from_bytes(&bytes);
            let range: Range = range.unwrap();
            ranges.push((range.slba.get(), range.nlb.get()));
        }
        let most = u64::from(u32::MAX);
        assert_eq!(ranges, [(9, u32::MAX), (9 + most, u32::MAX), (9 + 2 * most, 2)]);

        let mut flush = Request::new(2, Op::Flush, NAMESPACE, Extent { first: Lba(0), blocks: 0 }, None);
        assert_eq!(flush.ended(), None);
        assert!(matches!(flush.next_command(), Some((_, HostData::None))));
        assert!(flush.next_command().is_none());
        flush.command_ended(Ok(()));
        assert_eq!(flush.ended(), Some((2, Ok(()))));
    }

    #[test]
    fn a_whole_read_that_was_not_sent_is_sent_as_it_is_and_ends_once() {
        let mut bytes = [7; 1024];
        let extent = Extent { first: Lba(3), blocks: 2 };
        assert!(NAMESPACE.is_one_command(Op::Read, extent));
        assert!(!NAMESPACE.is_one_command(Op::Read, Extent { blocks: 3, ..extent }));
        let (sqe, data) = whole(Op::Read, NAMESPACE, extent, Some(region(&mut bytes)));
        let mut request = Request::unsent(5, Op::Read, NAMESPACE, (sqe, data));
        assert_eq!(request.ended(), None);
        let (sqe, data) = request.next_command().unwrap();
        assert_eq!((nvm::ReadWrite::from(&sqe).slba, nvm::ReadWrite::from(&sqe).nlb), (Lba(3), 2));
        assert!(matches!(data, HostData::FromController(buffer) if buffer.len() == 1024));
        assert!(request.next_command().is_none());
        request.command_ended(Ok(()));
        assert_eq!(request.ended(), Some((5, Ok(()))));
    }

    #[test]
    fn an_empty_request_has_ended_before_it_began() {
        let mut empty = Request::new(3, Op::Trim, NAMESPACE, Extent { first: Lba(4), blocks: 0 }, None);
        assert!(empty.next_command().is_none());
        assert_eq!(empty.ended(), Some((3, Ok(()))));
    }
}
