//! What one reactor's driver did. One writer, the reactor; readers take plain loads.

use std::sync::atomic::{AtomicU64, Ordering};

use fabrics::rdma::target::TargetStats;

macro_rules! counters {
    ($( $(#[$meta:meta])* $name:ident, )*) => {
        /// Sums over a reactor's connections, open and closed.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct RdmaTraffic {
            $( $(#[$meta])* pub $name: u64, )*
        }

        impl std::ops::AddAssign for RdmaTraffic {
            fn add_assign(&mut self, other: Self) {
                $( self.$name += other.$name; )*
            }
        }

        #[derive(Default)]
        struct Cells {
            $( $name: AtomicU64, )*
        }

        impl Cells {
            fn store(&self, traffic: &RdmaTraffic) {
                $( self.$name.store(traffic.$name, Ordering::Relaxed); )*
            }

            fn load(&self) -> RdmaTraffic {
                RdmaTraffic { $( $name: self.$name.load(Ordering::Relaxed), )* }
            }
        }
    };
}

counters! {
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
}

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

/// Counters of one reactor's driver. Written by that reactor only.
#[derive(Default)]
pub(super) struct ReactorStats {
    traffic: Cells,
    accepted: AtomicU64,
    closed: AtomicU64,
}

impl ReactorStats {
    pub(super) fn publish(&self, traffic: &RdmaTraffic, accepted: u64, closed: u64) {
        self.traffic.store(traffic);
        self.accepted.store(accepted, Ordering::Relaxed);
        self.closed.store(closed, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> RdmaReactorTraffic {
        RdmaReactorTraffic {
            traffic: self.traffic.load(),
            accepted: self.accepted.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
        }
    }
}

/// What one reactor's driver did since it started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RdmaReactorTraffic {
    /// Sum over its connections.
    pub traffic: RdmaTraffic,
    /// Connections it was given.
    pub accepted: u64,
    /// Connections that ended.
    pub closed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_what_was_published() {
        let stats = ReactorStats::default();
        let machine = TargetStats { reads: 3, ..TargetStats::default() };
        let mut traffic = RdmaTraffic { commands: 5, ..RdmaTraffic::default() }.with(&machine);
        traffic += RdmaTraffic { commands: 1, ..RdmaTraffic::default() };
        stats.publish(&traffic, 2, 1);
        let seen = stats.snapshot();
        assert_eq!((seen.traffic.commands, seen.traffic.reads, seen.accepted, seen.closed), (6, 3, 2, 1));
    }
}
