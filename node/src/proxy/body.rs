//! Bodies on their way: from the client to a backend, and back.
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gossip::id::BackendId;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::outcome::End;
use super::record::Record;
use super::retry::REPLAY_MAX_BYTES;
use super::secure::Via;
use super::upload::Upload;
use super::upstream::{Driven, Sender};
use super::{headers, http1};
use crate::backend::InFlight;

/// What is sent to a backend.
pub(super) enum RequestBody {
    /// Nothing.
    Empty,
    /// All of it at hand, so it can be sent again.
    Whole(Option<Bytes>),
    /// As the client sends it, once.
    Stream(Streamed),
}

/// A client's body on its way.
pub(super) struct Streamed {
    rest: Option<Unsent>,
    upload: Rc<Upload>,
    /// What was sent, while it is kept for another try.
    sent: Option<VecDeque<Bytes>>,
    sent_bytes: usize,
}

/// A client's body of which nothing counts as sent.
pub(super) struct Unsent {
    /// What was read of it already.
    read: VecDeque<Bytes>,
    incoming: Incoming,
}

impl From<Incoming> for Unsent {
    fn from(incoming: Incoming) -> Self {
        Self { read: VecDeque::new(), incoming }
    }
}

impl Body for Unsent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.read.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.read.iter().map(|data| data.len() as u64).sum();
        let rest = self.incoming.size_hint();
        rest.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(read + rest))
    }
}

impl Streamed {
    /// `keeps`: whether what is sent is kept, up to a bound, so that a backend may refuse it and another try begin.
    pub(super) fn new(body: Unsent, upload: Rc<Upload>, keeps: bool) -> Self {
        Self { rest: Some(body), upload, sent: keeps.then(VecDeque::new), sent_bytes: 0 }
    }

    /// What was never given to a connection.
    pub(super) fn into_unsent(mut self) -> Option<Unsent> {
        self.rest.take()
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(sent) = &mut self.sent else { return };
        match frame.data_ref() {
            Some(data) if self.sent_bytes + data.len() <= REPLAY_MAX_BYTES as usize => {
                self.sent_bytes += data.len();
                sent.push_back(data.clone());
            }
            _ => self.sent = None,
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let (Some(mut sent), Some(mut rest)) = (self.sent.take(), self.rest.take()) {
            sent.append(&mut rest.read);
            rest.read = sent;
            self.upload.keep_unsent(rest);
        }
    }
}

fn clean(frame: &mut Frame<Bytes>) {
    if let Some(trailers) = frame.trailers_mut() {
        headers::clean_trailers(trailers);
    }
}

/// What a client's broken body amounts to: it left before the end, or what it sent is no body.
fn broken(error: &hyper::Error) -> End {
    if super::multiplex::is_violation(error) {
        return End::BadRequest;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            use io::ErrorKind::{InvalidData, InvalidInput};
            return match io.kind() {
                InvalidData | InvalidInput => End::BadRequest,
                _ => End::ClientGone,
            };
        }
        source = cause.source();
    }
    End::ClientGone
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => {
                let Some(rest) = &mut body.rest else { return Poll::Ready(None) };
                let frame = Pin::new(&mut *rest).poll_frame(cx);
                body.upload.waiting(frame.is_pending());
                let mut frame = ready!(frame);
                let done = frame.is_none() || rest.is_end_stream();
                let mut bytes = 0;
                match &mut frame {
                    Some(Err(error)) => body.upload.broken(broken(error)),
                    Some(Ok(frame)) => {
                        clean(frame);
                        bytes = frame.data_ref().map_or(0, Bytes::len);
                        body.keep(frame);
                    }
                    None => {}
                }
                body.upload.passed(bytes, done);
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(body) => body.rest.as_ref().is_none_or(Unsent::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(body) => body.rest.as_ref().map_or_else(SizeHint::default, Unsent::size_hint),
        }
    }
}

/// A backend's answer as it comes, and what can be used again after it.
pub(super) enum Inbound {
    /// By its own connection.
    Http1(http1::Body),
    /// By one that hyper drives; its sender when another request may follow.
    Driven(Incoming, Option<Driven>),
}

impl Inbound {
    fn release(&mut self) -> Option<Sender> {
        match self {
            Self::Http1(body) => body.release().map(Sender::Http1),
            Self::Driven(_, sender) => sender.take().map(Sender::Driven),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Driven(body, _) => Pin::new(body).poll_frame(cx).map_err(io::Error::other),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Driven(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Driven(body, _) => body.size_hint(),
        }
    }
}

/// Where a connection that is busy with one answer belongs; it goes back to its worker when the answer is complete.
pub(super) struct Lease {
    pub(super) backend: BackendId,
    pub(super) via: Via,
}

/// What is sent to the client.
pub(super) enum ResponseBody {
    /// Made here.
    Own(Option<Bytes>, Option<Record>),
    /// A backend's, as it comes.
    Relayed(Relayed),
}

/// A backend's answer on its way to the client, with all that must be settled when it ends.
pub(super) struct Relayed {
    inbound: Inbound,
    lease: Option<Lease>,
    in_flight: Option<InFlight>,
    record: Record,
}

impl ResponseBody {
    /// A small body made here.
    pub(super) fn own(bytes: Bytes, record: Record) -> Self {
        Self::Own((!bytes.is_empty()).then_some(bytes), Some(record))
    }

    /// A backend's body. `lease` and `in_flight` are given up as soon as its last byte has come.
    pub(super) fn relayed(
        inbound: Inbound,
        lease: Option<Lease>,
        in_flight: Option<InFlight>,
        record: Record,
    ) -> Self {
        let mut relayed = Relayed { inbound, lease, in_flight, record };
        if relayed.inbound.is_end_stream() {
            relayed.complete();
        }
        Self::Relayed(relayed)
    }
}

impl Relayed {
    fn complete(&mut self) {
        self.in_flight = None;
        let now = self.record.complete();
        let sender = self.inbound.release();
        if let (Some(Lease { backend, via }), Some(sender)) = (self.lease.take(), sender) {
            self.record.worker().upstreams.put(backend, sender, via, now);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let relayed = match &mut *self {
            Self::Own(bytes, record) => {
                if let (Some(bytes), Some(record)) = (bytes.as_ref(), record.as_mut()) {
                    record.sent(bytes.len());
                    record.owes();
                }
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Relayed(relayed) => relayed,
        };
        relayed.record.taken();
        let mut frame = ready!(relayed.inbound.poll_frame(cx));
        if matches!(frame, Some(Ok(_))) {
            relayed.record.owes();
        }
        match &mut frame {
            None => relayed.complete(),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    relayed.record.sent(data.len());
                }
                clean(frame);
                // The server does not ask again once it knows that this was the end.
                if frame.is_trailers() || relayed.inbound.is_end_stream() {
                    relayed.complete();
                }
            }
            Some(Err(error)) => relayed.record.end(End::of_broken(error)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes, _) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.inbound.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relayed(relayed) => relayed.inbound.size_hint(),
        }
    }
}
