//! A relay between two sockets: as [`relay`](super::relay::relay), at the kernel's floor.
//!
//! ```text
//! each way:  read ─▶ the thread's scratch ─▶ write        what does not fit is kept until it does
//!               └─▶ a pipe ─▶                             for a flood, while there are pipes
//! ```
//! A connection that is silent holds no buffer at all. A way that cannot be written to is not read from.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::pipe::Lent;
use super::relay::{Relayed, until_idle};

/// What one read takes at most.
const SCRATCH_BYTES: usize = 64 * 1024;
/// A way is a flood when this many reads in a row filled the scratch ...
const FLOOD: u32 = 8;
/// ... and none any more when so little came at once.
const TRICKLE_BYTES: usize = SCRATCH_BYTES / 4;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// Which end of a way broke.
enum Broke {
    From,
    To,
}

struct Way<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    /// What was read and could not be written yet, from `written` on.
    kept: Vec<u8>,
    written: usize,
    pipe: Option<Lent>,
    /// Reads in a row that filled the scratch.
    full_reads: u32,
    ended: bool,
    moved_bytes: u64,
}

/// Moves bytes until both ways ended, one broke, or nothing moved for `idle`. Returns how it ended and how many bytes
/// went to the first socket.
pub(super) async fn relay(
    mut first: TcpStream,
    mut second: TcpStream,
    idle: Duration,
    clock: &Clock,
) -> (Relayed, u64) {
    let moved = Cell::new(clock.now());
    let (first_read, first_write) = first.split();
    let (second_read, second_write) = second.split();
    let mut out = Way::new(first_read, second_write);
    let mut back = Way::new(second_read, first_write);
    let (mut out_done, mut back_done) = (false, false);
    let both = poll_fn(|cx| {
        if !out_done {
            match out.poll(cx, clock, &moved) {
                Poll::Ready(Ok(())) => out_done = true,
                Poll::Ready(Err(Broke::From)) => return Poll::Ready(Relayed::FirstBroke),
                Poll::Ready(Err(Broke::To)) => return Poll::Ready(Relayed::SecondBroke),
                Poll::Pending => {}
            }
        }
        if !back_done {
            match back.poll(cx, clock, &moved) {
                Poll::Ready(Ok(())) => back_done = true,
                Poll::Ready(Err(Broke::From)) => return Poll::Ready(Relayed::SecondBroke),
                Poll::Ready(Err(Broke::To)) => return Poll::Ready(Relayed::FirstBroke),
                Poll::Pending => {}
            }
        }
        if out_done && back_done { Poll::Ready(Relayed::Done) } else { Poll::Pending }
    });
    let end = until_idle(both, &moved, idle, clock).await.unwrap_or(Relayed::Idle);
    (end, back.moved_bytes)
}

impl<'a> Way<'a> {
    fn new(from: ReadHalf<'a>, to: WriteHalf<'a>) -> Self {
        Self {
            from,
            to,
            kept: Vec::new(),
            written: 0,
            pipe: None,
            full_reads: 0,
            ended: false,
            moved_bytes: 0,
        }
    }

    /// Moves what can be moved; ready when the way has ended and its end was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        clock: &Clock,
        moved: &Cell<Instant>,
    ) -> Poll<Result<(), Broke>> {
        loop {
            let before = self.moved_bytes;
            let stepped = self.step(cx);
            if self.moved_bytes != before {
                moved.set(clock.now());
            }
            if let Some(()) = ready!(stepped)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes what is held, else reads more. Ready with something: all is done.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<()>, Broke>> {
        ready!(self.empty(cx)).map_err(|_| Broke::To)?;
        if self.ended {
            self.pipe = None;
            return Pin::new(&mut self.to).poll_shutdown(cx).map(|shut| match shut {
                // The other end was faster.
                Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Broke::To),
                _ => Ok(Some(())),
            });
        }
        if self.full_reads >= FLOOD {
            self.pipe = self.pipe.take().or_else(Lent::take);
        }
        if self.pipe.is_some() { self.fill(cx) } else { self.copy(cx) }.map(|moved| moved.map(|()| None))
    }

    /// Writes all that is held.
    fn empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            let written = ready!(Pin::new(&mut self.to).poll_write(cx, &self.kept[self.written..]))?;
            self.written += written;
            self.moved_bytes += written as u64;
        }
        self.kept = Vec::new();
        self.written = 0;
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.holds() > 0) {
            let to: &TcpStream = self.to.as_ref();
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Ok(drained) => self.moved_bytes += drained as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the pipe.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        let from: &TcpStream = self.from.as_ref();
        if from.poll_read_ready(cx).map_err(|_| Broke::From)?.is_pending() {
            // Others may use it while this way waits.
            self.pipe = None;
            return Poll::Pending;
        }
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(0) => self.ended = true,
            Ok(filled) if filled < TRICKLE_BYTES => self.full_reads = 0,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(Err(Broke::From)),
        }
        if self.full_reads == 0 {
            ready!(self.empty(cx)).map_err(|_| Broke::To)?;
            self.pipe = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the scratch and writes from it at once.
    fn copy(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.from).poll_read(cx, &mut read)).map_err(|_| Broke::From)?;
            let bytes = read.filled();
            if bytes.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            self.full_reads = if bytes.len() == SCRATCH_BYTES { self.full_reads + 1 } else { 0 };
            let written = match Pin::new(&mut self.to).poll_write(cx, bytes) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broke::To)),
                Poll::Pending => 0,
            };
            self.moved_bytes += written as u64;
            self.kept.extend_from_slice(&bytes[written..]);
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    /// Bytes that tell their place.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    /// Sends a way each, at once, with pauses of a slow reader; both must arrive whole.
    async fn exchange(out: &[u8], back: &[u8], slow: bool) -> (Relayed, u64) {
        let ((mut client, first), (second, mut server)) = (sockets().await, sockets().await);
        let talk = async |socket: &mut TcpStream, say: &[u8], expect: &[u8]| {
            let (mut input, mut output) = socket.split();
            let write = async {
                output.write_all(say).await.unwrap();
                output.shutdown().await.unwrap();
            };
            let read = async {
                let mut heard = Vec::new();
                let mut chunk = vec![0; 100_000];
                loop {
                    match input.read(&mut chunk).await.unwrap() {
                        0 => break,
                        read => heard.extend_from_slice(&chunk[..read]),
                    }
                    if slow {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                assert!(heard == expect, "{} bytes of {} came", heard.len(), expect.len());
            };
            tokio::join!(write, read);
        };
        let clock = Clock::system();
        let relayed = relay(first, second, Duration::from_secs(10), &clock);
        let (relayed, (), ()) =
            tokio::join!(relayed, talk(&mut client, out, back), talk(&mut server, back, out));
        relayed
    }

    #[test]
    fn each_way_ends_by_itself_and_bytes_arrive_in_order() {
        run(async {
            for (out, back) in
                [(0, 0), (1, 0), (0, 5), (300_000, 12), (12, 20_000_000), (8_000_000, 8_000_000)]
            {
                for slow in [false, true] {
                    let (end, bytes) = exchange(&pattern(out), &pattern(back), slow).await;
                    assert!(matches!(end, Relayed::Done), "{end:?}");
                    assert_eq!(bytes, back as u64);
                }
            }
            // All pipes came back.
            let lent: Vec<Lent> = std::iter::from_fn(Lent::take).collect();
            assert!(lent.iter().all(|pipe| pipe.holds() == 0));
        });
    }

    #[test]
    fn silence_ends_it_and_half_a_silence_does_not() {
        run(async {
            let ((mut client, first), (second, _server)) = (sockets().await, sockets().await);
            let clock = Clock::system();
            let began = clock.now();
            let relayed = relay(first, second, Duration::from_millis(300), &clock);
            let talk = async {
                for _ in 0..4 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    client.write_all(b"x").await.unwrap();
                }
            };
            let ((end, _), ()) = tokio::join!(relayed, talk);
            assert!(matches!(end, Relayed::Idle));
            assert!(clock.now() - began >= Duration::from_millis(700));
        });
    }

    #[test]
    fn a_reset_is_told_apart_by_its_side() {
        run(async {
            for first_breaks in [true, false] {
                let ((client, first), (second, server)) = (sockets().await, sockets().await);
                let broken = if first_breaks { &client } else { &server };
                socket2::SockRef::from(broken).set_linger(Some(Duration::ZERO)).unwrap();
                let mut ends = [Some(client), Some(server)];
                drop(ends[usize::from(!first_breaks)].take());
                let (end, _) = relay(first, second, Duration::from_secs(5), &Clock::system()).await;
                assert!(
                    matches!(
                        (first_breaks, &end),
                        (true, Relayed::FirstBroke) | (false, Relayed::SecondBroke)
                    ),
                    "{end:?}"
                );
            }
        });
    }

    #[test]
    fn a_reader_that_does_not_read_stops_the_writer() {
        run(async {
            let ((mut client, first), (second, _server)) = (sockets().await, sockets().await);
            let clock = Clock::system();
            let flood = async {
                let chunk = vec![0; 1 << 20];
                let mut sent = 0_usize;
                while let Ok(Ok(written)) =
                    tokio::time::timeout(Duration::from_millis(500), client.write(&chunk)).await
                {
                    sent += written;
                }
                sent
            };
            let relayed = relay(first, second, Duration::from_secs(2), &clock);
            let ((end, _), sent) = tokio::join!(relayed, flood);
            assert!(matches!(end, Relayed::Idle));
            assert!(sent < 64 << 20, "{sent} bytes went nowhere");
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_amounts_arrive_whole(out in 0_usize..3_000_000, back in 0_usize..3_000_000, slow: bool) {
            let (end, bytes) = run(exchange(&pattern(out), &pattern(back), slow));
            prop_assert!(matches!(end, Relayed::Done));
            prop_assert_eq!(bytes, back as u64);
        }
    }
}
