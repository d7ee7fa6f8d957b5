//! One io_uring with one registered file and the reactor's buffers registered.
//!
//! Invariants: user data is a slot number; no more entries are outstanding than the ring was made for, so neither queue
//! overflows. Only the thread that made the ring uses it (`SINGLE_ISSUER`); the type is not `Send`.
//!
//! Sleepers wait on an eventfd: the ring's own descriptor is not woken for deferred work. It is armed only for a sleep,
//! so that busy reactors do not pay for it.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use arrayvec::ArrayVec;
use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, opcode};
use reactors::DmaPool;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::device::DeviceError;
use crate::device::api::DONE_MAX;

/// The device's file in the table of registered files.
const FILE: Fixed = Fixed(0);
/// Largest buffer that can be registered (`io_uring_register(2)`, `IORING_REGISTER_BUFFERS`).
const CHUNK_SHIFT: u32 = 30;

/// Which way data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// From the device.
    Read,
    /// To the device; with `dsync` it is on the media when it completes.
    Write { dsync: bool },
}

/// A finished entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    pub(super) slot: u32,
    /// Bytes, or the error.
    pub(super) result: Result<u32, Errno>,
}

/// A reactor's arena, as registered.
struct Registered {
    base: usize,
    len: usize,
    /// `IORING_OP_READV_FIXED` and its twin exist (Linux 6.15).
    vectored: bool,
}

impl Registered {
    /// The index of the registered chunk that holds all of `iovecs`.
    fn chunk(&self, iovecs: &[libc::iovec]) -> Option<u16> {
        let mut chunk = None;
        for iovec in iovecs {
            let start = (iovec.iov_base as usize).checked_sub(self.base)?;
            let end = start + iovec.iov_len;
            let own = start >> CHUNK_SHIFT;
            let fits =
                end <= self.len && (end - 1) >> CHUNK_SHIFT == own && chunk.is_none_or(|chunk| chunk == own);
            chunk = fits.then_some(own);
            chunk?;
        }
        u16::try_from(chunk?).ok()
    }
}

/// See the module.
pub(super) struct Ring {
    ring: IoUring,
    registered: Option<Registered>,
    event: OwnedFd,
    /// The event is signalled when something finishes.
    armed: bool,
    /// Keeps the registered memory mapped.
    _pool: DmaPool,
}

impl Ring {
    /// A ring for `entries` entries at once on `file`. The file must outlive the ring's last entry.
    pub(super) fn new(entries: u32, file: BorrowedFd<'_>, pool: &DmaPool) -> Result<Self, DeviceError> {
        let mut ring = build(entries)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let event = event.map_err(|errno| ring_error(errno.into()))?;
        ring.completion().disable_eventfd();
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()]).map_err(ring_error)?;
        submitter.register_eventfd(event.as_raw_fd()).map_err(ring_error)?;
        let registered = register(&ring, pool);
        Ok(Self { ring, registered, event, armed: false, _pool: pool.clone() })
    }

    /// Queues a transfer between `iovecs` and the device from byte `offset` on.
    ///
    /// # Safety
    /// `iovecs` and the memory they name stay in place, and that memory is not accessed otherwise (a write's may be
    /// read), until the entry is reaped or the ring is gone with nothing outstanding.
    pub(super) unsafe fn push_transfer(
        &mut self,
        slot: u32,
        direction: Direction,
        iovecs: &[libc::iovec],
        offset: u64,
    ) {
        let entry = self.transfer(direction, iovecs, offset);
        // SAFETY: the memory is valid for as long as the kernel uses it: passed on to the caller.
        unsafe { self.push(slot, entry) };
    }

    fn transfer(&self, direction: Direction, iovecs: &[libc::iovec], offset: u64) -> Entry {
        let registered = self.registered.as_ref();
        let chunk = registered.and_then(|registered| registered.chunk(iovecs));
        let vectored = registered.is_some_and(|registered| registered.vectored);
        let flags = if direction == (Direction::Write { dsync: true }) { libc::RWF_DSYNC } else { 0 };
        let (vector, count) = (iovecs.as_ptr(), len_u32(iovecs.len()));
        match (direction, chunk, iovecs) {
            (Direction::Read, Some(chunk), [one]) => {
                opcode::ReadFixed::new(FILE, one.iov_base.cast(), len_u32(one.iov_len), chunk)
                    .offset(offset)
                    .build()
            }
            (Direction::Write { .. }, Some(chunk), [one]) => {
                let write = opcode::WriteFixed::new(FILE, one.iov_base.cast(), len_u32(one.iov_len), chunk);
                write.offset(offset).rw_flags(flags).build()
            }
            (Direction::Read, Some(chunk), _) if vectored => {
                opcode::ReadvFixed::new(FILE, vector, count, chunk).offset(offset).build()
            }
            (Direction::Write { .. }, Some(chunk), _) if vectored => {
                opcode::WritevFixed::new(FILE, vector, count, chunk).offset(offset).rw_flags(flags).build()
            }
            (Direction::Read, ..) => opcode::Readv::new(FILE, vector, count).offset(offset).build(),
            (Direction::Write { .. }, ..) => {
                opcode::Writev::new(FILE, vector, count).offset(offset).rw_flags(flags).build()
            }
        }
    }

    /// Queues `fdatasync`: all writes that completed before are on the media when it completes.
    pub(super) fn push_sync(&mut self, slot: u32) {
        let entry = opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build();
        // SAFETY: the entry names no memory.
        unsafe { self.push(slot, entry) };
    }

    /// Queues `fallocate` with this mode.
    pub(super) fn push_fallocate(&mut self, slot: u32, mode: i32, range: Range<u64>) {
        let entry =
            opcode::Fallocate::new(FILE, range.end - range.start).offset(range.start).mode(mode).build();
        // SAFETY: the entry names no memory.
        unsafe { self.push(slot, entry) };
    }

    /// # Safety
    /// As for [`Self::push_transfer`], for all memory the entry names.
    unsafe fn push(&mut self, slot: u32, entry: Entry) {
        let entry = entry.user_data(u64::from(slot));
        // SAFETY: the caller keeps the memory; the registered file is open while the ring exists.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "the ring has an entry for every slot");
    }

    /// Submits what was pushed and lets the kernel finish deferred work, with one system call, or none when there is
    /// neither. Interrupted or refused submissions stay queued for the next call.
    pub(super) fn kick(&mut self) {
        let queue = self.ring.submission();
        let (queued, deferred) = (queue.len(), queue.taskrun());
        drop(queue);
        if queued == 0 && !deferred {
            return;
        }
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: no argument is passed; what the queued entries name is valid by the contract of `push`.
        let entered =
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(len_u32(queued), 0, flags, None) };
        if let Err(error) = entered
            && !matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::AGAIN | Errno::BUSY))
        {
            tracing::error!(%error, "io_uring refuses submissions; they are tried again");
        }
    }

    /// Takes up to `max` finished entries. Enters the kernel only for deferred work, and after a sleep.
    pub(super) fn reap(&mut self, max: usize, into: &mut ArrayVec<Reaped, DONE_MAX>) {
        if self.armed {
            self.disarm();
        }
        if self.ring.completion().is_empty() && self.ring.submission().taskrun() {
            self.kick();
        }
        let max = max.min(into.remaining_capacity());
        for entry in self.ring.completion().take(max) {
            into.push(reaped(entry.user_data(), entry.result()));
        }
    }

    /// From now until the next [`Self::reap`], the event is signalled when something finishes. `false` when something
    /// is there already, or waits to be submitted.
    pub(super) fn arm(&mut self) -> bool {
        self.armed = true;
        self.ring.completion().enable_eventfd();
        // The kernel adds its work, then looks whether the event is enabled; we go the other way round.
        fence(Ordering::SeqCst);
        let queue = self.ring.submission();
        let pending = !queue.is_empty() || queue.taskrun();
        drop(queue);
        !pending && self.ring.completion().is_empty()
    }

    /// Whether [`Self::arm`] was called since the last [`Self::reap`].
    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    fn disarm(&mut self) {
        self.armed = false;
        self.ring.completion().disable_eventfd();
        // Nothing to read is fine: another descriptor ended the sleep.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// Blocks until something finished, at most for `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) {
        let timeout = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timeout);
        // Errors are a timeout or an interruption: the caller looks at what finished either way.
        let _ = self.ring.submitter().submit_with_args(1, &arguments);
    }

    /// Asks the kernel to give up on everything outstanding. What is with a disk already cannot be.
    pub(super) fn cancel_all(&mut self) {
        // Linux 6.0 and later; before, there is nothing else to try.
        let _ = self.ring.submitter().register_sync_cancel(Some(Timespec::new()), CancelBuilder::any());
    }

    /// Readable when something finished while armed.
    pub(super) fn wait_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for Ring {
    /// The kernel takes a ring apart some time after it is closed. File and buffers are given back now, so that the file
    /// can be opened again at once.
    fn drop(&mut self) {
        let submitter = self.ring.submitter();
        // Refused only if the ring is broken already: then closing it has to do.
        let _ = submitter.unregister_files();
        if self.registered.is_some() {
            let _ = submitter.unregister_buffers();
        }
    }
}

fn reaped(user_data: u64, result: i32) -> Reaped {
    let slot = u32::try_from(user_data).unwrap_or(u32::MAX);
    let result = u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
    Reaped { slot, result }
}

/// Lengths of one I/O, far below 4 GiB.
fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The best kind of ring this kernel has: completions only when we ask for them, from the one thread that asks.
fn build(entries: u32) -> Result<IoUring, DeviceError> {
    let mut best = IoUring::builder();
    best.setup_clamp().setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut linux_5_19 = IoUring::builder();
    linux_5_19.setup_clamp().setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
    let mut oldest = IoUring::builder();
    oldest.setup_clamp();
    let is_old = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::INVAL);
    let mut ring = best.build(entries);
    for older in [linux_5_19, oldest] {
        if ring.as_ref().is_err_and(is_old) {
            ring = older.build(entries);
        }
    }
    ring.map_err(ring_error)
}

fn ring_error(source: io::Error) -> DeviceError {
    let fix = match Errno::from_io_error(&source) {
        Some(Errno::NOSYS) => "the kernel has none: Linux 5.11 or newer built with CONFIG_IO_URING is needed",
        Some(Errno::PERM | Errno::ACCESS) => {
            "set the sysctl kernel.io_uring_disabled to 0, and allow it in the container's seccomp profile"
        }
        Some(Errno::NOMEM) => "raise the limit on locked memory (ulimit -l, LimitMEMLOCK=)",
        Some(Errno::MFILE | Errno::NFILE) => "raise the limit on open files (ulimit -n, LimitNOFILE=)",
        _ => "see the system log",
    };
    DeviceError::Ring { source, fix }
}

/// Registers the pool's arena in chunks. Without it I/O works too, only slower.
fn register(ring: &IoUring, pool: &DmaPool) -> Option<Registered> {
    let arena = pool.arena();
    let chunk_len = 1usize << CHUNK_SHIFT;
    let chunks: Vec<libc::iovec> = (0..arena.len)
        .step_by(chunk_len)
        .map(|start| libc::iovec {
            iov_base: arena.ptr.as_ptr().wrapping_add(start).cast(),
            iov_len: chunk_len.min(arena.len - start),
        })
        .collect();
    // SAFETY: the arena is mapped while a handle to its pool exists, and the ring keeps one.
    let registered = unsafe { ring.submitter().register_buffers(&chunks) };
    if let Err(error) = registered {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(%error, "buffers are not registered with io_uring; raise the limit on locked memory");
        });
        return None;
    }
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe).is_ok();
    let vectored = probed
        && probe.is_supported(opcode::ReadvFixed::CODE)
        && probe.is_supported(opcode::WritevFixed::CODE);
    Some(Registered { base: arena.ptr.as_ptr() as usize, len: arena.len, vectored })
}
