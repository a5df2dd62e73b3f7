//! What users are told when an answer is made here: a status and a small problem+json body (RFC 9457), which names the
//! request and nothing of the inside (I15).
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::outcome::End;

/// The status of an end that is answered here, and its detail.
pub(super) fn status(end: End) -> (StatusCode, &'static str) {
    match end {
        End::Denied => (StatusCode::FORBIDDEN, "your address may not use this service"),
        End::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "you ask too often"),
        End::NoRoute => (StatusCode::NOT_FOUND, "nothing is served here under this name"),
        End::Loop => (StatusCode::LOOP_DETECTED, "the request goes in a circle"),
        End::NoBackend => (StatusCode::SERVICE_UNAVAILABLE, "the service is not available at the moment"),
        End::QueueFull => (StatusCode::SERVICE_UNAVAILABLE, "the service is busy at the moment"),
        End::SessionRefused => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the server that holds your session is not available at the moment",
        ),
        End::ConnectFailed => (StatusCode::BAD_GATEWAY, "the service could not be reached"),
        End::UpstreamReset => (StatusCode::BAD_GATEWAY, "the service broke off before it answered"),
        End::UpstreamMalformed => (StatusCode::BAD_GATEWAY, "the service answered what cannot be understood"),
        End::Deadline => (StatusCode::GATEWAY_TIMEOUT, "the deadline of the call passed"),
        End::NoWebSocket => (StatusCode::NOT_IMPLEMENTED, "the service takes no WebSocket"),
        End::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time"),
        End::ClientGone | End::SlowClient | End::Idle => {
            (StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time")
        }
        End::Answered => (StatusCode::NO_CONTENT, "the node answers for itself"),
        End::Redirected => (StatusCode::PERMANENT_REDIRECT, "this is served over https"),
        End::BadRequest | End::BadProxyHeader | End::BadClientHello => {
            (StatusCode::BAD_REQUEST, "the request is malformed")
        }
        End::Ok => (StatusCode::INTERNAL_SERVER_ERROR, "the request could not be served"),
    }
}

/// The answer for an end; `detail` replaces the usual one.
pub(super) fn response(end: End, detail: Option<&'static str>, id: Option<&HeaderValue>) -> Response<Bytes> {
    let (status, usual) = status(end);
    // An id is visible ASCII of at most 128 bytes, but a trusted peer may put quotes in it.
    let id = id.and_then(|id| id.to_str().ok()).filter(|id| !id.contains(['"', '\\'])).unwrap_or("");
    let title = status.canonical_reason().unwrap_or("Error");
    let body = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{},\"detail\":\"{}\",\"request_id\":\"{id}\"}}\n",
        status.as_u16(),
        detail.unwrap_or(usual),
    );
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The answer to who asks whether the node is there: yes, and nothing more. Which methods are allowed is for each resource to say.
pub(super) fn nothing() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status(End::Answered).0;
    response
}

/// Says when to ask again, in whole seconds, at least one (RFC 9110 §10.2.3).
pub(super) fn retry_after(headers: &mut HeaderMap, wait: Duration) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_json_and_names_only_the_request() {
        for end in End::ALL {
            let response = response(*end, None, Some(&HeaderValue::from_static("abc")));
            assert_ne!(response.status(), StatusCode::OK);
            let json: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(json["status"], response.status().as_u16());
            assert_eq!(json["request_id"], "abc");
        }
        let odd = response(End::Denied, None, Some(&HeaderValue::from_static("a\"b")));
        assert!(serde_json::from_slice::<serde_json::Value>(odd.body()).is_ok());
    }
}
