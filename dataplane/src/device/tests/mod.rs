//! Tests that hold for several kinds of devices.

mod model;
pub(crate) mod rig;
