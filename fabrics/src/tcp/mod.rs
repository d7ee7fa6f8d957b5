//! NVMe/TCP (NVMe/TCP 1.0): one machine for each side of a connection, fed with bytes and time.

mod digest;
mod frame;
pub mod host;
pub mod target;
#[cfg(test)]
mod tests;
mod tx;

pub use tx::TX_PARTS_MAX;

use nvme::tcp::Fes;

/// Bytes waiting to be sent from which on a driver stops reading a connection, so that a peer that never reads holds
/// a bounded number of buffers. Twice the socket buffer that the driver asks for.
pub const TX_PENDING_MAX: usize = 4 << 20;

/// Most queue entries a connection serves at a time. A transfer tag is 12 bits of slot and 4 bits of R2T.
pub const SLOTS_MAX: u16 = 4096;

/// Most R2Ts outstanding for one command: what is left of a transfer tag after the slot.
pub const R2TS_MAX: u8 = 16;

/// State of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnState {
    /// ICReq and ICResp are not exchanged yet.
    Handshaking,
    /// Commands flow.
    Ready,
    /// A TermReq is queued: nothing more is read, what is pending is sent, then the connection closes.
    Terminating(CloseReason),
    /// Nothing is sent or read any more.
    Closed(CloseReason),
}

/// Why a connection ended, as its machine sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// We found a framing error and told the peer (NVMe/TCP 1.0 §3.6.2.4, §3.6.2.5).
    Fault(Fault),
    /// The peer sent a TermReq with this status and information.
    PeerTerminated(Fault),
    /// The handshake did not finish in time.
    HandshakeTimeout,
    /// A PDU began to arrive and did not finish in time.
    PduTimeout,
    /// The data that an R2T asked for did not arrive in time.
    DataTimeout,
    /// The peer cannot work with our parameters.
    Incompatible,
    /// The owner closed it: link lost, shutdown.
    Local,
}

/// A fatal error as a TermReq carries it (NVMe/TCP 1.0 §3.6.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Fatal error status.
    pub fes: Fes,
    /// Fatal error information: byte offset of the field in error, or the header digest received; else zero.
    pub fei: u32,
}

impl Fault {
    pub(crate) const fn field(offset: u32) -> Self {
        Self { fes: Fes::INVALID_PDU_HEADER_FIELD, fei: offset }
    }

    pub(crate) const fn of(fes: Fes) -> Self {
        Self { fes, fei: 0 }
    }
}

/// What a connection did so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ConnStats {
    /// Commands received (target) or sent (host).
    pub commands: u64,
    /// Bytes read, as far as they were consumed.
    pub bytes_in: u64,
    /// Bytes of data that were received where they belong (host); the others are copied there.
    pub bytes_placed: u64,
    /// Receives that brought something else than they were laid out for (host).
    pub guesses_wrong: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// R2Ts sent (target) or received (host).
    pub r2ts: u64,
    /// PDUs whose data digest was wrong.
    pub data_digest_errors: u64,
    /// Times that input waited for a slot, a buffer or room to answer.
    pub blocked: u64,
    /// Completions for commands that were gone.
    pub stale_completions: u64,
}

/// Whether a connection may go from one state to the other.
#[rustfmt::skip]
fn is_legal(from: &ConnState, to: &ConnState) -> bool {
    use ConnState::{Closed, Handshaking, Ready, Terminating};
    matches!((from, to),
        (Handshaking,    Ready)
      | (Handshaking,    Terminating(_))
      | (Handshaking,    Closed(_))
      | (Ready,          Terminating(_))
      | (Ready,          Closed(_))
      | (Terminating(_), Closed(_))
    )
}

impl ConnState {
    pub(crate) fn advance(&mut self, to: Self) {
        assert!(is_legal(self, &to), "illegal transition {self:?} to {to:?}");
        *self = to;
    }

    /// Whether bytes are still read.
    #[inline]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Handshaking | Self::Ready)
    }

    /// Why the connection ends, once it does.
    pub fn reason(&self) -> Option<CloseReason> {
        match *self {
            Self::Terminating(reason) | Self::Closed(reason) => Some(reason),
            _ => None,
        }
    }
}

#[cfg(test)]
mod table_tests {
    use super::*;

    #[test]
    fn a_connection_moves_only_as_its_table_says() {
        let states = [
            ConnState::Handshaking,
            ConnState::Ready,
            ConnState::Terminating(CloseReason::Local),
            ConnState::Closed(CloseReason::Local),
        ];
        let table: Vec<String> = states
            .iter()
            .map(|from| states.iter().map(|to| if is_legal(from, to) { 'x' } else { '.' }).collect())
            .collect();
        assert_eq!(table, [".xxx", "..xx", "...x", "...."]);
    }
}
