//! Reservations of one namespace (base 2.1 §8.1.22): who is registered, who holds it, what that allows.
//!
//! The state is changed under a lock by reservation commands only. Every change moves `generation`; reactors keep a
//! copy and compare that number on each I/O, so the path of an I/O takes no lock. Reservations do not persist through a
//! power loss, and say so (RESCAP.PTPLS = 0).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use nvme::nvm::{
    AcquireAction, ChangePersistence, RegisterAction, ReleaseAction, ReservationAcquire, ReservationRegister,
    ReservationRelease, ReservationType,
};
use nvme::{ControllerId, HostId, Status};

use super::limits::REGISTRANTS_MAX;
use super::shared::locked;

/// What a host is told about a reservation; the value is the log page type (base 2.1 §5.1.12.1.32).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Notice {
    RegistrationPreempted = 1,
    ReservationReleased = 2,
    ReservationPreempted = 3,
}

/// One registered host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Registrant {
    pub(super) host: HostId,
    pub(super) key: u64,
    pub(super) controller: ControllerId,
}

/// What a command does with data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    Write,
}

/// Everything that is known of a namespace's reservation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct State {
    /// PRGEN: counts registrations, preemptions and clears.
    pub(super) generation: u32,
    /// [`ReservationType::NONE`] when nobody holds it.
    pub(super) kind: ReservationType,
    /// The holder; `None` without a reservation and when every registrant holds it.
    pub(super) holder: Option<HostId>,
    pub(super) registrants: Vec<Registrant>,
}

/// What a successful command leads to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Outcome {
    /// Whom to tell what.
    pub(super) notices: Vec<(HostId, Notice)>,
    /// Wait until the I/O in flight is finished (Preempt and Abort).
    pub(super) drain: bool,
}

const fn all_registrants(kind: ReservationType) -> bool {
    matches!(
        kind,
        ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS | ReservationType::EXCLUSIVE_ACCESS_ALL_REGISTRANTS
    )
}

const fn registrants_only(kind: ReservationType) -> bool {
    matches!(
        kind,
        ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY
            | ReservationType::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
    )
}

const CONFLICT: Status = Status::RESERVATION_CONFLICT;
const INVALID: Status = Status::INVALID_FIELD.dnr();

impl State {
    fn registrant(&self, host: &HostId) -> Option<&Registrant> {
        self.registrants.iter().find(|registrant| registrant.host == *host)
    }

    /// Whether this host holds the reservation.
    pub(super) fn holds(&self, host: &HostId) -> bool {
        self.holder == Some(*host) || all_registrants(self.kind) && self.registrant(host).is_some()
    }

    /// Whether a host's command conflicts (base 2.1 §8.1.22, "Command Behavior in the Presence of a Reservation").
    pub(super) fn conflicts(&self, host: &HostId, access: Access) -> bool {
        if self.kind == ReservationType::NONE || self.holds(host) {
            return false;
        }
        let excludes_reads = matches!(
            self.kind,
            ReservationType::EXCLUSIVE_ACCESS
                | ReservationType::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
                | ReservationType::EXCLUSIVE_ACCESS_ALL_REGISTRANTS
        );
        let admits_registrants = registrants_only(self.kind) || all_registrants(self.kind);
        let excluded = access == Access::Write || excludes_reads;
        excluded && !(admits_registrants && self.registrant(host).is_some())
    }

    /// Reservation Register (base 2.1 §7.6).
    pub(super) fn register(
        &mut self,
        by: (HostId, ControllerId),
        command: &ReservationRegister,
        current: u64,
        new: u64,
    ) -> Result<Outcome, Status> {
        if matches!(command.persistence, ChangePersistence::RESERVED | ChangePersistence::SET) {
            return Err(INVALID);
        }
        let outcome = match command.action {
            RegisterAction::REGISTER => self.add(by, new)?,
            RegisterAction::UNREGISTER => self.unregister(&by.0, command.ignore_key, current)?,
            RegisterAction::REPLACE => self.replace(by, command.ignore_key, current, new)?,
            _ => return Err(INVALID),
        };
        self.generation = self.generation.wrapping_add(1);
        Ok(outcome)
    }

    fn add(&mut self, (host, controller): (HostId, ControllerId), key: u64) -> Result<Outcome, Status> {
        if key == 0 {
            return Err(INVALID);
        }
        match self.registrant(&host) {
            Some(registrant) if registrant.key == key => Ok(Outcome::default()),
            Some(_) => Err(CONFLICT),
            None if self.registrants.len() == REGISTRANTS_MAX => Err(Status::NOT_ENOUGH_RESOURCES),
            None => {
                self.registrants.push(Registrant { host, key, controller });
                Ok(Outcome::default())
            }
        }
    }

    fn unregister(&mut self, host: &HostId, ignore_key: bool, current: u64) -> Result<Outcome, Status> {
        let registrant = self.registrant(host).ok_or(CONFLICT)?;
        if !ignore_key && registrant.key != current {
            return Err(CONFLICT);
        }
        let was = self.kind;
        self.registrants.retain(|registrant| registrant.host != *host);
        self.release_without_holder(host);
        let released = was != self.kind && registrants_only(was);
        Ok(if released { self.tell_others(host, Notice::ReservationReleased) } else { Outcome::default() })
    }

    fn replace(
        &mut self,
        by: (HostId, ControllerId),
        ignore_key: bool,
        current: u64,
        new: u64,
    ) -> Result<Outcome, Status> {
        if new == 0 {
            return Err(INVALID);
        }
        match self.registrants.iter_mut().find(|registrant| registrant.host == by.0) {
            Some(registrant) if ignore_key || registrant.key == current => {
                registrant.key = new;
                Ok(Outcome::default())
            }
            None if ignore_key => self.add(by, new),
            _ => Err(CONFLICT),
        }
    }

    /// Ends the reservation if `gone` held it alone, or was the last of all registrants.
    fn release_without_holder(&mut self, gone: &HostId) {
        let last = all_registrants(self.kind) && self.registrants.is_empty();
        if self.holder == Some(*gone) || last {
            (self.kind, self.holder) = (ReservationType::NONE, None);
        }
    }

    fn tell_others(&self, by: &HostId, notice: Notice) -> Outcome {
        let others = self.registrants.iter().map(|registrant| registrant.host).filter(|host| host != by);
        Outcome { notices: others.map(|host| (host, notice)).collect(), drain: false }
    }

    /// Whether `host` is registered with `key`, without which it may neither acquire nor release.
    fn check_key(&self, host: &HostId, key: u64) -> Result<(), Status> {
        match self.registrant(host) {
            Some(registrant) if registrant.key == key => Ok(()),
            _ => Err(CONFLICT),
        }
    }

    /// Reservation Acquire (base 2.1 §7.5).
    pub(super) fn acquire(
        &mut self,
        host: HostId,
        command: &ReservationAcquire,
        current: u64,
        preempted: u64,
    ) -> Result<Outcome, Status> {
        let known = (1..=6).contains(&command.kind.0);
        if command.ignore_key || !known {
            return Err(INVALID);
        }
        self.check_key(&host, current)?;
        match command.action {
            AcquireAction::ACQUIRE => self.take(host, command.kind),
            AcquireAction::PREEMPT => self.preempt(host, command.kind, preempted),
            AcquireAction::PREEMPT_AND_ABORT => {
                let outcome = self.preempt(host, command.kind, preempted)?;
                Ok(Outcome { drain: true, ..outcome })
            }
            _ => Err(INVALID),
        }
    }

    fn take(&mut self, host: HostId, kind: ReservationType) -> Result<Outcome, Status> {
        if self.kind == ReservationType::NONE {
            self.set_holder(host, kind);
            return Ok(Outcome::default());
        }
        if self.holds(&host) && self.kind == kind { Ok(Outcome::default()) } else { Err(CONFLICT) }
    }

    fn set_holder(&mut self, host: HostId, kind: ReservationType) {
        self.kind = kind;
        self.holder = if all_registrants(kind) { None } else { Some(host) };
    }

    /// Preempt (base 2.1 §8.1.22.7): unregisters the hosts of a key, and takes the reservation if one of them held it.
    fn preempt(&mut self, host: HostId, kind: ReservationType, key: u64) -> Result<Outcome, Status> {
        let was = self.kind;
        let everybody = all_registrants(was) && key == 0;
        let holder_key = self.holder.and_then(|holder| self.registrant(&holder)).map(|holder| holder.key);
        let takes = everybody || holder_key == Some(key) && was != ReservationType::NONE;
        let own = self.registrant(&host).is_some_and(|registrant| registrant.key == key);
        let victims: Vec<HostId> = self
            .registrants
            .iter()
            .filter(|registrant| everybody || registrant.key == key)
            .map(|registrant| registrant.host)
            .filter(|victim| *victim != host)
            .collect();
        if !takes && (key == 0 || victims.is_empty() && !own) {
            return Err(CONFLICT);
        }
        self.registrants.retain(|registrant| !victims.contains(&registrant.host));
        if takes {
            self.set_holder(host, kind);
        } else if own {
            self.registrants.retain(|registrant| registrant.host != host);
            self.release_without_holder(&host);
        }
        self.generation = self.generation.wrapping_add(1);
        let mut outcome = Outcome::default();
        if takes && was != self.kind {
            outcome = self.tell_others(&host, Notice::ReservationReleased);
        }
        outcome.notices.extend(victims.into_iter().map(|victim| (victim, Notice::RegistrationPreempted)));
        Ok(outcome)
    }

    /// Reservation Release (base 2.1 §7.7).
    pub(super) fn release(
        &mut self,
        host: HostId,
        command: &ReservationRelease,
        current: u64,
    ) -> Result<Outcome, Status> {
        if command.ignore_key {
            return Err(INVALID);
        }
        self.check_key(&host, current)?;
        match command.action {
            ReleaseAction::RELEASE => self.let_go(&host, command.kind),
            ReleaseAction::CLEAR => Ok(self.clear(&host)),
            _ => Err(INVALID),
        }
    }

    fn let_go(&mut self, host: &HostId, kind: ReservationType) -> Result<Outcome, Status> {
        if !self.holds(host) {
            return Ok(Outcome::default());
        }
        if self.kind != kind {
            return Err(INVALID);
        }
        (self.kind, self.holder) = (ReservationType::NONE, None);
        let shared = registrants_only(kind) || all_registrants(kind);
        Ok(if shared { self.tell_others(host, Notice::ReservationReleased) } else { Outcome::default() })
    }

    fn clear(&mut self, host: &HostId) -> Outcome {
        let outcome = self.tell_others(host, Notice::ReservationPreempted);
        let generation = self.generation.wrapping_add(1);
        *self = Self { generation, ..Self::default() };
        outcome
    }
}

/// The reservation of one namespace, shared by all reactors.
#[derive(Default)]
pub(super) struct Reservations {
    generation: AtomicU64,
    state: Mutex<State>,
}

/// The state, changeable; reactors learn of it when this is dropped.
pub(super) struct Changing<'a> {
    reservations: &'a Reservations,
    state: MutexGuard<'a, State>,
}

impl Changing<'_> {
    pub(super) fn state(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.reservations.generation.fetch_add(1, Ordering::SeqCst);
    }
}

impl Reservations {
    /// Moves with every change of the state.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// A copy of the state and the number it belongs to (or an older one: then it is copied again).
    pub(super) fn snapshot(&self) -> (u64, State) {
        let generation = self.generation();
        (generation, locked(&self.state).clone())
    }

    pub(super) fn change(&self) -> Changing<'_> {
        Changing { reservations: self, state: locked(&self.state) }
    }
}
