//! Parameters of the devices' methods.

use uuid::Uuid;

use crate::{described, described_words};

described! {
    /// What hosts may take of a device. What is not given stays; 0 is no limit.
    pub(super) struct SetQosLimit {
        /// Its name.
        name: String,
        /// I/Os per second: reads, writes, zeroing, deallocation.
        rw_ios_per_sec: Option<u64>,
        /// Mebibytes per second that are read and written.
        rw_mbytes_per_sec: Option<u64>,
        /// Mebibytes per second that are read.
        r_mbytes_per_sec: Option<u64>,
        /// Mebibytes per second that are written.
        w_mbytes_per_sec: Option<u64>,
        /// What was not used for so many milliseconds may be used at once. At first 1.
        burst_ms: Option<u32>,
    }
}

described! {
    /// A memory device.
    pub(super) struct MallocCreate {
        /// Capacity in blocks.
        num_blocks: u64,
        /// Bytes of a block, 512 or 4096.
        block_size: u32,
        /// Its name; `Malloc0`, `Malloc1`, … by default.
        name: Option<String>,
        /// Its identity; random by default.
        uuid: Option<Uuid>,
        /// Only nothing or the block size.
        physical_block_size: Option<u32>,
        /// Only nothing or 0.
        optimal_io_boundary: Option<u32>,
        /// Only nothing or 0: no metadata.
        md_size: Option<u32>,
        /// Only `false`: no metadata.
        md_interleave: Option<bool>,
        /// Only nothing or 0: no protection information.
        dif_type: Option<i32>,
        /// Taken, without effect: no protection information.
        dif_is_head_of_md: Option<bool>,
        /// Taken, without effect: no protection information.
        dif_pi_format: Option<u32>,
        /// Taken, without effect.
        numa_id: Option<i32>,
    }
}

described! {
    /// A null device.
    pub(super) struct NullCreate {
        /// Its name.
        name: String,
        /// Capacity in blocks.
        num_blocks: u64,
        /// Bytes of a block, 512 or 4096.
        block_size: u32,
        /// Its identity; random by default.
        uuid: Option<Uuid>,
        /// Only nothing or the block size.
        physical_block_size: Option<u32>,
        /// Only nothing or 0: no metadata.
        md_size: Option<u32>,
        /// Only nothing or 0: no protection information.
        dif_type: Option<i32>,
        /// Taken, without effect: no protection information.
        dif_is_head_of_md: Option<bool>,
        /// Taken, without effect: no protection information.
        dif_pi_format: Option<u32>,
        /// Taken, without effect.
        preferred_write_granularity: Option<u32>,
        /// Taken, without effect.
        preferred_write_alignment: Option<u32>,
        /// Taken, without effect.
        optimal_write_size: Option<u32>,
        /// Taken, without effect.
        preferred_unmap_granularity: Option<u32>,
        /// Taken, without effect.
        preferred_unmap_alignment: Option<u32>,
    }
}

described! {
    /// A device on a file or block device.
    pub(super) struct UringCreate {
        /// Its name.
        name: String,
        /// Path of the block device or file.
        filename: String,
        /// Bytes of a block, 512 or 4096; the block device's own by default, 4096 for a file.
        block_size: Option<u32>,
        /// Its identity; derived from the path by default.
        uuid: Option<Uuid>,
        /// Create the file when there is none, and make it at least this long. Not in SPDK.
        size_bytes: Option<u64>,
        /// Go around the page cache. Default `true`. Not in SPDK.
        direct: Option<bool>,
    }
}

described! {
    /// A device on a file or block device.
    pub(super) struct AioCreate {
        /// Its name.
        name: String,
        /// Path of the block device or file, which must exist.
        filename: String,
        /// Bytes of a block, 512 or 4096; the block device's own by default, 4096 for a file.
        block_size: Option<u32>,
        /// Its identity; derived from the path by default.
        uuid: Option<Uuid>,
        /// Only `false`: devices are written.
        readonly: Option<bool>,
        /// Taken, without effect: deallocation is used wherever the file has it.
        fallocate: Option<bool>,
        /// Taken, without effect.
        nowait: Option<bool>,
    }
}

described! {
    /// Which device.
    pub(super) struct Named {
        /// Its name.
        name: String,
    }
}

described! {
    /// A new capacity.
    pub(super) struct NullResize {
        /// The device's name.
        name: String,
        /// Its new capacity, in MiB.
        new_size: u64,
    }
}

described! {
    /// Which devices.
    pub(super) struct GetBdevs {
        /// Only this device.
        name: Option<String>,
        /// Milliseconds to wait until the device is there. Default 0.
        timeout: Option<u64>,
    }
}

described! {
    /// Whose statistics.
    pub(super) struct GetIostat {
        /// Only this device.
        name: Option<String>,
        /// Only these devices.
        names: Option<Vec<String>>,
        /// Only `false`: statistics are kept for a device as a whole.
        per_channel: Option<bool>,
        /// Only nothing or `none`: statistics only grow.
        reset_mode: Option<String>,
    }
}

described! {
    /// A device in front of another.
    pub(super) struct ErrorCreate {
        /// The device below, which nobody else may use then. The new one is called the same, after `EE_`.
        base_name: String,
    }
}

described_words! {
    /// Which I/Os an error is for.
    pub(super) enum ErrorIoType {
        /// Reads.
        Read = "read",
        /// Writes.
        Write = "write",
        /// Flushes.
        Flush = "flush",
        /// Deallocation.
        Unmap = "unmap",
        /// Zeroing.
        WriteZeroes = "write_zeroes",
        /// Any.
        All = "all",
        /// None: errors that were injected before are called off, and what hangs goes on.
        Clear = "clear",
    }
}

described_words! {
    /// What becomes of them.
    pub(super) enum ErrorType {
        /// They fail with Internal Error, and never reach the device.
        Failure = "failure",
        /// They hang until errors are cleared.
        Pending = "pending",
    }
}

described! {
    /// Errors to inject.
    pub(super) struct ErrorInject {
        /// The device that injects them.
        name: String,
        /// Which I/Os.
        io_type: ErrorIoType,
        /// What becomes of them. Default `failure`.
        error_type: Option<ErrorType>,
        /// How many of them. Default 1.
        num: Option<u32>,
    }
}
