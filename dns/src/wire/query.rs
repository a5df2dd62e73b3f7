//! Reads one message from a stranger, in place: nothing is copied and nothing allocated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{CLASS_IN, OPTION_CLIENT_SUBNET, OPTION_COOKIE, OPTION_NSID, Rcode};
use crate::name::{MAX_LABEL_BYTES, MAX_NAME_BYTES};
use crate::zone::Kind;

pub(crate) const HEADER_BYTES: usize = 12;
const OPCODE_QUERY: u8 = 0;

/// A message that can be answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Request<'m> {
    /// Copied to the answer.
    pub(crate) id: u16,
    /// Copied to the answer.
    pub(crate) opcode: u8,
    /// Copied to the answer.
    pub(crate) recursion_desired: bool,
    /// The question, when there is one that can be read.
    pub(crate) question: Option<Question<'m>>,
    /// EDNS, when the sender speaks it.
    pub(crate) edns: Option<Edns<'m>>,
    /// Why there can be no answer but this code.
    pub(crate) fault: Option<Rcode>,
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question<'m> {
    /// Uncompressed, in wire form, with the root's zero.
    pub(crate) name: &'m [u8],
    pub(crate) kind: Kind,
    pub(crate) class: u16,
    /// The whole of it, as it is echoed.
    pub(crate) wire: &'m [u8],
}

/// The OPT record (RFC 6891 §6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edns<'m> {
    /// What the sender can take over UDP, at least 512.
    pub(crate) payload: u16,
    /// Wants signatures (RFC 3225): copied to the answer.
    pub(crate) dnssec_ok: bool,
    /// Understands NXNAME, and wants NXDOMAIN beside it (RFC 9824 §5.1): copied to the answer.
    pub(crate) compact_ok: bool,
    /// Where the user is.
    pub(crate) subnet: Option<Subnet>,
    /// The client's cookie and, when it has one, the server's (RFC 7873 §4): 8 bytes, or 16 to 40.
    pub(crate) cookie: Option<&'m [u8]>,
    /// Wants to know which server this is (RFC 5001).
    pub(crate) nsid: bool,
}

/// The client-subnet option (RFC 7871 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// As it came: 0, 1 or 2.
    pub(crate) family: u16,
    /// How many bits the sender gave.
    pub(crate) source: u8,
    /// The bits, the rest zero.
    pub(crate) address: IpAddr,
}

/// Bits before the IPv4 address in an IPv6 address that only maps one (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

impl Subnet {
    /// The scope to tell the sender, when the answer depends on so many bits of the client's own address: what is told as an
    /// IPv6 address that maps an IPv4 one is looked up as the latter.
    pub(crate) fn scope_of(&self, bits: u8) -> u8 {
        match self.address {
            IpAddr::V6(address) if bits > 0 && address.to_ipv4_mapped().is_some() => {
                bits.saturating_add(MAPPED_BITS).min(128)
            }
            _ => bits,
        }
    }

    /// How many bytes of the address the sender wrote: as many as its bits need.
    pub(crate) fn address_bytes(&self) -> usize {
        usize::from(self.source).div_ceil(8)
    }
}

impl Question<'_> {
    /// True when the class is the Internet's.
    pub(crate) fn is_internet(&self) -> bool {
        self.class == CLASS_IN
    }
}

/// Reads a message. `None`: it must not be answered, since it is no message or an answer itself.
pub(crate) fn decode(message: &[u8]) -> Option<Request<'_>> {
    let mut request = Request::default();
    request.read(message).then_some(request)
}

impl<'m> Request<'m> {
    /// Reads a message into a request that has read nothing yet, where it is. False: it must not be answered, as above.
    pub(crate) fn read(&mut self, message: &'m [u8]) -> bool {
        let Some((header, body)) = message.split_first_chunk::<HEADER_BYTES>() else { return false };
        if header[2] & 0x80 != 0 {
            return false;
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        self.id = count(0);
        self.opcode = header[2] >> 3 & 0x0f;
        self.recursion_desired = header[2] & 0x01 != 0;
        if self.opcode != OPCODE_QUERY {
            // What follows the header may have any meaning, so nothing of it is echoed.
            self.fault = Some(Rcode::NOTIMP);
            return true;
        }
        let mut reader = Reader { message, rest: body };
        let records = [count(6), count(8), count(10)];
        if let Err(Fault(rcode)) = reader.body(count(4), records, self) {
            self.fault = Some(rcode);
        }
        true
    }
}

struct Fault(Rcode);

const FORMERR: Fault = Fault(Rcode::FORMERR);

/// A message, and what is left to read of it. What is returned lies within the message.
struct Reader<'m> {
    message: &'m [u8],
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    fn body(&mut self, questions: u16, records: [u16; 3], request: &mut Request<'m>) -> Result<(), Fault> {
        // RFC 9619 §4: a query has exactly one question, or none when it is for a cookie alone.
        match questions {
            0 => {}
            1 => request.question = Some(self.question()?),
            _ => return Err(FORMERR),
        }
        let [answers, authorities, additional] = records.map(u32::from);
        let mut fault = None;
        for number in 0..answers + authorities + additional {
            let start = self.rest;
            let record = self.record()?;
            if record.kind != Kind::OPT {
                continue;
            }
            // RFC 6891 §6.1.1: one OPT, in the additional section, owned by the root.
            if number < answers + authorities || request.edns.is_some() || start.first() != Some(&0) {
                return Err(FORMERR);
            }
            let edns = request.edns.insert(Edns {
                payload: record.class.max(512),
                dnssec_ok: record.ttl & 0x8000 != 0,
                compact_ok: record.ttl & 0xc000 == 0xc000,
                subnet: None,
                cookie: None,
                nsid: false,
            });
            // Options of another version may look like anything (RFC 6891 §6.1.3).
            if record.ttl >> 16 & 0xff != 0 {
                fault = Some(Fault(Rcode::BADVERS));
            } else if let Err(wrong) = read_options(record.data, edns) {
                fault = Some(wrong);
            }
        }
        let asks = questions > 0 || request.edns.as_ref().is_some_and(|edns| edns.cookie.is_some());
        if !self.rest.is_empty() || !asks {
            return Err(FORMERR);
        }
        fault.map_or(Ok(()), Err)
    }

    fn take(&mut self, bytes: usize) -> Result<&'m [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(FORMERR)?;
        self.rest = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<&'m [u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(FORMERR)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The one question. Nothing stands before it that a compressed name could point to.
    fn question(&mut self) -> Result<Question<'m>, Fault> {
        let start = self.rest;
        let mut bytes = 0;
        loop {
            let length = usize::from(*start.get(bytes).ok_or(FORMERR)?);
            bytes += 1 + length;
            if length == 0 {
                break;
            }
            if length > MAX_LABEL_BYTES || bytes >= MAX_NAME_BYTES {
                return Err(FORMERR);
            }
        }
        let wire = self.take(bytes + 4)?;
        let (name, kind_and_class) = wire.split_at(bytes);
        let number = |at: usize| u16::from_be_bytes([kind_and_class[at], kind_and_class[at + 1]]);
        Ok(Question { name, kind: Kind(number(0)), class: number(2), wire })
    }

    fn record(&mut self) -> Result<RawRecord<'m>, Fault> {
        self.pass_name()?;
        let head = self.chunk::<10>()?;
        let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        Ok(RawRecord {
            kind: Kind(number(0)),
            class: number(2),
            ttl: u32::from(number(4)) << 16 | u32::from(number(6)),
            data: self.take(usize::from(number(8)))?,
        })
    }

    /// Steps over a name. Where a pointer leads does not matter, but it leads back.
    fn pass_name(&mut self) -> Result<(), Fault> {
        let start = self.message.len() - self.rest.len();
        let mut left = MAX_NAME_BYTES;
        loop {
            let [length] = *self.chunk()?;
            match length {
                0 => return Ok(()),
                0xc0.. => {
                    let [low] = *self.chunk()?;
                    let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                    return if target < start { Ok(()) } else { Err(FORMERR) };
                }
                1..=0x3f => self.take(usize::from(length))?,
                _ => return Err(FORMERR),
            };
            left = left.checked_sub(1 + usize::from(length)).filter(|left| *left > 0).ok_or(FORMERR)?;
        }
    }
}

struct RawRecord<'m> {
    kind: Kind,
    class: u16,
    ttl: u32,
    data: &'m [u8],
}

fn read_options<'m>(mut data: &'m [u8], edns: &mut Edns<'m>) -> Result<(), Fault> {
    while !data.is_empty() {
        let (head, rest) = data.split_first_chunk::<4>().ok_or(FORMERR)?;
        let code = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(FORMERR)?;
        data = rest;
        match code {
            OPTION_CLIENT_SUBNET if edns.subnet.replace(read_subnet(value)?).is_some() => {
                return Err(FORMERR);
            }
            // RFC 7873 §5.2: of several cookies the first counts; one of a wrong length is a form error.
            OPTION_COOKIE if !matches!(length, 8 | 16..=40) => return Err(FORMERR),
            OPTION_COOKIE => edns.cookie = edns.cookie.or(Some(value)),
            OPTION_NSID => edns.nsid = true,
            _ => {}
        }
    }
    Ok(())
}

/// RFC 7871 §6 and §7.1.2: as many bytes as the prefix needs, no bit beyond it, scope zero in a query.
fn read_subnet(value: &[u8]) -> Result<Subnet, Fault> {
    let (head, given) = value.split_first_chunk::<4>().ok_or(FORMERR)?;
    let [source, scope] = [head[2], head[3]];
    let family = u16::from_be_bytes([head[0], head[1]]);
    let width: u8 = match family {
        0 => 0,
        1 => 32,
        2 => 128,
        _ => return Err(FORMERR),
    };
    if source > width || scope != 0 || given.len() != usize::from(source).div_ceil(8) {
        return Err(FORMERR);
    }
    if !source.is_multiple_of(8) && given.last().is_some_and(|last| last << (source % 8) != 0) {
        return Err(FORMERR);
    }
    let mut bytes = [0; 16];
    bytes[..given.len()].copy_from_slice(given);
    let address = if family == 2 {
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    };
    Ok(Subnet { family, source, address })
}
