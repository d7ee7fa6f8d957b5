//! Data of the Identify command (base 2.1 §5.1.13, NVM command set 1.1 §4.1.5).

mod capabilities;
mod controller;
mod lists;
mod namespace;
mod virtualization;

pub use capabilities::*;
pub use controller::*;
pub use lists::*;
pub use namespace::*;
pub use virtualization::*;

use crate::macros::codes;

/// Bytes of every Identify data structure.
pub const IDENTIFY_BYTES: usize = 4096;

/// Controller or namespace structure values (base 2.1 §5.1.13.1).
pub mod cns {
    crate::macros::consts! {
        NAMESPACE = 0x00 => "Identify Namespace";
        CONTROLLER = 0x01 => "Identify Controller";
        ACTIVE_NSID_LIST = 0x02 => "Active Namespace ID list";
        NAMESPACE_DESCRIPTORS = 0x03 => "Namespace Identification Descriptor list";
        NVM_SET_LIST = 0x04 => "NVM Set List";
        CSI_NAMESPACE = 0x05 => "I/O Command Set specific Identify Namespace";
        CSI_CONTROLLER = 0x06 => "I/O Command Set specific Identify Controller";
        CSI_ACTIVE_NSID_LIST = 0x07 => "I/O Command Set specific Active Namespace ID list";
        INDEPENDENT_NAMESPACE = 0x08 => "I/O Command Set Independent Identify Namespace";
        NAMESPACE_FORMAT = 0x09 => "Identify Namespace of a user data format";
        CSI_NAMESPACE_FORMAT = 0x0A => "I/O Command Set specific Identify Namespace of a user data format";
        ALLOCATED_NSID_LIST = 0x10 => "Allocated Namespace ID list";
        ALLOCATED_NAMESPACE = 0x11 => "Identify Namespace of an allocated namespace";
        NAMESPACE_CONTROLLER_LIST = 0x12 => "Controller List of a namespace";
        CONTROLLER_LIST = 0x13 => "Controller List of the NVM subsystem";
        PRIMARY_CONTROLLER_CAPABILITIES = 0x14 => "Primary Controller Capabilities";
        SECONDARY_CONTROLLER_LIST = 0x15 => "Secondary Controller List";
        NAMESPACE_GRANULARITY_LIST = 0x16 => "Namespace Granularity List";
        UUID_LIST = 0x17 => "UUID List";
        DOMAIN_LIST = 0x18 => "Domain List";
        ENDURANCE_GROUP_LIST = 0x19 => "Endurance Group List";
        CSI_ALLOCATED_NSID_LIST = 0x1A => "I/O Command Set specific Allocated Namespace ID list";
        CSI_ALLOCATED_NAMESPACE = 0x1B => "I/O Command Set specific Identify of an allocated namespace";
        COMMAND_SET = 0x1C => "I/O Command Set data structure";
        UNDERLYING_NAMESPACE_LIST = 0x1D => "Underlying Namespace List";
        PORTS_LIST = 0x1E => "Ports List";
        INDEPENDENT_ALLOCATED_NAMESPACE = 0x1F => "I/O Command Set Independent Identify of an allocated namespace";
        CONTROLLER_STATE_FORMATS = 0x20 => "Supported Controller State Formats";
    }
}

codes! {
    /// I/O command set identifier (base 2.1 §5.1.13.1, CSI).
    pub struct Csi(u8) {
        NVM = 0x00 => "NVM Command Set";
        KEY_VALUE = 0x01 => "Key Value Command Set";
        ZONED = 0x02 => "Zoned Namespace Command Set";
        SUBSYSTEM_LOCAL_MEMORY = 0x03 => "Subsystem Local Memory Command Set";
        COMPUTATIONAL_PROGRAMS = 0x04 => "Computational Programs Command Set";
    }

    /// Kind of a controller, CNTRLTYPE.
    pub struct ControllerType(u8) {
        NOT_REPORTED = 0 => "Not reported";
        IO = 1 => "I/O controller";
        DISCOVERY = 2 => "Discovery controller";
        ADMINISTRATIVE = 3 => "Administrative controller";
    }

    /// Kind of a discovery controller, DCTYPE.
    pub struct DiscoveryControllerType(u8) {
        NOT_REPORTED = 0 => "Not reported";
        DIRECT = 1 => "Direct Discovery controller";
        CENTRAL = 2 => "Central Discovery controller";
    }
}
