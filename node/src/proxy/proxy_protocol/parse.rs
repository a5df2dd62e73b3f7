//! The header as it is received (pure). Strict: what the specification does not allow is none.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::SIGNATURE;
use super::crc32c::crc32c;

/// The longest line of version 1 with its end (§2.1).
const V1_MAX_BYTES: usize = 107;
/// Version 2 before its addresses (§2.2).
const V2_FIXED_BYTES: usize = 16;
/// The longest header taken: addresses and what a balancer in front that ends TLS says of the client's certificate.
pub(super) const MAX_BYTES: usize = 4096;
/// The type of the checksum among the extensions (§2.2.3).
const CRC32C: u8 = 0x03;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Header {
    /// The connection is for this client, who came to `local`.
    For {
        /// The client.
        client: SocketAddr,
        /// Where it connected to.
        local: SocketAddr,
    },
    /// The connection is the sender's own (LOCAL, UNKNOWN), or its addresses are of a family without ports.
    Own,
}

/// What is known of a header from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Progress {
    /// All these bytes belong to it, and more do.
    Partial,
    /// It is this long.
    Complete(Header, usize),
}

/// The bytes are no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header")]
pub(in crate::proxy) struct Malformed;

/// Reads a header from the first bytes of a connection. Whatever follows it is left alone.
pub(in crate::proxy) fn parse(bytes: &[u8]) -> Result<Progress, Malformed> {
    match bytes.first() {
        None => Ok(Progress::Partial),
        Some(b'P') => v1(bytes),
        Some(_) => v2(bytes),
    }
}

fn v1(bytes: &[u8]) -> Result<Progress, Malformed> {
    const NAME: &[u8] = b"PROXY ";
    let known = bytes.len().min(NAME.len());
    if bytes[..known] != NAME[..known] {
        return Err(Malformed);
    }
    let window = &bytes[..bytes.len().min(V1_MAX_BYTES)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() == V1_MAX_BYTES { Err(Malformed) } else { Ok(Progress::Partial) };
    };
    let line = window[NAME.len()..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    Ok(Progress::Complete(v1_line(line)?, end + 1))
}

fn v1_line(line: &str) -> Result<Header, Malformed> {
    // Behind UNKNOWN there may be anything up to the end of the line (§2.1).
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Header::Own);
    }
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(Malformed);
    let (family, from, to, from_port, to_port) = (word()?, word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(Malformed);
    }
    let (from, to) = match family {
        "TCP4" => (address::<Ipv4Addr>(from)?, address::<Ipv4Addr>(to)?),
        "TCP6" => (address::<Ipv6Addr>(from)?, address::<Ipv6Addr>(to)?),
        _ => return Err(Malformed),
    };
    Ok(Header::For {
        client: SocketAddr::new(from, port(from_port)?),
        local: SocketAddr::new(to, port(to_port)?),
    })
}

fn address<T: FromStr + Into<IpAddr>>(word: &str) -> Result<IpAddr, Malformed> {
    word.parse::<T>().map(Into::into).map_err(|_| Malformed)
}

/// Decimal, 0 to 65535, without leading zeros or a sign (§2.1).
fn port(word: &str) -> Result<u16, Malformed> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || (word.len() > 1 && word.starts_with('0')) {
        return Err(Malformed);
    }
    word.parse().map_err(|_| Malformed)
}

fn v2(bytes: &[u8]) -> Result<Progress, Malformed> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(Malformed);
    }
    // A wrong command or family is told at once, whatever is still to come.
    let own = match bytes.get(12) {
        Some(0x20) => true,
        Some(0x21) => false,
        None => return Ok(Progress::Partial),
        Some(_) => return Err(Malformed),
    };
    let address_bytes = match bytes.get(13) {
        Some(0x00) => 0,
        Some(0x11 | 0x12) => 12,
        Some(0x21 | 0x22) => 36,
        Some(0x31 | 0x32) => 216,
        None => return Ok(Progress::Partial),
        Some(_) if own => 0,
        Some(_) => return Err(Malformed),
    };
    let Some(&[high, low]) = bytes.get(14..V2_FIXED_BYTES) else { return Ok(Progress::Partial) };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BYTES || !own && length < V2_FIXED_BYTES + address_bytes {
        return Err(Malformed);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Progress::Partial) };
    if own {
        // What stands behind the length is skipped, whatever it is (§2.2).
        return Ok(Progress::Complete(Header::Own, length));
    }
    let (addresses, extensions) = header[V2_FIXED_BYTES..].split_at(address_bytes);
    check_extensions(header, extensions)?;
    let said = match header[13] {
        0x11 => for_client::<4>(addresses),
        0x21 => for_client::<16>(addresses),
        // Datagrams and Unix sockets are no clients of a TCP listener.
        _ => None,
    };
    Ok(Progress::Complete(said.unwrap_or(Header::Own), length))
}

fn for_client<const N: usize>(bytes: &[u8]) -> Option<Header>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = bytes.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let (to_port, _) = rest.split_first_chunk::<2>()?;
    Some(Header::For {
        client: SocketAddr::new(IpAddr::from(*from), u16::from_be_bytes(*from_port)),
        local: SocketAddr::new(IpAddr::from(*to), u16::from_be_bytes(*to_port)),
    })
}

/// Extensions must be whole, and a checksum among them must be right (§2.2.3).
fn check_extensions(header: &[u8], mut rest: &[u8]) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let (&[kind, high, low], behind) = rest.split_first_chunk::<3>().ok_or(Malformed)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = behind.get(..length).ok_or(Malformed)?;
        if kind == CRC32C {
            let told = u32::from_be_bytes(value.try_into().map_err(|_| Malformed)?);
            // The checksum is made with zeros in its own place.
            let at = header.len() - behind.len();
            let blank = |(index, byte): (usize, &u8)| if (at..at + 4).contains(&index) { 0 } else { *byte };
            if crc32c(header.iter().enumerate().map(blank)) != told {
                return Err(Malformed);
            }
        }
        rest = &behind[length..];
    }
    Ok(())
}

#[cfg(test)]
mod tests;
