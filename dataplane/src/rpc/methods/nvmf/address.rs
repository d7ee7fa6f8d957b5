//! Addresses, names and identifiers as RPC writes them.

use std::net::{IpAddr, SocketAddr};

use nvme::Nqn;
use serde_json::{Value, json};
use transport::TransportKind;

use super::params::Address;
use crate::rpc::error::RpcError;
use crate::target::ListenAddress;

/// Short for the well-known discovery NQN.
const DISCOVERY: &str = "discovery";

pub(super) fn nqn(text: &str) -> Result<Nqn, RpcError> {
    if text == DISCOVERY {
        return Ok(Nqn::discovery());
    }
    Nqn::new(text).map_err(|error| RpcError::invalid_params(format_args!("NQN `{text}`: {error}")))
}

pub(super) fn transport(name: &str) -> Result<TransportKind, RpcError> {
    if name.eq_ignore_ascii_case("TCP") {
        return Ok(TransportKind::Tcp);
    }
    if name.eq_ignore_ascii_case("RDMA") {
        return Ok(TransportKind::Rdma);
    }
    Err(RpcError::invalid_params(format_args!("transport type `{name}`; there are TCP and RDMA")))
}

/// A transport as SPDK shows it.
pub(in crate::rpc::methods) const fn transport_name(kind: TransportKind) -> &'static str {
    match kind {
        TransportKind::Tcp => "TCP",
        TransportKind::Rdma => "RDMA",
    }
}

impl Address {
    /// The address, when it is one; `port` stands in for a missing service.
    pub(super) fn resolve(&self, port: Option<u16>) -> Result<ListenAddress, RpcError> {
        let wrong = |what: &str, value: &str| RpcError::invalid_params(format_args!("{what} `{value}`"));
        let kind = transport(&self.trtype)?;
        let ip: IpAddr = self.traddr.parse().map_err(|_| wrong("traddr", &self.traddr))?;
        let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
        if let Some(adrfam) = self.adrfam.as_deref().filter(|adrfam| !adrfam.eq_ignore_ascii_case(family)) {
            return Err(wrong("traddr is not of adrfam", adrfam));
        }
        let port = match self.trsvcid.as_deref().filter(|service| !service.is_empty()) {
            Some(service) => service.parse().map_err(|_| wrong("trsvcid", service))?,
            None => port.ok_or_else(|| RpcError::invalid_params("`trsvcid` is missing"))?,
        };
        Ok(ListenAddress { transport: kind, socket: SocketAddr::new(ip, port) })
    }
}

/// An address as SPDK shows it.
pub(super) fn shown(address: &ListenAddress) -> Value {
    shown_parts(address.transport, address.socket)
}

pub(super) fn shown_parts(kind: TransportKind, socket: SocketAddr) -> Value {
    json!({
        "trtype": transport_name(kind),
        "adrfam": if socket.is_ipv4() { "IPv4" } else { "IPv6" },
        "traddr": socket.ip().to_string(),
        "trsvcid": socket.port().to_string(),
    })
}

/// Bytes from hexadecimal digits, the first byte first.
pub(super) fn bytes<const N: usize>(what: &str, digits: &str) -> Result<[u8; N], RpcError> {
    let wrong =
        || RpcError::invalid_params(format_args!("{what} `{digits}` is not {} hexadecimal digits", 2 * N));
    let digits_only = digits.len() == 2 * N && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !digits_only {
        return Err(wrong());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// Hexadecimal digits of bytes, as SPDK shows them.
pub(super) fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(adrfam: Option<&str>, traddr: &str, trsvcid: Option<&str>) -> Address {
        Address {
            trtype: "tcp".to_owned(),
            adrfam: adrfam.map(str::to_owned),
            traddr: traddr.to_owned(),
            trsvcid: trsvcid.map(str::to_owned),
        }
    }

    #[test]
    fn addresses_of_both_families_are_understood_and_shown() {
        let v6 = address(Some("IPv6"), "::1", Some("4420")).resolve(None).expect("an address");
        assert_eq!(
            shown(&v6),
            json!({"trtype": "TCP", "adrfam": "IPv6", "traddr": "::1", "trsvcid": "4420"})
        );
        assert!(address(None, "127.0.0.1", Some("0")).resolve(None).is_ok());
    }

    #[test]
    fn addresses_that_contradict_themselves_are_refused() {
        for wrong in [
            address(Some("ipv6"), "127.0.0.1", Some("1")),
            address(None, "localhost", Some("1")),
            address(None, "127.0.0.1", Some("70000")),
            address(None, "127.0.0.1", None),
            Address { trtype: "FC".to_owned(), ..address(None, "127.0.0.1", Some("1")) },
        ] {
            assert_eq!(wrong.resolve(None).expect_err("refused").code, RpcError::INVALID_PARAMS);
        }
    }

    #[test]
    fn identifiers_read_back_as_they_are_shown() {
        let bytes_8: [u8; 8] = bytes("eui64", "0123456789abcdEF").expect("digits");
        assert_eq!(digits(&bytes_8), "0123456789ABCDEF");
        assert!(bytes::<8>("eui64", "+123456789abcdef").is_err());
        assert!(bytes::<8>("eui64", "01").is_err());
    }
}
