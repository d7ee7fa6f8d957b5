//! A host that asks for a connection with whatever private data it is given: what targets are tested with.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::verbs::{
    Access, CmEventKind, CmId, CompletionQueue, ConnectParams, Domain, EventChannel, Qp, QpConfig,
    VerbsError, WakeChannel,
};

/// What a target answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It accepts; its private data.
    Accepted(Vec<u8>),
    /// It rejects; its private data.
    Rejected(Vec<u8>),
    /// The connection manager found no way there, or the peer broke off.
    Failed(i32),
}

/// A queue pair of the smallest kind.
const SMALLEST: QpConfig = QpConfig {
    connection: 0,
    slots: 1,
    requests_per_work: 1,
    sends: 1,
    receives: 1,
    receive_bytes: 64,
    send_bytes: 64,
};

/// Asks `target` for a connection with `private_data`, saying that it serves `reads_served` RDMA reads at a time. A connection that is
/// accepted is given up at once.
///
/// # Errors
/// When the machine has no RDMA, or no answer comes within `timeout`.
pub fn ask(
    target: SocketAddr,
    private_data: &[u8],
    reads_served: u8,
    timeout: Duration,
) -> Result<Answer, VerbsError> {
    let deadline = Instant::now() + timeout;
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let channel = EventChannel::new()?;
    let id = CmId::new(&channel)?;
    id.resolve_address(None, target, milliseconds)?;
    if let CmEventKind::Failed = wait(&channel, deadline)?.0 {
        return Ok(Answer::Failed(0));
    }
    id.resolve_route(milliseconds)?;
    wait(&channel, deadline)?;
    let domain = Domain::open(&id, Access::Local)?;
    let wakes = WakeChannel::new(&domain)?;
    let queue = CompletionQueue::new(&wakes, 4)?;
    let qp = Qp::new(id, &queue, None, &SMALLEST).map_err(|(error, _)| error)?;
    qp.connect(&ConnectParams {
        private_data,
        responder_resources: reads_served,
        initiator_depth: 1,
        retries: 7,
    })?;
    let (kind, status) = wait(&channel, deadline)?;
    Ok(match kind {
        CmEventKind::Established(private_data) => {
            qp.disconnect();
            Answer::Accepted(private_data.to_vec())
        }
        CmEventKind::Rejected(private_data) => Answer::Rejected(private_data.to_vec()),
        _ => Answer::Failed(status),
    })
}

/// The next event, and its status.
fn wait(channel: &std::sync::Arc<EventChannel>, deadline: Instant) -> Result<(CmEventKind, i32), VerbsError> {
    loop {
        if let Some(event) = channel.next() {
            return Ok((event.kind, event.status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(VerbsError {
                call: "rdma_get_cm_event",
                source: std::io::ErrorKind::TimedOut.into(),
            });
        }
        let left = Timespec::try_from(left).ok();
        // A signal, or nothing in time: the clock is asked again.
        let _ = poll(&mut [PollFd::new(&**channel, PollFlags::IN)], left.as_ref());
    }
}
