//! The Asymmetric Namespace Access log page (base 2.1 §5.1.12.1.13), as one controller sees it: through its listener.

use std::collections::BTreeMap;

use nvme::log::{AnaGroup, AnaHeader, LSP_GROUPS_ONLY};
use nvme::zerocopy::IntoBytes;
use nvme::{U16, U32, U64};

use super::registry::Controller;
use super::view::SubsystemView;

/// The page: a descriptor of each group that has namespaces, with their identifiers unless only groups are asked for.
pub(super) fn log_page(controller: &Controller, sub: &SubsystemView, lsp: u8) -> Vec<u8> {
    let changes = U64::new(controller.listener.as_ref().map_or(0, |listener| listener.ana_changes()));
    let mut groups: BTreeMap<u32, Vec<U32>> = BTreeMap::new();
    for ns in sub.active() {
        groups.entry(ns.ana_group).or_default().push(U32::new(ns.nsid.get()));
    }
    let ngrps = U16::new(u16::try_from(groups.len()).unwrap_or(u16::MAX));
    let mut page = AnaHeader { chgcnt: changes, ngrps, ..AnaHeader::default() }.as_bytes().to_vec();
    for (group, mut nsids) in groups {
        if lsp & LSP_GROUPS_ONLY != 0 {
            nsids.clear();
        }
        let descriptor = AnaGroup {
            grpid: U32::new(group),
            nnsids: U32::new(u32::try_from(nsids.len()).unwrap_or(u32::MAX)),
            chgcnt: changes,
            state: controller.ana_bits(group),
            ..AnaGroup::default()
        };
        page.extend_from_slice(descriptor.as_bytes());
        page.extend_from_slice(nsids.as_bytes());
    }
    page
}
