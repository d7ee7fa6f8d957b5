//! `pollux device`: NVMe devices of this machine, and who has them.

use std::io::Write;

use dataplane::pci::{
    Action, Device, Machine, NVME, PciAddress, Refusal, Root, VFIO, plan_bind, plan_unbind,
};
use serde_json::json;

use crate::Failure;
use crate::args::{BindArgs, DeviceCommand, UnbindArgs};

/// Bytes of a huge page.
const HUGE_PAGE: u64 = 2 << 20;
/// Where huge pages are asked for.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

pub(crate) fn run(command: &DeviceCommand) -> Result<(), Failure> {
    let root = Root::default();
    match command {
        DeviceCommand::List { json } => list(&Machine::look(&root), *json),
        DeviceCommand::Bind(args) => bind(&root, args),
        DeviceCommand::Unbind(UnbindArgs { addresses, dry_run }) => {
            hand_over(&root, addresses, *dry_run, plan_unbind, NVME)
        }
    }
}

fn list(machine: &Machine, as_json: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", json!(machine))?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<14} {:<10} {:>4} {:<10} {:>6} {:<16} USED BY",
        "ADDRESS", "ID", "NODE", "DRIVER", "IOMMU", "BLOCK"
    )?;
    for device in &machine.devices {
        let Device { address, id, node, driver, iommu_group, block_devices, users, .. } = device;
        let dash = || "-".to_owned();
        let users: Vec<String> = users.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "{:<14} {id:<10} {:>4} {:<10} {:>6} {:<16} {}",
            address.to_string(),
            node.map_or_else(dash, |node| node.to_string()),
            driver.clone().unwrap_or_else(dash),
            iommu_group.clone().unwrap_or_else(dash),
            if block_devices.is_empty() { dash() } else { block_devices.join(",") },
            if users.is_empty() { dash() } else { users.join("; ") },
        )?;
    }
    match machine.huge_pages {
        Some(pages) => writeln!(out, "huge pages: {} MiB, {} MiB free", pages.total * 2, pages.free * 2)?,
        None => writeln!(out, "huge pages: the kernel has none of 2 MiB")?,
    }
    let on = |on| if on { "on" } else { "off" };
    writeln!(out, "IOMMU: {}, {VFIO}: {}", on(machine.iommu), on(machine.vfio))?;
    Ok(())
}

fn bind(root: &Root, args: &BindArgs) -> Result<(), Failure> {
    if let Some(size) = args.huge_pages {
        let wanted = size.0.div_ceil(HUGE_PAGE);
        let there = Machine::look(root).huge_pages.map_or(0, |pages| pages.total);
        if wanted > there {
            let text = wanted.to_string();
            carry_out(root, args.dry_run, &Action::Write { path: HUGE_PAGES.into(), text })?;
        }
        let got = Machine::look(root).huge_pages.map_or(0, |pages| pages.total);
        if !args.dry_run && got < wanted {
            let (got, wanted) = (got * 2, wanted * 2);
            return Err(Failure::Failed(format!(
                "the kernel found {got} MiB of {wanted} MiB for huge pages"
            )));
        }
    }
    hand_over(root, &args.addresses, args.dry_run, plan_bind, VFIO)
}

/// Plans for all devices before it touches the first.
fn hand_over(
    root: &Root,
    addresses: &[PciAddress],
    dry_run: bool,
    plan: fn(&Machine, PciAddress) -> Result<Vec<Action>, Refusal>,
    driver: &str,
) -> Result<(), Failure> {
    let machine = Machine::look(root);
    let refused = |refusal: Refusal| Failure::Failed(refusal.to_string());
    for address in addresses {
        plan(&machine, *address).map_err(refused)?;
    }
    for address in addresses {
        for action in plan(&Machine::look(root), *address).map_err(refused)? {
            carry_out(root, dry_run, &action)?;
        }
        let now = Machine::look(root).device(*address).and_then(|device| device.driver.clone());
        if !dry_run && now.as_deref() != Some(driver) {
            let now = now.unwrap_or_else(|| "nobody".into());
            return Err(Failure::Failed(format!("{address}: {driver} did not take it; {now} has it")));
        }
    }
    Ok(())
}

/// Says what is done, and does it unless it is only to be said.
fn carry_out(root: &Root, dry_run: bool, action: &Action) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{action}")?;
    if dry_run {
        return Ok(());
    }
    root.carry_out(action).map_err(|error| Failure::Failed(format!("{action}: {error}")))
}
