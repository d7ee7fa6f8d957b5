//! What the two ends of an NVMe/RDMA connection tell each other while connecting: the private data of the connection
//! manager's messages (NVMe/RDMA transport 1.0 §3.2).

use crate::macros::layout;
use zerocopy::little_endian::U16;

layout! {
    /// Private data of a connection request.
    pub struct CmRequest: 32 {
        /// Record format; zero.
        0 => recfmt: U16,
        /// Queue identifier; zero is an admin queue.
        2 => qid: U16,
        /// Receives the host posts: responses that may be on their way.
        4 => hrqsize: U16,
        /// Sends the host has room for, 0's based: commands that may be on their way.
        6 => hsqsize: U16,
        /// Controller an I/O queue belongs to; zero from hosts that do not say.
        8 => cntlid: U16,
        #[doc(hidden)]
        10 => rsvd10: [u8; 22],
    }

    /// Private data of an accepted connection.
    pub struct CmAccept: 32 {
        /// Record format; zero.
        0 => recfmt: U16,
        /// Receives the controller posts: commands that may be on their way.
        2 => crqsize: U16,
        #[doc(hidden)]
        4 => rsvd4: [u8; 28],
    }

    /// Private data of a rejected connection.
    pub struct CmReject: 4 {
        /// Record format; zero.
        0 => recfmt: U16,
        /// [`CmStatus`].
        2 => sts: U16,
    }
}

/// Why a connection was rejected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CmStatus(pub u16);

impl CmStatus {
    /// The private data is too short.
    pub const INVALID_LENGTH: Self = Self(1);
    /// A record format other than zero.
    pub const INVALID_RECFMT: Self = Self(2);
    /// The queue identifier is out of range.
    pub const INVALID_QID: Self = Self(3);
    /// HSQSIZE is out of range.
    pub const INVALID_HSQSIZE: Self = Self(4);
    /// HRQSIZE is out of range.
    pub const INVALID_HRQSIZE: Self = Self(5);
    /// The controller has no resources for the queue.
    pub const NO_RESOURCES: Self = Self(6);
    /// The inbound RDMA read depth is out of range.
    pub const INVALID_IRD: Self = Self(7);
    /// The outbound RDMA read depth is out of range.
    pub const INVALID_ORD: Self = Self(8);
    /// The controller identifier is not one of this subsystem.
    pub const INVALID_CNTLID: Self = Self(9);

    /// The meaning, if the specification gives one.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::INVALID_LENGTH => "invalid private data length",
            Self::INVALID_RECFMT => "invalid record format",
            Self::INVALID_QID => "invalid queue identifier",
            Self::INVALID_HSQSIZE => "invalid host send queue size",
            Self::INVALID_HRQSIZE => "invalid host receive queue size",
            Self::NO_RESOURCES => "no resources",
            Self::INVALID_IRD => "invalid inbound read depth",
            Self::INVALID_ORD => "invalid outbound read depth",
            Self::INVALID_CNTLID => "invalid controller identifier",
            _ => return None,
        })
    }
}

impl std::fmt::Display for CmStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "status {:#06x}", self.0),
        }
    }
}

impl CmReject {
    /// The private data of a rejection for this reason.
    pub fn new(status: CmStatus) -> Self {
        Self { sts: U16::new(status.0), ..Self::default() }
    }

    /// Why.
    pub fn status(&self) -> CmStatus {
        CmStatus(self.sts.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn a_request_lies_as_the_linux_host_sends_it() {
        let request = CmRequest {
            qid: U16::new(1),
            hrqsize: U16::new(128),
            hsqsize: U16::new(127),
            cntlid: U16::new(2),
            ..CmRequest::default()
        };
        assert_eq!(request.as_bytes()[..10], [0, 0, 1, 0, 128, 0, 127, 0, 2, 0]);
        assert_eq!(request.as_bytes().len(), 32);
    }

    #[test]
    fn a_rejection_says_why() {
        assert_eq!(CmReject::new(CmStatus::NO_RESOURCES).as_bytes(), [0, 0, 6, 0]);
        assert_eq!(CmStatus::INVALID_QID.to_string(), "invalid queue identifier");
        assert_eq!(CmStatus(77).to_string(), "status 0x004d");
    }
}
