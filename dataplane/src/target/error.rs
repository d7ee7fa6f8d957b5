//! Why a control call was refused. A refused call changed nothing.

use std::ops::RangeInclusive;

use nvme::{Nqn, Nsid};
use transport::TransportKind;

use super::options::ListenAddress;
use crate::device::DeviceError;

/// Why a control call was refused. A refused call changed nothing, [`ControlError::ReactorStalled`] excepted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum ControlError {
    #[error("transport {0:?} exists already")]
    TransportExists(TransportKind),
    #[error("there is no transport {0:?}; create it first")]
    NoSuchTransport(TransportKind),
    #[error("transport option {option} is {value}, allowed are {allowed:?}")]
    TransportOption { option: &'static str, value: u64, allowed: RangeInclusive<u64> },
    #[error("transport option {option} is {value}, which must be {rule}")]
    TransportOptionRule { option: &'static str, value: u64, rule: &'static str },
    #[error("subsystem {0} exists already")]
    SubsystemExists(Nqn),
    #[error("there is no subsystem {0}")]
    NoSuchSubsystem(Nqn),
    #[error("{operation} does not apply to the discovery subsystem")]
    DiscoverySubsystem { operation: &'static str },
    #[error("{what} has {len} characters, allowed are {allowed:?} printable ASCII characters")]
    Text { what: &'static str, len: usize, allowed: RangeInclusive<usize> },
    #[error("controller identifiers {min}–{max} are no range within 1–{}", 0xFFEF)]
    ControllerIdRange { min: u16, max: u16 },
    #[error("{what} is limited to {limit}")]
    TooMany { what: &'static str, limit: usize },
    #[error("NSID {nsid} is outside 1–{max}")]
    NsidOutOfRange { nsid: Nsid, max: u32 },
    #[error("subsystem {nqn} has a namespace {nsid} already")]
    NsidInUse { nqn: Nqn, nsid: Nsid },
    #[error("subsystem {nqn} has no namespace {nsid}")]
    NoSuchNamespace { nqn: Nqn, nsid: Nsid },
    #[error("device {device} is namespace {nsid} of {nqn} already")]
    DeviceInUse { device: String, nqn: Nqn, nsid: Nsid },
    #[error("namespace {nsid} of {nqn} has that {what} already")]
    IdentifierInUse { what: &'static str, nqn: Nqn, nsid: Nsid },
    #[error("{what} must not be all zeroes")]
    ZeroIdentifier { what: &'static str },
    #[error("ANA group {group} is outside 1–{max}")]
    AnaGroupOutOfRange { group: u32, max: u32 },
    #[error("subsystem {0} does not report ANA states")]
    AnaReportingOff(Nqn),
    #[error("subsystem {nqn} listens on {address} already")]
    ListenerExists { nqn: Nqn, address: ListenAddress },
    #[error("subsystem {nqn} does not listen on {address}")]
    NoSuchListener { nqn: Nqn, address: ListenAddress },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: ListenAddress, source: std::io::Error },
    #[error("host {host} is on the allow-list of {nqn} already")]
    HostExists { nqn: Nqn, host: Nqn },
    #[error("host {host} is not on the allow-list of {nqn}")]
    NoSuchHost { nqn: Nqn, host: Nqn },
    #[error("there is a referral to {0} already")]
    ReferralExists(ListenAddress),
    #[error("there is no referral to {0}")]
    NoSuchReferral(ListenAddress),
    #[error("device {device} does not open on reactor {reactor}: {source}")]
    OpenDevice { device: String, reactor: usize, source: DeviceError },
    #[error("reactor {reactor} did not acknowledge within {waited_ms} ms")]
    ReactorStalled { reactor: usize, waited_ms: u64 },
}
