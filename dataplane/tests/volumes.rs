//! Stores of a real daemon: opened from a file of configuration, saved and loaded, closed and opened again.

mod common;

use std::path::Path;

use common::{Daemon, build_folder, free_address};
use dataplane::device::uring::{UringConfig, UringDevice};
use dataplane::lvol::DeviceMedia;
use dataplane::store::format::VERSION_OF_ONE_LOG;
use dataplane::store::{self, CreateOptions};
use serde_json::{Value, json};

const NQN: &str = "nqn.2026-01.org.example:volumes";

fn config(folder: &Path, namespaces: &str) -> String {
    let (disk, address) = (folder.join("disk"), free_address());
    let text = format!(
        "[[devices]]\nname = \"disk\"\nkind = \"uring\"\npath = {disk:?}\nsize = \"64 MiB\"\n\
         [[stores]]\nname = \"fast\"\ndevice = \"disk\"\ncreate = true\n\
         [[subsystems]]\nnqn = \"{NQN}\"\nnamespaces = [{namespaces}]\n\
         listeners = [{{ address = \"{address}\" }}]\n"
    );
    let path = folder.join("pollux.toml");
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("a path").to_owned()
}

#[test]
fn a_store_in_the_configuration_is_made_once_and_its_volumes_are_served_from_then_on() {
    let folder = tempfile::tempdir_in(build_folder()).expect("folder");
    let path = config(folder.path(), "");
    let mut daemon = Daemon::start_in(folder, &["--config", &path]);
    let made =
        daemon.call("bdev_lvol_create", json!({"lvs_name": "fast", "lvol_name": "v", "size_in_mib": 8}));
    let volume = made.expect("a volume");
    let stores = daemon.call("bdev_lvol_get_lvstores", Value::Null).expect("stores");
    daemon.signal("KILL");
    daemon.wait();

    let folder = std::mem::replace(&mut daemon.folder, tempfile::tempdir().expect("folder"));
    let path = config(folder.path(), "{ device = \"fast/v\" }");
    let daemon = Daemon::start_in(folder, &["--config", &path]);
    let again = daemon.call("bdev_lvol_get_lvstores", Value::Null).expect("stores");
    assert_eq!(again[0]["uuid"], stores[0]["uuid"]);
    let subsystems = daemon.call("nvmf_get_subsystems", Value::Null).expect("subsystems");
    assert_eq!(subsystems[1]["namespaces"][0]["bdev_name"], volume);
    assert!(daemon.stop().success());
}

#[test]
fn what_is_saved_with_a_store_loads_into_a_new_daemon_unchanged() {
    let folder = tempfile::tempdir_in(build_folder()).expect("folder");
    let disk = folder.path().join("disk");
    let daemon = Daemon::start(&[]);
    for (method, params) in [
        ("bdev_uring_create", json!({"name": "disk", "filename": disk, "size_bytes": 64 << 20})),
        ("bdev_lvol_create_lvstore", json!({"bdev_name": "disk", "lvs_name": "s"})),
        ("bdev_lvol_create", json!({"lvs_name": "s", "lvol_name": "v", "size_in_mib": 8})),
        ("bdev_lvol_snapshot", json!({"lvol_name": "s/v", "snapshot_name": "snap"})),
        ("nvmf_create_subsystem", json!({"nqn": NQN})),
        ("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "s/v"}})),
    ] {
        daemon.call(method, params).expect(method);
    }
    let saved = daemon.call("save_config", Value::Null).expect("saved");
    let volumes = daemon.call("bdev_lvol_get_lvols", Value::Null).expect("volumes");
    assert_eq!(volumes.as_array().map(Vec::len), Some(2));
    assert!(daemon.stop().success());

    let daemon = Daemon::start(&[]);
    daemon.call("load_config", saved.clone()).expect("loaded");
    assert_eq!(daemon.call("save_config", Value::Null).expect("saved"), saved);
    assert_eq!(daemon.call("bdev_lvol_get_lvols", Value::Null).expect("volumes"), volumes);
    // A device that goes takes its store along, namespaces first, and brings it back.
    daemon.call("bdev_uring_delete", json!({"name": "disk"})).expect("deleted");
    assert_eq!(daemon.call("bdev_get_bdevs", Value::Null).expect("devices"), json!([]));
    let create = json!({"name": "disk", "filename": disk});
    daemon.call("bdev_uring_create", create).expect("created");
    assert_eq!(daemon.call("bdev_lvol_get_lvols", Value::Null).expect("volumes"), volumes);
    // Closed by hand, it is opened by hand.
    daemon.call("bdev_lvol_close_lvstore", json!({"lvs_name": "s"})).expect("closed");
    let other = daemon.call("bdev_lvol_open_lvstore", json!({"bdev_name": "disk", "lvs_name": "t"}));
    let (code, message) = other.expect_err("another name");
    assert!(code == -22 && message.contains("is named s, not t"), "{code} {message}");
    daemon.call("bdev_lvol_open_lvstore", json!({"bdev_name": "disk", "lvs_name": "s"})).expect("open");
    assert_eq!(daemon.call("bdev_lvol_get_lvols", Value::Null).expect("volumes"), volumes);
}

#[test]
fn a_store_of_the_version_before_is_served_as_it_is_and_upgraded_when_it_is_closed() {
    let folder = tempfile::tempdir_in(build_folder()).expect("folder");
    let disk = folder.path().join("disk");
    std::fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("file");
    let mut config = UringConfig::new("older", &disk);
    config.direct = false;
    let device = UringDevice::open(&config).expect("device");
    let options = CreateOptions {
        uuid: uuid::Uuid::from_u128(9),
        volumes: 64,
        log_blocks: None,
        force: false,
        version: VERSION_OF_ONE_LOG,
    };
    store::create(&mut DeviceMedia::open(&device).expect("media"), &options).expect("an older store");
    drop(device);
    let daemon = Daemon::start(&[]);
    daemon.call("bdev_uring_create", json!({"name": "disk", "filename": disk})).expect("created");
    let name = options.uuid.to_string();
    let facts = || {
        let stores = daemon.call("bdev_lvol_get_lvstores", Value::Null).expect("stores");
        (stores[0]["format_version"].clone(), stores[0]["name"].clone())
    };
    assert_eq!(facts(), (json!(1), json!(name)));
    ok(&daemon, &["store", "rename", &name, "s"]);
    ok(&daemon, &["volume", "create", "s/v", "8M"]);
    let (code, text) = pollux(&daemon, &["store", "upgrade", "disk"]);
    assert!(code != Some(0) && text.contains("in use"), "{code:?} {text}");
    let volumes = daemon.call("bdev_lvol_get_lvols", Value::Null).expect("volumes");
    ok(&daemon, &["store", "close", "s"]);
    ok(&daemon, &["store", "upgrade", "disk"]);
    assert_eq!(facts(), (json!(2), json!("s")));
    assert_eq!(daemon.call("bdev_lvol_get_lvols", Value::Null).expect("volumes"), volumes);
}

#[test]
fn a_file_with_a_filesystem_becomes_a_store_only_by_force() {
    let folder = tempfile::tempdir_in(build_folder()).expect("folder");
    let disk = folder.path().join("disk");
    let mut image = vec![0_u8; 64 << 20];
    image[1080..1082].copy_from_slice(&[0x53, 0xef]);
    std::fs::write(&disk, &image).expect("written");
    let daemon = Daemon::start(&[]);
    daemon.call("bdev_uring_create", json!({"name": "disk", "filename": disk})).expect("created");
    let create = |force| {
        let params = json!({"bdev_name": "disk", "lvs_name": "s", "force": force});
        daemon.call("bdev_lvol_create_lvstore", params)
    };
    let (code, message) = create(false).expect_err("it holds something");
    assert!(code == -1 && message.contains("an ext2, ext3 or ext4 filesystem"), "{code} {message}");
    let params = json!({"bdev_name": "disk", "lvs_name": "s", "create": true});
    assert_eq!(daemon.call("bdev_lvol_open_lvstore", params).expect_err("not empty").0, -1);
    create(true).expect("forced");
}

/// The command's exit code, and what it printed on both of its outputs.
fn pollux(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pollux"))
        .args(arguments)
        .env("POLLUX_RPC_SOCKET", &daemon.socket)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("pollux runs");
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// A daemon with a device "disk": a new file of 64 MiB.
fn serving(disk: &Path) -> Daemon {
    let daemon = Daemon::start(&[]);
    let create = json!({"name": "disk", "filename": disk, "size_bytes": 64 << 20});
    daemon.call("bdev_uring_create", create).expect("created");
    daemon
}

fn ok(daemon: &Daemon, arguments: &[&str]) -> String {
    let (code, text) = pollux(daemon, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

#[test]
fn the_command_makes_stores_and_volumes_and_refuses_what_loses_data() {
    let folder = tempfile::tempdir_in(build_folder()).expect("folder");
    let disk = folder.path().join("disk");
    let path = disk.to_str().expect("a path");
    let daemon = serving(&disk);
    ok(&daemon, &["store", "create", "disk", "one"]);
    ok(&daemon, &["store", "rename", "one", "fast"]);
    let volume = ok(&daemon, &["volume", "create", "fast/v", "16M"]);
    let snapshot = ok(&daemon, &["volume", "snapshot", "fast/v", "before"]);
    ok(&daemon, &["volume", "clone", "fast/before", "trial"]);
    ok(&daemon, &["volume", "rename", "fast/trial", "copy"]);
    ok(&daemon, &["volume", "resize", "fast/copy", "32M"]);
    let lineage = || {
        let listed: Value = serde_json::from_str(&ok(&daemon, &["volume", "list", "--json"])).expect("JSON");
        let origin = |name: &str| {
            let volume = listed.as_array().expect("a list").iter().find(|volume| volume["name"] == name);
            volume.expect("listed")["origin"].clone()
        };
        ["v", "before", "copy"].map(origin)
    };
    assert_eq!(lineage(), [json!(null), json!("v"), json!("before")]);
    ok(&daemon, &["volume", "promote", "fast/copy"]);
    assert_eq!(lineage(), [json!("before"), json!("copy"), json!(null)]);
    let (code, text) = pollux(&daemon, &["volume", "promote", "fast/copy"]);
    assert!(code == Some(1) && text.contains("no clone"), "{code:?} {text}");
    ok(&daemon, &["volume", "promote", "fast/v"]);
    let listed = ok(&daemon, &["volume", "list", "fast"]);
    for (uuid, part) in [(&volume, "0 B  volume"), (&snapshot, "0 B  snapshot")] {
        let line = listed.lines().find(|line| line.contains(uuid.trim())).expect("listed");
        assert!(line.contains(part), "{line}");
    }
    assert!(listed.contains("32 MiB           0 B  clone "), "{listed}");
    assert!(ok(&daemon, &["store", "list"]).lines().any(|line| line.starts_with("fast ")), "listed");

    ok(&daemon, &["volume", "resize", "fast/copy", "16M"]);
    ok(&daemon, &["volume", "resize", "fast/copy", "8M", "--force"]);
    ok(&daemon, &["volume", "flatten", "fast/copy"]);
    ok(&daemon, &["volume", "set", "fast/copy", "--read-only", "true", "--reserve", "true"]);
    let listed: Value = serde_json::from_str(&ok(&daemon, &["volume", "list", "--json"])).expect("JSON");
    let copy = listed.as_array().expect("a list").iter().find(|v| v["name"] == "copy").expect("listed");
    let settings = (&copy["read_only"], &copy["is_thin_provisioned"], &copy["is_clone"]);
    assert_eq!(settings, (&json!(true), &json!(false), &json!(false)));
    assert!(ok(&daemon, &["volume", "usage", "fast/v"]).contains("16 MiB"));
    assert_eq!(ok(&daemon, &["volume", "diff", "fast/before", "fast/v"]), "");
    assert_eq!(pollux(&daemon, &["volume", "set", "fast/v"]).0, Some(2));
    assert_eq!(pollux(&daemon, &["volume", "create", "fast/huge", "1T", "--reserve"]).0, Some(1));
    ok(&daemon, &["volume", "rollback", "fast/v", "fast/before"]);
    ok(&daemon, &["volume", "delete", "fast/before"]);
    let (code, text) = pollux(&daemon, &["volume", "delete", "fast/before"]);
    assert!(code == Some(1) && text.contains("no volume fast/before"), "{code:?} {text}");
    let (code, text) = pollux(&daemon, &["volume", "create", "v", "1M"]);
    assert!(code == Some(2) && text.contains("expected STORE/NAME"), "{code:?} {text}");
    assert_eq!(pollux(&daemon, &["volume", "create", "fast/w", "5k"]).0, Some(2));
    let (code, text) = pollux(&daemon, &["store", "destroy", "fast"]);
    assert!(code == Some(2) && text.contains("has 2 volumes"), "{code:?} {text}");

    // Looked at only when nobody serves it.
    let (code, text) = pollux(&daemon, &["store", "check", path]);
    assert!(code == Some(1) && text.contains("in use"), "{code:?} {text}");
    daemon.call("bdev_uring_delete", json!({"name": "disk"})).expect("deleted");
    assert!(ok(&daemon, &["store", "check", "--data", path]).starts_with("sound: 2 volumes"));
    let dumped: Value = serde_json::from_str(&ok(&daemon, &["store", "dump", "--json", path])).expect("JSON");
    assert_eq!((&dumped["name"], &dumped["volumes"][0]["name"]), (&json!("fast"), &json!("v")));
    assert!(ok(&daemon, &["store", "dump", path]).contains("name=copy"));

    daemon.call("bdev_uring_create", json!({"name": "disk", "filename": disk})).expect("created");
    ok(&daemon, &["store", "destroy", "fast", "--force"]);
    daemon.call("bdev_uring_delete", json!({"name": "disk"})).expect("deleted");
    let (code, text) = pollux(&daemon, &["store", "check", path]);
    assert!(code == Some(1) && text.contains("not a store"), "{code:?} {text}");
    let socket = "/nonexistent/socket";
    assert_eq!(pollux(&daemon, &["volume", "list", "--rpc-socket", socket]).0, Some(3));
}

#[test]
fn the_command_gives_a_store_the_rest_of_a_file_that_became_larger() {
    let folder = tempfile::tempdir_in(build_folder()).expect("folder");
    let disk = folder.path().join("disk");
    let path = disk.to_str().expect("a path");
    let daemon = serving(&disk);
    ok(&daemon, &["store", "create", "disk", "fast"]);
    ok(&daemon, &["volume", "create", "fast/v", "64M"]);
    assert_eq!(pollux(&daemon, &["volume", "create", "fast/w", "64M", "--reserve"]).0, Some(1));
    ok(&daemon, &["store", "grow", "fast"]);
    std::fs::OpenOptions::new().write(true).open(&disk).expect("open").set_len(160 << 20).expect("larger");
    ok(&daemon, &["store", "grow", "fast"]);
    ok(&daemon, &["volume", "create", "fast/w", "64M", "--reserve"]);
    ok(&daemon, &["store", "rename", "fast", "wide"]);
    let (code, text) = pollux(&daemon, &["store", "grow", "fast"]);
    assert!(code == Some(1) && text.contains("no store fast"), "{code:?} {text}");

    daemon.call("bdev_uring_delete", json!({"name": "disk"})).expect("deleted");
    assert!(ok(&daemon, &["store", "check", "--data", path]).starts_with("sound: 2 volumes"));
    let dumped: Value = serde_json::from_str(&ok(&daemon, &["store", "dump", "--json", path])).expect("JSON");
    let sizes = (&dumped["name"], &dumped["blocks"], &dumped["earlier_blocks"]);
    assert_eq!(sizes, (&json!("wide"), &json!(40_960), &json!([16_384])));
    daemon.call("bdev_uring_create", json!({"name": "disk", "filename": disk})).expect("created");
    ok(&daemon, &["store", "destroy", "wide", "--force"]);
    daemon.call("bdev_uring_delete", json!({"name": "disk"})).expect("deleted");
    assert!(pollux(&daemon, &["store", "check", path]).1.contains("not a store"));
}
