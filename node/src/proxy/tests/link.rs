//! A tunnel's stream in memory, as QUIC would carry it: bytes are under way for a moment, and an end that is dropped without a
//! shutdown is reset, which overtakes what is still under way.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Sleep;

const WINDOW_BYTES: usize = 64 * 1024;
const LATENCY: Duration = Duration::from_millis(1);

/// One end.
pub(super) struct End {
    io: DuplexStream,
    shut: bool,
    reset: Arc<AtomicBool>,
    other_reset: Arc<AtomicBool>,
    under_way: Option<(Vec<u8>, Pin<Box<Sleep>>)>,
}

impl End {
    pub(super) fn pair() -> (Self, Self) {
        let (near, far) = tokio::io::duplex(WINDOW_BYTES);
        let (one, other): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let end = |io, reset, other_reset| Self { io, shut: false, reset, other_reset, under_way: None };
        (end(near, one.clone(), other.clone()), end(far, other, one))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.reset.store(!self.shut, Ordering::SeqCst);
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some((bytes, arrival)) = &mut this.under_way {
                ready!(arrival.as_mut().poll(cx));
                if this.other_reset.load(Ordering::SeqCst) {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                let fits = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..fits]);
                bytes.drain(..fits);
                if bytes.is_empty() {
                    this.under_way = None;
                }
                return Poll::Ready(Ok(()));
            }
            let mut bytes = vec![0; WINDOW_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            let count = read.filled().len();
            bytes.truncate(count);
            if count == 0 {
                let reset = this.other_reset.load(Ordering::SeqCst);
                return Poll::Ready(if reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) });
            }
            this.under_way = Some((bytes, Box::pin(tokio::time::sleep(LATENCY))));
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
