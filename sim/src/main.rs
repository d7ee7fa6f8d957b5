//! Runs seeds. A seed that fails is printed with the command that replays it.

use std::num::NonZero;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser;
use sim::Plan;

/// Runs the real store and the real volumes in simulated worlds, by default the store against a device that loses power at
/// every write.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    subject: Option<Subject>,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// Replicated volumes: nodes that crash, links that fail, clocks that drift.
    Volume(VolumeArgs),
}

#[derive(clap::Args)]
struct VolumeArgs {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
}

#[derive(clap::Args)]
struct StoreArgs {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Commands in each life of a store.
    #[arg(long, default_value_t = sim::COMMANDS)]
    commands: u32,
    /// Seeds that run at the same time; as many as there are processors unless told.
    #[arg(long)]
    threads: Option<NonZero<usize>>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.subject {
        Some(Subject::Volume(args)) => run_volumes(&args),
        None => run_stores(&cli.store),
    }
}

fn run_volumes(args: &VolumeArgs) -> ExitCode {
    let mut total = sim::volume::Tally::default();
    for seed in args.from..args.from.saturating_add(args.seeds) {
        match sim::volume::run(seed, args.trace) {
            Ok(tally) => total += tally,
            Err(broken) => {
                eprintln!("seed {seed}: {broken}");
                return ExitCode::FAILURE;
            }
        }
    }
    let sim::volume::Tally {
        acknowledged,
        at_once,
        failed,
        crashes,
        cuts,
        heads,
        records,
        eras,
        copied,
        to_copy,
        snapshots,
        emptied,
        added,
        removed,
        grown,
    } = total;
    println!(
        "{} seeds: {acknowledged} commands acknowledged, {at_once} of them reads at once, {failed} failed; {crashes} crashes, {cuts} cuts, {records} records, \
         {heads} times active, {eras} times unflushed; {copied} of {to_copy} regions copied; {snapshots} snapshots; {emptied} disks \
         replaced; {added} replicas added, {removed} removed, {grown} times grown; no promise broken",
        args.seeds
    );
    ExitCode::SUCCESS
}

fn run_stores(args: &StoreArgs) -> ExitCode {
    let threads = args.threads.or_else(|| available_parallelism().ok()).map_or(1, NonZero::get);
    let plan = Plan { from: args.from, seeds: args.seeds, commands: args.commands };
    match sim::run_all(plan, threads) {
        Ok(outcome) => {
            println!("{} seeds: {outcome}; no promise broken", args.seeds);
            ExitCode::SUCCESS
        }
        Err(failed) => {
            eprintln!("{failed}");
            ExitCode::FAILURE
        }
    }
}
