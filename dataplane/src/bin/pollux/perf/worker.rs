//! One thread of a run: connects its queues, then turns them until the run is over.

use std::time::Duration;

use reactors::{Clock, CoreId, Timestamp};

use crate::Failure;
use crate::args::ConnectArgs;
use crate::connect::Session;

use super::lane::{Lane, LanePlan};
use super::progress::RunControl;
use super::report::Tally;

/// One receive takes what a busy target sends in a turn.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// Time between two looks at time-outs, at the end of the run, and at the live counters.
const HOUSEKEEPING: Duration = Duration::from_millis(1);
/// Turns between two looks at the clock while nothing arrives; a power of two.
const TURNS_PER_LOOK: u64 = 64;

/// What one worker is to do.
pub(crate) struct WorkerPlan {
    pub(crate) core: CoreId,
    pub(crate) connect: ConnectArgs,
    pub(crate) subnqn: nvme::Nqn,
    pub(crate) idle_queues: u16,
    pub(crate) timeout: Duration,
    /// Reads over TCP are received where they belong.
    pub(crate) place_data: bool,
    pub(crate) lanes: Vec<LanePlan>,
}

/// What one worker did.
pub(crate) struct WorkerOutcome {
    pub(crate) tally: Tally,
    pub(crate) broken: Option<String>,
}

/// A thread's connections and its bookkeeping.
pub(crate) struct Worker<'a> {
    session: Session,
    lanes: Vec<Lane>,
    clock: Clock,
    tally: Tally,
    control: &'a RunControl,
    index: usize,
    began: Timestamp,
    measuring: bool,
    stopping: bool,
    lost: Option<String>,
}

impl<'a> Worker<'a> {
    /// Runs in the calling thread until the control says stop, or the plan's counts are done.
    pub(crate) fn run(
        plan: WorkerPlan,
        index: usize,
        control: &'a RunControl,
    ) -> Result<WorkerOutcome, Failure> {
        pin(plan.core)?;
        // The run cannot begin without this one: the others are not to wait for it.
        let mut worker = Self::connect(plan, index, control).inspect_err(|_| control.stop())?;
        control.worker_ready();
        worker.turn_until_done();
        let broken = worker.lanes.iter().find_map(|lane| lane.broken().map(str::to_owned)).or(worker.lost);
        Ok(WorkerOutcome { tally: worker.tally, broken })
    }

    fn connect(plan: WorkerPlan, index: usize, control: &'a RunControl) -> Result<Self, Failure> {
        let mut session = Session::open_for_io(&plan)?;
        let lanes = plan
            .lanes
            .into_iter()
            .map(|lane| {
                let queue = session.take_queue(lane.depth)?;
                Lane::new(lane, queue, session.pool())
                    .ok_or_else(|| Failure::Failed("not enough memory for I/O buffers".to_owned()))
            })
            .collect::<Result<_, _>>()?;
        let clock = Clock::new();
        let began = clock.now();
        Ok(Self {
            session,
            lanes,
            clock,
            tally: Tally::new(),
            control,
            index,
            began,
            measuring: false,
            stopping: false,
            lost: None,
        })
    }

    fn turn_until_done(&mut self) {
        let mut buffer = vec![0; RECEIVE_BUFFER_BYTES];
        self.lanes.iter_mut().for_each(|lane| lane.start(&self.clock));
        self.began = self.clock.now();
        let mut next_look = self.began;
        let (mut turns, mut now) = (0u64, self.began);
        while !self.lanes.iter().all(Lane::is_finished) {
            turns = turns.wrapping_add(1);
            let mut came = false;
            for lane in &mut self.lanes {
                came |= lane.turn(&mut buffer, now, &self.clock, &mut self.tally);
            }
            if came || turns.is_multiple_of(TURNS_PER_LOOK) {
                now = self.clock.now();
                if now >= next_look {
                    self.keep_house(now);
                    next_look = now + HOUSEKEEPING;
                }
            }
        }
        if self.tally.elapsed.is_zero() {
            self.tally.elapsed = self.clock.now().saturating_since(self.began);
        }
    }

    fn keep_house(&mut self, now: Timestamp) {
        if !self.measuring && self.control.is_measuring() {
            // What happened while warming up does not count, but a miscompare does at any time.
            self.measuring = true;
            self.tally.restart();
            self.began = now;
        }
        for lane in &mut self.lanes {
            lane.tick(now, &mut self.tally);
        }
        if let Err(error) = self.session.tick() {
            // The I/O queues of a controller go with its admin queue.
            self.lost.get_or_insert_with(|| error.to_string());
            self.stopping = true;
            self.lanes.iter_mut().for_each(Lane::drain);
        }
        if !self.stopping && self.control.is_stopped() {
            self.stopping = true;
            self.tally.elapsed = now.saturating_since(self.began);
            self.lanes.iter_mut().for_each(Lane::drain);
        }
        let (operations, bytes) = self.tally.progress();
        self.control.workers[self.index].publish(operations, bytes, self.tally.errors());
    }
}

fn pin(core: CoreId) -> Result<(), Failure> {
    let id = core_affinity::CoreId { id: usize::from(core.0) };
    if core_affinity::set_for_current(id) {
        Ok(())
    } else {
        Err(Failure::Failed(format!("cannot run on core {}", core.0)))
    }
}
