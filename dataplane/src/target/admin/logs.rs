//! Get Log Page (base 2.1 §5.1.12). A page is made as a whole and the part that was asked for is cut out of it.

use std::collections::{BTreeSet, VecDeque};

use nvme::admin::GetLogPage;
use nvme::discovery::TransportType;
use nvme::features::fid;
use nvme::log::{
    CommandEffects, CommandsAndEffects, ErrorEntry, FeatureEffects, FeaturesAndEffects, FirmwareSlots,
    LogPageSupport, MiCommandsAndEffects, ReservationNotification, SmartLog, SupportedLogPages, lid,
};
use nvme::zerocopy::IntoBytes;
use nvme::{Ascii, Nsid, Status, U16, U32, U64, U128, opcode};
use transport::TransportKind;

use super::aer::Kind;
use super::{AdminController, AdminOrder, Answer, INVALID_FIELD, health};
use crate::target::limits::{ERROR_LOG_ENTRIES, RESERVATION_NOTICES_MAX};
use crate::target::options::SubsystemKind;
use crate::target::reservations::Notice;
use crate::target::service::ReactorTarget;
use crate::target::stats::IoCounters;
use crate::target::view::SubsystemView;

/// Entries of the Changed Attached Namespace List; more than that are told as FFFFFFFFh.
const CHANGED_MAX: usize = 1024;
/// Commands that count as one data unit of the SMART log: 1,000 units of 512 bytes.
const DATA_UNIT_BYTES: u64 = 512_000;
/// Version of the Error Information log entry that has CSI and opcode.
const ERROR_ENTRY_VERSION: u8 = 1;
/// PEL: the error has no parameter location.
const NO_LOCATION: u16 = 0xFFFF;

/// Namespaces that changed since the list was read.
#[derive(Default)]
pub(in crate::target) struct ChangedNamespaces(BTreeSet<u32>);

impl ChangedNamespaces {
    pub(super) fn add(&mut self, nsid: Nsid) {
        if self.0.len() <= CHANGED_MAX {
            self.0.insert(nsid.get());
        }
    }

    fn page(&self) -> Vec<u8> {
        let overflow = self.0.len() > CHANGED_MAX;
        let mut entries: Vec<U32> = self.0.iter().map(|nsid| U32::new(*nsid)).collect();
        if overflow {
            entries = vec![U32::new(Nsid::ALL.get())];
        }
        entries.resize(CHANGED_MAX, U32::ZERO);
        entries.as_bytes().to_vec()
    }
}

/// Reservation notifications not yet read (base 2.1 §5.1.12.1.32).
#[derive(Default)]
pub(in crate::target) struct Notices {
    queue: VecDeque<(u64, Nsid, Notice)>,
    count: u64,
}

impl Notices {
    pub(super) fn push(&mut self, nsid: Nsid, notice: Notice) {
        if self.queue.len() == RESERVATION_NOTICES_MAX {
            self.queue.pop_front();
        }
        self.count = self.count.wrapping_add(1).max(1);
        self.queue.push_back((self.count, nsid, notice));
    }

    /// The oldest one as a page; empty when there is none.
    fn page(&self) -> ReservationNotification {
        let Some((count, nsid, notice)) = self.queue.front() else {
            return ReservationNotification::default();
        };
        ReservationNotification {
            count: U64::new(*count),
            kind: *notice as u8,
            available: u8::try_from(self.queue.len() - 1).unwrap_or(u8::MAX),
            nsid: U32::new(nsid.get()),
            ..ReservationNotification::default()
        }
    }
}

/// Log pages of a controller of this kind.
const fn supported(discovery: bool) -> &'static [u8] {
    const BOTH: [u8; 2] = [lid::SUPPORTED_LOG_PAGES, lid::ERROR];
    if discovery {
        return &[BOTH[0], BOTH[1], lid::DISCOVERY];
    }
    &[
        BOTH[0],
        BOTH[1],
        lid::SMART,
        lid::FIRMWARE_SLOT,
        lid::CHANGED_NAMESPACES,
        lid::COMMANDS_AND_EFFECTS,
        lid::ANA,
        lid::FEATURES_AND_EFFECTS,
        lid::MI_COMMANDS_AND_EFFECTS,
        lid::RESERVATION_NOTIFICATION,
    ]
}

impl ReactorTarget {
    pub(super) fn get_log_page(&mut self, admin: &mut AdminController, order: AdminOrder<'_>) -> Answer {
        let command = GetLogPage::from(order.sqe);
        let sub = self.subsystem_of(&admin.controller)?;
        check(&command, admin, &sub)?;
        let page = self.page(admin, &sub, &command)?;
        let part = cut(&page, &command)?;
        let answer = self.reply(order.sqe, &part)?;
        if !command.rae {
            self.was_read(admin, command.lid);
        }
        Ok(answer)
    }

    fn page(
        &self,
        admin: &AdminController,
        sub: &SubsystemView,
        command: &GetLogPage,
    ) -> Result<Vec<u8>, Status> {
        Ok(match command.lid {
            lid::SUPPORTED_LOG_PAGES => supported_pages(admin.is_discovery()).as_bytes().to_vec(),
            lid::ERROR => errors(admin),
            lid::SMART => self.smart(admin, sub).as_bytes().to_vec(),
            lid::FIRMWARE_SLOT => firmware().as_bytes().to_vec(),
            lid::CHANGED_NAMESPACES => admin.changed_namespaces.page(),
            lid::COMMANDS_AND_EFFECTS => commands().as_bytes().to_vec(),
            lid::ANA => super::super::ana::log_page(&admin.controller, sub, command.lsp),
            lid::FEATURES_AND_EFFECTS => features(sub.has_write_cache()).as_bytes().to_vec(),
            lid::MI_COMMANDS_AND_EFFECTS => MiCommandsAndEffects::default().as_bytes().to_vec(),
            lid::DISCOVERY => super::super::discovery::log_page(&self.view, &admin.controller, command.lsp),
            lid::RESERVATION_NOTIFICATION => admin.notices.page().as_bytes().to_vec(),
            _ => return Err(INVALID_FIELD),
        })
    }

    /// Reading a page without retaining its event lets the next event come (base 2.1 §5.1.2).
    fn was_read(&self, admin: &mut AdminController, page: u8) {
        match page {
            lid::CHANGED_NAMESPACES => {
                admin.changed_namespaces.0.clear();
                admin.events.read(Kind::NamespaceAttribute);
            }
            lid::SMART => admin.events.read(Kind::Health),
            lid::ANA => admin.events.read(Kind::AnaChange),
            lid::DISCOVERY => admin.events.read(Kind::DiscoveryLog),
            lid::RESERVATION_NOTIFICATION => {
                admin.notices.queue.pop_front();
                admin.events.read(Kind::ReservationLog);
                if !admin.notices.queue.is_empty() {
                    admin.events.raise(Kind::ReservationLog);
                }
            }
            _ => {}
        }
    }

    /// SMART / Health: what went through the namespaces of the subsystem, and the health of their devices.
    fn smart(&self, admin: &AdminController, sub: &SubsystemView) -> SmartLog {
        let mut sum = IoCounters::default();
        for counters in sub.active().flat_map(|ns| ns.counters()) {
            sum.merge(&counters.snapshot());
        }
        let units = |bytes: u64| U128::new(u128::from(bytes.div_ceil(DATA_UNIT_BYTES)));
        let hours = U128::new(u128::from(self.now.since(admin.started) / fabrics::NS_PER_S / 3600));
        let devices = sub.active().filter_map(|ns| ns.health()).reduce(|a, b| health::worse(&a, &b));
        let health = devices.unwrap_or_else(|| SmartLog { power_on_hours: hours, ..health::unknown() });
        SmartLog {
            data_units_read: units(sum.read_bytes),
            data_units_written: units(sum.written_bytes),
            host_reads: U128::new(u128::from(sum.read_commands)),
            host_writes: U128::new(u128::from(sum.write_commands)),
            error_entries: U128::new(u128::from(admin.controller.errors().total())),
            ..health
        }
    }
}

fn check(command: &GetLogPage, admin: &AdminController, sub: &SubsystemView) -> Result<(), Status> {
    let supported = supported(admin.is_discovery()).contains(&command.lid);
    let ana = command.lid == lid::ANA && !sub.options.ana_reporting;
    let fits = command.data_bytes() <= u64::from(admin.transport.io_bytes_max);
    let aligned = command.lpo & 0b11 == 0;
    if !supported || ana || !fits || !aligned || command.ot {
        return Err(INVALID_FIELD);
    }
    let controller_wide = matches!(command.nsid, Nsid::NONE | Nsid::ALL);
    if command.lid == lid::SMART && !controller_wide {
        return Err(INVALID_FIELD);
    }
    let discovery = sub.kind == SubsystemKind::Discovery;
    if discovery || controller_wide || sub.namespace(command.nsid).is_some() {
        return Ok(());
    }
    Err(Status::INVALID_NAMESPACE_OR_FORMAT.dnr())
}

/// The part of a page that was asked for: zeroes after its end, an error beyond it (base 2.1 §5.1.12, LPO).
fn cut(page: &[u8], command: &GetLogPage) -> Result<Vec<u8>, Status> {
    let from = usize::try_from(command.lpo).map_err(|_| INVALID_FIELD)?;
    let rest = page.get(from..).ok_or(INVALID_FIELD)?;
    let len = usize::try_from(command.data_bytes()).map_err(|_| INVALID_FIELD)?;
    let mut part = rest[..len.min(rest.len())].to_vec();
    part.resize(len, 0);
    Ok(part)
}

fn supported_pages(discovery: bool) -> SupportedLogPages {
    let mut pages = SupportedLogPages::default();
    for page in supported(discovery) {
        pages.set(*page, LogPageSupport(0).with_lsupp(true));
    }
    pages
}

fn errors(admin: &AdminController) -> Vec<u8> {
    let log = admin.controller.errors();
    let entry = |error: &crate::target::registry::ErrorEntry| ErrorEntry {
        error_count: U64::new(error.count),
        sqid: U16::new(error.queue.get()),
        cid: U16::new(error.cid),
        status: U16::new(error.status.to_cqe_field(false)),
        pel: U16::new(NO_LOCATION),
        lba: U64::new(error.lba),
        nsid: U32::new(error.nsid),
        trtype: match admin.controller.address.transport {
            TransportKind::Tcp => TransportType::TCP.0,
            TransportKind::Rdma => TransportType::RDMA.0,
        },
        opcode: error.opcode,
        version: ERROR_ENTRY_VERSION,
        ..ErrorEntry::default()
    };
    let mut entries: Vec<ErrorEntry> = log.entries().map(entry).collect();
    entries.resize(ERROR_LOG_ENTRIES, ErrorEntry::default());
    entries.as_bytes().to_vec()
}

fn firmware() -> FirmwareSlots {
    let mut slots = FirmwareSlots { afi: 1, ..FirmwareSlots::default() };
    slots.revisions = [Ascii::default(); 7];
    slots.revisions[0] = super::identify::firmware_revision();
    slots
}

/// Effects of every command that is supported; no other is (base 2.1 §5.1.12.1.6).
fn commands() -> CommandsAndEffects {
    let mut effects = CommandsAndEffects::default();
    for command in [
        opcode::admin::GET_LOG_PAGE,
        opcode::admin::IDENTIFY,
        opcode::admin::ABORT,
        opcode::admin::SET_FEATURES,
        opcode::admin::GET_FEATURES,
        opcode::admin::ASYNC_EVENT_REQUEST,
        opcode::admin::KEEP_ALIVE,
    ] {
        effects.set_admin(command, CommandEffects::PLAIN);
    }
    for command in [
        opcode::io::FLUSH,
        opcode::io::READ,
        opcode::io::COMPARE,
        opcode::io::VERIFY,
        opcode::io::RESERVATION_REGISTER,
        opcode::io::RESERVATION_REPORT,
        opcode::io::RESERVATION_ACQUIRE,
        opcode::io::RESERVATION_RELEASE,
    ] {
        effects.set_io(command, CommandEffects::PLAIN);
    }
    for command in [opcode::io::WRITE, opcode::io::WRITE_ZEROES, opcode::io::DATASET_MANAGEMENT] {
        effects.set_io(command, CommandEffects::WRITES);
    }
    effects
}

/// Scope of a feature: one namespace, or one controller (base 2.1 §5.1.12.1.18, FSP).
const SCOPE_NAMESPACE: u16 = 1 << 0;
const SCOPE_CONTROLLER: u16 = 1 << 1;

fn features(write_cache: bool) -> FeaturesAndEffects {
    let mut effects = FeaturesAndEffects::default();
    for feature in super::features::supported(write_cache) {
        let of_namespace =
            matches!(feature, fid::RESERVATION_NOTIFICATION_MASK | fid::RESERVATION_PERSISTENCE);
        let scope = if of_namespace { SCOPE_NAMESPACE } else { SCOPE_CONTROLLER };
        effects.set(feature, FeatureEffects(0).with_fsupp(true).with_fsp(scope));
    }
    effects
}
