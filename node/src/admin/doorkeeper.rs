//! Bounds what strangers can hold at the admin sockets: so many connections, and none that is silent for long.
//!
//! Beyond the bound a connection waits in the kernel's queue until another one ends.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at once on one socket.
const CONNECTIONS_MAX: usize = 256;
/// A connection on which nothing moves is cut after once to twice this time.
const SILENCE: Duration = Duration::from_secs(15);

/// A listener with a limit.
#[derive(Debug)]
pub(super) struct Doorkeeper<L> {
    listener: L,
    places: Arc<Semaphore>,
    silence: Duration,
}

impl<L: Listener> Doorkeeper<L> {
    pub(super) fn new(listener: L) -> Self {
        Self::with(listener, CONNECTIONS_MAX, SILENCE)
    }

    fn with(listener: L, connections: usize, silence: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections)), silence }
    }
}

impl<L: Listener> Listener for Doorkeeper<L> {
    type Io = Visit<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = self.places.clone().acquire_owned().await.expect("nobody closes the semaphore");
        let (io, addr) = self.listener.accept().await;
        let timer = Box::pin(sleep(self.silence));
        (Visit { io, timer, silence: self.silence, moved: false, _place: place }, addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that has a place, until it is silent for too long.
#[derive(Debug)]
pub(super) struct Visit<T> {
    io: T,
    timer: Pin<Box<Sleep>>,
    silence: Duration,
    moved: bool,
    _place: OwnedSemaphorePermit,
}

impl<T> Visit<T> {
    /// `polled`, or an error when it waits and nothing has moved for too long.
    fn patient<V>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<V>>) -> Poll<io::Result<V>> {
        if polled.is_ready() {
            self.moved = true;
            return polled;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.set(sleep(self.silence));
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Visit<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.patient(cx, polled)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Visit<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.patient(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn silent_visitors_leave_and_the_next_gets_the_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
        let keeper = Doorkeeper::with(listener, 2, Duration::from_millis(100));
        let served = tokio::spawn(async move { axum::serve(keeper, router).await });
        let mut silent = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(b"GET / HT").await.unwrap();
            silent.push(stream);
        }
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await;
        read.expect("the silent ones keep their places").unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        served.abort();
    }
}
