//! `pollux store`: stores of a data plane, over its control socket; and looking at one that nobody serves.

use std::io::Write;
use std::path::Path;

use dataplane::device::DeviceError;
use dataplane::device::uring::{UringConfig, UringDevice};
use dataplane::lvol::{DeviceMedia, dump};
use dataplane::store::{self, Contents, FAULTS_MAX, Report, VolumeKind};
use serde_json::{Map, Value, json};

use crate::args::{SocketArgs, StoreCommand};
use crate::size::ByteCount;
use crate::{Failure, call, print_json};

/// Runs one of the commands.
pub(crate) fn run(command: &StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Create { device, name, force, volumes_max, socket } => {
            let mut params = json!({"bdev_name": device, "lvs_name": name, "force": force});
            if let Some(volumes_max) = volumes_max {
                params["volumes_max"] = json!(volumes_max);
            }
            let uuid = call(socket, "bdev_lvol_create_lvstore", Some(&params))?;
            writeln!(std::io::stdout(), "{}", uuid.as_str().unwrap_or_default())?;
            Ok(())
        }
        StoreCommand::List { json, socket } => list(*json, socket),
        StoreCommand::Open { device, socket } => {
            call(socket, "bdev_lvol_open_lvstore", Some(&json!({"bdev_name": device}))).map(drop)
        }
        StoreCommand::Close { name, socket } => {
            call(socket, "bdev_lvol_close_lvstore", Some(&json!({"lvs_name": name}))).map(drop)
        }
        StoreCommand::Rename { old, new, socket } => {
            let params = json!({"old_name": old, "new_name": new});
            call(socket, "bdev_lvol_rename_lvstore", Some(&params)).map(drop)
        }
        StoreCommand::Grow { name, socket } => {
            call(socket, "bdev_lvol_grow_lvstore", Some(&json!({"lvs_name": name}))).map(drop)
        }
        StoreCommand::Upgrade { device, socket } => {
            call(socket, "bdev_lvol_upgrade_lvstore", Some(&json!({"bdev_name": device}))).map(drop)
        }
        StoreCommand::Destroy { name, force, socket } => destroy(name, *force, socket),
        StoreCommand::Check { path, data, json } => check(path, *data, *json),
        StoreCommand::Dump { path, json } => show(path, *json),
    }
}

fn destroy(name: &str, force: bool, socket: &SocketArgs) -> Result<(), Failure> {
    let params = json!({"lvs_name": name});
    let volumes = call(socket, "bdev_lvol_get_lvols", Some(&params))?;
    let count = volumes.as_array().map_or(0, Vec::len);
    if count > 0 && !force {
        return Err(Failure::Usage(format!("store {name} has {count} volumes, which --force loses")));
    }
    call(socket, "bdev_lvol_delete_lvstore", Some(&params)).map(drop)
}

fn list(json: bool, socket: &SocketArgs) -> Result<(), Failure> {
    let stores = call(socket, "bdev_lvol_get_lvstores", None)?;
    if json {
        return print_json(&stores);
    }
    let stores = stores.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<16}  {:<16}  {:>12}  {:>12}  {:<36}  STATE",
        "STORE", "DEVICE", "SIZE", "FREE", "UUID"
    )?;
    for store in stores {
        let text = |key: &str| store[key].as_str().unwrap_or_default();
        let bytes = |key: &str| {
            let clusters = store[key].as_u64().unwrap_or_default();
            ByteCount(clusters.saturating_mul(store["cluster_size"].as_u64().unwrap_or_default())).to_string()
        };
        writeln!(
            out,
            "{:<16}  {:<16}  {:>12}  {:>12}  {:<36}  {}",
            text("name"),
            text("base_bdev"),
            bytes("total_data_clusters"),
            bytes("free_clusters"),
            text("uuid"),
            if store["stopped"] == true { "reads only, after an error of its device" } else { "open" }
        )?;
    }
    Ok(())
}

/// A device that nobody serves.
fn open(path: &Path) -> Result<DeviceMedia, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let mut config = UringConfig::new("device", path);
    let device = match UringDevice::open(&config) {
        Err(DeviceError::NoDirectIo { .. }) => {
            config.direct = false;
            UringDevice::open(&config)
        }
        device => device,
    };
    DeviceMedia::open(&device.map_err(|error| failed(&error))?).map_err(|error| failed(&error))
}

fn check(path: &Path, data: bool, json: bool) -> Result<(), Failure> {
    let report = store::check(&mut open(path)?, data)
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    if json {
        print_json(&report_json(&report))?;
    } else {
        print_report(&report)?;
    }
    match report.faults.len() {
        0 => Ok(()),
        FAULTS_MAX => Err(Failure::Miscompare(format!("{FAULTS_MAX} faults or more"))),
        count => Err(Failure::Miscompare(format!("{count} faults"))),
    }
}

fn report_json(report: &Report) -> Value {
    let faults: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    let reach = |volume: &store::Reach| {
        json!({
            "id": volume.id.0,
            "name": volume.name,
            "mapped_blocks": volume.mapped,
            "reachable_blocks": volume.reachable,
        })
    };
    let volumes: Vec<Value> = report.volumes.iter().map(reach).collect();
    json!({"lsn": report.lsn.0, "volumes": volumes, "used_blocks": report.used, "faults": faults})
}

fn print_report(report: &Report) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for fault in &report.faults {
        writeln!(out, "{fault}")?;
    }
    let bytes = |blocks: u64| ByteCount(blocks.saturating_mul(store::BLOCK_BYTES as u64));
    for volume in report.volumes.iter().filter(|volume| volume.reachable < volume.mapped) {
        let (id, name) = (volume.id.0, &volume.name);
        writeln!(
            out,
            "volume {id}, {name}: {} of {} in reach",
            bytes(volume.reachable),
            bytes(volume.mapped)
        )?;
    }
    let used = bytes(report.used);
    let sound = if report.faults.is_empty() { "sound: " } else { "" };
    writeln!(out, "{sound}{} volumes, {used} in use, record {}", report.volumes.len(), report.lsn.0)?;
    Ok(())
}

fn show(path: &Path, json: bool) -> Result<(), Failure> {
    let found =
        dump(&mut open(path)?).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    if json {
        return print_json(&dump_json(&found));
    }
    let mut out = std::io::stdout().lock();
    let Value::Object(facts) = store_facts(&found) else { return Ok(()) };
    for (name, value) in facts {
        writeln!(out, "{name:<16} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))?;
    }
    for volume in volumes_json(&found) {
        writeln!(out, "volume           {}", one_line(&volume))?;
    }
    Ok(())
}

fn one_line(facts: &Map<String, Value>) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let words = facts.iter().map(|(name, value)| format!("{name}={}", word(value)));
    words.collect::<Vec<_>>().join(" ")
}

fn dump_json(dump: &Contents) -> Value {
    let mut all = store_facts(dump);
    all["volumes"] = volumes_json(dump).into_iter().map(Value::Object).collect();
    all
}

/// What the store says of itself; places and sizes are blocks of 4 KiB.
fn store_facts(dump: &Contents) -> Value {
    let Contents { layout, counters, .. } = dump;
    json!({
        "name": dump.name,
        "uuid": dump.uuid,
        "version": layout.version(),
        "blocks": layout.blocks(),
        "earlier_blocks": layout.earlier_blocks().collect::<Vec<_>>(),
        "volumes_max": layout.volumes(),
        "checkpoint_a": layout.checkpoint(0).0,
        "checkpoint_b": layout.checkpoint(1).0,
        "log": layout.log(0, 0).0,
        "log_blocks": layout.log_blocks(),
        "counts": layout.counts(0, false).0,
        "data": layout.data_start().0,
        "data_blocks": counters.total,
        "free_blocks": counters.free,
        "freeing_blocks": counters.freeing,
        "lsn": dump.lsn.0,
    })
}

fn volumes_json(dump: &Contents) -> Vec<Map<String, Value>> {
    let volume = |info: &store::VolumeInfo| {
        let snapshot = info.kind == VolumeKind::Snapshot;
        let mut facts = Map::new();
        facts.insert("id".to_owned(), json!(info.id.0));
        facts.insert("name".to_owned(), json!(info.name));
        facts.insert("uuid".to_owned(), json!(info.uuid));
        facts.insert("blocks".to_owned(), json!(info.blocks));
        facts.insert("kind".to_owned(), json!(if snapshot { "snapshot" } else { "volume" }));
        if let Some(origin) = info.origin {
            facts.insert("origin".to_owned(), json!(origin.0));
        }
        facts
    };
    dump.volumes.iter().map(volume).collect()
}
