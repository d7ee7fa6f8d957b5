//! Devices.

mod error;
mod nvme;
mod params;
mod pcie;
mod render;

use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::{Value, json};
use uuid::Uuid;

use params::{
    AioCreate, ErrorCreate, ErrorInject, GetBdevs, GetIostat, MallocCreate, Named, NullCreate, NullResize,
    SetQosLimit, UringCreate,
};

use super::done;
use super::process::TICK_RATE;
use crate::device::uring::UringConfig;
use crate::device::{BlockSize, DeviceError, DeviceSpec, Listed};
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::notify::Topic;
use crate::rpc::table::{Method, method};

#[rustfmt::skip]
pub(in crate::rpc) const METHODS: &[Method] = &[
    method!(change "bdev_malloc_create" (MallocCreate) -> "the name", malloc_create, "Creates a device in memory."),
    method!(change "bdev_malloc_delete" (Named) -> "`true`", malloc_delete, "Deletes a device; namespaces on it are removed first."),
    method!(change "bdev_null_create" (NullCreate) -> "the name", null_create, "Creates a device that holds nothing: writes vanish, reads give zeroes."),
    method!(change "bdev_null_delete" (Named) -> "`true`", null_delete, "Deletes a device; namespaces on it are removed first."),
    method!(change "bdev_null_resize" (NullResize) -> "`true`", null_resize, "Changes the capacity of a null device; connected hosts are told."),
    method!(change "bdev_uring_create" (UringCreate) -> "the name", uring_create, "Creates a device on a file or block device, through io_uring."),
    method!(change "bdev_uring_delete" (Named) -> "`true`", file_delete, "Deletes a device; namespaces on it are removed first. The file stays."),
    method!(change "bdev_uring_rescan" (Named) -> "`true`", rescan, "Looks again how large the file is; connected hosts are told."),
    method!(change "bdev_aio_create" (AioCreate) -> "the name", aio_create, "The same as `bdev_uring_create`."),
    method!(change "bdev_aio_delete" (Named) -> "`true`", file_delete, "The same as `bdev_uring_delete`."),
    method!(change "bdev_aio_rescan" (Named) -> "`true`", rescan, "The same as `bdev_uring_rescan`."),
    method!(change "bdev_error_create" (ErrorCreate) -> "the name", error::create, "Puts a device in front of another that fails or holds I/O when told to: for tests and drills."),
    method!(change "bdev_error_delete" (Named) -> "`true`", error::delete, "Takes it away; namespaces on it are removed first. The device below stays."),
    method!(change "bdev_error_inject_error" (ErrorInject) -> "`true`", error::inject, "Lets the next I/Os of a kind fail, or hang."),
    method!(change "bdev_nvme_set_options" (nvme::SetOptions) -> "`true`", nvme::set_options, "Says how controllers are treated: those of this machine from now on, those of other targets when they are attached from now on."),
    method!(change "bdev_nvme_attach_controller" (nvme::Attach) -> "the names of the devices", nvme::attach, "Makes devices of the namespaces of a controller."),
    method!(change "bdev_nvme_detach_controller" (nvme::Detach) -> "`true`", nvme::detach, "Disconnects from a controller and deletes its devices; namespaces on them are removed first."),
    method!(change "bdev_nvme_reset_controller" (nvme::Named) -> "`true`", nvme::reset, "Resets a controller of this machine; its I/O waits meanwhile."),
    method!(read "bdev_nvme_get_controller_health_info" (nvme::Named) -> "SMART / Health Information", nvme::health, "Tells how healthy a controller of this machine is."),
    method!(read "bdev_nvme_get_controllers" (nvme::GetControllers) -> "a list of `name`, `state` and `ctrlrs`", nvme::get_controllers, "Lists the attached controllers."),
    method!(read "bdev_get_bdevs" (GetBdevs) -> "a list of devices", get_bdevs, "Lists the devices."),
    method!(read "bdev_get_iostat" (GetIostat) -> "`tick_rate`, `ticks` and `bdevs`; latencies are nanoseconds", get_iostat, "Tells what each device did."),
    method!(change "bdev_set_qos_limit" (SetQosLimit) -> "`true`", set_qos_limit, "Limits what hosts may take of a device, over all reactors together; at once, for I/Os that wait too. What copies and stores do is not limited."),
    method!(read "bdev_wait_for_examine" (super::NoParams) -> "`true`", examined, "Returns once every device is ready, which is at once."),
];

/// Refuses what no device here has.
fn must_be_nothing(asked: &[(&str, bool)]) -> Result<(), RpcError> {
    match asked.iter().find(|(_, asked)| *asked) {
        Some((name, _)) => Err(RpcError::invalid_params(format_args!("`{name}` is not supported"))),
        None => Ok(()),
    }
}

/// The code that SPDK has for each refusal: a negated `errno`.
pub(super) fn refused(error: &DeviceError) -> RpcError {
    let errno = match error {
        DeviceError::Exists { .. } | DeviceError::UuidExists { .. } => Errno::EXIST,
        DeviceError::NotFound { .. } => Errno::NODEV,
        DeviceError::Claimed { .. } | DeviceError::Busy { .. } => Errno::BUSY,
        DeviceError::TooLarge { .. } => Errno::FBIG,
        DeviceError::Ring { source, .. } | DeviceError::Io { source, .. } => {
            Errno::from_io_error(source).unwrap_or(Errno::IO)
        }
        _ => Errno::INVAL,
    };
    let RpcError { code, message } = RpcError::errno(errno);
    RpcError { code, message: format!("{message}: {error}") }
}

fn block_size(bytes: u32) -> Result<BlockSize, RpcError> {
    BlockSize::try_from(bytes).map_err(|error| refused(&error))
}

fn create(control: &Control, spec: DeviceSpec) -> RpcResult {
    let holds_nothing = matches!(spec, DeviceSpec::Null { .. });
    let device = control.devices.create(spec).map_err(|error| refused(&error))?;
    let name = device.info().name.to_string();
    control.notifications.push(Topic::BdevRegister, name.clone());
    if !holds_nothing {
        super::lvol::examine(control, &name);
    }
    Ok(Value::String(name))
}

fn malloc_create(control: &Control, params: MallocCreate) -> RpcResult {
    must_be_nothing(&[
        ("physical_block_size", params.physical_block_size.is_some_and(|size| size != params.block_size)),
        ("optimal_io_boundary", params.optimal_io_boundary.unwrap_or(0) != 0),
        ("md_size", params.md_size.unwrap_or(0) != 0),
        ("md_interleave", params.md_interleave.unwrap_or(false)),
        ("dif_type", params.dif_type.unwrap_or(0) != 0),
    ])?;
    let spec = DeviceSpec::Malloc {
        name: params.name.filter(|name| !name.is_empty()).unwrap_or_else(|| free_name(control)),
        block_size: block_size(params.block_size)?,
        blocks: params.num_blocks,
        uuid: identity(params.uuid),
    };
    create(control, spec)
}

/// The first of `Malloc0`, `Malloc1`, … that no device has.
fn free_name(control: &Control) -> String {
    let mut names = (0_u64..).map(|number| format!("Malloc{number}"));
    names.find(|name| control.devices.get(name).is_err()).unwrap_or_default()
}

/// SPDK's tools write no UUID as all zeroes.
fn identity(uuid: Option<Uuid>) -> Option<Uuid> {
    uuid.filter(|uuid| !uuid.is_nil())
}

fn null_create(control: &Control, params: NullCreate) -> RpcResult {
    must_be_nothing(&[
        ("physical_block_size", params.physical_block_size.is_some_and(|size| size != params.block_size)),
        ("md_size", params.md_size.unwrap_or(0) != 0),
        ("dif_type", params.dif_type.unwrap_or(0) != 0),
    ])?;
    let spec = DeviceSpec::Null {
        name: params.name,
        block_size: block_size(params.block_size)?,
        blocks: params.num_blocks,
        uuid: identity(params.uuid),
    };
    create(control, spec)
}

fn uring_create(control: &Control, params: UringCreate) -> RpcResult {
    let mut config = UringConfig::new(params.name, params.filename);
    config.block_size = params.block_size.filter(|bytes| *bytes != 0).map(block_size).transpose()?;
    config.uuid = identity(params.uuid);
    config.size_bytes = params.size_bytes;
    config.direct = params.direct.unwrap_or(true);
    create(control, DeviceSpec::Uring(config))
}

fn aio_create(control: &Control, params: AioCreate) -> RpcResult {
    must_be_nothing(&[("readonly", params.readonly.unwrap_or(false))])?;
    let mut config = UringConfig::new(params.name, params.filename);
    config.block_size = params.block_size.filter(|bytes| *bytes != 0).map(block_size).transpose()?;
    config.uuid = identity(params.uuid);
    create(control, DeviceSpec::Aio(config))
}

fn find(control: &Control, name: &str) -> Result<Listed, RpcError> {
    control.devices.look(name).map_err(|error| refused(&error))
}

fn malloc_delete(control: &Control, params: Named) -> RpcResult {
    delete(control, params, |spec| matches!(spec, DeviceSpec::Malloc { .. }))
}

fn null_delete(control: &Control, params: Named) -> RpcResult {
    delete(control, params, |spec| matches!(spec, DeviceSpec::Null { .. }))
}

fn file_delete(control: &Control, params: Named) -> RpcResult {
    delete(control, params, |spec| matches!(spec, DeviceSpec::Uring(_) | DeviceSpec::Aio(_)))
}

/// Deletes a device of the right kind with the namespaces on it.
fn delete(control: &Control, params: Named, kind: fn(&DeviceSpec) -> bool) -> RpcResult {
    let listed = find(control, &params.name)?;
    if !listed.spec.as_ref().is_some_and(kind) {
        return Err(RpcError::errno(Errno::NODEV));
    }
    drop(listed);
    super::lvol::close_on(control, &params.name)?;
    control.target().remove_device(&params.name).map_err(RpcError::internal)?;
    control.devices.delete(&params.name).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevUnregister, params.name);
    done()
}

fn null_resize(control: &Control, params: NullResize) -> RpcResult {
    let bytes = params.new_size.checked_mul(1 << 20).ok_or_else(|| RpcError::errno(Errno::INVAL))?;
    let listed = find(control, &params.name)?;
    if !matches!(listed.spec, Some(DeviceSpec::Null { .. })) {
        return Err(RpcError::errno(Errno::NODEV));
    }
    let blocks = bytes >> listed.device.info().block_size.shift();
    listed.device.resize(blocks).map_err(|error| refused(&error))?;
    control.target().device_resized(&params.name);
    done()
}

fn rescan(control: &Control, params: Named) -> RpcResult {
    let changed = find(control, &params.name)?.device.rescan().map_err(|error| refused(&error))?;
    if changed {
        control.target().device_resized(&params.name);
    }
    done()
}

/// How often a device that is waited for is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The longest that a call waits for a device.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn get_bdevs(control: &Control, params: GetBdevs) -> RpcResult {
    let Some(name) = params.name else {
        let volumes = super::lvol::described(control);
        let all = control.devices.list();
        return Ok(all.iter().map(|listed| render::device(control, listed, &volumes)).collect());
    };
    let wait = Duration::from_millis(params.timeout.unwrap_or(0)).min(WAIT_MAX);
    let deadline = Instant::now() + wait;
    loop {
        match find(control, &name) {
            Ok(listed) => {
                let volumes = super::lvol::described_one(control, &name);
                return Ok(json!([render::device(control, &listed, &volumes)]));
            }
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK_INTERVAL),
            Err(error) => return Err(error),
        }
    }
}

fn get_iostat(control: &Control, params: GetIostat) -> RpcResult {
    must_be_nothing(&[
        ("per_channel", params.per_channel.unwrap_or(false)),
        ("reset_mode", params.reset_mode.is_some_and(|mode| mode != "none")),
    ])?;
    let names = params.names.into_iter().flatten().chain(params.name);
    let mut devices = names.map(|name| find(control, &name)).collect::<Result<Vec<_>, _>>()?;
    if devices.is_empty() {
        devices = control.devices.list();
    }
    let ticks = u64::try_from(control.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let bdevs: Vec<Value> = devices.iter().map(|listed| render::iostat(listed.device.as_ref())).collect();
    Ok(json!({"tick_rate": TICK_RATE, "ticks": ticks, "bdevs": bdevs}))
}

/// What a megabyte is in names of parameters.
const MIB: u64 = 1 << 20;

fn set_qos_limit(control: &Control, params: SetQosLimit) -> RpcResult {
    let SetQosLimit { name, rw_ios_per_sec, rw_mbytes_per_sec, r_mbytes_per_sec, w_mbytes_per_sec, burst_ms } =
        params;
    let limits = find(control, &name)?.limits;
    let given = [rw_ios_per_sec, rw_mbytes_per_sec, r_mbytes_per_sec, w_mbytes_per_sec];
    if given.iter().all(Option::is_none) && burst_ms.is_none() {
        return Err(RpcError::invalid_params("no limit is given"));
    }
    let mut rates = limits.rates();
    let set = |rate: &mut Option<u64>, given: Option<u64>, unit: u64| {
        if let Some(given) = given {
            *rate = (given > 0).then(|| given.saturating_mul(unit));
        }
    };
    set(&mut rates.ios, rw_ios_per_sec, 1);
    set(&mut rates.bytes, rw_mbytes_per_sec, MIB);
    set(&mut rates.read_bytes, r_mbytes_per_sec, MIB);
    set(&mut rates.written_bytes, w_mbytes_per_sec, MIB);
    if let Some(ms) = burst_ms {
        rates.burst = Duration::from_millis(ms.into());
    }
    limits.set(rates);
    done()
}

fn examined(_: &Control, _: super::NoParams) -> RpcResult {
    done()
}

/// The calls that make the devices as they are now.
pub(super) fn saved(control: &Control) -> Vec<Value> {
    let made = control.devices.list();
    let own = made.iter().filter_map(render::call);
    let devices = own.chain(error::saved(control)).chain(nvme::saved(control));
    let limits = made.iter().filter(|listed| listed.limits.is_on()).map(render::limit_call);
    devices.chain(super::lvol::saved(control)).chain(super::volume::saved(control)).chain(limits).collect()
}
