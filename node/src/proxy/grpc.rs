//! What gRPC callers are told when an answer is made here. A gRPC client reads no HTTP status and no body: the answer is a
//! head alone with HTTP 200, gRPC's own status and a message ("Trailers-Only" in gRPC over HTTP/2).
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::outcome::End;
use super::problem;
use super::trace::X_REQUEST_ID;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// When to try again, in milliseconds (gRFC A6).
const GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether these are the headers of a gRPC call or answer: `application/grpc`, perhaps with the coding of its messages.
/// gRPC-Web, which is read by scripts in browsers, is another protocol.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// How long a caller is willing to wait, where it says so: up to eight digits and a unit. Passed on as it is, for the backend is to know
/// it too.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(3600 * count)),
        b'M' => Some(Duration::from_secs(60 * count)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The status of an end that is answered here (google.rpc.Code).
fn status(end: End) -> u16 {
    const CANCELLED: u16 = 1;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const FAILED_PRECONDITION: u16 = 9;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    match end {
        End::ClientGone | End::SlowClient | End::Idle => CANCELLED,
        End::UpstreamTimeout | End::Deadline => DEADLINE_EXCEEDED,
        End::Denied => PERMISSION_DENIED,
        End::RateLimited => RESOURCE_EXHAUSTED,
        // No call follows a redirect; it must be made over TLS to begin with.
        End::Redirected => FAILED_PRECONDITION,
        End::NoRoute | End::NoWebSocket | End::Answered => UNIMPLEMENTED,
        // A full queue is a moment's affair of the service, no quota of the caller: it may try again.
        End::QueueFull | End::NoBackend | End::SessionRefused | End::ConnectFailed | End::UpstreamReset => {
            UNAVAILABLE
        }
        End::UpstreamMalformed
        | End::Loop
        | End::BadRequest
        | End::BadProxyHeader
        | End::BadClientHello
        | End::Ok => INTERNAL,
    }
}

/// The answer for an end; `detail` replaces the usual words, `wait` says when to ask again.
pub(super) fn refusal(
    end: End,
    detail: Option<&'static str>,
    wait: Option<Duration>,
    id: Option<&HeaderValue>,
) -> Response<Bytes> {
    let words = detail.unwrap_or(problem::status(end).1);
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(GRPC_STATUS, HeaderValue::from(status(end)));
    // Words of this file's and problem's own, without what would have to be percent-encoded.
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(words));
    headers.extend(id.map(|id| (X_REQUEST_ID, id.clone())));
    if let Some(wait) = wait {
        let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).clamp(1, i32::MAX as u64);
        headers.insert(GRPC_RETRY_PUSHBACK, HeaderValue::from(milliseconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn calls_are_known_by_their_content_type() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web+proto", false),
            ("application/grpcs", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), is, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        let told = |text: &'static str| {
            deadline(&HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(text))]))
        };
        for (text, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("40m", 40_000_000),
            ("5u", 5_000),
            ("6n", 6),
            ("0S", 0),
            ("99999999H", 99_999_999 * 3_600_000_000_000),
        ] {
            assert_eq!(told(text).map(|time| time.as_nanos()), Some(nanos), "{text}");
        }
        for odd in ["", "S", "1", "1s", "1 S", "-1S", "+1S", "1.5S", "123456789S", "1SS"] {
            assert_eq!(told(odd), None, "{odd}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    #[test]
    fn every_end_has_a_status_and_words_that_need_no_encoding() {
        for end in End::ALL {
            let id = HeaderValue::from_static("abc");
            let refusal = refusal(*end, None, Some(Duration::from_micros(1_500)), Some(&id));
            assert_eq!((refusal.status(), refusal.body().len()), (StatusCode::OK, 0));
            let headers = refusal.headers();
            let code: u16 = headers[GRPC_STATUS].to_str().unwrap().parse().unwrap();
            assert!((1..=16).contains(&code), "{end:?}: {code}");
            let words = headers[GRPC_MESSAGE].as_bytes();
            assert!(words.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'%'), "{words:?}");
            assert_eq!(headers[GRPC_RETRY_PUSHBACK], "1");
            assert_eq!(headers[X_REQUEST_ID], "abc");
        }
    }
}
