//! The devices of a process by name, and who uses them.
//!
//! A device has either one exclusive user or any number of readers. It cannot be removed while it has a user.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::memory::MemoryDevice;
use super::null::NullDevice;
use super::uring::{UringConfig, UringDevice};
use super::{BlockSize, Device, DeviceError, Limits};

/// Longest name of a device: what a file name may have.
const NAME_MAX: usize = 255;

/// What a device is made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceSpec {
    /// Memory of this process.
    Malloc {
        /// Name of the device.
        name: String,
        /// Capacity in blocks.
        blocks: u64,
        /// Logical block size.
        block_size: BlockSize,
        /// Identity; a new random one by default.
        uuid: Option<Uuid>,
    },
    /// No content.
    Null {
        /// Name of the device.
        name: String,
        /// Capacity in blocks.
        blocks: u64,
        /// Logical block size.
        block_size: BlockSize,
        /// Identity; a new random one by default.
        uuid: Option<Uuid>,
    },
    /// A file or block device.
    Uring(UringConfig),
    /// A file or block device, asked for under the name of an older interface. The same device as [`Self::Uring`].
    Aio(UringConfig),
}

impl DeviceSpec {
    /// Name of the device.
    pub fn name(&self) -> &str {
        match self {
            Self::Malloc { name, .. } | Self::Null { name, .. } => name,
            Self::Uring(config) | Self::Aio(config) => &config.name,
        }
    }

    /// Makes the device. It may block on the file system.
    pub fn build(&self) -> Result<Arc<dyn Device>, DeviceError> {
        let identity = |uuid: &Option<Uuid>| uuid.unwrap_or_else(Uuid::new_v4);
        Ok(match self {
            Self::Malloc { name, blocks, block_size, uuid } => {
                Arc::new(MemoryDevice::new(name, *block_size, *blocks, identity(uuid))?)
            }
            Self::Null { name, blocks, block_size, uuid } => {
                Arc::new(NullDevice::new(name, *block_size, *blocks, identity(uuid))?)
            }
            Self::Uring(config) | Self::Aio(config) => Arc::new(UringDevice::open(config)?),
        })
    }
}

/// How a device is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimKind {
    /// Reads and writes, alone.
    Exclusive,
    /// Reads, together with other readers.
    SharedRead,
}

/// A device as the registry lists it.
#[derive(Clone)]
pub struct Listed {
    /// The device.
    pub device: Arc<dyn Device>,
    /// What it was made from; `None` for devices that were added ready-made.
    pub spec: Option<DeviceSpec>,
    /// Who uses it, empty if nobody does.
    pub users: Vec<String>,
    /// What hosts may take of it.
    pub limits: Arc<Limits>,
}

struct Entry {
    device: Arc<dyn Device>,
    spec: Option<DeviceSpec>,
    limits: Arc<Limits>,
    claims: Vec<(u64, ClaimKind, String)>,
}

impl Entry {
    fn users(&self) -> Vec<String> {
        self.claims.iter().map(|(_, _, user)| user.clone()).collect()
    }

    /// Refuses if somebody uses the device in a way that excludes `kind`.
    fn refuse_conflict(&self, kind: ClaimKind) -> Result<(), DeviceError> {
        let conflict = self
            .claims
            .iter()
            .find(|(_, held, _)| kind == ClaimKind::Exclusive || *held == ClaimKind::Exclusive);
        match conflict {
            Some((_, _, user)) => {
                Err(DeviceError::Claimed { name: self.device.info().name.to_string(), user: user.clone() })
            }
            None => Ok(()),
        }
    }
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<String, Entry>,
    /// Who has which identity.
    uuids: HashMap<Uuid, String>,
    next_claim: u64,
}

impl Table {
    fn entry(&mut self, name: &str) -> Result<&mut Entry, DeviceError> {
        let name = self.resolve(name);
        self.entries.get_mut(&*name).ok_or_else(|| DeviceError::NotFound { name: name.into_owned() })
    }

    /// The name of the device that this is the name or the alias of.
    fn resolve<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.entries.contains_key(name) {
            return name.into();
        }
        let is_it = |entry: &Entry| entry.device.alias().is_some_and(|alias| alias == name);
        let found = self.entries.iter().find(|(_, entry)| is_it(entry));
        found.map_or(name.into(), |(own, _)| own.clone().into())
    }
}

/// The devices of a process. Clones are handles to the same registry.
#[derive(Clone, Default)]
pub struct DeviceRegistry(Arc<Mutex<Table>>);

impl DeviceRegistry {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a device and adds it. It may block on the file system.
    pub fn create(&self, spec: DeviceSpec) -> Result<Arc<dyn Device>, DeviceError> {
        check_name(spec.name())?;
        // Looked at before anything is created on disk; adding looks again.
        if self.table().entries.contains_key(spec.name()) {
            return Err(DeviceError::Exists { name: spec.name().into() });
        }
        let device = spec.build()?;
        self.insert(Arc::clone(&device), Some(spec))?;
        Ok(device)
    }

    /// Adds a device that was made elsewhere.
    pub fn add(&self, device: Arc<dyn Device>) -> Result<(), DeviceError> {
        self.insert(device, None)
    }

    fn insert(&self, device: Arc<dyn Device>, spec: Option<DeviceSpec>) -> Result<(), DeviceError> {
        let info = device.info();
        check_name(&info.name)?;
        let mut table = self.table();
        if table.entries.contains_key(&*info.name) {
            return Err(DeviceError::Exists { name: info.name.to_string() });
        }
        if let Some(name) = table.uuids.get(&info.uuid) {
            return Err(DeviceError::UuidExists { name: name.clone(), uuid: info.uuid });
        }
        table.uuids.insert(info.uuid, info.name.to_string());
        table.entries.insert(
            info.name.to_string(),
            Entry { device, spec, limits: Arc::default(), claims: Vec::new() },
        );
        Ok(())
    }

    /// Removes a device that nobody uses. Its content stays if it is a file or block device.
    pub fn delete(&self, name: &str) -> Result<(), DeviceError> {
        let removed = {
            let mut table = self.table();
            let name = table.resolve(name).into_owned();
            table.entry(&name)?.refuse_conflict(ClaimKind::Exclusive)?;
            table.uuids.retain(|_, other| *other != name);
            table.entries.remove(&name)
        };
        // Closing may block: not under the lock.
        drop(removed);
        Ok(())
    }

    /// The device of this name or alias.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Device>, DeviceError> {
        Ok(Arc::clone(&self.table().entry(name)?.device))
    }

    /// One device, by name or alias, with its users.
    pub fn look(&self, name: &str) -> Result<Listed, DeviceError> {
        Ok(listed(self.table().entry(name)?))
    }

    /// All devices, in the order of their names.
    pub fn list(&self) -> Vec<Listed> {
        self.table().entries.values().map(listed).collect()
    }

    /// Uses a device, in the name of `user`, until the claim is dropped.
    pub fn claim(&self, name: &str, kind: ClaimKind, user: &str) -> Result<Claim, DeviceError> {
        let mut table = self.table();
        let id = table.next_claim;
        let entry = table.entry(name)?;
        entry.refuse_conflict(kind)?;
        entry.claims.push((id, kind, user.into()));
        let device = Arc::clone(&entry.device);
        table.next_claim += 1;
        Ok(Claim { registry: self.clone(), name: name.into(), id, device })
    }
}

fn listed(entry: &Entry) -> Listed {
    let Entry { device, spec, limits, .. } = entry;
    let (device, limits) = (Arc::clone(device), Arc::clone(limits));
    Listed { device, spec: spec.clone(), users: entry.users(), limits }
}

fn check_name(name: &str) -> Result<(), DeviceError> {
    let bad = |c: char| c.is_control() || c.is_whitespace();
    if name.is_empty() || name.len() > NAME_MAX || name.contains(bad) {
        return Err(DeviceError::Name { name: name.into() });
    }
    Ok(())
}

/// The right to use a device. Dropping it gives the device free.
pub struct Claim {
    registry: DeviceRegistry,
    name: String,
    id: u64,
    device: Arc<dyn Device>,
}

impl Claim {
    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("device", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Ok(entry) = self.registry.table().entry(&self.name) {
            entry.claims.retain(|(id, ..)| *id != self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null(name: &str) -> DeviceSpec {
        DeviceSpec::Null { name: name.into(), blocks: 8, block_size: BlockSize::B512, uuid: None }
    }

    #[test]
    fn a_device_is_not_deleted_while_it_is_claimed() {
        let registry = DeviceRegistry::default();
        registry.create(null("a")).unwrap();
        let claim = registry.claim("a", ClaimKind::Exclusive, "namespace 1 of nqn").unwrap();
        let refused = registry.delete("a").unwrap_err();
        assert_eq!(refused.to_string(), "device a is in use by namespace 1 of nqn");
        assert_eq!(registry.look("a").unwrap().users, ["namespace 1 of nqn"]);
        drop(claim);
        registry.delete("a").unwrap();
        assert!(matches!(registry.get("a"), Err(DeviceError::NotFound { .. })));
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let registry = DeviceRegistry::default();
        registry.create(null("a")).unwrap();
        let first = registry.claim("a", ClaimKind::SharedRead, "one").unwrap();
        let second = registry.claim("a", ClaimKind::SharedRead, "two").unwrap();
        assert!(matches!(registry.claim("a", ClaimKind::Exclusive, "x"), Err(DeviceError::Claimed { .. })));
        drop((first, second));
        let _writer = registry.claim("a", ClaimKind::Exclusive, "x").unwrap();
        assert!(registry.claim("a", ClaimKind::SharedRead, "one").is_err());
        assert!(registry.claim("a", ClaimKind::Exclusive, "y").is_err());
    }

    #[test]
    fn names_and_identities_are_unique() {
        let registry = DeviceRegistry::default();
        let uuid = registry.create(null("a")).unwrap().info().uuid;
        assert!(matches!(registry.create(null("a")), Err(DeviceError::Exists { .. })));
        let twin =
            DeviceSpec::Malloc { name: "b".into(), blocks: 1, block_size: BlockSize::B512, uuid: Some(uuid) };
        assert!(matches!(registry.create(twin), Err(DeviceError::UuidExists { .. })));
        for name in ["", "with space", "tab\t", &"x".repeat(256)] {
            assert!(matches!(registry.create(null(name)), Err(DeviceError::Name { .. })), "{name:?}");
        }
        assert_eq!(registry.list().len(), 1);
    }

    #[test]
    fn a_file_is_opened_once_and_free_again_after_deletion() {
        let directory = tempfile::TempDir::new().unwrap();
        let registry = DeviceRegistry::default();
        let mut config = UringConfig::new("file", directory.path().join("file"));
        config.size_bytes = Some(1 << 20);
        registry.create(DeviceSpec::Uring(config.clone())).unwrap();
        config.name = "again".into();
        let refused = registry.create(DeviceSpec::Aio(config.clone())).map(|_| ()).unwrap_err();
        assert!(
            matches!(&refused, DeviceError::Busy { holder, .. } if holder.contains("this process")),
            "{refused}"
        );
        registry.delete("file").unwrap();
        registry.create(DeviceSpec::Aio(config)).unwrap();
    }
}
