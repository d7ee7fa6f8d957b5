//! Controller properties (base 2.1 §3.1.4): registers of a PCIe controller, read and written over fabrics by
//! Property Get and Property Set.

use crate::macros::bits;

/// Offsets of the properties a fabrics controller has (base 2.1 §3.1.4, figure "Property Definition").
pub mod offset {
    /// Controller Capabilities, 8 bytes.
    pub const CAP: u32 = 0x00;
    /// Version, 4 bytes.
    pub const VS: u32 = 0x08;
    /// Controller Configuration, 4 bytes.
    pub const CC: u32 = 0x14;
    /// Controller Status, 4 bytes.
    pub const CSTS: u32 = 0x1C;
    /// NVM Subsystem Reset, 4 bytes, optional.
    pub const NSSR: u32 = 0x20;
    /// NVM Subsystem Shutdown, 4 bytes, optional.
    pub const NSSD: u32 = 0x64;
    /// Controller Ready Timeouts, 4 bytes.
    pub const CRTO: u32 = 0x68;
}

/// Value that resets the NVM subsystem when written to NSSR: "NVMe".
pub const NSSR_RESET: u32 = 0x4E56_4D65;

bits! {
    /// CAP, Controller Capabilities (base 2.1 §3.1.4.1).
    pub struct Cap(u64) {
        /// Maximum queue entries supported, 0's based.
        mqes, with_mqes: u16 = 0, 16;
        /// Contiguous queues required; always set over fabrics.
        cqr, with_cqr: bool = 16;
        /// Arbitration mechanisms besides round robin: bit 0 weighted, bit 1 vendor specific.
        ams, with_ams: u8 = 17, 2;
        /// Worst time to become ready, in units of 500 ms.
        to, with_to: u8 = 24, 8;
        /// Doorbell stride; zero over fabrics.
        dstrd, with_dstrd: u8 = 32, 4;
        /// NVM subsystem reset supported.
        nssrs, with_nssrs: bool = 36;
        /// Command sets supported: bit 0 NVM, bit 6 one or more by CNS 1Ch, bit 7 none.
        css, with_css: u8 = 37, 8;
        /// Boot partition support.
        bps, with_bps: bool = 45;
        /// Controller power scope.
        cps, with_cps: u8 = 46, 2;
        /// Smallest memory page: 2^(12 + MPSMIN) bytes.
        mpsmin, with_mpsmin: u8 = 48, 4;
        /// Largest memory page: 2^(12 + MPSMAX) bytes.
        mpsmax, with_mpsmax: u8 = 52, 4;
        /// Persistent memory region supported.
        pmrs, with_pmrs: bool = 56;
        /// Controller memory buffer supported.
        cmbs, with_cmbs: bool = 57;
        /// NVM subsystem shutdown supported.
        nsss, with_nsss: bool = 58;
        /// Controller ready modes supported: bit 0 with media, bit 1 independent of media.
        crms, with_crms: u8 = 59, 2;
        /// NVM subsystem shutdown enhancements supported.
        nsses, with_nsses: bool = 61;
    }

    /// VS, Version (base 2.1 §3.1.4.2).
    pub struct Vs(u32) {
        /// Tertiary version.
        ter, with_ter: u8 = 0, 8;
        /// Minor version.
        mnr, with_mnr: u8 = 8, 8;
        /// Major version.
        mjr, with_mjr: u16 = 16, 16;
    }

    /// CC, Controller Configuration (base 2.1 §3.1.4.5).
    pub struct Cc(u32) {
        /// Enable.
        en, with_en: bool = 0;
        /// I/O command set selected: 0 NVM, 6 all supported, 7 admin only.
        css, with_css: u8 = 4, 3;
        /// Memory page size: 2^(12 + MPS) bytes.
        mps, with_mps: u8 = 7, 4;
        /// Arbitration mechanism selected.
        ams, with_ams: u8 = 11, 3;
        /// Shutdown notification: 0 none, 1 normal, 2 abrupt.
        shn, with_shn: u8 = 14, 2;
        /// I/O submission queue entry size, 2^n bytes; 6 for the NVM command set.
        iosqes, with_iosqes: u8 = 16, 4;
        /// I/O completion queue entry size, 2^n bytes; 4 for the NVM command set.
        iocqes, with_iocqes: u8 = 20, 4;
        /// Controller ready independent of media enable.
        crime, with_crime: bool = 24;
    }

    /// CSTS, Controller Status (base 2.1 §3.1.4.6).
    pub struct Csts(u32) {
        /// Ready.
        rdy, with_rdy: bool = 0;
        /// Controller fatal status.
        cfs, with_cfs: bool = 1;
        /// Shutdown status.
        shst_bits, with_shst_bits: u8 = 2, 2;
        /// NVM subsystem reset occurred.
        nssro, with_nssro: bool = 4;
        /// Processing paused.
        pp, with_pp: bool = 5;
        /// Shutdown type: set when the subsystem, not the controller, shuts down.
        st, with_st: bool = 6;
    }

    /// CRTO, Controller Ready Timeouts (base 2.1 §3.1.4.21), in units of 500 ms.
    pub struct Crto(u32) {
        /// Ready with media timeout.
        crwmt, with_crwmt: u16 = 0, 16;
        /// Ready independent of media timeout.
        crimt, with_crimt: u16 = 16, 16;
    }

    /// NSSR, NVM Subsystem Reset (base 2.1 §3.1.4.7): write [`NSSR_RESET`], read zero.
    pub struct Nssr(u32) {
        /// Control value.
        nssrc, with_nssrc: u32 = 0, 32;
    }
}

impl Vs {
    /// Version 1.4.
    pub const V1_4: Self = Self(0x0001_0400);
    /// Version 2.0.
    pub const V2_0: Self = Self(0x0002_0000);
    /// Version 2.1.
    pub const V2_1: Self = Self(0x0002_0100);
}

impl core::fmt::Display for Vs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}.{}", self.mjr(), self.mnr(), self.ter())
    }
}

/// Shutdown status, CSTS.SHST.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownStatus {
    /// 00b: normal operation.
    Normal,
    /// 01b: shutdown processing occurring.
    Occurring,
    /// 10b: shutdown processing complete.
    Complete,
    /// 11b: reserved.
    Reserved,
}

impl Csts {
    /// Shutdown status.
    pub const fn shst(self) -> ShutdownStatus {
        match self.shst_bits() {
            0 => ShutdownStatus::Normal,
            1 => ShutdownStatus::Occurring,
            2 => ShutdownStatus::Complete,
            _ => ShutdownStatus::Reserved,
        }
    }

    /// The same value with this shutdown status.
    #[must_use]
    pub const fn with_shst(self, status: ShutdownStatus) -> Self {
        self.with_shst_bits(match status {
            ShutdownStatus::Normal => 0,
            ShutdownStatus::Occurring => 1,
            ShutdownStatus::Complete => 2,
            ShutdownStatus::Reserved => 3,
        })
    }
}

impl Cc {
    /// What a host of the NVM command set writes to enable a controller: 64-byte and 16-byte entries, 4 KiB pages.
    pub const ENABLE_NVM: Self = Self(0).with_iosqes(6).with_iocqes(4).with_en(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cc_enable_is_what_hosts_write() {
        assert_eq!(Cc::ENABLE_NVM.0, 0x0046_0001);
    }

    #[test]
    fn versions_have_the_registers_of_the_specification() {
        assert_eq!(Vs::V2_1, Vs(0).with_mjr(2).with_mnr(1));
        assert_eq!(Vs::V1_4.to_string(), "1.4.0");
    }

    #[test]
    fn fields_do_not_touch_their_neighbours() {
        let all = Cap(u64::MAX);
        assert_eq!(all.with_css(0).0, !(0xFF << 37));
        assert_eq!(all.with_mqes(0).with_mqes(0xFFFF), all);
        assert_eq!(Csts(u32::MAX).with_shst(ShutdownStatus::Normal).0, !0b1100);
        assert_eq!(Cap(0).with_to(30).to(), 30);
    }
}
