//! Bodies on their way: from the client to a backend, and back.
use std::cell::Cell;
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
use super::secure::Via;
use super::upstream::Sender;
use crate::backend::InFlight;

/// What is sent to a backend.
pub(super) enum RequestBody {
    /// Nothing.
    Empty,
    /// All of it at hand, so it can be sent again.
    Whole(Option<Bytes>),
    /// As the client sends it, once.
    Stream(Incoming, Rc<Upload>),
}

/// How a body that is streamed to a backend gets on.
#[derive(Debug, Default)]
pub(super) struct Upload {
    frames: Cell<u64>,
    done: Cell<bool>,
    /// The backend would take more, but the client has not sent it.
    waits: Cell<bool>,
    broke: Cell<Option<End>>,
}

impl Upload {
    /// A number that changes while the client goes on sending, and once more at the end.
    pub(super) fn progress(&self) -> u64 {
        2 * self.frames.get() + u64::from(self.done.get())
    }

    /// How the client broke it off, if it did.
    pub(super) fn broke(&self) -> Option<End> {
        self.broke.get()
    }

    /// Whether it stands still because the client sends nothing.
    pub(super) fn waits(&self) -> bool {
        self.waits.get()
    }
}

/// What a client's broken body amounts to: it left before the end, or what it sent is no body.
fn broken(error: &hyper::Error) -> End {
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
            Self::Stream(incoming, upload) => {
                let frame = Pin::new(&mut *incoming).poll_frame(cx);
                upload.waits.set(frame.is_pending());
                let frame = ready!(frame);
                if let Some(Err(error)) = &frame {
                    upload.broke.set(Some(broken(error)));
                }
                upload.frames.set(upload.frames.get() + 1);
                upload.done.set(frame.is_none() || incoming.is_end_stream());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(incoming, _) => incoming.size_hint(),
        }
    }
}

/// A backend's connection that is busy with one answer; it goes back to its worker when the answer is complete.
pub(super) struct Lease {
    pub(super) sender: Sender,
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
    incoming: Incoming,
    lease: Option<Lease>,
    in_flight: Option<InFlight>,
    record: Option<Record>,
}

impl ResponseBody {
    /// A small body made here.
    pub(super) fn own(bytes: Bytes, record: Record) -> Self {
        Self::Own((!bytes.is_empty()).then_some(bytes), Some(record))
    }

    /// A backend's body. `lease` and `in_flight` are given up as soon as its last byte has come.
    pub(super) fn relayed(
        incoming: Incoming,
        lease: Option<Lease>,
        in_flight: Option<InFlight>,
        record: Record,
    ) -> Self {
        let mut relayed = Relayed { incoming, lease, in_flight, record: Some(record) };
        if relayed.incoming.is_end_stream() {
            relayed.complete();
        }
        Self::Relayed(relayed)
    }
}

impl Relayed {
    fn complete(&mut self) {
        self.in_flight = None;
        let Some(record) = self.record.as_mut() else { return };
        record.end(End::Ok);
        if let Some(Lease { sender, backend, via }) = self.lease.take() {
            let worker = Rc::clone(record.worker());
            worker.upstreams.put(backend, sender, via, worker.clock().now());
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let relayed = match &mut *self {
            Self::Own(bytes, record) => {
                if let (Some(bytes), Some(record)) = (bytes.as_ref(), record.as_mut()) {
                    record.sent(bytes.len());
                }
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Relayed(relayed) => relayed,
        };
        let frame = ready!(Pin::new(&mut relayed.incoming).poll_frame(cx));
        match &frame {
            None => relayed.complete(),
            Some(Ok(frame)) => {
                if let (Some(data), Some(record)) = (frame.data_ref(), relayed.record.as_mut()) {
                    record.sent(data.len());
                }
                // The server does not ask again once it knows that this was the end.
                if relayed.incoming.is_end_stream() {
                    relayed.complete();
                }
            }
            Some(Err(_)) => {
                if let Some(record) = relayed.record.as_mut() {
                    record.end(End::UpstreamReset);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes, _) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}
