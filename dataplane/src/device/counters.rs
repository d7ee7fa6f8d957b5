//! What a device did: operations, bytes, errors and latency per kind of operation.
//!
//! Each queue counts for itself, with plain loads and stores of relaxed atomics: it is the only writer. A reader sums
//! up all queues; the sum is not a snapshot of one instant, but no count is ever lost or seen to fall.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::OpKind;

/// What was done of one kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OpCounters {
    /// Finished operations, failed ones included.
    pub operations: u64,
    /// Bytes of those that succeeded; none for flushes.
    pub bytes: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Sum of the time from being passed to the device until completion was noticed. Zero for operations that finish
    /// inside their submission.
    pub latency_ns_total: u64,
    /// The shortest, `None` before the first measured one.
    pub latency_ns_min: Option<u64>,
    /// The longest.
    pub latency_ns_max: u64,
}

impl OpCounters {
    fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.latency_ns_total += other.latency_ns_total;
        self.latency_ns_min = match (self.latency_ns_min, other.latency_ns_min) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.latency_ns_max = self.latency_ns_max.max(other.latency_ns_max);
    }
}

/// What a device did since it was created.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DeviceCounters([OpCounters; OpKind::COUNT]);

impl DeviceCounters {
    /// Counters of one kind of operation.
    pub fn of(&self, kind: OpKind) -> &OpCounters {
        &self.0[kind as usize]
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (sum, counters) in self.0.iter_mut().zip(&other.0) {
            sum.add(counters);
        }
        self
    }

    fn add(&mut self, queue: &QueueCounters) {
        for (sum, counters) in self.0.iter_mut().zip(&queue.0) {
            sum.add(&counters.read());
        }
    }
}

#[derive(Default)]
struct Cells {
    operations: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    latency_ns_total: AtomicU64,
    latency_ns_max: AtomicU64,
    /// The shortest, plus one; zero before the first.
    latency_ns_min_plus_one: AtomicU64,
}

impl Cells {
    fn read(&self) -> OpCounters {
        OpCounters {
            operations: self.operations.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            latency_ns_total: self.latency_ns_total.load(Relaxed),
            latency_ns_min: self.latency_ns_min_plus_one.load(Relaxed).checked_sub(1),
            latency_ns_max: self.latency_ns_max.load(Relaxed),
        }
    }
}

/// Adds without a locked instruction: right only for a cell with one writer.
fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}

/// One queue's counters. On cache lines of their own, so that reactors do not slow each other.
#[derive(Default)]
#[repr(align(128))]
struct QueueCounters([Cells; OpKind::COUNT]);

/// A queue's end of its counters: the only one that writes them.
pub(crate) struct Meter(Arc<QueueCounters>);

impl Meter {
    /// One operation succeeded inside its submission.
    pub(crate) fn done(&self, kind: OpKind, bytes: u64) {
        let cells = &self.0.0[kind as usize];
        bump(&cells.operations, 1);
        bump(&cells.bytes, bytes);
    }

    /// One operation failed.
    pub(crate) fn failed(&self, kind: OpKind) {
        let cells = &self.0.0[kind as usize];
        bump(&cells.operations, 1);
        bump(&cells.errors, 1);
    }

    /// How long an operation that was counted took.
    pub(crate) fn took(&self, kind: OpKind, latency_ns: u64) {
        let cells = &self.0.0[kind as usize];
        bump(&cells.latency_ns_total, latency_ns);
        if latency_ns > cells.latency_ns_max.load(Relaxed) {
            cells.latency_ns_max.store(latency_ns, Relaxed);
        }
        let min = cells.latency_ns_min_plus_one.load(Relaxed);
        if min == 0 || latency_ns.saturating_add(1) < min {
            cells.latency_ns_min_plus_one.store(latency_ns.saturating_add(1), Relaxed);
        }
    }
}

/// A device's end: hands out meters and sums them up.
#[derive(Default)]
pub(crate) struct CounterBook(Mutex<Book>);

#[derive(Default)]
struct Book {
    live: Vec<Arc<QueueCounters>>,
    retired: DeviceCounters,
}

impl Book {
    /// Keeps what closed queues counted, and forgets the queues.
    fn retire(&mut self) {
        self.live.retain_mut(|queue| match Arc::get_mut(queue) {
            Some(closed) => {
                self.retired.add(closed);
                false
            }
            None => true,
        });
    }
}

impl CounterBook {
    /// A meter for a new queue.
    pub(crate) fn open(&self) -> Meter {
        let counters = Arc::new(QueueCounters::default());
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.retire();
        book.live.push(Arc::clone(&counters));
        Meter(counters)
    }

    /// The sum over all queues that were ever opened.
    pub(crate) fn sum(&self) -> DeviceCounters {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.retire();
        let mut sum = book.retired;
        for queue in &book.live {
            sum.add(queue);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_closed_queues_stay_in_the_sum() {
        let book = CounterBook::default();
        let first = book.open();
        first.done(OpKind::Read, 4096);
        first.took(OpKind::Read, 700);
        drop(first);
        let second = book.open();
        second.done(OpKind::Read, 512);
        second.took(OpKind::Read, 0);
        second.failed(OpKind::Write);

        let sum = book.sum();
        assert_eq!(
            *sum.of(OpKind::Read),
            OpCounters {
                operations: 2,
                bytes: 4608,
                errors: 0,
                latency_ns_total: 700,
                latency_ns_min: Some(0),
                latency_ns_max: 700
            }
        );
        assert_eq!((sum.of(OpKind::Write).operations, sum.of(OpKind::Write).errors), (1, 1));
        assert_eq!(book.sum(), sum);
    }
}
