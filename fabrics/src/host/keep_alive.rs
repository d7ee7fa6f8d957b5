//! When the host sends Keep Alive, and when the controller counts as gone (base 2.1 §3.9).

use crate::{NS_PER_MS, Now};

/// What is to be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepAliveStep {
    /// Nothing.
    None,
    /// Send a Keep Alive command.
    Send,
    /// The last one was not answered within the time-out: the connection is dead.
    Dead,
}

/// Schedules Keep Alive commands on an admin queue: one every half time-out, never two at a time.
#[derive(Clone, Debug)]
pub struct KeepAliveTimer {
    interval_ns: u64,
    timeout_ns: u64,
    next: Now,
    sent: Option<Now>,
}

impl KeepAliveTimer {
    /// For a time-out of `kato_ms` milliseconds, as the controller granted it; zero never sends.
    pub fn new(kato_ms: u32, now: Now) -> Self {
        let timeout_ns = u64::from(kato_ms) * NS_PER_MS;
        let next = if kato_ms == 0 { Now::NEVER } else { now.after_ns(timeout_ns / 2) };
        Self { interval_ns: timeout_ns / 2, timeout_ns, next, sent: None }
    }

    /// Time passes.
    pub fn on_tick(&mut self, now: Now) -> KeepAliveStep {
        if now < self.next_deadline() {
            return KeepAliveStep::None;
        }
        if self.sent.is_some() {
            return KeepAliveStep::Dead;
        }
        self.sent = Some(now);
        self.next = now.after_ns(self.interval_ns);
        KeepAliveStep::Send
    }

    /// A Keep Alive command completed. Other commands do not count: the host has no traffic based keep-alive to rely on.
    pub fn on_answer(&mut self) {
        self.sent = None;
    }

    /// When [`Self::on_tick`] has something to do; [`Now::NEVER`] without keep-alive.
    pub fn next_deadline(&self) -> Now {
        match self.sent {
            Some(sent) => sent.after_ns(self.timeout_ns),
            None => self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keep_alive_goes_out_every_half_timeout() {
        let mut timer = KeepAliveTimer::new(10, Now(0));
        assert_eq!(timer.on_tick(Now(5 * NS_PER_MS - 1)), KeepAliveStep::None);
        assert_eq!(timer.on_tick(Now(5 * NS_PER_MS)), KeepAliveStep::Send);
        assert_eq!(timer.on_tick(Now(6 * NS_PER_MS)), KeepAliveStep::None);
        timer.on_answer();
        assert_eq!(timer.next_deadline(), Now(10 * NS_PER_MS));
        assert_eq!(timer.on_tick(Now(10 * NS_PER_MS)), KeepAliveStep::Send);
    }

    #[test]
    fn an_unanswered_keep_alive_means_a_dead_controller() {
        let mut timer = KeepAliveTimer::new(10, Now(0));
        assert_eq!(timer.on_tick(Now(5 * NS_PER_MS)), KeepAliveStep::Send);
        assert_eq!(timer.on_tick(Now(15 * NS_PER_MS - 1)), KeepAliveStep::None);
        assert_eq!(timer.on_tick(Now(15 * NS_PER_MS)), KeepAliveStep::Dead);
    }

    #[test]
    fn zero_turns_it_off() {
        let mut timer = KeepAliveTimer::new(0, Now(0));
        assert_eq!(timer.on_tick(Now(u64::MAX - 1)), KeepAliveStep::None);
        assert_eq!(timer.next_deadline(), Now::NEVER);
    }
}
