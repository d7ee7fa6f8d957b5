//! What the target keeps per connection.

use std::sync::Arc;

use nvme::{HostId, QueueId};
use transport::Peer;

use super::registry::Controller;

/// A connection's queue: nothing before Connect, then an admin or an I/O queue.
pub struct QueueState {
    pub(super) peer: Peer,
    pub(super) role: Role,
    /// Entries of the queue; zero before Connect.
    pub(super) depth: u16,
}

pub(super) enum Role {
    /// Waits for Connect.
    Fresh,
    /// Admin queue of the controller with this unique number.
    Admin(u64),
    Io(IoQueue),
}

/// An I/O queue.
pub(super) struct IoQueue {
    pub(super) controller: Arc<Controller>,
    pub(super) id: QueueId,
    /// The controller's host: who reservations are checked for.
    pub(super) host: HostId,
    /// Slot of the subsystem.
    pub(super) slot: usize,
    /// Its unique number: a slot may belong to another subsystem later.
    pub(super) subsystem: u64,
    /// Largest data transfer of a command (MDTS).
    pub(super) io_bytes_max: u32,
    /// Whether the transport takes lent buffers.
    pub(super) takes_lent: bool,
}

impl QueueState {
    pub(super) fn new(peer: Peer) -> Self {
        Self { peer, role: Role::Fresh, depth: 0 }
    }
}
