//! A target of one RAM namespace, enough to be connected to and to be read and written.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use fabrics::{CommandId, Completion, Execution, Now};
use nvme::fabrics::{ConnectCommand, ConnectResult, fctype, fctype_of};
use nvme::nvm::ReadWrite;
use nvme::{ControllerId, Sqe, Status, opcode};
use reactors::{DmaPool, IoBuf};
use transport::{CloseReason, ConnId, Effect, Peer, TargetService, TransportId};

/// Bytes of a logical block.
pub(crate) const BLOCK: usize = 512;

/// What the service keeps of a connection.
#[derive(Default)]
pub(crate) struct Queue {
    /// Asynchronous Event Requests that wait.
    pub(crate) event_waiters: usize,
}

/// What happened to it, seen from outside.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) opened: Cell<u64>,
    pub(crate) closed: Cell<u64>,
    pub(crate) last_reason: Cell<Option<CloseReason>>,
    pub(crate) executed: Cell<u64>,
    /// Commands are held back while this is set.
    pub(crate) hold: Cell<bool>,
    pub(crate) held: Cell<usize>,
}

/// How commands are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In `execute`.
    Inline,
    /// In the next `poll`.
    Deferred,
    /// In `execute`, without looking at memory: reads give whatever a buffer holds.
    Null,
}

enum Work {
    Done(Completion<IoBuf>),
    Read { start: usize, len: usize },
}

struct Held {
    conn: ConnId,
    id: CommandId,
    work: Work,
}

pub(crate) struct RamService {
    pool: DmaPool,
    memory: Vec<u8>,
    mode: Mode,
    held: VecDeque<Held>,
    open: HashMap<ConnId, ()>,
    pub(crate) seen: Rc<Seen>,
}

impl RamService {
    pub(crate) fn new(pool: DmaPool, bytes: usize, mode: Mode) -> Self {
        let seen = Rc::new(Seen::default());
        Self { pool, memory: vec![0; bytes], mode, held: VecDeque::new(), open: HashMap::new(), seen }
    }

    fn fabrics(&self, sqe: &Sqe) -> Completion<IoBuf> {
        match fctype_of(sqe) {
            fctype::CONNECT => {
                assert!(ConnectCommand::of(sqe).queue_entries().is_some());
                let result = ConnectResult { cntlid: ControllerId(1), ..ConnectResult::default() };
                Completion::result(result.to_result())
            }
            _ => Completion::status(Status::INVALID_OPCODE),
        }
    }

    fn io(&mut self, sqe: &Sqe, data: Option<IoBuf>) -> Work {
        let range = ReadWrite::from(sqe);
        let start = usize::try_from(range.slba.0).unwrap() * BLOCK;
        let len = range.nlb as usize * BLOCK;
        if self.mode != Mode::Null && start + len > self.memory.len() {
            return Work::Done(Completion::status(Status::LBA_OUT_OF_RANGE));
        }
        match sqe.opcode {
            opcode::io::READ => Work::Read { start, len },
            opcode::io::WRITE => {
                let data = data.expect("a write has data");
                assert_eq!(data.len(), len);
                if self.mode != Mode::Null {
                    data.copy_out(0, &mut self.memory[start..start + len]);
                }
                Work::Done(Completion::status(Status::SUCCESS))
            }
            _ => Work::Done(Completion::status(Status::INVALID_OPCODE)),
        }
    }

    fn read(&self, start: usize, len: usize) -> Option<Completion<IoBuf>> {
        let mut data = self.pool.alloc_io(len)?;
        if self.mode != Mode::Null {
            data.copy_in(0, &self.memory[start..start + len]);
        }
        Some(Completion::data(data))
    }

    fn finish(&self, work: Work) -> Result<Completion<IoBuf>, Work> {
        match work {
            Work::Done(done) => Ok(done),
            Work::Read { start, len } => self.read(start, len).ok_or(Work::Read { start, len }),
        }
    }
}

impl TargetService for RamService {
    type Queue = Queue;

    fn open(&mut self, conn: ConnId, _peer: &Peer) -> Queue {
        self.seen.opened.set(self.seen.opened.get() + 1);
        assert!(self.open.insert(conn, ()).is_none());
        Queue::default()
    }

    fn execute(
        &mut self,
        conn: ConnId,
        queue: &mut Queue,
        id: CommandId,
        sqe: &Sqe,
        data: Option<IoBuf>,
        _now: Now,
    ) -> Execution<IoBuf> {
        debug_assert!(self.open.contains_key(&conn));
        self.seen.executed.set(self.seen.executed.get() + 1);
        if sqe.opcode == opcode::FABRICS {
            return Execution::Done(self.fabrics(sqe));
        }
        if sqe.opcode == opcode::admin::ASYNC_EVENT_REQUEST {
            queue.event_waiters += 1;
            return Execution::Pending;
        }
        let work = self.io(sqe, data);
        let work = if self.mode == Mode::Deferred { Err(work) } else { self.finish(work) };
        match work {
            Ok(done) => Execution::Done(done),
            Err(work) => {
                self.held.push_back(Held { conn, id, work });
                self.seen.held.set(self.held.len());
                Execution::Pending
            }
        }
    }

    fn allocate(&mut self, len: usize) -> Option<IoBuf> {
        self.pool.alloc_io(len)
    }

    fn poll(&mut self, _transport: TransportId, _now: Now, out: &mut dyn FnMut(Effect)) {
        while !self.seen.hold.get()
            && let Some(Held { conn, id, work }) = self.held.pop_front()
        {
            if !self.open.contains_key(&conn) {
                continue;
            }
            match self.finish(work) {
                Ok(done) => out(Effect::Complete(conn, id, done)),
                Err(work) => {
                    self.held.push_front(Held { conn, id, work });
                    break;
                }
            }
        }
        self.seen.held.set(self.held.len());
    }

    fn event_waiters(&self, queue: &Queue) -> usize {
        queue.event_waiters
    }

    fn closed(&mut self, conn: ConnId, _queue: Queue, reason: CloseReason) {
        assert!(self.open.remove(&conn).is_some(), "{conn} was closed twice");
        self.seen.closed.set(self.seen.closed.get() + 1);
        self.seen.last_reason.set(Some(reason));
    }

    fn tick(&mut self, _now: Now) {}

    fn next_deadline(&self) -> Option<Now> {
        None
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn before_sleep(&mut self) -> bool {
        true
    }
}
