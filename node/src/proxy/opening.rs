//! The first bytes of a connection and of each head, looked at on their way to hyper.
//!
//! Two things hyper cannot tell: that a client on a plain listener speaks HTTP/2 from the start (RFC 9113 §3.3), and that
//! a head has both Content-Length and Transfer-Encoding, of which hyper drops the former (RFC 9112 §6.3 wants such a
//! request refused or its connection closed). Both are seen in what a read brings anyhow, without another system call.
//!
//! Only what arrives while no request is under way is looked at; a pipelined head is not, and hyper's rule, which is
//! safe, holds there.
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;

/// How HTTP/2 begins; no HTTP/1 method is called PRI.
const HTTP2: &[u8] = b"PRI ";

/// What was seen. Atomics only because the connection may travel with an upgrade.
#[derive(Debug, Default)]
pub(super) struct Seen {
    http2: OnceLock<Vec<u8>>,
    ambiguous: AtomicBool,
}

impl Seen {
    /// Whether the client speaks HTTP/2; the connection's bytes stop then.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.get().is_some()
    }

    /// The bytes an HTTP/2 client began with.
    pub(super) fn http2(&self) -> Option<&[u8]> {
        self.http2.get().map(Vec::as_slice)
    }

    /// Whether the head of the request that begins now tells its length twice.
    pub(super) fn take_ambiguous(&self) -> bool {
        self.ambiguous.load(Ordering::Relaxed) && self.ambiguous.swap(false, Ordering::Relaxed)
    }
}

/// A client's bytes on their way to hyper's HTTP/1.1 server.
#[derive(Debug)]
pub(super) struct Opening<T> {
    io: T,
    activity: Arc<Activity>,
    seen: Arc<Seen>,
    /// Bytes that were put back.
    again: Vec<u8>,
    /// The first bytes while they are too few to tell.
    first: Option<Vec<u8>>,
    head: Head,
}

impl<T> Opening<T> {
    /// `detects_http2`: whether a client may begin with HTTP/2; where ALPN agreed on HTTP/1.1 it may not.
    pub(super) fn new(io: T, activity: Arc<Activity>, seen: Arc<Seen>, detects_http2: bool) -> Self {
        Self {
            io,
            activity,
            seen,
            again: Vec::new(),
            first: detects_http2.then(Vec::new),
            head: Head::default(),
        }
    }

    fn look(&mut self, bytes: &[u8]) {
        if self.activity.is_busy() || self.head.ended {
            self.head = Head::default();
        }
        if !self.activity.is_busy() && self.head.read(bytes) {
            self.seen.ambiguous.store(true, Ordering::Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> Opening<T> {
    /// Takes back bytes that nobody used; the next reads bring them.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.again.splice(..0, bytes.iter().copied());
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.again.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let fits = self.again.len().min(buf.remaining());
        buf.put_slice(&self.again[..fits]);
        self.again.drain(..fits);
        if self.again.is_empty() {
            self.again = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Opening<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let before = buf.filled().len();
            ready!(self.poll_bytes(cx, buf))?;
            let read = &buf.filled()[before..];
            let Some(first) = &mut self.first else {
                self.look(read);
                return Poll::Ready(Ok(()));
            };
            let ended = read.is_empty();
            first.extend_from_slice(read);
            if first.starts_with(HTTP2) {
                let first = self.first.take().unwrap_or_default();
                let _ = self.seen.http2.set(first);
                // The connection's task looks at `seen` next and lets hyper go.
                buf.set_filled(before);
                return Poll::Pending;
            }
            let undecided = HTTP2.starts_with(first.as_slice()) && !ended;
            if undecided {
                buf.set_filled(before);
                continue;
            }
            let first = self.first.take().unwrap_or_default();
            self.look(&first);
            // What was held back is at most three bytes and this read: it fits where this read fitted, unless the
            // buffer is absurdly small.
            buf.set_filled(before);
            if buf.remaining() < first.len() {
                return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
            }
            buf.put_slice(&first);
            return Poll::Ready(Ok(()));
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Opening<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Looks for the two headers that tell a body's length, line by line, however the reads cut the head (pure).
#[derive(Debug, Default)]
struct Head {
    /// Bytes of the present line that were read before, at most as many as tell its name.
    line: [u8; NAME_MAX],
    filled: u8,
    length: bool,
    coding: bool,
    began: bool,
    ended: bool,
    told: bool,
}

/// `transfer-encoding` and its colon.
const NAME_MAX: usize = 18;

impl Head {
    /// Reads on; true once, when both headers have been seen.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !self.ended && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if let (Some(end), 0, Some(first)) = (end, self.filled, part.first()) {
                // Most lines are whole, and their first letter says that they are neither header.
                if !matches!(first, b'\r' | b'c' | b'C' | b't' | b'T') {
                    self.began = true;
                    bytes = &bytes[end + 1..];
                    continue;
                }
            }
            let at = usize::from(self.filled);
            let kept = part.len().min(NAME_MAX - at);
            self.line[at..at + kept].copy_from_slice(&part[..kept]);
            self.filled += kept as u8;
            let Some(end) = end else { break };
            let line = &self.line[..usize::from(self.filled)];
            match line.first() {
                // An empty line before the head is none of it (RFC 9112 §2.2).
                None | Some(b'\r') => self.ended = self.began,
                Some(b'c' | b'C') => self.length |= is_named(line, b"content-length:"),
                Some(b't' | b'T') => self.coding |= is_named(line, b"transfer-encoding:"),
                Some(_) => {}
            }
            self.began |= !matches!(line.first(), None | Some(b'\r'));
            self.filled = 0;
            bytes = &bytes[end + 1..];
        }
        let both = self.length && self.coding && !self.told;
        self.told |= both;
        both
    }
}

fn is_named(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn both(head: &[u8]) -> bool {
        Head::default().read(head)
    }

    #[test]
    fn two_lengths_are_seen_in_any_order_and_spelling() {
        assert!(both(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(both(b"POST / HTTP/1.1\r\nTRANSFER-encoding:chunked\r\nhost: x\r\ncontent-LENGTH:3\r\n\r\n"));
        assert!(!both(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nContent-Length: 3\r\n"));
        assert!(!both(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"));
        assert!(both(b"\r\n\r\nPOST / HTTP/1.1\nContent-Length: 3\nTransfer-Encoding: chunked\n\n"));
        assert!(!both(b"GET / HTTP/1.1\r\nx-transfer-encoding: y\r\nx-content-length: 3\r\n\r\n"));
    }

    /// What is handed on of a client's first bytes, read in these pieces, and what was seen of HTTP/2.
    async fn opened(pieces: &[&[u8]]) -> (Vec<u8>, Option<Vec<u8>>) {
        let seen = Arc::new(Seen::default());
        let activity = Arc::new(Activity::new(gossip::clock::Clock::system().now()));
        let (mut client, io) = tokio::io::duplex(1024);
        let mut opening = Opening::new(io, activity, seen.clone(), true);
        let mut read = Vec::new();
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            // A read that waits has taken all there is.
            while opening.read_buf(&mut read).now_or_never().is_some() {}
        }
        (read, seen.http2().map(<[u8]>::to_vec))
    }

    #[tokio::test]
    async fn the_first_bytes_in_pieces() {
        let pieces: [&[u8]; 4] = [b"P", b"R", b"OPFIND / HT", b"TP/1.1\r\n\r\n"];
        assert_eq!(opened(&pieces).await, (pieces.concat(), None));
        assert_eq!(opened(&[b"G", b"ET /"]).await, (b"GET /".to_vec(), None));
        assert_eq!(opened(&[b"P", b"R"]).await, (Vec::new(), None), "it may be either");
        let (read, seen) = opened(&[b"PR", b"I * HTTP/2.0\r\n\r\nS"]).await;
        assert_eq!((read, seen), (Vec::new(), Some(b"PRI * HTTP/2.0\r\n\r\nS".to_vec())));
    }

    proptest! {
        #[test]
        fn however_the_reads_cut_it(cuts in proptest::collection::vec(1usize..30, 0..40)) {
            let head: &[u8] = b"POST /a?b HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\nAccept: */*\r\nContent-Length: 3\r\n\r\nabc";
            let mut scan = Head::default();
            let (mut rest, mut seen) = (head, 0);
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                seen += u32::from(scan.read(now));
                rest = later;
            }
            seen += u32::from(scan.read(rest));
            prop_assert_eq!(seen, 1);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let mut scan = Head::default();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let _ = (scan.read(first), scan.read(second));
        }
    }
}
