//! From a job's options to a controller, its namespaces and its I/O queues.

use std::net::{SocketAddr, ToSocketAddrs};

use fabrics::host::Controller;
use nvme::admin::Identify;
use nvme::discovery::{DiscoveryEntry, SubsystemType, TransportType};
use nvme::identify::{IdentifyNamespace, cns};
use nvme::zerocopy::FromBytes;
use nvme::{Nqn, Nsid, QueueId};
use transport::TransportKind;
use transport::host::{Blocking, HostConfig, HostError, HostQueue, connect_queue};

use crate::buffer::Buffer;
use crate::command::Namespace;
use crate::options::JobOptions;

/// Why there is no controller, or not what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The address cannot be resolved.
    #[error("traddr={traddr}: {why}")]
    Address {
        /// The address.
        traddr: String,
        /// Why not.
        why: String,
    },
    /// The controller cannot be reached, or refuses us.
    #[error("cannot connect to {subnqn} at {remote}: {error}")]
    Connect {
        /// Which subsystem.
        subnqn: Box<Nqn>,
        /// Where.
        remote: SocketAddr,
        /// Why not.
        error: HostError,
    },
    /// An I/O queue cannot be had.
    #[error("I/O queue {id}: {error}")]
    Queue {
        /// Which.
        id: QueueId,
        /// Why not.
        error: HostError,
    },
    /// The controller gives fewer I/O queues.
    #[error("queues={wanted}, but the controller granted {granted}")]
    TooManyQueues {
        /// Asked for.
        wanted: u16,
        /// Granted.
        granted: u16,
    },
    /// The namespace is not there, or cannot be used.
    #[error("namespace {nsid}: {why}")]
    Namespace {
        /// Which.
        nsid: Nsid,
        /// Why not.
        why: String,
    },
    /// Discovery does not lead to one subsystem.
    #[error("discovery at {remote}: {why}")]
    Discovery {
        /// Where.
        remote: SocketAddr,
        /// What is wrong.
        why: String,
    },
}

/// A controller that is up.
pub struct Session {
    host: Blocking,
}

impl Session {
    /// Connects the admin queue, after discovery when the options say so, and asks for `io_queues` I/O queues of `depth`
    /// commands each.
    ///
    /// # Errors
    /// [`SessionError`] with what failed.
    pub fn connect(options: &JobOptions, io_queues: u16, depth: u16) -> Result<Self, SessionError> {
        let remote = resolve(&options.traddr, options.trsvcid)?;
        let (remote, subnqn) = match (options.discovery, options.subnqn) {
            (false, Some(subnqn)) => (remote, subnqn),
            (_, subnqn) => discover(options, remote, subnqn)?,
        };
        let mut config = config(options, remote, subnqn);
        config.bringup.io_queues = io_queues;
        config.io_entries = depth + 1;
        let host = connect(config)?;
        let granted = host.controller().map_or(0, |controller| controller.io_queues);
        if granted < io_queues {
            return Err(SessionError::TooManyQueues { wanted: io_queues, granted });
        }
        Ok(Self { host })
    }

    /// The size and shape of a namespace.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn namespace(&mut self, nsid: Nsid) -> Result<Namespace, SessionError> {
        let refused = |why: String| SessionError::Namespace { nsid, why };
        let page = self
            .host
            .identify(&Identify { nsid, ..Identify::new(cns::NAMESPACE) })
            .map_err(|error| refused(error.to_string()))?;
        let (identity, _) = IdentifyNamespace::read_from_prefix(&page)
            .map_err(|_| refused(format!("Identify gave only {} bytes", page.len())))?;
        let blocks = identity.nsze.get();
        if blocks == 0 {
            return Err(refused("it is not active in this subsystem".to_owned()));
        }
        let block_bytes =
            identity.block_bytes().ok_or_else(|| refused("it reports no valid block size".to_owned()))?;
        let config = self.host.config();
        let limit = self.host.controller().map_or(u64::MAX, |controller| config.data_bytes_max(controller));
        let transfer_bytes_max = u32::try_from(limit).unwrap_or(u32::MAX);
        Ok(Namespace { nsid, block_bytes, blocks, transfer_bytes_max })
    }

    /// The controller, for whoever keeps it alive, and what its I/O queues are connected with.
    ///
    /// # Errors
    /// When the controller is lost already.
    pub fn into_parts(self) -> Result<(Blocking, IoQueues), SessionError> {
        let config = self.host.config().clone();
        let Some(controller) = self.host.controller().cloned() else {
            let error = HostError::Closed;
            let subnqn = Box::new(config.bringup.subnqn);
            return Err(SessionError::Connect { subnqn, remote: config.remote, error });
        };
        Ok((self.host, IoQueues { config, controller }))
    }
}

/// Connects the I/O queues of a controller that somebody else keeps alive.
pub struct IoQueues {
    config: HostConfig,
    controller: Controller,
}

impl IoQueues {
    /// Connects I/O queue `id`, from 1, on the thread that will use it.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn connect(&self, id: QueueId) -> Result<HostQueue<Buffer>, SessionError> {
        let buffer = |bytes: &[u8]| Some(Buffer::Owned(bytes.to_vec()));
        connect_queue(&self.config, &self.controller, id, buffer)
            .map_err(|error| SessionError::Queue { id, error })
    }
}

fn connect(config: HostConfig) -> Result<Blocking, SessionError> {
    let (remote, subnqn) = (config.remote, config.bringup.subnqn);
    Blocking::connect(config).map_err(|error| SessionError::Connect {
        subnqn: Box::new(subnqn),
        remote,
        error,
    })
}

fn config(options: &JobOptions, remote: SocketAddr, subnqn: Nqn) -> HostConfig {
    let mut config = HostConfig::new(remote, options.hostnqn, options.hostid, subnqn);
    config.transport = options.transport;
    config.bringup.kato_ms = options.kato_ms;
    config.header_digest = options.header_digest;
    config.data_digest = options.data_digest;
    config.place_data = options.place_data;
    config.connect_timeout = options.connect_timeout;
    config.command_timeout = options.command_timeout;
    config
}

fn resolve(traddr: &str, port: u16) -> Result<SocketAddr, SessionError> {
    let refused = |why: String| SessionError::Address { traddr: traddr.to_owned(), why };
    // Addresses may come in brackets, as in URLs, and IPv6 ones with a scope.
    let host = traddr.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(traddr);
    let mut found = (host, port).to_socket_addrs().map_err(|error| refused(error.to_string()))?;
    found.next().ok_or_else(|| refused("it has no address".to_owned()))
}

/// Where the wanted subsystem is, or the only one there is.
fn discover(
    options: &JobOptions,
    remote: SocketAddr,
    wanted: Option<Nqn>,
) -> Result<(SocketAddr, Nqn), SessionError> {
    let refused = |why: String| SessionError::Discovery { remote, why };
    let mut config = config(options, remote, Nqn::discovery());
    config.bringup.io_queues = 0;
    let mut host = connect(config)?;
    let (_, entries) = host.discover(0).map_err(|error| refused(error.to_string()))?;
    let mut found: Option<(SocketAddr, Nqn)> = None;
    for entry in entries.iter().filter(|entry| is_offered(entry, options.transport)) {
        let Some((address, subnqn)) = place_of(entry) else { continue };
        if wanted.is_some_and(|wanted| wanted != subnqn) {
            continue;
        }
        match found {
            None => found = Some((address, subnqn)),
            Some((_, first)) if first != subnqn => {
                return Err(refused(format!(
                    "several subsystems, {first} and {subnqn} among them: say which with subnqn="
                )));
            }
            // Another address of the same subsystem: the first one will do.
            Some(_) => {}
        }
    }
    found.ok_or_else(|| {
        refused(
            wanted.map_or("no subsystem".to_owned(), |nqn| format!("no {nqn} over {:?}", options.transport)),
        )
    })
}

fn is_offered(entry: &DiscoveryEntry, transport: TransportKind) -> bool {
    let trtype = match transport {
        TransportKind::Tcp => TransportType::TCP,
        TransportKind::Rdma => TransportType::RDMA,
    };
    entry.subtype() == SubsystemType::NVM && entry.trtype() == trtype
}

/// Records come from a peer: one that cannot be read is passed over.
fn place_of(entry: &DiscoveryEntry) -> Option<(SocketAddr, Nqn)> {
    let address = resolve(entry.traddr.to_str()?, entry.trsvcid.to_str()?.trim().parse().ok()?).ok()?;
    Some((address, entry.subnqn.to_str()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_bracketed() {
        assert_eq!(resolve("[::1]", 4420).unwrap(), "[::1]:4420".parse().unwrap());
        assert_eq!(resolve("127.0.0.1", 8009).unwrap(), "127.0.0.1:8009".parse().unwrap());
        assert!(matches!(resolve("not an address", 1), Err(SessionError::Address { .. })));
    }
}
