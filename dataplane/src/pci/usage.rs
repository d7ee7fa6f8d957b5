//! Who uses a device. Whoever is found here would lose data when it is taken away.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;

use serde::Serialize;

use super::Root;

/// One reason not to touch a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum User {
    /// A file system is mounted.
    Mount {
        /// The block device or partition.
        device: String,
        /// Where.
        at: String,
    },
    /// Memory is swapped there.
    Swap {
        /// The block device or partition.
        device: String,
    },
    /// Another block device is made of it: RAID, LVM, dm-crypt.
    Holder {
        /// The block device or partition.
        device: String,
        /// The other.
        by: String,
    },
    /// Somebody has it open for themselves alone.
    Open {
        /// The block device or partition, or the group of vfio.
        device: String,
    },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount { device, at } => write!(f, "{device} is mounted at {at}"),
            Self::Swap { device } => write!(f, "{device} is swap"),
            Self::Holder { device, by } => write!(f, "{device} is part of {by}"),
            Self::Open { device } => write!(f, "{device} is in use by a process"),
        }
    }
}

/// Everybody who uses these block devices, or the vfio group.
pub(super) fn of(root: &Root, group: Option<&str>, block_devices: &[String]) -> Vec<User> {
    let mut users: Vec<User> =
        block_devices.iter().flat_map(|device| of_block_device(root, device)).collect();
    let group = group.map(|group| format!("vfio/{group}"));
    users.extend(group.and_then(|group| opened(root, &group, false)));
    users
}

fn of_block_device(root: &Root, device: &str) -> Vec<User> {
    let folder = format!("/sys/class/block/{device}");
    // A partition is a folder of the device, with its number in it.
    let is_partition = |name: &String| root.path(format!("{folder}/{name}/partition")).exists();
    let partitions = root.names(&folder).into_iter().filter(is_partition);
    let mut users = Vec::new();
    for name in partitions.chain([device.to_owned()]) {
        let before = users.len();
        let number = root.text(format!("/sys/class/block/{name}/dev"));
        users.extend(number.iter().flat_map(|number| mounts(root, &name, number)));
        users.extend(is_swap(root, &name).then(|| User::Swap { device: name.clone() }));
        let holders = root.names(format!("/sys/class/block/{name}/holders")).into_iter();
        users.extend(holders.map(|by| User::Holder { device: name.clone(), by }));
        // Those above have it open, too: once is enough.
        if users.len() == before {
            users.extend(opened(root, &name, true));
        }
    }
    // A partition in use keeps the whole device open.
    if users.len() > 1 {
        users.retain(|user| !matches!(user, User::Open { device: other } if other == device));
    }
    users
}

/// Mounts of the device with this `major:minor` (proc(5), mountinfo: fields 3 and 5).
fn mounts(root: &Root, device: &str, number: &str) -> Vec<User> {
    let mounts = root.text("/proc/self/mountinfo").unwrap_or_default();
    let at = |line: &str| {
        let mut fields = line.split(' ');
        let is_it = fields.nth(2) == Some(number);
        is_it.then(|| fields.nth(1).unwrap_or_default().to_owned())
    };
    mounts.lines().filter_map(at).map(|at| User::Mount { device: device.to_owned(), at }).collect()
}

fn is_swap(root: &Root, device: &str) -> bool {
    let path = format!("/dev/{device}");
    let swaps = root.text("/proc/swaps").unwrap_or_default();
    swaps.lines().any(|line| line.split_whitespace().next() == Some(&path))
}

/// Whether opening it alone is refused. Block devices know who has them; so do the groups of vfio.
fn opened(root: &Root, name: &str, exclusively: bool) -> Option<User> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(!exclusively);
    if exclusively {
        options.custom_flags(libc::O_EXCL);
    }
    let refused = options.open(root.path(format!("/dev/{name}"))).err()?;
    (refused.kind() == ErrorKind::ResourceBusy).then(|| User::Open { device: name.to_owned() })
}
