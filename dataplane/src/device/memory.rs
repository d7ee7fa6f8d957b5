//! A device in memory. Thin: blocks that were never written, or were deallocated, take no space and read as zeroes.
//!
//! The content lies in [`Region`]s of one huge page each: a random access costs no walk of the page table, concurrent
//! access from several reactors is ordered and never undefined, and reads and writes of any size are atomic. What a host
//! reads is [lent](Queue::lend) to the connection rather than copied. A write or a zeroing that meets lent bytes waits in its
//! queue until they are sent. A small write is [taken over](Queue::take_over): its host is answered before the memory, which no
//! cache holds, is there to be written. What meets such a write in another queue waits as well.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use nvme::Status;
use reactors::IoBuf;
use reactors::dma::{CHUNK_SIZE, IO_SIZE_MAX, REGION_SIZE, ReadGuard, Region, Reservation, prefetch};
use uuid::Uuid;

use super::api::Geometry;
use super::counters::{CounterBook, Meter};
use super::null::{check_size, finish_inline};
use super::{
    Atomicity, BlockSize, Device, DeviceCounters, DeviceError, DeviceInfo, Done, Io, Lba, Op, OpKind,
    Operations, Queue, QueueContext, Submission,
};

const REGION_SHIFT: u32 = REGION_SIZE.trailing_zeros();
/// Regions whose places are made together, on first use: 64 MiB of content.
const GROUP_REGIONS: usize = 32;
const GROUP_SHIFT: u32 = REGION_SHIFT + GROUP_REGIONS.trailing_zeros();
/// Largest device: its table of groups, 48 MiB, is made at once.
const BYTES_MAX: u64 = 64 << 40;
/// Bytes that zeroing or deallocating clears before it lets the reactor go on (< 1 ms). A group that was never
/// written counts as a chunk.
const STEP_CHUNKS: usize = 1024;
/// Writes are atomic at any size; this is the largest that Identify can express (NAWUN is 16 bits, zero-based).
pub(super) const ATOMIC: Atomicity = Atomicity::of(1 << 16);
/// I/O up to this size comes in large numbers and at random: worth fetching ahead of the copy, or to put off. When it is longer
/// the processor fetches ahead by itself.
const SMALL_BYTES_MAX: usize = 8 << 10;
const _: () = assert!(IO_SIZE_MAX <= REGION_SIZE, "an I/O lies in two regions at most");

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

    /// Bytes of the chunks that hold written blocks.
    pub fn bytes_allocated(&self) -> u64 {
        self.shared.content.chunks_written.load(Relaxed) * CHUNK_SIZE as u64
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
            atomic: ATOMIC,
            preferred_blocks: 1,
        }
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        let meter = self.shared.counters.open();
        let waiting = VecDeque::with_capacity(context.depth.max(1) as usize);
        Ok(Box::new(MemoryQueue {
            shared: Arc::clone(&self.shared),
            meter,
            waiting,
            ahead: None,
            expects: false,
            taken: None,
        }))
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.counters.sum()
    }
}

/// The place of a region.
#[derive(Default)]
struct Place {
    /// Absent before the first write.
    region: OnceLock<Arc<Region>>,
    /// A bit for each chunk that may hold something else than zeroes. Changed under the chunk's writer lock.
    written: AtomicU32,
}

const _: () = assert!(REGION_SIZE / CHUNK_SIZE <= 32, "a bit for each chunk");

/// The bits of the chunks that `bytes` of a region touch.
fn chunk_bits(bytes: &Range<usize>) -> u32 {
    let (first, end) = (bytes.start / CHUNK_SIZE, bytes.end.div_ceil(CHUNK_SIZE));
    (u32::MAX >> (32 - (end - first))) << first
}

impl Place {
    fn region(&self) -> Result<&Arc<Region>, Status> {
        if let Some(region) = self.region.get() {
            return Ok(region);
        }
        let region = Region::map().map_err(|_| Status::CAPACITY_EXCEEDED)?;
        Ok(self.region.get_or_init(|| region))
    }
}

type Group = Box<[Place]>;

struct Content {
    groups: Box<[OnceLock<Group>]>,
    chunks_written: AtomicU64,
}

/// Part of an I/O that lies in one region.
struct Piece {
    /// Number of the region.
    region: u64,
    /// Bytes within the region.
    bytes: Range<usize>,
}

/// The first bytes of a range that lie in one piece of `1 << shift` bytes: the number of that piece, and where in it.
fn first_piece(range: &Range<u64>, shift: u32) -> (u64, Range<usize>) {
    let start = range.start & ((1 << shift) - 1);
    let end = (start + (range.end - range.start)).min(1 << shift);
    (range.start >> shift, to_usize(start)..to_usize(end))
}

/// Cuts the range of an I/O at the region boundary that it may have inside.
#[inline]
fn pieces(range: Range<u64>) -> (Piece, Option<Piece>) {
    let (region, bytes) = first_piece(&range, REGION_SHIFT);
    let rest = range.start + bytes.len() as u64..range.end;
    let second = (!rest.is_empty()).then(|| {
        let (region, bytes) = first_piece(&rest, REGION_SHIFT);
        Piece { region, bytes }
    });
    (Piece { region, bytes }, second)
}

/// Offsets within a region, a table or a buffer: always small enough.
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
        Self { groups: (0..groups).map(|_| OnceLock::new()).collect(), chunks_written: AtomicU64::new(0) }
    }

    /// The place of a region, made if need be.
    #[inline]
    fn place(&self, region: u64) -> &Place {
        let group = &self.groups[to_usize(region) / GROUP_REGIONS];
        let group = group.get_or_init(|| (0..GROUP_REGIONS).map(|_| Place::default()).collect());
        &group[to_usize(region) % GROUP_REGIONS]
    }

    /// A region that was ever written to.
    #[inline]
    fn region(&self, region: u64) -> Option<&Arc<Region>> {
        let group = self.groups[to_usize(region) / GROUP_REGIONS].get()?;
        group[to_usize(region) % GROUP_REGIONS].region.get()
    }

    fn lend(&self, range: Range<u64>) -> Option<IoBuf> {
        match pieces(range) {
            (Piece { region, bytes }, None) => self.region(region)?.lend(bytes),
            _ => None,
        }
    }

    /// Where what [`Self::lend`] would lend begins.
    fn address(&self, range: Range<u64>) -> Option<*const u8> {
        let (Piece { region, bytes }, _) = pieces(range);
        Some(self.region(region)?.address(bytes.start))
    }

    fn prefetch_write(&self, range: Range<u64>) {
        let (Piece { region, bytes }, _) = pieces(range);
        if let Some(region) = self.region(region) {
            region.prefetch_write(bytes);
        }
    }

    /// `None`, and nothing is read, when a part of the range is about to be written.
    fn read(&self, range: Range<u64>, buffer: &mut IoBuf) -> Option<()> {
        let (first, second) = pieces(range);
        let split = first.bytes.len();
        // Both parts are held before either is copied: a write to both is seen whole or not at all.
        let held = self.held(first)?;
        let next = match second {
            Some(piece) => Some((piece.bytes.len(), self.held(piece)?)),
            None => None,
        };
        match &held {
            Some(bytes) => buffer.copy_in(0, bytes),
            None => buffer.fill_zero(0, split),
        }
        match &next {
            Some((_, Some(bytes))) => buffer.copy_in(split, bytes),
            Some((len, None)) => buffer.fill_zero(split, *len),
            None => {}
        }
        Some(())
    }

    /// The bytes of a piece; `Some(None)` where there are none, `None` when they are about to be written.
    #[allow(clippy::option_option, reason = "to be used with `?`")]
    fn held(&self, Piece { region, bytes }: Piece) -> Option<Option<ReadGuard<'_>>> {
        match self.region(region) {
            Some(region) => Some(Some(region.try_read(bytes)?)),
            None => Some(None),
        }
    }

    /// Locks a range that was written before, to write it later.
    #[inline]
    fn reserve(&self, range: Range<u64>) -> Option<Reservation> {
        let (Piece { region, bytes }, None) = pieces(range) else { return None };
        let bits = chunk_bits(&bytes);
        let place = self.place(region);
        let reservation = place.region.get()?.reserve(bytes)?;
        // Memory that is new would have to be found first: what may fail is not put off.
        (place.written.load(Relaxed) & bits == bits).then_some(reservation)
    }

    /// `false`, and nothing is written, when a part of the range is lent or about to be written.
    fn write(&self, range: Range<u64>, buffer: &IoBuf) -> Result<bool, Status> {
        let (first, second) = pieces(range);
        let place = self.place(first.region);
        let (split, bits) = (first.bytes.len(), chunk_bits(&first.bytes));
        let Some(mut held) = place.region()?.try_write(first.bytes) else { return Ok(false) };
        if let Some(Piece { region, bytes }) = second {
            let (place, bits) = (self.place(region), chunk_bits(&bytes));
            let Some(mut held) = place.region()?.try_write(bytes) else { return Ok(false) };
            self.mark_written(place, bits);
            buffer.copy_out(split, &mut held);
        }
        self.mark_written(place, bits);
        buffer.copy_out(0, &mut held);
        Ok(true)
    }

    #[inline]
    fn mark_written(&self, place: &Place, bits: u32) {
        if place.written.load(Relaxed) & bits != bits {
            let before = place.written.fetch_or(bits, Relaxed);
            self.chunks_written.fetch_add(u64::from((bits & !before).count_ones()), Relaxed);
        }
    }

    /// Makes the first part of `range` read as zeroes; what is left. Whole chunks are released. Stops at bytes that are in use.
    fn clear_step(&self, mut range: Range<u64>) -> Range<u64> {
        for _ in 0..STEP_CHUNKS {
            if range.is_empty() {
                break;
            }
            let (group, bytes) = first_piece(&range, GROUP_SHIFT);
            let cleared = match self.groups[to_usize(group)].get() {
                None => bytes.len(),
                Some(group) => match self.clear_chunk(group, &range) {
                    Some(cleared) => cleared,
                    None => break,
                },
            };
            range.start += cleared as u64;
        }
        range
    }

    /// Clears what of the first chunk of `range` lies in it: how many bytes. `None` when they are in use.
    fn clear_chunk(&self, group: &Group, range: &Range<u64>) -> Option<usize> {
        let (region, bytes) = first_piece(range, REGION_SHIFT);
        let place = &group[to_usize(region) % GROUP_REGIONS];
        let Some(region) = place.region.get() else { return Some(bytes.len()) };
        let end = bytes.end.min((bytes.start / CHUNK_SIZE + 1) * CHUNK_SIZE);
        let bytes = bytes.start..end;
        let bit = chunk_bits(&bytes);
        let mut held = region.try_write(bytes.clone())?;
        if place.written.load(Relaxed) & bit == 0 {
            return Some(bytes.len());
        }
        if bytes.len() == CHUNK_SIZE {
            held.clear();
            place.written.fetch_and(!bit, Relaxed);
            self.chunks_written.fetch_sub(1, Relaxed);
        } else {
            held.fill(0);
        }
        Some(bytes.len())
    }
}

/// An I/O that was not finished inside its submission.
enum Waiting {
    /// A read or write whose range is in use.
    Data(Io),
    /// A zeroing that takes more than one step, of `bytes` in all.
    Clear { io: Io, bytes: u64, left: Range<u64> },
}

struct MemoryQueue {
    shared: Arc<Shared>,
    meter: Meter,
    /// At most as many as there is capacity.
    waiting: VecDeque<Waiting>,
    /// Bytes of the last buffer lent or expected that were not fetched ahead yet: a processor has room for half a block at a time.
    ahead: Option<(*const u8, usize)>,
    /// Reads of this turn are told beforehand: those that are lent were fetched then.
    expects: bool,
    taken: Option<Taken>,
}

/// A write that was taken over.
struct Taken {
    place: Reservation,
    buffer: IoBuf,
    /// The turn that answers its host was kicked; the next kick is of a later one.
    kicked: bool,
}

impl MemoryQueue {
    fn finish(&self, io: Io, result: Result<u64, Status>) -> Submission {
        Submission::Done(finish_inline(&self.meter, io, result))
    }

    fn read(&mut self, mut io: Io) -> Submission {
        let Shared { geometry, content, .. } = &*self.shared;
        let Op::Read { lba, buffer } = &mut io.op else { return self.finish(io, Ok(0)) };
        let bytes = buffer.len() as u64;
        match geometry.data(*lba, buffer.len()).map(|range| content.read(range, buffer)) {
            Ok(Some(())) => self.finish(io, Ok(bytes)),
            Ok(None) => self.wait(io),
            Err(status) => self.finish(io, Err(status)),
        }
    }

    fn write(&mut self, io: Io) -> Submission {
        let Shared { geometry, content, .. } = &*self.shared;
        let Op::Write { lba, buffer, .. } = &io.op else { return self.finish(io, Ok(0)) };
        let bytes = buffer.len() as u64;
        match geometry.data(*lba, buffer.len()).and_then(|range| content.write(range, buffer)) {
            Ok(true) => self.finish(io, Ok(bytes)),
            Ok(false) => self.wait(io),
            Err(status) => self.finish(io, Err(status)),
        }
    }

    #[cold]
    fn wait(&mut self, io: Io) -> Submission {
        if self.waiting.len() == self.waiting.capacity() {
            return Submission::Busy(io);
        }
        self.waiting.push_back(Waiting::Data(io));
        Submission::Queued
    }

    fn clear(&mut self, io: Io, lba: Lba, blocks: u32) -> Submission {
        let range = match self.shared.geometry.range(lba, u64::from(blocks)) {
            Ok(range) => range,
            Err(status) => return self.finish(io, Err(status)),
        };
        if self.waiting.len() == self.waiting.capacity() {
            return Submission::Busy(io);
        }
        let bytes = range.end - range.start;
        self.clear_on(io, bytes, range)
    }

    fn clear_on(&mut self, io: Io, bytes: u64, left: Range<u64>) -> Submission {
        let left = self.shared.content.clear_step(left);
        if left.is_empty() {
            return self.finish(io, Ok(bytes));
        }
        self.waiting.push_back(Waiting::Clear { io, bytes, left });
        Submission::Queued
    }

    /// Fetches ahead half of a small buffer now, and the rest when the next one is asked for.
    #[inline]
    fn prefetch_half(&mut self, start: *const u8, len: usize) {
        self.prefetch_rest();
        if len <= SMALL_BYTES_MAX {
            prefetch(start, len / 2);
            self.ahead = Some((start.wrapping_add(len / 2), len - len / 2));
        }
    }

    /// Fetches ahead what the last buffer left.
    #[inline]
    fn prefetch_rest(&mut self) {
        if let Some((start, len)) = self.ahead.take() {
            prefetch(start, len);
        }
    }

    /// Carries out the write that was taken over. Before any other I/O of this queue: it never waits for itself.
    #[inline]
    fn carry_out(&mut self) {
        if let Some(Taken { mut place, buffer, .. }) = self.taken.take() {
            buffer.copy_out(0, place.bytes());
        }
    }
}

impl Drop for MemoryQueue {
    fn drop(&mut self) {
        self.carry_out();
    }
}

impl Queue for MemoryQueue {
    fn is_memory(&self) -> bool {
        true
    }

    #[inline]
    fn lend(&mut self, lba: Lba, bytes: u32) -> Option<IoBuf> {
        self.carry_out();
        let Shared { geometry, content, .. } = &*self.shared;
        let buffer = content.lend(geometry.data(lba, bytes as usize).ok()?)?;
        self.meter.done(OpKind::Read, u64::from(bytes));
        match self.expects {
            true => self.prefetch_rest(),
            false => self.prefetch_half(buffer.part(0).as_ptr(), buffer.len()),
        }
        Some(buffer)
    }

    #[inline]
    fn take_over(&mut self, lba: Lba, buffer: IoBuf) -> Result<(), IoBuf> {
        self.carry_out();
        let Shared { geometry, content, .. } = &*self.shared;
        let bytes = buffer.len();
        let place = match geometry.data(lba, bytes) {
            Ok(range) if bytes <= SMALL_BYTES_MAX => content.reserve(range),
            _ => None,
        };
        let Some(place) = place else { return Err(buffer) };
        self.taken = Some(Taken { place, buffer, kicked: false });
        self.meter.done(OpKind::Write, bytes as u64);
        Ok(())
    }

    #[inline]
    fn expect_write(&mut self, lba: Lba, bytes: u32) {
        let Shared { geometry, content, .. } = &*self.shared;
        if bytes as usize <= SMALL_BYTES_MAX
            && let Ok(range) = geometry.data(lba, bytes as usize)
        {
            content.prefetch_write(range);
        }
    }

    #[inline]
    fn expect_read(&mut self, lba: Lba, bytes: u32) {
        let Shared { geometry, content, .. } = &*self.shared;
        let range = geometry.data(lba, bytes as usize).ok();
        if let Some(start) = range.and_then(|range| content.address(range)) {
            self.expects = true;
            self.prefetch_half(start, bytes as usize);
        }
    }

    #[inline]
    fn submit(&mut self, io: Io) -> Submission {
        self.carry_out();
        match io.op {
            Op::Read { .. } => self.read(io),
            Op::Write { .. } => self.write(io),
            Op::Flush => self.finish(io, Ok(0)),
            Op::WriteZeroes { lba, blocks, .. } | Op::Deallocate { lba, blocks } => {
                self.clear(io, lba, blocks)
            }
        }
    }

    fn kick(&mut self) {
        self.expects = false;
        self.prefetch_rest();
        match &mut self.taken {
            Some(taken) if !taken.kicked => taken.kicked = true,
            _ => self.carry_out(),
        }
    }

    /// One attempt at, or one step of, each that waits.
    fn poll(&mut self, done: &mut Done) {
        for _ in 0..self.waiting.len().min(done.room()) {
            let Some(waiting) = self.waiting.pop_front() else { return };
            let outcome = match waiting {
                Waiting::Data(io) if matches!(io.op, Op::Read { .. }) => self.read(io),
                Waiting::Data(io) => self.write(io),
                Waiting::Clear { io, bytes, left } => self.clear_on(io, bytes, left),
            };
            if let Submission::Done(finished) = outcome {
                done.push(finished);
            }
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn before_sleep(&mut self) -> bool {
        self.carry_out();
        self.waiting.is_empty()
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + usize::from(self.taken.is_some())
    }
}
