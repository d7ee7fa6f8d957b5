//! What is there.

use std::path::PathBuf;

use serde::Serialize;

use super::usage::{self, User};
use super::{PciAddress, Root};

/// Class code of NVMe controllers: mass storage, non-volatile memory, NVMe I/O controller.
const CLASS_NVME: &str = "0x010802";
/// Base class of bridges, which do not count in an IOMMU group.
const CLASS_BRIDGE: &str = "0x06";
const DEVICES: &str = "/sys/bus/pci/devices";
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// An NVMe controller on the PCI bus.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Device {
    /// Where it is.
    #[serde(serialize_with = "as_text")]
    pub address: PciAddress,
    /// Vendor and device, hexadecimal.
    pub id: String,
    /// Memory node it is nearest to.
    pub node: Option<u32>,
    /// Who drives it; `None` for nobody.
    pub driver: Option<String>,
    /// Its IOMMU group; without one it cannot be given to a process.
    pub iommu_group: Option<String>,
    /// What else is in the group and is driven by something other than `vfio-pci`.
    pub group_others: Vec<String>,
    /// Block devices that the kernel made of its namespaces.
    pub block_devices: Vec<String>,
    /// Who uses it.
    pub users: Vec<User>,
}

fn as_text<S: serde::Serializer>(address: &PciAddress, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

/// Huge pages of 2 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct HugePages {
    /// There are.
    pub total: u64,
    /// Nobody has.
    pub free: u64,
}

/// Everything that matters for SPDK.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// NVMe controllers, in the order of their addresses.
    pub devices: Vec<Device>,
    /// `None` when the kernel has none.
    pub huge_pages: Option<HugePages>,
    /// Whether the kernel uses an IOMMU.
    pub iommu: bool,
    /// Whether the driver is loaded that gives devices to processes.
    pub vfio: bool,
}

impl Machine {
    /// Looks.
    pub fn look(root: &Root) -> Self {
        let addresses = root.names(DEVICES).into_iter().filter_map(|name| name.parse().ok());
        Self {
            devices: addresses.filter_map(|address| device(root, address)).collect(),
            huge_pages: huge_pages(root),
            iommu: !root.names("/sys/class/iommu").is_empty(),
            vfio: root.path(format!("/sys/bus/pci/drivers/{}", super::VFIO)).is_dir(),
        }
    }

    /// The device at an address.
    pub fn device(&self, address: PciAddress) -> Option<&Device> {
        self.devices.iter().find(|device| device.address == address)
    }
}

fn huge_pages(root: &Root) -> Option<HugePages> {
    let count = |name| root.text(format!("{HUGE_PAGES}/{name}"))?.parse().ok();
    Some(HugePages { total: count("nr_hugepages")?, free: count("free_hugepages")? })
}

/// The path of a file of a device.
pub(super) fn file(address: PciAddress, name: &str) -> PathBuf {
    PathBuf::from(format!("{DEVICES}/{address}/{name}"))
}

/// `None` when it is no NVMe controller.
fn device(root: &Root, address: PciAddress) -> Option<Device> {
    let text = |name| root.text(file(address, name)).unwrap_or_default();
    if text("class") != CLASS_NVME {
        return None;
    }
    let hex = |name| text(name).trim_start_matches("0x").to_owned();
    let iommu_group = root.link_name(file(address, "iommu_group"));
    let block_devices = block_devices(root, address);
    let users = usage::of(root, iommu_group.as_deref(), &block_devices);
    Some(Device {
        address,
        id: format!("{}:{}", hex("vendor"), hex("device")),
        node: text("numa_node").parse().ok(),
        driver: root.link_name(file(address, "driver")),
        group_others: group_others(root, address),
        iommu_group,
        block_devices,
        users,
    })
}

/// The namespaces' block devices: `nvme0n1`; with multipath, `nvme0c1n1` stands for the shared `nvme0n1`.
fn block_devices(root: &Root, address: PciAddress) -> Vec<String> {
    let controllers = root.names(file(address, "nvme"));
    let mut found: Vec<String> = controllers
        .iter()
        .flat_map(|controller| root.names(file(address, "nvme").join(controller)))
        .filter_map(|name| head(&name))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The block device that a folder of a controller is, or stands for.
fn head(name: &str) -> Option<String> {
    let (controller, namespace) = name.strip_prefix("nvme")?.rsplit_once('n')?;
    let subsystem = controller.split_once('c').map_or(controller, |(subsystem, _)| subsystem);
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(subsystem) && number(namespace)).then(|| format!("nvme{subsystem}n{namespace}"))
}

/// Devices that share the group and that a driver of the kernel has, as `address (driver)`.
fn group_others(root: &Root, address: PciAddress) -> Vec<String> {
    let others = root.names(file(address, "iommu_group/devices")).into_iter();
    let others = others.filter(|other| other.parse() != Ok(address)).filter_map(|other| {
        let bridge = root.text(format!("{DEVICES}/{other}/class"))?.starts_with(CLASS_BRIDGE);
        let driver = root.link_name(format!("{DEVICES}/{other}/driver"))?;
        (!bridge && driver != super::VFIO).then(|| format!("{other} ({driver})"))
    });
    others.collect()
}
