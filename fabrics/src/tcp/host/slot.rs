//! One command on its way through a host connection.

use nvme::{Cqe, Status};

use crate::Now;
use crate::host::HostData;

/// A command that was sent and has not completed to its owner.
#[derive(Debug)]
pub(crate) struct Slot<B> {
    pub(crate) tag: u64,
    pub(crate) deadline: Now,
    pub(crate) cid: u16,
    /// Pieces of data queued for sending and not sent.
    pub(crate) parts_unsent: u16,
    /// R2Ts not yet turned into H2CData.
    pub(crate) r2ts: u8,
    /// The guess, from 1, by which its data is laid out in the next receive; 0 is none.
    pub(crate) place: u8,
    /// A data digest was wrong.
    pub(crate) damaged: bool,
    /// The owner was told that the command takes too long.
    pub(crate) timed_out: bool,
    /// Bytes of data that have moved, or that the controller has asked for: in order from the start.
    pub(crate) moved: u32,
    /// Bytes of data in all.
    pub(crate) length: u32,
    pub(crate) data: HostData<B>,
    pub(crate) state: State,
}

/// How far a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// No answer yet.
    Outstanding,
    /// Answered while its data is still being sent: completes to its owner when that is done.
    Answered(Cqe),
}

/// Whether a command may go from one state to the other. It is freed from both.
#[rustfmt::skip]
pub(crate) const fn is_legal(from: State, to: State) -> bool {
    matches!((from, to),
        (State::Outstanding, State::Answered(_))
    )
}

impl<B> Slot<B> {
    #[inline]
    pub(crate) fn advance(&mut self, to: State) {
        debug_assert!(is_legal(self.state, to));
        self.state = to;
    }

    /// The data that is sent to the controller.
    #[inline]
    pub(crate) fn data_out(&self) -> Option<&B> {
        match &self.data {
            HostData::ToController(buffer) => Some(buffer),
            _ => None,
        }
    }

    /// The completion as the owner sees it: a success whose data is damaged or short is none.
    pub(crate) fn judge(&self, cqe: Cqe) -> Cqe {
        let status = match cqe.status() {
            _ if self.damaged => Status::TRANSIENT_TRANSPORT_ERROR,
            status if status.is_success() && self.moved != self.length => Status::DATA_TRANSFER_ERROR,
            _ => return cqe,
        };
        Cqe { status: status.to_cqe_field(false).into(), ..cqe }
    }
}

const _: () = assert!(size_of::<Slot<()>>() <= 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_answered_at_most_once() {
        let answered = State::Answered(Cqe::new(1, Status::SUCCESS));
        assert!(is_legal(State::Outstanding, answered));
        assert!(!is_legal(answered, State::Outstanding));
        assert!(!is_legal(answered, answered));
        assert!(!is_legal(State::Outstanding, State::Outstanding));
    }
}
