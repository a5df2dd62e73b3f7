//! Probes over HTTP/2, by prior knowledge or over TLS: a GET, or gRPC's own health check (grpc.health.v1, one field each way, so its
//! protobuf is written by hand).

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Collected, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::probe::{ProbeError, Stream};

const HEAD_MAX_BYTES: u32 = 64 * 1024;
const BODY_MAX_BYTES: usize = 64 * 1024;
/// The only status of `HealthCheckResponse` that is good.
const SERVING: u64 = 1;

/// Asks for a path of an origin (`https://host:port`) and returns the status.
pub(super) async fn get(stream: Box<dyn Stream>, origin: &str, path: &str) -> Result<StatusCode, ProbeError> {
    let request = Request::get(format!("{origin}{path}"))
        .header(header::USER_AGENT, "meridian-health")
        .version(Version::HTTP_2)
        .body(Full::default())
        .map_err(|_| ProbeError::Unsendable)?;
    exchange(stream, request, |response| async move { Ok(response.status()) }).await
}

/// Asks whether a gRPC service serves; an empty name asks for the whole server.
pub(super) async fn check(stream: Box<dyn Stream>, origin: &str, service: &str) -> Result<(), ProbeError> {
    let request = Request::post(format!("{origin}/grpc.health.v1.Health/Check"))
        .header(header::USER_AGENT, "meridian-health")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .version(Version::HTTP_2)
        .body(Full::new(question(service)))
        .map_err(|_| ProbeError::Unsendable)?;
    exchange(stream, request, |response| async move {
        if response.status() != StatusCode::OK {
            return Err(ProbeError::Status(response.status()));
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_MAX_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { ProbeError::NotHttp } else { ProbeError::NoAnswer }
        })?;
        judge(&head.headers, body)
    })
    .await
}

/// Sends one request over a connection of its own and reads the answer while the connection is driven.
async fn exchange<T, F>(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    read: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, ProbeError>
where
    F: Future<Output = Result<T, ProbeError>>,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.max_header_list_size(HEAD_MAX_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut answer = pin!(async {
        let response = sender.send_request(request).await?;
        read(response).await
    });
    let mut open = true;
    poll_fn(|cx| {
        open = open && connection.as_mut().poll(cx).is_pending();
        match answer.as_mut().poll(cx) {
            // Nobody moves it any more.
            Poll::Pending if !open => Poll::Ready(Err(ProbeError::NoAnswer)),
            polled => polled,
        }
    })
    .await
}

fn judge(head: &HeaderMap, body: Collected<Bytes>) -> Result<(), ProbeError> {
    // An answer without a message has its status in the head.
    let status = body.trailers().and_then(status).or_else(|| status(head));
    match status {
        Some(0) => {}
        Some(code) => return Err(ProbeError::Grpc(code)),
        None => return Err(ProbeError::NotGrpc),
    }
    match serving(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(_) => Err(ProbeError::NotServing),
        None => Err(ProbeError::NotGrpc),
    }
}

fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status").map(HeaderValue::to_str)?.ok()?.parse().ok()
}

/// `HealthCheckRequest { service }` as a gRPC message: no compression, length, field 1 as a string.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

/// The status in `HealthCheckResponse { status }`; a field that is left out is 0. `None`: that is no such message.
fn serving(framed: &[u8]) -> Option<u64> {
    let (frame, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(frame[1..].try_into().ok()?);
    if frame[0] != 0 || length as usize != message.len() {
        return None;
    }
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_question_byte_for_byte() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(question("shop").as_ref(), b"\x00\x00\x00\x00\x06\x0a\x04shop");
        assert_eq!(question(&"x".repeat(300))[5..8], [0x0a, 0xac, 0x02]);
    }

    #[test]
    fn the_answer_byte_for_byte() {
        assert_eq!(serving(b"\x00\x00\x00\x00\x02\x08\x01"), Some(SERVING));
        assert_eq!(serving(b"\x00\x00\x00\x00\x02\x08\x02"), Some(2));
        assert_eq!(serving(b"\x00\x00\x00\x00\x00"), Some(0));
        assert_eq!(serving(b"\x00\x00\x00\x00\x06\x12\x02ab\x08\x01"), Some(SERVING));
        assert_eq!(serving(b"\x01\x00\x00\x00\x02\x08\x01"), None, "compressed, which nobody asked for");
        assert_eq!(serving(b"\x00\x00\x00\x00\x03\x08\x01"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = serving(&bytes);
            let mut framed = vec![0, 0, 0, 0, bytes.len() as u8];
            framed.extend(&bytes);
            let _ = serving(&framed);
        }
    }
}
