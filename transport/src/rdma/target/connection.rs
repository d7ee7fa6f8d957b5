//! One connection of the target: its queue pair, its machine, and where it is on its way from open to closed.
//!
//! States: `Open` → (`Flushing`) → closed. In `Open` it has a queue of the service, which is given back
//! (`TargetService::closed`) on leaving it, exactly once. `Flushing` waits, for a bounded time, until what was answered is
//! delivered.

use std::collections::VecDeque;
use std::time::Duration;

use fabrics::rdma::Remote;
use fabrics::rdma::target::{TargetConn, Wire};
use fabrics::{CommandId, IoBuffer, Now};
use nvme::Cqe;
use nvme::zerocopy::IntoBytes;

use super::stats::RdmaTraffic;
use crate::drain::after;
use crate::rdma::verbs::{Completion, Qp, Sends};
use crate::{Data, Peer};

/// Longest time for the last answers to be delivered after a connection was ended.
pub(super) const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest time a drain waits for commands in flight; shorter than a reactor waits for its pollers.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest time for a device to tell of the last shared receive of a queue pair in error.
const LAST_RECEIVE_TIME_MAX: Duration = Duration::from_millis(500);

/// Where a connection is.
pub(super) enum Phase<Q> {
    /// Serving. `draining` since the transport was told to drain: no new capsules are taken.
    Open { queue: Q, draining: bool },
    /// Ended; what was answered before is still being delivered.
    Flushing { deadline: Now },
}

/// A capsule that arrived and was not taken yet.
pub(super) struct Arrived {
    pub(super) receive: Completion,
    pub(super) bytes: usize,
}

/// A connection.
pub(super) struct Connection<Q> {
    pub(super) qp: Qp,
    pub(super) peer: Peer,
    pub(super) machine: TargetConn<Data>,
    pub(super) phase: Phase<Q>,
    /// Capsules that wait, oldest first; bounded by `commands`.
    pub(super) arrived: VecDeque<Arrived>,
    /// Commands that the host may have on their way.
    pub(super) commands: u16,
    /// Commands the service holds.
    pub(super) pending: usize,
    /// On the list of connections that have something to post.
    pub(super) dirty: bool,
    /// On the list of connections that cannot take capsules.
    pub(super) blocked: bool,
    pub(super) traffic: RdmaTraffic,
}

impl<Q> Connection<Q> {
    /// When its present phase is over at the latest.
    pub(super) fn deadline(&self) -> Option<Now> {
        match self.phase {
            Phase::Open { .. } => self.machine.next_deadline(),
            Phase::Flushing { deadline } => Some(deadline),
        }
    }

    pub(super) fn traffic(&self) -> RdmaTraffic {
        self.traffic.with(self.machine.stats())
    }
}

/// The queue pair of a connection that is gone, until the device has told of its last shared receive: what it tells of later
/// would be lost to all who share.
pub(super) struct Leaving {
    pub(super) qp: Qp,
    pub(super) last_was_told: bool,
    pub(super) deadline: Now,
}

impl Leaving {
    /// Puts the queue pair in error.
    pub(super) fn new(qp: Qp, now: Now) -> Self {
        qp.stop();
        Self { qp, last_was_told: false, deadline: after(now, LAST_RECEIVE_TIME_MAX) }
    }

    /// Whether it may be destroyed.
    pub(super) fn is_over(&self, now: Now) -> bool {
        self.last_was_told || now >= self.deadline
    }
}

/// A machine's way to its queue pair.
pub(super) struct Link<'a> {
    pub(super) sends: &'a mut Sends,
    pub(super) bytes_sent: &'a mut u64,
}

impl Wire<Data> for Link<'_> {
    #[inline]
    fn read(&mut self, work: CommandId, buffer: Data, remote: Remote) {
        self.sends.read(work.to_bits(), buffer.0, remote);
    }

    #[inline]
    fn respond(&mut self, work: CommandId, data: Option<(Data, Remote)>, cqe: &Cqe, invalidate: Option<u32>) {
        let data = data.map(|(data, remote)| {
            *self.bytes_sent += data.len() as u64;
            (data.0, remote)
        });
        self.sends.send(work.to_bits(), data, &[cqe.as_bytes()], invalidate);
    }
}
