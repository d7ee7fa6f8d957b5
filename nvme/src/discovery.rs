//! Discovery log (base 2.1 §5.1.12.3.1) and Discovery Information Management (§5.3.3).

mod entry;
mod management;

pub use entry::*;
pub use management::*;

use crate::macros::{codes, layout, masks};
use zerocopy::little_endian::{U16, U32, U64};

codes! {
    /// Transport type, TRTYPE.
    pub struct TransportType(u8) {
        PCIE = 0 => "PCIe";
        RDMA = 1 => "RDMA";
        FIBRE_CHANNEL = 2 => "Fibre Channel";
        TCP = 3 => "TCP";
        INTRA_HOST = 254 => "Intra-host";
    }

    /// Address family, ADRFAM.
    pub struct AddressFamily(u8) {
        UNSPECIFIED = 0 => "Not specified";
        IPV4 = 1 => "IPv4";
        IPV6 = 2 => "IPv6";
        INFINIBAND = 3 => "InfiniBand";
        FIBRE_CHANNEL = 4 => "Fibre Channel";
        INTRA_HOST = 254 => "Intra-host";
    }

    /// What an entry describes, SUBTYPE.
    pub struct SubsystemType(u8) {
        REFERRAL = 1 => "Referral to another discovery service";
        NVM = 2 => "NVM subsystem";
        CURRENT_DISCOVERY = 3 => "Current discovery subsystem";
    }

    /// Security of a TCP connection, SECTYPE (NVMe/TCP 1.0 §3.6.1.1).
    pub struct TcpSecurity(u8) {
        NONE = 0 => "No security";
        TLS_1_2 = 1 => "TLS 1.2 or later";
        TLS_1_3 = 2 => "TLS 1.3";
    }

    /// RDMA queue pair service (NVMe/RDMA 1.0 §3.1.1).
    pub struct RdmaQpType(u8) {
        CONNECTED = 1 => "Reliable connected";
        DATAGRAM = 2 => "Reliable datagram";
    }

    /// RDMA provider (NVMe/RDMA 1.0 §3.1.1).
    pub struct RdmaProvider(u8) {
        NONE = 1 => "No provider specified";
        INFINIBAND = 2 => "InfiniBand";
        ROCE = 3 => "RoCE";
        ROCE_V2 = 4 => "RoCE v2";
        IWARP = 5 => "iWARP";
    }

    /// RDMA connection management (NVMe/RDMA 1.0 §3.1.1).
    pub struct RdmaCms(u8) {
        RDMA_CM = 1 => "RDMA_CM";
    }
}

layout! {
    /// Header of the discovery log; [`DiscoveryEntry`] records follow.
    pub struct DiscoveryHeader: 1024 {
        /// Generation counter: changes with every change of the log.
        0 => genctr: U64,
        /// Number of records.
        8 => numrec: U64,
        /// Record format; zero.
        16 => recfmt: U16,
        /// Flags: bit 0 extended entries, bit 1 port local entries only, bit 2 all subsystem entries.
        18 => dlpf: u8,
        #[doc(hidden)]
        19 => rsvd19: u8,
        /// Total length in bytes, with extended entries.
        20 => tdlpl: U32,
        #[doc(hidden)]
        24 => rsvd24: [u8; 1000],
    }
}

masks! {
    /// Log specific parameter of Get Log Page for the discovery log.
    pub mod lsp: u8 {
        EXTENDED_ENTRIES = 0 => "extended entries are asked for";
        PORT_LOCAL = 1 => "only entries of the port that was asked";
        ALL_SUBSYSTEMS = 2 => "entries of all subsystems, whatever the host";
    }

    /// Flags of an entry, EFLAGS.
    pub mod eflags: u16 {
        DUPLICATE_RETURNED = 0 => "the referred discovery service gives the same records (DUPRETINFO)";
        PERSISTENT_CONNECTION = 1 => "explicit persistent connections are supported (EPCSD)";
        NO_CDC_CONNECTIVITY = 2 => "no connectivity to a central discovery controller (NCC)";
    }
}

/// Bits 1:0 of TREQ: whether a secure channel is needed.
pub mod treq {
    /// Bits 1:0: secure channel not specified.
    pub const SECURE_CHANNEL_UNSPECIFIED: u8 = 0;
    /// Bits 1:0: secure channel required.
    pub const SECURE_CHANNEL_REQUIRED: u8 = 1;
    /// Bits 1:0: secure channel not required.
    pub const SECURE_CHANNEL_NOT_REQUIRED: u8 = 2;
    /// Bits 1:0.
    pub const SECURE_CHANNEL_MASK: u8 = 0b11;
    /// Bit 2: submission queue flow control can be disabled.
    pub const SQ_FLOW_CONTROL_DISABLE: u8 = 1 << 2;
}

/// Bytes of a discovery log with this many records.
pub const fn discovery_log_bytes(records: usize) -> usize {
    DiscoveryHeader::SIZE + records * DiscoveryEntry::SIZE
}
