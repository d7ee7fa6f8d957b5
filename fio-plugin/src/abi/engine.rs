//! The functions fio calls.
//!
//! fio calls `setup` in its main process, which may fork before the job itself runs: it connects, notes the sizes of the
//! namespaces, and disconnects. `init` connects for good in the job's own thread or process; what it makes hangs off the
//! job's `io_ops_data` until `cleanup`. All calls for one job come from one thread at a time.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::time::Duration;

use nvme::Nsid;
use reactors::dma::LARGE_SLOT_SIZE;
use reactors::{DmaPool, PoolConfig};

use super::bindings::{
    DDIR_DATASYNC, DDIR_READ, DDIR_SYNC, DDIR_SYNC_FILE_RANGE, DDIR_TRIM, DDIR_WRITE,
    FIO_ASYNCIO_SETS_ISSUE_TIME, FIO_DISKLESSIO, FIO_FILE_size_known, FIO_IOOPS_VERSION, FIO_MEMALIGN,
    FIO_NODISKUTIL, FIO_NOEXTEND, FIO_Q_COMPLETED, FIO_Q_QUEUED, FIO_RAWIO, FIO_TYPE_BLOCK, fio_file,
    fio_q_status, io_u, ioengine_ops, thread_data, timespec,
};
use super::memory::Region;
use super::symbols::{self, Symbols};
use super::table::{EngineOptions, TABLE, string};
use crate::command::Op;
use crate::errno::Errno;
use crate::job::{Ask, Job, Submitted};
use crate::options::{JobOptions, namespace_of};
use crate::session::Session;

/// What fio calls the engine.
const NAME: &std::ffi::CStr = c"pollux";

/// The structure fio looks for under the name `ioengine`.
#[repr(transparent)]
pub(super) struct Exported(UnsafeCell<ioengine_ops>);

// SAFETY: after the loader, only fio writes to it, from the one thread that loads engines.
unsafe impl Sync for Exported {}

/// The engine.
#[allow(non_upper_case_globals, reason = "fio's name for it")]
// SAFETY: fio looks for this name; nothing else here has it.
#[unsafe(no_mangle)]
pub(super) static ioengine: Exported = Exported(UnsafeCell::new(ioengine_ops {
    name: NAME.as_ptr(),
    version: FIO_IOOPS_VERSION as c_int,
    #[allow(clippy::cast_possible_wrap, reason = "single bits far below the sign")]
    flags: (FIO_RAWIO
        | FIO_DISKLESSIO
        | FIO_NOEXTEND
        | FIO_NODISKUTIL
        | FIO_MEMALIGN
        | FIO_ASYNCIO_SETS_ISSUE_TIME) as c_int,
    setup: Some(setup),
    init: Some(init),
    queue: Some(queue),
    commit: Some(commit),
    getevents: Some(getevents),
    event: Some(event),
    cleanup: Some(cleanup),
    open_file: Some(open_file),
    close_file: Some(nothing_to_do),
    invalidate: Some(nothing_to_do),
    unlink_file: Some(nothing_to_do),
    get_file_size: Some(nothing_to_do),
    iomem_alloc: Some(iomem_alloc),
    iomem_free: Some(iomem_free),
    option_struct_size: OPTIONS_BYTES,
    options: TABLE.as_ptr(),
    ..NO_OPS
}));

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "asserted")]
const OPTIONS_BYTES: c_int = {
    assert!(size_of::<EngineOptions>() < 4096);
    size_of::<EngineOptions>() as c_int
};

// SAFETY: every field is a number, a pointer, or an optional function: all of them may be zero.
const NO_OPS: ioengine_ops = unsafe { std::mem::MaybeUninit::zeroed().assume_init() };

/// What a job has between `init` and `cleanup`.
struct Engine {
    job: Job<*mut io_u>,
    /// Submitted since the last `commit`.
    uncommitted: Vec<*mut io_u>,
    /// What the last `getevents` counted.
    events: Vec<(*mut io_u, Result<(), Errno>)>,
    /// Under fio's buffers.
    memory: Option<DmaPool>,
}

/// A job of fio's, during a call.
#[derive(Clone, Copy)]
struct Td(*mut thread_data);

impl Td {
    /// # Safety
    /// fio passed `td` to the call that the result is used in.
    unsafe fn new(td: *mut thread_data) -> Self {
        Self(td)
    }

    fn data(&self) -> &thread_data {
        // SAFETY: valid during fio's call (contract of `new`), and fio does not write to it meanwhile.
        unsafe { &*self.0 }
    }

    /// The job's options.
    ///
    /// # Errors
    /// What is wrong with them, for the user.
    fn options(&self) -> Result<JobOptions, String> {
        let options = self.data().eo.cast::<EngineOptions>();
        // SAFETY: fio allocated and filled it by our table and size when it loaded the engine for this job.
        let options = unsafe { &*options };
        // SAFETY: filled in by fio, which keeps it for the life of the job.
        let given = unsafe { options.given() };
        JobOptions::new(&given).map_err(|error| error.to_string())
    }

    /// The job's files.
    fn files(&self) -> &[*mut fio_file] {
        let (files, count) = (self.data().files, self.data().files_index);
        if files.is_null() || count == 0 {
            return &[];
        }
        // SAFETY: fio keeps `files_index` pointers there, and changes neither during a call.
        unsafe { std::slice::from_raw_parts(files, count as usize) }
    }

    /// The namespace a file stands for.
    fn nsid_of(&self, file: *mut fio_file, options: &JobOptions) -> Result<Nsid, String> {
        let has_names = !self.data().o.filename.is_null();
        // SAFETY: one of the job's files.
        let name = unsafe { (*file).file_name };
        // SAFETY: a file's name is a C string that lives as long as it does.
        let name = unsafe { string(name) };
        namespace_of(name.filter(|_| has_names), options.nsid).map_err(|error| error.to_string())
    }

    /// Every namespace that the job's files stand for, once, that of the options last.
    fn nsids(&self, options: &JobOptions) -> Result<Vec<Nsid>, String> {
        let mut nsids = Vec::new();
        for file in self.files() {
            let nsid = self.nsid_of(*file, options)?;
            if !nsids.contains(&nsid) {
                nsids.push(nsid);
            }
        }
        // A replayed log names files that are not there yet.
        if nsids.is_empty() {
            nsids.push(options.nsid);
        }
        Ok(nsids)
    }

    /// What `init` made; `None` when it failed or never ran.
    fn engine<'a>(self) -> Option<&'a mut Engine> {
        let engine = self.data().io_ops_data.cast::<Engine>();
        // SAFETY: `init` put it there, `cleanup` takes it away, and fio makes one call for a job at a time, so that no other
        // reference to it is in use.
        unsafe { engine.as_mut() }
    }
}

/// Says what went wrong, and what fio is to make of it.
fn report(outcome: Result<(), String>) -> c_int {
    match outcome {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pollux: {why}");
            libc::EIO
        }
    }
}

unsafe extern "C" fn setup(td: *mut thread_data) -> c_int {
    // Before anything of `td` is looked at: in another fio's, nothing is where we think.
    if !symbols::check_version() {
        return libc::EPROTO;
    }
    // SAFETY: fio passed it to this call.
    let td = unsafe { Td::new(td) };
    if td.data().io_ops != ioengine.0.get() {
        return report(Err(format!(
            "this fio calls itself {}, but its structures are others than in the headers the engine was built with",
            symbols::BUILT_FOR
        )));
    }
    report(measure(td))
}

/// Notes the sizes of the job's namespaces.
fn measure(td: Td) -> Result<(), String> {
    let options = td.options()?;
    let nr_files = td.data().files_index;
    if td.data().o.filename.is_null() && nr_files > 1 {
        return Err(crate::options::OptionError::NamelessFiles(nr_files).to_string());
    }
    let mut session = Session::connect(&options, 0, 1).map_err(|error| error.to_string())?;
    for file in td.files() {
        let nsid = td.nsid_of(*file, &options)?;
        let namespace = session.namespace(nsid).map_err(|error| error.to_string())?;
        // SAFETY: one of the job's files, which are the engine's to fill in during `setup`.
        let file = unsafe { &mut **file };
        file.filetype = FIO_TYPE_BLOCK;
        file.real_file_size = namespace.bytes();
        file.flags |= FIO_FILE_size_known;
    }
    Ok(())
}

unsafe extern "C" fn init(td: *mut thread_data) -> c_int {
    // SAFETY: fio passed it to this call.
    let td = unsafe { Td::new(td) };
    report(begin(td))
}

fn begin(td: Td) -> Result<(), String> {
    let options = td.options()?;
    let iodepth = td.data().o.iodepth;
    let nsids = td.nsids(&options)?;
    let job = Job::connect(&options, iodepth, &nsids).map_err(|error| error.to_string())?;
    let depth = iodepth as usize;
    let engine = Engine {
        job,
        uncommitted: Vec::with_capacity(depth),
        events: Vec::with_capacity(depth),
        memory: None,
    };
    let engine: *mut c_void = Box::into_raw(Box::new(engine)).cast();
    // SAFETY: fio passed `td` to `init`, which is where an engine leaves its data.
    unsafe { (*td.0).io_ops_data = engine };
    Ok(())
}

unsafe extern "C" fn cleanup(td: *mut thread_data) {
    // SAFETY: fio passed it to this call.
    let engine = unsafe { (*td).io_ops_data }.cast::<Engine>();
    if !engine.is_null() {
        // SAFETY: `init` made it of a box, fio calls `cleanup` once, and the pointer is gone after it.
        drop(unsafe { Box::from_raw(engine) });
        // SAFETY: fio passed it to this call.
        unsafe { (*td).io_ops_data = ptr::null_mut() };
    }
}

unsafe extern "C" fn open_file(td: *mut thread_data, file: *mut fio_file) -> c_int {
    // SAFETY: fio passed it to this call.
    let td = unsafe { Td::new(td) };
    report(open(td, file))
}

/// Notes which of the job's namespaces the file is: its index plus one, so that null is none.
fn open(td: Td, file: *mut fio_file) -> Result<(), String> {
    let engine = td.engine().ok_or("a file is opened before the engine runs")?;
    let nsid = td.nsid_of(file, &td.options()?)?;
    let index = engine.job.namespace_index(nsid).ok_or_else(|| format!("namespace {nsid} came too late"))?;
    // SAFETY: fio passed the file to `open_file`, and its engine data is ours.
    let file = unsafe { &mut *file };
    file.engine_data = ptr::without_provenance_mut(index + 1);
    // Files of a replayed log were not there at `setup`.
    file.real_file_size = engine.job.namespace(index).bytes();
    Ok(())
}

unsafe extern "C" fn nothing_to_do(_td: *mut thread_data, _file: *mut fio_file) -> c_int {
    0
}

unsafe extern "C" fn iomem_alloc(td: *mut thread_data, bytes: usize) -> c_int {
    // SAFETY: fio passed it to this call.
    let Some(engine) = unsafe { Td::new(td) }.engine() else { return libc::EINVAL };
    let Ok(large_slots) = u32::try_from(bytes.div_ceil(LARGE_SLOT_SIZE)) else { return libc::ENOMEM };
    let pool =
        match DmaPool::new(PoolConfig { small_slots: 0, large_slots: large_slots.max(1), prefault: false }) {
            Ok(pool) => pool,
            Err(error) => return report(Err(format!("no memory for buffers: {error}"))),
        };
    // SAFETY: fio passed it to this call, which is where an engine says where the memory is.
    unsafe { (*td).orig_buffer = pool.arena().ptr.as_ptr().cast() };
    engine.memory = Some(pool);
    0
}

unsafe extern "C" fn iomem_free(td: *mut thread_data) {
    // SAFETY: fio passed it to this call.
    if let Some(engine) = unsafe { Td::new(td) }.engine() {
        engine.memory = None;
    }
    // SAFETY: fio passed it to this call; the memory is gone.
    unsafe { (*td).orig_buffer = ptr::null_mut() };
}

unsafe extern "C" fn queue(td: *mut thread_data, io: *mut io_u) -> fio_q_status {
    // SAFETY: fio passed it to this call.
    let td = unsafe { Td::new(td) };
    // SAFETY: fio passed it to this call, and leaves it to the engine until it ends.
    let outcome = submit(td, unsafe { &*io }, io);
    let error = match outcome {
        Ok(Submitted::Queued) => return FIO_Q_QUEUED,
        Ok(Submitted::Done) => 0,
        Err(errno) => errno.0.unsigned_abs(),
    };
    // SAFETY: as above.
    unsafe { (*io).error = error };
    FIO_Q_COMPLETED
}

#[inline]
fn submit(td: Td, request: &io_u, io: *mut io_u) -> Result<Submitted, Errno> {
    let engine = td.engine().ok_or(Errno::INVALID)?;
    // SAFETY: the file is open for as long as an I/O on it is under way.
    let opened = unsafe { (*request.file).engine_data };
    let namespace = opened.addr().checked_sub(1).ok_or(Errno::INVALID)?;
    let fua = td.data().o.sync_io != 0;
    let op = operation(request, fua, engine.job.writes_zeroes()).ok_or(Errno::INVALID)?;
    let (offset, bytes) = match op {
        Op::Flush => (0, 0),
        _ => (request.offset, request.xfer_buflen),
    };
    let data = match op {
        Op::Read | Op::Write { .. } => Some(region(request).ok_or(Errno::INVALID)?),
        _ => None,
    };
    let submitted = engine.job.submit(io, Ask { op, namespace, offset, bytes, data })?;
    if submitted == Submitted::Queued {
        engine.uncommitted.push(io);
    }
    Ok(submitted)
}

#[inline]
fn operation(request: &io_u, fua: bool, zeroes: bool) -> Option<Op> {
    match request.ddir {
        DDIR_READ => Some(Op::Read),
        DDIR_WRITE if zeroes => Some(Op::WriteZeroes { fua }),
        DDIR_WRITE => Some(Op::Write { fua }),
        DDIR_TRIM => Some(Op::Trim),
        DDIR_SYNC | DDIR_DATASYNC | DDIR_SYNC_FILE_RANGE => Some(Op::Flush),
        _ => None,
    }
}

#[inline]
fn region(request: &io_u) -> Option<Region> {
    let start = NonNull::new(request.xfer_buf.cast())?;
    let len = usize::try_from(request.xfer_buflen).ok()?;
    // SAFETY: fio's buffer of this I/O is that long, inside memory that is zero or written from the start, and fio leaves
    // it alone until the I/O ends; the job drops every part before it reports that, or never touches them again.
    Some(unsafe { Region::new(start, len) })
}

unsafe extern "C" fn commit(td: *mut thread_data) -> c_int {
    // SAFETY: fio passed it to this call.
    let td = unsafe { Td::new(td) };
    if let Some(engine) = td.engine()
        && book(td, engine)
    {
        engine.job.commit();
    }
    0
}

/// Books what was queued as submitted; `false` when nothing was.
#[inline]
fn book(td: Td, engine: &mut Engine) -> bool {
    if engine.uncommitted.is_empty() {
        return false;
    }
    if let Some(symbols) = Symbols::get() {
        // SAFETY: fio's call is for this job, and these I/Os are under way.
        unsafe { symbols.mark_submitted(td.0, &engine.uncommitted) };
    }
    engine.uncommitted.clear();
    true
}

unsafe extern "C" fn getevents(
    td: *mut thread_data,
    min: c_uint,
    max: c_uint,
    timeout: *const timespec,
) -> c_int {
    // SAFETY: fio passed it to this call.
    let td = unsafe { Td::new(td) };
    let Some(engine) = td.engine() else { return -libc::EINVAL };
    // SAFETY: fio passes null or a time.
    let timeout = unsafe { timeout.as_ref() }.map(duration);
    // Nothing may end that was not booked as submitted.
    book(td, engine);
    engine.events.clear();
    engine.job.reap(min as usize, max as usize, timeout, &mut engine.events);
    c_int::try_from(engine.events.len()).unwrap_or(c_int::MAX)
}

fn duration(time: &timespec) -> Duration {
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

unsafe extern "C" fn event(td: *mut thread_data, index: c_int) -> *mut io_u {
    // SAFETY: fio passed it to this call.
    let Some(engine) = unsafe { Td::new(td) }.engine() else { return ptr::null_mut() };
    let found = usize::try_from(index).ok().and_then(|index| engine.events.get(index));
    let Some((io, outcome)) = found else { return ptr::null_mut() };
    let error = outcome.map_or_else(|errno| errno.0.unsigned_abs(), |()| 0);
    // SAFETY: fio gave it to `queue` and gets it back only now.
    unsafe { (**io).error = error };
    *io
}
