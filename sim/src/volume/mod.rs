//! Runs real heads and replicas of a volume on nodes that crash, over links that fail, with clocks that drift, and checks what
//! hosts saw.
//!
//! One seed is one [`run`]. A world ([`world`]) has two or three nodes; each has a replica on a disk with a volatile cache,
//! and may be the head; replicas are added and removed all the time ([`roster`]), and the volume
//! grows ([`growth`]). A manager ([`manager`]) keeps the record that is changed only by compare-and-swap, and moves the
//! head about. Hosts read and write all the time, and [`history`] judges what they were told:
//! acknowledged blocks are linearizable, an acknowledged flush is never lost, no head acknowledges after a later one did.
//! In the end everything is healed: all commands end, all replicas are in sync and equal, and no region stays dirty.

mod clock;
mod disk;
mod faults;
mod growth;
mod history;
mod hosts;
mod judge;
mod manager;
mod node;
mod roster;
mod snapshots;
mod world;

pub use world::{Broken, Tally, run};
