//! The stores of a process: made, opened, changed and closed. Everything here blocks, and must not be called on a reactor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reactors::ReactorHandle;
use reactors::reply::{self, Replier};
use uuid::Uuid;

use super::engine::Gauges;
use super::error::StoreError;
use super::install::Installed;
use super::media::DeviceMedia;
use super::signature::content;
use super::volume::{StoreFlags, VolumeDevice};
use super::walks::Walk;
use crate::device::{Claim, ClaimKind, Device, DeviceError, DeviceRegistry};
use crate::store::format::{Bytes, DiskSuperblock, FormatError, STORE_NAME_BYTES, VERSION};
use crate::store::{
    self, BLOCK_BYTES, Block, Control, Counters, CreateOptions, Failure, GrowError, Limits, Media, OpenError,
    VolumeId, VolumeInfo,
};

/// Commands of a store at a time, over all reactors.
const COMMANDS_MAX: usize = 1024;
/// Blocks of a device for each entry of the volume table: a table of 16,384 for 32 GiB. Each takes 1 KiB of the device, 0.05 %.
const BLOCKS_PER_VOLUME: u64 = 512;
/// Volumes that the owner lists at once.
const LISTED_AT_ONCE: usize = 256;
/// The smallest and the largest table that are made unless asked for.
const VOLUMES: std::ops::RangeInclusive<u64> = 256..=16_384;

/// How a store is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateStore {
    /// The device.
    pub device: String,
    /// The store's name.
    pub name: String,
    /// Its identity; random by default.
    pub uuid: Option<Uuid>,
    /// Volumes, snapshots and clones at most; by the size of the device by default.
    pub volumes_max: Option<u32>,
    /// Deallocate its space first, where the device can.
    pub unmap: bool,
    /// Make it even where something is.
    pub force: bool,
}

/// A store and its space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreSummary {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// The device it is on.
    pub device: String,
    /// Version of its format.
    pub version: u32,
    /// Space, in blocks of 4 KiB.
    pub counters: Counters,
    /// Whether metadata could not be written, so that it only reads until it is opened again.
    pub stopped: bool,
    /// Whether every write is on the media before it completes.
    pub write_through: bool,
}

/// A volume or snapshot with its store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// What it is.
    pub info: VolumeInfo,
    /// Name of its store.
    pub store: String,
    /// Identity of its store.
    pub store_uuid: Uuid,
    /// Name of what it was made from, while that exists.
    pub origin: Option<String>,
}

impl Volume {
    /// The name people use: `store/volume`.
    pub fn alias(&self) -> String {
        format!("{}/{}", self.store, self.info.name)
    }
}

/// Space of a store, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StoreSpace {
    /// For data and map.
    pub total: u64,
    /// Free now.
    pub free: u64,
    /// Free once what is under way is done, and a checkpoint is written.
    pub freeing: u64,
    /// Of the free space, promised to reserved volumes.
    pub promised: u64,
    /// Whether metadata could not be written, so that the store only reads until it is opened again.
    pub stopped: bool,
}

/// An open store.
pub struct OpenStore {
    flags: Arc<StoreFlags>,
    uuid: Uuid,
    gauges: Arc<Gauges>,
    name: Mutex<String>,
    base: Arc<dyn Device>,
    /// Given back when it is closed.
    claim: Mutex<Option<Claim>>,
    installed: Mutex<Option<Installed>>,
    pub(super) volumes: Mutex<BTreeMap<u32, Arc<VolumeDevice>>>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenStore {
    /// Its name.
    pub fn name(&self) -> String {
        locked(&self.name).clone()
    }

    /// Its identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Name of the device it is on.
    pub fn device(&self) -> String {
        self.base.info().name.to_string()
    }

    /// Whether every write is on the media before it completes.
    pub fn is_write_through(&self) -> bool {
        self.flags.write_through.load(Relaxed)
    }

    /// Makes writes complete only when they are on the media, or with the next flush again. For as long as it is open.
    pub fn set_write_through(&self, write_through: bool) {
        self.flags.write_through.store(write_through, Relaxed);
    }

    /// Names of its volumes as devices.
    pub fn volume_devices(&self) -> Vec<String> {
        locked(&self.volumes).values().map(|volume| volume.info().name.to_string()).collect()
    }

    pub(super) fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&store::Store) -> R + Send + 'static,
    ) -> Result<R, StoreError> {
        let installed = locked(&self.installed);
        let installed = installed.as_ref().ok_or_else(|| StoreError::NoStore { name: self.name() })?;
        let answer = installed.on_owner(move |engine| question(engine.store()))?.wait()?;
        answer.ok_or_else(|| StoreError::NoStore { name: self.name() })
    }

    pub(super) fn control(&self, control: Control) -> Result<Option<VolumeId>, StoreError> {
        let installed = locked(&self.installed);
        let installed = installed.as_ref().ok_or_else(|| StoreError::NoStore { name: self.name() })?;
        Ok(installed.control(control)??)
    }

    /// Does what takes many steps, to its end.
    pub(super) fn walk<T: Send + 'static>(
        &self,
        walk: impl FnOnce(Replier<Result<T, Failure>>) -> Walk,
    ) -> Result<T, StoreError> {
        let (replier, reply) = reply::channel();
        let walk = walk(replier);
        {
            let installed = locked(&self.installed);
            let installed = installed.as_ref().ok_or_else(|| StoreError::NoStore { name: self.name() })?;
            installed.on_owner(move |engine| engine.begin(walk))?.wait()?;
        }
        Ok(reply.wait()??)
    }

    pub(super) fn info(&self, id: VolumeId) -> Result<VolumeInfo, StoreError> {
        Ok(self.ask(move |store| store.volume(id))?.ok_or(Failure::NoVolume)?)
    }

    /// Its space.
    ///
    /// # Errors
    /// When it is closed meanwhile.
    pub fn summary(&self) -> Result<StoreSummary, StoreError> {
        let ask = |store: &store::Store| (store.counters(), store.is_stopped(), store.layout().version());
        let (counters, stopped, version) = self.ask(ask)?;
        let write_through = self.is_write_through();
        let (name, device) = (self.name(), self.device());
        Ok(StoreSummary { name, uuid: self.uuid, device, version, counters, stopped, write_through })
    }

    /// Its space as its owner told last, without asking: for metrics.
    pub fn space(&self) -> StoreSpace {
        let bytes = |blocks: &AtomicU64| blocks.load(Relaxed) * BLOCK_BYTES as u64;
        let Gauges { total, free, freeing, promised, stopped } = &*self.gauges;
        StoreSpace {
            total: bytes(total),
            free: bytes(free),
            freeing: bytes(freeing),
            promised: bytes(promised),
            stopped: stopped.load(Relaxed),
        }
    }

    fn volume(&self, id: VolumeId) -> Result<Volume, StoreError> {
        let (info, origin) = self
            .ask(move |store| {
                let info = store.volume(id)?;
                let origin = info.origin.and_then(|origin| store.volume(origin)).map(|origin| origin.name);
                Some((info, origin))
            })?
            .ok_or(Failure::NoVolume)?;
        Ok(Volume { info, store: self.name(), store_uuid: self.uuid, origin })
    }

    /// Its volumes and snapshots.
    ///
    /// # Errors
    /// When it is closed meanwhile.
    pub fn volumes(&self) -> Result<Vec<Volume>, StoreError> {
        let mut infos: Vec<VolumeInfo> = Vec::new();
        loop {
            // A part at a time: the reactor has other work.
            let known = infos.len();
            infos.extend(
                self.ask(move |store| store.volumes().skip(known).take(LISTED_AT_ONCE).collect::<Vec<_>>())?,
            );
            if infos.len() < known + LISTED_AT_ONCE {
                break;
            }
        }
        let names: BTreeMap<u32, String> = infos.iter().map(|info| (info.id.0, info.name.clone())).collect();
        let (store, store_uuid) = (self.name(), self.uuid);
        let volume = |info: VolumeInfo| {
            let origin = info.origin.and_then(|origin| names.get(&origin.0).cloned());
            Volume { info, store: store.clone(), store_uuid, origin }
        };
        Ok(infos.into_iter().map(volume).collect())
    }
}

/// The stores of a process.
pub struct StoreSet {
    pub(super) devices: DeviceRegistry,
    reactors: Vec<ReactorHandle>,
    open: Mutex<Vec<Arc<OpenStore>>>,
    opened: AtomicU64,
}

impl StoreSet {
    /// No stores; those to come use `devices` and run on `reactors`.
    pub fn new(devices: DeviceRegistry, reactors: Vec<ReactorHandle>) -> Self {
        Self { devices, reactors, open: Mutex::default(), opened: AtomicU64::new(0) }
    }

    /// The open stores, in the order in which they were opened.
    pub fn list(&self) -> Vec<Arc<OpenStore>> {
        locked(&self.open).clone()
    }

    /// The store of this name or UUID.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<Arc<OpenStore>, StoreError> {
        let uuid = Uuid::try_parse(name).ok();
        let is_it = |store: &&Arc<OpenStore>| store.name() == name || Some(store.uuid) == uuid;
        let missing = || StoreError::NoStore { name: name.into() };
        locked(&self.open).iter().find(is_it).cloned().ok_or_else(missing)
    }

    /// The store on this device.
    pub fn on_device(&self, device: &str) -> Option<Arc<OpenStore>> {
        locked(&self.open).iter().find(|store| store.device() == device).cloned()
    }

    /// A device by its name or alias, unclaimed.
    ///
    /// # Errors
    /// When there is none.
    pub fn device(&self, name: &str) -> Result<Arc<dyn Device>, DeviceError> {
        self.devices.get(name)
    }

    /// A volume by its UUID or by `store/volume`, and its store.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_volume(&self, name: &str) -> Result<(Arc<OpenStore>, Volume), StoreError> {
        let missing = || StoreError::NoVolume { name: name.into() };
        let uuid = self.devices.get(name).map_err(|_| missing())?.info().uuid;
        for store in self.list() {
            let found = locked(&store.volumes).values().find(|volume| volume.uuid() == uuid).map(|v| v.id());
            if let Some(id) = found {
                let volume = store.volume(id)?;
                return Ok((store, volume));
            }
        }
        Err(missing())
    }

    // Stores

    /// Makes a store and opens it. Data on the device is lost.
    ///
    /// # Errors
    /// When the device is used or holds something, the name is taken, or the device fails.
    pub fn create(&self, options: &CreateStore) -> Result<Arc<OpenStore>, StoreError> {
        check_name(&options.name)?;
        self.refuse_name(&options.name)?;
        let claim = self.claim(&options.device)?;
        let mut media = DeviceMedia::open(claim.device().as_ref())?;
        if !options.force
            && let Some(content) = content(&mut media)?
        {
            return Err(StoreError::Holds { content });
        }
        let blocks = media.blocks();
        let by_size = (blocks / BLOCKS_PER_VOLUME).clamp(*VOLUMES.start(), *VOLUMES.end());
        let create = CreateOptions {
            uuid: options.uuid.unwrap_or_else(Uuid::new_v4),
            volumes: options.volumes_max.unwrap_or(u32::try_from(by_size).unwrap_or(u32::MAX)),
            log_blocks: None,
            force: true,
            version: VERSION,
        };
        let layout = store::create(&mut media, &create)?;
        if options.unmap {
            media.deallocate(layout.data_start(), layout.data_end());
        }
        write_name(&mut media, &options.name)?;
        self.open_claimed(claim, media)
    }

    /// Opens the store on a device, if it holds one.
    ///
    /// # Errors
    /// When there is one that cannot be opened.
    pub fn examine(&self, device: &str) -> Result<Option<Arc<OpenStore>>, StoreError> {
        match self.open(device) {
            Ok(store) => Ok(Some(store)),
            Err(StoreError::NotAStore { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the store on a device; one that is open already is given.
    ///
    /// # Errors
    /// When it holds none, or one that cannot be opened.
    pub fn open(&self, device: &str) -> Result<Arc<OpenStore>, StoreError> {
        if let Some(store) = self.on_device(device) {
            return Ok(store);
        }
        let claim = self.claim(device)?;
        let media = match DeviceMedia::open(claim.device().as_ref()) {
            Err(super::MediaOpenError::Small { .. }) => {
                return Err(StoreError::NotAStore { device: device.into() });
            }
            media => media?,
        };
        self.open_claimed(claim, media)
    }

    /// Makes the store on a device, which is not open, one of the current version of the format, and opens it.
    ///
    /// # Errors
    /// When it is open, when there is none, or one that cannot be opened.
    pub fn upgrade(&self, device: &str) -> Result<Arc<OpenStore>, StoreError> {
        let claim = self.claim(device)?;
        let mut media = DeviceMedia::open(claim.device().as_ref())?;
        let before =
            store::upgrade(&mut media, Limits::default()).map_err(|error| open_error(device, error))?;
        tracing::info!(device, before, version = VERSION, "store upgraded");
        self.open_claimed(claim, media)
    }

    fn open_claimed(&self, claim: Claim, mut media: DeviceMedia) -> Result<Arc<OpenStore>, StoreError> {
        let device = claim.device().info().name.to_string();
        let limits = Limits { commands: COMMANDS_MAX, ..Limits::default() };
        let store = store::open(&mut media, limits).map_err(|error| open_error(&device, error))?;
        let uuid = store.uuid();
        let found = read_name(&mut media)?;
        drop(media);
        let mut name = if found.is_empty() { uuid.to_string() } else { found };
        if self.refuse_name(&name).is_err() {
            // A copy of a device, most likely. It can be reached, and renamed.
            name = uuid.to_string();
            self.refuse_name(&name)?;
        }
        let number = self.opened.fetch_add(1, Relaxed);
        let reactors = self.reactors_for(number);
        let owner = reactors.first().cloned().ok_or(reactors::RunError::Stopped)?;
        let infos: Vec<VolumeInfo> = store.volumes().collect();
        let gauges = Arc::<Gauges>::default();
        let installed = Installed::new(number, &name, store, claim.device(), &gauges, &reactors)?;
        let open = Arc::new(OpenStore {
            flags: Arc::new(StoreFlags { number, owner, write_through: AtomicBool::new(false) }),
            uuid,
            gauges,
            name: Mutex::new(name),
            base: Arc::clone(claim.device()),
            claim: Mutex::new(Some(claim)),
            installed: Mutex::new(Some(installed)),
            volumes: Mutex::default(),
        });
        for info in &infos {
            if let Err(error) = self.add_device(&open, info) {
                tracing::error!(volume = info.name, %error, "a volume is not served");
            }
        }
        locked(&self.open).push(Arc::clone(&open));
        tracing::info!(store = open.name(), device = open.device(), volumes = infos.len(), "store open");
        Ok(open)
    }

    /// All reactors, the owner of the store with this number first: they take turns.
    fn reactors_for(&self, number: u64) -> Vec<ReactorHandle> {
        let mut reactors = self.reactors.clone();
        let count = reactors.len().max(1) as u64;
        reactors.rotate_left(usize::try_from(number % count).unwrap_or(0));
        reactors
    }

    /// Closes a store, with everything on the media. Nothing uses its volumes; what is on the device stays.
    ///
    /// # Errors
    /// When a volume is in use: then it stays open.
    pub fn close(&self, store: &Arc<OpenStore>) -> Result<(), StoreError> {
        self.take_off(store)?;
        drop(locked(&store.claim).take());
        Ok(())
    }

    /// Closes a store, and keeps the device for it.
    fn take_off(&self, store: &Arc<OpenStore>) -> Result<(), StoreError> {
        for name in store.volume_devices() {
            self.refuse_used(&name)?;
        }
        for name in store.volume_devices() {
            self.devices.delete(&name)?;
        }
        locked(&store.volumes).clear();
        locked(&self.open).retain(|other| !Arc::ptr_eq(other, store));
        let installed = locked(&store.installed).take();
        installed.map_or(Ok(()), Installed::close)
    }

    /// Closes a store and makes the device forget it. Its volumes are lost.
    ///
    /// # Errors
    /// When a volume is in use, or the device fails.
    pub fn destroy(&self, store: &Arc<OpenStore>) -> Result<(), StoreError> {
        self.take_off(store)?;
        let _claim = locked(&store.claim).take();
        let mut media = DeviceMedia::open(store.base.as_ref())?;
        for block in superblocks(&mut media)?.1 {
            media.write(block, &[0; BLOCK_BYTES])?;
        }
        Ok(media.flush()?)
    }

    /// Gives a store another name.
    ///
    /// # Errors
    /// When it is taken or none, or the device fails.
    pub fn rename(&self, store: &Arc<OpenStore>, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        if store.name() == name {
            return Ok(());
        }
        self.refuse_name(name)?;
        let mut media = DeviceMedia::open(store.base.as_ref())?;
        write_name(&mut media, name)?;
        name.clone_into(&mut locked(&store.name));
        for volume in store.volumes()? {
            store.set_alias(&volume);
        }
        Ok(())
    }

    /// Gives a store the rest of its device, however large that is now. Hosts go on meanwhile; changes wait for a moment.
    ///
    /// # Errors
    /// When too little came, or the device fails.
    pub fn grow(&self, store: &Arc<OpenStore>) -> Result<(), StoreError> {
        store.base.rescan()?;
        let mut media = DeviceMedia::open(store.base.as_ref())?;
        let (blocks, name) = (media.blocks(), read_name(&mut media)?);
        drop(media);
        let (replier, reply) = reply::channel();
        {
            let installed = locked(&store.installed);
            let installed = installed.as_ref().ok_or_else(|| StoreError::NoStore { name: store.name() })?;
            installed.on_owner(move |engine| engine.grow(blocks, &name, replier))?.wait()?;
        }
        match reply.wait()? {
            Ok(()) | Err(GrowError::Nothing { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn refuse_name(&self, name: &str) -> Result<(), StoreError> {
        match self.find(name) {
            Ok(_) => Err(StoreError::StoreExists { name: name.into() }),
            Err(_) => Ok(()),
        }
    }

    fn claim(&self, device: &str) -> Result<Claim, DeviceError> {
        self.devices.claim(device, ClaimKind::Exclusive, "a store")
    }

    pub(super) fn refuse_used(&self, device: &str) -> Result<(), StoreError> {
        match self.devices.look(device)?.users.into_iter().next() {
            Some(user) => Err(StoreError::InUse { name: device.into(), user }),
            None => Ok(()),
        }
    }

    pub(super) fn add_device(&self, store: &OpenStore, info: &VolumeInfo) -> Result<(), DeviceError> {
        let device = Arc::new(VolumeDevice::new(Arc::clone(&store.flags), &store.name(), info));
        self.devices.add(Arc::clone(&device) as Arc<dyn Device>)?;
        locked(&store.volumes).insert(info.id.0, device);
        Ok(())
    }
}

impl OpenStore {
    /// A volume's size may have changed.
    pub(super) fn changed(&self, id: VolumeId) -> Result<VolumeInfo, StoreError> {
        let info = self.info(id)?;
        if let Some(device) = locked(&self.volumes).get(&id.0) {
            device.refresh(&info);
        }
        Ok(info)
    }

    pub(super) fn set_alias(&self, volume: &Volume) {
        if let Some(device) = locked(&self.volumes).get(&volume.info.id.0) {
            device.set_alias(volume.alias());
        }
    }
}

/// A device without a store is told from one whose store does not open.
fn open_error(device: &str, error: OpenError) -> StoreError {
    match error {
        OpenError::Superblock(FormatError::Magic { .. }) => StoreError::NotAStore { device: device.into() },
        error => error.into(),
    }
}

pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    if name.is_empty() || name.len() >= STORE_NAME_BYTES || name.contains(bad) {
        return Err(StoreError::Name { name: name.into() });
    }
    Ok(())
}

/// The superblock of the store on a device, and where it lies: the last places first. A device that is larger than its store
/// has one at its end, too.
fn superblocks(media: &mut DeviceMedia) -> Result<(Bytes, [Block; 3]), StoreError> {
    let mut bytes: Bytes = [0; BLOCK_BYTES];
    media.read(Block(0), &mut bytes)?;
    let (_, layout) = DiskSuperblock::decode(&bytes).map_err(OpenError::Superblock)?;
    Ok((bytes, [Block(media.blocks() - 1), layout.data_end(), Block(0)]))
}

fn read_name(media: &mut DeviceMedia) -> Result<String, StoreError> {
    let mut bytes: Bytes = [0; BLOCK_BYTES];
    media.read(Block(0), &mut bytes)?;
    if DiskSuperblock::decode(&bytes).is_err() {
        let last = Block(media.blocks() - 1);
        media.read(last, &mut bytes)?;
    }
    Ok(DiskSuperblock::name(&bytes).to_owned())
}

/// Writes a name into the superblocks, one after the other: one of them is whole at any time.
fn write_name(media: &mut DeviceMedia, name: &str) -> Result<(), StoreError> {
    let (mut bytes, places) = superblocks(media)?;
    DiskSuperblock::rename(&mut bytes, name).ok_or_else(|| StoreError::Name { name: name.into() })?;
    for block in places {
        media.write(block, &bytes)?;
        media.flush()?;
    }
    Ok(())
}
