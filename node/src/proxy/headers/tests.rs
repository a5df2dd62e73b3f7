use proptest::prelude::*;

use super::*;

fn request(lines: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri("/x?y=1");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

// Each with the fields that the head has.
fn check<B>(request: &mut Request<B>) -> Result<HeaderValue, Malformed> {
    let fields = Fields::of(request.headers());
    super::check(request, fields)
}

fn wanted_upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    super::wanted_upgrade(request, Fields::of(request.headers()))
}

fn for_backend(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    super::for_backend(headers, Fields::of(headers), upgrade);
}

fn for_client(headers: &mut HeaderMap, switched: bool) {
    super::for_client(headers, Fields::of(headers), switched);
}

fn hide_inside(headers: &mut HeaderMap, backend: SocketAddr) {
    super::hide_inside(headers, Fields::of(headers), backend);
}

#[test]
fn hop_by_hop_headers_and_those_that_connection_names_are_removed() {
    let mut request = request(&[
        ("host", "a"),
        ("connection", "keep-alive, X-Private"),
        ("connection", "x-other, host, content-length"),
        ("content-length", "3"),
        ("x-private", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "secret"),
        ("proxy", "http://evil"),
        ("upgrade", "h2c"),
        ("expect", "100-continue"),
        ("accept", "*/*"),
    ]);
    for_backend(request.headers_mut(), None);
    let mut left: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["accept", "connection", "content-length", "host", "te", "trailer"]);
    assert_eq!(request.headers()[CONNECTION], "te");
}

#[test]
fn an_upgrade_passes_but_not_to_http2() {
    let websocket = request(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
    let wanted = wanted_upgrade(&websocket).unwrap();
    let mut headers = websocket.headers().clone();
    for_backend(&mut headers, Some(&wanted));
    assert_eq!(headers[CONNECTION], "upgrade");
    assert_eq!(headers[UPGRADE], "websocket");
    assert_eq!(wanted_upgrade(&request(&[("connection", "upgrade"), ("upgrade", "H2C")])), None);
    assert_eq!(wanted_upgrade(&request(&[("upgrade", "websocket")])), None);
    let smuggled = [("connection", "upgrade"), ("upgrade", "websocket, h2c")];
    assert_eq!(wanted_upgrade(&request(&smuggled)), None);
    let smuggled = [("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "TLS/1.0")];
    assert_eq!(wanted_upgrade(&request(&smuggled)), None);
}

#[test]
fn a_request_needs_one_host() {
    assert_eq!(check(&mut request(&[])), Err(Malformed::Host));
    assert_eq!(check(&mut request(&[("host", "a"), ("host", "a")])), Err(Malformed::Host));
    assert_eq!(check(&mut request(&[("host", "a@b")])), Err(Malformed::Host));
    assert_eq!(check(&mut request(&[("host", "a/b")])), Err(Malformed::Host));
    assert_eq!(check(&mut request(&[("host", "a:80")])).unwrap(), "a:80");
    assert_eq!(check(&mut request(&[("host", "[::1]:80")])).unwrap(), "[::1]:80");
    let mut old = request(&[]);
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(check(&mut old).unwrap(), "");
    assert_eq!(old.headers()[HOST], "", "it is passed on as HTTP/1.1");
}

#[test]
fn a_host_is_a_name_or_a_literal_and_perhaps_a_port() {
    for host in ["a", "a.b-c_d~e%20", "a:", "a:80", "127.0.0.1:80", "[::1]", "[::1]:", "[fe80::1%25e]:80", ""]
    {
        assert!(is_host(host.as_bytes()), "{host}");
    }
    let long = "a".repeat(262);
    for host in [
        "a:80:90", "a:b", "::1", "[::1", "[::1]80", "[::1]:x", "a]", "[[::1]]", "a,b", "a b", "a/b", "u@a",
        "a\0", &long,
    ] {
        assert!(!is_host(host.as_bytes()), "{host}");
    }
}

#[test]
fn an_answer_keeps_one_length_and_no_coding_but_chunks() {
    let settled = |lines: &[(&str, &str)]| {
        let (mut head, ()) = request(lines).into_parts();
        let clear = settle_length(&mut head.headers);
        clear.then(|| head.headers.get("content-length").map(|length| length.to_str().unwrap().to_owned()))
    };
    let five = Some(Some("5".to_owned()));
    assert_eq!(settled(&[("content-length", "5")]), five);
    assert_eq!(settled(&[("content-length", "5, 5")]), five);
    assert_eq!(settled(&[("content-length", "5"), ("content-length", "5")]), five);
    assert_eq!(settled(&[("content-length", "5"), ("transfer-encoding", "Chunked")]), Some(None));
    assert_eq!(settled(&[]), Some(None));
    for coding in ["gzip, chunked", "identity", "gzip", ""] {
        assert_eq!(settled(&[("transfer-encoding", coding)]), None, "{coding}");
    }
    assert_eq!(settled(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]), None);
}

#[test]
fn the_form_of_connect_is_connects_alone() {
    let mut request = request(&[("host", "a")]);
    *request.uri_mut() = Uri::from_static("evil:80");
    assert_eq!(check(&mut request), Err(Malformed::Target));
}

#[test]
fn an_absolute_target_replaces_host() {
    let mut request = Request::builder().uri("http://b.example:81/p?q").header("host", "a").body(()).unwrap();
    assert_eq!(check(&mut request).unwrap(), "b.example:81");
    assert_eq!(request.headers()[HOST], "b.example:81");
    assert_eq!(request.uri(), "/p?q");
    let mut with_user = Request::builder().uri("http://u@b/").header("host", "b").body(()).unwrap();
    assert_eq!(check(&mut with_user), Err(Malformed::Host));
}

#[test]
fn codings_and_methods_that_no_proxy_serves_are_refused() {
    let gzip = &mut request(&[("host", "a"), ("transfer-encoding", "gzip, chunked")]);
    assert_eq!(check(gzip), Err(Malformed::Coding));
    let twice =
        &mut request(&[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]);
    assert_eq!(check(twice), Err(Malformed::Coding));
    let mut connect = Request::builder().method("CONNECT").uri("a:443").header("host", "a").body(()).unwrap();
    assert_eq!(check(&mut connect), Err(Malformed::Connect));
}

#[test]
fn a_redirect_to_the_backend_itself_names_the_path_alone() {
    let hidden = |location: &str| {
        let mut answer = request(&[("location", location), ("meridian-tunnel-end", "forged")]);
        hide_inside(answer.headers_mut(), "10.0.0.5:8080".parse().unwrap());
        assert!(!answer.headers().contains_key("meridian-tunnel-end"));
        answer.headers()["location"].to_str().unwrap().to_owned()
    };
    assert_eq!(hidden("http://10.0.0.5:8080/login?next=%2F"), "/login?next=%2F");
    assert_eq!(hidden("http://10.0.0.5:8080"), "/");
    for kept in
        ["/login", "http://10.0.0.5/login", "https://www.example.com/x", "http://[::1]:8080/", "not a uri"]
    {
        assert_eq!(hidden(kept), kept);
    }
}

proptest! {
    #[test]
    fn any_headers_are_survived(
        lines in prop::collection::vec(("[a-zA-Z-]{1,12}", "[ -~]{0,30}"), 0..12),
    ) {
        let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut request = request(&lines);
        let upgrade = wanted_upgrade(&request);
        let _ = check(&mut request);
        for_backend(request.headers_mut(), upgrade.as_ref());
        prop_assert!(!request.headers().contains_key(TRANSFER_ENCODING));
        for_client(request.headers_mut(), true);
        prop_assert!(!request.headers().contains_key(TE));
    }
}
