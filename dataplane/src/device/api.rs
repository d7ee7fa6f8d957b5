//! The traits and types every device shares.

use std::fmt;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use arrayvec::ArrayVec;
use bitflags::bitflags;
use nvme::Status;
use nvme::log::SmartLog;
use reactors::{DmaPool, IoBuf};
use uuid::Uuid;

use super::{DeviceCounters, DeviceError};

pub use nvme::Lba;

/// Size of a logical block: the two that hosts use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// Bytes of a block.
    pub const fn bytes(self) -> u32 {
        1 << self.shift()
    }

    /// Base-two logarithm of [`Self::bytes`] (NVM command set, LBADS).
    pub const fn shift(self) -> u8 {
        match self {
            Self::B512 => 9,
            Self::B4096 => 12,
        }
    }
}

impl TryFrom<u32> for BlockSize {
    type Error = DeviceError;

    /// From bytes.
    fn try_from(bytes: u32) -> Result<Self, DeviceError> {
        match bytes {
            512 => Ok(Self::B512),
            4096 => Ok(Self::B4096),
            _ => Err(DeviceError::BlockSize { bytes }),
        }
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

bitflags! {
    /// What a device can do beyond reading and writing.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Operations: u8 {
        /// [`Op::Flush`] does something: there is a volatile write cache in front of the media.
        const FLUSH = 1 << 0;
        /// Writes and zeroing with `fua` reach the media before they complete.
        const FUA = 1 << 1;
        /// [`Op::WriteZeroes`].
        const WRITE_ZEROES = 1 << 2;
        /// [`Op::Deallocate`] releases space.
        const DEALLOCATE = 1 << 3;
        /// Deallocated blocks read as zeroes (NVM command set, DLFEAT).
        const DEALLOCATE_ZEROES = 1 << 4;
    }
}

/// What a device is, at the moment of asking: [`Self::blocks`] may change when it is rescanned.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Name, unique in its registry.
    pub name: Arc<str>,
    /// Kind of device, for people.
    pub product: &'static str,
    /// Identity that outlives the process where the device's content does.
    pub uuid: Uuid,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Capacity in logical blocks.
    pub blocks: u64,
    /// Whether a completed write may be lost with power until a flush completes (Identify Controller, VWC).
    pub write_cache: bool,
    /// What the device can do.
    pub operations: Operations,
    /// Which writes are never seen half done.
    pub atomic: Atomicity,
    /// Blocks that a write should be a multiple of, and aligned to, to be fast (NPWG and NPWA). At least 1.
    pub preferred_blocks: u32,
}

impl DeviceInfo {
    /// Capacity in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks << self.block_size.shift()
    }
}

/// Which writes are never seen half done (NVM command set 1.1 §2.1.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Atomicity {
    /// Writes of up to this many blocks, while there is power (NAWUN). At least 1.
    pub blocks: u32,
    /// Writes of up to this many blocks, also when power fails (NAWUPF). At least 1, at most `blocks`.
    pub power_fail_blocks: u32,
    /// A write across a multiple of this many blocks, counted from `boundary_offset`, may be seen half done all the same; 0
    /// for none (NABSN). If not, at least `blocks`.
    pub boundary_blocks: u32,
    /// The same when power fails (NABSPF).
    pub boundary_power_fail_blocks: u32,
    /// The block of the first boundary (NABO).
    pub boundary_offset: u32,
}

impl Atomicity {
    /// One block, always.
    pub const BLOCK: Self = Self::of(1);

    /// So many blocks while there is power, one block always, wherever they lie.
    pub const fn of(blocks: u32) -> Self {
        Self {
            blocks,
            power_fail_blocks: 1,
            boundary_blocks: 0,
            boundary_power_fail_blocks: 0,
            boundary_offset: 0,
        }
    }
}

/// Block size and capacity: what an I/O is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) block_size: BlockSize,
    pub(crate) blocks: u64,
}

impl Geometry {
    /// The bytes of the device that `buffer_len` bytes from `lba` are.
    pub(crate) fn data(self, lba: Lba, buffer_len: usize) -> Result<Range<u64>, Status> {
        let len = buffer_len as u64;
        if len & u64::from(self.block_size.bytes() - 1) != 0 {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        self.range(lba, len >> self.block_size.shift())
    }

    /// The bytes of the device that `blocks` blocks from `lba` are.
    pub(crate) fn range(self, lba: Lba, blocks: u64) -> Result<Range<u64>, Status> {
        let end = lba.get().checked_add(blocks).filter(|end| *end <= self.blocks);
        let end = end.ok_or(Status::LBA_OUT_OF_RANGE.dnr())?;
        let shift = self.block_size.shift();
        Ok(lba.get() << shift..end << shift)
    }
}

/// What an I/O does. Buffers hold whole blocks; their length says how many.
#[derive(Debug)]
pub enum Op {
    /// Fills `buffer` from `lba` on.
    Read {
        /// First block.
        lba: Lba,
        /// Receives the data.
        buffer: IoBuf,
    },
    /// Writes `buffer` from `lba` on.
    Write {
        /// First block.
        lba: Lba,
        /// Holds the data.
        buffer: IoBuf,
        /// The data is on the media when the write completes.
        fua: bool,
    },
    /// Everything completed before this was submitted, on any queue, is on the media when it completes.
    Flush,
    /// Makes blocks read as zeroes.
    WriteZeroes {
        /// First block.
        lba: Lba,
        /// Number of blocks.
        blocks: u32,
        /// Releases their space where the device can (DEAC).
        deallocate: bool,
        /// The zeroes are on the media when it completes.
        fua: bool,
    },
    /// Advises that the content of blocks is no longer needed. They read as before or as zeroes.
    Deallocate {
        /// First block.
        lba: Lba,
        /// Number of blocks.
        blocks: u32,
    },
}

impl Op {
    /// Which of the five it is.
    pub fn kind(&self) -> OpKind {
        match self {
            Self::Read { .. } => OpKind::Read,
            Self::Write { .. } => OpKind::Write,
            Self::Flush => OpKind::Flush,
            Self::WriteZeroes { .. } => OpKind::WriteZeroes,
            Self::Deallocate { .. } => OpKind::Deallocate,
        }
    }

    /// The buffer, if it has one.
    pub fn into_buffer(self) -> Option<IoBuf> {
        match self {
            Self::Read { buffer, .. } | Self::Write { buffer, .. } => Some(buffer),
            Self::Flush | Self::WriteZeroes { .. } | Self::Deallocate { .. } => None,
        }
    }

    /// The blocks it touches; `None` for a flush.
    pub fn blocks(&self, block_size: BlockSize) -> Option<Range<u64>> {
        let (lba, count) = match self {
            Self::Read { lba, buffer } | Self::Write { lba, buffer, .. } => {
                (lba, buffer.len() as u64 >> block_size.shift())
            }
            Self::WriteZeroes { lba, blocks, .. } | Self::Deallocate { lba, blocks } => {
                (lba, u64::from(*blocks))
            }
            Self::Flush => return None,
        };
        Some(lba.get()..lba.get().saturating_add(count))
    }
}

/// The kinds of [`Op`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum OpKind {
    /// [`Op::Read`].
    Read,
    /// [`Op::Write`].
    Write,
    /// [`Op::Flush`].
    Flush,
    /// [`Op::WriteZeroes`].
    WriteZeroes,
    /// [`Op::Deallocate`].
    Deallocate,
}

impl OpKind {
    /// Number of kinds.
    pub const COUNT: usize = 5;
}

/// An I/O on its way into a queue. The tag is the submitter's, and comes back unchanged.
#[derive(Debug)]
pub struct Io {
    /// Comes back in [`IoDone::tag`]. Queues give it no meaning and do not need it to be unique.
    pub tag: u64,
    /// What to do.
    pub op: Op,
}

/// A finished I/O.
#[derive(Debug)]
pub struct IoDone {
    /// The tag of the [`Io`].
    pub tag: u64,
    /// How it went.
    pub status: Status,
    /// The buffer of the [`Io`], if it had one. A read's content is defined only when it succeeded.
    pub buffer: Option<IoBuf>,
}

/// What became of a submitted I/O.
#[derive(Debug)]
#[must_use]
pub enum Submission {
    /// It is finished.
    Done(IoDone),
    /// It comes out of [`Queue::poll`] later.
    Queued,
    /// The queue is full: the I/O, untouched. Submit it again after a later [`Queue::poll`].
    Busy(Io),
}

/// How many finished I/Os one [`Queue::poll`] hands over at most. The rest comes with the next.
pub const DONE_MAX: usize = 64;

/// Finished I/Os that a poll hands over.
#[derive(Default)]
pub struct Done(ArrayVec<IoDone, DONE_MAX>);

impl Done {
    /// An empty batch.
    pub const fn new() -> Self {
        Self(ArrayVec::new_const())
    }

    /// Whether no more fits.
    pub fn is_full(&self) -> bool {
        self.0.is_full()
    }

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many more fit.
    pub fn room(&self) -> usize {
        self.0.remaining_capacity()
    }

    /// Adds one. For queues; the batch must have room.
    pub fn push(&mut self, done: IoDone) {
        self.0.push(done);
    }

    /// Takes all out, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = IoDone> + '_ {
        self.0.drain(..)
    }
}

/// What a device needs from the reactor that opens a queue.
#[derive(Debug)]
pub struct QueueContext<'a> {
    /// Where the buffers of all I/O on this queue come from.
    pub pool: &'a DmaPool,
    /// How many I/Os the queue is to hold at once. Devices may round up.
    pub depth: u32,
}

/// A device, shared by all reactors.
pub trait Device: Send + Sync {
    /// What it is now.
    fn info(&self) -> DeviceInfo;

    /// A second name by which the registry finds it. It may change.
    fn alias(&self) -> Option<String> {
        None
    }

    /// Its health as it was lately, if it tells: asks nobody and waits for nothing.
    fn health(&self) -> Option<SmartLog> {
        None
    }

    /// A queue for the calling thread. Set-up only: it may block for milliseconds and allocates.
    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError>;

    /// What all its queues did since it was created, closed queues included.
    fn counters(&self) -> DeviceCounters;

    /// Looks at the backing again and says whether the capacity changed. Queues heed the new one at once.
    fn rescan(&self) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// Sets the capacity, where the device can. Queues heed the new one at once.
    fn resize(&self, _blocks: u64) -> Result<(), DeviceError> {
        Err(DeviceError::FixedSize { name: self.info().name.to_string() })
    }
}

/// One reactor's submission and completion with a device. Used only on the thread that opened it.
///
/// Dropping a queue waits for the I/O the kernel or the device still works on; what has not been handed over by then is
/// dropped, buffers included.
pub trait Queue {
    /// Starts an I/O, or finishes it at once. I/Os may overtake each other, flushes included.
    fn submit(&mut self, io: Io) -> Submission;

    /// Whether the content lies in memory, so that [`Self::lend`] and [`Self::take_over`] ever do something. Constant over the
    /// queue's life.
    fn is_memory(&self) -> bool {
        false
    }

    /// The content of `bytes` bytes from `lba` as a [lent](IoBuf::is_lent) buffer, without a copy and without waiting, where
    /// the device can. It counts as a read. The holder lets go of it within the turn: writes to it wait. `None`: submit a read,
    /// which also says what is wrong with the range.
    #[inline]
    fn lend(&mut self, _lba: Lba, _bytes: u32) -> Option<IoBuf> {
        None
    }

    /// Takes over a write without FUA whose host is answered at once: nobody reads the blocks before they are written, which is in one of
    /// the next turns. Only for content that lives no longer than the process. It counts as a write. `Err`: the buffer,
    /// untouched; submit a write, which also says what is wrong with the range.
    #[inline]
    fn take_over(&mut self, _lba: Lba, buffer: IoBuf) -> Result<(), IoBuf> {
        Err(buffer)
    }

    /// A write of `bytes` bytes to `lba` will probably be submitted soon. A hint: nothing is checked, nothing may depend on it.
    #[inline]
    fn expect_write(&mut self, _lba: Lba, _bytes: u32) {}

    /// A read of `bytes` bytes from `lba` will probably be [lent](Self::lend) soon, after a few others. A hint, as above.
    #[inline]
    fn expect_read(&mut self, _lba: Lba, _bytes: u32) {}

    /// Passes on everything submitted since the last call. Once per turn.
    fn kick(&mut self);

    /// Adds finished I/Os to `done`, as many as there are and fit.
    fn poll(&mut self, done: &mut Done);

    /// Becomes readable when [`Self::poll`] has something new while the reactor sleeps. `None`: nothing ever waits.
    /// Constant over the queue's life.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The reactor is about to sleep on [`Self::wait_fd`]: passes on what is pending, then says whether sleeping is
    /// right (`false`: [`Self::poll`] may have work that nothing would wake for).
    fn before_sleep(&mut self) -> bool;

    /// Whether it has work of its own beside I/O, such as keeping a connection: then it is polled every turn for as long as
    /// it is open, and asked before every sleep. Constant over the queue's life.
    fn has_background(&self) -> bool {
        false
    }

    /// I/Os that were accepted and not handed over yet, and writes that were taken over and are not done yet.
    fn in_flight(&self) -> usize;
}
