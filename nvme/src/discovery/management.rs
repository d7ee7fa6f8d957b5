//! Discovery Information Management (base 2.1 §5.3.3): registration of hosts and subsystems with a discovery
//! controller.

use crate::macros::{codes, layout};
use crate::{NulStr, Sqe, opcode};
use zerocopy::little_endian::{U16, U32, U64};

codes! {
    /// What to do with the entries, TAS.
    pub struct DimTask(u8) {
        REGISTER = 0x0 => "Register";
        DEREGISTER = 0x1 => "Deregister";
        UPDATE = 0x2 => "Update";
    }

    /// Format of the entries, ENTFMT.
    pub struct DimEntryFormat(u16) {
        BASIC = 0x1 => "Basic discovery information entry";
        EXTENDED = 0x2 => "Extended discovery information entry";
    }

    /// Who registers, ETYPE.
    pub struct DimEntity(u16) {
        HOST = 0x1 => "Host";
        DIRECT_DISCOVERY = 0x2 => "Direct Discovery controller";
        CENTRAL_DISCOVERY = 0x3 => "Central Discovery controller";
    }
}

/// Discovery Information Management command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiscoveryInformationManagement {
    /// Task, four bits.
    pub task: DimTask,
}

impl DiscoveryInformationManagement {
    /// Writes the command; the data pointer is for the caller to set.
    pub fn to_sqe(&self, cid: u16) -> Sqe {
        Sqe {
            cdw10: U32::new(u32::from(self.task.0 & 0xF)),
            ..Sqe::new(opcode::admin::DISCOVERY_INFORMATION_MANAGEMENT, cid)
        }
    }
}

impl From<&Sqe> for DiscoveryInformationManagement {
    fn from(sqe: &Sqe) -> Self {
        Self { task: DimTask(sqe.cdw10.to_bytes()[0] & 0xF) }
    }
}

layout! {
    /// Data of the command; entries follow.
    pub struct DimHeader: 1024 {
        /// Total length of the data in bytes.
        0 => tdl: U32,
        #[doc(hidden)]
        4 => rsvd4: [u8; 4],
        /// Number of entries.
        8 => nument: U64,
        /// [`DimEntryFormat`].
        16 => entfmt: U16,
        /// [`DimEntity`].
        18 => etype: U16,
        /// Port local.
        20 => portlcl: u8,
        #[doc(hidden)]
        21 => rsvd21: u8,
        /// Entity key type.
        22 => ektype: U16,
        /// NVMe qualified name of the entity.
        24 => eid: NulStr<256>,
        /// Name of the entity.
        280 => ename: NulStr<256>,
        /// Version of the entity.
        536 => ever: NulStr<64>,
        #[doc(hidden)]
        600 => rsvd600: [u8; 424],
    }
}
