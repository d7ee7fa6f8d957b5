//! Brings a controller up over a fresh admin connection, one command at a time (base 2.1 §3.5.1, §6.3):
//! Connect, CAP, VS, CC, CSTS until ready, Identify Controller, number of queues, asynchronous event configuration.

use nvme::admin::{Identify, SetFeatures};
use nvme::fabrics::{
    ADMIN_QUEUE_ENTRIES_MIN, ConnectCommand, ConnectData, PropertyGet, PropertySet, PropertySize, cattr,
};
use nvme::features::{AsyncEventConfig, NumberOfQueues, fid};
use nvme::identify::{IdentifyController, cns};
use nvme::properties::{Cap, Cc, Csts, Vs, offset};
use nvme::{ControllerId, HostId, Nqn, QueueId, Status};
use zerocopy::{FromBytes, IntoBytes};

use super::{Payload, Request};
use crate::{NS_PER_MS, Now};

/// Time between two looks at CSTS.
const POLL_NS: u64 = 10 * NS_PER_MS;

/// Unit of CAP.TO.
const CAP_TO_NS: u64 = 500 * NS_PER_MS;

/// Bits of the result of Connect that ask for authentication (base 2.1 §6.3, AUTHREQ).
const AUTHREQ: u64 = 0b11 << 16;

/// What kind of controller to bring up, and as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BringupParams {
    /// Who we are.
    pub hostid: HostId,
    /// Who we are.
    pub hostnqn: Nqn,
    /// Whom we want. The well-known discovery name makes a discovery controller: no I/O queues.
    pub subnqn: Nqn,
    /// Which controller of it: [`ControllerId::DYNAMIC`] for any.
    pub cntlid: ControllerId,
    /// Entries of the admin queue, at least 32.
    pub admin_entries: u16,
    /// Keep-alive time-out in milliseconds; zero turns it off.
    pub kato_ms: u32,
    /// I/O queues wanted, as far as the controller has them; zero for none.
    pub io_queues: u16,
    /// Asynchronous events wanted, as far as the controller has them.
    pub events: AsyncEventConfig,
}

impl BringupParams {
    fn is_discovery(&self) -> bool {
        self.subnqn.is_discovery()
    }
}

/// Why a controller could not be brought up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BringupError {
    /// A command failed.
    #[error("{stage} failed: {status:?}")]
    Status {
        /// What was being done.
        stage: &'static str,
        /// Status of the command.
        status: Status,
    },
    /// The controller wants us to authenticate, which we cannot.
    #[error("the controller requires authentication")]
    AuthenticationRequired,
    /// The controller reports a fatal error (CSTS.CFS).
    #[error("the controller reports a fatal status")]
    Fatal,
    /// The controller did not become ready within CAP.TO.
    #[error("the controller did not become ready in time")]
    NotReady,
    /// Identify Controller gave no data.
    #[error("the controller did not identify itself")]
    NoIdentity,
}

/// What comes next.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Send this on the admin queue and give its completion to [`Bringup::on_completed`].
    Send(Request),
    /// Call [`Bringup::on_wait_over`] at this time.
    Wait(Now),
    /// The controller is up.
    Done(Box<Controller>),
}

/// A controller that is up.
#[derive(Clone, PartialEq, Debug)]
pub struct Controller {
    /// Its identifier: I/O queues connect to it.
    pub cntlid: ControllerId,
    /// Its capabilities.
    pub cap: Cap,
    /// Its version.
    pub vs: Vs,
    /// How it identified itself.
    pub identity: IdentifyController,
    /// I/O queues to connect: as many as wanted and granted.
    pub io_queues: u16,
}

impl Controller {
    /// Most entries of an I/O queue (MQES, here 1's based).
    pub fn queue_entries_max(&self) -> u32 {
        u32::from(self.cap.mqes()) + 1
    }

    /// Most data of one command, in bytes; [`None`] when there is no limit (MDTS).
    pub fn data_bytes_max(&self) -> Option<u64> {
        self.identity.data_bytes_max(self.cap.mpsmin())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Connect,
    ReadCap,
    ReadVs,
    Enable,
    PollReady,
    WaitReady,
    Identify,
    Queues,
    Events,
    Done,
}

/// Whether the bring-up may go from one stage to the other.
#[rustfmt::skip]
const fn is_legal(from: Stage, to: Stage) -> bool {
    use Stage::{Connect, Done, Enable, Events, Identify, PollReady, Queues, ReadCap, ReadVs, WaitReady};
    matches!((from, to),
        (Connect,   ReadCap)
      | (ReadCap,   ReadVs)
      | (ReadVs,    Enable)
      | (Enable,    PollReady)
      | (PollReady, WaitReady)
      | (WaitReady, PollReady)
      | (PollReady, Identify)
      | (Identify,  Queues | Events | Done)
      | (Queues,    Events | Done)
      | (Events,    Done)
    )
}

/// Brings one controller up.
#[derive(Clone, Debug)]
pub struct Bringup {
    params: BringupParams,
    stage: Stage,
    cntlid: ControllerId,
    cap: Cap,
    vs: Vs,
    ready_deadline: Now,
    identity: Option<Box<IdentifyController>>,
    io_queues: u16,
}

impl Bringup {
    /// A bring-up, and its first command.
    pub fn new(params: BringupParams) -> (Self, Request) {
        let data = ConnectData::new(params.hostid, params.cntlid, &params.subnqn, &params.hostnqn);
        let entries = params.admin_entries.max(ADMIN_QUEUE_ENTRIES_MIN);
        let connect = ConnectCommand {
            sqsize: (entries - 1).into(),
            kato: params.kato_ms.into(),
            ..ConnectCommand::new(0)
        };
        let request =
            Request { sqe: connect.to_sqe(), data: Payload::ToController(data.as_bytes().to_vec()) };
        let bringup = Self {
            params,
            stage: Stage::Connect,
            cntlid: ControllerId::DYNAMIC,
            cap: Cap(0),
            vs: Vs(0),
            ready_deadline: Now::NEVER,
            identity: None,
            io_queues: 0,
        };
        (bringup, request)
    }

    fn advance(&mut self, to: Stage) {
        assert!(is_legal(self.stage, to), "illegal transition {:?} to {to:?}", self.stage);
        self.stage = to;
    }

    /// The command sent last completed.
    ///
    /// # Errors
    /// The controller cannot be brought up: [`BringupError`] says why. Close the connection.
    pub fn on_completed(
        &mut self,
        status: Status,
        result: u64,
        data: &[u8],
        now: Now,
    ) -> Result<Step, BringupError> {
        if !status.is_success() {
            return Err(BringupError::Status { stage: self.stage.name(), status });
        }
        match self.stage {
            Stage::Connect => self.on_connected(result),
            Stage::ReadCap => {
                self.cap = Cap(result);
                Ok(self.get(Stage::ReadVs, PropertySize::Four, offset::VS))
            }
            Stage::ReadVs => {
                self.vs = Vs(low(result));
                Ok(self.enable(now))
            }
            Stage::Enable => Ok(self.get(Stage::PollReady, PropertySize::Four, offset::CSTS)),
            Stage::PollReady => self.on_status(Csts(low(result)), now),
            Stage::Identify => self.on_identity(data),
            Stage::Queues => {
                let granted = NumberOfQueues(low(result));
                let granted = granted.nsq().min(granted.ncq()).saturating_add(1);
                self.io_queues = granted.min(self.params.io_queues);
                self.configure_events()
            }
            Stage::Events => self.done(),
            Stage::WaitReady | Stage::Done => unreachable!("nothing was sent in {:?}", self.stage),
        }
    }

    /// The time that [`Step::Wait`] named has come.
    pub fn on_wait_over(&mut self) -> Step {
        self.get(Stage::PollReady, PropertySize::Four, offset::CSTS)
    }

    fn get(&mut self, stage: Stage, size: PropertySize, offset: u32) -> Step {
        self.advance(stage);
        Step::Send(Request { sqe: PropertyGet::at(0, size, offset).to_sqe(), data: Payload::None })
    }

    fn on_connected(&mut self, result: u64) -> Result<Step, BringupError> {
        if result & AUTHREQ != 0 {
            return Err(BringupError::AuthenticationRequired);
        }
        let [low, high, ..] = result.to_le_bytes();
        self.cntlid = ControllerId(u16::from_le_bytes([low, high]));
        Ok(self.get(Stage::ReadCap, PropertySize::Eight, offset::CAP))
    }

    fn enable(&mut self, now: Now) -> Step {
        self.advance(Stage::Enable);
        // CAP.TO of zero still means a moment.
        let units = u64::from(self.cap.to()).max(1);
        self.ready_deadline = now.after_ns(units * CAP_TO_NS);
        let sqe = PropertySet::at(0, PropertySize::Four, offset::CC, Cc::ENABLE_NVM.0.into()).to_sqe();
        Step::Send(Request { sqe, data: Payload::None })
    }

    fn on_status(&mut self, csts: Csts, now: Now) -> Result<Step, BringupError> {
        if csts.cfs() {
            return Err(BringupError::Fatal);
        }
        if csts.rdy() {
            self.advance(Stage::Identify);
            let sqe = Identify::new(cns::CONTROLLER).to_sqe(0);
            let data = Payload::FromController(IdentifyController::SIZE);
            return Ok(Step::Send(Request { sqe, data }));
        }
        if now >= self.ready_deadline {
            return Err(BringupError::NotReady);
        }
        self.advance(Stage::WaitReady);
        Ok(Step::Wait(now.after_ns(POLL_NS)))
    }

    fn on_identity(&mut self, data: &[u8]) -> Result<Step, BringupError> {
        let identity = IdentifyController::read_from_bytes(data).map_err(|_| BringupError::NoIdentity)?;
        self.identity = Some(Box::new(identity));
        if self.params.is_discovery() || self.params.io_queues == 0 {
            return self.configure_events();
        }
        self.advance(Stage::Queues);
        let wanted = self.params.io_queues - 1;
        let queues = NumberOfQueues(0).with_nsq(wanted).with_ncq(wanted);
        let sqe = SetFeatures::new(fid::NUMBER_OF_QUEUES, queues.0).to_sqe(0);
        Ok(Step::Send(Request { sqe, data: Payload::None }))
    }

    /// The bits of OAES and of the feature that say which events there are lie in the same places (base 2.1
    /// §5.1.25.1.5). SMART warnings, bits 7:0, have none in OAES, and Linux's target refuses to be asked for them.
    fn configure_events(&mut self) -> Result<Step, BringupError> {
        let supported = self.identity.as_ref().map_or(0, |identity| identity.oaes.get());
        let events = self.params.events.0 & supported;
        if events == 0 {
            return self.done();
        }
        self.advance(Stage::Events);
        let sqe = SetFeatures::new(fid::ASYNC_EVENT_CONFIG, events).to_sqe(0);
        Ok(Step::Send(Request { sqe, data: Payload::None }))
    }

    fn done(&mut self) -> Result<Step, BringupError> {
        self.advance(Stage::Done);
        let identity = self.identity.take().ok_or(BringupError::NoIdentity)?;
        let controller = Controller {
            cntlid: self.cntlid,
            cap: self.cap,
            vs: self.vs,
            identity: *identity,
            io_queues: self.io_queues,
        };
        Ok(Step::Done(Box::new(controller)))
    }
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "Connect",
            Self::ReadCap => "reading CAP",
            Self::ReadVs => "reading VS",
            Self::Enable => "enabling the controller",
            Self::PollReady | Self::WaitReady => "reading CSTS",
            Self::Identify => "Identify Controller",
            Self::Queues => "setting the number of queues",
            Self::Events => "configuring asynchronous events",
            Self::Done => "nothing",
        }
    }
}

/// The Connect of an I/O queue with `entries` entries, for a controller that [`Bringup`] brought up. Without submission
/// queue flow control, reads need no response capsule (NVMe/TCP 1.0 §3.3.2.1).
pub fn connect_io_queue(
    params: &BringupParams,
    cntlid: ControllerId,
    queue: QueueId,
    entries: u16,
    sq_flow_control: bool,
) -> Request {
    debug_assert!(!queue.is_admin());
    let data = ConnectData::new(params.hostid, cntlid, &params.subnqn, &params.hostnqn);
    let connect = ConnectCommand {
        qid: queue.0.into(),
        sqsize: entries.saturating_sub(1).max(1).into(),
        cattr: if sq_flow_control { 0 } else { cattr::DISABLE_SQ_FLOW_CONTROL },
        ..ConnectCommand::new(0)
    };
    Request { sqe: connect.to_sqe(), data: Payload::ToController(data.as_bytes().to_vec()) }
}

/// Dword 0 of a result.
fn low(result: u64) -> u32 {
    let [a, b, c, d, ..] = result.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NS_PER_S;
    use nvme::fabrics::fctype;
    use nvme::opcode;

    fn params(subnqn: &str) -> BringupParams {
        BringupParams {
            hostid: HostId([7; 16]),
            hostnqn: Nqn::from_uuid([7; 16]),
            subnqn: Nqn::new(subnqn).unwrap(),
            cntlid: ControllerId::DYNAMIC,
            admin_entries: 32,
            kato_ms: 5000,
            io_queues: 4,
            events: AsyncEventConfig(u32::MAX),
        }
    }

    /// A controller that needs `polls` looks until it is ready and grants two queues.
    /// What the controller of these tests tells of.
    const EVENTS: AsyncEventConfig = AsyncEventConfig(0).with_ana_change(true);

    fn answer(request: &Request, polls: &mut u32) -> (u64, Vec<u8>) {
        let sqe = &request.sqe;
        match (sqe.opcode, nvme::fabrics::fctype_of(sqe)) {
            (opcode::FABRICS, fctype::CONNECT) => (0x0042, vec![]),
            (opcode::FABRICS, fctype::PROPERTY_SET) => {
                assert_eq!(PropertySet::of(sqe).value.get(), u64::from(Cc::ENABLE_NVM.0));
                (0, vec![])
            }
            (opcode::FABRICS, _) => match PropertyGet::of(sqe).offset.get() {
                offset::CAP => (Cap(0).with_mqes(127).with_to(2).0, vec![]),
                offset::VS => (Vs::V2_1.0.into(), vec![]),
                _ if *polls == 0 => (Csts(0).with_rdy(true).0.into(), vec![]),
                _ => {
                    *polls -= 1;
                    (0, vec![])
                }
            },
            (opcode::admin::IDENTIFY, _) => {
                let identity = IdentifyController { oaes: EVENTS.0.into(), ..IdentifyController::default() };
                (0, identity.as_bytes().to_vec())
            }
            (opcode::admin::SET_FEATURES, _) if sqe.cdw10.get() == u32::from(fid::ASYNC_EVENT_CONFIG) => {
                assert_eq!(sqe.cdw11.get(), EVENTS.0, "the events that the controller has, and no others");
                (0, vec![])
            }
            _ => (0x0001_0001, vec![]),
        }
    }

    fn run(params: BringupParams, mut polls: u32) -> (Result<Controller, BringupError>, Vec<u8>) {
        let (mut bringup, mut request) = Bringup::new(params);
        let mut now = Now(0);
        let mut sent = vec![];
        loop {
            sent.push(request.sqe.opcode);
            let (result, data) = answer(&request, &mut polls);
            let mut step = match bringup.on_completed(Status::SUCCESS, result, &data, now) {
                Ok(step) => step,
                Err(error) => return (Err(error), sent),
            };
            if let Step::Wait(until) = step {
                now = until;
                step = bringup.on_wait_over();
            }
            match step {
                Step::Send(next) => request = next,
                Step::Wait(_) => panic!("two waits in a row"),
                Step::Done(controller) => return (Ok(*controller), sent),
            }
        }
    }

    #[test]
    fn an_io_controller_comes_up_with_the_queues_it_grants() {
        let (controller, sent) = run(params("nqn.2016-06.io.spdk:cnode1"), 3);
        let controller = controller.unwrap();
        assert_eq!(controller.cntlid, ControllerId(0x42));
        assert_eq!(controller.io_queues, 2);
        assert_eq!(controller.queue_entries_max(), 128);
        assert_eq!(controller.vs, Vs::V2_1);
        let fabrics = opcode::FABRICS;
        let (identify, set) = (opcode::admin::IDENTIFY, opcode::admin::SET_FEATURES);
        assert_eq!(
            sent,
            [fabrics, fabrics, fabrics, fabrics, fabrics, fabrics, fabrics, fabrics, identify, set, set]
        );
    }

    #[test]
    fn a_discovery_controller_gets_no_queues() {
        let (controller, sent) = run(params(nvme::DISCOVERY_NQN), 0);
        assert_eq!(controller.unwrap().io_queues, 0);
        assert_eq!(sent.iter().filter(|opcode| **opcode == opcode::admin::SET_FEATURES).count(), 1);
    }

    #[test]
    fn a_controller_that_never_becomes_ready_is_given_up_after_cap_to() {
        let (result, sent) = run(params("nqn.2016-06.io.spdk:cnode1"), u32::MAX);
        assert_eq!(result.unwrap_err(), BringupError::NotReady);
        let polls = usize::try_from(NS_PER_S / POLL_NS).unwrap();
        assert_eq!(sent.len(), 4 + polls + 1);
    }

    #[test]
    fn a_controller_that_wants_authentication_or_refuses_is_an_error() {
        let (mut bringup, _) = Bringup::new(params("nqn.2016-06.io.spdk:cnode1"));
        let refused = bringup.clone().on_completed(Status::CONNECT_INVALID_HOST, 0, &[], Now(0));
        let status = Status::CONNECT_INVALID_HOST;
        assert_eq!(refused, Err(BringupError::Status { stage: "Connect", status }));
        let asked = bringup.on_completed(Status::SUCCESS, 1 << 17, &[], Now(0));
        assert_eq!(asked, Err(BringupError::AuthenticationRequired));
    }

    #[test]
    fn an_io_queue_connects_with_its_size_and_flow_control() {
        let request =
            connect_io_queue(&params("nqn.2016-06.io.spdk:cnode1"), ControllerId(9), QueueId(2), 128, false);
        let connect = ConnectCommand::of(&request.sqe);
        assert_eq!((connect.qid(), connect.queue_entries()), (QueueId(2), Some(128)));
        assert!(connect.disables_sq_flow_control());
        let Payload::ToController(data) = &request.data else { panic!("no data") };
        assert_eq!(ConnectData::ref_from_bytes(data).unwrap().cntlid(), ControllerId(9));
    }
}
