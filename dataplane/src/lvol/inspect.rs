//! Reads a store without opening it, for people.

use uuid::Uuid;

use crate::store::format::{Bytes, Layout, SuperblockV1};
use crate::store::{BLOCK_BYTES, Block, Counters, Limits, Lsn, Media, OpenError, VolumeInfo, contents};

/// What a store is, as the last records of its log left it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Where everything lies.
    pub layout: Layout,
    /// The last record.
    pub lsn: Lsn,
    /// Its space.
    pub counters: Counters,
    /// Its volumes and snapshots.
    pub volumes: Vec<VolumeInfo>,
}

/// Reads the store on a device, writing nothing.
///
/// # Errors
/// When there is none, or its metadata cannot be read.
pub fn dump(media: &mut impl Media) -> Result<Dump, OpenError> {
    let found = contents(media, Limits::default())?;
    let mut bytes: Bytes = [0; BLOCK_BYTES];
    media.read(Block(0), &mut bytes)?;
    let name = SuperblockV1::name(&bytes).to_owned();
    let (uuid, layout) = (found.uuid, found.layout);
    Ok(Dump { name, uuid, layout, lsn: found.lsn, counters: found.counters, volumes: found.volumes })
}
