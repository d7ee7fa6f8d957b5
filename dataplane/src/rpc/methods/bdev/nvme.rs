//! Controllers whose namespaces are devices here.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fabrics::host::ReconnectPolicy;
use nvme::{HostId, Nqn};
use rustix::io::Errno;
use serde_json::{Value, json};
use transport::TransportKind;
use transport::host::HostConfig;
use uuid::Uuid;

use super::{done, pcie};
use crate::described;
use crate::device::nvmf::{AttachError, ControllerState, NvmfConfig};
use crate::device::{BlockSize, NvmeOptions, TimeoutAction};
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::methods::nvmf::transport_name;
use crate::rpc::notify::Topic;

/// The port of NVMe-oF, over TCP (NVMe-TCP 1.0 §3.1) and RDMA.
const PORT: u16 = 4420;
/// Longest time to connect when a controller is attached and whenever it is connected again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a command has before it is aborted.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(8);
/// What starts an NQN that is made of a UUID (base 2.1 §4.7).
const UUID_NQN_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";
/// Namespace of the host identifiers that are made of the machine's.
const MACHINE_UUIDS: Uuid = Uuid::from_u128(0x3f5e_0a53_7d6c_4d7d_b1a7_7a39_52e1_84c6);

described! {
    /// A controller.
    pub(super) struct Attach {
        /// Its name here: its namespaces become the devices `NAMEn1`, `NAMEn2`, ….
        name: String,
        /// How it is reached: `TCP`, `RDMA`, or `PCIe` for a device of this machine in a build with SPDK.
        trtype: String,
        /// IP address, or PCI address such as `0000:01:00.0`.
        traddr: String,
        /// `ipv4` or `ipv6`; what the address is by default.
        adrfam: Option<String>,
        /// Port. Default 4420.
        trsvcid: Option<String>,
        /// NQN of its subsystem.
        subnqn: Option<String>,
        /// Who we are. Default: made of this machine's identity.
        hostnqn: Option<String>,
        /// Our host identifier; by default the UUID in `hostnqn`, else made of this machine's identity.
        hostid: Option<Uuid>,
        /// Address to connect from.
        hostaddr: Option<String>,
        /// Only nothing or 0: ports are chosen by the system.
        hostsvcid: Option<String>,
        /// Seconds without a connection after which the controller is given up; -1, the default, never.
        ctrlr_loss_timeout_sec: Option<i32>,
        /// Seconds between attempts to connect, at most. Default 10; the first comes at once.
        reconnect_delay_sec: Option<u32>,
        /// Seconds for which I/O waits for a lost connection before it fails with a path error. Default 0: at once.
        fast_io_fail_timeout_sec: Option<u32>,
        /// Header digests, over TCP. Default `false`.
        hdgst: Option<bool>,
        /// Data digests, over TCP. Default `false`.
        ddgst: Option<bool>,
        /// Its one namespace is a replica of a volume with blocks of so many bytes: the device `NAMEn1` is there at once, even
        /// while the controller cannot be reached. By default a controller that cannot be reached is not attached.
        replica_block_size: Option<u32>,
    }
}

described! {
    /// Which controller.
    pub(super) struct Detach {
        /// Its name.
        name: String,
    }
}

described! {
    /// A controller of this machine.
    pub(super) struct Named {
        /// Its name.
        name: String,
    }
}

described! {
    /// Which controllers.
    pub(super) struct GetControllers {
        /// Only this one.
        name: Option<String>,
    }
}

described! {
    /// How controllers are treated. What is not given has its default, not what it was.
    pub(super) struct SetOptions {
        /// Microseconds that an I/O command may take; 0, the default, is no limit for controllers of this machine, and 8 s for
        /// those of other targets, where a late command is aborted and then the connection made again, whatever the action.
        timeout_us: Option<u64>,
        /// Microseconds that an admin command of a controller of this machine may take; 0, the default, is `timeout_us`, and so
        /// is any time with SPDK before 21.04. Needs `timeout_us`.
        timeout_admin_us: Option<u64>,
        /// What becomes of a late command of a controller of this machine. Default `none`.
        action_on_timeout: Option<TimeoutAction>,
        /// Milliseconds without traffic after which other targets give up on us, and we on them; at least 1. Default 5000.
        keep_alive_timeout_ms: Option<u32>,
        /// How often RDMA sends again what is not acknowledged, 0 to 7. Default 7.
        transport_retry_count: Option<u8>,
        /// Only `true`: commands are always passed on in batches.
        delay_cmd_submit: Option<bool>,
        /// Taken, without effect: namespaces without a UUID always get one.
        generate_uuids: Option<bool>,
        /// Taken, without effect: flushes always reach the device.
        enable_flush: Option<bool>,
        /// Only `false`.
        disable_auto_failback: Option<bool>,
        /// Only `false`.
        nvme_error_stat: Option<bool>,
        /// Only `false`.
        io_path_stat: Option<bool>,
        /// Only `false`.
        allow_accel_sequence: Option<bool>,
    }
}

/// The largest count of three bits (InfiniBand specification, Retry Count).
const TRANSPORT_RETRIES_MAX: u8 = 7;

/// Changes how controllers are treated.
pub(super) fn set_options(control: &Control, params: SetOptions) -> RpcResult {
    let options = options(&params)?;
    *control.nvme_options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    pcie::set_options(control, options);
    done()
}

fn options(params: &SetOptions) -> Result<NvmeOptions, RpcError> {
    super::must_be_nothing(&[
        ("delay_cmd_submit=false", !params.delay_cmd_submit.unwrap_or(true)),
        ("disable_auto_failback", params.disable_auto_failback.unwrap_or(false)),
        ("nvme_error_stat", params.nvme_error_stat.unwrap_or(false)),
        ("io_path_stat", params.io_path_stat.unwrap_or(false)),
        ("allow_accel_sequence", params.allow_accel_sequence.unwrap_or(false)),
    ])?;
    let time = |us: Option<u64>| Duration::from_micros(us.unwrap_or(0));
    let (timeout, timeout_admin) = (time(params.timeout_us), time(params.timeout_admin_us));
    if timeout.is_zero() && !timeout_admin.is_zero() {
        return Err(RpcError::invalid_params("`timeout_admin_us` needs `timeout_us`"));
    }
    if let Some(retries) = params.transport_retry_count.filter(|count| *count > TRANSPORT_RETRIES_MAX) {
        return Err(wrong("transport_retry_count", &retries.to_string()));
    }
    if params.keep_alive_timeout_ms == Some(0) {
        return Err(wrong("keep_alive_timeout_ms", "0"));
    }
    Ok(NvmeOptions {
        timeout,
        timeout_admin,
        action: params.action_on_timeout.unwrap_or(TimeoutAction::None),
        keep_alive: params.keep_alive_timeout_ms.map(|ms| Duration::from_millis(ms.into())),
        transport_retries: params.transport_retry_count,
    })
}

/// The call that makes the options what they are, unless they are as they are by default.
fn saved_options(options: &NvmeOptions) -> Option<Value> {
    if *options == NvmeOptions::default() {
        return None;
    }
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut params = json!({
        "timeout_us": micros(options.timeout),
        "timeout_admin_us": micros(options.timeout_admin),
        "action_on_timeout": options.action,
    });
    if let Some(keep_alive) = options.keep_alive {
        params["keep_alive_timeout_ms"] = json!(u64::try_from(keep_alive.as_millis()).unwrap_or(u64::MAX));
    }
    if let Some(retries) = options.transport_retries {
        params["transport_retry_count"] = json!(retries);
    }
    Some(json!({"method": "bdev_nvme_set_options", "params": params}))
}

pub(super) fn wrong(what: &str, value: &str) -> RpcError {
    RpcError::invalid_params(format_args!("{what} `{value}`"))
}

fn refused(error: &AttachError) -> RpcError {
    let errno = match error {
        AttachError::Device(error) => return super::refused(error),
        AttachError::Exists { .. } => Errno::EXIST,
        AttachError::NotFound { .. } => Errno::NODEV,
        AttachError::Connect { .. } => Errno::IO,
        AttachError::Namespace { .. } => Errno::OPNOTSUPP,
        AttachError::Thread(_) => Errno::AGAIN,
    };
    let RpcError { code, message } = RpcError::errno(errno);
    RpcError { code, message: format!("{message}: {error}") }
}

/// Attaches by the transport that is named.
pub(super) fn attach(control: &Control, params: Attach) -> RpcResult {
    let names = match params.trtype.to_ascii_uppercase().as_str() {
        "TCP" => attach_remote(control, TransportKind::Tcp, params)?,
        "RDMA" => attach_remote(control, TransportKind::Rdma, params)?,
        "PCIE" => attach_pcie(control, params)?,
        _ => {
            return Err(RpcError::invalid_params(format_args!(
                "trtype `{}`; there are TCP, RDMA and PCIe",
                params.trtype
            )));
        }
    };
    for name in &names {
        control.notifications.push(Topic::BdevRegister, name.clone());
    }
    Ok(json!(names))
}

fn attach_pcie(control: &Control, params: Attach) -> Result<Vec<String>, RpcError> {
    super::must_be_nothing(&[
        ("trsvcid", params.trsvcid.is_some()),
        ("subnqn", params.subnqn.is_some()),
        ("hostaddr", params.hostaddr.is_some()),
        ("hdgst", params.hdgst.unwrap_or(false)),
        ("ddgst", params.ddgst.unwrap_or(false)),
    ])?;
    if control.controllers.devices(&params.name).is_ok() {
        return Err(refused(&AttachError::Exists { name: params.name }));
    }
    pcie::attach(control, params)
}

fn attach_remote(control: &Control, kind: TransportKind, params: Attach) -> Result<Vec<String>, RpcError> {
    if pcie::has(control, &params.name) {
        return Err(refused(&AttachError::Exists { name: params.name }));
    }
    let config = remote_config(kind, params, &control.nvme_options())?;
    let target = Arc::downgrade(control.shared_target());
    let resized = Arc::new(move |device: &str| {
        if let Some(target) = target.upgrade() {
            target.device_resized(device);
        }
    });
    control.controllers.attach(config, &control.devices, resized).map_err(|error| refused(&error))
}

fn remote_config(kind: TransportKind, params: Attach, options: &NvmeOptions) -> Result<NvmfConfig, RpcError> {
    if kind == TransportKind::Rdma {
        // The link has checksums of its own.
        super::must_be_nothing(&[
            ("hdgst", params.hdgst.unwrap_or(false)),
            ("ddgst", params.ddgst.unwrap_or(false)),
        ])?;
    }
    super::must_be_nothing(&[(
        "hostsvcid",
        params.hostsvcid.is_some_and(|port| !["", "0"].contains(&&*port)),
    )])?;
    let ip: IpAddr = params.traddr.parse().map_err(|_| wrong("traddr", &params.traddr))?;
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    if let Some(adrfam) = params.adrfam.filter(|adrfam| !adrfam.eq_ignore_ascii_case(family)) {
        return Err(wrong("traddr is not of adrfam", &adrfam));
    }
    let port = match params.trsvcid.as_deref().filter(|port| !port.is_empty()) {
        Some(port) => port.parse().map_err(|_| wrong("trsvcid", port))?,
        None => PORT,
    };
    let subnqn = params.subnqn.ok_or_else(|| RpcError::invalid_params("`subnqn` is missing"))?;
    let subnqn = nqn(&subnqn)?;
    let (hostnqn, hostid) = identity(params.hostnqn.as_deref().map(nqn).transpose()?, params.hostid);
    let mut host = HostConfig::new(SocketAddr::new(ip, port), hostnqn, hostid, subnqn);
    host.transport = kind;
    host.header_digest = params.hdgst.unwrap_or(false);
    host.data_digest = params.ddgst.unwrap_or(false);
    host.connect_timeout = CONNECT_TIMEOUT;
    apply(options, &mut host);
    if let Some(address) = params.hostaddr {
        let ip: IpAddr = address.parse().map_err(|_| wrong("hostaddr", &address))?;
        host.local = Some(SocketAddr::new(ip, 0));
    }
    let seconds = |s: u32| u64::from(s) * fabrics::NS_PER_S;
    // Anything negative is for ever.
    let loss_timeout_ns = params.ctrlr_loss_timeout_sec.and_then(|s| u32::try_from(s).ok()).map(seconds);
    let mut reconnect = ReconnectPolicy { loss_timeout_ns, ..ReconnectPolicy::default() };
    if let Some(delay) = params.reconnect_delay_sec.filter(|delay| *delay > 0) {
        reconnect.delay_max_ns = seconds(delay);
    }
    let fail_after = Duration::from_secs(params.fast_io_fail_timeout_sec.unwrap_or(0).into());
    let replica_block_size = params.replica_block_size.map(super::block_size).transpose()?;
    Ok(NvmfConfig { name: params.name, host, reconnect, fail_after, replica_block_size })
}

fn apply(options: &NvmeOptions, host: &mut HostConfig) {
    host.command_timeout = if options.timeout.is_zero() { COMMAND_TIMEOUT } else { options.timeout };
    if let Some(keep_alive) = options.keep_alive {
        host.bringup.kato_ms = u32::try_from(keep_alive.as_millis()).unwrap_or(u32::MAX);
    }
    if let Some(retries) = options.transport_retries {
        host.transport_retries = retries;
    }
}

fn nqn(text: &str) -> Result<Nqn, RpcError> {
    Nqn::new(text).map_err(|error| RpcError::invalid_params(format_args!("NQN `{text}`: {error}")))
}

/// Who we are: what was given, completed from each other; else the same for the life of the machine's identity.
fn identity(hostnqn: Option<Nqn>, hostid: Option<Uuid>) -> (Nqn, HostId) {
    let in_name =
        hostnqn.as_ref().and_then(|nqn| nqn.as_str().strip_prefix(UUID_NQN_PREFIX)?.parse::<Uuid>().ok());
    let id = hostid.or(in_name).unwrap_or_else(machine);
    (hostnqn.unwrap_or_else(|| Nqn::from_uuid(id.into_bytes())), HostId(id.into_bytes()))
}

fn machine() -> Uuid {
    match std::fs::read("/etc/machine-id") {
        Ok(id) if !id.is_empty() => Uuid::new_v5(&MACHINE_UUIDS, &id),
        _ => Uuid::new_v4(),
    }
}

pub(super) fn detach(control: &Control, params: Detach) -> RpcResult {
    let gone = if pcie::has(control, &params.name) {
        pcie::detach(control, &params.name)?
    } else {
        detach_remote(control, &params)?
    };
    for device in gone {
        control.notifications.push(Topic::BdevUnregister, device);
    }
    done()
}

fn detach_remote(control: &Control, params: &Detach) -> Result<Vec<String>, RpcError> {
    let devices = control.controllers.devices(&params.name).map_err(|error| refused(&error))?;
    for device in &devices {
        control.target().remove_device(device).map_err(RpcError::internal)?;
    }
    control.controllers.detach(&params.name, &control.devices).map_err(|error| refused(&error))
}

pub(super) fn reset(control: &Control, params: Named) -> RpcResult {
    pcie::reset(control, &params.name)?;
    done()
}

pub(super) fn health(control: &Control, params: Named) -> RpcResult {
    pcie::health(control, &params.name)
}

pub(super) fn get_controllers(control: &Control, params: GetControllers) -> RpcResult {
    let wanted = |name: &str| params.name.as_deref().is_none_or(|wanted| wanted == name);
    let all = control.controllers.list();
    let local = pcie::list(control).into_iter().filter(|(name, _)| wanted(name)).map(|(_, shown)| shown);
    let shown: Vec<Value> = all
        .iter()
        .filter(|(config, _)| wanted(&config.name))
        .map(|(config, state)| show(config, state))
        .chain(local)
        .collect();
    match (&params.name, shown.is_empty()) {
        (Some(name), true) => Err(refused(&AttachError::NotFound { name: name.clone() })),
        _ => Ok(Value::Array(shown)),
    }
}

fn show(config: &NvmfConfig, state: &ControllerState) -> Value {
    let (state, error) = match state {
        ControllerState::Up => ("enabled", None),
        ControllerState::Down { error } => ("resetting", Some(error)),
        ControllerState::Lost { error } => ("failed", Some(error)),
    };
    let mut shown = json!({
        "name": config.name,
        "ctrlrs": [{
            "state": state,
            "trid": {
                "trtype": transport_name(config.host.transport),
                "adrfam": if config.host.remote.is_ipv4() { "IPv4" } else { "IPv6" },
                "traddr": config.host.remote.ip().to_string(),
                "trsvcid": config.host.remote.port().to_string(),
                "subnqn": config.host.bringup.subnqn.as_str(),
            },
            "host": { "nqn": config.host.bringup.hostnqn.as_str() },
        }],
    });
    if let Some(error) = error {
        shown["ctrlrs"][0]["error"] = json!(error);
    }
    shown
}

/// Volumes come back after a restart whatever of their replicas can be reached.
fn replica_block_size(control: &Control, config: &NvmfConfig) -> Option<u32> {
    let device = format!("{}n1", config.name);
    let volume = control.volumes.list().into_iter().find(|volume| volume.created.replicas.contains(&device));
    let seen = || control.devices.get(&device).ok().map(|device| device.info().block_size);
    config.replica_block_size.or_else(|| volume.and_then(|_| seen())).map(BlockSize::bytes)
}

/// The calls that attach the controllers as they are now.
pub(super) fn saved(control: &Control) -> Vec<Value> {
    let call = |(config, _): &(NvmfConfig, ControllerState)| {
        let NvmfConfig { name, host, reconnect, fail_after, .. } = config;
        let seconds = |ns: u64| ns / fabrics::NS_PER_S;
        let mut params = json!({
            "name": name,
            "trtype": transport_name(host.transport),
            "traddr": host.remote.ip().to_string(),
            "trsvcid": host.remote.port().to_string(),
            "subnqn": host.bringup.subnqn.as_str(),
            "hostnqn": host.bringup.hostnqn.as_str(),
            "hostid": Uuid::from_bytes(host.bringup.hostid.0),
            "reconnect_delay_sec": seconds(reconnect.delay_max_ns),
            "fast_io_fail_timeout_sec": fail_after.as_secs(),
            "hdgst": host.header_digest,
            "ddgst": host.data_digest,
        });
        params["ctrlr_loss_timeout_sec"] =
            reconnect.loss_timeout_ns.map_or(json!(-1), |ns| json!(seconds(ns)));
        if let Some(bytes) = replica_block_size(control, config) {
            params["replica_block_size"] = json!(bytes);
        }
        if let Some(local) = host.local {
            params["hostaddr"] = json!(local.ip().to_string());
        }
        json!({"method": "bdev_nvme_attach_controller", "params": params})
    };
    let options = saved_options(&control.nvme_options()).into_iter();
    options.chain(control.controllers.list().iter().map(call)).chain(pcie::saved(control)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::table::decode;

    fn asked(params: Value) -> Result<NvmeOptions, RpcError> {
        options(&decode::<SetOptions>(params)?)
    }

    #[test]
    fn options_come_back_from_what_is_saved_of_them() {
        let all = json!({"timeout_us": 7_000_000, "timeout_admin_us": 9_000_000, "action_on_timeout": "abort",
            "keep_alive_timeout_ms": 2500, "transport_retry_count": 3});
        let options = asked(all.clone()).expect("in order");
        assert_eq!((options.timeout, options.transport_retries), (Duration::from_secs(7), Some(3)));
        assert_eq!(saved_options(&options).expect("not the default")["params"], all);
        assert_eq!(asked(json!({})).expect("all left out"), NvmeOptions::default());
        assert_eq!(saved_options(&NvmeOptions::default()), None);
    }

    #[test]
    fn options_that_are_none_are_refused() {
        for params in [
            json!({"timeout_admin_us": 1}),
            json!({"action_on_timeout": "panic"}),
            json!({"transport_retry_count": 8}),
            json!({"keep_alive_timeout_ms": 0}),
            json!({"delay_cmd_submit": false}),
            json!({"io_path_stat": true}),
            json!({"timeout": 1}),
        ] {
            let refused = asked(params.clone()).expect_err("refused");
            assert_eq!(refused.code, RpcError::INVALID_PARAMS, "{params}");
        }
    }

    #[test]
    fn options_reach_the_host_of_a_remote_controller() {
        let options = asked(json!({"timeout_us": 3_000_000, "keep_alive_timeout_ms": 2000,
            "transport_retry_count": 2}))
        .expect("in order");
        let nqn = || nqn("nqn.2026-01.org.example:s").expect("a name");
        let mut host = HostConfig::new(([127, 0, 0, 1], 1).into(), nqn(), HostId([1; 16]), nqn());
        apply(&NvmeOptions::default(), &mut host);
        assert_eq!((host.command_timeout, host.bringup.kato_ms), (COMMAND_TIMEOUT, 5000));
        apply(&options, &mut host);
        let applied = (host.command_timeout, host.bringup.kato_ms, host.transport_retries);
        assert_eq!(applied, (Duration::from_secs(3), 2000, 2));
    }
}
