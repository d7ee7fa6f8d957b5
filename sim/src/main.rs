//! Runs seeds. A seed that fails is printed with the command that replays it.

use std::process::ExitCode;

use clap::Parser;

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
    #[arg(long, default_value_t = 60)]
    commands: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut total = sim::Outcome::default();
    for seed in args.from..args.from.saturating_add(args.seeds) {
        match sim::run(seed, args.commands) {
            Ok(outcome) => total += outcome,
            Err(failed) => {
                let commands = args.commands;
                eprintln!("{failed} --commands {commands}");
                return ExitCode::FAILURE;
            }
        }
    }
    let sim::Outcome { deaths, commands, full, records } = total;
    println!(
        "{} seeds: {commands} commands, {records} records, {full} met a full store; {deaths} power failures, no promise broken",
        args.seeds
    );
    ExitCode::SUCCESS
}
