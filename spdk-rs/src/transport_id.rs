//! Where controllers are.

use std::fmt;

use crate::{PciAddress, sys};

/// Names a controller.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TransportId {
    /// On this machine.
    Pcie(PciAddress),
    /// Over NVMe/TCP, through SPDK's own host.
    Tcp {
        /// Address.
        address: std::net::SocketAddr,
        /// NQN of the subsystem.
        subsystem: String,
    },
}

impl From<PciAddress> for TransportId {
    fn from(address: PciAddress) -> Self {
        Self::Pcie(address)
    }
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcie(address) => address.fmt(f),
            Self::Tcp { address, subsystem } => write!(f, "tcp:{address}:{subsystem}"),
        }
    }
}

impl TransportId {
    pub(crate) fn raw(&self) -> sys::spdk_nvme_transport_id {
        let mut id = sys::spdk_nvme_transport_id::default();
        match self {
            Self::Pcie(address) => {
                id.trtype = sys::SPDK_NVME_TRANSPORT_PCIE;
                copy_text(&mut id.trstring, "PCIE");
                copy_text(&mut id.traddr, &address.to_string());
            }
            Self::Tcp { address, subsystem } => {
                id.trtype = sys::SPDK_NVME_TRANSPORT_TCP;
                id.adrfam =
                    if address.is_ipv4() { sys::SPDK_NVMF_ADRFAM_IPV4 } else { sys::SPDK_NVMF_ADRFAM_IPV6 };
                copy_text(&mut id.trstring, "TCP");
                copy_text(&mut id.traddr, &address.ip().to_string());
                copy_text(&mut id.trsvcid, &address.port().to_string());
                copy_text(&mut id.subnqn, subsystem);
            }
        }
        id
    }
}

/// Copies a text into a C array, cut so that its last byte stays zero.
pub(crate) fn copy_text(to: &mut [std::ffi::c_char], text: &str) {
    to.fill(0);
    let room = to.len().saturating_sub(1);
    for (to, from) in to.iter_mut().take(room).zip(text.bytes().take_while(|byte| *byte != 0)) {
        *to = from.cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_for_c_keep_their_final_zero() {
        let mut room = [1; 4];
        copy_text(&mut room, "abcdef");
        assert_eq!(room, [b'a', b'b', b'c', 0].map(u8::cast_signed));
    }
}
