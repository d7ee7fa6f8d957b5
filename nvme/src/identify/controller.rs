//! Identify Controller and its power states.

use crate::macros::layout;
use crate::{Ascii, ControllerId, NulStr};
use zerocopy::little_endian::{U16, U32, U64, U128};

layout! {
    /// Identify Controller, CNS 01h (base 2.1 §5.1.13.2.1).
    pub struct IdentifyController: 4096 {
        /// PCI vendor; zero over fabrics.
        0 => vid: U16,
        /// PCI subsystem vendor; zero over fabrics.
        2 => ssvid: U16,
        /// Serial number.
        4 => sn: Ascii<20>,
        /// Model number.
        24 => mn: Ascii<40>,
        /// Firmware revision.
        64 => fr: Ascii<8>,
        /// Recommended arbitration burst, 2^n commands.
        72 => rab: u8,
        /// IEEE OUI, least significant byte first.
        73 => ieee: [u8; 3],
        /// Multi-path and sharing: [`super::cmic`].
        76 => cmic: u8,
        /// Maximum data transfer size, 2^n smallest memory pages; zero is no limit.
        77 => mdts: u8,
        /// Controller identifier.
        78 => cntlid: U16,
        /// Version, as VS.
        80 => ver: U32,
        /// RTD3 resume latency in microseconds.
        84 => rtd3r: U32,
        /// RTD3 entry latency in microseconds.
        88 => rtd3e: U32,
        /// Optional asynchronous events: masks of [`crate::features::AsyncEventConfig`].
        92 => oaes: U32,
        /// Controller attributes: [`super::ctratt`].
        96 => ctratt: U32,
        /// Read recovery levels supported.
        100 => rrls: U16,
        /// Boot partition capabilities.
        102 => bpcap: u8,
        #[doc(hidden)]
        103 => rsvd103: u8,
        /// NVM subsystem shutdown latency in microseconds.
        104 => nssl: U32,
        #[doc(hidden)]
        108 => rsvd108: [u8; 2],
        /// Power loss signaling information.
        110 => plsi: u8,
        /// Kind of controller: [`super::ControllerType`].
        111 => cntrltype: u8,
        /// FRU globally unique identifier.
        112 => fguid: [u8; 16],
        /// Command retry delay 1, in 100 ms.
        128 => crdt1: U16,
        /// Command retry delay 2, in 100 ms.
        130 => crdt2: U16,
        /// Command retry delay 3, in 100 ms.
        132 => crdt3: U16,
        /// Controller reachability capabilities.
        134 => crcap: u8,
        #[doc(hidden)]
        135 => rsvd135: [u8; 118],
        /// NVM subsystem report.
        253 => nvmsr: u8,
        /// VPD write cycle information.
        254 => vwci: u8,
        /// Management endpoint capabilities.
        255 => mec: u8,
        /// Optional admin commands: [`super::oacs`].
        256 => oacs: U16,
        /// Abort command limit, 0's based.
        258 => acl: u8,
        /// Asynchronous event request limit, 0's based.
        259 => aerl: u8,
        /// Firmware updates: slots in bits 3:1, first slot read-only in bit 0.
        260 => frmw: u8,
        /// Log page attributes: [`super::lpa`].
        261 => lpa: u8,
        /// Error log page entries, 0's based.
        262 => elpe: u8,
        /// Power states, 0's based.
        263 => npss: u8,
        /// Admin vendor specific command configuration.
        264 => avscc: u8,
        /// Autonomous power state transitions.
        265 => apsta: u8,
        /// Warning composite temperature in kelvins.
        266 => wctemp: U16,
        /// Critical composite temperature in kelvins.
        268 => cctemp: U16,
        /// Maximum time for firmware activation, in 100 ms.
        270 => mtfa: U16,
        /// Host memory buffer preferred, in 4 KiB.
        272 => hmpre: U32,
        /// Host memory buffer minimum, in 4 KiB.
        276 => hmmin: U32,
        /// Total NVM capacity in bytes.
        280 => tnvmcap: U128,
        /// Unallocated NVM capacity in bytes.
        296 => unvmcap: U128,
        /// Replay protected memory block support.
        312 => rpmbs: U32,
        /// Extended device self-test time in minutes.
        316 => edstt: U16,
        /// Device self-test options.
        318 => dsto: u8,
        /// Firmware update granularity, in 4 KiB.
        319 => fwug: u8,
        /// Keep alive granularity, in 100 ms; zero is not supported.
        320 => kas: U16,
        /// Host controlled thermal management.
        322 => hctma: U16,
        /// Minimum thermal management temperature in kelvins.
        324 => mntmt: U16,
        /// Maximum thermal management temperature in kelvins.
        326 => mxtmt: U16,
        /// Sanitize capabilities.
        328 => sanicap: U32,
        /// Host memory buffer minimum descriptor entry size, in 4 KiB.
        332 => hmminds: U32,
        /// Host memory maximum descriptor entries.
        336 => hmmaxd: U16,
        /// Highest NVM set identifier.
        338 => nsetidmax: U16,
        /// Highest endurance group identifier.
        340 => endgidmax: U16,
        /// ANA transition time in seconds.
        342 => anatt: u8,
        /// Asymmetric namespace access capabilities: [`super::anacap`].
        343 => anacap: u8,
        /// Highest ANA group identifier.
        344 => anagrpmax: U32,
        /// Number of ANA group identifiers.
        348 => nanagrpid: U32,
        /// Persistent event log size, in 64 KiB.
        352 => pels: U32,
        /// Domain of the controller.
        356 => domainid: U16,
        /// Key per I/O capabilities.
        358 => kpioc: u8,
        #[doc(hidden)]
        359 => rsvd359: u8,
        /// Maximum processing time for firmware activation without reset, in 100 ms.
        360 => mptfawr: U16,
        #[doc(hidden)]
        362 => rsvd362: [u8; 6],
        /// Maximum endurance group capacity in bytes.
        368 => megcap: U128,
        /// Temperature threshold hysteresis attributes.
        384 => tmpthha: u8,
        #[doc(hidden)]
        385 => rsvd385: u8,
        /// Command quiesce time in milliseconds.
        386 => cqt: U16,
        #[doc(hidden)]
        388 => rsvd388: [u8; 124],
        /// Submission queue entry size, 2^n bytes: required in bits 3:0, maximum in bits 7:4.
        512 => sqes: u8,
        /// Completion queue entry size, 2^n bytes: required in bits 3:0, maximum in bits 7:4.
        513 => cqes: u8,
        /// Maximum outstanding commands of an I/O queue.
        514 => maxcmd: U16,
        /// Highest valid namespace identifier.
        516 => nn: U32,
        /// Optional NVM commands: [`super::oncs`].
        520 => oncs: U16,
        /// Fused operations: bit 0 Compare and Write.
        522 => fuses: U16,
        /// Format NVM attributes.
        524 => fna: u8,
        /// Volatile write cache: bit 0 present, bits 2:1 what Flush of all namespaces does.
        525 => vwc: u8,
        /// Atomic write unit normal, logical blocks, 0's based.
        526 => awun: U16,
        /// Atomic write unit power fail, logical blocks, 0's based.
        528 => awupf: U16,
        /// I/O vendor specific command configuration.
        530 => icsvscc: u8,
        /// Namespace write protection capabilities.
        531 => nwpc: u8,
        /// Atomic compare and write unit, logical blocks, 0's based.
        532 => acwu: U16,
        /// Copy descriptor formats supported (CDFS).
        534 => ocfs: U16,
        /// SGL support: [`super::sgls`].
        536 => sgls: U32,
        /// Maximum number of allowed namespaces.
        540 => mnan: U32,
        /// Maximum domain namespace attachments.
        544 => maxdna: U128,
        /// Maximum I/O controller namespace attachments.
        560 => maxcna: U32,
        /// Optimal aggregated queue depth.
        564 => oaqd: U32,
        /// Recommended host-initiated refresh interval.
        568 => rhiri: u8,
        /// Host-initiated refresh time.
        569 => hirt: u8,
        /// Controller maximum memory range tracking descriptors.
        570 => cmmrtd: U16,
        /// NVM subsystem maximum memory range tracking descriptors.
        572 => nmmrtd: U16,
        /// Minimum memory range tracking granularity.
        574 => minmrtg: u8,
        /// Maximum memory range tracking granularity.
        575 => maxmrtg: u8,
        /// Tracking attributes.
        576 => trattr: u8,
        #[doc(hidden)]
        577 => rsvd577: u8,
        /// Maximum controller user data migration queues.
        578 => mcudmq: U16,
        /// Maximum NVM subsystem user data migration queues.
        580 => mnsudmq: U16,
        /// Maximum CDQ memory ranges.
        582 => mcmr: U16,
        /// NVM subsystem maximum CDQ memory ranges.
        584 => nmcmr: U16,
        /// Maximum controller data queue PRP count.
        586 => mcdqpc: U16,
        #[doc(hidden)]
        588 => rsvd588: [u8; 180],
        /// NVMe qualified name of the subsystem.
        768 => subnqn: NulStr<256>,
        #[doc(hidden)]
        1024 => rsvd1024: [u8; 768],
        /// Fabrics: I/O command capsule size, in 16 bytes; at least 4 (no in-capsule data).
        1792 => ioccsz: U32,
        /// Fabrics: I/O response capsule size, in 16 bytes; at least 1.
        1796 => iorcsz: U32,
        /// Fabrics: in-capsule data offset after the submission queue entry, in 16 bytes.
        1800 => icdoff: U16,
        /// Fabrics: bit 0 set for the static controller model.
        1802 => fcatt: u8,
        /// Fabrics: maximum SGL data block descriptors of a command; zero is no limit.
        1803 => msdbd: u8,
        /// Fabrics: bit 0 the Disconnect command is supported.
        1804 => ofcs: U16,
        /// Fabrics: kind of discovery controller: [`super::DiscoveryControllerType`].
        1806 => dctype: u8,
        #[doc(hidden)]
        1807 => rsvd1807: [u8; 241],
        /// Power state descriptors.
        2048 => psd: [PowerState; 32],
        /// Vendor specific.
        3072 => vs: [u8; 1024],
    }

    /// Power state descriptor (base 2.1 §5.1.13.2.1, figure "Power State Descriptor").
    pub struct PowerState: 32 {
        /// Maximum power, in 0.01 W or the scale in `flags`.
        0 => mp: U16,
        #[doc(hidden)]
        2 => rsvd2: u8,
        /// Bit 0: `mp` is in 0.0001 W; bit 1: non-operational.
        3 => flags: u8,
        /// Entry latency in microseconds.
        4 => enlat: U32,
        /// Exit latency in microseconds.
        8 => exlat: U32,
        /// Relative read throughput.
        12 => rrt: u8,
        /// Relative read latency.
        13 => rrl: u8,
        /// Relative write throughput.
        14 => rwt: u8,
        /// Relative write latency.
        15 => rwl: u8,
        /// Idle power.
        16 => idlp: U16,
        /// Idle power scale.
        18 => ips: u8,
        #[doc(hidden)]
        19 => rsvd19: u8,
        /// Active power.
        20 => actp: U16,
        /// Active power workload and scale.
        22 => apws: u8,
        /// Emergency power fail recovery time.
        23 => epfrt: u8,
        /// Forced quiescence vault time.
        24 => fqvt: u8,
        /// Emergency power fail vault time.
        25 => epfvt: u8,
        /// Scales of the recovery and quiescence times.
        26 => epfr_fqv_ts: u8,
        /// Scale of the vault time.
        27 => epfvts: u8,
        #[doc(hidden)]
        28 => rsvd28: [u8; 4],
    }

    /// Identify Controller of the NVM command set, CNS 06h CSI 00h (NVM command set 1.1 §4.1.5.4).
    pub struct IdentifyControllerNvm: 4096 {
        /// Verify size limit, 2^n smallest memory pages; zero is no limit.
        0 => vsl: u8,
        /// Write zeroes size limit, 2^n smallest memory pages; zero is no limit.
        1 => wzsl: u8,
        /// Write uncorrectable size limit, 2^n smallest memory pages; zero is no limit.
        2 => wusl: u8,
        /// Dataset management ranges limit; zero is none reported.
        3 => dmrl: u8,
        /// Dataset management range size limit, logical blocks.
        4 => dmrsl: U32,
        /// Dataset management size limit, logical blocks.
        8 => dmsl: U64,
        /// Key per I/O capabilities.
        16 => kpiocap: u8,
        /// Write zeroes with deallocate size limit.
        17 => wzdsl: u8,
        /// Admin optional command support.
        18 => aocs: U16,
        /// Version of the command set.
        20 => ver: U32,
        /// LBA migration queue format.
        24 => lbamqf: u8,
        #[doc(hidden)]
        25 => rsvd25: [u8; 4071],
    }
}

impl IdentifyController {
    /// Controller identifier.
    pub fn cntlid(&self) -> ControllerId {
        ControllerId(self.cntlid.get())
    }

    /// In-capsule data of an I/O command in bytes, as IOCCSZ and ICDOFF allow; zero for none.
    pub fn in_capsule_bytes(&self) -> u32 {
        let capsule = u64::from(self.ioccsz.get()) * 16;
        let data = capsule.saturating_sub(64 + u64::from(self.icdoff.get()) * 16);
        u32::try_from(data).unwrap_or(u32::MAX)
    }

    /// Largest data transfer in bytes, for smallest memory pages of 2^(12 + `mpsmin`) bytes; `None` for no limit.
    pub fn data_bytes_max(&self, mpsmin: u8) -> Option<u64> {
        match self.mdts {
            0 => None,
            n => Some(1u64.checked_shl(u32::from(n) + 12 + u32::from(mpsmin)).unwrap_or(u64::MAX)),
        }
    }
}
