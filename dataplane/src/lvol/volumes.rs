//! What is done to volumes: made, copied, changed, counted, compared and deleted. Everything here blocks.

use std::sync::Arc;

use uuid::Uuid;

use super::error::StoreError;
use super::set::{OpenStore, StoreSet, check_name, locked};
use super::walks::{Copying, Differences, VolumeUsage, Walk};
use crate::store::{Control, Failure, Settings, VolumeBlock, VolumeInfo, VolumeKind};

impl StoreSet {
    /// Makes a volume or a copy, and a device of it.
    fn make(&self, store: &Arc<OpenStore>, control: Control) -> Result<VolumeInfo, StoreError> {
        let id = store.control(control)?.ok_or(Failure::NoVolume)?;
        let info = store.info(id)?;
        if let Err(error) = self.add_device(store, &info) {
            store.control(Control::Delete { volume: id })?;
            return Err(error.into());
        }
        Ok(info)
    }

    /// Makes a volume of `blocks` blocks of 4 KiB, which reads as zeroes.
    ///
    /// # Errors
    /// When the name is taken or none, the size out of range, or the store full.
    pub fn create_volume(
        &self,
        store: &Arc<OpenStore>,
        name: &str,
        blocks: u64,
        uuid: Option<Uuid>,
        settings: Settings,
    ) -> Result<VolumeInfo, StoreError> {
        check_name(name)?;
        let uuid = uuid.unwrap_or_else(Uuid::new_v4);
        self.make(store, Control::CreateWith { name: name.into(), uuid, blocks, settings })
    }

    /// Says how a volume may be used from now on; `None`: as before. Reserving needs the space.
    ///
    /// # Errors
    /// When there is none, it is a snapshot, or the store has not enough space to promise.
    pub fn configure_volume(
        &self,
        name: &str,
        read_only: Option<bool>,
        reserved: Option<bool>,
    ) -> Result<VolumeInfo, StoreError> {
        let (store, volume) = self.find_volume(name)?;
        let volume = volume.info.id;
        store.control(Control::Configure { volume, read_only, reserved })?;
        store.changed(volume)
    }

    /// A volume no longer names what it was made from. Nothing is copied: blocks belong to all that refer to them.
    ///
    /// # Errors
    /// When there is none.
    pub fn detach_volume(&self, name: &str) -> Result<(), StoreError> {
        let (store, volume) = self.find_volume(name)?;
        store.control(Control::Detach { volume: volume.info.id })?;
        Ok(())
    }

    /// A clone takes the place of what it was made from. See [`Control::Promote`].
    ///
    /// # Errors
    /// When there is none, or it is no clone.
    pub fn promote_volume(&self, name: &str) -> Result<(), StoreError> {
        let (store, volume) = self.find_volume(name)?;
        store.control(Control::Promote { volume: volume.info.id })?;
        Ok(())
    }

    /// Copies every block that a volume shares, so that it shares none, while hosts use it. Takes as long as that takes.
    ///
    /// # Errors
    /// When there is none, it is a snapshot, or the store is full: what was copied by then stays.
    pub fn copy_shared(&self, name: &str) -> Result<(), StoreError> {
        let (store, volume) = self.find_volume(name)?;
        let (volume, end) = (volume.info.id, volume.info.blocks);
        store.walk(|replier| {
            Walk::Copy(Copying { volume, next: 0, end, in_flight: 0, failure: None, replier })
        })
    }

    /// Counts what a volume's space consists of.
    ///
    /// # Errors
    /// When there is none, or its map is damaged.
    pub fn usage(&self, name: &str) -> Result<VolumeUsage, StoreError> {
        let (store, volume) = self.find_volume(name)?;
        let id = volume.info.id;
        let usage = store.ask(move |store| store.usage(id))??;
        store.walk(|replier| Walk::Usage(Box::new(usage), replier))
    }

    /// Lists what differs between two volumes or snapshots of a store, or between nothing and one, from a block on. Snapshots
    /// give exact answers; of a volume that is written meanwhile, each part is as it was when it was looked at.
    ///
    /// # Errors
    /// When there is no such volume in the same store, or a map is damaged.
    pub fn differences(
        &self,
        from: Option<&str>,
        to: &str,
        start: VolumeBlock,
    ) -> Result<Differences, StoreError> {
        let (store, to) = self.find_volume(to)?;
        let before = from.map(|from| self.find_volume(from)).transpose()?;
        if let Some((other, volume)) = &before
            && !Arc::ptr_eq(other, &store)
        {
            return Err(StoreError::NoVolume { name: volume.alias() });
        }
        let (before, after) = (before.map(|(_, volume)| volume.info.id), to.info.id);
        let walk = store.ask(move |store| store.changes(before, after))??;
        store.walk(|replier| Walk::Changes { walk, found: Vec::new(), from: start, replier })
    }

    /// Makes a snapshot or a clone of a volume or snapshot.
    ///
    /// # Errors
    /// When the name is taken or none, or the store full.
    pub fn copy_volume(&self, origin: &str, name: &str, kind: VolumeKind) -> Result<VolumeInfo, StoreError> {
        check_name(name)?;
        let (store, volume) = self.find_volume(origin)?;
        let control = Control::Copy { origin: volume.info.id, name: name.into(), uuid: Uuid::new_v4(), kind };
        self.make(&store, control)
    }

    /// Deletes a volume or snapshot. Its space returns in steps.
    ///
    /// # Errors
    /// When there is none, or it is in use.
    pub fn delete_volume(&self, name: &str) -> Result<(), StoreError> {
        let (store, volume) = self.find_volume(name)?;
        let device = volume.info.uuid.to_string();
        self.refuse_used(&device)?;
        self.devices.delete(&device)?;
        locked(&store.volumes).remove(&volume.info.id.0);
        store.control(Control::Delete { volume: volume.info.id })?;
        Ok(())
    }

    /// Gives a volume another size, in blocks of 4 KiB. With `lose`, what lies beyond a smaller one is lost; without, that is
    /// refused.
    ///
    /// # Errors
    /// When there is none, the size is out of range, or data would be lost.
    pub fn resize_volume(&self, name: &str, blocks: u64, lose: bool) -> Result<VolumeInfo, StoreError> {
        let (store, volume) = self.find_volume(name)?;
        let volume = volume.info.id;
        store.control(match lose {
            true => Control::Truncate { volume, blocks },
            false => Control::Resize { volume, blocks },
        })?;
        store.changed(volume)
    }

    /// Makes a volume hold again what a snapshot holds.
    ///
    /// # Errors
    /// When there is no such volume or snapshot in the same store.
    pub fn roll_back(&self, name: &str, snapshot: &str) -> Result<VolumeInfo, StoreError> {
        let (store, volume) = self.find_volume(name)?;
        let (other, snapshot) = self.find_volume(snapshot)?;
        if !Arc::ptr_eq(&store, &other) {
            return Err(StoreError::NoVolume { name: snapshot.alias() });
        }
        store.control(Control::Rollback { volume: volume.info.id, snapshot: snapshot.info.id })?;
        store.changed(volume.info.id)
    }

    /// Gives a volume another name.
    ///
    /// # Errors
    /// When there is none, or the name is taken or none.
    pub fn rename_volume(&self, old: &str, new: &str) -> Result<(), StoreError> {
        check_name(new)?;
        let (store, mut volume) = self.find_volume(old)?;
        if volume.info.name == new {
            return Ok(());
        }
        store.control(Control::Rename { volume: volume.info.id, name: new.into() })?;
        new.clone_into(&mut volume.info.name);
        store.set_alias(&volume);
        Ok(())
    }
}
