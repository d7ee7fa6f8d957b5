//! The replica's side: whom it obeys, until when, and whether it can be trusted.
//!
//! Invariants: the epoch only grows, and is durable before the head that brought it is answered; while the lease of a head
//! runs, no other is accepted; requests of an attachment that was replaced are never carried out.

use fabrics::Now;

use super::{Epoch, HeadId, Session};

/// What a replica keeps durably, beside the write-intent bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaState {
    /// The highest epoch that was accepted.
    pub epoch: Epoch,
    /// The head that brought it.
    pub head: HeadId,
}

/// What is to be done about a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FenceStep {
    /// Make this durable, then call [`Replica::accepted`] and answer.
    Persist(ReplicaState),
    /// Not before this many nanoseconds: a lease runs, or requests are under way.
    Later {
        /// Nanoseconds.
        ns: u64,
    },
    /// A higher epoch was accepted, or another head at this one.
    Superseded,
}

/// Asked again after this while requests of an earlier attachment are under way.
const DRAIN_NS: u64 = fabrics::NS_PER_MS;

/// A replica of one volume.
#[derive(Clone, Debug)]
pub struct Replica {
    state: ReplicaState,
    lease_ns: u64,
    lease_until: Now,
    session: Option<Session>,
    /// Requests under way.
    in_flight: u32,
    sound: bool,
}

impl Replica {
    /// A replica as it comes up. One that no head has used lacks nothing.
    pub fn new(state: ReplicaState, lease_ns: u64, now: Now) -> Self {
        // A head may still count on the lease that was given before the restart.
        let lease_until = if state.head == HeadId::NONE { now } else { now.after_ns(lease_ns) };
        Self { state, lease_ns, lease_until, session: None, in_flight: 0, sound: state.epoch == Epoch(0) }
    }

    /// What it has accepted.
    pub fn state(&self) -> ReplicaState {
        self.state
    }

    /// Whether it has been up since it was last known to hold everything.
    pub fn is_sound(&self) -> bool {
        self.sound
    }

    /// Whose requests it carries out.
    pub fn session(&self) -> Option<Session> {
        self.session
    }

    /// It was given other content, all of which is on its media: it lacks nothing of that.
    pub fn replaced(&mut self) {
        assert!(self.session.is_none());
        self.sound = true;
    }

    /// Nothing more is taken from whoever is attached.
    pub fn detach(&mut self) {
        self.session = None;
    }

    /// A head asks to be accepted.
    pub fn fence(&mut self, epoch: Epoch, session: Session, now: Now) -> FenceStep {
        let same_head = self.state.head == session.head;
        if epoch < self.state.epoch || epoch == self.state.epoch && !same_head && epoch > Epoch(0) {
            return FenceStep::Superseded;
        }
        if !same_head && now < self.lease_until {
            return FenceStep::Later { ns: self.lease_until.since(now) };
        }
        if self.session != Some(session) {
            // From here on nothing of the earlier attachment is taken.
            self.session = None;
            if self.in_flight > 0 {
                return FenceStep::Later { ns: DRAIN_NS };
            }
        }
        FenceStep::Persist(ReplicaState { epoch, head: session.head })
    }

    /// What [`Replica::fence`] asked for is durable. That it lacks nothing is believed of a head that it was attached to all the
    /// time: one that does not know of a restart is wrong.
    pub fn accepted(&mut self, state: ReplicaState, session: Session, sound: bool, now: Now) {
        assert!(state.epoch >= self.state.epoch);
        assert!(state.head == session.head);
        self.state = state;
        self.sound |= sound && self.session == Some(session);
        self.session = Some(session);
        self.lease_until = now.after_ns(self.lease_ns);
    }

    /// Heads below `epoch` are refused from now on, whoever they are. What [`Replica::forbidden`] is to be called with once
    /// it is durable; `None` when they are refused already. `nobody` is an identity that no head has: with it, a lease that
    /// is given lasts over a restart.
    pub fn forbid(&mut self, epoch: Epoch, nobody: HeadId) -> Option<ReplicaState> {
        let below = Epoch(epoch.0.checked_sub(1)?);
        (below > self.state.epoch).then(|| {
            // Nothing more is taken from whoever is attached.
            self.session = None;
            ReplicaState { epoch: below, head: nobody }
        })
    }

    /// What [`Replica::forbid`] asked for is durable.
    pub fn forbidden(&mut self, state: ReplicaState) {
        assert!(state.epoch > self.state.epoch);
        self.session = None;
        self.state = state;
    }

    /// Whether requests are under way.
    pub fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// A request came; whether it is to be carried out. Then [`Replica::done`] follows.
    #[must_use]
    pub fn admit(&mut self, session: Session, now: Now) -> bool {
        if self.session != Some(session) {
            return false;
        }
        self.in_flight += 1;
        self.lease_until = self.lease_until.max(now.after_ns(self.lease_ns));
        true
    }

    /// A request that was admitted is carried out.
    pub fn done(&mut self) {
        assert!(self.in_flight > 0);
        self.in_flight -= 1;
    }

    /// The head renews its lease; whether it is still the one.
    #[must_use]
    pub fn renew(&mut self, session: Session, sound: bool, now: Now) -> bool {
        if self.session != Some(session) {
            return false;
        }
        self.sound |= sound;
        self.lease_until = self.lease_until.max(now.after_ns(self.lease_ns));
        true
    }

    /// The head lets go: its lease is over.
    pub fn release(&mut self, session: Session, now: Now) {
        if self.session == Some(session) {
            self.session = None;
            self.lease_until = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 1000;
    const H1: Session = Session { head: HeadId(1), number: 1 };
    const H2: Session = Session { head: HeadId(2), number: 1 };

    fn held_by(session: Session, epoch: Epoch) -> Replica {
        let state = ReplicaState { epoch: Epoch(0), head: HeadId::NONE };
        let mut replica = Replica::new(state, LEASE, Now(0));
        let FenceStep::Persist(state) = replica.fence(epoch, session, Now(0)) else { panic!("refused") };
        replica.accepted(state, session, false, Now(0));
        replica
    }

    #[test]
    fn another_head_waits_until_the_lease_has_run_out() {
        let mut replica = held_by(H1, Epoch(1));
        assert!(replica.admit(H1, Now(500)));
        assert_eq!(replica.fence(Epoch(2), H2, Now(600)), FenceStep::Later { ns: 900 });
        assert!(replica.renew(H1, false, Now(1400)));
        assert_eq!(replica.fence(Epoch(2), H2, Now(1600)), FenceStep::Later { ns: 800 });
        // The lease is over, but a request is under way: it is drained, and nothing new is taken.
        assert_eq!(replica.fence(Epoch(2), H2, Now(2400)), FenceStep::Later { ns: DRAIN_NS });
        assert!(!replica.admit(H1, Now(2400)) && !replica.renew(H1, true, Now(2400)));
        replica.done();
        let step = replica.fence(Epoch(2), H2, Now(2401));
        assert_eq!(step, FenceStep::Persist(ReplicaState { epoch: Epoch(2), head: HeadId(2) }));
    }

    #[test]
    fn lower_epochs_and_other_heads_of_the_same_are_refused() {
        let mut replica = held_by(H1, Epoch(5));
        let late = Now(10 * LEASE);
        assert_eq!(replica.fence(Epoch(4), H2, late), FenceStep::Superseded);
        assert_eq!(replica.fence(Epoch(5), H2, late), FenceStep::Superseded);
        assert!(matches!(replica.fence(Epoch(5), H1, late), FenceStep::Persist(_)));
    }

    #[test]
    fn a_forbidden_head_is_refused_at_once_and_its_lease_still_runs() {
        let mut replica = held_by(H1, Epoch(3));
        assert_eq!(replica.forbid(Epoch(4), HeadId(9)), None, "lower epochs are refused already");
        let state = replica.forbid(Epoch(6), HeadId(9)).unwrap();
        replica.forbidden(state);
        assert!(!replica.admit(H1, Now(1)) && !replica.renew(H1, true, Now(1)));
        assert_eq!(replica.fence(Epoch(5), H1, Now(1)), FenceStep::Superseded);
        assert!(matches!(replica.fence(Epoch(6), H2, Now(LEASE - 1)), FenceStep::Later { .. }));
        assert!(matches!(replica.fence(Epoch(6), H2, Now(LEASE)), FenceStep::Persist(_)));
        let restarted = Replica::new(state, LEASE, Now(5)).fence(Epoch(6), H2, Now(6));
        assert!(matches!(restarted, FenceStep::Later { .. }));
    }

    #[test]
    fn a_head_that_lets_go_is_followed_at_once() {
        let mut replica = held_by(H1, Epoch(1));
        replica.release(H2, Now(1));
        assert!(matches!(replica.fence(Epoch(2), H2, Now(1)), FenceStep::Later { .. }));
        replica.release(H1, Now(1));
        assert!(matches!(replica.fence(Epoch(2), H2, Now(1)), FenceStep::Persist(_)));
    }

    #[test]
    fn after_a_restart_nothing_is_taken_unasked_and_the_old_lease_still_runs() {
        let state = held_by(H1, Epoch(3)).state();
        let mut replica = Replica::new(state, LEASE, Now(50));
        assert!(!replica.is_sound() && !replica.admit(H1, Now(60)));
        assert_eq!(replica.fence(Epoch(4), H2, Now(60)), FenceStep::Later { ns: 990 });
        assert!(matches!(replica.fence(Epoch(4), H1, Now(60)), FenceStep::Persist(_)));
        let FenceStep::Persist(state) = replica.fence(Epoch(4), H2, Now(1050)) else { panic!("refused") };
        replica.accepted(state, H2, false, Now(1050));
        assert!(!replica.is_sound());
        assert!(replica.renew(H2, true, Now(1060)));
        assert!(replica.is_sound());
    }

    #[test]
    fn a_head_that_does_not_know_of_a_restart_makes_nothing_sound() {
        let mut replica = held_by(H1, Epoch(3));
        let FenceStep::Persist(state) = replica.fence(Epoch(4), H1, Now(1)) else { panic!("refused") };
        let mut restarted = Replica::new(replica.state(), LEASE, Now(1));
        replica.accepted(state, H1, true, Now(2));
        assert!(replica.is_sound(), "it was attached all the time");
        let FenceStep::Persist(state) = restarted.fence(Epoch(4), H1, Now(1)) else { panic!("refused") };
        restarted.accepted(state, H1, true, Now(2));
        assert!(!restarted.is_sound());
    }

    #[test]
    fn a_new_attachment_of_the_same_head_waits_for_what_the_earlier_one_sent() {
        let mut replica = held_by(H1, Epoch(1));
        let again = Session { number: 2, ..H1 };
        assert!(replica.admit(H1, Now(1)));
        assert_eq!(replica.fence(Epoch(1), again, Now(2)), FenceStep::Later { ns: DRAIN_NS });
        assert!(!replica.admit(H1, Now(3)));
        replica.done();
        assert!(matches!(replica.fence(Epoch(1), again, Now(4)), FenceStep::Persist(_)));
    }
}
