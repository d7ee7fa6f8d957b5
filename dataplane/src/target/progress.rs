//! What happens to I/O commands after they started: device completions, the steps of jobs, second attempts, aborts.

use fabrics::{Completion, Execution};
use nvme::{HostId, Status};
use reactors::IoBuf;
use transport::ConnId;

use super::flight::{Flight, Parked, Request};
use super::fused::PairStep;
use super::jobs::{Job, Step};
use super::local::LocalNamespace;
use super::queue::IoQueue;
use super::reservations::Access;
use super::service::{ReactorTarget, done};
use super::stats::Kind;
use crate::device::{IoDone, Op};

/// Where a job stands.
enum Ran {
    Finished(Flight, Status),
    /// Under way, or parked: it goes on by itself.
    Waiting,
}

impl ReactorTarget {
    /// Runs the first steps of a job; its answer, when it is through already.
    pub(super) fn run_inline(&mut self, flight: Flight, io: &IoQueue) -> Execution<IoBuf> {
        match self.run(flight, io.host, None) {
            Ran::Finished(flight, status) => done(self.end_job(&flight, status)),
            Ran::Waiting => Execution::Pending,
        }
    }

    /// Runs a job on, and answers its command when it is through.
    fn run_on(&mut self, flight: Flight, host: HostId, finished: Option<IoDone>) {
        if let Ran::Finished(flight, status) = self.run(flight, host, finished) {
            let status = self.end_job(&flight, status);
            self.complete(flight.conn, flight.command, Completion::status(status));
        }
    }

    /// Counts a finished job; the first command of a pair is answered here.
    fn end_job(&mut self, flight: &Flight, status: Status) -> Status {
        self.count(flight, status);
        if let Some(Job::CompareWrite(pair)) = flight.job.as_deref() {
            let (first, status) = (pair.first, pair.first_status());
            self.complete(flight.conn, first, Completion::status(status));
            self.broadcast_wake();
        }
        status
    }

    fn run(&mut self, mut flight: Flight, host: HostId, mut finished: Option<IoDone>) -> Ran {
        loop {
            let Some(job) = flight.job.as_deref_mut() else {
                return Ran::Finished(flight, Status::INTERNAL_ERROR);
            };
            let owner = matches!(job, Job::CompareWrite(_));
            let step = match Self::step(
                &self.local,
                self.namespaces.get(flight.namespace as usize),
                job,
                finished.take(),
            ) {
                PairStep::Step(step) => step,
                PairStep::Barrier => return self.wait_for_barrier(flight),
            };
            let op = match step {
                Step::Finish(status) => return Ran::Finished(flight, status),
                Step::Starved => return self.park_job(flight, host),
                Step::Submit(op) => op,
                Step::FlushOf(index, uid) => {
                    flight.namespace = index;
                    let same = self.namespace_mut(index).is_some_and(|ns| ns.shared.uid == uid);
                    if !same {
                        continue;
                    }
                    Op::Flush
                }
            };
            let Some(ns) = self.namespace_mut(flight.namespace) else {
                return Ran::Finished(flight, LocalNamespace::GONE);
            };
            if !owner && !ns.admits(&op) {
                return self.park_job(flight, host);
            }
            match self.submit_step(flight, op) {
                Ok((back, inline)) => (flight, finished) = (back, Some(inline)),
                Err(()) => return Ran::Waiting,
            }
        }
    }

    fn step(
        local: &reactors::LocalHandle,
        ns: Option<&Option<Box<LocalNamespace>>>,
        job: &mut Job,
        finished: Option<IoDone>,
    ) -> PairStep {
        let pool = local.pool();
        PairStep::Step(match job {
            Job::Compare(compare) => compare.step(finished, pool),
            Job::Verify(verify) => verify.step(finished, pool),
            Job::Deallocate(deallocate) => deallocate.step(finished),
            Job::FlushAll(flush) => flush.step(finished),
            Job::Barrier => Step::Finish(Status::SUCCESS),
            Job::CompareWrite(pair) => match ns.and_then(Option::as_ref) {
                Some(ns) => return pair.step(finished, &ns.shared.guard, pool),
                None => Step::Finish(LocalNamespace::GONE),
            },
        })
    }

    /// Submits a step: the flight comes back with what finished at once, else it is in the slab.
    fn submit_step(&mut self, mut flight: Flight, op: Op) -> Result<(Flight, IoDone), ()> {
        let tag = self.flights.next();
        let index = flight.namespace;
        let Some(ns) = self.namespace_mut(index) else { return Err(()) };
        if let Some(finished) = ns.submit(tag, op) {
            return Ok((flight, finished));
        }
        flight.parity = ns.enter();
        self.flights.put(tag, flight);
        self.activate(index);
        Err(())
    }

    pub(super) fn activate(&mut self, index: u32) {
        let Some(ns) = self.namespace_mut(index) else { return };
        if !std::mem::replace(&mut ns.active, true) {
            self.active.push(index);
        }
    }

    fn park_job(&mut self, flight: Flight, host: HostId) -> Ran {
        self.parked.push_back(Parked { flight, host, request: Request::Step });
        Ran::Waiting
    }

    /// Puts a job aside until everything in flight on its namespace is done.
    fn wait_for_barrier(&mut self, flight: Flight) -> Ran {
        let tag = self.flights.next();
        let index = flight.namespace;
        self.flights.put(tag, flight);
        let uid = self.namespace_mut(index).map(|ns| {
            ns.held += 1;
            ns.shared.uid
        });
        self.activate(index);
        self.start_barrier(uid.unwrap_or_default(), tag);
        Ran::Waiting
    }

    /// Puts a command aside that ends well once everything in flight on its namespace is done.
    pub(super) fn await_barrier(&mut self, flight: Flight) -> Execution<IoBuf> {
        self.wait_for_barrier(flight);
        Execution::Pending
    }

    /// The barrier that a flight waited for is passed.
    pub(super) fn barrier_passed(&mut self, tag: u32) {
        let Some(flight) = self.flights.take(tag) else { return };
        if let Some(ns) = self.namespace_mut(flight.namespace) {
            ns.held -= 1;
        }
        self.run_on(flight, HostId::ZERO, None);
    }

    /// A device is done with an I/O.
    #[inline]
    pub(super) fn device_done(&mut self, finished: IoDone) {
        let Some(flight) = u32::try_from(finished.tag).ok().and_then(|tag| self.flights.take(tag)) else {
            return;
        };
        if let Some(ns) = self.namespace_mut(flight.namespace) {
            let passed = ns.leave(flight.parity);
            if !passed.is_empty() {
                self.arrive(passed);
            }
        }
        if flight.job.is_some() {
            return self.run_on(flight, HostId::ZERO, Some(finished));
        }
        let completion = self.finished(&flight, finished);
        self.complete(flight.conn, flight.command, completion);
    }

    /// Tries every parked command once more. Whether any of them left.
    pub(super) fn retry_parked(&mut self) -> bool {
        let before = self.parked.len();
        for _ in 0..before {
            let Some(parked) = self.parked.pop_front() else { break };
            self.retry(parked);
        }
        self.parked.len() < before
    }

    fn retry(&mut self, parked: Parked) {
        let Parked { flight, host, request } = parked;
        let Some(ns) = self.namespace_mut(flight.namespace).filter(|ns| ns.live) else {
            return self.fail_parked(flight, LocalNamespace::GONE);
        };
        let access = if flight.kind == Kind::Read { Access::Read } else { Access::Write };
        if host != HostId::ZERO && ns.conflicts(&host, access) {
            return self.fail_parked(flight, Status::RESERVATION_CONFLICT);
        }
        let op = match request {
            Request::Step => return self.run_on(flight, host, None),
            Request::Op(op) if ns.admits(&op) => op,
            Request::Read { lba } => match self.local.pool().alloc_io(flight.bytes as usize) {
                Some(buffer) => Op::Read { lba, buffer },
                None => {
                    return self.parked.push_back(Parked { flight, host, request: Request::Read { lba } });
                }
            },
            request @ Request::Op(_) => return self.parked.push_back(Parked { flight, host, request }),
        };
        let (conn, command) = (flight.conn, flight.command);
        if let Execution::Done(completion) = self.start(flight, op) {
            self.complete(conn, command, completion);
        }
    }

    /// Ends a command that never started; a pair ends as a whole.
    fn fail_parked(&mut self, flight: Flight, status: Status) {
        self.count(&flight, status);
        if let Some(Job::CompareWrite(pair)) = flight.job.as_deref() {
            let first = pair.first;
            self.complete(flight.conn, first, Completion::status(status));
            let second = Completion::status(Status::ABORTED_FAILED_FUSED);
            return self.complete(flight.conn, flight.command, second);
        }
        self.complete(flight.conn, flight.command, Completion::status(status));
    }

    /// Aborts an I/O command that no device works on yet. Whether there was one.
    pub(super) fn abort_io(&mut self, conn: ConnId, cid: u16) -> bool {
        if self.abandon(|held| held.conn == conn && held.cid == cid, Status::ABORT_REQUESTED) {
            return true;
        }
        let waits = |parked: &Parked| parked.flight.conn == conn && parked.flight.cid == cid;
        if let Some(at) = self.parked.iter().position(waits) {
            if let Some(parked) = self.parked.remove(at) {
                self.fail_parked(parked.flight, Status::ABORT_REQUESTED);
            }
            return true;
        }
        let Some(tag) = self.flights.find(conn, cid) else { return false };
        self.abort_backlogged(tag)
    }

    /// Aborts a command that waits for room in its device queue.
    fn abort_backlogged(&mut self, tag: u32) -> bool {
        let Some(flight) = self.flights.take(tag) else { return false };
        let withdrawn =
            flight.job.is_none() && self.namespace_mut(flight.namespace).is_some_and(|ns| ns.withdraw(tag));
        if !withdrawn {
            self.flights.put(tag, flight);
            return false;
        }
        let passed = self.namespace_mut(flight.namespace).map(|ns| ns.leave(flight.parity));
        self.arrive(passed.unwrap_or_default());
        self.fail_parked(flight, Status::ABORT_REQUESTED);
        true
    }
}
