//! Runs the real store against a device that loses power, and checks every promise after reopening.
//!
//! One seed is one [`run`]: everything in it follows from that number. A seed makes a store, and gives it several lives. In
//! each, random commands meet a [`device::Device`] that finishes requests in any order and keeps unflushed writes in a
//! cache. At every write the whole device is copied, the copy loses power, and a second store opened on it is compared
//! with the [`model`].

#![forbid(unsafe_code)]

pub mod device;
pub mod model;
mod plan;
mod rot;
mod run;
mod verify;
pub mod volume;
mod workload;

pub use plan::{Plan, run_all};
pub use rot::{exercise, live};
pub use run::{COMMANDS, Failed, Outcome, run};
