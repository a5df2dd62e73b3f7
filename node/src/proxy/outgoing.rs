//! A request on its way to a backend: what of it may be sent once more, and in which form it goes.
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::added::Added;
use super::body::{RequestBody, Streamed, Unsent};
use super::outcome::End;
use super::retry::{REPLAY_MAX_BYTES, is_idempotent};
use super::upload::Upload;
use super::upstream::Form;
use super::{grpc, headers};
use crate::config::model::Service;

/// A request on its way to a backend.
pub(super) struct Outgoing {
    /// `None` while a try that cannot be repeated has it.
    head: Option<Parts>,
    body: Payload,
    idempotent: bool,
    /// It asks to switch protocols.
    switches: bool,
    /// What the head still needs.
    added: Added,
}

enum Payload {
    Empty,
    Whole(Bytes),
    Stream(Option<Unsent>, Rc<Upload>),
}

impl Outgoing {
    /// Takes a client's request.
    pub(super) fn new(request: Request<Incoming>, added: Added) -> Self {
        let (mut head, body) = request.into_parts();
        let idempotent = is_idempotent(&head.method);
        let body = if body.is_end_stream() {
            Payload::Empty
        } else {
            if body.size_hint().exact().is_none() {
                // Else a GET with a body of unknown length would lose it on the way.
                head.headers.remove(CONTENT_LENGTH);
                head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            Payload::Stream(Some(body.into()), Rc::default())
        };
        let switches = head.headers.contains_key(UPGRADE);
        Self { head: Some(head), body, idempotent, switches, added }
    }

    /// Whether its body is to be [`read`](Self::read) first, so that it can be sent again: it is idempotent, and small.
    pub(super) fn is_worth_reading(&self) -> bool {
        let Payload::Stream(Some(body), _) = &self.body else { return false };
        self.idempotent && body.size_hint().exact().is_some_and(|bytes| bytes <= REPLAY_MAX_BYTES)
    }

    /// Reads its body.
    ///
    /// # Errors
    /// `ClientGone` when it does not arrive within `patience`.
    pub(super) async fn read(&mut self, patience: Duration) -> Result<(), End> {
        if let Payload::Stream(body, _) = &mut self.body
            && let Some(body) = body.take()
        {
            let collected = tokio::time::timeout(patience, body.collect()).await;
            let collected = collected.map_err(|_| End::ClientGone)?.map_err(|_| End::ClientGone)?;
            self.body = Payload::Whole(collected.to_bytes());
        }
        Ok(())
    }

    /// Whether all of it can be produced once more.
    pub(super) fn is_at_hand(&self) -> bool {
        self.head.is_some() && !matches!(self.body, Payload::Stream(None, _))
    }

    /// Whether it may be sent once more though a backend may have acted on it.
    pub(super) fn is_replayable(&self) -> bool {
        self.idempotent && !matches!(self.body, Payload::Stream(..))
    }

    /// The head and the body, when all of it can be written now and no more than an answer is to follow.
    pub(super) fn at_hand(&self) -> Option<(&Parts, &Added, &[u8])> {
        let body = match &self.body {
            Payload::Empty => &[][..],
            Payload::Whole(bytes) => bytes,
            Payload::Stream(..) => return None,
        };
        self.head.as_ref().filter(|_| !self.switches).map(|head| (head, &self.added, body))
    }

    /// The request for one try. What may be needed again is copied, the rest moves.
    pub(super) fn request(&mut self, form: Form, to: SocketAddr) -> Option<Request<RequestBody>> {
        if let Some(head) = &mut self.head {
            std::mem::take(&mut self.added).put_into(&mut head.headers);
        }
        let (head, body) = match &mut self.body {
            Payload::Empty => (self.head.clone(), RequestBody::Empty),
            Payload::Whole(bytes) => (self.head.clone(), RequestBody::Whole(Some(bytes.clone()))),
            Payload::Stream(body, upload) => {
                // An HTTP/2 backend may refuse a stream; then it is sent again.
                let keeps = matches!(form, Form::Http2(_));
                let body = RequestBody::Stream(Streamed::new(body.take()?, upload.clone(), keeps));
                (if keeps { self.head.clone() } else { self.head.take() }, body)
            }
        };
        let mut head = head?;
        match form {
            Form::Http1 => {}
            Form::Http2(scheme) => headers::to_http2(&mut head, scheme, to),
            Form::Crossing => headers::to_crossing(&mut head),
        }
        Some(Request::from_parts(head, body))
    }

    /// Takes a request back that was never sent.
    pub(super) fn restore(&mut self, request: Request<RequestBody>) {
        let (head, body) = request.into_parts();
        self.head.get_or_insert(head);
        if let (Payload::Stream(slot, _), RequestBody::Stream(body)) = (&mut self.body, body) {
            *slot = body.into_unsent();
        }
    }

    /// Takes back a body that the backend did not look at.
    pub(super) fn reclaim(&mut self) {
        if let Payload::Stream(slot @ None, upload) = &mut self.body {
            *slot = upload.take_unsent();
        }
    }

    /// Whether it asks to switch protocols.
    pub(super) fn switches(&self) -> bool {
        self.switches
    }

    /// Its head, and whether that is all of it.
    pub(super) fn head(&self) -> Option<(&Parts, bool)> {
        Some((self.head.as_ref()?, matches!(self.body, Payload::Empty)))
    }

    /// The slowest that a streamed body may come. Messages of gRPC come when they come, where they hold no connection.
    pub(super) fn min_rate(&self, service: &Service, form: Form) -> u32 {
        let streamed = self.head.as_ref().filter(|_| self.upload().is_some());
        let may_rest = |head: &&Parts| form != Form::Http1 && grpc::is_grpc(&head.headers);
        streamed.filter(|head| !may_rest(head)).map_or(0, |_| service.min_body_rate)
    }

    pub(super) fn upload(&self) -> Option<&Upload> {
        match &self.body {
            Payload::Stream(_, upload) => Some(upload),
            _ => None,
        }
    }
}
