//! Writes one message.

use std::borrow::Cow;
use std::sync::Arc;

use hickory_proto::ProtoError;
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::{CLASS_IN, Question, Rcode, Request, UDP_PAYLOAD_BYTES, to_hickory};
use crate::name::Name;
use crate::zone::Kind;

const FLAG_ANSWER: u8 = 0x80;
const FLAG_AUTHORITATIVE: u8 = 0x04;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const OPTION_CLIENT_SUBNET: u16 = 8;

/// Records with one owner and type.
#[derive(Debug, Clone)]
pub(crate) struct RrSet<'a> {
    pub(crate) owner: Cow<'a, Name>,
    pub(crate) kind: Kind,
    pub(crate) ttl: u32,
    pub(crate) data: Cow<'a, [Arc<[u8]>]>,
}

/// An answer, before it is bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply<'a> {
    pub(crate) rcode: Rcode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<RrSet<'a>>,
    pub(crate) authority: Vec<RrSet<'a>>,
    /// Addresses of name servers.
    pub(crate) additional: Vec<RrSet<'a>>,
    /// True when the answer is useless without what `additional` holds: glue of a referral (RFC 9471).
    pub(crate) additional_needed: bool,
    /// How many bits of the client's address the answer depends on.
    pub(crate) scope: u8,
}

impl Default for Rcode {
    fn default() -> Self {
        Self::NOERROR
    }
}

/// Writes `reply` to `out`, at most `limit` bytes of it (at least 512). Returns true when something needed did not
/// fit; the sender will ask again over TCP.
///
/// Sets of records are written whole or not at all (RFC 2181 §9).
pub(crate) fn encode(request: &Request, reply: &Reply<'_>, limit: u16, out: &mut Vec<u8>) -> bool {
    out.clear();
    let opt = opt_record(request, reply);
    let room = limit.max(512) - opt.len() as u16;
    let mut counts = [0u16; 4];
    let mut truncated = false;

    let mut encoder = BinEncoder::new(out);
    encoder.set_max_size(room);
    if encoder.emit_vec(&[0; 12]).is_ok()
        && let Some(question) = &request.question
        && emit_question(&mut encoder, question).is_ok()
    {
        counts[0] = 1;
    }
    let sections =
        [(&reply.answers, true), (&reply.authority, true), (&reply.additional, reply.additional_needed)];
    'sections: for (section, (sets, needed)) in sections.into_iter().enumerate() {
        for set in sets {
            if emit_set(&mut encoder, set) {
                counts[section + 1] += set.data.len() as u16;
            } else if needed {
                truncated = true;
                break 'sections;
            }
        }
    }
    if !opt.is_empty() {
        out.extend_from_slice(&opt);
        counts[3] += 1;
    }

    let mut flags = FLAG_ANSWER | request.opcode << 3;
    if reply.authoritative {
        flags |= FLAG_AUTHORITATIVE;
    }
    if truncated {
        flags |= FLAG_TRUNCATED;
    }
    if request.recursion_desired {
        flags |= FLAG_RECURSION_DESIRED;
    }
    out[..2].copy_from_slice(&request.id.to_be_bytes());
    out[2] = flags;
    out[3] = (reply.rcode.0 & 0x0f) as u8;
    for (at, count) in counts.into_iter().enumerate() {
        out[4 + 2 * at..6 + 2 * at].copy_from_slice(&count.to_be_bytes());
    }
    truncated
}

fn emit_question(encoder: &mut BinEncoder<'_>, question: &Question) -> Result<(), ProtoError> {
    to_hickory(&question.name).emit(encoder)?;
    encoder.emit_u16(question.kind.0)?;
    encoder.emit_u16(question.class)
}

/// Writes a whole set, or nothing and returns false.
fn emit_set(encoder: &mut BinEncoder<'_>, set: &RrSet<'_>) -> bool {
    let start = encoder.offset();
    let owner = to_hickory(&set.owner);
    let written = set.data.iter().try_for_each(|data| {
        owner.emit(encoder)?;
        encoder.emit_u16(set.kind.0)?;
        encoder.emit_u16(CLASS_IN)?;
        encoder.emit_u32(set.ttl)?;
        encoder.emit_u16(data.len() as u16)?;
        encoder.emit_vec(data)
    });
    if written.is_err() {
        encoder.set_offset(start);
        encoder.trim();
    }
    written.is_ok()
}

/// The OPT record, when the sender speaks EDNS (RFC 6891 §7): empty otherwise.
fn opt_record(request: &Request, reply: &Reply<'_>) -> Vec<u8> {
    let Some(edns) = &request.edns else { return Vec::new() };
    let mut opt = Vec::with_capacity(36);
    opt.push(0);
    opt.extend_from_slice(&Kind::OPT.0.to_be_bytes());
    opt.extend_from_slice(&UDP_PAYLOAD_BYTES.to_be_bytes());
    opt.push((reply.rcode.0 >> 4) as u8);
    opt.push(0);
    opt.extend_from_slice(&[if edns.dnssec_ok { 0x80 } else { 0 }, 0]);
    match &edns.subnet {
        None => opt.extend_from_slice(&[0, 0]),
        Some(subnet) => {
            let address = subnet.address_bytes();
            opt.extend_from_slice(&(8 + address.len() as u16).to_be_bytes());
            opt.extend_from_slice(&OPTION_CLIENT_SUBNET.to_be_bytes());
            opt.extend_from_slice(&(4 + address.len() as u16).to_be_bytes());
            opt.extend_from_slice(&subnet.family.to_be_bytes());
            // RFC 7871 §7.2.1: who gave no bits gets an answer that depends on none.
            let scope = if subnet.source == 0 { 0 } else { reply.scope };
            opt.extend_from_slice(&[subnet.source, scope]);
            opt.extend_from_slice(&address);
        }
    }
    opt
}
