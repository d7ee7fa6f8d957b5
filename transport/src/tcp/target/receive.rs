//! From received bytes to executed commands.

use fabrics::tcp::target::{CommandHandler, Progress};
use fabrics::{CommandId, Execution, Now};
use nvme::Sqe;
use reactors::IoBuf;

use super::connection::{Connection, Phase};
use super::stats::TrafficStats;
use crate::buffer::execution;
use crate::{ConnId, Data, TargetService};

/// What became of bytes that were given to a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fed {
    /// All consumed.
    All,
    /// So many consumed; the machine takes no more now.
    Part(usize),
    /// The connection ends: a protocol error, or it was ended before.
    Closing,
}

/// Gives `bytes` to the connection's machine, which executes commands on the service.
pub(super) fn feed<S: TargetService>(
    connection: &mut Connection<S::Queue>,
    service: &mut S,
    conn: ConnId,
    bytes: &[u8],
    now: Now,
) -> Fed {
    let Phase::Open { queue, .. } = &mut connection.phase else { return Fed::Closing };
    let (pending, traffic) = (&mut connection.pending, &mut connection.traffic);
    let mut handler = Handler { service, queue, conn, now, pending, traffic };
    match connection.machine.on_bytes(bytes, now, &mut handler) {
        Progress::Consumed => Fed::All,
        Progress::Blocked { consumed } => Fed::Part(consumed),
        Progress::Closing => Fed::Closing,
    }
}

/// Lends the service to a machine for the length of one call.
struct Handler<'a, S: TargetService> {
    service: &'a mut S,
    queue: &'a mut S::Queue,
    conn: ConnId,
    now: Now,
    pending: &'a mut usize,
    traffic: &'a mut TrafficStats,
}

impl<S: TargetService> CommandHandler for Handler<'_, S> {
    type Buffer = Data;

    #[inline]
    fn allocate(&mut self, len: usize) -> Option<Data> {
        self.service.allocate(len).map(Data)
    }

    #[inline]
    fn execute(&mut self, id: CommandId, sqe: &Sqe, data: Option<Data>) -> Execution<Data> {
        self.traffic.commands += 1;
        let data = data.map(IoBuf::from);
        let outcome = self.service.execute(self.conn, self.queue, id, sqe, data, self.now);
        *self.pending += usize::from(matches!(outcome, Execution::Pending));
        execution(outcome)
    }
}
