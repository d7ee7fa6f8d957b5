//! Stores and volumes in the shapes that SPDK gives them.

use serde_json::{Value, json};

use crate::lvol::{StoreSummary, Volume};
use crate::store::{BLOCK_BYTES, VolumeKind};

pub(super) fn store(summary: &StoreSummary) -> Value {
    let counters = summary.counters;
    json!({
        "uuid": summary.uuid,
        "name": summary.name,
        "base_bdev": summary.device,
        "total_data_clusters": counters.total,
        "free_clusters": counters.free,
        "block_size": BLOCK_BYTES,
        "cluster_size": BLOCK_BYTES,
        "freeing_clusters": counters.freeing,
        "promised_clusters": counters.promised,
        "damaged_counts": counters.damaged_counts,
        "lost_pages": counters.lost_pages,
        "stopped": summary.stopped,
        "format_version": summary.version,
        "write_through": summary.write_through,
    })
}

pub(super) fn volume(volume: &Volume) -> Value {
    let snapshot = volume.info.kind == VolumeKind::Snapshot;
    let mut shown = json!({
        "alias": volume.alias(),
        "uuid": volume.info.uuid,
        "name": volume.info.name,
        "is_thin_provisioned": !volume.info.settings.reserved,
        "is_snapshot": snapshot,
        "is_clone": !snapshot && volume.info.origin.is_some(),
        "is_esnap_clone": false,
        "is_degraded": false,
        "num_allocated_clusters": volume.info.allocated,
        "num_blocks": volume.info.blocks,
        "read_only": snapshot || volume.info.settings.read_only,
        "checksums": volume.info.settings.checksums,
        "lvs": {"name": volume.store, "uuid": volume.store_uuid},
    });
    if let Some(origin) = &volume.origin {
        shown["origin"] = json!(origin);
    }
    shown
}

/// What `bdev_get_bdevs` tells of a volume beyond a device.
pub(super) fn driver_specific(volume: &Volume, base: &str) -> Value {
    let snapshot = volume.info.kind == VolumeKind::Snapshot;
    let mut lvol = json!({
        "lvol_store_uuid": volume.store_uuid,
        "base_bdev": base,
        "thin_provision": !volume.info.settings.reserved,
        "num_allocated_clusters": volume.info.allocated,
        "snapshot": snapshot,
        "clone": !snapshot && volume.info.origin.is_some(),
    });
    if let (false, Some(origin)) = (snapshot, &volume.origin) {
        lvol["base_snapshot"] = json!(origin);
    }
    json!({"lvol": lvol})
}
