//! A host and a target machine joined by two byte pipes that cut and delay as a seed says, over a disk in memory.

use std::collections::BTreeMap;

use arrayvec::ArrayVec;
use nvme::fabrics::{cattr, fctype};
use nvme::{Cqe, Sqe, Status, opcode};

use crate::tcp::host::{HostConn, HostData, HostParams, HostProgress, HostSink};
use crate::tcp::target::{CommandHandler, Progress, TargetConn, TargetParams};
use crate::{CommandId, Completion, Execution, Now};

/// Opcode of Write; `cdw10` is a byte offset here.
pub(super) const WRITE: u8 = 0x01;
/// Opcode of Read; `cdw10` is a byte offset, `cdw12` a byte length here.
pub(super) const READ: u8 = 0x02;
/// Opcode of Flush.
pub(super) const FLUSH: u8 = 0x00;

/// Numbers that look random and follow from a seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// A disk in memory that answers at once or later, in any order, and is short of buffers as its dice say.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) executed: Vec<(Sqe, Option<Vec<u8>>)>,
    pub(super) pending: Vec<(CommandId, Completion<Vec<u8>>)>,
    pub(super) dice: Option<Dice>,
    /// Answers nothing by itself.
    pub(super) keeps: bool,
}

impl Disk {
    pub(super) fn new(len: usize, dice: Option<Dice>) -> Self {
        Self { bytes: vec![0; len], executed: vec![], pending: vec![], dice, keeps: false }
    }

    fn run(&mut self, sqe: &Sqe, data: Option<Vec<u8>>) -> Completion<Vec<u8>> {
        let offset = usize::try_from(sqe.cdw10.get()).unwrap();
        match sqe.opcode {
            READ => {
                let end = offset + usize::try_from(sqe.cdw12.get()).unwrap();
                Completion::data(self.bytes[offset..end].to_vec())
            }
            WRITE => {
                let data = data.unwrap_or_default();
                self.bytes[offset..offset + data.len()].copy_from_slice(&data);
                Completion::status(Status::SUCCESS)
            }
            _ => Completion::status(Status::SUCCESS),
        }
    }
}

impl CommandHandler for Disk {
    type Buffer = Vec<u8>;

    fn allocate(&mut self, len: usize) -> Option<Vec<u8>> {
        let is_short = self.dice.as_mut().is_some_and(|dice| dice.below(4) == 0);
        (!is_short).then(|| vec![0xEE; len])
    }

    fn execute(&mut self, id: CommandId, sqe: &Sqe, data: Option<Vec<u8>>) -> Execution<Vec<u8>> {
        self.executed.push((*sqe, data.clone()));
        let completion = self.run(sqe, data);
        if self.keeps || self.dice.as_mut().is_some_and(|dice| dice.below(2) == 0) {
            self.pending.push((id, completion));
            return Execution::Pending;
        }
        Execution::Done(completion)
    }
}

/// How each command ended, by tag.
#[derive(Default, Debug)]
pub(super) struct Ends {
    pub(super) completed: BTreeMap<u64, (Status, u64, Option<Vec<u8>>)>,
    pub(super) failed: BTreeMap<u64, Option<Vec<u8>>>,
    pub(super) timed_out: Vec<(u64, u16)>,
}

impl HostSink<Vec<u8>> for Ends {
    fn completed(&mut self, tag: u64, cqe: Cqe, data: Option<Vec<u8>>) {
        assert!(!self.failed.contains_key(&tag));
        let earlier = self.completed.insert(tag, (cqe.status(), cqe.result.get(), data));
        assert!(earlier.is_none(), "command {tag} completed twice");
    }

    fn failed(&mut self, tag: u64, data: Option<Vec<u8>>) {
        assert!(!self.completed.contains_key(&tag));
        assert!(self.failed.insert(tag, data).is_none(), "command {tag} failed twice");
    }

    fn timed_out(&mut self, tag: u64, cid: u16) {
        self.timed_out.push((tag, cid));
    }
}

/// The first `len` bytes of what was gathered, or all there is.
fn first(parts: &[std::io::IoSlice<'_>], mut len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let taken = part.len().min(len);
        bytes.extend_from_slice(&part[..taken]);
        len -= taken;
    }
    bytes
}

/// Everything a machine has to send, in order.
pub(super) fn sent_by_target(conn: &TargetConn<Vec<u8>>) -> Vec<u8> {
    let mut parts = ArrayVec::new();
    conn.gather(&mut parts);
    first(&parts, usize::MAX)
}

/// Everything a machine has to send, in order.
pub(super) fn sent_by_host(conn: &HostConn<Vec<u8>>) -> Vec<u8> {
    let mut parts = ArrayVec::new();
    conn.gather(&mut parts);
    first(&parts, usize::MAX)
}

/// Host, target and what is between them.
pub(super) struct Pair {
    pub(super) host: HostConn<Vec<u8>>,
    pub(super) target: TargetConn<Vec<u8>>,
    pub(super) disk: Disk,
    pub(super) ends: Ends,
    pub(super) to_target: Vec<u8>,
    pub(super) to_host: Vec<u8>,
    /// Everything that ever went to the target, to be replayed.
    pub(super) host_stream: Vec<u8>,
    pub(super) target_stream: Vec<u8>,
    dice: Option<Dice>,
}

pub(super) const T0: Now = Now(1_000);

impl Pair {
    /// Without a seed nothing is cut, delayed or refused.
    pub(super) fn new(host: HostParams, target: TargetParams, disk: usize, seed: Option<u64>) -> Self {
        let dice = seed.map(Dice::new);
        Self {
            host: HostConn::new(host, T0),
            target: TargetConn::new(target, T0),
            disk: Disk::new(disk, dice.clone()),
            ends: Ends::default(),
            to_target: vec![],
            to_host: vec![],
            host_stream: vec![],
            target_stream: vec![],
            dice,
        }
    }

    fn some_of(&mut self, len: usize) -> usize {
        match &mut self.dice {
            None => len,
            Some(dice) => match dice.below(4) {
                0 => 0,
                1 => len.min(1 + dice.below(90)),
                2 => len.min(1 + dice.below(30_000)),
                _ => len,
            },
        }
    }

    /// One turn of both sides. `false` when nothing moved and nothing can.
    pub(super) fn turn(&mut self) -> bool {
        let before = self.progress();
        let len = self.some_of(self.host.tx_pending());
        let mut parts = ArrayVec::new();
        self.host.gather(&mut parts);
        let out = first(&parts, len);
        drop(parts);
        self.to_target.extend(&out);
        self.host_stream.extend(&out);
        self.host.on_sent(out.len(), &mut self.ends);

        let len = self.some_of(self.to_target.len());
        let used = match self.target.on_bytes(&self.to_target[..len], T0, &mut self.disk) {
            Progress::Consumed => len,
            Progress::Blocked { consumed } => consumed,
            Progress::Closing => self.to_target.len(),
        };
        self.to_target.drain(..used);
        while !self.disk.pending.is_empty() {
            let count = self.disk.pending.len();
            let Some(dice) = &mut self.dice else { break };
            if dice.below(3) == 0 {
                break;
            }
            let (id, completion) = self.disk.pending.swap_remove(dice.below(count));
            self.target.complete(id, completion);
        }
        let len = self.some_of(self.target.tx_pending());
        let mut parts = ArrayVec::new();
        self.target.gather(&mut parts);
        let out = first(&parts, len);
        drop(parts);
        self.to_host.extend(&out);
        self.target_stream.extend(&out);
        self.target.on_sent(out.len());

        let len = self.some_of(self.to_host.len());
        let chunk: Vec<u8> = self.to_host.drain(..len).collect();
        if self.receive(chunk) == HostProgress::Closing {
            self.to_host.clear();
        }
        self.dice.is_some() || self.progress() != before
    }

    /// Gives bytes to the host: as a stream, or, as its queue does, received into what it laid out.
    fn receive(&mut self, chunk: Vec<u8>) -> HostProgress {
        if self.dice.as_mut().is_some_and(|dice| dice.below(4) == 0) || chunk.is_empty() {
            return self.host.on_bytes(&chunk, T0, &mut self.ends);
        }
        let mut rest = &chunk[..];
        let mut staging = vec![0xDD; 4096];
        while !rest.is_empty() {
            let mut parts = ArrayVec::new();
            self.host.lay_out(&mut staging, &mut parts);
            let before = rest.len();
            for part in &mut parts {
                let (now, later) = rest.split_at(part.len().min(rest.len()));
                part[..now.len()].copy_from_slice(now);
                rest = later;
            }
            drop(parts);
            let came = before - rest.len();
            assert!(came > 0, "a layout without room");
            if self.host.on_received(&staging, came, T0, &mut self.ends) == HostProgress::Closing {
                return HostProgress::Closing;
            }
        }
        HostProgress::Consumed
    }

    fn progress(&self) -> (usize, usize, usize, usize) {
        (self.host_stream.len(), self.target_stream.len(), self.to_target.len(), self.to_host.len())
    }

    /// Turns until every command ended.
    pub(super) fn settle(&mut self) {
        for _ in 0..20_000 {
            if self.host.in_flight() == 0 && self.host.tx_pending() == 0 && self.host.state() == READY {
                return;
            }
            if !self.turn() || !self.host.state().is_open() {
                return;
            }
        }
        panic!("no end: host {:?}, target {:?}", self.host.stats(), self.target.stats());
    }

    /// Exchanges the handshake and a Connect for a queue of `depth` entries.
    pub(super) fn connect(&mut self, depth: u16, sq_flow_control: bool) {
        self.settle();
        assert_eq!(self.host.state(), READY);
        let data = HostData::ToController(vec![0x55; 1024]);
        self.host.submit(connect_command(depth, sq_flow_control), data, u64::MAX, T0).unwrap();
        self.settle();
        let (status, _, _) = self.ends.completed.remove(&u64::MAX).unwrap();
        assert_eq!(status, Status::SUCCESS);
        self.disk.executed.clear();
    }
}

pub(super) const READY: crate::tcp::ConnState = crate::tcp::ConnState::Ready;

pub(super) fn connect_command(depth: u16, sq_flow_control: bool) -> Sqe {
    let mut sqe = Sqe::new(opcode::FABRICS, 0);
    sqe.nsid = u32::from(fctype::CONNECT).into();
    // QID 1 in the high half of dword 10, SQSIZE and CATTR in dword 11.
    sqe.cdw10 = (1u32 << 16).into();
    let attributes = if sq_flow_control { 0 } else { cattr::DISABLE_SQ_FLOW_CONTROL };
    sqe.cdw11 = (u32::from(depth - 1) | u32::from(attributes) << 16).into();
    sqe
}

pub(super) fn write_command(offset: u32) -> Sqe {
    let mut sqe = Sqe::new(WRITE, 0);
    sqe.cdw10 = offset.into();
    sqe
}

pub(super) fn read_command(offset: u32, len: u32) -> Sqe {
    let mut sqe = Sqe::new(READ, 0);
    sqe.cdw10 = offset.into();
    sqe.cdw12 = len.into();
    sqe
}
