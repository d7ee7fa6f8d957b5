//! Features: identifiers, dword layouts and data (base 2.1 §5.1.25.1).

mod data;

pub use data::*;

use crate::macros::{bits, masks};

/// Feature identifiers (base 2.1 §5.1.25.1).
pub mod fid {
    crate::macros::consts! {
        ARBITRATION = 0x01 => "Arbitration";
        POWER_MANAGEMENT = 0x02 => "Power Management";
        LBA_RANGE_TYPE = 0x03 => "LBA Range Type";
        TEMPERATURE_THRESHOLD = 0x04 => "Temperature Threshold";
        ERROR_RECOVERY = 0x05 => "Error Recovery";
        VOLATILE_WRITE_CACHE = 0x06 => "Volatile Write Cache";
        NUMBER_OF_QUEUES = 0x07 => "Number of Queues";
        INTERRUPT_COALESCING = 0x08 => "Interrupt Coalescing";
        INTERRUPT_VECTOR = 0x09 => "Interrupt Vector Configuration";
        WRITE_ATOMICITY = 0x0A => "Write Atomicity Normal";
        ASYNC_EVENT_CONFIG = 0x0B => "Asynchronous Event Configuration";
        AUTONOMOUS_POWER_STATE = 0x0C => "Autonomous Power State Transition";
        HOST_MEMORY_BUFFER = 0x0D => "Host Memory Buffer";
        TIMESTAMP = 0x0E => "Timestamp";
        KEEP_ALIVE_TIMER = 0x0F => "Keep Alive Timer";
        HOST_THERMAL_MANAGEMENT = 0x10 => "Host Controlled Thermal Management";
        NON_OPERATIONAL_POWER_STATE = 0x11 => "Non-Operational Power State Config";
        READ_RECOVERY_LEVEL = 0x12 => "Read Recovery Level Config";
        PREDICTABLE_LATENCY_CONFIG = 0x13 => "Predictable Latency Mode Config";
        PREDICTABLE_LATENCY_WINDOW = 0x14 => "Predictable Latency Mode Window";
        LBA_STATUS_INTERVAL = 0x15 => "LBA Status Information Report Interval";
        HOST_BEHAVIOR = 0x16 => "Host Behavior Support";
        SANITIZE_CONFIG = 0x17 => "Sanitize Config";
        ENDURANCE_GROUP_EVENT = 0x18 => "Endurance Group Event Configuration";
        COMMAND_SET_PROFILE = 0x19 => "I/O Command Set Profile";
        SPINUP_CONTROL = 0x1A => "Spinup Control";
        POWER_LOSS_SIGNALING = 0x1B => "Power Loss Signaling Config";
        PERFORMANCE_CHARACTERISTICS = 0x1C => "Performance Characteristics";
        FLEXIBLE_DATA_PLACEMENT = 0x1D => "Flexible Data Placement";
        FDP_EVENTS = 0x1E => "Flexible Data Placement Events";
        NAMESPACE_ADMIN_LABEL = 0x1F => "Namespace Admin Label";
        KEY_VALUE_CONFIG = 0x20 => "Key Value Configuration";
        CONTROLLER_DATA_QUEUE = 0x21 => "Controller Data Queue";
        EMBEDDED_MANAGEMENT_ADDRESS = 0x78 => "Embedded Management Controller Address";
        HOST_MANAGEMENT_ADDRESS = 0x79 => "Host Management Agent Address";
        ENHANCED_CONTROLLER_METADATA = 0x7D => "Enhanced Controller Metadata";
        CONTROLLER_METADATA = 0x7E => "Controller Metadata";
        NAMESPACE_METADATA = 0x7F => "Namespace Metadata";
        SOFTWARE_PROGRESS = 0x80 => "Software Progress Marker";
        HOST_IDENTIFIER = 0x81 => "Host Identifier";
        RESERVATION_NOTIFICATION_MASK = 0x82 => "Reservation Notification Mask";
        RESERVATION_PERSISTENCE = 0x83 => "Reservation Persistence";
        NAMESPACE_WRITE_PROTECTION = 0x84 => "Namespace Write Protection Config";
        BOOT_PARTITION_WRITE_PROTECTION = 0x85 => "Boot Partition Write Protection Config";
    }
}

bits! {
    /// Result of Get Features for supported capabilities (base 2.1 §5.1.11, SEL 011b).
    pub struct FeatureCapabilities(u32) {
        /// A value can be saved.
        saveable, with_saveable: bool = 0;
        /// Each namespace has its own value.
        namespace_specific, with_namespace_specific: bool = 1;
        /// The value can be changed.
        changeable, with_changeable: bool = 2;
    }

    /// Arbitration, 01h (base 2.1 §5.1.25.1.1).
    pub struct Arbitration(u32) {
        /// Burst, 2^n commands; 7 is no limit.
        ab, with_ab: u8 = 0, 3;
        /// Low priority weight, 0's based.
        lpw, with_lpw: u8 = 8, 8;
        /// Medium priority weight, 0's based.
        mpw, with_mpw: u8 = 16, 8;
        /// High priority weight, 0's based.
        hpw, with_hpw: u8 = 24, 8;
    }

    /// Power Management, 02h (base 2.1 §5.1.25.1.2).
    pub struct PowerManagement(u32) {
        /// Power state.
        ps, with_ps: u8 = 0, 5;
        /// Workload hint.
        wh, with_wh: u8 = 5, 3;
    }

    /// Temperature Threshold, 04h (base 2.1 §5.1.25.1.3).
    pub struct TemperatureThreshold(u32) {
        /// Threshold in kelvins.
        tmpth, with_tmpth: u16 = 0, 16;
        /// Sensor: 0 composite, 1 to 8, 15 all.
        tmpsel, with_tmpsel: u8 = 16, 4;
        /// Type: 0 over, 1 under temperature.
        thsel, with_thsel: u8 = 20, 2;
        /// Hysteresis in kelvins.
        tmpthh, with_tmpthh: u8 = 22, 3;
    }

    /// Error Recovery, 05h (NVM command set 1.1 §4.1.3.2).
    pub struct ErrorRecovery(u32) {
        /// Time limited error recovery, in 100 ms; zero is no limit.
        tler, with_tler: u16 = 0, 16;
        /// Reads of deallocated or unwritten blocks fail.
        dulbe, with_dulbe: bool = 16;
    }

    /// Volatile Write Cache, 06h (base 2.1 §5.1.25.1.4).
    pub struct VolatileWriteCache(u32) {
        /// Enabled.
        wce, with_wce: bool = 0;
    }

    /// Number of Queues, 07h: what a host asks for, and in the result what it gets (base 2.1 §5.1.25.2.1).
    pub struct NumberOfQueues(u32) {
        /// I/O submission queues, 0's based; 65,535 is not allowed.
        nsq, with_nsq: u16 = 0, 16;
        /// I/O completion queues, 0's based; 65,535 is not allowed.
        ncq, with_ncq: u16 = 16, 16;
    }

    /// Interrupt Coalescing, 08h.
    pub struct InterruptCoalescing(u32) {
        /// Completions, 0's based.
        thr, with_thr: u8 = 0, 8;
        /// Time in 100 µs.
        time, with_time: u8 = 8, 8;
    }

    /// Interrupt Vector Configuration, 09h.
    pub struct InterruptVector(u32) {
        /// Vector.
        iv, with_iv: u16 = 0, 16;
        /// Coalescing disabled.
        cd, with_cd: bool = 16;
    }

    /// Write Atomicity Normal, 0Ah (NVM command set 1.1 §4.1.3.3).
    pub struct WriteAtomicity(u32) {
        /// AWUN and NAWUN need not be honoured.
        dn, with_dn: bool = 0;
    }

    /// Asynchronous Event Configuration, 0Bh (base 2.1 §5.1.25.1.5); bits as [`async_event`] and OAES.
    pub struct AsyncEventConfig(u32) {
        /// Critical warnings of the SMART log that send an event.
        smart, with_smart: u8 = 0, 8;
        /// Namespace attribute notices.
        namespace_attribute, with_namespace_attribute: bool = 8;
        /// Firmware activation notices.
        firmware_activation, with_firmware_activation: bool = 9;
        /// Telemetry log notices.
        telemetry, with_telemetry: bool = 10;
        /// Asymmetric namespace access change notices.
        ana_change, with_ana_change: bool = 11;
        /// Predictable latency event aggregate log change notices.
        predictable_latency, with_predictable_latency: bool = 12;
        /// LBA status information notices.
        lba_status, with_lba_status: bool = 13;
        /// Endurance group event aggregate log change notices.
        endurance_group, with_endurance_group: bool = 14;
        /// Normal NVM subsystem shutdown.
        subsystem_shutdown, with_subsystem_shutdown: bool = 15;
        /// Temperature threshold hysteresis recovery.
        temperature_recovery, with_temperature_recovery: bool = 16;
        /// Reachability association change notices.
        reachability_association, with_reachability_association: bool = 17;
        /// Reachability group change notices.
        reachability_group, with_reachability_group: bool = 18;
        /// Allocated namespace attribute notices.
        allocated_namespace_attribute, with_allocated_namespace_attribute: bool = 19;
        /// Zone descriptor changed notices.
        zone_descriptor, with_zone_descriptor: bool = 27;
        /// Pull model DDC request log page change notices.
        pull_model_ddc_request, with_pull_model_ddc_request: bool = 28;
        /// AVE discovery log page change notices.
        ave_discovery_log, with_ave_discovery_log: bool = 29;
        /// Host discovery log page change notices.
        host_discovery_log, with_host_discovery_log: bool = 30;
        /// Discovery log page change notices.
        discovery_log, with_discovery_log: bool = 31;
    }

    /// Autonomous Power State Transition, 0Ch.
    pub struct AutonomousPowerState(u32) {
        /// Enabled.
        apste, with_apste: bool = 0;
    }

    /// Host Memory Buffer, 0Dh.
    pub struct HostMemoryBuffer(u32) {
        /// Enabled.
        ehm, with_ehm: bool = 0;
        /// The buffer is returned unchanged.
        mr, with_mr: bool = 1;
    }

    /// Host Controlled Thermal Management, 10h, in kelvins.
    pub struct HostThermalManagement(u32) {
        /// Heavy throttling from here.
        tmt2, with_tmt2: u16 = 0, 16;
        /// Light throttling from here.
        tmt1, with_tmt1: u16 = 16, 16;
    }

    /// Non-Operational Power State Config, 11h.
    pub struct NonOperationalPowerState(u32) {
        /// Background work may exceed the power of the state.
        noppme, with_noppme: bool = 0;
    }

    /// LBA Status Information Report Interval, 15h, in 100 ms (NVM command set 1.1 §4.1.3.5).
    pub struct LbaStatusInterval(u32) {
        /// Report interval.
        lsiri, with_lsiri: u16 = 0, 16;
        /// Poll interval.
        lsipi, with_lsipi: u16 = 16, 16;
    }

    /// Sanitize Config, 17h.
    pub struct SanitizeConfig(u32) {
        /// No-deallocate response mode: a warning instead of an error.
        nodrm, with_nodrm: bool = 0;
    }

    /// Endurance Group Event Configuration, 18h.
    pub struct EnduranceGroupEvent(u32) {
        /// Endurance group.
        endgid, with_endgid: u16 = 0, 16;
        /// Critical warnings that send an event.
        egcw, with_egcw: u8 = 16, 8;
    }

    /// I/O Command Set Profile, 19h (base 2.1 §5.1.25.1.17).
    pub struct CommandSetProfile(u32) {
        /// Index into CNS 1Ch.
        iocsci, with_iocsci: u16 = 0, 9;
    }

    /// Host Identifier, 81h (base 2.1 §5.1.25.1.28); over fabrics it is set by Connect only.
    pub struct HostIdentifier(u32) {
        /// The data is the extended, 128-bit identifier.
        exhid, with_exhid: bool = 0;
    }

    /// Reservation Notification Mask, 82h: a set bit suppresses a notification (base 2.1 §5.1.25.1.29).
    pub struct ReservationNotificationMask(u32) {
        /// Registration preempted.
        regpre, with_regpre: bool = 1;
        /// Reservation released.
        resrel, with_resrel: bool = 2;
        /// Reservation preempted.
        respre, with_respre: bool = 3;
    }

    /// Reservation Persistence, 83h (base 2.1 §5.1.25.1.30).
    pub struct ReservationPersistence(u32) {
        /// Persist through power loss.
        ptpl, with_ptpl: bool = 0;
    }

    /// Namespace Write Protection Config, 84h (base 2.1 §5.1.25.1.31).
    pub struct NamespaceWriteProtection(u32) {
        /// 0 none, 1 write protect, 2 until power cycle, 3 permanent.
        wps, with_wps: u8 = 0, 3;
    }
}

masks! {
    /// Bits of OAES and of Asynchronous Event Configuration.
    pub mod async_event: u32 {
        NAMESPACE_ATTRIBUTE = 8 => "namespace attribute notices";
        FIRMWARE_ACTIVATION = 9 => "firmware activation notices";
        ANA_CHANGE = 11 => "asymmetric namespace access change notices";
        PREDICTABLE_LATENCY = 12 => "predictable latency event aggregate log change notices";
        LBA_STATUS = 13 => "LBA status information notices";
        ENDURANCE_GROUP = 14 => "endurance group event aggregate log change notices";
        SUBSYSTEM_SHUTDOWN = 15 => "normal NVM subsystem shutdown";
        TEMPERATURE_RECOVERY = 16 => "temperature threshold hysteresis recovery";
        REACHABILITY = 17 => "reachability change notices";
        ALLOCATED_NAMESPACE_ATTRIBUTE = 19 => "allocated namespace attribute notices";
        ZONE_DESCRIPTOR = 27 => "zone descriptor changed notices";
        DISCOVERY_LOG = 31 => "discovery log page change notices";
    }
}

impl NumberOfQueues {
    /// As many submission as completion queues; `queues` is 1 to 65,535.
    pub fn both(queues: u16) -> Self {
        debug_assert!(queues >= 1);
        let zero_based = queues.saturating_sub(1);
        Self(0).with_nsq(zero_based).with_ncq(zero_based)
    }

    /// Submission queues asked for or given, 1's based.
    pub fn submission_queues(self) -> u32 {
        u32::from(self.nsq()) + 1
    }

    /// Completion queues asked for or given, 1's based.
    pub fn completion_queues(self) -> u32 {
        u32::from(self.ncq()) + 1
    }
}
