//! SPDK's own client, as PyPI has it, sets up a target and reads it back.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Daemon, build_folder, free_address};
use serde_json::Value;

/// The release of the client whose behaviour was studied.
const SPDK_PACKAGE: &str = "spdk==26.9";

const NQN: &str = "nqn.2026-01.org.example:spdk-tools";

/// The client, installed once for all tests into `build/`.
fn spdk_rpc() -> PathBuf {
    let folder = build_folder();
    let lock = std::fs::File::create(folder.join("spdk-venv.lock")).expect("a lock file");
    lock.lock().expect("locked");
    let venv = folder.join("spdk-venv");
    let client = venv.join("bin/spdk-rpc");
    if !client.exists() {
        run(Command::new("python3").arg("-m").arg("venv").arg(&venv));
        run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", SPDK_PACKAGE]));
    }
    client
}

fn run(command: &mut Command) {
    let output = command.output().expect("started");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Spdk {
    client: PathBuf,
    socket: PathBuf,
}

impl Spdk {
    fn new(daemon: &Daemon) -> Self {
        Self { client: spdk_rpc(), socket: daemon.socket.clone() }
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.client);
        command.arg("-s").arg(&self.socket).args(arguments).stdin(std::process::Stdio::null());
        command.output().expect("the client runs")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}");
        stdout.into_owned()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("JSON")
    }

    /// What the client printed when it was refused.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "{arguments:?} was accepted");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn load(&self, file: &Path) {
        let mut command = Command::new(&self.client);
        command.arg("-s").arg(&self.socket).args(["load_config", "-j"]).arg(file);
        run(command.stdin(std::process::Stdio::null()));
    }
}

fn set_up(spdk: &Spdk, port: &str, discovery_port: &str) {
    let tcp = |port| ["-t", "TCP", "-a", "127.0.0.1", "-s", port];
    spdk.ok(&["nvmf_create_transport", "-t", "TCP"]);
    let name = spdk.ok(&["bdev_malloc_create", "-b", "Malloc0", "64", "4096"]);
    assert_eq!(name.trim(), "Malloc0");
    spdk.ok(&["nvmf_create_subsystem", NQN, "-a", "-s", "POLLUX0001", "-d", "Pollux test"]);
    spdk.ok(&["nvmf_subsystem_add_ns", NQN, "Malloc0"]);
    spdk.ok(&[&["nvmf_subsystem_add_listener", NQN], tcp(port).as_slice()].concat());
    spdk.ok(&[&["nvmf_subsystem_add_listener", "discovery"], tcp(discovery_port).as_slice()].concat());
}

#[test]
fn spdks_client_sets_up_a_target_and_reads_it_back() {
    let daemon = Daemon::start(&[]);
    let spdk = Spdk::new(&daemon);
    let (port, discovery_port) = (free_address().port().to_string(), free_address().port().to_string());
    set_up(&spdk, &port, &discovery_port);

    let subsystems = spdk.json(&["nvmf_get_subsystems"]);
    let discovery = &subsystems[0];
    assert_eq!(discovery["nqn"], "nqn.2014-08.org.nvmexpress.discovery");
    assert_eq!(discovery["subtype"], "Discovery");
    assert_eq!(discovery["listen_addresses"][0]["trsvcid"], discovery_port.as_str());
    let ours = &subsystems[1];
    assert_eq!(ours["nqn"], NQN);
    assert_eq!(ours["subtype"], "NVMe");
    assert_eq!(ours["allow_any_host"], true);
    assert_eq!(ours["serial_number"], "POLLUX0001");
    assert_eq!(ours["namespaces"][0]["nsid"], 1);
    assert_eq!(ours["namespaces"][0]["bdev_name"], "Malloc0");
    let listener = &ours["listen_addresses"][0];
    assert_eq!(
        (&listener["trtype"], &listener["adrfam"], &listener["traddr"], &listener["trsvcid"]),
        (&"TCP".into(), &"IPv4".into(), &"127.0.0.1".into(), &port.as_str().into())
    );

    let bdev = &spdk.json(&["bdev_get_bdevs", "-b", "Malloc0"])[0];
    assert_eq!((&bdev["block_size"], &bdev["num_blocks"]), (&4096.into(), &16384.into()));
    assert_eq!(bdev["uuid"], ours["namespaces"][0]["uuid"]);
    assert_eq!(bdev["claimed"], true);
    assert_eq!(spdk.json(&["nvmf_get_transports"])[0]["trtype"], "TCP");
}

#[test]
fn what_spdks_client_saves_it_loads_into_a_new_daemon_unchanged() {
    let daemon = Daemon::start(&[]);
    let spdk = Spdk::new(&daemon);
    let (port, discovery_port) = (free_address().port().to_string(), free_address().port().to_string());
    set_up(&spdk, &port, &discovery_port);
    spdk.ok(&["bdev_null_create", "Null0", "64", "512"]);
    spdk.ok(&["nvmf_create_subsystem", "nqn.2026-01.org.example:ana", "-r", "-m", "4"]);
    spdk.ok(&["nvmf_subsystem_add_host", "nqn.2026-01.org.example:ana", "nqn.2026-01.org.example:host"]);
    spdk.ok(&["nvmf_subsystem_add_ns", "nqn.2026-01.org.example:ana", "Null0", "-n", "3", "-a", "2"]);
    let address = ["-t", "tcp", "-f", "ipv4", "-a", "127.0.0.1", "-s", &port];
    let ana = "nqn.2026-01.org.example:ana";
    spdk.ok(&[&["nvmf_subsystem_add_listener", ana, "-n", "non_optimized"], address.as_slice()].concat());
    spdk.ok(&["nvmf_discovery_add_referral", "-t", "tcp", "-f", "ipv4", "-a", "127.0.0.9", "-s", "8009"]);

    let saved = spdk.json(&["save_config"]);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("saved.json");
    std::fs::write(&file, saved.to_string()).expect("written");
    let subsystems = spdk.json(&["nvmf_get_subsystems"]);
    assert!(daemon.stop().success());

    let fresh = Daemon::start(&[]);
    let spdk = Spdk::new(&fresh);
    spdk.load(&file);
    assert_eq!(spdk.json(&["save_config"]), saved);
    assert_eq!(spdk.json(&["nvmf_get_subsystems"]), subsystems);
    // The same through our own method.
    assert_eq!(fresh.call("save_config", Value::Null).expect("saved"), saved);
}

#[test]
fn spdks_client_makes_stores_volumes_snapshots_and_clones() {
    let daemon = Daemon::start(&[]);
    let spdk = Spdk::new(&daemon);
    let made = |arguments: &[&str]| spdk.ok(arguments).trim().to_owned();
    spdk.ok(&["bdev_malloc_create", "-b", "Malloc0", "128", "512"]);
    let store = made(&["bdev_lvol_create_lvstore", "Malloc0", "lvs"]);
    let shown = &spdk.json(&["bdev_lvol_get_lvstores", "-l", "lvs"])[0];
    assert_eq!((&shown["uuid"], &shown["base_bdev"]), (&store.as_str().into(), &"Malloc0".into()));
    let free =
        |spdk: &Spdk| spdk.json(&["bdev_lvol_get_lvstores", "-u", &store])[0]["free_clusters"].as_u64();
    assert!(free(&spdk) <= shown["total_data_clusters"].as_u64());
    assert_eq!(spdk.json(&["bdev_get_bdevs", "-b", "Malloc0"])[0]["claimed"], true);

    let volume = made(&["bdev_lvol_create", "-l", "lvs", "-t", "vol", "64"]);
    let bdev = &spdk.json(&["bdev_get_bdevs", "-b", "lvs/vol"])[0];
    assert_eq!((&bdev["name"], &bdev["aliases"][0]), (&volume.as_str().into(), &"lvs/vol".into()));
    assert_eq!((&bdev["num_blocks"], &bdev["block_size"]), (&16384.into(), &4096.into()));
    assert_eq!(bdev["driver_specific"]["lvol"]["lvol_store_uuid"], store.as_str());
    let snapshot = made(&["bdev_lvol_snapshot", "lvs/vol", "snap"]);
    let clone = made(&["bdev_lvol_clone", "lvs/snap", "clone"]);
    spdk.ok(&["bdev_lvol_rename", "lvs/clone", "copy"]);
    spdk.ok(&["bdev_lvol_resize", "lvs/copy", "32"]);
    assert_eq!(spdk.json(&["bdev_get_bdevs", "-b", "lvs/copy"])[0]["num_blocks"], 8192);
    spdk.ok(&["bdev_lvol_rename_lvstore", "lvs", "other"]);
    let thick = made(&["bdev_lvol_create", "-u", &store, "thick", "4"]);
    spdk.ok(&["bdev_lvol_set_read_only", "other/thick"]);

    let all = spdk.json(&["bdev_lvol_get_lvols"]);
    let of = |uuid: &str| {
        let all = all.as_array().expect("a list");
        all.iter().find(|lvol| lvol["uuid"] == uuid).expect("listed").clone()
    };
    assert_eq!((&of(&volume)["alias"], &of(&volume)["is_snapshot"]), (&"other/vol".into(), &false.into()));
    assert_eq!((&of(&snapshot)["name"], &of(&snapshot)["is_snapshot"]), (&"snap".into(), &true.into()));
    assert_eq!((&of(&clone)["alias"], &of(&clone)["is_clone"]), (&"other/copy".into(), &true.into()));
    assert_eq!(
        (&of(&volume)["is_thin_provisioned"], &of(&thick)["is_thin_provisioned"]),
        (&true.into(), &false.into())
    );
    assert_eq!(of(&volume)["num_allocated_clusters"], 0);
    spdk.ok(&["bdev_lvol_delete", "other/thick"]);
    spdk.ok(&["bdev_lvol_decouple_parent", "other/copy"]);
    spdk.ok(&["bdev_lvol_inflate", "other/copy"]);
    let all = spdk.json(&["bdev_lvol_get_lvols"]);
    let copy =
        all.as_array().expect("a list").iter().find(|lvol| lvol["uuid"] == clone.as_str()).expect("listed");
    assert_eq!((&copy["is_clone"], &copy["is_thin_provisioned"]), (&false.into(), &false.into()));
    spdk.ok(&["nvmf_create_subsystem", NQN, "-a"]);
    spdk.ok(&["nvmf_subsystem_add_ns", NQN, "other/copy"]);
    assert_eq!(spdk.json(&["nvmf_get_subsystems"])[1]["namespaces"][0]["bdev_name"], clone.as_str());

    spdk.ok(&["bdev_lvol_delete", "other/snap"]);
    spdk.ok(&["bdev_lvol_delete", &clone]);
    assert_eq!(spdk.json(&["nvmf_get_subsystems"])[1]["namespaces"], serde_json::json!([]));
    assert_eq!(spdk.json(&["bdev_lvol_get_lvols", "-l", "other"]).as_array().map(Vec::len), Some(1));
    spdk.ok(&["bdev_lvol_delete_lvstore", "-l", "other"]);
    assert_eq!(spdk.json(&["bdev_lvol_get_lvols"]), serde_json::json!([]));
    assert_eq!(spdk.json(&["bdev_get_bdevs"]).as_array().map(Vec::len), Some(1));
    spdk.ok(&["bdev_malloc_delete", "Malloc0"]);
}

#[test]
fn what_a_store_refuses_has_spdks_codes() {
    let daemon = Daemon::start(&[]);
    let spdk = Spdk::new(&daemon);
    spdk.ok(&["bdev_malloc_create", "-b", "Malloc0", "64", "4096"]);
    assert!(spdk.refused(&["bdev_lvol_create_lvstore", "Malloc1", "lvs"]).contains("\"code\": -19"));
    spdk.ok(&["bdev_lvol_create_lvstore", "Malloc0", "lvs"]);
    assert!(spdk.refused(&["bdev_lvol_create_lvstore", "Malloc0", "lvs"]).contains("\"code\": -17"));
    assert!(spdk.refused(&["bdev_lvol_create_lvstore", "Malloc0", "lvs2"]).contains("\"code\": -16"));
    assert!(spdk.refused(&["bdev_lvol_create", "-l", "none", "v", "1"]).contains("\"code\": -19"));
    assert!(spdk.refused(&["bdev_lvol_create", "v", "1"]).contains("\"code\": -22"));
    spdk.ok(&["bdev_lvol_create", "-l", "lvs", "v", "1", "-t"]);
    let twice = spdk.refused(&["bdev_lvol_create", "-l", "lvs", "v", "1", "-t"]);
    assert!(twice.contains("\"code\": -32602") && twice.contains("File exists"), "{twice}");
    assert!(spdk.refused(&["bdev_lvol_snapshot", "lvs/none", "s"]).contains("\"code\": -19"));
    assert!(spdk.refused(&["bdev_lvol_delete", "lvs/none"]).contains("\"code\": -19"));
    assert!(spdk.refused(&["bdev_lvol_rename_lvstore", "none", "x"]).contains("\"code\": -2"));
    assert!(spdk.refused(&["bdev_lvol_delete_lvstore", "-l", "none"]).contains("\"code\": -19"));
    // A device that a store is on is nobody else's.
    spdk.ok(&["nvmf_create_subsystem", NQN, "-a"]);
    assert!(spdk.refused(&["nvmf_subsystem_add_ns", NQN, "Malloc0"]).contains("in use by a store"));
    // Nor is one that hosts see.
    spdk.ok(&["bdev_malloc_create", "-b", "Malloc1", "64", "4096"]);
    spdk.ok(&["nvmf_subsystem_add_ns", NQN, "Malloc1"]);
    assert!(spdk.refused(&["bdev_lvol_create_lvstore", "Malloc1", "l"]).contains("\"code\": -16"));
}

#[test]
fn everything_spdks_client_asks_about_a_running_process_is_answered() {
    let daemon = Daemon::start(&[]);
    let spdk = Spdk::new(&daemon);
    assert!(spdk.json(&["rpc_get_methods"]).as_array().expect("a list").contains(&"nvmf_get_stats".into()));
    assert_eq!(spdk.json(&["spdk_get_version"])["fields"]["major"], 26);
    assert_eq!(spdk.json(&["framework_get_reactors"])["reactors"][0]["lcore"], 0);
    assert_eq!(spdk.json(&["thread_get_stats"])["threads"][0]["name"], "reactor-0");
    assert_eq!(spdk.json(&["nvmf_get_stats"])["poll_groups"].as_array().map(Vec::len), Some(1));
    spdk.ok(&["framework_wait_init"]);
    spdk.ok(&["bdev_null_create", "Null0", "1", "512"]);
    let stats = spdk.json(&["bdev_get_iostat", "--names", "Null0"]);
    assert_eq!(
        (&stats["bdevs"][0]["name"], &stats["bdevs"][0]["num_read_ops"]),
        (&"Null0".into(), &0.into())
    );
    assert_eq!(spdk.json(&["notify_get_notifications"])[0]["type"], "bdev_register");
    spdk.ok(&["log_set_level", "DEBUG"]);
    assert_eq!(spdk.ok(&["log_get_level"]).trim().trim_matches('"'), "DEBUG");
    assert!(spdk.json(&["log_get_flags"])["nvmf_tcp"].is_boolean());
}

#[test]
fn bad_input_is_refused_with_spdks_codes() {
    let daemon = Daemon::start(&[]);
    let spdk = Spdk::new(&daemon);
    spdk.ok(&["bdev_null_create", "Null0", "1", "512"]);
    assert!(spdk.refused(&["bdev_null_create", "Null0", "1", "512"]).contains("\"code\": -17"));
    assert!(spdk.refused(&["bdev_null_delete", "Null1"]).contains("\"code\": -19"));
    assert!(spdk.refused(&["bdev_get_bdevs", "-b", "Null1"]).contains("\"code\": -19"));
    assert!(spdk.refused(&["bdev_null_create", "Null1", "1", "520"]).contains("\"code\": -22"));
    assert!(spdk.refused(&["nvmf_create_subsystem", "no-nqn"]).contains("\"code\": -32602"));
    assert!(spdk.refused(&["nvmf_get_subsystems", NQN]).contains("not found"));
    assert!(spdk.refused(&["nvmf_create_transport", "-t", "FC"]).contains("\"code\": -32602"));
    assert!(spdk.refused(&["nvmf_create_transport", "-t", "TCP", "-z"]).contains("zcopy"));
    spdk.ok(&["nvmf_create_transport", "-t", "TCP"]);
    assert!(spdk.refused(&["nvmf_create_transport", "-t", "TCP"]).contains("\"code\": -32603"));
}

#[test]
fn spdks_client_sets_and_saves_the_time_outs_of_controllers() {
    let daemon = Daemon::start(&[]);
    let spdk = Spdk::new(&daemon);
    spdk.ok(&[
        "bdev_nvme_set_options",
        "-t",
        "5000000",
        "--timeout-admin-us",
        "6000000",
        "-a",
        "abort",
        "-k",
        "4000",
        "-c",
        "3",
    ]);
    let saved = spdk.ok(&["save_config"]);
    for part in
        ["\"bdev_nvme_set_options\"", "\"timeout_us\": 5000000", "\"abort\"", "\"transport_retry_count\": 3"]
    {
        assert!(saved.contains(part), "{part} in {saved}");
    }
    let refused = spdk.refused(&["bdev_nvme_set_options", "--arbitration-burst", "3"]);
    assert!(refused.contains("-32602") && refused.contains("arbitration_burst"), "{refused}");
    assert!(daemon.stop().success());
}
