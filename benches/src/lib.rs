//! What the benchmarks, the allocation proof and the measuring programs share.
//!
//! - [`client`]: a host of a target in another process.
//! - [`machines`]: a host and a target machine joined by memory: the protocol without sockets or a device.
//! - [`loopback`]: a whole target and a host over real sockets, in one thread, turned in lockstep.
//! - [`store`](mod@store): the store's machine on a device that finishes at once.
#![forbid(unsafe_code)]

pub mod client;
pub mod loopback;
pub mod machines;
pub mod store;

/// Bytes of the I/O that nearly every figure is about.
pub const IO_BYTES: usize = 4096;
