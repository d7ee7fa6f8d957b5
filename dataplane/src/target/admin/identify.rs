//! Identify (base 2.1 §5.1.13, NVM command set 1.1 §4.1.5). What is not supported is not advertised.

use nvme::admin::Identify;
use nvme::identify::{
    CommandSets, ControllerList, ControllerType, Csi, DLFEAT_READS_ZEROES, DiscoveryControllerType,
    IDENTIFY_BYTES, IdentifyController, IdentifyControllerNvm, IdentifyNamespace,
    IdentifyNamespaceIndependent, IdentifyNamespaceNvm, LbaFormat, NMIC_SHARED, NsidList, SGLS_ANY_ALIGNMENT,
    VWC_FLUSH_ALL_SUPPORTED, VWC_PRESENT, anacap, cmic, cns, ctratt, dlfeat, fuses, lpa, nsfeat,
    nsfeat_independent, ofcs, oncs, rescap, sgls,
};
use nvme::zerocopy::IntoBytes;
use nvme::{Ascii, Nsid, Status, U16, U32, U64, U128};
use transport::TransportKind;

use super::features::KEEP_ALIVE_GRANULARITY;
use super::{AdminController, AdminOrder, Answer, INVALID_FIELD, Registers};
use crate::device::{DeviceInfo, Operations};
use crate::target::limits::{
    ABORTS_MAX, ASYNC_EVENTS_MAX, COMPARE_WRITE_BLOCKS_MAX, ERROR_LOG_ENTRIES, NAMESPACES_MAX,
};
use crate::target::options::SubsystemKind;
use crate::target::service::ReactorTarget;
use crate::target::view::{Namespace, SubsystemView};

/// MDTS, VSL and WZSL count in pages of this size (CAP.MPSMIN = 0).
const PAGE_SHIFT: u32 = 12;
/// Seconds that an ANA transition takes at most (ANATT).
const ANA_TRANSITION_S: u8 = 10;
/// SQES and CQES: 64 and 16 bytes, required and largest.
const ENTRY_SIZES: (u8, u8) = (0x66, 0x44);
/// One read-only firmware slot (FRMW).
const FIRMWARE_SLOTS: u8 = 1 << 1 | 1;
/// Capsules in units of 16 bytes: an SQE and a CQE.
const SQE_UNITS: u32 = 4;
const CQE_UNITS: u32 = 1;
/// NVMSR: the subsystem is an NVMe storage device.
const NVMSR_STORAGE_DEVICE: u8 = 1;
/// Every reservation type; they do not persist through a power loss.
const RESERVATIONS: u8 = rescap::WRITE_EXCLUSIVE
    | rescap::EXCLUSIVE_ACCESS
    | rescap::WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    | rescap::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
    | rescap::WRITE_EXCLUSIVE_ALL_REGISTRANTS
    | rescap::EXCLUSIVE_ACCESS_ALL_REGISTRANTS
    | rescap::IGNORE_EXISTING_KEY_1_3;
const COMMANDS: u16 = oncs::COMPARE
    | oncs::DATASET_MANAGEMENT
    | oncs::WRITE_ZEROES
    | oncs::SAVE_AND_SELECT
    | oncs::RESERVATIONS
    | oncs::TIMESTAMP
    | oncs::VERIFY;

const INVALID_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.dnr();

/// The version that the firmware revision shows.
pub(super) fn firmware_revision() -> Ascii<8> {
    Ascii::new(env!("CARGO_PKG_VERSION")).unwrap_or_default()
}

impl ReactorTarget {
    pub(super) fn identify(&mut self, admin: &mut AdminController, order: AdminOrder<'_>) -> Answer {
        let command = Identify::from(order.sqe);
        let sub = self.subsystem_of(&admin.controller)?;
        if command.cns == cns::CONTROLLER {
            return self.reply(order.sqe, controller(admin, &sub).as_bytes());
        }
        if sub.kind == SubsystemKind::Discovery {
            return Err(INVALID_FIELD);
        }
        match command.cns {
            cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => {
                self.reply(order.sqe, of_namespace(&sub, &command)?.as_bytes())
            }
            cns::ACTIVE_NSID_LIST | cns::ALLOCATED_NSID_LIST => {
                self.reply(order.sqe, nsid_list(&sub, &command)?.as_bytes())
            }
            cns::NAMESPACE_DESCRIPTORS => self.reply(order.sqe, &descriptors(&sub, &command)?),
            cns::INDEPENDENT_NAMESPACE | cns::INDEPENDENT_ALLOCATED_NAMESPACE => {
                self.reply(order.sqe, independent(&sub, &command)?.as_bytes())
            }
            cns::NAMESPACE_CONTROLLER_LIST | cns::CONTROLLER_LIST => {
                self.reply(order.sqe, controllers(&sub, &command)?.as_bytes())
            }
            cns::COMMAND_SET => self.reply(order.sqe, CommandSets::nvm().as_bytes()),
            _ if command.csi != Csi::NVM.0 => Err(INVALID_FIELD),
            cns::CSI_ACTIVE_NSID_LIST | cns::CSI_ALLOCATED_NSID_LIST => {
                self.reply(order.sqe, nsid_list(&sub, &command)?.as_bytes())
            }
            cns::CSI_NAMESPACE | cns::CSI_ALLOCATED_NAMESPACE => {
                namespace(&sub, command.nsid)?;
                self.reply(order.sqe, IdentifyNamespaceNvm::default().as_bytes())
            }
            cns::CSI_CONTROLLER => self.reply(order.sqe, nvm_controller().as_bytes()),
            _ => Err(INVALID_FIELD),
        }
    }
}

/// The SGL descriptor by which a transport moves data that is not in a capsule.
const fn moves_data_by(transport: TransportKind) -> u32 {
    match transport {
        TransportKind::Tcp => sgls::TRANSPORT,
        TransportKind::Rdma => sgls::KEYED,
    }
}

fn controller(admin: &AdminController, sub: &SubsystemView) -> IdentifyController {
    let transport = &admin.transport;
    let mdts = transport.io_bytes_max.ilog2().saturating_sub(PAGE_SHIFT);
    let mut id = IdentifyController {
        fr: firmware_revision(),
        mdts: u8::try_from(mdts).unwrap_or_default(),
        cntlid: U16::new(admin.controller.id.get()),
        ver: U32::new(Registers::version().0),
        oaes: U32::new(admin.events.supported()),
        ctratt: U32::new(ctratt::HOST_ID_128),
        aerl: ASYNC_EVENTS_MAX - 1,
        lpa: lpa::EXTENDED_DATA | lpa::COMMANDS_AND_EFFECTS | lpa::SUPPORTED_LOG_PAGES,
        elpe: u8::try_from(ERROR_LOG_ENTRIES - 1).unwrap_or(u8::MAX),
        kas: U16::new(KEEP_ALIVE_GRANULARITY),
        maxcmd: U16::new(u16::try_from(transport.queue_depth_max).unwrap_or(u16::MAX)),
        sgls: U32::new(SGLS_ANY_ALIGNMENT | sgls::OFFSET | moves_data_by(admin.controller.address.transport)),
        subnqn: (&sub.options.nqn).into(),
        ioccsz: U32::new(SQE_UNITS + transport.in_capsule_data_bytes / 16),
        iorcsz: U32::new(CQE_UNITS),
        msdbd: 1,
        ..IdentifyController::default()
    };
    match sub.kind {
        SubsystemKind::Discovery => {
            id.cntrltype = ControllerType::DISCOVERY.0;
            id.dctype = DiscoveryControllerType::DIRECT.0;
        }
        SubsystemKind::Nvm => io_controller(&mut id, sub),
    }
    id
}

fn io_controller(id: &mut IdentifyController, sub: &SubsystemView) {
    let capacity = sub.active().map(|ns| u128::from(ns.info().bytes())).sum();
    id.cntrltype = ControllerType::IO.0;
    id.sn = Ascii::new(&sub.options.serial).unwrap_or_default();
    id.mn = Ascii::new(&sub.options.model).unwrap_or_default();
    id.cmic = cmic::MULTI_PORT | cmic::MULTI_CONTROLLER;
    id.nvmsr = NVMSR_STORAGE_DEVICE;
    id.acl = ABORTS_MAX - 1;
    id.frmw = FIRMWARE_SLOTS;
    id.tnvmcap = U128::new(capacity);
    (id.sqes, id.cqes) = ENTRY_SIZES;
    id.nn = U32::new(sub.options.namespaces_max);
    id.mnan = U32::new(sub.options.namespaces_max.min(NAMESPACES_MAX));
    id.oncs = U16::new(COMMANDS);
    id.fuses = U16::new(fuses::COMPARE_AND_WRITE);
    id.vwc = VWC_FLUSH_ALL_SUPPORTED | if sub.has_write_cache() { VWC_PRESENT } else { 0 };
    id.acwu = U16::new(u16::try_from(COMPARE_WRITE_BLOCKS_MAX - 1).unwrap_or_default());
    id.ofcs = U16::new(ofcs::DISCONNECT);
    if sub.options.ana_reporting {
        id.cmic |= cmic::ANA_REPORTING;
        id.anatt = ANA_TRANSITION_S;
        id.anacap = anacap::OPTIMIZED
            | anacap::NON_OPTIMIZED
            | anacap::INACCESSIBLE
            | anacap::PERSISTENT_LOSS
            | anacap::CHANGE
            | anacap::GROUP_ID_FIXED;
        id.anagrpmax = U32::new(sub.options.namespaces_max);
        id.nanagrpid = U32::new(sub.options.namespaces_max);
    }
}

fn nvm_controller() -> IdentifyControllerNvm {
    IdentifyControllerNvm { ver: U32::new(0x0001_0100), ..IdentifyControllerNvm::default() }
}

/// An active namespace; `None` when the identifier is valid but inactive.
fn namespace(sub: &SubsystemView, nsid: Nsid) -> Result<Option<&Namespace>, Status> {
    if nsid == Nsid::NONE || nsid.get() > sub.options.namespaces_max {
        return Err(INVALID_NAMESPACE);
    }
    Ok(sub.namespace(nsid).map(std::convert::AsRef::as_ref))
}

/// CNS 00h and 11h; all zero for an inactive namespace, what all have in common for FFFFFFFFh.
fn of_namespace(sub: &SubsystemView, command: &Identify) -> Result<IdentifyNamespace, Status> {
    if command.nsid == Nsid::ALL {
        // Without namespace management nothing is common to all namespaces (base 2.1 §5.1.13.2).
        return Err(INVALID_NAMESPACE);
    }
    Ok(namespace(sub, command.nsid)?
        .map_or_else(IdentifyNamespace::default, |ns| describe(sub, ns, &ns.info())))
}

fn describe(sub: &SubsystemView, ns: &Namespace, info: &DeviceInfo) -> IdentifyNamespace {
    let zero_based = |blocks: u32| U16::new(u16::try_from(blocks.saturating_sub(1)).unwrap_or(u16::MAX));
    let preferred = zero_based(info.preferred_blocks);
    let mut id = IdentifyNamespace {
        nsze: U64::new(info.blocks),
        ncap: U64::new(info.blocks),
        nuse: U64::new(info.blocks),
        nsfeat: nsfeat::ATOMIC | nsfeat::OPTIMAL_WRITE,
        nmic: NMIC_SHARED,
        rescap: RESERVATIONS,
        dlfeat: deallocation(info),
        nawun: zero_based(info.atomic.blocks),
        nawupf: zero_based(info.atomic.power_fail_blocks),
        nacwu: zero_based(COMPARE_WRITE_BLOCKS_MAX),
        nabsn: zero_based(info.atomic.boundary_blocks),
        nabo: U16::new(u16::try_from(info.atomic.boundary_offset).unwrap_or_default()),
        nabspf: zero_based(info.atomic.boundary_power_fail_blocks),
        npwg: preferred,
        npwa: preferred,
        npdg: preferred,
        npda: preferred,
        nvmcap: U128::new(u128::from(info.bytes())),
        nguid: ns.nguid,
        eui64: ns.eui64.unwrap_or_default(),
        anagrpid: U32::new(if sub.options.ana_reporting { ns.ana_group } else { 0 }),
        ..IdentifyNamespace::default()
    };
    id.lbaf[0] = LbaFormat::new(info.block_size.shift());
    id
}

/// DLFEAT: what deallocated blocks read as is known only of devices that deallocate.
fn deallocation(info: &DeviceInfo) -> u8 {
    let releases = info.operations.contains(Operations::DEALLOCATE);
    let zeroes = info.operations.contains(Operations::WRITE_ZEROES);
    if releases && zeroes { DLFEAT_READS_ZEROES | dlfeat::WRITE_ZEROES_DEALLOCATES } else { 0 }
}

/// CNS 02h, 07h, 10h, 1Ah.
fn nsid_list(sub: &SubsystemView, command: &Identify) -> Result<NsidList, Status> {
    if command.nsid.get() >= Nsid::ALL.get() - 1 {
        return Err(INVALID_NAMESPACE);
    }
    Ok(NsidList::above(command.nsid, sub.active().map(|ns| ns.nsid)))
}

/// CNS 03h.
fn descriptors(sub: &SubsystemView, command: &Identify) -> Result<[u8; IDENTIFY_BYTES], Status> {
    use nvme::identify::NamespaceIdentifier::{Csi as CommandSet, Eui64, Nguid, Uuid};
    let ns = namespace(sub, command.nsid)?.ok_or(INVALID_NAMESPACE)?;
    let eui64 = ns.eui64.map(Eui64);
    let rest = [Nguid(ns.nguid), Uuid(ns.uuid.into_bytes()), CommandSet(Csi::NVM)];
    Ok(nvme::identify::encode_descriptors(&eui64.into_iter().chain(rest).collect()))
}

/// CNS 08h and 1Fh.
fn independent(sub: &SubsystemView, command: &Identify) -> Result<IdentifyNamespaceIndependent, Status> {
    let Some(ns) = namespace(sub, command.nsid)? else { return Ok(IdentifyNamespaceIndependent::default()) };
    Ok(IdentifyNamespaceIndependent {
        nsfeat: if ns.info().write_cache { 0 } else { nsfeat_independent::NO_VOLATILE_WRITE_CACHE },
        nmic: NMIC_SHARED,
        rescap: RESERVATIONS,
        anagrpid: U32::new(if sub.options.ana_reporting { ns.ana_group } else { 0 }),
        nstat: 1,
        ..IdentifyNamespaceIndependent::default()
    })
}

/// CNS 12h and 13h.
fn controllers(sub: &SubsystemView, command: &Identify) -> Result<ControllerList, Status> {
    if command.cns == cns::NAMESPACE_CONTROLLER_LIST && namespace(sub, command.nsid)?.is_none() {
        return Ok(ControllerList::default());
    }
    let all = sub.registry.all();
    Ok(ControllerList::from(command.cntid, all.iter().map(|controller| controller.id)))
}
