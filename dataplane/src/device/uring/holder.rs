//! Names who holds a file or block device, for error messages. Best effort: what the kernel shows.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use super::backing::DeviceNumber;

/// A holder that cannot be named.
pub(super) const UNKNOWN: &str = "another program";

/// Holder of the `flock` of an inode; `None` when it has ended or cannot be named.
pub(super) fn of_lock(device: DeviceNumber, inode: u64) -> Option<String> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().find_map(|line| flock_holder(line, device, inode)).and_then(process)
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

fn process(pid: u32) -> Option<String> {
    if pid == std::process::id() {
        return Some(format!("another device of this process (pid {pid})"));
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    running(&stat).map(|name| format!("{name} (pid {pid})"))
}

/// The name in a line like `4711 (name) S 1 …`, unless the process is dead and only waited for.
fn running(stat: &str) -> Option<&str> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    (!rest.starts_with(['Z', 'X'])).then_some(name)
}

/// Holder of a block device that was opened exclusively: a mount, or a device stacked on it. `None` when it is neither.
pub(super) fn of_block_device_at(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    let number = DeviceNumber { major: major(metadata.rdev()), minor: minor(metadata.rdev()) };
    mount_point(number).or_else(|| stacked(number))
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
    fn a_process_that_has_ended_holds_nothing() {
        assert_eq!(running("4711 (a (b) c) S 1 4711"), Some("a (b) c"));
        assert_eq!(running("4711 (a) Z 1 4711"), None);
        assert_eq!(running(""), None);
    }

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
