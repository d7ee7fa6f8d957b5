//! Identify Namespace: of the NVM command set, its extension, and what is common to all command sets.

use crate::macros::{bits, layout, masks};
use zerocopy::little_endian::{U16, U32, U64, U128};

layout! {
    /// Identify Namespace of the NVM command set, CNS 00h (NVM command set 1.1 §4.1.5.1).
    pub struct IdentifyNamespace: 4096 {
        /// Size in logical blocks.
        0 => nsze: U64,
        /// Capacity in logical blocks.
        8 => ncap: U64,
        /// Utilization in logical blocks.
        16 => nuse: U64,
        /// Features: [`nsfeat`].
        24 => nsfeat: u8,
        /// Number of LBA formats, 0's based.
        25 => nlbaf: u8,
        /// Formatted LBA size: index in bits 3:0 and 6:5, metadata at end of data in bit 4.
        26 => flbas: u8,
        /// Metadata capabilities.
        27 => mc: u8,
        /// Data protection capabilities.
        28 => dpc: u8,
        /// Data protection settings.
        29 => dps: u8,
        /// Multi-path and sharing: bit 0 shared by controllers.
        30 => nmic: u8,
        /// Reservation capabilities: [`rescap`].
        31 => rescap: u8,
        /// Format progress.
        32 => fpi: u8,
        /// Deallocate features: [`dlfeat`].
        33 => dlfeat: u8,
        /// Namespace atomic write unit normal, 0's based.
        34 => nawun: U16,
        /// Namespace atomic write unit power fail, 0's based.
        36 => nawupf: U16,
        /// Namespace atomic compare and write unit, 0's based.
        38 => nacwu: U16,
        /// Namespace atomic boundary size normal, 0's based.
        40 => nabsn: U16,
        /// Namespace atomic boundary offset.
        42 => nabo: U16,
        /// Namespace atomic boundary size power fail, 0's based.
        44 => nabspf: U16,
        /// Optimal I/O boundary in logical blocks.
        46 => noiob: U16,
        /// NVM capacity in bytes.
        48 => nvmcap: U128,
        /// Preferred write granularity, logical blocks, 0's based.
        64 => npwg: U16,
        /// Preferred write alignment, logical blocks, 0's based.
        66 => npwa: U16,
        /// Preferred deallocate granularity, logical blocks, 0's based.
        68 => npdg: U16,
        /// Preferred deallocate alignment, logical blocks, 0's based.
        70 => npda: U16,
        /// Optimal write size, logical blocks, 0's based.
        72 => nows: U16,
        /// Copy: maximum single source range length, logical blocks.
        74 => mssrl: U16,
        /// Copy: maximum copy length, logical blocks.
        76 => mcl: U32,
        /// Copy: maximum source range count, 0's based.
        80 => msrc: u8,
        /// Key per I/O status.
        81 => kpios: u8,
        /// Number of unique attribute LBA formats.
        82 => nulbaf: u8,
        #[doc(hidden)]
        83 => rsvd83: u8,
        /// Key per I/O data access alignment and granularity.
        84 => kpiodaag: U32,
        #[doc(hidden)]
        88 => rsvd88: [u8; 4],
        /// ANA group; zero is none.
        92 => anagrpid: U32,
        #[doc(hidden)]
        96 => rsvd96: [u8; 3],
        /// Attributes: bit 0 currently write protected.
        99 => nsattr: u8,
        /// NVM set.
        100 => nvmsetid: U16,
        /// Endurance group.
        102 => endgid: U16,
        /// Namespace globally unique identifier, big-endian.
        104 => nguid: [u8; 16],
        /// IEEE extended unique identifier, big-endian.
        120 => eui64: [u8; 8],
        /// LBA formats.
        128 => lbaf: [LbaFormat; 64],
        /// Vendor specific.
        384 => vs: [u8; 3712],
    }

    /// LBA format (NVM command set 1.1 §4.1.5.1).
    pub struct LbaFormat: 4 {
        /// Metadata bytes of a logical block.
        0 => ms: U16,
        /// Data size of a logical block, 2^n bytes; zero is not available.
        2 => lbads: u8,
        /// Relative performance in bits 1:0, 0 the best.
        3 => rp: u8,
    }

    /// Identify Namespace, NVM command set specific, CNS 05h CSI 00h (NVM command set 1.1 §4.1.5.3).
    pub struct IdentifyNamespaceNvm: 4096 {
        /// Logical block storage tag mask.
        0 => lbstm: U64,
        /// Protection information capabilities.
        8 => pic: u8,
        /// Protection information format attributes.
        9 => pifa: u8,
        #[doc(hidden)]
        10 => rsvd10: [u8; 2],
        /// Extended LBA formats.
        12 => elbaf: [U32; 64],
        /// Preferred deallocate granularity large, logical blocks.
        268 => npdgl: U32,
        /// Preferred read granularity, logical blocks.
        272 => nprg: U32,
        /// Preferred read alignment, logical blocks.
        276 => npra: U32,
        /// Optimal read size, logical blocks.
        280 => nors: U32,
        /// Preferred deallocate alignment large, logical blocks.
        284 => npdal: U32,
        /// LBA format placement shard size.
        288 => lbapss: U32,
        /// Tracked LBA allocation granularity.
        292 => tlbaag: U32,
        #[doc(hidden)]
        296 => rsvd296: [u8; 3800],
    }

    /// I/O command set independent Identify Namespace, CNS 08h (base 2.1 §5.1.13.2.8).
    pub struct IdentifyNamespaceIndependent: 4096 {
        /// Features: [`nsfeat`].
        0 => nsfeat: u8,
        /// Multi-path and sharing: bit 0 shared by controllers.
        1 => nmic: u8,
        /// Reservation capabilities: [`rescap`].
        2 => rescap: u8,
        /// Format progress.
        3 => fpi: u8,
        /// ANA group; zero is none.
        4 => anagrpid: U32,
        /// Attributes: bit 0 currently write protected.
        8 => nsattr: u8,
        #[doc(hidden)]
        9 => rsvd9: u8,
        /// NVM set.
        10 => nvmsetid: U16,
        /// Endurance group.
        12 => endgid: U16,
        /// Status: bit 0 ready.
        14 => nstat: u8,
        /// Key per I/O status.
        15 => kpios: u8,
        /// Maximum key tag.
        16 => maxkt: U16,
        #[doc(hidden)]
        18 => rsvd18: [u8; 2],
        /// Reachability group.
        20 => rgrpid: U32,
        #[doc(hidden)]
        24 => rsvd24: [u8; 4072],
    }
}

masks! {
    /// Namespace features, NSFEAT; of CNS 08h only `ID_NOT_REUSED` and the higher bits have this meaning.
    pub mod nsfeat: u8 {
        THIN_PROVISIONING = 0 => "NCAP may be less than NSZE";
        ATOMIC = 1 => "NAWUN, NAWUPF and NACWU are given";
        DEALLOCATED_ERROR = 2 => "errors for deallocated or unwritten blocks can be enabled";
        ID_NOT_REUSED = 3 => "NGUID and EUI64 are never reused";
        OPTIMAL_WRITE = 4 => "NPWG, NPWA, NPDG, NPDA and NOWS are given";
        OPTIMAL_WRITE_LARGE = 5 => "the large deallocate fields of CNS 05h are given too";
    }

    /// Namespace features of the independent structure, CNS 08h.
    pub mod nsfeat_independent: u8 {
        ID_NOT_REUSED = 3 => "NGUID and EUI64 are never reused";
        ROTATIONAL_MEDIA = 4 => "the namespace is on rotational media";
        NO_VOLATILE_WRITE_CACHE = 5 => "no volatile write cache (VWCNP)";
    }

    /// Reservation capabilities, RESCAP.
    pub mod rescap: u8 {
        PERSIST_THROUGH_POWER_LOSS = 0 => "persist through power loss";
        WRITE_EXCLUSIVE = 1 => "Write Exclusive";
        EXCLUSIVE_ACCESS = 2 => "Exclusive Access";
        WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3 => "Write Exclusive - Registrants Only";
        EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 4 => "Exclusive Access - Registrants Only";
        WRITE_EXCLUSIVE_ALL_REGISTRANTS = 5 => "Write Exclusive - All Registrants";
        EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 6 => "Exclusive Access - All Registrants";
        IGNORE_EXISTING_KEY_1_3 = 7 => "Ignore Existing Key as base 1.3 and later define it";
    }

    /// Deallocate features, DLFEAT; bits 2:0 are one of [`DLFEAT_READS_ZEROES`], [`DLFEAT_READS_ONES`] or 0.
    pub mod dlfeat: u8 {
        WRITE_ZEROES_DEALLOCATES = 3 => "the deallocate bit of Write Zeroes is supported";
        GUARD_IS_CRC = 4 => "the guard of a deallocated block is the CRC of what is read";
    }
}

/// Bits 2:0 of DLFEAT: deallocated blocks read as zeroes.
pub const DLFEAT_READS_ZEROES: u8 = 0b001;
/// Bits 2:0 of DLFEAT: deallocated blocks read as ones.
pub const DLFEAT_READS_ONES: u8 = 0b010;
/// Bit 0 of NMIC: the namespace may be attached to several controllers at a time.
pub const NMIC_SHARED: u8 = 0b1;

bits! {
    /// Extended LBA format of CNS 05h, ELBAF (NVM command set 1.1 §4.1.5.3).
    pub struct ExtendedLbaFormat(u32) {
        /// Storage tag size in bits.
        sts, with_sts: u8 = 0, 7;
        /// Protection information format: 0 is 16-bit, 1 is 32-bit, 2 is 64-bit guard.
        pif, with_pif: u8 = 7, 2;
        /// Qualified protection information format.
        qpif, with_qpif: u8 = 9, 4;
    }
}

impl IdentifyNamespace {
    /// Index of the LBA format in use: FLBAS bits 3:0 and, above them, 6:5.
    pub fn format_index(&self) -> usize {
        usize::from(self.flbas & 0xF | (self.flbas >> 5 & 0b11) << 4)
    }

    /// LBA format in use.
    pub fn format(&self) -> &LbaFormat {
        &self.lbaf[self.format_index()]
    }

    /// Data bytes of a logical block; `None` when the format in use is not available or absurd.
    pub fn block_bytes(&self) -> Option<u32> {
        self.format().data_bytes()
    }
}

impl LbaFormat {
    /// Blocks of 2^`lbads` bytes without metadata, with the best performance.
    pub fn new(lbads: u8) -> Self {
        Self { lbads, ..Self::default() }
    }

    /// Data bytes of a logical block; `None` below 512 bytes (not available) or above 2 GiB.
    pub fn data_bytes(&self) -> Option<u32> {
        if (9..=31).contains(&self.lbads) { Some(1 << self.lbads) } else { None }
    }
}
