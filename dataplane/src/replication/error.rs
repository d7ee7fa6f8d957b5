//! What can go wrong with a replica or a volume as a whole.

use uuid::Uuid;

use crate::device::DeviceError;
use crate::lvol::MediaOpenError;
use crate::store::MediaError;
use crate::volume::{FreezeRefused, MembersRefused, ResizeRefused, RosterRefused};

/// A replica or volume could not be made, opened, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The device is missing, in use, or does not open.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device cannot be read by a control thread.
    #[error(transparent)]
    Open(#[from] MediaOpenError),
    /// The device failed.
    #[error("the device failed: {0}")]
    Media(#[from] MediaError),
    /// No room for data beside the metadata.
    #[error("device {device} is too small for a replica of {bytes} bytes")]
    TooSmall {
        /// Which.
        device: String,
        /// What it should hold.
        bytes: u64,
    },
    /// The device holds a replica of an earlier format.
    #[error(
        "device {device} holds a replica of an earlier version: add a new one to the volume, and wipe this device"
    )]
    Earlier {
        /// Which.
        device: String,
    },
    /// The device holds a replica of another volume.
    #[error("device {device} holds a replica of volume {found}, not of {wanted}")]
    OtherVolume {
        /// Which.
        device: String,
        /// What it holds.
        found: Uuid,
        /// What was asked for.
        wanted: Uuid,
    },
    /// The device is no replica, or not one of this volume.
    #[error("device {device} is no replica of volume {volume}")]
    NoReplica {
        /// Which.
        device: String,
        /// Of what it should be one.
        volume: Uuid,
    },
    /// None of the replicas answers.
    #[error("no replica of volume {0} can be reached")]
    Unreachable(Uuid),
    /// 1 to 5 replicas, each once.
    #[error("{0} replicas: a volume has 1 to 5, each named once")]
    Replicas(usize),
    /// `min_in_sync` is more than there are replicas, or none.
    #[error("min_in_sync {min_in_sync} with {replicas} replicas")]
    MinInSync {
        /// Asked for.
        min_in_sync: u8,
        /// There are.
        replicas: usize,
    },
    /// There is such a volume.
    #[error("a volume named {0} exists already")]
    Exists(String),
    /// There is no such volume.
    #[error("no volume or replica named {0}")]
    NotFound(String),
    /// It is a replica of the volume already.
    #[error("{0} is a replica of the volume already")]
    Member(String),
    /// A name that is no replica of the volume.
    #[error("{0} is no replica of the volume")]
    NotAMember(String),
    /// The record cannot be followed.
    #[error(transparent)]
    Members(#[from] MembersRefused),
    /// A replica cannot go.
    #[error("{replica} cannot be removed: {source}")]
    Roster {
        /// Which.
        replica: String,
        /// Why.
        source: RosterRefused,
    },
    /// The size stays as it is.
    #[error("the size stays as it is: {0}")]
    Resize(ResizeRefused),
    /// The devices of these replicas have no room.
    #[error("no room on the devices of {}: grow them first", .0.join(", "))]
    NoRoom(Vec<String>),
    /// Not in whole blocks, or too large for any replica.
    #[error("{0} bytes are no whole number of blocks")]
    Size(u64),
    /// Writes cannot be paused.
    #[error(transparent)]
    Freeze(#[from] FreezeRefused),
    /// The replicas were not equal in time, or not until the end.
    #[error("volume {0} was not frozen until now")]
    NotFrozen(String),
    /// A device that is not what a snapshot of that moment holds.
    #[error("device {device} is no clone of a snapshot of that moment")]
    NoMoment {
        /// Which.
        device: String,
    },
    /// A moment without a size.
    #[error("a replica that begins with a moment needs size_bytes, that of the volume that was snapshot")]
    MomentSize,
    /// A device that was written since it was made of a snapshot.
    #[error(
        "device {device} was written since it was cloned: it is not equal to other clones of that moment"
    )]
    Written {
        /// Which.
        device: String,
    },
    /// What the store said.
    #[error(transparent)]
    Store(#[from] crate::lvol::StoreError),
    /// A head above that epoch was accepted.
    #[error("replica {replica} has accepted epoch {epoch}")]
    Later {
        /// Which.
        replica: String,
        /// Its epoch.
        epoch: u64,
    },
    /// No name of a snapshot of a volume.
    #[error("{0:?} is no name of a snapshot: 1 to 63 bytes, printable, without spaces, '/', '@' and '~'")]
    SnapshotName(String),
    /// There is no snapshot of that name.
    #[error("no replica has a snapshot named {0}")]
    NoSnapshot(String),
    /// A replica has one of that name.
    #[error("replica {replica}: {message}")]
    SnapshotExists {
        /// Which.
        replica: String,
        /// What it said.
        message: String,
    },
    /// A replica that cannot be snapshot.
    #[error("replica {replica} has no snapshots: {message}")]
    NoStoreVolume {
        /// Which.
        replica: String,
        /// What it said.
        message: String,
    },
    /// A replica did not do what the head asked for.
    #[error("replica {replica}: {message}")]
    Replica {
        /// Which.
        replica: String,
        /// What it said.
        message: String,
    },
    /// The moment did not last until every replica had its snapshot.
    #[error("no snapshot {snapshot} was taken; unconfirmed ones to be deleted may be at {left_over:?}")]
    NotTaken {
        /// Its name.
        snapshot: String,
        /// Replicas that may hold an unconfirmed one.
        left_over: Vec<String>,
    },
    /// The volume is active here already.
    #[error("the volume is active here at epoch {0}")]
    Active(u64),
    /// The volume is active here, so that it cannot be removed.
    #[error("volume {0} is active")]
    InUse(String),
    /// Regions copied at a time: none, or too many.
    #[error("{0} regions at a time: 1 to 4")]
    Concurrency(u8),
    /// A head is being accepted, or commands do not end.
    #[error("replica {0} is being attached; try again")]
    Attaching(String),
    /// The replicas did not all accept in time; it goes on trying.
    #[error("not every replica of volume {0} has accepted the head yet; see volume_get")]
    NotYet(String),
    /// The system gives no thread or descriptor.
    #[error("{0}")]
    System(#[from] std::io::Error),
}
