//! From received bytes to executed commands.

use fabrics::Now;
use fabrics::tcp::target::Progress;

use super::connection::{Connection, Phase};
use crate::handler::Handler;
use crate::{ConnId, TargetService};

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
    let (pending, commands) = (&mut connection.pending, &mut connection.traffic.commands);
    let mut handler = Handler { service, queue, conn, now, pending, commands };
    match connection.machine.on_bytes(bytes, now, &mut handler) {
        Progress::Consumed => Fed::All,
        Progress::Blocked { consumed } => Fed::Part(consumed),
        Progress::Closing => Fed::Closing,
    }
}
