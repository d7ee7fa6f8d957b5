//! What can go wrong with a device as a whole. I/O errors are NVMe statuses instead.

use std::io;
use std::path::PathBuf;

/// A device could not be made, opened, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The block size is none that is supported.
    #[error("block size {bytes} is not supported: 512 and 4096 are")]
    BlockSize {
        /// What was asked for.
        bytes: u32,
    },
    /// A device without a single block.
    #[error("device {name} would have no blocks")]
    Empty {
        /// Name of the device.
        name: String,
    },
    /// Capacity beyond what the device can address.
    #[error("device {name} would have {blocks} blocks, of which at most {max} can be addressed")]
    TooLarge {
        /// Name of the device.
        name: String,
        /// What was asked for.
        blocks: u64,
        /// The most there can be.
        max: u64,
    },
    /// The name is empty, too long, or has characters that would not survive in configuration and logs.
    #[error("{name:?} is no device name: 1 to 255 printable characters without spaces")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The name is taken.
    #[error("a device named {name} exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The identity is taken.
    #[error("device {name} has the UUID {uuid} already")]
    UuidExists {
        /// The device that has it.
        name: String,
        /// The UUID.
        uuid: uuid::Uuid,
    },
    /// There is no such device.
    #[error("no device named {name}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// Its store is not open on this reactor.
    #[error("device {name} cannot be reached from here")]
    NotHere {
        /// The device.
        name: String,
    },
    /// Somebody uses the device.
    #[error("device {name} is in use by {user}")]
    Claimed {
        /// The device.
        name: String,
        /// Who holds the claim.
        user: String,
    },
    /// The capacity follows from something else.
    #[error("the size of device {name} cannot be set")]
    FixedSize {
        /// Name of the device.
        name: String,
    },
    /// The backing file or block device is neither.
    #[error("{path} is neither a regular file nor a block device")]
    FileType {
        /// Where.
        path: PathBuf,
    },
    /// The backing is smaller than one block.
    #[error("{path} holds {bytes} bytes, less than one block of {block} bytes")]
    TooSmall {
        /// Where.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Smallest usable unit.
        block: u32,
    },
    /// The backing has no direct I/O.
    #[error("{path} is on a file system without direct I/O; set direct = false to go through the page cache")]
    NoDirectIo {
        /// Where.
        path: PathBuf,
    },
    /// Somebody else uses the backing.
    #[error("{path} is in use by {holder}")]
    Busy {
        /// Where.
        path: PathBuf,
        /// Who, as far as the system tells.
        holder: String,
    },
    /// A size was asked for where none can be given.
    #[error("{path} is a block device: its size cannot be set")]
    SizeOfBlockDevice {
        /// Where.
        path: PathBuf,
    },
    /// io_uring is missing, forbidden or too old.
    #[error("io_uring is not usable: {source}; {fix}")]
    Ring {
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        fix: &'static str,
    },
    /// The device gives no queue to a reactor.
    #[error("device {name} gives no queue: {why}")]
    NoQueue {
        /// Name of the device.
        name: String,
        /// Why.
        why: String,
    },
    /// A system call failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}
