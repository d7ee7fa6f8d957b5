//! One queue pair of the host over TCP: a socket and its machine.
//!
//! The owner turns it: [`TcpQueue::receive`], submit what follows from the completions, [`TcpQueue::flush`]. So one turn is
//! one receive and one send, however many commands they carry. Invariant: every command submitted is completed to the
//! sink exactly once, with a path error when the connection is lost first.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use arrayvec::ArrayVec;
use fabrics::host::{HostData, HostSink, SubmitError};
use fabrics::tcp::ConnState;
use fabrics::tcp::host::{HostConn, HostParams, HostProgress};
use fabrics::{IoBuffer, Now};
use nvme::Sqe;
use rustix::io::Errno;

use super::socket;
use crate::host::{LinkError, QueueTraffic, nanos};

/// Sends in one flush; more than one only when more than 1,024 parts wait.
const SENDS_PER_FLUSH: usize = 4;

/// State of the link under the machine.
enum Link {
    Connecting { deadline: Now, timeout: Duration },
    Up,
    Down(LinkError),
}

/// A queue pair over TCP, admin or I/O.
pub(crate) struct TcpQueue<B> {
    fd: OwnedFd,
    machine: HostConn<B>,
    link: Link,
    full: bool,
    traffic: QueueTraffic,
}

impl<B: IoBuffer> TcpQueue<B> {
    /// Starts to connect. Nothing can be submitted before [`TcpQueue::is_ready`].
    ///
    /// # Errors
    /// When the system refuses at once.
    pub(crate) fn connect(
        remote: SocketAddr,
        local: Option<SocketAddr>,
        params: HostParams,
        timeout: Duration,
        now: Now,
    ) -> Result<Self, LinkError> {
        let fd = socket::connect(remote, local).map_err(LinkError::System)?;
        let deadline = now.after_ns(nanos(timeout));
        Ok(Self {
            fd,
            machine: HostConn::new(params, now),
            link: Link::Connecting { deadline, timeout },
            full: false,
            traffic: QueueTraffic::default(),
        })
    }

    /// Receives once into `buffer` and completes what that finishes. Returns whether anything came.
    #[inline]
    pub(crate) fn receive<S: HostSink<B>>(&mut self, buffer: &mut [u8], now: Now, sink: &mut S) -> bool {
        match self.link {
            Link::Up => {}
            Link::Connecting { .. } => return self.check_connected(now, sink),
            Link::Down(_) => return false,
        }
        self.traffic.receive_calls += 1;
        match self.receive_once(buffer) {
            Ok(0) => self.fail(LinkError::Closed, sink),
            Ok(count) => {
                self.traffic.bytes_received += count as u64;
                // When the machine ends the connection, its TermReq is flushed before the link goes down.
                let _: HostProgress = self.machine.on_received(buffer, count, now, sink);
                self.check_machine(sink);
            }
            Err(Errno::AGAIN) => {
                self.traffic.receive_calls_empty += 1;
                return false;
            }
            Err(errno) => self.fail(LinkError::System(errno), sink),
        }
        true
    }

    /// One receive; when the owner wants it, of data into the buffers it is expected for.
    #[inline]
    fn receive_once(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if self.machine.places_data() {
            self.receive_laid_out(buffer)
        } else {
            socket::receive(&self.fd, buffer)
        }
    }

    /// Out of line: it needs much of the stack.
    #[inline(never)]
    fn receive_laid_out(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        // Laying out takes longer than a look, and most looks of a busy poller find nothing.
        socket::peek(&self.fd)?;
        let mut parts = ArrayVec::new();
        self.machine.lay_out(buffer, &mut parts);
        socket::receive_parts(&self.fd, &mut parts)
    }

    /// Sends what waits. Returns whether anything was sent. Call it once per turn, after the turn's submissions.
    #[inline]
    pub(crate) fn flush<S: HostSink<B>>(&mut self, sink: &mut S) -> bool {
        if self.machine.tx_pending() == 0 || !matches!(self.link, Link::Up) {
            return false;
        }
        let mut moved = false;
        for _ in 0..SENDS_PER_FLUSH {
            match self.send() {
                Ok((sent, all)) => {
                    moved |= sent > 0;
                    self.full = !all;
                    self.machine.on_sent(sent, sink);
                    if self.full || self.machine.tx_pending() == 0 {
                        break;
                    }
                }
                Err(errno) => {
                    self.fail(LinkError::System(errno), sink);
                    return true;
                }
            }
        }
        self.check_machine(sink);
        moved
    }

    /// One send: bytes sent, and whether that was all that was offered.
    fn send(&mut self) -> Result<(usize, bool), Errno> {
        let mut parts = ArrayVec::new();
        self.machine.gather(&mut parts);
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        self.traffic.send_calls += 1;
        let sent = match socket::send(&self.fd, &parts) {
            Err(Errno::AGAIN) => 0,
            outcome => outcome?,
        };
        self.traffic.bytes_sent += sent as u64;
        Ok((sent, sent == offered))
    }

    /// Time passes: connecting, the handshake and commands may take too long.
    pub(crate) fn on_tick<S: HostSink<B>>(&mut self, now: Now, sink: &mut S) {
        match self.link {
            Link::Connecting { deadline, timeout } if now >= deadline => {
                self.fail(LinkError::ConnectTimeout(timeout), sink);
            }
            Link::Connecting { .. } | Link::Down(_) => {}
            Link::Up => {
                self.machine.on_tick(now, sink);
                self.check_machine(sink);
            }
        }
    }

    /// When [`TcpQueue::on_tick`] may have something to do.
    pub(crate) fn next_deadline(&self) -> Option<Now> {
        match self.link {
            Link::Connecting { deadline, .. } => Some(deadline),
            Link::Up => self.machine.next_deadline(),
            Link::Down(_) => None,
        }
    }

    /// Sends a command at the next flush. Its identifier and data pointer are filled in.
    ///
    /// # Errors
    /// The command is not sent and the data comes back: the reason says why.
    #[inline]
    pub(crate) fn submit(
        &mut self,
        sqe: Sqe,
        data: HostData<B>,
        tag: u64,
        now: Now,
    ) -> Result<(), SubmitError<B>> {
        self.machine.submit(sqe, data, tag, now)
    }

    /// As [`TcpQueue::submit`], with a deadline of its own; [`Now::NEVER`] for a command that waits for an event.
    ///
    /// # Errors
    /// As [`TcpQueue::submit`].
    #[inline]
    pub(crate) fn submit_until(
        &mut self,
        sqe: Sqe,
        data: HostData<B>,
        tag: u64,
        deadline: Now,
    ) -> Result<(), SubmitError<B>> {
        self.machine.submit_until(sqe, data, tag, deadline)
    }

    /// Whether the transport's handshake is over and commands can be submitted.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.link, Link::Up) && self.machine.state() == ConnState::Ready
    }

    /// Why the connection ended, once it has; every command was given back then.
    pub(crate) fn error(&self) -> Option<&LinkError> {
        match &self.link {
            Link::Down(error) => Some(error),
            _ => None,
        }
    }

    /// Commands that have not completed.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.machine.in_flight()
    }

    /// Whether [`TcpQueue::submit`] would refuse a command because as many as fit are outstanding.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.machine.is_full()
    }

    /// What passed so far.
    pub(crate) fn traffic(&self) -> &QueueTraffic {
        &self.traffic
    }

    /// Whether the owner waits for space to send, beside bytes to receive.
    pub(crate) fn wants_write(&self) -> bool {
        self.full || matches!(self.link, Link::Connecting { .. })
    }

    /// Ends the connection: outstanding commands fail on `sink`.
    pub(crate) fn close<S: HostSink<B>>(&mut self, sink: &mut S) {
        if self.error().is_none() {
            self.fail(LinkError::Local, sink);
        }
    }

    fn check_connected<S: HostSink<B>>(&mut self, now: Now, sink: &mut S) -> bool {
        match socket::connected(&self.fd) {
            Ok(true) => {
                self.link = Link::Up;
                self.flush(sink);
                true
            }
            Ok(false) => {
                self.on_tick(now, sink);
                false
            }
            Err(errno) => {
                self.fail(LinkError::System(errno), sink);
                true
            }
        }
    }

    /// Follows the machine: flushes the TermReq of one that ends, then takes the link down.
    fn check_machine<S: HostSink<B>>(&mut self, sink: &mut S) {
        let Some(reason) = self.machine.state().reason() else { return };
        if matches!(self.machine.state(), ConnState::Terminating(_))
            && !self.full
            && let Ok((sent, true)) = self.send()
        {
            // A target that takes less does not read: it will not read the TermReq either.
            self.machine.on_sent(sent, sink);
        }
        self.fail(LinkError::Protocol(reason), sink);
    }

    #[cold]
    fn fail<S: HostSink<B>>(&mut self, error: LinkError, sink: &mut S) {
        if matches!(self.link, Link::Down(_)) {
            return;
        }
        self.link = Link::Down(error);
        // Errors mean that the target was faster.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        self.machine.close(sink);
    }
}

impl<B> AsFd for TcpQueue<B> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
