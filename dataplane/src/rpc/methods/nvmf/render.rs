//! The target's values in the shapes that SPDK gives them.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use transport::TransportKind;

use super::address::{digits, shown, shown_parts, transport_name};
use crate::target::{
    ControllerInfo, ListenerInfo, NamespaceInfo, QueueInfo, ReactorStats, SubsystemInfo, SubsystemKind,
    TransportInfo,
};

pub(super) fn transport(transport: &TransportInfo) -> Value {
    let options = &transport.options;
    let mut shown = json!({
        "trtype": transport_name(transport.kind),
        "max_queue_depth": options.queue_depth_max,
        "max_io_qpairs_per_ctrlr": options.io_queues_per_controller_max,
        "in_capsule_data_size": options.in_capsule_data_bytes,
        "max_io_size": options.io_bytes_max,
        "io_unit_size": options.io_unit_bytes,
        "max_aq_depth": options.admin_queue_depth_max,
        "num_shared_buffers": options.shared_buffers,
        "dif_insert_or_strip": false,
        "zcopy": false,
        "c2h_success": options.c2h_success,
        "sock_priority": 0,
        "abort_timeout_sec": options.abort_timeout_s,
        "acceptor_poll_rate": options.acceptor_poll_us,
    });
    if transport.kind == TransportKind::Rdma {
        shown["no_srq"] = json!(options.shared_receives_max == 0);
        shown["max_srq_depth"] = json!(options.shared_receives_max);
    }
    shown
}

pub(super) fn subsystem(subsystem: &SubsystemInfo) -> Value {
    let options = &subsystem.options;
    let mut shown_subsystem = Map::new();
    let mut put = |name: &str, value: Value| shown_subsystem.insert(name.to_owned(), value);
    put("nqn", json!(options.nqn.as_str()));
    put("subtype", json!(if subsystem.kind == SubsystemKind::Discovery { "Discovery" } else { "NVMe" }));
    put("listen_addresses", subsystem.listeners.iter().map(|listener| shown(&listener.address)).collect());
    put("allow_any_host", json!(options.allow_any_host));
    put("hosts", subsystem.hosts.iter().map(|host| json!({"nqn": host.as_str()})).collect());
    if subsystem.kind == SubsystemKind::Nvm {
        put("serial_number", json!(options.serial));
        put("model_number", json!(options.model));
        put("max_namespaces", json!(options.namespaces_max));
        put("min_cntlid", json!(options.controller_id_min));
        put("max_cntlid", json!(options.controller_id_max));
        let ana = options.ana_reporting;
        put("namespaces", subsystem.namespaces.iter().map(|ns| namespace(ns, ana)).collect());
    }
    Value::Object(shown_subsystem)
}

fn namespace(namespace: &NamespaceInfo, ana_reporting: bool) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("nsid", json!(namespace.nsid.get()));
    put("bdev_name", json!(namespace.device));
    put("name", json!(namespace.device));
    put("nguid", json!(digits(&namespace.nguid)));
    if let Some(eui64) = namespace.eui64 {
        put("eui64", json!(digits(&eui64)));
    }
    put("uuid", json!(namespace.uuid));
    if ana_reporting {
        put("anagrpid", json!(namespace.ana_group));
    }
    Value::Object(shown)
}

pub(super) fn listener(listener: &ListenerInfo, ana_reporting: bool) -> Value {
    let listening = listener.listening;
    let address = shown(&listener.address);
    if !ana_reporting {
        return json!({"address": address, "listening": listening});
    }
    let states = listener.ana_states.iter().zip(1_u32..);
    let states: Vec<Value> =
        states.map(|(state, group)| json!({"ana_group": group, "ana_state": state.name()})).collect();
    json!({"address": address, "listening": listening, "ana_states": states})
}

pub(super) fn controller(controller: &ControllerInfo, kind: &str) -> Value {
    json!({
        "cntlid": controller.id.get(),
        "cntrltype": kind,
        "hostnqn": controller.host.as_str(),
        "hostid": Uuid::from_bytes(controller.host_id.0),
        "num_io_qpairs": controller.io_queues,
        "listen_address": shown(&controller.listener),
        "keep_alive_ms": controller.keep_alive_ms,
    })
}

pub(super) fn queue(queue: &QueueInfo, thread: &str) -> Value {
    json!({
        "cntlid": queue.controller.get(),
        "qid": queue.id.get(),
        "state": "enabled",
        "thread": thread,
        "hostnqn": queue.host.as_str(),
        "listen_address": shown_parts(queue.transport, queue.local),
        "peer_address": shown_parts(queue.transport, queue.remote),
        "depth": queue.depth,
    })
}

pub(super) fn poll_group(stats: &ReactorStats, name: &str, transports: &[TransportInfo]) -> Value {
    let transports: Vec<Value> =
        transports.iter().map(|transport| json!({"trtype": transport_name(transport.kind)})).collect();
    json!({
        "name": name,
        "admin_qpairs": stats.admin_queues_total,
        "io_qpairs": stats.io_queues_total,
        "current_admin_qpairs": stats.admin_queues,
        "current_io_qpairs": stats.io_queues,
        "pending_bdev_io": stats.device_io_pending,
        "completed_nvme_io": stats.io_commands_total,
        "transports": transports,
    })
}
