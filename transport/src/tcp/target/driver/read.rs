//! The receiving half of a turn.

use fabrics::Now;
use fabrics::tcp::TX_PENDING_MAX;
use rustix::io::Errno;

use super::{HOT_TURNS, LONE_TRIES, SERVICE_KEY, TcpTargetPoller};
use crate::connections::id_of_key;
use crate::tcp::socket;
use crate::tcp::target::connection::{HOT_READS_UNWATCHED, Phase, machine_reason, reason};
use crate::tcp::target::receive::{Fed, feed};
use crate::{CloseReason, ConnId, TargetService};

/// What a receive brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Read {
    Bytes,
    Nothing,
    /// The connection is gone.
    Gone,
}

impl<S: TargetService> TcpTargetPoller<S> {
    /// Receives from every hot connection; those that were quiet for long are no longer hot.
    pub(super) fn read_hot(&mut self, now: Now) {
        let mut index = 0;
        while let Some(&id) = self.hot.get(index) {
            let read = self.read_eagerly(id, now);
            if self.stays_hot(id, read) {
                index += 1;
            } else {
                self.hot.swap_remove(index);
                self.watch(id);
            }
        }
    }

    /// Leaves it to epoll to say who has bytes.
    pub(super) fn cool_all(&mut self) {
        while let Some(id) = self.hot.pop() {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.hot = false;
            }
            self.watch(id);
        }
    }

    /// Receives; from a connection that nobody shares the turn with more than once, until something comes: its host waits
    /// for each turn that brings nothing.
    fn read_eagerly(&mut self, id: ConnId, now: Now) -> Read {
        let tries = if self.hot.len() == 1 { LONE_TRIES } else { 1 };
        let mut read = self.read(id, now);
        for _ in 1..tries {
            if read != Read::Nothing {
                break;
            }
            read = self.read(id, now);
        }
        read
    }

    fn stays_hot(&mut self, id: ConnId, read: Read) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        connection.cold_turns = if read == Read::Bytes { 0 } else { connection.cold_turns + 1 };
        connection.hot = connection.cold_turns < HOT_TURNS;
        let hot = connection.hot;
        if read == Read::Bytes && connection.hot_reads < HOT_READS_UNWATCHED {
            connection.hot_reads += 1;
            if connection.hot_reads == HOT_READS_UNWATCHED {
                self.watch(id);
            }
        }
        hot
    }

    /// Asks epoll when it is time to, and serves whom it names.
    pub(super) fn read_ready(&mut self, now: Now) {
        if !self.epoll.due(now) {
            return;
        }
        let mut cold = false;
        for event in self.ready.poll() {
            if event.key == SERVICE_KEY {
                continue;
            }
            let id = id_of_key(self.target.id(), event.key);
            if event.writable {
                cold |= self.on_writable(id);
            }
            if event.readable {
                cold |= self.on_readable(id, now);
            }
        }
        self.epoll.asked(now, cold);
    }

    /// epoll says that bytes came. Returns whether it was needed: hot connections had their turn.
    fn on_readable(&mut self, id: ConnId, now: Now) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        if connection.hot {
            return false;
        }
        if !connection.wants_bytes() {
            self.watch(id);
            return false;
        }
        if self.read(id, now) == Read::Bytes && !self.hot.is_full() {
            self.heat(id);
        }
        true
    }

    fn heat(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.hot = true;
        connection.cold_turns = 0;
        connection.hot_reads = 0;
        self.hot.push(id);
    }

    fn read(&mut self, id: ConnId, now: Now) -> Read {
        let Some(connection) = self.connections.get_mut(id) else { return Read::Gone };
        if !connection.wants_bytes() {
            return Read::Nothing;
        }
        if connection.machine.tx_pending() > TX_PENDING_MAX {
            self.block(id);
            return Read::Nothing;
        }
        connection.traffic.receive_calls += 1;
        match socket::receive(&connection.fd, &mut self.buffer) {
            Ok(0) => self.lost(id, CloseReason::PeerClosed, now),
            Ok(count) => self.received(id, count, now),
            Err(Errno::AGAIN) => {
                connection.traffic.receive_calls_empty += 1;
                Read::Nothing
            }
            Err(errno) => self.lost(id, reason(errno), now),
        }
    }

    fn lost(&mut self, id: ConnId, reason: CloseReason, now: Now) -> Read {
        self.end(id, reason, now);
        Read::Gone
    }

    /// `count` bytes are in the buffer.
    fn received(&mut self, id: ConnId, count: usize, now: Now) -> Read {
        self.busy = true;
        let Some(connection) = self.connections.get_mut(id) else { return Read::Gone };
        connection.traffic.bytes_received += count as u64;
        if !matches!(connection.phase, Phase::Open { .. }) {
            // Lingering: what still comes is of no interest.
            return Read::Nothing;
        }
        let bytes = &self.buffer[..count];
        let fed = feed(connection, &mut *self.service.borrow_mut(), id, bytes, now);
        match fed {
            Fed::All => {}
            Fed::Part(consumed) => {
                connection.stash.fill(&bytes[consumed..]);
                self.block(id);
            }
            Fed::Closing => self.ending.push((id, machine_reason(connection.machine.state()))),
        }
        self.after_feed(id);
        Read::Bytes
    }

    fn after_feed(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        self.deadline = self.deadline.min(connection.deadline().unwrap_or(Now::NEVER));
        if connection.machine.tx_pending() > 0 {
            self.mark_dirty(id);
        }
    }

    fn block(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.blocked = true;
        connection.traffic.blocked += 1;
        self.blocked.push(id);
    }

    /// Gives blocked connections what they kept; those whose machine took it all are read again.
    pub(super) fn retry_blocked(&mut self, now: Now) {
        let mut index = 0;
        while let Some(&id) = self.blocked.get(index) {
            if self.retry(id, now) {
                self.blocked.swap_remove(index);
                self.unblock(id);
            } else {
                index += 1;
            }
        }
    }

    /// Whether the connection is no longer blocked.
    fn retry(&mut self, id: ConnId, now: Now) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return true };
        if !matches!(connection.phase, Phase::Open { .. }) {
            return true;
        }
        if connection.machine.tx_pending() > TX_PENDING_MAX {
            return false;
        }
        // Even without bytes: commands may wait inside the machine for buffers that are free now.
        let stash = connection.stash.take();
        let fed = feed(connection, &mut *self.service.borrow_mut(), id, stash.bytes(), now);
        if let Fed::Part(consumed) = fed {
            self.busy |= consumed > 0;
            connection.stash = stash.consume(consumed);
        } else {
            self.busy = true;
        }
        if fed == Fed::Closing {
            self.ending.push((id, machine_reason(connection.machine.state())));
        }
        self.after_feed(id);
        !matches!(fed, Fed::Part(_))
    }

    fn unblock(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.blocked = false;
        self.watch(id);
    }
}
