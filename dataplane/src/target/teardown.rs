//! The ends of associations and queues: keep-alive time-outs, resets, lost connections, control calls; and Aborts that
//! travel to the reactor of their queue and back.

use std::sync::Arc;

use fabrics::{Execution, Now};
use nvme::Status;
use reactors::IoBuf;
use transport::{CloseReason, ConnId};

use super::admin::{AdminController, abort_result};
use super::io::Order;
use super::limits::CONNECT_WAIT_NS;
use super::message::{AbortRequest, Message};
use super::queue::IoQueue;
use super::registry::{Controller, Home};
use super::service::{ReactorTarget, done};

impl ReactorTarget {
    /// Turns I/O off and closes every I/O queue, wherever its connection is.
    pub(super) fn close_io_queues(&mut self, controller: &Arc<Controller>, reason: CloseReason) {
        for queue in controller.take_down() {
            self.close_at(queue.home, reason);
        }
    }

    fn close_at(&mut self, home: Home, reason: CloseReason) {
        if home.reactor == self.index {
            self.close(home.conn, reason);
        } else {
            self.send(home.reactor, Message::Close(home.conn, reason));
        }
    }

    /// Ends an association whose admin queue is here; its connections close.
    pub(super) fn destroy(&mut self, uid: u64, reason: CloseReason) {
        let Some(admin) = self.admins.remove(&uid) else { return };
        self.end_association(&admin, reason);
        self.close(admin.conn, reason);
    }

    fn end_association(&mut self, admin: &AdminController, reason: CloseReason) {
        let (host, cntlid) = (&admin.controller.host.nqn, admin.controller.id.get());
        tracing::info!(%host, cntlid, ?reason, "controller gone");
        self.close_io_queues(&admin.controller, reason);
        let sub = self.view.subsystems.get(admin.controller.slot).and_then(Option::as_ref);
        if let Some(sub) = sub.filter(|sub| sub.uid == admin.controller.subsystem) {
            sub.registry.remove(&admin.controller);
        }
    }

    /// The connection of an admin queue is gone, and the association with it.
    pub(super) fn admin_closed(&mut self, uid: u64) {
        self.counters.admin_queues.sub(1);
        if let Some(admin) = self.admins.remove(&uid) {
            self.end_association(&admin, CloseReason::Service);
        }
    }

    /// The connection of an I/O queue is gone; the association goes on without it.
    pub(super) fn io_closed(&mut self, conn: ConnId, io: &IoQueue) {
        self.counters.io_queues.sub(1);
        io.controller.remove_queue(self.index, conn);
        self.held.retain(|held| held.conn != conn);
    }

    /// Disconnect of an I/O queue (base 2.1 §6.4): answered, then closed.
    pub(super) fn disconnect(&mut self, order: Order<'_>) -> Execution<IoBuf> {
        order.io.controller.remove_queue(self.index, order.conn);
        self.close(order.conn, CloseReason::Service);
        done(Status::SUCCESS)
    }

    /// Time-outs that have come, and the next one.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        let late: Vec<u64> = self
            .admins
            .iter()
            .filter(|(_, admin)| admin.association_deadline() <= now)
            .map(|(uid, _)| *uid)
            .collect();
        for uid in late {
            if let Some(admin) = self.admins.get_mut(&uid) {
                admin.registers.fail();
                let controller = &admin.controller;
                let (host, cntlid) = (&controller.host.nqn, controller.id.get());
                tracing::warn!(%host, cntlid, "the host was silent for too long: its association ends");
            }
            self.destroy(uid, CloseReason::TimedOut);
        }
        self.look_at_health();
        let waiting = self.expire_held().min(self.expire_fresh());
        let admins = self.admins.values().map(AdminController::deadline).min();
        self.deadline = admins.unwrap_or(Now::NEVER).min(waiting);
    }

    /// Closes connections that did not become a queue in time; when the next one is due.
    fn expire_fresh(&mut self) -> Now {
        let now = self.now;
        let mut next = Now::NEVER;
        let mut late = Vec::new();
        self.fresh.retain_mut(|(conn, until)| {
            let until = *until.get_or_insert(now.after_ns(CONNECT_WAIT_NS));
            if now >= until {
                late.push(*conn);
                return false;
            }
            next = next.min(until);
            true
        });
        for conn in late {
            self.close(conn, CloseReason::TimedOut);
        }
        next
    }

    pub(super) fn no_longer_fresh(&mut self, conn: ConnId) {
        self.fresh.retain(|(other, _)| *other != conn);
    }

    /// Sends an Abort to the reactor of its queue.
    pub(super) fn send_abort(&mut self, admin: &AdminController, queue: Home, cid: u16, command: u32) {
        let (home, controller) = (self.index, admin.controller.uid);
        let request = AbortRequest { conn: queue.conn, cid, home, controller, command };
        self.send(queue.reactor, Message::Abort(request));
    }

    /// An Abort for a queue of this reactor.
    pub(super) fn abort_here(&mut self, request: AbortRequest) {
        let aborted = self.abort_io(request.conn, request.cid);
        self.send(request.home, Message::Aborted { request, aborted });
    }

    /// The answer to an Abort that was sent away.
    pub(super) fn finish_abort(&mut self, request: AbortRequest, aborted: bool) {
        let Some(admin) = self.admins.get_mut(&request.controller) else { return };
        admin.aborts -= 1;
        let conn = admin.conn;
        if let Execution::Done(completion) = abort_result(aborted) {
            self.complete(conn, request.command, completion);
        }
    }
}
