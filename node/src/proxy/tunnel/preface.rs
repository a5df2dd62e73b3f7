//! What is said before users' bytes flow through a tunnel, byte for byte (pure).
//!
//! ```text
//! near ─▶ far   version 1 │ length 2 │ kind 1 │ service │ pool │ wanted │ client │ local │ request id
//!               a string: length 1, bytes          wanted: 0, or 1 and a backend id of 8
//!               an address: 4 or 6, its octets, port 2      numbers are little endian
//! near ◀─ far   version 1 │ verdict 1                        the acknowledgement
//! near ◀─ far   0, or 1 and a backend id of 8               TCP only: the connection stands
//! ```
use std::net::{IpAddr, SocketAddr};

use gossip::id::{BackendId, PoolName, ServiceName};

/// The version of the preface and of its answer.
pub(super) const VERSION: u8 = 1;
/// The greatest length that a preface announces.
pub(in crate::proxy) const MAX_BYTES: usize = 512;
/// The longest request id.
const REQUEST_ID_MAX_BYTES: usize = 128;

/// What travels behind the preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Kind {
    /// One HTTP/1.1 request that may switch to another protocol, and its answer.
    Http1,
    /// A TCP connection.
    Tcp,
    /// One request and its answer as HTTP/2, which loses no trailer and ends either direction by itself.
    Http2,
}

/// What the far end must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct Preface {
    pub(in crate::proxy) kind: Kind,
    pub(in crate::proxy) service: ServiceName,
    pub(in crate::proxy) pool: PoolName,
    /// The backend that the session is bound to; `None`: the far end chooses.
    pub(in crate::proxy) wanted: Option<BackendId>,
    /// The user's address.
    pub(in crate::proxy) client: SocketAddr,
    /// The address that the user connected to.
    pub(in crate::proxy) local: SocketAddr,
    /// Empty for TCP.
    pub(in crate::proxy) request_id: Vec<u8>,
}

/// What the far end makes of a preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It serves the stream.
    Accepted,
    /// It knows no such service or pool: another revision.
    Unknown,
    /// It has no backend for it.
    Unavailable,
}

/// The bytes are no preface of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a tunnel preface of version {VERSION}")]
pub(in crate::proxy) struct Malformed;

impl Verdict {
    pub(super) fn encode(self) -> [u8; 2] {
        let code = match self {
            Self::Accepted => 0,
            Self::Unknown => 1,
            Self::Unavailable => 2,
        };
        [VERSION, code]
    }

    pub(super) fn decode(bytes: [u8; 2]) -> Result<Self, Malformed> {
        match bytes {
            [VERSION, 0] => Ok(Self::Accepted),
            [VERSION, 1] => Ok(Self::Unknown),
            [VERSION, 2] => Ok(Self::Unavailable),
            _ => Err(Malformed),
        }
    }
}

impl Preface {
    /// The preface with its version and length in front.
    pub(in crate::proxy) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, 0, 0];
        bytes.push(match self.kind {
            Kind::Http1 => 1,
            Kind::Tcp => 2,
            Kind::Http2 => 3,
        });
        put_string(&mut bytes, self.service.as_str().as_bytes());
        put_string(&mut bytes, self.pool.as_str().as_bytes());
        match self.wanted {
            None => bytes.push(0),
            Some(wanted) => {
                bytes.push(1);
                bytes.extend_from_slice(&wanted.0.to_le_bytes());
            }
        }
        put_address(&mut bytes, self.client);
        put_address(&mut bytes, self.local);
        let id = &self.request_id[..self.request_id.len().min(REQUEST_ID_MAX_BYTES)];
        put_string(&mut bytes, id);
        // Two names of 63, two addresses of 19, an id of 128 and small change: always below MAX_BYTES.
        let length = (bytes.len() - 3) as u16;
        bytes[1..3].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// How many bytes follow this head of a preface.
    pub(in crate::proxy) fn length(head: [u8; 3]) -> Result<usize, Malformed> {
        let length = usize::from(u16::from_le_bytes([head[1], head[2]]));
        (head[0] == VERSION && length <= MAX_BYTES).then_some(length).ok_or(Malformed)
    }

    /// Reads what follows the head.
    pub(in crate::proxy) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let kind = match byte(&mut rest)? {
            1 => Kind::Http1,
            2 => Kind::Tcp,
            3 => Kind::Http2,
            _ => return Err(Malformed),
        };
        let service = ServiceName::new(text(&mut rest)?).map_err(|_| Malformed)?;
        let pool = PoolName::new(text(&mut rest)?).map_err(|_| Malformed)?;
        let wanted = match byte(&mut rest)? {
            0 => None,
            1 => Some(BackendId(u64::from_le_bytes(array(&mut rest)?))),
            _ => return Err(Malformed),
        };
        let client = address(&mut rest)?;
        let local = address(&mut rest)?;
        let request_id = string(&mut rest)?.to_vec();
        let fits = rest.is_empty()
            && request_id.len() <= REQUEST_ID_MAX_BYTES
            && request_id.iter().all(u8::is_ascii_graphic);
        fits.then_some(Self { kind, service, pool, wanted, client, local, request_id }).ok_or(Malformed)
    }
}

fn put_string(bytes: &mut Vec<u8>, string: &[u8]) {
    bytes.push(string.len() as u8);
    bytes.extend_from_slice(string);
}

fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&address.port().to_le_bytes());
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(count).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    take(rest, N)?.try_into().map_err(|_| Malformed)
}

fn byte(rest: &mut &[u8]) -> Result<u8, Malformed> {
    array::<1>(rest).map(|[byte]| byte)
}

fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = byte(rest)?;
    take(rest, usize::from(length))
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    std::str::from_utf8(string(rest)?).map_err(|_| Malformed)
}

fn address(rest: &mut &[u8]) -> Result<SocketAddr, Malformed> {
    let ip = match byte(rest)? {
        4 => IpAddr::from(array::<4>(rest)?),
        6 => IpAddr::from(array::<16>(rest)?),
        _ => return Err(Malformed),
    };
    Ok(SocketAddr::new(ip, u16::from_le_bytes(array(rest)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn preface() -> Preface {
        Preface {
            kind: Kind::Http1,
            service: ServiceName::new("web").unwrap(),
            pool: PoolName::new("web-v1").unwrap(),
            wanted: Some(BackendId(0x0102_0304_0506_0708)),
            client: "192.0.2.7:4711".parse().unwrap(),
            local: "[2001:db8::1]:443".parse().unwrap(),
            request_id: b"abc".to_vec(),
        }
    }

    #[test]
    fn version_one_looks_like_this() {
        let golden = [
            1, 51, 0, // version, length
            1, // http
            3, b'w', b'e', b'b', // service
            6, b'w', b'e', b'b', b'-', b'v', b'1', // pool
            1, 8, 7, 6, 5, 4, 3, 2, 1, // wanted
            4, 192, 0, 2, 7, 0x67, 0x12, // client
            6, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xbb, 0x01, // local
            3, b'a', b'b', b'c', // request id
        ];
        let bytes = preface().encode();
        assert_eq!(bytes, golden);
        assert_eq!(Preface::length([1, 51, 0]), Ok(51));
        assert_eq!(Preface::decode(&bytes[3..]), Ok(preface()));
        for (kind, code) in [(Kind::Http1, 1), (Kind::Tcp, 2), (Kind::Http2, 3)] {
            let bytes = Preface { kind, ..preface() }.encode();
            assert_eq!((bytes[3], &bytes[4..]), (code, &golden[4..]));
            assert_eq!(Preface::decode(&bytes[3..]).map(|read| read.kind), Ok(kind));
        }
    }

    #[test]
    fn the_longest_preface_fits() {
        let long = Preface {
            service: ServiceName::new(&"s".repeat(63)).unwrap(),
            pool: PoolName::new(&"p".repeat(63)).unwrap(),
            client: "[2001:db8::2]:1".parse().unwrap(),
            request_id: vec![b'x'; 128],
            ..preface()
        };
        let bytes = long.encode();
        assert!(bytes.len() - 3 <= MAX_BYTES);
        assert_eq!(Preface::decode(&bytes[3..]), Ok(long));
    }

    #[test]
    fn another_version_or_a_long_one_is_refused() {
        assert_eq!(Preface::length([2, 4, 0]), Err(Malformed));
        assert_eq!(Preface::length([1, 1, 2]), Err(Malformed));
        assert_eq!(Verdict::decode([2, 0]), Err(Malformed));
        for verdict in [Verdict::Accepted, Verdict::Unknown, Verdict::Unavailable] {
            assert_eq!(Verdict::decode(verdict.encode()), Ok(verdict));
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Preface::decode(&bytes);
        }

        #[test]
        fn a_changed_preface_is_another_one_or_none(at: prop::sample::Index, to: u8) {
            let mut bytes = preface().encode().split_off(3);
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert_ne!(Preface::decode(&bytes), Ok(preface()));
        }

        #[test]
        fn a_cut_preface_is_none(keep: prop::sample::Index) {
            let bytes = preface().encode().split_off(3);
            let keep = keep.index(bytes.len());
            prop_assert_eq!(Preface::decode(&bytes[..keep]), Err(Malformed));
        }
    }
}
