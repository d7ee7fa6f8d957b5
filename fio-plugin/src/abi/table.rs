//! The engine's options as fio parses them, and what it writes for them.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::mem::{MaybeUninit, offset_of};
use std::ptr;

use transport::TransportKind;

use super::bindings::{
    FIO_OPT_BOOL, FIO_OPT_C_ENGINE, FIO_OPT_G_INVALID, FIO_OPT_INT, FIO_OPT_STR, FIO_OPT_STR_STORE,
    fio_opt_type, fio_option, thread_data, value_pair,
};
use crate::options::{Completion, Given};

const TRANSPORT_TCP: c_uint = 0;
const TRANSPORT_RDMA: c_uint = 1;
const COMPLETION_POLL: c_uint = 0;
const COMPLETION_INTERRUPT: c_uint = 1;
const WRITE_DATA: c_uint = 0;
const WRITE_ZEROES: c_uint = 1;

/// What fio parses a job's options into. It fills in the first field itself.
#[repr(C)]
pub(super) struct EngineOptions {
    td: *mut thread_data,
    traddr: *mut c_char,
    subnqn: *mut c_char,
    hostnqn: *mut c_char,
    hostid: *mut c_char,
    transport: c_uint,
    trsvcid: c_uint,
    nsid: c_uint,
    header_digest: c_uint,
    data_digest: c_uint,
    place_data: c_uint,
    queues: c_uint,
    queue_depth: c_uint,
    completion: c_uint,
    keep_alive_tmo: c_uint,
    connect_timeout: c_uint,
    command_timeout: c_uint,
    discovery: c_uint,
    write_mode: c_uint,
}

impl EngineOptions {
    /// What was given.
    ///
    /// # Safety
    /// fio filled the structure in by this table, so that its strings are C strings or null, and keeps it as long as the
    /// result is used.
    pub(super) unsafe fn given(&self) -> Given<'_> {
        // SAFETY: this function's contract, for every string.
        let [traddr, subnqn, hostnqn, hostid] =
            [self.traddr, self.subnqn, self.hostnqn, self.hostid].map(|text| unsafe { string(text) });
        Given {
            transport: if self.transport == TRANSPORT_RDMA {
                TransportKind::Rdma
            } else {
                TransportKind::Tcp
            },
            traddr,
            trsvcid: self.trsvcid,
            subnqn,
            nsid: self.nsid,
            hostnqn,
            hostid,
            header_digest: self.header_digest != 0,
            data_digest: self.data_digest != 0,
            place_data: self.place_data != 0,
            queues: self.queues,
            queue_depth: self.queue_depth,
            completion: if self.completion == COMPLETION_INTERRUPT {
                Completion::Interrupt
            } else {
                Completion::Poll
            },
            keep_alive_tmo: self.keep_alive_tmo,
            connect_timeout: self.connect_timeout,
            command_timeout: self.command_timeout,
            discovery: self.discovery != 0,
            write_zeroes: self.write_mode == WRITE_ZEROES,
        }
    }
}

/// A string of fio's; one that is not UTF-8 counts as empty, which no option allows.
///
/// # Safety
/// `text` is null or a C string that lives as long as the result is used.
pub(super) unsafe fn string<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: this function's contract.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_str().unwrap_or_default())
}

/// fio's table; it is fio's to write to.
#[repr(transparent)]
pub(super) struct Table(UnsafeCell<[fio_option; OPTIONS + 1]>);

// SAFETY: only fio writes to it, from the one thread that parses its options, before it starts any job.
unsafe impl Sync for Table {}

impl Table {
    /// For the engine's structure.
    pub(super) const fn as_ptr(&self) -> *mut fio_option {
        self.0.get().cast()
    }
}

const OPTIONS: usize = 18;

macro_rules! at {
    ($field:ident) => {
        offset_of!(EngineOptions, $field)
    };
}

/// Ends with an entry without a name.
#[rustfmt::skip]
pub(super) static TABLE: Table = Table(UnsafeCell::new([
    choice(c"transport", c"Transport", at!(transport), c"tcp", c"Transport to reach the subsystem over",
        pair(c"tcp", TRANSPORT_TCP, c"NVMe/TCP"), pair(c"rdma", TRANSPORT_RDMA, c"NVMe/RDMA")),
    text(c"traddr", c"Transport address", at!(traddr), c"Address or host name of the target, or of the discovery controller"),
    number(c"trsvcid", c"Transport service", at!(trsvcid), c"0", 65_535, c"TCP port (default: 4420, with discovery 8009)"),
    text(c"subnqn", c"Subsystem NQN", at!(subnqn), c"Subsystem to connect to; colons need no escaping"),
    number(c"nsid", c"Namespace", at!(nsid), c"1", c_uint::MAX, c"Namespace to use; filename=1:2 names several instead"),
    text(c"hostnqn", c"Host NQN", at!(hostnqn), c"Host to connect as (default: a random UUID NQN)"),
    text(c"hostid", c"Host identifier", at!(hostid), c"UUID to connect as (default: that of the host NQN, or random)"),
    flag(c"header_digest", c"Header digest", at!(header_digest), c"Protect PDU headers with a CRC32C"),
    flag(c"data_digest", c"Data digest", at!(data_digest), c"Protect data with a CRC32C"),
    flag(c"place_data", c"Place data", at!(place_data), c"Receive reads over TCP straight into their buffers, without a copy"),
    number(c"queues", c"I/O queues", at!(queues), c"1", 64, c"I/O queues (connections) per job"),
    number(c"queue_depth", c"Queue depth", at!(queue_depth), c"0", 65_534,
        c"Commands in flight per queue (default: iodepth shared by the queues)"),
    choice(c"completion", c"Completion mode", at!(completion), c"poll", c"How to wait for completions",
        pair(c"poll", COMPLETION_POLL, c"Look all the time"), pair(c"interrupt", COMPLETION_INTERRUPT, c"Sleep until something came")),
    number(c"keep_alive_tmo", c"Keep-alive time-out", at!(keep_alive_tmo), c"30", 4_294_967, c"Seconds; 0 turns keep-alive off"),
    number(c"connect_timeout", c"Connect time-out", at!(connect_timeout), c"10", 3600, c"Seconds to connect"),
    number(c"command_timeout", c"Command time-out", at!(command_timeout), c"30", 86_400,
        c"Seconds for a command; then the connection is given up"),
    flag(c"discovery", c"Discovery", at!(discovery), c"Ask the discovery controller at traddr where the subsystem is"),
    choice(c"write_mode", c"Write mode", at!(write_mode), c"write", c"Command that writes are made of",
        pair(c"write", WRITE_DATA, c"Write"), pair(c"zeroes", WRITE_ZEROES, c"Write Zeroes")),
    blank(),
]));

const fn blank() -> fio_option {
    // SAFETY: every field is a number, a pointer, or an optional function: all of them may be zero.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

const fn entry(
    name: &'static CStr,
    lname: &'static CStr,
    kind: fio_opt_type,
    at: usize,
    help: &'static CStr,
) -> fio_option {
    let mut option = blank();
    option.name = name.as_ptr();
    option.lname = lname.as_ptr();
    option.type_ = kind;
    option.off1 = offset(at);
    option.help = help.as_ptr();
    option.category = FIO_OPT_C_ENGINE as u64;
    option.group = FIO_OPT_G_INVALID;
    option
}

#[allow(clippy::cast_possible_truncation, reason = "asserted")]
const fn offset(at: usize) -> c_uint {
    assert!(at < size_of::<EngineOptions>());
    at as c_uint
}

const fn text(name: &'static CStr, lname: &'static CStr, at: usize, help: &'static CStr) -> fio_option {
    entry(name, lname, FIO_OPT_STR_STORE, at, help)
}

const fn number(
    name: &'static CStr,
    lname: &'static CStr,
    at: usize,
    def: &'static CStr,
    most: c_uint,
    help: &'static CStr,
) -> fio_option {
    let mut option = entry(name, lname, FIO_OPT_INT, at, help);
    option.def = def.as_ptr();
    option.maxval = most as u64;
    option
}

const fn flag(name: &'static CStr, lname: &'static CStr, at: usize, help: &'static CStr) -> fio_option {
    let mut option = entry(name, lname, FIO_OPT_BOOL, at, help);
    option.def = c"0".as_ptr();
    option
}

const fn choice(
    name: &'static CStr,
    lname: &'static CStr,
    at: usize,
    def: &'static CStr,
    help: &'static CStr,
    first: value_pair,
    second: value_pair,
) -> fio_option {
    let mut option = entry(name, lname, FIO_OPT_STR, at, help);
    option.def = def.as_ptr();
    option.posval[0] = first;
    option.posval[1] = second;
    option
}

const fn pair(text: &'static CStr, value: c_uint, help: &'static CStr) -> value_pair {
    value_pair {
        ival: text.as_ptr(),
        oval: value as u64,
        help: help.as_ptr(),
        orval: 0 as c_int,
        cb: ptr::null_mut(),
    }
}
