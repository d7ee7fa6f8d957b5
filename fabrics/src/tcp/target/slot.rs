//! One command on its way through a target connection.

use nvme::{Sqe, Status};

use crate::Now;
use crate::fused::Partner;

/// A command that was received and not yet answered, or answered with data that is not yet sent.
#[derive(Debug)]
pub(crate) struct Slot<B> {
    pub(crate) sqe: Sqe,
    /// Data length that the SGL gives, in bytes.
    pub(crate) length: u32,
    pub(crate) partner: Partner,
    pub(crate) state: State<B>,
}

/// How far a command is.
#[derive(Debug)]
pub(crate) enum State<B> {
    /// Data in the capsule is arriving.
    Capsule { buffer: B },
    /// Waits for a buffer before its data is asked for.
    Parked,
    /// Data asked for with R2Ts is arriving.
    Transfer(Transfer<B>),
    /// Refused; what the capsule carries is being skipped.
    Rejected(Status),
    /// All its data is here. Stays so only while the other half of a fused operation is not.
    Ready { data: Option<B> },
    /// The handler has it.
    Executing,
    /// Answered; the data is being sent.
    Sending { buffer: B },
}

/// Progress of a host-to-controller transfer.
#[derive(Debug)]
pub(crate) struct Transfer<B> {
    pub(crate) buffer: B,
    /// Bytes that have arrived, in order.
    pub(crate) received: u32,
    /// Bytes that R2Ts have asked for.
    pub(crate) granted: u32,
    /// When the first R2T was sent.
    pub(crate) since: Now,
    /// A data digest was wrong: the command fails once the data asked for is here.
    pub(crate) damaged: bool,
}

/// Names of the states, for the table and for assertions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Capsule,
    Parked,
    Transfer,
    Rejected,
    Ready,
    Executing,
    Sending,
}

/// Whether a command may go from one phase to the other. A slot is freed from Rejected, Executing and Sending.
#[rustfmt::skip]
pub(crate) const fn is_legal(from: Phase, to: Phase) -> bool {
    use Phase::{Capsule, Executing, Parked, Ready, Rejected, Sending, Transfer};
    matches!((from, to),
        (Capsule,   Ready)
      | (Capsule,   Rejected)
      | (Parked,    Transfer)
      | (Transfer,  Ready)
      | (Transfer,  Rejected)
      | (Ready,     Executing)
      | (Ready,     Rejected)
      | (Executing, Sending)
    )
}

impl<B> State<B> {
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::Capsule { .. } => Phase::Capsule,
            Self::Parked => Phase::Parked,
            Self::Transfer(_) => Phase::Transfer,
            Self::Rejected(_) => Phase::Rejected,
            Self::Ready { .. } => Phase::Ready,
            Self::Executing => Phase::Executing,
            Self::Sending { .. } => Phase::Sending,
        }
    }
}

impl<B> Slot<B> {
    /// Goes to the next state; gives the state it leaves.
    #[inline]
    pub(crate) fn advance(&mut self, to: State<B>) -> State<B> {
        debug_assert!(
            is_legal(self.state.phase(), to.phase()),
            "{:?} to {:?}",
            self.state.phase(),
            to.phase()
        );
        std::mem::replace(&mut self.state, to)
    }

    /// The data that is being sent.
    #[inline]
    pub(crate) fn data_out(&self) -> Option<&B> {
        match &self.state {
            State::Sending { buffer } => Some(buffer),
            _ => None,
        }
    }

    pub(crate) fn data_out_mut(&mut self) -> Option<&mut B> {
        match &mut self.state {
            State::Sending { buffer } => Some(buffer),
            _ => None,
        }
    }
}

const _: () = assert!(size_of::<Slot<()>>() <= 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_moves_only_as_its_table_says() {
        use Phase::{Capsule, Executing, Parked, Ready, Rejected, Sending, Transfer};
        let phases = [Capsule, Parked, Transfer, Rejected, Ready, Executing, Sending];
        let table: Vec<String> = phases
            .iter()
            .map(|from| phases.iter().map(|to| if is_legal(*from, *to) { 'x' } else { '.' }).collect())
            .collect();
        assert_eq!(table, ["...xx..", "..x....", "...xx..", ".......", "...x.x.", "......x", "......."]);
    }
}
