//! The body of an answer, as it comes.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::chunked::{Chunked, Step};
use super::{Connection, Framing, READ_MAX_BYTES, Sending, piece};

/// An answer's body and the connection it comes over. Dropping it before its end closes the connection.
pub(in crate::proxy) struct Body {
    /// `None` once it was released.
    connection: Option<Connection>,
    sending: Sending,
    left: Left,
    keeps: bool,
    /// How long the backend may be silent.
    idle: Duration,
    /// It is silent, and the connection's deadline says until when it may be.
    waits: bool,
}

/// What is still to come.
#[derive(Debug)]
enum Left {
    Bytes(u64),
    Chunks(Chunked),
    UntilClose,
    Nothing,
}

impl Body {
    pub(super) fn new(
        connection: Connection,
        sending: Sending,
        framing: Framing,
        keeps: bool,
        idle: Duration,
    ) -> Self {
        let left = match framing {
            Framing::Length(0) => Left::Nothing,
            Framing::Length(bytes) => Left::Bytes(bytes),
            Framing::Chunked => Left::Chunks(Chunked::default()),
            Framing::UntilClose => Left::UntilClose,
        };
        let keeps = keeps && framing != Framing::UntilClose;
        Self { connection: Some(connection), sending, left, keeps, idle, waits: false }
    }

    /// The connection when it can take another request: all was sent and read, and nothing beyond came.
    pub(in crate::proxy) fn release(&mut self) -> Option<Connection> {
        let ended = matches!(self.left, Left::Nothing) && self.sending.is_done();
        let connection = self.connection.take()?;
        (self.keeps && ended && connection.buf.is_empty()).then_some(connection)
    }

    /// Takes a frame off what was read. `Ready(None)`: the end. `Pending`: more must be read.
    fn decode(&mut self) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let buf = &mut connection.buf;
        match &mut self.left {
            Left::Nothing => Poll::Ready(None),
            Left::Bytes(_) | Left::UntilClose if buf.is_empty() => Poll::Pending,
            Left::Bytes(left) => {
                let data = piece(buf, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.left = Left::Nothing;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Left::UntilClose => Poll::Ready(Some(Ok(Frame::data(piece(buf, u64::MAX))))),
            Left::Chunks(chunked) => match chunked.next(buf) {
                Ok(Step::More) => Poll::Pending,
                Ok(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::End(trailers)) => {
                    self.left = Left::Nothing;
                    Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
                }
                Err(error) => {
                    self.left = Left::Nothing;
                    self.keeps = false;
                    Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, error))))
                }
            },
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Poll::Ready(frame) = self.decode() {
                return Poll::Ready(frame);
            }
            let Self { connection: Some(connection), sending, left, idle, waits, .. } = &mut *self else {
                return Poll::Ready(None);
            };
            // A backend may answer while the request is still on its way, and need the rest of it to go on.
            sending.go_on(&mut *connection.io, cx);
            let most = match left {
                Left::Bytes(left) => usize::try_from(*left).unwrap_or(READ_MAX_BYTES),
                _ => READ_MAX_BYTES,
            };
            let read = match connection.poll_read(cx, most) {
                Poll::Ready(read) => read,
                Poll::Pending => {
                    if !std::mem::replace(waits, true) {
                        connection.wait_for(*idle);
                    }
                    ready!(connection.deadline.as_mut().poll(cx));
                    Err(io::ErrorKind::TimedOut.into())
                }
            };
            *waits = false;
            if matches!(read, Ok(1..)) {
                continue;
            }
            let closed = matches!((&read, &left), (Ok(_), Left::UntilClose));
            *left = Left::Nothing;
            self.keeps = false;
            return Poll::Ready(match read {
                Ok(_) if closed => None,
                Ok(_) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => Some(Err(error)),
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.left {
            Left::Nothing => SizeHint::with_exact(0),
            Left::Bytes(left) => SizeHint::with_exact(*left),
            Left::Chunks(_) | Left::UntilClose => SizeHint::default(),
        }
    }
}
