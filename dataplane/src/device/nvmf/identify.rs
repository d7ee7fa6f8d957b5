//! What a controller says about its namespaces.

use nvme::admin::Identify;
use nvme::identify::{
    DLFEAT_READS_ZEROES, IdentifyNamespace, NamespaceIdentifier, NsidList, VWC_PRESENT, cns,
    decode_descriptors, nsfeat, oncs,
};
use nvme::zerocopy::FromBytes;
use nvme::{Nqn, Nsid};
use transport::tcp::host::Blocking;
use uuid::Uuid;

use super::AttachError;
use crate::device::{BlockSize, Operations};

/// Identifiers in one page of the active namespace list (base 2.1 §5.1.13.2.2).
const NSIDS_PER_PAGE: usize = 1024;
/// Bits of DLFEAT that say how deallocated blocks read.
const DLFEAT_BEHAVIOUR: u8 = 0b111;
/// Namespace of the UUIDs of namespaces that have none of their own.
const NAMESPACE_UUIDS: Uuid = Uuid::from_u128(0x7b5f_1a64_9f0c_4f3b_8f6e_13a1_7d3a_b0d2);

/// What of a namespace does not change while it is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) block_size: BlockSize,
    pub(super) write_cache: bool,
    pub(super) operations: Operations,
    pub(super) atomic_blocks: u32,
    pub(super) preferred_blocks: u32,
}

/// A namespace as it is now.
pub(super) struct Found {
    pub(super) nsid: Nsid,
    pub(super) uuid: Uuid,
    pub(super) shape: Shape,
    pub(super) blocks: u64,
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
    let shape = shape(host, &identity).map_err(|why| AttachError::Namespace { nsid, why })?;
    let descriptors = Identify { nsid, ..Identify::new(cns::NAMESPACE_DESCRIPTORS) };
    // Controllers before base 1.3 have no descriptors.
    let descriptors = identify(host, name, descriptors).unwrap_or_default();
    let uuid = uuid_of(&descriptors, &identity, &host.config().bringup.subnqn, nsid);
    Ok(Found { nsid, uuid, shape, blocks: identity.nsze.get() })
}

fn shape(host: &Blocking, namespace: &IdentifyNamespace) -> Result<Shape, String> {
    let controller = host.controller().ok_or("the controller is gone")?;
    let bytes = namespace.block_bytes().ok_or("it reports no valid block size")?;
    let block_size = BlockSize::try_from(bytes).map_err(|error| error.to_string())?;
    if namespace.format().ms.get() != 0 {
        return Err("its blocks carry metadata, which is not supported".into());
    }
    let identity = &controller.identity;
    let write_cache = identity.vwc & VWC_PRESENT != 0;
    let can = |bit: u16| identity.oncs.get() & bit != 0;
    let deallocates = can(oncs::DATASET_MANAGEMENT);
    let zeroes = namespace.dlfeat & DLFEAT_BEHAVIOUR == DLFEAT_READS_ZEROES;
    let mut operations = Operations::FUA;
    operations.set(Operations::FLUSH, write_cache);
    operations.set(Operations::WRITE_ZEROES, can(oncs::WRITE_ZEROES));
    operations.set(Operations::DEALLOCATE, deallocates);
    operations.set(Operations::DEALLOCATE_ZEROES, deallocates && zeroes);
    let own = namespace.nsfeat & nsfeat::ATOMIC != 0;
    let atomic = if own { namespace.nawun.get() } else { identity.awun.get() };
    let prefers = namespace.nsfeat & nsfeat::OPTIMAL_WRITE != 0;
    let preferred = if prefers { namespace.npwg.get() } else { 0 };
    Ok(Shape {
        block_size,
        write_cache,
        operations,
        atomic_blocks: u32::from(atomic) + 1,
        preferred_blocks: u32::from(preferred) + 1,
    })
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
