//! Devices in the shapes that SPDK gives them.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::device::uring::UringConfig;
use crate::device::{Device, DeviceSpec, Listed, OpKind, Operations, Rates};
use crate::rpc::control::Control;

/// A device; what is special about volumes is in `volumes`, by their names.
pub(super) fn device(control: &Control, listed: &Listed, volumes: &HashMap<String, Value>) -> Value {
    let info = listed.device.info();
    let can = |operation| info.operations.contains(operation);
    json!({
        "name": &*info.name,
        "aliases": listed.device.alias().into_iter().collect::<Vec<_>>(),
        "product_name": info.product,
        "block_size": info.block_size.bytes(),
        "num_blocks": info.blocks,
        "preferred_write_granularity": info.preferred_blocks,
        "preferred_write_alignment": info.preferred_blocks,
        "uuid": info.uuid,
        "assigned_rate_limits": limits(&listed.limits.rates()),
        "claimed": !listed.users.is_empty() || !control.target().device_users(&info.name).is_empty(),
        "zoned": false,
        "supported_io_types": {
            "read": true,
            "write": true,
            "unmap": can(Operations::DEALLOCATE),
            "flush": can(Operations::FLUSH),
            "reset": false,
            "nvme_admin": false,
            "nvme_io": false,
            "write_zeroes": can(Operations::WRITE_ZEROES),
            "compare": true,
            "compare_and_write": true,
            "abort": false,
            "copy": false,
        },
        "driver_specific": volumes.get(&*info.name).cloned().unwrap_or_else(|| driver_specific(listed.spec.as_ref())),
    })
}

/// As SPDK shows them; 0 is no limit.
fn limits(rates: &Rates) -> Value {
    let mbytes = |bytes: Option<u64>| bytes.unwrap_or(0) >> 20;
    json!({
        "rw_ios_per_sec": rates.ios.unwrap_or(0),
        "rw_mbytes_per_sec": mbytes(rates.bytes),
        "r_mbytes_per_sec": mbytes(rates.read_bytes),
        "w_mbytes_per_sec": mbytes(rates.written_bytes),
    })
}

/// The call that limits a device as it is limited now.
pub(super) fn limit_call(listed: &Listed) -> Value {
    let rates = listed.limits.rates();
    let mut params = limits(&rates);
    params["name"] = json!(&*listed.device.info().name);
    params["burst_ms"] = json!(rates.burst.as_millis());
    json!({"method": "bdev_set_qos_limit", "params": params})
}

fn driver_specific(spec: Option<&DeviceSpec>) -> Value {
    match spec {
        Some(DeviceSpec::Uring(config)) => {
            json!({"uring": {"filename": config.path, "direct": config.direct}})
        }
        Some(DeviceSpec::Aio(config)) => json!({"aio": {"filename": config.path}}),
        _ => json!({}),
    }
}

pub(super) fn iostat(device: &dyn Device) -> Value {
    let info = device.info();
    let counters = device.counters();
    let mut shown = Map::new();
    shown.insert("name".to_owned(), json!(&*info.name));
    for (kind, ops, bytes, latency) in [
        (OpKind::Read, "num_read_ops", "bytes_read", "read_latency_ticks"),
        (OpKind::Write, "num_write_ops", "bytes_written", "write_latency_ticks"),
        (OpKind::Deallocate, "num_unmap_ops", "bytes_unmapped", "unmap_latency_ticks"),
    ] {
        let of = counters.of(kind);
        shown.insert(bytes.to_owned(), json!(of.bytes));
        shown.insert(ops.to_owned(), json!(of.operations));
        shown.insert(latency.to_owned(), json!(of.latency_ns_total));
        shown.insert(format!("max_{latency}"), json!(of.latency_ns_max));
        shown.insert(format!("min_{latency}"), json!(of.latency_ns_min.unwrap_or(0)));
    }
    let errors: u64 = [OpKind::Read, OpKind::Write, OpKind::Flush, OpKind::WriteZeroes, OpKind::Deallocate]
        .into_iter()
        .map(|kind| counters.of(kind).errors)
        .sum();
    let errors = if errors == 0 { json!({}) } else { json!({"failed": errors}) };
    shown.insert("io_error".to_owned(), errors);
    Value::Object(shown)
}

/// The call that makes a device; `None` for one that was not made by a call.
pub(super) fn call(listed: &Listed) -> Option<Value> {
    let uuid = listed.device.info().uuid;
    let (method, params) = match listed.spec.as_ref()? {
        DeviceSpec::Malloc { name, block_size, blocks, .. } => (
            "bdev_malloc_create",
            json!({"name": name, "num_blocks": blocks, "block_size": block_size.bytes(), "uuid": uuid}),
        ),
        // It may have been resized.
        DeviceSpec::Null { name, block_size, .. } => {
            let blocks = listed.device.info().blocks;
            (
                "bdev_null_create",
                json!({"name": name, "num_blocks": blocks, "block_size": block_size.bytes(), "uuid": uuid}),
            )
        }
        DeviceSpec::Uring(config) => {
            let mut params = on_file(config, listed);
            if !config.direct {
                params["direct"] = json!(false);
            }
            ("bdev_uring_create", params)
        }
        DeviceSpec::Aio(config) => ("bdev_aio_create", on_file(config, listed)),
    };
    Some(json!({"method": method, "params": params}))
}

fn on_file(config: &UringConfig, listed: &Listed) -> Value {
    let info = listed.device.info();
    json!({
        "name": config.name,
        "filename": config.path,
        "block_size": info.block_size.bytes(),
        "uuid": info.uuid,
    })
}
