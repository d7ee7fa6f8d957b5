//! What the device says of a connection: that it is lost, before anything on it fails or keep-alive ends it.

use fabrics::{NS_PER_S, Now};

use crate::rdma::verbs::{DeviceEvent, QpKey};

/// How long a port may be down. Links flap, and retries of the transport bridge a moment.
const PORT_DOWN_NS: u64 = NS_PER_S;

/// See the module.
pub(super) struct Watch {
    queue_pair: QpKey,
    port: u32,
    /// When the port will have been down for too long.
    port_ends: Now,
}

impl Watch {
    /// Of a queue pair on a port of its device.
    pub(super) fn new(queue_pair: QpKey, port: u32) -> Self {
        Self { queue_pair, port, port_ends: Now::NEVER }
    }

    /// Why the connection is lost by an event, if it is.
    pub(super) fn on_event(&mut self, event: DeviceEvent, now: Now) -> Option<&'static str> {
        let device = self.queue_pair.device();
        match event {
            DeviceEvent::QueuePairFailed(failed) if failed == self.queue_pair => {
                return Some("the queue pair failed");
            }
            DeviceEvent::QueueFailed(failed) if failed == device => return Some("a queue failed"),
            DeviceEvent::DeviceFailed(failed) if failed == device => return Some("it failed"),
            DeviceEvent::PortDown(port) if port == self.port => {
                self.port_ends = self.port_ends.min(now.after_ns(PORT_DOWN_NS));
            }
            DeviceEvent::PortUp(port) if port == self.port => self.port_ends = Now::NEVER,
            _ => {}
        }
        None
    }

    /// Why it is lost by now, if it is.
    pub(super) fn on_tick(&self, now: Now) -> Option<&'static str> {
        (now >= self.port_ends).then_some("its port is down")
    }

    /// When [`Self::on_tick`] may have something to say.
    pub(super) fn deadline(&self) -> Now {
        self.port_ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now(5 * NS_PER_S);

    #[test]
    fn a_connection_is_lost_by_what_its_own_queue_pair_and_device_say_and_nobody_else() {
        let (ours, other) = (QpKey::fake(1, 7), QpKey::fake(2, 7));
        let is_lost = |event| Watch::new(ours, 1).on_event(event, NOW).is_some();
        assert!(is_lost(DeviceEvent::QueuePairFailed(ours)));
        assert!(is_lost(DeviceEvent::QueueFailed(ours.device())));
        assert!(is_lost(DeviceEvent::DeviceFailed(ours.device())));
        assert!(!is_lost(DeviceEvent::QueuePairFailed(QpKey::fake(1, 8))));
        assert!(!is_lost(DeviceEvent::QueuePairFailed(other)));
        assert!(!is_lost(DeviceEvent::QueueFailed(other.device())));
        assert!(!is_lost(DeviceEvent::DeviceFailed(other.device())));
        assert!(!is_lost(DeviceEvent::Changed("addresses (GIDs)")));
        assert!(!is_lost(DeviceEvent::LastReceive(ours)));
    }

    #[test]
    fn a_port_that_stays_down_ends_the_connection_and_one_that_flaps_or_is_another_does_not() {
        let mut watch = Watch::new(QpKey::fake(1, 7), 1);
        assert_eq!(watch.on_event(DeviceEvent::PortDown(2), NOW), None);
        assert_eq!(watch.deadline(), Now::NEVER);
        assert_eq!(watch.on_event(DeviceEvent::PortDown(1), NOW), None);
        let ends = NOW.after_ns(PORT_DOWN_NS);
        assert_eq!(watch.on_tick(Now(ends.0 - 1)), None);
        // Told again, it was not down for any less.
        assert_eq!(watch.on_event(DeviceEvent::PortDown(1), Now(ends.0 - 1)), None);
        assert_eq!(watch.deadline(), ends);
        assert!(watch.on_tick(ends).is_some());
        assert_eq!(watch.on_event(DeviceEvent::PortUp(2), NOW), None);
        assert!(watch.on_tick(ends).is_some());
        assert_eq!(watch.on_event(DeviceEvent::PortUp(1), NOW), None);
        assert_eq!(watch.on_tick(ends), None);
    }
}
