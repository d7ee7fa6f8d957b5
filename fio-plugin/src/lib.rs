//! fio's external ioengine over Pollux's NVMe over Fabrics host: `fio --ioengine=external:/path/libpollux_fio.so`.
//!
//! fio calls the engine through the structures of its own headers; `abi` is the only module that knows them, and the only
//! one with unsafe code. Everything else is safe and knows nothing of fio: a [`job::Job`] takes reads, writes, trims and
//! flushes of byte ranges, splits them into commands, spreads those over its queues, and reports each I/O once.
//!
//! Invariants
//! - Data moves between the socket and fio's own buffers, which lie in an arena of ours; nothing is copied in between.
//! - An I/O that was accepted ends exactly once, with an error when the connection is lost or a command takes too long.
//! - Nothing is allocated for an I/O.
#![deny(unsafe_code)]

pub mod abi;
pub mod buffer;
pub mod command;
pub mod errno;
pub mod job;
pub mod keeper;
pub mod options;
pub mod request;
pub mod session;
