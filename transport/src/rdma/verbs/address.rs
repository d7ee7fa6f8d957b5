//! Socket addresses as the C library has them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{AF_INET, AF_INET6, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage};

/// An address in C's form.
pub(super) struct CAddress(sockaddr_storage);

impl From<SocketAddr> for CAddress {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: all zero bytes are a valid sockaddr_storage.
        let mut storage: sockaddr_storage = unsafe { std::mem::zeroed() };
        match address {
            SocketAddr::V4(v4) => {
                let c = sockaddr_in {
                    sin_family: family(AF_INET),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: a sockaddr_storage has room and alignment for every socket address.
                unsafe { std::ptr::write((&raw mut storage).cast::<sockaddr_in>(), c) };
            }
            SocketAddr::V6(v6) => {
                let c = sockaddr_in6 {
                    sin6_family: family(AF_INET6),
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: a sockaddr_storage has room and alignment for every socket address.
                unsafe { std::ptr::write((&raw mut storage).cast::<sockaddr_in6>(), c) };
            }
        }
        Self(storage)
    }
}

impl CAddress {
    pub(super) fn as_mut_ptr(&mut self) -> *mut sockaddr {
        (&raw mut self.0).cast()
    }
}

/// The address in `storage`; `None` for a family that is not IP.
pub(super) fn read(storage: &sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        AF_INET => {
            // SAFETY: the family says which type lies there; a sockaddr_storage is large and aligned enough.
            let c = unsafe { *std::ptr::from_ref(storage).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(c.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(c.sin_port)).into())
        }
        AF_INET6 => {
            // SAFETY: the family says which type lies there; a sockaddr_storage is large and aligned enough.
            let c = unsafe { *std::ptr::from_ref(storage).cast::<sockaddr_in6>() };
            let ip = Ipv6Addr::from(c.sin6_addr.s6_addr);
            let port = u16::from_be(c.sin6_port);
            Some(SocketAddrV6::new(ip, port, c.sin6_flowinfo, c.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "families are small numbers")]
const fn family(number: i32) -> libc::sa_family_t {
    number as libc::sa_family_t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_c() {
        for text in ["10.0.0.7:4420", "[2001:db8::1]:8009", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(read(&CAddress::from(address).0), Some(address));
        }
    }
}
