//! Who may use the admin API over TCP. Its Unix socket is guarded by the data folder's permissions instead.
//!
//! The Host header must name the port's own address: a page in an operator's browser cannot reach it under a name of
//! its own (DNS rebinding). A request that a page of another origin sends is refused. A token, where one is set, is
//! compared by keyed hash, in constant time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::{HeaderMap, StatusCode};

use super::doorkeeper::Seat;
use super::problem::problem;
use crate::config::node_file::TOKEN_MIN_BYTES;
use crate::dashboard;

/// Where a browser says that a request comes from (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The bearer token, as its hash.
#[derive(Clone)]
pub(crate) struct Token(blake3::Hash);

impl Token {
    /// Reads a token from a file; white space around it is not part of it.
    ///
    /// # Errors
    /// The file cannot be read, or holds fewer than 16 characters.
    pub(crate) fn load(path: &Path) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let token = text.trim();
        if token.len() < TOKEN_MIN_BYTES {
            return Err(std::io::Error::other("an admin token has at least 16 characters"));
        }
        Ok(Self::of(token))
    }

    fn of(token: &str) -> Self {
        Self(blake3::hash(token.as_bytes()))
    }

    /// Whether an Authorization header carries this token.
    fn is_in(&self, authorization: Option<&str>) -> bool {
        // blake3::Hash compares in constant time.
        authorization
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| Self::of(token).0 == self.0)
    }
}

/// The token that is needed now, if any.
pub(crate) type Tokens = Arc<ArcSwapOption<Token>>;

/// Whether anybody may have this: it tells nothing of the mesh.
pub(super) fn is_open(path: &str) -> bool {
    path == "/livez" || dashboard::is_file(path)
}

/// What guards a TCP port.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) listen: SocketAddr,
    pub(super) token: Tokens,
}

impl Guard {
    /// The answer to a request that may not pass.
    fn refusal(&self, request: &Request) -> Option<Response> {
        let text = |name| only(request.headers(), name);
        let Some(host) = text(HOST).flatten().filter(|host| self.knows_host(host)) else {
            return Some(refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "the Host header does not name this address",
            ));
        };
        let open = is_open(request.uri().path());
        let own = |origin: &str| origin.strip_prefix("http://") == Some(host);
        let elsewhere = text(ORIGIN).is_some_and(|origin| !origin.is_some_and(own));
        // A browser says where a request comes from also where it sends no Origin; the page itself may be linked to.
        let cross_site =
            text(SEC_FETCH_SITE).is_some_and(|site| !matches!(site, Some("same-origin" | "none")));
        if elsewhere || (cross_site && !open) {
            return Some(refuse(StatusCode::FORBIDDEN, "the request comes from a page of another origin"));
        }
        match &*self.token.load() {
            Some(token) if !open && !token.is_in(text(AUTHORIZATION).flatten()) => {
                let detail = match text(AUTHORIZATION) {
                    None => "an admin token is needed: Authorization: Bearer ...",
                    Some(_) => "this is not the node's admin token",
                };
                Some(refuse(StatusCode::UNAUTHORIZED, detail))
            }
            _ => None,
        }
    }

    fn knows_host(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, Some(80)),
        };
        if port != Some(self.listen.port()) {
            return false;
        }
        let ip = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::from),
            None => name.parse::<Ipv4Addr>().map(IpAddr::from),
        };
        match ip {
            Ok(ip) => ip == self.listen.ip() || self.listen.ip().is_unspecified(),
            Err(_) => name.eq_ignore_ascii_case("localhost") && self.listen.ip().is_loopback(),
        }
    }
}

/// The field's value: `None` where there is none, `Some(None)` where there are several or it is no visible ASCII, so that
/// nobody else reads it otherwise.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<Option<&str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    Some(value.to_str().ok().filter(|_| values.next().is_none()))
}

/// The middleware.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(seat): ConnectInfo<Seat>,
    request: Request,
    next: Next,
) -> Response {
    match guard.refusal(&request) {
        Some(refusal) => {
            seat.was_refused();
            refusal
        }
        None => next.run(request).await,
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

fn refuse(status: StatusCode, detail: &str) -> Response {
    problem(status, detail).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_needed_whole() {
        let token = Token::of("0123456789abcdef");
        assert!(token.is_in(Some("Bearer 0123456789abcdef")));
        assert!(!token.is_in(Some("Bearer 0123456789abcde")));
        assert!(!token.is_in(Some("0123456789abcdef")));
        assert!(!token.is_in(None));
    }

    #[test]
    fn only_the_own_address_is_a_host() {
        let guard = Guard { listen: "127.0.0.1:7900".parse().unwrap(), token: Arc::default() };
        assert!(guard.knows_host("127.0.0.1:7900"));
        assert!(guard.knows_host("localhost:7900"));
        assert!(!guard.knows_host("localhost"));
        assert!(!guard.knows_host("evil.example:7900"));
        assert!(!guard.knows_host("127.0.0.2:7900"));
        assert!(!guard.knows_host("[127.0.0.1]:7900"));
        let guard = Guard { listen: "[::1]:7900".parse().unwrap(), token: Arc::default() };
        assert!(guard.knows_host("[::1]:7900"));
        assert!(!guard.knows_host("::1:7900"));
    }

    #[test]
    fn pages_of_other_origins_are_refused_however_they_say_it() {
        let guard = Guard { listen: "127.0.0.1:7900".parse().unwrap(), token: Arc::default() };
        let refused = |fields: &[(&str, &[u8])]| {
            let mut request = Request::builder().uri("/v1/status");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            guard.refusal(&request.body(axum::body::Body::empty()).unwrap()).map(|answer| answer.status())
        };
        let host: (&str, &[u8]) = ("host", b"127.0.0.1:7900");
        let own: (&str, &[u8]) = ("origin", b"http://127.0.0.1:7900");
        for passes in [&[host][..], &[host, own], &[host, own, ("sec-fetch-site", b"same-origin")]] {
            assert_eq!(refused(passes), None, "{passes:?}");
        }
        for fields in [
            &[host, ("origin", b"http://evil.example")][..],
            &[host, ("origin", b"null")],
            &[host, ("origin", b"http://\xff")],
            &[host, own, ("origin", b"http://evil.example")],
            &[host, ("sec-fetch-site", b"cross-site")],
        ] {
            assert_eq!(refused(fields), Some(StatusCode::FORBIDDEN), "{fields:?}");
        }
        for fields in [&[][..], &[host, host], &[("host", b"127.0.0.1\xff:7900")]] {
            assert_eq!(refused(fields), Some(StatusCode::MISDIRECTED_REQUEST), "{fields:?}");
        }
    }
}
