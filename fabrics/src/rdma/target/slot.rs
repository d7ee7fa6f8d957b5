//! One command on its way through a target connection.

use nvme::{Cqe, Sqe, Status};

use crate::fused::Partner;
use crate::rdma::Remote;

/// A command that was received and whose response is not yet delivered.
#[derive(Debug)]
pub(super) struct Slot<B> {
    pub(super) sqe: Sqe,
    /// Bytes of data that the SGL gives room for.
    pub(super) length: u32,
    /// The host's memory, when the data is not in the capsule.
    pub(super) remote: Option<Remote>,
    /// Key that the host asks to have invalidated.
    pub(super) invalidate: Option<u32>,
    pub(super) partner: Partner,
    pub(super) state: State<B>,
}

/// What is sent for a command: data first, if there is any, then the completion.
#[derive(Debug)]
pub(super) struct Answer<B> {
    pub(super) data: Option<(B, Remote)>,
    pub(super) cqe: Cqe,
}

/// How far a command is.
#[derive(Debug)]
pub(super) enum State<B> {
    /// Its data is being read from the host; the link has the buffer.
    Reading,
    /// Refused, to be answered so.
    Rejected(Status),
    /// All its data is here. Stays so only while the other half of a fused operation is not.
    Ready { data: Option<B> },
    /// The handler has it.
    Executing,
    /// Answered; waits until the host has room for a response.
    Held(Answer<B>),
    /// The link has the answer.
    Sending,
}

/// Names of the states, for the table and for assertions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Reading,
    Rejected,
    Ready,
    Executing,
    Held,
    Sending,
}

/// Whether a command may go from one phase to the other. A slot is freed from Sending.
#[rustfmt::skip]
pub(super) const fn is_legal(from: Phase, to: Phase) -> bool {
    use Phase::{Executing, Held, Reading, Ready, Rejected, Sending};
    matches!((from, to),
        (Reading,   Ready)
      | (Ready,     Executing)
      | (Ready,     Rejected)
      | (Rejected,  Held)
      | (Rejected,  Sending)
      | (Executing, Held)
      | (Executing, Sending)
      | (Held,      Sending)
    )
}

impl<B> State<B> {
    #[inline]
    pub(super) const fn phase(&self) -> Phase {
        match self {
            Self::Reading => Phase::Reading,
            Self::Rejected(_) => Phase::Rejected,
            Self::Ready { .. } => Phase::Ready,
            Self::Executing => Phase::Executing,
            Self::Held(_) => Phase::Held,
            Self::Sending => Phase::Sending,
        }
    }
}

impl<B> Slot<B> {
    /// Goes to the next state; gives the state it leaves.
    #[inline]
    pub(super) fn advance(&mut self, to: State<B>) -> State<B> {
        let (from, next) = (self.state.phase(), to.phase());
        debug_assert!(is_legal(from, next), "{from:?} to {next:?}");
        std::mem::replace(&mut self.state, to)
    }

    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_moves_only_as_its_table_says() {
        use Phase::{Executing, Held, Reading, Ready, Rejected, Sending};
        let phases = [Reading, Rejected, Ready, Executing, Held, Sending];
        let table: Vec<String> = phases
            .iter()
            .map(|from| phases.iter().map(|to| if is_legal(*from, *to) { 'x' } else { '.' }).collect())
            .collect();
        assert_eq!(table, ["..x...", "....xx", ".x.x..", "....xx", ".....x", "......"]);
    }
}
