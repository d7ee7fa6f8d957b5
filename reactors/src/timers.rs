//! Timers: a hierarchical wheel over a slab.
//!
//! Arming and cancelling are O(1) and allocate only when more timers than ever before are armed. Looking whether
//! anything is due is one comparison.
//!
//! Invariants
//! - A timer never fires before its deadline: deadlines round up to a tick. It fires at most one tick after it, plus
//!   the time until the reactor looks.
//! - Timers that are due together fire in the order of their deadlines, equal ones in the order they were armed.
//! - Every armed entry lies at the level of the highest six-bit digit in which its tick differs from `elapsed`, so all
//!   entries of a level expire before those of the next.

use std::time::Duration;

use crate::poller::PollerId;
use crate::time::Timestamp;

/// The resolution of timers: coarse enough to make most slots empty, fine against the shortest time-out used.
pub const TIMER_TICK: Duration = Duration::from_nanos(1 << TICK_BITS);

const TICK_BITS: u32 = 16;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
/// Eight six-bit digits hold every tick that 64 bits of nanoseconds can name.
const LEVELS: usize = 8;
/// The last tick there is, 584 years from the origin.
const TICK_MAX: u64 = u64::MAX >> TICK_BITS;
const NONE: u32 = u32::MAX;

const _: () =
    assert!(LEVELS * (DIGIT_BITS as usize) + (TICK_BITS as usize) >= 64, "every deadline has a place");

/// What a poller wants to be told when the timer fires. The meaning is the poller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerToken(pub u64);

/// An armed timer, to cancel it. Stale once it fired or was cancelled; using it then has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Wheel { level: u8, slot: u8 },
    Due,
}

struct Entry {
    deadline: Timestamp,
    sequence: u64,
    token: TimerToken,
    owner: PollerId,
    generation: u32,
    place: Place,
    previous: u32,
    next: u32,
}

/// A timer taken off the wheel because it is due.
struct Due {
    deadline: Timestamp,
    sequence: u64,
    id: TimerId,
}

/// One slot list head per slot, and a bit for each that is not empty.
struct Level {
    heads: [u32; SLOTS],
    occupied: u64,
}

pub(crate) struct TimerWheel {
    entries: Vec<Entry>,
    free: Vec<u32>,
    levels: [Level; LEVELS],
    /// Ticks up to this one have been handled.
    elapsed: u64,
    /// Nothing happens before this; may be too early, never too late.
    next: Timestamp,
    /// Sorted, the earliest last.
    due: Vec<Due>,
    sequence: u64,
}

fn tick_at_or_after(deadline: Timestamp) -> u64 {
    deadline.as_nanos().div_ceil(1 << TICK_BITS).min(TICK_MAX)
}

fn tick_start(tick: u64) -> Timestamp {
    Timestamp::from_nanos(tick.saturating_mul(1 << TICK_BITS))
}

fn digit(tick: u64, level: usize) -> usize {
    let digit = (tick >> (level * DIGIT_BITS as usize)) & (SLOTS as u64 - 1);
    usize::try_from(digit).unwrap_or(SLOTS - 1)
}

impl TimerWheel {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            levels: std::array::from_fn(|_| Level { heads: [NONE; SLOTS], occupied: 0 }),
            elapsed: now.as_nanos() >> TICK_BITS,
            next: Timestamp::MAX,
            due: Vec::new(),
            sequence: 0,
        }
    }

    /// The earliest time at which [`TimerWheel::advance`] can have anything to do.
    #[inline]
    pub(crate) fn next(&self) -> Timestamp {
        self.next
    }

    /// Arms a timer. A deadline in the past fires at the next tick.
    pub(crate) fn arm(&mut self, deadline: Timestamp, token: TimerToken, owner: PollerId) -> TimerId {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        let sequence = self.sequence;
        self.sequence += 1;
        let entry = &mut self.entries[index as usize];
        entry.deadline = deadline;
        entry.sequence = sequence;
        entry.token = token;
        entry.owner = owner;
        let generation = entry.generation;
        self.insert(index);
        TimerId { index, generation }
    }

    fn grow(&mut self) -> u32 {
        let index = u32::try_from(self.entries.len()).unwrap_or(NONE);
        assert!(index != NONE, "more than 2^32 - 1 timers");
        self.entries.push(Entry {
            deadline: Timestamp::ZERO,
            sequence: 0,
            token: TimerToken(0),
            owner: PollerId(0),
            generation: 0,
            place: Place::Free,
            previous: NONE,
            next: NONE,
        });
        index
    }

    /// Whether the timer was still armed.
    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        match self.entries.get(id.index as usize) {
            Some(entry) if entry.generation == id.generation && entry.place != Place::Free => {
                self.unlink(id.index);
                self.release(id.index);
                true
            }
            _ => false,
        }
    }

    /// Cancels all timers of a poller that goes away. Looks at every timer.
    pub(crate) fn cancel_all(&mut self, owner: PollerId) {
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            if entry.owner == owner && entry.place != Place::Free {
                let id =
                    TimerId { index: u32::try_from(index).unwrap_or(NONE), generation: entry.generation };
                self.cancel(id);
            }
        }
    }

    /// Moves time on to `now`; what is due then comes out of [`TimerWheel::pop_due`].
    pub(crate) fn advance(&mut self, now: Timestamp) {
        let now_tick = now.as_nanos() >> TICK_BITS;
        while let Some((level, slot, tick)) = self.first_slot() {
            if tick > now_tick {
                break;
            }
            self.elapsed = tick;
            self.empty_slot(level, slot);
        }
        self.elapsed = self.elapsed.max(now_tick);
        self.next = self.first_slot().map_or(Timestamp::MAX, |(_, _, tick)| tick_start(tick));
        self.due.sort_unstable_by_key(|due| std::cmp::Reverse((due.deadline, due.sequence)));
    }

    /// The next timer that is due, in order.
    pub(crate) fn pop_due(&mut self) -> Option<(PollerId, TimerToken)> {
        loop {
            let Due { id, .. } = self.due.pop()?;
            let entry = &self.entries[id.index as usize];
            if entry.generation == id.generation && entry.place == Place::Due {
                let fired = (entry.owner, entry.token);
                self.release(id.index);
                return Some(fired);
            }
        }
    }

    /// Takes every entry out of a slot whose time has come: due, or down to a lower level.
    fn empty_slot(&mut self, level: usize, slot: usize) {
        let mut index = std::mem::replace(&mut self.levels[level].heads[slot], NONE);
        self.levels[level].occupied &= !(1 << slot);
        while index != NONE {
            let entry = &mut self.entries[index as usize];
            let next = entry.next;
            if tick_at_or_after(entry.deadline) > self.elapsed {
                self.insert(index);
            } else {
                entry.place = Place::Due;
                let id = TimerId { index, generation: entry.generation };
                self.due.push(Due { deadline: entry.deadline, sequence: entry.sequence, id });
            }
            index = next;
        }
    }

    /// Links an entry into the slot of its deadline, at the earliest the next tick.
    fn insert(&mut self, index: u32) {
        let tick = tick_at_or_after(self.entries[index as usize].deadline).max(self.elapsed + 1);
        let level = ((tick ^ self.elapsed).ilog2() / DIGIT_BITS) as usize;
        let slot = digit(tick, level);
        let head = std::mem::replace(&mut self.levels[level].heads[slot], index);
        self.levels[level].occupied |= 1 << slot;
        if head != NONE {
            self.entries[head as usize].previous = index;
        }
        let entry = &mut self.entries[index as usize];
        (entry.previous, entry.next) = (NONE, head);
        entry.place = place(level, slot);
        self.next = self.next.min(tick_start(self.slot_tick(level, slot)));
    }

    fn unlink(&mut self, index: u32) {
        let Entry { previous, next, place, .. } = self.entries[index as usize];
        let Place::Wheel { level, slot } = place else { return };
        let level = &mut self.levels[usize::from(level)];
        if previous == NONE {
            level.heads[usize::from(slot)] = next;
        } else {
            self.entries[previous as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if level.heads[usize::from(slot)] == NONE {
            level.occupied &= !(1 << slot);
        }
    }

    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.place = Place::Free;
        self.free.push(index);
    }

    /// The occupied slot whose time comes first, and the tick at which it does.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let slot = self.levels[level].occupied.trailing_zeros() as usize;
        Some((level, slot, self.slot_tick(level, slot)))
    }

    /// The first tick of a slot: the digits of `elapsed` above the level, the slot, then zeroes.
    fn slot_tick(&self, level: usize, slot: usize) -> u64 {
        let shift = level * DIGIT_BITS as usize;
        let above = (self.elapsed >> shift) & !(SLOTS as u64 - 1);
        (above | slot as u64) << shift
    }
}

fn place(level: usize, slot: usize) -> Place {
    match (u8::try_from(level), u8::try_from(slot)) {
        (Ok(level), Ok(slot)) => Place::Wheel { level, slot },
        _ => unreachable!("levels and slots are below 64"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: u64 = 1 << TICK_BITS;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn drain(wheel: &mut TimerWheel, now: u64) -> Vec<u64> {
        wheel.advance(at(now));
        std::iter::from_fn(|| wheel.pop_due()).map(|(_, token)| token.0).collect()
    }

    #[test]
    fn timers_fire_in_order_and_never_early() {
        let mut wheel = TimerWheel::new(at(12_345));
        for (token, deadline) in [(1, 900 * TICK + 5), (2, 3 * TICK + 1), (3, 3 * TICK), (4, 3 * TICK + 1)] {
            wheel.arm(at(deadline), TimerToken(token), PollerId(1));
        }
        assert_eq!(drain(&mut wheel, 3 * TICK - 1), []);
        assert_eq!(drain(&mut wheel, 4 * TICK), [3, 2, 4]);
        assert_eq!(drain(&mut wheel, 900 * TICK + 5), []);
        assert_eq!(drain(&mut wheel, 901 * TICK), [1]);
        assert_eq!(wheel.next(), Timestamp::MAX);
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_the_next_tick() {
        let mut wheel = TimerWheel::new(at(10 * TICK));
        wheel.arm(at(3), TimerToken(1), PollerId(1));
        assert_eq!(wheel.next(), at(11 * TICK));
        assert_eq!(drain(&mut wheel, 11 * TICK), [1]);
    }

    #[test]
    fn the_farthest_deadline_has_a_place() {
        let mut wheel = TimerWheel::new(Timestamp::ZERO);
        let timer = wheel.arm(Timestamp::MAX, TimerToken(1), PollerId(1));
        assert_eq!(drain(&mut wheel, u64::MAX / 2), []);
        assert!(wheel.cancel(timer));
    }

    #[test]
    fn a_stale_timer_id_cancels_nothing() {
        let mut wheel = TimerWheel::new(Timestamp::ZERO);
        let timer = wheel.arm(at(TICK), TimerToken(1), PollerId(1));
        assert_eq!(drain(&mut wheel, TICK), [1]);
        let second = wheel.arm(at(2 * TICK), TimerToken(2), PollerId(1));
        assert!(!wheel.cancel(timer));
        assert!(wheel.cancel(second));
        assert!(!wheel.cancel(second));
    }

    #[test]
    fn a_timer_that_is_due_can_still_be_cancelled() {
        let mut wheel = TimerWheel::new(Timestamp::ZERO);
        wheel.arm(at(TICK), TimerToken(1), PollerId(1));
        let second = wheel.arm(at(TICK), TimerToken(2), PollerId(1));
        wheel.advance(at(TICK));
        assert_eq!(wheel.pop_due(), Some((PollerId(1), TimerToken(1))));
        assert!(wheel.cancel(second));
        assert_eq!(wheel.pop_due(), None);
    }

    #[test]
    fn a_poller_takes_its_timers_along() {
        let mut wheel = TimerWheel::new(Timestamp::ZERO);
        for owner in [1, 2, 1] {
            wheel.arm(at(u64::from(owner) * 100 * TICK), TimerToken(u64::from(owner)), PollerId(owner));
        }
        wheel.cancel_all(PollerId(1));
        assert_eq!(drain(&mut wheel, 1000 * TICK), [2]);
    }

    #[test]
    fn steady_state_reuses_the_slab() {
        let mut wheel = TimerWheel::new(Timestamp::ZERO);
        for round in 0..10_000 {
            let timer = wheel.arm(at(round * TICK + 500_000_000), TimerToken(round), PollerId(1));
            wheel.arm(at((round + 1) * TICK), TimerToken(round), PollerId(1));
            assert!(wheel.cancel(timer));
            assert_eq!(drain(&mut wheel, (round + 1) * TICK), [round]);
        }
        assert_eq!(wheel.entries.len(), 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u64),
        Cancel(usize),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let spread =
            |bits: std::ops::Range<u32>| (bits, any::<u64>()).prop_map(|(bits, x)| x % (1_u64 << bits));
        prop_oneof![
            3 => spread(1..50).prop_map(Step::Arm),
            1 => (0..100_usize).prop_map(Step::Cancel),
            2 => spread(1..48).prop_map(Step::Advance),
        ]
    }

    proptest! {
        /// Against a sorted list: the same timers fire, in the same order, in the same advance.
        #[test]
        fn the_wheel_behaves_like_a_sorted_list(start in 0..1_u64 << 40, steps in prop::collection::vec(step(), 1..120)) {
            let mut now = start;
            let mut wheel = TimerWheel::new(at(now));
            let mut armed: Vec<(u64, u64, TimerId)> = Vec::new();
            for (token, step) in (0..).zip(steps) {
                match step {
                    Step::Arm(delay) => {
                        let id = wheel.arm(at(now + delay), TimerToken(token), PollerId(1));
                        // What has passed its tick already waits for the next one.
                        let tick = (now + delay).div_ceil(TICK).max(now / TICK + 1);
                        armed.push((tick, token, id));
                        prop_assert!(wheel.next() <= at(tick * TICK));
                    }
                    Step::Cancel(which) if !armed.is_empty() => {
                        let (_, _, id) = armed.remove(which % armed.len());
                        prop_assert!(wheel.cancel(id));
                    }
                    Step::Cancel(_) => {}
                    Step::Advance(by) => {
                        now += by;
                        let fired = drain(&mut wheel, now);
                        let (due, later): (Vec<_>, Vec<_>) = armed.into_iter().partition(|timer| timer.0 <= now / TICK);
                        let mut due: Vec<u64> = due.into_iter().map(|timer| timer.1).collect();
                        armed = later;
                        prop_assert!(wheel.next() > at(now));
                        due.sort_unstable();
                        let mut same = fired.clone();
                        same.sort_unstable();
                        prop_assert_eq!(same, due);
                    }
                }
            }
        }
    }
}
