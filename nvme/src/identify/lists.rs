//! Identify lists: namespaces, controllers, identification descriptors, command sets, UUIDs.

use crate::macros::{codes, layout};
use crate::{ControllerId, Nsid};
use arrayvec::ArrayVec;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Namespace identifiers in one list of 4,096 bytes.
pub const NSID_LIST_MAX: usize = 1024;
/// Controller identifiers in one list of 4,096 bytes.
pub const CONTROLLER_LIST_MAX: usize = 2047;

layout! {
    /// Namespace List (base 2.1 §4.6.2): active (CNS 02h, 07h), allocated (10h, 1Ah), changed (log page 04h).
    pub struct NsidList: 4096 {
        /// Identifiers, ascending; the first zero ends the list.
        0 => nsids: [U32; 1024],
    }

    /// Controller List (base 2.1 §4.6.1): CNS 12h and 13h, Namespace Attachment.
    pub struct ControllerList: 4096 {
        /// Number of identifiers.
        0 => number: U16,
        /// Identifiers, ascending.
        2 => cntlids: [U16; 2047],
    }

    /// Header of a Namespace Identification Descriptor (base 2.1 §5.1.13.2.3); the identifier follows.
    pub struct DescriptorHeader: 4 {
        /// Type: [`IdentifierType`].
        0 => nidt: u8,
        /// Length of the identifier in bytes; zero ends the list.
        1 => nidl: u8,
        #[doc(hidden)]
        2 => rsvd2: [u8; 2],
    }

    /// I/O Command Set data structure, CNS 1Ch (base 2.1 §5.1.13.2.19).
    pub struct CommandSets: 4096 {
        /// Combinations of command sets, one bit each ([`super::Csi`]); the index goes to CC or feature 19h.
        0 => combinations: [U64; 512],
    }

    /// UUID List entry (base 2.1 §5.1.13.2.14).
    pub struct UuidEntry: 32 {
        /// Bits 1:0: 1 when the UUID is the PCI vendor's, 2 the subsystem vendor's.
        0 => header: u8,
        #[doc(hidden)]
        1 => rsvd1: [u8; 15],
        /// UUID, big-endian; zero ends the list.
        16 => uuid: [u8; 16],
    }

    /// UUID List, CNS 17h (base 2.1 §5.1.13.2.14).
    pub struct UuidList: 4096 {
        #[doc(hidden)]
        0 => rsvd0: [u8; 32],
        /// Entries; UUID index 1 is the first.
        32 => entries: [UuidEntry; 127],
    }

    /// Endurance Group List, CNS 19h (base 2.1 §5.1.13.2.16).
    pub struct EnduranceGroupList: 4096 {
        /// Number of identifiers.
        0 => number: U16,
        /// Identifiers, ascending.
        2 => endgids: [U16; 2047],
    }
}

codes! {
    /// Type of a namespace identifier (base 2.1 §5.1.13.2.3).
    pub struct IdentifierType(u8) {
        EUI64 = 1 => "IEEE Extended Unique Identifier";
        NGUID = 2 => "Namespace Globally Unique Identifier";
        UUID = 3 => "Namespace UUID";
        CSI = 4 => "Command Set Identifier";
    }
}

impl NsidList {
    /// The list of those identifiers above `after` that fit; `nsids` ascend.
    pub fn above(after: Nsid, nsids: impl IntoIterator<Item = Nsid>) -> Self {
        let mut list = Self::default();
        let mut above = nsids.into_iter().filter(|n| n.0 > after.0);
        for (slot, nsid) in list.nsids.iter_mut().zip(&mut above) {
            *slot = U32::new(nsid.0);
        }
        list
    }

    /// The identifiers before the first zero.
    pub fn iter(&self) -> impl Iterator<Item = Nsid> + '_ {
        self.nsids.iter().map(|n| Nsid(n.get())).take_while(|n| n.0 != 0)
    }
}

impl ControllerList {
    /// The list of those controllers from `first` on that fit; `cntlids` ascend.
    pub fn from(first: ControllerId, cntlids: impl IntoIterator<Item = ControllerId>) -> Self {
        let mut list = Self::default();
        let mut number = 0u16;
        let mut rest = cntlids.into_iter().filter(|c| *c >= first);
        for (slot, cntlid) in list.cntlids.iter_mut().zip(&mut rest) {
            *slot = U16::new(cntlid.0);
            number += 1;
        }
        list.number = U16::new(number);
        list
    }

    /// The controllers listed; a number beyond the list counts as a full one.
    pub fn iter(&self) -> impl Iterator<Item = ControllerId> + '_ {
        self.cntlids.iter().take(usize::from(self.number.get())).map(|c| ControllerId(c.get()))
    }
}

impl CommandSets {
    /// One combination that has only the NVM command set.
    pub fn nvm() -> Self {
        let mut sets = Self::default();
        sets.combinations[0] = U64::new(1);
        sets
    }
}

/// A namespace identifier of the descriptor list, CNS 03h (base 2.1 §5.1.13.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NamespaceIdentifier {
    /// IEEE extended unique identifier, big-endian.
    Eui64([u8; 8]),
    /// Globally unique identifier, big-endian.
    Nguid([u8; 16]),
    /// UUID, big-endian.
    Uuid([u8; 16]),
    /// Command set.
    Csi(super::Csi),
}

impl NamespaceIdentifier {
    fn parts(&self) -> (IdentifierType, &[u8]) {
        match self {
            Self::Eui64(id) => (IdentifierType::EUI64, id),
            Self::Nguid(id) => (IdentifierType::NGUID, id),
            Self::Uuid(id) => (IdentifierType::UUID, id),
            Self::Csi(csi) => (IdentifierType::CSI, core::slice::from_ref(&csi.0)),
        }
    }

    fn from_parts(kind: u8, id: &[u8]) -> Option<Self> {
        match IdentifierType(kind) {
            IdentifierType::EUI64 => id.try_into().ok().map(Self::Eui64),
            IdentifierType::NGUID => id.try_into().ok().map(Self::Nguid),
            IdentifierType::UUID => id.try_into().ok().map(Self::Uuid),
            IdentifierType::CSI => match id {
                [csi] => Some(Self::Csi(super::Csi(*csi))),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Most descriptors a list has: one of each type.
pub const DESCRIPTORS_MAX: usize = 4;

/// Writes a descriptor list of 4,096 bytes; at most [`DESCRIPTORS_MAX`] identifiers, so that it always fits.
pub fn encode_descriptors(
    ids: &ArrayVec<NamespaceIdentifier, DESCRIPTORS_MAX>,
) -> [u8; super::IDENTIFY_BYTES] {
    let mut list = [0; super::IDENTIFY_BYTES];
    let mut at = 0;
    for id in ids {
        let (kind, bytes) = id.parts();
        let nidl = u8::try_from(bytes.len()).unwrap_or(0);
        let header = DescriptorHeader { nidt: kind.0, nidl, ..DescriptorHeader::default() };
        list[at..at + 4].copy_from_slice(header.as_bytes());
        list[at + 4..at + 4 + bytes.len()].copy_from_slice(bytes);
        at += 4 + bytes.len();
    }
    list
}

/// Reads a descriptor list; unknown types and wrong lengths are skipped, a truncated one ends the list.
pub fn decode_descriptors(mut list: &[u8]) -> ArrayVec<NamespaceIdentifier, DESCRIPTORS_MAX> {
    let mut ids = ArrayVec::new();
    while let [kind, length, _, _, rest @ ..] = list {
        if *length == 0 {
            break;
        }
        let Some((id, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        if let Some(id) = NamespaceIdentifier::from_parts(*kind, id)
            && ids.try_push(id).is_err()
        {
            break;
        }
        list = rest;
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::Csi;

    #[test]
    fn a_namespace_list_starts_above_and_stops_when_full() {
        let list = NsidList::above(Nsid(2), (1..5000).map(Nsid));
        assert_eq!(list.nsids[0].get(), 3);
        assert_eq!(list.iter().count(), NSID_LIST_MAX);
        assert_eq!(NsidList::above(Nsid(0), [Nsid(7)]).iter().collect::<Vec<_>>(), [Nsid(7)]);
    }

    #[test]
    fn a_controller_list_starts_at_the_first_and_counts() {
        let list = ControllerList::from(ControllerId(2), (1..=3).map(ControllerId));
        assert_eq!(list.iter().collect::<Vec<_>>(), [ControllerId(2), ControllerId(3)]);
        assert_eq!(ControllerList::from(ControllerId(0), (0..9999).map(ControllerId)).number.get(), 2047);
        let hostile = ControllerList { number: U16::new(u16::MAX), ..ControllerList::default() };
        assert_eq!(hostile.iter().count(), CONTROLLER_LIST_MAX);
    }

    #[test]
    fn descriptors_lie_back_to_back_behind_their_headers() {
        let ids = ArrayVec::from_iter([
            NamespaceIdentifier::Uuid([0xAA; 16]),
            NamespaceIdentifier::Csi(Csi::NVM),
            NamespaceIdentifier::Eui64([1, 2, 3, 4, 5, 6, 7, 8]),
        ]);
        let list = encode_descriptors(&ids);
        assert_eq!(list[..4], [3, 16, 0, 0]);
        assert_eq!(list[20..25], [4, 1, 0, 0, 0]);
        assert_eq!(list[25..29], [1, 8, 0, 0]);
        assert_eq!(list[37], 0);
        assert_eq!(decode_descriptors(&list), ids);
    }

    #[test]
    fn a_truncated_descriptor_ends_the_list() {
        assert!(decode_descriptors(&[3, 16, 0, 0, 1]).is_empty());
        assert!(decode_descriptors(&[3, 4, 0, 0, 1, 2, 3, 4]).is_empty());
        assert_eq!(decode_descriptors(&[9, 1, 0, 0, 5, 4, 1, 0, 0, 0]).len(), 1);
    }
}
