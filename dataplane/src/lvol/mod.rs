//! Stores on devices, and their volumes as devices.
//!
//! One reactor owns a store: it runs the [machine](crate::store), which says where each block lies. Every reactor that serves
//! a volume has its own queue of the base device, and moves the data of its own commands through it, straight between the
//! host's buffer and the device; only the question where, checksums and the answer cross between reactors, through bounded
//! mailboxes. [`StoreSet`] is what control uses: it makes, opens, changes and closes stores, and never on a reactor.
//!
//! - A block's CRC32C is computed when it comes from the host and when it comes from the device. One that is not what was
//!   written ends the read with Unrecovered Read Error.
//! - Volumes have blocks of 4 KiB, and a volatile write cache: a flush, or FUA, makes data and map durable together.

mod client;
mod courier;
mod engine;
mod error;
mod inspect;
mod install;
mod lane;
mod media;
mod order;
mod port;
mod set;
mod signature;
mod status;
mod volume;
mod volumes;
mod walks;

#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use inspect::dump;
pub use media::{DeviceMedia, MediaOpenError};
pub use set::{CreateStore, OpenStore, StoreSet, StoreSpace, StoreSummary, Volume};
pub use signature::{Content, content};
pub use volume::VolumeDevice;
pub use walks::{Differences, RANGES_MAX, VolumeUsage};
