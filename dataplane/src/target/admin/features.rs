//! Get Features and Set Features (base 2.1 §5.1.11, §5.1.25). Nothing is saved over a restart, and says so.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use fabrics::{Completion, Execution, NS_PER_MS, Now};
use nvme::admin::{FeatureSelect, GetFeatures, SetFeatures};
use nvme::features::{
    Arbitration, ErrorRecovery, FeatureCapabilities, HostBehavior, NumberOfQueues, PowerManagement,
    ReservationNotificationMask, TemperatureThreshold, Timestamp, VolatileWriteCache, WriteAtomicity, fid,
    timestamp_attributes,
};
use nvme::zerocopy::IntoBytes as _;
use nvme::{Nsid, Status};
use reactors::IoBuf;

use super::{AdminController, AdminOrder, Answer, INVALID_FIELD};
use crate::target::limits::IO_QUEUES_MAX;
use crate::target::reservations::Notice;
use crate::target::service::{ReactorTarget, done};

/// Keep-alive time-outs are rounded up to this (KAS): ten units of 100 ms.
pub(super) const KEEP_ALIVE_GRANULARITY: u16 = 10;
const KEEP_ALIVE_STEP_MS: u32 = KEEP_ALIVE_GRANULARITY as u32 * 100;
/// Reservation notices that can be masked.
const NOTICE_MASK: u32 = 0b1110;
/// Default over-temperature threshold in kelvins; nothing here has a temperature.
const OVER_TEMPERATURE: u16 = 0x0157;

/// Values of one controller.
pub(in crate::target) struct Features {
    arbitration: u32,
    power: u32,
    over_temperature: u16,
    under_temperature: u16,
    error_recovery: u32,
    write_atomicity: u32,
    keep_alive_ms: u32,
    timestamp_ms: u64,
    timestamp_at: Now,
    timestamp_from_host: bool,
    behavior: Box<HostBehavior>,
    /// By NSID; what is absent is zero.
    notice_masks: BTreeMap<u32, u32>,
    queues: Option<u32>,
}

impl Features {
    pub(super) fn new(now: Now) -> Self {
        Self {
            arbitration: 0,
            power: 0,
            over_temperature: OVER_TEMPERATURE,
            under_temperature: 0,
            error_recovery: 0,
            write_atomicity: 0,
            keep_alive_ms: 0,
            timestamp_ms: 0,
            timestamp_at: now,
            timestamp_from_host: false,
            behavior: Box::default(),
            notice_masks: BTreeMap::new(),
            queues: None,
        }
    }

    /// Keep-alive time-out, 0 when off.
    pub(in crate::target) fn keep_alive_ms(&self) -> u32 {
        self.keep_alive_ms
    }

    pub(in crate::target) fn set_keep_alive(&mut self, ms: u32) {
        self.keep_alive_ms = ms.checked_next_multiple_of(KEEP_ALIVE_STEP_MS).unwrap_or(u32::MAX);
    }

    pub(super) fn stop_keep_alive(&mut self) {
        self.keep_alive_ms = 0;
    }

    /// Whether the host wants to hear of this.
    pub(super) fn wants_notice(&self, nsid: Nsid, notice: Notice) -> bool {
        self.notice_masks.get(&nsid.get()).is_none_or(|mask| mask & 1 << notice as u8 == 0)
    }

    fn temperature(&mut self, bits: TemperatureThreshold) -> Result<&mut u16, Status> {
        match (bits.tmpsel(), bits.thsel()) {
            (0 | 15, 0) => Ok(&mut self.over_temperature),
            (0 | 15, 1) => Ok(&mut self.under_temperature),
            _ => Err(INVALID_FIELD),
        }
    }

    fn timestamp(&self, now: Now) -> Timestamp {
        let ms = self.timestamp_ms.wrapping_add(now.since(self.timestamp_at) / NS_PER_MS);
        let origin = if self.timestamp_from_host { timestamp_attributes::ORIGIN_HOST } else { 0 };
        Timestamp::new(ms & Timestamp::MILLISECONDS_MAX, origin)
    }
}

/// What can be done with a feature; `None` when there is no such feature.
fn capabilities(feature: u8, discovery: bool, write_cache: bool) -> Option<FeatureCapabilities> {
    let fixed = FeatureCapabilities(0);
    let changeable = fixed.with_changeable(true);
    match feature {
        fid::ASYNC_EVENT_CONFIG | fid::KEEP_ALIVE_TIMER => Some(changeable),
        fid::HOST_IDENTIFIER => Some(fixed),
        _ if discovery => None,
        fid::VOLATILE_WRITE_CACHE => write_cache.then_some(fixed),
        fid::ARBITRATION
        | fid::POWER_MANAGEMENT
        | fid::TEMPERATURE_THRESHOLD
        | fid::ERROR_RECOVERY
        | fid::NUMBER_OF_QUEUES
        | fid::WRITE_ATOMICITY
        | fid::TIMESTAMP
        | fid::COMMAND_SET_PROFILE
        | fid::HOST_BEHAVIOR => Some(changeable),
        fid::RESERVATION_NOTIFICATION_MASK => Some(changeable.with_namespace_specific(true)),
        fid::RESERVATION_PERSISTENCE => Some(fixed.with_namespace_specific(true)),
        _ => None,
    }
}

/// Every feature of an I/O controller, for the log page of features and effects.
pub(super) fn supported(write_cache: bool) -> impl Iterator<Item = u8> {
    (0..=u8::MAX).filter(move |feature| capabilities(*feature, false, write_cache).is_some())
}

fn word(value: u32) -> Answer {
    Ok(Execution::Done(Completion::result(u64::from(value))))
}

impl ReactorTarget {
    fn feature(&self, admin: &AdminController, feature: u8) -> Result<FeatureCapabilities, Status> {
        let write_cache = self.subsystem_of(&admin.controller)?.has_write_cache();
        capabilities(feature, admin.is_discovery(), write_cache).ok_or(INVALID_FIELD)
    }

    pub(super) fn get_features(&mut self, admin: &mut AdminController, order: AdminOrder<'_>) -> Answer {
        let command = GetFeatures::from(order.sqe);
        let capabilities = self.feature(admin, command.fid)?;
        let fresh = Features::new(self.now);
        let mut features = match command.sel {
            FeatureSelect::Capabilities => return word(capabilities.0),
            FeatureSelect::Reserved(_) => return Err(INVALID_FIELD),
            FeatureSelect::Current => None,
            FeatureSelect::Default | FeatureSelect::Saved => Some(fresh),
        };
        if capabilities.namespace_specific() {
            return self.get_namespace_feature(admin, &command);
        }
        let controller = std::sync::Arc::clone(&admin.controller);
        let (supported, enabled) = (admin.events.supported(), admin.events.enabled());
        let queues = self.queues_max(admin);
        let now = self.now;
        let current = features.is_none();
        let values = features.as_mut().unwrap_or(&mut admin.features);
        match command.fid {
            fid::ARBITRATION => word(values.arbitration),
            fid::POWER_MANAGEMENT => word(values.power),
            fid::TEMPERATURE_THRESHOLD => {
                let kelvins = *values.temperature(TemperatureThreshold(command.cdw11))?;
                word(u32::from(kelvins))
            }
            fid::ERROR_RECOVERY => word(values.error_recovery),
            fid::VOLATILE_WRITE_CACHE => word(VolatileWriteCache(0).with_wce(true).0),
            fid::NUMBER_OF_QUEUES => word(values.queues.unwrap_or(NumberOfQueues::both(queues).0)),
            fid::WRITE_ATOMICITY => word(values.write_atomicity),
            fid::ASYNC_EVENT_CONFIG => word(if current { enabled } else { supported }),
            fid::KEEP_ALIVE_TIMER => word(values.keep_alive_ms),
            fid::COMMAND_SET_PROFILE => word(0),
            fid::TIMESTAMP => self.reply(order.sqe, values.timestamp(now).as_bytes()),
            fid::HOST_BEHAVIOR => self.reply(order.sqe, values.behavior.as_bytes()),
            fid::HOST_IDENTIFIER if command.cdw11 & 1 == 1 => self.reply(order.sqe, &controller.host.id.0),
            _ => Err(INVALID_FIELD),
        }
    }

    fn get_namespace_feature(&self, admin: &AdminController, command: &GetFeatures) -> Answer {
        let sub = self.subsystem_of(&admin.controller)?;
        sub.namespace(command.nsid).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.dnr())?;
        let mask = admin.features.notice_masks.get(&command.nsid.get()).copied().unwrap_or_default();
        let current = command.sel == FeatureSelect::Current;
        word(if current && command.fid == fid::RESERVATION_NOTIFICATION_MASK { mask } else { 0 })
    }

    pub(super) fn set_features(&mut self, admin: &mut AdminController, order: AdminOrder<'_>) -> Answer {
        let command = SetFeatures::from(order.sqe);
        let capabilities = self.feature(admin, command.fid)?;
        if command.sv {
            return Err(Status::FEATURE_NOT_SAVEABLE.dnr());
        }
        if capabilities.namespace_specific() {
            return self.set_namespace_feature(admin, &command);
        }
        if !matches!(command.nsid, Nsid::NONE | Nsid::ALL) {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
        }
        let now = self.now;
        let values = &mut admin.features;
        match command.fid {
            fid::ARBITRATION => values.arbitration = command.cdw11 & (Arbitration(u32::MAX).0 & !0xF8),
            fid::POWER_MANAGEMENT if PowerManagement(command.cdw11).ps() == 0 => values.power = command.cdw11,
            fid::TEMPERATURE_THRESHOLD => {
                let bits = TemperatureThreshold(command.cdw11);
                *values.temperature(bits)? = bits.tmpth();
            }
            fid::ERROR_RECOVERY if !ErrorRecovery(command.cdw11).dulbe() => {
                values.error_recovery = u32::from(ErrorRecovery(command.cdw11).tler());
            }
            fid::VOLATILE_WRITE_CACHE if !VolatileWriteCache(command.cdw11).wce() => {
                return Err(Status::FEATURE_NOT_CHANGEABLE.dnr());
            }
            fid::VOLATILE_WRITE_CACHE => {}
            fid::NUMBER_OF_QUEUES => return self.set_queues(admin, NumberOfQueues(command.cdw11)),
            fid::WRITE_ATOMICITY => values.write_atomicity = WriteAtomicity(command.cdw11 & 1).0,
            fid::ASYNC_EVENT_CONFIG => {
                admin.events.configure(command.cdw11)?;
                // What is wrong already is told too.
                admin.health_due = if admin.events.wants_health() { now } else { Now::NEVER };
            }
            fid::KEEP_ALIVE_TIMER => set_keep_alive(admin, command.cdw11, now),
            fid::COMMAND_SET_PROFILE if command.cdw11 & 0x1FF == 0 => {}
            fid::TIMESTAMP => set_timestamp(values, order.data, now)?,
            fid::HOST_BEHAVIOR => set_behavior(values, order.data)?,
            // Over fabrics the host identifier comes with Connect (base 2.1 §5.1.25.1.28).
            fid::HOST_IDENTIFIER => return Err(Status::COMMAND_SEQUENCE_ERROR.dnr()),
            _ => return Err(INVALID_FIELD),
        }
        Ok(done(Status::SUCCESS))
    }

    fn set_namespace_feature(&self, admin: &mut AdminController, command: &SetFeatures) -> Answer {
        let sub = self.subsystem_of(&admin.controller)?;
        let targets: Vec<u32> = match command.nsid {
            Nsid::ALL => sub.active().map(|ns| ns.nsid.get()).collect(),
            nsid => {
                sub.namespace(nsid).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.dnr())?;
                vec![nsid.get()]
            }
        };
        if command.fid == fid::RESERVATION_PERSISTENCE {
            // Reservations do not persist: zero is what they have, one they cannot get.
            return if command.cdw11 & 1 == 0 { Ok(done(Status::SUCCESS)) } else { Err(INVALID_FIELD) };
        }
        let mask = ReservationNotificationMask(command.cdw11 & NOTICE_MASK);
        admin.features.notice_masks.extend(targets.into_iter().map(|nsid| (nsid, mask.0)));
        Ok(done(Status::SUCCESS))
    }

    /// I/O queues a controller can have.
    pub(super) fn queues_max(&self, admin: &AdminController) -> u16 {
        admin.transport.io_queues_per_controller_max.clamp(1, IO_QUEUES_MAX)
    }

    fn set_queues(&mut self, admin: &mut AdminController, wanted: NumberOfQueues) -> Answer {
        if wanted.nsq() == u16::MAX || wanted.ncq() == u16::MAX {
            return Err(INVALID_FIELD);
        }
        if !admin.controller.queues().is_empty() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        let max = self.queues_max(admin);
        let granted = wanted.nsq().max(wanted.ncq()).saturating_add(1).min(max);
        admin.controller.io_queues_granted.store(granted, Ordering::Relaxed);
        let result = NumberOfQueues::both(granted).0;
        admin.features.queues = Some(result);
        word(result)
    }
}

/// Sets the keep-alive time-out and starts it anew.
pub(in crate::target) fn set_keep_alive(admin: &mut AdminController, ms: u32, now: Now) {
    admin.features.set_keep_alive(ms);
    admin.alive_at = now;
    admin.controller.keep_alive_ms.store(admin.features.keep_alive_ms(), Ordering::Relaxed);
}

fn set_timestamp(values: &mut Features, data: Option<&IoBuf>, now: Now) -> Result<(), Status> {
    let mut bytes = [0; Timestamp::SIZE];
    copy_data(data, &mut bytes)?;
    let timestamp: Timestamp = nvme::zerocopy::transmute!(bytes);
    (values.timestamp_ms, values.timestamp_at) = (timestamp.milliseconds(), now);
    values.timestamp_from_host = true;
    Ok(())
}

fn set_behavior(values: &mut Features, data: Option<&IoBuf>) -> Result<(), Status> {
    let mut bytes = [0; HostBehavior::SIZE];
    copy_data(data, &mut bytes)?;
    let behavior: HostBehavior = nvme::zerocopy::transmute!(bytes);
    if behavior.acre > 1 || behavior.etdas > 1 || behavior.lbafee > 0 || behavior.hdisns > 0 {
        return Err(INVALID_FIELD);
    }
    *values.behavior = HostBehavior { acre: behavior.acre, etdas: behavior.etdas, ..HostBehavior::default() };
    Ok(())
}

/// Takes the data of a command, which must be there in full.
pub(in crate::target) fn copy_data(data: Option<&IoBuf>, into: &mut [u8]) -> Result<(), Status> {
    let data = data.filter(|data| data.len() >= into.len()).ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
    data.copy_out(0, into);
    Ok(())
}
