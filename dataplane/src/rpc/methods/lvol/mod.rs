//! Stores and volumes.

mod params;
mod render;

use std::collections::HashMap;

use rustix::io::Errno;
use serde_json::{Value, json};

use params::{
    Clone, CreateStore, CreateVolume, GetVolumes, OpenStore, RenameStore, RenameVolume, Resize, Rollback,
    Snapshot, StoreClear, WhichStore, WhichVolume,
};

use super::done;
use crate::device::DeviceError;
use crate::lvol::{self, StoreError};
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::notify::Topic;
use crate::rpc::table::{Method, method};
use crate::store::{BLOCK_BYTES, Failure, VolumeInfo, VolumeKind};

#[rustfmt::skip]
pub(in crate::rpc) const METHODS: &[Method] = &[
    method!(change "bdev_lvol_create_lvstore" (CreateStore) -> "the UUID", create_store, "Makes a store on a device, which must be empty or `force`d, and opens it."),
    method!(change "bdev_lvol_open_lvstore" (OpenStore) -> "the UUID", open_store, "Opens the store on a device, or makes sure that it is open. Stores open by themselves when their device is created: this is for those that did not. Not in SPDK."),
    method!(change "bdev_lvol_close_lvstore" (WhichStore) -> "`true`", close_store, "Closes a store with everything on the media; namespaces on its volumes are removed first. Not in SPDK."),
    method!(change "bdev_lvol_delete_lvstore" (WhichStore) -> "`true`", delete_store, "Destroys a store with all its volumes; namespaces on them are removed first."),
    method!(change "bdev_lvol_rename_lvstore" (RenameStore) -> "`true`", rename_store, "Gives a store another name."),
    method!(read "bdev_lvol_get_lvstores" (WhichStore) -> "a list of stores; clusters are blocks of 4 KiB, `freeing_clusters` are free soon, `stopped` stores only read", get_stores, "Lists the stores."),
    method!(change "bdev_lvol_create" (CreateVolume) -> "the name of the device, which is the volume's UUID", create_volume, "Makes a volume. It reads as zeroes."),
    method!(change "bdev_lvol_snapshot" (Snapshot) -> "the name of the device, which is the snapshot's UUID", snapshot, "Makes a snapshot of a volume, at once, while hosts write to it."),
    method!(change "bdev_lvol_clone" (Clone) -> "the name of the device, which is the clone's UUID", clone, "Makes a writable volume that begins as a snapshot, or as a volume is now."),
    method!(change "bdev_lvol_rollback" (Rollback) -> "`true`", rollback, "Makes a volume hold again what a snapshot holds, at the snapshot's size. Not in SPDK."),
    method!(change "bdev_lvol_resize" (Resize) -> "`true`", resize, "Gives a volume another size; what lies beyond a smaller one is lost. Connected hosts are told."),
    method!(change "bdev_lvol_rename" (RenameVolume) -> "`true`", rename_volume, "Gives a volume another name. Its device keeps its UUID as name."),
    method!(change "bdev_lvol_delete" (WhichVolume) -> "`true`", delete_volume, "Deletes a volume or snapshot; namespaces on it are removed first. What was made from it stays."),
    method!(read "bdev_lvol_get_lvols" (GetVolumes) -> "a list of volumes and snapshots", get_volumes, "Lists the volumes."),
];

/// The system's word for a refusal, and what it is about.
fn errno(errno: Errno, detail: impl std::fmt::Display) -> RpcError {
    let RpcError { code, message } = RpcError::errno(errno);
    RpcError { code, message: format!("{message}: {detail}") }
}

/// The code that SPDK has for each refusal: a negated `errno`, but for what its store refuses, which are invalid
/// parameters with the system's words.
fn refused(error: &StoreError) -> RpcError {
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
        Failure::OutOfRange | Failure::BadName | Failure::ChecksumsDiffer => Errno::INVAL,
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

// Stores

fn create_store(control: &Control, params: CreateStore) -> RpcResult {
    // As the device calls itself, whatever it was called here.
    let device = control.devices.get(&params.bdev_name).map_err(|error| super::bdev::refused(&error))?;
    let device = device.info().name.to_string();
    refuse_served(control, &device)?;
    let options = lvol::CreateStore {
        device,
        name: params.lvs_name,
        uuid: params.uuid.filter(|uuid| !uuid.is_nil()),
        volumes_max: params.volumes_max,
        unmap: params.clear_method.is_some_and(|method| method != StoreClear::None),
        force: params.force.unwrap_or(false),
    };
    let store = control.stores.create(&options).map_err(|error| refused(&error))?;
    store.set_write_through(params.write_through.unwrap_or(false));
    Ok(Value::String(store.uuid().to_string()))
}

/// Refuses a device that hosts see.
fn refuse_served(control: &Control, device: &str) -> Result<(), RpcError> {
    match control.target().device_users(device).first() {
        Some((nqn, nsid)) => {
            let user = format!("namespace {nsid} of {nqn}");
            Err(super::bdev::refused(&DeviceError::Claimed { name: device.to_owned(), user }))
        }
        None => Ok(()),
    }
}

fn open_store(control: &Control, params: OpenStore) -> RpcResult {
    let device = &params.bdev_name;
    let known = control.stores.on_device(device).is_some();
    if !known {
        refuse_served(control, device)?;
    }
    let opened = match (control.stores.open(device), params.create, &params.lvs_name) {
        (Err(StoreError::NotAStore { .. }), Some(true), Some(name)) => {
            control.stores.create(&lvol::CreateStore {
                device: device.clone(),
                name: name.clone(),
                uuid: None,
                volumes_max: None,
                unmap: false,
                force: false,
            })
        }
        (opened, ..) => opened,
    };
    let store = opened.map_err(|error| refused(&error))?;
    if !known {
        registered(control, &store);
    }
    let found = store.name();
    match params.lvs_name.filter(|wanted| *wanted != found) {
        Some(wanted) => Err(refused(&StoreError::OtherName { device: device.clone(), found, wanted })),
        None => {
            params.write_through.into_iter().for_each(|on| store.set_write_through(on));
            Ok(Value::String(store.uuid().to_string()))
        }
    }
}

/// Tells of the volumes of a store that was opened.
fn registered(control: &Control, store: &lvol::OpenStore) {
    for name in store.volume_devices() {
        control.notifications.push(Topic::BdevRegister, name);
    }
}

/// Opens the store on a new device, if it holds one. A device is there even when its store does not open.
pub(super) fn examine(control: &Control, device: &str) {
    match control.stores.examine(device) {
        Ok(Some(store)) => registered(control, &store),
        Ok(None) => {}
        Err(error) => tracing::error!(device, %error, "the store on the device does not open"),
    }
}

/// Takes a store out of service before it is closed or destroyed.
fn retire(control: &Control, store: &lvol::OpenStore) -> Result<Vec<String>, RpcError> {
    let names = store.volume_devices();
    for name in &names {
        control.target().remove_device(name).map_err(RpcError::internal)?;
    }
    Ok(names)
}

/// Closes the store on a device that is about to go.
pub(super) fn close_on(control: &Control, device: &str) -> Result<(), RpcError> {
    let Some(store) = control.stores.on_device(device) else { return Ok(()) };
    close(control, &store)
}

fn close(control: &Control, store: &std::sync::Arc<lvol::OpenStore>) -> Result<(), RpcError> {
    let names = retire(control, store)?;
    control.stores.close(store).map_err(|error| refused(&error))?;
    names.into_iter().for_each(|name| control.notifications.push(Topic::BdevUnregister, name));
    Ok(())
}

fn close_store(control: &Control, params: WhichStore) -> RpcResult {
    let store = which(control, params.uuid, params.lvs_name)?;
    close(control, &store)?;
    done()
}

fn delete_store(control: &Control, params: WhichStore) -> RpcResult {
    let store = which(control, params.uuid, params.lvs_name)?;
    let names = retire(control, &store)?;
    control.stores.destroy(&store).map_err(|error| refused(&error))?;
    names.into_iter().for_each(|name| control.notifications.push(Topic::BdevUnregister, name));
    done()
}

fn rename_store(control: &Control, params: RenameStore) -> RpcResult {
    let store = control.stores.find(&params.old_name);
    let store = store.map_err(|error| errno(Errno::NOENT, error))?;
    control.stores.rename(&store, &params.new_name).map_err(|error| refused(&error))?;
    done()
}

fn get_stores(control: &Control, params: WhichStore) -> RpcResult {
    let stores = match (&params.uuid, &params.lvs_name) {
        (None, None) => control.stores.list(),
        _ => vec![which(control, params.uuid, params.lvs_name)?],
    };
    let shown = stores.iter().map(|store| store.summary().map(|summary| render::store(&summary)));
    shown.collect::<Result<Value, StoreError>>().map_err(|error| refused(&error))
}

// Volumes

fn blocks(size_in_mib: u64) -> Result<u64, RpcError> {
    let bytes = size_in_mib.checked_mul(1 << 20).ok_or_else(|| RpcError::errno(Errno::INVAL))?;
    Ok(bytes / BLOCK_BYTES as u64)
}

/// The answer to a call that made a volume.
fn made(control: &Control, made: Result<VolumeInfo, StoreError>) -> RpcResult {
    let name = made.map_err(|error| refused(&error))?.uuid.to_string();
    control.notifications.push(Topic::BdevRegister, name.clone());
    Ok(Value::String(name))
}

fn create_volume(control: &Control, params: CreateVolume) -> RpcResult {
    let store = which(control, params.uuid, params.lvs_name)?;
    let (blocks, uuid) = (blocks(params.size_in_mib)?, params.lvol_uuid.filter(|uuid| !uuid.is_nil()));
    made(control, control.stores.create_volume(&store, &params.lvol_name, blocks, uuid))
}

fn snapshot(control: &Control, params: Snapshot) -> RpcResult {
    let kind = VolumeKind::Snapshot;
    made(control, control.stores.copy_volume(&params.lvol_name, &params.snapshot_name, kind))
}

fn clone(control: &Control, params: Clone) -> RpcResult {
    let kind = VolumeKind::Writable;
    made(control, control.stores.copy_volume(&params.snapshot_name, &params.clone_name, kind))
}

/// Tells hosts when the size of a volume has changed.
fn resized(control: &Control, before: u64, after: &VolumeInfo) {
    if before != after.blocks {
        control.target().device_resized(&after.uuid.to_string());
    }
}

fn blocks_now(control: &Control, name: &str) -> Result<u64, RpcError> {
    let (_, volume) = control.stores.find_volume(name).map_err(|error| refused(&error))?;
    Ok(volume.info.blocks)
}

fn rollback(control: &Control, params: Rollback) -> RpcResult {
    let before = blocks_now(control, &params.lvol_name)?;
    let after = control.stores.roll_back(&params.lvol_name, &params.snapshot_name);
    resized(control, before, &after.map_err(|error| refused(&error))?);
    done()
}

fn resize(control: &Control, params: Resize) -> RpcResult {
    let before = blocks_now(control, &params.name)?;
    let after = control.stores.resize_volume(&params.name, blocks(params.size_in_mib)?);
    resized(control, before, &after.map_err(|error| refused(&error))?);
    done()
}

fn rename_volume(control: &Control, params: RenameVolume) -> RpcResult {
    control.stores.rename_volume(&params.old_name, &params.new_name).map_err(|error| refused(&error))?;
    done()
}

fn delete_volume(control: &Control, params: WhichVolume) -> RpcResult {
    let (_, volume) = control.stores.find_volume(&params.name).map_err(|error| refused(&error))?;
    let name = volume.info.uuid.to_string();
    control.target().remove_device(&name).map_err(RpcError::internal)?;
    control.stores.delete_volume(&name).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevUnregister, name);
    done()
}

fn get_volumes(control: &Control, params: GetVolumes) -> RpcResult {
    let stores = match (&params.lvs_uuid, &params.lvs_name) {
        (None, None) => control.stores.list(),
        _ => vec![which(control, params.lvs_uuid, params.lvs_name)?],
    };
    let mut shown = Vec::new();
    for store in stores {
        let volumes = store.volumes().map_err(|error| refused(&error))?;
        shown.extend(volumes.iter().map(render::volume));
    }
    Ok(Value::Array(shown))
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
