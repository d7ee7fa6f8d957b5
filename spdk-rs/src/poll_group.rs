//! Many queue pairs of one thread, polled at once.

use std::ptr::NonNull;
use std::rc::Rc;

use crate::error::QueueError;
use crate::{Environment, sys};

/// A group of queue pairs. Clones are the same; each queue pair keeps its group.
#[derive(Clone)]
pub struct PollGroup(Rc<Group>);

struct Group {
    raw: NonNull<sys::spdk_nvme_poll_group>,
}

impl PollGroup {
    /// An empty group; `None` when there is no memory.
    pub fn new(_: &Environment) -> Option<Self> {
        // SAFETY: the environment is set up; the context is not used.
        #[cfg(not(spdk_poll_group_table))]
        let raw = unsafe { sys::spdk_nvme_poll_group_create(std::ptr::null_mut()) };
        // SAFETY: as above; no table of functions is given.
        #[cfg(spdk_poll_group_table)]
        let raw = unsafe { sys::spdk_nvme_poll_group_create(std::ptr::null_mut(), std::ptr::null_mut()) };
        Some(Self(Rc::new(Group { raw: NonNull::new(raw)? })))
    }

    /// Completes up to `each_max` commands of every queue pair, 0 for as many as there are, and passes on what was
    /// submitted. What finished is taken from the queue pairs. Gives how many finished.
    pub fn process_completions(&self, each_max: u32) -> Result<u64, QueueError> {
        // SAFETY: the group is there; queue pairs are `!Send`, so this is their thread.
        let result = unsafe {
            sys::spdk_nvme_poll_group_process_completions(self.0.raw.as_ptr(), each_max, Some(on_disconnect))
        };
        u64::try_from(result).map_err(|_| QueueError::Down)
    }

    pub(crate) fn add(&self, qpair: NonNull<sys::spdk_nvme_qpair>) -> Result<(), QueueError> {
        // SAFETY: both are there; the queue pair is not connected yet, as SPDK demands.
        match unsafe { sys::spdk_nvme_poll_group_add(self.0.raw.as_ptr(), qpair.as_ptr()) } {
            0 => Ok(()),
            result => Err(QueueError::Connect(result)),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once; it is empty, for queue pairs keep their group.
        unsafe { sys::spdk_nvme_poll_group_destroy(self.raw.as_ptr()) };
    }
}

/// `spdk_nvme_disconnected_qpair_cb`: the queue pair's owner finds out by itself.
unsafe extern "C" fn on_disconnect(_: *mut sys::spdk_nvme_qpair, _: *mut std::ffi::c_void) {}
