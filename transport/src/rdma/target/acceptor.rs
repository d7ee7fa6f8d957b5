//! Takes what hosts ask for, refuses what cannot be, and places the rest over the transport's reactors.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use fabrics::rdma::check_request;
use fabrics::{NS_PER_S, Now};
use nvme::rdma::{CmReject, CmStatus};
use nvme::zerocopy::IntoBytes;
use reactors::{Poller, Timestamp, Turn, Work};

use super::control::{Incoming, Message, RdmaTarget};
use crate::drain::now;
use crate::drivers::PlaceError;
use crate::rdma::look::Looks;
use crate::rdma::verbs::{CmEvent, CmEventKind, CmId, ConnectRequest};
use crate::{Peer, TransportKind};

/// Requests taken per turn.
const REQUESTS_PER_TURN: usize = 16;

/// Between tries to listen again where that was lost.
const RETRY_NS: u64 = NS_PER_S;

/// Events of devices taken per turn.
const DEVICE_EVENTS_PER_TURN: usize = 64;

/// The accepting side of an [`RdmaTarget`]: a poller of one reactor.
pub struct RdmaAcceptor {
    target: Arc<RdmaTarget>,
    looks: Looks,
    /// When to try again to listen; never while nothing is lost.
    next_retry: Now,
}

impl RdmaAcceptor {
    /// The acceptor of `target`. One is enough; add it to one reactor.
    pub fn new(target: &Arc<RdmaTarget>) -> Self {
        Self { target: Arc::clone(target), looks: Looks::default(), next_retry: Now::NEVER }
    }

    fn look(&mut self, now: Now) -> Work {
        for taken in 0..REQUESTS_PER_TURN {
            let Some(event) = self.target.channel().next() else { return Work::from(taken > 0) };
            self.looks.found(now);
            self.on_event(event);
        }
        self.looks.again();
        Work::Busy
    }

    /// Takes what devices said, and lets drivers know what concerns them.
    fn look_at_devices(&self) -> Work {
        for taken in 0..DEVICE_EVENTS_PER_TURN {
            let Some(event) = self.target.next_device_event() else { return Work::from(taken > 0) };
            if self.target.note(event) {
                self.target.drivers().tell(|| Message::Device(event));
            }
        }
        Work::Busy
    }

    fn on_event(&self, event: CmEvent) {
        match event.kind {
            CmEventKind::ConnectRequest(request) => self.on_request(*request),
            CmEventKind::DeviceRemoved | CmEventKind::AddressChanged => self.on_listener_lost(&event),
            // What happened to a connection before its driver took it: the driver finds out when it accepts.
            _ => {}
        }
    }

    fn on_request(&self, request: ConnectRequest) {
        let ConnectRequest { id, listener, private_data, initiator_depth } = request;
        let remote = id.remote();
        // A listener on every address is on no device; the connection is.
        self.target.watch(&id);
        let sizes = check_request(&private_data, initiator_depth, &self.target.config().limits);
        let sizes = match sizes {
            Ok(sizes) => sizes,
            Err(status) => {
                tracing::warn!(?remote, %status, "connection rejected");
                return reject(&id, status);
            }
        };
        // The listener was closed since, or the addresses are none: there is nobody to serve.
        let (Some(listener), Some(local), Some(remote)) =
            (self.target.listener(listener), id.local(), remote)
        else {
            return reject(&id, CmStatus::NO_RESOURCES);
        };
        let peer = Peer { transport: TransportKind::Rdma, listener, local, remote };
        let Err((error, id)) = self.target.place(Incoming { cm: id, peer, sizes, initiator_depth }) else {
            return;
        };
        match error {
            PlaceError::Limit => tracing::warn!(%remote, "connection rejected: the limit is reached"),
            PlaceError::NoDriver => tracing::warn!(%remote, "connection rejected: no reactor can take it"),
        }
        reject(&id, CmStatus::NO_RESOURCES);
    }

    /// The device or the address under a listener is gone.
    fn on_listener_lost(&self, event: &CmEvent) {
        if matches!(event.kind, CmEventKind::DeviceRemoved) {
            self.target.forget_device(event.id);
        }
        let Some(listener) = self.target.listener(event.id) else { return };
        self.target.lose_listener(listener);
        if matches!(event.kind, CmEventKind::AddressChanged) {
            self.target.retry_listeners();
        }
    }

    /// Tries from time to time to listen where that was lost.
    fn look_after_listeners(&mut self, now: Now) {
        if now < self.next_retry {
            return;
        }
        self.next_retry = Now::NEVER;
        if self.target.misses_listeners() {
            self.target.retry_listeners();
            self.retry_soon(now);
        }
    }

    /// As long as a listener is lost.
    fn retry_soon(&mut self, now: Now) {
        if self.target.misses_listeners() {
            self.next_retry = self.next_retry.min(now.after_ns(RETRY_NS));
        }
    }
}

/// Refuses a connection with a reason.
pub(super) fn reject(id: &CmId, status: CmStatus) {
    id.reject(CmReject::new(status).as_bytes());
}

impl Poller for RdmaAcceptor {
    fn name(&self) -> &str {
        "rdma acceptor"
    }

    fn poll(&mut self, turn: &mut Turn<'_>) -> Work {
        let now = now(turn);
        self.look_after_listeners(now);
        if !self.looks.is_due(now) {
            return Work::Idle;
        }
        let devices = self.look_at_devices();
        let work = match self.look(now) {
            Work::Idle => devices,
            busy => busy,
        };
        if matches!(work, Work::Busy) {
            self.retry_soon(now);
        }
        work
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        (self.next_retry != Now::NEVER).then(|| Timestamp::from_nanos(self.next_retry.0))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.target.as_fd())
    }

    fn drain(&mut self, _turn: &mut Turn<'_>) -> bool {
        self.target.close_listeners();
        true
    }
}
