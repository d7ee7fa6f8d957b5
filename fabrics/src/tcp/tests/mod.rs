//! The two machines against each other, against hostile bytes, and against slow peers.

mod faults;
mod fused;
mod hostile;
mod pair;
mod pipe;
mod place;
mod timing;
