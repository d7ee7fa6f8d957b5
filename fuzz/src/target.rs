//! The target's machine against an arbitrary host.

use arrayvec::ArrayVec;
use fabrics::tcp::target::{CommandHandler, Progress, TargetConn, TargetParams};
use fabrics::{CommandId, Completion, Execution, Now};
use nvme::{Direction, Sqe, Status};

use crate::Pieces;

/// Largest I/O, so that one input cannot ask for much memory.
const MAX_IO_SIZE: u32 = 64 << 10;
/// Buffers handed out at a time: few, so that running out of them is exercised too.
const BUFFERS: usize = 4;

/// Answers commands at once or later, as their identifier says.
struct Handler {
    pending: Vec<(CommandId, Sqe)>,
    buffers: usize,
}

impl Handler {
    /// What the command gets when it is answered. The length is the host's: the machine must have checked it.
    fn completion(sqe: &Sqe) -> Completion<Vec<u8>> {
        let reads = sqe.direction() == Direction::ControllerToHost;
        let data = reads.then(|| vec![0x5a; 4096]);
        Completion { status: Status::SUCCESS, result: 0, data }
    }
}

impl CommandHandler for Handler {
    type Buffer = Vec<u8>;

    fn allocate(&mut self, len: usize) -> Option<Vec<u8>> {
        assert!(len <= MAX_IO_SIZE as usize, "{len} bytes were never agreed on");
        self.buffers = self.buffers.checked_sub(1)?;
        Some(vec![0; len])
    }

    fn execute(&mut self, id: CommandId, sqe: &Sqe, data: Option<Vec<u8>>) -> Execution<Vec<u8>> {
        self.buffers += usize::from(data.is_some());
        if sqe.cid.get().is_multiple_of(2) {
            return Execution::Done(Self::completion(sqe));
        }
        self.pending.push((id, *sqe));
        Execution::Pending
    }
}

/// Feeds the input to a target connection: byte 0 chooses its parameters, the rest is what the host sends, in pieces.
pub fn tcp_target(input: &[u8]) {
    let Some((&choices, stream)) = input.split_first() else { return };
    let params = TargetParams {
        max_io_size: MAX_IO_SIZE,
        max_slots: 8,
        header_digest: choices & 1 != 0,
        data_digest: choices & 2 != 0,
        max_r2t: 1 + (choices >> 2 & 3),
        r2t_length: 4096 << (choices >> 4 & 3),
        ..TargetParams::default()
    };
    let mut conn = TargetConn::new(params, Now(0));
    let mut handler = Handler { pending: Vec::new(), buffers: BUFFERS };
    for (turn, piece) in (1..).zip(Pieces::new(stream)) {
        if !feed(&mut conn, &mut handler, piece, Now(turn * 1_000_000)) {
            break;
        }
    }
    finish(&mut conn, &mut handler);
}

/// Whether the connection goes on.
fn feed(conn: &mut TargetConn<Vec<u8>>, handler: &mut Handler, mut bytes: &[u8], now: Now) -> bool {
    loop {
        match conn.on_bytes(bytes, now, handler) {
            Progress::Consumed => return true,
            Progress::Closing => return false,
            Progress::Blocked { consumed } => bytes = &bytes[consumed..],
        }
        // What a driver does to unblock it: answer, send. When that frees nothing, the peer has to wait.
        handler.buffers = handler.buffers.max(1);
        let moved = answer_all(conn, handler) + send_all(conn);
        if moved == 0 {
            return false;
        }
    }
}

fn answer_all(conn: &mut TargetConn<Vec<u8>>, handler: &mut Handler) -> usize {
    let pending = std::mem::take(&mut handler.pending);
    let count = pending.len();
    for (id, sqe) in pending {
        conn.complete(id, Handler::completion(&sqe));
    }
    count
}

fn send_all(conn: &mut TargetConn<Vec<u8>>) -> usize {
    let mut sent = 0;
    loop {
        let mut parts = ArrayVec::new();
        conn.gather(&mut parts);
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        drop(parts);
        if bytes == 0 {
            return sent;
        }
        conn.on_sent(bytes);
        sent += bytes;
    }
}

fn finish(conn: &mut TargetConn<Vec<u8>>, handler: &mut Handler) {
    answer_all(conn, handler);
    send_all(conn);
    assert_eq!(conn.tx_pending(), 0);
    conn.on_tick(Now(u64::MAX / 2));
    send_all(conn);
}
