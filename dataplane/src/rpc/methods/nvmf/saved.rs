//! The calls that make the target as it is now.

use serde_json::{Map, Value, json};

use super::address::{digits, shown};
use super::render;
use crate::rpc::control::Control;
use crate::target::{AnaState, ListenerInfo, NamespaceInfo, SubsystemInfo, SubsystemKind};

/// The calls, in the order in which they can be made.
pub(in crate::rpc::methods) fn saved(control: &Control) -> Vec<Value> {
    let mut calls = Vec::new();
    let mut call = |method: &str, params: Value| calls.push(json!({"method": method, "params": params}));
    for transport in control.target().transports() {
        call("nvmf_create_transport", render::transport(&transport));
    }
    for referral in control.target().referrals() {
        let params = json!({
            "address": shown(&referral.address),
            "secure_channel": referral.secure_channel,
            "subnqn": referral.nqn.as_str(),
        });
        call("nvmf_discovery_add_referral", params);
    }
    for subsystem in control.target().subsystems() {
        save_subsystem(&mut call, control, &subsystem);
    }
    calls
}

fn save_subsystem(call: &mut impl FnMut(&str, Value), control: &Control, subsystem: &SubsystemInfo) {
    let options = &subsystem.options;
    let nqn = options.nqn.as_str();
    if subsystem.kind == SubsystemKind::Nvm {
        call("nvmf_create_subsystem", create_subsystem(subsystem));
    }
    for host in &subsystem.hosts {
        call("nvmf_subsystem_add_host", json!({"nqn": nqn, "host": host.as_str()}));
    }
    for namespace in &subsystem.namespaces {
        let namespace = add_namespace(namespace, options.ana_reporting);
        call("nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": namespace}));
    }
    for listener in &subsystem.listeners {
        let params = json!({"nqn": nqn, "listen_address": shown(&listener.address), "secure_channel": false});
        call("nvmf_subsystem_add_listener", params);
        if options.ana_reporting {
            save_ana(call, nqn, listener, &states_when_loaded(control, subsystem, listener));
        }
    }
}

fn create_subsystem(subsystem: &SubsystemInfo) -> Value {
    let options = &subsystem.options;
    let mut params = json!({
        "nqn": options.nqn.as_str(),
        "allow_any_host": options.allow_any_host,
        "serial_number": options.serial,
        "model_number": options.model,
        "max_namespaces": options.namespaces_max,
        "min_cntlid": options.controller_id_min,
        "max_cntlid": options.controller_id_max,
        "ana_reporting": options.ana_reporting,
    });
    if options.hidden {
        params["hidden"] = json!(true);
    }
    params
}

fn add_namespace(namespace: &NamespaceInfo, ana_reporting: bool) -> Value {
    let mut params = Map::new();
    params.insert("nsid".to_owned(), json!(namespace.nsid.get()));
    params.insert("bdev_name".to_owned(), json!(namespace.device));
    params.insert("nguid".to_owned(), json!(digits(&namespace.nguid)));
    if let Some(eui64) = namespace.eui64 {
        params.insert("eui64".to_owned(), json!(digits(&eui64)));
    }
    params.insert("uuid".to_owned(), json!(namespace.uuid));
    if ana_reporting {
        params.insert("anagrpid".to_owned(), json!(namespace.ana_group));
    }
    Value::Object(params)
}

/// Replicated volumes are not active when they are loaded: their paths lead nowhere until they are.
fn states_when_loaded(
    control: &Control,
    subsystem: &SubsystemInfo,
    listener: &ListenerInfo,
) -> Vec<AnaState> {
    let mut states = listener.ana_states.clone();
    for namespace in subsystem.namespaces.iter().filter(|ns| control.volumes.get(&ns.device).is_ok()) {
        let place = usize::try_from(namespace.ana_group).ok().and_then(|group| group.checked_sub(1));
        if let Some(state) = place.and_then(|place| states.get_mut(place)) {
            *state = AnaState::Inaccessible;
        }
    }
    states
}

/// One call when all groups are in one state, else one for each group that is not optimized.
fn save_ana(call: &mut impl FnMut(&str, Value), nqn: &str, listener: &ListenerInfo, states: &[AnaState]) {
    let mut set = |state: AnaState, group: Option<u32>| {
        let mut params = json!({
            "nqn": nqn,
            "listen_address": shown(&listener.address),
            "ana_state": state.name(),
        });
        if let Some(group) = group {
            params["anagrpid"] = json!(group);
        }
        call("nvmf_subsystem_listener_set_ana_state", params);
    };
    match states.first() {
        Some(first) if states.iter().all(|state| state == first) => {
            if *first != AnaState::Optimized {
                set(*first, None);
            }
        }
        _ => states
            .iter()
            .zip(1_u32..)
            .filter(|(state, _)| **state != AnaState::Optimized)
            .for_each(|(state, group)| set(*state, Some(group))),
    }
}
