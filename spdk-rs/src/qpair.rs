//! One thread's queue pair with one namespace.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::admin::raw as raw_command;
use crate::command::{Command, Completion, Operation};
use crate::dma::DmaMemory;
use crate::error::{QueueError, RejectReason, Rejected};
use crate::late::LateCommand;
use crate::slots::{Slot, Slots, completed, next_segment, reset_segments};
use crate::{Controller, PollGroup, sys};

/// Bits of dword 12 (NVM command set, Write and Write Zeroes commands).
const FUA: u32 = 1 << 30;
const DEALLOCATE: u32 = 1 << 25;
/// Attribute of Dataset Management: deallocate.
const AD: u32 = 1 << 2;

/// How a queue pair is opened.
#[derive(Clone, Default)]
pub struct QueueOptions {
    /// Commands at once; at least 1, at most what the controller has room for.
    pub depth: u32,
    /// Longest buffer in bytes: SPDK keeps room for the pieces that it is split into. 0: none is split.
    pub buffer_bytes_max: u32,
    /// Commands reach the device with the next [`QueuePair::process_completions`]: one doorbell for all of them.
    pub batched: bool,
    /// Polled with others.
    pub group: Option<PollGroup>,
}

/// A queue pair. Used on the thread that opened it; dropping it aborts what is in flight.
pub struct QueuePair<B: DmaMemory> {
    raw: NonNull<sys::spdk_nvme_qpair>,
    namespace: NonNull<sys::spdk_nvme_ns>,
    block_size: u32,
    slots: Slots<B>,
    controller: Controller,
    group: Option<PollGroup>,
    /// Left alone, so that the controller can be reset.
    parked: bool,
    /// `!Send` and `!Sync`: SPDK's queue pairs belong to one thread.
    _one_thread: PhantomData<*mut ()>,
}

impl Controller {
    /// Opens a queue pair with a namespace, for the calling thread. It may take milliseconds.
    pub fn open_queue_pair<B: DmaMemory>(
        &self,
        namespace: u32,
        options: &QueueOptions,
    ) -> Result<QueuePair<B>, QueueError> {
        let _serial = self.0.serialise();
        let found = self.0.namespace(namespace)?;
        // SAFETY: a namespace of the attached controller.
        let block_size = unsafe { sys::spdk_nvme_ns_get_extended_sector_size(found.as_ptr()) };
        let mut raw_options = sys::spdk_nvme_io_qpair_opts::default();
        // SAFETY: fills a structure of ours, whose size is given.
        unsafe {
            sys::spdk_nvme_ctrlr_get_default_io_qpair_opts(
                self.0.raw.as_ptr(),
                &raw mut raw_options,
                size_of::<sys::spdk_nvme_io_qpair_opts>(),
            )
        };
        // A ring of N entries holds N - 1 commands.
        let depth = options.depth.clamp(1, raw_options.io_queue_size.saturating_sub(1).max(1));
        let split = options.buffer_bytes_max.div_ceil(self.transfer_bytes_max().max(1));
        raw_options.io_queue_size = (depth + 1).max(2);
        raw_options.io_queue_requests = depth.saturating_mul(split + 1).max(raw_options.io_queue_size);
        raw_options.create_only = true;
        raw_options.__bindgen_anon_1.delay_cmd_submit = options.batched;
        // SAFETY: the controller is attached, the options are of the release's own layout and size.
        let raw = unsafe {
            sys::spdk_nvme_ctrlr_alloc_io_qpair(
                self.0.raw.as_ptr(),
                &raw const raw_options,
                size_of::<sys::spdk_nvme_io_qpair_opts>(),
            )
        };
        let raw = NonNull::new(raw).ok_or(QueueError::NoQueue)?;
        if let Err(error) = self.connect(raw, options.group.as_ref()) {
            // SAFETY: allocated above, given to nobody, freed once.
            unsafe { sys::spdk_nvme_ctrlr_free_io_qpair(raw.as_ptr()) };
            return Err(error);
        }
        self.0.queue_pair_opened();
        Ok(QueuePair {
            raw,
            namespace: found,
            block_size,
            slots: Slots::new(depth),
            controller: self.clone(),
            group: options.group.clone(),
            parked: false,
            _one_thread: PhantomData,
        })
    }

    fn connect(
        &self,
        qpair: NonNull<sys::spdk_nvme_qpair>,
        group: Option<&PollGroup>,
    ) -> Result<(), QueueError> {
        if let Some(group) = group {
            group.add(qpair)?;
        }
        // SAFETY: the queue pair was just allocated on this controller, and is not connected.
        match unsafe { sys::spdk_nvme_ctrlr_connect_io_qpair(self.0.raw.as_ptr(), qpair.as_ptr()) } {
            0 => Ok(()),
            result => Err(QueueError::Connect(result)),
        }
    }
}

impl<B: DmaMemory> QueuePair<B> {
    /// The controller.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Commands that were taken and not taken back by [`Self::pop`] yet.
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// Becomes readable when there are completions, where the release and the controller have interrupts.
    #[cfg(spdk_qpair_fd)]
    pub fn event_fd(&self) -> Option<std::os::fd::RawFd> {
        // SAFETY: the queue pair is open.
        let fd = unsafe { sys::spdk_nvme_qpair_get_fd(self.raw.as_ptr(), std::ptr::null_mut()) };
        (fd >= 0).then_some(fd)
    }

    /// Becomes readable when there are completions. This release has no interrupts.
    #[cfg(not(spdk_qpair_fd))]
    pub fn event_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }

    /// Leaves the queue pair alone, so that the controller can be reset without waiting for the device to let go of what is in
    /// flight: that is what a reset makes it do. Until [`Self::resume`] it takes and completes nothing. Over a fabric, where a reset
    /// ends the connection, close it instead.
    pub fn park(&mut self) {
        if !self.parked {
            let controller = self.controller.clone();
            let _serial = controller.0.serialise();
            controller.0.queue_pair_closed();
            self.parked = true;
        }
    }

    /// Whether it is parked.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// Goes on after a reset that went well. What was in flight when it was parked comes back: `true` beside a completion says
    /// that the reset ended it, `false` that the device had. On an error the queue pair stays parked.
    pub fn resume(&mut self) -> Result<Vec<(Completion<B>, bool)>, QueueError> {
        let mut back: Vec<_> = std::iter::from_fn(|| self.slots.pop()).map(|done| (done, false)).collect();
        if self.parked {
            self.reconnect()?;
        }
        // SPDK ends what was in flight before the reset with the first poll after it.
        self.process_completions(0)?;
        back.extend(std::iter::from_fn(|| self.slots.pop()).map(|done| (done, true)));
        Ok(back)
    }

    fn reconnect(&mut self) -> Result<(), QueueError> {
        let controller = self.controller.clone();
        let _serial = controller.0.serialise();
        // SAFETY: the queue pair is open, and this is its thread; `serial` keeps resets out.
        match unsafe { sys::spdk_nvme_ctrlr_reconnect_io_qpair(self.raw.as_ptr()) } {
            0 => {}
            result => return Err(QueueError::Connect(result)),
        }
        controller.0.queue_pair_opened();
        self.parked = false;
        Ok(())
    }

    /// Commands that turned out to be late in the last [`Self::process_completions`], each once.
    #[inline]
    pub fn take_late(&mut self) -> Vec<LateCommand> {
        self.controller.0.late.take(self.raw)
    }

    /// Asks the controller to abort a late command. `false`: it cannot be asked, because somebody else waits for it.
    pub fn abort(&mut self, command: LateCommand) -> bool {
        !self.parked && self.controller.abort(self.raw, command)
    }

    /// Starts a command. Its buffer comes back with its completion, or with the refusal.
    pub fn submit(&mut self, operation: Operation, tag: u64, buffer: Option<B>) -> Result<(), Rejected<B>> {
        let blocks = match self.check(&operation, buffer.as_ref()) {
            Ok(blocks) => blocks,
            Err(reason) => return Err(Rejected { reason, buffer }),
        };
        self.start(blocks, tag, buffer, |call| call.make(&operation))
    }

    /// Starts any other command, with the buffer, which has one segment at most, as its data.
    ///
    /// # Safety
    /// The command moves no more data than the buffer has bytes, and changes neither namespace nor queues.
    pub unsafe fn submit_raw(
        &mut self,
        command: Command,
        tag: u64,
        buffer: Option<B>,
    ) -> Result<(), Rejected<B>> {
        self.start(0, tag, buffer, |call| call.any(command))
    }

    #[inline]
    fn start(
        &mut self,
        blocks: u32,
        tag: u64,
        buffer: Option<B>,
        make: impl FnOnce(&Call<'_, B>) -> i32,
    ) -> Result<(), Rejected<B>> {
        if self.parked {
            return Err(Rejected { reason: RejectReason::Down, buffer });
        }
        let (raw, namespace, controller) = (self.raw, self.namespace, self.controller.0.raw);
        let slot = match self.slots.begin(tag, buffer) {
            Ok(slot) => slot,
            Err(buffer) => return Err(Rejected { reason: RejectReason::Full, buffer }),
        };
        let index = slot.index();
        let result = make(&Call { raw, namespace, controller, slot, blocks });
        if result == 0 {
            return Ok(());
        }
        let reason = match -result {
            libc::ENOMEM | libc::EAGAIN => RejectReason::Full,
            libc::EINVAL => RejectReason::BlockCount,
            _ => RejectReason::Down,
        };
        match self.slots.take_back(index) {
            Ok(buffer) => Err(Rejected { reason, buffer }),
            // SPDK refused after it had completed the command: the completion says why.
            Err(()) => Ok(()),
        }
    }

    /// Number of blocks that an operation concerns, if all fits together.
    fn check(&self, operation: &Operation, buffer: Option<&B>) -> Result<u32, RejectReason> {
        // SAFETY: a namespace of a controller that is attached as long as the queue pair is open.
        let block_size = unsafe { sys::spdk_nvme_ns_get_extended_sector_size(self.namespace.as_ptr()) };
        if block_size != self.block_size || block_size == 0 {
            return Err(RejectReason::NamespaceChanged);
        }
        match operation {
            Operation::Read { .. } | Operation::Write { .. } | Operation::Compare { .. } => {
                let bytes = buffer.ok_or(RejectReason::BufferLength)?.byte_count();
                let bytes = u32::try_from(bytes).map_err(|_| RejectReason::BufferLength)?;
                if bytes == 0 || !bytes.is_multiple_of(block_size) {
                    return Err(RejectReason::BufferLength);
                }
                Ok(bytes / block_size)
            }
            _ if buffer.is_some() => Err(RejectReason::BufferLength),
            Operation::Flush => Ok(0),
            Operation::WriteZeroes { blocks, .. } if *blocks > Operation::ZEROES_MAX => {
                Err(RejectReason::BlockCount)
            }
            Operation::WriteZeroes { blocks: 0, .. } | Operation::Deallocate { blocks: 0, .. } => {
                Err(RejectReason::BlockCount)
            }
            Operation::WriteZeroes { blocks, .. } | Operation::Deallocate { blocks, .. } => Ok(*blocks),
        }
    }

    /// Looks for up to `max` completions, 0 for as many as there are, and passes on what was submitted in batches.
    /// What finished is taken by [`Self::pop`], also when the queue pair is down.
    pub fn process_completions(&mut self, max: u32) -> Result<u32, QueueError> {
        if self.parked {
            return Err(QueueError::Down);
        }
        // SAFETY: the queue pair is open, and this is its thread.
        let result = unsafe { sys::spdk_nvme_qpair_process_completions(self.raw.as_ptr(), max) };
        u32::try_from(result).map_err(|_| QueueError::Down)
    }

    /// The oldest finished command.
    pub fn pop(&mut self) -> Option<Completion<B>> {
        self.slots.pop()
    }

    /// Aborts what is in flight, and gives everything that was not taken back yet. It may take milliseconds.
    ///
    /// A device that does not confirm that it let go keeps the buffers it has: those commands come back without, and the
    /// memory stays as it is for good.
    pub fn close(mut self) -> Vec<Completion<B>> {
        let mut lost = Vec::new();
        if !self.free() {
            lost.extend(self.slots.give_up());
        }
        std::iter::from_fn(|| self.slots.pop()).chain(lost).collect()
    }

    /// Ends the queue pair, once. `false` when SPDK or the device may still access what is in flight.
    fn free(&mut self) -> bool {
        if self.raw == NonNull::dangling() {
            return true;
        }
        let raw = std::mem::replace(&mut self.raw, NonNull::dangling());
        let controller = self.controller.clone();
        let _serial = controller.0.serialise();
        // SAFETY: open until here, on this thread, outside of its completions; not used after.
        let result = unsafe { sys::spdk_nvme_ctrlr_free_io_qpair(raw.as_ptr()) };
        if !std::mem::replace(&mut self.parked, true) {
            controller.0.queue_pair_closed();
        }
        // The next queue pair at this address has nothing to do with it.
        drop(controller.0.late.take(raw));
        result == 0 && !self.slots.any_submitted()
    }
}

impl<B: DmaMemory> Drop for QueuePair<B> {
    fn drop(&mut self) {
        if !self.free() {
            self.slots.give_up().for_each(drop);
        }
        self.group = None;
    }
}

/// One call into SPDK, with everything that it takes.
struct Call<'a, B> {
    raw: NonNull<sys::spdk_nvme_qpair>,
    namespace: NonNull<sys::spdk_nvme_ns>,
    controller: NonNull<sys::spdk_nvme_ctrlr>,
    slot: &'a Slot<B>,
    blocks: u32,
}

impl<B: DmaMemory> Call<'_, B> {
    fn make(&self, operation: &Operation) -> i32 {
        match *operation {
            Operation::Read { lba } => self.transfer(READ, lba, 0),
            Operation::Write { lba, fua } => self.transfer(WRITE, lba, if fua { FUA } else { 0 }),
            Operation::Compare { lba } => self.transfer(COMPARE, lba, 0),
            Operation::Flush => self.flush(),
            Operation::WriteZeroes { lba, deallocate, fua, .. } => {
                let deallocate = if deallocate { DEALLOCATE } else { 0 };
                self.write_zeroes(lba, deallocate | if fua { FUA } else { 0 })
            }
            Operation::Deallocate { lba, .. } => self.deallocate(lba),
        }
    }

    #[inline]
    fn transfer(&self, (whole, vectored): (Whole, Vectored), lba: u64, flags: u32) -> i32 {
        let (namespace, raw, argument) = (self.namespace.as_ptr(), self.raw.as_ptr(), self.slot.argument());
        let (blocks, callback) = (self.blocks, Some(completed::<B> as Callback));
        if let Some((start, _)) = self.slot.only_segment() {
            // SAFETY: queue pair and namespace are the controller's, which is attached; the slot stays at its place with
            // its buffer, which `check` found to be as long as the blocks, until the callback, which is that of its type.
            return unsafe { whole(namespace, raw, start, lba, blocks, callback, argument, flags) };
        }
        let (reset, next) =
            (Some(reset_segments::<B> as ResetCallback), Some(next_segment::<B> as NextCallback));
        // SAFETY: as above; the other callbacks are those of its type, too.
        unsafe { vectored(namespace, raw, lba, blocks, callback, argument, flags, reset, next) }
    }

    fn flush(&self) -> i32 {
        let (namespace, raw) = (self.namespace.as_ptr(), self.raw.as_ptr());
        // SAFETY: as in `transfer`; there is no buffer.
        unsafe { sys::spdk_nvme_ns_cmd_flush(namespace, raw, Some(completed::<B>), self.slot.argument()) }
    }

    fn write_zeroes(&self, lba: u64, flags: u32) -> i32 {
        // SAFETY: as in `transfer`; there is no buffer.
        unsafe {
            sys::spdk_nvme_ns_cmd_write_zeroes(
                self.namespace.as_ptr(),
                self.raw.as_ptr(),
                lba,
                self.blocks,
                Some(completed::<B>),
                self.slot.argument(),
                flags,
            )
        }
    }

    fn deallocate(&self, lba: u64) -> i32 {
        const _: () = assert!(size_of::<sys::spdk_nvme_dsm_range>() == 16);
        // Context attributes, length, starting block (NVM command set, Dataset Management range definition).
        let mut range = [0; 16];
        range[4..8].copy_from_slice(&self.blocks.to_le_bytes());
        range[8..].copy_from_slice(&lba.to_le_bytes());
        // SAFETY: both are sixteen bytes, and every pattern of bits is a range.
        let range: sys::spdk_nvme_dsm_range = unsafe { std::mem::transmute(range) };
        // SAFETY: as in `transfer`; SPDK copies the one range.
        unsafe {
            sys::spdk_nvme_ns_cmd_dataset_management(
                self.namespace.as_ptr(),
                self.raw.as_ptr(),
                AD,
                &raw const range,
                1,
                Some(completed::<B>),
                self.slot.argument(),
            )
        }
    }

    /// Only for buffers of one segment; others are refused.
    fn any(&self, command: Command) -> i32 {
        let Some((start, len)) = self.slot.only_segment() else { return -libc::EINVAL };
        let Ok(len) = u32::try_from(len) else { return -libc::EINVAL };
        let mut raw = raw_command(command);
        // SAFETY: as in `transfer`; SPDK copies the command.
        unsafe {
            sys::spdk_nvme_ctrlr_cmd_io_raw(
                self.controller.as_ptr(),
                self.raw.as_ptr(),
                &raw mut raw,
                start,
                len,
                Some(completed::<B>),
                self.slot.argument(),
            )
        }
    }
}

type Callback = unsafe extern "C" fn(*mut c_void, *const sys::spdk_nvme_cpl);
type ResetCallback = unsafe extern "C" fn(*mut c_void, u32);
type NextCallback = unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *mut u32) -> i32;

/// A transfer with one segment.
type Whole = unsafe extern "C" fn(
    *mut sys::spdk_nvme_ns,
    *mut sys::spdk_nvme_qpair,
    *mut c_void,
    u64,
    u32,
    sys::spdk_nvme_cmd_cb,
    *mut c_void,
    u32,
) -> i32;

/// A transfer with many.
type Vectored = unsafe extern "C" fn(
    *mut sys::spdk_nvme_ns,
    *mut sys::spdk_nvme_qpair,
    u64,
    u32,
    sys::spdk_nvme_cmd_cb,
    *mut c_void,
    u32,
    sys::spdk_nvme_req_reset_sgl_cb,
    sys::spdk_nvme_req_next_sge_cb,
) -> i32;

const READ: (Whole, Vectored) = (sys::spdk_nvme_ns_cmd_read, sys::spdk_nvme_ns_cmd_readv);
const WRITE: (Whole, Vectored) = (sys::spdk_nvme_ns_cmd_write, sys::spdk_nvme_ns_cmd_writev);
const COMPARE: (Whole, Vectored) = (sys::spdk_nvme_ns_cmd_compare, sys::spdk_nvme_ns_cmd_comparev);
