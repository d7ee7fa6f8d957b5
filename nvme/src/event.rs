//! Asynchronous events: the result of an Asynchronous Event Request (base 2.1 §5.1.2.1).

use crate::macros::codes;

codes! {
    /// Type of an asynchronous event.
    pub struct EventType(u8) {
        ERROR = 0 => "Error status";
        SMART = 1 => "SMART / Health status";
        NOTICE = 2 => "Notice";
        IMMEDIATE = 3 => "Immediate";
        ONE_SHOT = 4 => "One-Shot";
        IO_COMMAND_SPECIFIC = 6 => "I/O Command specific status";
        VENDOR = 7 => "Vendor specific";
    }

    /// Information of an event of type error.
    pub struct ErrorEvent(u8) {
        INVALID_DOORBELL_REGISTER = 0x00 => "Write to Invalid Doorbell Register";
        INVALID_DOORBELL_VALUE = 0x01 => "Invalid Doorbell Write Value";
        DIAGNOSTIC_FAILURE = 0x02 => "Diagnostic Failure";
        PERSISTENT_INTERNAL_ERROR = 0x03 => "Persistent Internal Error";
        TRANSIENT_INTERNAL_ERROR = 0x04 => "Transient Internal Error";
        FIRMWARE_IMAGE_LOAD_ERROR = 0x05 => "Firmware Image Load Error";
    }

    /// Information of an event of type SMART.
    pub struct SmartEvent(u8) {
        RELIABILITY = 0x00 => "NVM subsystem Reliability";
        TEMPERATURE_THRESHOLD = 0x01 => "Temperature Threshold";
        SPARE_BELOW_THRESHOLD = 0x02 => "Spare Below Threshold";
    }

    /// Information of an event of type notice.
    pub struct NoticeEvent(u8) {
        NAMESPACE_ATTRIBUTE_CHANGED = 0x00 => "Attached Namespace Attribute Changed";
        FIRMWARE_ACTIVATION_STARTING = 0x01 => "Firmware Activation Starting";
        TELEMETRY_LOG_CHANGED = 0x02 => "Telemetry Log Changed";
        ANA_CHANGE = 0x03 => "Asymmetric Namespace Access Change";
        PREDICTABLE_LATENCY_CHANGE = 0x04 => "Predictable Latency Event Aggregate Log Change";
        LBA_STATUS_ALERT = 0x05 => "LBA Status Information Alert";
        ENDURANCE_GROUP_CHANGE = 0x06 => "Endurance Group Event Aggregate Log Page Change";
        REACHABILITY_GROUP_CHANGE = 0x07 => "Reachability Group Change";
        REACHABILITY_ASSOCIATION_CHANGE = 0x08 => "Reachability Association Change";
        ALLOCATED_NAMESPACE_ATTRIBUTE_CHANGED = 0x09 => "Allocated Namespace Attribute Changed";
        ZONE_DESCRIPTOR_CHANGED = 0xEF => "Zone Descriptor Changed";
        DISCOVERY_LOG_CHANGE = 0xF0 => "Discovery Log Page Change";
        HOST_DISCOVERY_LOG_CHANGE = 0xF1 => "Host Discovery Log Page Change";
        AVE_DISCOVERY_LOG_CHANGE = 0xF2 => "AVE Discovery Log Page Change";
        PULL_MODEL_DDC_REQUEST = 0xF3 => "Pull Model DDC Request";
    }

    /// Information of an event of type immediate.
    pub struct ImmediateEvent(u8) {
        SUBSYSTEM_SHUTDOWN = 0x00 => "NVM Subsystem Normal Shutdown";
        TEMPERATURE_RECOVERY = 0x01 => "Temperature Threshold Hysteresis Recovery";
    }

    /// Information of an event of type one-shot.
    pub struct OneShotEvent(u8) {
        CONTROLLER_DATA_QUEUE_TAIL = 0x00 => "Controller Data Queue Tail Pointer";
        CONTROLLER_DATA_QUEUE_FULL = 0x01 => "Controller Data Queue Full Error";
    }

    /// Information of an event of type I/O command specific status.
    pub struct IoEvent(u8) {
        RESERVATION_LOG_AVAILABLE = 0x00 => "Reservation Log Page Available";
        SANITIZE_COMPLETED = 0x01 => "Sanitize Operation Completed";
        SANITIZE_UNEXPECTED_DEALLOCATION = 0x02 => "Sanitize Operation Completed With Unexpected Deallocation";
        SANITIZE_MEDIA_VERIFICATION = 0x03 => "Sanitize Operation Entered Media Verification State";
    }
}

/// Result of an Asynchronous Event Request (base 2.1 §5.1.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncEvent {
    /// Type, three bits.
    pub kind: EventType,
    /// Information; its meaning depends on the type.
    pub info: u8,
    /// Log page to read to re-arm the event: [`crate::log::lid`].
    pub lid: u8,
    /// Event specific parameter: dword 1.
    pub parameter: u32,
}

impl AsyncEvent {
    /// A notice.
    pub fn notice(info: NoticeEvent, lid: u8) -> Self {
        Self { kind: EventType::NOTICE, info: info.0, lid, parameter: 0 }
    }

    /// An event about the health of the subsystem.
    pub fn smart(info: SmartEvent) -> Self {
        Self { kind: EventType::SMART, info: info.0, lid: crate::log::lid::SMART, parameter: 0 }
    }

    /// An event of the I/O command sets.
    pub fn io(info: IoEvent, lid: u8) -> Self {
        Self { kind: EventType::IO_COMMAND_SPECIFIC, info: info.0, lid, parameter: 0 }
    }

    /// The notice it is, if it is one.
    pub fn as_notice(&self) -> Option<NoticeEvent> {
        if self.kind == EventType::NOTICE { Some(NoticeEvent(self.info)) } else { None }
    }

    /// From the result of a completion.
    pub fn from_result(result: u64) -> Self {
        let [kind, info, lid, _, a, b, c, d] = result.to_le_bytes();
        Self { kind: EventType(kind & 0b111), info, lid, parameter: u32::from_le_bytes([a, b, c, d]) }
    }

    /// The result of a completion.
    pub fn to_result(self) -> u64 {
        let [a, b, c, d] = self.parameter.to_le_bytes();
        u64::from_le_bytes([self.kind.0 & 0b111, self.info, self.lid, 0, a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::lid;

    #[test]
    fn the_events_hosts_wait_for_have_the_dwords_they_look_for() {
        let namespace = AsyncEvent::notice(NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED, lid::CHANGED_NAMESPACES);
        assert_eq!(namespace.to_result(), 0x0004_0002);
        let ana = AsyncEvent::notice(NoticeEvent::ANA_CHANGE, lid::ANA);
        assert_eq!(ana.to_result(), 0x000C_0302);
        let discovery = AsyncEvent::notice(NoticeEvent::DISCOVERY_LOG_CHANGE, lid::DISCOVERY);
        assert_eq!(discovery.to_result(), 0x0070_F002);
        assert_eq!(AsyncEvent::from_result(0x0070_F002), discovery);
        assert_eq!(discovery.as_notice(), Some(NoticeEvent::DISCOVERY_LOG_CHANGE));
    }
}
