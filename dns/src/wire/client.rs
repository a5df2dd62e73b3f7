//! A client for looking at one name server: what the demo and checks ask with. It is no resolver.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use ipnet::IpNet;
use tokio::net::UdpSocket;

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
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let answer = async {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let answer = Message::from_vec(&buffer[..length]).map_err(io::Error::other)?;
            if answer.metadata.id == query.metadata.id {
                return Ok::<_, io::Error>(answer);
            }
        }
    };
    let answer = tokio::time::timeout(timeout, answer)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{server} does not answer")))??;
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
