//! Who a connection is for: its peer, or whom a balancer in front of this node names.
//!
//! The header alone is taken out of the connection, to its last byte: what is there is looked at first and read then, so
//! that whatever comes next finds the connection as if it began there.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::parse::{Header, MAX_BYTES, Malformed, Progress, parse};
use crate::config::model::Listener;
use crate::proxy::forwarded::{holds, plain};
use crate::proxy::outcome::End;

/// From the connection to the last byte of its header. A balancer sends the header at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is looked at first: any header without extensions fits.
const FIRST_LOOK: usize = 232;

/// Whom a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Arrival {
    /// The client, as lists, limits and backends know it.
    pub(in crate::proxy) client: SocketAddr,
    /// Where the client connected to.
    pub(in crate::proxy) local: SocketAddr,
}

/// Finds out whom a connection is for. From the sources that the listener names, a PROXY header is required; from all
/// others it is none, and its bytes are the protocol's.
///
/// # Errors
/// When there is no valid header in time, or no connection any more.
pub(in crate::proxy) async fn arrive(
    listener: &Listener,
    stream: &TcpStream,
    peer: SocketAddr,
) -> Result<Arrival, End> {
    let own = Arrival { client: peer, local: stream.local_addr().map_err(|_| End::ClientGone)? };
    if listener.accept_proxy.is_empty() || !holds(&listener.accept_proxy, plain(peer.ip())) {
        return Ok(own);
    }
    match tokio::time::timeout(PATIENCE, take(stream)).await {
        Ok(Ok(Header::For { client, local })) => Ok(Arrival { client, local }),
        Ok(Ok(Header::Own)) => Ok(own),
        Ok(Err(error)) => {
            tracing::debug!(client.addr = %peer, %error, "no PROXY header");
            Err(End::BadProxyHeader)
        }
        Err(_) => {
            tracing::debug!(client.addr = %peer, "no PROXY header in time");
            Err(End::BadProxyHeader)
        }
    }
}

/// Takes the header out of the connection.
async fn take(stream: &TcpStream) -> io::Result<Header> {
    let mut bytes = vec![0; FIRST_LOOK];
    let mut taken = 0;
    loop {
        if taken == bytes.len() {
            // Full and not malformed: the length that it names is greater, and within bounds.
            bytes.resize(MAX_BYTES, 0);
        }
        let seen = taken + stream.peek(&mut bytes[taken..]).await?;
        if seen == taken {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (header, upto) = match parse(&bytes[..seen]) {
            Ok(Progress::Complete(header, length)) => (Some(header), length),
            Ok(Progress::Partial) => (None, seen),
            Err(error @ Malformed) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        while taken < upto {
            match stream.try_read(&mut bytes[taken..upto]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => taken += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
                Err(error) => return Err(error),
            }
        }
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::proxy::fixture;

    /// What arrives when a client writes `pieces` one after the other, and what is left to read.
    async fn arrived(accept: &str, pieces: &[&[u8]]) -> (Result<Arrival, End>, Vec<u8>, SocketAddr) {
        let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listening.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut stream, peer) = listening.accept().await.unwrap();
        let mut listener = fixture::http_listener("h", 80);
        listener.accept_proxy = vec![accept.parse().unwrap()];
        let write = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (arrival, ()) = tokio::join!(arrive(&listener, &stream, peer), write);
        let mut rest = Vec::new();
        if arrival.is_ok() {
            stream.read_to_end(&mut rest).await.unwrap();
        }
        (arrival, rest, peer)
    }

    #[tokio::test]
    async fn the_header_alone_is_taken() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n";
        let known =
            Arrival { client: "192.0.2.1:5000".parse().unwrap(), local: "198.51.100.2:443".parse().unwrap() };
        let (arrival, rest, _) = arrived("127.0.0.0/8", &[line, b"hello"]).await;
        assert_eq!((arrival, &rest[..]), (Ok(known), &b"hello"[..]));
        let whole = [&line[..], b"hello"].concat();
        let (arrival, rest, _) = arrived("127.0.0.0/8", &whole.chunks(1).collect::<Vec<_>>()).await;
        assert_eq!((arrival, &rest[..]), (Ok(known), &b"hello"[..]));
    }

    #[tokio::test]
    async fn a_long_header_is_taken_too() {
        let mut header =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0b\xc2\xc0\0\x02\x01\xc6\x33\x64\x02\x13\x88\x01\xbb\x04\x0b\xb3"
                .to_vec();
        header.resize(16 + 0xbc2, 0);
        header.extend_from_slice(b"hello");
        let (arrival, rest, _) = arrived("127.0.0.1/32", &header.chunks(700).collect::<Vec<_>>()).await;
        assert_eq!(arrival.unwrap().client, "192.0.2.1:5000".parse().unwrap());
        assert_eq!(rest, b"hello");
    }

    #[tokio::test]
    async fn without_a_header_there_is_no_connection_and_from_others_it_is_none() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 192.0.2.1", b""] {
            assert_eq!(arrived("127.0.0.0/8", &[bytes]).await.0, Err(End::BadProxyHeader));
        }
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n";
        let (arrival, rest, peer) = arrived("10.0.0.0/8", &[line]).await;
        assert_eq!((arrival.unwrap().client, &rest[..]), (peer, &line[..]));
        let (arrival, rest, peer) = arrived("127.0.0.0/8", &[b"PROXY UNKNOWN\r\n", b"hello"]).await;
        assert_eq!((arrival.unwrap().client, &rest[..]), (peer, &b"hello"[..]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_pieces_make_the_same_header(cuts in prop::collection::vec(1_usize..30, 1..8)) {
            let whole = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x13\x88\x01\xbbhello".to_vec();
            let mut pieces = Vec::new();
            let mut left = &whole[..];
            for cut in cuts.iter().cycle() {
                let (piece, behind) = left.split_at((*cut).min(left.len()));
                pieces.push(piece);
                left = behind;
                if left.is_empty() {
                    break;
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (arrival, rest, _) = runtime.block_on(arrived("127.0.0.0/8", &pieces));
            prop_assert_eq!(arrival.unwrap().client, "192.0.2.1:5000".parse().unwrap());
            prop_assert_eq!(&rest[..], b"hello");
        }
    }
}
