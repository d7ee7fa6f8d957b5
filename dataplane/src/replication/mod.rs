//! Replicated volumes on devices: what drives the [machines](crate::volume).
//!
//! A [`ReplicaDevice`] is one copy: it lies on a device, keeps epoch and write-intent bitmap at its end, and lets only one
//! head in at a time. It is itself a device, so that a head on this node uses it directly, and one on another node through a
//! hidden subsystem and [`nvmf`](crate::device::nvmf); nothing on the way knows of replicas.
//!
//! A [`VolumeDevice`] is the volume on one node, head or not. A thread of its own drives activation, leases, bits and
//! copies; commands of hosts are driven by the reactors they come in on, each with its own queues to every replica.
//!
//! How a head talks to a replica is in [`window`].

mod driver;
mod errand;
mod error;
mod keeper;
mod lane;
mod moments;
mod options;
mod replica;
mod replica_queue;
mod slots;
mod snapshots;
mod table;
mod volume;
mod window;

pub use error::ReplicationError;
pub use moments::{TakenSnapshot, VolumeSnapshot};
pub use options::ResyncOptions;
pub use replica::{ReplicaDevice, ReplicaInfo, Start};
pub use table::{CreateVolume, ReplicaStatus, Shown, VolumeEvent, VolumeStatus, VolumeTable};
pub use volume::VolumeDevice;
pub(crate) use window::BLOCKS as REPLICA_BLOCKS;
