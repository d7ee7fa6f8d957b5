//! The thread of an active volume: time, leases, bits, copies, and replicas that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reactors::{DmaPool, PoolConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::driver::Head;
use super::error::ReplicationError;
use super::lane::Lane;
use super::volume::Shared;
use crate::device::QueueContext;
use crate::volume::Phase;

/// How often the machine is told the time.
const TICK: Duration = Duration::from_millis(20);
/// Calls, pages and copies: four copies of 1 MiB are under way at most.
const POOL: PoolConfig = PoolConfig { small_slots: 256, large_slots: 64, prefault: false };
const DEPTH: u32 = 256;
/// How long the thread goes on after the end, for answers that are on their way.
const AFTERMATH: Duration = Duration::from_millis(100);

/// The thread's work: until the head is at its end, or told to stop at once.
pub(super) fn run(shared: &Arc<Shared>, head: &Arc<Head>, stop: &AtomicBool) -> Result<(), ReplicationError> {
    let pool = DmaPool::new(POOL).map_err(|error| std::io::Error::other(error.to_string()))?;
    let context = QueueContext { pool: &pool, depth: DEPTH };
    let mut lane = Lane::open(shared.uuid, shared.block_size, shared.slots(), &context)?;
    // The first lane is the one that the machine's own requests go to.
    lane.attach(Some(Arc::clone(head)), 1);
    shared.publish(Some(Arc::clone(head)));
    let mut next_tick = lane.now();
    let mut over_at = None;
    loop {
        let now = lane.now();
        let tick = now >= next_tick;
        if tick {
            next_tick = now.after_ns(u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX));
        }
        let busy = lane.poll(tick);
        head.tell();
        if stop.load(Ordering::Acquire) {
            return Ok(());
        }
        if matches!(head.lock().phase(), Phase::Deposed | Phase::Released) {
            let aftermath = u64::try_from(AFTERMATH.as_nanos()).unwrap_or(u64::MAX);
            if now >= *over_at.get_or_insert(now.after_ns(aftermath)) {
                return Ok(());
            }
        }
        if !busy && lane.before_sleep() {
            let wait = Timespec { tv_sec: 0, tv_nsec: i64::try_from(TICK.as_nanos()).unwrap_or(0) };
            // Interrupted or timed out: everything is looked at either way.
            let _ = poll(&mut [PollFd::from_borrowed_fd(lane.wait_fd(), PollFlags::IN)], Some(&wait));
        }
    }
}
