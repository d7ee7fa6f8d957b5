//! Controllers, on the reactor of their admin queue: the state only that reactor touches, and the dispatch of admin
//! commands (base 2.1 §5, §6).

pub(super) mod aer;
mod features;
mod health;
mod identify;
mod logs;
mod properties;

use std::sync::Arc;

use fabrics::{Completion, Execution, IoBuffer as _, Now};
use nvme::features::async_event;
use nvme::opcode::admin as opcode;
use nvme::{Sqe, Status};
use reactors::IoBuf;
use transport::{ConnId, Data};

use self::aer::AsyncEvents;
use self::features::Features;
pub(super) use self::features::{copy_data, set_keep_alive};
use self::logs::Notices;
pub(super) use self::properties::Registers;
use super::io::sgl_bytes;
use super::limits::ABORTS_MAX;
use super::message::Event;
use super::options::{SubsystemKind, TransportOptions};
use super::registry::{Controller, ErrorEntry};
use super::service::{ReactorTarget, done};
use super::view::SubsystemView;

/// What an admin command leads to; an error is its status.
pub(super) type Answer = Result<Execution<IoBuf>, Status>;

/// How often the health of devices is looked at for hosts that asked to be told of it: devices say it when they like.
const HEALTH_INTERVAL_NS: u64 = fabrics::NS_PER_S;

const INVALID_FIELD: Status = Status::INVALID_FIELD.dnr();
const INVALID_OPCODE: Status = Status::INVALID_OPCODE.dnr();

/// A controller on its home reactor.
pub(super) struct AdminController {
    pub(super) controller: Arc<Controller>,
    /// Connection of the admin queue.
    pub(super) conn: ConnId,
    pub(super) registers: Registers,
    pub(super) features: Features,
    pub(super) events: AsyncEvents,
    pub(super) changed_namespaces: logs::ChangedNamespaces,
    pub(super) notices: Notices,
    pub(super) transport: TransportOptions,
    /// When the last Keep Alive came, or the time-out was set.
    pub(super) alive_at: Now,
    /// When the association ends because the controller stays disabled or shut down.
    pub(super) association_ends: Now,
    /// When to look at the health of the devices for a host that asked to be told of it.
    pub(super) health_due: Now,
    /// Aborts that wait for another reactor.
    pub(super) aborts: u8,
    pub(super) started: Now,
}

/// One admin command.
#[derive(Clone, Copy)]
pub(super) struct AdminOrder<'a> {
    pub(super) command: u32,
    pub(super) sqe: &'a Sqe,
    pub(super) data: Option<&'a IoBuf>,
}

impl AdminController {
    pub(super) fn new(
        controller: Arc<Controller>,
        sub: &SubsystemView,
        transport: TransportOptions,
        now: Now,
    ) -> Self {
        let registers = Registers::new(transport.queue_depth_max);
        Self {
            conn: controller.home.conn,
            controller,
            registers,
            features: Features::new(now),
            events: AsyncEvents::new(supported_events(sub)),
            changed_namespaces: logs::ChangedNamespaces::default(),
            notices: Notices::default(),
            transport,
            alive_at: now,
            association_ends: Now::NEVER,
            health_due: Now::NEVER,
            aborts: 0,
            started: now,
        }
    }

    /// When the host has been silent for too long.
    pub(super) fn keep_alive_ends(&self) -> Now {
        match self.features.keep_alive_ms() {
            0 => Now::NEVER,
            ms => self.alive_at.after_ns(u64::from(ms) * fabrics::NS_PER_MS),
        }
    }

    /// When [`ReactorTarget::expire`] has to look at it.
    pub(super) fn deadline(&self) -> Now {
        self.association_deadline().min(self.health_due)
    }

    /// When the association ends if the host does nothing.
    pub(super) fn association_deadline(&self) -> Now {
        self.keep_alive_ends().min(self.association_ends)
    }

    fn is_discovery(&self) -> bool {
        self.controller.kind == SubsystemKind::Discovery
    }

    /// Notes an event for the host. What can be told now is completed by [`ReactorTarget::deliver`].
    fn note(&mut self, event: Event) {
        match event {
            Event::NamespaceChanged(nsid) => {
                self.changed_namespaces.add(nsid);
                self.events.raise(aer::Kind::NamespaceAttribute);
            }
            Event::AnaChanged => self.events.raise(aer::Kind::AnaChange),
            Event::DiscoveryChanged => self.events.raise(aer::Kind::DiscoveryLog),
            Event::Reservation(nsid, notice) => {
                if self.features.wants_notice(nsid, notice) {
                    self.notices.push(nsid, notice);
                    self.events.raise(aer::Kind::ReservationLog);
                }
            }
        }
    }
}

impl ReactorTarget {
    /// A command on an admin queue.
    #[cold]
    pub(super) fn admin(
        &mut self,
        conn: ConnId,
        uid: u64,
        command: u32,
        sqe: &Sqe,
        data: Option<IoBuf>,
    ) -> Execution<IoBuf> {
        let Some(mut admin) = self.admins.remove(&uid) else { return done(Status::COMMAND_SEQUENCE_ERROR) };
        debug_assert!(admin.conn == conn);
        let answer = self.admin_command(&mut admin, AdminOrder { command, sqe, data: data.as_ref() });
        self.deliver(&mut admin);
        self.deadline = self.deadline.min(admin.deadline());
        let answer = answer.unwrap_or_else(|status| {
            note_error(&admin.controller, sqe, status);
            done(status)
        });
        self.admins.insert(uid, admin);
        answer
    }

    fn admin_command(&mut self, admin: &mut AdminController, order: AdminOrder<'_>) -> Answer {
        let sqe = order.sqe;
        if sqe.fuse() != nvme::Fuse::Normal {
            return Err(INVALID_FIELD);
        }
        if sqe.opcode == nvme::opcode::FABRICS {
            return self.fabrics_command(admin, sqe);
        }
        if !admin.registers.is_enabled() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        match sqe.opcode {
            opcode::IDENTIFY => self.identify(admin, order),
            opcode::GET_LOG_PAGE => self.get_log_page(admin, order),
            opcode::GET_FEATURES => self.get_features(admin, order),
            opcode::SET_FEATURES => self.set_features(admin, order),
            opcode::ASYNC_EVENT_REQUEST => admin.events.request(order.command, sqe.cid.get()),
            opcode::KEEP_ALIVE => Ok(self.keep_alive(admin)),
            opcode::ABORT if !admin.is_discovery() => self.abort(admin, order),
            _ => Err(INVALID_OPCODE),
        }
    }

    fn keep_alive(&self, admin: &mut AdminController) -> Execution<IoBuf> {
        admin.alive_at = self.now;
        done(Status::SUCCESS)
    }

    /// Answers with data: the descriptor must have room for all of it.
    fn reply(&self, sqe: &Sqe, bytes: &[u8]) -> Answer {
        if (sgl_bytes(&sqe.sgl) as usize) < bytes.len() {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        let buffer = self.local.pool().alloc_io(bytes.len()).ok_or(Status::COMMAND_INTERRUPTED)?;
        let mut data = Data(buffer);
        data.copy_in(0, bytes);
        Ok(Execution::Done(Completion::data(data.0)))
    }

    /// The subsystem of a controller, as this reactor knows it now.
    fn subsystem_of(&self, controller: &Controller) -> Result<Arc<SubsystemView>, Status> {
        let sub = self.subsystems.get(controller.slot).and_then(Option::as_ref);
        let sub = sub.filter(|sub| sub.view.uid == controller.subsystem);
        sub.map(|sub| Arc::clone(&sub.view)).ok_or(Status::COMMAND_SEQUENCE_ERROR)
    }

    /// An event for a controller of this reactor.
    pub(super) fn on_event(&mut self, controller: &Controller, event: Event) {
        let Some(mut admin) = self.admins.remove(&controller.uid) else { return };
        if admin.registers.is_enabled() {
            admin.note(event);
            self.deliver(&mut admin);
        }
        self.admins.insert(controller.uid, admin);
    }

    /// Tells hosts that asked for it of critical warnings that devices have by now.
    pub(super) fn look_at_health(&mut self) {
        let now = self.now;
        let due = |admin: &AdminController| admin.health_due <= now;
        let due: Vec<u64> = self.admins.iter().filter(|(_, admin)| due(admin)).map(|(uid, _)| *uid).collect();
        for uid in due {
            let Some(mut admin) = self.admins.remove(&uid) else { continue };
            admin.health_due =
                if admin.events.wants_health() { now.after_ns(HEALTH_INTERVAL_NS) } else { Now::NEVER };
            if let Ok(sub) = self.subsystem_of(&admin.controller) {
                let healths = sub.active().filter_map(|ns| ns.health());
                admin.events.warn(healths.fold(0, |warnings, health| warnings | health.critical_warning));
                self.deliver(&mut admin);
            }
            self.admins.insert(uid, admin);
        }
    }

    /// Completes Asynchronous Event Requests with what there is to tell.
    fn deliver(&mut self, admin: &mut AdminController) {
        while let Some((command, result)) = admin.events.next() {
            self.complete(admin.conn, command, Completion::result(result));
        }
    }

    /// Abort (base 2.1 §5.1.1).
    fn abort(&mut self, admin: &mut AdminController, order: AdminOrder<'_>) -> Answer {
        let abort = nvme::admin::Abort::from(order.sqe);
        if abort.sqid.is_admin() {
            let aborted = admin.events.abort(abort.cid);
            if let Some(command) = aborted {
                self.complete(admin.conn, command, Completion::status(Status::ABORT_REQUESTED));
            }
            return Ok(abort_result(aborted.is_some()));
        }
        let Some(queue) = admin.controller.queue(abort.sqid) else { return Ok(abort_result(false)) };
        if queue.home.reactor == self.index {
            return Ok(abort_result(self.abort_io(queue.home.conn, abort.cid)));
        }
        if admin.aborts >= ABORTS_MAX {
            return Err(Status::ABORT_COMMAND_LIMIT_EXCEEDED);
        }
        admin.aborts += 1;
        self.send_abort(admin, queue.home, abort.cid, order.command);
        Ok(Execution::Pending)
    }
}

/// Result of an Abort: bit 0 clear when the command was aborted.
pub(super) fn abort_result(aborted: bool) -> Execution<IoBuf> {
    Execution::Done(Completion::result(u64::from(!aborted)))
}

/// OAES of the controllers of a subsystem.
fn supported_events(sub: &SubsystemView) -> u32 {
    match sub.kind {
        SubsystemKind::Discovery => async_event::DISCOVERY_LOG,
        SubsystemKind::Nvm if sub.options.ana_reporting => {
            async_event::NAMESPACE_ATTRIBUTE | async_event::ANA_CHANGE
        }
        SubsystemKind::Nvm => async_event::NAMESPACE_ATTRIBUTE,
    }
}

fn note_error(controller: &Controller, sqe: &Sqe, status: Status) {
    controller.errors().push(ErrorEntry {
        count: 0,
        queue: nvme::QueueId::ADMIN,
        cid: sqe.cid.get(),
        status,
        lba: 0,
        nsid: sqe.nsid.get(),
        opcode: sqe.opcode,
    });
}
