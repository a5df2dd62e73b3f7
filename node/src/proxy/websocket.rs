//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT from a client becomes the HTTP/1.1 upgrade that backends know, and
//! the answer to that becomes the one to the CONNECT.
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::ext::Protocol;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Whether the request is an extended CONNECT for WebSocket.
pub(super) fn is_asked<B>(request: &Request<B>) -> bool {
    let protocol = || request.extensions().get::<Protocol>();
    request.method() == Method::CONNECT
        && protocol().is_some_and(|protocol| protocol.as_ref().eq_ignore_ascii_case(b"websocket"))
}

/// Turns an extended CONNECT into a request to switch to WebSocket. HTTP/2 has no use for the key, by which an HTTP/1.1
/// client knows that nobody answers it from a cache; a new one (RFC 6455 §4.1) is made of `random`.
pub(super) fn into_upgrade<B>(request: &mut Request<B>, random: u128) {
    *request.method_mut() = Method::GET;
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
