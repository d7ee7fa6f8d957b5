//! Configuration: the TOML file, its schema and its checks.
//!
//! A file is read in three steps: names and types ([`Config::load`]), then the method calls it stands for
//! ([`Config::calls`]), which the daemon makes as a client would. So a file can say nothing that RPC cannot, and both are
//! checked by the same code.

mod calls;
mod docs;
mod load;
mod name;
pub mod schema;
mod size;
mod types;

pub use calls::{Call, Contradiction};
pub use docs::reference;
pub use load::ConfigError;
pub use name::NqnName;
pub use size::{BadSize, ByteSize};
pub use types::*;
