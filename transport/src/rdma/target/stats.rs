//! What one reactor's driver did.

use fabrics::rdma::target::TargetStats;

use crate::stats::{self, counters};

counters! {
    /// Sums over a reactor's connections, open and closed.
    RdmaTraffic {
        /// Commands given to the service.
        commands,
        /// Commands whose data came in the capsule.
        in_capsule,
        /// Commands whose data was read from the host's memory.
        reads,
        /// Responses whose data was written into the host's memory.
        writes,
        /// Bytes read from hosts' memory and taken from capsules.
        bytes_received,
        /// Bytes written into hosts' memory.
        bytes_sent,
        /// Capsules that waited for a slot or a buffer.
        blocked,
        /// Responses that waited for the host to have room for them.
        held,
        /// Connections whose receives are shared with others.
        shared,
    }
}

/// Counters of one reactor's driver.
pub(super) type ReactorStats = stats::ReactorStats<RdmaTraffic>;
/// What one reactor's driver did since it started.
pub type RdmaReactorTraffic = stats::ReactorTraffic<RdmaTraffic>;

impl RdmaTraffic {
    /// With what a connection's machine counted.
    pub(super) fn with(mut self, machine: &TargetStats) -> Self {
        self.in_capsule = machine.in_capsule;
        self.reads = machine.reads;
        self.writes = machine.writes;
        self.blocked = machine.blocked;
        self.held = machine.held;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_counted_is_added_to_what_the_driver_did() {
        let machine = TargetStats { reads: 3, ..TargetStats::default() };
        let mut traffic = RdmaTraffic { commands: 5, ..RdmaTraffic::default() }.with(&machine);
        traffic += RdmaTraffic { commands: 1, ..RdmaTraffic::default() };
        assert_eq!((traffic.commands, traffic.reads, traffic.writes), (6, 3, 0));
    }
}
