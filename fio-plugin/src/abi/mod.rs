//! Where fio's structures and memory are touched: the only unsafe code of the crate.
#![allow(unsafe_code)]

#[cfg(fio_headers)]
mod bindings;
#[cfg(fio_headers)]
mod engine;
pub mod memory;
#[cfg(fio_headers)]
mod symbols;
#[cfg(fio_headers)]
mod table;
