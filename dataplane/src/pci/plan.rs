//! What binding takes, or why it is refused. Pure: the machine is what [`Machine`](super::Machine) saw.

use std::fmt;
use std::path::PathBuf;

use super::scan::file;
use super::{Machine, NVME, PciAddress, User, VFIO};

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Loads a module of the kernel.
    Load {
        /// Its name.
        module: &'static str,
    },
    /// Writes a text to a file of the kernel.
    Write {
        /// The file.
        path: PathBuf,
        /// The text.
        text: String,
    },
}

impl fmt::Display for Action {
    /// As a shell would do it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { module } => write!(f, "modprobe {module}"),
            Self::Write { path, text } => write!(f, "echo {} > {}", text.trim_end(), path.display()),
        }
    }
}

/// Why a device is left as it is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing is there, or something else.
    #[error("there is no NVMe controller at {0}")]
    NotThere(PciAddress),
    /// Somebody uses it.
    #[error("{address} is in use: {}", .users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    InUse {
        /// Which.
        address: PciAddress,
        /// Who.
        users: Vec<User>,
    },
    /// The IOMMU is off, or does not cover it.
    #[error(
        "{0} is in no IOMMU group: switch the IOMMU on, in the firmware (VT-d, AMD-Vi) and on the kernel's command line \
         (intel_iommu=on)"
    )]
    NoIommu(PciAddress),
    /// Vfio gives away whole groups.
    #[error("{address} shares IOMMU group {group} with {}, which a driver of the kernel has", .others.join(", "))]
    SharedGroup {
        /// Which.
        address: PciAddress,
        /// Its group.
        group: String,
        /// The others, with their drivers.
        others: Vec<String>,
    },
}

fn write(address: PciAddress, name: &str, text: impl fmt::Display) -> Action {
    Action::Write { path: file(address, name), text: text.to_string() }
}

/// Lets `driver` have the device, which has `from`.
fn hand_over(address: PciAddress, from: Option<&str>, over: &str) -> Vec<Action> {
    let mut actions = vec![write(address, "driver_override", over)];
    actions.extend(from.map(|_| write(address, "driver/unbind", address)));
    actions.push(Action::Write { path: "/sys/bus/pci/drivers_probe".into(), text: address.to_string() });
    actions
}

/// The steps that give a device to `vfio-pci`; none when it has it.
///
/// # Errors
/// When it is not there, in use, or cannot be given away.
pub fn plan_bind(machine: &Machine, address: PciAddress) -> Result<Vec<Action>, Refusal> {
    let device = machine.device(address).ok_or(Refusal::NotThere(address))?;
    if device.driver.as_deref() == Some(VFIO) {
        return Ok(Vec::new());
    }
    if !device.users.is_empty() {
        return Err(Refusal::InUse { address, users: device.users.clone() });
    }
    let group = device.iommu_group.clone().ok_or(Refusal::NoIommu(address))?;
    if !device.group_others.is_empty() {
        return Err(Refusal::SharedGroup { address, group, others: device.group_others.clone() });
    }
    let load = (!machine.vfio).then_some(Action::Load { module: VFIO });
    Ok(load.into_iter().chain(hand_over(address, device.driver.as_deref(), VFIO)).collect())
}

/// The steps that give a device back to the kernel's driver; none when it has it.
///
/// # Errors
/// When it is not there, or in use.
pub fn plan_unbind(machine: &Machine, address: PciAddress) -> Result<Vec<Action>, Refusal> {
    let device = machine.device(address).ok_or(Refusal::NotThere(address))?;
    if device.driver.as_deref() == Some(NVME) {
        return Ok(Vec::new());
    }
    if !device.users.is_empty() {
        return Err(Refusal::InUse { address, users: device.users.clone() });
    }
    // A line that is empty takes the override away.
    Ok(hand_over(address, device.driver.as_deref(), "\n"))
}
