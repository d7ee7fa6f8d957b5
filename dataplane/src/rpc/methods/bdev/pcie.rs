//! Local controllers, which only a build with feature `spdk` can use.

#[cfg(feature = "spdk")]
pub(super) use with_spdk::{attach, detach, has, health, list, reset, saved, set_options};
#[cfg(not(feature = "spdk"))]
pub(super) use without_spdk::{attach, detach, has, health, list, reset, saved, set_options};

#[cfg(feature = "spdk")]
mod with_spdk {
    use std::sync::Arc;

    use nvme::identify::IdentifyController;
    use nvme::log::SmartLog;
    use rustix::io::Errno;
    use serde_json::{Value, json};

    use super::super::nvme::{Attach, wrong};
    use crate::device::NvmeOptions;
    use crate::device::spdk::{ControllerState, SpdkConfig, SpdkController, SpdkError};
    use crate::rpc::control::Control;
    use crate::rpc::error::RpcError;

    /// Kelvins at 0 °C, rounded as the specification has it (base 2.1 §5.1.12.1.3).
    const ZERO_CELSIUS: i32 = 273;

    fn refused(error: &SpdkError) -> RpcError {
        let errno = match error {
            SpdkError::Device(error) => return super::super::refused(error),
            SpdkError::Exists(_) => Errno::EXIST,
            SpdkError::NotFound(_) => Errno::NODEV,
            SpdkError::Attach(spdk_rs::AttachError::NotAllowed(_)) => Errno::PERM,
            SpdkError::Attach(spdk_rs::AttachError::Attached(_)) => Errno::BUSY,
            SpdkError::Attach(spdk_rs::AttachError::NotFound(_)) => Errno::NODEV,
            SpdkError::Environment(_) | SpdkError::Controller { .. } => Errno::IO,
            SpdkError::Thread(_) => Errno::AGAIN,
        };
        let RpcError { code, message } = RpcError::errno(errno);
        RpcError { code, message: format!("{message}: {error}") }
    }

    /// Attaches a controller by its PCI address.
    pub(in super::super) fn attach(control: &Control, params: Attach) -> Result<Vec<String>, RpcError> {
        let address = params.traddr.parse().map_err(|_| wrong("traddr", &params.traddr))?;
        let config = SpdkConfig { name: params.name, address };
        let target = Arc::downgrade(control.shared_target());
        let resized = Arc::new(move |device: &str| {
            if let Some(target) = target.upgrade() {
                target.device_resized(device);
            }
        });
        control
            .spdk
            .attach(config, control.nvme_options(), &control.devices, resized)
            .map_err(|error| refused(&error))
    }

    /// What becomes of late commands of all, from now on.
    pub(in super::super) fn set_options(control: &Control, options: NvmeOptions) {
        control.spdk.set_options(options);
    }

    /// Whether it is one of ours.
    pub(in super::super) fn has(control: &Control, name: &str) -> bool {
        control.spdk.get(name).is_ok()
    }

    /// Detaches a controller; the names of its devices.
    pub(in super::super) fn detach(control: &Control, name: &str) -> Result<Vec<String>, RpcError> {
        for device in control.spdk.devices(name).map_err(|error| refused(&error))? {
            control.target().remove_device(&device).map_err(RpcError::internal)?;
        }
        control.spdk.detach(name, &control.devices).map_err(|error| refused(&error))
    }

    pub(in super::super) fn reset(control: &Control, name: &str) -> Result<(), RpcError> {
        let controller = control.spdk.get(name);
        controller.and_then(|controller| controller.reset()).map_err(|error| refused(&error))
    }

    /// Names and descriptions of all.
    pub(in super::super) fn list(control: &Control) -> Vec<(String, Value)> {
        let described = |controller: Arc<SpdkController>| {
            let (config, counts) = (controller.config(), controller.counts());
            let mut shown = json!({
                "name": config.name,
                "ctrlrs": [{
                    "state": controller.state().name(),
                    "trid": { "trtype": "PCIe", "traddr": config.address.to_string() },
                    "events": counts.events,
                    "late_commands": counts.late_commands,
                    "aborts": counts.aborts,
                    "resets": counts.resets,
                }],
            });
            if controller.state() == ControllerState::Up
                && let Ok(identity) = controller.identify()
            {
                shown["ctrlrs"][0]["model"] = json!(identity.mn.to_string());
                shown["ctrlrs"][0]["serial"] = json!(identity.sn.to_string());
                shown["ctrlrs"][0]["firmware"] = json!(identity.fr.to_string());
            }
            (config.name.clone(), shown)
        };
        control.spdk.list().into_iter().map(described).collect()
    }

    pub(in super::super) fn health(control: &Control, name: &str) -> Result<Value, RpcError> {
        let read = |controller: Arc<SpdkController>| Ok((controller.identify()?, controller.health()?));
        let (identity, smart) =
            control.spdk.get(name).and_then(read).map_err(|error: SpdkError| refused(&error))?;
        Ok(shown(&identity, &smart))
    }

    fn shown(identity: &IdentifyController, smart: &SmartLog) -> Value {
        // JSON's numbers end long before 128 bits do; no device's counters get there.
        let count = |value: nvme::U128| u64::try_from(value.get()).unwrap_or(u64::MAX);
        json!({
            "model_number": identity.mn.to_string(),
            "serial_number": identity.sn.to_string(),
            "firmware_revision": identity.fr.to_string(),
            "critical_warning": smart.critical_warning,
            "temperature_celsius": i32::from(smart.temperature.get()) - ZERO_CELSIUS,
            "available_spare_percentage": smart.available_spare,
            "available_spare_threshold_percentage": smart.spare_threshold,
            "percentage_used": smart.percentage_used,
            "data_units_read": count(smart.data_units_read),
            "data_units_written": count(smart.data_units_written),
            "host_read_commands": count(smart.host_reads),
            "host_write_commands": count(smart.host_writes),
            "controller_busy_time": count(smart.controller_busy_minutes),
            "power_cycles": count(smart.power_cycles),
            "power_on_hours": count(smart.power_on_hours),
            "unsafe_shutdowns": count(smart.unsafe_shutdowns),
            "media_errors": count(smart.media_errors),
            "num_err_log_entries": count(smart.error_entries),
            "warning_temperature_time_minutes": smart.warning_temperature_minutes.get(),
            "critical_composite_temperature_time_minutes": smart.critical_temperature_minutes.get(),
        })
    }

    /// The calls that attach the controllers as they are now.
    pub(in super::super) fn saved(control: &Control) -> Vec<Value> {
        let call = |controller: &Arc<SpdkController>| {
            let SpdkConfig { name, address } = controller.config();
            let params = json!({"name": name, "trtype": "PCIe", "traddr": address.to_string()});
            json!({"method": "bdev_nvme_attach_controller", "params": params})
        };
        control.spdk.list().iter().map(call).collect()
    }
}

#[cfg(not(feature = "spdk"))]
mod without_spdk {
    use rustix::io::Errno;
    use serde_json::Value;

    use super::super::nvme::Attach;
    use crate::device::NvmeOptions;
    use crate::rpc::control::Control;
    use crate::rpc::error::RpcError;

    pub(in super::super) fn attach(_: &Control, params: Attach) -> Result<Vec<String>, RpcError> {
        let RpcError { code, message } = RpcError::errno(Errno::OPNOTSUPP);
        let address = params.traddr;
        Err(RpcError {
            code,
            message: format!(
                "{message}: this build has no SPDK and cannot use the NVMe device at {address}; bind it to the \
                 kernel's driver for `bdev_uring_create`, or build with --features spdk"
            ),
        })
    }

    fn none() -> RpcError {
        RpcError::errno(Errno::NODEV)
    }

    pub(in super::super) fn set_options(_: &Control, _: NvmeOptions) {}

    pub(in super::super) fn has(_: &Control, _: &str) -> bool {
        false
    }

    pub(in super::super) fn detach(_: &Control, _: &str) -> Result<Vec<String>, RpcError> {
        Err(none())
    }

    pub(in super::super) fn reset(_: &Control, _: &str) -> Result<(), RpcError> {
        Err(none())
    }

    pub(in super::super) fn list(_: &Control) -> Vec<(String, Value)> {
        Vec::new()
    }

    pub(in super::super) fn health(_: &Control, _: &str) -> Result<Value, RpcError> {
        Err(none())
    }

    pub(in super::super) fn saved(_: &Control) -> Vec<Value> {
        Vec::new()
    }
}
