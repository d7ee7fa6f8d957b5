//! Why something was not done to a store or a volume.

use reactors::RunError;
use reactors::reply::Canceled;

use super::media::MediaOpenError;
use super::signature::Content;
use crate::device::DeviceError;
use crate::store::{Failure, GrowError, MediaError, OpenError};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such store.
    #[error("no store {name}")]
    NoStore {
        /// What was asked for: a name or a UUID.
        name: String,
    },
    /// No such volume.
    #[error("no volume {name}")]
    NoVolume {
        /// What was asked for: a name or a UUID.
        name: String,
    },
    /// Another store has the name.
    #[error("a store named {name} exists already")]
    StoreExists {
        /// The name.
        name: String,
    },
    /// Not usable as a name.
    #[error("{name:?} is no name of a store or volume: 1 to 63 bytes, printable, without spaces and slashes")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The device is not empty.
    #[error("{content}; it is overwritten only when that is asked for (force)")]
    Holds {
        /// What it holds.
        content: Content,
    },
    /// The device holds no store.
    #[error("device {device} holds no store")]
    NotAStore {
        /// The device.
        device: String,
    },
    /// The store on the device has another name.
    #[error("the store on device {device} is named {found}, not {wanted}")]
    OtherName {
        /// The device.
        device: String,
        /// Its name.
        found: String,
        /// The name that was asked for.
        wanted: String,
    },
    /// A volume has a queue open, or another user.
    #[error("volume {name} is in use by {user}")]
    InUse {
        /// The volume.
        name: String,
        /// Who uses it.
        user: String,
    },
    /// The store refused.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The store does not grow.
    #[error(transparent)]
    Grow(#[from] GrowError),
    /// The store could not be made or opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The device could not be read or written.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The device could not be used.
    #[error(transparent)]
    MediaOpen(#[from] MediaOpenError),
    /// As a device, something is wrong with it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A reactor takes no work.
    #[error("a reactor takes no work: {0}")]
    Reactor(#[from] RunError),
    /// A reactor stopped.
    #[error("a reactor stopped: {0}")]
    Stopped(#[from] Canceled),
}
