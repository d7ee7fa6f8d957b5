//! A host and a target machine joined by a link whose work ends in any order that RDMA allows.

use std::collections::{HashMap, VecDeque};

use nvme::zerocopy::{FromBytes, IntoBytes};
use nvme::{Cqe, Lba, Nsid, QueueId, SglDescriptor, Sqe, Status, nvm};
use proptest::prelude::*;

use super::host::{HostConn, HostParams, HostWire};
use super::target::{Received, TargetConn, TargetParams, Wire};
use super::{CloseReason, HostQueueSizes, Remote};
use crate::host::{HostData, HostSink, SubmitRefusal};
use crate::{CommandHandler, CommandId, Completion, Execution, Now};

const DEPTH: u16 = 4;
const IN_CAPSULE: u32 = 64;

/// Work a target gave to its link.
enum Work {
    Read(CommandId, Vec<u8>, Remote),
    Respond(CommandId, Option<(Vec<u8>, Remote)>, Cqe, Option<u32>),
}

#[derive(Default)]
struct TargetLink {
    work: VecDeque<Work>,
}

impl Wire<Vec<u8>> for TargetLink {
    fn read(&mut self, work: CommandId, buffer: Vec<u8>, remote: Remote) {
        self.work.push_back(Work::Read(work, buffer, remote));
    }

    fn respond(
        &mut self,
        work: CommandId,
        data: Option<(Vec<u8>, Remote)>,
        cqe: &Cqe,
        invalidate: Option<u32>,
    ) {
        self.work.push_back(Work::Respond(work, data, *cqe, invalidate));
    }
}

#[derive(Default)]
struct HostLink {
    /// Memory that the controller may reach, by key: slot + 1.
    memory: HashMap<u32, Vec<u8>>,
    capsules: VecDeque<(CommandId, Vec<u8>)>,
}

impl HostWire<Vec<u8>> for HostLink {
    fn expose(&mut self, slot: u16, data: &HostData<Vec<u8>>) -> Option<Remote> {
        let bytes = match data {
            HostData::ToController(bytes) => bytes.clone(),
            HostData::FromController(bytes) => vec![0; bytes.len()],
            HostData::None => Vec::new(),
        };
        let key = u32::from(slot) + 1;
        let length = u32::try_from(bytes.len()).ok()?;
        self.memory.insert(key, bytes);
        Some(Remote { address: 0x1000, length, key })
    }

    fn send(&mut self, work: CommandId, sqe: &Sqe, in_capsule: Option<&Vec<u8>>) {
        let mut capsule = sqe.as_bytes().to_vec();
        capsule.extend(in_capsule.into_iter().flatten());
        self.capsules.push_back((work, capsule));
    }

    fn collect(&mut self, slot: u16, buffer: &mut Vec<u8>) {
        if let Some(bytes) = self.memory.remove(&(u32::from(slot) + 1)) {
            *buffer = bytes;
        }
    }
}

/// A disk of bytes that answers some commands later, and has few buffers.
struct Disk {
    bytes: Vec<u8>,
    later: bool,
    buffers: usize,
    pending: VecDeque<(CommandId, Completion<Vec<u8>>)>,
    ran: Vec<u8>,
}

impl Disk {
    fn new(later: bool) -> Self {
        Self { bytes: vec![0; 4096], later, buffers: usize::MAX, pending: VecDeque::new(), ran: Vec::new() }
    }
}

impl CommandHandler for Disk {
    type Buffer = Vec<u8>;

    fn allocate(&mut self, len: usize) -> Option<Vec<u8>> {
        (self.buffers > 0).then(|| vec![0; len])
    }

    fn execute(&mut self, id: CommandId, sqe: &Sqe, data: Option<Vec<u8>>) -> Execution<Vec<u8>> {
        self.ran.push(sqe.opcode);
        let command = nvm::ReadWrite::from(sqe);
        let (at, len) = (usize::try_from(command.slba.0).unwrap(), command.nlb as usize);
        let done = match data {
            Some(data) => {
                self.bytes[at..at + data.len()].copy_from_slice(&data);
                Completion::status(Status::SUCCESS)
            }
            None => Completion::data(self.bytes[at..at + len].to_vec()),
        };
        if self.later {
            self.pending.push_back((id, done));
            return Execution::Pending;
        }
        Execution::Done(done)
    }
}

#[derive(Default)]
struct Owner {
    ended: Vec<(u64, Option<Status>, Option<Vec<u8>>)>,
    late: Vec<u64>,
}

impl HostSink<Vec<u8>> for Owner {
    fn completed(&mut self, tag: u64, cqe: Cqe, data: Option<Vec<u8>>) {
        self.ended.push((tag, Some(cqe.status()), data));
    }

    fn failed(&mut self, tag: u64, data: Option<Vec<u8>>) {
        self.ended.push((tag, None, data));
    }

    fn timed_out(&mut self, tag: u64, _cid: u16) {
        self.late.push(tag);
    }
}

struct Pair {
    host: HostConn<Vec<u8>>,
    target: TargetConn<Vec<u8>>,
    host_link: HostLink,
    target_link: TargetLink,
    disk: Disk,
    owner: Owner,
    /// Capsules that were delivered and not taken.
    arrived: VecDeque<Vec<u8>>,
}

impl Pair {
    fn new(responses: u16, disk: Disk) -> Self {
        let sizes = HostQueueSizes { qid: QueueId(1), commands: DEPTH, responses };
        let params =
            TargetParams { in_capsule_data_size: IN_CAPSULE, max_io_size: 256, ..Default::default() };
        let host = HostParams { depth: DEPTH - 1, in_capsule_data_size: IN_CAPSULE, command_timeout_ns: 100 };
        Self {
            host: HostConn::new(host),
            target: TargetConn::new(params, &sizes, Now(0)),
            host_link: HostLink::default(),
            target_link: TargetLink::default(),
            disk,
            owner: Owner::default(),
            arrived: VecDeque::new(),
        }
    }

    fn submit(&mut self, sqe: Sqe, data: HostData<Vec<u8>>, tag: u64) -> Result<(), SubmitRefusal> {
        let deadline = self.host.deadline(Now(0));
        let sent = self.host.submit_until(sqe, data, tag, deadline, &mut self.host_link);
        sent.map_err(|refused| refused.reason)
    }

    fn write(&mut self, at: u64, bytes: Vec<u8>, tag: u64) -> Result<(), SubmitRefusal> {
        let sqe = nvm::ReadWrite::write(Nsid(1), Lba(at), u32::try_from(bytes.len()).unwrap()).to_sqe(0);
        self.submit(sqe, HostData::ToController(bytes), tag)
    }

    fn read(&mut self, at: u64, len: usize, tag: u64) -> Result<(), SubmitRefusal> {
        let sqe = nvm::ReadWrite::read(Nsid(1), Lba(at), u32::try_from(len).unwrap()).to_sqe(0);
        self.submit(sqe, HostData::FromController(vec![0; len]), tag)
    }

    fn deliver(&mut self) {
        if let Some((work, capsule)) = self.host_link.capsules.pop_front() {
            self.arrived.push_back(capsule);
            self.host.on_sent(work, &mut self.host_link, &mut self.owner);
        }
        while let Some(capsule) = self.arrived.front() {
            match self.target.on_capsule(capsule, &mut self.disk, &mut self.target_link) {
                Received::Taken => drop(self.arrived.pop_front()),
                Received::Blocked | Received::Closing => return,
            }
        }
    }

    /// Lets the oldest work of the target's link end.
    fn work(&mut self) {
        match self.target_link.work.pop_front() {
            Some(Work::Read(work, mut buffer, remote)) => {
                buffer.copy_from_slice(&self.host_link.memory[&remote.key]);
                self.target.on_read(work, buffer, &mut self.disk, &mut self.target_link);
            }
            Some(Work::Respond(work, data, cqe, _)) => {
                if let Some((bytes, remote)) = data {
                    assert_eq!(bytes.len(), remote.length as usize);
                    let memory = self.host_link.memory.get_mut(&remote.key).unwrap();
                    memory[..bytes.len()].copy_from_slice(&bytes);
                }
                self.host.on_response(cqe.as_bytes(), &mut self.host_link, &mut self.owner);
                self.target.on_responded(work, &mut self.target_link);
            }
            None => {}
        }
    }

    fn complete_one(&mut self) {
        if let Some((id, done)) = self.disk.pending.pop_front() {
            assert!(self.target.complete(id, done, &mut self.target_link));
        }
    }

    fn settle(&mut self) {
        while self.host.in_flight() > 0 || self.target.in_flight() > 0 {
            self.deliver();
            self.complete_one();
            self.work();
        }
    }
}

#[test]
fn data_reaches_the_controller_in_the_capsule_or_by_read_and_comes_back_by_write() {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    pair.write(0, vec![1; 64], 1).unwrap();
    pair.write(64, vec![2; 65], 2).unwrap();
    pair.settle();
    pair.read(0, 129, 3).unwrap();
    pair.settle();
    let expected = [vec![1; 64], vec![2; 65]].concat();
    assert_eq!(pair.owner.ended.last().unwrap().2.as_ref(), Some(&expected));
    let stats = pair.target.stats();
    assert_eq!((stats.commands, stats.in_capsule, stats.reads, stats.writes), (3, 1, 1, 1));
}

#[test]
fn a_command_does_not_complete_before_its_capsule_is_sent() {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    pair.read(0, 16, 9).unwrap();
    let (work, capsule) = pair.host_link.capsules.pop_front().unwrap();
    let taken = pair.target.on_capsule(&capsule, &mut pair.disk, &mut pair.target_link);
    assert_eq!(taken, Received::Taken);
    pair.work();
    assert!(pair.owner.ended.is_empty());
    pair.host.on_sent(work, &mut pair.host_link, &mut pair.owner);
    assert_eq!(pair.owner.ended[0].0, 9);
}

#[test]
fn responses_wait_until_the_host_has_room_for_them() {
    let mut pair = Pair::new(1, Disk::new(false));
    (0..3).for_each(|tag| pair.read(0, 16, tag).unwrap());
    (0..3).for_each(|_| pair.deliver());
    assert_eq!(pair.target_link.work.len(), 1);
    assert_eq!((pair.target.undelivered(), pair.target.stats().held), (3, 2));
    pair.settle();
    assert_eq!(pair.owner.ended.iter().map(|(tag, ..)| *tag).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_capsule_without_a_buffer_for_it_is_taken_later() {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    pair.disk.buffers = 0;
    pair.write(0, vec![7; 100], 1).unwrap();
    pair.deliver();
    assert_eq!((pair.arrived.len(), pair.target.in_flight()), (1, 0));
    pair.disk.buffers = 1;
    pair.settle();
    assert_eq!(pair.disk.bytes[..100], [7; 100]);
}

fn answer_of(sqe: Sqe, data: &[u8]) -> (Cqe, Option<u32>) {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    let capsule = [sqe.as_bytes(), data].concat();
    let taken = pair.target.on_capsule(&capsule, &mut pair.disk, &mut pair.target_link);
    assert_eq!(taken, Received::Taken);
    match pair.target_link.work.pop_front() {
        Some(Work::Respond(_, _, cqe, invalidate)) => (cqe, invalidate),
        _ => panic!("no answer"),
    }
}

#[test]
fn an_sgl_that_makes_no_sense_is_answered_with_its_status() {
    let write = nvm::ReadWrite::write(Nsid(1), Lba(0), 1).to_sqe(0);
    let read = nvm::ReadWrite::read(Nsid(1), Lba(0), 1).to_sqe(0);
    let keyed = |length| SglDescriptor::KeyedDataBlock { address: 0, length, key: 1, invalidate: false };
    let inside = |offset, length| SglDescriptor::InCapsule { offset, length };
    for (sqe, status) in [
        (write.with_sgl(inside(0, 65)), Status::DATA_SGL_LENGTH_INVALID),
        (write.with_sgl(inside(60, 5)), Status::DATA_SGL_LENGTH_INVALID),
        (write.with_sgl(inside(65, 0)), Status::SGL_OFFSET_INVALID),
        (write.with_sgl(inside(u64::MAX, 1)), Status::SGL_OFFSET_INVALID),
        (read.with_sgl(inside(0, 1)), Status::INVALID_FIELD),
        (read.with_sgl(keyed(257)), Status::DATA_SGL_LENGTH_INVALID),
        (read.with_sgl(SglDescriptor::Transport { length: 1 }), Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (
            read.with_sgl(SglDescriptor::DataBlock { address: 1, length: 1 }),
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
        ),
    ] {
        assert_eq!(answer_of(sqe, &[0; 64]).0.status(), status.dnr(), "{:?}", sqe.sgl.decode());
    }
}

#[test]
fn a_key_is_invalidated_when_the_host_asks_for_it() {
    let read = nvm::ReadWrite::read(Nsid(1), Lba(0), 1).to_sqe(0);
    for invalidate in [true, false] {
        let keyed = SglDescriptor::KeyedDataBlock { address: 0, length: 8, key: 77, invalidate };
        assert_eq!(answer_of(read.with_sgl(keyed), &[]).1, invalidate.then_some(77));
    }
}

#[test]
fn a_message_that_is_no_capsule_closes_the_connection() {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    let taken = pair.target.on_capsule(&[0; 63], &mut pair.disk, &mut pair.target_link);
    assert_eq!((taken, pair.target.closed()), (Received::Closing, Some(CloseReason::BadCapsule)));
    pair.host.on_response(&[0; 15], &mut pair.host_link, &mut pair.owner);
    assert_eq!(pair.host.closed(), Some(CloseReason::BadCapsule));
}

#[test]
fn an_answer_to_no_command_closes_the_connection() {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    let cqe = Cqe::new(3, Status::SUCCESS);
    pair.host.on_response(cqe.as_bytes(), &mut pair.host_link, &mut pair.owner);
    assert_eq!(pair.host.closed(), Some(CloseReason::UnknownCommand));
}

#[test]
fn a_host_that_never_connects_is_let_go() {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    let deadline = pair.target.next_deadline().unwrap();
    pair.target.on_tick(Now(deadline.0 - 1));
    assert_eq!(pair.target.closed(), None);
    pair.target.on_tick(deadline);
    assert_eq!(pair.target.closed(), Some(CloseReason::ConnectTimeout));
}

#[test]
fn a_late_command_is_told_of_once_and_given_back_when_the_connection_ends() {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    pair.read(0, 16, 5).unwrap();
    pair.host.on_tick(Now(99), &mut pair.owner);
    assert!(pair.owner.late.is_empty());
    pair.host.on_tick(Now(100), &mut pair.owner);
    pair.host.on_tick(Now(200), &mut pair.owner);
    assert_eq!(pair.owner.late, [5]);
    pair.host.close(&mut pair.host_link, &mut pair.owner);
    assert_eq!(pair.owner.ended, [(5, None, Some(vec![0; 16]))]);
    assert_eq!(pair.read(0, 1, 6), Err(SubmitRefusal::Closed));
}

#[test]
fn the_halves_of_a_fused_operation_run_together_whichever_is_read_first() {
    let mut pair = Pair::new(DEPTH, Disk::new(false));
    let compare = nvm::ReadWrite::compare(Nsid(1), Lba(0), 1).to_sqe(1).with_fuse(nvme::Fuse::First);
    let write = nvm::ReadWrite::write(Nsid(1), Lba(0), 1).to_sqe(2).with_fuse(nvme::Fuse::Second);
    let keyed = SglDescriptor::KeyedDataBlock { address: 0, length: 8, key: 1, invalidate: false };
    for sqe in [compare.with_sgl(keyed), write.with_sgl(keyed)] {
        let taken = pair.target.on_capsule(sqe.as_bytes(), &mut pair.disk, &mut pair.target_link);
        assert_eq!(taken, Received::Taken);
    }
    pair.host_link.memory.insert(1, vec![3; 8]);
    pair.target_link.work.rotate_left(1);
    for _ in 0..2 {
        assert!(pair.disk.ran.is_empty());
        let Some(Work::Read(work, buffer, _)) = pair.target_link.work.pop_front() else { panic!("no read") };
        pair.target.on_read(work, buffer, &mut pair.disk, &mut pair.target_link);
    }
    assert_eq!(pair.disk.ran, [nvme::opcode::io::COMPARE, nvme::opcode::io::WRITE]);
}

proptest! {
    #[test]
    fn every_command_ends_once_with_its_data(
        responses in 1u16..5,
        later: bool,
        steps in proptest::collection::vec((0u8..6, 0u64..1000, 1usize..256), 1..120),
    ) {
        let mut pair = Pair::new(responses, Disk::new(later));
        let mut submitted = 0;
        for (step, at, len) in steps {
            let outcome = match step {
                0 => pair.write(at, vec![u8::try_from(len).unwrap(); len], submitted),
                1 => pair.read(at, len, submitted),
                2 => { pair.deliver(); continue }
                3 => { pair.work(); continue }
                4 => { pair.complete_one(); continue }
                _ => { pair.disk.buffers = usize::from(pair.disk.buffers == 0); continue }
            };
            match outcome {
                Ok(()) => submitted += 1,
                Err(refused) => prop_assert_eq!(refused, SubmitRefusal::QueueFull),
            }
            let on_their_way = pair.target_link.work.iter().filter(|work| matches!(work, Work::Respond(..)));
            prop_assert!(on_their_way.count() <= usize::from(responses));
        }
        pair.disk.buffers = usize::MAX;
        pair.settle();
        let mut tags: Vec<u64> = pair.owner.ended.iter().map(|(tag, ..)| *tag).collect();
        tags.sort_unstable();
        prop_assert_eq!(tags, (0..submitted).collect::<Vec<_>>());
        prop_assert!(pair.owner.ended.iter().all(|(_, status, _)| *status == Some(Status::SUCCESS)));
    }

    #[test]
    fn no_capsule_makes_a_target_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut pair = Pair::new(DEPTH, Disk::new(true));
        let whole = bytes.len() >= super::COMMAND_BYTES;
        let taken = pair.target.on_capsule(&bytes, &mut Refusing, &mut pair.target_link);
        prop_assert_eq!(taken == Received::Taken, whole);
        if whole {
            prop_assert!(Sqe::ref_from_prefix(&bytes).is_ok());
            prop_assert_eq!(pair.target.in_flight(), 1);
        }
    }
}

/// Refuses every command, whatever it says.
struct Refusing;

impl CommandHandler for Refusing {
    type Buffer = Vec<u8>;

    fn allocate(&mut self, len: usize) -> Option<Vec<u8>> {
        Some(vec![0; len])
    }

    fn execute(&mut self, _id: CommandId, _sqe: &Sqe, _data: Option<Vec<u8>>) -> Execution<Vec<u8>> {
        Execution::Done(Completion::status(Status::INVALID_OPCODE))
    }
}
