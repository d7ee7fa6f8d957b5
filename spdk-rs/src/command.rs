//! Commands and how they end.

use std::fmt;

/// What a queue pair is asked to do. Buffers of data are given beside it, and hold whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Fills the buffer.
    Read {
        /// First block.
        lba: u64,
    },
    /// Writes the buffer.
    Write {
        /// First block.
        lba: u64,
        /// On the media when it completes.
        fua: bool,
    },
    /// Compares the buffer with the media.
    Compare {
        /// First block.
        lba: u64,
    },
    /// Brings the volatile write cache to the media.
    Flush,
    /// Makes blocks zero.
    WriteZeroes {
        /// First block.
        lba: u64,
        /// Number of blocks, at most [`Self::ZEROES_MAX`].
        blocks: u32,
        /// Deallocates them where the device can.
        deallocate: bool,
        /// On the media when it completes.
        fua: bool,
    },
    /// Dataset Management with the deallocate attribute and one range.
    Deallocate {
        /// First block.
        lba: u64,
        /// Number of blocks.
        blocks: u32,
    },
}

impl Operation {
    /// Blocks that one Write Zeroes can name: a zero-based field of 16 bits (NVM command set, NLB).
    pub const ZEROES_MAX: u32 = 1 << 16;
}

/// A command of its submitter's making, as far as it is filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Command {
    /// Opcode.
    pub opcode: u8,
    /// Namespace, or 0.
    pub namespace: u32,
    /// Dwords 10 to 15.
    pub dwords: [u32; 6],
}

impl Command {
    /// The 64 bytes (NVMe base, submission queue entry). SPDK fills in identifier and data pointer.
    pub(crate) fn dwords(&self) -> [u32; 16] {
        let mut raw = [0; 16];
        raw[0] = u32::from(self.opcode);
        raw[1] = self.namespace;
        raw[10..].copy_from_slice(&self.dwords);
        raw
    }
}

/// The status of a completed command: SCT and SC, "more" and "do not retry" (NVMe base, completion queue entry).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandStatus(u16);

impl CommandStatus {
    /// Successful.
    pub const SUCCESS: Self = Self(0);
    /// Command aborted because its submission queue was deleted.
    pub const ABORTED_QUEUE_DELETED: Self = Self(0x08);
    /// Command abort requested.
    pub const ABORTED_BY_REQUEST: Self = Self(0x07);
    /// Internal error.
    pub const INTERNAL_ERROR: Self = Self(0x06);
    const MORE: u16 = 1 << 13;

    /// From the status field of a completion, the phase bit cut off.
    pub const fn from_field(field: u16) -> Self {
        Self(field & 0x7fff)
    }

    /// The fifteen bits: SC, SCT, CRD, M, DNR from the lowest.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether the command did what it was asked.
    pub const fn is_success(self) -> bool {
        self.0 & !Self::MORE == 0
    }

    /// Status code type and status code, without the flags.
    pub const fn code(self) -> (u8, u8) {
        let [sc, high] = self.0.to_le_bytes();
        (high & 7, sc)
    }

    /// Whether the queue, not the command, is why it did not run: it may be given to another queue.
    pub const fn is_queue_gone(self) -> bool {
        matches!(self.code(), (0, 0x08))
    }

    /// Whether it was aborted: by the device on request, or by SPDK because the controller is gone or was reset.
    pub const fn is_aborted(self) -> bool {
        matches!(self.code(), (0, 0x07))
    }
}

impl fmt::Debug for CommandStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sct, sc) = self.code();
        write!(f, "CommandStatus(sct {sct:#x}, sc {sc:#04x}, dnr {})", self.0 >> 14)
    }
}

/// A finished command.
pub struct Completion<B> {
    /// As it was submitted.
    pub tag: u64,
    /// How it went.
    pub status: CommandStatus,
    /// Dword 0 of the completion.
    pub result: u32,
    /// The buffer of the command.
    pub buffer: Option<B>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_cut_into_its_fields() {
        // Phase bit is bit 0 of the word; DNR the highest.
        let status = CommandStatus::from_field(0x4281);
        assert_eq!(status.code(), (2, 0x81));
        assert!(!status.is_success());
        assert!(CommandStatus::from_field(0x2000).is_success(), "more information is no failure");
        assert!(CommandStatus::ABORTED_QUEUE_DELETED.is_queue_gone());
        assert!(!status.is_queue_gone() && !status.is_aborted());
        assert!(CommandStatus::from_field(0x4007).is_aborted());
    }

    #[test]
    fn a_raw_command_has_its_fields_where_the_specification_puts_them() {
        let raw = Command { opcode: 6, namespace: 3, dwords: [1, 2, 0, 0, 0, 9] }.dwords();
        assert_eq!((raw[0], raw[1], raw[10], raw[11], raw[15]), (6, 3, 1, 2, 9));
    }
}
