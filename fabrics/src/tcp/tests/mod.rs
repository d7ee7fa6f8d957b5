//! The two machines against each other, against hostile bytes, and against slow peers.

mod pair;
mod pipe;
