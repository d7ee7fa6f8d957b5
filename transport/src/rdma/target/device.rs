//! What a reactor has of each device that its connections are on: made with the first of them, kept until the device goes.

use std::rc::Rc;

use reactors::DmaPool;

use crate::rdma::verbs::{
    Access, CmId, CmKey, Completion, CompletionQueue, DeviceKey, Domain, Qp, QpConfig, Refused,
    SharedReceives, VerbsError, WakeChannel,
};

/// Entries of a completion queue: some twenty connections of depth 128; a further queue is made when it is full. libsiw 44
/// cannot map the queues of a queue pair beside one of twice this size.
const COMPLETIONS: u32 = 8192;

/// One device.
struct Device {
    domain: Rc<Domain>,
    channel: Rc<WakeChannel>,
    queues: Vec<Rc<CompletionQueue>>,
    /// Receives that its connections share, where it has such.
    shared: Option<Rc<SharedReceives>>,
}

/// Every device that this reactor has connections on.
pub(super) struct Devices {
    list: Vec<Device>,
    pool: DmaPool,
    /// Receives that connections of a device share, at most; 0: each has its own.
    shared_depth: u32,
}

impl Devices {
    pub(super) fn new(pool: DmaPool, shared_depth: u32) -> Self {
        Self { list: Vec::new(), pool, shared_depth }
    }

    /// A queue pair for a connection, on its device, and what wakes the reactor when the device is new here.
    pub(super) fn queue_pair(
        &mut self,
        id: CmId,
        config: &QpConfig,
    ) -> Result<(Qp, Option<Rc<WakeChannel>>), Refused> {
        let known = self.list.iter().position(|device| device.domain.is_of(&id));
        let index = match known.map_or_else(|| self.open(&id, config.receive_bytes), Ok) {
            Ok(index) => index,
            Err(error) => return Err((error, Some(id))),
        };
        let Device { channel, queues, shared, .. } = &mut self.list[index];
        let shared = shared.as_ref();
        let mut refused = Some(id);
        for queue in queues.iter() {
            let Some(id) = refused.take() else { break };
            match Qp::new(id, queue, shared, config) {
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
        let qp = Qp::new(id, &queue, shared, config)?;
        queues.push(queue);
        let wakes = known.is_none().then(|| Rc::clone(channel));
        Ok((qp, wakes))
    }

    fn open(&mut self, id: &CmId, receive_bytes: usize) -> Result<usize, VerbsError> {
        let domain = Domain::open(id, Access::Local)?;
        domain.register(&self.pool)?;
        let channel = WakeChannel::new(&domain)?;
        let shared = SharedReceives::new(&domain, self.shared_depth, receive_bytes);
        let depth = shared.as_ref().map_or(0, |shared| shared.depth());
        tracing::info!(shared_receives = depth, "an RDMA device is used");
        self.list.push(Device { domain, channel, queues: Vec::new(), shared });
        Ok(self.list.len() - 1)
    }

    /// Forgets the device that events call so, which is being removed: it is closed with its last connection.
    pub(super) fn forget(&mut self, key: CmKey) -> Option<Rc<Domain>> {
        let index = self.list.iter().position(|device| device.domain.key() == key)?;
        Some(self.list.swap_remove(index).domain)
    }

    /// Forgets what was made on a device that does not work any more.
    pub(super) fn forget_failed(&mut self, device: DeviceKey) {
        self.list.retain(|known| known.domain.device() != device);
    }

    /// A shared receive brought something for a connection that is gone.
    pub(super) fn give_back(&self, completion: &Completion) {
        let device =
            self.list.iter().find(|device| device.domain.device() == completion.queue_pair().device());
        if let Some(shared) = device.and_then(|device| device.shared.as_ref()) {
            shared.give_back(completion.work());
        }
    }

    /// Posts the shared receives that were given back; the devices that took them not.
    pub(super) fn refill(&self) -> impl Iterator<Item = (DeviceKey, VerbsError)> + '_ {
        self.list.iter().filter_map(|device| {
            let posted = device.shared.as_ref().map_or(Ok(()), |shared| shared.post());
            posted.err().map(|error| (device.domain.device(), error))
        })
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
