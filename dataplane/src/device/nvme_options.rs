//! How NVMe controllers are treated that namespaces are taken from, of this machine and of others.

use std::time::Duration;

use crate::described_words;

described_words! {
    /// What becomes of a command of a local controller that is not answered in time.
    pub enum TimeoutAction {
        /// It is logged and counted.
        None = "none",
        /// The controller is reset; commands are given again.
        Reset = "reset",
        /// It is aborted, and ends with Command Abort Requested; the controller is reset if it does not abort it.
        Abort = "abort",
    }
}

/// See the module. What is not given has a default of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NvmeOptions {
    /// Time of an I/O command; zero is no limit for local controllers and the default for those of other targets.
    pub timeout: Duration,
    /// Time of an admin command of a local controller; zero for that of I/O commands.
    pub timeout_admin: Duration,
    /// What becomes of a late command of a local controller.
    pub action: TimeoutAction,
    /// Keep-alive time-out asked of other targets.
    pub keep_alive: Option<Duration>,
    /// How often RDMA sends again what is not acknowledged, 0 to 7.
    pub transport_retries: Option<u8>,
}

impl Default for NvmeOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::ZERO,
            timeout_admin: Duration::ZERO,
            action: TimeoutAction::None,
            keep_alive: None,
            transport_retries: None,
        }
    }
}

/// What a controller went through since it was attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ControllerCounts {
    /// Asynchronous events.
    pub events: u64,
    /// Commands that were not answered in time, admin commands included.
    pub late_commands: u64,
    /// Late commands that it was asked to abort.
    pub aborts: u64,
    /// Resets that it came up from.
    pub resets: u64,
}

/// What is done about a late command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "spdk"), allow(dead_code, reason = "only local controllers have late commands"))]
pub(super) enum Remedy {
    /// Nothing but counting.
    Wait,
    /// The controller is asked to abort it.
    Abort,
    /// The controller is reset.
    Reset,
}

#[cfg_attr(not(feature = "spdk"), allow(dead_code, reason = "only local controllers have late commands"))]
impl TimeoutAction {
    /// What is done about a late I/O command.
    pub(super) fn of_io(self) -> Remedy {
        match self {
            Self::None => Remedy::Wait,
            Self::Abort => Remedy::Abort,
            Self::Reset => Remedy::Reset,
        }
    }

    /// What is done when the controller does not answer an admin command, or does not abort what it should: nothing less
    /// than a reset would reach it.
    pub(super) fn of_controller(self) -> Remedy {
        match self {
            Self::None => Remedy::Wait,
            Self::Abort | Self::Reset => Remedy::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_does_not_abort_is_reset_unless_nothing_is_to_be_done() {
        use TimeoutAction::{Abort, None, Reset};
        assert_eq!(
            [None, Abort, Reset].map(TimeoutAction::of_io),
            [Remedy::Wait, Remedy::Abort, Remedy::Reset]
        );
        let controller = [None, Abort, Reset].map(TimeoutAction::of_controller);
        assert_eq!(controller, [Remedy::Wait, Remedy::Reset, Remedy::Reset]);
    }
}
