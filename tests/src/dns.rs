//! A resolver's question to one name server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// One try over UDP; a resolver asks again.
const TRY: Duration = Duration::from_millis(1500);
const TRIES: usize = 3;
const PAYLOAD_MAX_BYTES: u16 = 1232;

/// How a question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Datagrams, tried again when lost.
    Udp,
    /// A connection.
    Tcp,
}

/// A question in the making.
#[derive(Debug, Clone)]
pub struct Question {
    message: Message,
    over: Over,
}

impl Question {
    /// For a name and a type.
    pub fn new(name: &str, kind: RecordType) -> Result<Self> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str(name).context("a name")?, kind));
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_MAX_BYTES);
        message.set_edns(edns);
        Ok(Self { message, over: Over::Udp })
    }

    /// The addresses of a name.
    pub fn addresses(name: &str) -> Result<Self> {
        Self::new(name, RecordType::A)
    }

    /// For users of this network (RFC 7871).
    pub fn for_users(mut self, network: &str) -> Result<Self> {
        let subnet: ClientSubnet = network.parse().context("a network")?;
        let edns = self.message.edns.get_or_insert_with(Edns::new);
        edns.options_mut().insert(EdnsOption::Subnet(subnet));
        Ok(self)
    }

    /// As somebody who wants to know whether the answer was validated, and its signatures.
    #[must_use]
    pub fn validated(mut self) -> Self {
        self.message.metadata.recursion_desired = true;
        self.message.edns.get_or_insert_with(Edns::new).set_dnssec_ok(true);
        self
    }

    /// Over TCP.
    #[must_use]
    pub fn over_tcp(mut self) -> Self {
        self.over = Over::Tcp;
        self
    }

    /// The question's bytes, with a new id.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut message = self.message.clone();
        message.metadata.id = rand::random();
        Ok(message.to_vec()?)
    }

    /// Asks.
    pub async fn ask(&self, server: SocketAddr) -> Result<Answer> {
        let question = self.bytes()?;
        let bytes = match self.over {
            Over::Udp => ask_udp(&question, server).await,
            Over::Tcp => timeout(TRY * 2, ask_tcp(&question, server)).await.context("no answer over TCP")?,
        };
        Answer::read(&bytes.with_context(|| format!("asking {server}"))?)
    }
}

/// The addresses of a steered name as users of `network` get them from `server`.
pub async fn resolve(server: SocketAddr, name: &str, network: &str) -> Result<Answer> {
    Question::addresses(name)?.for_users(network)?.ask(server).await
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The whole message.
    pub message: Message,
    /// The response code.
    pub code: ResponseCode,
    /// All A and AAAA of the answer section, in order.
    pub addresses: Vec<IpAddr>,
    /// The smallest TTL of the answer section, in seconds.
    pub ttl: Option<u32>,
    /// The scope prefix length, if the answer has one.
    pub scope: Option<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Result<Self> {
        let message = Message::from_vec(bytes).context("reading the answer")?;
        ensure!(message.metadata.message_type == MessageType::Response, "a question instead of an answer");
        let addresses = message.answers.iter().filter_map(|record| match record.data {
            RData::A(a) => Some(IpAddr::from(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::from(aaaa.0)),
            _ => None,
        });
        let scope = message.edns.as_ref().and_then(|edns| match edns.option(EdnsCode::Subnet) {
            Some(EdnsOption::Subnet(subnet)) => Some(subnet.scope_prefix()),
            _ => None,
        });
        Ok(Self {
            code: message.metadata.response_code,
            addresses: addresses.collect(),
            ttl: message.answers.iter().map(|record| record.ttl).min(),
            scope,
            message,
        })
    }

    /// Its IPv4 addresses, in order.
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// An error unless there are addresses and every one is among `nodes`.
    pub fn only(&self, nodes: &[Ipv4Addr]) -> Result<()> {
        ensure!(self.code == ResponseCode::NoError, "{}", self.code);
        if self.addresses.is_empty() {
            bail!("no addresses in {}", self.message);
        }
        for address in &self.addresses {
            ensure!(
                nodes.iter().any(|node| IpAddr::from(*node) == *address),
                "{address} is not among {nodes:?}"
            );
        }
        Ok(())
    }

    /// An error unless a resolver found it to be signed as it should be.
    pub fn must_be_secure(&self) -> Result<()> {
        ensure!(self.message.metadata.authentic_data, "not validated: {}", self.message);
        Ok(())
    }

    /// Whether this address is in the answer.
    pub fn names(&self, node: Ipv4Addr) -> bool {
        self.addresses.contains(&IpAddr::from(node))
    }
}

async fn ask_udp(question: &[u8], server: SocketAddr) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    for _ in 0..TRIES {
        socket.send(question).await?;
        let mut answer = vec![0; 4096];
        match timeout(TRY, answer_to(&socket, question, &mut answer)).await {
            Ok(length) => {
                answer.truncate(length?);
                return Ok(answer);
            }
            Err(_) => continue,
        }
    }
    bail!("no answer to {TRIES} questions")
}

/// The next datagram with the question's id.
async fn answer_to(socket: &UdpSocket, question: &[u8], answer: &mut [u8]) -> Result<usize> {
    loop {
        let length = socket.recv(answer).await?;
        if length >= 2 && answer[..2] == question[..2] {
            return Ok(length);
        }
    }
}

async fn ask_tcp(question: &[u8], server: SocketAddr) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_u16(question.len() as u16).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    ensure!(answer.get(..2) == question.get(..2), "the answer is to another question");
    Ok(answer)
}
