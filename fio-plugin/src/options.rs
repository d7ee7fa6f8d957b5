//! What a job file asks of the engine, checked.

use std::time::Duration;

use nvme::{HostId, Nqn, NqnError, Nsid};
use transport::TransportKind;
use uuid::Uuid;

/// TCP port of a subsystem when none is given (NVMe/TCP 1.0 §3.1).
const PORT: u16 = 4420;
/// TCP port of a discovery controller when none is given.
const DISCOVERY_PORT: u16 = 8009;
/// Most I/O queues of one job: more than processors that would use them.
pub const QUEUES_MAX: usize = 64;
/// What starts an NQN that is made of a UUID (base 2.1 §4.7).
const UUID_NQN_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// How a job waits for completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// Looks for them all the time.
    Poll,
    /// Sleeps until the kernel has something.
    Interrupt,
}

/// What was given, as it was given.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// What carries the connection.
    pub transport: TransportKind,
    /// Address of the controller, or of the discovery controller.
    pub traddr: Option<&'a str>,
    /// TCP port; 0: not given.
    pub trsvcid: u32,
    /// Subsystem.
    pub subnqn: Option<&'a str>,
    /// Namespace of files without a name of their own.
    pub nsid: u32,
    /// Who we are.
    pub hostnqn: Option<&'a str>,
    /// The UUID we are known by.
    pub hostid: Option<&'a str>,
    /// CRC32C of headers.
    pub header_digest: bool,
    /// CRC32C of data.
    pub data_digest: bool,
    /// Reads over TCP are received where they belong.
    pub place_data: bool,
    /// I/O queues.
    pub queues: u32,
    /// Commands outstanding on one of them; 0: as the job's `iodepth` needs.
    pub queue_depth: u32,
    /// How to wait.
    pub completion: Completion,
    /// Keep-alive time-out in seconds; 0: none.
    pub keep_alive_tmo: u32,
    /// Seconds to connect.
    pub connect_timeout: u32,
    /// Seconds for a command.
    pub command_timeout: u32,
    /// Ask the controller at `traddr` where the subsystem is.
    pub discovery: bool,
    /// Writes are Write Zeroes.
    pub write_zeroes: bool,
}

/// What a job's engine does.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// What carries the connection.
    pub transport: TransportKind,
    /// Address to connect to.
    pub traddr: String,
    /// Its port.
    pub trsvcid: u16,
    /// Subsystem; `None` takes the only one that discovery finds.
    pub subnqn: Option<Nqn>,
    /// Namespace of files without a name of their own.
    pub nsid: Nsid,
    /// Who we are.
    pub hostnqn: Nqn,
    /// The identifier we are known by.
    pub hostid: HostId,
    /// CRC32C of headers.
    pub header_digest: bool,
    /// CRC32C of data.
    pub data_digest: bool,
    /// Reads over TCP are received where they belong.
    pub place_data: bool,
    /// I/O queues, 1 to [`QUEUES_MAX`].
    pub queues: u16,
    /// Commands outstanding on one of them; `None`: as the job's `iodepth` needs.
    pub queue_depth: Option<u16>,
    /// How to wait.
    pub completion: Completion,
    /// Keep-alive time-out in milliseconds; 0: none.
    pub kato_ms: u32,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time for a command.
    pub command_timeout: Duration,
    /// Ask the controller at `traddr` where the subsystem is.
    pub discovery: bool,
    /// Writes are Write Zeroes.
    pub write_zeroes: bool,
}

/// What is wrong with what was given.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    /// An option without which nothing can be done.
    #[error("{name}= is missing: {purpose}")]
    Missing {
        /// Which.
        name: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
    /// A name that is no NQN.
    #[error("{name}={text}: {error}")]
    Nqn {
        /// Which option.
        name: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        error: NqnError,
    },
    /// An identifier that is no UUID.
    #[error("hostid={0} is not a UUID")]
    HostId(String),
    /// A number out of its range.
    #[error("{name}={value} is not between {least} and {most}")]
    Range {
        /// Which option.
        name: &'static str,
        /// What it says.
        value: u32,
        /// The least it may be.
        least: u32,
        /// The most.
        most: u32,
    },
    /// A file whose name is no namespace.
    #[error(
        "filename={0}: files are namespaces, named by their number; leave filename= out for the one of nsid="
    )]
    FileName(String),
    /// Several files without names.
    #[error("nrfiles={0} without filename=: say which namespaces they are, as in filename=1:2")]
    NamelessFiles(u32),
}

impl JobOptions {
    /// Checks what was given.
    ///
    /// # Errors
    /// [`OptionError`] with the option that is wrong.
    pub fn new(given: &Given<'_>) -> Result<Self, OptionError> {
        let traddr = present(given.traddr, "traddr", "the address of the target")?.to_owned();
        let subnqn = given.subnqn.map(|text| nqn("subnqn", text)).transpose()?;
        if subnqn.is_none() && !given.discovery {
            return Err(OptionError::Missing {
                name: "subnqn",
                purpose: "the subsystem to connect to (or discovery=1)",
            });
        }
        let (hostnqn, hostid) = identity(given)?;
        let default_port = if given.discovery { DISCOVERY_PORT } else { PORT };
        let queues_max = u32::try_from(QUEUES_MAX).unwrap_or(u32::MAX);
        Ok(Self {
            transport: given.transport,
            traddr,
            trsvcid: if given.trsvcid == 0 {
                default_port
            } else {
                ranged("trsvcid", given.trsvcid, 1, 65_535)?
            },
            subnqn,
            nsid: Nsid(given.nsid),
            hostnqn,
            hostid,
            header_digest: given.header_digest,
            data_digest: given.data_digest,
            place_data: given.place_data,
            queues: ranged("queues", given.queues, 1, queues_max)?,
            queue_depth: match given.queue_depth {
                0 => None,
                depth => Some(ranged("queue_depth", depth, 1, 65_534)?),
            },
            completion: given.completion,
            kato_ms: given.keep_alive_tmo.saturating_mul(1000),
            connect_timeout: Duration::from_secs(given.connect_timeout.max(1).into()),
            command_timeout: Duration::from_secs(given.command_timeout.max(1).into()),
            discovery: given.discovery,
            write_zeroes: given.write_zeroes,
        })
    }

    /// Commands outstanding on one queue for a job that keeps `iodepth` I/Os in flight.
    #[must_use]
    pub fn depth(&self, iodepth: u32) -> u16 {
        let needed = iodepth.div_ceil(u32::from(self.queues)).clamp(1, 65_534);
        self.queue_depth.unwrap_or(u16::try_from(needed).unwrap_or(u16::MAX - 1))
    }
}

/// The namespace that a file stands for: its name's when the job names its files, else that of the option.
///
/// # Errors
/// When the name is no number.
pub fn namespace_of(file_name: Option<&str>, nsid: Nsid) -> Result<Nsid, OptionError> {
    let Some(name) = file_name else { return Ok(nsid) };
    match name.parse() {
        Ok(number) if number > 0 => Ok(Nsid(number)),
        _ => Err(OptionError::FileName(name.to_owned())),
    }
}

fn present<'a>(
    text: Option<&'a str>,
    name: &'static str,
    purpose: &'static str,
) -> Result<&'a str, OptionError> {
    text.filter(|text| !text.is_empty()).ok_or(OptionError::Missing { name, purpose })
}

fn nqn(name: &'static str, text: &str) -> Result<Nqn, OptionError> {
    text.parse().map_err(|error| OptionError::Nqn { name, text: text.to_owned(), error })
}

fn ranged(name: &'static str, value: u32, least: u32, most: u32) -> Result<u16, OptionError> {
    let inside = (least..=most).contains(&value);
    u16::try_from(value).ok().filter(|_| inside).ok_or(OptionError::Range { name, value, least, most })
}

/// Who we are: what was given, completed from each other, or random.
fn identity(given: &Given<'_>) -> Result<(Nqn, HostId), OptionError> {
    let hostnqn = given.hostnqn.map(|text| nqn("hostnqn", text)).transpose()?;
    let named = hostnqn.as_ref().and_then(|nqn| nqn.as_str().strip_prefix(UUID_NQN_PREFIX)?.parse().ok());
    let id: Uuid = match given.hostid {
        Some(text) => text.parse().map_err(|_| OptionError::HostId(text.to_owned()))?,
        None => named.unwrap_or_else(Uuid::new_v4),
    };
    let id = id.into_bytes();
    Ok((hostnqn.unwrap_or_else(|| Nqn::from_uuid(id)), HostId(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBNQN: &str = "nqn.2025-01.org.pollux:with:colons";

    fn given() -> Given<'static> {
        Given {
            transport: TransportKind::Tcp,
            traddr: Some("127.0.0.1"),
            trsvcid: 0,
            subnqn: Some(SUBNQN),
            nsid: 1,
            hostnqn: None,
            hostid: None,
            header_digest: false,
            data_digest: false,
            place_data: false,
            queues: 1,
            queue_depth: 0,
            completion: Completion::Poll,
            keep_alive_tmo: 30,
            connect_timeout: 10,
            command_timeout: 30,
            discovery: false,
            write_zeroes: false,
        }
    }

    #[test]
    fn the_port_is_that_of_the_kind_of_controller_unless_it_is_given() {
        assert_eq!(JobOptions::new(&given()).unwrap().trsvcid, 4420);
        assert_eq!(JobOptions::new(&Given { discovery: true, ..given() }).unwrap().trsvcid, 8009);
        assert_eq!(JobOptions::new(&Given { trsvcid: 1, ..given() }).unwrap().trsvcid, 1);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = |given: Given<'_>| JobOptions::new(&given).unwrap_err().to_string();
        assert!(error(Given { traddr: None, ..given() }).starts_with("traddr= is missing"));
        assert!(error(Given { subnqn: None, ..given() }).starts_with("subnqn= is missing"));
        assert!(error(Given { subnqn: Some("x"), ..given() }).starts_with("subnqn=x: "));
        assert!(error(Given { hostid: Some("x"), ..given() }).starts_with("hostid=x "));
        assert!(error(Given { queues: 0, ..given() }).starts_with("queues=0 "));
        assert!(error(Given { trsvcid: 70_000, ..given() }).starts_with("trsvcid=70000 "));
        assert!(JobOptions::new(&Given { subnqn: None, discovery: true, ..given() }).is_ok());
    }

    #[test]
    fn a_uuid_in_the_host_name_is_the_host_identifier() {
        let name = format!("{UUID_NQN_PREFIX}2f8e4bd5-0c5a-4c43-9f0e-6a6a1f2f6a11");
        let options = JobOptions::new(&Given { hostnqn: Some(&name), ..given() }).unwrap();
        assert_eq!(Uuid::from_bytes(options.hostid.0).to_string(), name[UUID_NQN_PREFIX.len()..]);
        let fresh = JobOptions::new(&given()).unwrap();
        assert_eq!(fresh.hostnqn, Nqn::from_uuid(fresh.hostid.0));
    }

    #[test]
    fn the_depth_of_the_job_is_shared_by_its_queues() {
        let options = JobOptions::new(&Given { queues: 4, ..given() }).unwrap();
        assert_eq!((options.depth(32), options.depth(1), options.depth(33)), (8, 1, 9));
        let fixed = JobOptions::new(&Given { queue_depth: 3, ..given() }).unwrap();
        assert_eq!(fixed.depth(128), 3);
    }

    #[test]
    fn files_are_namespaces() {
        assert_eq!(namespace_of(None, Nsid(4)), Ok(Nsid(4)));
        assert_eq!(namespace_of(Some("2"), Nsid(4)), Ok(Nsid(2)));
        for name in ["0", "/dev/nvme0n1", "", "-1"] {
            assert_eq!(namespace_of(Some(name), Nsid(4)), Err(OptionError::FileName(name.to_owned())));
        }
    }
}
