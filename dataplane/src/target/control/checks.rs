//! What the control calls have in common: looking things up, checking values, describing what there is.

use std::sync::Arc;

use nvme::{Nqn, Nsid};

use super::Outcome;
use crate::target::error::ControlError;
use crate::target::limits;
use crate::target::options::{
    ListenerInfo, NamespaceInfo, NamespaceStats, SubsystemInfo, SubsystemKind, SubsystemOptions,
    TransportOptions,
};
use crate::target::stats::{IoCounters, LatencyHistogram};
use crate::target::view::{Listener, Namespace, SubsystemView, TargetView};

pub(super) fn nvm(
    view: &TargetView,
    nqn: &Nqn,
    operation: &'static str,
) -> Outcome<(usize, Arc<SubsystemView>)> {
    let (slot, sub) = view.find(nqn).ok_or(ControlError::NoSuchSubsystem(*nqn))?;
    match sub.kind {
        SubsystemKind::Nvm => Ok((slot, Arc::clone(sub))),
        SubsystemKind::Discovery => Err(ControlError::DiscoverySubsystem { operation }),
    }
}

pub(super) fn bump_discovery(view: &mut TargetView) {
    view.discovery_generation += 1;
}

pub(super) fn limit(what: &'static str, count: usize, limit: usize) -> Outcome {
    if count < limit { Ok(()) } else { Err(ControlError::TooMany { what, limit }) }
}

pub(super) fn free_slot(view: &mut TargetView) -> Outcome<usize> {
    if let Some(slot) = view.subsystems.iter().position(Option::is_none) {
        return Ok(slot);
    }
    limit("subsystems", view.subsystems.len(), limits::SUBSYSTEMS_MAX)?;
    view.subsystems.push(None);
    Ok(view.subsystems.len() - 1)
}

pub(super) fn check_ana_group(sub: &SubsystemView, group: Option<u32>) -> Outcome {
    let max = sub.options.namespaces_max;
    match group {
        Some(group) if group == 0 || group > max => Err(ControlError::AnaGroupOutOfRange { group, max }),
        _ => Ok(()),
    }
}

pub(super) fn stats_of(sub: &SubsystemView, ns: &Namespace) -> NamespaceStats {
    let mut stats = NamespaceStats {
        subsystem: sub.options.nqn,
        nsid: ns.nsid,
        device: ns.info().name.to_string(),
        counters: IoCounters::default(),
        read_latency: LatencyHistogram::default(),
        write_latency: LatencyHistogram::default(),
    };
    for counters in ns.counters() {
        stats.counters.merge(&counters.snapshot());
        counters.merge_latency(&mut stats.read_latency, &mut stats.write_latency);
    }
    stats
}

pub(super) fn describe(sub: &SubsystemView) -> SubsystemInfo {
    let nvm = sub.kind == SubsystemKind::Nvm;
    let listener = |listener: &Arc<Listener>| ListenerInfo {
        address: listener.address,
        ana_states: if nvm { listener.ana_states() } else { Vec::new() },
        listening: listener.is_listening(),
    };
    SubsystemInfo {
        kind: sub.kind,
        options: sub.options.clone(),
        hosts: sub.hosts.clone(),
        namespaces: sub.active().map(|ns| ns.describe()).collect::<Vec<NamespaceInfo>>(),
        listeners: sub.listeners.iter().map(listener).collect(),
    }
}

fn check_text(what: &'static str, text: &str, max: usize) -> Outcome {
    let printable = text.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
    if printable && (1..=max).contains(&text.len()) {
        return Ok(());
    }
    Err(ControlError::Text { what, len: text.len(), allowed: 1..=max })
}

pub(super) fn check_subsystem(options: &SubsystemOptions) -> Outcome {
    if options.nqn.is_discovery() {
        return Err(ControlError::SubsystemExists(options.nqn));
    }
    check_text("the serial number", &options.serial, 20)?;
    check_text("the model number", &options.model, 40)?;
    let (min, max) = (options.controller_id_min, options.controller_id_max);
    if min == 0 || min > max || max > nvme::ControllerId::MAX.get() {
        return Err(ControlError::ControllerIdRange { min, max });
    }
    let namespaces = options.namespaces_max;
    if namespaces == 0 || namespaces > limits::NAMESPACES_MAX {
        return Err(ControlError::NsidOutOfRange { nsid: Nsid(namespaces), max: limits::NAMESPACES_MAX });
    }
    Ok(())
}

pub(super) fn check_transport(options: &TransportOptions) -> Outcome {
    for (option, value, allowed) in [
        ("max_queue_depth", u64::from(options.queue_depth_max), 2..=65_536),
        ("max_aq_depth", u64::from(options.admin_queue_depth_max), 32..=4096),
        ("max_io_qpairs_per_ctrlr", u64::from(options.io_queues_per_controller_max), 1..=65_534),
        ("in_capsule_data_size", u64::from(options.in_capsule_data_bytes), 0..=65_536),
        ("max_io_size", u64::from(options.io_bytes_max), 4096..=2_097_152),
    ] {
        if !allowed.contains(&value) {
            return Err(ControlError::TransportOption { option, value, allowed });
        }
    }
    if !options.io_bytes_max.is_power_of_two() {
        let value = u64::from(options.io_bytes_max);
        return Err(ControlError::TransportOptionRule {
            option: "max_io_size",
            value,
            rule: "a power of two",
        });
    }
    if !options.in_capsule_data_bytes.is_multiple_of(16) {
        let (option, value) = ("in_capsule_data_size", u64::from(options.in_capsule_data_bytes));
        return Err(ControlError::TransportOptionRule { option, value, rule: "a multiple of 16" });
    }
    Ok(())
}
