//! What to do with a command that takes too long: abort it, and reset the controller when that does not help
//! (base 2.1 §5.1.1, §3.7).

use arrayvec::ArrayVec;
use nvme::admin::Abort;
use nvme::{QueueId, Sqe};

use crate::Now;

/// Most commands being aborted at a time; one that times out beyond it waits for its bound without an Abort.
pub const ABORTS_MAX: usize = 16;

/// What to do about a command that timed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send this Abort on the admin queue, then wait.
    Abort(Sqe),
    /// Wait: as many aborts are under way as the controller takes.
    Wait,
    /// Reset the controller: close its connections and bring it up again.
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Late {
    queue: QueueId,
    tag: u64,
    deadline: Now,
    is_aborted: bool,
}

/// Follows the commands of one controller that took too long.
#[derive(Clone, Debug)]
pub struct Aborts {
    late: ArrayVec<Late, ABORTS_MAX>,
    bound_ns: u64,
    abort_limit: usize,
}

impl Aborts {
    /// `acl` is the controller's Abort Command Limit, 0's based (Identify Controller); a command has `bound_ns` to
    /// complete after it timed out.
    pub fn new(acl: u8, bound_ns: u64) -> Self {
        Self { late: ArrayVec::new(), bound_ns, abort_limit: usize::from(acl) + 1 }
    }

    /// The command `cid` of `queue`, known to its owner as `tag`, timed out. Admin commands are not aborted: their queue
    /// is what an Abort would need.
    pub fn on_timeout(&mut self, queue: QueueId, tag: u64, cid: u16, now: Now) -> Verdict {
        if queue.is_admin() || self.late.is_full() {
            return Verdict::Reset;
        }
        let under_way = self.late.iter().filter(|late| late.is_aborted).count();
        let is_aborted = under_way < self.abort_limit;
        debug_assert!(!self.late.iter().any(|late| (late.queue, late.tag) == (queue, tag)));
        self.late.push(Late { queue, tag, deadline: now.after_ns(self.bound_ns), is_aborted });
        if is_aborted { Verdict::Abort(Abort { sqid: queue, cid }.to_sqe(0)) } else { Verdict::Wait }
    }

    /// A command completed, aborted or not.
    #[inline]
    pub fn on_completed(&mut self, queue: QueueId, tag: u64) {
        if !self.late.is_empty() {
            self.late.retain(|late| (late.queue, late.tag) != (queue, tag));
        }
    }

    /// Whether a command is still outstanding although its second time is over: [`Verdict::Reset`] is due.
    pub fn is_reset_due(&self, now: Now) -> bool {
        self.late.iter().any(|late| now >= late.deadline)
    }

    /// When a reset becomes due if nothing completes; [`Now::NEVER`] when no command is late.
    pub fn next_deadline(&self) -> Now {
        self.late.iter().map(|late| late.deadline).min().unwrap_or(Now::NEVER)
    }

    /// The controller was reset: nothing is outstanding any more.
    pub fn on_reset(&mut self) {
        self.late.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IO: QueueId = QueueId(3);

    #[test]
    fn a_late_command_is_aborted_and_then_the_controller_reset() {
        let mut aborts = Aborts::new(3, 100);
        let Verdict::Abort(sqe) = aborts.on_timeout(IO, 7, 0x55, Now(0)) else { panic!("not aborted") };
        assert_eq!(Abort::from(&sqe), Abort { sqid: IO, cid: 0x55 });
        assert!(!aborts.is_reset_due(Now(99)));
        assert!(aborts.is_reset_due(Now(100)));
        aborts.on_reset();
        assert_eq!(aborts.next_deadline(), Now::NEVER);
    }

    #[test]
    fn a_command_that_completes_in_its_second_time_is_forgotten() {
        let mut aborts = Aborts::new(3, 100);
        let _ = aborts.on_timeout(IO, 7, 0x55, Now(0));
        aborts.on_completed(QueueId(4), 7);
        assert_eq!(aborts.next_deadline(), Now(100));
        aborts.on_completed(IO, 7);
        assert!(!aborts.is_reset_due(Now(1000)));
    }

    #[test]
    fn aborts_under_way_stay_within_the_limit_of_the_controller() {
        let mut aborts = Aborts::new(1, 100);
        assert!(matches!(aborts.on_timeout(IO, 1, 1, Now(0)), Verdict::Abort(_)));
        assert!(matches!(aborts.on_timeout(IO, 2, 2, Now(0)), Verdict::Abort(_)));
        assert_eq!(aborts.on_timeout(IO, 3, 3, Now(5)), Verdict::Wait);
        aborts.on_completed(IO, 1);
        aborts.on_completed(IO, 2);
        assert!(aborts.is_reset_due(Now(105)));
    }

    #[test]
    fn a_late_admin_command_resets_at_once() {
        assert_eq!(Aborts::new(3, 100).on_timeout(QueueId::ADMIN, 1, 1, Now(0)), Verdict::Reset);
    }
}
