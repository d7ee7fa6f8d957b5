//! A host and a target machine of NVMe/TCP with buffers of a reactor's pool, and a handler that answers at once.
//!
//! Nothing here reads a clock or makes a system call, so its instruction counts repeat exactly.

use std::hint::black_box;
use std::io::IoSlice;

use arrayvec::ArrayVec;
use fabrics::tcp::TX_PARTS_MAX;
use fabrics::tcp::host::{HostConn, HostData, HostParams, HostProgress, HostSink};
use fabrics::tcp::target::{CommandHandler, Progress, TargetConn, TargetParams};
use fabrics::{CommandId, Completion, Execution, Now};
use nvme::nvm::ReadWrite;
use nvme::tcp::{CapsuleCmd, PduType};
use nvme::{Cqe, Lba, Nsid, SglDescriptor, Sqe, Status, opcode};
use reactors::DmaPool;
use transport::Data;

use crate::IO_BYTES;

/// The time at which everything happens.
pub const NOW: Now = Now(1_000);
/// Bytes of a logical block.
pub const BLOCK_BYTES: u32 = 4096;

/// Answers every command in `execute`: reads with a buffer of the pool as it is, everything else with success.
pub struct NullHandler {
    pool: DmaPool,
}

impl NullHandler {
    /// A handler with the buffers of `pool`.
    pub fn new(pool: DmaPool) -> Self {
        Self { pool }
    }
}

impl CommandHandler for NullHandler {
    type Buffer = Data;

    #[inline]
    fn allocate(&mut self, len: usize) -> Option<Data> {
        self.pool.alloc_io(len).map(Data)
    }

    #[inline]
    fn execute(&mut self, _id: CommandId, sqe: &Sqe, _data: Option<Data>) -> Execution<Data> {
        if sqe.opcode != opcode::io::READ {
            return Execution::Done(Completion::status(Status::SUCCESS));
        }
        let length = match sqe.sgl.decode() {
            Ok(SglDescriptor::Transport { length }) => length as usize,
            _ => 0,
        };
        Execution::Done(match self.allocate(length) {
            Some(data) => Completion::data(data),
            None => Completion::status(Status::INTERNAL_ERROR),
        })
    }
}

/// How many commands ended, and their buffers for the next ones.
#[derive(Default)]
pub struct Ended {
    /// Commands that ended well.
    pub completed: u64,
    /// Commands that ended otherwise.
    pub failed: u64,
    /// What the commands gave back.
    pub buffers: Vec<Data>,
}

impl HostSink<Data> for Ended {
    #[inline]
    fn completed(&mut self, _tag: u64, cqe: Cqe, data: Option<Data>) {
        self.completed += u64::from(cqe.status().is_success());
        self.failed += u64::from(!cqe.status().is_success());
        self.buffers.extend(data);
    }

    fn failed(&mut self, _tag: u64, data: Option<Data>) {
        self.failed += 1;
        self.buffers.extend(data);
    }

    fn timed_out(&mut self, _tag: u64, _cid: u16) {
        self.failed += 1;
    }
}

/// What one command of a load does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads one block.
    Read,
    /// Writes one block, its data in the capsule.
    Write,
    /// Moves nothing.
    Flush,
}

impl Kind {
    /// The command for `lba`; its identifier and data pointer are the host machine's to fill in.
    #[inline]
    pub fn command(self, lba: Lba) -> Sqe {
        match self {
            Self::Read => ReadWrite::read(Nsid(1), lba, 1).to_sqe(0),
            Self::Write => ReadWrite::write(Nsid(1), lba, 1).to_sqe(0),
            Self::Flush => {
                let mut sqe = Sqe::new(opcode::io::FLUSH, 0);
                sqe.nsid = Nsid(1).0.into();
                sqe
            }
        }
    }

    /// Whether the command has a buffer.
    #[inline]
    pub fn has_data(self) -> bool {
        self != Self::Flush
    }

    /// The buffer with its direction.
    #[inline]
    pub fn data(self, buffer: Option<Data>) -> HostData<Data> {
        match (self, buffer) {
            (Self::Read, Some(buffer)) => HostData::FromController(buffer),
            (Self::Write, Some(buffer)) => HostData::ToController(buffer),
            _ => HostData::None,
        }
    }
}

/// Both machines after their handshake, as a queue of `depth` commands without flow control.
pub struct Pair {
    /// The host's side.
    pub host: HostConn<Data>,
    /// The target's side.
    pub target: TargetConn<Data>,
    /// Runs what the target receives.
    pub handler: NullHandler,
    /// Hears what the host completes.
    pub ended: Ended,
    wire: Vec<u8>,
}

impl Pair {
    /// Joined machines; `digests` of header and data are both on or both off.
    ///
    /// # Panics
    /// When the machines do not agree with each other, or `pool` has not `depth` buffers for the host.
    pub fn new(pool: &DmaPool, depth: u16, digests: bool) -> Self {
        let params = HostParams {
            depth,
            header_digest: digests,
            data_digest: digests,
            in_capsule_data_size: 2 * BLOCK_BYTES,
            ..HostParams::default()
        };
        let buffers = (0..depth).map_while(|_| pool.alloc_io(BLOCK_BYTES as usize).map(Data)).collect();
        let mut pair = Self {
            host: HostConn::new(params, NOW),
            target: TargetConn::new(TargetParams::default(), NOW),
            handler: NullHandler::new(pool.clone()),
            ended: Ended { buffers, ..Ended::default() },
            wire: Vec::with_capacity(usize::from(depth) * 2 * BLOCK_BYTES as usize),
        };
        assert_eq!(pair.ended.buffers.len(), usize::from(depth));
        pair.to_target();
        pair.to_host();
        pair.target.set_queue(depth, false);
        pair
    }

    /// Submits one command per buffer at hand, or `count` without data.
    ///
    /// # Panics
    /// When the machine refuses one.
    #[inline]
    pub fn submit(&mut self, kind: Kind, count: u16) {
        for tag in 0..count {
            let buffer = if kind.has_data() { self.ended.buffers.pop() } else { None };
            let sqe = kind.command(Lba(u64::from(tag)));
            let submitted = self.host.submit(sqe, kind.data(buffer), u64::from(tag), NOW);
            assert!(submitted.is_ok());
        }
    }

    /// Everything the host has to send reaches the target.
    pub fn to_target(&mut self) {
        let mut parts = ArrayVec::new();
        self.host.gather(&mut parts);
        collect(&parts, &mut self.wire);
        drop(parts);
        self.host.on_sent(self.wire.len(), &mut self.ended);
        let progress = self.target.on_bytes(&self.wire, NOW, &mut self.handler);
        assert_eq!(progress, Progress::Consumed);
    }

    /// Everything the target has to send reaches the host.
    pub fn to_host(&mut self) {
        let mut parts = ArrayVec::new();
        self.target.gather(&mut parts);
        collect(&parts, &mut self.wire);
        drop(parts);
        self.target.on_sent(self.wire.len());
        let progress = self.host.on_bytes(&self.wire, NOW, &mut self.ended);
        assert_eq!(progress, HostProgress::Consumed);
    }

    /// One batch from submission to completion.
    #[inline]
    pub fn round(&mut self, kind: Kind, count: u16) {
        self.submit(kind, count);
        self.to_target();
        self.to_host();
    }
}

/// The bytes of `count` commands as a host sends them, and of their answers as a target does. Not of one connection: the
/// command identifiers are those of the first commands of a connection.
pub struct Recorded {
    /// Command capsules.
    pub commands: Vec<u8>,
    /// C2HData or response capsules.
    pub answers: Vec<u8>,
}

impl Recorded {
    /// Records a batch.
    pub fn new(pool: &DmaPool, kind: Kind, count: u16, digests: bool) -> Self {
        let mut pair = Pair::new(pool, count, digests);
        pair.submit(kind, count);
        pair.to_target();
        let commands = pair.wire.clone();
        pair.to_host();
        Self { commands, answers: pair.wire }
    }
}

/// Batches of one kind for the target machine alone: bytes of commands in, answers out to where `sendmsg` would take them.
pub struct TargetLoad {
    pair: Pair,
    commands: Vec<u8>,
}

impl TargetLoad {
    /// `count` commands in a batch.
    pub fn new(pool: &DmaPool, kind: Kind, count: u16, digests: bool) -> Self {
        let commands = Recorded::new(pool, kind, count, digests).commands;
        Self { pair: Pair::new(pool, count, digests), commands }
    }

    /// One batch.
    ///
    /// # Panics
    /// When the machine closes the connection.
    #[inline]
    pub fn round(&mut self) {
        self.round_in_pieces(self.commands.len());
    }

    /// One batch, received so many bytes at a time.
    ///
    /// # Panics
    /// When the machine closes the connection, or `bytes` is 0.
    #[inline]
    pub fn round_in_pieces(&mut self, bytes: usize) {
        let pair = &mut self.pair;
        for piece in black_box(&self.commands).chunks(bytes) {
            let progress = pair.target.on_bytes(piece, NOW, &mut pair.handler);
            assert_eq!(progress, Progress::Consumed);
        }
        let mut parts = ArrayVec::new();
        pair.target.gather(&mut parts);
        let bytes = black_box(&parts).iter().map(|part| part.len()).sum();
        drop(parts);
        pair.target.on_sent(bytes);
    }
}

/// Batches of one kind for the host machine alone: commands in, capsules out to where `sendmsg` would take them, recorded
/// answers in, completions out. Answers get the identifiers of the commands they are for, which counts: two bytes each.
pub struct HostLoad {
    pair: Pair,
    kind: Kind,
    count: u16,
    answers: Vec<u8>,
}

impl HostLoad {
    /// `count` commands in a batch, without digests: those of recorded answers would not fit their new identifiers.
    pub fn new(pool: &DmaPool, kind: Kind, count: u16) -> Self {
        let answers = Recorded::new(pool, kind, count, false).answers;
        Self { pair: Pair::new(pool, count, false), kind, count, answers }
    }

    /// One batch.
    ///
    /// # Panics
    /// When the machine closes the connection.
    #[inline]
    pub fn round(&mut self) {
        let pair = &mut self.pair;
        pair.submit(self.kind, self.count);
        let mut parts = ArrayVec::new();
        pair.host.gather(&mut parts);
        let bytes = black_box(&parts).iter().map(|part| part.len()).sum();
        let headers = parts.iter().filter(|part| part.len() != IO_BYTES);
        address(&mut self.answers, headers.flat_map(|part| part.chunks_exact(CapsuleCmd::SIZE)));
        drop(parts);
        pair.host.on_sent(bytes, &mut pair.ended);
        let progress = pair.host.on_bytes(&self.answers, NOW, &mut pair.ended);
        assert_eq!(progress, HostProgress::Consumed);
    }

    /// Commands that did not end well.
    pub fn failed(&self) -> u64 {
        self.pair.ended.failed
    }
}

/// Makes `answers` the answers to these commands, in order.
fn address<'a>(answers: &mut [u8], commands: impl Iterator<Item = &'a [u8]>) {
    let mut rest = answers;
    for command in commands {
        let cid = if rest[0] == PduType::C2H_DATA.0 { 8 } else { 20 };
        rest[cid..cid + 2].copy_from_slice(&command[10..12]);
        let plen = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        rest = &mut rest[plen..];
    }
}

fn collect(parts: &ArrayVec<IoSlice<'_>, TX_PARTS_MAX>, wire: &mut Vec<u8>) {
    wire.clear();
    for part in parts {
        wire.extend_from_slice(part);
    }
}
