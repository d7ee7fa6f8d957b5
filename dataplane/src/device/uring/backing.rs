//! The file or block device under a device: opening it for this process alone, and what it can do.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, StatxFlags, major, minor};
use rustix::io::Errno;

use super::UringConfig;
use super::holder;
use crate::device::DeviceError;

/// Largest alignment of offsets and lengths that is worked with: the unit of buffers.
pub(super) const ALIGN_MAX: u32 = 4096;
/// How long the kernel is given to let go of what a process held that has ended.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(5);
/// Time between two tries meanwhile.
const RELEASE_STEP: Duration = Duration::from_millis(20);

/// What lies under a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    File,
    BlockDevice,
}

/// Major and minor number, as `/sys/dev/block` and `/proc/locks` know a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DeviceNumber {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl DeviceNumber {
    fn new(raw: u64) -> Self {
        Self { major: major(raw), minor: minor(raw) }
    }

    /// Where the kernel describes this block device.
    pub(super) fn sys(self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{}:{}", self.major, self.minor))
    }

    /// The request queue's directory; a partition's is that of its disk.
    fn queue(self) -> PathBuf {
        let own = self.sys().join("queue");
        if own.exists() { own } else { self.sys().join("../queue") }
    }
}

/// An opened file or block device that nobody else has opened the same way.
#[derive(Debug)]
pub(super) struct Backing {
    pub(super) file: File,
    /// Absolute, without symbolic links.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Offsets and lengths of I/O must be multiples of it: a power of two up to [`ALIGN_MAX`]. 1 through the page cache.
    pub(super) align: u32,
    /// Bytes that writes should be multiples of.
    pub(super) preferred: u32,
    /// Size of a logical block of a block device, 4096 for files.
    pub(super) natural_block: u32,
    pub(super) write_cache: bool,
    /// Whether space can be released.
    pub(super) deallocates: bool,
}

impl Backing {
    pub(super) fn open(config: &UringConfig) -> Result<Self, DeviceError> {
        let (file, kind) = open_exclusive(config)?;
        if let Some(bytes) = config.size_bytes {
            grow(&file, &config.path, kind, bytes)?;
        }
        let path = config.path.canonicalize().map_err(|source| failed("resolve", &config.path, source))?;
        let logical = match kind {
            Kind::File => ALIGN_MAX,
            Kind::BlockDevice => {
                rustix::fs::ioctl_blksszget(&file).map_err(|errno| failed("ask", &path, errno.into()))?
            }
        };
        let align = if config.direct { direct_align(&file, &path, logical)? } else { 1 };
        let number = DeviceNumber::new(metadata(&file, &path)?.rdev());
        let (write_cache, deallocates) = match kind {
            Kind::File => (true, can_punch(&file)),
            Kind::BlockDevice => (write_cache(number), queue_number(number, "discard_max_bytes") > 0),
        };
        let preferred = match kind {
            Kind::File => ALIGN_MAX,
            Kind::BlockDevice => physical_block(number).max(logical),
        };
        Ok(Self { file, path, kind, align, preferred, natural_block: logical, write_cache, deallocates })
    }

    /// Usable bytes now: whole multiples of the alignment, so that no write grows a file.
    pub(super) fn bytes(&self) -> Result<u64, DeviceError> {
        let bytes =
            (&self.file).seek(SeekFrom::End(0)).map_err(|source| failed("measure", &self.path, source))?;
        Ok(bytes & !(u64::from(self.align) - 1))
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> DeviceError {
    DeviceError::Io { action, path: path.to_owned(), source }
}

fn metadata(file: &File, path: &Path) -> Result<std::fs::Metadata, DeviceError> {
    file.metadata().map_err(|source| failed("look at", path, source))
}

fn kind_of(metadata: &std::fs::Metadata, path: &Path) -> Result<Kind, DeviceError> {
    match metadata.file_type() {
        kind if kind.is_file() => Ok(Kind::File),
        kind if kind.is_block_device() => Ok(Kind::BlockDevice),
        _ => Err(DeviceError::FileType { path: path.to_owned() }),
    }
}

/// Opens, creating a file if a size was given, and locks it against every other user that locks.
fn open_exclusive(config: &UringConfig) -> Result<(File, Kind), DeviceError> {
    let path = &config.path;
    let expected = match path.metadata() {
        Ok(metadata) => kind_of(&metadata, path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && config.size_bytes.is_some() => Kind::File,
        Err(source) => return Err(failed("open", path, source)),
    };
    // For block devices O_EXCL without O_CREAT claims the device against mounts and other exclusive users.
    let exclusive = if expected == Kind::BlockDevice { libc::O_EXCL } else { 0 };
    let direct = if config.direct { libc::O_DIRECT } else { 0 };
    let create = expected == Kind::File && config.size_bytes.is_some();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).mode(0o600).custom_flags(exclusive | direct);
    let opened = claim(path, Errno::BUSY, || holder::of_block_device_at(path), || options.open(path))?;
    let file = opened.map_err(|source| match Errno::from_io_error(&source) {
        Some(Errno::INVAL) if config.direct => DeviceError::NoDirectIo { path: path.clone() },
        _ => failed("open", path, source),
    })?;
    let opened = metadata(&file, path)?;
    let kind = kind_of(&opened, path)?;
    if kind == Kind::File {
        lock(&file, path, &opened)?;
    }
    Ok((file, kind))
}

fn lock(file: &File, path: &Path, metadata: &std::fs::Metadata) -> Result<(), DeviceError> {
    let holder = || holder::of_lock(DeviceNumber::new(metadata.dev()), metadata.ino());
    let lock = || rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from);
    claim(path, Errno::WOULDBLOCK, holder, lock)?.map_err(|source| failed("lock", path, source))
}

/// Tries again while it is busy but nobody holds it: the kernel lets go of the files of a killed process's rings only
/// some time after the process is gone, and a daemon that is started again at once must not fail for that.
fn claim<T>(
    path: &Path,
    busy: Errno,
    holder: impl Fn() -> Option<String>,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> Result<io::Result<T>, DeviceError> {
    let deadline = Instant::now() + RELEASE_TIME_MAX;
    loop {
        match attempt() {
            Err(error) if Errno::from_io_error(&error) == Some(busy) => {
                let holder = holder();
                if holder.is_some() || Instant::now() >= deadline {
                    let holder = holder.unwrap_or_else(|| holder::UNKNOWN.into());
                    return Err(DeviceError::Busy { path: path.to_owned(), holder });
                }
                thread::sleep(RELEASE_STEP);
            }
            outcome => return Ok(outcome),
        }
    }
}

/// Makes a file at least this long. Larger ones stay as they are.
fn grow(file: &File, path: &Path, kind: Kind, bytes: u64) -> Result<(), DeviceError> {
    if kind == Kind::BlockDevice {
        return Err(DeviceError::SizeOfBlockDevice { path: path.to_owned() });
    }
    if metadata(file, path)?.len() < bytes {
        file.set_len(bytes).map_err(|source| failed("extend", path, source))?;
    }
    Ok(())
}

/// What direct I/O must be aligned to, offsets, lengths and memory alike.
fn direct_align(file: &File, path: &Path, logical: u32) -> Result<u32, DeviceError> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    let told = stat.ok().filter(|stat| stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
    // Kernels before 6.1 do not tell; for files the largest sector is then right for all.
    let (offset, memory) =
        told.map_or((logical, logical), |stat| (stat.stx_dio_offset_align, stat.stx_dio_mem_align));
    let align = offset.max(memory);
    if offset == 0 || !align.is_power_of_two() || align > ALIGN_MAX {
        return Err(DeviceError::NoDirectIo { path: path.to_owned() });
    }
    Ok(align)
}

/// Asks the file system by releasing nothing: a hole behind the end of the file.
fn can_punch(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let behind = metadata.len().next_multiple_of(u64::from(ALIGN_MAX));
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, hole, behind, u64::from(ALIGN_MAX)).is_ok()
}

fn queue_text(number: DeviceNumber, attribute: &str) -> Option<String> {
    std::fs::read_to_string(number.queue().join(attribute)).ok()
}

fn queue_number(number: DeviceNumber, attribute: &str) -> u64 {
    queue_text(number, attribute).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A cache is assumed where the kernel does not tell.
fn write_cache(number: DeviceNumber) -> bool {
    queue_text(number, "write_cache").is_none_or(|text| text.trim() != "write through")
}

fn physical_block(number: DeviceNumber) -> u32 {
    u32::try_from(queue_number(number, "physical_block_size")).unwrap_or(0)
}
