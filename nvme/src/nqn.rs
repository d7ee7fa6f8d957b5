//! NVMe qualified names (base 2.1 §4.7).

use arrayvec::ArrayString;
use core::fmt;
use core::str::FromStr;

/// Well-known name of every discovery subsystem (base 2.1 §3.1.3.3).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Longest name in bytes, without its terminating NUL (base 2.1 §4.7).
pub const NQN_BYTES_MAX: usize = 223;

/// Longest label of a domain name (RFC 1034 §3.1).
const LABEL_BYTES_MAX: usize = 63;

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// A valid NVMe qualified name, stored inline.
///
/// It is the discovery name, `nqn.2014-08.org.nvmexpress:uuid:UUID`, or `nqn.YYYY-MM.DOMAIN:NAME` with the
/// reversed domain of the naming authority and a name of its choice without control characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(ArrayString<NQN_BYTES_MAX>);

/// Why text is not an NVMe qualified name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NqnError {
    /// Longer than [`NQN_BYTES_MAX`].
    #[error("a qualified name has at most {NQN_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// Length in bytes.
        bytes: usize,
    },
    /// No NUL within the field.
    #[error("the qualified name is not terminated within its field")]
    NotTerminated,
    /// Not UTF-8.
    #[error("a qualified name is UTF-8")]
    NotUtf8,
    /// Does not start with `nqn.`.
    #[error("a qualified name starts with \"nqn.\"")]
    Prefix,
    /// No `YYYY-MM.` after the prefix.
    #[error("\"nqn.\" is followed by a date as YYYY-MM and a dot")]
    Date,
    /// The reversed domain is empty or has a label that is not one of a domain name.
    #[error("the date is followed by a reversed domain name and a colon")]
    Domain,
    /// Nothing after the colon, or a control character.
    #[error("the colon is followed by a name without control characters")]
    Name,
    /// The UUID form with something else than a UUID.
    #[error("\"{UUID_PREFIX}\" is followed by a UUID")]
    Uuid,
}

impl Nqn {
    /// Checks and keeps `text`.
    pub fn new(text: &str) -> Result<Self, NqnError> {
        let stored = ArrayString::from(text).map_err(|_| NqnError::TooLong { bytes: text.len() })?;
        check(text)?;
        Ok(Self(stored))
    }

    /// The well-known discovery name.
    pub fn discovery() -> Self {
        let mut name = ArrayString::new();
        name.push_str(DISCOVERY_NQN);
        Self(name)
    }

    /// Checks and keeps bytes from the wire, without their NUL.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NqnError> {
        Self::new(core::str::from_utf8(bytes).map_err(|_| NqnError::NotUtf8)?)
    }

    /// The name of the form that carries a UUID, given as its 16 bytes.
    pub fn from_uuid(uuid: [u8; 16]) -> Self {
        let mut name = ArrayString::new();
        let written = fmt::Write::write_fmt(&mut name, format_args!("{UUID_PREFIX}{}", crate::HostId(uuid)));
        debug_assert!(written.is_ok());
        Self(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the well-known discovery name.
    pub fn is_discovery(&self) -> bool {
        self.as_str() == DISCOVERY_NQN
    }
}

fn check(text: &str) -> Result<(), NqnError> {
    if text == DISCOVERY_NQN {
        return Ok(());
    }
    if let Some(uuid) = text.strip_prefix(UUID_PREFIX) {
        return if is_uuid(uuid) { Ok(()) } else { Err(NqnError::Uuid) };
    }
    let after_prefix = text.strip_prefix("nqn.").ok_or(NqnError::Prefix)?;
    let (date, after_date) = after_prefix.split_once('.').ok_or(NqnError::Date)?;
    if !is_year_month(date) {
        return Err(NqnError::Date);
    }
    let (domain, name) = after_date.split_once(':').ok_or(NqnError::Domain)?;
    if !domain.split('.').all(is_label) {
        return Err(NqnError::Domain);
    }
    if name.is_empty() || name.chars().any(char::is_control) { Err(NqnError::Name) } else { Ok(()) }
}

fn is_year_month(date: &str) -> bool {
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    match date.split_once('-') {
        Some((year, month)) => {
            year.len() == 4
                && digits(year)
                && month.len() == 2
                && digits(month)
                && ("01"..="12").contains(&month)
        }
        None => false,
    }
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= LABEL_BYTES_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(text: &str) -> Result<Self, NqnError> {
        Self::new(text)
    }
}

impl AsRef<str> for Nqn {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nqn({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_real_systems_use_are_valid() {
        for name in [
            DISCOVERY_NQN,
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2014-08.org.nvmexpress:NVMf:uuid:7a3ab0e1",
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2019-10.com.example-host.lab4:sub:1",
        ] {
            assert_eq!(Nqn::new(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn every_rule_refuses_what_breaks_it() {
        let long = format!("nqn.2016-06.io.spdk:{}", "x".repeat(204));
        let label = format!("nqn.2016-06.{}:x", "a".repeat(64));
        for (name, why) in [
            ("", NqnError::Prefix),
            ("iqn.2016-06.io.spdk:x", NqnError::Prefix),
            ("nqn.", NqnError::Date),
            ("nqn.2016-6.io.spdk:x", NqnError::Date),
            ("nqn.2016-13.io.spdk:x", NqnError::Date),
            ("nqn.2016-00.io.spdk:x", NqnError::Date),
            ("nqn.2016-06.io.spdk", NqnError::Domain),
            ("nqn.2016-06.:x", NqnError::Domain),
            ("nqn.2016-06.io..spdk:x", NqnError::Domain),
            ("nqn.2016-06.io.-spdk:x", NqnError::Domain),
            (&label, NqnError::Domain),
            ("nqn.2016-06.io.spdk:", NqnError::Name),
            ("nqn.2016-06.io.spdk:a\nb", NqnError::Name),
            ("nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf", NqnError::Uuid),
            ("nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bfx", NqnError::Uuid),
            (&long, NqnError::TooLong { bytes: 224 }),
        ] {
            assert_eq!(Nqn::new(name), Err(why), "{name}");
        }
        assert!(Nqn::new(&long[..223]).is_ok());
    }

    #[test]
    fn a_uuid_becomes_a_valid_name() {
        let name = Nqn::from_uuid([0xAB; 16]);
        assert_eq!(Nqn::new(name.as_str()), Ok(name));
    }
}
