//! `pollux`: the command for people and scripts. Parses, dispatches, and turns every outcome into an exit code.

mod args;
mod connect;
mod device;
mod discover;
mod identify;
mod manual;
mod perf;
mod rpc;
mod size;
mod store;
mod volume;

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;

use args::{Cli, Command, RpcArgs, SocketArgs};

/// How a command ended when it did not succeed; each has an exit code, listed in `--help`.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A command or an I/O failed.
    #[error("{0}")]
    Failed(String),
    /// The arguments contradict each other or the namespace.
    #[error("{0}")]
    Usage(String),
    /// The peer could not be reached or refused.
    #[error("{0}")]
    Unreachable(String),
    /// Data differs from what was written.
    #[error("{0}")]
    Miscompare(String),
    /// A signal ended the command.
    #[error("interrupted")]
    Interrupted,
    /// The reader of our output went away.
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Miscompare(_) => 4,
            Self::Interrupted => 130,
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Discover(args) => discover::run(&args),
        Command::Identify(args) => identify::run(&args),
        Command::Perf(args) => perf::run(&args),
        Command::Store { command } => store::run(&command),
        Command::Volume { command } => volume::run(&command),
        Command::Rpc(args) => call_rpc(&args),
        Command::Device(command) => device::run(&command),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::man(dir.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // `pollux … | head` is no failure of ours.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn complain(failure: &Failure) {
    let mut out = std::io::stderr();
    let (red, plain) = if out.is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    // Nothing is left to do when standard error is closed.
    let _ = writeln!(out, "{red}pollux:{plain} {failure}");
}

fn call_rpc(args: &RpcArgs) -> Result<(), Failure> {
    let params = args.params.as_deref().map(parse_params).transpose()?;
    print_json(&call(&args.socket, &args.method, params.as_ref())?)
}

/// Calls a method of a data plane.
fn call(socket: &SocketArgs, method: &str, params: Option<&Value>) -> Result<Value, Failure> {
    rpc::call(&socket.rpc_socket, method, params, socket.timeout).map_err(|error| match error {
        rpc::RpcError::Connect { .. } => Failure::Unreachable(error.to_string()),
        other => Failure::Failed(other.to_string()),
    })
}

fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn parse_params(text: &str) -> Result<serde_json::Value, Failure> {
    let mut input = String::new();
    let text = match text {
        "-" => {
            std::io::stdin().read_to_string(&mut input)?;
            &input
        }
        text => text,
    };
    serde_json::from_str(text)
        .map_err(|error| Failure::Usage(format!("the parameters are not JSON: {error}")))
}
