//! Reads one message from a stranger.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name as HickoryName;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use super::{CLASS_IN, Rcode};
use crate::name::Name;
use crate::zone::Kind;

const HEADER_BYTES: usize = 12;
const OPCODE_QUERY: u8 = 0;
const OPTION_CLIENT_SUBNET: u16 = 8;

/// A message that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Copied to the answer.
    pub(crate) id: u16,
    /// Copied to the answer.
    pub(crate) opcode: u8,
    /// Copied to the answer.
    pub(crate) recursion_desired: bool,
    /// The question, when there is one that can be read.
    pub(crate) question: Option<Question>,
    /// EDNS, when the sender speaks it.
    pub(crate) edns: Option<Edns>,
    /// Why there can be no answer but this code.
    pub(crate) fault: Option<Rcode>,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    pub(crate) class: u16,
}

/// The OPT record (RFC 6891 §6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edns {
    /// What the sender can take over UDP, at least 512.
    pub(crate) payload: u16,
    /// Wants signatures (RFC 3225): copied to the answer.
    pub(crate) dnssec_ok: bool,
    /// Where the user is.
    pub(crate) subnet: Option<Subnet>,
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

impl Subnet {
    /// The address's bytes as the sender wrote them: as many as its bits need.
    pub(crate) fn address_bytes(&self) -> Vec<u8> {
        let mut bytes = match self.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        bytes.truncate(usize::from(self.source).div_ceil(8));
        bytes
    }
}

/// Reads a message. `None`: it must not be answered, since it is no message or an answer itself.
pub(crate) fn decode(message: &[u8]) -> Option<Request> {
    let header = message.first_chunk::<HEADER_BYTES>()?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let mut request = Request {
        id: count(0),
        opcode: header[2] >> 3 & 0x0f,
        recursion_desired: header[2] & 0x01 != 0,
        question: None,
        edns: None,
        fault: None,
    };
    if request.opcode != OPCODE_QUERY {
        // What follows the header may have any meaning, so nothing of it is echoed.
        request.fault = Some(Rcode::NOTIMP);
        return Some(request);
    }
    let mut decoder = BinDecoder::new(message);
    let body = decoder
        .read_slice(HEADER_BYTES)
        .map_err(Fault::from)
        .and_then(|_| decode_body(&mut decoder, count(4), [count(6), count(8), count(10)], &mut request));
    if let Err(Fault(rcode)) = body {
        request.fault = Some(rcode);
    }
    Some(request)
}

struct Fault(Rcode);

impl From<DecodeError> for Fault {
    fn from(_: DecodeError) -> Self {
        Self(Rcode::FORMERR)
    }
}

const FORMERR: Fault = Fault(Rcode::FORMERR);

fn decode_body(
    decoder: &mut BinDecoder<'_>,
    questions: u16,
    records: [u16; 3],
    request: &mut Request,
) -> Result<(), Fault> {
    // RFC 9619 §4: a query has exactly one question.
    if questions != 1 {
        return Err(FORMERR);
    }
    request.question = Some(read_question(decoder)?);
    let mut fault = None;
    for (section, count) in records.into_iter().enumerate() {
        for _ in 0..count {
            let record = read_record(decoder)?;
            if record.kind != Kind::OPT {
                continue;
            }
            // RFC 6891 §6.1.1: one OPT, in the additional section, owned by the root.
            if section != 2 || request.edns.is_some() || !record.owner.is_root() {
                return Err(FORMERR);
            }
            request.edns = Some(Edns {
                payload: record.class.max(512),
                dnssec_ok: record.ttl & 0x8000 != 0,
                subnet: None,
            });
            let version = record.ttl >> 16 & 0xff;
            if version != 0 {
                fault = Some(Fault(Rcode::BADVERS));
                continue;
            }
            match read_options(record.data) {
                Ok(subnet) => request.edns.iter_mut().for_each(|edns| edns.subnet = subnet),
                Err(wrong) => fault = Some(wrong),
            }
        }
    }
    if !decoder.is_empty() {
        return Err(FORMERR);
    }
    fault.map_or(Ok(()), Err)
}

fn read_question(decoder: &mut BinDecoder<'_>) -> Result<Question, Fault> {
    let name = read_name(decoder)?;
    let kind = Kind(decoder.read_u16()?.unverified());
    let class = decoder.read_u16()?.unverified();
    Ok(Question { name, kind, class })
}

fn read_name(decoder: &mut BinDecoder<'_>) -> Result<Name, Fault> {
    let name = HickoryName::read(decoder)?;
    Name::from_labels(name.iter()).map_err(|_| FORMERR)
}

struct RawRecord<'a> {
    owner: Name,
    kind: Kind,
    class: u16,
    ttl: u32,
    data: &'a [u8],
}

fn read_record<'a>(decoder: &mut BinDecoder<'a>) -> Result<RawRecord<'a>, Fault> {
    let Question { name: owner, kind, class } = read_question(decoder)?;
    let ttl = decoder.read_u32()?.unverified();
    let length = decoder.read_u16()?.unverified();
    let data = decoder.read_slice(usize::from(length))?.unverified();
    Ok(RawRecord { owner, kind, class, ttl, data })
}

fn read_options(mut data: &[u8]) -> Result<Option<Subnet>, Fault> {
    let mut subnet = None;
    while !data.is_empty() {
        let (head, rest) = data.split_first_chunk::<4>().ok_or(FORMERR)?;
        let code = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(FORMERR)?;
        data = rest;
        if code == OPTION_CLIENT_SUBNET && subnet.replace(read_subnet(value)?).is_some() {
            return Err(FORMERR);
        }
    }
    Ok(subnet)
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

impl Question {
    /// True when the class is the Internet's.
    pub(crate) fn is_internet(&self) -> bool {
        self.class == CLASS_IN
    }
}
