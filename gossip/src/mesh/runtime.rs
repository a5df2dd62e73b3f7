//! What quinn runs on for the mesh: tokio, with fewer reasons to wake up.
//!
//! An idle node hears some dozens of small packets a second, and what each costs is waking up. Quinn's own glue wakes twice as often
//! as there is something to do: epoll tells of every datagram sent that there is room for another, and a timer that is put off still
//! fires at the time it was first set to. Here a socket is watched for reading alone, and a timer that is reset is set anew.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep, sleep_until};

/// How long a socket is left alone that had no room for a datagram. Its buffer holds some hundred of them, and the mesh's are few.
const NO_ROOM: Duration = Duration::from_millis(1);

/// How long a socket is left alone that could not be read.
const UNREADABLE: Duration = Duration::from_millis(100);

/// The tokio runtime that an endpoint is made in.
#[derive(Debug)]
pub(super) struct Quiet;

impl Runtime for Quiet {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer(Box::pin(sleep_until(at.into()))))
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(task);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let state = UdpSocketState::new((&socket).into())?;
        #[expect(
            deprecated,
            reason = "what replaces it asks for a promise that std keeps: the descriptor stays the same"
        )]
        let io = AsyncFd::with_interest(socket, Interest::READABLE)?;
        Ok(Arc::new(Socket { io, state, full: AtomicBool::default(), failures: AtomicU64::default() }))
    }
}

/// Forgets the time it was set to before when it is reset.
#[derive(Debug)]
struct Timer(Pin<Box<Sleep>>);

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.set(sleep_until(at.into()));
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.0.as_mut(), cx)
    }
}

#[derive(Debug)]
struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// There was no room for the last datagram.
    full: AtomicBool,
    /// How often it could not be read.
    failures: AtomicU64,
}

impl Socket {
    /// Says so and tries again in a while: to hand the error on would end the endpoint, and the mesh of this node with it.
    fn failed(&self, error: &io::Error, reader: Waker) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures.is_power_of_two() {
            tracing::error!(%error, failures, "cannot receive from peers, trying on");
        }
        tokio::spawn(async move {
            sleep(UNREADABLE).await;
            reader.wake();
        });
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.io.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match ready.try_io(|io| self.state.recv(io.get_ref().into(), buffers, meta)) {
                Ok(Ok(received)) => return Poll::Ready(Ok(received)),
                Ok(Err(error)) => {
                    self.failed(&error, cx.waker().clone());
                    return Poll::Pending;
                }
                Err(_would_block) => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits for room in a socket, for one connection.
#[derive(Debug)]
struct Room {
    socket: Arc<Socket>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_full = self.socket.full.load(Ordering::Relaxed);
        if !is_full && self.wait.is_none() {
            return Poll::Ready(Ok(()));
        }
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(NO_ROOM)));
        ready!(Future::poll(wait.as_mut(), cx));
        self.wait = None;
        self.socket.full.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;
    use crate::clock::Clock;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_timer_knows_only_the_time_it_was_last_set_to() {
        let now = Clock::system().now();
        let mut timer = Quiet.new_timer(now + HOUR);
        let mut fires = || poll_fn(|cx| timer.as_mut().poll(cx)).now_or_never();
        assert_eq!(fires(), None);
        timer.as_mut().reset(now);
        poll_fn(|cx| timer.as_mut().poll(cx)).await;
        timer.as_mut().reset(now + HOUR);
        assert_eq!(poll_fn(|cx| timer.as_mut().poll(cx)).now_or_never(), None);
    }

    #[tokio::test]
    async fn a_socket_without_room_is_left_alone_for_a_moment() {
        let io = UdpSocket::bind("127.0.0.1:0").unwrap();
        let state = UdpSocketState::new((&io).into()).unwrap();
        #[expect(deprecated, reason = "as above")]
        let io = AsyncFd::with_interest(io, Interest::READABLE).unwrap();
        let socket =
            Arc::new(Socket { io, state, full: AtomicBool::default(), failures: AtomicU64::default() });
        let mut rooms = [socket.clone().create_io_poller(), socket.clone().create_io_poller()];
        for room in &mut rooms {
            poll_fn(|cx| room.as_mut().poll_writable(cx)).await.unwrap();
        }
        socket.full.store(true, Ordering::Relaxed);
        for room in &mut rooms {
            assert!(poll_fn(|cx| room.as_mut().poll_writable(cx)).now_or_never().is_none());
        }
        for room in &mut rooms {
            poll_fn(|cx| room.as_mut().poll_writable(cx)).await.unwrap();
        }
        assert!(!socket.full.load(Ordering::Relaxed));
        let room = poll_fn(|cx| rooms[0].as_mut().poll_writable(cx)).now_or_never();
        assert!(room.is_some_and(|room| room.is_ok()));
    }
}
