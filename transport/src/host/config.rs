//! Whom a host connects to, and how.

use std::net::SocketAddr;
use std::time::Duration;

use fabrics::Now;
use fabrics::host::{BringupError, BringupParams, Controller, DiscoveryError};
use fabrics::tcp::host::HostParams;
use nvme::features::AsyncEventConfig;
use nvme::{ControllerId, HostId, Nqn, QueueId, Status};
use reactors::dma::LARGE_SLOT_SIZE;

use super::nanos;
use super::queue::{HostQueue, LinkError};
use crate::rdma::RdmaQueueParams;
use crate::{HostBuffer, TransportKind};

/// Entries of the admin queue: the least there may be.
const ADMIN_ENTRIES: u16 = 32;
/// Keep-alive time-out asked for; that of the Linux host.
const KATO_MS: u32 = 5_000;
/// Entries of an I/O queue asked for.
const IO_ENTRIES: u16 = 128;
/// Data sent inside a capsule over RDMA at most, in bytes, whatever the controller has room for: more is cheaper to read.
const IN_CAPSULE_BYTES_MAX: u32 = 8 << 10;
/// Retries of RDMA: the most InfiniBand can express.
const TRANSPORT_RETRIES: u8 = 7;
/// R2Ts taken at a time for one command.
const R2TS: u8 = 16;

/// Whom to connect to, and how.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// What carries the connection.
    pub transport: TransportKind,
    /// Where the subsystem listens.
    pub remote: SocketAddr,
    /// Address to connect from; `None` leaves it to the routing table.
    pub local: Option<SocketAddr>,
    /// Who we are, which subsystem and controller, how many I/O queues, keep-alive and events.
    pub bringup: BringupParams,
    /// Entries of an I/O queue, bounded by what the controller has; one less are outstanding at a time.
    pub io_entries: u16,
    /// Use header digests; a controller that does not is refused.
    pub header_digest: bool,
    /// Use data digests; a controller that does not is refused.
    pub data_digest: bool,
    /// Receive the data of reads over TCP straight into their buffers where the order of the answers can be foreseen, instead of
    /// copying it out of one receive buffer. It saves the copy and takes another system call for each receive.
    pub place_data: bool,
    /// Use submission queue flow control. Off, reads end without a response capsule.
    pub sq_flow_control: bool,
    /// Time to connect, and again for the handshake.
    pub connect_timeout: Duration,
    /// Time for a command to complete before it is aborted.
    pub command_timeout: Duration,
    /// How often RDMA sends again what is not acknowledged before the connection is lost: 0 to 7.
    pub transport_retries: u8,
}

impl HostConfig {
    /// A connection over TCP to `subnqn` at `remote` as this host; everything else has its default: one I/O queue of 128 entries,
    /// no digests, keep-alive 5 s, commands 30 s.
    pub fn new(remote: SocketAddr, hostnqn: Nqn, hostid: HostId, subnqn: Nqn) -> Self {
        let bringup = BringupParams {
            hostid,
            hostnqn,
            subnqn,
            cntlid: ControllerId::DYNAMIC,
            admin_entries: ADMIN_ENTRIES,
            kato_ms: KATO_MS,
            io_queues: 1,
            events: AsyncEventConfig(u32::MAX),
        };
        Self {
            transport: TransportKind::Tcp,
            remote,
            local: None,
            bringup,
            io_entries: IO_ENTRIES,
            header_digest: false,
            data_digest: false,
            place_data: false,
            sq_flow_control: false,
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(30),
            transport_retries: TRANSPORT_RETRIES,
        }
    }

    /// Data of one command, in bytes, that this controller takes and this host can move; whoever has more splits it.
    ///
    /// Over RDMA a keyed descriptor names memory in one piece, and that is how large a piece of a buffer is.
    #[must_use]
    pub fn data_bytes_max(&self, controller: &Controller) -> u64 {
        let taken = controller.data_bytes_max().unwrap_or(u64::MAX);
        match self.transport {
            TransportKind::Tcp => taken,
            TransportKind::Rdma => taken.min(LARGE_SLOT_SIZE as u64),
        }
    }

    /// Starts to connect the admin queue.
    pub(super) fn connect_admin<B: HostBuffer>(&self, now: Now) -> Result<HostQueue<B>, LinkError> {
        let Self { remote, local, connect_timeout, .. } = *self;
        let params = self.admin_params();
        match self.transport {
            TransportKind::Tcp => HostQueue::connect(remote, local, params, connect_timeout, now),
            TransportKind::Rdma => {
                // Only I/O queues promise room for data in the capsule.
                let rdma = self.rdma_params(QueueId::ADMIN, ControllerId(0), params.depth, 0);
                HostQueue::connect_rdma(remote, local, rdma, connect_timeout, now)
            }
        }
    }

    /// Starts to connect an I/O queue.
    pub(super) fn connect_io<B: HostBuffer>(
        &self,
        controller: &Controller,
        id: QueueId,
        now: Now,
    ) -> Result<HostQueue<B>, LinkError> {
        let Self { remote, local, connect_timeout, .. } = *self;
        let params = self.io_params(controller);
        match self.transport {
            TransportKind::Tcp => HostQueue::connect(remote, local, params, connect_timeout, now),
            TransportKind::Rdma => {
                let in_capsule = params.in_capsule_data_size.min(IN_CAPSULE_BYTES_MAX);
                let rdma = self.rdma_params(id, controller.cntlid, params.depth, in_capsule);
                HostQueue::connect_rdma(remote, local, rdma, connect_timeout, now)
            }
        }
    }

    fn rdma_params(&self, id: QueueId, cntlid: ControllerId, depth: u16, in_capsule: u32) -> RdmaQueueParams {
        RdmaQueueParams {
            id,
            cntlid,
            retries: self.transport_retries,
            machine: fabrics::rdma::host::HostParams {
                depth,
                in_capsule_data_size: in_capsule,
                command_timeout_ns: nanos(self.command_timeout),
            },
        }
    }

    pub(super) fn admin_params(&self) -> HostParams {
        HostParams { depth: self.bringup.admin_entries.max(ADMIN_ENTRIES) - 1, ..self.params() }
    }

    pub(super) fn io_params(&self, controller: &Controller) -> HostParams {
        let capsule = controller.identity.in_capsule_bytes();
        HostParams { depth: self.entries(controller) - 1, in_capsule_data_size: capsule, ..self.params() }
    }

    /// Entries an I/O queue of this controller gets.
    pub(super) fn entries(&self, controller: &Controller) -> u16 {
        let most = u16::try_from(controller.queue_entries_max()).unwrap_or(u16::MAX);
        self.io_entries.min(most).max(2)
    }

    fn params(&self) -> HostParams {
        HostParams {
            max_r2t: R2TS,
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            place_data: self.place_data,
            handshake_timeout_ns: nanos(self.connect_timeout),
            command_timeout_ns: nanos(self.command_timeout),
            ..HostParams::default()
        }
    }
}

/// Why a controller is not, or no longer, connected.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    /// The connection of a queue ended.
    #[error("queue {queue}: {error}")]
    Link {
        /// Which.
        queue: QueueId,
        /// Why.
        error: LinkError,
    },
    /// The controller could not be brought up.
    #[error(transparent)]
    Bringup(#[from] BringupError),
    /// The controller refused an I/O queue.
    #[error("queue {queue}: Connect failed: {status}")]
    Refused {
        /// Which.
        queue: QueueId,
        /// Its reason.
        status: Status,
    },
    /// No buffer for the data of Connect.
    #[error("no buffer for the data of Connect")]
    NoBuffer,
    /// Keep Alive was not answered in time.
    #[error("the controller does not answer Keep Alive")]
    KeepAlive,
    /// A command took too long, and aborting it did not help.
    #[error("a command of queue {queue} did not complete in time")]
    CommandTimeout {
        /// Of which queue.
        queue: QueueId,
    },
    /// The discovery log could not be read.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// An admin command failed.
    #[error("{command} failed: {status}")]
    Command {
        /// Which.
        command: &'static str,
        /// Its status.
        status: Status,
    },
    /// We closed the connection.
    #[error("the controller was disconnected")]
    Closed,
}
