//! Compare and Write (base 2.1 §3.4.2, NVM command set 1.1 §3.2.1): the pair of commands, and the machine that makes
//! it atomic. Both commands end, each with its own status.
//!
//! Order: claim the range → wait until everything in flight on the namespace is done, on every reactor → read →
//! compare → write → release the range.

use fabrics::Now;
use nvme::{Lba, Status};
use reactors::{DmaPool, IoBuf};
use transport::ConnId;

use super::guard::{Claim, RangeGuard};
use super::jobs::{Step, compare, read};
use crate::device::{IoDone, Op};

/// A first command that waits for its second.
pub(super) struct Held {
    pub(super) conn: ConnId,
    /// Its token, as a number.
    pub(super) command: u32,
    pub(super) cid: u16,
    pub(super) nsid: u32,
    pub(super) lba: Lba,
    pub(super) blocks: u32,
    pub(super) expected: IoBuf,
    pub(super) since: Now,
}

/// Both commands, under way. The flight it belongs to is the second's.
pub(super) struct CompareWrite {
    /// The first command's token, as a number.
    pub(super) first: u32,
    pub(super) lba: Lba,
    pub(super) blocks: u32,
    pub(super) expected: IoBuf,
    pub(super) fua: bool,
    pub(super) state: State,
}

/// Where a pair is.
pub(super) enum State {
    /// Before the claim.
    Claiming { data: IoBuf },
    /// Until the barrier is passed.
    Draining { data: IoBuf, claim: Claim },
    /// Until the read is done.
    Reading { data: IoBuf, claim: Claim },
    /// Until the write is done.
    Writing { claim: Claim },
    /// Over: what the first and the second command end with.
    Done(Status, Status),
}

/// What the pair wants next.
pub(super) enum PairStep {
    /// A barrier on the namespace, then the next step.
    Barrier,
    Step(Step),
}

impl CompareWrite {
    pub(super) fn step(&mut self, done: Option<IoDone>, guard: &RangeGuard, pool: &DmaPool) -> PairStep {
        let state =
            std::mem::replace(&mut self.state, State::Done(Status::INTERNAL_ERROR, Status::INTERNAL_ERROR));
        let (state, step) = match state {
            State::Claiming { data } => match guard.claim(self.lba, u64::from(self.blocks)) {
                Some(claim) => (State::Draining { data, claim }, PairStep::Barrier),
                None => (State::Claiming { data }, PairStep::Step(Step::Starved)),
            },
            State::Draining { data, claim } => {
                let step = read(self.lba, self.expected.len(), pool);
                match step {
                    Step::Submit(_) => (State::Reading { data, claim }, PairStep::Step(step)),
                    _ => (State::Draining { data, claim }, PairStep::Step(step)),
                }
            }
            State::Reading { data, claim } => self.compared(done, data, claim, guard),
            State::Writing { claim } => {
                guard.release(claim);
                let status = done.map_or(Status::INTERNAL_ERROR, |done| done.status);
                finished(Status::SUCCESS, status)
            }
            State::Done(first, second) => finished(first, second),
        };
        self.state = state;
        step
    }

    fn compared(
        &self,
        done: Option<IoDone>,
        data: IoBuf,
        claim: Claim,
        guard: &RangeGuard,
    ) -> (State, PairStep) {
        let status = done.map_or(Status::INTERNAL_ERROR, |done| compare(&self.expected, &done));
        if status.is_success() {
            let op = Op::Write { lba: self.lba, buffer: data, fua: self.fua };
            return (State::Writing { claim }, PairStep::Step(Step::Submit(op)));
        }
        guard.release(claim);
        finished(status, Status::ABORTED_FAILED_FUSED)
    }

    /// How the first command ended.
    pub(super) fn first_status(&self) -> Status {
        match self.state {
            State::Done(first, _) => first,
            _ => Status::INTERNAL_ERROR,
        }
    }
}

fn finished(first: Status, second: Status) -> (State, PairStep) {
    (State::Done(first, second), PairStep::Step(Step::Finish(second)))
}
