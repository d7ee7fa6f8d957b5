//! Stores: made, opened, closed, destroyed, listed.

use rustix::io::Errno;
use serde_json::Value;

use super::params::{CreateStore, OpenStore, RenameStore, StoreClear, UpgradeStore, WhichStore};
use super::{errno, refused, render, which};
use crate::device::DeviceError;
use crate::lvol::{self, StoreError};
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::methods::{bdev, done};
use crate::rpc::notify::Topic;

pub(super) fn create_store(control: &Control, params: CreateStore) -> RpcResult {
    // As the device calls itself, whatever it was called here.
    let device = control.devices.get(&params.bdev_name).map_err(|error| bdev::refused(&error))?;
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
            Err(bdev::refused(&DeviceError::Claimed { name: device.to_owned(), user }))
        }
        None => Ok(()),
    }
}

pub(super) fn open_store(control: &Control, params: OpenStore) -> RpcResult {
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

pub(super) fn upgrade_store(control: &Control, params: UpgradeStore) -> RpcResult {
    let device = &params.bdev_name;
    refuse_served(control, device)?;
    let store = control.stores.upgrade(device).map_err(|error| refused(&error))?;
    registered(control, &store);
    Ok(Value::String(store.uuid().to_string()))
}

/// Tells of the volumes of a store that was opened.
fn registered(control: &Control, store: &lvol::OpenStore) {
    for name in store.volume_devices() {
        control.notifications.push(Topic::BdevRegister, name);
    }
}

/// Opens the store on a new device, if it holds one. A device is there even when its store does not open.
pub(in crate::rpc::methods) fn examine(control: &Control, device: &str) {
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
pub(in crate::rpc::methods) fn close_on(control: &Control, device: &str) -> Result<(), RpcError> {
    let Some(store) = control.stores.on_device(device) else { return Ok(()) };
    close(control, &store)
}

fn close(control: &Control, store: &std::sync::Arc<lvol::OpenStore>) -> Result<(), RpcError> {
    let names = retire(control, store)?;
    control.stores.close(store).map_err(|error| refused(&error))?;
    names.into_iter().for_each(|name| control.notifications.push(Topic::BdevUnregister, name));
    Ok(())
}

pub(super) fn close_store(control: &Control, params: WhichStore) -> RpcResult {
    let store = which(control, params.uuid, params.lvs_name)?;
    close(control, &store)?;
    done()
}

pub(super) fn delete_store(control: &Control, params: WhichStore) -> RpcResult {
    let store = which(control, params.uuid, params.lvs_name)?;
    let names = retire(control, &store)?;
    control.stores.destroy(&store).map_err(|error| refused(&error))?;
    names.into_iter().for_each(|name| control.notifications.push(Topic::BdevUnregister, name));
    done()
}

pub(super) fn rename_store(control: &Control, params: RenameStore) -> RpcResult {
    let store = control.stores.find(&params.old_name);
    let store = store.map_err(|error| errno(Errno::NOENT, error))?;
    control.stores.rename(&store, &params.new_name).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn grow_store(control: &Control, params: WhichStore) -> RpcResult {
    let store = which(control, params.uuid, params.lvs_name)?;
    control.stores.grow(&store).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn get_stores(control: &Control, params: WhichStore) -> RpcResult {
    let stores = match (&params.uuid, &params.lvs_name) {
        (None, None) => control.stores.list(),
        _ => vec![which(control, params.uuid, params.lvs_name)?],
    };
    let shown = stores.iter().map(|store| store.summary().map(|summary| render::store(&summary)));
    shown.collect::<Result<Value, StoreError>>().map_err(|error| refused(&error))
}
