//! HTTP/1.1 with a backend, inside the task of the request that needs it.
//!
//! hyper drives each connection to a backend by a task of its own. For a request whose body is at hand, which most are, this
//! costs more than the request: two tasks are polled five times in all, where one is twice, and the head is copied for the case
//! that it must be sent again. Here the request's task writes and reads itself, straight from the head that it keeps.
//!
//! ```text
//! Connection ── exchange(head, body) ──▶ answer's head + Body ── release ──▶ Connection
//!                 request                 response        chunked
//! ```
//!
//! Bodies that are streamed to the backend, upgrades and what crosses to another node go by hyper.
mod body;
mod chunked;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gossip::clock::Clock;
use http::request::Parts;
use http::{Method, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::added::Added;
use crate::config::model::Timeouts;
pub(super) use body::Body;
use body::Left;
pub(super) use request::write_field;
use response::{Framing, HEAD_MAX_BYTES, Head, INTERIM_MAX};

/// What a read takes at least, and at most.
const READ_MIN_BYTES: usize = 8 * 1024;
const READ_MAX_BYTES: usize = 64 * 1024;
/// A shorter piece of a body is copied out of the buffer, which then stays whole for the next answer.
const COPIED_MAX_BYTES: usize = 2048;

thread_local! {
    /// Where requests are written before they are sent: at most one head and one body that is kept for another try.
    static REQUEST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream that speaks HTTP/1.1.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A backend's connection between two requests.
pub(super) struct Connection(Box<Channel>);

/// A stream to a backend, and what is under way on it. It stays where it is on the heap: an answer is moved some ten times on its
/// way to its client.
struct Channel {
    io: Box<dyn Io>,
    buf: BytesMut,
    /// What the next read takes: more when the last one was full.
    read_bytes: usize,
    /// Interim answers that may still come before the final one.
    interim: u32,
    /// Ends the wait for an answer, or for more of it. It is kept, since moving a timer on costs less than setting one.
    deadline: Pin<Box<Sleep>>,
    clock: Clock,
    sending: Sending,
    /// What is still to come of the answer's body.
    left: Left,
    /// Whether another request may follow.
    keeps: bool,
    /// How long the backend may be silent within its answer.
    idle: Duration,
    /// It is silent, and the deadline says until when it may be.
    waits: bool,
}

/// There is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Not one byte of the request was sent.
    Unsent,
    /// The connection ended or broke, or what came is no answer.
    Broke(io::Error),
    /// It took too long.
    TimedOut,
}

impl Connection {
    /// Over a stream on which nothing was said yet.
    pub(super) fn new(io: Box<dyn Io>, clock: Clock) -> Self {
        Self(Box::new(Channel {
            io,
            buf: BytesMut::new(),
            read_bytes: READ_MIN_BYTES,
            interim: INTERIM_MAX,
            deadline: Box::pin(tokio::time::sleep(Duration::ZERO)),
            clock,
            sending: Sending::default(),
            left: Left::Nothing,
            keeps: false,
            idle: Duration::ZERO,
            waits: false,
        }))
    }

    /// The stream, for another way to speak over it.
    pub(super) fn into_io(self) -> Box<dyn Io> {
        self.0.io
    }

    /// Whether the backend keeps the connection open and has not said what nobody asked for. No system call when nothing came
    /// in.
    pub(super) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut room = ReadBuf::new(&mut byte);
        let io = &mut self.0.io;
        // A task that has done much in one go would else be told to wait, whatever the system knows.
        let read = tokio::task::unconstrained(poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut room)));
        pin!(read).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends a request and waits for the head of its answer, and later for each part of its body, as long as `timeout` says.
    pub(super) async fn exchange(
        self,
        head: &Parts,
        added: &Added,
        body: &[u8],
        timeout: &Timeouts,
    ) -> Result<Response<Body>, Failure> {
        let mut channel = self.0;
        channel.begin(timeout);
        let read = poll_fn(|cx| {
            if channel.sending.is_new() {
                channel.sending.begin(&mut *channel.io, cx, |out| {
                    request::encode(head, added, body.len(), out);
                    out.extend_from_slice(body);
                })?;
            }
            channel.poll_head(cx, &head.method)
        });
        let Head { response, framing, keeps } = read.await?;
        channel.left = framing.into();
        channel.keeps = keeps && framing != Framing::UntilClose;
        Ok(response.map(|()| Body::new(channel)))
    }
}

impl Channel {
    /// Forgets the exchange before.
    fn begin(&mut self, timeout: &Timeouts) {
        self.wait_for(timeout.response);
        self.interim = INTERIM_MAX;
        self.sending = Sending::default();
        self.idle = timeout.idle;
        self.waits = false;
    }

    fn wait_for(&mut self, time: Duration) {
        self.deadline.as_mut().reset((self.clock.now() + time).into());
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Head, Failure>> {
        loop {
            self.sending.go_on(&mut *self.io, cx);
            let before = self.buf.len();
            match self.poll_read(cx, READ_MAX_BYTES) {
                Poll::Pending => {
                    ready!(self.deadline.as_mut().poll(cx));
                    return Poll::Ready(Err(Failure::TimedOut));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Broke(error))),
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Failure::Broke(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => {}
            }
            // A head that drips in is not read again for each drop.
            let ends_line = memchr::memchr(b'\n', &self.buf[before..]).is_some();
            if (ends_line || self.buf.len() >= HEAD_MAX_BYTES)
                && let Some(head) = response::take(&mut self.buf, method, &mut self.interim).map_err(broke)?
            {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Reads more, at most so much.
    fn poll_read(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let wanted = self.read_bytes.min(most.max(READ_MIN_BYTES));
        self.buf.reserve(wanted);
        let mut limited = (&mut self.buf).limit(wanted);
        let read = ready!(pin!(self.io.read_buf(&mut limited)).poll(cx))?;
        if read == wanted {
            self.read_bytes = (2 * self.read_bytes).min(READ_MAX_BYTES);
        } else if read < wanted / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_MIN_BYTES);
        }
        Poll::Ready(Ok(read))
    }
}

fn broke(malformed: response::Malformed) -> Failure {
    Failure::Broke(io::Error::new(io::ErrorKind::InvalidData, malformed))
}

/// Up to `most` bytes of a body off the buffer.
fn piece(buf: &mut BytesMut, most: u64) -> Bytes {
    let bytes = usize::try_from(most).unwrap_or(usize::MAX).min(buf.len());
    if bytes > COPIED_MAX_BYTES {
        return buf.split_to(bytes).freeze();
    }
    let piece = Bytes::copy_from_slice(&buf[..bytes]);
    buf.advance(bytes);
    piece
}

/// A request on its way, of which the system may not take all at once.
#[derive(Debug, Default)]
struct Sending {
    began: bool,
    rest: Bytes,
    /// Nothing of it waits in the stream: TLS may keep a record that the system did not take.
    flushed: bool,
    /// The backend does not take the rest; it may answer all the same.
    failed: bool,
}

impl Sending {
    fn is_new(&self) -> bool {
        !self.began
    }

    /// All of it was sent.
    fn is_done(&self) -> bool {
        self.flushed && !self.failed
    }

    fn begin(
        &mut self,
        io: &mut dyn Io,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Failure> {
        self.began = true;
        REQUEST.with_borrow_mut(|request| {
            request.clear();
            write(request);
            let sent = match Pin::new(io).poll_write(cx, request) {
                Poll::Ready(Ok(sent)) => sent,
                Poll::Ready(Err(_)) => return Err(Failure::Unsent),
                Poll::Pending => 0,
            };
            if sent < request.len() {
                self.rest = Bytes::copy_from_slice(&request[sent..]);
            }
            Ok(())
        })
    }

    /// Sends what the system takes now.
    fn go_on(&mut self, io: &mut dyn Io, cx: &mut Context<'_>) {
        while !self.rest.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, &self.rest) {
                Poll::Pending => return,
                Poll::Ready(Ok(sent @ 1..)) => self.rest.advance(sent),
                Poll::Ready(_) => {
                    self.rest = Bytes::new();
                    self.failed = true;
                }
            }
        }
        if !self.flushed
            && let Poll::Ready(flushed) = Pin::new(io).poll_flush(cx)
        {
            self.flushed = true;
            self.failed |= flushed.is_err();
        }
    }
}
