//! Where a client in the clear is sent: the same place, over https (pure).
use http::Uri;
use http::header::HeaderValue;
use http::uri::{Authority, PathAndQuery};

const HTTPS: u16 = 443;

/// The URI of the same resource at the https listener's port. `None` when the host cannot stand in one.
pub(super) fn location(host: &HeaderValue, port: u16, uri: &Uri) -> Option<HeaderValue> {
    let authority: Authority = host.to_str().ok()?.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    // Without the port; IPv6 keeps its brackets.
    let host = authority.host();
    let authority = if port == HTTPS { host.to_owned() } else { format!("{host}:{port}") };
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = if path.starts_with('/') { path } else { "/" };
    // Read again: nothing goes out that is no URI.
    let location = Uri::builder().scheme("https").authority(authority).path_and_query(path).build().ok()?;
    HeaderValue::try_from(location.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(host: &'static str, port: u16, uri: &'static str) -> String {
        let location = location(&HeaderValue::from_static(host), port, &Uri::from_static(uri));
        location.unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_same_place_at_another_port() {
        assert_eq!(to("a.example", 443, "/"), "https://a.example/");
        assert_eq!(to("a.example:80", 443, "/x?y=1&z"), "https://a.example/x?y=1&z");
        assert_eq!(to("a.example:8080", 8443, "/x"), "https://a.example:8443/x");
        assert_eq!(to("[2001:db8::1]:80", 443, "/"), "https://[2001:db8::1]/");
        assert_eq!(to("a.example", 443, "*"), "https://a.example/");
        assert_eq!(to("a.example", 443, "//evil.example/"), "https://a.example//evil.example/");
    }

    proptest! {
        #[test]
        fn a_client_never_leaves_its_host(host in "[a-z0-9.:@\\[\\]/?#-]{0,30}", port in 1u16..) {
            let Ok(host) = HeaderValue::try_from(host) else { return Ok(()) };
            if let Some(location) = location(&host, port, &Uri::from_static("/x")) {
                let uri: Uri = location.to_str().unwrap().parse().unwrap();
                prop_assert!(host.to_str().unwrap().contains(uri.host().unwrap()));
                prop_assert_eq!(uri.path(), "/x");
            }
        }
    }
}
