//! The first words of a TLS connection that is passed on unopened: read far enough to know the name that is asked for, and
//! kept, so that the backend hears them as they were said.
//!
//! rustls parses them (its `Acceptor` ends nothing by itself); what it would refuse to speak with is refused here too: a
//! client without signature algorithms, which none of TLS 1.2 or later is.
use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;

/// From the connection to the last byte of its ClientHello.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read at most. A hello with post-quantum key shares and a session ticket takes some 2 KiB.
const MAX_BYTES: usize = 16 * 1024;
/// Room for most hellos.
const USUAL_BYTES: usize = 2048;

/// A fatal alert: unrecognized_name (RFC 6066 §3), in a record of TLS 1.2.
pub(super) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a client began with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// All that was read: the ClientHello, and perhaps what came right behind it.
    pub(super) bytes: Vec<u8>,
    /// The name that is asked for (SNI), in lower case.
    pub(super) name: Option<String>,
}

/// The bytes are no ClientHello, or too many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a TLS ClientHello")]
pub(super) struct Malformed;

/// Puts a ClientHello together (pure).
#[derive(Default)]
pub(super) struct Reader {
    acceptor: Acceptor,
    seen: usize,
}

impl Reader {
    /// Takes further bytes; the name when the ClientHello is complete with them.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Option<String>>, Malformed> {
        self.seen += bytes.len();
        while !bytes.is_empty() {
            let taken = self.acceptor.read_tls(&mut bytes).map_err(|_| Malformed)?;
            if let Some(accepted) = self.acceptor.accept().map_err(|_| Malformed)? {
                return Ok(Some(accepted.client_hello().server_name().map(str::to_owned)));
            }
            if taken == 0 {
                return Err(Malformed);
            }
        }
        if self.seen >= MAX_BYTES { Err(Malformed) } else { Ok(None) }
    }
}

/// Reads a connection's ClientHello.
///
/// # Errors
/// When there is none within the bounds of length and time.
pub(super) async fn read(stream: &TcpStream) -> io::Result<Hello> {
    let read = tokio::time::timeout(PATIENCE, read_whole(stream)).await;
    read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read_whole(stream: &TcpStream) -> io::Result<Hello> {
    let mut reader = Reader::default();
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    loop {
        stream.readable().await?;
        if bytes.len() == bytes.capacity() {
            bytes.reserve_exact(MAX_BYTES - bytes.len());
        }
        let known = bytes.len();
        match stream.try_read_buf(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let name = reader.feed(&bytes[known..]);
        if let Some(name) = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            return Ok(Hello { bytes, name });
        }
    }
}

#[cfg(test)]
pub(in crate::proxy) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What rustls says first when it asks for `name`.
    pub(in crate::proxy) fn hello(name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client =
            ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of at most `size` bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let mut bytes = hello[..3].to_vec();
            bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
            bytes.extend_from_slice(part);
            bytes
        };
        hello[5..].chunks(size).flat_map(record).collect()
    }

    fn read_at_once(bytes: &[u8]) -> Result<Option<Option<String>>, Malformed> {
        Reader::default().feed(bytes)
    }

    #[test]
    fn the_name_is_found_and_an_address_is_none() {
        assert_eq!(read_at_once(&hello("Shop.Example.com")), Ok(Some(Some("shop.example.com".into()))));
        assert_eq!(read_at_once(&hello("192.0.2.1")), Ok(Some(None)));
        let followed = [&hello("a.example")[..], b"\x14\x03\x03\x00\x01\x01"].concat();
        assert_eq!(read_at_once(&followed), Ok(Some(Some("a.example".into()))));
    }

    #[test]
    fn what_is_no_hello_is_refused_early() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
            b"\x16\x03\x01\xff\xff\x01",
            b"\x15\x03\x03\x00\x02\x02\x28",
            b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
        ] {
            assert_eq!(read_at_once(bytes), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn an_endless_hello_is_cut() {
        // A hello of 64 KiB, as far as it says, that never ends.
        let mut endless = b"\x16\x03\x01\x40\x00\x01\x00\xf0\x00\x03\x03".to_vec();
        endless.resize(5 + 0x4000, 0);
        let mut reader = Reader::default();
        let mut fed = 0;
        let refused = endless.chunks(1000).any(|chunk| {
            fed += chunk.len();
            reader.feed(chunk).is_err()
        });
        assert!(refused && fed <= MAX_BYTES + 1000);
    }

    proptest! {
        #[test]
        fn any_pieces_and_records_make_the_same_hello(cuts in prop::collection::vec(1_usize..90, 1..6), size in 1_usize..400) {
            let bytes = in_records(&hello("shop.example.com"), size);
            let mut reader = Reader::default();
            let mut left = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (piece, behind) = left.split_at((*cut).min(left.len()));
                left = behind;
                let read = reader.feed(piece);
                if left.is_empty() {
                    prop_assert_eq!(read, Ok(Some(Some("shop.example.com".into()))));
                    break;
                }
                prop_assert_eq!(read, Ok(None));
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), begin in 0_usize..80) {
            let _ = read_at_once(&bytes);
            let hello = hello("shop.example.com");
            let _ = read_at_once(&[&hello[..begin], &bytes].concat());
            let mut changed = hello;
            for (at, byte) in bytes.iter().enumerate().take(4) {
                let at = 5 + (usize::from(*byte) * 7 + at * 31) % (changed.len() - 5);
                changed[at] = changed[at].wrapping_add(*byte);
            }
            let _ = read_at_once(&changed);
        }
    }
}
