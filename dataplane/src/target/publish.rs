//! How a new view reaches every reactor: sent by mailbox, acknowledged by each, taken back everywhere if one of them
//! cannot use it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reactors::mailbox::SendError;
use reactors::reply::{self, Reply};

use super::error::ControlError;
use super::limits::ACKNOWLEDGE_TIMEOUT_MS;
use super::message::{Event, Message, OpenFailed};
use super::registry::Controller;
use super::shared::locked;
use super::view::{Link, TargetView};

/// The current view and the order of changes.
pub(super) struct Publisher {
    /// Held over a whole change, its acknowledgement included: changes happen one after the other.
    change: Mutex<()>,
    current: Mutex<Arc<TargetView>>,
}

type Acknowledgement = Reply<Result<(), OpenFailed>>;

impl Publisher {
    pub(super) fn new(view: TargetView) -> Self {
        Self { change: Mutex::default(), current: Mutex::new(Arc::new(view)) }
    }

    pub(super) fn current(&self) -> Arc<TargetView> {
        Arc::clone(&locked(&self.current))
    }

    /// Changes the view: `edit` works on a copy, and may refuse; then every reactor gets the result.
    pub(super) fn change<R>(
        &self,
        edit: impl FnOnce(&mut TargetView) -> Result<R, ControlError>,
    ) -> Result<R, ControlError> {
        let _one_at_a_time = locked(&self.change);
        let before = self.current();
        let mut view = (*before).clone();
        let outcome = edit(&mut view)?;
        let published = self.install(view);
        let acknowledged = self.hand_out(&published);
        if let Err(error @ ControlError::OpenDevice { .. }) = acknowledged {
            let undone = self.install((*before).clone());
            self.hand_out(&undone)?;
            return Err(error);
        }
        acknowledged.map(|()| outcome)
    }

    /// Adds a reactor, or another change that every reactor accepts at once; never blocks for long.
    pub(super) fn amend(&self, edit: impl FnOnce(&mut TargetView)) -> Arc<TargetView> {
        let mut current = locked(&self.current);
        let mut view = (**current).clone();
        edit(&mut view);
        view.version += 1;
        *current = Arc::new(view);
        for link in current.reactors.iter() {
            post(link, Message::View(Arc::clone(&current), None));
        }
        Arc::clone(&current)
    }

    /// Makes `view` the current one, with the reactors there are by now.
    fn install(&self, mut view: TargetView) -> Arc<TargetView> {
        let mut current = locked(&self.current);
        view.version = current.version + 1;
        view.reactors = Arc::clone(&current.reactors);
        *current = Arc::new(view);
        Arc::clone(&current)
    }

    fn hand_out(&self, view: &Arc<TargetView>) -> Result<(), ControlError> {
        let sent: Vec<(usize, Acknowledgement)> = view
            .reactors
            .iter()
            .map(|link| {
                let (replier, reply) = reply::channel();
                post(link, Message::View(Arc::clone(view), Some(replier)));
                (link.reactor, reply)
            })
            .collect();
        let deadline = Instant::now() + Duration::from_millis(ACKNOWLEDGE_TIMEOUT_MS);
        let mut outcome = Ok(());
        for (reactor, reply) in sent {
            outcome = outcome.and(wait(reactor, reply, deadline));
        }
        outcome
    }
}

/// Waits for one reactor; one that has stopped counts as having agreed.
fn wait(reactor: usize, reply: Acknowledgement, deadline: Instant) -> Result<(), ControlError> {
    match reply.wait_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Ok(Err(OpenFailed { reactor, device, source }))) => {
            Err(ControlError::OpenDevice { reactor, device, source })
        }
        Ok(Ok(Ok(())) | Err(_)) => Ok(()),
        Err(_) => Err(ControlError::ReactorStalled { reactor, waited_ms: ACKNOWLEDGE_TIMEOUT_MS }),
    }
}

/// Sends from a control thread: waits while the mailbox is full, gives up when the reactor is gone.
pub(super) fn post(link: &Link, mut message: Message) {
    let deadline = Instant::now() + Duration::from_millis(ACKNOWLEDGE_TIMEOUT_MS);
    while let Err(SendError::Full(back)) = link.sender.send(message) {
        if Instant::now() > deadline {
            return;
        }
        message = back;
        std::thread::yield_now();
    }
}

/// Tells every controller in `controllers` of an event, through the reactor where it lives.
pub(super) fn notify(view: &TargetView, controllers: Vec<Arc<Controller>>, event: Event) {
    for controller in controllers {
        let link = view.reactors.iter().find(|link| link.reactor == controller.home.reactor);
        if let Some(link) = link {
            post(link, Message::Event(controller, event));
        }
    }
}
