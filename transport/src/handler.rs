//! Lends a reactor's service to a protocol machine for the length of one call.

use fabrics::{CommandHandler, CommandId, Execution, Now};
use nvme::Sqe;
use reactors::IoBuf;

use crate::buffer::execution;
use crate::{ConnId, Data, TargetService};

/// The service, for one connection and one point in time.
pub(crate) struct Handler<'a, S: TargetService> {
    pub(crate) service: &'a mut S,
    pub(crate) queue: &'a mut S::Queue,
    pub(crate) conn: ConnId,
    pub(crate) now: Now,
    /// Commands the service holds.
    pub(crate) pending: &'a mut usize,
    /// Commands ever given to the service.
    pub(crate) commands: &'a mut u64,
}

impl<S: TargetService> CommandHandler for Handler<'_, S> {
    type Buffer = Data;

    #[inline]
    fn allocate(&mut self, len: usize) -> Option<Data> {
        self.service.allocate(len).map(Data)
    }

    #[inline]
    fn expect(&mut self, sqe: &Sqe) {
        self.service.expect(self.queue, sqe);
    }

    #[inline]
    fn execute(&mut self, id: CommandId, sqe: &Sqe, data: Option<Data>) -> Execution<Data> {
        *self.commands += 1;
        let data = data.map(IoBuf::from);
        let outcome = self.service.execute(self.conn, self.queue, id, sqe, data, self.now);
        *self.pending += usize::from(matches!(outcome, Execution::Pending));
        execution(outcome)
    }
}
