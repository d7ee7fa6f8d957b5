//! The target's own poller: takes messages and time-outs when no transport turns the service.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use fabrics::Now;
use reactors::{Poller, Timestamp, Turn, Work};
use transport::TargetService;

use super::service::ReactorTarget;

/// Turns the target on one reactor. Add it to the reactor after [`ReactorTarget::attach`], before the transports.
pub struct TargetPoller {
    service: Rc<RefCell<ReactorTarget>>,
}

impl TargetPoller {
    /// The poller of this service.
    pub fn new(service: &Rc<RefCell<ReactorTarget>>) -> Self {
        Self { service: Rc::clone(service) }
    }
}

impl Poller for TargetPoller {
    fn name(&self) -> &str {
        "target"
    }

    #[inline]
    fn poll(&mut self, turn: &mut Turn<'_>) -> Work {
        let now = Now(turn.now().as_nanos());
        let service = &mut *self.service.borrow_mut();
        // Transports turn the service themselves, once per turn each.
        let busy = !std::mem::take(&mut service.turned) && service.turn(now);
        service.tick(now);
        Work::from(busy)
    }

    fn before_sleep(&mut self, _: &mut Turn<'_>) -> bool {
        self.service.borrow_mut().before_sleep()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.service.borrow().next_deadline().map(|deadline| Timestamp::from_nanos(deadline.0))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
