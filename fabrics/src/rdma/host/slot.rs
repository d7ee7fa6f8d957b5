//! One command on its way through a host connection.

use nvme::Cqe;

use crate::Now;
use crate::host::HostData;

/// A command that was given to the link and has not completed to its owner.
#[derive(Debug)]
pub(super) struct Slot<B> {
    pub(super) tag: u64,
    pub(super) deadline: Now,
    pub(super) cid: u16,
    /// The link is done with the capsule.
    pub(super) sent: bool,
    /// The owner was told that the command takes too long.
    pub(super) timed_out: bool,
    pub(super) data: HostData<B>,
    pub(super) state: State,
}

/// How far a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No answer yet.
    Outstanding,
    /// Answered before its capsule was known to be sent: completes to its owner when it is.
    Answered(Cqe),
}

impl<B> Slot<B> {
    pub(super) const fn new(tag: u64, deadline: Now) -> Self {
        Self {
            tag,
            deadline,
            cid: 0,
            sent: false,
            timed_out: false,
            data: HostData::None,
            state: State::Outstanding,
        }
    }

    pub(super) fn advance(&mut self, to: State) {
        debug_assert_eq!(self.state, State::Outstanding, "answered twice");
        self.state = to;
    }
}
