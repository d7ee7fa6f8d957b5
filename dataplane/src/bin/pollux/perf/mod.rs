//! `pollux perf`: the workloads of `spdk_nvme_perf` over our own host, one thread per core.

mod lane;
mod ledger;
mod pattern;
mod progress;
mod report;
mod worker;
pub(crate) mod workload;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use reactors::{CoreId, CoreSet};

use crate::Failure;
use crate::args::PerfArgs;
use crate::connect::{Namespace, Session};

use lane::LanePlan;
use ledger::Ledger;
use progress::{ProgressLine, RunControl};
use report::{Conditions, Report, Tally};
use worker::Worker;
pub(crate) use worker::WorkerPlan;
use workload::UnitRange;

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the main thread looks whether the workers are done.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Runs the measurement and prints its report.
pub(crate) fn run(args: &PerfArgs) -> Result<(), Failure> {
    let namespace = Session::open(&args.connect, &args.subnqn)?.namespace(args.nsid)?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let cores = cores(args.cores.as_ref())?;
    let plans = plan(args, &namespace, &cores, seed)?;
    let interrupted = on_interrupt()?;
    let cpu_before = process_cpu();
    let (tally, broken) = measure(args, plans, &interrupted)?;
    let host_cpu = (process_cpu() - cpu_before).as_secs_f64() / tally.elapsed.as_secs_f64().max(1e-9);
    let report = Report::new(conditions(args, &namespace, &cores, seed), &tally, host_cpu);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        write!(out, "{report}")?;
    }
    verdict(&tally, broken, interrupted.load(Ordering::Relaxed))
}

/// The exit status a run deserves, the gravest finding first.
fn verdict(tally: &Tally, broken: Option<String>, interrupted: bool) -> Result<(), Failure> {
    if let Some(first) = &tally.first_miscompare {
        return Err(Failure::Miscompare(format!("{} blocks differ; the first: {first}", tally.miscompares)));
    }
    if let Some(broken) = broken {
        return Err(Failure::Failed(format!("a connection was lost: {broken}")));
    }
    if let Some(first) = &tally.first_error {
        return Err(Failure::Failed(format!("{} I/Os failed; the first: {first}", tally.errors())));
    }
    if interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}

fn cores(asked: Option<&CoreSet>) -> Result<Vec<CoreId>, Failure> {
    let available = CoreSet::available();
    match asked {
        None => Ok(available.as_slice().iter().copied().take(1).collect()),
        Some(set) => match set.as_slice().iter().find(|core| !available.contains(**core)) {
            None => Ok(set.as_slice().to_vec()),
            Some(core) => Err(Failure::Usage(format!(
                "core {} is not available to this process; available: {available}",
                core.0
            ))),
        },
    }
}

/// Cuts the range into one share per queue.
fn plan(
    args: &PerfArgs,
    namespace: &Namespace,
    cores: &[CoreId],
    seed: u64,
) -> Result<Vec<WorkerPlan>, Failure> {
    let unit_bytes = unit_bytes(args, namespace)?;
    let range = unit_range(args, namespace, u64::from(unit_bytes))?;
    let queues = u64::from(args.queues);
    let total = queues * cores.len() as u64;
    if range.count < total {
        return Err(Failure::Usage(format!(
            "{} I/Os of {} bytes fit into the range, fewer than the {total} queues: use a larger range or fewer queues",
            range.count, unit_bytes
        )));
    }
    let lane = |index: u64| LanePlan {
        nsid: nvme::Nsid(args.nsid),
        workload: args.workload,
        mix: args.mix,
        // Verification needs each unit to have one writer; without it random I/O covers the whole range.
        range: if args.verify || !args.workload.is_random() { range.share(index, total) } else { range },
        unit_bytes,
        block_bytes: namespace.block_bytes,
        depth: args.depth,
        verify: args.verify,
        fua: args.fua,
        io_count: args.io_count,
        seed: seed.wrapping_add(index),
    };
    if args.verify && lane(0).range.count > Ledger::UNITS_MAX {
        return Err(Failure::Usage(format!(
            "--verify keeps book of at most {} I/Os per queue: use --length, a larger --size or more queues",
            Ledger::UNITS_MAX
        )));
    }
    Ok(cores
        .iter()
        .zip(0u64..)
        .map(|(&core, index)| WorkerPlan {
            core,
            connect: args.connect.clone(),
            subnqn: args.subnqn,
            idle_queues: args.idle_queues,
            timeout: args.timeout,
            place_data: args.place_data,
            lanes: (0..queues).map(|queue| lane(index * queues + queue)).collect(),
        })
        .collect())
}

fn unit_bytes(args: &PerfArgs, namespace: &Namespace) -> Result<u32, Failure> {
    let block = u64::from(namespace.block_bytes);
    let size = args.size.0;
    if size == 0 || !size.is_multiple_of(block) {
        return Err(Failure::Usage(format!(
            "--size is {size} bytes, expected a multiple of the block size, {block}"
        )));
    }
    if size > u64::from(namespace.transfer_bytes_max) {
        return Err(Failure::Usage(format!(
            "--size is {size} bytes, more than the controller transfers in one command ({})",
            namespace.transfer_bytes_max
        )));
    }
    u32::try_from(size).map_err(|_| Failure::Usage("--size is too large".to_owned()))
}

fn unit_range(args: &PerfArgs, namespace: &Namespace, unit: u64) -> Result<UnitRange, Failure> {
    let capacity = namespace.blocks * u64::from(namespace.block_bytes);
    let length = args.length.map_or(capacity.saturating_sub(args.offset.0), |length| length.0);
    let end = args.offset.0.checked_add(length).filter(|end| *end <= capacity);
    let Some(end) = end else {
        return Err(Failure::Usage(format!(
            "the range of {length} bytes from {} reaches beyond the namespace's {capacity} bytes",
            args.offset.0
        )));
    };
    let first = args.offset.0.div_ceil(unit);
    Ok(UnitRange { first, count: (end / unit).saturating_sub(first) })
}

/// Starts the workers, waits for them, shows progress; gives what they did and why a connection was lost, if one was.
fn measure(
    args: &PerfArgs,
    plans: Vec<WorkerPlan>,
    interrupted: &AtomicBool,
) -> Result<(Tally, Option<String>), Failure> {
    let control = Arc::new(RunControl::new(plans.len(), args.warmup, args.time));
    let workers: Vec<_> = plans
        .into_iter()
        .enumerate()
        .map(|(index, plan)| {
            let control = Arc::clone(&control);
            let name = format!("perf-{}", plan.core.0);
            thread::Builder::new().name(name).spawn(move || Worker::run(plan, index, &control))
        })
        .collect::<Result<_, _>>()?;
    let is_finished = || workers.iter().all(thread::JoinHandle::is_finished);
    watch(args, &control, interrupted, is_finished);
    let mut total = Tally::new();
    let mut broken = None;
    for worker in workers {
        let outcome = worker.join().map_err(|_| Failure::Failed("a worker panicked".to_owned()))??;
        total.merge(outcome.tally);
        broken = broken.or(outcome.broken);
    }
    Ok((total, broken))
}

/// Waits until the workers finish, and shows progress; stops them on an interrupt.
fn watch(args: &PerfArgs, control: &RunControl, interrupted: &AtomicBool, is_finished: impl Fn() -> bool) {
    let mut line = ProgressLine::new();
    let mut shown = Duration::ZERO;
    while !is_finished() {
        if interrupted.load(Ordering::Relaxed) {
            control.stop();
        }
        let elapsed = control.elapsed().unwrap_or_default();
        if !args.quiet && elapsed >= shown + PROGRESS_INTERVAL {
            line.print(control, elapsed, elapsed - shown);
            shown = elapsed;
        }
        thread::park_timeout(WATCH_INTERVAL);
    }
    if !args.quiet {
        line.finish();
    }
}

fn on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends the process at once, should a worker hang.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn conditions(args: &PerfArgs, namespace: &Namespace, cores: &[CoreId], seed: u64) -> Conditions {
    Conditions {
        transport: args.connect.transport.name(),
        traddr: args.connect.traddr.clone(),
        trsvcid: args.connect.trsvcid.to_string(),
        subnqn: args.subnqn.to_string(),
        nsid: args.nsid,
        workload: args.workload,
        mix_read_percent: args.mix,
        io_size: args.size.0,
        block_size: namespace.block_bytes,
        depth: args.depth,
        queues_per_core: args.queues,
        cores: cores.iter().map(|core| usize::from(core.0)).collect(),
        header_digest: args.connect.header_digest,
        data_digest: args.connect.data_digest,
        place_data: args.place_data,
        verify: args.verify,
        seed,
    }
}
