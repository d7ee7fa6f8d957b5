//! What a controller says about its namespaces.

use nvme::admin::Identify;
use nvme::identify::{IdentifyNamespace, NamespaceIdentifier, NsidList, cns, decode_descriptors};
use nvme::zerocopy::FromBytes;
use nvme::{Nqn, Nsid};
use transport::host::Blocking;
use uuid::Uuid;

use super::{AttachError, NvmfConfig};
use crate::device::shape::{Shape, Splits};
use crate::device::{Atomicity, BlockSize, Operations};

/// Identifiers in one page of the active namespace list (base 2.1 §5.1.13.2.2).
const NSIDS_PER_PAGE: usize = 1024;
/// Namespace of the UUIDs of namespaces that have none of their own.
const NAMESPACE_UUIDS: Uuid = Uuid::from_u128(0x7b5f_1a64_9f0c_4f3b_8f6e_13a1_7d3a_b0d2);

/// A namespace as it is now.
pub(super) struct Found {
    pub(super) nsid: Nsid,
    pub(super) uuid: Uuid,
    pub(super) shape: Shape,
    pub(super) blocks: u64,
}

/// What a replica on the other side is, before it can be asked: its device is as large as addresses go, whatever the volume.
pub(super) fn replica(config: &NvmfConfig, block_size: BlockSize) -> Found {
    let nsid = Nsid(1);
    let shape = Shape {
        block_size,
        write_cache: true,
        operations: Operations::FUA | Operations::WRITE_ZEROES,
        atomic: Atomicity::BLOCK,
        preferred_blocks: 1,
    };
    let uuid = Uuid::new_v5(&NAMESPACE_UUIDS, format!("{} {nsid}", config.host.bringup.subnqn).as_bytes());
    Found { nsid, uuid, shape, blocks: crate::replication::REPLICA_BLOCKS }
}

/// Every active namespace, in order.
pub(super) fn namespaces(host: &mut Blocking, name: &str) -> Result<Vec<Found>, AttachError> {
    active(host, name)?.into_iter().map(|nsid| namespace(host, name, nsid)).collect()
}

fn active(host: &mut Blocking, name: &str) -> Result<Vec<Nsid>, AttachError> {
    let mut all: Vec<Nsid> = Vec::new();
    loop {
        let after = all.last().copied().unwrap_or(Nsid(0));
        let page = identify(host, name, Identify { nsid: after, ..Identify::new(cns::ACTIVE_NSID_LIST) })?;
        let (list, _) = NsidList::read_from_prefix(&page).map_err(|_| short(after))?;
        let before = all.len();
        all.extend(list.iter());
        // A page that is not full ends the list; one that does not go on would never end it.
        if all.len() - before < NSIDS_PER_PAGE || all.last().copied() <= Some(after) {
            return Ok(all);
        }
    }
}

fn namespace(host: &mut Blocking, name: &str, nsid: Nsid) -> Result<Found, AttachError> {
    let page = identify(host, name, Identify { nsid, ..Identify::new(cns::NAMESPACE) })?;
    let (identity, _) = IdentifyNamespace::read_from_prefix(&page).map_err(|_| short(nsid))?;
    let gone = || AttachError::Namespace { nsid, why: "the controller is gone".into() };
    let controller = host.controller().ok_or_else(gone)?;
    let transfer_bytes_max = host.config().data_bytes_max(controller);
    let splits = Splits { transfer_bytes_max, at_optimal_boundary: false };
    let shape = Shape::of(&controller.identity, &identity, splits)
        .map_err(|why| AttachError::Namespace { nsid, why })?;
    let descriptors = Identify { nsid, ..Identify::new(cns::NAMESPACE_DESCRIPTORS) };
    // Controllers before base 1.3 have no descriptors.
    let descriptors = identify(host, name, descriptors).unwrap_or_default();
    let uuid = uuid_of(&descriptors, &identity, &host.config().bringup.subnqn, nsid);
    Ok(Found { nsid, uuid, shape, blocks: identity.nsze.get() })
}

/// The namespace's own UUID, else one that is made of what identifies it.
fn uuid_of(descriptors: &[u8], identity: &IdentifyNamespace, subnqn: &Nqn, nsid: Nsid) -> Uuid {
    let own = decode_descriptors(descriptors).into_iter().find_map(|descriptor| match descriptor {
        NamespaceIdentifier::Uuid(uuid) => Some(Uuid::from_bytes(uuid)),
        _ => None,
    });
    if let Some(uuid) = own.filter(|uuid| !uuid.is_nil()) {
        return uuid;
    }
    if identity.nguid != [0; 16] {
        return Uuid::new_v5(&NAMESPACE_UUIDS, &identity.nguid);
    }
    Uuid::new_v5(&NAMESPACE_UUIDS, format!("{subnqn} {nsid}").as_bytes())
}

fn identify(host: &mut Blocking, name: &str, command: Identify) -> Result<Vec<u8>, AttachError> {
    let remote = host.config().remote;
    host.identify(&command).map_err(|source| AttachError::Connect { name: name.into(), remote, source })
}

fn short(nsid: Nsid) -> AttachError {
    AttachError::Namespace { nsid, why: "Identify gave too few bytes".into() }
}
