//! Changes of the volumes themselves: each is one record, or refused.

use uuid::Uuid;

use super::command::{Control, Failure};
use super::commands::Step;
use super::format::{Record, VolumeEntry};
use super::machine::Store;
use super::state::{Settings, Volume, VolumeKind, owed};
use super::{VOLUME_BLOCKS_MAX, VolumeId};

impl Store {
    /// Makes the change; says which volume it made.
    pub(crate) fn change_volumes(&mut self, control: &Control) -> Step<Option<VolumeId>> {
        match control {
            Control::Create { name, uuid, blocks } => {
                self.create(name, *uuid, *blocks, Settings::default()).map(Some)
            }
            Control::CreateWith { name, uuid, blocks, settings } => {
                self.create(name, *uuid, *blocks, *settings).map(Some)
            }
            Control::Copy { origin, name, uuid, kind } => self.copy(*origin, name, *uuid, *kind).map(Some),
            Control::Delete { volume } => {
                self.existing(*volume)?;
                self.apply_ready(&Record::Delete { volume: *volume }).map(|()| None)
            }
            Control::Resize { volume, blocks } => self.resize(*volume, *blocks, false).map(|()| None),
            Control::Truncate { volume, blocks } => self.resize(*volume, *blocks, true).map(|()| None),
            Control::Configure { volume, read_only, reserved } => {
                self.configure(*volume, *read_only, *reserved).map(|()| None)
            }
            Control::Detach { volume } => {
                self.existing(*volume)?;
                self.apply_ready(&Record::Detach { volume: *volume }).map(|()| None)
            }
            Control::Promote { volume } => {
                self.state.origin(self.writable(*volume)?).ok_or(Failure::NoOrigin)?;
                self.apply_ready(&Record::Promote { volume: *volume }).map(|()| None)
            }
            Control::Rollback { volume, snapshot } => self.rollback(*volume, *snapshot).map(|()| None),
            Control::Rename { volume, name } => {
                self.existing(*volume)?;
                let entry = self.named_entry(name, Uuid::nil(), 0)?;
                self.apply_ready(&Record::Rename { volume: *volume, name: &entry.name }).map(|()| None)
            }
        }
    }

    fn apply_ready(&mut self, record: &Record<'_>) -> Step {
        self.apply_promising(record, 0)
    }

    /// Applies a record that adds so much to what is owed to reserved volumes.
    fn apply_promising(&mut self, record: &Record<'_>, more: u64) -> Step {
        let frames = self.state.ready(record)?;
        let left = if more == 0 { 0 } else { self.state.promised + self.slack() };
        self.has_space(frames, more, left)?;
        self.apply(record);
        Ok(())
    }

    fn existing(&self, id: VolumeId) -> Result<&Volume, Failure> {
        self.state.live(id).ok_or(Failure::NoVolume)
    }

    fn writable(&self, id: VolumeId) -> Result<&Volume, Failure> {
        let volume = self.existing(id)?;
        if volume.is_read_only() { Err(Failure::ReadOnly) } else { Ok(volume) }
    }

    fn named_entry(&self, name: &str, uuid: Uuid, blocks: u64) -> Result<VolumeEntry, Failure> {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(Failure::BadName);
        }
        if self.state.named(name).is_some() {
            return Err(Failure::NameTaken);
        }
        VolumeEntry::new(uuid, blocks, name).ok_or(Failure::BadName)
    }

    fn new_entry(&self, name: &str, uuid: Uuid, blocks: u64) -> Result<(VolumeId, VolumeEntry), Failure> {
        let entry = self.named_entry(name, uuid, blocks)?;
        check_size(blocks)?;
        Ok((self.state.free_place().ok_or(Failure::TooManyVolumes)?, entry))
    }

    fn create(&mut self, name: &str, uuid: Uuid, blocks: u64, settings: Settings) -> Step<VolumeId> {
        let (volume, mut entry) = self.new_entry(name, uuid, blocks)?;
        entry.flags |= settings.flags();
        let more = if settings.reserved { owed(blocks, 0) } else { 0 };
        self.apply_promising(&Record::Create { volume, entry: &entry }, more)?;
        Ok(volume)
    }

    fn copy(&mut self, origin: VolumeId, name: &str, uuid: Uuid, kind: VolumeKind) -> Step<VolumeId> {
        let from = self.existing(origin)?;
        // What a reserved volume shares it may have to write again elsewhere.
        let more = if from.has(VolumeEntry::RESERVED) { owed(from.blocks(), 0) - from.owed() } else { 0 };
        let (volume, mut entry) = self.new_entry(name, uuid, from.blocks())?;
        entry.origin = (origin.0 + 1).into();
        if kind == VolumeKind::Snapshot {
            entry.flags |= VolumeEntry::SNAPSHOT;
        }
        self.apply_promising(&Record::Create { volume, entry: &entry }, more)?;
        Ok(volume)
    }

    fn resize(&mut self, id: VolumeId, blocks: u64, force: bool) -> Step {
        let volume = self.writable(id)?;
        if volume.has(VolumeEntry::REAPING) {
            return Err(Failure::Shrinking.into());
        }
        check_size(blocks)?;
        let root = volume.root;
        let (own, before) = (volume.entry.own.get(), volume.owed());
        let reserved = volume.has(VolumeEntry::RESERVED);
        if blocks < volume.blocks()
            && !force
            && self.state.meta.last_mapped(root)?.is_some_and(|last| last.0 >= blocks)
        {
            return Err(Failure::WouldLoseData.into());
        }
        let more = if reserved { owed(blocks, own).saturating_sub(before) } else { 0 };
        self.apply_promising(&Record::Resize { volume: id, blocks }, more)
    }

    fn configure(&mut self, id: VolumeId, read_only: Option<bool>, reserved: Option<bool>) -> Step {
        let volume = self.existing(id)?;
        if volume.has(VolumeEntry::SNAPSHOT) {
            return Err(Failure::ReadOnly.into());
        }
        let set = |flags: u8, flag: u8, on: Option<bool>| match on {
            None => flags,
            Some(true) => flags | flag,
            Some(false) => flags & !flag,
        };
        let flags = set(volume.entry.flags, VolumeEntry::READ_ONLY, read_only);
        let flags = set(flags, VolumeEntry::RESERVED, reserved);
        let promises = flags & !volume.entry.flags & VolumeEntry::RESERVED != 0;
        let more = if promises { owed(volume.blocks(), volume.entry.own.get()) } else { 0 };
        self.apply_promising(&Record::Configure { volume: id, flags }, more)
    }

    fn rollback(&mut self, id: VolumeId, snapshot: VolumeId) -> Step {
        let (volume, from) = (self.writable(id)?, self.existing(snapshot)?);
        if (volume.entry.flags ^ from.entry.flags) & VolumeEntry::UNSUMMED != 0 {
            return Err(Failure::ChecksumsDiffer.into());
        }
        let after = |volume: &Volume, blocks| {
            if volume.has(VolumeEntry::RESERVED) { owed(blocks, 0).saturating_sub(volume.owed()) } else { 0 }
        };
        let mut more = after(volume, from.blocks());
        if id != snapshot {
            more += after(from, from.blocks());
        }
        let husk = self.state.free_place().ok_or(Failure::TooManyVolumes)?;
        self.apply_promising(&Record::Rollback { volume: id, snapshot, husk }, more)
    }

    /// What has to stay free when a map changes and nothing is written: slack is for that, what is promised is not.
    pub(crate) fn left_by_change(&self, id: VolumeId) -> u64 {
        self.state.promised - self.state.live(id).map_or(0, Volume::owed)
    }

    /// What has to stay free when data is written to a volume: everything promised to others, and slack. To use a promise
    /// needs no slack: it was left when the promise was made.
    pub(crate) fn left_by_write(&self, id: VolumeId) -> u64 {
        let owed = self.state.live(id).filter(|volume| volume.has(VolumeEntry::RESERVED)).map(Volume::owed);
        owed.map_or(self.state.promised + self.slack(), |owed| self.state.promised - owed)
    }
}

fn check_size(blocks: u64) -> Result<(), Failure> {
    if (1..=VOLUME_BLOCKS_MAX).contains(&blocks) { Ok(()) } else { Err(Failure::OutOfRange) }
}
