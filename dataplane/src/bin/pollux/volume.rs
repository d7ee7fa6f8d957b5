//! `pollux volume`: volumes of a data plane's stores, over its control socket.

use std::io::Write;

use serde_json::{Value, json};

use crate::args::{SocketArgs, VolumeCommand};
use crate::size::ByteCount;
use crate::{Failure, call, print_json};

/// Bytes of a block of a volume.
const BLOCK_BYTES: u64 = 4096;
/// Sizes are given to the data plane in these.
const MIB: u64 = 1 << 20;

/// Runs one of the commands.
pub(crate) fn run(command: &VolumeCommand) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create { volume, size, reserve, no_checksums, socket } => {
            let how = json!({"thin_provision": !reserve, "checksums": !no_checksums});
            create(volume, *size, how, socket)
        }
        VolumeCommand::List { store, json, socket } => list(store.as_deref(), *json, socket),
        VolumeCommand::Delete { volume, socket } => {
            call(socket, "bdev_lvol_delete", Some(&json!({"name": volume}))).map(drop)
        }
        VolumeCommand::Resize { volume, size, force, socket } => resize(volume, *size, *force, socket),
        VolumeCommand::Snapshot { volume, name, socket } => snapshot(volume, name, socket),
        VolumeCommand::Snapshots { volume, json, socket } => snapshots(volume, *json, socket),
        VolumeCommand::DeleteSnapshot { volume, name, socket } => delete_snapshot(volume, name, socket),
        VolumeCommand::Clone { origin, name, socket } => {
            let params = json!({"snapshot_name": origin, "clone_name": name});
            print_name(&call(socket, "bdev_lvol_clone", Some(&params))?)
        }
        VolumeCommand::Rollback { volume, snapshot, socket } => {
            let params = json!({"lvol_name": volume, "snapshot_name": snapshot});
            call(socket, "bdev_lvol_rollback", Some(&params)).map(drop)
        }
        VolumeCommand::Set { volume, read_only, reserve, socket } => {
            let mut params = json!({"name": volume});
            if let Some(read_only) = read_only {
                params["read_only"] = json!(read_only);
            }
            if let Some(reserve) = reserve {
                params["thin_provision"] = json!(!reserve);
            }
            call(socket, "bdev_lvol_configure", Some(&params)).map(drop)
        }
        VolumeCommand::Flatten { volume, socket } => {
            call(socket, "bdev_lvol_inflate", Some(&json!({"name": volume, "reserve": false}))).map(drop)
        }
        VolumeCommand::Promote { volume, socket } => {
            call(socket, "bdev_lvol_promote", Some(&json!({"name": volume}))).map(drop)
        }
        VolumeCommand::Usage { volume, json, socket } => usage(volume, *json, socket),
        VolumeCommand::Diff { before, after, json, socket } => diff(before, after, *json, socket),
        VolumeCommand::Rename { volume, name, socket } => {
            let params = json!({"old_name": volume, "new_name": name});
            call(socket, "bdev_lvol_rename", Some(&params)).map(drop)
        }
    }
}

/// What a new volume is called as a device.
fn print_name(name: &Value) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{}", name.as_str().unwrap_or_default())?;
    Ok(())
}

/// Takes a snapshot of a replicated volume of that name, else of a volume of a store.
fn snapshot(volume: &str, name: &str, socket: &SocketArgs) -> Result<(), Failure> {
    let replicated = call(socket, "volume_list", None)?;
    if !replicated.as_array().is_some_and(|list| list.iter().any(|one| one["name"] == volume)) {
        let params = json!({"lvol_name": volume, "snapshot_name": name});
        return print_name(&call(socket, "bdev_lvol_snapshot", Some(&params))?);
    }
    let taken = call(socket, "volume_snapshot", Some(&json!({"name": volume, "snapshot_name": name})))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "moment     {}", text(&taken["moment"]))?;
    writeln!(out, "replicas   {}", words(&taken["replicas"]))?;
    if taken["left_over"].as_array().is_some_and(|list| !list.is_empty()) {
        writeln!(out, "unconfirmed, may be at {}", words(&taken["left_over"]))?;
    }
    Ok(())
}

fn words(list: &Value) -> String {
    let words: Vec<&str> = list.as_array().into_iter().flatten().map(text).collect();
    words.join(" ")
}

fn snapshots(volume: &str, json: bool, socket: &SocketArgs) -> Result<(), Failure> {
    let found = call(socket, "volume_get_snapshots", Some(&json!({"name": volume})))?;
    if json {
        return print_json(&found);
    }
    let list = found["snapshots"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    let width = list.iter().map(|one| text(&one["name"]).len()).max().unwrap_or(0).max(8);
    writeln!(out, "{:<width$}  {:<36}  {:<11}  REPLICAS", "SNAPSHOT", "MOMENT", "STATE")?;
    for one in list {
        let state = if one["confirmed"] == true { "confirmed" } else { "unconfirmed" };
        let (name, moment) = (text(&one["name"]), text(&one["moment"]));
        writeln!(out, "{name:<width$}  {moment:<36}  {state:<11}  {}", words(&one["replicas"]))?;
    }
    print_silent(&found)
}

/// Names the replicas that were not asked: what they hold is not known.
fn print_silent(answer: &Value) -> Result<(), Failure> {
    let silent = words(&answer["silent"]);
    if !silent.is_empty() {
        writeln!(std::io::stderr(), "pollux: did not answer: {silent}")?;
    }
    Ok(())
}

fn delete_snapshot(volume: &str, name: &str, socket: &SocketArgs) -> Result<(), Failure> {
    let params = json!({"name": volume, "snapshot_name": name});
    print_silent(&call(socket, "volume_delete_snapshot", Some(&params))?)
}

fn mebibytes(size: ByteCount) -> Result<u64, Failure> {
    if size.0 == 0 || !size.0.is_multiple_of(MIB) {
        return Err(Failure::Usage(format!("a volume's size is a multiple of 1 MiB, which {size} is not")));
    }
    Ok(size.0 / MIB)
}

fn create(volume: &str, size: ByteCount, how: Value, socket: &SocketArgs) -> Result<(), Failure> {
    let Some((store, name)) = volume.split_once('/') else {
        return Err(Failure::Usage(format!("expected STORE/NAME, got '{volume}'")));
    };
    let size = mebibytes(size)?;
    let mut params = how;
    params["lvs_name"] = json!(store);
    params["lvol_name"] = json!(name);
    params["size_in_mib"] = json!(size);
    print_name(&call(socket, "bdev_lvol_create", Some(&params))?)
}

fn bytes(blocks: &Value) -> u64 {
    blocks.as_u64().unwrap_or_default().saturating_mul(BLOCK_BYTES)
}

fn resize(volume: &str, size: ByteCount, force: bool, socket: &SocketArgs) -> Result<(), Failure> {
    let params = json!({"name": volume, "size_in_mib": mebibytes(size)?, "force": force});
    call(socket, "bdev_lvol_resize", Some(&params)).map(drop)
}

fn usage(volume: &str, json: bool, socket: &SocketArgs) -> Result<(), Failure> {
    let usage = call(socket, "bdev_lvol_get_usage", Some(&json!({"name": volume})))?;
    if json {
        return print_json(&usage);
    }
    let mut out = std::io::stdout().lock();
    for (what, key) in [
        ("size", "num_blocks"),
        ("allocated", "allocated_blocks"),
        ("  of its own", "own_blocks"),
        ("  shared", "shared_blocks"),
        ("only in its snapshots", "snapshot_only_blocks"),
    ] {
        writeln!(out, "{what:<22} {:>12}", ByteCount(bytes(&usage[key])).to_string())?;
    }
    Ok(())
}

fn diff(before: &str, after: &str, json: bool, socket: &SocketArgs) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut params = json!({"name": after, "since": before});
    loop {
        let part = call(socket, "bdev_lvol_get_changes", Some(&params))?;
        for range in part["ranges"].as_array().map(Vec::as_slice).unwrap_or_default() {
            if json {
                writeln!(out, "{range}")?;
            } else {
                let what = if range["after"] == true { "written" } else { "zeroes" };
                writeln!(out, "{:>16} {:>16} {what}", bytes(&range["at"]), bytes(&range["blocks"]))?;
            }
        }
        match &part["next_block"] {
            Value::Null => return Ok(()),
            next => params["start_block"] = next.clone(),
        }
    }
}

fn list(store: Option<&str>, json: bool, socket: &SocketArgs) -> Result<(), Failure> {
    let params = store.map(|store| json!({"lvs_name": store}));
    let volumes = call(socket, "bdev_lvol_get_lvols", params.as_ref())?;
    if json {
        return print_json(&volumes);
    }
    let volumes = volumes.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    let width = volumes.iter().map(|volume| text(&volume["alias"]).len()).max().unwrap_or(0).max(6);
    writeln!(
        out,
        "{:<width$}  {:>12}  {:>12}  {:<8}  {:<36}  ORIGIN",
        "VOLUME", "SIZE", "ALLOCATED", "KIND", "UUID"
    )?;
    for volume in volumes {
        let size = ByteCount(bytes(&volume["num_blocks"])).to_string();
        let used = ByteCount(bytes(&volume["num_allocated_clusters"])).to_string();
        let (alias, uuid, origin) = (text(&volume["alias"]), text(&volume["uuid"]), text(&volume["origin"]));
        writeln!(out, "{alias:<width$}  {size:>12}  {used:>12}  {:<8}  {uuid:<36}  {origin}", kind(volume))?;
    }
    Ok(())
}

fn kind(volume: &Value) -> &'static str {
    match (volume["is_snapshot"].as_bool(), volume["is_clone"].as_bool()) {
        (Some(true), _) => "snapshot",
        (_, Some(true)) => "clone",
        _ => "volume",
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
