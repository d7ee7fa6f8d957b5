//! What a configuration file stands for: method calls, in the order in which they are made.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use super::schema::nearest;
use super::types::{
    Config, Controller, Device, DeviceKind, Listener, LocalController, Namespace, NvmeControllers, PathState,
    Rdma, Referral, Replica, Store, Subsystem, Tcp, Transport, Volume,
};

/// NQN under which every discovery service answers.
const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Bytes of a block of a memory or null device, when nobody says.
const BLOCK_SIZE_DEFAULT: u32 = 4096;

/// One call of a method.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The method.
    pub method: &'static str,
    /// Its parameters.
    pub params: Value,
    /// The part of the file from which it comes, for messages.
    pub what: String,
}

/// Values that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {message}")]
pub struct Contradiction {
    /// The part of the file.
    pub what: String,
    /// What is wrong.
    pub message: String,
}

impl Config {
    /// The calls that set up what the file describes, on a target that is empty.
    ///
    /// # Errors
    /// When a device lacks what its kind needs, a name is used twice, or a namespace has a device that is not there.
    pub fn calls(&self) -> Result<Vec<Call>, Contradiction> {
        self.check_references()?;
        let mut calls = self.devices.iter().map(device).collect::<Result<Vec<_>, _>>()?;
        calls.extend(self.tcp_transport());
        calls.extend(self.rdma_transport());
        calls.extend(self.nvme_controllers.as_ref().map(controller_options));
        calls.extend(self.nvme.iter().map(attach_local));
        calls.extend(self.controllers.iter().map(attach));
        calls.extend(self.stores.iter().map(open_store));
        calls.extend(self.replicas.iter().map(create_replica));
        self.volumes.iter().for_each(|volume| create_volume(&mut calls, volume));
        calls.extend(self.discovery.referrals.iter().map(referral));
        self.subsystems.iter().for_each(|subsystem| add_subsystem(&mut calls, subsystem));
        let listener = |transport| move |address: &SocketAddr| discovery_listener(transport, *address);
        calls.extend(self.discovery.listeners.iter().map(listener(Transport::Tcp)));
        calls.extend(self.discovery.rdma_listeners.iter().map(listener(Transport::Rdma)));
        Ok(calls)
    }

    fn check_references(&self) -> Result<(), Contradiction> {
        let mut devices = BTreeSet::new();
        let made = self.devices.iter().map(|device| &device.name);
        let made = made.chain(self.replicas.iter().map(|replica| &replica.name));
        for name in made.chain(self.volumes.iter().map(|volume| &volume.name)) {
            unique(&mut devices, name.as_str(), "device")?;
        }
        let mut controllers = BTreeSet::new();
        let local = self.nvme.iter().map(|controller| &controller.name);
        for name in local.chain(self.controllers.iter().map(|controller| &controller.name)) {
            unique(&mut controllers, name.as_str(), "controller")?;
        }
        let attached = |device: &str| {
            let (name, nsid) = device.rsplit_once('n').unwrap_or_default();
            controllers.contains(name) && nsid.parse::<u32>().is_ok()
        };
        let mut stores = BTreeSet::new();
        for store in &self.stores {
            unique(&mut stores, store.name.as_str(), "store")?;
        }
        // Volumes are made by calls, and are on the device: here their store has to be known, or their UUID.
        let volume = |device: &str| {
            let store = device.split_once('/').map(|(store, _)| store);
            store.is_some_and(|store| stores.contains(store)) || uuid::Uuid::try_parse(device).is_ok()
        };
        let known = |device: &str, what: String| {
            if devices.contains(device) || attached(device) || volume(device) {
                return Ok(());
            }
            let message = match nearest(device, devices.iter().copied()) {
                Some(name) => format!("there is no device `{device}`; did you mean `{name}`?"),
                None => format!("there is no device `{device}`"),
            };
            Err(Contradiction { what, message })
        };
        for replica in &self.replicas {
            known(&replica.device, format!("replica {}", replica.name))?;
        }
        for volume in &self.volumes {
            volume.replicas.iter().try_for_each(|name| known(name, format!("volume {}", volume.name)))?;
        }
        let mut nqns = BTreeSet::new();
        let mut used = BTreeSet::new();
        for subsystem in &self.subsystems {
            unique(&mut nqns, subsystem.nqn.0.as_str(), "subsystem")?;
            for namespace in subsystem.namespaces.iter().flatten() {
                let device = namespace.device.as_str();
                known(device, format!("subsystem {}", subsystem.nqn))?;
                unique(&mut used, device, "namespace on device")?;
            }
        }
        Ok(())
    }

    /// Where the file listens over a transport.
    #[must_use]
    pub fn listen_addresses(&self, transport: Transport) -> Vec<SocketAddr> {
        let discovery = match transport {
            Transport::Tcp => &self.discovery.listeners,
            Transport::Rdma => &self.discovery.rdma_listeners,
        };
        let listeners = self.subsystems.iter().flat_map(|subsystem| subsystem.listeners.iter().flatten());
        let of_transport = listeners.filter(|listener| kind(listener.transport) == transport);
        of_transport.map(|listener| listener.address).chain(discovery.iter().copied()).collect()
    }

    fn listens(&self, transport: Transport) -> bool {
        !self.listen_addresses(transport).is_empty()
    }

    /// The TCP transport, if the file needs one.
    fn tcp_transport(&self) -> Option<Call> {
        let tcp = self.tcp.clone().or_else(|| self.listens(Transport::Tcp).then(Tcp::default))?;
        let params = json!({
            "trtype": "TCP",
            "max_queue_depth": tcp.queue_depth,
            "max_aq_depth": tcp.admin_queue_depth,
            "max_io_qpairs_per_ctrlr": tcp.io_queues_per_controller,
            "in_capsule_data_size": tcp.in_capsule_data.0,
            "max_io_size": tcp.io_size.0,
            "c2h_success": tcp.c2h_success,
        });
        Some(Call { method: "nvmf_create_transport", params, what: "tcp".to_owned() })
    }

    /// The RDMA transport, if the file needs one.
    fn rdma_transport(&self) -> Option<Call> {
        let rdma = self.rdma.clone().or_else(|| self.listens(Transport::Rdma).then(Rdma::default))?;
        let params = json!({
            "trtype": "RDMA",
            "max_queue_depth": rdma.queue_depth,
            "max_aq_depth": rdma.admin_queue_depth,
            "max_io_qpairs_per_ctrlr": rdma.io_queues_per_controller,
            "in_capsule_data_size": rdma.in_capsule_data.0,
            "max_io_size": rdma.io_size.0,
            "no_srq": rdma.shared_receives == 0,
            "max_srq_depth": rdma.shared_receives,
        });
        Some(Call { method: "nvmf_create_transport", params, what: "rdma".to_owned() })
    }
}

fn kind(transport: Option<Transport>) -> Transport {
    transport.unwrap_or(Transport::Tcp)
}

/// A transport as methods call it.
fn trtype(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Rdma => "RDMA",
    }
}

fn unique<'a>(seen: &mut BTreeSet<&'a str>, name: &'a str, what: &str) -> Result<(), Contradiction> {
    if seen.insert(name) {
        return Ok(());
    }
    Err(Contradiction { what: format!("{what} {name}"), message: "is there twice".to_owned() })
}

fn device(device: &Device) -> Result<Call, Contradiction> {
    let what = format!("device {}", device.name);
    let wrong = |message: &str| Contradiction { what: what.clone(), message: message.to_owned() };
    let mut params = Map::new();
    params.insert("name".to_owned(), json!(device.name));
    optional(&mut params, "uuid", &device.uuid);
    let method = match device.kind {
        DeviceKind::Uring => {
            let path = device.path.as_ref().ok_or_else(|| wrong("`path` is missing"))?;
            params.insert("filename".to_owned(), json!(path));
            optional(&mut params, "block_size", &device.block_size);
            optional(&mut params, "size_bytes", &device.size.map(|size| size.0));
            optional(&mut params, "direct", &device.direct);
            "bdev_uring_create"
        }
        DeviceKind::Memory | DeviceKind::Null => {
            let size = device.size.ok_or_else(|| wrong("`size` is missing"))?;
            if device.path.is_some() || device.direct.is_some() {
                return Err(wrong("`path` and `direct` go only with kind `uring`"));
            }
            let block_size = device.block_size.unwrap_or(BLOCK_SIZE_DEFAULT);
            if block_size == 0 || size.0 % u64::from(block_size) != 0 {
                return Err(wrong("`size` is not a multiple of `block_size`"));
            }
            params.insert("num_blocks".to_owned(), json!(size.0 / u64::from(block_size)));
            params.insert("block_size".to_owned(), json!(block_size));
            if device.kind == DeviceKind::Memory { "bdev_malloc_create" } else { "bdev_null_create" }
        }
    };
    Ok(Call { method, params: Value::Object(params), what })
}

fn controller_options(options: &NvmeControllers) -> Call {
    Call { method: "bdev_nvme_set_options", params: json!(options), what: "nvme_controllers".to_owned() }
}

fn attach_local(controller: &LocalController) -> Call {
    let LocalController { name, address } = controller;
    Call {
        method: "bdev_nvme_attach_controller",
        params: json!({"name": name, "trtype": "PCIe", "traddr": address}),
        what: format!("controller {name}"),
    }
}

fn attach(controller: &Controller) -> Call {
    let mut params = Map::new();
    params.insert("name".to_owned(), json!(controller.name));
    params.insert("trtype".to_owned(), json!(trtype(kind(controller.transport))));
    params.insert("traddr".to_owned(), json!(controller.address.ip().to_string()));
    params.insert("trsvcid".to_owned(), json!(controller.address.port().to_string()));
    params.insert("subnqn".to_owned(), json!(controller.subnqn));
    optional(&mut params, "hostnqn", &controller.hostnqn);
    optional(&mut params, "fast_io_fail_timeout_sec", &controller.fail_after_s);
    optional(&mut params, "reconnect_delay_sec", &controller.reconnect_delay_s);
    optional(&mut params, "replica_block_size", &controller.replica_block_size);
    let what = format!("controller {}", controller.name);
    Call { method: "bdev_nvme_attach_controller", params: Value::Object(params), what }
}

fn open_store(store: &Store) -> Call {
    let mut params = Map::new();
    params.insert("bdev_name".to_owned(), json!(store.device));
    params.insert("lvs_name".to_owned(), json!(store.name));
    optional(&mut params, "create", &store.create);
    optional(&mut params, "write_through", &store.write_through);
    let what = format!("store {}", store.name);
    Call { method: "bdev_lvol_open_lvstore", params: Value::Object(params), what }
}

fn create_replica(replica: &Replica) -> Call {
    let mut params = Map::new();
    params.insert("name".to_owned(), json!(replica.name));
    params.insert("bdev_name".to_owned(), json!(replica.device));
    params.insert("volume".to_owned(), json!(replica.volume));
    optional(&mut params, "size_bytes", &replica.size.map(|size| size.0));
    optional(&mut params, "zeroed", &replica.zeroed);
    let what = format!("replica {}", replica.name);
    Call { method: "replica_create", params: Value::Object(params), what }
}

fn create_volume(calls: &mut Vec<Call>, volume: &Volume) {
    let what = format!("volume {}", volume.name);
    let mut params = Map::new();
    params.insert("name".to_owned(), json!(volume.name));
    params.insert("uuid".to_owned(), json!(volume.uuid));
    params.insert("replicas".to_owned(), json!(volume.replicas));
    optional(&mut params, "min_in_sync", &volume.min_in_sync);
    calls.push(Call { method: "volume_create", params: Value::Object(params), what: what.clone() });
    if volume.rebuild_bandwidth_mb_s.is_some() || volume.rebuild_latency_target_us.is_some() {
        let mut params = Map::new();
        params.insert("name".to_owned(), json!(volume.name));
        optional(&mut params, "bandwidth_mb_sec", &volume.rebuild_bandwidth_mb_s);
        optional(&mut params, "rebuild_latency_target_us", &volume.rebuild_latency_target_us);
        calls.push(Call { method: "volume_set_resync", params: Value::Object(params), what });
    }
}

fn add_subsystem(calls: &mut Vec<Call>, subsystem: &Subsystem) {
    let what = format!("subsystem {}", subsystem.nqn);
    let mut push = |method, params| calls.push(Call { method, params, what: what.clone() });
    push("nvmf_create_subsystem", create_subsystem(subsystem));
    for host in subsystem.hosts.iter().flatten() {
        push("nvmf_subsystem_add_host", json!({"nqn": subsystem.nqn, "host": host}));
    }
    for namespace in subsystem.namespaces.iter().flatten() {
        push("nvmf_subsystem_add_ns", json!({"nqn": subsystem.nqn, "namespace": add_namespace(namespace)}));
    }
    for listener in subsystem.listeners.iter().flatten() {
        push("nvmf_subsystem_add_listener", add_listener(subsystem, listener));
    }
}

fn create_subsystem(subsystem: &Subsystem) -> Value {
    let mut params = Map::new();
    params.insert("nqn".to_owned(), json!(subsystem.nqn));
    optional(&mut params, "serial_number", &subsystem.serial);
    optional(&mut params, "model_number", &subsystem.model);
    optional(&mut params, "allow_any_host", &subsystem.allow_any_host);
    optional(&mut params, "ana_reporting", &subsystem.ana_reporting);
    optional(&mut params, "max_namespaces", &subsystem.namespaces_max);
    optional(&mut params, "min_cntlid", &subsystem.controller_id_min);
    optional(&mut params, "max_cntlid", &subsystem.controller_id_max);
    optional(&mut params, "hidden", &subsystem.hidden);
    Value::Object(params)
}

fn add_namespace(namespace: &Namespace) -> Value {
    let mut params = Map::new();
    params.insert("bdev_name".to_owned(), json!(namespace.device));
    optional(&mut params, "nsid", &namespace.nsid);
    optional(&mut params, "uuid", &namespace.uuid);
    optional(&mut params, "nguid", &namespace.nguid);
    optional(&mut params, "eui64", &namespace.eui64);
    optional(&mut params, "anagrpid", &namespace.ana_group);
    Value::Object(params)
}

fn add_listener(subsystem: &Subsystem, listener: &Listener) -> Value {
    let mut params = Map::new();
    params.insert("nqn".to_owned(), json!(subsystem.nqn));
    params.insert("listen_address".to_owned(), listen_address(kind(listener.transport), listener.address));
    optional(&mut params, "ana_state", &listener.ana_state.map(PathState::as_str));
    Value::Object(params)
}

fn referral(referral: &Referral) -> Call {
    let mut params = Map::new();
    params.insert("address".to_owned(), listen_address(kind(referral.transport), referral.address));
    optional(&mut params, "subnqn", &referral.nqn);
    Call {
        method: "nvmf_discovery_add_referral",
        params: Value::Object(params),
        what: format!("referral {}", referral.address),
    }
}

fn discovery_listener(transport: Transport, address: SocketAddr) -> Call {
    let params = json!({"nqn": DISCOVERY_NQN, "listen_address": listen_address(transport, address)});
    Call { method: "nvmf_subsystem_add_listener", params, what: format!("discovery listener {address}") }
}

fn listen_address(transport: Transport, address: SocketAddr) -> Value {
    let adrfam = match address.ip() {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    json!({
        "trtype": trtype(transport),
        "adrfam": adrfam,
        "traddr": address.ip().to_string(),
        "trsvcid": address.port().to_string(),
    })
}

fn optional(params: &mut Map<String, Value>, name: &str, value: &Option<impl serde::Serialize>) {
    if let Some(value) = value {
        params.insert(name.to_owned(), json!(value));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("c.toml"), text).expect("accepted")
    }

    #[test]
    fn a_file_becomes_calls_in_the_order_they_depend_on_each_other() {
        let config = config(
            r#"
            [[subsystems]]
            nqn = "nqn.2026-01.org.example:s"
            hosts = ["nqn.2026-01.org.example:h"]
            namespaces = [{ device = "m" }]
            listeners = [{ address = "[::1]:4420" }]
            [[devices]]
            name = "m"
            kind = "memory"
            size = "1 MiB"
            "#,
        );
        let calls = config.calls().expect("consistent");
        let methods: Vec<_> = calls.iter().map(|call| call.method).collect();
        assert_eq!(
            methods,
            [
                "bdev_malloc_create",
                "nvmf_create_transport",
                "nvmf_create_subsystem",
                "nvmf_subsystem_add_host",
                "nvmf_subsystem_add_ns",
                "nvmf_subsystem_add_listener",
            ]
        );
        assert_eq!(calls[0].params, json!({"name": "m", "num_blocks": 256, "block_size": 4096}));
        assert_eq!(calls[5].params["listen_address"]["adrfam"], "IPv6");
    }

    #[test]
    fn a_transport_is_made_for_each_kind_of_listener() {
        let config = config(
            r#"
            [rdma]
            io_size = "1 MiB"
            [discovery]
            listeners = ["192.0.2.1:8009"]
            [[controllers]]
            name = "far"
            transport = "rdma"
            address = "192.0.2.2:4420"
            subnqn = "nqn.2026-01.org.example:back"
            [[subsystems]]
            nqn = "nqn.2026-01.org.example:s"
            listeners = [{ transport = "rdma", address = "192.0.2.1:4421" }]
            "#,
        );
        let calls = config.calls().expect("consistent");
        let shown: Vec<_> = calls.iter().map(|call| (call.method, trtype_of(&call.params))).collect();
        assert_eq!(
            shown,
            [
                ("nvmf_create_transport", "TCP"),
                ("nvmf_create_transport", "RDMA"),
                ("bdev_nvme_attach_controller", "RDMA"),
                ("nvmf_create_subsystem", ""),
                ("nvmf_subsystem_add_listener", "RDMA"),
                ("nvmf_subsystem_add_listener", "TCP"),
            ]
        );
        assert_eq!(calls[1].params["max_io_size"], 1 << 20);
        assert_eq!(config.listen_addresses(Transport::Rdma), ["192.0.2.1:4421".parse().expect("address")]);
    }

    fn trtype_of(params: &Value) -> &str {
        let address = params.get("listen_address").unwrap_or(params);
        address.get("trtype").and_then(Value::as_str).unwrap_or_default()
    }

    #[test]
    fn replicas_and_volumes_come_after_what_they_lie_on() {
        let text = r#"
            [[devices]]
            name = "disk"
            kind = "memory"
            size = "16 MiB"
            [[controllers]]
            name = "b"
            address = "192.0.2.2:4420"
            subnqn = "nqn.2026-01.org.example:replica-b"
            replica_block_size = 4096
            [[replicas]]
            name = "own"
            device = "disk"
            volume = "7f3c1d7e-98f8-4a54-9f0b-8f5f4d2b6a10"
            [[volumes]]
            name = "v"
            uuid = "7f3c1d7e-98f8-4a54-9f0b-8f5f4d2b6a10"
            replicas = ["own", "bn1"]
            rebuild_bandwidth_mb_s = 100
            "#;
        let calls = config(text).calls().expect("consistent");
        let methods: Vec<_> = calls.iter().map(|call| call.method).collect();
        assert_eq!(
            methods,
            [
                "bdev_malloc_create",
                "bdev_nvme_attach_controller",
                "replica_create",
                "volume_create",
                "volume_set_resync",
            ]
        );
        assert_eq!(calls[1].params["replica_block_size"], 4096);
        let unknown = text.replace("\"bn1\"", "\"cn1\"");
        assert_eq!(config(&unknown).calls().expect_err("refused").what, "volume v");
    }

    #[test]
    fn a_device_that_lacks_what_its_kind_needs_is_refused() {
        for (text, message) in [
            ("kind = \"uring\"", "`path` is missing"),
            ("kind = \"memory\"", "`size` is missing"),
            ("kind = \"null\"\nsize = 1000", "`size` is not a multiple of `block_size`"),
            ("kind = \"null\"\nsize = 4096\npath = \"/x\"", "`path` and `direct` go only with kind `uring`"),
        ] {
            let config = config(&format!("[[devices]]\nname = \"d\"\n{text}\n"));
            assert_eq!(config.calls().expect_err("refused").message, message);
        }
    }

    #[test]
    fn names_that_are_there_twice_or_not_at_all_are_refused() {
        let device = "[[devices]]\nname = \"disk0\"\nkind = \"null\"\nsize = 4096\n";
        let subsystem = "[[subsystems]]\nnqn = \"nqn.2026-01.org.example:s\"\n";
        let refusal = |text: &str| config(text).calls().expect_err("refused").to_string();
        assert_eq!(refusal(&device.repeat(2)), "device disk0: is there twice");
        assert_eq!(refusal(&subsystem.repeat(2)), "subsystem nqn.2026-01.org.example:s: is there twice");
        let namespaces = "namespaces = [{ device = \"disk0\" }, { device = \"disk0\" }]\n";
        let twice = format!("{device}{subsystem}{namespaces}");
        assert_eq!(refusal(&twice), "namespace on device disk0: is there twice");
        let unknown = twice.replacen("disk0", "disk1", 1);
        assert!(refusal(&unknown).ends_with("there is no device `disk0`; did you mean `disk1`?"));
    }

    #[test]
    fn a_controller_is_attached_before_its_namespaces_are_used() {
        let text = r#"
            [[controllers]]
            name = "far"
            address = "192.0.2.1:4420"
            subnqn = "nqn.2026-01.org.example:back"
            [[subsystems]]
            nqn = "nqn.2026-01.org.example:s"
            namespaces = [{ device = "farn1" }]
            "#;
        let calls = config(text).calls().expect("consistent");
        let methods: Vec<_> = calls.iter().map(|call| call.method).collect();
        assert_eq!(
            methods,
            ["bdev_nvme_attach_controller", "nvmf_create_subsystem", "nvmf_subsystem_add_ns"]
        );
        assert_eq!(calls[0].params["traddr"], "192.0.2.1");
        assert!(config(&text.replace("farn1", "fern1")).calls().is_err());
    }

    #[test]
    fn a_volume_of_a_store_in_the_file_may_be_a_namespace() {
        let text = "[[devices]]\nname = \"d\"\nkind = \"null\"\nsize = 4096\n\
                    [[stores]]\nname = \"fast\"\ndevice = \"d\"\ncreate = true\n\
                    [[subsystems]]\nnqn = \"nqn.2026-01.org.example:s\"\n\
                    namespaces = [{ device = \"fast/v\" }]\n";
        let calls = config(text).calls().expect("consistent");
        assert_eq!(calls[1].method, "bdev_lvol_open_lvstore");
        assert_eq!(calls[1].params, json!({"bdev_name": "d", "lvs_name": "fast", "create": true}));
        assert_eq!(calls[3].params["namespace"]["bdev_name"], "fast/v");
        let unknown = text.replace("fast/v", "slow/v");
        assert!(config(&unknown).calls().expect_err("refused").message.contains("no device `slow/v`"));
    }

    #[test]
    fn a_controller_of_this_machine_is_attached_by_its_address() {
        let text = r#"
            [[nvme]]
            name = "disk"
            address = "0000:01:00.0"
            [[subsystems]]
            nqn = "nqn.2026-01.org.example:s"
            namespaces = [{ device = "diskn1" }]
            "#;
        let calls = config(text).calls().expect("consistent");
        assert_eq!(calls[0].method, "bdev_nvme_attach_controller");
        assert_eq!(calls[0].params, json!({"name": "disk", "trtype": "PCIe", "traddr": "0000:01:00.0"}));
        let twice = format!("{text}\n[[nvme]]\nname = \"disk\"\naddress = \"0000:02:00.0\"\n");
        assert!(config(&twice).calls().is_err());
    }

    #[test]
    fn options_of_controllers_are_set_before_any_is_attached() {
        let text = "[nvme_controllers]\ntimeout_us = 2000000\naction_on_timeout = \"reset\"\n\
                    [[nvme]]\nname = \"disk\"\naddress = \"0000:01:00.0\"\n";
        let calls = config(text).calls().expect("consistent");
        let methods: Vec<_> = calls.iter().map(|call| call.method).collect();
        assert_eq!(methods, ["bdev_nvme_set_options", "bdev_nvme_attach_controller"]);
        assert_eq!(calls[0].params["action_on_timeout"], "reset");
        crate::rpc::check_call(calls[0].method, calls[0].params.clone()).expect("parameters fit");
    }

    #[test]
    fn no_transport_is_made_when_nothing_listens() {
        assert_eq!(Config::default().calls(), Ok(Vec::new()));
    }
}
