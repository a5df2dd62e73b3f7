//! The header as it is sent to backends (pure).
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::SIGNATURE;
use crate::config::model::SendProxy;

/// Version 2, command PROXY; TCP over IPv4 and IPv6 (§2.2).
const V2_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header that tells a backend who the client is, and which address it came to.
///
/// The protocol knows no connection between the families: when they differ, both addresses are written as IPv6, the IPv4
/// one mapped (RFC 4291 §2.5.5.2).
pub(in crate::proxy) fn header(version: SendProxy, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (from, to) = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (IpAddr::V4(from), IpAddr::V4(to)),
        (from, to) => (IpAddr::V6(in_v6(from)), IpAddr::V6(in_v6(to))),
    };
    match version {
        SendProxy::V1 => v1(from, to, client.port(), local.port()).into_bytes(),
        SendProxy::V2 => v2(from, to, client.port(), local.port()),
    }
}

fn in_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// At most 107 bytes (§2.1).
fn v1(from: IpAddr, to: IpAddr, from_port: u16, to_port: u16) -> String {
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let mut line = String::with_capacity(107);
    let _ = write!(line, "PROXY {family} {from} {to} {from_port} {to_port}\r\n");
    line
}

/// 28 or 52 bytes.
fn v2(from: IpAddr, to: IpAddr, from_port: u16, to_port: u16) -> Vec<u8> {
    let mut header = Vec::with_capacity(52);
    header.extend_from_slice(&SIGNATURE);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend_from_slice(&[V2_PROXY, TCP4, 0, 12]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (from, to) => {
            header.extend_from_slice(&[V2_PROXY, TCP6, 0, 36]);
            header.extend_from_slice(&in_v6(from).octets());
            header.extend_from_slice(&in_v6(to).octets());
        }
    }
    header.extend_from_slice(&from_port.to_be_bytes());
    header.extend_from_slice(&to_port.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_line_of_each_family() {
        let line = |client, local| String::from_utf8(header(SendProxy::V1, at(client), at(local))).unwrap();
        assert_eq!(
            line("192.0.2.1:5000", "198.51.100.2:443"),
            "PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n"
        );
        assert_eq!(
            line("[2001:db8::1]:5000", "[2001:db8::2]:443"),
            "PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n"
        );
        assert_eq!(line("192.0.2.1:5000", "[::1]:443"), "PROXY TCP6 ::ffff:192.0.2.1 ::1 5000 443\r\n");
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert!(line(longest, longest).len() <= 107);
    }

    #[test]
    fn golden_bytes_of_version_2() {
        assert_eq!(
            header(SendProxy::V2, at("192.0.2.1:5000"), at("198.51.100.2:443")),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x13\x88\x01\xbb"
        );
        assert_eq!(
            header(SendProxy::V2, at("[2001:db8::1]:5000"), at("[2001:db8::2]:443")),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
              \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x13\x88\x01\xbb"
        );
        let mixed = header(SendProxy::V2, at("192.0.2.1:1"), at("[::1]:2"));
        assert_eq!(mixed[16..32], *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01");
    }
}
