//! The daemon: reads its configuration, looks whether the machine has what it needs, serves until it is told to stop.

mod cli;
mod daemon;
mod exit;

use std::process::ExitCode;

use clap::Parser;
use dataplane::config::{ConfigError, Transport};
use dataplane::logs::LogControl;
use dataplane::preflight::{Facts, Finding, Plan, Severity, check, raise_limits};

use cli::{Cli, Settings};
use exit::Failure;

/// Bytes of the two sizes of buffers.
const BUFFER_BYTES: [u64; 2] = [reactors::dma::SMALL_SLOT_SIZE as u64, reactors::dma::LARGE_SLOT_SIZE as u64];

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pollux-dataplane: {failure}");
            failure.code()
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let settings = cli.settings()?;
    if cli.check_config {
        return check_config(cli, &settings);
    }
    raise_limits();
    let findings = check_machine(&settings);
    if cli.preflight {
        return report(&findings);
    }
    let log = LogControl::install(settings.config.log.level, settings.config.log.format)
        .map_err(|error| Failure::System(error.to_string()))?;
    for finding in &findings {
        let Finding { severity, missing, cost, fix } = finding;
        match severity {
            Severity::Warning => tracing::warn!(%missing, cost, %fix, "preflight"),
            Severity::Error => tracing::error!(%missing, cost, %fix, "preflight"),
        }
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(Failure::Preflight);
    }
    daemon::run(&settings, log)
}

/// Everything that can be said about a configuration without acting on it.
fn check_config(cli: &Cli, settings: &Settings) -> Result<(), Failure> {
    let path = cli.config.clone().unwrap_or_default();
    let invalid = |what: String, message: String| {
        Failure::Config(ConfigError::Invalid { path: path.clone(), what, message }.to_string())
    };
    let calls = settings.config.calls().map_err(|error| invalid(error.what, error.message))?;
    for call in calls {
        dataplane::rpc::check_call(call.method, call.params)
            .map_err(|error| invalid(call.what, error.message))?;
    }
    println!("{}: good", path.display());
    Ok(())
}

fn check_machine(settings: &Settings) -> Vec<Finding> {
    let config = &settings.config;
    let buffers = [config.buffers.small, config.buffers.large];
    // A device of RDMA says itself whether an address is its own, when it is listened on.
    let mut addresses = config.listen_addresses(Transport::Tcp);
    addresses.extend(config.metrics.address);
    addresses.sort_unstable();
    addresses.dedup();
    let plan = Plan {
        cores: settings.cores.as_slice().iter().map(|core| core.0).collect(),
        buffer_bytes_per_reactor: buffers
            .iter()
            .zip(BUFFER_BYTES)
            .map(|(n, bytes)| u64::from(*n) * bytes)
            .sum(),
        files: config
            .devices
            .iter()
            .filter(|device| device.size.is_none())
            .filter_map(|device| device.path.clone())
            .collect(),
        addresses,
    };
    check(&Facts::gather(&plan), &plan)
}

fn report(findings: &[Finding]) -> Result<(), Failure> {
    findings.iter().for_each(|finding| println!("{finding}"));
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(Failure::Preflight);
    }
    if findings.is_empty() {
        println!("nothing is missing");
    }
    Ok(())
}
