//! One I/O on its way to the controller: in one command where the controller takes that much, else piece by piece.
//!
//! Pieces follow each other, each in a buffer of its own; larger I/O than one command moves is rare enough.

use fabrics::host::HostData;
use nvme::nvm::{DatasetManagement, Flush, NLB_MAX, Range, ReadWrite};
use nvme::zerocopy::IntoBytes;
use nvme::{Lba, Nsid, Sqe, Status, U32, U64};
use reactors::DmaPool;
use transport::Data;

use crate::device::{BlockSize, Io, IoDone, Op, OpKind};

/// What commands a controller takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) nsid: Nsid,
    pub(super) block_size: BlockSize,
    /// Most blocks of a Read or Write.
    pub(super) transfer_blocks: u32,
}

/// One I/O.
pub(super) struct Transfer {
    tag: u64,
    op: Op,
    /// Blocks that are through.
    moved: u32,
    /// Blocks of the command that is out.
    asked: u32,
    /// Whether that command has the whole buffer.
    lent: bool,
    pub(super) started_ns: u64,
}

/// The next command of a transfer.
pub(super) struct Piece {
    pub(super) sqe: Sqe,
    pub(super) data: HostData<Data>,
}

impl Transfer {
    pub(super) fn new(io: Io, started_ns: u64) -> Self {
        Self { tag: io.tag, op: io.op, moved: 0, asked: 0, lent: false, started_ns }
    }

    pub(super) fn kind(&self) -> OpKind {
        self.op.kind()
    }

    /// Blocks in all; a flush has none.
    fn blocks(&self, block_size: BlockSize) -> u32 {
        let range = self.op.blocks(block_size).unwrap_or(0..0);
        u32::try_from(range.end - range.start).unwrap_or(u32::MAX)
    }

    /// The command for the next piece; `None` when there is no buffer for it now.
    pub(super) fn next(&mut self, limits: &Limits, pool: &DmaPool) -> Option<Piece> {
        let left = self.blocks(limits.block_size) - self.moved;
        let most = match self.op {
            Op::Read { .. } | Op::Write { .. } => limits.transfer_blocks,
            Op::WriteZeroes { .. } => NLB_MAX,
            Op::Deallocate { .. } | Op::Flush => u32::MAX,
        };
        let count = left.min(most);
        let data = self.data(count, left, limits.block_size, pool)?;
        self.asked = count;
        Some(Piece { sqe: self.command(limits.nsid, count), data })
    }

    fn command(&self, nsid: Nsid, count: u32) -> Sqe {
        let from = |lba: Lba| Lba(lba.get() + u64::from(self.moved));
        match self.op {
            Op::Read { lba, .. } => ReadWrite::read(nsid, from(lba), count).to_sqe(0),
            Op::Write { lba, fua, .. } => {
                ReadWrite { fua, ..ReadWrite::write(nsid, from(lba), count) }.to_sqe(0)
            }
            Op::WriteZeroes { lba, deallocate, fua, .. } => {
                ReadWrite { fua, deac: deallocate, ..ReadWrite::write_zeroes(nsid, from(lba), count) }
                    .to_sqe(0)
            }
            Op::Deallocate { .. } => DatasetManagement::deallocate(nsid, 1).to_sqe(0),
            Op::Flush => Flush { nsid }.to_sqe(0),
        }
    }

    fn data(
        &mut self,
        count: u32,
        left: u32,
        block_size: BlockSize,
        pool: &DmaPool,
    ) -> Option<HostData<Data>> {
        let bytes = |blocks: u32| (blocks as usize) << block_size.shift();
        let (at, len) = (bytes(self.moved), bytes(count));
        let whole = self.moved == 0 && count == left;
        let lent = match &mut self.op {
            Op::Read { buffer, .. } | Op::Write { buffer, .. } if whole => {
                self.lent = true;
                // An empty buffer stands in until the command gives it back.
                std::mem::replace(buffer, pool.alloc_io(0)?)
            }
            Op::Read { .. } => pool.alloc_io(len)?,
            Op::Write { buffer, .. } => {
                let mut piece = pool.alloc_io(len)?;
                let mut to = 0;
                for part in buffer.range(at, len) {
                    piece.copy_in(to, part);
                    to += part.len();
                }
                piece
            }
            Op::Deallocate { lba, blocks } => {
                let range =
                    Range { attributes: U32::new(0), nlb: U32::new(*blocks), slba: U64::new(lba.get()) };
                let mut list = pool.alloc_io(Range::SIZE)?;
                list.copy_in(0, range.as_bytes());
                list
            }
            Op::WriteZeroes { .. } | Op::Flush => return Some(HostData::None),
        };
        Some(match self.op {
            Op::Read { .. } => HostData::FromController(Data(lent)),
            _ => HostData::ToController(Data(lent)),
        })
    }

    /// The command was not sent after all.
    pub(super) fn take_back(&mut self, data: HostData<Data>) {
        if let HostData::ToController(data) | HostData::FromController(data) = data {
            self.restore(data);
        }
    }

    /// The whole buffer is back where it belongs; any other is dropped.
    fn restore(&mut self, data: Data) {
        if !std::mem::take(&mut self.lent) {
            return;
        }
        if let Op::Read { buffer, .. } | Op::Write { buffer, .. } = &mut self.op {
            *buffer = data.0;
        }
    }

    /// A command ended; `true` when the transfer is through with it.
    pub(super) fn on_completed(&mut self, status: Status, data: Option<Data>, block_size: BlockSize) -> bool {
        let at = (self.moved as usize) << block_size.shift();
        match (&mut self.op, data) {
            (Op::Read { buffer, .. }, Some(data)) if !self.lent && status.is_success() => {
                let mut to = at;
                for part in data.0.slices() {
                    buffer.copy_in(to, part);
                    to += part.len();
                }
            }
            (_, Some(data)) => self.restore(data),
            (_, None) => {}
        }
        self.moved += self.asked;
        !status.is_success() || self.moved >= self.blocks(block_size)
    }

    /// The I/O with its end, and the bytes that it moved if it succeeded.
    pub(super) fn finish(self, status: Status, block_size: BlockSize) -> (IoDone, u64) {
        let bytes = u64::from(self.blocks(block_size)) << block_size.shift();
        (IoDone { tag: self.tag, status, buffer: self.op.into_buffer() }, bytes)
    }
}
