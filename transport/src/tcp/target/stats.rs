//! What one reactor's driver and each of its connections did, counted where it happens.
//!
//! Counters have one writer, the reactor; readers take a snapshot with plain loads and never disturb it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{ConnId, Peer};

macro_rules! counters {
    ($( $(#[$meta:meta])* $name:ident, )*) => {
        /// Counters of one connection, or the sum over a reactor's connections, open and closed.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct TrafficStats {
            $( $(#[$meta])* pub $name: u64, )*
        }

        impl std::ops::AddAssign for TrafficStats {
            fn add_assign(&mut self, other: Self) {
                $( self.$name += other.$name; )*
            }
        }

        #[derive(Default, Debug)]
        struct Cells {
            $( $name: AtomicU64, )*
        }

        impl Cells {
            fn store(&self, stats: &TrafficStats) {
                $( self.$name.store(stats.$name, Ordering::Relaxed); )*
            }

            fn load(&self) -> TrafficStats {
                TrafficStats { $( $name: self.$name.load(Ordering::Relaxed), )* }
            }
        }
    };
}

counters! {
    /// Bytes received.
    bytes_received,
    /// Bytes sent.
    bytes_sent,
    /// Receive calls, including those that found nothing.
    receive_calls,
    /// Receive calls that found nothing.
    receive_calls_empty,
    /// Send calls.
    send_calls,
    /// Sends that the socket did not take in full.
    send_full,
    /// Commands given to the service.
    commands,
    /// Times reading stopped because no command slot or buffer was free, or because the peer did not read.
    blocked,
}

/// One open connection, for management.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionStats {
    /// Its identifier on its reactor.
    pub conn: ConnId,
    /// Addresses and listener.
    pub peer: Peer,
    /// Commands being executed or whose data is being sent.
    pub in_flight: usize,
    /// Bytes waiting for the socket.
    pub tx_pending_bytes: usize,
    /// What passed so far.
    pub traffic: TrafficStats,
}

/// Counters of one reactor's driver. Written by that reactor only.
#[derive(Default, Debug)]
pub(crate) struct ReactorStats {
    traffic: Cells,
    accepted: AtomicU64,
    closed: AtomicU64,
}

impl ReactorStats {
    pub(crate) fn publish(&self, traffic: &TrafficStats, accepted: u64, closed: u64) {
        self.traffic.store(traffic);
        self.accepted.store(accepted, Ordering::Relaxed);
        self.closed.store(closed, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> ReactorTraffic {
        ReactorTraffic {
            traffic: self.traffic.load(),
            accepted: self.accepted.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
        }
    }
}

/// What one reactor's driver did since it started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReactorTraffic {
    /// Sum over its connections.
    pub traffic: TrafficStats,
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
        let mut traffic = TrafficStats { bytes_sent: 3, ..TrafficStats::default() };
        traffic += TrafficStats { bytes_sent: 4, commands: 1, ..TrafficStats::default() };
        stats.publish(&traffic, 2, 1);
        let seen = stats.snapshot();
        assert_eq!(
            (seen.traffic.bytes_sent, seen.traffic.commands, seen.accepted, seen.closed),
            (7, 1, 2, 1)
        );
    }
}
