//! From completions to commands, from answers to posts.

use fabrics::rdma::target::Received;
use fabrics::{CommandId, Now};

use super::{POLLS_PER_TURN, RdmaTargetPoller};
use crate::buffer::completion as machine_completion;
use crate::connections::Connections;
use crate::handler::Handler;
use crate::rdma::target::connection::{Arrived, Connection, Link, Phase};
use crate::rdma::verbs::{Completion, WorkKind};
use crate::{CloseReason, ConnId, Data, Effect, TargetService};

impl<S: TargetService> RdmaTargetPoller<S> {
    /// Takes what every completion queue has, within the turn's budget.
    pub(super) fn take_completions(&mut self, now: Now) {
        // Those found when the queues were armed.
        self.act(now);
        let mut index = 0;
        while let Some(queue) = self.devices.queue(index) {
            for _ in 0..POLLS_PER_TURN {
                queue.poll(&mut self.completions);
                let more = self.completions.is_full();
                self.act(now);
                if !more {
                    break;
                }
            }
            index += 1;
        }
    }

    fn act(&mut self, now: Now) {
        let mut taken = std::mem::take(&mut self.completions);
        for completion in taken.drain(..) {
            self.busy = true;
            // A connection that is gone leaves completions behind.
            match self.connection_of(&completion) {
                Some(id) => self.on_completion(id, completion, now),
                None if completion.is_shared() => self.devices.give_back(&completion),
                None => {}
            }
        }
    }

    #[inline]
    fn connection_of(&self, completion: &Completion) -> Option<ConnId> {
        match completion.is_shared() {
            true => self.by_queue_pair.get(&completion.queue_pair()).copied(),
            false => self.connections.by_tag(completion.connection()),
        }
    }

    fn on_completion(&mut self, id: ConnId, completion: Completion, now: Now) {
        match completion.outcome() {
            Ok(WorkKind::Receive(bytes)) => self.on_receive(id, Arrived { receive: completion, bytes }, now),
            Ok(WorkKind::Read) => self.on_read(id, &completion, now),
            Ok(WorkKind::Send) => self.on_sent(id, &completion, now),
            Ok(WorkKind::Other) => {}
            Err(status) => {
                if !completion.is_flush() {
                    tracing::warn!(conn = %id, status, "RDMA work failed");
                }
                if completion.is_shared() {
                    self.devices.give_back(&completion);
                }
                self.end(id, CloseReason::LinkFailed(libc::EIO), now);
            }
        }
    }

    fn on_receive(&mut self, id: ConnId, arrived: Arrived, now: Now) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        // Receives of its own would have stopped it.
        let too_many = connection.arrived.len() >= usize::from(connection.commands);
        connection.arrived.push_back(arrived);
        if too_many {
            tracing::warn!(conn = %id, "a host sends more commands than its queue has room for");
            return self.ending.push((id, CloseReason::Protocol));
        }
        if !connection.blocked {
            self.feed(id, now);
        }
    }

    /// Gives capsules that arrived to the machine, in order, until it takes no more.
    fn feed(&mut self, id: ConnId, now: Now) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let received = take(connection, &mut *self.service.borrow_mut(), id, now);
        connection.blocked = received == Received::Blocked;
        match received {
            Received::Taken => {}
            Received::Blocked => self.blocked.push(id),
            Received::Closing => self.ending.push((id, CloseReason::Protocol)),
        }
        self.mark_dirty(id);
    }

    /// Gives blocked connections another try.
    pub(super) fn retry_blocked(&mut self, now: Now) {
        for id in std::mem::take(&mut self.blocked) {
            self.feed(id, now);
        }
    }

    fn on_read(&mut self, id: ConnId, completion: &Completion, now: Now) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Connection { qp, machine, phase, pending, traffic, .. } = connection;
        let (_, sends) = qp.split();
        let Some(buffer) = sends.end(completion) else { return };
        // Ended meanwhile: the command is not run.
        let Phase::Open { queue, .. } = phase else { return };
        traffic.bytes_received += buffer.len() as u64;
        let service = &mut *self.service.borrow_mut();
        let commands = &mut traffic.commands;
        let mut handler = Handler { service, queue, conn: id, now, pending, commands };
        let mut link = Link { sends, bytes_sent: &mut traffic.bytes_sent };
        let work = CommandId::from_bits(completion.work());
        machine.on_read(work, Data(buffer), &mut handler, &mut link);
        mark(connection, id, &mut self.dirty);
    }

    fn on_sent(&mut self, id: ConnId, completion: &Completion, now: Now) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let (_, sends) = connection.qp.split();
        drop(sends.end(completion));
        let mut link = Link { sends, bytes_sent: &mut connection.traffic.bytes_sent };
        connection.machine.on_responded(CommandId::from_bits(completion.work()), &mut link);
        let is_flushed =
            matches!(connection.phase, Phase::Flushing { .. }) && connection.machine.undelivered() == 0;
        mark(connection, id, &mut self.dirty);
        if is_flushed {
            self.end(id, CloseReason::PeerClosed, now);
        }
    }

    /// Lets the service work and takes what it finished.
    pub(super) fn poll_service(&mut self, now: Now) {
        let Self { target, service, connections, dirty, ending, busy, .. } = self;
        service.borrow_mut().poll(target.id(), now, &mut |effect| {
            *busy = true;
            apply(connections, dirty, ending, effect);
        });
    }

    /// Posts for every connection that has something, once.
    pub(super) fn post_dirty(&mut self, now: Now) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.dirty = false;
            if let Err(error) = connection.qp.flush() {
                tracing::warn!(conn = %id, %error, "an RDMA queue pair is broken");
                let reason = CloseReason::LinkFailed(error.errno());
                self.end(id, reason, now);
            }
        }
        self.refill(now);
    }

    /// Posts the shared receives whose capsules were taken.
    fn refill(&mut self, now: Now) {
        let broken: Vec<_> = self.devices.refill().collect();
        for (device, error) in broken {
            tracing::error!(%error, "an RDMA device takes no receives");
            self.on_device_failed(device, now);
        }
    }

    fn mark_dirty(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            mark(connection, id, &mut self.dirty);
        }
    }
}

/// Gives capsules to the machine of a connection; the last answer.
fn take<S: TargetService>(
    connection: &mut Connection<S::Queue>,
    service: &mut S,
    conn: ConnId,
    now: Now,
) -> Received {
    let Connection { qp, machine, phase, arrived, pending, traffic, .. } = connection;
    let Phase::Open { queue, draining } = phase else { return Received::Taken };
    while let Some(next) = arrived.front() {
        if *draining {
            return Received::Taken;
        }
        let (receives, sends) = qp.split();
        let capsule = receives.message(&next.receive, next.bytes);
        let commands = &mut traffic.commands;
        let mut handler = Handler { service, queue, conn, now, pending, commands };
        let mut link = Link { sends, bytes_sent: &mut traffic.bytes_sent };
        match machine.on_capsule(capsule, &mut handler, &mut link) {
            Received::Taken => {}
            stopped => return stopped,
        }
        traffic.bytes_received += next.bytes as u64;
        if let Some(taken) = arrived.pop_front() {
            qp.reuse(taken.receive);
        }
    }
    Received::Taken
}

fn mark<Q>(connection: &mut Connection<Q>, id: ConnId, dirty: &mut Vec<ConnId>) {
    if !connection.dirty {
        connection.dirty = true;
        dirty.push(id);
    }
}

/// Carries out one effect; those for connections that are gone or ending are dropped.
fn apply<Q>(
    connections: &mut Connections<Connection<Q>>,
    dirty: &mut Vec<ConnId>,
    ending: &mut Vec<(ConnId, CloseReason)>,
    effect: Effect,
) {
    match effect {
        Effect::Complete(id, command, done) => {
            let Some(connection) = open(connections, id) else { return };
            connection.pending = connection.pending.saturating_sub(1);
            let (_, sends) = connection.qp.split();
            let mut link = Link { sends, bytes_sent: &mut connection.traffic.bytes_sent };
            connection.machine.complete(command, machine_completion(done), &mut link);
            mark(connection, id, dirty);
        }
        Effect::Close(id, reason) => ending.push((id, reason)),
    }
}

fn open<Q>(connections: &mut Connections<Connection<Q>>, id: ConnId) -> Option<&mut Connection<Q>> {
    let connection = connections.get_mut(id)?;
    matches!(connection.phase, Phase::Open { .. }).then_some(connection)
}
