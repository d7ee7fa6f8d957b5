//! How often events of the connection manager are looked for: each look is a system call, and they are rare.
//!
//! Soon after one there are more: a controller connects its queues one after the other. One that wakes a reactor sooner than it
//! looks keeps it awake until then.

use fabrics::{NS_PER_MS, Now};

/// Between looks, as a rule.
const CALM_NS: u64 = 10 * NS_PER_MS;
/// Between looks, for a while after an event.
const EAGER_NS: u64 = NS_PER_MS;
/// How long that is.
const EAGER_FOR_NS: u64 = 100 * NS_PER_MS;

/// When to look.
#[derive(Debug, Default)]
pub(super) struct Looks {
    next: Now,
    eager_until: Now,
}

impl Looks {
    /// Whether it is time; if so, it is not again before a while.
    #[inline]
    pub(super) fn is_due(&mut self, now: Now) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now.after_ns(if now < self.eager_until { EAGER_NS } else { CALM_NS });
        true
    }

    /// An event was found.
    pub(super) fn found(&mut self, now: Now) {
        self.eager_until = now.after_ns(EAGER_FOR_NS);
        self.next = self.next.min(now.after_ns(EAGER_NS));
    }

    /// There may be more: look again in the next turn.
    pub(super) fn again(&mut self) {
        self.next = Now(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_frequent_for_a_while_after_an_event_and_rare_otherwise() {
        let mut looks = Looks::default();
        let ms = |ms: u64| Now(ms * NS_PER_MS);
        assert!(looks.is_due(ms(1)));
        assert!(!looks.is_due(ms(10)));
        assert!(looks.is_due(ms(11)));
        looks.found(ms(11));
        assert!(!looks.is_due(ms(11)));
        assert!(looks.is_due(ms(12)));
        assert!(looks.is_due(ms(13)));
        looks.again();
        assert!(looks.is_due(ms(13)));
        assert!(looks.is_due(ms(111)));
        assert!(!looks.is_due(ms(120)));
        assert!(looks.is_due(ms(121)));
    }
}
