//! A reactor's slow-path services, for code that runs on it: pollers, tasks, messages.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::dma::DmaPool;
use crate::group::ReactorHandle;
use crate::mailbox::{Mailbox, MailboxSender, Notifier, Pending};
use crate::poller::ReactorId;
use crate::reactor::ReactorContext;
use crate::tasks::{Executor, Sleep, SpawnError, TaskId};
use crate::time::{Clock, Timestamp};

/// Work for the end of the turn, and what to call it.
pub(crate) struct Deferred {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce(&mut ReactorContext<'_>)>,
}

struct Inner {
    handle: ReactorHandle,
    clock: Clock,
    pool: DmaPool,
    notifier: Arc<Notifier>,
    executor: Rc<Executor>,
    deferred: RefCell<Vec<Deferred>>,
    mailboxes: RefCell<Vec<Weak<dyn Pending>>>,
    objects: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

/// The reactor this code runs on. Cheap to clone; it stays on its thread.
#[derive(Clone)]
pub struct LocalHandle {
    inner: Rc<Inner>,
}

impl LocalHandle {
    pub(crate) fn new(
        handle: ReactorHandle,
        clock: Clock,
        pool: DmaPool,
        notifier: Arc<Notifier>,
        tasks_max: u32,
    ) -> Self {
        let executor = Rc::new(Executor::new(tasks_max, Arc::clone(&notifier)));
        let inner = Inner {
            handle,
            clock,
            pool,
            notifier,
            executor,
            deferred: RefCell::default(),
            mailboxes: RefCell::default(),
            objects: RefCell::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// The number of this reactor.
    #[inline]
    #[must_use]
    pub fn id(&self) -> ReactorId {
        self.inner.handle.id()
    }

    /// The time at which the current turn started.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.executor.now()
    }

    /// The clock behind [`LocalHandle::now`], for measurements within a turn. Logic uses `now`.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The reactor's buffers.
    #[inline]
    #[must_use]
    pub fn pool(&self) -> &DmaPool {
        &self.inner.pool
    }

    /// A handle to this reactor that other threads may use.
    #[must_use]
    pub fn handle(&self) -> &ReactorHandle {
        &self.inner.handle
    }

    /// Wakes this reactor; for wakers and devices that signal from other threads.
    #[must_use]
    pub fn notifier(&self) -> &Arc<Notifier> {
        &self.inner.notifier
    }

    /// A mailbox of `capacity` items into this reactor. The reactor does not sleep while it holds any, so its owner must
    /// take them out in its turn.
    ///
    /// # Panics
    /// When `capacity` is zero.
    #[must_use]
    pub fn mailbox<T: Send + 'static>(&self, capacity: usize) -> (MailboxSender<T>, Mailbox<T>) {
        let (sender, mailbox) = Mailbox::new(capacity, Arc::clone(&self.inner.notifier));
        let mut mailboxes = self.inner.mailboxes.borrow_mut();
        mailboxes.retain(|mailbox| mailbox.strong_count() > 0);
        mailboxes.push(Arc::downgrade(&mailbox.pending()));
        (sender, mailbox)
    }

    /// Runs `work` at the end of this turn (or of the next, when called after it), with leave to change the reactor.
    pub fn defer<F>(&self, work: F)
    where
        F: FnOnce(&mut ReactorContext<'_>) + 'static,
    {
        let name = std::any::type_name::<F>();
        self.inner.deferred.borrow_mut().push(Deferred { name, run: Box::new(work) });
    }

    /// Starts a task on this reactor. `name` is what stall warnings call it.
    ///
    /// # Errors
    /// [`SpawnError::Full`] when as many tasks run as the reactor has slots for.
    pub fn spawn<F>(&self, name: &str, future: F) -> Result<TaskId, SpawnError>
    where
        F: Future<Output = ()> + 'static,
    {
        self.inner.executor.spawn(name, Box::pin(future))
    }

    /// Drops a task. `false` when it had ended before.
    pub fn abort(&self, task: TaskId) -> bool {
        self.inner.executor.abort(task)
    }

    /// How many tasks there are.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.inner.executor.len()
    }

    /// Ends when the turn's time reaches `deadline`; for tasks of this reactor.
    pub fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        Sleep::new(Rc::clone(&self.inner.executor), deadline)
    }

    /// Ends `delay` after the start of this turn.
    pub fn sleep(&self, delay: Duration) -> Sleep {
        self.sleep_until(self.now() + delay)
    }

    /// Keeps `object` for messages that come later and need it; one of each type. Returns the one it replaces.
    pub fn put<T: 'static>(&self, object: Rc<T>) -> Option<Rc<T>> {
        let before = self.inner.objects.borrow_mut().insert(TypeId::of::<T>(), object);
        before.and_then(|object| object.downcast().ok())
    }

    /// The object of type `T` that was [`put`](LocalHandle::put) here.
    #[must_use]
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        let object = Rc::clone(self.inner.objects.borrow().get(&TypeId::of::<T>())?);
        object.downcast().ok()
    }

    /// Forgets the object of type `T`, and returns it.
    pub fn take<T: 'static>(&self) -> Option<Rc<T>> {
        self.inner.objects.borrow_mut().remove(&TypeId::of::<T>())?.downcast().ok()
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    #[inline]
    pub(crate) fn has_deferred(&self) -> bool {
        !self.inner.deferred.borrow().is_empty()
    }

    pub(crate) fn take_deferred(&self) -> Vec<Deferred> {
        self.inner.deferred.take()
    }

    /// Whether any mailbox made here holds an item.
    pub(crate) fn has_mail(&self) -> bool {
        self.inner.mailboxes.borrow().iter().filter_map(Weak::upgrade).any(|mailbox| mailbox.has_pending())
    }

    /// Drops what was kept, so that nothing on this reactor keeps itself alive through it.
    pub(crate) fn clear(&self) {
        self.inner.executor.clear();
        drop(self.inner.deferred.take());
        drop(self.inner.objects.take());
    }
}

impl fmt::Debug for LocalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHandle").field("id", &self.id()).finish_non_exhaustive()
    }
}
