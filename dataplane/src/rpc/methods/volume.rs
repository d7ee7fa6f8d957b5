//! Replicated volumes and their replicas.

use std::sync::Arc;
use std::time::Duration;

use nvme::Nqn;
use rustix::io::Errno;
use serde_json::{Value, json};
use uuid::Uuid;

use super::done;
use crate::described;
use crate::replication::{
    CreateVolume, ReplicationError, ResyncOptions, Shown, TakenSnapshot, VolumeSnapshot, VolumeStatus,
};
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::notify::Topic;
use crate::rpc::table::{Method, method};
use crate::target::{AnaState, Target};
use crate::volume::{ResizeRefused, RosterRefused};

// What a head needs while it is being activated or changed must not wait for other changes: those methods count as `read`.
#[rustfmt::skip]
pub(in crate::rpc) const METHODS: &[Method] = &[
    method!(change "replica_create" (ReplicaCreate) -> "the name", replica_create, "Opens the replica of a volume on a device, and makes it when there is none."),
    method!(change "replica_delete" (Named) -> "`true`", replica_delete, "Closes a replica; namespaces on it are removed first. What is on the device stays."),
    method!(read "replica_list" (super::NoParams) -> "a list of replicas", replica_list, "Lists the replicas of this process."),
    method!(change "volume_create" (VolumeCreate) -> "the name", volume_create, "Makes a replicated volume of replicas, local or attached from other nodes. It is not active."),
    method!(change "volume_delete" (Named) -> "`true`", volume_delete, "Forgets a volume that is not active here; namespaces on it are removed first. Its replicas stay."),
    method!(read "volume_activate" (Record) -> "`true`", volume_activate, "Makes this node the head of a volume, for a record: nobody else may ever be for the same epoch. Waits until it serves; ANA states of its namespaces become `optimized`."),
    method!(read "volume_deactivate" (Named) -> "`true`", volume_deactivate, "Lets go of a volume: what is under way is finished, then another node may be the head at once. ANA states of its namespaces become `inaccessible` first."),
    method!(read "volume_set_members" (Record) -> "`true`", volume_set_members, "Tells the head that the next epoch was recorded, and with which replicas in sync."),
    method!(change "volume_set_resync" (SetResync) -> "`true`", volume_set_resync, "Changes how regions are copied to replicas that lack them: pauses, limits, and how hosts are spared. What is not given stays."),
    method!(read "volume_cancel_resync" (OneReplica) -> "`true`", volume_cancel_resync, "Stops to copy to a replica that is not in sync, and leaves it alone until `volume_resume_resync`."),
    method!(read "volume_resume_resync" (OneReplica) -> "`true`", volume_resume_resync, "Takes a replica back that `volume_cancel_resync` left alone: what it lacks is copied."),
    method!(read "volume_freeze" (Freeze) -> "the number of the pause in `freeze`, and the `replicas` that are equal", volume_freeze, "Lets writes wait, and returns once every replica in sync holds the same: each can then be copied, where it is, as of one moment."),
    method!(read "volume_thaw" (Thaw) -> "the `replicas` that stayed equal all the time", volume_thaw, "Lets writes go on. Copies of other replicas, and all copies if this fails, are not of one moment: delete them."),
    method!(change "volume_add_replica" (OneReplica) -> "`true`", volume_add_replica, "Makes one more replica known to a volume. If it is active here, the replica is given everything while hosts go on, then proposed by `propose_in`."),
    method!(read "volume_resize" (Resize) -> "`true`", volume_resize, "Gives hosts more of a volume while they are served; devices of its replicas are grown before. Hosts are told."),
    method!(change "volume_remove_replica" (OneReplica) -> "`true`", volume_remove_replica, "Forgets a replica that is not in sync for good, and lets go of its device. What it holds is never believed again."),
    method!(read "volume_snapshot" (TakeSnapshot) -> "the `moment`, a UUID; the `replicas` that keep the snapshot; and `left_over`, replicas that may hold one that is not confirmed", volume_snapshot, "Takes a snapshot of a volume that is active here: one of each replica in sync, where it lies, all of one moment, at which everything that was acknowledged is there. Replicas lie on volumes of stores: that of `r` is `r@NAME` there. When it fails no replica keeps one; the message names those that may hold an unconfirmed one, `r@NAME~`."),
    method!(read "volume_get_snapshots" (Named) -> "`snapshots` with `name`, `moment`, `confirmed` and the `replicas` that hold it; and `silent`, replicas that did not say", volume_get_snapshots, "Lists the snapshots that attached replicas of a volume hold. The volume is active here."),
    method!(read "volume_delete_snapshot" (WhichSnapshot) -> "the `replicas` that held it, and `silent`, replicas that could not be asked", volume_delete_snapshot, "Deletes a snapshot, confirmed or not, on every attached replica. The volume is active here."),
    method!(change "replica_rollback" (ReplicaRollback) -> "`true`", replica_rollback, "Gives a replica of this process the content of its snapshot, and lets it refuse every head below an epoch. For all replicas of a volume that is active nowhere."),
    method!(read "replica_fence" (ReplicaFence) -> "`true`", replica_fence, "Lets a replica of this process refuse every head below an epoch, also after a restart. Returns once nothing of them is under way."),
    method!(read "volume_get" (Named) -> "the volume", volume_get, "Tells how a volume is, as this node knows it."),
    method!(read "volume_list" (super::NoParams) -> "a list of volumes", volume_list, "Lists the volumes."),
    method!(read "volume_events" (VolumeEvents) -> "a list of events with `id` and `volume`", volume_events, "Gives what happened to volumes, and waits for it when asked to."),
];

described! {
    /// A replica.
    struct ReplicaCreate {
        /// Its name, and that of its device.
        name: String,
        /// The device it lies on.
        bdev_name: String,
        /// UUID of the volume.
        volume: Uuid,
        /// Bytes that hosts see, the same for all replicas. Default: what fits beside the metadata.
        size_bytes: Option<u64>,
        /// The device reads as zeroes everywhere, so that a new replica is equal to others of its kind and needs no copying.
        /// Default `false`.
        zeroed: Option<bool>,
        /// What `volume_snapshot` gave: the device is a clone of that snapshot, to which nothing was written, and a new replica
        /// begins with what it holds. Replicas of one moment are equal and need no copying. `size_bytes` is that of the volume
        /// that was snapshot.
        moment: Option<Uuid>,
    }
}

described! {
    /// To what a replica goes back.
    struct ReplicaRollback {
        /// Name of the replica.
        name: String,
        /// Name of the volume's snapshot.
        snapshot_name: String,
        /// What `volume_snapshot` gave.
        moment: Uuid,
        /// The lowest epoch that a head may have from then on, the same for all replicas that go back together.
        epoch: u64,
    }
}

described! {
    /// Which one.
    struct Named {
        /// Its name.
        name: String,
    }
}

described! {
    /// A volume.
    struct VolumeCreate {
        /// Its name, and that of its device.
        name: String,
        /// Its UUID, the same on every node.
        uuid: Uuid,
        /// Devices of its replicas, 1 to 5, in the same order on every node.
        replicas: Vec<String>,
        /// Replicas that must be in sync for a write. Default 1.
        min_in_sync: Option<u8>,
    }
}

described! {
    /// What management has recorded.
    struct Record {
        /// Name of the volume.
        name: String,
        /// The epoch, higher than every one before.
        epoch: u64,
        /// The devices of the replicas in sync.
        in_sync: Vec<String>,
    }
}

described! {
    /// How regions are copied.
    struct SetResync {
        /// Name of the volume.
        name: String,
        /// Copy nothing but what reads wait for.
        paused: Option<bool>,
        /// Regions at a time, 1 to 4. At first 4.
        concurrency: Option<u8>,
        /// Mebibytes per second that are copied at most; 0, as at first, for no limit.
        bandwidth_mb_sec: Option<u64>,
        /// Copies make room while reads and writes of hosts take longer than so many microseconds on average; 0, as at first:
        /// they never do.
        rebuild_latency_target_us: Option<u64>,
    }
}

described! {
    /// A replica of a volume.
    struct OneReplica {
        /// Name of the volume.
        name: String,
        /// The device of the replica.
        replica: String,
    }
}

described! {
    /// More for hosts.
    struct Resize {
        /// Name of the volume.
        name: String,
        /// Bytes that hosts see: whole blocks, and not fewer than before.
        size_bytes: u64,
    }
}

described! {
    /// A pause of writes.
    struct Freeze {
        /// Name of the volume.
        name: String,
        /// Milliseconds after which writes go on by themselves, at most 20000. Default 5000.
        timeout_ms: Option<u64>,
    }
}

described! {
    /// The end of a pause.
    struct Thaw {
        /// Name of the volume.
        name: String,
        /// What `volume_freeze` gave.
        freeze: u64,
    }
}

described! {
    /// A snapshot to be taken.
    struct TakeSnapshot {
        /// Name of the volume.
        name: String,
        /// Name of the snapshot, without `/`, `@` and `~`.
        snapshot_name: String,
        /// Milliseconds that writes wait at most, up to 20000. Default 5000.
        timeout_ms: Option<u64>,
    }
}

described! {
    /// A snapshot of a volume.
    struct WhichSnapshot {
        /// Name of the volume.
        name: String,
        /// Name of the snapshot.
        snapshot_name: String,
    }
}

described! {
    /// Whom a replica refuses.
    struct ReplicaFence {
        /// Name of the replica.
        name: String,
        /// The lowest epoch that a head may have.
        epoch: u64,
    }
}

described! {
    /// Which events.
    struct VolumeEvents {
        /// Only those with a higher `id`. Default 0.
        since: Option<u64>,
        /// Milliseconds to wait for one, at most 30000. Default 0.
        timeout_ms: Option<u64>,
    }
}

/// What a megabyte is in names of parameters, as SPDK has it.
const MIB: u64 = 1 << 20;
/// How long writes wait if nobody says, and at most: hosts give commands up after 30 s.
const FREEZE: Duration = Duration::from_secs(5);
const FREEZE_MAX: Duration = Duration::from_secs(20);
/// The longest that a call waits for an event.
const EVENT_WAIT_MAX: Duration = Duration::from_secs(30);

fn refused(error: &ReplicationError) -> RpcError {
    let errno = match error {
        ReplicationError::Device(error) => return super::bdev::refused(error),
        ReplicationError::Resize(ResizeRefused::Busy) => Errno::BUSY,
        ReplicationError::NoRoom(_) => Errno::NOSPC,
        ReplicationError::Exists(_)
        | ReplicationError::Member(_)
        | ReplicationError::SnapshotExists { .. } => Errno::EXIST,
        ReplicationError::Roster { source: RosterRefused::InSync | RosterRefused::Proposed, .. } => {
            Errno::BUSY
        }
        ReplicationError::NoSnapshot(_) => Errno::NOENT,
        ReplicationError::NoStoreVolume { .. } => Errno::OPNOTSUPP,
        ReplicationError::Replica { .. } => Errno::IO,
        ReplicationError::NotFound(_) => Errno::NODEV,
        ReplicationError::Freeze(_)
        | ReplicationError::Active(_)
        | ReplicationError::InUse(_)
        | ReplicationError::Attaching(_) => Errno::BUSY,
        ReplicationError::NotYet(_) => Errno::INPROGRESS,
        ReplicationError::Members(_)
        | ReplicationError::Later { .. }
        | ReplicationError::NotFrozen(_)
        | ReplicationError::NotTaken { .. } => Errno::STALE,
        ReplicationError::TooSmall { .. } => Errno::NOSPC,
        ReplicationError::Unreachable(_) => Errno::HOSTUNREACH,
        ReplicationError::Store(error) => return super::lvol::refused(error),
        ReplicationError::Media(_) | ReplicationError::Open(_) => Errno::IO,
        ReplicationError::System(source) => Errno::from_io_error(source).unwrap_or(Errno::IO),
        _ => Errno::INVAL,
    };
    let RpcError { code, message } = RpcError::errno(errno);
    RpcError { code, message: format!("{message}: {error}") }
}

fn outcome(result: Result<(), ReplicationError>) -> RpcResult {
    result.map_err(|error| refused(&error))?;
    done()
}

fn replica_create(control: &Control, params: ReplicaCreate) -> RpcResult {
    let ReplicaCreate { name, bdev_name, volume, size_bytes, zeroed, moment } = params;
    let (volumes, devices) = (&control.volumes, &control.devices);
    let made = match (moment, size_bytes) {
        (Some(moment), Some(bytes)) => {
            volumes.clone_replica(devices, &name, &bdev_name, (volume, bytes), moment)
        }
        (Some(_), None) => Err(ReplicationError::MomentSize),
        (None, _) => {
            let zeroed = zeroed.unwrap_or(false);
            volumes.create_replica(devices, &name, &bdev_name, volume, size_bytes, zeroed)
        }
    };
    made.map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevRegister, name.clone());
    Ok(Value::String(name))
}

fn replica_delete(control: &Control, params: Named) -> RpcResult {
    control.target().remove_device(&params.name).map_err(RpcError::internal)?;
    let deleted = control.volumes.delete_replica(&control.devices, &params.name);
    deleted.map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevUnregister, params.name);
    done()
}

fn replica_list(control: &Control, _: super::NoParams) -> RpcResult {
    let show = |(name, base, info): (String, String, crate::replication::ReplicaInfo)| {
        json!({
            "name": name,
            "bdev_name": base,
            "volume": info.volume,
            "size_bytes": info.bytes,
            "epoch": info.epoch.0,
            "attached": info.attached,
            "sound": info.sound,
        })
    };
    Ok(control.volumes.replicas().into_iter().map(show).collect())
}

fn volume_create(control: &Control, params: VolumeCreate) -> RpcResult {
    let VolumeCreate { name, uuid, replicas, min_in_sync } = params;
    let create = CreateVolume { name: name.clone(), uuid, replicas, min_in_sync: min_in_sync.unwrap_or(1) };
    control.volumes.create_volume(&control.devices, create).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevRegister, name.clone());
    Ok(Value::String(name))
}

fn volume_delete(control: &Control, params: Named) -> RpcResult {
    control.target().remove_device(&params.name).map_err(RpcError::internal)?;
    control.volumes.delete_volume(&control.devices, &params.name).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::BdevUnregister, params.name);
    done()
}

fn volume_activate(control: &Control, params: Record) -> RpcResult {
    let target = Arc::downgrade(control.shared_target());
    let on_serving = Arc::new(move |volume: &str, shown: Shown| {
        let Some(target) = target.upgrade() else { return };
        match shown {
            Shown::Resized => target.device_resized(volume),
            shown => show_paths(&target, volume, shown == Shown::Serves),
        }
    });
    outcome(control.volumes.activate(&params.name, params.epoch, &params.in_sync, on_serving))
}

fn volume_deactivate(control: &Control, params: Named) -> RpcResult {
    show_paths(control.target(), &params.name, false);
    outcome(control.volumes.deactivate(&params.name))
}

/// Tells the hosts of a volume's namespaces whether this node serves it.
fn show_paths(target: &Target, volume: &str, serves: bool) {
    let state = if serves { AnaState::Optimized } else { AnaState::Inaccessible };
    for (nqn, nsid) in target.device_users(volume) {
        let Ok(subsystem) = target.subsystem(&nqn) else { continue };
        let group = subsystem.namespaces.iter().find(|ns| ns.nsid == nsid).map(|ns| ns.ana_group);
        if !subsystem.options.ana_reporting {
            continue;
        }
        for listener in subsystem.listeners {
            if let Err(error) = target.set_ana_state(&nqn, listener.address, state, group) {
                tracing::warn!(volume, %error, "the ANA state of a path cannot be set");
            }
        }
    }
}

/// Paths that were just made show whether this node serves the volumes behind them.
pub(super) fn show_new_paths(control: &Control, nqn: &Nqn) {
    let Ok(subsystem) = control.target().subsystem(nqn) else { return };
    for volume in subsystem.namespaces.iter().map(|namespace| &namespace.device) {
        let mut shown = None;
        // Once more if it was activated or deposed meanwhile.
        while let Some(serves) = control.volumes.serves(volume).filter(|serves| shown != Some(*serves)) {
            show_paths(control.target(), volume, serves);
            shown = Some(serves);
        }
    }
}

fn volume_set_members(control: &Control, params: Record) -> RpcResult {
    outcome(control.volumes.set_members(&params.name, params.epoch, &params.in_sync))
}

fn volume_set_resync(control: &Control, params: SetResync) -> RpcResult {
    let SetResync { name, paused, concurrency, bandwidth_mb_sec, rebuild_latency_target_us } = params;
    let change = |options: &mut ResyncOptions| {
        options.paused = paused.unwrap_or(options.paused);
        options.concurrency = concurrency.unwrap_or(options.concurrency);
        if let Some(mb) = bandwidth_mb_sec {
            options.bytes_per_s = (mb > 0).then(|| mb.saturating_mul(MIB));
        }
        if let Some(us) = rebuild_latency_target_us {
            options.latency_target = (us > 0).then(|| Duration::from_micros(us));
        }
    };
    outcome(control.volumes.set_resync(&name, change))
}

fn volume_cancel_resync(control: &Control, params: OneReplica) -> RpcResult {
    outcome(control.volumes.keep_out(&params.name, &params.replica, true))
}

fn volume_resume_resync(control: &Control, params: OneReplica) -> RpcResult {
    outcome(control.volumes.keep_out(&params.name, &params.replica, false))
}

fn volume_add_replica(control: &Control, params: OneReplica) -> RpcResult {
    outcome(control.volumes.add_replica(&control.devices, &params.name, &params.replica))
}

fn volume_resize(control: &Control, params: Resize) -> RpcResult {
    outcome(control.volumes.resize(&params.name, params.size_bytes))
}

fn volume_remove_replica(control: &Control, params: OneReplica) -> RpcResult {
    outcome(control.volumes.remove_replica(&params.name, &params.replica))
}

fn volume_freeze(control: &Control, params: Freeze) -> RpcResult {
    let wait = params.timeout_ms.map_or(FREEZE, Duration::from_millis).min(FREEZE_MAX);
    let (freeze, replicas) = control.volumes.freeze(&params.name, wait).map_err(|error| refused(&error))?;
    Ok(json!({"freeze": freeze, "replicas": replicas}))
}

fn volume_thaw(control: &Control, params: Thaw) -> RpcResult {
    let replicas = control.volumes.thaw(&params.name, params.freeze).map_err(|error| refused(&error))?;
    Ok(json!({"replicas": replicas}))
}

fn volume_snapshot(control: &Control, params: TakeSnapshot) -> RpcResult {
    let TakeSnapshot { name, snapshot_name, timeout_ms } = params;
    let wait = timeout_ms.map_or(FREEZE, Duration::from_millis).min(FREEZE_MAX);
    let taken = control.volumes.snapshot(&name, &snapshot_name, wait).map_err(|error| refused(&error))?;
    let TakenSnapshot { moment, replicas, left_over } = taken;
    Ok(json!({"moment": moment, "replicas": replicas, "left_over": left_over}))
}

fn volume_get_snapshots(control: &Control, params: Named) -> RpcResult {
    let (snapshots, silent) = control.volumes.snapshots(&params.name).map_err(|error| refused(&error))?;
    let show = |snapshot: &VolumeSnapshot| {
        json!({
            "name": snapshot.name,
            "moment": snapshot.moment,
            "confirmed": snapshot.confirmed,
            "replicas": snapshot.replicas,
        })
    };
    Ok(json!({"snapshots": snapshots.iter().map(show).collect::<Vec<_>>(), "silent": silent}))
}

fn volume_delete_snapshot(control: &Control, params: WhichSnapshot) -> RpcResult {
    let deleted = control.volumes.delete_snapshot(&params.name, &params.snapshot_name);
    let (replicas, silent) = deleted.map_err(|error| refused(&error))?;
    Ok(json!({"replicas": replicas, "silent": silent}))
}

fn replica_rollback(control: &Control, params: ReplicaRollback) -> RpcResult {
    let ReplicaRollback { name, snapshot_name, moment, epoch } = params;
    outcome(control.volumes.roll_back_replica(&name, &snapshot_name, moment, epoch))
}

fn replica_fence(control: &Control, params: ReplicaFence) -> RpcResult {
    outcome(control.volumes.fence_replica(&params.name, params.epoch))
}

fn volume_get(control: &Control, params: Named) -> RpcResult {
    control.volumes.get(&params.name).map(|status| show(&status)).map_err(|error| refused(&error))
}

fn volume_list(control: &Control, _: super::NoParams) -> RpcResult {
    Ok(control.volumes.list().iter().map(show).collect())
}

fn show(status: &VolumeStatus) -> Value {
    let replica = |replica: &crate::replication::ReplicaStatus| {
        json!({
            "name": replica.name,
            "in_sync": replica.in_sync,
            "attached": replica.attached,
            "failed": replica.failed,
            "kept_out": replica.kept_out,
            "regions_stale": replica.regions_stale,
        })
    };
    json!({
        "name": status.created.name,
        "uuid": status.created.uuid,
        "size_bytes": status.bytes,
        "min_in_sync": status.created.min_in_sync,
        "state": status.state,
        "epoch": status.epoch,
        "replicas": status.replicas.iter().map(replica).collect::<Vec<_>>(),
        "regions_dirty": status.regions_dirty,
        "regions_copied": status.counters.regions_copied,
        "regions_to_copy": status.counters.regions_to_copy,
        "blocks_repaired": status.counters.blocks_repaired,
        "region_bytes": status.region_bytes,
        "resync": resync(&status.resync),
        "latency_us": status.latency_ns.map(|ns| ns / 1000),
    })
}

fn resync(options: &ResyncOptions) -> Value {
    json!({
        "paused": options.paused,
        "concurrency": options.concurrency,
        "bandwidth_mb_sec": options.bytes_per_s.unwrap_or(0) / MIB,
        "rebuild_latency_target_us": options.latency_target.map_or(0, |target| target.as_micros()),
    })
}

/// The calls that make the replicas and volumes as they are now. None of them is active.
pub(super) fn saved(control: &Control) -> Vec<Value> {
    let mut calls = Vec::new();
    let mut call = |method: &str, params: Value| calls.push(json!({"method": method, "params": params}));
    for (name, base, info) in control.volumes.replicas() {
        let params =
            json!({"name": name, "bdev_name": base, "volume": info.volume, "size_bytes": info.bytes});
        call("replica_create", params);
    }
    for VolumeStatus { created, resync: options, .. } in control.volumes.list() {
        let params = json!({
            "name": created.name,
            "uuid": created.uuid,
            "replicas": created.replicas,
            "min_in_sync": created.min_in_sync,
        });
        call("volume_create", params);
        if options != ResyncOptions::default() {
            let mut params = resync(&options);
            params["name"] = json!(created.name);
            call("volume_set_resync", params);
        }
    }
    calls
}

fn volume_events(control: &Control, params: VolumeEvents) -> RpcResult {
    let wait = Duration::from_millis(params.timeout_ms.unwrap_or(0)).min(EVENT_WAIT_MAX);
    let show = |event: crate::replication::VolumeEvent| {
        let mut shown = event.what;
        shown["id"] = json!(event.id);
        shown["volume"] = json!(event.volume);
        shown
    };
    Ok(control.volumes.events(params.since.unwrap_or(0), wait).into_iter().map(show).collect())
}
