//! From command-line options to a controller, its namespaces and its I/O queues.

use std::net::{SocketAddr, ToSocketAddrs};

use nvme::admin::Identify;
use nvme::identify::{IdentifyController, IdentifyNamespace, NsidList, cns};
use nvme::zerocopy::FromBytes;
use nvme::{HostId, Nqn, Nsid, QueueId};
use reactors::DmaPool;
use reactors::PoolConfig;
use reactors::dma::{LARGE_SLOT_SIZE, SMALL_SLOT_SIZE};
use transport::tcp::host::{Blocking, HostConfig, HostError, HostQueue, connect_queue};
use transport::{Data, TransportKind};

use crate::Failure;
use crate::args::{ConnectArgs, TransportType};
use crate::perf::WorkerPlan;

/// Entries of an I/O queue that stays idle: the least there may be.
const IDLE_ENTRIES: u16 = 2;
/// Identifiers in one page of the active namespace list (base 2.1 §5.1.13.2.2).
const NSIDS_PER_PAGE: usize = 1024;
/// [`LARGE_SLOT_SIZE`], as lengths of I/O are counted.
#[allow(clippy::cast_possible_truncation)] // 128 KiB
const LARGE_SLOT_BYTES: u32 = LARGE_SLOT_SIZE as u32;
/// What starts an NQN that is made of a UUID (base 2.1 §4.7).
const UUID_NQN_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// What is worked on.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    pub(crate) block_bytes: u32,
    pub(crate) blocks: u64,
    /// Most bytes one command moves.
    pub(crate) transfer_bytes_max: u32,
}

/// A connected controller, and the queues made of it that nobody has taken yet.
pub(crate) struct Session {
    host: Blocking,
    pool: DmaPool,
    next_queue: u16,
    /// Connected and never used.
    idle: Vec<HostQueue<Data>>,
}

impl Session {
    /// Connects the admin queue.
    pub(crate) fn open(args: &ConnectArgs, subnqn: &Nqn) -> Result<Self, Failure> {
        Self::connect(config(args, subnqn, 0)?, PoolConfig::default())
    }

    /// Connects the admin queue with room for the I/O queues of `plan`, and its idle queues.
    pub(crate) fn open_for_io(plan: &WorkerPlan) -> Result<Self, Failure> {
        let lanes = u16::try_from(plan.lanes.len()).map_err(|_| too_many_queues())?;
        let queues = lanes.checked_add(plan.idle_queues).ok_or_else(too_many_queues)?;
        let mut config = config(&plan.connect, &plan.subnqn, queues)?;
        let depth = plan.lanes.iter().map(|lane| lane.depth).max().unwrap_or(1);
        config.io_entries = depth + 1;
        config.command_timeout = plan.timeout;
        config.place_data = plan.place_data;
        let mut session = Self::connect(config, pool_for(plan))?;
        session.check_limits(queues, depth)?;
        for _ in 0..plan.idle_queues {
            let queue = session.connect_queue(IDLE_ENTRIES)?;
            session.idle.push(queue);
        }
        Ok(session)
    }

    fn connect(config: HostConfig, pool: PoolConfig) -> Result<Self, Failure> {
        let pool = DmaPool::new(pool).map_err(|error| Failure::Failed(error.to_string()))?;
        let remote = config.remote;
        let host = Blocking::connect(config)
            .map_err(|error| Failure::Unreachable(format!("cannot connect to {remote}: {error}")))?;
        Ok(Self { host, pool, next_queue: 1, idle: Vec::new() })
    }

    /// Refuses what the controller cannot give, in its own figures.
    fn check_limits(&self, queues: u16, depth: u16) -> Result<(), Failure> {
        let Some(controller) = self.host.controller() else { return Err(gone()) };
        if controller.io_queues < queues {
            return Err(Failure::Usage(format!(
                "{queues} I/O queues were asked for, the controller granted {}: use fewer --queues",
                controller.io_queues
            )));
        }
        let most = controller.queue_entries_max() - 1;
        if u32::from(depth) > most {
            return Err(Failure::Usage(format!(
                "--depth is {depth}, the controller takes at most {most} per queue"
            )));
        }
        Ok(())
    }

    pub(crate) fn host(&mut self) -> &mut Blocking {
        &mut self.host
    }

    pub(crate) fn pool(&self) -> &DmaPool {
        &self.pool
    }

    /// Keeps the controller alive; called a few times a second at least.
    pub(crate) fn tick(&mut self) -> Result<(), HostError> {
        self.host.turn()
    }

    /// Connects the next I/O queue, with room for `depth` commands.
    pub(crate) fn take_queue(&mut self, depth: u16) -> Result<HostQueue<Data>, Failure> {
        self.connect_queue(depth + 1)
    }

    fn connect_queue(&mut self, entries: u16) -> Result<HostQueue<Data>, Failure> {
        let id = QueueId(self.next_queue);
        self.next_queue += 1;
        let pool = self.pool.clone();
        let buffer = |bytes: &[u8]| {
            let mut buffer = pool.alloc_io(bytes.len())?;
            buffer.copy_in(0, bytes);
            Some(Data(buffer))
        };
        let config = HostConfig { io_entries: entries, ..self.host.config().clone() };
        let controller = self.host.controller().ok_or_else(gone)?;
        connect_queue(&config, controller, id, buffer)
            .map_err(|error| Failure::Unreachable(error.to_string()))
    }

    /// The size and shape of an active namespace.
    pub(crate) fn namespace(&mut self, nsid: u32) -> Result<Namespace, Failure> {
        let active = self.active_namespaces()?;
        if !active.contains(&Nsid(nsid)) {
            let list: Vec<String> = active.iter().map(ToString::to_string).collect();
            return Err(Failure::Usage(format!(
                "namespace {nsid} is not active in this subsystem; active: {}",
                if list.is_empty() { "none".to_owned() } else { list.join(", ") }
            )));
        }
        let identity = self.identify_namespace(nsid)?;
        let block_bytes = identity
            .block_bytes()
            .ok_or_else(|| Failure::Failed(format!("namespace {nsid} reports no valid block size")))?;
        let config = self.host.config();
        let limit = self.host.controller().map(|controller| config.data_bytes_max(controller));
        // Buffers of one I/O hold this much at most.
        let limit = limit.unwrap_or(u64::MAX).min(reactors::dma::IO_SIZE_MAX as u64);
        Ok(Namespace {
            block_bytes,
            blocks: identity.nsze.get(),
            transfer_bytes_max: u32::try_from(limit).unwrap_or(u32::MAX),
        })
    }

    /// Identify Controller, as it came during bring-up.
    pub(crate) fn controller(&self) -> Result<&IdentifyController, Failure> {
        self.host.controller().map(|controller| &controller.identity).ok_or_else(gone)
    }

    /// Every active NSID, in order.
    pub(crate) fn active_namespaces(&mut self) -> Result<Vec<Nsid>, Failure> {
        let mut all = Vec::new();
        loop {
            let after = all.last().copied().unwrap_or(Nsid(0));
            let page = self.identify(&Identify { nsid: after, ..Identify::new(cns::ACTIVE_NSID_LIST) })?;
            let list = read::<NsidList>(&page)?;
            let before = all.len();
            all.extend(list.iter());
            // A page that is not full ends the list; one that does not go on would never end it.
            if all.len() - before < NSIDS_PER_PAGE || all.last().copied() <= Some(after) {
                return Ok(all);
            }
        }
    }

    /// Identify Namespace of the NVM command set.
    pub(crate) fn identify_namespace(&mut self, nsid: u32) -> Result<IdentifyNamespace, Failure> {
        let page = self.identify(&Identify { nsid: Nsid(nsid), ..Identify::new(cns::NAMESPACE) })?;
        read::<IdentifyNamespace>(&page)
    }

    fn identify(&mut self, command: &Identify) -> Result<Vec<u8>, Failure> {
        self.host.identify(command).map_err(|error| Failure::Failed(error.to_string()))
    }
}

fn read<T: FromBytes>(page: &[u8]) -> Result<T, Failure> {
    T::read_from_prefix(page)
        .map(|(structure, _)| structure)
        .map_err(|_| Failure::Failed(format!("Identify gave only {} bytes", page.len())))
}

fn gone() -> Failure {
    Failure::Failed("the controller is gone".to_owned())
}

fn too_many_queues() -> Failure {
    Failure::Usage("more queues than NVMe has".to_owned())
}

/// Buffers for every I/O of the plan in flight, and for a Connect.
fn pool_for(plan: &WorkerPlan) -> PoolConfig {
    let (mut small, mut large) = (8, 2);
    for lane in &plan.lanes {
        let depth = u32::from(lane.depth);
        if lane.unit_bytes as usize <= SMALL_SLOT_SIZE {
            small += depth;
        } else {
            large += depth * lane.unit_bytes.div_ceil(LARGE_SLOT_BYTES);
        }
    }
    PoolConfig { small_slots: small, large_slots: large, ..PoolConfig::default() }
}

fn config(args: &ConnectArgs, subnqn: &Nqn, io_queues: u16) -> Result<HostConfig, Failure> {
    let remote = resolve(&args.traddr, args.trsvcid)?;
    let (hostnqn, hostid) = identity(args.hostnqn.as_ref(), args.hostid);
    let mut config = HostConfig::new(remote, hostnqn, hostid, *subnqn);
    config.transport = match args.transport {
        TransportType::Tcp => TransportKind::Tcp,
        TransportType::Rdma => TransportKind::Rdma,
    };
    config.bringup.io_queues = io_queues;
    config.bringup.kato_ms = args.keep_alive_tmo.saturating_mul(1000);
    config.header_digest = args.header_digest;
    config.data_digest = args.data_digest;
    config.connect_timeout = args.connect_timeout;
    Ok(config)
}

fn resolve(traddr: &str, port: u16) -> Result<SocketAddr, Failure> {
    // Addresses may come in brackets, as in URLs, and IPv6 ones with a scope.
    let host = traddr.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(traddr);
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|error| Failure::Unreachable(format!("cannot resolve --traddr '{traddr}': {error}")))?
        .next();
    found.ok_or_else(|| Failure::Unreachable(format!("--traddr '{traddr}' has no address")))
}

/// Who we are: what was given, completed from each other, or random.
fn identity(hostnqn: Option<&Nqn>, hostid: Option<uuid::Uuid>) -> (Nqn, HostId) {
    let in_name = hostnqn.and_then(|nqn| nqn.as_str().strip_prefix(UUID_NQN_PREFIX)?.parse().ok());
    let id = hostid.or(in_name).unwrap_or_else(uuid::Uuid::new_v4);
    let nqn = hostnqn.copied().unwrap_or_else(|| Nqn::from_uuid(id.into_bytes()));
    (nqn, HostId(id.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_id_given_inside_the_nqn_is_used() {
        let nqn: Nqn = format!("{UUID_NQN_PREFIX}2f8e4bd5-0c5a-4c43-9f0e-6a6a1f2f6a11").parse().unwrap();
        let (same, id) = identity(Some(&nqn), None);
        assert_eq!(same, nqn);
        assert_eq!(uuid::Uuid::from_bytes(id.0).to_string(), "2f8e4bd5-0c5a-4c43-9f0e-6a6a1f2f6a11");
    }

    #[test]
    fn a_host_without_a_name_gets_a_fresh_one_that_matches_its_id() {
        let (nqn, id) = identity(None, None);
        assert_eq!(nqn, Nqn::from_uuid(id.0));
        assert_ne!(identity(None, None).0, nqn);
    }

    #[test]
    fn addresses_may_be_bracketed() {
        assert_eq!(resolve("[::1]", 4420).unwrap(), "[::1]:4420".parse().unwrap());
        assert_eq!(resolve("127.0.0.1", 8009).unwrap(), "127.0.0.1:8009".parse().unwrap());
        assert!(matches!(resolve("not an address", 1), Err(Failure::Unreachable(_))));
    }
}
