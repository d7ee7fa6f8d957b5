//! What reactors and control threads send each other. Messages of one sender arrive in order.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nvme::Nsid;
use reactors::reply::Replier;
use transport::{CloseReason, ConnId};

use super::registry::Controller;
use super::reservations::Notice;
use super::view::TargetView;
use crate::device::DeviceError;

/// A message to a reactor.
pub(super) enum Message {
    /// Use this view from now on. The answer comes when namespaces it no longer has are drained here.
    View(Arc<TargetView>, Option<Replier<Result<(), OpenFailed>>>),
    /// Something happened that the host of a controller may want to know. To the controller's home.
    Event(Arc<Controller>, Event),
    /// End a connection of this reactor.
    Close(ConnId, CloseReason),
    /// End the association of a controller. To its home.
    Destroy(Arc<Controller>, CloseReason),
    /// Say when every I/O that is now in flight on a namespace is finished.
    Drain { namespace: u64, barrier: Arc<Barrier> },
    /// All reactors have drained.
    Drained(u32),
    /// Abort a command on a queue of this reactor.
    Abort(AbortRequest),
    /// The command was aborted, or not.
    Aborted { request: AbortRequest, aborted: bool },
    /// Something that was waited for may be possible now.
    Wake,
}

/// A device did not open.
#[derive(Debug)]
pub(super) struct OpenFailed {
    pub(super) reactor: usize,
    pub(super) device: String,
    pub(super) source: DeviceError,
}

/// What a host may be told asynchronously.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A namespace was added, removed, or changed its size.
    NamespaceChanged(Nsid),
    /// The ANA log page changed.
    AnaChanged,
    /// The discovery log page changed.
    DiscoveryChanged,
    /// A reservation notification for the log page.
    Reservation(Nsid, Notice),
}

/// An Abort on its way to the queue it names, and back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AbortRequest {
    /// The queue's connection.
    pub(super) conn: ConnId,
    /// CID of the command to abort.
    pub(super) cid: u16,
    /// Reactor of the admin queue.
    pub(super) home: usize,
    /// Unique number of the controller.
    pub(super) controller: u64,
    /// The Abort itself, as a number.
    pub(super) command: u32,
}

/// Counts reactors that have not drained yet; the last one tells who asked.
pub(super) struct Barrier {
    left: AtomicUsize,
    pub(super) origin: usize,
    /// The flight that waits.
    pub(super) tag: u32,
}

impl Barrier {
    pub(super) fn new(reactors: usize, origin: usize, tag: u32) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(reactors), origin, tag })
    }

    /// One reactor is done; whether it was the last.
    #[must_use]
    pub(super) fn arrive(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Answers a view when the last of what it waits for is dropped.
pub(super) struct Acknowledge(Option<Replier<Result<(), OpenFailed>>>);

impl Acknowledge {
    pub(super) fn new(replier: Option<Replier<Result<(), OpenFailed>>>) -> Rc<Self> {
        Rc::new(Self(replier))
    }
}

impl Drop for Acknowledge {
    fn drop(&mut self) {
        if let Some(replier) = self.0.take() {
            replier.reply(Ok(()));
        }
    }
}
