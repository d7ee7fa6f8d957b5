//! Asynchronous events of one controller (base 2.1 §5.1.2): requests that wait, what is enabled, what was told and not
//! yet read. An event that was told stays masked until its log page is read; what comes meanwhile is told after that.

use arrayvec::ArrayVec;
use fabrics::Execution;
use nvme::Status;
use nvme::event::{AsyncEvent, IoEvent, NoticeEvent, SmartEvent};
use nvme::features::async_event;
use nvme::log::lid;

use super::Answer;
use crate::target::limits::ASYNC_EVENTS_MAX;

/// Events this target sends, in order of urgency.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::target) enum Kind {
    /// A critical warning of a device: what it is, [`AsyncEvents`] knows.
    Health,
    AnaChange,
    NamespaceAttribute,
    DiscoveryLog,
    ReservationLog,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Health, Self::AnaChange, Self::NamespaceAttribute, Self::DiscoveryLog, Self::ReservationLog];

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The bits of Asynchronous Event Configuration that turn it on; none for what is always on.
    const fn enabled_by(self) -> u32 {
        match self {
            Self::Health => SMART_BITS,
            Self::AnaChange => async_event::ANA_CHANGE,
            Self::NamespaceAttribute => async_event::NAMESPACE_ATTRIBUTE,
            Self::DiscoveryLog => async_event::DISCOVERY_LOG,
            Self::ReservationLog => 0,
        }
    }

    /// What the host is told; `warnings` are those that are new.
    fn event(self, warnings: u8) -> AsyncEvent {
        match self {
            Self::Health => AsyncEvent::smart(worst(warnings)),
            Self::AnaChange => AsyncEvent::notice(NoticeEvent::ANA_CHANGE, lid::ANA),
            Self::NamespaceAttribute => {
                AsyncEvent::notice(NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED, lid::CHANGED_NAMESPACES)
            }
            Self::DiscoveryLog => AsyncEvent::notice(NoticeEvent::DISCOVERY_LOG_CHANGE, lid::DISCOVERY),
            Self::ReservationLog => {
                AsyncEvent::io(IoEvent::RESERVATION_LOG_AVAILABLE, lid::RESERVATION_NOTIFICATION)
            }
        }
    }
}

/// The events of one controller.
pub(in crate::target) struct AsyncEvents {
    /// Token and CID of each request that waits.
    requests: ArrayVec<(u32, u16), { ASYNC_EVENTS_MAX as usize }>,
    supported: u32,
    enabled: u32,
    /// To be told.
    pending: u8,
    /// Told, and not read since.
    masked: u8,
    /// Critical warnings there are that were raised already.
    raised: u8,
    /// Those of them that are to be told.
    warnings: u8,
}

/// Bits 7:0 of the configuration: the critical warnings of the SMART / Health log page that the host asks to be told of.
const SMART_BITS: u32 = 0xFF;

/// Bits of Critical Warning (base 2.1 §5.1.12.1.3); the others are about reliability.
const SPARE: u8 = 1 << 0;
const TEMPERATURE: u8 = 1 << 1;

/// One event tells of one warning; the others are in the log page that it makes the host read.
fn worst(warnings: u8) -> SmartEvent {
    match warnings {
        _ if warnings & !(SPARE | TEMPERATURE) != 0 => SmartEvent::RELIABILITY,
        _ if warnings & SPARE != 0 => SmartEvent::SPARE_BELOW_THRESHOLD,
        _ => SmartEvent::TEMPERATURE_THRESHOLD,
    }
}

impl AsyncEvents {
    /// For a controller that can send what `supported` says (OAES). Discovery changes are off until asked for.
    pub(super) fn new(supported: u32) -> Self {
        let enabled = supported & !async_event::DISCOVERY_LOG;
        Self { requests: ArrayVec::new(), supported, enabled, pending: 0, masked: 0, raised: 0, warnings: 0 }
    }

    /// Requests that wait for an event.
    pub(in crate::target) fn waiting(&self) -> usize {
        self.requests.len()
    }

    /// OAES.
    pub(super) fn supported(&self) -> u32 {
        self.supported
    }

    pub(super) fn enabled(&self) -> u32 {
        self.enabled
    }

    /// Set Features, Asynchronous Event Configuration.
    pub(super) fn configure(&mut self, bits: u32) -> Result<(), Status> {
        if bits & !(self.supported | SMART_BITS) != 0 {
            return Err(super::INVALID_FIELD);
        }
        self.enabled = bits;
        for kind in
            Kind::ALL.into_iter().filter(|kind| kind.enabled_by() & bits == 0 && kind.enabled_by() != 0)
        {
            self.pending &= !kind.bit();
        }
        Ok(())
    }

    /// Asynchronous Event Request.
    pub(super) fn request(&mut self, command: u32, cid: u16) -> Answer {
        match self.requests.try_push((command, cid)) {
            Ok(()) => Ok(Execution::Pending),
            Err(_) => Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED.dnr()),
        }
    }

    /// Aborts the request of this CID; its token.
    pub(super) fn abort(&mut self, cid: u16) -> Option<u32> {
        let at = self.requests.iter().position(|(_, other)| *other == cid)?;
        Some(self.requests.remove(at).0)
    }

    /// Ends every request, as a reset of the controller does; their tokens.
    pub(in crate::target) fn reset(&mut self) -> ArrayVec<(u32, u16), { ASYNC_EVENTS_MAX as usize }> {
        (self.pending, self.masked, self.raised, self.warnings) = (0, 0, 0, 0);
        std::mem::take(&mut self.requests)
    }

    /// Whether the host asked to be told of any critical warning.
    pub(super) fn wants_health(&self) -> bool {
        self.enabled & SMART_BITS != 0
    }

    /// The critical warnings there are now: those that the host asked for and that are new are raised.
    pub(super) fn warn(&mut self, now: u8) {
        let [wanted, ..] = self.enabled.to_le_bytes();
        let new = now & wanted & !self.raised;
        self.raised = self.raised & now | new;
        if new != 0 {
            self.warnings |= new;
            self.raise(Kind::Health);
        }
    }

    pub(super) fn raise(&mut self, kind: Kind) {
        let bit = kind.enabled_by();
        if bit == 0 || self.enabled & bit != 0 {
            self.pending |= kind.bit();
        }
    }

    /// The log page of an event was read without asking to retain the event.
    pub(super) fn read(&mut self, kind: Kind) {
        self.masked &= !kind.bit();
        self.pending &= !kind.bit();
        if kind == Kind::Health {
            self.warnings = 0;
        }
    }

    /// A request that can be completed, and the result to complete it with.
    pub(super) fn next(&mut self) -> Option<(u32, u64)> {
        let tellable = self.pending & !self.masked;
        let kind = Kind::ALL.into_iter().find(|kind| tellable & kind.bit() != 0)?;
        let (command, _) = self.requests.pop_at(0)?;
        self.pending &= !kind.bit();
        self.masked |= kind.bit();
        let event = kind.event(self.warnings);
        if kind == Kind::Health {
            self.warnings = 0;
        }
        Some((command, event.to_result()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NVM: u32 = async_event::NAMESPACE_ATTRIBUTE | async_event::ANA_CHANGE;

    #[test]
    fn an_event_is_told_once_until_its_page_is_read() {
        let mut events = AsyncEvents::new(NVM);
        for command in 0..3 {
            assert!(matches!(events.request(command, 7), Ok(Execution::Pending)));
        }
        events.raise(Kind::NamespaceAttribute);
        assert_eq!(events.next(), Some((0, 0x04_00_02)));
        events.raise(Kind::NamespaceAttribute);
        assert_eq!(events.next(), None);
        events.raise(Kind::AnaChange);
        assert_eq!(events.next(), Some((1, 0x0C_03_02)));
        events.read(Kind::NamespaceAttribute);
        events.raise(Kind::NamespaceAttribute);
        assert_eq!(events.next(), Some((2, 0x04_00_02)));
    }

    #[test]
    fn an_event_waits_for_a_request() {
        let mut events = AsyncEvents::new(NVM);
        events.raise(Kind::AnaChange);
        assert_eq!(events.next(), None);
        assert!(events.request(9, 1).is_ok());
        assert_eq!(events.next(), Some((9, 0x0C_03_02)));
    }

    #[test]
    fn only_what_is_enabled_is_told_and_only_what_is_supported_can_be_enabled() {
        let mut events = AsyncEvents::new(async_event::DISCOVERY_LOG);
        assert!(events.request(1, 1).is_ok());
        events.raise(Kind::DiscoveryLog);
        assert_eq!(events.next(), None);
        assert_eq!(events.configure(async_event::NAMESPACE_ATTRIBUTE), Err(Status::INVALID_FIELD.dnr()));
        assert_eq!(events.configure(async_event::DISCOVERY_LOG), Ok(()));
        events.raise(Kind::DiscoveryLog);
        assert_eq!(events.next(), Some((1, 0x70_F0_02)));
    }

    #[test]
    fn a_critical_warning_is_told_once_to_those_who_asked_for_it_and_again_when_it_returns() {
        let mut events = AsyncEvents::new(NVM);
        for command in 0..4 {
            assert!(events.request(command, 7).is_ok());
        }
        events.warn(0b1100);
        assert_eq!(events.next(), None, "nobody asked");
        assert!(!events.wants_health());
        assert_eq!(events.configure(NVM | 0b110), Ok(()));
        assert!(events.wants_health());
        events.warn(0b1100);
        assert_eq!(events.next(), Some((0, 0x02_00_01)), "it is there when the host asks");
        events.warn(0b1100);
        events.read(Kind::Health);
        events.warn(0b1100);
        assert_eq!(events.next(), None, "nothing new");
        events.warn(0b1110);
        assert_eq!(events.next(), Some((1, 0x02_01_01)));
        events.warn(0);
        events.warn(0b10);
        assert_eq!(events.next(), None, "masked until the page is read");
        events.read(Kind::Health);
        events.warn(0);
        events.warn(0b10);
        assert_eq!(events.next(), Some((2, 0x02_01_01)));
    }

    #[test]
    fn the_worst_of_several_warnings_is_told() {
        assert_eq!(worst(0b0000_0111), SmartEvent::RELIABILITY);
        assert_eq!(worst(0b0010_0000), SmartEvent::RELIABILITY);
        assert_eq!(worst(0b0000_0011), SmartEvent::SPARE_BELOW_THRESHOLD);
        assert_eq!(worst(0b0000_0010), SmartEvent::TEMPERATURE_THRESHOLD);
    }

    #[test]
    fn requests_are_limited() {
        let mut events = AsyncEvents::new(NVM);
        for command in 0..u32::from(ASYNC_EVENTS_MAX) {
            assert!(events.request(command, 0).is_ok());
        }
        let refused = events.request(99, 0).unwrap_err();
        assert!(refused.is(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED));
    }
}
