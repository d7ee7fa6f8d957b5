//! Opcodes (base 2.1 §3.1.3.4, NVM command set 1.1 §3.2) and the data direction in their low bits.

/// Fabrics commands, on every queue; the command itself is in the fabrics command type (base 2.1 §6).
pub const FABRICS: u8 = 0x7F;

/// Which way a command's data goes, in bits 1:0 of its opcode (base 2.1 §4.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// 00b: no data.
    None,
    /// 01b: from host to controller.
    HostToController,
    /// 10b: from controller to host.
    ControllerToHost,
    /// 11b: both ways.
    Bidirectional,
}

impl Direction {
    /// Direction given by bits 1:0 of an opcode or of a fabrics command type.
    pub const fn of_opcode(opcode: u8) -> Self {
        match opcode & 0b11 {
            0 => Self::None,
            1 => Self::HostToController,
            2 => Self::ControllerToHost,
            _ => Self::Bidirectional,
        }
    }
}

/// Opcodes of admin commands (base 2.1 §5).
pub mod admin {
    crate::macros::consts! {
        DELETE_IO_SQ = 0x00 => "Delete I/O Submission Queue";
        CREATE_IO_SQ = 0x01 => "Create I/O Submission Queue";
        GET_LOG_PAGE = 0x02 => "Get Log Page";
        DELETE_IO_CQ = 0x04 => "Delete I/O Completion Queue";
        CREATE_IO_CQ = 0x05 => "Create I/O Completion Queue";
        IDENTIFY = 0x06 => "Identify";
        ABORT = 0x08 => "Abort";
        SET_FEATURES = 0x09 => "Set Features";
        GET_FEATURES = 0x0A => "Get Features";
        ASYNC_EVENT_REQUEST = 0x0C => "Asynchronous Event Request";
        NAMESPACE_MANAGEMENT = 0x0D => "Namespace Management";
        FIRMWARE_COMMIT = 0x10 => "Firmware Commit";
        FIRMWARE_IMAGE_DOWNLOAD = 0x11 => "Firmware Image Download";
        DEVICE_SELF_TEST = 0x14 => "Device Self-test";
        NAMESPACE_ATTACHMENT = 0x15 => "Namespace Attachment";
        KEEP_ALIVE = 0x18 => "Keep Alive";
        DIRECTIVE_SEND = 0x19 => "Directive Send";
        DIRECTIVE_RECEIVE = 0x1A => "Directive Receive";
        VIRTUALIZATION_MANAGEMENT = 0x1C => "Virtualization Management";
        NVME_MI_SEND = 0x1D => "NVMe-MI Send";
        NVME_MI_RECEIVE = 0x1E => "NVMe-MI Receive";
        CAPACITY_MANAGEMENT = 0x20 => "Capacity Management";
        DISCOVERY_INFORMATION_MANAGEMENT = 0x21 => "Discovery Information Management";
        FABRIC_ZONING_RECEIVE = 0x22 => "Fabric Zoning Receive";
        LOCKDOWN = 0x24 => "Lockdown";
        FABRIC_ZONING_LOOKUP = 0x25 => "Fabric Zoning Lookup";
        CLEAR_EXPORTED_NVM_RESOURCE_CONFIGURATION = 0x28 => "Clear Exported NVM Resource Configuration";
        FABRIC_ZONING_SEND = 0x29 => "Fabric Zoning Send";
        CREATE_EXPORTED_NVM_SUBSYSTEM = 0x2A => "Create Exported NVM Subsystem";
        MANAGE_EXPORTED_NVM_SUBSYSTEM = 0x2D => "Manage Exported NVM Subsystem";
        MANAGE_EXPORTED_NAMESPACE = 0x31 => "Manage Exported Namespace";
        MANAGE_EXPORTED_PORT = 0x35 => "Manage Exported Port";
        SEND_DISCOVERY_LOG_PAGE = 0x39 => "Send Discovery Log Page";
        TRACK_SEND = 0x3D => "Track Send";
        TRACK_RECEIVE = 0x3E => "Track Receive";
        MIGRATION_SEND = 0x41 => "Migration Send";
        MIGRATION_RECEIVE = 0x42 => "Migration Receive";
        CONTROLLER_DATA_QUEUE = 0x45 => "Controller Data Queue";
        DOORBELL_BUFFER_CONFIG = 0x7C => "Doorbell Buffer Config";
        FORMAT_NVM = 0x80 => "Format NVM";
        SECURITY_SEND = 0x81 => "Security Send";
        SECURITY_RECEIVE = 0x82 => "Security Receive";
        SANITIZE = 0x84 => "Sanitize";
        LOAD_PROGRAM = 0x85 => "Load Program";
        GET_LBA_STATUS = 0x86 => "Get LBA Status";
        PROGRAM_ACTIVATION_MANAGEMENT = 0x88 => "Program Activation Management";
        MEMORY_RANGE_SET_MANAGEMENT = 0x89 => "Memory Range Set Management";
    }
}

/// Opcodes of I/O commands (base 2.1 §7, NVM command set 1.1 §3.2).
pub mod io {
    crate::macros::consts! {
        FLUSH = 0x00 => "Flush";
        WRITE = 0x01 => "Write";
        READ = 0x02 => "Read";
        WRITE_UNCORRECTABLE = 0x04 => "Write Uncorrectable";
        COMPARE = 0x05 => "Compare";
        WRITE_ZEROES = 0x08 => "Write Zeroes";
        DATASET_MANAGEMENT = 0x09 => "Dataset Management";
        VERIFY = 0x0C => "Verify";
        RESERVATION_REGISTER = 0x0D => "Reservation Register";
        RESERVATION_REPORT = 0x0E => "Reservation Report";
        RESERVATION_ACQUIRE = 0x11 => "Reservation Acquire";
        IO_MANAGEMENT_RECEIVE = 0x12 => "I/O Management Receive";
        RESERVATION_RELEASE = 0x15 => "Reservation Release";
        CANCEL = 0x18 => "Cancel";
        COPY = 0x19 => "Copy";
        IO_MANAGEMENT_SEND = 0x1D => "I/O Management Send";
        ZONE_MANAGEMENT_SEND = 0x79 => "Zone Management Send";
        ZONE_MANAGEMENT_RECEIVE = 0x7A => "Zone Management Receive";
        ZONE_APPEND = 0x7D => "Zone Append";
    }
}
