//! Methods that tell what the target has and does.

use rustix::io::Errno;
use serde_json::{Value, json};

use super::address::{nqn, shown, transport};
use super::params::{AnyTarget, GetSubsystems, GetTransports, Subsystem};
use super::{check_target, refused, render};
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::methods::process::{TICK_RATE, thread_name};

pub(super) fn get_transports(control: &Control, params: GetTransports) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let transports = control.target().transports();
    let Some(name) = params.trtype else { return Ok(transports.iter().map(render::transport).collect()) };
    let kind = transport(&name)?;
    match transports.iter().find(|transport| transport.kind == kind) {
        Some(found) => Ok(json!([render::transport(found)])),
        None => Err(RpcError::errno(Errno::NODEV)),
    }
}

pub(super) fn get_subsystems(control: &Control, params: GetSubsystems) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    match params.nqn {
        None => Ok(control.target().subsystems().iter().map(render::subsystem).collect()),
        Some(name) => {
            let subsystem = control.target().subsystem(&nqn(&name)?).map_err(|error| refused(&error))?;
            Ok(json!([render::subsystem(&subsystem)]))
        }
    }
}

pub(super) fn get_listeners(control: &Control, params: Subsystem) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let subsystem = control.target().subsystem(&nqn(&params.nqn)?).map_err(|error| refused(&error))?;
    let ana = subsystem.options.ana_reporting;
    let show = |listener| render::listener(listener, ana);
    Ok(subsystem.listeners.iter().map(show).collect())
}

pub(super) fn get_controllers(control: &Control, params: Subsystem) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let name = nqn(&params.nqn)?;
    let controllers = control.target().controllers(&name).map_err(|error| refused(&error))?;
    let kind = if name.is_discovery() { "discovery" } else { "io" };
    Ok(controllers.iter().map(|controller| render::controller(controller, kind)).collect())
}

pub(super) fn get_qpairs(control: &Control, params: Subsystem) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let queues = control.target().queues(&nqn(&params.nqn)?).map_err(|error| refused(&error))?;
    let thread = |reactor: usize| control.reactors().get(reactor).map(thread_name).unwrap_or_default();
    Ok(queues.iter().map(|queue| render::queue(queue, &thread(queue.reactor))).collect())
}

pub(super) fn get_stats(control: &Control, params: AnyTarget) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let transports = control.target().transports();
    let stats = control.target().stats();
    let groups: Vec<Value> = stats
        .reactors
        .iter()
        .map(|reactor| {
            let name = control.reactors().get(reactor.reactor).map(thread_name).unwrap_or_default();
            render::poll_group(reactor, &name, &transports)
        })
        .collect();
    Ok(json!({"tick_rate": TICK_RATE, "poll_groups": groups}))
}

pub(super) fn get_referrals(control: &Control, params: AnyTarget) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let referral = |referral: &crate::target::Referral| {
        json!({
            "address": shown(&referral.address),
            "secure_channel": referral.secure_channel,
            "subnqn": referral.nqn.as_str(),
        })
    };
    Ok(control.target().referrals().iter().map(referral).collect())
}
