//! The ways into a store from a reactor: its owner's and that of all others; and the poller that keeps each going.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nvme::Lba;
use reactors::{IoBuf, Poller, Turn, Work};

use super::client::Client;
use super::engine::Engine;
use super::lane::Lane;
use super::order::Order;
use crate::store::VolumeId;

/// One reactor's way into a store.
pub(super) trait Port {
    /// The reactor's commands.
    fn lane(&mut self) -> &mut Lane;
    /// Starts a command of a slot of the lane.
    fn start(&mut self, slot: u32, order: Order);
    /// What a read for a queue of the lane would give, lent by the base device. `None`: it is to be read.
    fn lend(&mut self, queue: u32, volume: VolumeId, lba: Lba, bytes: u32) -> Option<IoBuf>;
    /// Takes over a write of a queue of the lane that does not have to be on the media. `Err`: it is to be submitted.
    fn take_over(&mut self, queue: u32, volume: VolumeId, lba: Lba, buffer: IoBuf) -> Result<(), IoBuf>;
    /// A write of so many bytes to some volume will probably be submitted soon.
    fn expect_write(&mut self, bytes: u32);
    /// A read that is checked will probably be lent soon.
    fn expect_read(&mut self, volume: VolumeId, lba: Lba, bytes: u32);
    /// Passes on what was started.
    fn kick(&mut self);
    /// Goes on with what is under way. Whether there was anything to do.
    fn progress(&mut self) -> bool;
    /// Whether nothing waits that no descriptor or message would wake the reactor for.
    fn may_sleep(&mut self) -> bool;
    /// Goes on towards the end; whether it is reached.
    fn drain(&mut self) -> bool;
}

/// What a reactor has of a store.
#[derive(Clone)]
pub(super) enum AnyPort {
    Owner(Rc<RefCell<Engine>>),
    Client(Rc<RefCell<Client>>),
}

thread_local! {
    /// The stores that this reactor has a part of, by their numbers.
    static PORTS: RefCell<Vec<(u64, AnyPort)>> = const { RefCell::new(Vec::new()) };
    /// Whether this thread ever had a part of a store: it is a reactor.
    static IS_REACTOR: Cell<bool> = const { Cell::new(false) };
}

/// Remembers this reactor's part of a store.
pub(super) fn put(store: u64, port: AnyPort) {
    IS_REACTOR.set(true);
    PORTS.with_borrow_mut(|ports| ports.push((store, port)));
}

/// Whether this thread is a reactor, which must not wait for another.
pub(super) fn is_reactor() -> bool {
    IS_REACTOR.get()
}

/// This reactor's part of a store.
pub(super) fn get(store: u64) -> Option<AnyPort> {
    PORTS.with_borrow(|ports| ports.iter().find(|(other, _)| *other == store).map(|(_, port)| port.clone()))
}

/// Forgets this reactor's part of a store.
pub(super) fn forget(store: u64) {
    PORTS.with_borrow_mut(|ports| ports.retain(|(other, _)| *other != store));
}

/// Keeps a port going, whether volumes are busy or not.
pub(super) struct PortPoller<P> {
    port: Rc<RefCell<P>>,
    name: String,
    /// Of the base device's queue.
    wait: Option<OwnedFd>,
}

impl<P: Port> PortPoller<P> {
    pub(super) fn new(port: &Rc<RefCell<P>>, name: String) -> std::io::Result<Self> {
        let mut borrowed = port.borrow_mut();
        let wait = borrowed.lane().base().wait_fd().map(|fd| fd.try_clone_to_owned()).transpose()?;
        Ok(Self { port: Rc::clone(port), name, wait })
    }
}

impl<P: Port> Poller for PortPoller<P> {
    fn name(&self) -> &str {
        &self.name
    }

    #[inline]
    fn poll(&mut self, _: &mut Turn<'_>) -> Work {
        Work::from(self.port.borrow_mut().progress())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wait.as_ref().map(AsFd::as_fd)
    }

    fn before_sleep(&mut self, _: &mut Turn<'_>) -> bool {
        let port = &mut *self.port.borrow_mut();
        !port.progress() && port.may_sleep()
    }

    fn drain(&mut self, _: &mut Turn<'_>) -> bool {
        self.port.borrow_mut().drain()
    }
}
