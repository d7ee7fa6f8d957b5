//! When to try again after a connection was lost, and when to give up.
//!
//! Invariants: waits grow by doubling up to a bound; jitter only ever shortens a wait, so that hosts which lost the
//! same target do not come back in step; nothing is tried after the controller counts as lost.

use crate::{NS_PER_S, Now};

/// How to reconnect. Times in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReconnectPolicy {
    /// Wait before the second attempt; the first is made at once.
    pub delay_min_ns: u64,
    /// Longest wait between attempts.
    pub delay_max_ns: u64,
    /// Time without a connection after which the controller is lost (`ctrl_loss_tmo`); [`None`] tries for ever.
    pub loss_timeout_ns: Option<u64>,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self {
            delay_min_ns: NS_PER_S / 10,
            delay_max_ns: 10 * NS_PER_S,
            loss_timeout_ns: Some(600 * NS_PER_S),
        }
    }
}

/// What to do about a connection that is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// Connect at this time, not before.
    At(Now),
    /// The controller is lost: fail what waits for it.
    GiveUp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connected,
    Down { since: Now, attempts: u32 },
    Lost,
}

/// Whether the connection may go from one state to the other.
#[rustfmt::skip]
const fn is_legal(from: State, to: State) -> bool {
    use State::{Connected, Down, Lost};
    matches!((from, to),
        (Connected,  Down { .. })
      | (Down { .. }, Down { .. })
      | (Down { .. }, Connected)
      | (Down { .. }, Lost)
      | (Lost,       Lost)
    )
}

/// Decides about reconnecting, for one controller.
#[derive(Clone, Debug)]
pub struct Reconnect {
    policy: ReconnectPolicy,
    state: State,
}

impl Reconnect {
    /// For a controller that is connected.
    pub fn new(policy: ReconnectPolicy) -> Self {
        Self { policy, state: State::Connected }
    }

    fn advance(&mut self, to: State) {
        assert!(is_legal(self.state, to), "illegal transition {:?} to {to:?}", self.state);
        self.state = to;
    }

    /// The connection was lost at `now`, or an attempt to connect failed. `jitter` is a fresh random number.
    pub fn on_down(&mut self, now: Now, jitter: u16) -> Retry {
        let (since, attempts) = match self.state {
            State::Connected => (now, 0),
            State::Down { since, attempts } => (since, attempts),
            State::Lost => return Retry::GiveUp,
        };
        let delay_ns = self.delay_ns(attempts, jitter);
        self.advance(State::Down { since, attempts: attempts.saturating_add(1) });
        let at = now.after_ns(delay_ns);
        if self.policy.loss_timeout_ns.is_some_and(|timeout_ns| at.since(since) > timeout_ns) {
            self.advance(State::Lost);
            return Retry::GiveUp;
        }
        Retry::At(at)
    }

    /// An attempt succeeded; the next loss starts over.
    pub fn on_connected(&mut self) {
        if self.state != State::Connected {
            self.advance(State::Connected);
        }
    }

    /// Whether the controller counts as lost.
    pub fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Zero, then `delay_min · 2^n` up to `delay_max`, of which jitter takes up to a quarter away.
    fn delay_ns(&self, attempts: u32, jitter: u16) -> u64 {
        let Some(doublings) = attempts.checked_sub(1) else { return 0 };
        let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
        let full_ns = self.policy.delay_min_ns.saturating_mul(factor).min(self.policy.delay_max_ns);
        full_ns - (full_ns >> 18).saturating_mul(u64::from(jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_over_after_success() {
        let policy = ReconnectPolicy { delay_min_ns: 100, delay_max_ns: 500, loss_timeout_ns: None };
        let mut reconnect = Reconnect::new(policy);
        let waits: Vec<Retry> = (0..6).map(|_| reconnect.on_down(Now(1000), 0)).collect();
        assert_eq!(waits, [1000, 1100, 1200, 1400, 1500, 1500].map(|at| Retry::At(Now(at))));
        reconnect.on_connected();
        assert_eq!(reconnect.on_down(Now(2000), 0), Retry::At(Now(2000)));
    }

    #[test]
    fn jitter_takes_at_most_a_quarter_away() {
        let policy = ReconnectPolicy { delay_min_ns: 1 << 20, ..ReconnectPolicy::default() };
        let mut reconnect = Reconnect::new(policy);
        assert_eq!(reconnect.on_down(Now(0), u16::MAX), Retry::At(Now(0)));
        let Retry::At(at) = reconnect.on_down(Now(0), u16::MAX) else { panic!("gave up") };
        assert!(at.0 >= (1 << 20) * 3 / 4);
        assert!(at.0 < 1 << 20);
    }

    #[test]
    fn a_controller_is_lost_once_its_time_is_over() {
        let policy = ReconnectPolicy { delay_min_ns: 100, delay_max_ns: 100, loss_timeout_ns: Some(250) };
        let mut reconnect = Reconnect::new(policy);
        assert_eq!(reconnect.on_down(Now(0), 0), Retry::At(Now(0)));
        assert_eq!(reconnect.on_down(Now(0), 0), Retry::At(Now(100)));
        assert_eq!(reconnect.on_down(Now(100), 0), Retry::At(Now(200)));
        assert_eq!(reconnect.on_down(Now(200), 0), Retry::GiveUp);
        assert!(reconnect.is_lost());
        assert_eq!(reconnect.on_down(Now(201), 0), Retry::GiveUp);
    }

    #[test]
    fn many_failures_never_overflow() {
        let policy = ReconnectPolicy { loss_timeout_ns: None, ..ReconnectPolicy::default() };
        let mut reconnect = Reconnect::new(policy);
        for _ in 0..200 {
            assert!(matches!(reconnect.on_down(Now(7), 9), Retry::At(at) if at.0 <= 7 + policy.delay_max_ns));
        }
    }
}
