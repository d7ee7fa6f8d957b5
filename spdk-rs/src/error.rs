//! What can go wrong, one enumeration per operation. Commands that fail have an NVMe status instead.

use std::fmt;
use std::io;

use crate::{Completion, PciAddress, TransportId};

/// The environment cannot be set up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EnvError {
    /// It is there already, made with other options.
    #[error("SPDK's environment is set up already, with other options")]
    Differs,
    /// A text has a zero byte in it.
    #[error("{0:?} cannot be passed to SPDK: it holds a zero byte")]
    ZeroByte(String),
    /// SPDK or DPDK refused.
    #[error(
        "SPDK's environment cannot be set up ({step}: error {errno}); huge pages and /dev/vfio are what it needs most often"
    )]
    Init {
        /// What failed.
        step: &'static str,
        /// SPDK's return value: a negated `errno`, or -1.
        errno: i32,
    },
    /// No thread for the set-up.
    #[error("no thread to set up SPDK's environment: {0}")]
    Thread(String),
}

/// A controller cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The allow-list does not name the device.
    #[error("{0} is not on the list of devices that may be used")]
    NotAllowed(PciAddress),
    /// It is attached already.
    #[error("{0} is attached already")]
    Attached(TransportId),
    /// SPDK found no controller there, or could not bring it up.
    #[error("no NVMe controller comes up at {0}: is it bound to vfio-pci, and unused?")]
    NotFound(TransportId),
}

/// A controller refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControllerError {
    /// Queue pairs are in use; a reset would pull them from under their threads.
    #[error("{0} queue pairs are in use")]
    QueuePairsOpen(usize),
    /// It failed, or was removed.
    #[error("the controller failed or was removed")]
    Failed,
}

/// A queue pair cannot be opened or goes on no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QueueError {
    /// The controller gives no further queue, or failed.
    #[error("the controller gives no further queue pair")]
    NoQueue,
    /// There is no such namespace, or it is not active.
    #[error("no active namespace {0}")]
    NoNamespace(u32),
    /// SPDK refused to connect it or to add it to its poll group.
    #[error("the queue pair does not connect (error {0})")]
    Connect(i32),
    /// The controller failed, was removed or is being reset: park or close the queue pair.
    #[error("the queue pair is down")]
    Down,
}

/// Why a command was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectReason {
    /// Every slot, or every request of SPDK, is taken: try again after completions.
    Full,
    /// The controller failed, was removed or is being reset.
    Down,
    /// The buffer is not as long as the blocks are, or missing, or one where none belongs.
    BufferLength,
    /// The namespace is gone or has another block size than when the queue pair was opened.
    NamespaceChanged,
    /// No blocks, or more than one command can name.
    BlockCount,
}

/// A command that was not taken, with its buffer.
pub struct Rejected<B> {
    /// Why.
    pub reason: RejectReason,
    /// The buffer, untouched.
    pub buffer: Option<B>,
}

impl<B> fmt::Debug for Rejected<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for Completion<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, status, result, buffer } = self;
        f.debug_struct("Completion")
            .field("tag", tag)
            .field("status", status)
            .field("result", result)
            .field("has_buffer", &buffer.is_some())
            .finish()
    }
}

/// The error of a call that gives a negated `errno`.
pub(crate) fn errno(result: i32) -> io::Error {
    io::Error::from_raw_os_error(result.saturating_neg())
}
