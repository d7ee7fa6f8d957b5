//! Safe bindings to SPDK: its environment, and its NVMe driver.
//!
//! - `Environment`: set up once per process; everything else is reached through it.
//! - `Controller`: an attached controller, shared by threads; identify data, admin commands, events, reset.
//! - `QueuePair`: one thread's submission and completion queue with a namespace. Every command that it takes comes back
//!   exactly once, with its tag, its buffer and its NVMe status.
//! - `DmaBuffer` and `PoolBuffer`: memory that devices may access. Only such can be given to a device: `DmaMemory`.
//! - `PollGroup`: many queue pairs of a thread, polled at once.
//!
//! Queue pairs keep their controller attached, controllers need the environment, which is never torn down: what is
//! dropped first is of no concern. Releases from 20.07 on; what differs is probed when the crate is built.
//!
//! Without feature `spdk` the crate is just [`PciAddress`].
#![cfg_attr(not(feature = "spdk"), allow(unused_crate_dependencies))]

mod address;
#[cfg(feature = "spdk")]
mod admin;
#[cfg(feature = "spdk")]
mod command;
#[cfg(feature = "spdk")]
mod controller;
#[cfg(feature = "spdk")]
mod dma;
#[cfg(feature = "spdk")]
mod driver;
#[cfg(feature = "spdk")]
mod env;
#[cfg(feature = "spdk")]
mod error;
#[cfg(feature = "spdk")]
mod late;
#[cfg(feature = "spdk")]
mod poll_group;
#[cfg(feature = "spdk")]
mod pool;
#[cfg(feature = "spdk")]
mod qpair;
#[cfg(feature = "spdk")]
mod slots;
#[cfg(feature = "spdk")]
mod sys;
#[cfg(feature = "spdk")]
mod transport_id;

pub use self::address::{BadAddress, PciAddress};
#[cfg(feature = "spdk")]
pub use self::{
    admin::{Admin, AdminError},
    command::{Command, CommandStatus, Completion, Operation},
    controller::{AsyncEvent, Controller, ControllerOptions, NamespaceInfo},
    dma::{DmaBuffer, DmaMemory},
    env::{EnvOptions, Environment, Memory},
    error::{AttachError, ControllerError, EnvError, QueueError, RejectReason, Rejected},
    late::LateCommand,
    poll_group::PollGroup,
    pool::{PoolBuffer, RegisteredPool},
    qpair::{QueueOptions, QueuePair},
    transport_id::TransportId,
};
