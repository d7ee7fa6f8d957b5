//! An attached controller.
//!
//! Invariant: every call of SPDK that concerns the controller as a whole runs under [`Inner::serial`]; queue pairs use
//! theirs without it, and are counted while they are in use, so that a reset finds none that is.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{ControllerError, QueueError};
use crate::late::Late;
use crate::slots::read_completion;
use crate::{Environment, TransportId, driver, sys};

/// How a controller is attached. Zeroes mean SPDK's own choice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ControllerOptions {
    /// I/O queues to ask for.
    pub io_queues: u32,
    /// Longest I/O queue.
    pub io_queue_size: u32,
    /// Over a fabric: our NQN. SPDK 20.07 makes one up that is none; targets refuse it.
    pub host_nqn: Option<String>,
    /// Lets SPDK print every command that fails.
    pub log_errors: bool,
}

/// An asynchronous event (NVMe base, Asynchronous Event Request command).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncEvent {
    /// Asynchronous event type.
    pub kind: u8,
    /// Asynchronous event information.
    pub info: u8,
    /// The log page that tells more, and reading which allows the next event of the kind.
    pub log_page: u8,
}

/// What a namespace is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceInfo {
    /// Its identifier.
    pub id: u32,
    /// Bytes of a block, metadata included where it is interleaved.
    pub block_size: u32,
    /// Its size in blocks.
    pub blocks: u64,
    /// Its UUID, if it has one.
    pub uuid: Option<[u8; 16]>,
    /// Identify Namespace data.
    pub identify: Box<[u8; 4096]>,
}

/// An attached controller. Clones are the same; it is detached when the last of them and of its queue pairs is gone.
#[derive(Clone)]
pub struct Controller(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) raw: NonNull<sys::spdk_nvme_ctrlr>,
    id: TransportId,
    /// Serialises calls on the controller.
    serial: Mutex<()>,
    /// Queue pairs that are open and not parked. Changed under `serial`.
    open_queue_pairs: AtomicUsize,
    removed: Arc<AtomicBool>,
    /// Events that were not handed over yet.
    events: Mutex<VecDeque<AsyncEvent>>,
    pub(crate) late: Late,
    pub(crate) environment: Environment,
}

// SAFETY: SPDK's controllers may be used by any thread; calls that it does not serialise are serialised here.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// Events that are kept for a caller that does not ask: the newest.
const EVENTS_MAX: usize = 64;

impl Inner {
    pub(crate) fn serialise(&self) -> MutexGuard<'_, ()> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn try_serialise(&self) -> std::sync::TryLockResult<MutexGuard<'_, ()>> {
        self.serial.try_lock()
    }

    fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }

    /// Counts a queue pair that was opened, under `serial`.
    pub(crate) fn queue_pair_opened(&self) {
        self.open_queue_pairs.fetch_add(1, Relaxed);
    }

    /// Counts a queue pair that was closed, under `serial`.
    pub(crate) fn queue_pair_closed(&self) {
        self.open_queue_pairs.fetch_sub(1, Relaxed);
    }

    /// The namespace, if it is active.
    pub(crate) fn namespace(&self, id: u32) -> Result<NonNull<sys::spdk_nvme_ns>, QueueError> {
        // SAFETY: the controller is attached; a namespace that it does not have is null.
        let namespace = unsafe { sys::spdk_nvme_ctrlr_get_ns(self.raw.as_ptr(), id) };
        let namespace = NonNull::new(namespace).ok_or(QueueError::NoNamespace(id))?;
        // SAFETY: a namespace of the attached controller.
        if unsafe { sys::spdk_nvme_ns_is_active(namespace.as_ptr()) } {
            Ok(namespace)
        } else {
            Err(QueueError::NoNamespace(id))
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        driver::detach(self.raw, &self.id);
    }
}

impl Controller {
    pub(crate) fn new(
        environment: &Environment,
        raw: NonNull<sys::spdk_nvme_ctrlr>,
        id: TransportId,
        removed: Arc<AtomicBool>,
    ) -> Self {
        let inner = Arc::new(Inner {
            raw,
            id,
            serial: Mutex::new(()),
            open_queue_pairs: AtomicUsize::new(0),
            removed,
            events: Mutex::default(),
            late: Late::default(),
            environment: environment.clone(),
        });
        let argument = Arc::as_ptr(&inner).cast_mut().cast::<c_void>();
        // SAFETY: `inner` never moves, and outlives the attachment: its drop ends it.
        unsafe { sys::spdk_nvme_ctrlr_register_aer_callback(raw.as_ptr(), Some(on_event), argument) };
        Self(inner)
    }

    /// Where it is.
    pub fn id(&self) -> &TransportId {
        &self.0.id
    }

    /// Identify Controller data.
    pub fn identify(&self) -> Box<[u8; 4096]> {
        const _: () = assert!(size_of::<sys::spdk_nvme_ctrlr_data>() == 4096);
        let _serial = self.0.serialise();
        // SAFETY: the controller is attached.
        let data = unsafe { sys::spdk_nvme_ctrlr_get_data(self.0.raw.as_ptr()) };
        // SAFETY: SPDK keeps the 4096 bytes while the controller is attached, and changes them only within calls that
        // `serial` keeps out.
        Box::new(unsafe { data.cast::<[u8; 4096]>().read_unaligned() })
    }

    /// The longest transfer of one command in bytes; longer ones are split.
    pub fn transfer_bytes_max(&self) -> u32 {
        // SAFETY: the controller is attached.
        unsafe { sys::spdk_nvme_ctrlr_get_max_xfer_size(self.0.raw.as_ptr()) }
    }

    /// The active namespaces.
    pub fn namespaces(&self) -> Vec<NamespaceInfo> {
        let _serial = self.0.serialise();
        let raw = self.0.raw.as_ptr();
        // SAFETY: the controller is attached; 0 means there is none.
        let mut id = unsafe { sys::spdk_nvme_ctrlr_get_first_active_ns(raw) };
        let mut found = Vec::new();
        while id != 0 {
            found.extend(self.0.namespace(id).ok().map(|namespace| describe(id, namespace)));
            // SAFETY: as above.
            id = unsafe { sys::spdk_nvme_ctrlr_get_next_active_ns(raw, id) };
        }
        found
    }

    /// One namespace, if it is active.
    pub fn namespace(&self, id: u32) -> Option<NamespaceInfo> {
        let _serial = self.0.serialise();
        self.0.namespace(id).ok().map(|namespace| describe(id, namespace))
    }

    /// Whether it was pulled out, or taken away. What is in flight fails; queue pairs must be closed.
    pub fn is_removed(&self) -> bool {
        self.0.is_removed()
    }

    /// Whether it failed: a reset may bring it back, unless it was removed.
    pub fn is_failed(&self) -> bool {
        // SAFETY: the controller is attached; reads a flag.
        self.is_removed() || unsafe { sys::spdk_nvme_ctrlr_is_failed(self.0.raw.as_ptr()) }
    }

    /// Queue pairs that are open and not parked.
    pub fn open_queue_pairs(&self) -> usize {
        self.0.open_queue_pairs.load(Relaxed)
    }

    /// Does the controller's own chores: completes admin commands, keeps it alive, looks whether it is still there, and
    /// hands over its events. To be called regularly, from any thread; `Failed` when it failed or is gone.
    pub fn poll(&self, mut on_event: impl FnMut(AsyncEvent)) -> Result<(), ControllerError> {
        let result = {
            let _serial = self.0.serialise();
            // SAFETY: the controller is attached, and `serial` keeps others out.
            unsafe { sys::spdk_nvme_ctrlr_process_admin_completions(self.0.raw.as_ptr()) }
        };
        if !self.is_removed() && self.looks_gone() {
            driver::look_for_removals(&self.0.id);
        }
        while let Some(event) = self.next_event() {
            on_event(event);
        }
        if result < 0 || self.is_failed() { Err(ControllerError::Failed) } else { Ok(()) }
    }

    fn next_event(&self) -> Option<AsyncEvent> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Whether the system announced the device's removal.
    fn looks_gone(&self) -> bool {
        if !matches!(self.0.id, TransportId::Pcie(_)) {
            return false;
        }
        // SAFETY: the controller is attached.
        let device = unsafe { sys::spdk_nvme_ctrlr_get_pci_device(self.0.raw.as_ptr()) };
        // SAFETY: a PCI controller's device lives as long as the attachment.
        !device.is_null() && unsafe { sys::spdk_pci_device_is_removed(device) }
    }

    /// Resets the controller, which takes up to seconds. All its queue pairs must be parked or closed. When it fails, those that
    /// are parked can only be closed.
    pub fn reset(&self) -> Result<(), ControllerError> {
        let _serial = self.0.serialise();
        match self.open_queue_pairs() {
            0 => {}
            open => return Err(ControllerError::QueuePairsOpen(open)),
        }
        // SAFETY: the controller is attached; no thread uses a queue pair of it, nor does while `serial` is held.
        let result = unsafe { sys::spdk_nvme_ctrlr_reset(self.0.raw.as_ptr()) };
        if result == 0 { Ok(()) } else { Err(ControllerError::Failed) }
    }

    /// Marks the controller as failed: every queue pair goes down.
    pub fn fail(&self) {
        let _serial = self.0.serialise();
        // SAFETY: the controller is attached; sets a flag.
        unsafe { sys::spdk_nvme_ctrlr_fail(self.0.raw.as_ptr()) };
    }
}

fn describe(id: u32, namespace: NonNull<sys::spdk_nvme_ns>) -> NamespaceInfo {
    const _: () = assert!(size_of::<sys::spdk_nvme_ns_data>() == 4096);
    const _: () = assert!(size_of::<sys::spdk_uuid>() == 16);
    let namespace = namespace.as_ptr();
    // SAFETY: a namespace of an attached controller, here and below.
    let data = unsafe { sys::spdk_nvme_ns_get_data(namespace) };
    // SAFETY: SPDK keeps the 4096 bytes while the controller is attached; the caller holds `serial`.
    let identify = Box::new(unsafe { data.cast::<[u8; 4096]>().read_unaligned() });
    // SAFETY: see above.
    let uuid = unsafe { sys::spdk_nvme_ns_get_uuid(namespace) };
    // SAFETY: null, or sixteen bytes that SPDK keeps.
    let uuid = (!uuid.is_null()).then(|| unsafe { uuid.cast::<[u8; 16]>().read_unaligned() });
    // SAFETY: see above.
    let block_size = unsafe { sys::spdk_nvme_ns_get_extended_sector_size(namespace) };
    // SAFETY: see above.
    let blocks = unsafe { sys::spdk_nvme_ns_get_num_sectors(namespace) };
    NamespaceInfo { id, block_size, blocks, uuid, identify }
}

/// `spdk_nvme_aer_cb`.
unsafe extern "C" fn on_event(argument: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
    // SAFETY: the argument given at registration; the attachment does not outlive it.
    let inner = unsafe { &*argument.cast::<Inner>() };
    // SAFETY: SPDK passes a completion that is there during the call.
    let (status, result) = unsafe { read_completion(cpl) };
    if !status.is_success() {
        return;
    }
    let [kind, info, log_page, _] = result.to_le_bytes();
    let mut events = inner.events.lock().unwrap_or_else(PoisonError::into_inner);
    if events.len() == EVENTS_MAX {
        events.pop_front();
    }
    events.push_back(AsyncEvent { kind: kind & 7, info, log_page });
}
