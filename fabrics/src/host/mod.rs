//! The host's side above a transport: bringing a controller up, keeping it alive, reading discovery logs, giving up on
//! commands and connections. Pure state: what to send comes out, completions and the time go in.

mod abort;
mod bringup;
mod discovery;
mod io;
mod keep_alive;
mod reconnect;

pub use abort::{ABORTS_MAX, Aborts, Verdict};
pub use bringup::{Bringup, BringupError, BringupParams, Controller, Step, connect_io_queue};
pub use discovery::{DiscoveryError, DiscoveryReader, DiscoveryStep};
pub use io::{HostData, HostSink, SubmitError, SubmitRefusal};
pub use keep_alive::{KeepAliveStep, KeepAliveTimer};
pub use reconnect::{Reconnect, ReconnectPolicy, Retry};

use nvme::Sqe;

/// A command to send, with its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The command; identifier and data pointer are for the transport to fill in.
    pub sqe: Sqe,
    /// Its data.
    pub data: Payload,
}

/// Data of a [`Request`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// None.
    None,
    /// These bytes go to the controller.
    ToController(Vec<u8>),
    /// The controller sends this many bytes.
    FromController(usize),
}
