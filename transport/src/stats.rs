//! What a driver counts, for whatever transport: counters have one writer, its reactor; readers take a snapshot with plain loads
//! and never disturb it.

use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of a transport, made by [`counters`].
pub(crate) trait Counters: Copy + Default + AddAssign {
    /// The same, to be read while they are written.
    type Cells: Default + fmt::Debug;

    fn store(&self, cells: &Self::Cells);

    fn load(cells: &Self::Cells) -> Self;
}

/// Counters of one connection, or the sum over a reactor's connections, open and closed: a public structure of `u64`s.
macro_rules! counters {
    ($(#[$about:meta])* $traffic:ident { $( $(#[$meta:meta])* $name:ident, )* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct $traffic {
            $( $(#[$meta])* pub $name: u64, )*
        }

        impl std::ops::AddAssign for $traffic {
            fn add_assign(&mut self, other: Self) {
                $( self.$name += other.$name; )*
            }
        }

        /// The counters, to be read while they are written.
        #[derive(Default, Debug)]
        pub(crate) struct Cells {
            $( $name: std::sync::atomic::AtomicU64, )*
        }

        impl $crate::stats::Counters for $traffic {
            type Cells = Cells;

            fn store(&self, cells: &Cells) {
                $( cells.$name.store(self.$name, std::sync::atomic::Ordering::Relaxed); )*
            }

            fn load(cells: &Cells) -> Self {
                Self { $( $name: cells.$name.load(std::sync::atomic::Ordering::Relaxed), )* }
            }
        }
    };
}
pub(crate) use counters;

/// Counters of one reactor's driver. Written by that reactor only.
#[derive(Default, Debug)]
pub(crate) struct ReactorStats<T: Counters> {
    traffic: T::Cells,
    accepted: AtomicU64,
    closed: AtomicU64,
}

impl<T: Counters> ReactorStats<T> {
    pub(crate) fn publish(&self, traffic: T, accepted: u64, closed: u64) {
        traffic.store(&self.traffic);
        self.accepted.store(accepted, Ordering::Relaxed);
        self.closed.store(closed, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> ReactorTraffic<T> {
        ReactorTraffic {
            traffic: T::load(&self.traffic),
            accepted: self.accepted.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
        }
    }
}

/// What one reactor's driver did since it started; `T` are the counters of its transport.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReactorTraffic<T> {
    /// Sum over its connections.
    pub traffic: T,
    /// Connections it was given.
    pub accepted: u64,
    /// Connections that ended.
    pub closed: u64,
}

#[cfg(test)]
mod tests {
    use crate::tcp::target::TrafficStats;

    use super::*;

    #[test]
    fn a_snapshot_is_what_was_published() {
        let stats = ReactorStats::<TrafficStats>::default();
        let mut traffic = TrafficStats { bytes_sent: 3, ..TrafficStats::default() };
        traffic += TrafficStats { bytes_sent: 4, commands: 1, ..TrafficStats::default() };
        stats.publish(traffic, 2, 1);
        let seen = stats.snapshot();
        assert_eq!(
            (seen.traffic.bytes_sent, seen.traffic.commands, seen.accepted, seen.closed),
            (7, 1, 2, 1)
        );
    }
}
