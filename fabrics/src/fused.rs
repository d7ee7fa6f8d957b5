//! Pairing of fused operations, whose halves are adjacent in a queue (base 2.1 §3.4.2). Transport-neutral: a connection's
//! machine keeps one [`FusedFirst`] and a [`Partner`] for every command.

use nvme::{Fuse, Status};

/// The other half of a fused operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Partner {
    /// Not fused.
    None,
    /// First half; the second has not arrived.
    Awaited,
    /// The other half is in this slot.
    Slot(u16),
    /// The other half did not come, or failed: this one fails with the status.
    Lost(Status),
}

/// Whether the last command to arrive was the first half of a fused operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FusedFirst {
    /// It was not.
    None,
    /// It was, and is in this slot.
    Slot(u16),
    /// It was, and is answered already: it failed.
    Failed,
}

/// What the arrival of a command means for it and for the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pairing {
    /// A first half in this slot waited for a second that did not come: it fails with Aborted due to Missing Fused Command.
    pub(crate) abandoned: Option<u16>,
    /// The first half in this slot found its other half: the command that arrived.
    pub(crate) first: Option<u16>,
    /// The partner of the command that arrived.
    pub(crate) partner: Partner,
}

impl FusedFirst {
    /// A command arrived in `slot` with this place in a fused operation.
    #[cold]
    pub(crate) fn arrived(&mut self, slot: u16, fuse: Fuse) -> Pairing {
        let before = std::mem::replace(self, if fuse == Fuse::First { Self::Slot(slot) } else { Self::None });
        let (abandoned, first, partner) = match (before, fuse) {
            (Self::Slot(first), Fuse::Second) => (None, Some(first), Partner::Slot(first)),
            (Self::Failed, Fuse::Second) => (None, None, Partner::Lost(Status::ABORTED_FAILED_FUSED)),
            (Self::None, Fuse::Second) => (None, None, Partner::Lost(Status::ABORTED_MISSING_FUSED)),
            (before, fuse) => {
                let abandoned = if let Self::Slot(first) = before { Some(first) } else { None };
                (abandoned, None, if fuse == Fuse::First { Partner::Awaited } else { Partner::None })
            }
        };
        Pairing { abandoned, first, partner }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_that_follow_each_other_find_each_other() {
        let mut state = FusedFirst::None;
        let first = state.arrived(4, Fuse::First);
        assert_eq!(first, Pairing { abandoned: None, first: None, partner: Partner::Awaited });
        let second = state.arrived(7, Fuse::Second);
        assert_eq!(second, Pairing { abandoned: None, first: Some(4), partner: Partner::Slot(4) });
        assert_eq!(state, FusedFirst::None);
    }

    #[test]
    fn a_first_half_without_its_second_is_abandoned() {
        let mut state = FusedFirst::Slot(4);
        let next = state.arrived(5, Fuse::First);
        assert_eq!(next, Pairing { abandoned: Some(4), first: None, partner: Partner::Awaited });
        assert_eq!(state.arrived(6, Fuse::Normal).abandoned, Some(5));
    }

    #[test]
    fn a_second_half_without_its_first_fails() {
        let missing = FusedFirst::None.arrived(1, Fuse::Second);
        assert_eq!(missing.partner, Partner::Lost(Status::ABORTED_MISSING_FUSED));
        let failed = FusedFirst::Failed.arrived(1, Fuse::Second);
        assert_eq!(failed.partner, Partner::Lost(Status::ABORTED_FAILED_FUSED));
    }
}
