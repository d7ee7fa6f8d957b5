//! Connect (base 2.1 §6.3): makes an association, or adds an I/O queue to one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fabrics::{Completion, Execution};
use nvme::fabrics::{ConnectCommand, ConnectData, ConnectInvalidParameter, ConnectResult, fctype, fctype_of};
use nvme::{ControllerId, Nqn, QueueId, Sqe, Status, opcode};
use reactors::IoBuf;
use transport::{ConnId, Peer};

use super::admin::{AdminController, copy_data, set_keep_alive};
use super::limits::IO_QUEUES_MAX;
use super::options::{ListenAddress, SubsystemKind, TransportOptions};
use super::queue::{IoQueue, QueueState, Role};
use super::registry::{Home, IoQueueRecord, NewController, NoController, QueueRefused};
use super::service::{ReactorTarget, done};
use super::view::{HostIdentity, SubsystemView};

/// Why a Connect was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    Status(Status),
    /// Connect Invalid Parameters, and which.
    Parameter(ConnectInvalidParameter),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Refusal {
    fn completion(self) -> Completion<IoBuf> {
        match self {
            Self::Status(status) => Completion::status(status),
            Self::Parameter(parameter) => {
                let status = Status::CONNECT_INVALID_PARAMETERS.dnr();
                Completion { status, result: parameter.to_result(), data: None }
            }
        }
    }
}

/// A Connect whose data was read.
struct Request<'a> {
    conn: ConnId,
    peer: &'a Peer,
    command: &'a ConnectCommand,
    data: Box<ConnectData>,
    host: HostIdentity,
    slot: usize,
    sub: Arc<SubsystemView>,
    transport: TransportOptions,
}

impl Request<'_> {
    fn home(&self, reactor: usize) -> Home {
        Home { reactor, conn: self.conn, local: self.peer.local, remote: self.peer.remote }
    }

    /// Entries of the queue, if the host asked for as many as it may.
    fn depth(&self, max: u32) -> Result<u16, Refusal> {
        let entries = self.command.queue_entries().filter(|entries| *entries <= max);
        let entries = entries.ok_or(Refusal::Parameter(ConnectInvalidParameter::SQSIZE))?;
        Ok(u16::try_from(entries).unwrap_or(u16::MAX))
    }
}

impl ReactorTarget {
    /// The first command of a connection.
    #[cold]
    pub(super) fn connect(
        &mut self,
        conn: ConnId,
        queue: &mut QueueState,
        sqe: &Sqe,
        data: Option<IoBuf>,
    ) -> Execution<IoBuf> {
        if sqe.opcode != opcode::FABRICS || fctype_of(sqe) != fctype::CONNECT {
            return done(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        let command = ConnectCommand::of(sqe);
        let accepted = self.read_connect(conn, &queue.peer, command, data.as_ref()).and_then(|request| {
            if command.qid().is_admin() { self.connect_admin(&request) } else { self.connect_io(&request) }
        });
        match accepted {
            Ok((role, cntlid, depth)) => {
                queue.role = role;
                queue.depth = depth;
                self.no_longer_fresh(conn);
                self.flights.reserve(usize::from(depth));
                let result = ConnectResult { cntlid, ..ConnectResult::default() };
                Execution::Done(Completion::result(result.to_result()))
            }
            Err(refusal) => {
                tracing::info!(remote = %queue.peer.remote, ?refusal, "connect refused");
                Execution::Done(refusal.completion())
            }
        }
    }

    /// Reads the data, finds the subsystem, and checks that this host may come in here.
    fn read_connect<'a>(
        &self,
        conn: ConnId,
        peer: &'a Peer,
        command: &'a ConnectCommand,
        data: Option<&IoBuf>,
    ) -> Result<Request<'a>, Refusal> {
        let mut bytes = [0; ConnectData::SIZE];
        copy_data(data, &mut bytes)?;
        let data: ConnectData = nvme::zerocopy::transmute!(bytes);
        if command.recfmt.get() != 0 {
            return Err(Status::CONNECT_INCOMPATIBLE_FORMAT.dnr().into());
        }
        let nqn = data.subnqn.nqn().map_err(|_| Refusal::Parameter(ConnectInvalidParameter::SUBNQN))?;
        let (slot, sub) =
            self.find_served(&nqn).ok_or(Refusal::Parameter(ConnectInvalidParameter::SUBNQN))?;
        let host = data.hostnqn.nqn().map_err(|_| Refusal::Parameter(ConnectInvalidParameter::HOSTNQN))?;
        let listens = sub.kind == SubsystemKind::Discovery || sub.listener_of(peer).is_some();
        if !sub.allows(&host) || !listens {
            return Err(Status::CONNECT_INVALID_HOST.dnr().into());
        }
        let transport = self.view.transport(peer.transport).map(|info| info.options.clone());
        let host = HostIdentity { nqn: host, id: data.hostid };
        let transport = transport.unwrap_or_default();
        Ok(Request { conn, peer, command, data: Box::new(data), host, slot, sub, transport })
    }

    fn find_served(&self, nqn: &Nqn) -> Option<(usize, Arc<SubsystemView>)> {
        self.view.find(nqn).map(|(slot, sub)| (slot, Arc::clone(sub)))
    }

    fn connect_admin(&mut self, request: &Request<'_>) -> Result<(Role, ControllerId, u16), Refusal> {
        let Request { sub, host, peer, transport, .. } = request;
        let depth = request.depth(transport.admin_queue_depth_max)?;
        let ids = sub.options.controller_id_min..=sub.options.controller_id_max;
        let wanted = match request.data.cntlid() {
            ControllerId::DYNAMIC | ControllerId::STATIC_ANY => None,
            id if ids.contains(&id.get()) => Some(id.get()),
            _ => return Err(Refusal::Parameter(ConnectInvalidParameter::CNTLID)),
        };
        let listener = sub.listener_of(peer).cloned();
        let address = listener.as_ref().map(|listener| listener.address);
        let address = address.unwrap_or(ListenAddress { transport: peer.transport, socket: peer.local });
        let home = request.home(self.index);
        let (kind, slot, subsystem, host) = (sub.kind, request.slot, sub.uid, host.clone());
        let new = NewController { kind, slot, subsystem, host, listener, address, home, depth };
        let controller = sub.registry.create(new, ids, wanted).map_err(|why| match why {
            NoController::Full => Status::CONNECT_CONTROLLER_BUSY,
            NoController::Busy => Status::CONNECT_CONTROLLER_BUSY,
        })?;
        let (uid, id) = (controller.uid, controller.id);
        tracing::info!(subsystem = %sub.options.nqn, host = %request.host.nqn, cntlid = id.get(), "controller connected");
        let mut admin = AdminController::new(controller, sub, transport.clone(), self.now);
        set_keep_alive(&mut admin, request.command.kato.get(), self.now);
        self.deadline = self.deadline.min(admin.deadline());
        self.admins.insert(uid, admin);
        self.counters.admin_queues.add(1);
        self.counters.admin_queues_total.add(1);
        Ok((Role::Admin(uid), id, depth))
    }

    fn connect_io(&mut self, request: &Request<'_>) -> Result<(Role, ControllerId, u16), Refusal> {
        let qid = Refusal::Parameter(ConnectInvalidParameter::QID);
        let controller = request.sub.registry.get(request.data.cntlid());
        let controller = controller.ok_or(Refusal::Parameter(ConnectInvalidParameter::CNTLID))?;
        if controller.host.nqn != request.host.nqn {
            return Err(Refusal::Parameter(ConnectInvalidParameter::HOSTNQN));
        }
        if controller.host.id != request.host.id {
            return Err(Refusal::Parameter(ConnectInvalidParameter::HOSTID));
        }
        let depth = request.depth(request.transport.queue_depth_max)?;
        let id = request.command.qid();
        let max = request.transport.io_queues_per_controller_max.clamp(1, IO_QUEUES_MAX);
        let max = max.min(controller.io_queues_granted.load(Ordering::Relaxed));
        if controller.kind == SubsystemKind::Discovery || id.get() > max {
            return Err(qid);
        }
        let record = IoQueueRecord { id, depth, home: request.home(self.index) };
        controller.add_queue(record).map_err(|why| match why {
            QueueRefused::NotReady => qid,
            QueueRefused::Duplicate => Refusal::Status(Status::COMMAND_SEQUENCE_ERROR.dnr()),
        })?;
        self.counters.io_queues.add(1);
        self.counters.io_queues_total.add(1);
        let cntlid = controller.id;
        let io = IoQueue {
            host: controller.host.id,
            controller,
            id: QueueId(id.get()),
            slot: request.slot,
            subsystem: request.sub.uid,
            io_bytes_max: request.transport.io_bytes_max,
            takes_lent: request.peer.transport.takes_lent(),
        };
        Ok((Role::Io(io), cntlid, depth))
    }
}
