//! A device in memory. Thin: blocks that were never written, or were deallocated, take no space and read as zeroes.
//!
//! The content is cut into stripes of 64 KiB, each behind a lock of its own, so concurrent access from
//! several reactors is ordered per stripe and never undefined. An uncontended lock costs about 10 ns; a holder copies
//! at most one stripe. An I/O that spans stripes takes the next stripe's lock before it lets go of the last one:
//! overlapping I/Os cannot overtake each other, so reads and writes of any size are atomic. Content lies on huge pages
//! where the system gives them: a random access then costs no walk of the page table.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nvme::Status;
use reactors::IoBuf;
use reactors::dma::{HugePiece, REGION_SIZE};
use spin::mutex::SpinMutex;
use uuid::Uuid;

use super::api::Geometry;
use super::counters::{CounterBook, Meter};
use super::null::{check_size, finish_inline};
use super::{
    BlockSize, Device, DeviceCounters, DeviceError, DeviceInfo, Done, Io, IoDone, Lba, Op, Operations, Queue,
    QueueContext, Submission,
};

/// Bytes of a stripe: large enough that most I/O takes one lock, small enough that reactors rarely meet.
const STRIPE_BYTES: usize = 64 << 10;
const STRIPE_SHIFT: u32 = STRIPE_BYTES.trailing_zeros();
/// Stripes whose locks are made together, on first use: 64 MiB of content for 40 KiB of locks.
const GROUP_STRIPES: usize = 1024;
const GROUP_SHIFT: u32 = STRIPE_SHIFT + GROUP_STRIPES.trailing_zeros();
/// Largest device: its table of groups, 16 MiB, is made at once.
const BYTES_MAX: u64 = 64 << 40;
/// Stripes that zeroing or deallocating clears before it lets the reactor go on (< 1 ms). A group that was never
/// written counts as one.
const STEP_STRIPES: usize = GROUP_STRIPES;
/// Writes are atomic at any size; this is the largest that Identify can express (NAWUN is 16 bits, zero-based).
pub(super) const ATOMIC_BLOCKS: u32 = 1 << 16;

/// A device in memory.
pub struct MemoryDevice {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    uuid: Uuid,
    geometry: Geometry,
    content: Content,
    counters: CounterBook,
}

impl MemoryDevice {
    /// A device of `blocks` blocks, all zeroes.
    pub fn new(name: &str, block_size: BlockSize, blocks: u64, uuid: Uuid) -> Result<Self, DeviceError> {
        check_size(name, block_size, blocks)?;
        let max = BYTES_MAX >> block_size.shift();
        if blocks > max {
            return Err(DeviceError::TooLarge { name: name.into(), blocks, max });
        }
        let shared = Shared {
            name: name.into(),
            uuid,
            geometry: Geometry { block_size, blocks },
            content: Content::new(blocks << block_size.shift()),
            counters: CounterBook::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Bytes of the stripes that hold written blocks.
    pub fn bytes_allocated(&self) -> u64 {
        self.shared.content.stripes_allocated.load(Relaxed) << STRIPE_SHIFT
    }
}

impl Device for MemoryDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: Arc::clone(&self.shared.name),
            product: "Malloc disk",
            uuid: self.shared.uuid,
            block_size: self.shared.geometry.block_size,
            blocks: self.shared.geometry.blocks,
            write_cache: false,
            operations: Operations::all() - Operations::FLUSH,
            atomic_blocks: ATOMIC_BLOCKS,
            preferred_blocks: 1,
        }
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        let meter = self.shared.counters.open();
        let clearing = VecDeque::with_capacity(context.depth.max(1) as usize);
        Ok(Box::new(MemoryQueue { shared: Arc::clone(&self.shared), meter, clearing }))
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.counters.sum()
    }
}

/// Stripes that share one mapping, so that their content lies on one huge page.
const REGION_STRIPES: usize = REGION_SIZE / STRIPE_BYTES;

/// Invariant: memory of a stripe that is not `written` is zero.
#[derive(Default)]
struct Stripe {
    memory: Option<HugePiece>,
    written: bool,
}

/// Memory of a region's stripes that were never written; empty before the first of them is.
type Spare = Mutex<Vec<Option<HugePiece>>>;

struct Group {
    /// Unlocked by a plain store, which does not wait for the written content to leave the core.
    stripes: Box<[SpinMutex<Stripe>]>,
    spare: Box<[Spare]>,
}

impl Group {
    fn new() -> Self {
        Self {
            stripes: (0..GROUP_STRIPES).map(|_| SpinMutex::default()).collect(),
            spare: (0..GROUP_STRIPES / REGION_STRIPES).map(|_| Spare::default()).collect(),
        }
    }

    /// The memory of a stripe that has none yet; taken once.
    #[cold]
    fn take_memory(&self, stripe: usize) -> Result<HugePiece, Status> {
        let mut spare = self.spare[stripe / REGION_STRIPES].lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_empty() {
            let pieces = HugePiece::region(STRIPE_BYTES).map_err(|_| Status::CAPACITY_EXCEEDED)?;
            *spare = pieces.into_iter().map(Some).collect();
        }
        spare[stripe % REGION_STRIPES].take().ok_or(Status::INTERNAL_ERROR)
    }
}

struct Content {
    groups: Box<[OnceLock<Group>]>,
    stripes_allocated: AtomicU64,
}

/// Part of an I/O that lies in one stripe.
struct Piece {
    /// Number of the stripe.
    stripe: u64,
    /// Bytes within the stripe.
    bytes: Range<usize>,
    /// Where the piece starts in the I/O.
    position: usize,
}

/// Cuts a range of bytes of the device at stripe boundaries.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Piece> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        (at < range.end).then(|| {
            let start = within_stripe(at);
            let end = (start as u64 + (range.end - at)).min(STRIPE_BYTES as u64);
            let piece = Piece {
                stripe: at >> STRIPE_SHIFT,
                bytes: start..to_usize(end),
                position: to_usize(at - range.start),
            };
            at += end - start as u64;
            piece
        })
    })
}

fn within_stripe(at: u64) -> usize {
    to_usize(at & (STRIPE_BYTES as u64 - 1))
}

/// Offsets within a stripe, a table or a buffer: always small enough.
#[allow(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits on every platform with io_uring that is built"
)]
const fn to_usize(value: u64) -> usize {
    value as usize
}

impl Content {
    fn new(bytes: u64) -> Self {
        let groups = to_usize(bytes.div_ceil(1 << GROUP_SHIFT));
        Self { groups: (0..groups).map(|_| OnceLock::new()).collect(), stripes_allocated: AtomicU64::new(0) }
    }

    /// The group of a stripe, and its place there.
    fn place(&self, stripe: u64) -> (&Group, usize) {
        let group = &self.groups[to_usize(stripe >> (GROUP_SHIFT - STRIPE_SHIFT))];
        (group.get_or_init(Group::new), to_usize(stripe) % GROUP_STRIPES)
    }

    fn read(&self, range: Range<u64>, buffer: &mut IoBuf) {
        let mut held = None;
        for piece in pieces(range) {
            let (group, at) = self.place(piece.stripe);
            let stripe = group.stripes[at].lock();
            match &stripe.memory {
                Some(memory) if stripe.written => buffer.copy_in(piece.position, &memory[piece.bytes]),
                _ => buffer.fill_zero(piece.position, piece.bytes.len()),
            }
            held = Some(stripe);
        }
        drop(held);
    }

    fn write(&self, range: Range<u64>, buffer: &IoBuf) -> Result<(), Status> {
        let mut held = None;
        for piece in pieces(range) {
            let (group, at) = self.place(piece.stripe);
            let mut stripe = group.stripes[at].lock();
            let Stripe { memory, written } = &mut *stripe;
            let memory = match memory {
                Some(memory) => memory,
                empty => empty.insert(group.take_memory(at)?),
            };
            if !*written {
                *written = true;
                self.stripes_allocated.fetch_add(1, Relaxed);
            }
            buffer.copy_out(piece.position, &mut memory[piece.bytes]);
            held = Some(stripe);
        }
        drop(held);
        Ok(())
    }

    /// Makes the first part of `range` read as zeroes; what is left. Whole stripes are released.
    fn clear_step(&self, range: Range<u64>) -> Range<u64> {
        let (mut at, mut budget) = (range.start, STEP_STRIPES);
        while at < range.end && budget > 0 {
            let group = at >> GROUP_SHIFT;
            let end = range.end.min((group + 1) << GROUP_SHIFT);
            budget = match self.groups[to_usize(group)].get() {
                Some(group) => {
                    self.clear_in(group, at..end);
                    budget.saturating_sub(GROUP_STRIPES)
                }
                None => budget - 1,
            };
            at = end;
        }
        at..range.end
    }

    /// Clears a range that lies in one group.
    fn clear_in(&self, group: &Group, range: Range<u64>) {
        for piece in pieces(range) {
            let mut stripe = group.stripes[to_usize(piece.stripe) % GROUP_STRIPES].lock();
            let Stripe { memory: Some(memory), written: written @ true } = &mut *stripe else { continue };
            if piece.bytes.len() == STRIPE_BYTES {
                memory.clear();
                *written = false;
                self.stripes_allocated.fetch_sub(1, Relaxed);
            } else {
                memory[piece.bytes].fill(0);
            }
        }
    }
}

/// A zeroing that takes more than one step.
struct Clearing {
    io: Io,
    bytes: u64,
    left: Range<u64>,
}

struct MemoryQueue {
    shared: Arc<Shared>,
    meter: Meter,
    /// At most as many as there is capacity.
    clearing: VecDeque<Clearing>,
}

impl MemoryQueue {
    fn finish(&self, io: Io, result: Result<u64, Status>) -> IoDone {
        finish_inline(&self.meter, io, result)
    }

    fn read_or_write(&self, op: &mut Op) -> Result<u64, Status> {
        let Shared { geometry, content, .. } = &*self.shared;
        match op {
            Op::Read { lba, buffer } => {
                content.read(geometry.data(*lba, buffer.len())?, buffer);
                Ok(buffer.len() as u64)
            }
            Op::Write { lba, buffer, .. } => {
                content.write(geometry.data(*lba, buffer.len())?, buffer)?;
                Ok(buffer.len() as u64)
            }
            Op::Flush | Op::WriteZeroes { .. } | Op::Deallocate { .. } => Ok(0),
        }
    }

    fn clear(&mut self, io: Io, lba: Lba, blocks: u32) -> Submission {
        let range = match self.shared.geometry.range(lba, u64::from(blocks)) {
            Ok(range) => range,
            Err(status) => return Submission::Done(self.finish(io, Err(status))),
        };
        if self.clearing.len() == self.clearing.capacity() {
            return Submission::Busy(io);
        }
        let bytes = range.end - range.start;
        let left = self.shared.content.clear_step(range);
        if left.is_empty() {
            return Submission::Done(self.finish(io, Ok(bytes)));
        }
        self.clearing.push_back(Clearing { io, bytes, left });
        Submission::Queued
    }
}

impl Queue for MemoryQueue {
    #[inline]
    fn submit(&mut self, mut io: Io) -> Submission {
        match io.op {
            Op::WriteZeroes { lba, blocks, .. } | Op::Deallocate { lba, blocks } => {
                self.clear(io, lba, blocks)
            }
            Op::Read { .. } | Op::Write { .. } | Op::Flush => {
                let result = self.read_or_write(&mut io.op);
                Submission::Done(self.finish(io, result))
            }
        }
    }

    fn kick(&mut self) {}

    /// One step of the oldest clearing a turn.
    fn poll(&mut self, done: &mut Done) {
        let Some(mut clearing) = self.clearing.pop_front() else { return };
        if done.is_full() {
            return self.clearing.push_front(clearing);
        }
        clearing.left = self.shared.content.clear_step(clearing.left);
        if clearing.left.is_empty() {
            done.push(self.finish(clearing.io, Ok(clearing.bytes)));
        } else {
            self.clearing.push_back(clearing);
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn before_sleep(&mut self) -> bool {
        self.clearing.is_empty()
    }

    fn in_flight(&self) -> usize {
        self.clearing.len()
    }
}
