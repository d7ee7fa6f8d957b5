//! Names who holds a file or block device, for error messages. Best effort: what the kernel shows.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use super::backing::DeviceNumber;

const UNKNOWN: &str = "another program";

/// Holder of the `flock` of an inode.
pub(super) fn of_lock(device: DeviceNumber, inode: u64) -> String {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = locks.lines().find_map(|line| flock_holder(line, device, inode));
    pid.map_or_else(|| UNKNOWN.into(), process)
}

/// From a line like `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`: the process, if the lock is on this inode.
fn flock_holder(line: &str, device: DeviceNumber, inode: u64) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip_while(|field| *field != "FLOCK").skip(3);
    let pid = fields.next()?.parse().ok()?;
    let mut place = fields.next()?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let found = place.next()?.parse() == Ok(inode) && DeviceNumber { major, minor } == device;
    found.then_some(pid)
}

fn process(pid: u32) -> String {
    if pid == std::process::id() {
        return format!("another device of this process (pid {pid})");
    }
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{} (pid {pid})", name.trim()),
        Err(_) => format!("pid {pid}"),
    }
}

/// Holder of a block device that was opened exclusively: a mount, or a device stacked on it.
pub(super) fn of_block_device_at(path: &Path) -> String {
    let Ok(metadata) = path.metadata() else { return UNKNOWN.into() };
    let number = DeviceNumber { major: major(metadata.rdev()), minor: minor(metadata.rdev()) };
    mount_point(number).or_else(|| stacked(number)).unwrap_or_else(|| UNKNOWN.into())
}

fn mount_point(number: DeviceNumber) -> Option<String> {
    let wanted = format!("{}:{}", number.major, number.minor);
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let found = fields.next()? == wanted;
        let place = fields.nth(1)?;
        found.then(|| format!("the file system mounted on {place}"))
    })
}

fn stacked(number: DeviceNumber) -> Option<String> {
    let holder = fs::read_dir(number.sys().join("holders")).ok()?.next()?.ok()?;
    Some(format!("block device {}", holder.file_name().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_read_from_the_line_of_its_inode() {
        let device = DeviceNumber { major: 0xfe, minor: 0 };
        let line = "7: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF";
        assert_eq!(flock_holder(line, device, 1234), Some(4711));
        assert_eq!(flock_holder(line, device, 1235), None);
        assert_eq!(flock_holder(line, DeviceNumber { major: 0xfe, minor: 1 }, 1234), None);
        assert_eq!(flock_holder("8: POSIX  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", device, 1234), None);
        assert_eq!(flock_holder("", device, 1234), None);
    }
}
