//! A reactor in the calling thread, for tools and tests.

use std::fmt;

use crate::group::{ReactorHandle, ReactorsConfig, StartError};
use crate::poller::{ReactorId, Work};
use crate::reactor::{Reactor, ReactorContext};
use crate::time::Timestamp;

/// One reactor that turns only when told to, in the thread that made it. It is not pinned and has no watchdog: a stall
/// of a poller is counted, not attributed.
pub struct LocalReactor {
    handle: ReactorHandle,
    reactor: Option<Reactor>,
}

impl LocalReactor {
    /// A reactor as `config` says; `cores` is not used.
    ///
    /// # Errors
    /// [`StartError`] with the resource that is missing.
    pub fn new(config: &ReactorsConfig) -> Result<Self, StartError> {
        let (handle, inbox) = ReactorHandle::create(ReactorId(0), None, config.inbox_capacity)?;
        let reactor = Reactor::new(config, handle.clone(), inbox, None)?;
        Ok(Self { handle, reactor: Some(reactor) })
    }

    /// Reaches the reactor from other threads.
    #[must_use]
    pub fn handle(&self) -> ReactorHandle {
        self.handle.clone()
    }

    /// Runs `work` on the reactor now, outside a turn.
    pub fn with<R>(&mut self, work: impl FnOnce(&mut ReactorContext<'_>) -> R) -> R {
        work(&mut self.inner().context())
    }

    /// One turn now, without sleeping.
    pub fn turn(&mut self) -> Work {
        let now = self.inner().local().clock().now();
        self.inner().turn(now)
    }

    /// One turn that takes place at `now`, for simulations. Do not mix it with real time in one reactor.
    pub fn turn_at(&mut self, now: Timestamp) -> Work {
        self.inner().turn(now)
    }

    /// Turns, and sleeps as configured, until `done` says so between two turns.
    pub fn run_until(&mut self, mut done: impl FnMut(&mut ReactorContext<'_>) -> bool) {
        while !done(&mut self.inner().context()) {
            self.inner().step();
        }
    }

    /// Drains the pollers and drops them; the names of those that did not drain within the configured time.
    #[must_use]
    pub fn shutdown(mut self) -> Vec<String> {
        self.handle.stop();
        while !self.inner().finished() {
            self.inner().step();
        }
        self.reactor.take().map(Reactor::finish).unwrap_or_default()
    }

    fn inner(&mut self) -> &mut Reactor {
        let Some(reactor) = &mut self.reactor else { unreachable!("taken only by shutdown and drop") };
        reactor
    }
}

/// Drops pollers and tasks without draining them.
impl Drop for LocalReactor {
    fn drop(&mut self) {
        if let Some(reactor) = self.reactor.take() {
            reactor.discard();
        }
    }
}

impl fmt::Debug for LocalReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalReactor").finish_non_exhaustive()
    }
}
