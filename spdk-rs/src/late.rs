//! Commands that take longer than they may, and aborting them.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use crate::controller::Inner;
use crate::slots::read_completion;
use crate::{Controller, sys};

/// Names a command of a queue pair that is late, until the next command is given to that queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LateCommand(u16);

/// What SPDK said about time.
#[derive(Default)]
pub(crate) struct Late {
    /// Whether `commands` may hold any: looked at after every poll of a queue pair.
    any: AtomicBool,
    /// Queue pair and command identifier.
    commands: Mutex<Vec<(usize, u16)>>,
    admin: AtomicU64,
    aborts_failed: AtomicU64,
}

/// Late commands that are kept for a queue pair that is not polled; with them its queue is as good as lost.
const LATE_MAX: usize = 4096;

impl Late {
    fn lock(&self) -> MutexGuard<'_, Vec<(usize, u16)>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, qpair: usize, cid: u16) {
        let mut commands = self.lock();
        if commands.len() < LATE_MAX {
            commands.push((qpair, cid));
        }
        self.any.store(true, Ordering::Release);
    }

    /// Takes out those of one queue pair.
    #[inline]
    pub(crate) fn take(&self, qpair: NonNull<sys::spdk_nvme_qpair>) -> Vec<LateCommand> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.take_of(qpair.as_ptr().addr())
    }

    #[cold]
    fn take_of(&self, wanted: usize) -> Vec<LateCommand> {
        let mut commands = self.lock();
        let late = commands.extract_if(.., |(qpair, _)| *qpair == wanted);
        let late = late.map(|(_, cid)| LateCommand(cid)).collect();
        self.any.store(!commands.is_empty(), Ordering::Release);
        late
    }
}

impl Controller {
    /// From now on, commands that take longer are told of: those of a queue pair by [`crate::QueuePair::take_late`], admin
    /// commands by [`Self::late_admin_commands`]. Zero tells of none. SPDK before 21.04 has one time for both: that of I/O.
    pub fn set_timeouts(&self, io: Duration, admin: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let callback: sys::spdk_nvme_timeout_cb = if io.is_zero() { None } else { Some(on_late) };
        let argument = std::ptr::from_ref(&*self.0).cast_mut().cast::<c_void>();
        let raw = self.0.raw.as_ptr();
        let _serial = self.0.serialise();
        #[cfg(not(spdk_admin_timeout))]
        {
            let _ = admin;
            // SAFETY: the controller is attached; `Inner` never moves and outlives the attachment.
            unsafe { sys::spdk_nvme_ctrlr_register_timeout_callback(raw, micros(io), callback, argument) };
        }
        #[cfg(spdk_admin_timeout)]
        // SAFETY: as above.
        unsafe {
            sys::spdk_nvme_ctrlr_register_timeout_callback(
                raw,
                micros(io),
                micros(admin),
                callback,
                argument,
            );
        };
    }

    /// Admin commands that were late since the controller was attached.
    pub fn late_admin_commands(&self) -> u64 {
        self.0.late.admin.load(Ordering::Relaxed)
    }

    /// Abort commands that did not abort what they should have since the controller was attached.
    pub fn aborts_failed(&self) -> u64 {
        self.0.late.aborts_failed.load(Ordering::Relaxed)
    }

    /// Asks the controller to abort a late command; `false` when it cannot be asked: somebody else waits for it. Whether the
    /// command is aborted shows in its completion, or in [`Self::aborts_failed`].
    pub(crate) fn abort(&self, qpair: NonNull<sys::spdk_nvme_qpair>, command: LateCommand) -> bool {
        let _serial = match self.0.try_serialise() {
            Ok(serial) => serial,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let argument = std::ptr::from_ref(&*self.0).cast_mut().cast::<c_void>();
        // SAFETY: the queue pair is the controller's and open, by the caller; `Inner` outlives the attachment, and with it
        // the command.
        let result = unsafe {
            sys::spdk_nvme_ctrlr_cmd_abort(
                self.0.raw.as_ptr(),
                qpair.as_ptr(),
                command.0,
                Some(on_aborted),
                argument,
            )
        };
        result == 0
    }
}

/// `spdk_nvme_timeout_cb`: called while a queue pair, or the admin queue, is polled.
unsafe extern "C" fn on_late(
    argument: *mut c_void,
    _: *mut sys::spdk_nvme_ctrlr,
    qpair: *mut sys::spdk_nvme_qpair,
    cid: u16,
) {
    // SAFETY: the argument given at registration; the attachment does not outlive it.
    let inner = unsafe { &*argument.cast::<Inner>() };
    match qpair.is_null() {
        true => drop(inner.late.admin.fetch_add(1, Ordering::Relaxed)),
        false => inner.late.push(qpair.addr(), cid),
    }
}

/// `spdk_nvme_cmd_cb` of Abort: bit 0 of its result says that nothing was aborted (NVMe base 2.1 §5.1.1).
unsafe extern "C" fn on_aborted(argument: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
    // SAFETY: the argument given with the command; the attachment does not outlive it.
    let inner = unsafe { &*argument.cast::<Inner>() };
    // SAFETY: SPDK passes a completion that is there during the call.
    let (status, result) = unsafe { read_completion(cpl) };
    if !status.is_success() || result & 1 != 0 {
        inner.late.aborts_failed.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_pair_is_told_of_its_own_late_commands_once() {
        let late = Late::default();
        late.push(8, 1);
        late.push(16, 2);
        late.push(8, 3);
        assert_eq!(late.take_of(8), [LateCommand(1), LateCommand(3)]);
        assert!(late.take_of(8).is_empty());
        assert!(late.any.load(Ordering::Relaxed));
        assert_eq!(late.take_of(16), [LateCommand(2)]);
        assert!(!late.any.load(Ordering::Relaxed));
    }
}
