//! JSON-RPC 2.0 on a unix socket, with the method names, parameters, results and error codes of SPDK wherever the meaning
//! is the same, so that tools made for SPDK drive this target.
//!
//! Nothing here runs on a reactor. [`server`] frames and answers, [`table`] dispatches to [`methods`], which act on
//! [`Control`]: the devices, the target and the process.

mod control;
mod docs;
mod error;
mod framing;
mod linux;
mod methods;
mod notify;
mod request;
mod server;
mod socket;
mod table;

pub use control::Control;
pub use docs::reference;
pub use error::{RpcError, RpcResult};
pub use framing::REQUEST_BYTES_MAX;
pub use notify::{Notification, Notifications, Topic};
pub use server::{CLIENTS_MAX, STALL_MAX, serve};
pub use socket::{ControlSocket, SocketError};
pub use table::{Method, Methods, all as all_methods, check_call};
