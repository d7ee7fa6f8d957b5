//! I/O commands (base 2.1 §7, NVM command set 1.1 §3.2): checks, and the way to the device of this reactor.

use fabrics::{Completion, Execution};
use nvme::nvm::{DatasetManagement, Range};
use nvme::opcode::io as opcode;
use nvme::{Lba, Nsid, Sgl, Sqe, Status};
use reactors::IoBuf;
use transport::ConnId;

use super::flight::{Flight, Parked, Request};
use super::jobs::{Compare, Deallocate, FlushAll, Job, Verify};
use super::local::{LocalNamespace, LocalSubsystem};
use super::queue::IoQueue;
use super::registry::ErrorEntry;
use super::reservations::Access;
use super::service::{ReactorTarget, done};
use super::stats::Kind;
use crate::device::{IoDone, Op};

/// Command dword 12: PRINFO and the storage tag check, all zero without protection information.
const PROTECTION_MASK: u32 = 0xF << 26 | 1 << 24;
/// Command dword 12 of a Write: directive type.
const DIRECTIVE_MASK: u32 = 0xF << 20;
const FUA: u32 = 1 << 30;
const DEALLOCATE: u32 = 1 << 25;

const INVALID: Status = Status::INVALID_FIELD.dnr();

/// The blocks that a command names.
#[derive(Clone, Copy)]
struct Extent {
    lba: Lba,
    blocks: u32,
}

impl Extent {
    #[inline]
    fn of(sqe: &Sqe) -> Self {
        let lba = u64::from(sqe.cdw11.get()) << 32 | u64::from(sqe.cdw10.get());
        Self { lba: Lba(lba), blocks: (sqe.cdw12.get() & 0xFFFF) + 1 }
    }
}

/// Data length that the command's descriptor gives, in bytes.
#[inline]
pub(super) fn sgl_bytes(sgl: &Sgl) -> u32 {
    let bytes = &sgl.bytes;
    let length = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if sgl.kind() == 4 { length & nvme::KEYED_LENGTH_MAX } else { length }
}

/// A command on its way: who asked, on which queue.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) conn: ConnId,
    pub(super) io: &'a IoQueue,
    pub(super) command: u32,
    pub(super) sqe: &'a Sqe,
}

impl ReactorTarget {
    /// An I/O command of a queue.
    #[inline]
    pub(super) fn io(
        &mut self,
        conn: ConnId,
        io: &IoQueue,
        command: u32,
        sqe: &Sqe,
        data: Option<IoBuf>,
    ) -> Execution<IoBuf> {
        let outcome = if !io.controller.is_ready() {
            Err(Status::COMMAND_SEQUENCE_ERROR)
        } else if sqe.flags & 0b11 != 0 {
            self.fused(conn, io, command, sqe, data)
        } else {
            self.io_normal(Order { conn, io, command, sqe }, data)
        };
        match outcome {
            Ok(execution) => execution,
            Err(status) => {
                self.refused(io, sqe, status);
                done(status)
            }
        }
    }

    /// A command is about to come, or its data.
    #[inline]
    pub(super) fn expect_io(&mut self, io: &IoQueue, sqe: &Sqe) {
        let is_read = match sqe.opcode {
            opcode::READ if io.takes_lent => true,
            opcode::WRITE => false,
            _ => return,
        };
        let Ok(Some(index)) = self.subsystem(io).map(|sub| sub.index(sqe.nsid.get())) else { return };
        let Some(ns) = self.namespace_mut(index) else { return };
        let Extent { lba, blocks } = Extent::of(sqe);
        let bytes = blocks << ns.block_shift;
        match is_read {
            true => ns.queue.expect_read(lba, bytes),
            false => ns.queue.expect_write(lba, bytes),
        }
    }

    #[inline]
    fn io_normal(&mut self, order: Order<'_>, data: Option<IoBuf>) -> Result<Execution<IoBuf>, Status> {
        match order.sqe.opcode {
            opcode::READ => self.read(order),
            opcode::WRITE => self.write(order, data),
            _ => self.io_rare(order, data),
        }
    }

    #[cold]
    fn io_rare(&mut self, order: Order<'_>, data: Option<IoBuf>) -> Result<Execution<IoBuf>, Status> {
        match order.sqe.opcode {
            opcode::FLUSH => self.flush(order),
            opcode::WRITE_ZEROES => self.write_zeroes(order),
            opcode::DATASET_MANAGEMENT => self.dataset_management(order, data),
            opcode::COMPARE => self.compare(order, data),
            opcode::VERIFY => self.verify(order),
            opcode::RESERVATION_REGISTER
            | opcode::RESERVATION_REPORT
            | opcode::RESERVATION_ACQUIRE
            | opcode::RESERVATION_RELEASE => self.reservation(order, data),
            nvme::opcode::FABRICS => self.fabrics_on_io(order),
            _ => Err(Status::INVALID_OPCODE.dnr()),
        }
    }

    /// The namespace of a command, if the path and the reservation let the command through.
    #[inline]
    pub(super) fn admit(&mut self, order: Order<'_>, access: Access) -> Result<u32, Status> {
        let index = self.reach(order)?;
        let ns = self.namespace_mut(index).ok_or(LocalNamespace::GONE)?;
        if ns.conflicts(&order.io.host, access) { Err(Status::RESERVATION_CONFLICT) } else { Ok(index) }
    }

    /// The namespace of a command, if the path lets the command through (base 2.1 §8.1.1).
    #[inline]
    pub(super) fn reach(&mut self, order: Order<'_>) -> Result<u32, Status> {
        let index = self.subsystem(order.io)?.index(order.sqe.nsid.get()).ok_or(LocalNamespace::GONE)?;
        let ns = self.namespace_mut(index).ok_or(LocalNamespace::GONE)?;
        match order.io.controller.ana_bits(ns.shared.ana_group) {
            0..=2 => Ok(index),
            state => Err(path_status(state)),
        }
    }

    /// The subsystem of a queue.
    #[inline]
    pub(super) fn subsystem(&self, io: &IoQueue) -> Result<&LocalSubsystem, Status> {
        let sub = self.subsystems.get(io.slot).and_then(Option::as_ref);
        sub.filter(|sub| sub.view.uid == io.subsystem).ok_or(LocalNamespace::GONE)
    }

    #[inline]
    fn read(&mut self, order: Order<'_>) -> Result<Execution<IoBuf>, Status> {
        let index = self.admit(order, Access::Read)?;
        let extent = Extent::of(order.sqe);
        let bytes = self.transfer_bytes(order, index, extent, PROTECTION_MASK)?;
        if sgl_bytes(&order.sqe.sgl) != bytes {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        let flight = self.flight(order, index, Kind::Read, bytes, None);
        if order.io.takes_lent
            && let Some(lent) = self.lend(index, extent.lba, bytes)
        {
            return Ok(Execution::Done(self.read_done(&flight, lent)));
        }
        match self.local.pool().alloc_io(bytes as usize) {
            Some(buffer) => Ok(self.start(flight, Op::Read { lba: extent.lba, buffer })),
            None => Ok(self.park(flight, order.io, Request::Read { lba: extent.lba })),
        }
    }

    /// What is read, without a copy, where the device can; it is kicked in this turn.
    #[inline]
    fn lend(&mut self, index: u32, lba: Lba, bytes: u32) -> Option<IoBuf> {
        let ns = self.namespace_mut(index)?;
        if ns.shared.limits.is_on() {
            return None;
        }
        let lent = ns.queue.lend(lba, bytes)?;
        self.activate(index);
        Some(lent)
    }

    #[inline]
    fn read_done(&mut self, flight: &Flight, data: IoBuf) -> Completion<IoBuf> {
        self.count(flight, Status::SUCCESS);
        Completion { status: Status::SUCCESS, result: 0, data: Some(data) }
    }

    #[inline]
    fn write(&mut self, order: Order<'_>, data: Option<IoBuf>) -> Result<Execution<IoBuf>, Status> {
        let index = self.admit(order, Access::Write)?;
        let extent = Extent::of(order.sqe);
        let bytes = self.transfer_bytes(order, index, extent, PROTECTION_MASK | DIRECTIVE_MASK)?;
        let buffer = data.filter(|data| data.len() == bytes as usize);
        let buffer = buffer.ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        let fua = order.sqe.cdw12.get() & FUA != 0;
        let flight = self.flight(order, index, Kind::Write, bytes, None);
        let op = Op::Write { lba: extent.lba, buffer, fua };
        if !self.admits(&flight, &op) {
            return Ok(self.park(flight, order.io, Request::Op(op)));
        }
        Ok(match self.take_over(&flight, op) {
            Ok(done) => Execution::Done(done),
            Err(op) => self.start(flight, op),
        })
    }

    /// What a write ends with that the device takes over; it is kicked in this turn.
    #[inline]
    fn take_over(&mut self, flight: &Flight, op: Op) -> Result<Completion<IoBuf>, Op> {
        let Some(ns) = self.namespace_mut(flight.namespace) else { return Err(op) };
        match op {
            Op::Write { lba, buffer, fua: false } => {
                ns.take_over(lba, buffer).map_err(|buffer| Op::Write { lba, buffer, fua: false })?;
            }
            op => return Err(op),
        }
        self.activate(flight.namespace);
        self.count(flight, Status::SUCCESS);
        Ok(Completion::status(Status::SUCCESS))
    }

    /// Bytes that a command moves, checked against MDTS and against what is not supported.
    #[inline]
    fn transfer_bytes(
        &mut self,
        order: Order<'_>,
        index: u32,
        extent: Extent,
        reserved: u32,
    ) -> Result<u32, Status> {
        let shift = self.namespace_mut(index).map_or(0, |ns| ns.block_shift);
        let bytes = u64::from(extent.blocks) << shift;
        if order.sqe.cdw12.get() & reserved != 0 {
            return Err(INVALID);
        }
        u32::try_from(bytes).ok().filter(|bytes| *bytes <= order.io.io_bytes_max).ok_or(INVALID)
    }

    #[inline]
    pub(super) fn flight(
        &self,
        order: Order<'_>,
        namespace: u32,
        kind: Kind,
        bytes: u32,
        job: Option<Job>,
    ) -> Flight {
        Flight {
            conn: order.conn,
            command: order.command,
            cid: order.sqe.cid.get(),
            kind,
            parity: false,
            namespace,
            bytes,
            started: self.now,
            job: job.map(Box::new),
        }
    }

    /// Starts an operation that nothing holds back.
    #[inline]
    pub(super) fn start(&mut self, mut flight: Flight, op: Op) -> Execution<IoBuf> {
        let tag = self.flights.next();
        let index = flight.namespace;
        let Some(ns) = self.namespace_mut(index) else { return done(LocalNamespace::GONE) };
        if let Some(finished) = ns.submit(tag, op) {
            return Execution::Done(self.finished(&flight, finished));
        }
        flight.parity = ns.enter();
        let activate = !std::mem::replace(&mut ns.active, true);
        self.flights.put(tag, flight);
        if activate {
            self.active.push(index);
        }
        Execution::Pending
    }

    /// Starts an operation that writes, unless somebody has claimed its range.
    #[inline]
    fn start_write(&mut self, flight: Flight, io: &IoQueue, op: Op) -> Execution<IoBuf> {
        if self.admits(&flight, &op) {
            self.start(flight, op)
        } else {
            self.park(flight, io, Request::Op(op))
        }
    }

    /// Whether nobody has claimed the range of an operation.
    #[inline]
    fn admits(&mut self, flight: &Flight, op: &Op) -> bool {
        self.namespace_mut(flight.namespace).is_none_or(|ns| ns.admits(op))
    }

    #[cold]
    fn park(&mut self, flight: Flight, io: &IoQueue, request: Request) -> Execution<IoBuf> {
        self.parked.push_back(Parked { flight, host: io.host, request });
        Execution::Pending
    }

    /// What a command of one device I/O ends with; counted.
    #[inline]
    pub(super) fn finished(&mut self, flight: &Flight, finished: IoDone) -> Completion<IoBuf> {
        let IoDone { status, buffer, .. } = finished;
        self.count(flight, status);
        let data = buffer.filter(|_| flight.kind == Kind::Read && status.is_success());
        Completion { status, result: 0, data }
    }

    #[inline]
    pub(super) fn count(&mut self, flight: &Flight, status: Status) {
        let took = self.now.since(flight.started);
        self.counters.io_commands_total.add(1);
        let Some(ns) = self.namespace_mut(flight.namespace) else { return };
        if status.is_success() {
            ns.counters.count(flight.kind, u64::from(flight.bytes), took);
        } else {
            ns.counters.count_error();
        }
    }

    /// Notes a command that was refused in the error log.
    #[cold]
    fn refused(&self, io: &IoQueue, sqe: &Sqe, status: Status) {
        self.counters.io_commands_total.add(1);
        let lba = Extent::of(sqe).lba.get();
        io.controller.errors().push(ErrorEntry {
            count: 0,
            queue: io.id,
            cid: sqe.cid.get(),
            status,
            lba,
            nsid: sqe.nsid.get(),
            opcode: sqe.opcode,
        });
    }

    fn flush(&mut self, order: Order<'_>) -> Result<Execution<IoBuf>, Status> {
        if order.sqe.nsid() == Nsid::ALL {
            return self.flush_all(order);
        }
        let index = self.admit(order, Access::Write)?;
        let flight = self.flight(order, index, Kind::Flush, 0, None);
        Ok(self.start(flight, Op::Flush))
    }

    fn flush_all(&mut self, order: Order<'_>) -> Result<Execution<IoBuf>, Status> {
        let sub = self.subsystem(order.io)?;
        let indexes: Vec<u32> = sub.view.active().filter_map(|ns| sub.index(ns.nsid.get())).collect();
        let mut left = Vec::with_capacity(indexes.len());
        for index in indexes.into_iter().rev() {
            let Some(ns) = self.namespace_mut(index) else { continue };
            if ns.conflicts(&order.io.host, Access::Write) {
                return Err(Status::RESERVATION_CONFLICT);
            }
            left.push((index, ns.shared.uid));
        }
        let Some((first, _)) = left.last().copied() else { return Ok(done(Status::SUCCESS)) };
        let flight = self.flight(order, first, Kind::Flush, 0, Some(Job::FlushAll(FlushAll { left })));
        Ok(self.run_inline(flight, order.io))
    }

    fn write_zeroes(&mut self, order: Order<'_>) -> Result<Execution<IoBuf>, Status> {
        let index = self.admit(order, Access::Write)?;
        let cdw12 = order.sqe.cdw12.get();
        if cdw12 & (PROTECTION_MASK | DIRECTIVE_MASK) != 0 {
            return Err(INVALID);
        }
        let Extent { lba, blocks } = Extent::of(order.sqe);
        let (deallocate, fua) = (cdw12 & DEALLOCATE != 0, cdw12 & FUA != 0);
        let flight = self.flight(order, index, Kind::Other, 0, None);
        Ok(self.start_write(flight, order.io, Op::WriteZeroes { lba, blocks, deallocate, fua }))
    }

    fn dataset_management(
        &mut self,
        order: Order<'_>,
        data: Option<IoBuf>,
    ) -> Result<Execution<IoBuf>, Status> {
        let index = self.admit(order, Access::Write)?;
        let command = DatasetManagement::from(order.sqe);
        let ranges = data.filter(|data| data.len() >= command.data_bytes());
        let ranges = ranges.ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        if !command.deallocate {
            return Ok(done(Status::SUCCESS));
        }
        self.check_ranges(index, &ranges, command.ranges)?;
        let job = Job::Deallocate(Deallocate { ranges, count: command.ranges, next: 0 });
        let flight = self.flight(order, index, Kind::Other, 0, Some(job));
        Ok(self.run_inline(flight, order.io))
    }

    /// Whether every range lies within the namespace, before any of them is touched.
    fn check_ranges(&mut self, index: u32, ranges: &IoBuf, count: u16) -> Result<(), Status> {
        let blocks = self.namespace_mut(index).map_or(0, |ns| ns.shared.info().blocks);
        for at in 0..usize::from(count) {
            let mut bytes = [0; Range::SIZE];
            ranges.copy_out(at * Range::SIZE, &mut bytes);
            let range: Range = zerocopy::transmute!(bytes);
            let end = range.slba.get().checked_add(u64::from(range.nlb.get()));
            if end.is_none_or(|end| end > blocks) {
                return Err(Status::LBA_OUT_OF_RANGE.dnr());
            }
        }
        Ok(())
    }

    fn compare(&mut self, order: Order<'_>, data: Option<IoBuf>) -> Result<Execution<IoBuf>, Status> {
        let index = self.admit(order, Access::Read)?;
        let extent = Extent::of(order.sqe);
        let bytes = self.transfer_bytes(order, index, extent, PROTECTION_MASK)?;
        let expected = data.filter(|data| data.len() == bytes as usize);
        let expected = expected.ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        let job = Job::Compare(Compare { lba: extent.lba, expected });
        let flight = self.flight(order, index, Kind::Other, bytes, Some(job));
        Ok(self.run_inline(flight, order.io))
    }

    fn verify(&mut self, order: Order<'_>) -> Result<Execution<IoBuf>, Status> {
        let index = self.admit(order, Access::Read)?;
        if order.sqe.cdw12.get() & PROTECTION_MASK != 0 {
            return Err(INVALID);
        }
        let Extent { lba, blocks } = Extent::of(order.sqe);
        let ns = self.namespace_mut(index).ok_or(LocalNamespace::GONE)?;
        let end = lba.get().checked_add(u64::from(blocks));
        if end.is_none_or(|end| end > ns.shared.info().blocks) {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
        let verify = Verify { next: lba.get(), left: u64::from(blocks), shift: ns.block_shift };
        let flight = self.flight(order, index, Kind::Other, 0, Some(Job::Verify(verify)));
        Ok(self.run_inline(flight, order.io))
    }

    /// What a fabrics command on an I/O queue is answered: Disconnect is the only one there (base 2.1 §6.4).
    fn fabrics_on_io(&mut self, order: Order<'_>) -> Result<Execution<IoBuf>, Status> {
        use nvme::fabrics::fctype;
        match nvme::fabrics::fctype_of(order.sqe) {
            fctype::DISCONNECT => Ok(self.disconnect(order)),
            fctype::CONNECT => Err(Status::COMMAND_SEQUENCE_ERROR.dnr()),
            fctype::PROPERTY_GET | fctype::PROPERTY_SET => Err(INVALID),
            _ => Err(Status::INVALID_OPCODE.dnr()),
        }
    }
}

/// Why a path in this ANA state does not serve a command (base 2.1 §8.1.1.10).
#[cold]
pub(super) fn path_status(ana_state: u8) -> Status {
    match ana_state {
        3 => Status::ASYMMETRIC_ACCESS_INACCESSIBLE,
        4 => Status::ASYMMETRIC_ACCESS_PERSISTENT_LOSS,
        _ => Status::ASYMMETRIC_ACCESS_TRANSITION,
    }
}
