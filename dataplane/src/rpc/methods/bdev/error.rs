//! Devices that inject errors, by the names that SPDK has for them.

use nvme::Status;
use serde_json::{Value, json};

use super::params::{ErrorCreate, ErrorInject, ErrorIoType, ErrorType, Named};
use super::refused;
use crate::device::OpKind;
use crate::device::fault::{Effect, Rule};
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::methods::{done, lvol};
use crate::rpc::notify::Topic;

pub(super) fn create(control: &Control, params: ErrorCreate) -> RpcResult {
    let name = control.faults.create(&control.devices, &params.base_name).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevRegister, name.clone());
    lvol::examine(control, &name);
    Ok(Value::String(name))
}

pub(super) fn delete(control: &Control, params: Named) -> RpcResult {
    control.faults.get(&params.name).map_err(|error| refused(&error))?;
    lvol::close_on(control, &params.name)?;
    control.target().remove_device(&params.name).map_err(RpcError::internal)?;
    control.faults.delete(&control.devices, &params.name).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevUnregister, params.name);
    done()
}

pub(super) fn inject(control: &Control, params: ErrorInject) -> RpcResult {
    let device = control.faults.get(&params.name).map_err(|error| refused(&error))?;
    let kind = match params.io_type {
        ErrorIoType::Clear => {
            device.clear();
            device.release();
            return done();
        }
        ErrorIoType::All => None,
        ErrorIoType::Read => Some(OpKind::Read),
        ErrorIoType::Write => Some(OpKind::Write),
        ErrorIoType::Flush => Some(OpKind::Flush),
        ErrorIoType::Unmap => Some(OpKind::Deallocate),
        ErrorIoType::WriteZeroes => Some(OpKind::WriteZeroes),
    };
    let effect = match params.error_type.unwrap_or(ErrorType::Failure) {
        ErrorType::Failure => Effect::Fail(Status::INTERNAL_ERROR),
        ErrorType::Pending => Effect::Hold,
    };
    let count = params.num.unwrap_or(1);
    if count > 0 {
        device.add(Rule { kind, count: Some(count), ..Rule::always(effect) });
    }
    done()
}

/// The calls that put the devices in front of others again. What they inject is not kept.
pub(super) fn saved(control: &Control) -> impl Iterator<Item = Value> {
    let call = |base| json!({"method": "bdev_error_create", "params": {"base_name": base}});
    control.faults.bases().into_iter().map(call)
}
