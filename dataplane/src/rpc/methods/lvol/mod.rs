//! Stores and volumes.

mod params;
mod render;
mod stores;
mod volumes;

use std::collections::HashMap;

use rustix::io::Errno;
use serde_json::{Value, json};

use params::{
    Clone, Configure, CreateStore, CreateVolume, GetChanges, GetVolumes, Inflate, OpenStore, RenameStore,
    RenameVolume, Resize, Rollback, Snapshot, UpgradeStore, WhichStore, WhichVolume,
};

pub(super) use stores::{close_on, examine};

use crate::lvol::{self, StoreError};
use crate::rpc::control::Control;
use crate::rpc::error::RpcError;
use crate::rpc::table::{Method, method};
use crate::store::{Failure, GrowError};

#[rustfmt::skip]
pub(in crate::rpc) const METHODS: &[Method] = &[
    method!(change "bdev_lvol_create_lvstore" (CreateStore) -> "the UUID", stores::create_store, "Makes a store on a device, which must be empty or `force`d, and opens it."),
    method!(change "bdev_lvol_open_lvstore" (OpenStore) -> "the UUID", stores::open_store, "Opens the store on a device, or makes sure that it is open. Stores open by themselves when their device is created: this is for those that did not. Not in SPDK."),
    method!(change "bdev_lvol_close_lvstore" (WhichStore) -> "`true`", stores::close_store, "Closes a store with everything on the media; namespaces on its volumes are removed first. Not in SPDK."),
    method!(change "bdev_lvol_upgrade_lvstore" (UpgradeStore) -> "the UUID", stores::upgrade_store, "Makes a store that is closed one of the current version of the format, and opens it. Everything in it stays; versions of Pollux before this refuse it from then on. Power may fail meanwhile. Not in SPDK."),
    method!(change "bdev_lvol_delete_lvstore" (WhichStore) -> "`true`", stores::delete_store, "Destroys a store with all its volumes; namespaces on them are removed first."),
    method!(change "bdev_lvol_rename_lvstore" (RenameStore) -> "`true`", stores::rename_store, "Gives a store another name."),
    method!(change "bdev_lvol_grow_lvstore" (WhichStore) -> "`true`", stores::grow_store, "Gives a store the rest of its device, after looking again how large that is; without more there is nothing to do. Hosts go on meanwhile."),
    method!(read "bdev_lvol_get_lvstores" (WhichStore) -> "a list of stores; clusters are blocks of 4 KiB, `freeing_clusters` are free soon, `promised_clusters` of the free ones belong to volumes that are not thin, `stopped` stores only read, `format_version` is that of what lies on the device, `lost_pages` of maps and `damaged_counts` of 8 MiB each are damage that was met", stores::get_stores, "Lists the stores."),
    method!(change "bdev_lvol_create" (CreateVolume) -> "the name of the device, which is the volume's UUID", volumes::create_volume, "Makes a volume. It reads as zeroes."),
    method!(change "bdev_lvol_snapshot" (Snapshot) -> "the name of the device, which is the snapshot's UUID", volumes::snapshot, "Makes a snapshot of a volume, at once, while hosts write to it."),
    method!(change "bdev_lvol_clone" (Clone) -> "the name of the device, which is the clone's UUID", volumes::clone, "Makes a writable volume that begins as a snapshot, or as a volume is now."),
    method!(change "bdev_lvol_rollback" (Rollback) -> "`true`", volumes::rollback, "Makes a volume hold again what a snapshot holds, at the snapshot's size. Not in SPDK."),
    method!(change "bdev_lvol_resize" (Resize) -> "`true`", volumes::resize, "Gives a volume another size; what lies beyond a smaller one is lost. Connected hosts are told."),
    method!(change "bdev_lvol_set_read_only" (WhichVolume) -> "`true`", volumes::set_read_only, "Lets hosts no longer change a volume."),
    method!(change "bdev_lvol_configure" (Configure) -> "`true`", volumes::configure, "Says how a volume may be used from now on. Not in SPDK."),
    method!(change "bdev_lvol_decouple_parent" (WhichVolume) -> "`true`", volumes::decouple, "A volume no longer names what it was made from. Nothing is copied: a block belongs to all that refer to it."),
    method!(change "bdev_lvol_promote" (WhichVolume) -> "`true`", volumes::promote, "A clone takes the place of what it was made from: the snapshots up to the one that it was made from become its own, and the volume they were taken of becomes its clone. Nothing is copied, names stay. Not in SPDK."),
    method!(read "bdev_lvol_inflate" (Inflate) -> "`true`", volumes::inflate, "Copies all that a volume shares, while hosts use it, forgets what it was made from, and reserves space for all of it."),
    method!(change "bdev_lvol_rename" (RenameVolume) -> "`true`", volumes::rename_volume, "Gives a volume another name. Its device keeps its UUID as name."),
    method!(change "bdev_lvol_delete" (WhichVolume) -> "`true`", volumes::delete_volume, "Deletes a volume or snapshot; namespaces on it are removed first. What was made from it stays."),
    method!(read "bdev_lvol_get_lvols" (GetVolumes) -> "a list of volumes and snapshots", volumes::get_volumes, "Lists the volumes."),
    method!(read "bdev_lvol_get_usage" (WhichVolume) -> "blocks of 4 KiB: `num_blocks`, `allocated_blocks`, `own_blocks` that only the volume has, `shared_blocks`, and `snapshot_only_blocks` that its snapshots hold and it does not", volumes::get_usage, "Counts what a volume's space consists of. Not in SPDK."),
    method!(read "bdev_lvol_get_changes" (GetChanges) -> "`block_size`, `ranges` of `at`, `blocks`, and whether they hold anything `before` and `after`, and `next_block` where there is more", volumes::get_changes, "Lists the blocks that differ between two volumes or snapshots. Not in SPDK."),
];

/// The system's word for a refusal, and what it is about.
fn errno(errno: Errno, detail: impl std::fmt::Display) -> RpcError {
    let RpcError { code, message } = RpcError::errno(errno);
    RpcError { code, message: format!("{message}: {detail}") }
}

/// The code that SPDK has for each refusal: a negated `errno`, but for what its store refuses, which are invalid
/// parameters with the system's words.
pub(super) fn refused(error: &StoreError) -> RpcError {
    match error {
        StoreError::NoStore { .. } | StoreError::NoVolume { .. } | StoreError::NotAStore { .. } => {
            errno(Errno::NODEV, error)
        }
        StoreError::StoreExists { .. } => errno(Errno::EXIST, error),
        StoreError::Name { .. } | StoreError::OtherName { .. } => errno(Errno::INVAL, error),
        StoreError::Holds { .. } => errno(Errno::PERM, error),
        StoreError::InUse { .. } => errno(Errno::BUSY, error),
        StoreError::Device(error) => super::bdev::refused(error),
        StoreError::Refused(failure) => {
            let RpcError { message, .. } = errno(failure_errno(*failure), failure);
            RpcError { code: RpcError::INVALID_PARAMS, message }
        }
        StoreError::Grow(GrowError::Stopped) => errno(Errno::IO, error),
        StoreError::Grow(_) => errno(Errno::INVAL, error),
        StoreError::Open(_) | StoreError::Media(_) | StoreError::MediaOpen(_) => errno(Errno::IO, error),
        StoreError::Reactor(_) | StoreError::Stopped(_) => RpcError::internal(error),
    }
}

fn failure_errno(failure: Failure) -> Errno {
    match failure {
        Failure::NameTaken => Errno::EXIST,
        Failure::Full => Errno::NOSPC,
        Failure::TooManyVolumes => Errno::NOMEM,
        Failure::Busy | Failure::Shrinking => Errno::BUSY,
        Failure::NoVolume => Errno::NODEV,
        Failure::ReadOnly => Errno::PERM,
        Failure::Media | Failure::Corrupt | Failure::Stopped => Errno::IO,
        Failure::OutOfRange | Failure::BadName | Failure::ChecksumsDiffer | Failure::NoOrigin => Errno::INVAL,
        Failure::WouldLoseData => Errno::NOTEMPTY,
    }
}

fn which(
    control: &Control,
    uuid: Option<String>,
    name: Option<String>,
) -> Result<std::sync::Arc<lvol::OpenStore>, RpcError> {
    match (uuid, name) {
        (Some(one), None) | (None, Some(one)) => control.stores.find(&one).map_err(|error| refused(&error)),
        _ => Err(errno(Errno::INVAL, "one of UUID and name of a store is needed")),
    }
}

/// The calls that make stores what they are now, beyond what is on their devices.
pub(super) fn saved(control: &Control) -> Vec<Value> {
    let stores = control.stores.list().into_iter().filter(|store| store.is_write_through());
    let call = |store: std::sync::Arc<lvol::OpenStore>| {
        let params = json!({"bdev_name": store.device(), "lvs_name": store.name(), "write_through": true});
        json!({"method": "bdev_lvol_open_lvstore", "params": params})
    };
    stores.map(call).collect()
}

/// What `bdev_get_bdevs` tells of one volume, if it is one.
pub(super) fn described_one(control: &Control, name: &str) -> HashMap<String, Value> {
    let found = control.stores.find_volume(name).ok();
    let shown = found.map(|(store, volume)| {
        (volume.info.uuid.to_string(), render::driver_specific(&volume, &store.device()))
    });
    shown.into_iter().collect()
}

/// What `bdev_get_bdevs` tells of the volumes: by the names of their devices.
pub(super) fn described(control: &Control) -> HashMap<String, Value> {
    let mut all = HashMap::new();
    for store in control.stores.list() {
        let base = store.device();
        for volume in store.volumes().unwrap_or_default() {
            let shown = render::driver_specific(&volume, &base);
            all.insert(volume.info.uuid.to_string(), shown);
        }
    }
    all
}
