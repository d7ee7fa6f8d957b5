//! Primary and secondary controllers of virtualized devices.

use crate::macros::layout;
use zerocopy::little_endian::{U16, U32};

layout! {
    /// Primary Controller Capabilities, CNS 14h (base 2.1 §5.1.13.3).
    pub struct PrimaryControllerCapabilities: 4096 {
        /// Controller identifier.
        0 => cntlid: U16,
        /// Port.
        2 => portid: U16,
        /// Controller resource types: bit 0 VQ, bit 1 VI.
        4 => crt: u8,
        #[doc(hidden)]
        5 => rsvd5: [u8; 27],
        /// VQ resources flexible total.
        32 => vqfrt: U32,
        /// VQ resources flexible assigned.
        36 => vqrfa: U32,
        /// VQ resources flexible allocated to primary.
        40 => vqrfap: U16,
        /// VQ resources private total.
        42 => vqprt: U16,
        /// VQ resources flexible secondary maximum.
        44 => vqfrsm: U16,
        /// VQ flexible resource preferred granularity.
        46 => vqgran: U16,
        #[doc(hidden)]
        48 => rsvd48: [u8; 16],
        /// VI resources flexible total.
        64 => vifrt: U32,
        /// VI resources flexible assigned.
        68 => virfa: U32,
        /// VI resources flexible allocated to primary.
        72 => virfap: U16,
        /// VI resources private total.
        74 => viprt: U16,
        /// VI resources flexible secondary maximum.
        76 => vifrsm: U16,
        /// VI flexible resource preferred granularity.
        78 => vigran: U16,
        #[doc(hidden)]
        80 => rsvd80: [u8; 4016],
    }

    /// Entry of the Secondary Controller List (base 2.1 §5.1.13.3).
    pub struct SecondaryController: 32 {
        /// Secondary controller.
        0 => scid: U16,
        /// Its primary controller.
        2 => pcid: U16,
        /// Bit 0: online.
        4 => scs: u8,
        #[doc(hidden)]
        5 => rsvd5: [u8; 3],
        /// Virtual function number.
        8 => vfn: U16,
        /// Flexible VQ resources assigned.
        10 => nvq: U16,
        /// Flexible VI resources assigned.
        12 => nvi: U16,
        #[doc(hidden)]
        14 => rsvd14: [u8; 18],
    }

    /// Secondary Controller List, CNS 15h (base 2.1 §5.1.13.3).
    pub struct SecondaryControllerList: 4096 {
        /// Number of entries.
        0 => number: u8,
        #[doc(hidden)]
        1 => rsvd1: [u8; 31],
        /// Entries, by ascending secondary controller identifier.
        32 => entries: [SecondaryController; 127],
    }
}
