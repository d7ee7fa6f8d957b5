//! Per-core run-to-completion reactors: what every other part of the data plane runs on.
//!
//! A [`Reactors`] group pins one thread to each core it is given. Each thread turns in a loop: it reads the clock once,
//! takes messages from its bounded mailbox, fires timers that are due, calls its [`Poller`]s, and polls a few tasks of its
//! local executor. When nothing was busy for a while it sleeps in the kernel until a file descriptor, a mailbox or a
//! timer wakes it. Nothing is shared between reactors on the hot path; they talk through [`mailbox`]es.
//!
//! Invariants kept here
//! - Time is an argument: logic sees [`Turn::now`], read once a turn. Timers never fire early.
//! - No wake-up is lost: the sleep protocol of [`mailbox::gate`] is model-checked.
//! - Everything is bounded: mailboxes, messages and tasks a turn, buffers, tasks.
//! - A turn without work takes no lock, makes no system call and allocates nothing.

pub mod cores;
pub mod dma;
mod epoll;
mod group;
mod local;
pub mod mailbox;
mod metrics;
mod poller;
mod reactor;
pub mod reply;
mod stall;
mod standalone;
mod tasks;
mod time;
mod timers;

pub use cores::{CoreId, CoreSet};
pub use dma::{DmaBuf, DmaPool, IoBuf, PoolConfig};
pub use group::{
    IdleMode, ReactorHandle, ReactorOutcome, Reactors, ReactorsConfig, RunError, StartError, Stopper,
};
pub use local::LocalHandle;
pub use metrics::ReactorSnapshot;
pub use poller::{Poller, PollerId, ReactorId, Turn, Work};
pub use reactor::{AddPollerError, ReactorContext};
pub use standalone::LocalReactor;
pub use tasks::{Sleep, SpawnError, TaskId, YieldNow, yield_now};
pub use time::{Clock, Timestamp};
pub use timers::{TIMER_TICK, TimerId, TimerToken};
