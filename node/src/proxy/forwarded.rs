//! Who the client is, and how the backend is told (pure): X-Forwarded-For, -Proto, -Host and Forwarded (RFC 7239).
//!
//! What a peer says of its clients counts only when the peer is a trusted proxy; from anybody else it is replaced.
use std::net::{IpAddr, Ipv6Addr};

use bytes::Bytes;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::fields::Fields;
use super::http1::write_field;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Which gateways a request has passed (RFC 8586). It is not Via, for which nginx compresses nothing.
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
const OWN_NAME: &str = "meridian";
/// More nodes in a row than this one request passes in a circle alone: a backend that is a listener again.
const PASSES_MAX: usize = 8;

/// Whether a list of networks holds the address.
pub(super) fn holds(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// An address in the form that lists are written in: IPv4 in IPv6 becomes IPv4.
pub(super) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The client's address: the peer's own unless the peer is trusted, else the last address of X-Forwarded-For that is
/// not itself a trusted proxy's. What stands before an entry that is no address is not believed.
pub(super) fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    if !holds(trusted, peer) {
        return client;
    }
    for line in headers.get_all(&X_FORWARDED_FOR).iter().rev() {
        let Ok(line) = line.to_str() else { return client };
        for entry in line.rsplit(',') {
            let Some(address) = address(entry.trim()) else { return client };
            client = address;
            if !holds(trusted, address) {
                return client;
            }
        }
    }
    client
}

/// Whether a proxy says that its client came over TLS. Only a trusted one is believed.
pub(super) fn says_https(headers: &HeaderMap) -> bool {
    headers.get(X_FORWARDED_PROTO).is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// An address as proxies write it: bare, or with a port, or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    bare.or_else(with_port).or_else(bracketed).map(plain)
}

/// How backends are told of a client: worked out once for all requests of a connection that name the same host.
#[derive(Debug)]
pub(super) struct Introduction {
    scheme: &'static str,
    host: HeaderValue,
    /// The element for X-Forwarded-For ...
    address: HeaderValue,
    /// ... and the one for Forwarded.
    element: HeaderValue,
    /// All fields as HTTP/1.1 writes them.
    lines: Vec<u8>,
}

impl Introduction {
    /// Of whoever `peer` is, who asked for `host` over `scheme`.
    pub(super) fn new(peer: IpAddr, scheme: &'static str, host: &HeaderValue) -> Self {
        // The request's own value would keep the buffer it was read into.
        let own = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap_or(HeaderValue::from_static(""));
        let (address, element) = (peer.to_string(), element(peer, scheme, host));
        let mut introduction = Self {
            scheme,
            host: own(host.as_bytes()),
            address: own(address.as_bytes()),
            element: own(element.as_bytes()),
            lines: Vec::new(),
        };
        let mut lines = Vec::new();
        for (name, value) in introduction.fields() {
            write_field(&mut lines, &name, value.as_bytes());
        }
        introduction.lines = lines;
        introduction
    }

    /// Whether it holds for a request that asks for `host`.
    pub(super) fn is_for(&self, host: &HeaderValue) -> bool {
        self.host == host
    }

    /// The fields that a backend is told by, as HTTP/1.1 writes them.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// The fields that a backend is told by; the last may stand beside others of its name.
    pub(super) fn fields(&self) -> [(HeaderName, &HeaderValue); 5] {
        [
            (X_FORWARDED_FOR, &self.address),
            (FORWARDED, &self.element),
            (X_FORWARDED_PROTO, self.scheme_value()),
            (X_FORWARDED_HOST, &self.host),
            (CDN_LOOP, own_name()),
        ]
    }

    fn scheme_value(&self) -> &'static HeaderValue {
        static HTTP: HeaderValue = HeaderValue::from_static("http");
        static HTTPS: HeaderValue = HeaderValue::from_static("https");
        if self.scheme == "https" { &HTTPS } else { &HTTP }
    }

    /// Adds the peer to what it said of its own client, which stays, since it is trusted.
    pub(super) fn extend(&self, headers: &mut HeaderMap) {
        extend(headers, X_FORWARDED_FOR, &self.address);
        extend(headers, FORWARDED, &self.element);
        for (name, value) in [(X_FORWARDED_PROTO, self.scheme_value()), (X_FORWARDED_HOST, &self.host)] {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        headers.append(CDN_LOOP, own_name().clone());
    }
}

fn own_name() -> &'static HeaderValue {
    static NAME: HeaderValue = HeaderValue::from_static(OWN_NAME);
    &NAME
}

/// Whether a request has passed so many nodes that it must go in a circle: one that named the next as its backend.
pub(super) fn goes_in_circles(headers: &HeaderMap, fields: Fields) -> bool {
    if !fields.any(Fields::CDN_LOOP) {
        return false;
    }
    let lines = headers.get_all(CDN_LOOP).iter();
    let passed = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).filter(|entry| {
        let name = entry.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(OWN_NAME.as_bytes())
    });
    passed.count() >= PASSES_MAX
}

/// Removes whatever a peer that is not trusted says of clients.
pub(super) fn remove_forged(headers: &mut HeaderMap, fields: Fields) {
    if fields.any(Fields::TELL_WHO) {
        for forged in OURS {
            headers.remove(forged);
        }
    }
}

/// What tells who the client is.
const OURS: [HeaderName; 6] =
    [FORWARDED, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REAL_IP];

/// Removes `X_Forwarded_For` and its like, which no proxy sends: CGI and WSGI take them for the headers with dashes, so a
/// client could say there who it is.
pub(super) fn remove_lookalikes(headers: &mut HeaderMap, fields: Fields) {
    if !fields.any(Fields::LOOKALIKE) {
        return;
    }
    let is_ours = |name: &HeaderName| {
        let dashed = name.as_str().replace('_', "-");
        OURS.iter().any(|ours| ours.as_str() == dashed)
    };
    let forged = |name: &&HeaderName| name.as_str().contains('_') && is_ours(name);
    let forged: Vec<HeaderName> = headers.keys().filter(forged).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

/// Appends an element to a list header; several lines of it become one.
fn extend(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    let mut value = Vec::new();
    for line in headers.get_all(&name) {
        if line.to_str().is_ok_and(|line| !line.trim().is_empty()) {
            value.extend_from_slice(line.as_bytes());
            value.extend_from_slice(b", ");
        }
    }
    value.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
        headers.insert(name, value);
    }
}

/// One element of Forwarded (RFC 7239 §4); IPv6 and hosts are quoted, as their characters are no token.
fn element(peer: IpAddr, scheme: &str, host: &HeaderValue) -> String {
    let peer = match peer {
        IpAddr::V4(peer) => format!("for={peer}"),
        IpAddr::V6(peer) => format!("for=\"[{peer}]\""),
    };
    match host.to_str() {
        Ok(host) if !host.contains(['"', '\\']) => format!("{peer};host=\"{host}\";proto={scheme}"),
        _ => format!("{peer};proto={scheme}"),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::proxy::added::Added;
    use crate::proxy::trace::Trace;

    #[test]
    fn a_request_that_passes_node_after_node_goes_in_a_circle() {
        for trusted in [false, true] {
            let mut headers = HeaderMap::new();
            headers.insert(CDN_LOOP, HeaderValue::from_static("other; meridian=1, meridians"));
            for pass in 0..PASSES_MAX {
                let fields = Fields::of(&headers);
                assert!(!goes_in_circles(&headers, fields), "after {pass} nodes");
                let host = HeaderValue::from_static("a.example");
                let introduction = Rc::new(Introduction::new("192.0.2.1".parse().unwrap(), "http", &host));
                let trace = Trace::of(&headers, fields, trusted, 1, 2);
                Added::to(&mut headers, fields, &introduction, &trace, trusted).put_into(&mut headers);
            }
            assert!(goes_in_circles(&headers, Fields::of(&headers)), "trusted: {trusted}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CDN_LOOP, HeaderValue::from_static("a, MERIDIAN; v=1,meridian ,,meridian,meridian"));
        headers.append(CDN_LOOP, HeaderValue::from_static("meridian, meridian, meridian, meridian"));
        assert!(goes_in_circles(&headers, Fields::of(&headers)));
    }

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]
    }

    fn with(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn the_client_is_the_last_one_that_nobody_trusted_vouches_for() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let cases: &[(&[&str], &str, &str)] = &[
            (&[], "198.51.100.7", "198.51.100.7"),
            (&["1.1.1.1"], "198.51.100.7", "198.51.100.7"),
            (&["1.1.1.1"], "10.0.0.1", "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1"], "10.0.0.1", "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1, 10.2.3.4"], "10.0.0.1", "1.1.1.1"),
            (&["6.6.6.6", "1.1.1.1", "10.2.3.4"], "10.0.0.1", "1.1.1.1"),
            (&["10.9.9.9, 10.2.3.4"], "10.0.0.1", "10.9.9.9"),
            (&["1.1.1.1, unknown"], "10.0.0.1", "10.0.0.1"),
            (&["1.1.1.1, unknown, 10.2.3.4"], "10.0.0.1", "10.2.3.4"),
            (&["[2001:db9::1]:4711"], "2001:db8::1", "2001:db9::1"),
            (&["1.1.1.1:4711"], "10.0.0.1", "1.1.1.1"),
            (&["::ffff:1.1.1.1"], "10.0.0.1", "1.1.1.1"),
            (&[""], "10.0.0.1", "10.0.0.1"),
        ];
        for (lines, peer, expected) in cases {
            assert_eq!(client(&with(lines), ip(peer), &trusted()), ip(expected), "{lines:?} from {peer}");
        }
    }

    fn tell(headers: &mut HeaderMap, peer: &str, trusted: bool, host: &'static str) {
        let host = HeaderValue::from_static(host);
        let introduction = Rc::new(Introduction::new(peer.parse().unwrap(), "http", &host));
        assert!(introduction.is_for(&host) && !introduction.is_for(&HeaderValue::from_static("other")));
        let fields = Fields::of(headers);
        let trace = Trace::of(headers, fields, trusted, 1, 2);
        let added = Added::to(headers, fields, &introduction, &trace, trusted);
        let mut lines = Vec::new();
        added.write(&mut lines);
        let before = headers.clone();
        added.put_into(headers);
        written_alike(&before, &lines, headers);
    }

    /// A head and the lines written after it are the head that the fields were put into, and no name stands in both.
    fn written_alike(before: &HeaderMap, lines: &[u8], after: &HeaderMap) {
        let mut read = [httparse::EMPTY_HEADER; 16];
        let lines = [lines, b"\r\n"].concat();
        let Ok(httparse::Status::Complete((_, read))) = httparse::parse_headers(&lines, &mut read) else {
            panic!("{}", String::from_utf8_lossy(&lines));
        };
        let mut all = before.clone();
        for line in read {
            assert!(!before.contains_key(line.name), "{}", line.name);
            all.append(
                HeaderName::from_bytes(line.name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(line.value).unwrap(),
            );
        }
        assert_eq!(all, *after);
    }

    #[test]
    fn what_a_stranger_says_is_replaced() {
        let mut headers = with(&["6.6.6.6"]);
        headers.insert(FORWARDED, HeaderValue::from_static("for=6.6.6.6"));
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(X_FORWARDED_HOST, HeaderValue::from_static("evil"));
        headers.insert(X_REAL_IP, HeaderValue::from_static("6.6.6.6"));
        for lookalike in ["x_forwarded_for", "x-forwarded_for", "x_real_ip"] {
            headers.insert(lookalike, HeaderValue::from_static("6.6.6.6"));
        }
        headers.insert("my_own", HeaderValue::from_static("stays"));
        tell(&mut headers, "2001:db8::7", false, "a.example:80");
        assert_eq!(headers[X_FORWARDED_FOR], "2001:db8::7");
        assert_eq!(headers[FORWARDED], "for=\"[2001:db8::7]\";host=\"a.example:80\";proto=http");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");
        assert_eq!(headers[X_FORWARDED_HOST], "a.example:80");
        assert!(!headers.contains_key(X_REAL_IP));
        assert!(!headers.values().any(|value| value == "6.6.6.6"), "{headers:?}");
        assert_eq!(headers["my_own"], "stays");
    }

    #[test]
    fn what_a_trusted_proxy_says_is_extended() {
        let mut headers = with(&["1.1.1.1", "10.2.3.4"]);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        tell(&mut headers, "10.0.0.1", true, "a");
        assert_eq!(headers[X_FORWARDED_FOR], "1.1.1.1, 10.2.3.4, 10.0.0.1");
        assert_eq!(headers.get_all(X_FORWARDED_FOR).iter().count(), 1);
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
    }
}
