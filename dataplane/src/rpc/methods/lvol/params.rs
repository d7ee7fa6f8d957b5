//! Parameters of the methods of stores and volumes.

use uuid::Uuid;

use crate::{described, described_words};

described_words! {
    /// What is done first to the space of a new store.
    pub(super) enum StoreClear {
        /// Nothing: it is free, whatever the device holds there.
        None = "none",
        /// It is deallocated, where the device can.
        Unmap = "unmap",
        /// The same as `unmap`: a volume never shows what was there before.
        WriteZeroes = "write_zeroes",
    }
}

described_words! {
    /// What is done first to the space of a new volume.
    pub(super) enum VolumeClear {
        /// Nothing.
        Default = "default",
        /// Nothing.
        None = "none",
        /// Nothing.
        Unmap = "unmap",
        /// Nothing.
        WriteZeroes = "write_zeroes",
    }
}

described! {
    /// A new store.
    pub(super) struct CreateStore {
        /// The device it is made on.
        bdev_name: String,
        /// Its name: 1–63 bytes, printable, without spaces and slashes.
        lvs_name: String,
        /// Taken, without effect: space is given in blocks of 4 KiB.
        cluster_sz: Option<u64>,
        /// What is done first to its space. Default `none`: a volume never shows what was there before.
        clear_method: Option<StoreClear>,
        /// Taken, without effect: the map takes space where data does.
        num_md_pages_per_cluster_ratio: Option<u32>,
        /// Taken, without effect.
        md_page_size: Option<u32>,
        /// Make it even when the device holds something, which is lost. Default `false`. Not in SPDK.
        force: Option<bool>,
        /// Volumes, snapshots and clones at most, up to 32766. Default: one for each 2 MiB, 256–16384. It stays. Not in SPDK.
        volumes_max: Option<u32>,
        /// Its identity; random by default. Not in SPDK.
        uuid: Option<Uuid>,
        /// Every write is on the media before it completes, as long as the store is open. Default `false`. Not in SPDK.
        write_through: Option<bool>,
    }
}

described! {
    /// Which store, and how it is to be there.
    pub(super) struct OpenStore {
        /// The device it is on.
        bdev_name: String,
        /// The name it must have.
        lvs_name: Option<String>,
        /// Make one when the device is empty; needs `lvs_name`. Default `false`.
        create: Option<bool>,
        /// Every write is on the media before it completes, as long as the store is open. Default: as it is, at first
        /// `false`.
        write_through: Option<bool>,
    }
}

described! {
    /// A device with a store that is not open.
    pub(super) struct UpgradeStore {
        /// The device it is on.
        bdev_name: String,
    }
}

described! {
    /// Which store: one of the two.
    pub(super) struct WhichStore {
        /// Its UUID.
        uuid: Option<String>,
        /// Its name.
        lvs_name: Option<String>,
    }
}

described! {
    /// Another name of a store.
    pub(super) struct RenameStore {
        /// The name it has.
        old_name: String,
        /// The name it gets.
        new_name: String,
    }
}

described! {
    /// A new volume.
    pub(super) struct CreateVolume {
        /// Its name, unique in the store: 1–63 bytes, printable, without spaces and slashes.
        lvol_name: String,
        /// Its size, in MiB.
        size_in_mib: u64,
        /// Take space when it is written. Default `false`: space for all of it is promised, so that its writes never meet a
        /// full store.
        thin_provision: Option<bool>,
        /// Check each block when it is read. Default `true`. Not in SPDK.
        checksums: Option<bool>,
        /// UUID of the store, or its name.
        uuid: Option<String>,
        /// Name of the store, or its UUID.
        lvs_name: Option<String>,
        /// Taken, without effect: a new volume reads as zeroes.
        clear_method: Option<VolumeClear>,
        /// Identity of the volume; random by default. Not in SPDK.
        lvol_uuid: Option<Uuid>,
    }
}

described! {
    /// A snapshot of a volume.
    pub(super) struct Snapshot {
        /// The volume: its UUID, or `store/volume`.
        lvol_name: String,
        /// Name of the snapshot.
        snapshot_name: String,
    }
}

described! {
    /// A writable copy of a snapshot, or of a volume as it is now.
    pub(super) struct Clone {
        /// The snapshot or volume: its UUID, or `store/volume`.
        snapshot_name: String,
        /// Name of the clone.
        clone_name: String,
    }
}

described! {
    /// Back to a snapshot.
    pub(super) struct Rollback {
        /// The volume: its UUID, or `store/volume`.
        lvol_name: String,
        /// The snapshot: its UUID, or `store/volume`.
        snapshot_name: String,
    }
}

described! {
    /// Another name of a volume.
    pub(super) struct RenameVolume {
        /// The volume: its UUID, or `store/volume`.
        old_name: String,
        /// The name it gets, without the store's.
        new_name: String,
    }
}

described! {
    /// Another size of a volume.
    pub(super) struct Resize {
        /// The volume: its UUID, or `store/volume`.
        name: String,
        /// Its new size, in MiB.
        size_in_mib: u64,
        /// Smaller even when blocks beyond the new size hold data, which is lost. Default `false`. Not in SPDK.
        force: Option<bool>,
    }
}

described! {
    /// What is to share nothing.
    pub(super) struct Inflate {
        /// The volume: its UUID, or `store/volume`.
        name: String,
        /// Promise space for all of it. Default `true`. Not in SPDK.
        reserve: Option<bool>,
    }
}

described! {
    /// How a volume may be used; what is not given stays.
    pub(super) struct Configure {
        /// The volume: its UUID, or `store/volume`.
        name: String,
        /// Hosts may not change it.
        read_only: Option<bool>,
        /// Take space when it is written; if not, space for all of it is promised.
        thin_provision: Option<bool>,
    }
}

described! {
    /// Which differences.
    pub(super) struct GetChanges {
        /// The later one, a volume or snapshot: its UUID, or `store/volume`.
        name: String,
        /// The earlier one, in the same store. Default: nothing, so that all that is allocated is listed.
        since: Option<String>,
        /// Where to begin: `next_block` of the answer before. Default 0. An answer has up to 10000 ranges.
        start_block: Option<u64>,
    }
}

described! {
    /// Which volume.
    pub(super) struct WhichVolume {
        /// Its UUID, or `store/volume`.
        name: String,
    }
}

described! {
    /// Whose volumes: all, or those of one store.
    pub(super) struct GetVolumes {
        /// UUID of the store.
        lvs_uuid: Option<String>,
        /// Name of the store.
        lvs_name: Option<String>,
    }
}
