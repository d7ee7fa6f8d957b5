//! The target driven by real commands through its service, on memory devices, without sockets. Several reactors live in
//! the test's thread and turn by hand; control calls run beside them.

mod admin;
mod associations;
mod control;
mod discovery;
mod events;
mod fused;
mod io;
mod lab;
mod multi_reactor;
mod real_reactors;
mod reservations;
