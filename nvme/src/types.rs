//! Numbers with a meaning: identifiers that NVMe commands carry.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! number {
    ($( $(#[$meta:meta])* pub struct $name:ident($raw:ident); )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        #[repr(transparent)]
        pub struct $name(pub $raw);

        impl $name {
            /// The number itself.
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for $raw {
            fn from(number: $name) -> Self {
                number.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )* };
}

number! {
    /// Namespace identifier (base 2.1 §3.2.1). 0 is none, `FFFFFFFFh` is every namespace.
    pub struct Nsid(u32);
    /// Logical block address, in logical blocks of its namespace.
    pub struct Lba(u64);
    /// Queue identifier; 0 is the admin queue (base 2.1 §3.3).
    pub struct QueueId(u16);
    /// Controller identifier within an NVM subsystem (base 2.1 §3.1).
    pub struct ControllerId(u16);
}

impl Nsid {
    /// No namespace.
    pub const NONE: Self = Self(0);
    /// Every namespace: the broadcast value.
    pub const ALL: Self = Self(u32::MAX);
}

impl QueueId {
    /// The admin queue.
    pub const ADMIN: Self = Self(0);

    /// Whether this is the admin queue.
    pub const fn is_admin(self) -> bool {
        self.0 == 0
    }
}

impl ControllerId {
    /// In Connect data: the subsystem shall allocate any controller (dynamic model, base 2.1 §6.3).
    pub const DYNAMIC: Self = Self(0xFFFF);
    /// In Connect data: any controller with retained state may be given (static model, base 2.1 §6.3).
    pub const STATIC_ANY: Self = Self(0xFFFE);
    /// Highest identifier a controller can have; those above are reserved (base 2.1 §3.1).
    pub const MAX: Self = Self(0xFFEF);
}

/// Host identifier: 16 bytes that name a host across its controllers (base 2.1 §5.1.25.1.28).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct HostId(pub [u8; 16]);

impl HostId {
    /// The value zero, which is not a host identifier.
    pub const ZERO: Self = Self([0; 16]);

    /// Whether every byte is zero: no host identifier was given.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl From<[u8; 16]> for HostId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for HostId {
    /// Writes the form of a UUID, bytes in the order they have on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostId({self})")
    }
}

/// A host identifier that is not 32 hexadecimal digits, with or without the dashes of a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a host identifier is 32 hexadecimal digits, as a UUID")]
pub struct HostIdError;

impl core::str::FromStr for HostId {
    type Err = HostIdError;

    fn from_str(text: &str) -> Result<Self, HostIdError> {
        let mut nibbles = text.bytes().filter(|b| *b != b'-').map(|b| char::from(b).to_digit(16));
        let mut bytes = [0u8; 16];
        for byte in &mut bytes {
            let high = nibbles.next().flatten().ok_or(HostIdError)?;
            let low = nibbles.next().flatten().ok_or(HostIdError)?;
            *byte = u8::try_from(high << 4 | low).map_err(|_| HostIdError)?;
        }
        if nibbles.next().is_some() { Err(HostIdError) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_identifier_reads_back_what_it_writes() {
        let id = HostId(*b"0123456789abcdef");
        assert_eq!(id.to_string(), "30313233-3435-3637-3839-616263646566");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_host_identifier_has_exactly_32_digits() {
        assert_eq!("3031".parse::<HostId>(), Err(HostIdError));
        assert_eq!("30313233-3435-3637-3839-61626364656600".parse::<HostId>(), Err(HostIdError));
        assert_eq!("3031323x-3435-3637-3839-616263646566".parse::<HostId>(), Err(HostIdError));
    }
}
