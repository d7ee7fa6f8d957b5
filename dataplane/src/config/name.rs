//! NVMe qualified names as the file writes them.

use std::fmt;

use nvme::Nqn;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::schema::{Described, Kind};

/// A qualified name that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NqnName(pub Nqn);

impl fmt::Display for NqnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Described for NqnName {
    const KIND: Kind = Kind::Text;
}

impl Serialize for NqnName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for NqnName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Nqn::new(&text).map(Self).map_err(|error| serde::de::Error::custom(format_args!("`{text}`: {error}")))
    }
}
