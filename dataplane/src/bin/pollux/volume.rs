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
        VolumeCommand::Create { volume, size, socket } => create(volume, *size, socket),
        VolumeCommand::List { store, json, socket } => list(store.as_deref(), *json, socket),
        VolumeCommand::Delete { volume, socket } => {
            call(socket, "bdev_lvol_delete", Some(&json!({"name": volume}))).map(drop)
        }
        VolumeCommand::Resize { volume, size, force, socket } => resize(volume, *size, *force, socket),
        VolumeCommand::Snapshot { volume, name, socket } => {
            let params = json!({"lvol_name": volume, "snapshot_name": name});
            print_name(&call(socket, "bdev_lvol_snapshot", Some(&params))?)
        }
        VolumeCommand::Clone { origin, name, socket } => {
            let params = json!({"snapshot_name": origin, "clone_name": name});
            print_name(&call(socket, "bdev_lvol_clone", Some(&params))?)
        }
        VolumeCommand::Rollback { volume, snapshot, socket } => {
            let params = json!({"lvol_name": volume, "snapshot_name": snapshot});
            call(socket, "bdev_lvol_rollback", Some(&params)).map(drop)
        }
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

fn mebibytes(size: ByteCount) -> Result<u64, Failure> {
    if size.0 == 0 || !size.0.is_multiple_of(MIB) {
        return Err(Failure::Usage(format!("a volume's size is a multiple of 1 MiB, which {size} is not")));
    }
    Ok(size.0 / MIB)
}

fn create(volume: &str, size: ByteCount, socket: &SocketArgs) -> Result<(), Failure> {
    let Some((store, name)) = volume.split_once('/') else {
        return Err(Failure::Usage(format!("expected STORE/NAME, got '{volume}'")));
    };
    let size = mebibytes(size)?;
    let params = json!({"lvs_name": store, "lvol_name": name, "size_in_mib": size, "thin_provision": true});
    print_name(&call(socket, "bdev_lvol_create", Some(&params))?)
}

fn bytes_of(volume: &Value) -> u64 {
    volume["num_blocks"].as_u64().unwrap_or_default().saturating_mul(BLOCK_BYTES)
}

fn resize(volume: &str, size: ByteCount, force: bool, socket: &SocketArgs) -> Result<(), Failure> {
    let mib = mebibytes(size)?;
    let found = call(socket, "bdev_get_bdevs", Some(&json!({"name": volume})))?;
    let now = bytes_of(&found[0]);
    if size.0 < now && !force {
        let now = ByteCount(now);
        return Err(Failure::Usage(format!(
            "{volume} has {now}: to make it smaller loses what lies beyond {size}, and needs --force"
        )));
    }
    call(socket, "bdev_lvol_resize", Some(&json!({"name": volume, "size_in_mib": mib}))).map(drop)
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
    writeln!(out, "{:<width$}  {:>12}  {:<8}  {:<36}  ORIGIN", "VOLUME", "SIZE", "KIND", "UUID")?;
    for volume in volumes {
        let size = ByteCount(bytes_of(volume)).to_string();
        let (alias, uuid, origin) = (text(&volume["alias"]), text(&volume["uuid"]), text(&volume["origin"]));
        writeln!(out, "{alias:<width$}  {size:>12}  {:<8}  {uuid:<36}  {origin}", kind(volume))?;
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
