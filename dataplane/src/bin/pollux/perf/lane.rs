//! One I/O queue under load: keeps `depth` operations in flight, times them, and checks what comes back.
//!
//! Stages: working → draining → (sweeping, with `--verify`) → finished. A lane whose connection is lost is finished at
//! once; what was in flight counts as errors.

use fabrics::tcp::host::HostSink;
use fabrics::{IoBuffer, Now};
use nvme::{Cqe, Lba, Nsid, Sqe, Status, nvm};
use reactors::{Clock, DmaPool, IoBuf, Timestamp};
use transport::Data;
use transport::tcp::host::HostQueue;

use fabrics::tcp::host::HostData;

use super::ledger::Ledger;
use super::pattern::{self, BlockIdentity};
use super::report::Tally;
use super::workload::{Access, Generator, UnitRange, Workload};

/// Units looked at for one that is free, before the slot waits for a completion.
const PROBES_MAX: usize = 64;

/// What one lane does.
#[derive(Clone, Debug)]
pub(crate) struct LanePlan {
    pub(crate) nsid: Nsid,
    pub(crate) workload: Workload,
    pub(crate) mix: u8,
    pub(crate) range: UnitRange,
    pub(crate) unit_bytes: u32,
    pub(crate) block_bytes: u32,
    pub(crate) depth: u16,
    pub(crate) verify: bool,
    pub(crate) fua: bool,
    pub(crate) io_count: Option<u64>,
    pub(crate) seed: u64,
}

impl LanePlan {
    fn blocks_per_unit(&self) -> u32 {
        self.unit_bytes / self.block_bytes
    }

    fn lba(&self, unit: u64) -> Lba {
        Lba(unit * u64::from(self.blocks_per_unit()))
    }
}

/// One operation in flight.
#[derive(Clone, Copy)]
struct Job {
    unit: u64,
    access: Access,
    /// The generation being written, or the one a read must find.
    generation: Option<u32>,
    submitted: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Working,
    Draining,
    Sweeping,
    Finished,
}

enum Outcome {
    Answered(Status),
    Lost,
}

struct Ended {
    tag: u64,
    outcome: Outcome,
    data: Option<Data>,
}

/// Collects what ended in one receive.
struct Collector {
    ended: Vec<Ended>,
    timed_out: bool,
}

impl HostSink<Data> for Collector {
    #[inline]
    fn completed(&mut self, tag: u64, cqe: Cqe, data: Option<Data>) {
        self.ended.push(Ended { tag, outcome: Outcome::Answered(cqe.status()), data });
    }

    fn failed(&mut self, tag: u64, data: Option<Data>) {
        self.ended.push(Ended { tag, outcome: Outcome::Lost, data });
    }

    fn timed_out(&mut self, _tag: u64, _cid: u16) {
        self.timed_out = true;
    }
}

/// A connected queue and its load.
pub(crate) struct Lane {
    plan: LanePlan,
    queue: HostQueue<Data>,
    collector: Collector,
    jobs: Vec<Option<Job>>,
    free: Vec<u16>,
    buffers: Vec<Data>,
    generator: Generator,
    ledger: Option<Ledger>,
    sweep: std::vec::IntoIter<(u64, u32)>,
    stage: Stage,
    left: u64,
    broken: Option<String>,
}

impl Lane {
    /// A lane over a connected queue. `None` when `pool` has not enough buffers for its depth.
    pub(crate) fn new(plan: LanePlan, queue: HostQueue<Data>, pool: &DmaPool) -> Option<Self> {
        let mut buffers = Vec::with_capacity(usize::from(plan.depth));
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        for _ in 0..plan.depth {
            let mut buffer = pool.alloc_io(usize::try_from(plan.unit_bytes).ok()?)?;
            (0..buffer.part_count()).for_each(|part| rng.fill(buffer.part_mut(part)));
            buffers.push(Data(buffer));
        }
        Some(Self {
            queue,
            collector: Collector { ended: Vec::with_capacity(usize::from(plan.depth)), timed_out: false },
            jobs: vec![None; usize::from(plan.depth)],
            free: (0..plan.depth).rev().collect(),
            buffers,
            generator: Generator::new(plan.workload, plan.mix, plan.range, plan.seed),
            ledger: plan.verify.then(|| Ledger::new(plan.range.first, plan.range.count)),
            sweep: Vec::new().into_iter(),
            stage: Stage::Working,
            left: plan.io_count.unwrap_or(u64::MAX),
            broken: None,
            plan,
        })
    }

    /// Why the connection was lost, if it was.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.stage == Stage::Finished
    }

    /// No new work: finish what is in flight, then sweep when verifying.
    pub(crate) fn drain(&mut self) {
        if self.stage == Stage::Working {
            self.stage = Stage::Draining;
        }
    }

    /// Fills the queue for the first time.
    pub(crate) fn start(&mut self, clock: &Clock) {
        self.refill(clock.now());
        self.flush();
    }

    /// One receive, whatever follows from it, one send. Returns whether anything came.
    #[inline]
    pub(crate) fn turn(
        &mut self,
        buffer: &mut [u8],
        now: Timestamp,
        clock: &Clock,
        tally: &mut Tally,
    ) -> bool {
        let came = self.queue.receive(buffer, Now(now.as_nanos()), &mut self.collector);
        if came {
            let ended_at = clock.now();
            self.settle(ended_at, tally);
            self.refill(ended_at);
        }
        self.flush();
        came
    }

    /// Time-outs; called now and then.
    pub(crate) fn tick(&mut self, now: Timestamp, tally: &mut Tally) {
        self.queue.on_tick(Now(now.as_nanos()), &mut self.collector);
        if self.collector.timed_out && self.broken.is_none() {
            self.broken = Some("an I/O was not answered in time (see --timeout)".to_owned());
            self.queue.close(&mut self.collector);
        }
        self.settle(now, tally);
        // A stage that began with nothing in flight has no completion to start it.
        self.refill(now);
        self.flush();
    }

    fn flush(&mut self) {
        self.queue.flush(&mut self.collector);
    }

    fn settle(&mut self, now: Timestamp, tally: &mut Tally) {
        let mut ended = std::mem::take(&mut self.collector.ended);
        for end in ended.drain(..) {
            self.finish_job(end, now, tally);
        }
        // What ended while jobs were finished: nothing, for nothing was received; keep the allocation.
        self.collector.ended = ended;
        if self.broken.is_none()
            && let Some(error) = self.queue.error()
        {
            self.broken = Some(error.to_string());
        }
    }

    #[inline]
    fn finish_job(&mut self, end: Ended, now: Timestamp, tally: &mut Tally) {
        let slot = usize::try_from(end.tag).expect("tags are slots");
        let job = self.jobs[slot].take().expect("a command ends once");
        self.free.push(u16::try_from(slot).expect("fewer slots than 65,536"));
        let data = end.data.expect("every operation of a lane carries a buffer");
        match end.outcome {
            Outcome::Answered(status) if status.is_success() => {
                let latency = now.saturating_since(job.submitted);
                let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
                if self.stage != Stage::Sweeping {
                    tally.record(job.access, u64::from(self.plan.unit_bytes), latency_ns);
                }
                self.account_success(&job, &data.0, tally);
            }
            Outcome::Answered(status) => self.account_failure(&job, tally, || status.to_string()),
            Outcome::Lost => self.account_failure(&job, tally, || "connection lost".to_owned()),
        }
        self.buffers.push(data);
    }

    #[inline]
    fn account_success(&mut self, job: &Job, data: &IoBuf, tally: &mut Tally) {
        let Some(ledger) = &mut self.ledger else { return };
        match (job.access, job.generation) {
            (Access::Write, Some(generation)) => ledger.commit_write(job.unit, generation),
            (Access::Read, expected) => {
                ledger.end_read(job.unit);
                if let Some(generation) = expected {
                    self.compare(job.unit, generation, data, tally);
                }
            }
            (Access::Write, None) => unreachable!("verified writes have a generation"),
        }
    }

    #[cold]
    fn account_failure(&mut self, job: &Job, tally: &mut Tally, why: impl FnOnce() -> String) {
        let (access, lba) = (job.access, self.plan.lba(job.unit));
        tally.record_error(access, || format!("{access:?} of LBA {lba} failed: {}", why()));
        if let Some(ledger) = &mut self.ledger {
            match access {
                Access::Read => ledger.end_read(job.unit),
                Access::Write => ledger.fail_write(job.unit),
            }
        }
    }

    fn compare(&self, unit: u64, generation: u32, data: &IoBuf, tally: &mut Tally) {
        let block_bytes = usize::try_from(self.plan.block_bytes).expect("blocks are small");
        let blocks = data.slices().flat_map(|part| part.chunks_exact(block_bytes));
        for (block, lba) in blocks.zip(self.plan.lba(unit).0..) {
            let identity = BlockIdentity { lba, generation, seed: self.plan.seed };
            tally.blocks_verified += 1;
            if let Err(miscompare) = pattern::check(block, identity) {
                tally.record_miscompare(|| miscompare.to_string());
            }
        }
    }

    #[inline]
    fn refill(&mut self, now: Timestamp) {
        while !self.free.is_empty() && self.broken.is_none() {
            let Some((unit, access)) = self.next_operation() else { break };
            if !self.submit(unit, access, now) {
                break;
            }
        }
        self.advance();
    }

    #[inline]
    fn next_operation(&mut self) -> Option<(u64, Access)> {
        match self.stage {
            Stage::Working if self.left > 0 => self.pick(),
            Stage::Sweeping => self.sweep.next().map(|(unit, _)| (unit, Access::Read)),
            _ => None,
        }
    }

    #[inline]
    fn pick(&mut self) -> Option<(u64, Access)> {
        let (mut unit, access) = self.generator.next();
        if let Some(ledger) = &self.ledger {
            let is_free = |unit| match access {
                Access::Read => ledger.can_read(unit),
                Access::Write => ledger.can_write(unit),
            };
            let mut probes = 0;
            while !is_free(unit) {
                probes += 1;
                if probes == PROBES_MAX {
                    return None;
                }
                unit = self.generator.neighbour(unit);
            }
        }
        self.left -= 1;
        Some((unit, access))
    }

    #[inline]
    fn submit(&mut self, unit: u64, access: Access, now: Timestamp) -> bool {
        let Some(slot) = self.free.pop() else { return false };
        let mut data = self.buffers.pop().expect("as many buffers as slots");
        let generation = self.begin(unit, access, &mut data.0);
        self.jobs[usize::from(slot)] = Some(Job { unit, access, generation, submitted: now });
        let (sqe, data) = self.command(unit, access, data);
        let refused = self.queue.submit(sqe, data, u64::from(slot), Now(now.as_nanos()));
        let Err(refusal) = refused else { return true };
        // Only a lost connection refuses: the depth is the queue's, and sizes were checked against MDTS.
        let why = refusal.to_string();
        self.broken.get_or_insert(why);
        self.collector.ended.push(Ended {
            tag: u64::from(slot),
            outcome: Outcome::Lost,
            data: refusal.data.into_buffer(),
        });
        false
    }

    /// Books the operation and prepares a verified write's content.
    #[inline]
    fn begin(&mut self, unit: u64, access: Access, buffer: &mut IoBuf) -> Option<u32> {
        let ledger = self.ledger.as_mut()?;
        if access == Access::Read {
            return ledger.begin_read(unit);
        }
        let generation = ledger.begin_write(unit);
        let block_bytes = usize::try_from(self.plan.block_bytes).expect("blocks are small");
        let mut lba = self.plan.lba(unit).0;
        for part in 0..buffer.part_count() {
            for block in buffer.part_mut(part).chunks_exact_mut(block_bytes) {
                pattern::fill(block, BlockIdentity { lba, generation, seed: self.plan.seed });
                lba += 1;
            }
        }
        Some(generation)
    }

    #[inline]
    fn command(&self, unit: u64, access: Access, data: Data) -> (Sqe, HostData<Data>) {
        debug_assert_eq!(data.len(), usize::try_from(self.plan.unit_bytes).unwrap_or(usize::MAX));
        let (lba, blocks, nsid) = (self.plan.lba(unit), self.plan.blocks_per_unit(), self.plan.nsid);
        match access {
            Access::Read => {
                (nvm::ReadWrite::read(nsid, lba, blocks).to_sqe(0), HostData::FromController(data))
            }
            Access::Write => {
                let write = nvm::ReadWrite::write(nsid, lba, blocks);
                let write = if self.plan.fua { write.with_fua() } else { write };
                (write.to_sqe(0), HostData::ToController(data))
            }
        }
    }

    /// Moves on to the next stage when nothing is left of this one.
    #[inline]
    fn advance(&mut self) {
        let idle = self.free.len() == self.jobs.len() && self.collector.ended.is_empty();
        if idle && (self.stage != Stage::Working || self.left == 0 || self.broken.is_some()) {
            self.next_stage();
        }
    }

    fn next_stage(&mut self) {
        self.stage = match (self.stage, &self.ledger) {
            _ if self.broken.is_some() => Stage::Finished,
            (Stage::Working | Stage::Draining, Some(ledger)) => {
                self.sweep = ledger.known().collect::<Vec<_>>().into_iter();
                Stage::Sweeping
            }
            (Stage::Sweeping, _) if self.sweep.len() > 0 => Stage::Sweeping,
            _ => Stage::Finished,
        };
    }
}
