//! Runs seeds. A seed that fails is printed with the command that replays it.

use std::num::NonZero;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser;
use sim::Plan;

/// Runs the real store against a device that loses power at every write.
#[derive(Parser)]
#[command(version)]
struct Args {
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
    let args = Args::parse();
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
