//! Asymmetric namespace access log (base 2.1 §5.1.12.1.13) and its states (§8.1.1).

use crate::Nsid;
use crate::macros::{codes, layout};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32, U64};

codes! {
    /// State of the access to an ANA group through a controller (base 2.1 §8.1.1.4).
    pub struct AnaState(u8) {
        OPTIMIZED = 0x1 => "ANA Optimized";
        NON_OPTIMIZED = 0x2 => "ANA Non-Optimized";
        INACCESSIBLE = 0x3 => "ANA Inaccessible";
        PERSISTENT_LOSS = 0x4 => "ANA Persistent Loss";
        CHANGE = 0xF => "ANA Change";
    }
}

impl AnaState {
    /// Whether I/O commands succeed in this state.
    pub const fn is_accessible(self) -> bool {
        matches!(self, Self::OPTIMIZED | Self::NON_OPTIMIZED)
    }

    /// Status of commands refused because of this state; `None` where they are not.
    pub const fn refusal(self) -> Option<crate::Status> {
        match self {
            Self::INACCESSIBLE => Some(crate::Status::ASYMMETRIC_ACCESS_INACCESSIBLE),
            Self::PERSISTENT_LOSS => Some(crate::Status::ASYMMETRIC_ACCESS_PERSISTENT_LOSS),
            Self::CHANGE => Some(crate::Status::ASYMMETRIC_ACCESS_TRANSITION),
            _ => None,
        }
    }
}

layout! {
    /// Header of the ANA log; [`AnaGroup`] descriptors follow.
    pub struct AnaHeader: 16 {
        /// Change count: grows with every change of any group.
        0 => chgcnt: U64,
        /// Number of descriptors.
        8 => ngrps: U16,
        #[doc(hidden)]
        10 => rsvd10: [u8; 6],
    }

    /// ANA group descriptor; its namespace identifiers follow.
    pub struct AnaGroup: 32 {
        /// ANA group, not zero.
        0 => grpid: U32,
        /// Number of identifiers that follow; zero when only groups were asked for ([`LSP_GROUPS_ONLY`]).
        4 => nnsids: U32,
        /// Change count of the log when this group changed last.
        8 => chgcnt: U64,
        /// [`AnaState`] in bits 3:0.
        16 => state: u8,
        #[doc(hidden)]
        17 => rsvd17: [u8; 15],
    }
}

/// Log specific parameter: descriptors without namespace identifiers (RGO).
pub const LSP_GROUPS_ONLY: u8 = 0b1;

impl AnaGroup {
    /// State of the group.
    pub fn state(&self) -> AnaState {
        AnaState(self.state & 0xF)
    }
}

/// Bytes of an ANA log with this many groups and namespaces.
pub const fn ana_log_bytes(groups: usize, namespaces: usize) -> usize {
    AnaHeader::SIZE + groups * AnaGroup::SIZE + namespaces * 4
}

/// The descriptors of an ANA log, behind its header; stops at the count of the header or a truncated one.
#[derive(Clone, Debug)]
pub struct AnaGroups<'a> {
    left: u16,
    bytes: &'a [u8],
}

/// A descriptor of an ANA log and its namespace identifiers.
#[derive(Clone, Copy, Debug)]
pub struct AnaGroupEntry<'a> {
    /// The descriptor.
    pub group: &'a AnaGroup,
    /// Its namespaces, ascending.
    pub nsids: &'a [U32],
}

impl<'a> AnaGroups<'a> {
    /// Reads an ANA log; `None` when it is shorter than a header.
    pub fn parse(log: &'a [u8]) -> Option<(&'a AnaHeader, Self)> {
        let (header, bytes) = AnaHeader::ref_from_prefix(log).ok()?;
        Some((header, Self { left: header.ngrps.get(), bytes }))
    }
}

impl<'a> Iterator for AnaGroups<'a> {
    type Item = AnaGroupEntry<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (group, rest) = AnaGroup::ref_from_prefix(self.bytes).ok()?;
        let count = usize::try_from(group.nnsids.get()).ok()?;
        let (nsids, rest) = <[U32]>::ref_from_prefix_with_elems(rest, count).ok()?;
        self.bytes = rest;
        Some(AnaGroupEntry { group, nsids })
    }
}

impl AnaGroupEntry<'_> {
    /// Whether the group has this namespace.
    pub fn contains(&self, nsid: Nsid) -> bool {
        self.nsids.iter().any(|n| n.get() == nsid.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn log() -> Vec<u8> {
        let header = AnaHeader { chgcnt: U64::new(7), ngrps: U16::new(2), ..AnaHeader::default() };
        let group = |id: u32, n: u32, state: AnaState| AnaGroup {
            grpid: U32::new(id),
            nnsids: U32::new(n),
            state: state.0,
            ..AnaGroup::default()
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(group(1, 2, AnaState::OPTIMIZED).as_bytes());
        bytes.extend_from_slice([U32::new(1), U32::new(5)].as_bytes());
        bytes.extend_from_slice(group(2, 0, AnaState::CHANGE).as_bytes());
        bytes
    }

    #[test]
    fn groups_read_back_with_their_namespaces() {
        let bytes = log();
        assert_eq!(bytes.len(), ana_log_bytes(2, 2));
        let (header, groups) = AnaGroups::parse(&bytes).unwrap();
        assert_eq!(header.chgcnt.get(), 7);
        let groups: Vec<_> = groups.collect();
        assert!(groups[0].contains(Nsid(5)));
        assert!(!groups[0].contains(Nsid(2)));
        assert_eq!(groups[1].group.state(), AnaState::CHANGE);
        assert_eq!(groups.len(), 2);
    }

    #[test]
    fn a_truncated_group_ends_the_log() {
        let bytes = log();
        let (_, groups) = AnaGroups::parse(&bytes[..52]).unwrap();
        assert_eq!(groups.count(), 0);
        assert!(AnaGroups::parse(&bytes[..15]).is_none());
    }
}
