//! Snapshots of a replica that lies on a volume of a store. Everything here blocks: errands have a thread of their own.
//!
//! A snapshot of volume `r` named `monday` is `r@monday` in the store, and `r@monday~` until a head has confirmed it. What
//! moment it holds stands in the replica's superblock within it: the superblock says so while the snapshot is taken, and nothing
//! of that moment is changed before it no longer does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::errand::{Errand, ErrandError, ErrandKind, Held, LIST_MAX, Progress, Report};
use super::error::ReplicationError;
use super::replica::{Disk, ReplicaDevice, Shared};
use crate::lvol::{StoreError, StoreSet, Volume};
use crate::store::VolumeKind;
use crate::volume::format::{Content, Superblock};
use crate::volume::{Epoch, Lineage, Session};

/// Between a volume's name and that of its snapshot.
const SEPARATOR: char = '@';
/// Ends the name of a snapshot that is not confirmed.
const UNCONFIRMED: char = '~';
/// How long a superblock that is on its way is waited for, and how often it is looked at.
const PERSISTING_MAX: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Moments that are remembered as called off: a call that is that late is none.
const DROPPED_MAX: usize = 64;

/// What became of a replica's errands.
#[derive(Default)]
pub(super) struct Errands(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    last: Option<Report>,
    /// Moments that were called off: a call to take one of them came too late.
    dropped: VecDeque<Uuid>,
}

impl Errands {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of the last one.
    pub(super) fn report(&self) -> Option<Report> {
        self.lock().last.clone()
    }

    fn finish(&self, id: u64, progress: Progress) {
        self.lock().last = Some(Report { id, progress });
    }

    fn call_off(&self, moment: Uuid) {
        let mut memory = self.lock();
        if memory.dropped.len() == DROPPED_MAX {
            memory.dropped.pop_front();
        }
        memory.dropped.push_back(moment);
    }

    fn is_called_off(&self, moment: Uuid) -> bool {
        self.lock().dropped.contains(&moment)
    }
}

/// Whether a name can be that of a snapshot of replicas.
pub(super) fn is_name(name: &str) -> bool {
    let bad = |c: char| c == SEPARATOR || c == UNCONFIRMED || c == '/' || c.is_control() || c.is_whitespace();
    !name.is_empty() && !name.contains(bad)
}

/// Begins an errand of the head that is attached; `false` when another is under way.
pub(super) fn begin(shared: &Arc<Shared>, session: Session, errand: Errand) -> bool {
    let id = errand.id;
    let mut memory = shared.errands.lock();
    if memory.last.as_ref().is_some_and(|report| report.progress == Progress::Running) {
        return false;
    }
    memory.last = Some(Report { id, progress: Progress::Running });
    drop(memory);
    let own = Arc::clone(shared);
    let work = move || {
        let progress = run(&own, session, &errand).unwrap_or_else(|failure| {
            tracing::warn!(?errand, error = failure.1, "an errand of a head failed");
            Progress::Failed(failure.0, failure.1)
        });
        own.errands.finish(id, progress);
    };
    if let Err(error) = std::thread::Builder::new().name("errand".to_owned()).spawn(work) {
        shared.errands.finish(id, Progress::Failed(ErrandError::Other, error.to_string()));
    }
    true
}

/// Why an errand failed.
struct Failure(ErrandError, String);

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            StoreError::NoVolume { .. } => ErrandError::Missing,
            _ => ErrandError::Other,
        };
        Self(kind, error.to_string())
    }
}

impl From<ReplicationError> for Failure {
    fn from(error: ReplicationError) -> Self {
        Self(ErrandError::Other, error.to_string())
    }
}

/// The volume of a store that a replica lies on.
struct Base<'a> {
    shared: &'a Shared,
    stores: Arc<StoreSet>,
    volume: Volume,
}

fn run(shared: &Shared, session: Session, errand: &Errand) -> Result<Progress, Failure> {
    let base = Base::find(shared)?;
    let Errand { kind, moment, name, .. } = errand;
    if !matches!(kind, ErrandKind::List { .. }) && !is_name(name) {
        return Err(Failure(ErrandError::Other, format!("{name:?} is no name of a snapshot")));
    }
    match *kind {
        ErrandKind::Probe => base.probe(name)?,
        ErrandKind::Take => base.take(session, *moment, name)?,
        ErrandKind::Keep => base.keep(*moment, name)?,
        ErrandKind::Drop => base.drop_unconfirmed(*moment, name)?,
        ErrandKind::Delete => base.delete(name)?,
        ErrandKind::List { from } => return base.list(from as usize),
    }
    Ok(Progress::Done { list: Vec::new(), total: 0 })
}

impl ReplicaDevice {
    /// Gives it the content of its snapshot of that name and moment, and refuses heads below `epoch`, also after a restart.
    ///
    /// A crash in the middle leaves a device that is found to be what a snapshot held, so that it is given everything.
    pub(super) fn roll_back(&self, name: &str, moment: Uuid, epoch: Epoch) -> Result<(), ReplicationError> {
        let shared = self.shared();
        let (replica, said) = (shared.name().to_owned(), |Failure(_, message): Failure| message);
        let base = Base::find(shared)
            .map_err(said)
            .map_err(|message| ReplicationError::NoStoreVolume { replica: replica.clone(), message })?;
        let alias = base.alias(name, true);
        if !base.has(name, true) || moment.is_nil() || base.moment_of(&alias) != moment {
            return Err(ReplicationError::NoMoment { device: alias });
        }
        self.forbid(epoch)?;
        let superblock = {
            let mut state = shared.lock();
            let accepted = state.machine.state();
            if accepted.epoch >= epoch {
                return Err(ReplicationError::Later { replica, epoch: accepted.epoch.0 });
            }
            if state.persisting || state.machine.session().is_some() || state.machine.is_busy() {
                return Err(ReplicationError::Attaching(replica));
            }
            // Until it is over no head is accepted; if it fails half done, none is before a restart.
            state.persisting = true;
            let occasion = Uuid::new_v5(&moment, &epoch.0.to_le_bytes());
            Superblock {
                content: Content::Whole,
                lineage: Lineage::of_moment(occasion.as_u128()),
                state: accepted,
                moment: Uuid::nil(),
                ..state.superblock
            }
        };
        if let Err(error) = base.stores.roll_back(&base.volume.alias(), &alias) {
            shared.lock().persisting = false;
            return Err(error.into());
        }
        let sequence = shared.lock().sequence;
        let sequence = Disk::open(&shared.base)?.replace(&superblock, sequence)?;
        let mut state = shared.lock();
        (state.superblock, state.sequence, state.persisting) = (superblock, sequence, false);
        state.machine.replaced();
        Ok(())
    }
}

impl<'a> Base<'a> {
    fn find(shared: &'a Shared) -> Result<Self, Failure> {
        let none = |_| {
            let name = shared.base.info().name;
            let message = format!("the replica lies on device {name}, which is no volume of a store");
            Failure(ErrandError::NoStore, message)
        };
        let stores = shared.stores.upgrade().ok_or(()).map_err(none)?;
        let (_, volume) = stores.find_volume(&shared.base.info().name).map_err(|_| none(()))?;
        Ok(Self { shared, stores, volume })
    }

    /// The name of a snapshot within the store.
    fn short(&self, name: &str, confirmed: bool) -> String {
        let mut short = format!("{}{SEPARATOR}{name}", self.volume.info.name);
        if !confirmed {
            short.push(UNCONFIRMED);
        }
        short
    }

    fn alias(&self, name: &str, confirmed: bool) -> String {
        format!("{}/{}", self.volume.store, self.short(name, confirmed))
    }

    fn has(&self, name: &str, confirmed: bool) -> bool {
        self.stores.find_volume(&self.alias(name, confirmed)).is_ok()
    }

    fn probe(&self, name: &str) -> Result<(), Failure> {
        for confirmed in [true, false] {
            if self.has(name, confirmed) {
                let alias = self.alias(name, confirmed);
                return Err(Failure(ErrandError::Exists, format!("there is a snapshot {alias}")));
            }
        }
        Ok(())
    }

    fn take(&self, session: Session, moment: Uuid, name: &str) -> Result<(), Failure> {
        if self.shared.errands.is_called_off(moment) {
            return Err(Failure(ErrandError::Other, "it was called off meanwhile".to_owned()));
        }
        self.probe(name)?;
        let mut disk = Disk::open(&self.shared.base)?;
        let superblock = self.begin_persisting(session)?;
        let taken = self.take_stamped(&mut disk, superblock, moment, name);
        let mut state = self.shared.lock();
        state.persisting = false;
        let (copied, stamped) = taken;
        if stamped {
            // Nothing may change while the superblock calls it that moment.
            state.machine.detach();
        }
        drop(state);
        copied
    }

    /// What came of it, and whether the superblock may still name the moment.
    fn take_stamped(
        &self,
        disk: &mut Disk,
        superblock: Superblock,
        moment: Uuid,
        name: &str,
    ) -> (Result<(), Failure>, bool) {
        if let Err(failure) = self.write(disk, &Superblock { moment, ..superblock }) {
            return (Err(failure), true);
        }
        let short = self.short(name, false);
        let copied = self.stores.copy_volume(&self.volume.alias(), &short, VolumeKind::Snapshot);
        match self.write(disk, &superblock) {
            Ok(()) => (copied.map(drop).map_err(Failure::from), false),
            Err(failure) => (Err(failure), true),
        }
    }

    /// Keeps others from writing the superblock; no other head is accepted until that is over.
    fn begin_persisting(&self, session: Session) -> Result<Superblock, Failure> {
        let deadline = Instant::now() + PERSISTING_MAX;
        loop {
            let mut state = self.shared.lock();
            if state.machine.session() != Some(session) {
                return Err(Failure(ErrandError::Other, "the head is no longer attached".to_owned()));
            }
            if !state.persisting {
                state.persisting = true;
                return Ok(state.superblock);
            }
            drop(state);
            if Instant::now() > deadline {
                return Err(Failure(ErrandError::Other, "the superblock cannot be written now".to_owned()));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn write(&self, disk: &mut Disk, superblock: &Superblock) -> Result<(), Failure> {
        let sequence = {
            let mut state = self.shared.lock();
            state.sequence += 1;
            state.sequence
        };
        Ok(disk.write_superblock(superblock, sequence)?)
    }

    /// The moment that a snapshot holds; nil when it cannot be told.
    fn moment_of(&self, alias: &str) -> Uuid {
        let found = self.stores.device(alias).ok().and_then(|device| {
            let mut disk = Disk::open(&device).ok()?;
            disk.superblock().ok().flatten()
        });
        found.map_or(Uuid::nil(), |(superblock, _)| superblock.moment)
    }

    fn keep(&self, moment: Uuid, name: &str) -> Result<(), Failure> {
        let alias = self.alias(name, false);
        if !self.has(name, false) || self.moment_of(&alias) != moment {
            return Err(Failure(
                ErrandError::Missing,
                format!("there is no snapshot {alias} of that moment"),
            ));
        }
        Ok(self.stores.rename_volume(&alias, &self.short(name, true))?)
    }

    fn drop_unconfirmed(&self, moment: Uuid, name: &str) -> Result<(), Failure> {
        self.shared.errands.call_off(moment);
        let alias = self.alias(name, false);
        // One of another moment is another call's.
        if self.has(name, false) && self.moment_of(&alias) == moment {
            self.stores.delete_volume(&alias)?;
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), Failure> {
        let mut found = false;
        for confirmed in [true, false] {
            if self.has(name, confirmed) {
                self.stores.delete_volume(&self.alias(name, confirmed))?;
                found = true;
            }
        }
        let missing =
            || Failure(ErrandError::Missing, format!("there is no snapshot {}", self.alias(name, true)));
        found.then_some(()).ok_or_else(missing)
    }

    fn list(&self, from: usize) -> Result<Progress, Failure> {
        let (store, _) = self.stores.find_volume(&self.volume.alias())?;
        let prefix = format!("{}{SEPARATOR}", self.volume.info.name);
        let mut names: Vec<(String, bool)> = store
            .volumes()?
            .into_iter()
            .filter(|volume| volume.info.kind == VolumeKind::Snapshot)
            .filter_map(|volume| {
                let name = volume.info.name.strip_prefix(&prefix)?;
                Some(match name.strip_suffix(UNCONFIRMED) {
                    Some(name) => (name.to_owned(), false),
                    None => (name.to_owned(), true),
                })
            })
            .collect();
        names.sort();
        let total = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let held = |(name, confirmed): (String, bool)| {
            let moment = self.moment_of(&self.alias(&name, confirmed));
            Held { name, moment, confirmed }
        };
        let list = names.into_iter().skip(from).take(LIST_MAX).map(held).collect();
        Ok(Progress::Done { list, total })
    }
}
