//! One queue pair of the host, over any transport.
//!
//! The owner turns it: [`HostQueue::receive`], submit what follows from the completions, [`HostQueue::flush`]. So one turn is
//! one receive and one send, however many commands they carry. Invariant: every command submitted is completed to the
//! sink exactly once, with a path error when the connection is lost first.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use fabrics::Now;
use fabrics::host::{HostData, HostSink, SubmitError};
use fabrics::tcp::host::HostParams;
use nvme::Sqe;
use nvme::rdma::CmStatus;
use rustix::io::Errno;

use crate::HostBuffer;
use crate::rdma::{RdmaQueue, RdmaQueueParams};
use crate::tcp::TcpQueue;

/// Why a connection ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// The target did not accept the connection, or the link broke.
    #[error("{}", io::Error::from(*.0))]
    System(Errno),
    /// The connection was not established in time.
    #[error("not connected within {0:?}")]
    ConnectTimeout(Duration),
    /// The target closed the connection.
    #[error("the target closed the connection")]
    Closed,
    /// We closed the connection.
    #[error("the connection was closed")]
    Local,
    /// One side broke the protocol, or was too slow.
    #[error("the NVMe/TCP connection ended: {0:?}")]
    Protocol(fabrics::tcp::CloseReason),
    /// The controller broke the protocol.
    #[error("the NVMe/RDMA connection ended: {0:?}")]
    RdmaProtocol(fabrics::rdma::CloseReason),
    /// The target rejected the connection.
    #[error("the target rejected the connection: {0}")]
    Rejected(CmStatus),
    /// No RDMA device has a way there, or the machine has no RDMA.
    #[error("{call}: {}", io::Error::from(*.errno))]
    Rdma {
        /// What failed.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
    /// Work of the queue pair failed.
    #[error("RDMA work failed: {0}")]
    Work(&'static str),
    /// The device said that the connection is lost, before anything on it failed.
    #[error("the RDMA device of the connection: {0}")]
    Device(&'static str),
}

/// What a queue did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueueTraffic {
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Receive calls.
    pub receive_calls: u64,
    /// Receive calls that found nothing.
    pub receive_calls_empty: u64,
    /// Send calls.
    pub send_calls: u64,
}

/// A queue pair, admin or I/O.
pub struct HostQueue<B>(Link<B>);

enum Link<B> {
    Tcp(Box<TcpQueue<B>>),
    Rdma(Box<RdmaQueue<B>>),
}

/// The same call on whichever queue it is.
macro_rules! forward {
    ($self:ident, $queue:ident => $call:expr) => {
        match &$self.0 {
            Link::Tcp($queue) => $call,
            Link::Rdma($queue) => $call,
        }
    };
    (mut $self:ident, $queue:ident => $call:expr) => {
        match &mut $self.0 {
            Link::Tcp($queue) => $call,
            Link::Rdma($queue) => $call,
        }
    };
}

impl<B: HostBuffer> HostQueue<B> {
    /// Starts to connect over TCP. Nothing can be submitted before [`HostQueue::is_ready`].
    ///
    /// # Errors
    /// When the system refuses at once.
    pub fn connect(
        remote: SocketAddr,
        local: Option<SocketAddr>,
        params: HostParams,
        timeout: Duration,
        now: Now,
    ) -> Result<Self, LinkError> {
        let queue = TcpQueue::connect(remote, local, params, timeout, now)?;
        Ok(Self(Link::Tcp(Box::new(queue))))
    }

    /// Starts to connect over RDMA. Nothing can be submitted before [`HostQueue::is_ready`].
    ///
    /// # Errors
    /// When the machine has no RDMA, or the system refuses at once.
    pub fn connect_rdma(
        remote: SocketAddr,
        local: Option<SocketAddr>,
        params: RdmaQueueParams,
        timeout: Duration,
        now: Now,
    ) -> Result<Self, LinkError> {
        let queue = RdmaQueue::connect(remote, local, params, timeout, now)?;
        Ok(Self(Link::Rdma(Box::new(queue))))
    }

    /// Receives once, into `buffer` if the transport needs one, and completes what that finishes. Returns whether anything
    /// came.
    #[inline]
    pub fn receive<S: HostSink<B>>(&mut self, buffer: &mut [u8], now: Now, sink: &mut S) -> bool {
        match &mut self.0 {
            Link::Tcp(queue) => queue.receive(buffer, now, sink),
            Link::Rdma(queue) => queue.receive(now, sink),
        }
    }

    /// Sends what waits. Returns whether anything was sent. Call it once per turn, after the turn's submissions.
    #[inline]
    pub fn flush<S: HostSink<B>>(&mut self, sink: &mut S) -> bool {
        forward!(mut self, queue => queue.flush(sink))
    }

    /// Time passes: connecting, the handshake and commands may take too long.
    pub fn on_tick<S: HostSink<B>>(&mut self, now: Now, sink: &mut S) {
        forward!(mut self, queue => queue.on_tick(now, sink));
    }

    /// When [`HostQueue::on_tick`] may have something to do.
    pub fn next_deadline(&self) -> Option<Now> {
        forward!(self, queue => queue.next_deadline())
    }

    /// Sends a command at the next flush. Its identifier and data pointer are filled in.
    ///
    /// # Errors
    /// The command is not sent and the data comes back: the reason says why.
    #[inline]
    pub fn submit(&mut self, sqe: Sqe, data: HostData<B>, tag: u64, now: Now) -> Result<(), SubmitError<B>> {
        forward!(mut self, queue => queue.submit(sqe, data, tag, now))
    }

    /// As [`HostQueue::submit`], with a deadline of its own; [`Now::NEVER`] for a command that waits for an event.
    ///
    /// # Errors
    /// As [`HostQueue::submit`].
    #[inline]
    pub fn submit_until(
        &mut self,
        sqe: Sqe,
        data: HostData<B>,
        tag: u64,
        deadline: Now,
    ) -> Result<(), SubmitError<B>> {
        forward!(mut self, queue => queue.submit_until(sqe, data, tag, deadline))
    }

    /// Whether the transport's handshake is over and commands can be submitted.
    pub fn is_ready(&self) -> bool {
        forward!(self, queue => queue.is_ready())
    }

    /// Why the connection ended, once it has; every command was given back then.
    pub fn error(&self) -> Option<&LinkError> {
        forward!(self, queue => queue.error())
    }

    /// Commands that have not completed.
    #[inline]
    pub fn in_flight(&self) -> usize {
        forward!(self, queue => queue.in_flight())
    }

    /// Whether [`HostQueue::submit`] would refuse a command because as many as fit are outstanding.
    #[inline]
    pub fn is_full(&self) -> bool {
        forward!(self, queue => queue.is_full())
    }

    /// What passed so far.
    pub fn traffic(&self) -> &QueueTraffic {
        forward!(self, queue => queue.traffic())
    }

    /// Whether the owner waits for space to send, beside bytes to receive.
    pub fn wants_write(&self) -> bool {
        match &self.0 {
            Link::Tcp(queue) => queue.wants_write(),
            Link::Rdma(_) => false,
        }
    }

    /// Whether a receive that finds nothing costs no system call, so that it need not be announced.
    pub(crate) fn is_polled(&self) -> bool {
        matches!(self.0, Link::Rdma(_))
    }

    /// Makes the descriptor readable when there is something to receive. Call it before waiting for that.
    pub fn before_sleep(&mut self) {
        if let Link::Rdma(queue) = &mut self.0 {
            queue.arm();
        }
    }

    /// Ends the connection: outstanding commands fail on `sink`.
    pub fn close<S: HostSink<B>>(&mut self, sink: &mut S) {
        forward!(mut self, queue => queue.close(sink));
    }
}

impl<B> AsFd for HostQueue<B> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        forward!(self, queue => queue.as_fd())
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
