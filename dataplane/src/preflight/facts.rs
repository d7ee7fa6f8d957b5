//! Looks at the machine.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CpuSet, capabilities, sched_getaffinity};

use super::Plan;

/// What is so.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Cores that run.
    pub cores_online: Vec<u16>,
    /// Cores on which this process may run.
    pub cores_allowed: Vec<u16>,
    /// Huge pages of 2 MiB there are.
    pub huge_pages_total: u64,
    /// Those that nobody has.
    pub huge_pages_free: u64,
    /// Bytes that may be locked; `None` without limit, or with the capability that makes the limit void.
    pub memlock: Option<u64>,
    /// Files that may be open; `None` without limit.
    pub descriptors: Option<u64>,
    /// `kernel.io_uring_disabled`, where the kernel has it.
    pub io_uring_disabled: Option<u8>,
    /// Why a ring cannot be made, when it cannot.
    pub io_uring_refused: Option<String>,
    /// Major and minor version.
    pub kernel: (u32, u32),
    /// The files of the plan.
    pub files: Vec<(PathBuf, FileFact)>,
    /// The addresses of the plan, with why they cannot be listened on.
    pub addresses: Vec<(SocketAddr, Option<ErrorKind>)>,
}

/// What a backing file can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFact {
    /// Direct I/O.
    Good,
    /// I/O through the page cache only.
    NoDirectIo,
    /// Cannot be opened, or is neither file nor block device.
    Unusable(String),
}

/// Entries of the ring that is made to see whether one can be.
const PROBE_ENTRIES: u32 = 2;

/// Where 2 MiB pages are counted.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

impl Facts {
    /// Looks at what the plan needs. Leaves nothing behind.
    #[must_use]
    pub fn gather(plan: &Plan) -> Self {
        let pages = |name| number(Path::new(HUGE_PAGES).join(name)).unwrap_or(0);
        Self {
            cores_online: read("/sys/devices/system/cpu/online")
                .map(|list| core_list(&list))
                .unwrap_or_default(),
            cores_allowed: cores_allowed(),
            huge_pages_total: pages("nr_hugepages"),
            huge_pages_free: pages("free_hugepages"),
            memlock: getrlimit(Resource::Memlock).current.filter(|_| !locks_freely()),
            descriptors: getrlimit(Resource::Nofile).current,
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            io_uring_refused: io_uring::IoUring::new(PROBE_ENTRIES).err().map(|error| error.to_string()),
            kernel: kernel(),
            files: plan.files.iter().map(|path| (path.clone(), file(path))).collect(),
            addresses: plan.addresses.iter().map(|address| (*address, refused(*address))).collect(),
        }
    }
}

/// Raises the limits of open files and locked memory as far as this process may. What it may not is found by
/// [`Facts::gather`].
pub fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Memlock] {
        let limit = getrlimit(resource);
        // Refused is as good as not asked.
        let _ = setrlimit(resource, Rlimit { current: None, maximum: None })
            .or_else(|_| setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum }));
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    read(path)?.trim().parse().ok()
}

/// Cores of a list as the kernel writes it: `0-3,8`.
fn core_list(list: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

fn cores_allowed() -> Vec<u16> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let max = u16::try_from(CpuSet::MAX_CPU).unwrap_or(u16::MAX);
    (0..max).filter(|core| set.is_set(usize::from(*core))).collect()
}

/// Whether this process has CAP_IPC_LOCK: nothing that it locks is counted.
fn locks_freely() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut parts = release.split(|byte: char| !byte.is_ascii_digit()).map_while(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn file(path: &Path) -> FileFact {
    match std::fs::metadata(path).map(|metadata| metadata.file_type()) {
        Err(error) => return FileFact::Unusable(error.to_string()),
        Ok(kind) if !kind.is_file() && !kind.is_block_device() => {
            return FileFact::Unusable("neither a file nor a block device".to_owned());
        }
        Ok(_) => (),
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match open(path, flags | OFlags::DIRECT, Mode::empty()) {
        Ok(_) => FileFact::Good,
        Err(rustix::io::Errno::INVAL) => match open(path, flags, Mode::empty()) {
            Ok(_) => FileFact::NoDirectIo,
            Err(error) => FileFact::Unusable(error.to_string()),
        },
        Err(error) => FileFact::Unusable(error.to_string()),
    }
}

fn refused(address: SocketAddr) -> Option<ErrorKind> {
    TcpListener::bind(address).err().map(|error| error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_of_the_kernel_are_read() {
        assert_eq!(core_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(core_list("0\n"), [0]);
        assert!(core_list("\n").is_empty());
    }
}
