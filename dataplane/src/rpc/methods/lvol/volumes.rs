//! Volumes: made, copied, changed, counted, compared, deleted, listed.

use rustix::io::Errno;
use serde_json::{Value, json};

use super::params::{
    Clone, Configure, CreateVolume, GetChanges, GetVolumes, Inflate, RenameVolume, Resize, Rollback,
    Snapshot, WhichVolume,
};
use super::{refused, render, which};
use crate::lvol::StoreError;
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::methods::done;
use crate::rpc::notify::Topic;
use crate::store::{BLOCK_BYTES, ChangedRange, Settings, VolumeBlock, VolumeInfo, VolumeKind};

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

pub(super) fn create_volume(control: &Control, params: CreateVolume) -> RpcResult {
    let store = which(control, params.uuid, params.lvs_name)?;
    let (blocks, uuid) = (blocks(params.size_in_mib)?, params.lvol_uuid.filter(|uuid| !uuid.is_nil()));
    let settings = Settings {
        read_only: false,
        reserved: !params.thin_provision.unwrap_or(false),
        checksums: params.checksums.unwrap_or(true),
    };
    made(control, control.stores.create_volume(&store, &params.lvol_name, blocks, uuid, settings))
}

pub(super) fn snapshot(control: &Control, params: Snapshot) -> RpcResult {
    let kind = VolumeKind::Snapshot;
    made(control, control.stores.copy_volume(&params.lvol_name, &params.snapshot_name, kind))
}

pub(super) fn clone(control: &Control, params: Clone) -> RpcResult {
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

/// A replica that goes back must say so: nobody would know that it lacks what was written since.
fn refuse_replica(control: &Control, name: &str) -> Result<(), RpcError> {
    let users = control.devices.look(name).map(|device| device.users).unwrap_or_default();
    match users.into_iter().find(|user| user.starts_with("replica ")) {
        Some(user) => {
            let RpcError { code, message } = RpcError::errno(Errno::BUSY);
            Err(RpcError {
                code,
                message: format!("{message}: {name} is in use by {user}: replica_rollback"),
            })
        }
        None => Ok(()),
    }
}

pub(super) fn rollback(control: &Control, params: Rollback) -> RpcResult {
    let before = blocks_now(control, &params.lvol_name)?;
    refuse_replica(control, &params.lvol_name)?;
    let after = control.stores.roll_back(&params.lvol_name, &params.snapshot_name);
    resized(control, before, &after.map_err(|error| refused(&error))?);
    done()
}

pub(super) fn resize(control: &Control, params: Resize) -> RpcResult {
    let before = blocks_now(control, &params.name)?;
    let after = control.stores.resize_volume(
        &params.name,
        blocks(params.size_in_mib)?,
        params.force.unwrap_or(false),
    );
    resized(control, before, &after.map_err(|error| refused(&error))?);
    done()
}

pub(super) fn set_read_only(control: &Control, params: WhichVolume) -> RpcResult {
    control.stores.configure_volume(&params.name, Some(true), None).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn configure(control: &Control, params: Configure) -> RpcResult {
    let reserved = params.thin_provision.map(|thin| !thin);
    let configured = control.stores.configure_volume(&params.name, params.read_only, reserved);
    configured.map_err(|error| refused(&error))?;
    done()
}

pub(super) fn decouple(control: &Control, params: WhichVolume) -> RpcResult {
    control.stores.detach_volume(&params.name).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn promote(control: &Control, params: WhichVolume) -> RpcResult {
    control.stores.promote_volume(&params.name).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn inflate(control: &Control, params: Inflate) -> RpcResult {
    let reserve = params.reserve.unwrap_or(true).then_some(true);
    let stores = &control.stores;
    let inflated = stores
        .copy_shared(&params.name)
        .and_then(|()| stores.detach_volume(&params.name))
        .and_then(|()| stores.configure_volume(&params.name, None, reserve));
    inflated.map_err(|error| refused(&error))?;
    done()
}

pub(super) fn get_usage(control: &Control, params: WhichVolume) -> RpcResult {
    let usage = control.stores.usage(&params.name).map_err(|error| refused(&error))?;
    let (_, volume) = control.stores.find_volume(&params.name).map_err(|error| refused(&error))?;
    let allocated = volume.info.allocated;
    Ok(json!({
        "num_blocks": volume.info.blocks,
        "allocated_blocks": allocated,
        "own_blocks": usage.own,
        "shared_blocks": allocated.saturating_sub(usage.own),
        "snapshot_only_blocks": usage.snapshot_only,
    }))
}

pub(super) fn get_changes(control: &Control, params: GetChanges) -> RpcResult {
    let start = VolumeBlock(params.start_block.unwrap_or(0));
    let found = control.stores.differences(params.since.as_deref(), &params.name, start);
    let found = found.map_err(|error| refused(&error))?;
    let range = |range: &ChangedRange| json!({"at": range.at.0, "blocks": range.blocks, "before": range.before, "after": range.after});
    Ok(json!({
        "block_size": BLOCK_BYTES,
        "ranges": found.ranges.iter().map(range).collect::<Vec<_>>(),
        "next_block": found.next.map(|next| next.0),
    }))
}

pub(super) fn rename_volume(control: &Control, params: RenameVolume) -> RpcResult {
    control.stores.rename_volume(&params.old_name, &params.new_name).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn delete_volume(control: &Control, params: WhichVolume) -> RpcResult {
    let (_, volume) = control.stores.find_volume(&params.name).map_err(|error| refused(&error))?;
    let name = volume.info.uuid.to_string();
    control.target().remove_device(&name).map_err(RpcError::internal)?;
    control.stores.delete_volume(&name).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevUnregister, name);
    done()
}

pub(super) fn get_volumes(control: &Control, params: GetVolumes) -> RpcResult {
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
