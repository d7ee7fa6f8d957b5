//! A target of one RAM namespace, enough to be connected to and to be read and written.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use fabrics::{CommandId, Completion, Execution, Now};
use nvme::admin::GetLogPage;
use nvme::discovery::{DiscoveryEntry, DiscoveryHeader};
use nvme::fabrics::{ConnectCommand, ConnectResult, PropertyGet, PropertySet, fctype, fctype_of};
use nvme::identify::IdentifyController;
use nvme::nvm::ReadWrite;
use nvme::properties::{Cap, Csts, Vs, offset};
use nvme::{ControllerId, Sqe, Status, opcode};
use reactors::{DmaPool, IoBuf};
use transport::{CloseReason, ConnId, Effect, Peer, TargetService, TransportId};
use zerocopy::IntoBytes;

/// Bytes of a logical block.
pub(crate) const BLOCK: usize = 512;

/// What the service keeps of a connection.
#[derive(Default)]
pub(crate) struct Queue {
    /// Asynchronous Event Requests that wait.
    pub(crate) event_waiters: usize,
    is_admin: bool,
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
    pub(crate) keep_alives: Cell<u64>,
    pub(crate) aborts: Cell<u64>,
    /// Ends every connection in the next poll.
    pub(crate) close_all: Cell<bool>,
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
    Write { start: usize, data: IoBuf },
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
    enabled: bool,
    held: VecDeque<Held>,
    open: HashMap<ConnId, ()>,
    pub(crate) seen: Rc<Seen>,
}

impl RamService {
    pub(crate) fn new(pool: DmaPool, bytes: usize, mode: Mode) -> Self {
        let seen = Rc::new(Seen::default());
        Self {
            pool,
            memory: vec![0; bytes],
            mode,
            enabled: false,
            held: VecDeque::new(),
            open: HashMap::new(),
            seen,
        }
    }

    fn fabrics(&mut self, sqe: &Sqe) -> Completion<IoBuf> {
        match fctype_of(sqe) {
            fctype::CONNECT => {
                assert!(ConnectCommand::of(sqe).queue_entries().is_some());
                let result = ConnectResult { cntlid: ControllerId(1), ..ConnectResult::default() };
                Completion::result(result.to_result())
            }
            fctype::PROPERTY_GET => match PropertyGet::of(sqe).offset.get() {
                offset::CAP => Completion::result(Cap(0).with_mqes(127).with_to(2).0),
                offset::VS => Completion::result(Vs::V2_1.0.into()),
                _ => Completion::result(Csts(0).with_rdy(self.enabled).0.into()),
            },
            fctype::PROPERTY_SET => {
                self.enabled = PropertySet::of(sqe).value.get() & 1 == 1;
                Completion::status(Status::SUCCESS)
            }
            _ => Completion::status(Status::INVALID_OPCODE),
        }
    }

    /// Admin commands whose opcodes no I/O command of these tests has.
    fn admin(&self, sqe: &Sqe) -> Option<Completion<IoBuf>> {
        Some(match sqe.opcode {
            opcode::admin::IDENTIFY => self.data(
                IdentifyController {
                    aerl: 3,
                    acl: 3,
                    oaes: u32::MAX.into(),
                    ioccsz: ((64 + 8192) / 16).into(),
                    ..IdentifyController::default()
                }
                .as_bytes(),
            ),
            opcode::admin::SET_FEATURES => Completion::result(0x0003_0003),
            opcode::admin::KEEP_ALIVE => {
                self.seen.keep_alives.set(self.seen.keep_alives.get() + 1);
                Completion::status(Status::SUCCESS)
            }
            opcode::admin::ABORT => {
                self.seen.aborts.set(self.seen.aborts.get() + 1);
                Completion::result(1)
            }
            _ => return None,
        })
    }

    /// A discovery log of as many entries as fit its generation, as far as it is asked for.
    fn discovery_log(&self, sqe: &Sqe) -> Completion<IoBuf> {
        let command = GetLogPage::from(sqe);
        let records = 40_u16;
        let header = DiscoveryHeader {
            genctr: 7.into(),
            numrec: u64::from(records).into(),
            ..DiscoveryHeader::default()
        };
        let mut log = header.as_bytes().to_vec();
        for portid in 0..records {
            log.extend(DiscoveryEntry { portid: portid.into(), ..DiscoveryEntry::default() }.as_bytes());
        }
        let start = usize::try_from(command.lpo).unwrap();
        let len = usize::try_from(command.data_bytes()).unwrap();
        self.data(&log[start..start + len])
    }

    fn data(&self, bytes: &[u8]) -> Completion<IoBuf> {
        let mut data = self.pool.alloc_io(bytes.len()).unwrap();
        data.copy_in(0, bytes);
        Completion::data(data)
    }

    fn io(&self, sqe: &Sqe, data: Option<IoBuf>) -> Work {
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
                Work::Write { start, data }
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

    fn write(&mut self, start: usize, data: &IoBuf) -> Completion<IoBuf> {
        if self.mode != Mode::Null {
            data.copy_out(0, &mut self.memory[start..start + data.len()]);
        }
        Completion::status(Status::SUCCESS)
    }

    fn finish(&mut self, work: Work) -> Result<Completion<IoBuf>, Work> {
        match work {
            Work::Done(done) => Ok(done),
            Work::Read { start, len } => self.read(start, len).ok_or(Work::Read { start, len }),
            Work::Write { start, data } => Ok(self.write(start, &data)),
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
            let connect = (fctype_of(sqe) == fctype::CONNECT).then(|| ConnectCommand::of(sqe).qid());
            queue.is_admin = connect.map_or(queue.is_admin, |id| id.is_admin());
            return Execution::Done(self.fabrics(sqe));
        }
        if queue.is_admin && sqe.opcode == opcode::admin::GET_LOG_PAGE {
            return Execution::Done(self.discovery_log(sqe));
        }
        if queue.is_admin
            && let Some(done) = self.admin(sqe)
        {
            return Execution::Done(done);
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
        if self.seen.close_all.take() {
            self.open.keys().for_each(|conn| out(Effect::Close(*conn, CloseReason::Service)));
        }
        // A read that waits for a buffer must not hold up the writes behind it, which have the buffers.
        let round = if self.seen.hold.get() { 0 } else { self.held.len() };
        for _ in 0..round {
            let Some(Held { conn, id, work }) = self.held.pop_front() else { break };
            if !self.open.contains_key(&conn) {
                continue;
            }
            match self.finish(work) {
                Ok(done) => out(Effect::Complete(conn, id, done)),
                Err(work) => self.held.push_back(Held { conn, id, work }),
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
