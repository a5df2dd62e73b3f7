//! Bytes both ways between two streams, each way ending by itself (half-close), until both ended or silence.
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The buffer of one direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// How a relay ended.
#[derive(Debug)]
pub(super) enum Relayed {
    /// Both sides said all they had.
    Done,
    /// Nothing moved for too long.
    Idle,
    /// The first stream broke.
    FirstBroke,
    /// The second stream broke.
    SecondBroke,
}

struct Meter {
    clock: Clock,
    moved: Cell<Instant>,
    first_broke: Cell<bool>,
    to_first: Cell<u64>,
}

/// A stream whose reads and writes are noticed.
struct Metered<T> {
    io: T,
    meter: Rc<Meter>,
    first: bool,
}

/// Copies until both ways ended, one broke, or nothing moved for `idle`. Returns how it ended and how many bytes went
/// to the first stream.
pub(super) async fn relay<A, B>(first: A, second: B, idle: Duration, clock: &Clock) -> (Relayed, u64)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let meter = Rc::new(Meter {
        clock: clock.clone(),
        moved: Cell::new(clock.now()),
        first_broke: Cell::new(false),
        to_first: Cell::new(0),
    });
    let mut first = Metered { io: first, meter: meter.clone(), first: true };
    let mut second = Metered { io: second, meter: meter.clone(), first: false };
    let copied = {
        let copy =
            tokio::io::copy_bidirectional_with_sizes(&mut first, &mut second, BUFFER_BYTES, BUFFER_BYTES);
        until_idle(copy, &meter.moved, idle, clock).await
    };
    let end = match copied {
        None => Relayed::Idle,
        Some(Ok(_)) => Relayed::Done,
        Some(Err(_)) if meter.first_broke.get() => Relayed::FirstBroke,
        Some(Err(_)) => Relayed::SecondBroke,
    };
    (end, meter.to_first.get())
}

/// What `work` comes to, or nothing when `moved` has not moved on for `idle`.
pub(super) async fn until_idle<T>(
    work: impl Future<Output = T>,
    moved: &Cell<Instant>,
    idle: Duration,
    clock: &Clock,
) -> Option<T> {
    tokio::pin!(work);
    loop {
        let left = (moved.get() + idle).saturating_duration_since(clock.now());
        if left.is_zero() {
            return None;
        }
        tokio::select! {
            done = &mut work => return Some(done),
            () = tokio::time::sleep(left) => {}
        }
    }
}

impl<T> Metered<T> {
    fn notice(&self, result: &Poll<io::Result<usize>>, wrote: bool) {
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.meter.moved.set(self.meter.clock.now());
                if wrote && self.first {
                    self.meter.to_first.set(self.meter.to_first.get() + *bytes as u64);
                }
            }
            Poll::Ready(Err(_)) if self.first => self.meter.first_broke.set(true),
            _ => {}
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let moved = buf.filled().len() - before;
        let polled = polled.map(|read| read.map(|()| moved));
        self.notice(&polled, false);
        polled.map(|read| read.map(drop))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.notice(&polled, true);
        polled
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn each_way_ends_by_itself() {
        run(async {
            let (mut client, first) = duplex(64);
            let (second, mut server) = duplex(64);
            let clock = Clock::system();
            let both = async {
                client.write_all(b"question").await.unwrap();
                client.shutdown().await.unwrap();
                let mut asked = String::new();
                server.read_to_string(&mut asked).await.unwrap();
                server.write_all(b"answer to ").await.unwrap();
                server.write_all(asked.as_bytes()).await.unwrap();
                server.shutdown().await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let relay = relay(first, second, Duration::from_secs(5), &clock);
            let ((end, bytes), answer) = tokio::join!(relay, both);
            assert_eq!(answer, "answer to question");
            assert!(matches!(end, Relayed::Done));
            assert_eq!(bytes, 18);
        });
    }

    #[test]
    fn silence_ends_it() {
        run(async {
            let (_client, first) = duplex(64);
            let (second, _server) = duplex(64);
            let (end, _) = relay(first, second, Duration::from_millis(20), &Clock::system()).await;
            assert!(matches!(end, Relayed::Idle));
        });
    }
}
