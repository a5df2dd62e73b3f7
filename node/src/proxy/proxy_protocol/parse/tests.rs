use proptest::prelude::*;

use super::*;
use crate::config::model::SendProxy;
use crate::proxy::proxy_protocol::header;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn of(client: &str, local: &str) -> Header {
    Header::For { client: at(client), local: at(local) }
}

/// A header of version 2 with whatever is wanted in it.
fn v2_bytes(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

const ADDRESSES: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x13, 0x88, 1, 0xbb];

#[test]
fn lines_of_version_1() {
    let cases = [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n", of("192.0.2.1:5000", "198.51.100.2:443")),
        ("PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", of("255.255.255.255:65535", "0.0.0.0:0")),
        ("PROXY TCP6 2001:db8::1 ::1 5000 443\r\n", of("[2001:db8::1]:5000", "[::1]:443")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", of("[::ffff:192.0.2.1]:1", "[::1]:2")),
        ("PROXY UNKNOWN\r\n", Header::Own),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Header::Own,
        ),
    ];
    for (line, header) in cases {
        let followed = format!("{line}GET / HTTP/1.1\r\n");
        assert_eq!(parse(followed.as_bytes()), Ok(Progress::Complete(header, line.len())), "{line}");
        for cut in 0..line.len() {
            assert_eq!(parse(&line.as_bytes()[..cut]), Ok(Progress::Partial), "{cut} of {line}");
        }
    }
}

#[test]
fn lines_that_are_none() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "PROXIED",
        "PROXYxTCP4 192.0.2.1 198.51.100.2 5000 443\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 5000 443\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 5000 443\r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.2 5000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 5000\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 5000 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +5000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 05000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 5000 443\r\n",
        "PROXY TCP4 2001:db8::1 ::1 5000 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 5000 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY TCP4 \u{e4} 198.51.100.2 5000 443\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert_eq!(parse(&endless.as_bytes()[..106]), Ok(Progress::Partial));
    assert_eq!(parse(&endless.as_bytes()[..107]), Err(Malformed));
}

#[test]
fn version_2_with_and_without_extensions() {
    let golden = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x13\x88\x01\xbb";
    let known = of("192.0.2.1:5000", "198.51.100.2:443");
    assert_eq!(parse(golden), Ok(Progress::Complete(known, 28)));
    for cut in 0..28 {
        assert_eq!(parse(&golden[..cut]), Ok(Progress::Partial), "{cut}");
    }
    let mut rest = ADDRESSES.to_vec();
    rest.extend_from_slice(b"\x01\0\x02h2\x04\0\0");
    let bytes = v2_bytes(0x21, 0x11, &rest);
    assert_eq!(parse(&bytes), Ok(Progress::Complete(known, bytes.len())));
    rest.push(1);
    assert_eq!(parse(&v2_bytes(0x21, 0x11, &rest)), Err(Malformed), "half an extension");
}

#[test]
fn version_2_without_a_client() {
    for (command, family, rest) in [
        (0x20, 0x00, &[][..]),
        (0x20, 0x11, &[]),
        (0x20, 0x11, &ADDRESSES),
        (0x20, 0xff, b"whatever"),
        (0x21, 0x00, &[]),
        (0x21, 0x12, &ADDRESSES),
        (0x21, 0x31, &[0; 216]),
    ] {
        let bytes = v2_bytes(command, family, rest);
        assert_eq!(parse(&bytes), Ok(Progress::Complete(Header::Own, bytes.len())), "{command:x} {family:x}");
    }
}

#[test]
fn version_2_that_is_none() {
    for (command, family, rest) in [
        (0x22, 0x11, &ADDRESSES[..]),
        (0x11, 0x11, &ADDRESSES),
        (0x31, 0x11, &ADDRESSES),
        (0x21, 0x13, &ADDRESSES),
        (0x21, 0x41, &ADDRESSES),
        (0x21, 0x11, &ADDRESSES[..11]),
        (0x21, 0x21, &ADDRESSES),
        (0x21, 0x00, &[0; MAX_BYTES]),
        (0x20, 0x00, &[0; MAX_BYTES]),
    ] {
        assert_eq!(parse(&v2_bytes(command, family, rest)), Err(Malformed), "{command:x} {family:x}");
    }
    assert_eq!(parse(b"\r\n\r\nGET / HTTP/1.1\r\n"), Err(Malformed));
}

#[test]
fn a_checksum_is_checked() {
    let mut rest = ADDRESSES.to_vec();
    rest.extend_from_slice(b"\x03\0\x04\0\0\0\0\x04\0\x01\0");
    let mut bytes = v2_bytes(0x21, 0x11, &rest);
    assert_eq!(parse(&bytes), Err(Malformed));
    let sum = crc32c(bytes.iter().copied());
    bytes[31..35].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(parse(&bytes), Ok(Progress::Complete(of("192.0.2.1:5000", "198.51.100.2:443"), bytes.len())));
    bytes[16] ^= 1;
    assert_eq!(parse(&bytes), Err(Malformed));
}

/// Random bytes, and bytes that begin as headers do.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let begin = prop::sample::select(vec![
        &b""[..],
        b"PROXY ",
        b"PROXY TCP4 1.2.3.4 ",
        b"PROXY UNKNOWN",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x40\xc0\0\x02\x01\xc6\x33\x64\x02\x13\x88\x01\xbb",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x30",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0",
    ]);
    (begin, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(begin, rest)| [begin, &rest].concat())
}

fn address_of(v6: bool) -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let one = move |bytes: [u8; 16]| match v6 {
        true => IpAddr::from(bytes).to_canonical(),
        false => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
    };
    (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(move |(a, b)| (one(a), one(b)))
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic_and_end_within_bounds(bytes in hostile()) {
        match parse(&bytes) {
            Ok(Progress::Complete(_, length)) => {
                prop_assert!(length <= bytes.len() && length <= MAX_BYTES);
                // The same header, whatever follows, and none before it is whole.
                prop_assert_eq!(parse(&bytes[..length]), parse(&bytes));
                for cut in 0..length {
                    prop_assert_eq!(parse(&bytes[..cut]), Ok(Progress::Partial));
                }
            }
            Ok(Progress::Partial) => prop_assert!(bytes.len() < MAX_BYTES),
            // What is none stays none.
            Err(Malformed) => {
                let more = [&bytes[..], b"\r\n\r\n"].concat();
                prop_assert_eq!(parse(&more), Err(Malformed));
            }
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read(
        v6 in any::<bool>().prop_flat_map(address_of),
        ports: (u16, u16),
        version in prop::sample::select(vec![SendProxy::V1, SendProxy::V2]),
    ) {
        let (client, local) = (SocketAddr::new(v6.0, ports.0), SocketAddr::new(v6.1, ports.1));
        prop_assume!(client.is_ipv4() == local.is_ipv4());
        let bytes = header(version, client, local);
        prop_assert_eq!(parse(&bytes), Ok(Progress::Complete(Header::For { client, local }, bytes.len())));
    }
}
