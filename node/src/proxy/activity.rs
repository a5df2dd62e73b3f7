//! How long a client's connection may wait for what: 10 s for a request's head, 75 s for the next request.
//!
//! An answer that its client takes nothing of, or less than 500 bytes a second, is given up after a minute: it holds a
//! backend's connection, and perhaps a place in a tunnel. On HTTP/2 see also [`Windows`].
//!
//! A connection has one timer that is set again only when it fires, instead of one that every request resets. It asks
//! [`Activity::verdict`] what to do.
//!
//! A client that ends its half of the connection may have gone, or may wait for its answer; the bytes look the same. It
//! gets some seconds for the answer, then counts as gone. One that reset the connection is gone at once.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::gather::{Pieces, gather};
use super::outcome::Cut;
use super::windows::Windows;

/// From the first byte of a head to its last; and from the connection to the first head.
const HEAD: Duration = Duration::from_secs(10);
/// From the end of an answer to the next request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take nothing of an answer that is ready for it.
const UNREAD: Duration = Duration::from_secs(60);
/// What a client takes less of between two looks, while more is ready for it, counts as nothing.
const LEAST_BYTES: u64 = 500 * LOOK.as_secs();
/// As many looks make [`UNREAD`].
const SLOW_LOOKS: u32 = (UNREAD.as_secs() / LOOK.as_secs()) as u32;
/// The longest silence in the middle of a request, in both directions.
const STALLED: Duration = Duration::from_secs(3600);

/// When a new connection is looked at first.
pub(super) const FIRST_LOOK: Duration =
    if cfg!(test) { Duration::from_millis(100) } else { Duration::from_millis(400) };
/// How often a busy connection is looked at ...
const LOOK: Duration = Duration::from_secs(5);
/// ... and an idle one, for it may become busy right after.
const LOOK_IDLE: Duration = Duration::from_secs(15);

/// How long a client that ended its half may wait for an answer.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// Requests that a client may give up beyond those it lets end, before it counts as an attacker: giving one up is cheap for
/// it, and dear for us and the backend ("rapid reset", CVE-2023-44487).
const GIVEN_UP_MAX: u32 = 256;

const IDLE: u8 = 0;
const READS_HEAD: u8 = 1;
const BUSY: u8 = 2;

/// What a connection is doing, and since when. Written by one thread; atomics only because the connection may travel
/// with an upgrade.
#[derive(Debug)]
pub(super) struct Activity {
    origin: Instant,
    state: AtomicU8,
    /// Requests under way: at most one on HTTP/1.1.
    requests: AtomicU32,
    /// Requests given up less requests ended.
    given_up: AtomicU32,
    /// Bytes of an HTTP/2 connection need not be a head's.
    multiplexed: AtomicBool,
    since_millis: AtomicU64,
    /// Bytes read and written.
    moves: AtomicU64,
    moves_when_judged: AtomicU64,
    /// When the client was first seen to have ended its half; `u64::MAX`: it has not.
    half_closed_millis: AtomicU64,
    /// Since when bytes for the client wait because it takes none; `u64::MAX`: none wait.
    unread_millis: AtomicU64,
    /// Looks in a row at which bytes waited for the client and next to none had moved.
    slow_looks: AtomicU32,
    /// It was cut because its client took too little.
    too_slow: AtomicBool,
    /// The answers of an HTTP/2 connection.
    windows: Windows,
}

/// What is left of the client's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// It may send.
    There,
    /// It ended its half.
    HalfClosed,
    /// It reset the connection.
    Gone,
}

/// Looks at a connection without reading from it.
pub(super) fn look(stream: &TcpStream) -> Peer {
    let mut asked = [PollFd::new(stream, PollFlags::RDHUP)];
    match poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(1..) if asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => Peer::Gone,
        Ok(1..) if asked[0].revents().contains(PollFlags::RDHUP) => Peer::HalfClosed,
        _ => Peer::There,
    }
}

/// What the connection's timer does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Fires again after this time.
    Wait(Duration),
    /// Closes the connection after the answer that is under way, at once when there is none.
    Close,
    /// Cuts the connection.
    Cut(Cut),
}

impl Activity {
    /// A connection that was just accepted.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            state: AtomicU8::new(READS_HEAD),
            requests: AtomicU32::new(0),
            given_up: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            since_millis: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            moves_when_judged: AtomicU64::new(u64::MAX),
            half_closed_millis: AtomicU64::new(u64::MAX),
            unread_millis: AtomicU64::new(u64::MAX),
            slow_looks: AtomicU32::new(0),
            too_slow: AtomicBool::new(false),
            windows: Windows::default(),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64
    }

    fn set(&self, state: u8, now: Instant) {
        self.since_millis.store(self.millis(now), Ordering::Relaxed);
        self.state.store(state, Ordering::Relaxed);
    }

    /// The connection turned out to be one of HTTP/2: it is idle while it has no streams, whatever frames arrive.
    pub(super) fn multiplex(&self, now: Instant) {
        self.multiplexed.store(true, Ordering::Relaxed);
        self.set(IDLE, now);
    }

    /// The answers of an HTTP/2 connection; `None` on HTTP/1.1, whose one answer waits for nothing but the socket.
    pub(super) fn windows(&self) -> Option<&Windows> {
        self.multiplexed.load(Ordering::Relaxed).then_some(&self.windows)
    }

    /// Whether requests are under way.
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Ordering::Relaxed) == BUSY
    }

    /// Whether the next request has been waited for this long at least, nothing of it has come, and nothing of the last
    /// answer is left to be sent.
    pub(super) fn is_idle_for(&self, time: Duration, now: Instant) -> bool {
        self.state.load(Ordering::Relaxed) == IDLE
            && self.unread_millis.load(Ordering::Relaxed) == u64::MAX
            && self.millis(now) >= self.since_millis.load(Ordering::Relaxed) + time.as_millis() as u64
    }

    /// From now on a request's head is waited for: the handshake is done, or the head has begun.
    pub(super) fn awaits_head(&self, now: Instant) {
        self.set(READS_HEAD, now);
    }

    /// Whether the client gives up far more requests than it lets end.
    pub(super) fn is_abused(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) >= GIVEN_UP_MAX
    }

    /// A request's head has arrived.
    pub(super) fn busy(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.state.store(BUSY, Ordering::Relaxed);
        self.moves_when_judged.store(u64::MAX, Ordering::Relaxed);
        self.half_closed_millis.store(u64::MAX, Ordering::Relaxed);
    }

    /// A request ended; with the last one the connection is idle.
    pub(super) fn ended(&self, given_up: bool, now: Instant) {
        let balance = self.given_up.load(Ordering::Relaxed);
        let balance = if given_up { balance.saturating_add(1) } else { balance.saturating_sub(1) };
        self.given_up.store(balance, Ordering::Relaxed);
        if self.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.set(IDLE, now);
        }
    }

    /// Bytes came in.
    fn read(&self, bytes: usize, clock: &Clock) {
        self.moves.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.state.load(Ordering::Relaxed) == IDLE && !self.multiplexed.load(Ordering::Relaxed) {
            self.set(READS_HEAD, clock.now());
        }
    }

    /// Bytes went out.
    fn wrote(&self, bytes: usize) {
        self.moves.fetch_add(bytes as u64, Ordering::Relaxed);
        self.unread_millis.store(u64::MAX, Ordering::Relaxed);
    }

    /// Bytes would go out, but the client takes none.
    fn unread(&self, clock: &Clock) {
        if self.unread_millis.load(Ordering::Relaxed) == u64::MAX {
            self.unread_millis.store(self.millis(clock.now()), Ordering::Relaxed);
        }
    }

    /// Judges the connection when its timer fires; `look` says what is left of the client's end.
    pub(super) fn verdict(&self, now: Instant, look: impl FnOnce() -> Peer) -> Verdict {
        let since = self.origin + Duration::from_millis(self.since_millis.load(Ordering::Relaxed));
        let left = |limit: Duration| (since + limit).saturating_duration_since(now);
        match self.state.load(Ordering::Relaxed) {
            IDLE if left(KEEP_ALIVE).is_zero() => Verdict::Close,
            READS_HEAD if left(HEAD).is_zero() => {
                let began = self.moves.load(Ordering::Relaxed) > 0;
                Verdict::Cut(if began { Cut::SlowHead } else { Cut::Silent })
            }
            IDLE => Verdict::Wait(left(KEEP_ALIVE).min(LOOK_IDLE)),
            READS_HEAD => Verdict::Wait(left(HEAD).min(LOOK)),
            _ => {
                let verdict = self.verdict_of_busy(now, left(STALLED).is_zero(), look());
                self.too_slow.store(verdict == Verdict::Cut(Cut::Unread), Ordering::Relaxed);
                verdict
            }
        }
    }

    /// Whether its requests end because the client took too little of their answers.
    pub(super) fn is_too_slow(&self) -> bool {
        self.too_slow.load(Ordering::Relaxed)
    }

    fn verdict_of_busy(&self, now: Instant, stalled: bool, peer: Peer) -> Verdict {
        let unread = self.unread_millis.load(Ordering::Relaxed);
        if self.millis(now).saturating_sub(unread) >= UNREAD.as_millis() as u64 {
            return Verdict::Cut(Cut::Unread);
        }
        let moves = self.moves.load(Ordering::Relaxed);
        let before = self.moves_when_judged.swap(moves, Ordering::Relaxed);
        let waits = unread != u64::MAX && before != u64::MAX;
        let slow = waits && moves.saturating_sub(before) < LEAST_BYTES;
        let slow_looks = if slow { self.slow_looks.load(Ordering::Relaxed) + 1 } else { 0 };
        self.slow_looks.store(slow_looks, Ordering::Relaxed);
        if slow_looks >= SLOW_LOOKS || self.windows.look() {
            return Verdict::Cut(Cut::Unread);
        }
        if moves != before {
            // An answer on its way is proof enough that somebody takes it.
            self.set(BUSY, now);
            self.half_closed_millis.store(u64::MAX, Ordering::Relaxed);
        } else if stalled {
            return Verdict::Cut(Cut::Stalled);
        }
        match peer {
            Peer::There => Verdict::Wait(LOOK),
            Peer::Gone => Verdict::Cut(Cut::Gone),
            Peer::HalfClosed => {
                let first = self.half_closed_millis.load(Ordering::Relaxed).min(self.millis(now));
                self.half_closed_millis.store(first, Ordering::Relaxed);
                let waited = self.millis(now) - first;
                match waited >= HALF_CLOSED.as_millis() as u64 {
                    true => Verdict::Cut(Cut::Gone),
                    false => Verdict::Wait(LOOK),
                }
            }
        }
    }
}

/// A client's connection that tells its [`Activity`] what it does. The socket is shared with the connection's task,
/// which looks at it without reading.
#[derive(Debug)]
pub(super) struct Watched {
    stream: Arc<TcpStream>,
    activity: Arc<Activity>,
    clock: Clock,
}

impl Watched {
    pub(super) fn new(stream: Arc<TcpStream>, activity: Arc<Activity>, clock: Clock) -> Self {
        Self { stream, activity, clock }
    }

    /// A read that did not fill its buffer took all there was, so the next one waits for the system's word instead of
    /// asking in vain: one call less a request. Only the worker's own thread hears that word, and it is here.
    fn drained(&self) {
        let _ = self.stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }

    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    self.activity.unread(&self.clock);
                    return Poll::Pending;
                }
            }
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(bytes) => {
                    self.activity.wrote(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                error => return Poll::Ready(error),
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let room = buf.remaining();
            match self.stream.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(bytes) => {
                    if bytes > 0 {
                        self.activity.read(bytes, &self.clock);
                    }
                    if (1..room).contains(&bytes) {
                        self.drained();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| {
            gather(bufs, |pieces| match pieces {
                Pieces::One(bytes) => stream.try_write(bytes),
                Pieces::Many(pieces) => stream.try_write_vectored(pieces),
            })
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write) {
            // The client was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn there() -> Peer {
        Peer::There
    }

    #[test]
    fn a_head_has_ten_seconds_and_a_kept_connection_seventy_five() {
        let clock = Clock::simulated(Wall(0));
        let activity = Activity::new(clock.now());
        clock.advance(6 * SECOND);
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Wait(4 * SECOND));
        activity.busy();
        activity.ended(false, clock.now());
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Wait(LOOK_IDLE));
        clock.advance(70 * SECOND);
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Wait(5 * SECOND));
        clock.advance(5 * SECOND);
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Close);
        activity.read(1, &clock);
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Wait(LOOK));
        clock.advance(3 * SECOND);
        activity.read(1, &clock);
        clock.advance(7 * SECOND);
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Cut(Cut::SlowHead));
    }

    #[test]
    fn a_request_may_last_as_long_as_bytes_move() {
        let clock = Clock::simulated(Wall(0));
        let activity = Activity::new(clock.now());
        activity.busy();
        for _ in 0..2000 {
            clock.advance(5 * SECOND);
            activity.read(1, &clock);
            assert_eq!(activity.verdict(clock.now(), there), Verdict::Wait(LOOK));
        }
        for _ in 0..719 {
            clock.advance(5 * SECOND);
            assert_eq!(activity.verdict(clock.now(), there), Verdict::Wait(LOOK));
        }
        clock.advance(5 * SECOND);
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Cut(Cut::Stalled));
    }

    #[test]
    fn idle_is_who_asks_nothing_and_has_taken_all() {
        let clock = Clock::simulated(Wall(0));
        let activity = Activity::new(clock.now());
        let idle = || activity.is_idle_for(SECOND, clock.now());
        clock.advance(2 * SECOND);
        assert!(!idle(), "it has not asked yet");
        activity.busy();
        activity.unread(&clock);
        activity.ended(false, clock.now());
        clock.advance(2 * SECOND);
        assert!(!idle(), "it has not taken its answer");
        activity.wrote(1);
        assert!(idle());
        activity.read(1, &clock);
        assert!(!idle());
        activity.busy();
        activity.ended(false, clock.now());
        assert!(!idle(), "it may ask again at once");
    }

    #[test]
    fn frames_between_requests_are_no_head() {
        let clock = Clock::simulated(Wall(0));
        let activity = Activity::new(clock.now());
        activity.multiplex(clock.now());
        activity.busy();
        activity.busy();
        activity.ended(false, clock.now());
        assert!(activity.is_busy());
        activity.ended(false, clock.now());
        for _ in 0..7 {
            clock.advance(10 * SECOND);
            activity.read(1, &clock);
            assert!(matches!(activity.verdict(clock.now(), there), Verdict::Wait(_)));
        }
        clock.advance(5 * SECOND);
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Close);
    }

    #[test]
    fn a_client_that_mostly_gives_up_is_an_attacker() {
        let clock = Clock::simulated(Wall(0));
        let activity = Activity::new(clock.now());
        let request = |given_up| {
            activity.busy();
            activity.ended(given_up, clock.now());
        };
        (0..10_000).for_each(|at| request(at % 2 == 0));
        assert!(!activity.is_abused());
        (0..GIVEN_UP_MAX).for_each(|_| request(true));
        assert!(activity.is_abused());
    }

    #[test]
    fn a_client_that_takes_nothing_of_its_answer_has_a_minute() {
        let clock = Clock::simulated(Wall(0));
        let activity = Activity::new(clock.now());
        activity.busy();
        for _ in 0..3 {
            activity.unread(&clock);
            clock.advance(59 * SECOND);
            activity.unread(&clock);
            assert_eq!(activity.verdict(clock.now(), there), Verdict::Wait(LOOK));
            activity.wrote(9999);
        }
        activity.unread(&clock);
        clock.advance(60 * SECOND);
        // What it sends meanwhile makes no difference.
        activity.read(1, &clock);
        assert_eq!(activity.verdict(clock.now(), there), Verdict::Cut(Cut::Unread));
    }

    #[test]
    fn a_client_that_takes_a_few_bytes_now_and_then_has_a_minute_too() {
        let clock = Clock::simulated(Wall(0));
        let look = |activity: &Activity, bytes| {
            activity.wrote(bytes);
            activity.unread(&clock);
            clock.advance(LOOK);
            activity.verdict(clock.now(), there)
        };
        let (trickle, slow) = (Activity::new(clock.now()), Activity::new(clock.now()));
        trickle.busy();
        slow.busy();
        let cut = (1..100).find(|_| look(&trickle, 100) == Verdict::Cut(Cut::Unread));
        // The first look of a request has nothing to compare with.
        assert_eq!(cut, Some(13));
        assert!((1..100).all(|_| look(&slow, 2500) == Verdict::Wait(LOOK)));
    }

    #[test]
    fn a_client_that_said_all_it_had_gets_ten_seconds_and_one_that_reset_none() {
        let clock = Clock::simulated(Wall(0));
        let activity = Activity::new(clock.now());
        activity.busy();
        for _ in 0..2 {
            assert_eq!(activity.verdict(clock.now(), || Peer::HalfClosed), Verdict::Wait(LOOK));
            clock.advance(5 * SECOND);
        }
        assert_eq!(activity.verdict(clock.now(), || Peer::HalfClosed), Verdict::Cut(Cut::Gone));
        activity.busy();
        assert_eq!(activity.verdict(clock.now(), || Peer::Gone), Verdict::Cut(Cut::Gone));
    }
}
