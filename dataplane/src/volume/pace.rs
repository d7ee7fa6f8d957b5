//! How fast regions are copied: limits that are given, and room that is made for hosts.
//!
//! While commands of hosts take longer than the target on average, copies follow each other one at a time, with gaps that
//! grow; when they do not, the gaps shrink and go. So what hosts feel decides, whatever the devices and links can do.

use fabrics::{NS_PER_MS, NS_PER_S, Now};

/// The shortest gap between copies, where they begin to make room.
const GAP_MIN_NS: u64 = NS_PER_MS;
/// The longest: copies go on, however slow hosts are served.
const GAP_MAX_NS: u64 = 250 * NS_PER_MS;
/// What was not copied for lack of a turn may be made up for, as far back as this.
const BURST_NS: u64 = 50 * NS_PER_MS;
/// Of the mean latency, the share that the last command has: one in so many.
const SHARE: u64 = 32;

/// How regions are copied. It may change at any time. Regions that reads wait for are copied at once, whatever it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Nothing is copied.
    pub paused: bool,
    /// Regions at a time: at least one, at most [`Config::copies_max`](super::Config::copies_max).
    pub copies: u8,
    /// Logical blocks per second at most.
    pub blocks_per_s: Option<u64>,
    /// Copies make room while reads and writes of hosts take longer than so many nanoseconds on average.
    pub latency_target_ns: Option<u64>,
}

impl Pace {
    /// As fast as `copies` regions at a time can be copied.
    pub const fn full(copies: u8) -> Self {
        Self { paused: false, copies, blocks_per_s: None, latency_target_ns: None }
    }
}

/// When the next copy may start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    pub(super) pace: Pace,
    /// No copy starts before this.
    next_at: Now,
    /// Between copies.
    gap_ns: u64,
    /// Mean latency of commands of hosts; `None` before the first.
    latency_ns: Option<u64>,
    /// Commands that ended since the last look.
    seen: u32,
}

impl Pacer {
    pub(super) fn new(pace: Pace, now: Now) -> Self {
        Self { pace, next_at: now, gap_ns: 0, latency_ns: None, seen: 0 }
    }

    /// A command of a host took so long.
    #[inline]
    pub(super) fn on_command(&mut self, took_ns: u64) {
        self.seen = self.seen.saturating_add(1);
        let before = self.latency_ns.unwrap_or(took_ns);
        self.latency_ns = Some(before - before / SHARE + took_ns / SHARE);
    }

    /// Mean latency of commands of hosts, in nanoseconds.
    pub(super) fn latency_ns(&self) -> Option<u64> {
        self.latency_ns
    }

    /// Whether a copy may start beside `busy` others.
    pub(super) fn lets_start(&self, busy: usize, now: Now) -> bool {
        let copies = if self.gap_ns > 0 { 1 } else { self.pace.copies.max(1) };
        !self.pace.paused && busy < usize::from(copies) && now >= self.next_at
    }

    /// A copy of so many blocks starts.
    pub(super) fn on_start(&mut self, blocks: u64, now: Now) {
        let Some(rate) = self.pace.blocks_per_s else { return };
        let ns = blocks.saturating_mul(NS_PER_S) / rate.max(1);
        let from = self.next_at.max(Now(now.0.saturating_sub(BURST_NS)));
        self.next_at = from.after_ns(ns);
    }

    /// A copy ended: the next one waits for the gap.
    pub(super) fn on_end(&mut self, now: Now) {
        if self.gap_ns > 0 {
            self.next_at = self.next_at.max(now.after_ns(self.gap_ns));
        }
    }

    /// Time has passed: gaps grow or shrink.
    pub(super) fn adapt(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        let (Some(target), Some(latency)) = (self.pace.latency_target_ns, self.latency_ns) else {
            self.gap_ns = 0;
            return;
        };
        self.gap_ns = match seen > 0 && latency > target {
            true => (self.gap_ns * 2).clamp(GAP_MIN_NS, GAP_MAX_NS),
            false => self.gap_ns - self.gap_ns.div_ceil(4),
        };
        if self.gap_ns < GAP_MIN_NS {
            self.gap_ns = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer(pace: Pace) -> Pacer {
        Pacer::new(pace, Now(0))
    }

    #[test]
    fn copies_make_room_while_hosts_wait_longer_than_the_target_and_only_then() {
        let mut pacer = pacer(Pace { latency_target_ns: Some(NS_PER_MS), ..Pace::full(4) });
        for _ in 0..200 {
            pacer.on_command(5 * NS_PER_MS);
        }
        pacer.adapt();
        pacer.on_end(Now(0));
        assert!(!pacer.lets_start(0, Now(0)) && !pacer.lets_start(1, Now(NS_PER_S)));
        assert!(pacer.lets_start(0, Now(GAP_MIN_NS)));
        for _ in 0..20 {
            pacer.on_command(5 * NS_PER_MS);
            pacer.adapt();
        }
        // However long they wait, copying goes on.
        pacer.on_end(Now(NS_PER_S));
        assert!(pacer.lets_start(0, Now(NS_PER_S + GAP_MAX_NS)));
        for _ in 0..200 {
            pacer.on_command(NS_PER_MS / 10);
            pacer.adapt();
        }
        pacer.on_end(Now(2 * NS_PER_S));
        assert!(pacer.lets_start(3, Now(2 * NS_PER_S)));
    }

    #[test]
    fn hosts_that_are_gone_hold_nothing_up() {
        let mut pacer = pacer(Pace { latency_target_ns: Some(1), ..Pace::full(2) });
        pacer.on_command(NS_PER_S);
        pacer.adapt();
        for _ in 0..50 {
            pacer.adapt();
        }
        assert!(pacer.lets_start(1, Now(0)));
    }

    #[test]
    fn no_more_is_copied_than_the_limit_allows_and_no_less() {
        let mut pacer = pacer(Pace { blocks_per_s: Some(1000), ..Pace::full(4) });
        let (mut now, mut blocks) = (Now(NS_PER_S), 0);
        let end = now.after_ns(10 * NS_PER_S);
        while now < end {
            while pacer.lets_start(0, now) {
                pacer.on_start(8, now);
                blocks += 8;
            }
            now = now.after_ns(20 * NS_PER_MS);
        }
        assert!((9_900..=10_100).contains(&blocks), "{blocks}");
    }

    #[test]
    fn nothing_starts_while_it_is_paused_nor_beyond_the_number_at_a_time() {
        let mut pacer = pacer(Pace::full(2));
        assert!(pacer.lets_start(1, Now(0)) && !pacer.lets_start(2, Now(0)));
        pacer.pace.paused = true;
        assert!(!pacer.lets_start(0, Now(NS_PER_S)));
    }
}
