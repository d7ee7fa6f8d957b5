//! A volume as a device.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use nvme::{Lba, Status};
use reactors::{IoBuf, ReactorHandle};
use uuid::Uuid;

use super::courier::Courier;
use super::port::{AnyPort, Port, get, is_reactor};
use crate::device::{
    Atomicity, BlockSize, CounterBook, Device, DeviceCounters, DeviceError, DeviceInfo, Done, Geometry, Io,
    IoDone, Op, OpKind, Operations, Queue, QueueContext, Submission,
};
use crate::store::{COMMAND_BLOCKS_MAX, VolumeId, VolumeInfo, VolumeKind};

/// A volume or snapshot of an open store, in blocks of 4 KiB.
///
/// Its name is its UUID, as text; people call it by its alias, `store/volume`.
pub struct VolumeDevice {
    shared: Arc<Shared>,
    alias: RwLock<String>,
}

/// What all volumes of a store heed.
pub(super) struct StoreFlags {
    /// Number of the store in this process.
    pub(super) number: u64,
    /// The reactor that owns it.
    pub(super) owner: ReactorHandle,
    /// Every write is on the media before it completes.
    pub(super) write_through: AtomicBool,
}

struct Shared {
    store: Arc<StoreFlags>,
    id: VolumeId,
    name: Arc<str>,
    uuid: Uuid,
    kind: VolumeKind,
    /// Whether its blocks are checked when they are read.
    checksums: bool,
    blocks: AtomicU64,
    /// Hosts may not change it.
    read_only: AtomicBool,
    counters: CounterBook,
}

impl VolumeDevice {
    pub(super) fn new(store: Arc<StoreFlags>, store_name: &str, info: &VolumeInfo) -> Self {
        let shared = Shared {
            store,
            id: info.id,
            name: info.uuid.to_string().into(),
            uuid: info.uuid,
            kind: info.kind,
            checksums: info.settings.checksums,
            blocks: AtomicU64::new(info.blocks),
            read_only: AtomicBool::new(is_read_only(info)),
            counters: CounterBook::default(),
        };
        Self { shared: Arc::new(shared), alias: RwLock::new(format!("{store_name}/{}", info.name)) }
    }

    /// Its place in the store.
    pub fn id(&self) -> VolumeId {
        self.shared.id
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.shared.uuid
    }

    /// Whether it is a snapshot.
    pub fn kind(&self) -> VolumeKind {
        self.shared.kind
    }

    pub(super) fn set_alias(&self, alias: String) {
        *self.alias.write().unwrap_or_else(PoisonError::into_inner) = alias;
    }

    /// The volume is now this.
    pub(super) fn refresh(&self, info: &VolumeInfo) {
        self.shared.blocks.store(info.blocks, Relaxed);
        self.shared.read_only.store(is_read_only(info), Relaxed);
    }
}

fn is_read_only(info: &VolumeInfo) -> bool {
    info.kind == VolumeKind::Snapshot || info.settings.read_only
}

impl Device for VolumeDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: Arc::clone(&self.shared.name),
            product: "Logical Volume",
            uuid: self.shared.uuid,
            block_size: BlockSize::B4096,
            blocks: self.shared.blocks.load(Relaxed),
            write_cache: !self.shared.store.write_through.load(Relaxed),
            operations: Operations::all(),
            // All blocks of one command enter the map together.
            atomic: Atomicity::of(COMMAND_BLOCKS_MAX),
            preferred_blocks: 1,
        }
    }

    fn alias(&self) -> Option<String> {
        Some(self.alias.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn open_queue(&self, context: &QueueContext<'_>) -> Result<Box<dyn Queue>, DeviceError> {
        Ok(match get(self.shared.store.number) {
            Some(AnyPort::Owner(port)) => Box::new(VolumeQueue::open(&self.shared, port)),
            Some(AnyPort::Client(port)) => Box::new(VolumeQueue::open(&self.shared, port)),
            None if is_reactor() => {
                return Err(DeviceError::NotHere { name: self.shared.name.to_string() });
            }
            None => {
                let there = Self { shared: Arc::clone(&self.shared), alias: RwLock::default() };
                Box::new(Courier::open(&self.shared.store.owner, Arc::new(there), context.depth)?)
            }
        })
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.counters.sum()
    }
}

/// One reactor's queue of a volume.
struct VolumeQueue<P: Port> {
    shared: Arc<Shared>,
    port: Rc<RefCell<P>>,
    /// Its number in the lane.
    number: u32,
}

impl<P: Port> VolumeQueue<P> {
    fn open(shared: &Arc<Shared>, port: Rc<RefCell<P>>) -> Self {
        let number = port.borrow_mut().lane().open_queue(shared.counters.open());
        Self { shared: Arc::clone(shared), port, number }
    }

    /// Whether an I/O may be tried at all.
    fn check(&self, op: &Op) -> Result<(), Status> {
        let geometry = Geometry { block_size: BlockSize::B4096, blocks: self.shared.blocks.load(Relaxed) };
        let read_only = op.kind() != OpKind::Read && op.kind() != OpKind::Flush;
        if read_only && self.shared.read_only.load(Relaxed) {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.dnr());
        }
        match op {
            Op::Read { lba, buffer } | Op::Write { lba, buffer, .. } => geometry.data(*lba, buffer.len())?,
            Op::WriteZeroes { lba, blocks, .. } | Op::Deallocate { lba, blocks } => {
                geometry.range(*lba, u64::from(*blocks))?
            }
            Op::Flush => 0..0,
        };
        Ok(())
    }
}

/// Whether an I/O is about no block at all: done as it is.
fn is_empty(op: &Op) -> bool {
    match op {
        Op::Read { buffer, .. } | Op::Write { buffer, .. } => buffer.is_empty(),
        Op::WriteZeroes { blocks, .. } | Op::Deallocate { blocks, .. } => *blocks == 0,
        Op::Flush => false,
    }
}

/// Makes a change complete only when it is on the media.
fn force_through(op: &mut Op) {
    match op {
        Op::Write { fua, .. } | Op::WriteZeroes { fua, .. } => *fua = true,
        Op::Read { .. } | Op::Flush | Op::Deallocate { .. } => {}
    }
}

fn finish(io: Io, status: Status) -> Submission {
    Submission::Done(IoDone { tag: io.tag, status, buffer: io.op.into_buffer() })
}

impl<P: Port> Queue for VolumeQueue<P> {
    fn is_memory(&self) -> bool {
        self.port.borrow_mut().lane().is_memory()
    }

    #[inline]
    fn lend(&mut self, lba: Lba, bytes: u32) -> Option<IoBuf> {
        self.port.borrow_mut().lend(self.number, self.shared.id, lba, bytes)
    }

    #[inline]
    fn take_over(&mut self, lba: Lba, buffer: IoBuf) -> Result<(), IoBuf> {
        if self.shared.read_only.load(Relaxed) || self.shared.store.write_through.load(Relaxed) {
            return Err(buffer);
        }
        self.port.borrow_mut().take_over(self.number, self.shared.id, lba, buffer)
    }

    #[inline]
    fn expect_write(&mut self, _: Lba, bytes: u32) {
        self.port.borrow_mut().expect_write(bytes);
    }

    #[inline]
    fn expect_read(&mut self, lba: Lba, bytes: u32) {
        if self.shared.checksums {
            self.port.borrow_mut().expect_read(self.shared.id, lba, bytes);
        }
    }

    #[inline]
    fn submit(&mut self, mut io: Io) -> Submission {
        let port = &mut *self.port.borrow_mut();
        if let Err(status) = self.check(&io.op) {
            port.lane().refused(self.number, io.op.kind());
            return finish(io, status);
        }
        if is_empty(&io.op) {
            return finish(io, Status::SUCCESS);
        }
        if self.shared.store.write_through.load(Relaxed) {
            force_through(&mut io.op);
        }
        match port.lane().admit(self.number, (self.shared.id, self.shared.checksums), io) {
            Ok((slot, order)) => {
                port.start(slot, order);
                port.lane().take_ended().map_or(Submission::Queued, Submission::Done)
            }
            Err(io) => Submission::Busy(io),
        }
    }

    fn kick(&mut self) {
        self.port.borrow_mut().kick();
    }

    fn poll(&mut self, done: &mut Done) {
        let port = &mut *self.port.borrow_mut();
        port.progress();
        port.lane().take_done(self.number, done);
    }

    /// The port's poller waits for the base device.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn before_sleep(&mut self) -> bool {
        !self.port.borrow_mut().lane().has_done(self.number)
    }

    fn in_flight(&self) -> usize {
        self.port.borrow_mut().lane().in_flight(self.number)
    }
}

impl<P: Port> Drop for VolumeQueue<P> {
    fn drop(&mut self) {
        self.port.borrow_mut().lane().close_queue(self.number);
    }
}
