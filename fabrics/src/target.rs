//! What the target's side of a connection is over any transport: who runs its commands, the shape of its queue, the rules
//! that every answer obeys.

use nvme::fabrics::{ConnectCommand, fctype, fctype_of};
use nvme::{Cqe, Sqe, Status, opcode};

use crate::{CommandId, Completion, Execution, IoBuffer};

/// Runs the commands of a connection.
pub trait CommandHandler {
    /// Where the data of commands lies.
    type Buffer: IoBuffer;

    /// A buffer of exactly `len` bytes for the incoming data of a command. `None` when there is none now: the
    /// connection takes no more commands until it is asked to go on.
    fn allocate(&mut self, len: usize) -> Option<Self::Buffer>;

    /// This command is about to come, or its data: some commands are told of while others are carried out. A hint, before [`Self::execute`]: what will be needed can be brought near.
    #[inline]
    fn expect(&mut self, _sqe: &Sqe) {}

    /// Runs a command. `data` is its host-to-controller data, complete; `None` when it has none.
    /// The two halves of a fused operation come one directly after the other.
    fn execute(&mut self, id: CommandId, sqe: &Sqe, data: Option<Self::Buffer>) -> Execution<Self::Buffer>;
}

/// Depth, flow control and head of the submission queue that Connect made of a connection (base 2.1 §3.3.1, §6.3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubmissionQueue {
    depth: u16,
    head: u16,
    flow_control: bool,
}

impl SubmissionQueue {
    /// The queue before Connect.
    pub(crate) const fn new(depth: u16) -> Self {
        Self { depth, head: 0, flow_control: true }
    }

    /// What Connect asked for.
    pub(crate) fn reshape(&mut self, depth: u16, flow_control: bool) {
        self.depth = depth.max(1);
        self.head %= self.depth;
        self.flow_control = flow_control;
    }

    /// A command was taken from the queue.
    #[inline]
    pub(crate) fn advance(&mut self) {
        self.head = if self.head + 1 >= self.depth { 0 } else { self.head + 1 };
    }

    #[inline]
    pub(crate) const fn flow_control(&self) -> bool {
        self.flow_control
    }

    /// SQHD of an answer. Without submission queue flow control it is FFFFh in that to Connect, reserved else.
    #[inline]
    pub(crate) const fn sqhd(&self, is_connect: bool) -> u16 {
        match (self.flow_control, is_connect) {
            (true, _) => self.head,
            (false, true) => nvme::fabrics::SQHD_DISABLED,
            (false, false) => 0,
        }
    }
}

/// Entries and flow control that a Connect asks for; `None` when this is no Connect.
#[cold]
pub(crate) fn connect_shape(sqe: &Sqe) -> Option<(u16, bool)> {
    if sqe.opcode != opcode::FABRICS || fctype_of(sqe) != fctype::CONNECT {
        return None;
    }
    let connect = ConnectCommand::of(sqe);
    Some((connect.sqsize.get().saturating_add(1), !connect.disables_sq_flow_control()))
}

/// A completion as it may be sent to a host that has room for `length` bytes: only a success carries data, and data that does
/// not fit makes it none.
#[inline]
pub(crate) fn bounded<B: IoBuffer>(completion: Completion<B>, length: u32) -> Completion<B> {
    let Completion { status, result, data } = completion;
    let data = data.filter(|data| status.is_success() && !data.is_empty());
    match data {
        Some(data) if data.len() > length as usize => Completion { status: bad_length(), result, data: None },
        data => Completion { status, result, data },
    }
}

/// The completion queue entry of an answer.
#[inline]
pub(crate) fn cqe_of(cid: u16, status: Status, result: u64, sqhd: u16) -> Cqe {
    Cqe::new(cid, status).with_result(result).with_sqhd(sqhd)
}

/// The SGL length does not fit the command's data.
pub(crate) fn bad_length() -> Status {
    Status::DATA_SGL_LENGTH_INVALID.dnr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_wraps_at_the_depth_and_is_hidden_without_flow_control() {
        let mut queue = SubmissionQueue::new(2);
        queue.advance();
        assert_eq!(queue.sqhd(false), 1);
        queue.advance();
        assert_eq!(queue.sqhd(false), 0);
        queue.reshape(32, false);
        assert_eq!((queue.sqhd(true), queue.sqhd(false)), (0xFFFF, 0));
    }

    #[test]
    fn data_goes_only_with_success_and_only_when_it_fits() {
        let good = bounded(Completion::data(vec![1, 2]), 2);
        assert_eq!(good.data, Some(vec![1, 2]));
        let long = bounded(Completion::data(vec![1, 2, 3]), 2);
        assert_eq!((long.status, long.data), (bad_length(), None));
        let failed = Completion { status: Status::INVALID_FIELD, ..Completion::data(vec![1]) };
        assert_eq!(bounded(failed, 2).data, None);
    }
}
