//! Why the process ends, and with which code.

use std::process::ExitCode;

/// What ends the process other than an orderly stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(String),
    /// The machine lacks what is needed; the findings were printed.
    #[error("this machine lacks what is needed")]
    Preflight,
    /// A socket cannot be listened on.
    #[error("{0}")]
    Unavailable(String),
    /// No thread, memory or descriptor.
    #[error("{0}")]
    System(String),
    /// Reactors that did not end well.
    #[error("{0}")]
    Undrained(String),
    /// Stopped in a hurry.
    #[error("stopped by a second signal")]
    SecondSignal(u8),
}

impl Failure {
    /// As `sysexits.h` has them, and as shells number signals.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Unavailable(_) => 69,
            Failure::Undrained(_) => 70,
            Failure::System(_) => 71,
            Failure::Config(_) | Failure::Preflight => 78,
            Failure::SecondSignal(number) => 128 + number,
        })
    }
}
