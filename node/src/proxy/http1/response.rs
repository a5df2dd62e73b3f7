//! The head of an answer, and how its body is told from what follows (RFC 9112 §4, §6.3; pure).
//!
//! Stricter than some readers where two could disagree: a transfer coding other than chunked, lengths that differ and a line
//! that is continued are refused. An answer with both a length and a coding is read by its coding and loses its length, and
//! its connection is not used again.
use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

/// Bytes of a head, at most.
pub(super) const HEAD_MAX_BYTES: usize = 64 * 1024;
const FIELDS_MAX: usize = 100;
/// Interim answers before the final one. Without an end to them, a backend could keep its reader busy beyond every deadline.
pub(super) const INTERIM_MAX: u32 = 100;

/// The head of a final answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The backend goes on with another request on this connection.
    pub(super) keeps: bool,
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// Where its chunks say.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What a backend sent is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// A line that breaks the grammar.
    #[error("no HTTP/1.1 answer")]
    Syntax,
    /// More bytes or fields than are taken.
    #[error("the head is too large")]
    TooLarge,
    /// Nobody asked to switch protocols.
    #[error("a switch of protocols that nobody asked for")]
    Switched,
    /// Interim answers without end.
    #[error("more interim answers than are taken")]
    Endless,
    /// Two lengths, or one that is no number.
    #[error("the length is not clear")]
    Length,
    /// A coding that this proxy would have to understand, or one in HTTP/1.0.
    #[error("a transfer coding other than chunked")]
    Coding,
}

/// Takes the head of the final answer to `method` off the buffer; interim ones (1xx) before it are dropped. `None`: there
/// is more to come. `interim` says how many of these are still borne.
pub(super) fn take(
    buf: &mut BytesMut,
    method: &Method,
    interim: &mut u32,
) -> Result<Option<Head>, Malformed> {
    loop {
        match buf.first() {
            None => return Ok(None),
            Some(b'H') => {}
            Some(_) => return Err(Malformed::Syntax),
        }
        let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut read = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut read, buf, &mut lines);
        let bytes = match parsed {
            Ok(Status::Complete(bytes)) if bytes <= HEAD_MAX_BYTES => bytes,
            Ok(Status::Partial) if buf.len() < HEAD_MAX_BYTES => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLarge),
            Err(_) => return Err(Malformed::Syntax),
        };
        let code = read.code.unwrap_or_default();
        let head = match code {
            101 => return Err(Malformed::Switched),
            100..=199 => {
                *interim = interim.checked_sub(1).ok_or(Malformed::Endless)?;
                None
            }
            _ => Some(head(&read, code, method)?),
        };
        buf.advance(bytes);
        if head.is_some() {
            return Ok(head);
        }
    }
}

fn head(read: &httparse::Response<'_, '_>, code: u16, method: &Method) -> Result<Head, Malformed> {
    let status = StatusCode::from_u16(code).map_err(|_| Malformed::Syntax)?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Some(reason) = read.reason.filter(|reason| Some(*reason) != status.canonical_reason())
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    let mut headers = HeaderMap::with_capacity(read.headers.len() + ROOM);
    let mut length = None;
    let (mut lengths, mut codings) = (0_u32, 0_u32);
    let mut keeps = read.version == Some(1);
    for line in &*read.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed::Syntax)?;
        if name == CONTENT_LENGTH {
            for told in line.value.split(|byte| *byte == b',') {
                let told = number(told.trim_ascii()).ok_or(Malformed::Length)?;
                if *length.get_or_insert(told) != told {
                    return Err(Malformed::Length);
                }
                lengths += 1;
            }
        } else if name == TRANSFER_ENCODING {
            if !line.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::Coding);
            }
            codings += 1;
            // It is this connection's alone, as a Connection that names no field is.
            continue;
        } else if name == CONNECTION {
            keeps = still_keeps(keeps, line.value);
            if is_usual(line.value) {
                continue;
            }
        }
        headers.append(name, HeaderValue::from_bytes(line.value).map_err(|_| Malformed::Syntax)?);
    }
    if codings > 1 || codings > 0 && read.version != Some(1) {
        return Err(Malformed::Coding);
    }
    if codings > 0 && lengths > 0 {
        headers.remove(CONTENT_LENGTH);
        keeps = false;
    } else if let (2.., Some(length)) = (lengths, length) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let empty =
        *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match length {
        _ if empty => Framing::Length(0),
        _ if codings > 0 => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    *response.headers_mut() = headers;
    Ok(Head { response, framing, keeps })
}

/// Fields that are added on the way to the client, most of the time.
const ROOM: usize = 4;

/// A number of decimal digits alone.
fn number(digits: &[u8]) -> Option<u64> {
    let digits =
        str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Whether a Connection field names no other field.
fn is_usual(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// Whether a connection goes on after a Connection field (RFC 9112 §9.3); a `close` anywhere is final.
fn still_keeps(keeps: bool, value: &[u8]) -> bool {
    let listed = |wanted: &[u8]| {
        value.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    !listed(b"close") && (keeps || listed(b"keep-alive"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(buf: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
        super::take(buf, method, &mut INTERIM_MAX.clone())
    }

    #[test]
    fn interim_answers_have_an_end() {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let last = "HTTP/1.1 200 OK\r\n\r\n";
        let most = format!("{}{last}", interim.repeat(INTERIM_MAX as usize));
        assert_eq!(get(&most).response.status(), StatusCode::OK);
        assert_eq!(read(&format!("{interim}{most}"), &Method::GET).unwrap_err(), Malformed::Endless);
    }

    fn read(text: &str, method: &Method) -> Result<Option<Head>, Malformed> {
        take(&mut BytesMut::from(text), method)
    }

    fn get(text: &str) -> Head {
        read(text, &Method::GET).unwrap().unwrap()
    }

    #[test]
    fn where_a_body_ends() {
        let cases = [
            ("Content-Length: 5\r\n", Framing::Length(5), true),
            ("Content-Length: 5\r\nContent-Length: 5, 5\r\n", Framing::Length(5), true),
            ("Transfer-Encoding: CHUNKED\r\n", Framing::Chunked, true),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Framing::Chunked, false),
            ("Content-Length: 5\r\nConnection: x, Close\r\n", Framing::Length(5), false),
            ("", Framing::UntilClose, true),
        ];
        for (fields, framing, keeps) in cases {
            let head = get(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            assert_eq!((head.framing, head.keeps), (framing, keeps), "{fields}");
            let lengths = head.response.headers().get_all(CONTENT_LENGTH).iter().count();
            assert_eq!(lengths, usize::from(matches!(framing, Framing::Length(_))), "{fields}");
            assert!(!head.response.headers().contains_key(TRANSFER_ENCODING), "{fields}");
        }
    }

    #[test]
    fn answers_without_a_body() {
        let nothing = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(get(nothing).framing, Framing::Length(0));
        assert_eq!(get("HTTP/1.1 204 No Content\r\n\r\n").framing, Framing::Length(0));
        let head = read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &Method::HEAD);
        assert_eq!(head.unwrap().unwrap().framing, Framing::Length(0));
    }

    #[test]
    fn http_1_0_keeps_only_by_word() {
        assert!(!get("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").keeps);
        assert!(get("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n").keeps);
    }

    #[test]
    fn what_is_refused() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Malformed::Coding),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Malformed::Coding,
            ),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::Coding),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Malformed::Switched),
            ("HTTP/1.1 099 Low\r\n\r\n", Malformed::Syntax),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Malformed::Syntax),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Malformed::Syntax),
            ("HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n", Malformed::Syntax),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", Malformed::Syntax),
            ("SSH-2.0-OpenSSH_9.2\r\n", Malformed::Syntax),
        ];
        for (text, refused) in cases {
            assert_eq!(read(text, &Method::GET).unwrap_err(), refused, "{text:?}");
        }
    }

    #[test]
    fn a_head_has_bounds() {
        let fields = "a: b\r\n".repeat(FIELDS_MAX + 1);
        assert_eq!(
            read(&format!("HTTP/1.1 200 OK\r\n{fields}"), &Method::GET).unwrap_err(),
            Malformed::TooLarge
        );
        let long = "x".repeat(HEAD_MAX_BYTES);
        assert_eq!(
            read(&format!("HTTP/1.1 200 OK\r\na: {long}"), &Method::GET).unwrap_err(),
            Malformed::TooLarge
        );
    }

    #[test]
    fn interim_answers_are_passed_over_and_a_reason_of_its_own_is_kept() {
        let mut buf = BytesMut::from(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nhi",
        );
        let head = take(&mut buf, &Method::GET).unwrap().unwrap();
        assert_eq!(&buf[..], b"hi");
        assert_eq!(head.response.extensions().get::<ReasonPhrase>().unwrap().as_bytes(), b"Fine");
        assert!(!head.response.headers().contains_key("link"));
        assert!(get("HTTP/1.1 200 OK\r\n\r\n").response.extensions().get::<ReasonPhrase>().is_none());
        assert!(get("HTTP/1.1 200\r\n\r\n").response.status().is_success());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(mut text in prop::collection::vec(any::<u8>(), 0..300), as_http in any::<bool>()) {
            if as_http {
                text.splice(..0, *b"HTTP/1.1 200 OK\r\n");
            }
            let _ = take(&mut BytesMut::from(&text[..]), &Method::GET);
        }

        #[test]
        fn it_matters_not_how_a_head_is_cut(at in 0usize..80) {
            let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\nhello";
            let mut buf = BytesMut::from(&text[..at.min(text.len())]);
            let first = take(&mut buf, &Method::GET).unwrap();
            buf.extend_from_slice(&text.as_bytes()[at.min(text.len())..]);
            let head = first.map_or_else(|| take(&mut buf, &Method::GET).unwrap(), Some).unwrap();
            prop_assert_eq!(head.framing, Framing::Length(5));
            prop_assert_eq!(&buf[..], b"hello");
        }
    }
}
