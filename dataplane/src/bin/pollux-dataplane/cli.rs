//! The command line, and the settings that it and the configuration file make together.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use dataplane::config::Config;
use dataplane::logs::{LogFormat, LogLevel};
use reactors::CoreSet;

use crate::exit::Failure;

/// Variable of the environment that sets the log level.
const LOG_VARIABLE: &str = "POLLUX_LOG";

/// Serves NVMe over TCP.
///
/// Starts empty, to be set up by JSON-RPC on a unix socket, or with what a configuration file describes.
#[derive(Debug, Parser)]
#[command(name = "pollux-dataplane", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// TOML configuration (docs/configuration.md).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Say what is wrong with the configuration, and exit.
    #[arg(long, requires = "config")]
    pub(crate) check_config: bool,
    /// Say what this machine lacks, and exit.
    #[arg(long)]
    pub(crate) preflight: bool,
    /// Unix socket for JSON-RPC [default: /var/run/pollux/dataplane.sock].
    #[arg(long, short = 'r', value_name = "PATH")]
    pub(crate) rpc_socket: Option<PathBuf>,
    /// Cores for reactors: a list (0-3,8) or a mask (0xf) [default: 0].
    #[arg(long, short = 'm', value_name = "LIST")]
    pub(crate) cores: Option<CoreSet>,
    /// Answer Prometheus at this address, e.g. 127.0.0.1:9464.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// How much to log: error, warning, notice, info, debug [default: notice].
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub(crate) log_level: Option<LogLevel>,
    /// How a log line looks: text, json [default: text].
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub(crate) log_format: Option<LogFormat>,
}

const EXIT_CODES: &str = "\
Signals: SIGINT and SIGTERM drain and exit, a second one exits at once; SIGHUP and SIGUSR1 are ignored.

Exit codes: 0 drained and stopped; 2 wrong usage; 69 the RPC socket or the metrics address is taken;
70 a reactor did not drain or panicked; 71 the system gave no thread, memory or descriptor; 78 the configuration is wrong
or the machine lacks what it needs; 130, 143 stopped by a second signal.";

fn level(text: &str) -> Result<LogLevel, String> {
    LogLevel::parse(text).ok_or_else(|| "one of error, warning, notice, info, debug".to_owned())
}

fn format(text: &str) -> Result<LogFormat, String> {
    [LogFormat::Text, LogFormat::Json]
        .into_iter()
        .find(|format| format.as_str() == text)
        .ok_or_else(|| "one of text, json".to_owned())
}

/// The configuration with what the command line and the environment say in its place.
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) cores: CoreSet,
}

impl Cli {
    /// Reads the file and applies the options.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let mut config = match &self.config {
            Some(path) => Config::load(path).map_err(|error| Failure::Config(error.to_string()))?,
            None => Config::default(),
        };
        if let Some(socket) = &self.rpc_socket {
            config.rpc.socket.clone_from(socket);
        }
        config.metrics.address = self.metrics.or(config.metrics.address);
        config.log.level = match (self.log_level, std::env::var(LOG_VARIABLE)) {
            (Some(level), _) => level,
            (None, Ok(text)) => {
                level(&text).map_err(|error| Failure::Config(format!("{LOG_VARIABLE}: {error}")))?
            }
            (None, Err(_)) => config.log.level,
        };
        config.log.format = self.log_format.unwrap_or(config.log.format);
        let cores = match &self.cores {
            Some(cores) => cores.clone(),
            None => config.reactors.cores.parse().map_err(|error| {
                Failure::Config(format!("reactors.cores `{}`: {error}", config.reactors.cores))
            })?,
        };
        Ok(Settings { config, cores })
    }
}
