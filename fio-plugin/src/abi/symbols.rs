//! What the engine calls and reads in the fio that loaded it. Looked up by name: a program that is no fio has none of it.

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::sync::OnceLock;

use super::bindings::{io_u, thread_data, timespec};

/// The fio whose structures these are.
pub(super) const BUILT_FOR: &str = env!("POLLUX_FIO_VERSION");

type GetTime = unsafe extern "C" fn(*mut timespec, *mut c_void);
type Queued = unsafe extern "C" fn(*mut thread_data, *mut io_u);
type MarkSubmit = unsafe extern "C" fn(*mut thread_data, c_uint);

/// fio's bookkeeping of submission times.
pub(super) struct Symbols {
    get_time: GetTime,
    queued: Queued,
    mark_submit: MarkSubmit,
}

impl Symbols {
    /// Those of the running fio; `None` in any other program.
    pub(super) fn get() -> Option<&'static Self> {
        static SYMBOLS: OnceLock<Option<Symbols>> = OnceLock::new();
        SYMBOLS.get_or_init(Self::look_up).as_ref()
    }

    fn look_up() -> Option<Self> {
        let (get_time, queued, mark_submit) =
            (symbol(c"fio_gettime")?, symbol(c"io_u_queued")?, symbol(c"io_u_mark_submit")?);
        Some(Self {
            // SAFETY: fio declares `void fio_gettime(struct timespec *, void *)`.
            get_time: unsafe { std::mem::transmute::<*mut c_void, GetTime>(get_time) },
            // SAFETY: fio declares `void io_u_queued(struct thread_data *, struct io_u *)`.
            queued: unsafe { std::mem::transmute::<*mut c_void, Queued>(queued) },
            // SAFETY: fio declares `void io_u_mark_submit(struct thread_data *, unsigned int)`.
            mark_submit: unsafe { std::mem::transmute::<*mut c_void, MarkSubmit>(mark_submit) },
        })
    }

    /// Books `ios` as submitted now.
    ///
    /// # Safety
    /// `td` is the job that fio called the engine for, and `ios` are I/Os it gave and has not got back.
    pub(super) unsafe fn mark_submitted(&self, td: *mut thread_data, ios: &[*mut io_u]) {
        let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: fio writes the time to the first argument and ignores a null second one.
        unsafe { (self.get_time)(&raw mut now, std::ptr::null_mut()) };
        for io in ios {
            // SAFETY: the I/O is ours until fio gets it back (this function's contract).
            unsafe { (**io).issue_time = now };
            // SAFETY: both are fio's own, valid during its call (this function's contract).
            unsafe { (self.queued)(td, *io) };
        }
        // SAFETY: `td` is fio's own, valid during its call (this function's contract).
        unsafe { (self.mark_submit)(td, u32::try_from(ios.len()).unwrap_or(u32::MAX)) };
    }
}

/// What the fio that loaded us calls itself, as in "fio-3.33".
pub(super) fn running_version() -> Option<&'static CStr> {
    let version = symbol(c"fio_version_string")?.cast::<c_char>();
    // SAFETY: fio declares `const char fio_version_string[]`, a string that lives as long as the program.
    Some(unsafe { CStr::from_ptr(version) })
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string; looking one up changes nothing.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// Says that this fio is another one than the engine was built for, when it is.
pub(super) fn check_version() -> bool {
    let Some(running) = running_version().map(CStr::to_string_lossy) else { return true };
    if running == BUILT_FOR {
        return true;
    }
    eprintln!(
        "pollux: this engine was built for {BUILT_FOR} and cannot serve {running}: build it with POLLUX_FIO_SOURCE set to \
         the source of {running}"
    );
    false
}

/// Runs when the library is loaded: fio itself only says "bad ioops version" to what does not fit.
extern "C" fn on_load() {
    check_version();
}

#[used]
// SAFETY: the loader calls every function of this section once, with arguments that this one ignores.
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;
