//! What one reactor's driver and each of its connections did, counted where it happens.

use crate::stats::{self, counters};
use crate::{ConnId, Peer};

counters! {
    /// Counters of one connection, or the sum over a reactor's connections, open and closed.
    TrafficStats {
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
}

/// Counters of one reactor's driver.
pub(crate) type ReactorStats = stats::ReactorStats<TrafficStats>;
/// What one reactor's driver did since it started.
pub type ReactorTraffic = stats::ReactorTraffic<TrafficStats>;

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
