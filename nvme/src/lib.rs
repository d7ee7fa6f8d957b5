//! Wire formats of NVMe, NVMe over Fabrics and NVMe/TCP. Formats only: no I/O, no state, no allocation.
//!
//! Structures are views (`zerocopy`): alignment one, little-endian fields, every offset and size proven by
//! the compiler. Read one in place with `T::ref_from_bytes`, `T::ref_from_prefix`, write it with `as_bytes`.
//! Commands come twice: as the 64 bytes of an [`Sqe`], and by meaning (`nvm::ReadWrite::from(&sqe)`,
//! `read.to_sqe(cid)`). Reserved fields are public but hidden so that `..T::default()` works anywhere.
//!
//! Sections are those of NVM Express base specification 2.1, NVM command set 1.1, NVMe/TCP transport 1.0 and NVMe/RDMA transport 1.0.
#![forbid(unsafe_code)]

pub mod admin;
pub mod auth;
mod cqe;
pub mod discovery;
mod dwords;
pub mod event;
pub mod fabrics;
pub mod features;
pub mod identify;
pub mod log;
mod macros;
mod nqn;
pub mod nvm;
pub mod opcode;
pub mod properties;
pub mod rdma;
mod sgl;
mod sqe;
mod status;
pub mod tcp;
mod text;
mod types;

pub use cqe::Cqe;
pub use nqn::{DISCOVERY_NQN, NQN_BYTES_MAX, Nqn, NqnError};
pub use opcode::Direction;
pub use sgl::{KEYED_LENGTH_MAX, Sgl, SglDescriptor, SglTypeError};
pub use sqe::{Fuse, Psdt, Sqe};
pub use status::{Status, StatusCodeType};
pub use text::{Ascii, NulStr, TextError};
pub use types::{ControllerId, HostId, HostIdError, Lba, Nsid, QueueId};
pub use zerocopy;
pub use zerocopy::little_endian::{U16, U32, U64, U128};
