//! What the threads that drive one head share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::volume::{Epoch, Event, Failure, Lane, REPLICAS_MAX, ReplicaIndex, Request, Session, Volume};

/// The way to a thread that drives a lane: it is woken, and told how its commands ended.
pub(super) struct Door {
    wake: OwnedFd,
    woken: AtomicBool,
    /// Filled before it is woken.
    ended: Mutex<Vec<Ended>>,
}

/// A command that ended: its tag, and how.
pub(super) type Ended = (u64, Result<(), Failure>);

impl Door {
    pub(super) fn new() -> std::io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { wake, woken: AtomicBool::new(false), ended: Mutex::default() }))
    }

    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // It fails only when it is readable already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// No longer readable until the next [`Door::wake`]. Whether anybody woke us since the last time.
    pub(super) fn rest(&self) -> bool {
        let woken = self.is_woken() && self.woken.swap(false, Ordering::AcqRel);
        if woken {
            // It fails only when nobody woke us.
            let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        }
        woken
    }

    /// Whether somebody wants something that was not looked at.
    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    pub(super) fn take_ended(&self) -> Vec<Ended> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The lane of the thread that drives the head: the first that asked.
const KEEPER: Lane = Lane(0);

/// Hears what happens to a head, beside the ends of commands. Called by the thread that drives it.
pub(super) type OnEvent = Box<dyn Fn(Epoch, &Event) + Send + Sync>;

/// One activation.
pub(super) struct Head {
    machine: Mutex<Volume>,
    doors: Mutex<Vec<Arc<Door>>>,
    /// Of each replica: the attachment's number above its window.
    windows: [AtomicU64; REPLICAS_MAX as usize],
    /// What the thread that drives the head is to pass on.
    events: Mutex<Vec<(Epoch, Event)>>,
    on_event: OnEvent,
}

/// What one look at the machine gave.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) requests: Vec<Request>,
    pub(super) ended: Vec<Ended>,
}

impl Head {
    pub(super) fn new(machine: Volume, on_event: OnEvent) -> Self {
        let windows = Default::default();
        Self {
            machine: Mutex::new(machine),
            doors: Mutex::default(),
            windows,
            events: Mutex::default(),
            on_event,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Volume> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a thread a lane.
    pub(super) fn add_lane(&self, door: &Arc<Door>) -> Lane {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.push(Arc::clone(door));
        Lane(u16::try_from(doors.len() - 1).unwrap_or(u16::MAX))
    }

    /// Every thread looks what has changed.
    pub(super) fn wake_all(&self) {
        let doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.iter().for_each(|door| door.wake());
    }

    /// The window of an attachment, if it has one.
    pub(super) fn window(&self, replica: ReplicaIndex, session: Session) -> Option<u16> {
        let both = self.windows[replica.index()].load(Ordering::Acquire);
        let [a, b, ..] = both.to_le_bytes();
        (both >> 16 == u64::from(session.number)).then(|| u16::from_le_bytes([a, b]))
    }

    pub(super) fn set_window(&self, replica: ReplicaIndex, session: Session, window: u16) {
        let both = u64::from(session.number) << 16 | u64::from(window);
        self.windows[replica.index()].store(both, Ordering::Release);
    }

    /// Passes on what happened. For the thread that drives the head: whoever hears it may block.
    pub(super) fn tell(&self) {
        let events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        for (epoch, event) in events {
            (self.on_event)(epoch, &event);
        }
    }

    /// Takes what the machine has for a lane, and passes on the rest.
    pub(super) fn gather(&self, machine: &mut Volume, lane: Lane, gathered: &mut Gathered) {
        while let Some(request) = machine.next_request(lane) {
            gathered.requests.push(request);
        }
        for other in machine.lanes_with_requests() {
            self.wake(other, None);
        }
        let epoch = machine.epoch();
        while let Some(event) = machine.next_event() {
            match event {
                Event::Done { tag, lane: to, result } if to == lane => gathered.ended.push((tag, result)),
                Event::Done { tag, lane: to, result } => self.wake(to, Some((tag, result))),
                event => {
                    self.events.lock().unwrap_or_else(PoisonError::into_inner).push((epoch, event));
                    self.wake(KEEPER, None);
                }
            }
        }
    }

    /// The machine was changed from outside: what follows is passed on without waiting for the next tick.
    pub(super) fn nudge(&self) {
        self.wake(KEEPER, None);
    }

    /// Wakes another thread, perhaps for the end of one of its commands.
    #[cold]
    fn wake(&self, lane: Lane, ended: Option<Ended>) {
        let doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(door) = doors.get(usize::from(lane.0)) else { return };
        door.ended.lock().unwrap_or_else(PoisonError::into_inner).extend(ended);
        door.wake();
    }
}
