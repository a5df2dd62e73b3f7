//! Headers that belong to one hop (RFC 9110 §7.6.1), and the checks a request must pass before it is routed (pure).
use std::net::SocketAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri, Version};

use super::fields::Fields;
use super::tunnel::near;
use super::{grpc, websocket};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// CGI programs take it for a setting of their own ("httpoxy", CVE-2016-5385).
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// Removes what concerns only the connection it came over, from a request or a response.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap, fields: Fields) {
    if !fields.any(Fields::HOP_BY_HOP) {
        return;
    }
    if fields.any(Fields::CONNECTION) {
        remove_named_by_connection(headers);
        headers.remove(CONNECTION);
    }
    let others = [
        (Fields::KEEP_ALIVE, KEEP_ALIVE),
        (Fields::KEEP_ALIVE, PROXY_CONNECTION),
        (Fields::TRANSFER_ENCODING, TRANSFER_ENCODING),
        (Fields::UPGRADE, UPGRADE),
        (Fields::TE, TE),
    ];
    for (_, name) in others.into_iter().filter(|(field, _)| fields.any(*field)) {
        headers.remove(name);
    }
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    let usual = |line: &HeaderValue| matches!(line.as_bytes(), b"keep-alive" | b"close");
    if headers.get_all(CONNECTION).iter().all(usual) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .filter(|token| {
            let token = token.trim_ascii();
            !token.eq_ignore_ascii_case(b"close") && !token.eq_ignore_ascii_case(b"keep-alive")
        })
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // What frames or addresses the message is never the hop's alone, whatever the list claims.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// The protocol that the request wants to switch to, when a proxy may pass that on. HTTP/2 in the clear is spoken hop by
/// hop, so a wish for it ends here (RFC 9113 §3.1 withdrew it).
pub(super) fn wanted_upgrade<B>(request: &Request<B>, fields: Fields) -> Option<HeaderValue> {
    if !fields.any(Fields::UPGRADE) {
        return None;
    }
    let wanted = request.headers().get(UPGRADE)?;
    let listed = tokens(request.headers(), &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    // Anywhere in the list: the backend is free to choose.
    let own = tokens(request.headers(), &UPGRADE).any(|protocol| {
        let name = protocol.get(..3).unwrap_or_default();
        name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"tls")
    });
    (listed && !own && request.version() == Version::HTTP_11).then(|| wanted.clone())
}

/// Prepares a request's headers for the backend; `upgrade` is kept when it is given.
pub(super) fn for_backend(headers: &mut HeaderMap, fields: Fields, upgrade: Option<&HeaderValue>) {
    let trailers =
        fields.any(Fields::TE) && tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers, fields);
    if fields.any(Fields::ASKED_OF_US) {
        for name in [PROXY, PROXY_AUTHORIZATION, EXPECT] {
            headers.remove(name);
        }
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    } else if trailers {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Prepares a response's headers for the client; an agreed upgrade keeps its two headers.
pub(super) fn for_client(headers: &mut HeaderMap, fields: Fields, switched: bool) {
    let protocol = if switched { headers.get(UPGRADE).cloned() } else { None };
    remove_hop_by_hop(headers, fields);
    if fields.any(Fields::PROXY_AUTHENTICATE) {
        headers.remove(PROXY_AUTHENTICATE);
    }
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Takes out of a backend's answer what names the inside (I15): a redirect to the backend's own address becomes one to
/// the same path here, and headers that only nodes say to each other are none of a backend's.
pub(super) fn hide_inside(headers: &mut HeaderMap, fields: Fields, backend: SocketAddr) {
    if fields.any(Fields::INSIDE) {
        for name in [&near::BACKEND, &near::END] {
            headers.remove(name);
        }
    }
    if !fields.any(Fields::LOCATION) {
        return;
    }
    for name in [LOCATION, CONTENT_LOCATION] {
        let Some(Ok(uri)) = headers.get(&name).map(|value| Uri::try_from(value.as_bytes())) else { continue };
        let names_backend = uri.authority().is_some_and(|authority| {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            let usual = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
            host.parse() == Ok(backend.ip()) && authority.port_u16().unwrap_or(usual) == backend.port()
        });
        let path = uri.path_and_query().filter(|_| names_backend);
        if let Some(Ok(path)) = path.map(|path| HeaderValue::from_str(path.as_str())) {
            headers.insert(name, path);
        }
    }
}

/// Whether an HTTP/1.1 answer that was read by its coding says so clearly, and leaves it one length at the most: a coding that this
/// proxy would have to understand makes it unreadable, and where there is a coding a length says nothing (RFC 9112 §6.1, §6.3).
pub(super) fn settle_length(headers: &mut HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return false;
    }
    if coding.is_some() {
        headers.remove(CONTENT_LENGTH);
        return true;
    }
    // A list of the same length, over and over (RFC 9110 §8.6).
    let told =
        headers.get(CONTENT_LENGTH).and_then(|told| told.as_bytes().split(|byte| *byte == b',').next());
    if let Some(Ok(first)) = told.map(|told| HeaderValue::from_bytes(told.trim_ascii())) {
        headers.insert(CONTENT_LENGTH, first);
    }
    true
}

/// Removes from trailers what must not be there, for it frames, routes or authenticates the message (RFC 9110 §6.5.1).
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers, Fields::of(trailers));
    for name in [CONTENT_LENGTH, HOST, TRAILER, COOKIE, SET_COOKIE, AUTHORIZATION, PROXY_AUTHORIZATION] {
        trailers.remove(name);
    }
}

/// Announces the trailers of a gRPC answer, which gRPC itself never does: HTTP/1.1 sends only announced ones.
pub(super) fn announce_trailers(headers: &mut HeaderMap) {
    if grpc::is_grpc(headers) && !headers.contains_key(TRAILER) {
        headers
            .insert(TRAILER, HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin"));
    }
}

/// Brings a request for an HTTP/1.1 backend into HTTP/2's form: Host becomes the authority, and what concerns an
/// HTTP/1.1 connection goes, but `TE: trailers` stays (RFC 9113 §8.2.2), and a switch to WebSocket becomes an extended CONNECT. `nobody` is the authority of a request without.
pub(super) fn to_http2(head: &mut Parts, scheme: &str, nobody: SocketAddr) {
    let switches = websocket::is_wanted(head);
    let host = head.headers.remove(HOST).filter(|host| !host.is_empty());
    let authority = match &host {
        Some(host) => Authority::try_from(host.as_bytes()).ok(),
        None => None,
    };
    let authority = authority.or_else(|| Authority::try_from(nobody.to_string()).ok());
    into_http2(head, Scheme::try_from(scheme).ok(), authority);
    if switches {
        websocket::into_connect(head);
    }
}

fn into_http2(head: &mut Parts, scheme: Option<Scheme>, authority: Option<Authority>) {
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(name);
    }
    let mut target = std::mem::take(&mut head.uri).into_parts();
    (target.scheme, target.authority) = (scheme, authority);
    head.uri = Uri::from_parts(target).unwrap_or_default();
    head.version = Version::HTTP_2;
}

/// Brings a request into HTTP/2's form for another node. Its Host stays a field, even an empty one, and the authority says
/// nothing; [`from_crossing`] undoes it.
pub(super) fn to_crossing(head: &mut Parts) {
    into_http2(head, Some(Scheme::HTTP), Some(Authority::from_static("tunnel")));
}

/// Brings a request that crossed as HTTP/2 back into HTTP/1.1's form.
pub(super) fn from_crossing<B>(request: &mut Request<B>) {
    to_origin_form(request);
    *request.version_mut() = Version::HTTP_11;
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// CONNECT, which no reverse proxy serves.
    Connect,
    /// HTTP/1.1 without exactly one Host (RFC 9112 §3.2), or one that is no host.
    Host,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1): two readers could disagree where it ends.
    Lengths,
    /// More fields than are taken.
    Fields,
    /// A transfer coding other than chunked (RFC 9112 §6.1).
    Coding,
    /// A target that is neither a path nor an absolute URI.
    Target,
}

impl Malformed {
    /// For the client.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT is not served here",
            Self::Host => "a request needs exactly one valid Host",
            Self::Lengths => "a request tells its length once",
            Self::Fields => "the request has too many header fields",
            Self::Coding => "only the chunked transfer coding is understood",
            Self::Target => "the request target is not understood",
        }
    }
}

/// The greatest number of header fields; hyper keeps it for HTTP/1.1.
const FIELDS_MAX: usize = 100;

/// What HTTP/2 lets a client do that HTTP/1.1 does not: cookies in several fields are one list (RFC 9113 §8.2.3), and an
/// authority beside Host must be the same (§8.3.1).
fn check_http2<B>(request: &mut Request<B>, fields: Fields) -> Result<(), Malformed> {
    if fields.any(Fields::COOKIE) {
        join_cookies(request.headers_mut());
    }
    if request.headers().len() > FIELDS_MAX {
        return Err(Malformed::Fields);
    }
    // An HTTP/1.1 backend would get both, though they say the same (RFC 9110 §8.6).
    if request.headers().get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Malformed::Lengths);
    }
    let (authority, host) = (request.uri().authority(), request.headers().get(HOST));
    match (authority, host) {
        (Some(authority), Some(host))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Err(Malformed::Host)
        }
        _ => Ok(()),
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for line in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

/// Checks a request and brings its target to origin form; returns the host it is for.
pub(super) fn check<B>(request: &mut Request<B>, fields: Fields) -> Result<HeaderValue, Malformed> {
    if request.method() == Method::CONNECT {
        return Err(Malformed::Connect);
    }
    if request.version() == Version::HTTP_2 {
        check_http2(request, fields)?;
    }
    if fields.any(Fields::TRANSFER_ENCODING) {
        let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return Err(Malformed::Coding);
        }
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() {
        return Err(Malformed::Host);
    }
    // The authority of an absolute target replaces Host (RFC 9112 §3.2.2).
    let host = match request.uri().authority() {
        // CONNECT's form (RFC 9112 §3.2.3).
        Some(_) if request.uri().scheme().is_none() => return Err(Malformed::Target),
        Some(authority) => {
            let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| Malformed::Host)?;
            request.headers_mut().insert(HOST, authority.clone());
            to_origin_form(request);
            authority
        }
        None => match host {
            Some(host) => host,
            // It goes on as HTTP/1.1, which must have one: an empty one when nobody knows better.
            None if request.version() == Version::HTTP_10 => {
                let nobody = HeaderValue::from_static("");
                request.headers_mut().insert(HOST, nobody.clone());
                nobody
            }
            None => return Err(Malformed::Host),
        },
    };
    let target = request.uri().path();
    if !(target.starts_with('/') || target == "*" && request.method() == Method::OPTIONS) {
        return Err(Malformed::Target);
    }
    is_host(host.as_bytes()).then_some(host).ok_or(Malformed::Host)
}

fn to_origin_form<B>(request: &mut Request<B>) {
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
}

/// A name of letters, digits and few signs or an IPv6 literal in brackets, and perhaps a port; no user information, no list.
fn is_host(host: &[u8]) -> bool {
    let is_name =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%');
    let ends = |at: &u8| if host.first() == Some(&b'[') { *at == b']' } else { *at == b':' };
    let (name, port) = match (host.iter().position(ends), host.strip_prefix(b"[")) {
        (Some(end), Some(literal)) => (&literal[..end - 1], &host[end + 1..]),
        (Some(end), None) => host.split_at(end),
        (None, Some(_)) => return false,
        (None, None) => (host, &[][..]),
    };
    let is_literal = name.len() < host.len() && host[0] == b'[';
    host.len() <= 261
        && name.iter().all(|byte| is_name(byte) || is_literal && *byte == b':')
        && port
            .split_first()
            .is_none_or(|(colon, port)| *colon == b':' && port.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests;
