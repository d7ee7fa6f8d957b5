//! Records of the discovery log.

use super::{AddressFamily, RdmaCms, RdmaProvider, RdmaQpType, SubsystemType, TcpSecurity, TransportType};
use crate::macros::layout;
use crate::{Ascii, ControllerId, Nqn, NulStr};
use arrayvec::ArrayString;
use core::fmt::Write;
use core::net::{IpAddr, SocketAddr};
use zerocopy::little_endian::{U16, U32};

layout! {
    /// Discovery log record (base 2.1 §5.1.12.3.1).
    pub struct DiscoveryEntry: 1024 {
        /// [`TransportType`].
        0 => trtype: u8,
        /// [`AddressFamily`].
        1 => adrfam: u8,
        /// [`SubsystemType`].
        2 => subtype: u8,
        /// Transport requirements: [`super::treq`].
        3 => treq: u8,
        /// Port of the subsystem.
        4 => portid: U16,
        /// Controller to ask for in Connect.
        6 => cntlid: U16,
        /// Most entries of an admin submission queue; at least 32.
        8 => asqsz: U16,
        /// Flags: [`super::eflags`].
        10 => eflags: U16,
        #[doc(hidden)]
        12 => rsvd12: [u8; 20],
        /// Transport service: the port number in decimal for TCP and RDMA.
        32 => trsvcid: Ascii<32>,
        #[doc(hidden)]
        64 => rsvd64: [u8; 192],
        /// NVMe qualified name to connect to.
        256 => subnqn: NulStr<256>,
        /// Transport address.
        512 => traddr: Ascii<256>,
        /// Transport specific address subtype: [`TcpAddress`] or [`RdmaAddress`].
        768 => tsas: [u8; 256],
    }

    /// Address subtype of TCP.
    pub struct TcpAddress: 256 {
        /// [`TcpSecurity`].
        0 => sectype: u8,
        #[doc(hidden)]
        1 => rsvd1: [u8; 255],
    }

    /// Address subtype of RDMA.
    pub struct RdmaAddress: 256 {
        /// [`RdmaQpType`].
        0 => qptype: u8,
        /// [`RdmaProvider`].
        1 => prtype: u8,
        /// [`RdmaCms`].
        2 => cms: u8,
        #[doc(hidden)]
        3 => rsvd3: [u8; 5],
        /// Partition key, for InfiniBand.
        8 => pkey: U16,
        #[doc(hidden)]
        10 => rsvd10: [u8; 246],
    }

    /// What follows a record to make it an extended one; attributes follow.
    pub struct ExtendedEntryTail: 8 {
        /// Length of the extended record in bytes.
        0 => tel: U32,
        /// Number of attributes.
        4 => numexat: U16,
        #[doc(hidden)]
        6 => rsvd6: [u8; 2],
    }

    /// Header of an extended attribute; the value follows.
    pub struct ExtendedAttribute: 4 {
        /// 1 host identifier, 2 symbolic name.
        0 => exattype: U16,
        /// Length of the value in bytes.
        2 => exatlen: U16,
    }
}

impl DiscoveryEntry {
    /// A record of `subnqn`, reached by TCP at `address`, for the dynamic controller model.
    pub fn tcp(subtype: SubsystemType, subnqn: &Nqn, address: SocketAddr, security: TcpSecurity) -> Self {
        let tsas = TcpAddress { sectype: security.0, ..TcpAddress::default() };
        Self::ip(TransportType::TCP, subtype, subnqn, address, zerocopy::transmute!(tsas))
    }

    /// A record of `subnqn`, reached by RDMA at `address`, for the dynamic controller model.
    pub fn rdma(subtype: SubsystemType, subnqn: &Nqn, address: SocketAddr, provider: RdmaProvider) -> Self {
        let tsas = RdmaAddress {
            qptype: RdmaQpType::CONNECTED.0,
            prtype: provider.0,
            cms: RdmaCms::RDMA_CM.0,
            ..RdmaAddress::default()
        };
        Self::ip(TransportType::RDMA, subtype, subnqn, address, zerocopy::transmute!(tsas))
    }

    fn ip(
        trtype: TransportType,
        subtype: SubsystemType,
        subnqn: &Nqn,
        address: SocketAddr,
        tsas: [u8; 256],
    ) -> Self {
        let adrfam = match address.ip() {
            IpAddr::V4(_) => AddressFamily::IPV4,
            IpAddr::V6(_) => AddressFamily::IPV6,
        };
        Self {
            trtype: trtype.0,
            adrfam: adrfam.0,
            subtype: subtype.0,
            cntlid: U16::new(ControllerId::DYNAMIC.0),
            asqsz: U16::new(crate::fabrics::ADMIN_QUEUE_ENTRIES_MIN),
            trsvcid: ascii(format_args!("{}", address.port())),
            subnqn: subnqn.into(),
            traddr: ascii(format_args!("{}", address.ip())),
            tsas,
            ..Self::default()
        }
    }

    /// Transport.
    pub fn trtype(&self) -> TransportType {
        TransportType(self.trtype)
    }

    /// What the record describes.
    pub fn subtype(&self) -> SubsystemType {
        SubsystemType(self.subtype)
    }

    /// Address and port, when both are those of an IP transport and read as such.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.traddr.to_str()?.parse().ok()?;
        let port: u16 = self.trsvcid.to_str()?.parse().ok()?;
        Some(SocketAddr::new(ip, port))
    }

    /// Address subtype, as TCP has it.
    pub fn tcp_address(&self) -> &TcpAddress {
        zerocopy::transmute_ref!(&self.tsas)
    }

    /// Address subtype, as RDMA has it.
    pub fn rdma_address(&self) -> &RdmaAddress {
        zerocopy::transmute_ref!(&self.tsas)
    }
}

/// Room for every IP address and port number in text.
const IP_TEXT_BYTES_MAX: usize = 64;

fn ascii<const N: usize>(text: core::fmt::Arguments<'_>) -> Ascii<N> {
    let mut written = ArrayString::<IP_TEXT_BYTES_MAX>::new();
    let fits = written.write_fmt(text).is_ok();
    debug_assert!(fits);
    Ascii::new(&written).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_record_gives_its_address_back() {
        let nqn = Nqn::new("nqn.2016-06.io.spdk:cnode1").unwrap();
        for text in ["192.168.100.7:4420", "[2001:db8::1]:8009"] {
            let address: SocketAddr = text.parse().unwrap();
            let entry = DiscoveryEntry::tcp(SubsystemType::NVM, &nqn, address, TcpSecurity::TLS_1_3);
            assert_eq!(entry.socket_address(), Some(address));
            assert_eq!(entry.subnqn.nqn(), Ok(nqn));
            assert_eq!(entry.tcp_address().sectype, 2);
            assert_eq!(entry.adrfam, if address.is_ipv4() { 1 } else { 2 });
        }
    }

    #[test]
    fn an_rdma_record_names_its_service() {
        let address: SocketAddr = "10.0.0.1:4420".parse().unwrap();
        let nqn = Nqn::discovery();
        let entry = DiscoveryEntry::rdma(SubsystemType::REFERRAL, &nqn, address, RdmaProvider::ROCE_V2);
        assert_eq!(entry.tsas[..3], [1, 4, 1]);
        assert_eq!(entry.rdma_address().prtype, RdmaProvider::ROCE_V2.0);
    }

    #[test]
    fn text_that_is_no_address_gives_none() {
        let entry = DiscoveryEntry { traddr: Ascii::new("host.example").unwrap(), ..Default::default() };
        assert_eq!(entry.socket_address(), None);
    }
}
