//! What the owner of a host connection and its machine say to each other, over any transport.

use nvme::Cqe;

/// Data of a command, with its direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostData<B> {
    /// No data.
    None,
    /// The host sends all of it.
    ToController(B),
    /// The controller fills all of it.
    FromController(B),
}

impl<B> HostData<B> {
    /// The buffer, whichever way it went.
    #[inline]
    pub fn into_buffer(self) -> Option<B> {
        match self {
            Self::None => None,
            Self::ToController(buffer) | Self::FromController(buffer) => Some(buffer),
        }
    }
}

/// Why a command was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitRefusal {
    /// The handshake is not over.
    #[error("the connection is not ready yet")]
    NotReady,
    /// As many commands are outstanding as the queue has room for.
    #[error("the queue is full")]
    QueueFull,
    /// Too much waits to be sent.
    #[error("the connection does not keep up with sending")]
    Busy,
    /// The connection ends or has ended.
    #[error("the connection is closed")]
    Closed,
    /// The data is longer than a command can say, or lies where the controller cannot reach it.
    #[error("no command can carry the data")]
    TooLong,
}

/// A command that was not accepted, with its data.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SubmitError<B> {
    /// Why.
    pub reason: SubmitRefusal,
    /// The data, untouched.
    pub data: HostData<B>,
}

/// Hears how commands end. `tag` is the one that the command was submitted with.
pub trait HostSink<B> {
    /// The controller completed the command. `data` is its buffer, whichever way the data went. Data whose digest was
    /// wrong shows as Transient Transport Error, success without all the data as Data Transfer Error.
    fn completed(&mut self, tag: u64, cqe: Cqe, data: Option<B>);

    /// The connection ended before the command completed: whether it took effect is unknown.
    fn failed(&mut self, tag: u64, data: Option<B>);

    /// The command takes too long. It is still outstanding: the owner may abort it by its identifier, or close the
    /// connection. Said once per command.
    fn timed_out(&mut self, tag: u64, cid: u16);
}
