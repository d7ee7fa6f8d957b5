//! One connection of the target: its socket, its machine, and where it is on its way from open to closed.
//!
//! States: `Open` → (`Flushing` → `Lingering`) → closed. In `Open` it has a queue of the service; the queue is given back
//! (`TargetService::closed`) on leaving `Open`, exactly once. `Flushing` sends what the machine still holds, `Lingering`
//! has shut down its sending side and discards what arrives until the peer closes, so that the peer gets to read the last
//! bytes instead of a reset. Both are bounded in time.

use std::os::fd::OwnedFd;
use std::time::Duration;

use arrayvec::ArrayVec;
use fabrics::Now;
use fabrics::tcp::ConnState;
use fabrics::tcp::target::TargetConn;
use rustix::io::Errno;

use super::stats::TrafficStats;
use crate::ready::Interest;
use crate::tcp::socket;
use crate::{CloseReason, Data, Peer};

/// Longest time for the last bytes to leave after a connection was ended.
pub(super) const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest time the peer has to close its side once ours is shut down.
pub(super) const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest time a drain waits for commands in flight; shorter than a reactor waits for its pollers.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// Sends to one connection in one turn: 1,024 parts each, so about 4 MiB of 8 KiB I/O; then the others have their turn.
const SENDS_PER_TURN: usize = 4;
/// Receives with bytes after which a hot connection leaves epoll: it is busy for longer than a system call costs, and between
/// two sleeps of a reactor that sleeps after every turn there are fewer.
pub(super) const HOT_READS_UNWATCHED: u32 = 16;

/// Where a connection is.
pub(super) enum Phase<Q> {
    /// Serving. `draining` since the transport was told to drain: no new bytes are read.
    Open { queue: Q, draining: bool },
    /// Ended; what was answered before is still being sent.
    Flushing { deadline: Now },
    /// Everything is sent; waiting for the peer's end.
    Lingering { deadline: Now },
}

/// What a send left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// Nothing waits.
    All,
    /// The socket is full.
    Full,
    /// More could be sent at once; others first.
    More,
    /// The link is broken.
    Failed(Errno),
}

/// A connection. About the size of its machine; slabs box it.
pub(super) struct Connection<Q> {
    pub(super) fd: OwnedFd,
    pub(super) peer: Peer,
    pub(super) machine: TargetConn<Data>,
    pub(super) phase: Phase<Q>,
    /// Bytes that were received while the machine could not take them; at most one receive buffer.
    pub(super) stash: Stash,
    /// What epoll watches it for, if at all.
    pub(super) watched: Option<Interest>,
    /// Commands the service holds.
    pub(super) pending: usize,
    /// Turns since bytes last came, while on the hot list.
    pub(super) cold_turns: u32,
    /// Receives that brought bytes since it was put on the hot list.
    pub(super) hot_reads: u32,
    /// On the hot list: received from in every turn.
    pub(super) hot: bool,
    /// On the list of connections to send to in this turn.
    pub(super) dirty: bool,
    /// On the list of connections that cannot take more commands.
    pub(super) blocked: bool,
    /// The socket took less than was offered; wait until it is writable.
    pub(super) full: bool,
    pub(super) traffic: TrafficStats,
}

impl<Q> Connection<Q> {
    pub(super) fn new(fd: OwnedFd, peer: Peer, machine: TargetConn<Data>, queue: Q) -> Self {
        Self {
            fd,
            peer,
            machine,
            phase: Phase::Open { queue, draining: false },
            stash: Stash::default(),
            watched: Some(Interest::READ),
            pending: 0,
            cold_turns: 0,
            hot_reads: 0,
            hot: false,
            dirty: false,
            blocked: false,
            full: false,
            traffic: TrafficStats::default(),
        }
    }
}

impl<Q> Connection<Q> {
    /// Sends what the machine holds, within the turn's budget.
    pub(super) fn send(&mut self) -> Sent {
        for _ in 0..SENDS_PER_TURN {
            let mut parts = ArrayVec::new();
            self.machine.gather(&mut parts);
            if parts.is_empty() {
                return Sent::All;
            }
            let offered: usize = parts.iter().map(|part| part.len()).sum();
            let complete = !parts.is_full();
            let outcome = socket::send(&self.fd, &parts);
            drop(parts);
            self.traffic.send_calls += 1;
            let sent = match outcome {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => 0,
                Err(errno) => return Sent::Failed(errno),
            };
            self.machine.on_sent(sent);
            self.traffic.bytes_sent += sent as u64;
            if sent < offered {
                self.traffic.send_full += 1;
                return Sent::Full;
            }
            if complete {
                return Sent::All;
            }
        }
        Sent::More
    }

    /// Whether bytes should be received: never more than the machine can take.
    pub(super) fn wants_bytes(&self) -> bool {
        match self.phase {
            Phase::Open { draining, .. } => !draining && !self.blocked,
            Phase::Flushing { .. } => false,
            Phase::Lingering { .. } => true,
        }
    }

    /// What epoll is to watch it for. Nothing while it is received from anyway: every arrival would have to tell epoll, under
    /// the socket's lock, which a receive waits for.
    pub(super) fn wants_watch(&self) -> Option<Interest> {
        let unwatched = self.hot && self.hot_reads >= HOT_READS_UNWATCHED && !self.full;
        (!unwatched).then(|| Interest { read: self.wants_bytes(), write: self.full })
    }

    /// When its present phase is over at the latest.
    pub(super) fn deadline(&self) -> Option<Now> {
        match self.phase {
            Phase::Open { .. } => self.machine.next_deadline(),
            Phase::Flushing { deadline } | Phase::Lingering { deadline } => Some(deadline),
        }
    }
}

/// Why a link that failed with `errno` counts as ended.
pub(super) fn reason(errno: Errno) -> CloseReason {
    CloseReason::LinkFailed(errno.raw_os_error())
}

/// Why a machine that no longer reads counts as ended.
pub(super) fn machine_reason(state: ConnState) -> CloseReason {
    use fabrics::tcp::CloseReason::{DataTimeout, HandshakeTimeout, PduTimeout};
    match state.reason() {
        Some(HandshakeTimeout | PduTimeout | DataTimeout) => CloseReason::TimedOut,
        _ => CloseReason::Protocol,
    }
}

/// Bytes kept until the machine takes them; consumed from the front.
#[derive(Default)]
pub(super) struct Stash {
    bytes: Vec<u8>,
    start: usize,
}

impl Stash {
    /// Keeps `bytes`; nothing is kept before.
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        assert!(self.is_empty());
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Drops `count` bytes from the front.
    pub(super) fn consume(mut self, count: usize) -> Self {
        self.start += count;
        assert!(self.start <= self.bytes.len());
        self
    }
}
