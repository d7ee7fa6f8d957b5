//! Where PCI devices are. The only part of the crate that needs no SPDK.

use std::fmt;
use std::str::FromStr;

/// `DOMAIN:BUS:DEVICE.FUNCTION` of a PCI device; `BUS:DEVICE.FUNCTION` means domain 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciAddress {
    /// Domain (segment).
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

/// A text is no PCI address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no PCI address, such as 0000:01:00.0")]
pub struct BadAddress(String);

impl FromStr for PciAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        parse(text).ok_or_else(|| BadAddress(text.into()))
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (place, function) = text.rsplit_once('.')?;
    let mut parts = place.rsplit(':');
    let (device, bus) = (parts.next()?, parts.next()?);
    let domain = parts.next().unwrap_or("0");
    let hex = |text: &str, max: u32| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u32::from_str_radix(text, 16).ok()).flatten().filter(|value| *value <= max)
    };
    let byte = |text, max| hex(text, max).and_then(|value| u8::try_from(value).ok());
    let address = PciAddress {
        domain: hex(domain, 0xffff_ffff)?,
        bus: byte(bus, 0xff)?,
        device: byte(device, 0x1f)?,
        function: byte(function, 7)?,
    };
    parts.next().is_none().then_some(address)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["0000:01:00.0", "10000:e1:1f.7"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
        }
        assert_eq!("3b:00.1".parse::<PciAddress>().unwrap().to_string(), "0000:3b:00.1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "01:00", "0000:01:20.0", "0000:01:00.8", "+1:00:00.0", "0:0:0:0.0", "0000:100:00.0"]
        {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }
}
