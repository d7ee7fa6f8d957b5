//! What the store asks of its driver.

use super::Block;
use super::format::Bytes;

/// Names a request until it is finished.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(pub(crate) u32);

/// One request. Requests that are under way at the same time may be carried out in any order.
#[derive(Debug)]
pub struct Request {
    /// Comes back with [`Store::finish`](super::Store::finish).
    pub id: RequestId,
    /// What to do.
    pub op: RequestOp,
}

/// What to do.
#[derive(Debug)]
pub enum RequestOp {
    /// Read a block of metadata.
    ReadMeta {
        /// Which.
        block: Block,
    },
    /// Write a block of metadata.
    WriteMeta {
        /// Where.
        block: Block,
        /// What.
        bytes: Box<Bytes>,
        /// It is on the media when the request is finished.
        fua: bool,
    },
    /// Read into the data of a command; the driver computes the CRC32C of every block of it.
    ReadData {
        /// The command's.
        tag: u64,
        /// Block within the command's data.
        offset: u32,
        /// First block on the device.
        block: Block,
        /// How many.
        blocks: u32,
    },
    /// Fill the data of a command with zeroes.
    ZeroData {
        /// The command's.
        tag: u64,
        /// Block within the command's data.
        offset: u32,
        /// How many.
        blocks: u32,
    },
    /// Write from the data of a command.
    WriteData {
        /// The command's.
        tag: u64,
        /// Block within the command's data.
        offset: u32,
        /// First block on the device.
        block: Block,
        /// How many.
        blocks: u32,
    },
    /// Everything finished before is to be on the media.
    Flush,
}

/// How a request went.
#[derive(Clone, Copy, Debug)]
pub enum Finished<'a> {
    /// It is done; nothing was read.
    Done,
    /// The block that was read.
    Meta(&'a Bytes),
    /// The CRC32C of every block that was read.
    Sums(&'a [u32]),
    /// The device refused or failed.
    Failed,
}
