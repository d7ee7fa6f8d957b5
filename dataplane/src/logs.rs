//! Structured logs: installed once, their level changed while running.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

crate::described_words! {
    /// How much is logged. The words are SPDK's; each includes the ones before it.
    pub enum LogLevel {
        /// What failed.
        Error = "ERROR",
        /// What costs speed or safety.
        Warning = "WARNING",
        /// What an operator wants to know: start, stop, changes.
        Notice = "NOTICE",
        /// Connections and controllers as they come and go.
        Info = "INFO",
        /// Everything.
        Debug = "DEBUG",
    }
}

impl LogLevel {
    /// Every level, the quietest first.
    pub const ALL: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warning, LogLevel::Notice, LogLevel::Info, LogLevel::Debug];

    /// The level of that name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(name))
    }

    const fn directive(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warning => "warn",
            LogLevel::Notice => "info",
            LogLevel::Info => "debug",
            LogLevel::Debug => "trace",
        }
    }
}

crate::described_words! {
    /// How a log line looks.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// Parts of the program that can be logged in full on their own: flag and module.
const FLAGS: [(&str, &str); 7] = [
    ("bdev", "dataplane::device"),
    ("nvmf", "dataplane::target"),
    ("nvmf_tcp", "transport::tcp"),
    ("nvmf_rdma", "transport::rdma"),
    ("fabrics", "fabrics"),
    ("reactor", "reactors"),
    ("rpc", "dataplane::rpc"),
];

/// There is no such flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log flag `{0}`")]
pub struct UnknownFlag(pub String);

type Apply = Box<dyn Fn(&str) + Send + Sync>;

/// Changes what is logged.
pub struct LogControl {
    state: Mutex<State>,
    apply: Apply,
}

struct State {
    level: LogLevel,
    flags: BTreeMap<&'static str, bool>,
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogControl")
    }
}

impl LogControl {
    /// Installs the process's logger, which writes to standard error.
    ///
    /// # Errors
    /// When there is a logger already.
    pub fn install(
        level: LogLevel,
        format: LogFormat,
    ) -> Result<Self, tracing_subscriber::util::TryInitError> {
        let (filter, handle) = reload::Layer::<_, Registry>::new(EnvFilter::new(level.directive()));
        let registry = tracing_subscriber::registry().with(filter);
        match format {
            LogFormat::Text => {
                let colour = std::io::stderr().is_terminal();
                registry.with(fmt::layer().with_ansi(colour).with_writer(std::io::stderr)).try_init()?;
            }
            LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()?,
        }
        Ok(Self::new(level, move |directives| {
            if let Err(error) = handle.reload(EnvFilter::new(directives)) {
                tracing::error!(%error, "the log level stays as it was");
            }
        }))
    }

    /// Hands every change, as a filter directive, to `apply`.
    pub fn new(level: LogLevel, apply: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let flags = FLAGS.iter().map(|(flag, _)| (*flag, false)).collect();
        Self { state: Mutex::new(State { level, flags }), apply: Box::new(apply) }
    }

    /// The level now.
    pub fn level(&self) -> LogLevel {
        self.lock().level
    }

    /// Sets the level of everything that has no flag set.
    pub fn set_level(&self, level: LogLevel) {
        self.change(|state| state.level = level);
    }

    /// Every flag, and whether it is set.
    pub fn flags(&self) -> BTreeMap<&'static str, bool> {
        self.lock().flags.clone()
    }

    /// Logs a part of the program in full, or `all`; or no longer.
    ///
    /// # Errors
    /// When there is no such flag.
    pub fn set_flag(&self, flag: &str, on: bool) -> Result<(), UnknownFlag> {
        if flag != "all" && !FLAGS.iter().any(|(name, _)| *name == flag) {
            return Err(UnknownFlag(flag.to_owned()));
        }
        self.change(|state| {
            state
                .flags
                .iter_mut()
                .filter(|(name, _)| flag == "all" || **name == flag)
                .for_each(|(_, set)| *set = on);
        });
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        (self.apply)(&state.directives());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn directives(&self) -> String {
        let flags = FLAGS.iter().filter(|(flag, _)| self.flags.get(flag).copied().unwrap_or_default());
        std::iter::once(self.level.directive().to_owned())
            .chain(flags.map(|(_, module)| format!("{module}=trace")))
            .collect::<Vec<_>>()
            .join(",")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_flag_logs_its_part_in_full_and_leaves_the_rest_alone() {
        let applied = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&applied);
        let control = LogControl::new(LogLevel::Notice, move |directives| {
            *seen.lock().expect("unpoisoned") = directives.to_owned();
        });
        control.set_flag("nvmf_tcp", true).expect("a flag");
        assert_eq!(*applied.lock().expect("unpoisoned"), "info,transport::tcp=trace");
        control.set_level(LogLevel::Error);
        control.set_flag("all", false).expect("all flags");
        assert_eq!(*applied.lock().expect("unpoisoned"), "error");
        assert_eq!(control.level(), LogLevel::Error);
        assert_eq!(control.set_flag("nonsense", true), Err(UnknownFlag("nonsense".to_owned())));
    }

    #[test]
    fn every_directive_is_one_the_filter_understands() {
        for level in LogLevel::ALL {
            assert!(EnvFilter::builder().parse(level.directive()).is_ok());
        }
    }
}
