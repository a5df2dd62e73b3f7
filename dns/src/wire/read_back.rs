//! For explanations: a question as a resolver would ask it, and its answer as a resolver would read it.

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Record, RecordType};
use ipnet::IpNet;

use super::{Rcode, kind_to_text, to_hickory};
use crate::name::Name;
use crate::zone::Kind;

/// What stands in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) rcode: Rcode,
    /// `OWNER TYPE DATA` of the answer section.
    pub(crate) records: Vec<String>,
    /// `OWNER NS DATA` of the authority section, when the answer is a referral (RFC 1034 §4.3.2 step 3b).
    pub(crate) referral: Vec<String>,
    /// The shortest TTL of the answer section, in seconds.
    pub(crate) ttl: Option<u32>,
}

/// The query of a resolver that tells its client's subnet. `None`: the library cannot write it.
pub(crate) fn ask(name: &Name, kind: Kind, client: IpNet) -> Option<Vec<u8>> {
    let mut query = Message::query();
    query.add_query(Query::query(to_hickory(name), RecordType::from(kind.0)));
    let mut edns = Edns::new();
    let subnet = ClientSubnet::new(client.network(), client.prefix_len(), 0);
    edns.options_mut().insert(EdnsOption::Subnet(subnet));
    query.set_edns(edns);
    query.to_vec().ok()
}

/// Reads an answer. `None`: it is none that the library can read.
pub(crate) fn read_back(message: &[u8]) -> Option<Answered> {
    let read = Message::from_vec(message).ok()?;
    let line = |record: &Record| {
        let kind = Kind(u16::from(record.record_type()));
        format!("{} {} {}", record.name, kind_to_text(kind), record.data)
    };
    let refers = !read.metadata.authoritative && read.answers.is_empty();
    let referral = read.authorities.iter().filter(|record| refers && record.record_type() == RecordType::NS);
    Some(Answered {
        rcode: Rcode(u16::from(read.metadata.response_code)),
        records: read.answers.iter().map(line).collect(),
        referral: referral.map(line).collect(),
        ttl: read.answers.iter().map(|record| record.ttl).min(),
    })
}
