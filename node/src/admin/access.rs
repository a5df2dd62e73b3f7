//! Who may use the admin API over TCP. Its Unix socket is guarded by the data folder's permissions instead.
//!
//! The Host header must name the port's own address: a page in an operator's browser cannot reach it under a name of
//! its own (DNS rebinding). A request that a page of another origin sends is refused. A token, where one is set, is
//! compared by keyed hash, in constant time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{AUTHORIZATION, HOST, ORIGIN};

use super::problem::problem;
use crate::dashboard;

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
        if token.len() < 16 {
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

/// What guards a TCP port.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) listen: SocketAddr,
    pub(super) token: Arc<ArcSwapOption<Token>>,
}

impl Guard {
    /// The answer to a request that may not pass.
    fn refusal(&self, request: &Request) -> Option<Response> {
        let text =
            |name| request.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let Some(host) = text(HOST).filter(|host| self.knows_host(host)) else {
            return Some(refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "the Host header does not name this address",
            ));
        };
        if text(ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") != Some(host)) {
            return Some(refuse(StatusCode::FORBIDDEN, "the request comes from a page of another origin"));
        }
        let path = request.uri().path();
        let open = path == "/livez" || dashboard::is_file(path);
        match &*self.token.load() {
            Some(token) if !open && !token.is_in(text(AUTHORIZATION)) => {
                let detail = "an admin token is needed: Authorization: Bearer ...";
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
        let name = name.trim_start_matches('[').trim_end_matches(']');
        match name.parse::<std::net::IpAddr>() {
            Ok(ip) => ip == self.listen.ip() || self.listen.ip().is_unspecified(),
            Err(_) => name.eq_ignore_ascii_case("localhost") && self.listen.ip().is_loopback(),
        }
    }
}

/// The middleware.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.refusal(&request) {
        Some(refusal) => refusal,
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
        let guard = Guard { listen: "[::1]:7900".parse().unwrap(), token: Arc::default() };
        assert!(guard.knows_host("[::1]:7900"));
    }
}
