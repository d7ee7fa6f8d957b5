//! The drain of one reactor's driver: begun once, by the reactor or by whoever asks, and over when the last connection is.

use std::time::Duration;

use fabrics::Now;
use reactors::Turn;
use reactors::reply::Replier;

struct UnderWay {
    deadline: Now,
    asked: Vec<Replier<()>>,
}

/// How far draining is.
#[derive(Default)]
pub(crate) struct Drain(Option<UnderWay>);

impl Drain {
    pub(crate) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Begins, to be over by `deadline`; `asked` hears of the end. `false`: it began before.
    pub(crate) fn begin(&mut self, asked: Option<Replier<()>>, deadline: Now) -> bool {
        if let Some(UnderWay { asked: others, .. }) = &mut self.0 {
            others.extend(asked);
            return false;
        }
        self.0 = Some(UnderWay { deadline, asked: asked.into_iter().collect() });
        true
    }

    /// When connections are ended whatever they still have; never without a drain.
    pub(crate) fn deadline(&self) -> Now {
        self.0.as_ref().map_or(Now::NEVER, |under_way| under_way.deadline)
    }

    /// Tells whoever asked that no connection is left.
    pub(crate) fn tell(&mut self) {
        if let Some(UnderWay { asked, .. }) = &mut self.0 {
            asked.drain(..).for_each(|replier| replier.reply(()));
        }
    }
}

/// The turn's time, as machines count it.
pub(crate) fn now(turn: &Turn<'_>) -> Now {
    Now(turn.now().as_nanos())
}

/// The time `delay` from now.
pub(crate) fn after(now: Now, delay: Duration) -> Now {
    now.after_ns(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactors::reply;

    #[test]
    fn a_drain_begins_once_and_everyone_who_asked_hears_of_its_end() {
        let mut drain = Drain::default();
        assert_eq!((drain.is_under_way(), drain.deadline()), (false, Now::NEVER));
        let (first, first_reply) = reply::channel();
        let (second, second_reply) = reply::channel();
        assert!(drain.begin(Some(first), Now(7)));
        assert!(!drain.begin(Some(second), Now(9)));
        assert!(!drain.begin(None, Now(9)));
        assert_eq!((drain.is_under_way(), drain.deadline()), (true, Now(7)));
        drain.tell();
        assert_eq!((first_reply.wait(), second_reply.wait()), (Ok(()), Ok(())));
    }
}
