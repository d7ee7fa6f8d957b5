//! The connection manager: event channels, connection identifiers, events as values.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;
use rdma_mummy_sys as sys;
use rustix::io::Errno;

use super::address::{self, CAddress};
use super::device_events::DeviceKey;
use super::{VerbsError, check};

/// The most private data that any event carries (a field of 8 bits).
const PRIVATE_DATA_MAX: usize = 255;
/// Transport retries of a connection before it is broken: the most InfiniBand can express.
pub(crate) const RETRIES: u8 = 7;
/// Retries while the peer has no receive posted: 7 means without end. Credits make it rare, keep-alive bounds it.
const RECEIVER_NOT_READY_RETRIES: u8 = 7;

/// Private data of an event.
pub(crate) type PrivateData = ArrayVec<u8, PRIVATE_DATA_MAX>;

/// Names a connection identifier in events. Never given to another while its [`CmId`] lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct CmKey(usize);

/// Where events of connection identifiers come. Never blocks.
pub(crate) struct EventChannel {
    ptr: NonNull<sys::rdma_event_channel>,
}

// SAFETY: librdmacm's calls on a channel are system calls on its descriptor; it keeps no thread-local state.
unsafe impl Send for EventChannel {}
// SAFETY: as above: concurrent calls are serialised by the kernel.
unsafe impl Sync for EventChannel {}

impl EventChannel {
    /// A channel without identifiers.
    ///
    /// # Errors
    /// When the machine has no RDMA, or rdma-core is not installed.
    pub(crate) fn new() -> Result<Arc<Self>, VerbsError> {
        // SAFETY: no precondition.
        let ptr = unsafe { sys::rdma_create_event_channel() };
        let ptr = NonNull::new(ptr).ok_or_else(|| VerbsError::last("rdma_create_event_channel"))?;
        let channel = Self { ptr };
        let failed = |errno: Errno| VerbsError { call: "fcntl", source: errno.into() };
        let flags = rustix::fs::fcntl_getfl(channel.as_fd()).map_err(failed)?;
        rustix::fs::fcntl_setfl(channel.as_fd(), flags | rustix::fs::OFlags::NONBLOCK).map_err(failed)?;
        Ok(Arc::new(channel))
    }

    /// The next event, if one came.
    pub(crate) fn next(self: &Arc<Self>) -> Option<CmEvent> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the channel lives; `event` is written only on success.
        if unsafe { sys::rdma_get_cm_event(self.ptr.as_ptr(), &raw mut event) } != 0 {
            return None;
        }
        // SAFETY: a successful call gives an event that is valid until it is acknowledged, below.
        let told = unsafe { &*event };
        let read = self.read(told);
        // SAFETY: acknowledged once; nothing borrows the event any more.
        unsafe { sys::rdma_ack_cm_event(event) };
        Some(read)
    }

    fn read(self: &Arc<Self>, event: &sys::rdma_cm_event) -> CmEvent {
        use sys::rdma_cm_event_type as ty;
        let kind = match event.event {
            ty::RDMA_CM_EVENT_CONNECT_REQUEST => match NonNull::new(event.id) {
                Some(ptr) => {
                    let params = conn_param(event);
                    CmEventKind::ConnectRequest(Box::new(ConnectRequest {
                        id: CmId { ptr, channel: Arc::clone(self) },
                        listener: CmKey(event.listen_id.addr()),
                        private_data: private_data(params),
                        initiator_depth: params.initiator_depth,
                    }))
                }
                None => CmEventKind::Ignored,
            },
            ty::RDMA_CM_EVENT_ADDR_RESOLVED => CmEventKind::AddressResolved,
            ty::RDMA_CM_EVENT_ROUTE_RESOLVED => CmEventKind::RouteResolved,
            ty::RDMA_CM_EVENT_ESTABLISHED => CmEventKind::Established(private_data(conn_param(event))),
            ty::RDMA_CM_EVENT_REJECTED => CmEventKind::Rejected(private_data(conn_param(event))),
            ty::RDMA_CM_EVENT_DISCONNECTED => CmEventKind::Disconnected,
            ty::RDMA_CM_EVENT_DEVICE_REMOVAL => CmEventKind::DeviceRemoved,
            ty::RDMA_CM_EVENT_ADDR_CHANGE => CmEventKind::AddressChanged,
            ty::RDMA_CM_EVENT_ADDR_ERROR
            | ty::RDMA_CM_EVENT_ROUTE_ERROR
            | ty::RDMA_CM_EVENT_CONNECT_ERROR
            | ty::RDMA_CM_EVENT_UNREACHABLE => CmEventKind::Failed,
            _ => CmEventKind::Ignored,
        };
        CmEvent { id: CmKey(event.id.addr()), kind, status: event.status }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives as long as `self`.
        let fd = unsafe { self.ptr.as_ref() }.fd;
        // SAFETY: the descriptor is open as long as the channel is.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        // SAFETY: every identifier of the channel holds a reference to it, so there is none left.
        unsafe { sys::rdma_destroy_event_channel(self.ptr.as_ptr()) };
    }
}

/// Something that happened to a connection identifier.
pub(crate) struct CmEvent {
    /// To which.
    pub(crate) id: CmKey,
    /// What.
    pub(crate) kind: CmEventKind,
    /// Of failures: an error number, negative, or of rejections the transport's reason.
    pub(crate) status: i32,
}

/// What happened.
pub(crate) enum CmEventKind {
    /// A host wants to connect.
    ConnectRequest(Box<ConnectRequest>),
    /// The address is that of a device.
    AddressResolved,
    /// The way to the address is known.
    RouteResolved,
    /// The connection is up; private data of the acceptance on the connecting side.
    Established(PrivateData),
    /// The peer does not want the connection.
    Rejected(PrivateData),
    /// The address, the route or the peer could not be reached.
    Failed,
    /// The connection is over.
    Disconnected,
    /// The device goes away.
    DeviceRemoved,
    /// The address moved to another device.
    AddressChanged,
    /// Of no interest.
    Ignored,
}

/// A host that wants to connect.
pub(crate) struct ConnectRequest {
    /// The connection to be; dropping it refuses without a reason.
    pub(crate) id: CmId,
    /// The listener it came to.
    pub(crate) listener: CmKey,
    /// What the host said.
    pub(crate) private_data: PrivateData,
    /// Reads of ours that the host can serve at a time.
    pub(crate) initiator_depth: u8,
}

/// What a connection is made with.
pub(crate) struct ConnectParams<'a> {
    /// What the peer is told.
    pub(crate) private_data: &'a [u8],
    /// Reads of the peer that we serve at a time.
    pub(crate) responder_resources: u8,
    /// Reads that we have on their way at a time.
    pub(crate) initiator_depth: u8,
    /// How often what is not acknowledged is sent again, at most [`RETRIES`].
    pub(crate) retries: u8,
}

/// The connection's parameters in an event; only those of some kinds have them.
fn conn_param(event: &sys::rdma_cm_event) -> &sys::rdma_conn_param {
    // SAFETY: identifiers here are connected ones, for which librdmacm fills this member; it is plain data, zero else.
    unsafe { &event.param.conn }
}

fn private_data(params: &sys::rdma_conn_param) -> PrivateData {
    let mut copy = PrivateData::new();
    if !params.private_data.is_null() {
        let len = usize::from(params.private_data_len);
        // SAFETY: librdmacm gives so many readable bytes, valid until the event is acknowledged.
        let bytes = unsafe { std::slice::from_raw_parts(params.private_data.cast::<u8>(), len) };
        copy.extend(bytes.iter().copied());
    }
    copy
}

/// A connection, a connection to be, or a listener.
pub(crate) struct CmId {
    ptr: NonNull<sys::rdma_cm_id>,
    channel: Arc<EventChannel>,
}

// SAFETY: librdmacm locks what threads share; an identifier is used by one thread at a time, its owner's.
unsafe impl Send for CmId {}

impl CmId {
    /// A fresh identifier whose events come to `channel`.
    pub(crate) fn new(channel: &Arc<EventChannel>) -> Result<Self, VerbsError> {
        let mut id = std::ptr::null_mut();
        let space = sys::rdma_port_space::RDMA_PS_TCP;
        // SAFETY: the channel lives; the identifier will hold a reference to it.
        let status =
            unsafe { sys::rdma_create_id(channel.ptr.as_ptr(), &raw mut id, std::ptr::null_mut(), space) };
        check("rdma_create_id", status)?;
        let ptr = NonNull::new(id).ok_or_else(|| VerbsError::last("rdma_create_id"))?;
        Ok(Self { ptr, channel: Arc::clone(channel) })
    }

    /// How events name it.
    pub(crate) fn key(&self) -> CmKey {
        CmKey(self.ptr.as_ptr().addr())
    }

    pub(super) fn as_ptr(&self) -> NonNull<sys::rdma_cm_id> {
        self.ptr
    }

    fn get(&self) -> &sys::rdma_cm_id {
        // SAFETY: the identifier lives as long as `self`; fields are written only by calls that its owner makes.
        unsafe { self.ptr.as_ref() }
    }

    pub(super) fn queue_pair(&self) -> *mut sys::ibv_qp {
        self.get().qp
    }

    pub(super) fn context(&self) -> Option<NonNull<sys::ibv_context>> {
        NonNull::new(self.get().verbs)
    }

    /// How events name its device; `None` when it is on none, as a listener on every address is.
    pub(crate) fn device(&self) -> Option<DeviceKey> {
        self.context().map(DeviceKey::new)
    }

    /// The port of the device that it goes through.
    pub(crate) fn port(&self) -> u32 {
        self.get().port_num.into()
    }

    /// Makes events come to another channel from now on. Those that came stay where they are.
    pub(crate) fn migrate(&mut self, channel: &Arc<EventChannel>) -> Result<(), VerbsError> {
        // SAFETY: both live; no event of the identifier is unacknowledged, because we acknowledge at once.
        let status = unsafe { sys::rdma_migrate_id(self.ptr.as_ptr(), channel.ptr.as_ptr()) };
        check("rdma_migrate_id", status)?;
        self.channel = Arc::clone(channel);
        Ok(())
    }

    /// Another identifier on the same device and channel, at no port: it keeps the device open, and its events tell when
    /// the device goes.
    pub(super) fn anchor(&self) -> Result<Self, VerbsError> {
        let no_address = || VerbsError { call: "rdma_cm_id", source: std::io::ErrorKind::NotFound.into() };
        let mut address = self.local().ok_or_else(no_address)?;
        address.set_port(0);
        let anchor = Self::new(&self.channel)?;
        anchor.bind(address)?;
        if anchor.context() == self.context() { Ok(anchor) } else { Err(no_address()) }
    }

    fn bind(&self, address: SocketAddr) -> Result<(), VerbsError> {
        let mut address = CAddress::from(address);
        // SAFETY: the identifier and the address live for the call.
        let status = unsafe { sys::rdma_bind_addr(self.ptr.as_ptr(), address.as_mut_ptr()) };
        check("rdma_bind_addr", status)
    }

    /// Binds to `address` and listens.
    pub(crate) fn listen(&self, address: SocketAddr, backlog: i32) -> Result<(), VerbsError> {
        self.bind(address)?;
        // SAFETY: the identifier lives.
        check("rdma_listen", unsafe { sys::rdma_listen(self.ptr.as_ptr(), backlog) })
    }

    /// Starts to find the device for `remote`.
    pub(crate) fn resolve_address(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        timeout_ms: i32,
    ) -> Result<(), VerbsError> {
        let mut local = local.map(CAddress::from);
        let mut remote = CAddress::from(remote);
        let source = local.as_mut().map_or(std::ptr::null_mut(), CAddress::as_mut_ptr);
        // SAFETY: the identifier and both addresses live for the call; no source is allowed.
        let status =
            unsafe { sys::rdma_resolve_addr(self.ptr.as_ptr(), source, remote.as_mut_ptr(), timeout_ms) };
        check("rdma_resolve_addr", status)
    }

    /// Starts to find the way.
    pub(crate) fn resolve_route(&self, timeout_ms: i32) -> Result<(), VerbsError> {
        // SAFETY: the identifier lives.
        check("rdma_resolve_route", unsafe { sys::rdma_resolve_route(self.ptr.as_ptr(), timeout_ms) })
    }

    /// Our address.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        // SAFETY: every member of the union is plain data, and this is the largest.
        address::read(unsafe { &self.get().route.addr.src_addr_union.src_storage })
    }

    /// The peer's address.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        // SAFETY: every member of the union is plain data, and this is the largest.
        address::read(unsafe { &self.get().route.addr.dst_addr_union.dst_storage })
    }

    pub(super) fn accept(&self, params: &ConnectParams<'_>) -> Result<(), VerbsError> {
        let mut params = c_params(params);
        // SAFETY: the identifier, the parameters and their private data live for the call.
        check("rdma_accept", unsafe { sys::rdma_accept(self.ptr.as_ptr(), &raw mut params) })
    }

    pub(super) fn connect(&self, params: &ConnectParams<'_>) -> Result<(), VerbsError> {
        let mut params = c_params(params);
        // SAFETY: the identifier, the parameters and their private data live for the call.
        check("rdma_connect", unsafe { sys::rdma_connect(self.ptr.as_ptr(), &raw mut params) })
    }

    /// Refuses a connection request with private data.
    pub(crate) fn reject(&self, private_data: &[u8]) {
        let len = u8::try_from(private_data.len()).unwrap_or(0);
        // SAFETY: the identifier and the bytes live for the call. It fails when the peer gave up: nothing is left to do.
        unsafe { sys::rdma_reject(self.ptr.as_ptr(), private_data.as_ptr().cast(), len) };
    }

    pub(super) fn disconnect(&self) {
        // SAFETY: the identifier lives. It fails when there is no connection any more: nothing is left to do.
        unsafe { sys::rdma_disconnect(self.ptr.as_ptr()) };
    }
}

impl Drop for CmId {
    fn drop(&mut self) {
        // SAFETY: owned and destroyed once; its queue pair, if it had one, was destroyed by that one's owner before.
        unsafe { sys::rdma_destroy_id(self.ptr.as_ptr()) };
    }
}

fn c_params(params: &ConnectParams<'_>) -> sys::rdma_conn_param {
    sys::rdma_conn_param {
        private_data: params.private_data.as_ptr().cast(),
        private_data_len: u8::try_from(params.private_data.len()).unwrap_or(0),
        responder_resources: params.responder_resources,
        initiator_depth: params.initiator_depth,
        flow_control: 1,
        retry_count: params.retries.min(RETRIES),
        rnr_retry_count: RECEIVER_NOT_READY_RETRIES,
        srq: 0,
        qp_num: 0,
    }
}
