//! A lane's queues to the replicas, which come and go.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::event::epoll;

use super::Lane;
use crate::device::{Device, DeviceError, Io, Queue, QueueContext};
use crate::volume::{Outcome, ReplicaIndex};

/// Whose requests nobody waits for.
const NOBODY: u64 = u64::MAX;

/// A queue to one replica.
pub(super) struct Link {
    /// Of the device, so that another in its place is told apart.
    number: u64,
    pub(super) queue: Box<dyn Queue>,
    /// What its queue had no room for.
    pub(super) backlog: VecDeque<Io>,
    /// By page: the sequence of its newest copy. Kept by the lane that writes pages.
    pub(super) sequences: Vec<u64>,
}

impl Lane {
    /// By page: the newest sequence there is on a replica.
    pub(super) fn sequences(&mut self, replica: ReplicaIndex) -> Option<&mut Vec<u64>> {
        self.links[replica.index()].as_mut().map(|link| &mut link.sequences)
    }

    /// Opens queues of replicas that came, and retires those of replicas that went.
    pub(super) fn follow_slots(&mut self) {
        if self.version == self.slots.version() {
            return;
        }
        let (version, devices) = self.slots.devices();
        self.version = version;
        for (place, device) in devices.into_iter().enumerate() {
            let number = device.as_ref().map(|(number, _)| *number);
            if number == self.links[place].as_ref().map(|link| link.number) {
                continue;
            }
            self.retire(place);
            let Some((number, device)) = device else { continue };
            let context = QueueContext { pool: &self.pool, depth: self.depth };
            match open_link(&self.events, number, device.as_ref(), &context) {
                Ok(link) => self.links[place] = Some(link),
                Err(error) => {
                    tracing::error!(volume = %self.volume, %error, "a replica that was added cannot be used");
                }
            }
        }
        self.lends = has_memory(&self.links);
    }

    /// Nobody waits for a replica that was removed; what it still works on keeps its buffers.
    fn retire(&mut self, place: usize) {
        let Some(mut link) = self.links[place].take() else { return };
        for pending in self.pending.iter_mut().flatten().filter(|pending| pending.replica.index() == place) {
            if pending.generation == self.generation {
                self.outcomes.push((pending.id, Outcome::Lost));
            }
            pending.generation = NOBODY;
        }
        for io in link.backlog.drain(..) {
            let slot = u32::try_from(io.tag).unwrap_or(u32::MAX);
            if self.pending.get_mut(slot as usize).and_then(Option::take).is_some() {
                self.free_pending.push(slot);
            }
        }
        self.retired.push(link);
    }

    pub(super) fn poll_retired(&mut self) {
        for mut link in std::mem::take(&mut self.retired) {
            let mut batch = std::mem::take(&mut self.batch);
            link.queue.kick();
            link.queue.poll(&mut batch);
            for finished in batch.drain() {
                self.on_finished(finished);
            }
            self.batch = batch;
            if link.queue.in_flight() > 0 {
                self.retired.push(link);
            }
        }
    }
}

/// Whether what one of them leads to is memory of this process.
pub(super) fn has_memory(links: &[Option<Link>]) -> bool {
    links.iter().flatten().any(|link| link.queue.is_memory())
}

pub(super) fn open_link(
    events: &OwnedFd,
    number: u64,
    device: &dyn Device,
    context: &QueueContext<'_>,
) -> Result<Link, DeviceError> {
    let queue = device.open_queue(context)?;
    if let Some(fd) = queue.wait_fd() {
        let added = epoll::add(events, fd, epoll::EventData::new_u64(1), epoll::EventFlags::IN);
        added.map_err(|errno| DeviceError::Io {
            action: "wait for",
            path: device.info().name.to_string().into(),
            source: errno.into(),
        })?;
    }
    Ok(Link { number, queue, backlog: VecDeque::new(), sequences: Vec::new() })
}
