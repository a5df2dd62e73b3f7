//! The proxy's own decoders: the preface of a tunnel, the PROXY header, the ClientHello that is passed on. See
//! [`crate::fuzzing`].

use crate::config::model::SendProxy;

use super::hello::Reader;
use super::proxy_protocol::header;
use super::proxy_protocol::parse::{Progress, parse};
use super::tunnel::preface::{Kind, MAX_BYTES, Preface};

/// A tunnel's preface with its head.
pub fn tunnel_preface(bytes: &[u8]) {
    let Some((head, behind)) = bytes.split_first_chunk::<3>() else { return };
    let Ok(length) = Preface::length(*head) else { return };
    assert!(length <= MAX_BYTES);
    let Some(announced) = behind.get(..length) else { return };
    if let Ok(preface) = Preface::decode(announced) {
        assert_eq!(preface.encode(), bytes[..3 + length]);
    }
}

/// A PROXY header: what is complete is complete whatever follows, and what is refused early is refused late.
pub fn proxy_header(bytes: &[u8]) {
    let whole = parse(bytes);
    if let Ok(Progress::Complete(_, length)) = whole {
        assert!(length <= bytes.len());
        assert_eq!(parse(&bytes[..length]), whole);
        assert_eq!(parse(&bytes[..length - 1]), Ok(Progress::Partial));
    }
    for known in 0..bytes.len().min(64) {
        if parse(&bytes[..known]).is_err() {
            assert!(whole.is_err(), "what no header begins with became one");
        }
    }
}

/// A ClientHello: read in one piece or in two, it says the same.
pub fn client_hello(bytes: &[u8]) {
    let at_once = Reader::default().feed(bytes);
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let mut reader = Reader::default();
    if let Ok(None) = reader.feed(first) {
        let in_two = reader.feed(rest);
        assert_eq!(in_two.is_err(), at_once.is_err());
        if let (Ok(in_two), Ok(at_once)) = (in_two, at_once) {
            assert_eq!(in_two, at_once);
        }
    }
}

pub(crate) fn tunnel_preface_golden() -> Vec<Vec<u8>> {
    let preface = |kind, wanted| Preface {
        kind,
        service: "web".parse().expect("a valid name"),
        pool: "web-v1".parse().expect("a valid name"),
        wanted,
        client: "192.0.2.7:4711".parse().expect("an address"),
        local: "[2001:db8::1]:443".parse().expect("an address"),
        request_id: b"abc".to_vec(),
    };
    let wanted = Some(gossip::id::BackendId(0x0102_0304_0506_0708));
    vec![
        preface(Kind::Http1, wanted).encode(),
        preface(Kind::Tcp, None).encode(),
        preface(Kind::Http2, wanted).encode(),
    ]
}

pub(crate) fn proxy_header_golden() -> Vec<Vec<u8>> {
    let v4 = ("192.0.2.7:4711".parse(), "198.51.100.1:443".parse());
    let v6 = ("[2001:db8::7]:4711".parse(), "[2001:db8::1]:443".parse());
    let mut golden = vec![
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec(),
        // With an extension: PP2_TYPE_NOOP, and a checksum that is wrong.
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x17\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb\x04\x00\x01\x00\x03\x00\x04abcd".to_vec(),
    ];
    for version in [SendProxy::V1, SendProxy::V2] {
        for (client, local) in [&v4, &v6] {
            let (Ok(client), Ok(local)) = (client, local) else { continue };
            golden.push(header(version, *client, *local));
        }
    }
    golden
}

/// Written out, so that it is the same in every run (RFC 8446 §4.1.2, RFC 6066 §3).
pub(crate) fn client_hello_golden() -> Vec<Vec<u8>> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &sized(body)].concat();
    let hello = |name: Option<&[u8]>| {
        let named = |name: &[u8]| extension(0, &sized(&[&[0][..], &sized(name)].concat()));
        let extensions = [
            name.map(named).unwrap_or_default(),
            extension(10, &sized(&[0, 29])),
            extension(13, &sized(&[4, 3, 8, 4])),
            extension(16, &sized(b"\x02h2")),
            extension(43, &[2, 3, 4]),
            extension(51, &sized(&[&[0, 29][..], &sized(&[9; 32])].concat())),
        ]
        .concat();
        let body =
            [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 0x01, 0xc0, 0x2f]), &[1, 0], &sized(&extensions)]
                .concat();
        let message = [&[1, 0][..], &sized(&body)].concat();
        [&[22, 3, 1][..], &sized(&message)].concat()
    };
    vec![hello(Some(b"shop.example.com")), hello(None)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_are_read() {
        for bytes in tunnel_preface_golden() {
            assert!(Preface::decode(&bytes[3..]).is_ok());
        }
        let read = client_hello_golden().into_iter().map(|bytes| Reader::default().feed(&bytes));
        let names: Vec<_> = read.collect();
        assert_eq!(names, [Ok(Some(Some("shop.example.com".into()))), Ok(Some(None))]);
        let complete = |bytes: &Vec<u8>| matches!(parse(bytes), Ok(Progress::Complete(..)));
        assert_eq!(proxy_header_golden().iter().filter(|bytes| complete(bytes)).count(), 6);
    }
}
