//! Tests that hold for several kinds of devices, or need the outside: files, threads, block devices.
#![allow(clippy::cast_possible_truncation, reason = "sizes of tests are small")]

mod memory;
mod model;
pub(crate) mod rig;
