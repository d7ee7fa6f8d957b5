//! Verbs and the RDMA connection manager, safe: the only part of this crate with `unsafe`.
//!
//! Invariants that make it so
//! - An object keeps what it was made of alive: a queue pair its completion queue, that its domain, that the registered
//!   buffers. Destroying a queue pair ends every access of the device for it, before any of its memory is given up.
//! - Memory that the device moves bytes for belongs to the queue pair until a [`Completion`] for it was polled: buffers are
//!   handed over by value, and message slots are reached by a completion or not at all.
//! - Everything of one domain stays on one thread, but connection identifiers and event channels, which librdmacm locks.
//!
//! What the compiler cannot know: a host lets its controller write into its registered buffers at any time, because that is
//! what NVMe/RDMA is. A controller that does so outside of a command breaks the data, not the process's memory.
#![allow(unsafe_code, reason = "the one place that calls librdmacm and libibverbs")]

mod address;
mod cm;
mod cq;
mod device_events;
mod domain;
mod heard;
mod memory;
mod qp;
mod shared;

pub(crate) use cm::{
    CmEvent, CmEventKind, CmId, CmKey, ConnectParams, ConnectRequest, EventChannel, RETRIES,
};
pub(crate) use cq::{COMPLETIONS_PER_POLL, Completion, CompletionQueue, WakeChannel, WorkKind};
pub(crate) use device_events::{DeviceEvent, DeviceEvents, DeviceKey, QpKey};
pub(crate) use domain::{Access, Domain};
pub(crate) use qp::{Qp, QpConfig, Refused, Sends};
pub(crate) use shared::SharedReceives;

use std::io;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}")]
pub struct VerbsError {
    /// The library's function.
    pub call: &'static str,
    /// Its reason.
    pub source: io::Error,
}

impl VerbsError {
    /// The call failed and left its reason in `errno`.
    fn last(call: &'static str) -> Self {
        Self { call, source: io::Error::last_os_error() }
    }

    /// The raw `errno`.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

/// Zero is success; what fails leaves its reason in `errno`.
fn check(call: &'static str, status: i32) -> Result<(), VerbsError> {
    if status == 0 { Ok(()) } else { Err(VerbsError::last(call)) }
}

/// Zero is success; anything else is the error number itself (the verbs of the data path), of either sign, or -1.
fn check_number(call: &'static str, status: i32) -> Result<(), VerbsError> {
    match status {
        0 => Ok(()),
        -1 => Err(VerbsError::last(call)),
        number => Err(VerbsError { call, source: io::Error::from_raw_os_error(number.abs()) }),
    }
}
