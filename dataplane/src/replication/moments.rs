//! Snapshots of a volume: the head asks every replica for its own, over the way it has to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::errand::{Errand, ErrandError, ErrandKind, Held, NAME_BYTES, Progress, Report};
use super::error::ReplicationError;
use super::slots::Slots;
use super::snapshots::is_name;
use super::table::VolumeTable;
use super::volume::VolumeDevice;
use super::window::{Ask, Call};
use crate::lvol::DeviceMedia;
use crate::store::{Block, Media};
use crate::volume::{FreezeRefused, Members, Moment, MomentAsk, MomentOutcome, ReplicaIndex, Session};

/// How long replicas may take for what no writes wait for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a replica is asked how far it is, and the head.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Where calls are written, and reports are read, in blocks of 4 KiB.
const CALLS: Block = Block(0);
const REPORTS: Block = Block(1);

/// A snapshot that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TakenSnapshot {
    /// Identity of its moment: who knows it knows that it was confirmed.
    pub moment: Uuid,
    /// Replicas that keep it.
    pub replicas: Vec<String>,
    /// Replicas that may hold an unconfirmed one.
    pub left_over: Vec<String>,
}

/// Snapshots of one name and moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeSnapshot {
    /// Its name.
    pub name: String,
    /// Its moment; `None` while it is not confirmed, or when a replica cannot tell.
    pub moment: Option<Uuid>,
    /// Whether a head has confirmed it.
    pub confirmed: bool,
    /// Replicas that hold it.
    pub replicas: Vec<String>,
}

/// How an errand ended: a list, and how long it is in all.
type Answer = Result<(Vec<Held>, u32), (ErrandError, String)>;

/// The way to one replica, on a thread of its own: connections are opened once, and one that hangs holds up nobody.
struct Envoy {
    orders: Sender<(Session, Errand, Instant)>,
}

/// The ways to some replicas.
struct Envoys {
    envoys: BTreeMap<u8, Envoy>,
    answers: Receiver<(ReplicaIndex, u64, Answer)>,
    /// Errands that were not answered, by replica.
    open: BTreeMap<u8, u64>,
}

impl Envoys {
    fn open(volume: &VolumeDevice, replicas: Members) -> Result<Self, ReplicationError> {
        let (sender, answers) = channel();
        let (_, devices) = volume.shape().slots.devices();
        let mut envoys = BTreeMap::new();
        for replica in replicas.iter() {
            let Some((_, device)) = &devices[replica.index()] else { continue };
            let (orders, receiver) = channel::<(Session, Errand, Instant)>();
            let (device, uuid, answers) = (Arc::clone(device), volume.shape().uuid, sender.clone());
            let work = move || {
                let mut media = DeviceMedia::open(device.as_ref()).map_err(|error| error.to_string());
                for (session, errand, deadline) in receiver {
                    let id = errand.id;
                    let answer = match &mut media {
                        Ok(media) => run(media, uuid, session, errand, deadline),
                        Err(error) => Err((ErrandError::Other, error.clone())),
                    };
                    if answers.send((replica, id, answer)).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new().name("envoy".to_owned()).spawn(work)?;
            envoys.insert(replica.0, Envoy { orders });
        }
        Ok(Self { envoys, answers, open: BTreeMap::new() })
    }

    /// Sends a replica on an errand, in the attachment that there is; whether there is one.
    fn send(
        &mut self,
        volume: &VolumeDevice,
        replica: ReplicaIndex,
        (kind, moment, name): (ErrandKind, Uuid, &str),
        deadline: Instant,
    ) -> bool {
        let session =
            volume.with_head(|machine, _| machine.attached().has(replica).then(|| machine.session(replica)));
        let (Some(Some(session)), Some(envoy)) = (session, self.envoys.get(&replica.0)) else { return false };
        let id = Uuid::new_v4().as_u64_pair().0;
        let errand = Errand { id, kind, moment, name: name.to_owned() };
        self.open.insert(replica.0, id);
        envoy.orders.send((session, errand, deadline)).is_ok()
    }

    /// The next answer, until `deadline`.
    fn next(&mut self, deadline: Instant) -> Option<(ReplicaIndex, Answer)> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok((replica, id, answer)) if self.open.get(&replica.0) == Some(&id) => {
                    self.open.remove(&replica.0);
                    return Some((replica, answer));
                }
                // Of an errand that was given up.
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Sends all on the same errand, and gives their answers.
    fn ask_all(
        &mut self,
        volume: &VolumeDevice,
        what: (ErrandKind, Uuid, &str),
    ) -> BTreeMap<u8, Option<Answer>> {
        let deadline = Instant::now() + PATIENCE;
        let mut waiting = Members::NONE;
        let mut answers: BTreeMap<u8, Option<Answer>> = BTreeMap::new();
        for replica in self.envoys.keys().copied().map(ReplicaIndex).collect::<Vec<_>>() {
            answers.insert(replica.0, None);
            if self.send(volume, replica, what, deadline) {
                waiting.insert(replica);
            }
        }
        while !waiting.is_empty()
            && let Some((replica, answer)) = self.next(deadline)
        {
            waiting.remove(replica);
            answers.insert(replica.0, Some(answer));
        }
        answers
    }
}

/// Calls a replica, and waits for its report.
fn run(media: &mut DeviceMedia, volume: Uuid, session: Session, errand: Errand, deadline: Instant) -> Answer {
    let lost = |what: &str| (ErrandError::Other, what.to_owned());
    let id = errand.id;
    let call = Call { volume, session, ask: Ask::Errand(errand) }.encode();
    while media.write(CALLS, &call).is_err() {
        // An earlier errand may be under way.
        if Instant::now() > deadline {
            return Err(lost("it does not take the call"));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    let mut bytes = [0; super::window::DOOR_BYTES];
    loop {
        media.read(REPORTS, &mut bytes).map_err(|_| lost("it does not answer"))?;
        match Report::decode(&bytes).filter(|report| report.id == id).map(|report| report.progress) {
            Some(Progress::Running) if Instant::now() < deadline => std::thread::sleep(LOOK_INTERVAL),
            Some(Progress::Running) => return Err(lost("it is not done in time")),
            Some(Progress::Done { list, total }) => return Ok((list, total)),
            Some(Progress::Failed(error, message)) => return Err((error, message)),
            None => return Err(lost("it knows nothing of the call: it has restarted")),
        }
    }
}

impl VolumeTable {
    /// Takes a snapshot of a volume that is active here: one of each replica in sync, all of one moment. Writes wait meanwhile, for
    /// `wait` at most.
    ///
    /// # Errors
    /// Before writes wait: when there is no such volume, it is not active here, a replica does not lie on a volume of a store, or
    /// has a snapshot of that name. Afterwards: when the moment did not last; then no replica keeps one, and those that may hold
    /// an unconfirmed one are named.
    pub fn snapshot(
        &self,
        name: &str,
        snapshot: &str,
        wait: Duration,
    ) -> Result<TakenSnapshot, ReplicationError> {
        if !is_name(snapshot) || snapshot.len() > NAME_BYTES {
            return Err(ReplicationError::SnapshotName(snapshot.to_owned()));
        }
        let volume = self.volume(name)?;
        let slots = &volume.shape().slots;
        let recorded = volume.with_head(|machine, _| machine.recorded());
        let recorded = recorded.ok_or(FreezeRefused::NotActive)?;
        let uuid = Uuid::new_v4();
        let mut envoys = Envoys::open(&volume, recorded)?;
        for (replica, answer) in envoys.ask_all(&volume, (ErrandKind::Probe, uuid, snapshot)) {
            let answer = answer.unwrap_or_else(|| Err((ErrandError::Other, "it does not answer".to_owned())));
            answer.map_err(|failure| refused(slots, ReplicaIndex(replica), failure))?;
        }
        let deadline = Instant::now() + wait;
        let ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let moment = volume.with_head(|machine, now| Moment::begin(machine, ns, now));
        let mut moment = moment.ok_or(FreezeRefused::NotActive)??;
        let outcome = conduct(&volume, &mut envoys, &mut moment, (uuid, snapshot), deadline);
        let left_over = slots.names(outcome.left);
        if outcome.kept.is_empty() {
            return Err(ReplicationError::NotTaken { snapshot: snapshot.to_owned(), left_over });
        }
        Ok(TakenSnapshot { moment: uuid, replicas: slots.names(outcome.kept), left_over })
    }

    /// The snapshots that the attached replicas of a volume hold, and the replicas that did not say.
    ///
    /// # Errors
    /// When there is no such volume, or it is not active here.
    pub fn snapshots(&self, name: &str) -> Result<(Vec<VolumeSnapshot>, Vec<String>), ReplicationError> {
        let volume = self.volume(name)?;
        let slots = &volume.shape().slots;
        let mut envoys = Envoys::open(&volume, everyone(&volume)?)?;
        let (mut found, mut silent) = (BTreeMap::<(String, bool, Uuid), Members>::new(), Members::NONE);
        for replica in everyone(&volume)?.iter() {
            match list(&volume, &mut envoys, replica) {
                Ok(list) => {
                    for Held { name, moment, confirmed } in list {
                        found.entry((name, !confirmed, moment)).or_default().insert(replica);
                    }
                }
                // It can have none.
                Err((ErrandError::NoStore, _)) => {}
                Err(_) => silent.insert(replica),
            }
        }
        let snapshot =
            |((name, unconfirmed, moment), holders): ((String, bool, Uuid), Members)| VolumeSnapshot {
                name,
                moment: (!unconfirmed && !moment.is_nil()).then_some(moment),
                confirmed: !unconfirmed,
                replicas: slots.names(holders),
            };
        Ok((found.into_iter().map(snapshot).collect(), slots.names(silent)))
    }

    /// Deletes a snapshot, confirmed or not, on every attached replica: those that held it, and those that could not be asked.
    ///
    /// # Errors
    /// When there is no such volume, it is not active here, no replica has such a snapshot, or one that has it cannot delete it.
    pub fn delete_snapshot(
        &self,
        name: &str,
        snapshot: &str,
    ) -> Result<(Vec<String>, Vec<String>), ReplicationError> {
        let volume = self.volume(name)?;
        let slots = &volume.shape().slots;
        let mut envoys = Envoys::open(&volume, everyone(&volume)?)?;
        let (mut deleted, mut silent, mut failure) = (Members::NONE, Members::NONE, None);
        for (replica, answer) in envoys.ask_all(&volume, (ErrandKind::Delete, Uuid::nil(), snapshot)) {
            let replica = ReplicaIndex(replica);
            match answer {
                Some(Ok(_)) => deleted.insert(replica),
                Some(Err((ErrandError::NoStore | ErrandError::Missing, _))) => {}
                Some(Err(error)) => failure = Some(refused(slots, replica, error)),
                None => silent.insert(replica),
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None if deleted.is_empty() && silent.is_empty() => {
                Err(ReplicationError::NoSnapshot(snapshot.to_owned()))
            }
            None => Ok((slots.names(deleted), slots.names(silent))),
        }
    }
}

/// Carries a moment to its end.
fn conduct(
    volume: &VolumeDevice,
    envoys: &mut Envoys,
    moment: &mut Moment,
    (uuid, name): (Uuid, &str),
    deadline: Instant,
) -> MomentOutcome {
    // What comes after the pause of writes has its own time.
    let mut patience = deadline;
    loop {
        let asks = volume.with_head(|machine, now| moment.turn(machine, now));
        let asks = asks.unwrap_or_else(|| moment.give_up());
        for (replica, ask) in asks {
            let kind = match ask {
                MomentAsk::Take => ErrandKind::Take,
                MomentAsk::Keep => ErrandKind::Keep,
                MomentAsk::Drop => ErrandKind::Drop,
            };
            if ask != MomentAsk::Take {
                patience = Instant::now() + PATIENCE;
            }
            if !envoys.send(volume, replica, (kind, uuid, name), patience) {
                moment.answered(replica, false);
            }
        }
        if let Some(outcome) = moment.outcome() {
            return outcome;
        }
        if moment.waits_for().is_empty() {
            std::thread::sleep(LOOK_INTERVAL);
        } else if let Some((replica, answer)) = envoys.next(patience) {
            if let Err((_, message)) = &answer {
                tracing::warn!(%replica, message, snapshot = name, "a replica does not take part in a snapshot");
            }
            moment.answered(replica, answer.is_ok());
        } else {
            for replica in moment.waits_for().iter() {
                moment.answered(replica, false);
            }
        }
    }
}

fn everyone(volume: &VolumeDevice) -> Result<Members, ReplicationError> {
    volume.with_head(|_, _| ()).ok_or(FreezeRefused::NotActive)?;
    Ok(volume.shape().slots.members())
}

/// All snapshots of one replica.
fn list(
    volume: &VolumeDevice,
    envoys: &mut Envoys,
    replica: ReplicaIndex,
) -> Result<Vec<Held>, (ErrandError, String)> {
    let silent = || (ErrandError::Other, "it does not answer".to_owned());
    let deadline = Instant::now() + PATIENCE;
    let mut all: Vec<Held> = Vec::new();
    loop {
        let from = u32::try_from(all.len()).unwrap_or(u32::MAX);
        if !envoys.send(volume, replica, (ErrandKind::List { from }, Uuid::nil(), ""), deadline) {
            return Err(silent());
        }
        let (_, answer) = envoys.next(deadline).ok_or_else(silent)?;
        let (part, total) = answer?;
        let done = part.is_empty();
        all.extend(part);
        if done || all.len() >= total as usize {
            return Ok(all);
        }
    }
}

fn refused(
    slots: &Slots,
    replica: ReplicaIndex,
    (error, message): (ErrandError, String),
) -> ReplicationError {
    let replica = slots.name(replica).unwrap_or_default();
    match error {
        ErrandError::NoStore => ReplicationError::NoStoreVolume { replica, message },
        ErrandError::Exists => ReplicationError::SnapshotExists { replica, message },
        ErrandError::Missing | ErrandError::Other => ReplicationError::Replica { replica, message },
    }
}
