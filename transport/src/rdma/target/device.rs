//! What a reactor has of each device that its connections are on: made with the first of them, kept until the device goes.

use std::rc::Rc;

use reactors::DmaPool;

use crate::rdma::verbs::{
    Access, CmId, CmKey, CompletionQueue, Domain, Qp, QpConfig, Refused, VerbsError, WakeChannel,
};

/// Entries of a completion queue: some twenty connections of depth 128; a further queue is made when it is full. libsiw 44
/// cannot map the queues of a queue pair beside one of twice this size.
const COMPLETIONS: u32 = 8192;

/// One device.
struct Device {
    domain: Rc<Domain>,
    channel: Rc<WakeChannel>,
    queues: Vec<Rc<CompletionQueue>>,
}

/// Every device that this reactor has connections on.
pub(super) struct Devices {
    list: Vec<Device>,
    pool: DmaPool,
}

impl Devices {
    pub(super) fn new(pool: DmaPool) -> Self {
        Self { list: Vec::new(), pool }
    }

    /// A queue pair for a connection, on its device, and what wakes the reactor when the device is new here.
    pub(super) fn queue_pair(
        &mut self,
        id: CmId,
        config: &QpConfig,
    ) -> Result<(Qp, Option<Rc<WakeChannel>>), Refused> {
        let known = self.list.iter().position(|device| device.domain.is_of(&id));
        let index = match known.map_or_else(|| self.open(&id), Ok) {
            Ok(index) => index,
            Err(error) => return Err((error, Some(id))),
        };
        let Device { channel, queues, .. } = &mut self.list[index];
        let mut refused = Some(id);
        for queue in queues.iter() {
            let Some(id) = refused.take() else { break };
            match Qp::new(id, queue, config) {
                Ok(qp) => return Ok((qp, None)),
                Err((_, back)) => refused = back,
            }
        }
        let gone = || VerbsError { call: "rdma_create_qp", source: std::io::ErrorKind::NotConnected.into() };
        let Some(id) = refused else { return Err((gone(), None)) };
        let queue = match CompletionQueue::new(channel, COMPLETIONS) {
            Ok(queue) => queue,
            Err(error) => return Err((error, Some(id))),
        };
        let qp = Qp::new(id, &queue, config)?;
        queues.push(queue);
        let wakes = known.is_none().then(|| Rc::clone(channel));
        Ok((qp, wakes))
    }

    fn open(&mut self, id: &CmId) -> Result<usize, VerbsError> {
        let domain = Domain::open(id, Access::Local)?;
        domain.register(&self.pool)?;
        let channel = WakeChannel::new(&domain)?;
        self.list.push(Device { domain, channel, queues: Vec::new() });
        Ok(self.list.len() - 1)
    }

    /// Forgets the device that events call so, which is being removed: it is closed with its last connection.
    pub(super) fn forget(&mut self, key: CmKey) -> Option<Rc<Domain>> {
        let index = self.list.iter().position(|device| device.domain.key() == key)?;
        Some(self.list.swap_remove(index).domain)
    }

    /// Takes the wake-ups that came, one of each completion queue at most: what is left wakes again.
    pub(super) fn take_wakeups(&self) {
        self.list.iter().for_each(|device| device.channel.take_wakeups(device.queues.len()));
    }

    /// Completion queue `index` of all.
    pub(super) fn queue(&self, index: usize) -> Option<Rc<CompletionQueue>> {
        self.queues().nth(index).map(Rc::clone)
    }

    /// Every completion queue.
    pub(super) fn queues(&self) -> impl Iterator<Item = &Rc<CompletionQueue>> {
        self.list.iter().flat_map(|device| &device.queues)
    }
}
