//! How connections end: by the peer, by an error, by the service, by time, by a drain.

use std::rc::Rc;

use fabrics::Now;
use fabrics::rdma::CloseReason as MachineReason;
use reactors::reply::Replier;

use super::{RdmaTargetPoller, TICK_NS};
use crate::drain::after;
use crate::rdma::target::connection::{Connection, DRAIN_TIME_MAX, FLUSH_TIME_MAX, Leaving, Phase};
use crate::rdma::verbs::{CmKey, DeviceEvent, DeviceKey};
use crate::{CloseReason, ConnId, TargetService};

impl<S: TargetService> RdmaTargetPoller<S> {
    /// Ends a connection. With a peer that is still there, what was answered is delivered first.
    pub(super) fn end(&mut self, id: ConnId, reason: CloseReason, now: Now) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let link_is_gone = matches!(reason, CloseReason::PeerClosed | CloseReason::LinkFailed(_));
        let deadline = after(now, FLUSH_TIME_MAX);
        match std::mem::replace(&mut connection.phase, Phase::Flushing { deadline }) {
            Phase::Open { queue, .. } => {
                tracing::debug!(conn = %id, peer = %connection.peer.remote, ?reason, "connection ends");
                connection.machine.close();
                self.service.borrow_mut().closed(id, queue, reason);
            }
            under_way if !link_is_gone => {
                connection.phase = under_way;
                return;
            }
            Phase::Flushing { .. } => {}
        }
        if link_is_gone || connection.machine.undelivered() == 0 {
            self.release(id, now);
        } else {
            self.deadline = self.deadline.min(deadline);
        }
    }

    /// A device goes away: so do its connections, whether they are told or not.
    pub(super) fn on_device_removed(&mut self, key: CmKey, now: Now) {
        let Some(domain) = self.devices.forget(key) else { return };
        let there = |connection: &Connection<S::Queue>| Rc::ptr_eq(connection.qp.domain(), &domain);
        let ids: Vec<_> =
            self.connections.iter().filter(|(_, connection)| there(connection)).map(|(id, _)| id).collect();
        tracing::warn!(connections = ids.len(), "an RDMA device is removed");
        for id in ids {
            self.end(id, CloseReason::LinkFailed(libc::ENODEV), now);
        }
        // It tells of nothing any more, and is closed with what is left of it.
        self.leaving.retain(|leaving| !Rc::ptr_eq(leaving.qp.domain(), &domain));
    }

    /// What a device said that ends connections, or that they wait for.
    pub(super) fn on_device_event(&mut self, event: DeviceEvent, now: Now) {
        match event {
            DeviceEvent::QueuePairFailed(queue_pair) => {
                let Some(&id) = self.by_queue_pair.get(&queue_pair) else { return };
                tracing::warn!(conn = %id, "an RDMA queue pair failed");
                self.end(id, CloseReason::LinkFailed(libc::EIO), now);
            }
            DeviceEvent::LastReceive(queue_pair) => {
                let left = self.leaving.iter_mut().filter(|leaving| leaving.qp.key() == queue_pair);
                left.for_each(|leaving| leaving.last_was_told = true);
            }
            DeviceEvent::QueueFailed(device) | DeviceEvent::DeviceFailed(device) => {
                self.on_device_failed(device, now);
            }
            _ => {}
        }
    }

    /// A device, or what its connections share, does not work any more: they end, and later ones get new queues.
    pub(super) fn on_device_failed(&mut self, device: DeviceKey, now: Now) {
        self.devices.forget_failed(device);
        let there = |connection: &Connection<S::Queue>| connection.qp.key().device() == device;
        let ids: Vec<_> =
            self.connections.iter().filter(|(_, connection)| there(connection)).map(|(id, _)| id).collect();
        for id in ids {
            self.end(id, CloseReason::LinkFailed(libc::EIO), now);
        }
    }

    /// Disconnects, gives up the queue pair and forgets the connection.
    fn release(&mut self, id: ConnId, now: Now) {
        let Some(connection) = self.connections.remove(id) else { return };
        self.busy = true;
        self.by_key.remove(&connection.qp.id().key());
        self.by_queue_pair.remove(&connection.qp.key());
        connection.qp.disconnect();
        self.closed += 1;
        self.closed_traffic += connection.traffic();
        self.load.let_go();
        let Connection { mut qp, arrived, .. } = *connection;
        if qp.is_shared() {
            arrived.into_iter().for_each(|arrived| qp.reuse(arrived.receive));
            self.leaving.push(Leaving::new(qp, now));
        }
    }

    /// Ends what the service or a machine asked to end in this turn.
    pub(super) fn end_requested(&mut self, now: Now) {
        while let Some((id, reason)) = self.ending.pop() {
            self.end(id, reason, now);
        }
    }

    /// Looks at time-outs and publishes the counters.
    pub(super) fn tick(&mut self, now: Now) {
        self.next_tick = now.after_ns(TICK_NS);
        self.service.borrow_mut().tick(now);
        if now >= self.deadline {
            self.time_out(now);
        }
        self.publish();
    }

    fn time_out(&mut self, now: Now) {
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.deadline().is_none_or(|deadline| deadline > now) {
                continue;
            }
            if matches!(connection.phase, Phase::Flushing { .. }) {
                self.release(id, now);
                continue;
            }
            connection.machine.on_tick(now);
            match connection.machine.closed() {
                Some(MachineReason::ConnectTimeout) => self.end(id, CloseReason::TimedOut, now),
                Some(_) => self.end(id, CloseReason::Protocol, now),
                None => {}
            }
        }
        let deadlines = self.connections.iter().filter_map(|(_, connection)| connection.deadline());
        self.deadline = deadlines.min().unwrap_or(Now::NEVER);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_under_way()
    }

    /// From now on nothing new is taken or accepted; `asked` hears when the last connection is closed.
    pub(super) fn start_drain(&mut self, asked: Option<Replier<()>>, now: Now) {
        self.busy = true;
        if !self.drain.begin(asked, after(now, DRAIN_TIME_MAX)) {
            return;
        }
        for id in self.connections.ids() {
            if let Some(Phase::Open { draining, .. }) = self.connections.get_mut(id).map(|c| &mut c.phase) {
                *draining = true;
            }
        }
    }

    /// Ends every connection that has nothing left to answer.
    pub(super) fn drain_step(&mut self, now: Now) {
        let late = now >= self.drain.deadline();
        for id in self.connections.ids() {
            if late || self.is_drained(id) {
                self.end(id, CloseReason::Shutdown, now);
            }
        }
        if self.connections.len() == 0 {
            self.drain.tell();
        }
    }

    fn is_drained(&mut self, id: ConnId) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let Phase::Open { queue, .. } = &connection.phase else { return false };
        let waiters = self.service.borrow().event_waiters(queue);
        connection.pending <= waiters && connection.machine.undelivered() == 0
    }
}

impl<S: TargetService> Drop for RdmaTargetPoller<S> {
    /// Each connection that was opened is also closed, whatever ends the reactor.
    fn drop(&mut self) {
        for id in self.connections.ids() {
            let Some(connection) = self.connections.remove(id) else { continue };
            self.load.let_go();
            if let Phase::Open { queue, .. } = connection.phase {
                self.service.borrow_mut().closed(id, queue, CloseReason::Shutdown);
            }
        }
    }
}
