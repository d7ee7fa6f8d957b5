//! Wakes a reactor's queue when its controller changes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Rung by the controller's thread, heard by the queue.
pub(super) struct Bell {
    fd: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Rung once to begin with: the first poll looks at the controller.
        Ok(Self { fd, rung: AtomicBool::new(true) })
    }

    /// Makes the descriptor readable until it is heard.
    pub(super) fn ring(&self) {
        // It can only fail when it was rung 2⁶⁴ times. The flag comes after: what is heard has been written.
        let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        self.rung.store(true, Ordering::Release);
    }

    /// Whether it was rung since it was last heard.
    #[inline]
    pub(super) fn heard(&self) -> bool {
        if !self.rung.load(Ordering::Relaxed) || !self.rung.swap(false, Ordering::AcqRel) {
            return false;
        }
        let mut count = [0; 8];
        // Nothing to read means that it was rung by `new`, or read already with an earlier ring.
        let _ = rustix::io::read(&self.fd, &mut count);
        true
    }

    /// Whether it was rung and not heard yet.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_heard_once_and_wakes_until_then() {
        let bell = Bell::new().unwrap();
        assert!(bell.heard(), "the first poll looks");
        assert!(!bell.heard());
        bell.ring();
        bell.ring();
        assert!(bell.is_rung());
        crate::device::tests::rig::wait_readable(bell.as_fd());
        assert!(bell.heard());
        assert!(!bell.heard() && !bell.is_rung());
        let mut count = [0; 8];
        assert!(rustix::io::read(&bell, &mut count).is_err(), "nothing is left that would wake");
    }
}
