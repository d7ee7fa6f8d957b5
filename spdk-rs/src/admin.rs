//! Admin commands, one at a time, waited for.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::command::{Command, CommandStatus};
use crate::dma::{DmaBuffer, DmaMemory};
use crate::slots::read_completion;
use crate::{Controller, sys};

const GET_LOG_PAGE: u8 = 2;
const ALL_NAMESPACES: u32 = u32::MAX;

/// How often a command that is waited for is looked for.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);

/// A finished admin command.
#[derive(Debug)]
pub struct Admin {
    /// How it went.
    pub status: CommandStatus,
    /// Dword 0 of its completion.
    pub result: u32,
    /// The buffer it was given.
    pub data: Option<DmaBuffer>,
}

/// An admin command did not run to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    /// The controller failed or is gone, or has no room: a negated `errno`.
    #[error("the controller took no admin command (error {0})")]
    Refused(i32),
    /// No answer in time. Its buffer is given up: the device may still use it.
    #[error("the controller did not answer in time")]
    Timeout,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    Done(CommandStatus, u32),
}

/// Shared by the caller, who may stop waiting, and SPDK, which may call back later.
struct Call {
    state: Mutex<State>,
    data: Mutex<Option<DmaBuffer>>,
}

impl Controller {
    /// A log page (NVMe base, Get Log Page command), of the controller or of a namespace. Blocks up to `patience`.
    ///
    /// # Panics
    /// When `bytes` is not a positive multiple of four.
    pub fn log_page(
        &self,
        page: u8,
        namespace: Option<u32>,
        bytes: usize,
        patience: Duration,
    ) -> Result<(CommandStatus, Option<DmaBuffer>), AdminError> {
        assert!(bytes > 0 && bytes.is_multiple_of(4), "a log page of {bytes} bytes");
        let dwords = u32::try_from(bytes / 4 - 1).map_err(|_| AdminError::Refused(-libc::EINVAL))?;
        let [low, high] = [dwords & 0xffff, dwords >> 16];
        let command = Command {
            opcode: GET_LOG_PAGE,
            namespace: namespace.unwrap_or(ALL_NAMESPACES),
            dwords: [low << 16 | u32::from(page), high, 0, 0, 0, 0],
        };
        let data = DmaBuffer::zeroed(&self.0.environment, bytes);
        let data = data.ok_or(AdminError::Refused(-libc::ENOMEM))?;
        // SAFETY: the command asks for as many dwords as the buffer has, and changes nothing.
        let done = unsafe { self.admin(command, Some(data), patience) }?;
        Ok((done.status, done.data))
    }

    /// Runs an admin command, with a buffer for its data if it has any. Blocks up to `patience`.
    ///
    /// # Safety
    /// The command moves no more data than the buffer has bytes. It does not create, delete or abort what SPDK keeps:
    /// queues, features of queues, commands.
    pub unsafe fn admin(
        &self,
        command: Command,
        data: Option<DmaBuffer>,
        patience: Duration,
    ) -> Result<Admin, AdminError> {
        let segment = data.as_ref().and_then(|data| data.segment(0));
        let call = Arc::new(Call { state: Mutex::default(), data: Mutex::new(data) });
        self.start(&call, command, segment.map(|(start, len)| (start.as_ptr().cast(), len)))?;
        let deadline = Instant::now() + patience;
        loop {
            let failed = self.complete_admin();
            if let State::Done(status, result) = *lock(&call.state) {
                let data = lock(&call.data).take();
                return Ok(Admin { status, result, data });
            }
            if failed < 0 {
                return Err(AdminError::Refused(failed));
            }
            if Instant::now() >= deadline {
                return Err(AdminError::Timeout);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn start(
        &self,
        call: &Arc<Call>,
        command: Command,
        data: Option<(*mut c_void, usize)>,
    ) -> Result<(), AdminError> {
        let (start, len) = data.unwrap_or((std::ptr::null_mut(), 0));
        let len = u32::try_from(len).map_err(|_| AdminError::Refused(-libc::EINVAL))?;
        let mut raw = raw(command);
        let argument = Arc::into_raw(Arc::clone(call)).cast_mut().cast::<c_void>();
        let _serial = self.0.serialise();
        // SAFETY: the controller is attached and `serial` held; SPDK copies the command. The buffer lives in the call,
        // which lives until the callback takes the reference that it is given here.
        let result = unsafe {
            sys::spdk_nvme_ctrlr_cmd_admin_raw(
                self.0.raw.as_ptr(),
                &raw mut raw,
                start,
                len,
                Some(on_done),
                argument,
            )
        };
        if result != 0 {
            if matches!(*lock(&call.state), State::Waiting) {
                // SAFETY: SPDK took no command and will not call back: the reference made above is taken back.
                drop(unsafe { Arc::from_raw(argument.cast::<Call>().cast_const()) });
            }
            return Err(AdminError::Refused(result));
        }
        Ok(())
    }

    fn complete_admin(&self) -> i32 {
        let _serial = self.0.serialise();
        // SAFETY: the controller is attached, and `serial` keeps others out.
        unsafe { sys::spdk_nvme_ctrlr_process_admin_completions(self.0.raw.as_ptr()) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The command as SPDK takes it.
pub(crate) fn raw(command: Command) -> sys::spdk_nvme_cmd {
    const _: () = assert!(size_of::<sys::spdk_nvme_cmd>() == 64);
    // SAFETY: both are 64 bytes, and every pattern of bits is a command.
    unsafe { std::mem::transmute_copy(&command.dwords()) }
}

/// `spdk_nvme_cmd_cb`.
unsafe extern "C" fn on_done(argument: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
    // SAFETY: the reference given in `start`; SPDK calls back once.
    let call = unsafe { Arc::from_raw(argument.cast::<Call>().cast_const()) };
    // SAFETY: SPDK passes a completion that is there during the call.
    let (status, result) = unsafe { read_completion(cpl) };
    *lock(&call.state) = State::Done(status, result);
}
