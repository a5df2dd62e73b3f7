//! The body of an answer, as it comes.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::chunked::{Chunked, Step};
use super::{Channel, Connection, Framing, READ_MAX_BYTES, piece};

/// An answer's body and the connection it comes over. Dropping it before its end closes the connection.
pub(in crate::proxy) struct Body {
    /// `None` once it was released.
    channel: Option<Box<Channel>>,
}

/// What is still to come.
#[derive(Debug)]
pub(super) enum Left {
    Bytes(u64),
    Chunks(Chunked),
    UntilClose,
    Nothing,
}

impl From<Framing> for Left {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Nothing,
            Framing::Length(bytes) => Self::Bytes(bytes),
            Framing::Chunked => Self::Chunks(Chunked::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

impl Body {
    pub(super) fn new(channel: Box<Channel>) -> Self {
        Self { channel: Some(channel) }
    }

    /// The connection when it can take another request: all was sent and read, and nothing beyond came.
    pub(in crate::proxy) fn release(&mut self) -> Option<Connection> {
        let channel = self.channel.take()?;
        let ended = matches!(channel.left, Left::Nothing) && channel.sending.is_done();
        (channel.keeps && ended && channel.buf.is_empty()).then_some(Connection(channel))
    }
}

impl Channel {
    /// Takes a frame off what was read. `Ready(None)`: the end. `Pending`: more must be read.
    fn decode(&mut self) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let buf = &mut self.buf;
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
        let Some(channel) = &mut self.channel else { return Poll::Ready(None) };
        loop {
            if let Poll::Ready(frame) = channel.decode() {
                return Poll::Ready(frame);
            }
            // A backend may answer while the request is still on its way, and need the rest of it to go on.
            channel.sending.go_on(&mut *channel.io, cx);
            let most = match channel.left {
                Left::Bytes(left) => usize::try_from(left).unwrap_or(READ_MAX_BYTES),
                _ => READ_MAX_BYTES,
            };
            let read = match channel.poll_read(cx, most) {
                Poll::Ready(read) => read,
                Poll::Pending => {
                    if !std::mem::replace(&mut channel.waits, true) {
                        channel.wait_for(channel.idle);
                    }
                    ready!(channel.deadline.as_mut().poll(cx));
                    Err(io::ErrorKind::TimedOut.into())
                }
            };
            channel.waits = false;
            if matches!(read, Ok(1..)) {
                continue;
            }
            let closed = matches!((&read, &channel.left), (Ok(_), Left::UntilClose));
            channel.left = Left::Nothing;
            channel.keeps = false;
            return Poll::Ready(match read {
                Ok(_) if closed => None,
                Ok(_) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => Some(Err(error)),
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.channel.as_ref().is_none_or(|channel| matches!(channel.left, Left::Nothing))
    }

    fn size_hint(&self) -> SizeHint {
        match self.channel.as_ref().map(|channel| &channel.left) {
            None | Some(Left::Nothing) => SizeHint::with_exact(0),
            Some(Left::Bytes(left)) => SizeHint::with_exact(*left),
            Some(Left::Chunks(_) | Left::UntilClose) => SizeHint::default(),
        }
    }
}
