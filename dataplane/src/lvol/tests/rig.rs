//! Reactors with threads of their own, and hosts on them that do I/O on devices and wait for it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use nvme::{Lba, Status};
use reactors::reply::{self, Replier, Reply};
use reactors::{CoreSet, IdleMode, Poller, PoolConfig, ReactorHandle, Reactors, ReactorsConfig, Turn, Work};
use uuid::Uuid;

use crate::device::memory::MemoryDevice;
use crate::device::{
    BlockSize, Device, DeviceRegistry, Done, Io, IoDone, Op, Queue, QueueContext, Submission,
};
use crate::lvol::{CreateStore, OpenStore, StoreSet};

pub(super) const BLOCK: usize = 4096;

/// What a host asks for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Read { at: u64, blocks: usize },
    Write { at: u64, bytes: Vec<u8>, fua: bool },
    Flush,
    Zero { at: u64, blocks: u32 },
    Deallocate { at: u64, blocks: u32 },
}

pub(super) type Answer = (Status, Vec<u8>);

struct Host {
    queue: Box<dyn Queue>,
    waiting: BTreeMap<u64, Replier<Answer>>,
    busy: VecDeque<Io>,
    next: u64,
}

impl Host {
    fn submit(&mut self, io: Io) {
        match self.queue.submit(io) {
            Submission::Done(done) => self.end(done),
            Submission::Queued => {}
            Submission::Busy(io) => self.busy.push_back(io),
        }
    }

    fn end(&mut self, done: IoDone) {
        let mut bytes = Vec::new();
        if let Some(buffer) = done.buffer {
            buffer.slices().for_each(|part| bytes.extend_from_slice(part));
        }
        self.waiting.remove(&done.tag).unwrap().reply((done.status, bytes));
    }

    fn turn(&mut self) -> bool {
        for io in std::mem::take(&mut self.busy) {
            self.submit(io);
        }
        let mut done = Done::new();
        self.queue.kick();
        self.queue.poll(&mut done);
        let any = !done.is_empty();
        done.drain().for_each(|done| self.end(done));
        any
    }
}

#[derive(Default)]
struct Hosts(RefCell<BTreeMap<String, Host>>);

struct HostPoller(Rc<Hosts>);

impl Poller for HostPoller {
    fn name(&self) -> &str {
        "hosts"
    }

    fn poll(&mut self, _: &mut Turn<'_>) -> Work {
        let mut busy = false;
        for host in self.0.0.borrow_mut().values_mut() {
            busy |= host.turn();
        }
        busy.into()
    }

    fn before_sleep(&mut self, _: &mut Turn<'_>) -> bool {
        self.0.0.borrow_mut().values_mut().all(|host| host.busy.is_empty() && host.queue.before_sleep())
    }
}

/// Two reactors that sleep when they have nothing to do, devices, stores.
pub(super) struct Rig {
    pub(super) reactors: Reactors,
    pub(super) devices: DeviceRegistry,
    pub(super) stores: StoreSet,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_buffers(512)
    }

    /// With so many buffers of 4 KiB on each reactor.
    pub(super) fn with_buffers(small_slots: u32) -> Self {
        let buffers = PoolConfig { small_slots, large_slots: 256, prefault: false };
        let cores = CoreSet::available().into_vec().into_iter().take(2).collect();
        let config =
            ReactorsConfig { cores, mode: IdleMode::Interrupt, buffers, ..ReactorsConfig::default() };
        let reactors = Reactors::start(config).unwrap();
        for handle in reactors.handles() {
            let added = handle.call(|context| {
                let hosts = Rc::new(Hosts::default());
                context.add_poller(Box::new(HostPoller(Rc::clone(&hosts)))).unwrap();
                context.local().put(hosts);
            });
            added.unwrap().wait().unwrap();
        }
        let devices = DeviceRegistry::default();
        let stores = StoreSet::new(devices.clone(), reactors.handles().to_vec());
        Self { reactors, devices, stores }
    }

    pub(super) fn memory(&self, name: &str, block_size: BlockSize, bytes: u64) {
        let blocks = bytes >> block_size.shift();
        let device = MemoryDevice::new(name, block_size, blocks, Uuid::new_v4()).unwrap();
        self.devices.add(Arc::new(device)).unwrap();
    }

    pub(super) fn store(&self, device: &str, name: &str) -> Arc<OpenStore> {
        let options = CreateStore {
            device: device.into(),
            name: name.into(),
            uuid: None,
            volumes_max: None,
            unmap: false,
            force: false,
        };
        self.stores.create(&options).unwrap()
    }

    /// A host on the first and on the last reactor: the owner's of the first store, and another's when there is one.
    pub(super) fn hosts(&self) -> [ReactorHandle; 2] {
        let handles = self.reactors.handles();
        [handles[0].clone(), handles[handles.len() - 1].clone()]
    }

    pub(super) fn open(&self, on: &ReactorHandle, device: &str) {
        let name = device.to_owned();
        let device: Arc<dyn Device> = self.devices.get(device).unwrap();
        let opened = on.call(move |context| {
            let queue = device.open_queue(&QueueContext { pool: context.local().pool(), depth: 32 }).unwrap();
            let host = Host { queue, waiting: BTreeMap::new(), busy: VecDeque::new(), next: 0 };
            context.local().get::<Hosts>().unwrap().0.borrow_mut().insert(name, host);
        });
        opened.unwrap().wait().unwrap();
    }

    pub(super) fn close(&self, on: &ReactorHandle, device: &str) {
        let name = device.to_owned();
        let closed = on.call(move |context| {
            context.local().get::<Hosts>().unwrap().0.borrow_mut().remove(&name);
        });
        closed.unwrap().wait().unwrap();
    }

    /// Starts an I/O; the reply is its end.
    pub(super) fn start(on: &ReactorHandle, device: &str, ask: Ask) -> Reply<Answer> {
        let (replier, reply) = reply::channel();
        let name = device.to_owned();
        let run = on.run(move |context| {
            let hosts = context.local().get::<Hosts>().unwrap();
            let mut hosts = hosts.0.borrow_mut();
            let host = hosts.get_mut(&name).unwrap();
            let alloc = |bytes| context.local().pool().alloc_io(bytes).unwrap();
            let op = match ask {
                Ask::Read { at, blocks } => Op::Read { lba: Lba(at), buffer: alloc(blocks * BLOCK) },
                Ask::Write { at, bytes, fua } => {
                    let mut buffer = alloc(bytes.len());
                    buffer.copy_in(0, &bytes);
                    Op::Write { lba: Lba(at), buffer, fua }
                }
                Ask::Flush => Op::Flush,
                Ask::Zero { at, blocks } => {
                    Op::WriteZeroes { lba: Lba(at), blocks, deallocate: true, fua: true }
                }
                Ask::Deallocate { at, blocks } => Op::Deallocate { lba: Lba(at), blocks },
            };
            host.next += 1;
            host.waiting.insert(host.next, replier);
            let tag = host.next;
            host.submit(Io { tag, op });
        });
        run.unwrap();
        reply
    }

    /// What the device lends, if it does.
    pub(super) fn lend(on: &ReactorHandle, device: &str, at: u64, blocks: u32) -> Option<Vec<u8>> {
        let name = device.to_owned();
        let lent = on.call(move |context| {
            let hosts = context.local().get::<Hosts>().unwrap();
            let mut hosts = hosts.0.borrow_mut();
            let queue = &mut hosts.get_mut(&name).unwrap().queue;
            let lent = queue.lend(Lba(at), blocks * BLOCK as u32);
            assert!(queue.is_memory() || lent.is_none());
            lent.map(|lent| lent.slices().flat_map(<[u8]>::to_vec).collect())
        });
        lent.unwrap().wait().unwrap()
    }

    /// Whether the device takes over a write.
    pub(super) fn take_over(on: &ReactorHandle, device: &str, at: u64, bytes: Vec<u8>) -> bool {
        let name = device.to_owned();
        let taken = on.call(move |context| {
            let hosts = context.local().get::<Hosts>().unwrap();
            let mut hosts = hosts.0.borrow_mut();
            let mut buffer = context.local().pool().alloc_io(bytes.len()).unwrap();
            buffer.copy_in(0, &bytes);
            hosts.get_mut(&name).unwrap().queue.take_over(Lba(at), buffer).is_ok()
        });
        taken.unwrap().wait().unwrap()
    }

    /// Does an I/O.
    pub(super) fn run(on: &ReactorHandle, device: &str, ask: Ask) -> Answer {
        Self::start(on, device, ask).wait().unwrap()
    }

    pub(super) fn write(on: &ReactorHandle, device: &str, at: u64, bytes: Vec<u8>) {
        let (status, _) = Self::run(on, device, Ask::Write { at, bytes, fua: false });
        assert_eq!(status, Status::SUCCESS);
    }

    pub(super) fn read(on: &ReactorHandle, device: &str, at: u64, blocks: usize) -> Vec<u8> {
        let (status, bytes) = Self::run(on, device, Ask::Read { at, blocks });
        assert_eq!(status, Status::SUCCESS);
        bytes
    }
}

/// Blocks that each hold their own number.
pub(super) fn stamped(first: u64, blocks: usize) -> Vec<u8> {
    (first..first + blocks as u64).flat_map(|number| number.to_le_bytes().repeat(BLOCK / 8)).collect()
}
