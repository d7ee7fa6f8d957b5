//! Fused commands on a queue (base 2.1 §3.4.2): the first waits for the second; a pair becomes one job. Over fabrics the
//! two may be executed with others between them, since data of a command may arrive after later commands.

use fabrics::{Completion, Execution, Now};
use nvme::opcode::io as opcode;
use nvme::{Fuse, Lba, Sqe, Status};
use reactors::IoBuf;
use transport::ConnId;

use super::fused::{CompareWrite, Held, State};
use super::io::Order;
use super::jobs::Job;
use super::limits::{COMPARE_WRITE_BLOCKS_MAX, FUSED_WAIT_NS};
use super::local::LocalNamespace;
use super::queue::IoQueue;
use super::reservations::Access;
use super::service::ReactorTarget;
use super::stats::Kind;

const FUA: u32 = 1 << 30;

impl ReactorTarget {
    /// A command with a FUSE field that is not zero.
    #[cold]
    pub(super) fn fused(
        &mut self,
        conn: ConnId,
        io: &IoQueue,
        command: u32,
        sqe: &Sqe,
        data: Option<IoBuf>,
    ) -> Result<Execution<IoBuf>, Status> {
        match sqe.fuse() {
            Fuse::First => self.hold(conn, command, sqe, data),
            Fuse::Second => {
                let held = self.take_held(conn).ok_or(Status::ABORTED_MISSING_FUSED)?;
                self.pair(Order { conn, io, command, sqe }, held, data)
            }
            Fuse::Normal | Fuse::Reserved => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    /// Keeps a first command; one that was kept before has lost its second.
    fn hold(
        &mut self,
        conn: ConnId,
        command: u32,
        sqe: &Sqe,
        data: Option<IoBuf>,
    ) -> Result<Execution<IoBuf>, Status> {
        self.abandon(|held| held.conn == conn, Status::ABORTED_MISSING_FUSED);
        if sqe.opcode != opcode::COMPARE {
            return Err(Status::INVALID_OPCODE.dnr());
        }
        let (lba, blocks) = blocks_of(sqe);
        let expected = data.ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        let (cid, nsid, since) = (sqe.cid.get(), sqe.nsid.get(), self.now);
        self.held.push(Held { conn, command, cid, nsid, lba, blocks, expected, since });
        self.deadline = self.deadline.min(self.now.after_ns(FUSED_WAIT_NS));
        Ok(Execution::Pending)
    }

    fn take_held(&mut self, conn: ConnId) -> Option<Held> {
        let at = self.held.iter().position(|held| held.conn == conn)?;
        Some(self.held.swap_remove(at))
    }

    /// Ends the held first commands that `which` picks. Whether there was one.
    pub(super) fn abandon(&mut self, which: impl Fn(&Held) -> bool, status: Status) -> bool {
        let before = self.held.len();
        while let Some(at) = self.held.iter().position(&which) {
            let held = self.held.swap_remove(at);
            self.complete(held.conn, held.command, Completion::status(status));
        }
        self.held.len() < before
    }

    /// Ends first commands that have waited too long; when the next one will have.
    pub(super) fn expire_held(&mut self) -> Now {
        let now = self.now;
        let late = |held: &Held| now.since(held.since) >= FUSED_WAIT_NS;
        self.abandon(late, Status::ABORTED_MISSING_FUSED);
        self.held.iter().map(|held| held.since.after_ns(FUSED_WAIT_NS)).min().unwrap_or(Now::NEVER)
    }

    /// Starts a pair. Errors are the second command's; the first is answered here, whatever comes out.
    fn pair(
        &mut self,
        order: Order<'_>,
        held: Held,
        data: Option<IoBuf>,
    ) -> Result<Execution<IoBuf>, Status> {
        let first = held.command;
        match self.start_pair(order, held, data) {
            Ok(execution) => Ok(execution),
            Err((first_status, second_status)) => {
                self.complete(order.conn, first, Completion::status(first_status));
                Err(second_status)
            }
        }
    }

    fn start_pair(
        &mut self,
        order: Order<'_>,
        held: Held,
        data: Option<IoBuf>,
    ) -> Result<Execution<IoBuf>, (Status, Status)> {
        let failed = |status: Status| (status, Status::ABORTED_FAILED_FUSED);
        if order.sqe.opcode != opcode::WRITE {
            return Err((Status::ABORTED_MISSING_FUSED, Status::INVALID_OPCODE.dnr()));
        }
        let (lba, blocks) = blocks_of(order.sqe);
        if (lba, blocks, order.sqe.nsid.get()) != (held.lba, held.blocks, held.nsid) {
            return Err(failed(Status::INVALID_FIELD.dnr()));
        }
        let index = self.admit(order, Access::Write).map_err(failed)?;
        if blocks > COMPARE_WRITE_BLOCKS_MAX {
            return Err(failed(Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr()));
        }
        let ns = self.namespace_mut(index).ok_or(failed(LocalNamespace::GONE))?;
        let bytes = (blocks as usize) << ns.block_shift;
        let data = data.filter(|data| data.len() == bytes && held.expected.len() == bytes);
        let data = data.ok_or(failed(Status::DATA_SGL_LENGTH_INVALID.dnr()))?;
        if u64::from(blocks).checked_add(lba.get()).is_none_or(|end| end > ns.shared.info().blocks) {
            return Err(failed(Status::LBA_OUT_OF_RANGE.dnr()));
        }
        let fua = order.sqe.cdw12.get() & FUA != 0;
        let state = State::Claiming { data };
        let pair = CompareWrite { first: held.command, lba, blocks, expected: held.expected, fua, state };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let flight = self.flight(order, index, Kind::Write, bytes, Some(Job::CompareWrite(pair)));
        Ok(self.run_inline(flight, order.io))
    }
}

fn blocks_of(sqe: &Sqe) -> (Lba, u32) {
    let lba = u64::from(sqe.cdw11.get()) << 32 | u64::from(sqe.cdw10.get());
    (Lba(lba), (sqe.cdw12.get() & 0xFFFF) + 1)
}
