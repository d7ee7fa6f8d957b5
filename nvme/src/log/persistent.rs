//! Persistent event log (base 2.1 §5.1.12.1.14): a header, then events of variable length, the newest first.

use crate::macros::{codes, layout};
use crate::{Ascii, NulStr};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32, U64, U128};

codes! {
    /// What Get Log Page does with the context, its log specific parameter.
    pub struct PersistentEventAction(u8) {
        READ = 0 => "Read log data";
        ESTABLISH_AND_READ = 1 => "Establish context and read log data";
        RELEASE = 2 => "Release context";
        ESTABLISH_AND_READ_HEADER = 3 => "Establish context and read the header";
    }

    /// Type of a persistent event.
    pub struct PersistentEventType(u8) {
        SMART_SNAPSHOT = 0x01 => "SMART / Health Log Snapshot";
        FIRMWARE_COMMIT = 0x02 => "Firmware Commit";
        TIMESTAMP_CHANGE = 0x03 => "Timestamp Change";
        POWER_ON_OR_RESET = 0x04 => "Power-on or Reset";
        HARDWARE_ERROR = 0x05 => "NVM Subsystem Hardware Error";
        CHANGE_NAMESPACE = 0x06 => "Change Namespace";
        FORMAT_START = 0x07 => "Format NVM Start";
        FORMAT_COMPLETION = 0x08 => "Format NVM Completion";
        SANITIZE_START = 0x09 => "Sanitize Start";
        SANITIZE_COMPLETION = 0x0A => "Sanitize Completion";
        SET_FEATURE = 0x0B => "Set Feature";
        TELEMETRY_CREATED = 0x0C => "Telemetry Log Created";
        THERMAL_EXCURSION = 0x0D => "Thermal Excursion";
        SANITIZE_MEDIA_VERIFICATION = 0x0E => "Sanitize Media Verification";
        VENDOR = 0xDE => "Vendor Specific";
        TCG = 0xDF => "TCG Defined";
    }
}

layout! {
    /// Header of the persistent event log.
    pub struct PersistentEventHeader: 512 {
        /// Log page identifier, 0Dh.
        0 => lid: u8,
        #[doc(hidden)]
        1 => rsvd1: [u8; 3],
        /// Number of events.
        4 => tnev: U32,
        /// Length of the log in bytes, this header included.
        8 => tll: U64,
        /// Revision of the log.
        16 => revision: u8,
        #[doc(hidden)]
        17 => rsvd17: u8,
        /// Length of the rest of this header in bytes: header length less 20.
        18 => lhl: U16,
        /// Timestamp, as feature 0Eh gives it.
        20 => timestamp: U64,
        /// Hours of power.
        28 => power_on_hours: U128,
        /// Power cycles.
        44 => power_cycles: U64,
        /// PCI vendor.
        52 => vid: U16,
        /// PCI subsystem vendor.
        54 => ssvid: U16,
        /// Serial number.
        56 => sn: Ascii<20>,
        /// Model number.
        76 => mn: Ascii<40>,
        /// NVMe qualified name of the subsystem.
        116 => subnqn: NulStr<256>,
        /// Generation number: grows with every context.
        372 => generation: U16,
        /// Reporting context information.
        374 => rci: U32,
        #[doc(hidden)]
        378 => rsvd378: [u8; 102],
        /// Event types supported, as bits.
        480 => supported: [u8; 32],
    }

    /// Header of a persistent event; vendor information of `vsil` bytes and the event data follow.
    pub struct PersistentEvent: 24 {
        /// [`PersistentEventType`].
        0 => kind: u8,
        /// Revision of the event data.
        1 => revision: u8,
        /// Length of the rest of this header in bytes: header length less 3.
        2 => ehl: u8,
        /// Header additional information: port validity.
        3 => ehai: u8,
        /// Controller.
        4 => cntlid: U16,
        /// Timestamp, as feature 0Eh gives it.
        6 => timestamp: U64,
        /// Port.
        14 => port: U16,
        #[doc(hidden)]
        16 => rsvd16: [u8; 4],
        /// Length of the vendor information in bytes.
        20 => vsil: U16,
        /// Length of vendor information and event data in bytes.
        22 => el: U16,
    }
}

impl PersistentEvent {
    /// EHL of a header of this size.
    pub const EHL: u8 = 21;
}

/// The events of a log, behind its header; a truncated one ends it.
#[derive(Clone, Debug)]
pub struct PersistentEvents<'a> {
    left: u32,
    bytes: &'a [u8],
}

/// An event, its vendor information and its data.
#[derive(Clone, Copy, Debug)]
pub struct PersistentEventEntry<'a> {
    /// The header.
    pub event: &'a PersistentEvent,
    /// Vendor information.
    pub vendor: &'a [u8],
    /// Data of the event.
    pub data: &'a [u8],
}

impl<'a> PersistentEvents<'a> {
    /// Reads a log; `None` when it is shorter than a header.
    pub fn parse(log: &'a [u8]) -> Option<(&'a PersistentEventHeader, Self)> {
        let (header, bytes) = PersistentEventHeader::ref_from_prefix(log).ok()?;
        Some((header, Self { left: header.tnev.get(), bytes }))
    }
}

impl<'a> Iterator for PersistentEvents<'a> {
    type Item = PersistentEventEntry<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (event, _) = PersistentEvent::ref_from_prefix(self.bytes).ok()?;
        let (_, body) = self.bytes.split_at_checked(usize::from(event.ehl) + 3)?;
        let (body, rest) = body.split_at_checked(usize::from(event.el.get()))?;
        let (vendor, data) = body.split_at_checked(usize::from(event.vsil.get()))?;
        self.bytes = rest;
        Some(PersistentEventEntry { event, vendor, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn events_read_back_with_their_data() {
        let header = PersistentEventHeader { tnev: U32::new(2), ..PersistentEventHeader::default() };
        let event = |vendor: u16, length: u16| PersistentEvent {
            kind: PersistentEventType::TIMESTAMP_CHANGE.0,
            ehl: PersistentEvent::EHL,
            vsil: U16::new(vendor),
            el: U16::new(length),
            ..PersistentEvent::default()
        };
        let mut log = header.as_bytes().to_vec();
        log.extend_from_slice(event(1, 3).as_bytes());
        log.extend_from_slice(&[1, 2, 3]);
        log.extend_from_slice(event(2, 1).as_bytes());
        log.push(9);
        let (_, events) = PersistentEvents::parse(&log).unwrap();
        let events: Vec<_> = events.map(|e| (e.vendor.to_vec(), e.data.to_vec())).collect();
        assert_eq!(events, [(vec![1], vec![2, 3])]);
    }
}
