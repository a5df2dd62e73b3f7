//! A client for looking at one name server: what the demo and checks ask with. It is no resolver.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::{Rcode, to_hickory};
use crate::check::{Seen, SeenData, SeenRecord, SeenSoa};
use crate::name::Name as OwnName;
use crate::responder::Transport;
use crate::zone::Kind;

/// Asks `server` over UDP for the addresses of `name`, as a resolver that serves clients in `subnet` would (RFC 7871).
///
/// One query, one answer, at most `timeout`: the caller repeats what was lost. Answers with another id are passed over.
///
/// # Errors
/// No answer in time, an answer that cannot be read, or a response code other than NOERROR.
pub async fn addresses(
    server: SocketAddr,
    name: &str,
    subnet: Option<IpNet>,
    timeout: Duration,
) -> io::Result<Vec<IpAddr>> {
    let name = Name::from_utf8(name).map_err(io::Error::other)?;
    let mut query = Message::query();
    query.add_query(Query::query(name, RecordType::A));
    let mut edns = Edns::new();
    if let Some(subnet) = subnet {
        let subnet = ClientSubnet::new(subnet.network(), subnet.prefix_len(), 0);
        edns.options_mut().insert(EdnsOption::Subnet(subnet));
    }
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let answer = within(timeout, server, over_udp(server, &bytes)).await?;
    if answer.metadata.response_code != ResponseCode::NoError {
        return Err(io::Error::other(format!("{server} answers {}", answer.metadata.response_code)));
    }
    let records = answer.answers.iter();
    Ok(records
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        })
        .collect())
}

/// What a server is asked.
#[derive(Debug, Clone, Copy)]
pub struct Inquiry<'n> {
    /// The name.
    pub name: &'n OwnName,
    /// The type.
    pub kind: Kind,
    /// Wishes for recursion (RD).
    pub recursion: bool,
    /// With EDNS of this version.
    pub edns: Option<u8>,
}

/// Asks `server` once, and tells what it said whatever the response code.
///
/// # Errors
/// No answer in time, or one that cannot be read or is to another question.
pub async fn ask_server(
    server: SocketAddr,
    transport: Transport,
    inquiry: Inquiry<'_>,
    timeout: Duration,
) -> io::Result<Seen> {
    let mut query = Message::query();
    query.metadata.recursion_desired = inquiry.recursion;
    query.add_query(Query::query(to_hickory(inquiry.name), RecordType::from(inquiry.kind.0)));
    if let Some(version) = inquiry.edns {
        let mut edns = Edns::new();
        edns.set_version(version).set_max_payload(super::UDP_PAYLOAD_BYTES);
        query.set_edns(edns);
    }
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let answer = match transport {
        Transport::Udp => within(timeout, server, over_udp(server, &bytes)).await?,
        Transport::Tcp => within(timeout, server, over_tcp(server, &bytes)).await?,
    };
    // An answer of another version may repeat no question.
    if answer.queries.first().is_some_and(|asked| asked != &query.queries[0]) {
        return Err(io::Error::other(format!("{server} answers another question")));
    }
    Ok(seen(&answer))
}

async fn within<T>(
    timeout: Duration,
    server: SocketAddr,
    answer: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("{server} does not answer"));
    tokio::time::timeout(timeout, answer).await.map_err(|_| silent())?
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = Message::from_vec(&buffer[..length]).map_err(io::Error::other)?;
        if buffer[..2] == query[..2] {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let framed = [&(query.len() as u16).to_be_bytes(), query].concat();
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Message::from_vec(&answer).map_err(io::Error::other)
}

fn seen(answer: &Message) -> Seen {
    let section = |records: &[Record]| records.iter().filter_map(seen_record).collect();
    let code = u16::from(answer.metadata.response_code);
    Seen {
        rcode: Rcode(code),
        authoritative: answer.metadata.authoritative,
        recursion_available: answer.metadata.recursion_available,
        edns_payload: answer.edns.as_ref().map(Edns::max_payload),
        answers: section(&answer.answers),
        authorities: section(&answer.authorities),
        additionals: section(&answer.additionals),
    }
}

fn seen_record(record: &Record) -> Option<SeenRecord> {
    let data = match &record.data {
        RData::A(address) => SeenData::Address(address.0.into()),
        RData::AAAA(address) => SeenData::Address(address.0.into()),
        RData::NS(name) => SeenData::Name(own_name(&name.0)?),
        RData::CNAME(name) => SeenData::Name(own_name(&name.0)?),
        RData::SOA(soa) => SeenData::Soa(SeenSoa {
            primary: own_name(&soa.mname)?,
            contact: own_name(&soa.rname)?,
            serial: soa.serial,
            timers: [soa.refresh, soa.retry, soa.expire].map(|timer| timer.unsigned_abs()),
            minimum: soa.minimum,
        }),
        other => SeenData::Other(other.to_bytes().ok()?),
    };
    let kind = Kind(u16::from(record.record_type()));
    Some(SeenRecord { owner: own_name(&record.name)?, kind, ttl: record.ttl, data })
}

fn own_name(name: &Name) -> Option<OwnName> {
    OwnName::from_labels(name.iter()).ok()
}
