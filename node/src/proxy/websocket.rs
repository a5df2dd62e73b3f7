//! WebSocket in HTTP/2's form (RFC 8441) and in HTTP/1.1's (RFC 6455), each turned into the other where users and backends differ.
//!
//! Inside it is the upgrade of HTTP/1.1. A user's extended CONNECT becomes one, and the answer to it becomes the one to the CONNECT;
//! for a backend that speaks HTTP/2 and takes extended CONNECTs, and for its answer, it is the other way round.
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;

use super::multiplex::Stream;
use super::outcome::End;
use super::outgoing::Outgoing;
use super::usher::Usher;

const NAME: &str = "websocket";
const WEBSOCKET: HeaderValue = HeaderValue::from_static(NAME);
/// What a server adds to a client's key before it hashes both (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether the request is an extended CONNECT for WebSocket.
pub(super) fn is_asked<B>(request: &Request<B>) -> bool {
    let protocol = || request.extensions().get::<Protocol>();
    request.method() == Method::CONNECT
        && protocol().is_some_and(|protocol| protocol.as_ref().eq_ignore_ascii_case(NAME.as_bytes()))
}

/// Turns an extended CONNECT into a request to switch to WebSocket. HTTP/2 has no use for the key, by which an HTTP/1.1
/// client knows that nobody answers it from a cache; a new one (RFC 6455 §4.1) is made of `random`.
pub(super) fn into_upgrade<B>(request: &mut Request<B>, random: u128) {
    *request.method_mut() = Method::GET;
    request.extensions_mut().remove::<Protocol>();
    let key = HeaderValue::try_from(BASE64_STANDARD.encode(random.to_be_bytes()));
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
    headers.extend(key.ok().map(|key| (SEC_WEBSOCKET_KEY, key)));
}

/// Turns the answer of a backend that switched into the one to an extended CONNECT (RFC 8441 §5).
pub(super) fn into_connected<B>(response: &mut Response<B>) {
    *response.status_mut() = StatusCode::OK;
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
        response.headers_mut().remove(name);
    }
}

/// Whether a request, ready for a backend, asks to switch to WebSocket.
pub(super) fn is_wanted(head: &Parts) -> bool {
    let named = |protocol: &HeaderValue| protocol.as_bytes().eq_ignore_ascii_case(NAME.as_bytes());
    head.method == Method::GET && head.headers.get(UPGRADE).is_some_and(named)
}

/// What a backend that takes `key` answers to it (RFC 6455 §4.2.2). `None`: the request has no key, and switches nothing.
fn acceptance(headers: &HeaderMap) -> Option<HeaderValue> {
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    HeaderValue::try_from(BASE64_STANDARD.encode(hash.finish())).ok()
}

/// Whether a request that asks to switch may go over this connection, and what the answer then says of its key; `None` when it is
/// another protocol that it asks for.
///
/// # Errors
/// `BadRequest` when it has no key, or a body; `NoWebSocket` when the backend takes none.
pub(super) async fn admit(
    stream: &Stream,
    usher: &Usher<'_>,
    outgoing: &Outgoing,
) -> Result<Option<HeaderValue>, End> {
    let Some((head, alone)) = outgoing.head().filter(|(head, _)| is_wanted(head)) else { return Ok(None) };
    let acceptance = acceptance(&head.headers).filter(|_| alone).ok_or(End::BadRequest)?;
    match stream.takes_connect(usher.service.timeout.connect).await {
        true => Ok(Some(acceptance)),
        false => Err(End::NoWebSocket),
    }
}

/// Brings the answer to an extended CONNECT, if it was one, into HTTP/1.1's form.
pub(super) fn answered<B>(response: &mut Response<B>, acceptance: Option<HeaderValue>) {
    if let Some(acceptance) = acceptance.filter(|_| response.status() == StatusCode::OK) {
        into_switched(response, acceptance);
    }
}

/// Turns a request to switch, in HTTP/2's form otherwise, into an extended CONNECT.
pub(super) fn into_connect(head: &mut Parts) {
    head.method = Method::CONNECT;
    head.extensions.insert(Protocol::from_static(NAME));
    for name in [SEC_WEBSOCKET_KEY, CONTENT_LENGTH] {
        head.headers.remove(name);
    }
}

/// Turns a backend's answer to an extended CONNECT that it took into that of one that switched.
fn into_switched<B>(response: &mut Response<B>, acceptance: HeaderValue) {
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
    headers.insert(SEC_WEBSOCKET_ACCEPT, acceptance);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/chat");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_key_of_the_rfc_has_the_answer_of_the_rfc() {
        let head = asked(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]);
        assert_eq!(acceptance(&head.headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(acceptance(&asked(&[]).headers), None);
    }

    #[test]
    fn only_websocket_is_wanted_as_websocket() {
        assert!(is_wanted(&asked(&[("upgrade", "WebSocket")])));
        for other in ["websocket2", "irc", "websocket, irc"] {
            assert!(!is_wanted(&asked(&[("upgrade", other)])), "{other}");
        }
        let mut post = asked(&[("upgrade", "websocket")]);
        post.method = Method::POST;
        assert!(!is_wanted(&post) && !is_wanted(&asked(&[])));
    }

    #[test]
    fn there_and_back_nothing_of_either_form_is_left() {
        let mut request = Request::connect("http://a/chat").extension(Protocol::from_static(NAME));
        request = request.header("sec-websocket-protocol", "chat");
        let mut request = request.body(()).unwrap();
        assert!(is_asked(&request));
        into_upgrade(&mut request, 7);
        let (mut head, ()) = request.into_parts();
        assert!(is_wanted(&head) && head.extensions.get::<Protocol>().is_none());
        let acceptance = acceptance(&head.headers).unwrap();
        into_connect(&mut head);
        assert_eq!(head.extensions.get::<Protocol>().map(Protocol::as_str), Some(NAME));
        assert!(!head.headers.contains_key("sec-websocket-key"));
        assert_eq!(head.headers["sec-websocket-protocol"], "chat");

        let mut response = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
        into_switched(&mut response, acceptance);
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        into_connected(&mut response);
        assert_eq!((response.status(), response.headers().len()), (StatusCode::OK, 1));
    }
}
