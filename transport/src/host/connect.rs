//! Brings one I/O queue of a controller up: connection, handshake, Connect. Consumed once by the queue it becomes.

use std::os::fd::{AsFd, BorrowedFd};

use fabrics::Now;
use fabrics::host::{Controller, Payload, Request, connect_io_queue};
use fabrics::host::{HostData, HostSink};
use nvme::{Cqe, QueueId, Sqe};

use super::config::{HostConfig, HostError};
use super::queue::{HostQueue, LinkError};
use crate::HostBuffer;

/// An I/O queue being connected.
pub struct QueueConnect<B> {
    id: QueueId,
    queue: HostQueue<B>,
    /// The Connect, until the handshake is over.
    request: Option<(Sqe, B)>,
}

/// How far connecting is.
pub enum Connecting<B> {
    /// Not there yet: poll again.
    Pending(QueueConnect<B>),
    /// Ready for commands.
    Ready(HostQueue<B>),
}

#[derive(Default)]
struct Answer {
    cqe: Option<Cqe>,
    late: bool,
}

impl<B> HostSink<B> for Answer {
    fn completed(&mut self, _tag: u64, cqe: Cqe, _data: Option<B>) {
        self.cqe = Some(cqe);
    }

    fn failed(&mut self, _tag: u64, _data: Option<B>) {}

    fn timed_out(&mut self, _tag: u64, _cid: u16) {
        self.late = true;
    }
}

impl<B: HostBuffer> QueueConnect<B> {
    /// Starts to connect I/O queue `id` of a controller whose admin queue is up. `buffer` makes a buffer that holds the
    /// bytes given, for the data of Connect.
    ///
    /// # Errors
    /// When there is no buffer, or the system refuses at once.
    pub fn start(
        config: &HostConfig,
        controller: &Controller,
        id: QueueId,
        buffer: impl FnOnce(&[u8]) -> Option<B>,
        now: Now,
    ) -> Result<Self, HostError> {
        let entries = config.entries(controller);
        let Request { sqe, data } =
            connect_io_queue(&config.bringup, controller.cntlid, id, entries, config.sq_flow_control);
        let Payload::ToController(bytes) = data else { unreachable!("Connect has data for the controller") };
        let data = buffer(&bytes).ok_or(HostError::NoBuffer)?;
        let queue =
            config.connect_io(controller, id, now).map_err(|error| HostError::Link { queue: id, error })?;
        Ok(Self { id, queue, request: Some((sqe, data)) })
    }

    /// Goes on. `scratch` is what it receives into.
    ///
    /// # Errors
    /// The queue cannot be connected.
    pub fn poll(mut self, scratch: &mut [u8], now: Now) -> Result<Connecting<B>, HostError> {
        let mut answer = Answer::default();
        self.queue.receive(scratch, now, &mut answer);
        self.queue.on_tick(now, &mut answer);
        if self.queue.is_ready()
            && let Some((sqe, data)) = self.request.take()
        {
            // A fresh queue has room; what may be wanting is memory that the target can reach.
            let sent = self.queue.submit(sqe, HostData::ToController(data), 0, now);
            sent.map_err(|_| HostError::NoBuffer)?;
        }
        self.queue.flush(&mut answer);
        self.outcome(&answer)
    }

    fn outcome(self, answer: &Answer) -> Result<Connecting<B>, HostError> {
        if let Some(cqe) = answer.cqe {
            let status = cqe.status();
            return if status.is_success() {
                Ok(Connecting::Ready(self.queue))
            } else {
                Err(HostError::Refused { queue: self.id, status })
            };
        }
        if let Some(error) = self.queue.error() {
            return Err(HostError::Link { queue: self.id, error: LinkError::clone(error) });
        }
        if answer.late {
            return Err(HostError::CommandTimeout { queue: self.id });
        }
        Ok(Connecting::Pending(self))
    }

    /// When [`QueueConnect::poll`] has something to do even if nothing is received.
    pub fn next_deadline(&self) -> Now {
        self.queue.next_deadline().unwrap_or(Now::NEVER)
    }

    pub(super) fn before_sleep(&mut self) {
        self.queue.before_sleep();
    }

    pub(super) fn wants_write(&self) -> bool {
        self.queue.wants_write()
    }
}

impl<B> AsFd for QueueConnect<B> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
