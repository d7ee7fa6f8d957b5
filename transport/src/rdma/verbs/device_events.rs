//! What a device says that is about no piece of work: faults of queue pairs and of itself, ports that come and go.
//!
//! librdmacm opens a device once for the whole process, so there is one stream of these events for all that use it: see
//! [`super::heard`].

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use rdma_mummy_sys as sys;
use rustix::io::Errno;

use super::VerbsError;
use super::cm::{CmId, CmKey};
use super::domain::Domain;
use super::heard::{Heard, Reader};

/// Names a device of the process, as long as it is open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct DeviceKey(usize);

impl DeviceKey {
    pub(super) fn new(context: NonNull<sys::ibv_context>) -> Self {
        Self(context.as_ptr().addr())
    }
}

/// Names a queue pair: its device, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct QpKey {
    pub(super) device: DeviceKey,
    pub(super) number: u32,
}

impl QpKey {
    #[cfg(test)]
    pub(crate) fn fake(device: usize, number: u32) -> Self {
        Self { device: DeviceKey(device), number }
    }

    /// Its device.
    pub(crate) fn device(self) -> DeviceKey {
        self.device
    }
}

/// What a device said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeviceEvent {
    /// A queue pair is in error, and its connection broken.
    QueuePairFailed(QpKey),
    /// A queue pair in error takes no more shared receives.
    LastReceive(QpKey),
    /// A queue of the device that connections share does not work any more.
    QueueFailed(DeviceKey),
    /// The device does not work any more.
    DeviceFailed(DeviceKey),
    /// Shared receives run low.
    ReceivesLow,
    /// A port went down.
    PortDown(u32),
    /// A port came up.
    PortUp(u32),
    /// Addresses, keys or the subnet manager changed: connections find out by themselves.
    Changed(&'static str),
    /// Of no consequence.
    Ignored,
}

impl DeviceEvent {
    /// Whether connections end by it, or may be given up after it.
    pub(crate) fn concerns_connections(self) -> bool {
        matches!(
            self,
            Self::QueuePairFailed(_) | Self::LastReceive(_) | Self::QueueFailed(_) | Self::DeviceFailed(_)
        )
    }
}

/// What all devices said.
static HEARD: Heard<(DeviceKey, DeviceEvent)> = Heard::new();

/// The events of one device.
pub(crate) struct DeviceEvents<K> {
    context: NonNull<sys::ibv_context>,
    /// Keeps the device open.
    keeper: K,
    reader: Reader,
}

// SAFETY: libibverbs reads events with a system call on a descriptor, and locks what it acknowledges.
unsafe impl Send for DeviceEvents<CmId> {}

impl DeviceEvents<CmId> {
    /// The events of the device of a connection identifier; `None` when that is on no device.
    pub(crate) fn of(id: &CmId) -> Result<Option<Self>, VerbsError> {
        let Some(context) = id.context() else { return Ok(None) };
        Self::new(context, id.anchor()?).map(Some)
    }

    /// Whether it is the device of a connection identifier.
    pub(crate) fn is_of(&self, id: &CmId) -> bool {
        id.context() == Some(self.context)
    }

    /// How events that tell of the device's removal name it.
    pub(crate) fn key(&self) -> CmKey {
        self.keeper.key()
    }
}

impl DeviceEvents<Rc<Domain>> {
    /// The events of the device of a domain.
    pub(crate) fn of_domain(domain: &Rc<Domain>) -> Result<Self, VerbsError> {
        Self::new(domain.context(), Rc::clone(domain))
    }
}

impl<K> DeviceEvents<K> {
    /// `keeper` keeps the device open.
    fn new(context: NonNull<sys::ibv_context>, keeper: K) -> Result<Self, VerbsError> {
        let failed = |call: &'static str| move |errno: Errno| VerbsError { call, source: errno.into() };
        let reader = HEARD.reader().map_err(failed("eventfd"))?;
        let events = Self { context, keeper, reader };
        let device = events.device_fd();
        let flags = rustix::fs::fcntl_getfl(device).map_err(failed("fcntl"))?;
        rustix::fs::fcntl_setfl(device, flags | rustix::fs::OFlags::NONBLOCK).map_err(failed("fcntl"))?;
        Ok(events)
    }

    /// How its other events name it.
    pub(crate) fn device(&self) -> DeviceKey {
        DeviceKey::new(self.context)
    }

    /// The next event of the device that was not seen here yet, whoever heard it. Never blocks.
    pub(crate) fn next(&self) -> Option<DeviceEvent> {
        let device = self.device();
        while let Some(event) = self.hear() {
            HEARD.write((device, event));
        }
        let mut unseen = std::iter::from_fn(|| HEARD.read(&self.reader));
        unseen.find(|(of, _)| *of == device).map(|(_, event)| event)
    }

    /// What the device says that nobody has heard yet.
    fn hear(&self) -> Option<DeviceEvent> {
        // SAFETY: plain data, for which all zero bytes are valid.
        let mut event: sys::ibv_async_event = unsafe { std::mem::zeroed() };
        // SAFETY: the keeper keeps the device open; `event` is written only on success.
        if unsafe { sys::ibv_get_async_event(self.context.as_ptr(), &raw mut event) } != 0 {
            return None;
        }
        let read = self.read(&event);
        // SAFETY: got just now, acknowledged once.
        unsafe { sys::ibv_ack_async_event(&raw mut event) };
        Some(read)
    }

    /// Readable when the device says something.
    pub(crate) fn device_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the keeper keeps the device open.
        let fd = unsafe { self.context.as_ref() }.async_fd;
        // SAFETY: the descriptor is open as long as the device is.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Readable when somebody else heard something.
    pub(crate) fn heard_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// The event, which is not acknowledged yet: what it is about cannot be destroyed before.
    fn read(&self, event: &sys::ibv_async_event) -> DeviceEvent {
        use sys::ibv_event_type as ty;
        let device = DeviceKey::new(self.context);
        match event.event_type {
            ty::IBV_EVENT_QP_FATAL
            | ty::IBV_EVENT_QP_REQ_ERR
            | ty::IBV_EVENT_QP_ACCESS_ERR
            | ty::IBV_EVENT_PATH_MIG_ERR => DeviceEvent::QueuePairFailed(self.queue_pair(event)),
            ty::IBV_EVENT_QP_LAST_WQE_REACHED => DeviceEvent::LastReceive(self.queue_pair(event)),
            ty::IBV_EVENT_CQ_ERR | ty::IBV_EVENT_SRQ_ERR => DeviceEvent::QueueFailed(device),
            ty::IBV_EVENT_DEVICE_FATAL => DeviceEvent::DeviceFailed(device),
            ty::IBV_EVENT_SRQ_LIMIT_REACHED => DeviceEvent::ReceivesLow,
            ty::IBV_EVENT_PORT_ERR => DeviceEvent::PortDown(port(event)),
            ty::IBV_EVENT_PORT_ACTIVE => DeviceEvent::PortUp(port(event)),
            ty::IBV_EVENT_LID_CHANGE => DeviceEvent::Changed("local identifiers"),
            ty::IBV_EVENT_PKEY_CHANGE => DeviceEvent::Changed("partition keys"),
            ty::IBV_EVENT_GID_CHANGE => DeviceEvent::Changed("addresses (GIDs)"),
            ty::IBV_EVENT_SM_CHANGE | ty::IBV_EVENT_CLIENT_REREGISTER => {
                DeviceEvent::Changed("subnet manager")
            }
            _ => DeviceEvent::Ignored,
        }
    }

    fn queue_pair(&self, event: &sys::ibv_async_event) -> QpKey {
        // SAFETY: events of these kinds are about a queue pair.
        let queue_pair = unsafe { event.element.qp };
        // SAFETY: it is there until the event is acknowledged.
        let number = unsafe { (*queue_pair).qp_num };
        QpKey { device: DeviceKey::new(self.context), number }
    }
}

fn port(event: &sys::ibv_async_event) -> u32 {
    // SAFETY: events of these kinds are about a port; it is plain data.
    u32::try_from(unsafe { event.element.port_num }).unwrap_or(0)
}
