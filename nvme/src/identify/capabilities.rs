//! Bits of the capability fields of Identify Controller (base 2.1 §5.1.13.2.1).

use crate::macros::masks;

masks! {
    /// Multi-path and sharing capabilities, CMIC.
    pub mod cmic: u8 {
        MULTI_PORT = 0 => "the subsystem may have more than one port";
        MULTI_CONTROLLER = 1 => "the subsystem may have more than one controller";
        SR_IOV = 2 => "the controller is an SR-IOV virtual function";
        ANA_REPORTING = 3 => "the subsystem reports asymmetric namespace access";
    }

    /// Controller attributes, CTRATT.
    pub mod ctratt: u32 {
        HOST_ID_128 = 0 => "128-bit host identifiers; required over fabrics";
        NON_OPERATIONAL_POWER_STATE_PERMISSIVE = 1 => "non-operational power state permissive mode";
        NVM_SETS = 2 => "NVM sets";
        READ_RECOVERY_LEVELS = 3 => "read recovery levels";
        ENDURANCE_GROUPS = 4 => "endurance groups";
        PREDICTABLE_LATENCY = 5 => "predictable latency mode";
        TRAFFIC_BASED_KEEP_ALIVE = 6 => "any command restarts the keep alive timer";
        NAMESPACE_GRANULARITY = 7 => "namespace granularity";
        SQ_ASSOCIATIONS = 8 => "submission queue associations";
        UUID_LIST = 9 => "UUID list";
        MULTI_DOMAIN = 10 => "multi-domain subsystem";
        FIXED_CAPACITY = 11 => "fixed capacity management";
        VARIABLE_CAPACITY = 12 => "variable capacity management";
        DELETE_ENDURANCE_GROUP = 13 => "delete endurance group";
        DELETE_NVM_SET = 14 => "delete NVM set";
        EXTENDED_LBA_FORMATS = 15 => "extended LBA formats";
        MDTS_EXCLUDES_METADATA = 16 => "MDTS and size limits exclude metadata";
        HMB_RESTRICT = 17 => "host memory buffer restrict non-operational power state access";
        RESERVATIONS_HOST_ID = 18 => "reservations and host identifier interaction";
        FLEXIBLE_DATA_PLACEMENT = 19 => "flexible data placement";
    }

    /// Optional admin commands supported, OACS.
    pub mod oacs: u16 {
        SECURITY = 0 => "Security Send and Receive";
        FORMAT = 1 => "Format NVM";
        FIRMWARE = 2 => "Firmware Commit and Firmware Image Download";
        NAMESPACE_MANAGEMENT = 3 => "Namespace Management and Attachment";
        DEVICE_SELF_TEST = 4 => "Device Self-test";
        DIRECTIVES = 5 => "Directive Send and Receive";
        NVME_MI = 6 => "NVMe-MI Send and Receive";
        VIRTUALIZATION = 7 => "Virtualization Management";
        DOORBELL_BUFFER = 8 => "Doorbell Buffer Config";
        GET_LBA_STATUS = 9 => "Get LBA Status";
        LOCKDOWN = 10 => "Command and Feature Lockdown";
        HOST_MANAGED_LIVE_MIGRATION = 11 => "host managed live migration";
    }

    /// Log page attributes, LPA.
    pub mod lpa: u8 {
        SMART_PER_NAMESPACE = 0 => "the SMART log is also given per namespace";
        COMMANDS_AND_EFFECTS = 1 => "the commands supported and effects log is supported";
        EXTENDED_DATA = 2 => "offsets and lengths beyond 12 bits of dwords (LPO, NUMDU)";
        TELEMETRY = 3 => "telemetry logs and their notices";
        PERSISTENT_EVENT = 4 => "persistent event log";
        SUPPORTED_LOG_PAGES = 5 => "logs 00h, 12h, 13h and scope in log 05h";
        TELEMETRY_DATA_AREA_4 = 6 => "data area 4 of telemetry logs";
    }

    /// Asymmetric namespace access capabilities, ANACAP.
    pub mod anacap: u8 {
        OPTIMIZED = 0 => "the optimized state is reported";
        NON_OPTIMIZED = 1 => "the non-optimized state is reported";
        INACCESSIBLE = 2 => "the inaccessible state is reported";
        PERSISTENT_LOSS = 3 => "the persistent loss state is reported";
        CHANGE = 4 => "the change state is reported";
        GROUP_ID_FIXED = 6 => "the group of a namespace does not change while it is attached";
        GROUP_ID_MANAGED = 7 => "Namespace Management accepts a group";
    }

    /// Optional NVM commands supported, ONCS.
    pub mod oncs: u16 {
        COMPARE = 0 => "Compare";
        WRITE_UNCORRECTABLE = 1 => "Write Uncorrectable";
        DATASET_MANAGEMENT = 2 => "Dataset Management";
        WRITE_ZEROES = 3 => "Write Zeroes";
        SAVE_AND_SELECT = 4 => "save in Set Features, select in Get Features";
        RESERVATIONS = 5 => "reservations";
        TIMESTAMP = 6 => "the Timestamp feature";
        VERIFY = 7 => "Verify";
        COPY = 8 => "Copy";
        COPY_SINGLE_ATOMICITY = 9 => "Copy is atomic as one write";
        ALL_FAST_COPY = 10 => "every Copy is fast";
        WRITE_ZEROES_DEALLOCATE = 11 => "Write Zeroes with deallocate is not limited by MDTS";
        NAMESPACE_ZEROES = 12 => "Write Zeroes of a whole namespace";
    }

    /// Fused operations supported, FUSES.
    pub mod fuses: u16 {
        COMPARE_AND_WRITE = 0 => "Compare and Write";
    }

    /// Optional fabrics commands supported, OFCS.
    pub mod ofcs: u16 {
        DISCONNECT = 0 => "Disconnect";
    }

    /// SGL support, SGLS; bits 1:0 are [`SGLS_ANY_ALIGNMENT`] or 2.
    pub mod sgls: u32 {
        KEYED = 2 => "keyed data block descriptors";
        BIT_BUCKET = 16 => "bit bucket descriptors";
        METADATA_BYTE_ALIGNED = 17 => "byte aligned contiguous metadata";
        OVERSIZED = 18 => "an SGL longer than the data";
        METADATA_SGL = 19 => "metadata pointer that holds an SGL segment";
        OFFSET = 20 => "the address field as an offset into the capsule";
        TRANSPORT = 21 => "transport data block descriptors";
    }
}

/// Bits 1:0 of SGLS: SGLs are supported, without alignment or granularity requirement.
pub const SGLS_ANY_ALIGNMENT: u32 = 0b01;
/// Bits 1:0 of SGLS: SGLs are supported, data blocks are dword aligned.
pub const SGLS_DWORD_ALIGNMENT: u32 = 0b10;
/// Bit 0 of VWC: a volatile write cache is present.
pub const VWC_PRESENT: u8 = 0b001;
/// Bits 2:1 of VWC: a Flush of all namespaces is refused.
pub const VWC_FLUSH_ALL_UNSUPPORTED: u8 = 0b100;
/// Bits 2:1 of VWC: a Flush of all namespaces flushes them all.
pub const VWC_FLUSH_ALL_SUPPORTED: u8 = 0b110;
