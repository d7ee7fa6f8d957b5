//! What the simulator does not reach: decoders under hostile bytes, damage at rest, refusals.

mod damage;
mod decode;
mod direct;
mod features;
mod grow;
mod models;
mod rig;
mod upgrade;
