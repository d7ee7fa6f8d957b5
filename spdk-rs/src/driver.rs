//! Attaching and detaching: what SPDK's driver does for the process as a whole, one thing at a time.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::AttachError;
use crate::transport_id::copy_text;
use crate::{Controller, ControllerOptions, Environment, PciAddress, TransportId, sys};

/// Held while SPDK probes or detaches.
static DRIVER: Mutex<()> = Mutex::new(());

/// Every attached controller. Never held while SPDK is called: its callbacks look here.
static ATTACHED: Mutex<Vec<Attached>> = Mutex::new(Vec::new());

struct Attached {
    raw: usize,
    id: TransportId,
    removed: Arc<AtomicBool>,
}

fn attached() -> MutexGuard<'static, Vec<Attached>> {
    ATTACHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn driver() -> MutexGuard<'static, ()> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the callbacks of one probe share.
struct Probe {
    /// `None`: nothing is to be attached.
    options: Option<ControllerOptions>,
    found: Option<NonNull<sys::spdk_nvme_ctrlr>>,
}

impl Environment {
    /// Attaches a controller. It may take seconds.
    pub fn attach(&self, id: &TransportId, options: &ControllerOptions) -> Result<Controller, AttachError> {
        if let TransportId::Pcie(address) = id
            && !self.allows(*address)
        {
            return Err(AttachError::NotAllowed(*address));
        }
        let _driver = driver();
        if attached().iter().any(|other| other.id == *id) {
            return Err(AttachError::Attached(id.clone()));
        }
        let mut probe = Probe { options: Some(options.clone()), found: None };
        run(id, &mut probe);
        let raw = probe.found.ok_or_else(|| AttachError::NotFound(id.clone()))?;
        let removed = Arc::new(AtomicBool::new(false));
        attached().push(Attached { raw: raw.as_ptr().addr(), id: id.clone(), removed: Arc::clone(&removed) });
        Ok(Controller::new(self, raw, id.clone(), removed))
    }

    /// Attaches what comes up of a list of PCI devices, and says for each how it went.
    pub fn probe(
        &self,
        allowed: &[PciAddress],
        options: &ControllerOptions,
    ) -> Vec<(PciAddress, Result<Controller, AttachError>)> {
        allowed.iter().map(|address| (*address, self.attach(&(*address).into(), options))).collect()
    }
}

/// Lets SPDK see whether devices were removed: it fails their controllers, and calls back.
pub(crate) fn look_for_removals(id: &TransportId) {
    let _driver = driver();
    run(id, &mut Probe { options: None, found: None });
}

/// Ends an attachment that nothing refers to any more.
pub(crate) fn detach(raw: NonNull<sys::spdk_nvme_ctrlr>, id: &TransportId) {
    let _driver = driver();
    attached().retain(|other| other.id != *id);
    // SAFETY: attached, and detached only once: here, when the last handle is gone.
    unsafe { sys::spdk_nvme_detach(raw.as_ptr()) };
}

/// One probe. What it returns is known from what was found.
fn run(id: &TransportId, probe: &mut Probe) {
    let raw = id.raw();
    let context = std::ptr::from_mut(probe).cast::<c_void>();
    // SAFETY: SPDK calls back only during the call, with a context that lives that long.
    unsafe {
        sys::spdk_nvme_probe(&raw const raw, context, Some(on_probe), Some(on_attach), Some(on_remove))
    };
}

/// `spdk_nvme_probe_cb`: whether a controller that was found is wanted, and how.
unsafe extern "C" fn on_probe(
    context: *mut c_void,
    _: *const sys::spdk_nvme_transport_id,
    options: *mut sys::spdk_nvme_ctrlr_opts,
) -> bool {
    // SAFETY: the context of `run`, which nothing else refers to during the call.
    let probe = unsafe { &mut *context.cast::<Probe>() };
    let Some(wanted) = &probe.options else { return false };
    // SAFETY: SPDK passes options to change.
    let options = unsafe { &mut *options };
    if wanted.io_queues != 0 {
        options.num_io_queues = wanted.io_queues;
    }
    if wanted.io_queue_size != 0 {
        options.io_queue_size = wanted.io_queue_size;
    }
    if let Some(nqn) = &wanted.host_nqn {
        copy_text(&mut options.hostnqn, nqn);
    }
    #[cfg(spdk_disable_error_logging)]
    {
        options.disable_error_logging = !wanted.log_errors;
    }
    true
}

/// `spdk_nvme_attach_cb`.
unsafe extern "C" fn on_attach(
    context: *mut c_void,
    _: *const sys::spdk_nvme_transport_id,
    controller: *mut sys::spdk_nvme_ctrlr,
    _: *const sys::spdk_nvme_ctrlr_opts,
) {
    // SAFETY: as in `on_probe`.
    unsafe { &mut *context.cast::<Probe>() }.found = NonNull::new(controller);
}

/// `spdk_nvme_remove_cb`. The context is that of whichever probe runs, and not used.
unsafe extern "C" fn on_remove(_: *mut c_void, controller: *mut sys::spdk_nvme_ctrlr) {
    if let Some(gone) = attached().iter().find(|other| other.raw == controller.addr()) {
        gone.removed.store(true, Relaxed);
    }
}
