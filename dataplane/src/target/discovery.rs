//! The Discovery log page (base 2.1 §5.1.12.3.1): what one host may connect to, and where.

use nvme::discovery::{
    DiscoveryEntry, DiscoveryHeader, RdmaProvider, SubsystemType, TcpSecurity, eflags, lsp, treq,
};
use nvme::zerocopy::IntoBytes;
use nvme::{Nqn, U16, U32, U64};
use transport::TransportKind;

use super::options::{ListenAddress, SubsystemKind};
use super::registry::Controller;
use super::view::{Listener, SubsystemView, TargetView};

/// The page for the host of a discovery controller: the discovery service itself, then subsystems, then referrals.
pub(super) fn log_page(view: &TargetView, controller: &Controller, parameter: u8) -> Vec<u8> {
    let host = &controller.host.nqn;
    let local = controller.local_ip();
    let port_local = parameter & lsp::PORT_LOCAL != 0;
    let here = |listener: &Listener| {
        listener.is_listening() && (!port_local || listener.address == controller.address)
    };
    let mut entries = Vec::new();
    for sub in view.subsystems.iter().flatten().filter(|sub| visible(sub, host)) {
        for listener in sub.listeners.iter().filter(|listener| here(listener)) {
            let subtype = match sub.kind {
                SubsystemKind::Nvm => SubsystemType::NVM,
                SubsystemKind::Discovery => SubsystemType::CURRENT_DISCOVERY,
            };
            let address = listener.address_for(local);
            let asqsz = admin_queue_entries(view, address.transport);
            entries.push(entry(subtype, &sub.options.nqn, address, listener.port, asqsz));
        }
    }
    for referral in view.referrals.iter().filter(|_| !port_local) {
        let asqsz = admin_queue_entries(view, referral.address.transport);
        let mut record = entry(SubsystemType::REFERRAL, &referral.nqn, referral.address, 0, asqsz);
        if referral.secure_channel {
            record.treq = record.treq & !treq::SECURE_CHANNEL_MASK | treq::SECURE_CHANNEL_REQUIRED;
        }
        entries.push(record);
    }
    let length = DiscoveryHeader::SIZE + entries.len() * DiscoveryEntry::SIZE;
    let header = DiscoveryHeader {
        genctr: U64::new(view.discovery_generation),
        numrec: U64::new(entries.len() as u64),
        dlpf: parameter & lsp::PORT_LOCAL,
        tdlpl: U32::new(u32::try_from(length).unwrap_or(u32::MAX)),
        ..DiscoveryHeader::default()
    };
    [header.as_bytes(), entries.as_bytes()].concat()
}

fn visible(sub: &SubsystemView, host: &Nqn) -> bool {
    !sub.options.hidden && sub.allows(host)
}

fn admin_queue_entries(view: &TargetView, transport: TransportKind) -> u16 {
    let max = view.transport(transport).map_or(128, |transport| transport.options.admin_queue_depth_max);
    u16::try_from(max).unwrap_or(u16::MAX)
}

fn entry(subtype: SubsystemType, nqn: &Nqn, address: ListenAddress, port: u16, asqsz: u16) -> DiscoveryEntry {
    let mut entry = match address.transport {
        TransportKind::Tcp => DiscoveryEntry::tcp(subtype, nqn, address.socket, TcpSecurity::NONE),
        TransportKind::Rdma => DiscoveryEntry::rdma(subtype, nqn, address.socket, RdmaProvider::NONE),
    };
    entry.treq = treq::SECURE_CHANNEL_NOT_REQUIRED | treq::SQ_FLOW_CONTROL_DISABLE;
    entry.portid = U16::new(port);
    entry.asqsz = U16::new(asqsz);
    if subtype == SubsystemType::CURRENT_DISCOVERY {
        entry.eflags = U16::new(eflags::DUPLICATE_RETURNED | eflags::PERSISTENT_CONNECTION);
    }
    entry
}
