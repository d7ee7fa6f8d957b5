//! The service's part of a turn and the sending half.

use fabrics::Now;

use super::TcpTargetPoller;
use crate::buffer::completion;
use crate::connections::{Connections, key};
use crate::tcp::target::connection::{Connection, Phase, Sent, reason};
use crate::{CloseReason, ConnId, Data, Effect, TargetService};

impl<S: TargetService> TcpTargetPoller<S> {
    /// Lets the service work and takes what it finished.
    pub(super) fn poll_service(&mut self, now: Now) {
        let Self { target, service, connections, dirty, ending, busy, .. } = self;
        service.borrow_mut().poll(target.id(), now, &mut |effect| {
            *busy = true;
            apply(connections, dirty, ending, effect);
        });
    }

    /// Sends to a lone connection whose commands are all answered: nothing that the rest of the turn does could go with it.
    pub(super) fn send_answered(&mut self, now: Now) {
        let ([hot], [dirty]) = (&self.hot[..], &self.dirty[..]) else { return };
        if hot == dirty && self.connections.get_mut(*hot).is_some_and(|connection| connection.pending == 0) {
            self.send_dirty(now);
        }
    }

    /// Sends to every connection that has something, once.
    pub(super) fn send_dirty(&mut self, now: Now) {
        std::mem::swap(&mut self.dirty, &mut self.sending);
        for index in 0..self.sending.len() {
            self.send(self.sending[index], now);
        }
        self.sending.clear();
    }

    fn send(&mut self, id: ConnId, now: Now) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.dirty = false;
        if connection.full {
            return own_unsent(connection, &mut *self.service.borrow_mut());
        }
        self.busy = true;
        match connection.send() {
            Sent::All if matches!(connection.phase, Phase::Flushing { .. }) => self.linger(id, now),
            Sent::All => {}
            Sent::More => self.mark_dirty(id),
            Sent::Full => {
                connection.full = true;
                own_unsent(connection, &mut *self.service.borrow_mut());
                self.watch(id);
            }
            Sent::Failed(errno) => self.end(id, reason(errno), now),
        }
    }

    /// epoll says that the socket takes bytes again. Returns whether that was waited for.
    pub(super) fn on_writable(&mut self, id: ConnId) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        if connection.full {
            connection.full = false;
            self.mark_dirty(id);
            return true;
        }
        // It was emptied since: no longer of interest.
        self.watch(id);
        false
    }

    pub(super) fn mark_dirty(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            mark(connection, id, &mut self.dirty);
        }
    }

    /// Makes epoll watch for what the connection waits for now.
    pub(super) fn watch(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let wanted = connection.wants_watch();
        let outcome = match (connection.watched, wanted) {
            (None, Some(interest)) => self.ready.add(&connection.fd, key(id), interest),
            (Some(before), Some(interest)) if before != interest => {
                self.ready.modify(&connection.fd, key(id), interest)
            }
            (Some(_), None) => self.ready.remove(&connection.fd),
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => connection.watched = wanted,
            Err(errno) => self.ending.push((id, reason(errno))),
        }
    }
}

/// The peer is slow: what it has not taken is copied out of lent buffers, or others would wait for it. Those for which there
/// is no buffer stay lent for as long as the peer is waited for.
#[cold]
fn own_unsent<S: TargetService>(connection: &mut Connection<S::Queue>, service: &mut S) {
    for Data(buffer) in connection.machine.unsent_mut() {
        if buffer.is_lent()
            && let Some(mut copy) = service.allocate(buffer.len())
        {
            for (index, part) in buffer.slices().enumerate() {
                copy.part_mut(index).copy_from_slice(part);
            }
            *buffer = copy;
        }
    }
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
            connection.machine.complete(command, completion(done));
            mark(connection, id, dirty);
        }
        Effect::Close(id, reason) => ending.push((id, reason)),
    }
}

fn open<Q>(connections: &mut Connections<Connection<Q>>, id: ConnId) -> Option<&mut Connection<Q>> {
    let connection = connections.get_mut(id)?;
    matches!(connection.phase, Phase::Open { .. }).then_some(connection)
}
